"""What several tests need: the lab's programs, a kubeconfig, a free port."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from meshlab.layout import programs

from meshkit.kube.cluster import Cluster

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
    path = programs() / name
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


def certificate_pem(name: str, uri: str = "") -> bytes:
    """Return a new self-signed certificate in PEM, with a URI name if one is given."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC).replace(tzinfo=None)
    builder = x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number(), now)
    builder = builder.not_valid_after(now + timedelta(days=1))
    if uri:
        names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)])
        builder = builder.add_extension(names, critical=True)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
