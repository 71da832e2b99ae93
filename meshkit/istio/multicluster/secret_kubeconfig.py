"""The kubeconfig in a remote secret: what it says, and whether an istiod takes it at all."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import certifi
import yaml

ALLOWED: Final = "PILOT_INSECURE_MULTICLUSTER_KUBECONFIG_OPTIONS"
"""The variable of istiod that lists what it is to take all the same, comma-separated."""
_FILES: Final = {
    "client-key": "clientKey",
    "client-certificate": "clientCertificate",
    "tokenFile": "tokenFile",
    "exec": "exec",
}
"""Fields of a user that read a file of istiod's or run a program there, and the option that allows each."""
_AUTHORITY: Final = ("certificate-authority", "certificate-authority-data")
_PROXIES: Final = ("http", "https", "socks5")
_INCOMPLETE: Final = "it is no complete kubeconfig"
Entry = Mapping[str, Any]


class Auth(StrEnum):
    """How the current user of a kubeconfig proves itself."""

    TOKEN = "token"  # noqa: S105 - a kind, no token
    TOKEN_FILE = "tokenFile"  # noqa: S105
    EXEC = "exec"
    AUTH_PROVIDER = "authProvider"
    CLIENT_CERTIFICATE = "clientCertificate"
    BASIC = "basic"
    NONE = "none"
    UNREADABLE = "unreadable"


_KINDS: Final = {
    "token": Auth.TOKEN,
    "tokenFile": Auth.TOKEN_FILE,
    "exec": Auth.EXEC,
    "auth-provider": Auth.AUTH_PROVIDER,
    "client-certificate": Auth.CLIENT_CERTIFICATE,
    "client-certificate-data": Auth.CLIENT_CERTIFICATE,
    "username": Auth.BASIC,
}


@dataclass(frozen=True)
class SecretKubeconfig:
    """What one key of a remote secret holds. Its token and its CA are for a live try only, and never shown.

    `defect` is why no client takes it, `unsure` what of it a try from here does not show; `insecure`: no CA is asked.
    """

    server: str = ""
    tls_server_name: str = ""
    auth: Auth = Auth.NONE
    token: str = field(default="", repr=False)
    ca: bytes = field(default=b"", repr=False)
    users: tuple[Entry, ...] = field(default=(), repr=False)
    proxy_url: str = field(default="", repr=False)
    defect: str = ""
    unsure: str = ""
    insecure: bool = False

    @property
    def authorities(self) -> bytes:
        """What istiod verifies the API server by: without a CA in the file, the public ones of its image."""
        return self.ca or (b"" if self.insecure else Path(certifi.where()).read_bytes())

    def refusal(self, allowed: Collection[str]) -> str:
        """Return why an istiod refuses it, or an empty text; every user of the file counts, not only the current one.

        Tokens, client certificates and passwords inside the file are taken, and so is the auth provider `oidc`; what
        reads a file of istiod's or runs a program there is refused unless `allowed` names it.

        Source: pkg/kube/util.go, sanitizeKubeConfig and NewUntrustedRestConfig.
        """
        return self.defect or next(filter(None, (_refused(user, allowed) for user in self.users)), "")


def _refused(user: Entry, allowed: Collection[str]) -> str:
    provider = str((user.get("auth-provider") or {}).get("name", ""))
    if user.get("auth-provider") and provider != "oidc" and provider not in allowed:
        return f"auth provider {provider} is not allowed"
    return next((f"{name} is not allowed" for key, name in _FILES.items() if user.get(key) and name not in allowed), "")


def parse(value: str) -> SecretKubeconfig:
    """Return the kubeconfig in a base64 value of a Secret; one that istiod could not load is `Auth.UNREADABLE`."""
    try:
        document = yaml.safe_load(base64.b64decode(value))
        named = {kind: _named(document.get(kind), kind[:-1]) for kind in ("clusters", "contexts", "users")}
        context = named["contexts"][document["current-context"]]
        cluster, user = named["clusters"][context["cluster"]], named["users"][context["user"]]
        return SecretKubeconfig(
            server=_address(cluster),
            tls_server_name=str(cluster.get("tls-server-name") or ""),
            auth=next((kind for name, kind in _KINDS.items() if user.get(name)), Auth.NONE),
            token=str(user.get("token") or ""),
            ca=_bytes(cluster.get("certificate-authority-data")),
            users=tuple(named["users"].values()),
            proxy_url=str(cluster.get("proxy-url") or ""),
            defect=next(_defects(named, cluster, user), ""),
            unsure=next(_unsure(named, user), ""),
            insecure=cluster.get("insecure-skip-tls-verify") is True,
        )
    except (yaml.YAMLError, binascii.Error, KeyError, TypeError, AttributeError, ValueError):
        return SecretKubeconfig(auth=Auth.UNREADABLE, defect=_INCOMPLETE)


def _named(entries: Any, field_name: str) -> dict[str, Entry]:
    return {one["name"]: dict(one.get(field_name) or {}) for one in entries or []}


def _address(cluster: Entry) -> str:
    """Return an API server's address; one without a scheme is of TLS where the file has a CA or asks for none.

    Source: k8s.io/client-go, rest/url_utils.go, defaultServerUrlFor.

    Raises:
        ValueError: it is none.
    """
    written = str(cluster["server"])
    secure = any(cluster.get(key) for key in (*_AUTHORITY, "insecure-skip-tls-verify"))
    address = written if "://" in written else f"{'https' if secure else 'http'}://{written}"
    _ = urlsplit(address).port
    return address


def _bytes(text: Any) -> bytes:
    """Return base64 as Go reads it: line ends count for nothing, and any other strange letter is an error."""
    return base64.b64decode("".join(str(text or "").splitlines()), validate=True)


def _defects(named: Mapping[str, Mapping[str, Entry]], current: Entry, current_user: Entry) -> Iterator[str]:
    """Yield why client-go takes it nowhere: every entry of the file counts, not only the current one.

    Source: k8s.io/client-go, tools/clientcmd/validation.go (Validate), transport/transport.go (TLSConfigFor); Go's
    net/http, which sends no header with a line end.
    """
    for name, context in named["contexts"].items():
        for kind, known in (("user", named["users"]), ("cluster", named["clusters"])):
            if context.get(kind) not in known:
                yield f"its context {name} names no {kind} of the file"
    for name, cluster in named["clusters"].items():
        yield from (f"its cluster {name} has {wrong}" for wrong in _cluster_defects(cluster))
    if current.get("insecure-skip-tls-verify") is True and current.get("certificate-authority-data"):
        yield "it has both a CA and insecure-skip-tls-verify"
    if not str(current_user.get("token") or "").isprintable():
        yield "its token has a line end or a control character, which no request can carry"
    for name, user in named["users"].items():
        yield from (f"its user {name} has {wrong}" for wrong in _contradictions(user))


def _cluster_defects(cluster: Entry) -> Iterator[str]:
    _bytes(cluster.get("certificate-authority-data"))
    if not cluster.get("server"):
        yield "no server"
    if all(cluster.get(key) for key in _AUTHORITY):
        yield f"both {' and '.join(_AUTHORITY)}"
    if (proxy := cluster.get("proxy-url")) and urlsplit(str(proxy)).scheme not in _PROXIES:
        yield "a proxy-url that does not begin with http://, https:// or socks5://"


def _contradictions(user: Entry) -> Iterator[str]:
    if user.get("token") and (user.get("username") or user.get("password")):
        yield "both a token and a password"
    pair = ("client-certificate", "client-key")
    for what in pair:
        if user.get(what) and user.get(f"{what}-data"):
            yield f"both {what} and {what}-data"
    certificate, key = (bool(user.get(what) or user.get(f"{what}-data")) for what in pair)
    if certificate and not key:
        yield "a client certificate without its key"
    if not user.get("as") and any(user.get(what) for what in ("as-uid", "as-groups", "as-user-extra")):
        yield "as-uid, as-groups or as-user-extra without as"


def _unsure(named: Mapping[str, Mapping[str, Entry]], user: Entry) -> Iterator[str]:
    for cluster in named["clusters"].values():
        if path := cluster.get("certificate-authority"):
            yield f"istiod reads a CA from a file of its own pod ({path}), and refuses the kubeconfig without that file"
    if user.get("as"):
        yield f"istiod acts as {user['as']} with it"
