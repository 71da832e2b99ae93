"""What stands between us and an API server, and what only looks like one: proxies and a recorder, on loopback."""

from __future__ import annotations

import contextlib
import json
import select
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal

import yaml

from meshkit.kube.cluster import Cluster


@dataclass
class Recorder:
    """A server that says it is Kubernetes, and keeps the headers of all requests."""

    address: str
    requests: list[tuple[str, dict[str, list[str]]]] = field(default_factory=list)

    def last(self) -> dict[str, list[str]]:
        """Return the headers of the last request, by their names in lower letters."""
        return self.requests[-1][1]


@contextlib.contextmanager
def recorder(answer: Callable[[str], tuple[int, Any]] | None = None) -> Iterator[Recorder]:
    """Yield a recorder that answers each path with a status and a document, or with its version."""
    told = answer or (lambda _: (200, {"gitVersion": "v1.37.2"}))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            headers: dict[str, list[str]] = {}
            for name, value in self.headers.items():
                headers.setdefault(name.lower(), []).append(value)
            seen.requests.append((self.path, headers))
            status, document = (404, {}) if "upgrade" in headers else told(self.path)
            body = document if isinstance(document, bytes) else json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET  # noqa: N815

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            """Say nothing."""

    with serving(Handler) as port:
        seen = Recorder(f"http://127.0.0.1:{port}")
        yield seen


@contextlib.contextmanager
def serving(handler: type[BaseHTTPRequestHandler], tls: ssl.SSLContext | None = None) -> Iterator[int]:
    """Serve HTTP, or HTTPS, on a port of loopback."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()


def cluster_of(path: Path, cluster: Mapping[str, Any], user: Mapping[str, Any], timeout: float = 5.0) -> Cluster:
    """Return the cluster of a kubeconfig with these entries, written to that path."""
    document = {
        "clusters": [{"name": "c", "cluster": dict(cluster)}],
        "users": [{"name": "u", "user": dict(user)}],
        "contexts": [{"name": "it", "context": {"cluster": "c", "user": "u"}}],
    }
    path.write_text(yaml.safe_dump(document))
    return Cluster.connect("it", str(path), timeout=timeout)


@contextlib.contextmanager
def socks5(names: Mapping[str, str], user: str = "", password: str = "") -> Iterator[tuple[int, list[str]]]:
    """Yield the port of a SOCKS5 server, and the list of the hosts that it was asked for; it alone knows the names."""
    asked: list[str] = []

    def greet(client: socket.socket) -> None:
        _, count = _exactly(client, 2)
        _exactly(client, count)
        client.sendall(b"\x05\x02" if user else b"\x05\x00")
        if user:
            _exactly(client, 1)
            given = [_exactly(client, _exactly(client, 1)[0]).decode() for _ in range(2)]
            client.sendall(b"\x01\x00" if given == [user, password] else b"\x01\x01")
            if given != [user, password]:
                return
        *_, kind = _exactly(client, 4)
        host = socket.inet_ntoa(_exactly(client, 4)) if kind == 1 else _exactly(client, _exactly(client, 1)[0]).decode()
        port = int.from_bytes(_exactly(client, 2), "big")
        asked.append(host)
        try:
            target = socket.create_connection((names.get(host, host), port), timeout=5)
        except OSError:
            client.sendall(b"\x05\x05\x00\x01" + bytes(6))
            return
        client.sendall(b"\x05\x00\x00\x01" + bytes(6))
        _join(client, target)

    with _listening(greet) as port:
        yield port, asked


@contextlib.contextmanager
def connect_proxy(mode: Literal["tunnel", "403", "407", "502", "silent", "closes"]) -> Iterator[tuple[int, list[str]]]:
    """Yield the port of an HTTP proxy that knows CONNECT only, and the heads of what it was asked."""
    asked: list[str] = []

    def greet(client: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            piece = client.recv(4096)
            if not piece:
                return
            head += piece
        asked.append(head.decode())
        if mode == "silent":
            over.wait(30)
        elif mode.isdigit():
            client.sendall(f"HTTP/1.1 {mode} No\r\nContent-Length: 0\r\n\r\n".encode())
        elif mode == "tunnel":
            host, _, port = head.split()[1].decode().rpartition(":")
            target = socket.create_connection((host, int(port)), timeout=5)
            client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            _join(client, target)

    over = threading.Event()
    with _listening(greet) as port:
        try:
            yield port, asked
        finally:
            over.set()


@contextlib.contextmanager
def _listening(greet: Callable[[socket.socket], None]) -> Iterator[int]:
    def serve(client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            greet(client)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                threading.Thread(target=serve, args=(client,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        yield int(listener.getsockname()[1])
        listener.shutdown(socket.SHUT_RDWR)


def _exactly(client: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = client.recv(count - len(data))
        if not piece:
            raise ConnectionResetError
        data += piece
    return data


def _join(one: socket.socket, other: socket.socket) -> None:
    with other:
        while True:
            readable, *_ = select.select([one, other], [], [], 10)
            if not readable:
                return
            for source in readable:
                data = source.recv(65536)
                if not data:
                    return
                (other if source is one else one).sendall(data)
