"""Cluster against what only looks like an API server, or is none."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from meshkit.errors import InputError, MeshkitError, UnreachableError
from meshkit.kube.cluster import Cluster
from tests.support.api_server import free_port, write_kubeconfig


@pytest.fixture
def hanging_port() -> Iterator[int]:
    """A port that accepts connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield int(listener.getsockname()[1])


def elsewhere(tmp_path: Path, port: int, scheme: str = "https", timeout: float = 1.0) -> Cluster:
    """Return a cluster whose server address is that port of loopback."""
    path = write_kubeconfig(tmp_path / "kubeconfig", f"{scheme}://127.0.0.1:{port}", None, {"lost": "canary-token"})
    return Cluster.connect("lost", str(path), timeout=timeout)


class TestRefusals:
    """What goes wrong between us and an API server."""

    def test_a_missing_kubeconfig_is_named(self, tmp_path: Path) -> None:
        """No stack, no guess: the path that was looked at."""
        with pytest.raises(InputError, match="no such kubeconfig"):
            Cluster.connect("admin", str(tmp_path / "none"))

    @pytest.mark.parametrize("text", ["", "just text", "- a\n- b\n", "a: [", "users: 3\n"])
    def test_a_file_that_is_no_kubeconfig_is_an_input_error(self, tmp_path: Path, text: str) -> None:
        """Empty, text, a list, broken YAML, wrong types: one clear error each."""
        (tmp_path / "k").write_text(text)
        with pytest.raises(InputError):
            Cluster.connect("admin", str(tmp_path / "k"))

    def test_a_broken_kubeconfig_entry_is_not_quoted(self, tmp_path: Path) -> None:
        """The official client's error quotes the entry with its token; ours does not."""
        path = write_kubeconfig(tmp_path / "k", "https://127.0.0.1:1", None, {"me": "x"})
        path.write_text(path.read_text().replace("  user:\n    token: x", "  usre:\n    token: canary"))
        assert "canary" in path.read_text()
        with pytest.raises(InputError) as caught:
            Cluster.connect("me", str(path)).version()
        assert "canary" not in _everything(caught.value)

    def test_a_refused_connection_says_so_at_once(self, tmp_path: Path) -> None:
        """Nothing listens there."""
        with pytest.raises(UnreachableError, match="refuses the connection"):
            elsewhere(tmp_path, free_port()).version()

    @pytest.mark.parametrize("scheme", ["https", "http"])
    def test_a_hanging_server_costs_the_timeout_once(self, tmp_path: Path, hanging_port: int, scheme: str) -> None:
        """A server that accepts and never answers is given up after the timeout, without retries."""
        started = time.monotonic()
        with pytest.raises(UnreachableError, match="no answer within 1 s"):
            elsewhere(tmp_path, hanging_port, scheme).version()
        assert time.monotonic() - started < 2

    @pytest.mark.parametrize("scheme", ["https", "http"])
    def test_a_hanging_server_does_not_hang_an_exec(self, tmp_path: Path, hanging_port: int, scheme: str) -> None:
        """Streams have the same deadline."""
        started = time.monotonic()
        with pytest.raises(UnreachableError, match="no answer within 1 s"):
            elsewhere(tmp_path, hanging_port, scheme).exec("pod", "default", "app", ["true"])
        assert time.monotonic() - started < 2

    def test_a_name_that_does_not_resolve_is_distinguished(self, tmp_path: Path) -> None:
        """The remedy differs from that of a dead server."""
        path = write_kubeconfig(tmp_path / "k", "https://no-such-host.invalid", None, {"me": "x"})
        with pytest.raises(UnreachableError, match="does not resolve"):
            Cluster.connect("me", str(path)).version()

    def test_a_web_page_is_no_api_server(self, tmp_path: Path) -> None:
        """A login page answers 200 with HTML."""
        answer = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\n<html>"
        with socket.create_server(("127.0.0.1", 0)) as listener:
            thread = threading.Thread(target=_answer_once, args=(listener, answer), daemon=True)
            thread.start()
            with pytest.raises(UnreachableError, match="not JSON"):
                elsewhere(tmp_path, listener.getsockname()[1], "http").version()
            thread.join(5)


def _everything(error: BaseException | None) -> str:
    text = ""
    while error is not None:
        text += f"{error} {error.args!r} "
        assert isinstance(error, MeshkitError) or error.__cause__ is None
        error = error.__cause__
    return text


def _answer_once(listener: socket.socket, answer: bytes) -> None:
    connection, _ = listener.accept()
    with connection:
        connection.recv(65536)
        connection.sendall(answer)
