"""Our identity at an API server: tokens, token files, basic auth, exec plugins and impersonation, as in client-go.

The official Python client drops impersonation, reads a token file once, and sends requests without a credential where
a plugin fails. No text, repr or error of this module holds a credential.

Source of the rules: k8s.io/client-go, tools/clientcmd/client_config.go (getUserIdentificationPartialConfig),
tools/clientcmd/validation.go (validateAuthInfo), transport/token_source.go, transport/round_trippers.go,
plugin/pkg/client/auth/exec/exec.go.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from meshkit.errors import InputError, MeshkitError, UnreachableError

PLUGIN_TIMEOUT = 20.0
"""Seconds that an exec plugin may take: it cannot ask for input here."""
PLUGIN_SILENCE = 20.0
"""Seconds for which a plugin that failed is not run again: otherwise each request would wait for it."""
_VERSIONS = ("client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1")
_MODES = ("Never", "IfAvailable", "Always")
_TCHAR = re.compile(r"[!#$&'*+.^_`|~0-9A-Za-z-]")
_SECRET_NAME = re.compile(r"(?i)token|secret|passw|key|credential|auth")
_LOOKS_SECRET = (
    (re.compile(r"-----BEGIN.*?(-----END[^-]*-----|\Z)", re.DOTALL), "[redacted]"),
    (re.compile(r"\beyJ[\w-]+(?:\.[\w-]*){0,2}"), "[redacted]"),
    (re.compile(r"(?i)\b((?:bearer|basic)\s+)[^\s\"',;]+"), r"\1[redacted]"),
    (re.compile(r"://[^/\s@]+@"), "://[redacted]@"),
    (
        re.compile(r"(?i)([\w-]*(?:token|secret|passw\w*|api-?key|key-?data|credential)s?[\"']?\s*[=:]\s*)[^\s,;}]+"),
        r"\1[redacted]",
    ),
    (re.compile(r"\b(?=[\w+=-]*\d)(?=[\w+=-]*[A-Za-z])[\w+=-]{32,}"), "[redacted]"),
)
_CONTROL = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|.)|[\x00-\x08\x0b-\x1f\x7f]")


class Source(Protocol):
    """Where a credential comes from."""

    def authorization(self) -> str:
        """Return the value of the header Authorization; empty without one."""

    def certificate(self) -> tuple[bytes, bytes] | None:
        """Return a client certificate and its key in PEM, if the credential is one."""

    def refused(self) -> None:
        """Note a 401: a cached credential is no longer valid."""


class Static:
    """A credential that stays as it is, or none."""

    def __init__(self, authorization: str = "") -> None:
        self._authorization = authorization

    def authorization(self) -> str:
        """Return the value of the header Authorization; empty without one."""
        return self._authorization

    def certificate(self) -> tuple[bytes, bytes] | None:
        """Return None: certificates of a kubeconfig are settings of the connection."""
        return None

    def refused(self) -> None:
        """Do nothing: there is no other credential."""


class TokenFile(Static):
    """A token in a file, read for each request: the kubelet replaces it while we run."""

    def __init__(self, path: str, token: str = "") -> None:
        super().__init__(bearer(token, path) if token.strip() else "")
        self._path = path

    def authorization(self) -> str:
        """Return the token of the file; while it cannot be read or is empty, the last one that could be."""
        try:
            token = Path(self._path).read_text(encoding="utf-8").strip()
            problem = "" if token else "it is empty"
        except UnicodeDecodeError:
            token, problem = "", "it is not text"
        except OSError as error:
            token, problem = "", error.strerror or type(error).__name__
        if token:
            self._authorization = bearer(token, self._path)
        elif not self._authorization:
            raise UnreachableError(
                f"its token file holds no token ({problem})",
                where=self._path,
                remedy="write the token there, or change tokenFile of the kubeconfig's user",
            )
        return self._authorization


class Provider(Static):
    """An auth-provider (oidc), which the official client refreshes by itself."""

    def __init__(self, name: str, load: Callable[[], str]) -> None:
        super().__init__()
        self._name, self._load = name, load

    def authorization(self) -> str:
        """Return the header of the provider's token."""
        if found := self._load():
            return found
        raise UnreachableError(
            f"the auth-provider {self._name!r} gives no token",
            remedy="log in again; kubectl itself knows oidc only: use an exec plugin instead of gcp and azure",
        )


@dataclass(repr=False)
class _Credential:
    authorization: str
    certificate: tuple[bytes, bytes] | None
    ends: datetime | None


class Plugin:
    """An exec plugin. It runs when a credential is needed, has expired or was refused, and never interactively."""

    def __init__(self, exec_: Mapping[str, Any], directory: str, cluster: Mapping[str, Any], where: str) -> None:
        self._exec, self._cluster, self._where = exec_, cluster, where
        command = str(exec_.get("command") or "")
        # A plain name is looked up in PATH, a path is relative to the kubeconfig (clientcmd/loader.go).
        self._command = os.path.normpath(Path(directory, command)) if os.sep in command else command
        self._name = Path(command).name
        self._lock = threading.Lock()
        self._kept: _Credential | None = None
        self._failed: tuple[float, MeshkitError] | None = None
        self._validate(command)

    def _validate(self, command: str) -> None:
        version, mode = self._exec.get("apiVersion"), self._exec.get("interactiveMode")
        if not command:
            raise self._wrong("users[].user.exec has no command")
        if version not in _VERSIONS:
            raise self._wrong(
                f"exec plugin {self._name}: expected apiVersion {' or '.join(_VERSIONS)}, got {version!r}"
            )
        if mode not in _MODES and (mode or version == _VERSIONS[0]):
            raise self._wrong(f"exec plugin {self._name}: expected interactiveMode {', '.join(_MODES)}, got {mode!r}")
        for field in ("args", "env"):
            if not isinstance(self._exec.get(field) or [], list):
                raise self._wrong(f"exec plugin {self._name}: expected a list as {field}")
        for item in self._exec.get("env") or []:
            if not (isinstance(item, dict) and item.get("name") and isinstance(item["name"], str)):
                raise self._wrong(f"exec plugin {self._name}: expected a name and a value for each entry of env")

    def _wrong(self, problem: str) -> InputError:
        return InputError(problem, where=self._where, remedy="`kubectl config view` shows the context's user")

    def authorization(self) -> str:
        """Return the header of the plugin's token; empty if it gave a certificate."""
        return self._credential().authorization

    def certificate(self) -> tuple[bytes, bytes] | None:
        """Return the plugin's certificate and key, if it gave them."""
        return self._credential().certificate

    def refused(self) -> None:
        """Forget the credential: the next request runs the plugin again."""
        self._kept = None

    def _credential(self) -> _Credential:
        with self._lock:
            if self._kept and (self._kept.ends is None or datetime.now(UTC) < self._kept.ends):
                return self._kept
            if self._failed and time.monotonic() < self._failed[0]:
                error = self._failed[1]
                raise type(error)(error.message, where=error.where, remedy=error.remedy)
            try:
                self._kept, self._failed = self._run(), None
            except MeshkitError as error:
                self._kept, self._failed = None, (time.monotonic() + PLUGIN_SILENCE, error)
                raise
            return self._kept

    def _run(self) -> _Credential:
        if self._exec.get("interactiveMode") == "Always":
            raise UnreachableError(
                f"the exec plugin {self._name} needs a terminal (interactiveMode: Always), and meshkit runs it without",
                remedy="use a context whose plugin needs no terminal, such as one with a service account's credential",
            )
        given = {item["name"]: str(item.get("value", "")) for item in self._exec.get("env") or []}
        info: dict[str, Any] = {"interactive": False}
        if self._exec.get("provideClusterInfo"):
            info["cluster"] = self._cluster
        request = {"apiVersion": self._exec["apiVersion"], "kind": "ExecCredential", "spec": info}
        environment = {**os.environ, **given, "KUBERNETES_EXEC_INFO": json.dumps(request)}
        code, out, err = self._call(environment)
        if code:
            secrets = [value for name, value in given.items() if _SECRET_NAME.search(name)]
            quoted = quotable(err, [*secrets, *_texts(_json(out))])
            raise self._failure(f"failed with exit code {code}{': ' if quoted else ''}{quoted}")
        return self._credential_of(_json(out), out)

    def _call(self, environment: Mapping[str, str]) -> tuple[int, str, str]:
        try:
            # In its own session it has no terminal to prompt on, and can be killed with all its children.
            running = subprocess.Popen(
                [self._command, *map(str, self._exec.get("args") or [])],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=environment,
                start_new_session=True,
            )
        except FileNotFoundError:
            raise self._failure("is not installed", f"install {self._name}, or put it on the PATH") from None
        except (OSError, ValueError) as error:
            raise self._failure(f"cannot be run ({getattr(error, 'strerror', None) or 'not a command'})") from None
        try:
            out, err = running.communicate(timeout=PLUGIN_TIMEOUT)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(OSError):
                os.killpg(running.pid, signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                running.communicate(timeout=1)
            raise self._failure(f"was not done within {PLUGIN_TIMEOUT:.3g} s; does it wait for a login?") from None
        return running.returncode, out.decode(errors="replace"), err.decode(errors="replace")

    def _failure(self, what: str, otherwise: str = "") -> UnreachableError:
        hint = quotable(str(self._exec.get("installHint") or ""), ())
        otherwise = otherwise or f"run {self._name} in a terminal to see what it needs; log in again"
        remedy = f"{otherwise}; its installHint: {hint}" if hint else otherwise
        return UnreachableError(f"the exec plugin {self._name} {what}", remedy=remedy)

    def _credential_of(self, document: Any, out: str) -> _Credential:
        if not (isinstance(document, dict) and document.get("kind") == "ExecCredential"):
            kind = "a web page" if out.lstrip()[:1] == "<" else "something else" if out.strip() else "nothing"
            raise self._failure(f"printed {kind} instead of an ExecCredential")
        if document.get("apiVersion") != self._exec["apiVersion"]:
            raise self._failure(f"answered with another apiVersion than the kubeconfig's {self._exec['apiVersion']}")
        status = document.get("status")
        fields = status if isinstance(status, dict) else {}
        token, certificate, key = (
            fields.get(field) or "" for field in ("token", "clientCertificateData", "clientKeyData")
        )
        if not all(isinstance(value, str) for value in (token, certificate, key)):
            raise self._failure("printed an ExecCredential whose fields are not texts")
        if not token and not certificate and not key:
            raise self._failure("printed an ExecCredential without a credential")
        if bool(certificate) != bool(key):
            raise self._failure("gave a certificate without its key, or a key without its certificate")
        return _Credential(
            bearer(token, f"exec plugin {self._name}") if token else "",
            (certificate.encode(), key.encode()) if certificate else None,
            self._end(fields.get("expirationTimestamp")),
        )

    def _end(self, text: Any) -> datetime | None:
        if not text:
            return None
        try:
            return datetime.fromisoformat(str(text)).astimezone(UTC)
        except ValueError:
            raise self._failure("gave an expirationTimestamp that is not a time") from None


class Identity:
    """A credential, and the user that it impersonates, if any."""

    def __init__(self, source: Source, impersonated: Sequence[tuple[str, str]] = ()) -> None:
        self.source = source
        self.impersonated = tuple(impersonated)

    def headers(self) -> list[tuple[str, str]]:
        """Return the headers that every request and every stream needs; a name can occur more than once."""
        authorization = self.source.authorization()
        return [*([("Authorization", authorization)] if authorization else []), *self.impersonated]


class Hidden(str):
    """A text that no representation shows."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "[hidden]"


def of_user(
    user: Mapping[str, Any], directory: str, cluster: Mapping[str, Any], where: str, load: Callable[[], str]
) -> Identity:
    """Return the identity of a kubeconfig's user.

    Args:
        user: the entry `user`.
        directory: relative paths of it begin there.
        cluster: the cluster's description for an exec plugin with `provideClusterInfo`.
        where: how errors name the place.
        load: gives the header of an auth-provider's token.

    Raises:
        InputError: its fields contradict each other.
    """
    return Identity(_source(user, directory, cluster, where, load), impersonated(user, where))


def _source(
    user: Mapping[str, Any], directory: str, cluster: Mapping[str, Any], where: str, load: Callable[[], str]
) -> Source:
    token, file = str(user.get("token") or ""), str(user.get("tokenFile") or "")
    name, password = str(user.get("username") or ""), str(user.get("password") or "")
    if (name or password) and (token or file):
        raise InputError("the user has both a token and a password; kubectl takes one of them", where=where)
    if user.get("exec") and user.get("auth-provider"):
        raise InputError("the user has both exec and auth-provider; kubectl takes one of them", where=where)
    if file:
        return TokenFile(str(Path(directory, file)), token)
    if token:
        return Static(bearer(token, where))
    if name or password:
        return Static("Basic " + base64.b64encode(f"{name}:{password}".encode()).decode())
    if provider := user.get("auth-provider"):
        return Provider(str(provider.get("name")), load)
    if (plugin := user.get("exec")) is not None:
        return Plugin(plugin, directory, cluster, where)
    return Static()


def bearer(token: str, where: str) -> str:
    """Return a token as a header's value.

    Raises:
        InputError: no header can carry it, and neither kubectl nor istiod would send it. It is not quoted, as
            http.client would.
    """
    if not re.fullmatch(r"[\x20-\x7e]*", token):
        remedy = "write the token on one line, in plain ASCII"
        raise InputError("its token has a character that no header can carry", where=where, remedy=remedy)
    return f"Bearer {token}"


def impersonated(user: Mapping[str, Any], where: str) -> list[tuple[str, str]]:
    """Return the headers of `as`, `as-uid`, `as-groups` and `as-user-extra`.

    Source: client-go, transport/round_trippers.go (impersonatingRoundTripper).

    Raises:
        InputError: a group, uid or extra without a user to impersonate, or a text that no header can carry.
    """
    name, uid = str(user.get("as") or ""), str(user.get("as-uid") or "")
    groups, extra = user.get("as-groups") or [], user.get("as-user-extra") or {}
    if not isinstance(groups, list) or not isinstance(extra, dict):
        raise InputError("expected as-groups as a list and as-user-extra as a mapping of lists", where=where)
    if not name and (uid or groups or extra):
        raise InputError("as-uid, as-groups or as-user-extra without `as`: whom to impersonate is missing", where=where)
    headers = [("Impersonate-User", name)] if name else []
    headers += [("Impersonate-Uid", uid)] if uid else []
    headers += [("Impersonate-Group", str(group)) for group in groups]
    for key, values in extra.items():
        if not isinstance(values, list):
            raise InputError(f"expected a list of texts for as-user-extra.{key}", where=where)
        headers += [(f"Impersonate-Extra-{_header_name(str(key))}", str(value)) for value in values]
    for header, value in headers:
        if re.search(r"[\x00-\x08\x0a-\x1f\x7f]", value):
            raise InputError(f"no header can carry the value for {header}: it has a line feed or the like", where=where)
    return headers


def _header_name(key: str) -> str:
    """Return a key of as-user-extra as client-go writes it into a header's name (headerKeyEscape)."""
    return "".join(chr(byte) if byte < 128 and _TCHAR.fullmatch(chr(byte)) else f"%{byte:02X}" for byte in key.encode())


def quotable(text: str, secrets: Sequence[str]) -> str:
    """Return the first lines and the last of what a program said, without escape codes and what looks secret."""
    for secret in sorted((s for s in secrets if len(s) >= 4), key=len, reverse=True):
        text = text.replace(secret, "[redacted]")
    text = _CONTROL.sub("", text)
    for pattern, instead in _LOOKS_SECRET:
        text = pattern.sub(instead, text)
    lines = [line.strip()[:200] for line in text.splitlines() if line.strip()]
    return " / ".join(lines if len(lines) <= 4 else [*lines[:3], "…", lines[-1]])


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _texts(document: Any) -> list[str]:
    status = document.get("status") if isinstance(document, dict) else None
    return [value for value in status.values() if isinstance(value, str)] if isinstance(status, dict) else []
