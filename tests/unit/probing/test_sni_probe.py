"""A TLS hello: what we send, and what each kind of answer means, against real TLS servers on loopback."""

from __future__ import annotations

import base64
import contextlib
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from meshkit.kube.cluster import ExecResult
from meshkit.probing import sni_probe
from tests.support.api_server import free_port

NAME = sni_probe.sni("httpbin.sample.svc.cluster.local", 8000)


@contextlib.contextmanager
def serving(answer: Callable[[socket.socket], None]) -> Iterator[int]:
    """Serve one connection on loopback."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection, contextlib.suppress(OSError):
                answer(connection)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield int(listener.getsockname()[1])
        thread.join(5)


def said(port: int, patience: int = 4) -> sni_probe.HelloResult:
    """Say hello with the script that runs in pods."""
    octal = "".join(f"\\{byte:03o}" for byte in sni_probe.client_hello(NAME) + sni_probe._GOODBYE)
    command = ["sh", "-c", sni_probe._SCRIPT, "sh", "127.0.0.1", str(port), str(patience), octal]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
    return sni_probe.parse(base64.b64decode(done.stdout), done.stderr)


@pytest.fixture(scope="module")
def identity(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate and its key."""
    folder = tmp_path_factory.mktemp("tls")
    key, certificate = folder / "key.pem", folder / "cert.pem"
    make = ("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2")
    names = ("-subj", "/O=cluster.local", "-addext", "subjectAltName=URI:spiffe://x/ns/sample/sa/httpbin")
    subprocess.run([*make, *names, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    return certificate, key


@pytest.mark.parametrize("least", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_server_shows_its_certificate_and_saw_our_name_and_protocols(
    identity: tuple[Path, Path], least: ssl.TLSVersion
) -> None:
    """In TLS 1.2 without any key; one that wants 1.3 declines, and that is an answer too."""
    seen: list[str] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*identity)
    context.minimum_version = least
    context.set_alpn_protocols(["istio-http/1.1"])
    context.sni_callback = lambda _socket, name, _context: seen.append(name)

    def answer(connection: socket.socket) -> None:
        with contextlib.suppress(ssl.SSLError):
            context.wrap_socket(connection, server_side=True)

    with serving(answer) as port:
        heard = said(port)
    if least is ssl.TLSVersion.TLSv1_3:
        assert (heard.word, heard.detail) == (sni_probe.ALERT, "it requires another version of TLS")
        return
    assert heard.word == sni_probe.OPEN
    assert seen == ["outbound_.8000_._.httpbin.sample.svc.cluster.local"]
    pem = identity[0].read_text()
    assert heard.chain[0].public_bytes(_pem()).decode() == pem


def _pem() -> object:
    from cryptography.hazmat.primitives.serialization import Encoding

    return Encoding.PEM


def test_one_who_closes_at_once_has_no_filter_chain_for_us() -> None:
    """As Envoy does: without a byte, by a reset."""
    with serving(lambda _: None) as port:
        assert said(port).word == sni_probe.CLOSED


def test_nobody_listening_is_refused() -> None:
    """The connection does not come about."""
    assert said(free_port()).word == sni_probe.REFUSED


def test_one_who_never_answers_is_silent() -> None:
    """Within the patience."""
    with serving(lambda connection: connection.recv(4096) and threading.Event().wait(3)) as port:
        assert said(port, patience=1).word == sni_probe.SILENT


def test_what_is_no_tls_is_reported() -> None:
    """HTTP, say."""

    def answer(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(4096):  # to close with bytes unread would reset the connection
            pass

    with serving(answer) as port:
        heard = said(port)
    assert heard.word == sni_probe.STRANGE
    assert "HTTP/1.1" in heard.detail


@pytest.mark.parametrize(
    ("words", "word"),
    [
        ("nc: can't connect to remote host (192.0.2.1): Connection refused exit 1", sni_probe.REFUSED),
        ("bash: connect: No route to host exit 98", sni_probe.REFUSED),
        ("exit 124", sni_probe.SILENT),
        ("nc: timed out exit 1", sni_probe.SILENT),
        ("cat: -: Connection reset by peer exit 1", sni_probe.CLOSED),
        ("exit 0", sni_probe.CLOSED),
    ],
)
def test_the_tools_own_words_tell_why_nothing_came(words: str, word: str) -> None:
    """Of bash, busybox's nc and OpenBSD's."""
    assert sni_probe.parse(b"", words).word == word


def test_a_cut_off_answer_is_no_certificate() -> None:
    """A record of which only the head came."""
    assert sni_probe.parse(b"\x16\x03\x03\x10\x00\x0b\x00").word == sni_probe.ALERT


@pytest.mark.parametrize(
    ("proxy", "word"),
    [(ExecResult("", "", 127), "untried"), (ExecResult("", "exit 1", 0), "closed")],
)
def test_what_a_sidecar_may_have_closed_says_nothing_of_the_gateway(proxy: ExecResult, word: str) -> None:
    """6.8: the proxy's container, whose traffic nobody intercepts, has neither bash nor nc."""
    said = {"istio-proxy": proxy, "sleep": ExecResult("", "exit 1", 0)}
    cluster: Any = SimpleNamespace(exec=lambda _pod, _namespace, container, *_: said[container])
    places = [("c", "sample", "istio-proxy"), ("c", "sample", "sleep")]
    assert sni_probe.send_client_hello(cluster, places, "192.0.2.1", 15443, NAME).word == word
    assert sni_probe.send_client_hello(cluster, places[1:], "192.0.2.1", 15443, NAME).word == "closed"
