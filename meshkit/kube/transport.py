"""How bytes get to an API server: one request, one stream, and every error translated in one place.

`meshkit.kube.cluster` puts kubectl's verbs on top. Nothing else in meshkit speaks HTTP to an API server.

The official client supplies TLS, proxies and connections; requests go through it raw, because its typed models are
slow and refuse what they do not know. Streams are ours, on a connection of its pool: the official ones swap a method of
a shared client for the length of an exec, and know neither a deadline nor all proxies.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import socket
import ssl
import textwrap
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from kubernetes.client import ApiClient

from meshkit.errors import ChangeError, ConflictError, MeshkitError, UnreachableError
from meshkit.kube import kubeconfig, requests
from meshkit.kube.kubeconfig import Access

MAX_QUOTE = 300
DRIPS = 6
"""How many times its timeout an answer may take in all, as long as pieces of it arrive."""
MORE_TIME = "check network, VPN and firewall, or allow more time: `requestTimeout` of the cluster in the mesh file"
_DATA, _CLOSE = (0x1, 0x2), 0x8
_SWITCHED, _PROXY_WANTS_CREDENTIAL, _BUSY = 101, 407, 429
_WANTS_ANOTHER = "wants another credential (407)"
_LOG_IN = "write user and password into proxy-url: SCHEME://USER:PASSWORD@HOST:PORT"


class NotFoundError(MeshkitError):
    """The object, the kind or the path does not exist there."""


@dataclass(frozen=True)
class Response:
    """A good answer: headers (any case), body, and the local clock at the middle of the round trip, with its length."""

    headers: Mapping[str, str]
    data: bytes
    midpoint: float
    round_trip: float


class Progress:
    """Progress of one reading: how many answers arrived from API servers, and when the last piece of one."""

    def __init__(self, caller: Progress | None = None) -> None:
        self.answers = 0
        self.last = 0.0
        self._caller = caller

    def note(self) -> None:
        """Note that a piece of an answer arrived, here and for the reading that this one is part of."""
        self.answers, self.last = self.answers + 1, time.monotonic()
        if self._caller:
            self._caller.note()


progress: ContextVar[Progress] = ContextVar("progress")
"""Of the reading that runs in this thread."""


def note() -> None:
    """Note for the reading that runs in this thread that a piece of an answer arrived."""
    if current := progress.get(None):
        current.note()


class Session:
    """Access to one API server with one identity. Nothing is sent, and no plugin is run, before its first request."""

    def __init__(self, access: Access) -> None:
        self.settings, self.identity = access.settings, access.identity
        # A client that retries on its own would wait for a hanging server once for each retry.
        self.settings.retries = False
        self.settings.connection_pool_maxsize = 16
        self._lock = threading.Lock()
        self._client: ApiClient | None = None
        self.requests = 0
        """How many requests and streams were sent."""
        self._certificate: tuple[bytes, bytes] | None = None

    @property
    def proxy(self) -> str:
        """The address of the proxy in use, without its credential; empty without one."""
        from kubernetes.client.rest import should_bypass_proxies

        if not (address := self.settings.proxy) or should_bypass_proxies(
            self.settings.host, self.settings.no_proxy or ""
        ):
            return ""
        scheme, _, rest = str(address).partition("://")
        return f"{scheme.removesuffix('h') if scheme == 'socks5h' else scheme}://{rest.rpartition('@')[2]}"

    def client(self) -> ApiClient:
        """Return the official client, recreated when a plugin issues another certificate."""
        from kubernetes.client import ApiClient

        with self._lock:
            certificate = self.identity.source.certificate()
            if self._client is None or certificate != self._certificate:
                if certificate:
                    self.settings.cert_file, self.settings.key_file = map(kubeconfig.write_private, certificate)
                    if not kubeconfig.is_pair(self.settings.cert_file, self.settings.key_file):
                        message = "the certificate of the exec plugin is none, or has another key"
                        raise UnreachableError(message, remedy="run the plugin in a terminal; log in again")
                self._client, self._certificate = ApiClient(self.settings), certificate
            return self._client

    def call(
        self,
        method: str,
        path: str,
        *,
        where: str,
        query: Sequence[tuple[str, str]],
        headers: Mapping[str, str],
        body: Any = None,
    ) -> tuple[ApiClient, tuple[str, str, Any, Any, Any]]:
        """Return the client and the request that it is to send, our credential included.

        Raises:
            UnreachableError: the credential is missing: no request is sent without it.
        """
        from urllib3 import HTTPHeaderDict

        try:
            client, identity = self.client(), self.identity.headers()
        except MeshkitError as error:
            place = f"{where}, {error.where}" if error.where else where
            raise type(error)(error.message, where=place, remedy=error.remedy) from None
        requests.record(method, path, query, headers)
        method, url, plain, payload, form = client.param_serialize(
            method, path, query_params=list(query), header_params=dict(headers), body=body
        )
        with self._lock:
            self.requests += 1
        sent = HTTPHeaderDict(plain)
        for name, value in identity:
            # http.client encodes headers as Latin-1, but API servers read the names of impersonated users as UTF-8.
            sent.add(name, value.encode().decode("latin-1"))
        return client, (method, url, sent, payload, form)


def request(
    session: Session,
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

    The answer may take longer than `timeout` as long as pieces of it arrive, `DRIPS` times as long at most. A server
    that is busy and says until when is asked again then, if that is within `timeout`.

    Raises:
        UnreachableError: nothing arrived for `timeout` seconds, or the credential is missing or refused.
        NotFoundError: 404.
        ChangeError: the server refused a change.
    """
    wanted = {"Accept": "application/json", **(headers or {})}
    limit = time.monotonic() + timeout
    while True:
        client, call = session.call(method, path, where=where, query=query, headers=wanted, body=body)
        with translated(where, timeout, proxy=session.proxy):
            sent = time.time()
            answer = client.call_api(*call, _request_timeout=(timeout, timeout))
            received = time.time()
            data = _read(answer.response, where, timeout)
        if answer.status < 300:
            return Response(answer.headers, data, (sent + received) / 2, received - sent)
        pause = _pause(answer.status, str(answer.headers.get("Retry-After", "")))
        if not pause or time.monotonic() + pause > limit:
            raise _refused(session, answer.status, data, where=where, method=method, path=path)
        time.sleep(pause)


def _pause(status: int, retry_after: str) -> int:
    """Return for how many seconds a busy server asks to wait, as priority and fairness does; 0 if it does not.

    Nothing was done then, whatever the request was. Source: checkWait (k8s.io/client-go/rest/with_retry.go).
    """
    asks = (status == _BUSY or status >= 500) and retry_after.isdecimal()
    return max(1, int(retry_after)) if asks else 0


def _read(response: Any, where: str, timeout: float) -> bytes:
    limit, pieces = time.monotonic() + DRIPS * timeout, []
    note()
    while piece := response.read1(1 << 16):
        pieces.append(piece)
        note()
        if time.monotonic() > limit:
            response.close()
            message = f"no complete answer within {DRIPS * timeout:.3g} s"
            raise UnreachableError(message, where=where, remedy=MORE_TIME)
    return b"".join(pieces)


def lines(
    session: Session, path: str, *, where: str, timeout: float, query: Sequence[tuple[str, str]] = ()
) -> Iterator[str]:
    """Send a GET with a streamed answer, and yield its complete lines until the other side closes.

    Raises:
        UnreachableError: as of `request`; also when nothing comes for `timeout` seconds.
        NotFoundError: 404.
    """
    client, call = session.call("GET", path, where=where, query=query, headers={})
    with translated(where, timeout, proxy=session.proxy):
        answer = client.call_api(*call, _request_timeout=timeout)
    if answer.status >= 300:
        with translated(where, timeout, proxy=session.proxy):
            data = _read(answer.response, where, timeout)
        raise _refused(session, answer.status, data, where=where, method="GET", path=path)
    rest = b""
    try:
        with translated(where, timeout, proxy=session.proxy):
            # read1 returns what has arrived; a plain read would wait until its buffer is full.
            while piece := answer.response.read1(1 << 16):
                note()
                *complete, rest = (rest + piece).split(b"\n")
                for line in complete:
                    yield line.decode(errors="replace")
    finally:
        answer.response.close()


@contextlib.contextmanager
def stream(
    session: Session, path: str, *, where: str, timeout: float, protocols: str, query: Sequence[tuple[str, str]]
) -> Iterator[Stream]:
    """Open a WebSocket to a pod's subresource (exec, portforward) that lives `timeout` seconds at most.

    Raises:
        UnreachableError: as of `request`; also when the stream does not end in time.
    """
    import websocket

    client, (_, url, *_) = session.call("GET", path, where=where, query=query, headers={})
    deadline = time.monotonic() + timeout
    options: dict[str, Any] = {
        # Text, not bytes: the library encodes it as UTF-8, which names of impersonated users may need.
        "header": [f"{name}: {value}" for name, value in session.identity.headers()],
        "subprotocols": protocols.split(","),
        "redirect_limit": 0,
        "timeout": timeout,
    }
    with translated(where, timeout, proxy=session.proxy):
        opened = _connected(client, url, timeout)
    try:
        with translated(where, timeout, proxy=session.proxy):
            connection = websocket.create_connection(url.replace("http", "ws", 1), socket=opened, **options)
            if (status := connection.getstatus()) != _SWITCHED:
                raise refused(status or 0, b"", where=where, method="GET", path=path)
            note()
            yield Stream(connection, deadline)
    except websocket.WebSocketBadStatusException as error:
        body = error.resp_body or b""
        raise _refused(session, error.status_code, body, where=where, method="GET", path=path) from None
    finally:
        opened.close()


def _connected(client: ApiClient, url: str, timeout: float) -> Any:
    """Return a socket to the API server: through the proxy, and with the TLS, that requests have."""
    from urllib3.exceptions import HTTPError, ProxyError

    pool: Any = client.rest_client.pool_manager.connection_from_url(url)
    connection = pool._new_conn()  # noqa: SLF001  (no public call leaves the socket to us)
    connection.timeout = timeout
    if pool.proxy:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        connection.set_tunnel(parts.hostname, port, scheme=pool.proxy.scheme, headers=pool.proxy_headers)
    try:
        connection.connect()
    except (OSError, HTTPError) as error:
        proxied = pool.proxy and not connection.has_connected_to_proxy
        connection.close()
        if proxied:
            raise ProxyError("it cannot be reached", error) from error
        raise
    return connection.sock


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
                note()
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
        """Return True, for `io`."""
        return True

    def writable(self) -> bool:
        """Return True, for `io`."""
        return True

    def write(self, data: Any) -> int:
        """Send bytes to the pod."""
        self._stream.send(0, bytes(data))
        return len(data)

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer with received bytes; 0 when the pod has closed."""
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


@contextlib.contextmanager
def translated(where: str, timeout: float, *, proxy: str = "") -> Iterator[None]:
    """Turn what the transport raises into `UnreachableError`; everything else passes through."""
    import http.client

    import urllib3
    import websocket
    from kubernetes.client import ApiException

    try:
        yield
    except websocket.WebSocketBadStatusException:
        raise
    except (
        urllib3.exceptions.HTTPError,
        websocket.WebSocketException,
        http.client.HTTPException,
        ApiException,
        OSError,
    ) as error:
        raise _unreachable(error, where, timeout, proxy) from error


def _unreachable(error: BaseException, where: str, timeout: float, proxy: str) -> UnreachableError:
    import urllib3
    import websocket

    causes = list(_causes(error))
    text = " ".join(str(cause) for cause in causes)

    def is_a(*kinds: type[BaseException]) -> bool:
        return any(isinstance(cause, kinds) for cause in causes)

    if proxy and (problem := _of_proxy(causes, text, timeout)):
        what, remedy = problem
        return UnreachableError(f"the proxy {proxy} {what}", where=where, remedy=remedy)
    through = f" (through the proxy {proxy})" if proxy else ""
    if is_a(urllib3.exceptions.NameResolutionError, socket.gaierror, websocket.WebSocketAddressException):
        return UnreachableError("its name does not resolve", where=where, remedy="check the server address and DNS")
    if is_a(ConnectionRefusedError):
        return UnreachableError("it refuses the connection", where=where, remedy="is the API server running?")
    if is_a(urllib3.exceptions.TimeoutError, TimeoutError, websocket.WebSocketTimeoutException):
        return UnreachableError(f"no answer within {timeout:.3g} s{through}", where=where, remedy=MORE_TIME)
    if is_a(ssl.SSLError, urllib3.exceptions.SSLError) or "SSLError" in text:
        detail = "its certificate is not trusted" if "CERTIFICATE_VERIFY_FAILED" in text else "TLS failed"
        return UnreachableError(
            detail + through,
            where=where,
            remedy="check certificate-authority and tls-server-name of the kubeconfig context",
        )
    broke = f"the connection broke ({type(causes[-1]).__name__}){through}"
    return UnreachableError(broke, where=where, remedy="try again; is a proxy in between?")


def _of_proxy(causes: Sequence[BaseException], text: str, timeout: float) -> tuple[str, str] | None:
    """Return what is wrong with the proxy, and the remedy; None if the proxy is not the problem."""
    import socks
    import urllib3

    check = "check proxy-url of the kubeconfig's cluster, or HTTPS_PROXY and NO_PROXY"
    if status := re.search(r"Tunnel connection failed: (\d{3})", text):
        wanted = status[1] == str(_PROXY_WANTS_CREDENTIAL)
        return (_WANTS_ANOTHER, _LOG_IN) if wanted else (f"does not let us through to it ({status[1]})", check)
    if any(isinstance(cause, socks.SOCKS5AuthError) for cause in causes):
        return "refuses the credential", _LOG_IN
    if failure := next((cause for cause in causes if isinstance(cause, socks.SOCKS5Error | socks.SOCKS4Error)), None):
        return f"cannot reach it ({failure.msg})", "is the API server running, and may the proxy go there?"
    if not any(isinstance(cause, urllib3.exceptions.ProxyError | socks.ProxyError) for cause in causes):
        return None
    kinds: dict[str, tuple[type[BaseException], ...]] = {
        "has a name that does not resolve": (urllib3.exceptions.NameResolutionError, socket.gaierror),
        "refuses the connection": (ConnectionRefusedError,),
        f"gives no answer within {timeout:.3g} s": (urllib3.exceptions.TimeoutError, TimeoutError),
        "has a certificate that is not trusted, or speaks no TLS": (ssl.SSLError, urllib3.exceptions.SSLError),
    }
    found = [what for what, kind in kinds.items() if any(isinstance(cause, kind) for cause in causes)]
    return (*found, f"broke the connection ({type(causes[-1]).__name__})")[0], check


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    following: BaseException | None = error
    while following is not None and id(following) not in seen:
        seen.add(id(following))
        yield following
        reason = getattr(following, "reason", None)
        following = following.__cause__ or following.__context__ or (reason if isinstance(reason, Exception) else None)


def _refused(session: Session, status: int, data: bytes | str, *, where: str, method: str, path: str) -> MeshkitError:
    """Return the error of `refused`; drops a refused credential, and blames the proxy for its own 407."""
    if status == 401:
        session.identity.source.refused()
    if status == _PROXY_WANTS_CREDENTIAL and session.proxy:
        return UnreachableError(f"the proxy {session.proxy} {_WANTS_ANOTHER}", where=where, remedy=_LOG_IN)
    return refused(status, data, where=where, method=method, path=path)


def refused(status: int, data: bytes | str, *, where: str, method: str, path: str) -> MeshkitError:
    """Return the error for an answer of 400 or more.

    The server's message is quoted, shortened, only for a refused change, and never for a Secret: it may hold the data.
    """
    resource = path.partition("?")[0].removeprefix("/api/v1").removeprefix("/apis").strip("/") or path
    what = f"{method} {resource}"
    if status == 401:
        return UnreachableError("it refuses the credential (401)", where=where, remedy="log in again or renew it")
    # Admission denies with 403, too: a webhook, PodSecurity, a quota. The credential may well do it.
    if status == 403 and (method == "GET" or _BY_AUTHORIZER.search(_status_message(data))):
        return UnreachableError(
            f"the credential may not {what} (403)", where=where, remedy="ask for the right, or use another context"
        )
    if status == 404:
        return NotFoundError(f"{resource} does not exist (404)", where=where)
    # The API server answers 500, too, to an object that does not fit its schema.
    if status < 400 or status == _BUSY or status > 500 or (status == 500 and method == "GET"):
        return UnreachableError(f"it answered {status} to {what}", where=where, remedy="try again when it is healthy")
    if conflicts := _conflicts(data) if status == 409 and method == "PATCH" else []:
        owned = ", ".join(f"{manager} owns {field}" for manager, field in conflicts[:5])
        remedy = (
            "agree with the owner of the field, since meshkit never forces an apply; "
            "`kubectl get -o yaml --show-managed-fields` shows the managers"
        )
        return ConflictError(f"{what} was refused: {owned}", conflicts, where=where, remedy=remedy)
    quoted = "" if "/secrets" in path else _status_message(data)
    kind = MeshkitError if method == "GET" else ChangeError
    return kind(f"{what} was refused ({status}){': ' if quoted else ''}{quoted}", where=where)


_BY_AUTHORIZER: Final = re.compile(r'User ".*" cannot |^$')
"""An authorizer's refusal, by apimachinery's NewForbidden; an empty answer is no API server's admission."""


def _conflicts(data: bytes | str) -> list[tuple[str, str]]:
    try:
        causes = json.loads(data)["details"]["causes"]
        owned = [(re.search(r'conflict with "([^"]+)"', c["message"]), c["field"]) for c in causes]
    except (ValueError, KeyError, TypeError):
        return []
    return [(match[1], field) for match, field in owned if match]


def _status_message(data: bytes | str) -> str:
    try:
        document = json.loads(data)
    except ValueError:
        return ""
    is_status = isinstance(document, dict) and document.get("kind") == "Status"
    return textwrap.shorten(str(document.get("message", "")), MAX_QUOTE, placeholder=" …") if is_status else ""
