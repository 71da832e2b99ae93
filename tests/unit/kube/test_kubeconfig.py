"""A kubeconfig's server and proxy: which are used, and which refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from meshkit.errors import InputError, UnreachableError
from tests.support.api_server import free_port
from tests.support.between import cluster_of, recorder


def test_the_environments_proxy_is_not_for_loopback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As for kubectl; proxy-url of kubeconfig stands before the environment, whatever NO_PROXY says."""
    dead = f"http://127.0.0.1:{free_port()}"
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, dead)
    with recorder() as kubernetes:
        assert cluster_of(tmp_path / "k", {"server": kubernetes.address}, {"token": "t"}).version() == "v1.37.2"
        monkeypatch.setenv("no_proxy", "*")
        told = {"server": kubernetes.address, "proxy-url": dead}
        with pytest.raises(UnreachableError, match="the proxy"):
            cluster_of(tmp_path / "k", told, {"token": "t"}).version()
    far = cluster_of(tmp_path / "k", {"server": "https://192.0.2.1"}, {"token": "t"})
    monkeypatch.delenv("no_proxy")
    with pytest.raises(UnreachableError, match=f"the proxy {dead}"):
        far.version()


@pytest.mark.parametrize(
    "server",
    [
        "",
        "https://",
        "ftp://x",
        "https://a b:1",
        "https://[::1",
        "https://x:y",
        "https://x:99999",
        "https://x\n",
        " https://x",
        3,
        ["a"],
    ],
)
def test_what_is_no_server_is_refused(tmp_path: Path, server: Any) -> None:
    """As an error of the file, not of the network."""
    with pytest.raises(InputError, match=r"kubeconfig"):
        cluster_of(tmp_path / "kubeconfig", {"server": server}, {"token": "t"}).version()


def test_a_server_without_a_scheme_is_found(tmp_path: Path) -> None:
    """As by client-go."""
    with recorder() as kubernetes:
        server = kubernetes.address.removeprefix("http://")
        assert cluster_of(tmp_path / "k", {"server": server}, {"token": "t"}).version() == "v1.37.2"
        told = {"server": server, "insecure-skip-tls-verify": True}
        assert cluster_of(tmp_path / "k", told, {"token": "t"}).server == f"https://{server}"


@pytest.mark.parametrize(
    ("cluster", "user", "words"),
    [
        ({"certificate-authority-data": "aGVsbG8="}, {"token": "t"}, "certificate-authority of its cluster"),
        ({"certificate-authority-data": "%%%"}, {"token": "t"}, "certificate-authority of its cluster"),
        ({}, {"client-certificate-data": "eA==", "client-key-data": "Y2FuYXJ5"}, "client-certificate and client-key"),
        ({}, {"client-certificate-data": "eA=="}, "client-certificate and client-key"),
        ({}, {"client-key-data": "Y2FuYXJ5"}, "client-certificate and client-key"),
        ({"server": "https://admin:canary@192.0.2.1"}, {}, "holds a user or a password"),
        ({"server": " https://192.0.2.1"}, {}, "expected https://HOST:PORT"),
    ],
)
def test_what_no_connection_could_use_is_an_error_of_the_file(
    tmp_path: Path, cluster: dict[str, str], user: dict[str, str], words: str
) -> None:
    """Not of TLS, whose remedy is another one; and nothing of it is shown."""
    with pytest.raises(InputError, match=words) as caught:
        cluster_of(tmp_path / "k", {"server": "https://192.0.2.1", **cluster}, user).version()
    assert "canary" not in str(caught.value)
