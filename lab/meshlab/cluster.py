"""One cluster's control plane: certificates, etcd, API server, controllers, node. Each is a plain process.

Flags were tried on Kubernetes 1.37 and etcd 3.7. The API server believes four static tokens: the user's, the
controllers' and the node's, who are cluster administrators, and a robot's, who is nothing by itself.
"""

from __future__ import annotations

import secrets
import subprocess
import sys
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from meshlab import kubeconfig
from meshlab.authority import Authority, write_key
from meshlab.kubeconfig import ROBOT
from meshlab.layout import API_PORT, NODE_API_PORT, Site, programs, replace

CONTROLLERS = (
    "serviceaccount-controller", "serviceaccount-token-controller", "root-ca-certificate-publisher-controller",
    "namespace-controller", "endpointslice-controller", "endpoints-controller", "deployment-controller",
    "replicaset-controller", "statefulset-controller", "daemonset-controller", "job-controller",
    "garbage-collector-controller", "clusterrole-aggregation-controller", "resourcequota-controller",
)  # fmt: skip
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
        entry = (site, kubeconfig.cluster(local, authority.pem()), {"token": tokens[user]})
        replace(folder / f"{user}.kubeconfig", kubeconfig.document([entry]), 0o600)
    for user in ("admin", ROBOT):
        replace(folder / f"{user}.token", tokens[user] + "\n", 0o600)


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
