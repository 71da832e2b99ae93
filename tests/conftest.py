"""Real things to test against: an API server that starts in four seconds, and the lab's mesh."""

from __future__ import annotations

import contextlib
import subprocess
import time
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from meshkit.cluster import Cluster
from meshkit.errors import UnreachableError
from tests.support import TOKENS, ApiServer, free_port, program, write_kubeconfig

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="session")
def api_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """A real kube-apiserver on a real etcd, on loopback, for the whole session."""
    etcd, apiserver = program("etcd"), program("kube-apiserver")
    home = tmp_path_factory.mktemp("api-server")
    (home / "tokens.csv").write_text("admin-token,admin,1,system:masters\nnobody-token,nobody,2\n")
    key = rsa.generate_private_key(65537, 2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    (home / "sa.key").write_bytes(key)
    client, peer, secure = free_port(), free_port(), free_port()
    etcd_flags = [
        f"--data-dir={home}/etcd",
        "--unsafe-no-fsync",
        f"--listen-client-urls=http://127.0.0.1:{client}",
        f"--advertise-client-urls=http://127.0.0.1:{client}",
        f"--listen-peer-urls=http://127.0.0.1:{peer}",
        "--log-level=warn",
    ]
    api_flags = [
        f"--etcd-servers=http://127.0.0.1:{client}",
        "--bind-address=127.0.0.1",
        f"--secure-port={secure}",
        f"--cert-dir={home}/pki",
        f"--service-account-key-file={home}/sa.key",
        f"--service-account-signing-key-file={home}/sa.key",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--token-auth-file={home}/tokens.csv",
        "--authorization-mode=RBAC",
        "--service-cluster-ip-range=10.99.0.0/16",
        "--disable-admission-plugins=ServiceAccount",
        "--enable-priority-and-fairness=false",
        "--profiling=false",
    ]
    with (home / "log").open("wb") as log:
        running = [
            subprocess.Popen([program, *flags], stdout=log, stderr=log)
            for program, flags in ((etcd, etcd_flags), (apiserver, api_flags))
        ]
        try:
            certificate = home / "pki" / "apiserver.crt"
            kubeconfig = write_kubeconfig(home / "kubeconfig", f"https://127.0.0.1:{secure}", certificate, TOKENS)
            wait_until_ready(kubeconfig, certificate, home / "log")
            yield ApiServer(kubeconfig, f"https://127.0.0.1:{secure}", certificate.read_bytes())
        finally:
            for process in reversed(running):
                process.kill()
                process.wait()


def wait_until_ready(kubeconfig: Path, certificate: Path, log: Path) -> None:
    """Wait for the API server to say that it is ready, 60 s at most."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if certificate.exists():
            with contextlib.suppress(UnreachableError):
                Cluster.connect("admin", str(kubeconfig), timeout=5)._request("GET", "/readyz")
                return
        time.sleep(0.2)
    pytest.fail(f"the API server did not start:\n{log.read_text()[-2000:]}")
