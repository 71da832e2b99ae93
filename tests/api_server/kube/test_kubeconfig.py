"""By which way we reach an API server: kubeconfig's proxies in requests and streams, distinct from the server."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from meshkit.errors import InputError, UnreachableError
from meshkit.kube.cluster import Cluster
from meshkit.kube.transport import NotFoundError
from tests.support.api_server import TOKENS, ApiServer, free_port
from tests.support.between import cluster_of, connect_proxy, recorder, socks5


def _exec(cluster: Cluster) -> Any:
    return cluster.exec("pod", "default", "app", ["true"])


BOTH = pytest.mark.parametrize("act", [Cluster.version, _exec], ids=["request", "stream"])


def through(api_server: ApiServer, folder: Path, proxy: str, server: str = "", timeout: float = 5.0) -> Cluster:
    """Return the real API server, seen by its admin through a proxy."""
    (folder / "ca.crt").write_bytes(api_server.ca)
    told = {"server": server or api_server.server, "proxy-url": proxy, "certificate-authority": "ca.crt"}
    told["tls-server-name"] = "kubernetes.default.svc"
    return cluster_of(folder / "kubeconfig", told, {"token": TOKENS["admin"]}, timeout)


@pytest.mark.parametrize("scheme", ["socks5", "socks5h"])
def test_requests_and_streams_go_through_socks(api_server: ApiServer, tmp_path: Path, scheme: str) -> None:
    """The proxy resolves names, as it does for kubectl: behind a bastion nobody else can."""
    port = api_server.server.rpartition(":")[2]
    with socks5({"api.invalid": "127.0.0.1"}, "me", "p@ss") as (proxy, asked):
        url = f"{scheme}://me:p%40ss@127.0.0.1:{proxy}"
        cluster = through(api_server, tmp_path, url, f"https://api.invalid:{port}")
        assert cluster.version().startswith("v1.")
        with pytest.raises(NotFoundError, match="pods/pod"):
            _exec(cluster)
    assert asked == ["api.invalid"] * 2


def test_requests_and_streams_go_through_an_http_proxy(api_server: ApiServer, tmp_path: Path) -> None:
    """With the credential of proxy-url."""
    with connect_proxy("tunnel") as (proxy, asked):
        cluster = through(api_server, tmp_path, f"http://me:p%40ss@127.0.0.1:{proxy}")
        assert cluster.version().startswith("v1.")
        with pytest.raises(NotFoundError, match="pods/pod"):
            _exec(cluster)
    secret = base64.b64encode(b"me:p@ss").decode()
    assert [secret in head for head in asked] == [True, True]


@BOTH
@pytest.mark.parametrize("scheme", ["http", "https", "socks5"])
def test_a_proxy_that_is_down_is_named(
    api_server: ApiServer, tmp_path: Path, scheme: str, act: Callable[[Cluster], Any]
) -> None:
    """It is not the API server that refuses; the proxy's password is not disclosed."""
    port = free_port()
    cluster = through(api_server, tmp_path, f"{scheme}://me:canary@127.0.0.1:{port}")
    with pytest.raises(UnreachableError) as caught:
        act(cluster)
    assert f"the proxy {scheme}://127.0.0.1:{port} refuses the connection" in str(caught.value)
    assert "canary" not in str(caught.value)
    assert "proxy-url" in caught.value.remedy


@BOTH
@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("407", "wants another credential (407)"),
        ("403", "does not let us through to it (403)"),
        ("502", "does not let us through to it (502)"),
    ],
)
def test_a_proxy_that_refuses_is_named(
    api_server: ApiServer, tmp_path: Path, mode: Any, words: str, act: Callable[[Cluster], Any]
) -> None:
    """A 403 of a proxy asks for no right in the cluster."""
    with connect_proxy(mode) as (port, _):
        with pytest.raises(UnreachableError) as caught:
            act(through(api_server, tmp_path, f"http://127.0.0.1:{port}"))
        assert f"the proxy http://127.0.0.1:{port} {words}" in str(caught.value)


@BOTH
def test_a_proxy_without_an_answer_is_named_in_time(
    api_server: ApiServer, tmp_path: Path, act: Callable[[Cluster], Any]
) -> None:
    """And one that closes, one without TLS, one whose name is wrong."""
    began = time.monotonic()
    with connect_proxy("silent") as (port, _), pytest.raises(UnreachableError, match=rf"within 1 s .*:{port}\b"):
        act(through(api_server, tmp_path, f"http://127.0.0.1:{port}", timeout=1))
    assert time.monotonic() - began < 3
    with connect_proxy("closes") as (port, _), pytest.raises(UnreachableError, match=rf"proxy http://127.0.0.1:{port}"):
        act(through(api_server, tmp_path, f"http://127.0.0.1:{port}"))
    with recorder() as plain, pytest.raises(UnreachableError, match="speaks no TLS"):
        act(through(api_server, tmp_path, plain.address.replace("http", "https")))
    with pytest.raises(UnreachableError, match=r"the proxy http://no-such-proxy.invalid:3128 has a name"):
        act(through(api_server, tmp_path, "http://no-such-proxy.invalid:3128"))


@BOTH
def test_a_socks_proxy_that_refuses_is_named(
    api_server: ApiServer, tmp_path: Path, act: Callable[[Cluster], Any]
) -> None:
    """It wants a credential, or cannot reach the server."""
    with socks5({}, "me", "right") as (port, _):
        with pytest.raises(UnreachableError, match=rf"the proxy socks5://127.0.0.1:{port} refuses the credential"):
            act(through(api_server, tmp_path, f"socks5://me:wrong@127.0.0.1:{port}"))
        dead = f"https://127.0.0.1:{free_port()}"
        with pytest.raises(UnreachableError, match=rf"the proxy socks5://127.0.0.1:{port} cannot reach it"):
            act(through(api_server, tmp_path, f"socks5://me:right@127.0.0.1:{port}", dead))


@pytest.mark.parametrize("proxy", ["ftp://proxy:3128", "socks4://proxy:1", "http://", "http://proxy:99999"])
def test_what_is_no_proxy_is_refused(api_server: ApiServer, tmp_path: Path, proxy: str) -> None:
    """As client-go does."""
    with pytest.raises(InputError, match=r"http://, https:// or socks5://HOST:PORT"):
        through(api_server, tmp_path, proxy).version()
