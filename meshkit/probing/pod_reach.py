"""Paths between clusters, tried from pods: to pods of other clusters by their addresses, and DNS names.

Requests are sent by curl in the probe's client, as in stage 08; without that pod a row is `untried`. A sidecar accepts
every outgoing connection itself, so a connection proves nothing: only the certificate of the other end does.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import pandas as pd
from cryptography.x509 import Certificate

from meshkit.errors import MeshkitError, UnreachableError
from meshkit.istio.ca import certificates as ca_certificates
from meshkit.istio.control_plane.cluster_domain import of_cluster
from meshkit.istio.multicluster import gateways
from meshkit.istio.proxies import envoy_admin
from meshkit.kube import api_server
from meshkit.kube import pods as kube_pods
from meshkit.kube.api_server import is_number
from meshkit.kube.cluster import Cluster, ExecResult
from meshkit.kube.mesh import Mesh, Unknown, gather
from meshkit.probing import pair_probe, sni_probe
from meshkit.tables import Table, integer, text

CURL_TIMEOUT = 5
DEADLINE = 30.0
UNRESOLVED = (5, 6)
DISCARD = 9
"""The port at which names are tried; nothing listens there, and a sidecar logs each attempt as refused."""
_MARK = "@meshkit "
POD_TO_POD: Final = Table(
    "pod-to-pod",
    "Pods of other clusters, tried by their own addresses",
    {
        "client": text("cluster"),
        "server": text("cluster"),
        "address": text("of the server's istiod, or of a pod of the probe's server where it has none"),
        "tried_from": text("pod"),
        "state": text(
            "ok, no answer, wrong certificate (in overlapping ranges the address is another pod's), untried (no "
            "pod to try from, or no istiod to try) or UNKNOWN"
        ),
        "status": integer("HTTP status"),
        "detail": text("what happened"),
    },
    key=("client", "server"),
    show=("client", "server", "address", "tried_from", "state", "detail"),
)
API_NAMES: Final = Table(
    "dns-names",
    "DNS names, resolved in pods",
    {
        "cluster": text("where it was tried"),
        "name": text("that was resolved"),
        "of": text("what it is for"),
        "tried_from": text("pod"),
        "state": text("resolved, not resolved, untried (no pod to try from) or UNKNOWN"),
        "address": text("that it led to"),
        "detail": text("what happened"),
    },
    key=("cluster", "name"),
    show=("cluster", "name", "of", "tried_from", "state", "address", "detail"),
)


@dataclass(frozen=True)
class Caller:
    """A running pod with curl: the probe's client."""

    cluster: Cluster
    namespace: str
    pod: str
    container: str

    def curl(self, *arguments: str) -> ExecResult:
        """Run curl in it."""
        command = ["curl", "-sS", "--max-time", str(CURL_TIMEOUT), *arguments]
        return self.cluster.exec(self.pod, self.namespace, self.container, command, 2 * CURL_TIMEOUT + 5)


def callers(mesh: Mesh) -> dict[str, Caller | Unknown | None]:
    """Return the pod of each cluster from which paths can be tried; None where the probe's client does not run."""
    return dict(mesh.each(lambda cluster: _caller(cluster, mesh)))


def _caller(cluster: Cluster, mesh: Mesh) -> Caller | None:
    spec = mesh.spec.probe
    for pod in cluster.get("pods", spec.namespace, fields="status.phase=Running"):
        if kube_pods.workload(pod) == spec.client and not pod["metadata"].get("deletionTimestamp"):
            return Caller(cluster, spec.namespace, pod["metadata"]["name"], kube_pods.main_container(pod))
    return None


def _tried(
    mesh: Mesh, pairs: Sequence[tuple[str, str]], attempt: Callable[[Caller, Cluster], dict[str, Any]]
) -> pd.DataFrame:
    known = callers(mesh) if pairs else {}

    def try_pair(pair: tuple[str, str]) -> dict[str, Any]:
        caller = known[pair[0]]
        if caller is None:
            spec = mesh.spec.probe
            return {"state": "untried", "detail": f"no pod of {spec.client} in namespace {spec.namespace} to try from"}
        if isinstance(caller, Unknown):
            return {"state": "UNKNOWN", "detail": caller.reason}
        return {"tried_from": caller.pod, **attempt(caller, mesh.clusters[pair[1]])}

    answers = gather(try_pair, pairs, deadline=DEADLINE)
    rows = []
    for (client, server), answer in zip(pairs, answers, strict=True):
        outcome = {"state": "UNKNOWN", "detail": answer.reason} if isinstance(answer, Unknown) else answer
        rows.append({"client": client, "server": server, **outcome})
    return POD_TO_POD.frame(rows)


def handshake(caller: Caller, url: str) -> dict[str, Any]:
    """Call an HTTPS address from a pod without verification.

    Returns state, status, detail, the certificate chain, and whether curl ran at all.
    """
    done = caller.curl("-k", "-o", "/dev/null", "-w", f"%{{certs}}\n{_MARK}%{{http_code}}", url)
    certificates, _, status = done.stdout.rpartition(_MARK)
    if status.strip() in ("", "000"):
        error = (done.stderr.strip().splitlines() or [f"exit code {done.exit_code}"])[-1]
        return {"state": "no answer", "detail": error[:200], "chain": [], "ran": not done.not_run}
    chain = ca_certificates.parse_chain(certificates.encode())
    return {"state": "ok", "status": int(status), "chain": chain, "ran": True}


def _names(leaf: Certificate) -> list[str]:
    from cryptography.x509 import DNSName, IPAddress, SubjectAlternativeName
    from cryptography.x509.extensions import ExtensionNotFound

    try:
        names = leaf.extensions.get_extension_for_class(SubjectAlternativeName).value
    except ExtensionNotFound:
        return []
    return [*names.get_values_for_type(DNSName), *(str(ip) for ip in names.get_values_for_type(IPAddress))]


def pods(mesh: Mesh, pairs: Sequence[tuple[str, str]] | None = None) -> pd.DataFrame:
    """Try whether pods reach pods of other clusters by their addresses, at each istiod's webhook port.

    Of a cluster without an istiod it is the probe's server, by a TLS hello to its proxy. Of all pairs, or of those that
    are named.
    """
    chosen = mesh.ordered_pairs if pairs is None else pairs
    return _tried(mesh, chosen, lambda caller, server: _try_pod(mesh, caller, server))


def _try_pod(mesh: Mesh, caller: Caller, server: Cluster) -> dict[str, Any]:
    running = server.get("pods", mesh.root_namespace, labels="app=istiod", fields="status.phase=Running")
    address = next((p["status"].get("podIP", "") for p in running), "")
    if not address:
        return _try_proxy(mesh, caller, server)
    host = f"[{address}]" if ":" in address else address
    answer = {"address": f"{address}:15017", **handshake(caller, f"https://{host}:15017/ready")}
    chain = answer.pop("chain")
    answer.pop("ran")
    istiod = not chain or any(name.startswith("istiod") for name in _names(chain[0]))
    return (
        answer if istiod else {**answer, "state": "wrong certificate", "detail": "another pod has that address there"}
    )


def _try_proxy(mesh: Mesh, caller: Caller, server: Cluster) -> dict[str, Any]:
    """Send a TLS hello to a pod of the probe's server, whose own Envoy holds the certificate that must be shown."""
    none = f"no istiod in {server.name} to try"
    try:
        side = pair_probe.find_side(server, mesh)
    except UnreachableError as error:
        return {"state": "untried", "detail": f"{none}; {error.message}"}
    pods = {pod["metadata"]["name"]: pod for pod in server.get("pods", mesh.spec.probe.namespace)}
    reachable = ((one, str(pods[one.name].get("status", {}).get("podIP", ""))) for one in side.servers)
    proxy, address = next(((one, ip) for one, ip in reachable if ip), (None, ""))
    port = _number(side.target_port, pods[proxy.name]) if proxy else 0
    if proxy is None or not port:
        return {"state": "untried", "detail": f"{none}, nor a ready pod of {mesh.spec.probe.server}"}
    host = f"{mesh.spec.probe.server}.{mesh.spec.probe.namespace}.svc.{of_cluster(server, mesh.root_namespace)}"
    places = [(caller.pod, caller.namespace, name) for name in (kube_pods.PROXY_CONTAINER, caller.container)]
    hello = sni_probe.send_client_hello(
        caller.cluster, places, address, port, sni_probe.sni(host, mesh.spec.probe.port)
    )
    answer = {"address": f"{address}:{port}", "detail": hello.detail}
    if hello.word in (sni_probe.SILENT, sni_probe.REFUSED):
        return {**answer, "state": "no answer"}
    if not hello.chain:
        return {**answer, "state": "UNKNOWN", "detail": f"{hello.word}: {hello.detail}"}
    chains = [ca_certificates.parse_chain(one.pem) for one in envoy_admin.secrets(proxy) if one.kind == "chain"]
    held = {ca_certificates.fingerprint(chain[0]) for chain in chains if chain}
    if ca_certificates.fingerprint(hello.chain[0]) in held:
        return {**answer, "state": "ok"}
    return {**answer, "state": "wrong certificate", "detail": "another pod has that address there"}


def _number(port: int | str, pod: dict[str, Any]) -> int:
    """Return a target port as a number; a name is that of a container's port."""
    named = (one for container in pod["spec"]["containers"] for one in container.get("ports") or [])
    known = {one.get("name"): int(one["containerPort"]) for one in named}
    return port if isinstance(port, int) else int(port) if port.isdigit() else known.get(port, 0)


def names(mesh: Mesh) -> pd.DataFrame:
    """Resolve the DNS names that a mesh needs, from a pod of each cluster.

    Names: other clusters' API servers and gateways where they have host names, istiod's Service, the probe's server
    where its Service exists. A name is tried as curl resolves it, by the pod's own resolver (through the sidecar's DNS
    proxy, if that is on).
    """
    wanted = _wanted(mesh)
    known = callers(mesh)
    tried = [(name, host, of) for name, hosts in wanted.items() for host, of in hosts]
    answers = gather(lambda item: _resolve(known[item[0]], item[1]), tried, deadline=DEADLINE)
    rows = []
    for (cluster, host, of), answer in zip(tried, answers, strict=True):
        outcome = {"state": "UNKNOWN", "detail": answer.reason} if isinstance(answer, Unknown) else answer
        rows.append({"cluster": cluster, "name": host, "of": of, **outcome})
    return API_NAMES.frame(rows)


def _wanted(mesh: Mesh) -> dict[str, list[tuple[str, str]]]:
    spec = mesh.spec.probe
    local = [("istiod", mesh.root_namespace), (spec.server, spec.namespace)]
    offered = gateways.gateways(mesh)
    wanted: dict[str, list[tuple[str, str]]] = {}
    for name, exist in mesh.each(
        lambda cluster: [cluster.find("services", n, s) is not None for s, n in local]
    ).items():
        own = ["istiod", "the probe's server"]
        there = [True, True] if isinstance(exist, Unknown) else exist
        wanted[name] = [
            (f"{s}.{n}.svc", of) for (s, n), of, is_there in zip(local, own, there, strict=True) if is_there
        ]
        for other in mesh.clusters.values():
            if other.name == name:
                continue
            hosts = [
                (
                    urlsplit(api_server.server(mesh.spec.cluster(other.name), other)).hostname or "",
                    "API server",
                )
            ]
            hosts += [(address, "gateway") for one in offered.of(other.name) for address in one.addresses]
            wanted[name] += [(h, f"{of} of {other.name}") for h, of in hosts if h and not is_number(h)]
    return wanted


def _resolve(caller: Caller | Unknown | None, host: str) -> dict[str, Any]:
    if caller is None:
        return {"state": "untried", "detail": "no pod of the probe's client to try from"}
    if isinstance(caller, Unknown):
        raise MeshkitError(caller.reason)
    # curl resolves the name before it connects; what answers does not matter.
    done = caller.curl("-o", "/dev/null", "--connect-timeout", "3", "-v", f"http://{host}:{DISCARD}/")
    where = {"tried_from": caller.pod}
    errors = done.stderr.strip().splitlines()
    if done.exit_code in UNRESOLVED:
        return {**where, "state": "not resolved", "detail": (errors or [""])[-1][:200]}
    tried = re.search(rf"Trying \[?([0-9a-fA-F.:]+?)\]?:{DISCARD}\b", done.stderr)
    if tried is None:
        return {**where, "state": "UNKNOWN", "detail": (errors or [f"curl: exit code {done.exit_code}"])[-1][:200]}
    return {**where, "state": "resolved", "address": tried[1]}
