"""How bytes get to an API server: kubeconfig, one request, one stream, and every error translated in one place.

`meshkit.cluster` puts kubectl's verbs on top. Nothing else in meshkit speaks HTTP to an API server.

The official client supplies kubeconfig, credentials (exec plugins included) and TLS; requests go through it raw,
because its typed models are slow and refuse what they do not know. Streams are ours: the official ones swap a method
of a shared client for the length of an exec, and know no deadline.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import re
import shutil
import socket
import ssl
import tempfile
import textwrap
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meshkit.errors import ChangeError, ConflictError, InputError, MeshkitError, UnreachableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from kubernetes.client import ApiClient, Configuration

MAX_QUOTE = 300
_DATA, _CLOSE = (0x1, 0x2), 0x8


class NotFoundError(MeshkitError):
    """The object, the kind or the path does not exist there."""


@dataclass(frozen=True)
class Response:
    """A good answer: headers (any case), body, and the local clock at the middle of the round trip, with its length."""

    headers: Mapping[str, str]
    data: bytes
    midpoint: float
    round_trip: float


# --- kubeconfig -------------------------------------------------------------------------------------------------------


def kubeconfig_files(kubeconfig: str = "") -> list[str]:
    """Return the kubeconfig files as kubectl finds them: the given one, else $KUBECONFIG's list, else the home's.

    Raises:
        InputError: none of them exists.
    """
    named = [kubeconfig] if kubeconfig else os.environ.get("KUBECONFIG", "").split(os.pathsep)
    files = [str(Path(name).expanduser()) for name in named if name] or [str(Path.home() / ".kube" / "config")]
    there = [name for name in files if Path(name).is_file()]
    if not there:
        where = os.pathsep.join(files)
        raise InputError("no such kubeconfig file", where=where, remedy="set KUBECONFIG, or name the file")
    return there


def contexts(files: Sequence[str]) -> list[str]:
    """Return the names of the contexts in kubeconfig files, merged as kubectl merges them.

    Raises:
        InputError: a file is no kubeconfig. What stands in it is never quoted.
    """
    from kubernetes.config.kube_config import KubeConfigMerger

    where = os.pathsep.join(files)
    with _kubeconfig_errors(where):
        merged = KubeConfigMerger(where).config  # type: ignore[no-untyped-call]
        return [str(context["name"]) for context in merged["contexts"].value] if merged else []


def configuration(files: Sequence[str], context: str) -> Configuration:
    """Return the official client's configuration of one context; runs its exec plugin if it has one.

    Raises:
        InputError: the context is not complete.
    """
    from kubernetes.client import Configuration
    from kubernetes.config import load_kube_config

    where = os.pathsep.join(files)
    settings = Configuration()
    with _kubeconfig_errors(f"{where} (context {context})"):
        load_kube_config(where, context, settings, temp_file_path=_private_directory())  # type: ignore[no-untyped-call]
    return settings


def other_token(configure: Callable[[], Configuration], token: str, ca: bytes) -> Configuration:
    """Return a configuration with its own credential put aside for a bearer token, and its CA if one is given."""
    settings = configure()
    if ca:
        settings.ssl_ca_cert, settings.ca_cert_data, settings.verify_ssl = None, ca.decode(), True
    settings.cert_file = settings.key_file = settings.refresh_api_key_hook = None
    settings.api_key = {"BearerToken": f"Bearer {token}"}
    return settings


@contextlib.contextmanager
def _kubeconfig_errors(where: str) -> Iterator[None]:
    import yaml
    from kubernetes.config import ConfigException

    try:
        yield
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror or type(error).__name__})", where=where) from None
    except (ConfigException, yaml.YAMLError, AttributeError, KeyError, TypeError, ValueError):
        # ConfigException names its place by quoting the whole entry, token included: never hand it on.
        remedy = "`kubectl config view` shows how kubectl reads it"
        raise InputError("not a complete kubeconfig", where=where, remedy=remedy) from None


@functools.cache
def _private_directory() -> str:
    # The official client writes certificates and keys from kubeconfig to files; a race there loses track of some.
    import atexit

    directory = tempfile.mkdtemp(prefix="meshkit-")
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    return directory


# --- one request ------------------------------------------------------------------------------------------------------


def client(settings: Configuration) -> ApiClient:
    """Return a client that never retries on its own: a hanging server would hang us once for each retry."""
    from kubernetes.client import ApiClient

    settings.retries = False
    settings.connection_pool_maxsize = 16
    return ApiClient(settings)


def request(
    api: ApiClient,
    method: str,
    path: str,
    *,
    where: str,
    timeout: float,
    query: Sequence[tuple[str, str]] = (),
    headers: Mapping[str, str] | None = None,
    body: Any = None,
) -> Response:
    """Send one request, and return the answer if it is a good one.

    Raises:
        UnreachableError: no answer within `timeout` seconds, or the credential is refused.
        NotFoundError: 404.
        ChangeError: the server refused a change.
    """
    call = _serialize(
        api, method, path, query=query, headers={"Accept": "application/json", **(headers or {})}, body=body
    )
    with translated(where, timeout):
        sent = time.time()
        answer = api.call_api(*call, _request_timeout=timeout)
        received = time.time()
        data = answer.read() or b""  # type: ignore[no-untyped-call]
    if answer.status >= 400:
        raise refused(answer.status, data, where=where, method=method, path=path)
    return Response(answer.headers, data, (sent + received) / 2, received - sent)


def lines(
    api: ApiClient, path: str, *, where: str, timeout: float, query: Sequence[tuple[str, str]] = ()
) -> Iterator[str]:
    """Send a GET whose answer comes bit by bit, and yield its whole lines until the other side closes.

    Raises:
        UnreachableError: as of `request`; also when nothing comes for `timeout` seconds.
        NotFoundError: 404.
    """
    call = _serialize(api, "GET", path, query=query, headers={})
    with translated(where, timeout):
        answer = api.call_api(*call, _request_timeout=timeout)
    if answer.status >= 400:
        with translated(where, timeout):
            data = answer.read() or b""  # type: ignore[no-untyped-call]
        raise refused(answer.status, data, where=where, method="GET", path=path)
    rest = b""
    try:
        with translated(where, timeout):
            # read1 hands on what is there; a plain read would wait until its buffer is full.
            while piece := answer.response.read1(1 << 16):
                *whole, rest = (rest + piece).split(b"\n")
                for line in whole:
                    yield line.decode(errors="replace")
    finally:
        answer.response.close()


def _serialize(
    api: ApiClient,
    method: str,
    path: str,
    *,
    query: Sequence[tuple[str, str]],
    headers: Mapping[str, str],
    body: Any = None,
) -> tuple[str, str, dict[str, str], Any, Any]:
    method, url, sent, payload, form = api.param_serialize(
        method, path, query_params=list(query), header_params=dict(headers), body=body, auth_settings=["BearerToken"]
    )
    return method, url, sent, payload, form


# --- one stream -------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def stream(
    api: ApiClient, path: str, *, where: str, timeout: float, protocols: str, query: Sequence[tuple[str, str]]
) -> Iterator[Stream]:
    """Open a WebSocket to a pod's subresource (exec, portforward) that lives `timeout` seconds at most.

    Raises:
        UnreachableError: as of `request`; also when the stream is not over in time.
    """
    import websocket
    from kubernetes.stream.ws_client import get_websocket_url, websocket_proxycare

    _, url, headers, *_ = _serialize(api, "GET", path, query=query, headers={})
    address = get_websocket_url(url)  # type: ignore[no-untyped-call]
    deadline = time.monotonic() + timeout
    lines = [f"Authorization: {headers['authorization']}"] if "authorization" in headers else []
    options: dict[str, Any] = {"header": lines, "subprotocols": protocols.split(","), "timeout": timeout}
    if api.configuration.proxy or api.configuration.proxy_headers:
        options = websocket_proxycare(options, api.configuration, url, headers)  # type: ignore[no-untyped-call]
    with translated(where, timeout, path=path):
        connection = websocket.create_connection(address, sslopt=_tls_options(api.configuration), **options)
        try:
            yield Stream(connection, deadline)
        finally:
            connection.shutdown()  # type: ignore[no-untyped-call]


def _tls_options(settings: Configuration) -> dict[str, Any]:
    if not settings.verify_ssl:
        return {"cert_reqs": ssl.CERT_NONE, "check_hostname": False}
    options = {
        "cert_reqs": ssl.CERT_REQUIRED,
        "ca_certs": settings.ssl_ca_cert,
        "certfile": settings.cert_file,
        "keyfile": settings.key_file,
        "server_hostname": settings.tls_server_name,
        "check_hostname": settings.assert_hostname,
    }
    return {key: value for key, value in options.items() if value is not None}


class Stream:
    """Frames to and from a pod, each on a numbered channel, until the deadline."""

    def __init__(self, connection: Any, deadline: float) -> None:
        self._connection = connection
        self._deadline = deadline

    def send(self, channel: int, data: bytes) -> None:
        """Send one frame on a channel."""
        self._connection.send_binary(bytes([channel]) + data)

    def frames(self) -> Iterator[tuple[int, bytes]]:
        """Yield (channel, data) until the other side closes; raises TimeoutError at the deadline."""
        while True:
            left = self._deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self._connection.settimeout(left)
            opcode, frame = self._connection.recv_data()
            if opcode == _CLOSE:
                return
            if opcode in _DATA and frame:
                yield frame[0], frame[1:]


class Tunnel(io.RawIOBase):
    """A forwarded port, read and written like a socket.

    Channel 0 is data, 1 is the error; each starts with its port number.
    """

    def __init__(self, stream: Stream, target: str, where: str) -> None:
        self._stream = stream
        self._frames = stream.frames()
        self._target = target
        self._where = where
        self._opened: set[int] = set()
        self._left = b""

    def makefile(self, _mode: str) -> io.BufferedReader:
        """Return a reader; `http.client` asks its socket for one."""
        return io.BufferedReader(self, 1 << 16)

    def readable(self) -> bool:
        """Say that this can be read, as `io` asks."""
        return True

    def writable(self) -> bool:
        """Say that this can be written, as `io` asks."""
        return True

    def write(self, data: Any) -> int:
        """Send bytes to the pod."""
        self._stream.send(0, bytes(data))
        return len(data)

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer with what came; 0 when the pod has closed."""
        while not self._left:
            channel, data = next(self._frames, (0, None))
            if data is None:
                return 0
            if channel not in self._opened:
                self._opened.add(channel)
            elif channel == 1:
                raise UnreachableError("nothing answers there", where=f"{self._where}, {self._target}")
            else:
                self._left = data
        count = min(len(buffer), len(self._left))
        buffer[:count], self._left = self._left[:count], self._left[count:]
        return count


# --- errors -----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def translated(where: str, timeout: float, *, path: str = "") -> Iterator[None]:
    """Turn what the transport raises into `UnreachableError`; everything else passes through."""
    import http.client

    import urllib3
    import websocket
    from kubernetes.client import ApiException

    try:
        yield
    except websocket.WebSocketBadStatusException as error:
        raise refused(error.status_code, error.resp_body or b"", where=where, method="GET", path=path) from None
    except (
        urllib3.exceptions.HTTPError,
        websocket.WebSocketException,
        http.client.HTTPException,
        ApiException,
        OSError,
    ) as error:
        raise _unreachable(error, where, timeout) from error


def _unreachable(error: BaseException, where: str, timeout: float) -> UnreachableError:
    import urllib3
    import websocket

    causes = list(_causes(error))
    text = " ".join(str(cause) for cause in causes)

    def is_a(*kinds: type[BaseException]) -> bool:
        return any(isinstance(cause, kinds) for cause in causes)

    if is_a(urllib3.exceptions.NameResolutionError, socket.gaierror, websocket.WebSocketAddressException):
        return UnreachableError("its name does not resolve", where=where, remedy="check the server address and DNS")
    if is_a(ConnectionRefusedError):
        return UnreachableError("it refuses the connection", where=where, remedy="is the API server running?")
    if is_a(urllib3.exceptions.TimeoutError, TimeoutError, websocket.WebSocketTimeoutException):
        remedy = "check network, VPN and firewall, or allow more time"
        return UnreachableError(f"no answer within {timeout:.3g} s", where=where, remedy=remedy)
    if is_a(ssl.SSLError, urllib3.exceptions.SSLError) or "SSLError" in text:
        detail = "its certificate is not trusted" if "CERTIFICATE_VERIFY_FAILED" in text else "TLS failed"
        return UnreachableError(
            detail, where=where, remedy="check certificate-authority and tls-server-name of the kubeconfig context"
        )
    broke = f"the connection broke ({type(causes[-1]).__name__})"
    return UnreachableError(broke, where=where, remedy="try again; is a proxy in between?")


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    following: BaseException | None = error
    while following is not None and id(following) not in seen:
        seen.add(id(following))
        yield following
        reason = getattr(following, "reason", None)
        following = following.__cause__ or following.__context__ or (reason if isinstance(reason, Exception) else None)


def refused(status: int, data: bytes | str, *, where: str, method: str, path: str) -> MeshkitError:
    """Return the error for an answer of 400 or more.

    The server's own words are quoted only for a refused change, cut, and never for a Secret: it would quote it back.
    """
    resource = path.partition("?")[0].removeprefix("/api/v1").removeprefix("/apis").strip("/") or path
    what = f"{method} {resource}"
    if status == 401:
        return UnreachableError("it refuses the credential (401)", where=where, remedy="log in again or renew it")
    if status == 403:
        return UnreachableError(
            f"the credential may not {what} (403)", where=where, remedy="ask for the right, or use another context"
        )
    if status == 404:
        return NotFoundError(f"{resource} does not exist (404)", where=where)
    # The API server answers 500, too, to an object that does not fit its schema.
    if status == 429 or status > 500 or (status == 500 and method == "GET"):
        return UnreachableError(f"it answered {status} to {what}", where=where, remedy="try again when it is healthy")
    if conflicts := _conflicts(data) if status == 409 and method == "PATCH" else []:
        told = ", ".join(f"{manager} owns {field}" for manager, field in conflicts[:5])
        remedy = (
            "agree with them: meshkit forces nothing; `kubectl get -o yaml --show-managed-fields` shows who owns what"
        )
        return ConflictError(f"{what} was refused: {told}", conflicts, where=where, remedy=remedy)
    said = "" if "/secrets" in path else _status_message(data)
    kind = MeshkitError if method == "GET" else ChangeError
    return kind(f"{what} was refused ({status}){': ' if said else ''}{said}", where=where)


def _conflicts(data: bytes | str) -> list[tuple[str, str]]:
    try:
        causes = json.loads(data)["details"]["causes"]
        told = [(re.search(r'conflict with "([^"]+)"', c["message"]), c["field"]) for c in causes]
    except (ValueError, KeyError, TypeError):
        return []
    return [(match[1], field) for match, field in told if match]


def _status_message(data: bytes | str) -> str:
    try:
        document = json.loads(data)
    except ValueError:
        return ""
    is_status = isinstance(document, dict) and document.get("kind") == "Status"
    return textwrap.shorten(str(document.get("message", "")), MAX_QUOTE, placeholder=" …") if is_status else ""
