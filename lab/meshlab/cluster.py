"""One cluster's control plane: certificates, etcd, API server, controllers, node. Each is a plain process.

Flags were tried on Kubernetes 1.37 and etcd 3.7. The API server believes four static tokens: the user's, the
controllers' and the node's, who are cluster administrators, and a robot's, who is nothing by itself.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import secrets
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from meshlab.layout import API_PORT, NODE_API_PORT, Settings, Site, programs, replace

CONTROLLERS = (
    "serviceaccount-controller", "serviceaccount-token-controller", "root-ca-certificate-publisher-controller",
    "namespace-controller", "endpointslice-controller", "endpoints-controller", "deployment-controller",
    "replicaset-controller", "statefulset-controller", "daemonset-controller", "job-controller",
    "garbage-collector-controller", "clusterrole-aggregation-controller", "resourcequota-controller",
)  # fmt: skip
ROBOT, ACTS_AS = "robot", "mesh-admins"
"""Who impersonates, and as whom: a user and its group."""
PLUGIN = """#!/bin/sh
token=$(cat "$1")
echo '{"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": {"token": "'"$token"'"}}'
"""
# The API servers are most of the lab's memory; on a few objects the collector has time to be thorough.
FRUGAL = {"GOGC": "40"}


def prepare(home: Path, site: Site) -> None:
    """Write a new cluster's certificates, tokens and kubeconfigs into its folder."""
    folder = home / site.name
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    authority = Authority(f"lab-{site.name}")
    authority.write(folder / "ca")
    names = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", site.name]
    addresses = ["127.0.0.1", site.node_ip, site.api_ip, f"{site.services}.0.1"]
    authority.issue(folder / "server", "kube-apiserver", names, addresses)
    authority.issue(folder / "node", site.name, [site.name], [site.node_ip])
    authority.issue(folder / "client", "kube-apiserver-kubelet-client", [], [], client=True)
    write_key(folder / "sa.key", ec.generate_private_key(ec.SECP256R1()))
    tokens = {user: secrets.token_hex(16) for user in ("admin", "controllers", "node", ROBOT)}
    lines = [f"{token},{user},{user}{'' if user == ROBOT else ',system:masters'}" for user, token in tokens.items()]
    replace(folder / "tokens.csv", "\n".join(lines) + "\n", 0o600)
    local = f"https://127.0.0.1:{API_PORT}"
    for user in ("controllers", "node"):
        entry = (site, local, authority.pem(), {"token": tokens[user]})
        replace(folder / f"{user}.kubeconfig", kubeconfig([entry]), 0o600)
    for user in ("admin", ROBOT):
        replace(folder / f"{user}.token", tokens[user] + "\n", 0o600)


def kubeconfig(entries: Iterable[tuple[Site, str, str, dict[str, Any]]]) -> str:
    """Return a kubeconfig of (site, server, CA in PEM, user); the first is the current context."""
    entries = list(entries)

    def named(key: str, site: Site, value: dict[str, Any]) -> dict[str, Any]:
        return {"name": site.context, key: value}

    return yaml.safe_dump(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": entries[0][0].context,
            "clusters": [
                named("cluster", s, {"server": server, "certificate-authority-data": b64(ca)})
                for s, server, ca, _ in entries
            ],
            "users": [named("user", s, user) for s, _, _, user in entries],
            "contexts": [named("context", s, {"cluster": s.context, "user": s.context}) for s, _, _, _ in entries],
        },
        sort_keys=False,
    )


def write_kubeconfig(home: Path, settings: Settings, all_sites: list[Site], kind: str = "token") -> Path:
    """Write the user's kubeconfig: contexts lab-east, lab-west, … on loopback ports; `kind` is that of its users."""
    entries = []
    for site, port in zip(all_sites, settings.ports, strict=True):
        ca = (home / site.name / "ca.crt").read_text()
        entries.append((site, f"https://127.0.0.1:{port}", ca, user(home / site.name, kind)))
    replace(home / "kubeconfig", kubeconfig(entries), 0o600)
    return home / "kubeconfig"


def user(folder: Path, kind: str) -> dict[str, Any]:
    """Return the user of a kubeconfig: with the token itself, its file, a credential plugin, or as somebody else."""
    file = folder / "admin.token"
    if kind == "token-file":
        return {"tokenFile": str(file)}
    if kind == "exec-plugin":
        plugin = folder / "credential-plugin"
        replace(plugin, PLUGIN, 0o700)
        exec_ = {"apiVersion": "client.authentication.k8s.io/v1", "command": str(plugin), "args": [str(file)]}
        return {"exec": {**exec_, "interactiveMode": "Never", "installHint": "It is part of the lab."}}
    if kind == "impersonation":
        return {"token": (folder / f"{ROBOT}.token").read_text().strip(), "as": ACTS_AS, "as-groups": [ACTS_AS]}
    return {"token": file.read_text().strip()}


def start(home: Path, site: Site) -> list[subprocess.Popen[bytes]]:
    """Start the cluster's daemons in its node's network namespace; each waits for what it needs."""
    from meshlab.process import spawn

    folder, bin_folder = home / site.name, programs()
    state(site).mkdir(parents=True)

    def daemon(name: str, argv: list[str], env: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
        return spawn(home, f"{site.name}-{name}", argv, netns=site.name, env=env)

    return [
        daemon("etcd", etcd(bin_folder, folder)),
        daemon("kube-apiserver", api_server(bin_folder, folder, site), FRUGAL),
        daemon("kube-controller-manager", controllers(bin_folder, folder), FRUGAL),
        daemon("nodeapi", node_api(bin_folder, folder, site)),
        daemon("node", [sys.executable, "-m", "meshlab.node", str(home), str(site.number)]),
    ]


def etcd(bin_folder: Path, folder: Path) -> list[str]:
    """Return etcd's command."""
    return [
        str(bin_folder / "etcd"), f"--data-dir={folder / 'etcd'}", "--unsafe-no-fsync", "--log-level=warn",
        "--listen-client-urls=http://127.0.0.1:2379", "--advertise-client-urls=http://127.0.0.1:2379",
        "--listen-peer-urls=http://127.0.0.1:2380", "--snapshot-count=5000",
    ]  # fmt: skip


def api_server(bin_folder: Path, folder: Path, site: Site) -> list[str]:
    """Return the API server's command."""
    issuer = "https://kubernetes.default.svc"
    return [
        str(bin_folder / "kube-apiserver"), "--etcd-servers=http://127.0.0.1:2379", "--bind-address=0.0.0.0",
        f"--advertise-address={site.node_ip}", f"--secure-port={API_PORT}", f"--cert-dir={folder}",
        f"--tls-cert-file={folder / 'server.crt'}", f"--tls-private-key-file={folder / 'server.key'}",
        f"--service-account-key-file={folder / 'sa.key'}", f"--service-account-signing-key-file={folder / 'sa.key'}",
        f"--service-account-issuer={issuer}", f"--api-audiences={issuer},istio-ca",
        f"--token-auth-file={folder / 'tokens.csv'}", "--authorization-mode=RBAC",
        f"--service-cluster-ip-range={site.services}.0.0/16", "--allow-privileged",
        "--disable-admission-plugins=TaintNodesByCondition,DefaultTolerationSeconds",
        "--kubelet-preferred-address-types=InternalIP", f"--kubelet-certificate-authority={folder / 'ca.crt'}",
        f"--kubelet-client-certificate={folder / 'client.crt'}", f"--kubelet-client-key={folder / 'client.key'}",
        "--profiling=false", "--enable-priority-and-fairness=false",
    ]  # fmt: skip


def controllers(bin_folder: Path, folder: Path) -> list[str]:
    """Return the controller manager's command, behind a wait for the API server (it gives up after 10 s)."""
    program = [
        str(bin_folder / "kube-controller-manager"), f"--kubeconfig={folder / 'controllers.kubeconfig'}",
        f"--service-account-private-key-file={folder / 'sa.key'}", f"--root-ca-file={folder / 'ca.crt'}",
        "--leader-elect=false", "--use-service-account-credentials=false", f"--controllers={','.join(CONTROLLERS)}",
        f"--cert-dir={folder}", "--bind-address=127.0.0.1", "--kube-api-qps=100", "--kube-api-burst=200",
        "--profiling=false",
    ]  # fmt: skip
    ready = f"curl -sf -o /dev/null --cacert {folder / 'ca.crt'} https://127.0.0.1:{API_PORT}/readyz"
    return ["sh", "-c", f'until {ready}; do sleep 0.1; done; exec "$@"', "sh", *program]


def node_api(bin_folder: Path, folder: Path, site: Site) -> list[str]:
    """Return the command of the kubelet's API: exec, port-forward, logs."""
    return [
        str(bin_folder / "nodeapi"), f"--listen={site.node_ip}:{NODE_API_PORT}", f"--cert={folder / 'node.crt'}",
        f"--key={folder / 'node.key'}", f"--client-ca={folder / 'ca.crt'}", f"--state={state(site)}",
    ]  # fmt: skip


def state(site: Site) -> Path:
    """Return the folder, inside the box, where the node says which containers run."""
    return Path("/run/lab") / site.name / "state"


def b64(text: str) -> str:
    """Return text in base64, as kubeconfig and Secrets want it."""
    import base64

    return base64.b64encode(text.encode()).decode()


def write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    """Write a private key for its owner's eyes only."""
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    replace(path, pem.decode(), 0o600)


class Authority:
    """A cluster's certificate authority; it lives as long as the lab is being prepared."""

    def __init__(self, name: str) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = self._builder(self.name, self.key.public_key())
        self.certificate = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True).sign(
            self.key, hashes.SHA256()
        )

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        now = dt.datetime.now(dt.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(minutes=5))
            .not_valid_after(now + dt.timedelta(days=30))
        )

    def pem(self) -> str:
        """Return the certificate in PEM."""
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode()

    def write(self, path: Path) -> None:
        """Write the certificate to PATH.crt; the key stays in memory."""
        replace(path.with_suffix(".crt"), self.pem())

    def issue(self, path: Path, name: str, dns: list[str], ips: list[str], *, client: bool = False) -> None:
        """Write a certificate and its key to PATH.crt and PATH.key."""
        key = ec.generate_private_key(ec.SECP256R1())
        usage = ExtendedKeyUsageOID.CLIENT_AUTH if client else ExtendedKeyUsageOID.SERVER_AUTH
        builder = self._builder(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]), key.public_key())
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        if dns or ips:
            names = [x509.DNSName(n) for n in dns] + [x509.IPAddress(ipaddress.ip_address(i)) for i in ips]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        certificate = builder.sign(self.key, hashes.SHA256())
        write_key(path.with_suffix(".key"), key)
        replace(path.with_suffix(".crt"), certificate.public_bytes(serialization.Encoding.PEM).decode())
