"""What several tests need: the lab's programs, a kubeconfig, a free port."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from meshkit.cluster import Cluster

TOKENS = {"admin": "admin-token", "nobody": "nobody-token", "stranger": "no-such-token"}


@dataclass(frozen=True)
class ApiServer:
    """A running API server: its kubeconfig, with a context for each of `TOKENS`, and what that is made of."""

    kubeconfig: Path
    server: str
    ca: bytes

    def connect(self, context: str = "admin", timeout: float = 10.0) -> Cluster:
        """Return a cluster of one of its contexts."""
        return Cluster.connect(context, str(self.kubeconfig), timeout=timeout)


def program(name: str) -> Path:
    """Return one of the lab's programs, or skip the test."""
    default = Path.home() / ".cache" / "meshkit" / "lab" / "bin"
    directory = Path(os.environ.get("MESHKIT_LAB_BIN") or default)
    path = directory / name
    if not path.exists():
        pytest.skip(f"{name} is not built: no {path}; `meshkit lab build` builds it")
    return path


def free_port() -> int:
    """Return a loopback port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def write_kubeconfig(path: Path, server: str, ca: Path | None, tokens: dict[str, str]) -> Path:
    """Write a kubeconfig with one context for each token, each named like its user."""
    cluster = {"server": server, **({"certificate-authority": str(ca)} if ca else {"insecure-skip-tls-verify": True})}
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": cluster}],
        "users": [{"name": user, "user": {"token": token}} for user, token in tokens.items()],
        "contexts": [{"name": user, "context": {"cluster": "test", "user": user}} for user in tokens],
    }
    path.write_text(yaml.safe_dump(document))
    return path
