"""A real API server, which starts in four seconds, and Kubernetes' own controllers on it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from meshkit.errors import UnreachableError
from meshkit.kube.cluster import Cluster
from meshkit.kube.mesh import Mesh
from tests.support.api_server import TOKENS, ApiServer, free_port, program, write_kubeconfig
from tests.support.objects import core, create, mesh_of


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


@pytest.fixture(scope="module")
def istioctl() -> Iterator[Path]:
    """The lab's istioctl, on the PATH."""
    found = program("istioctl")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{found.parent}{os.pathsep}{os.environ['PATH']}")
        yield found


@pytest.fixture(scope="module")
def controllers(api_server: ApiServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Kubernetes' own controllers on that API server: workloads roll out, namespaces go. No node runs a pod."""
    manager, home = program("kube-controller-manager"), tmp_path_factory.mktemp("controllers")
    config = yaml.safe_load(api_server.kubeconfig.read_text()) | {"current-context": "admin"}
    (home / "kubeconfig").write_text(yaml.safe_dump(config))
    flags = [
        f"--kubeconfig={home}/kubeconfig",
        f"--cert-dir={home}",
        f"--secure-port={free_port()}",
        "--bind-address=127.0.0.1",
        "--leader-elect=false",
        "--profiling=false",
        "--kube-api-qps=100",
        "--kube-api-burst=200",
        "--controllers=deployment-controller,replicaset-controller,namespace-controller,serviceaccount-controller",
    ]
    with (home / "log").open("wb") as log:
        running = subprocess.Popen([manager, *flags], stdout=log, stderr=log)
        try:
            yield
        finally:
            running.kill()
            running.wait()


@pytest.fixture
def mesh(api_server: ApiServer, state: Path) -> Mesh:
    """A mesh of one cluster, east, with journals of its own."""
    return mesh_of(api_server.kubeconfig)


@pytest.fixture
def east(mesh: Mesh) -> Cluster:
    """The cluster of that mesh."""
    return mesh.clusters["east"]


@pytest.fixture
def space(east: Cluster) -> Iterator[str]:
    """A new namespace's name; what tests of all namespaces would find of it is removed afterwards."""
    name = f"test-{uuid.uuid4().hex[:8]}"
    create(east, core("Namespace", name, ""))
    yield name
    for kind in ("pods", "secrets", "deployments.v1.apps"):
        for obj in east.get(kind, name):
            east.delete(obj)


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
