"""Checks of what each east-west gateway lets in, and of `meshNetworks`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import pandas as pd

from meshkit.checks.finding import Finding, Verdict
from meshkit.checks.question import Question
from meshkit.istio.control_plane.cluster_domain import DEFAULT
from meshkit.istio.control_plane.revisions import ControlPlanes
from meshkit.istio.control_plane.versions import Identity, home, is_remote, outside
from meshkit.istio.multicluster import gateway_manifests
from meshkit.istio.multicluster.gateway_exposure import CLOSED, REFUSED
from meshkit.istio.multicluster.gateways import Gateways, GatewaysSeen
from meshkit.istio.multicluster.remote_secrets import RemoteClusters
from meshkit.istio.proxies import new_pods
from meshkit.istio.reading import cell
from meshkit.kube.mesh import Mesh, Unknown
from meshkit.tables import Row


@dataclass(frozen=True)
class GatewayFacts:
    """What was looked at; each is a reading, or a table, of the function of that name."""

    identity: Identity
    gateways: Gateways
    gateways_seen: GatewaysSeen
    remotes: RemoteClusters
    opened: pd.DataFrame
    claims: pd.DataFrame
    new_pods: new_pods.NewPodFacts | None = None
    installers: Mapping[str, str | Unknown] = field(default_factory=dict)
    not_deployed: Mapping[str, str | Unknown] = field(default_factory=dict)
    revisions: Mapping[str, ControlPlanes | Unknown] = field(default_factory=dict)


def check_hosts(mesh: Mesh, facts: GatewayFacts, name: str) -> Finding:
    """MK613: the gateway's own Envoy lets in names that the mesh file's hosts match, and no others."""
    hosts = gateway_manifests.hosts(mesh.spec, name, domain(facts))
    ask = Question("MK613", "the gateway lets in what the file says", name, f"names of {', '.join(hosts)}")
    rows = facts.opened[facts.opened["cluster"] == name]
    names = rows[rows["sni"] != ""]
    if refused := next((r for r in rows["reason"] if r.startswith(REFUSED)), ""):
        entry = mesh.spec.cluster(name)
        kinds = "gateways.networking.istio.io,gateways.gateway.networking.k8s.io"
        remedy = f"do two Gateways match the same names? kubectl --context {entry.context} get {kinds} -A; narrow one"
        return ask.fail(f"{refused}; it goes on with the one before", remedy)
    if names.empty:
        reason = next(iter(rows["reason"]), "nothing was read")
        if reason == CLOSED:
            return ask.fail(reason, "do the hosts match any Service? does the exposure select the gateway's pods?")
        return ask.unknown(reason)
    services = {f"{r['service']}.{r['namespace']}" for r in names.to_dict("records")}
    beyond = sorted({n for n in names["sni"] if not _matches(n, hosts)})
    answering = len(set(names[names["endpoints"] > 0]["sni"]))
    observed = f"{len(set(names['sni']))} names of {len(services)} Services, {answering} with endpoints"
    if unread := next((r for r in rows["reason"] if r), ""):
        observed += f"; not all of its pods could be asked: {unread}"
    if beyond:
        return ask.answer(
            Verdict.WARN,
            f"{observed}; {len(beyond)} that the file does not name, e.g. {beyond[0]}",
            "another AUTO_PASSTHROUGH Gateway selects its pods: narrow or remove it, or extend gateway.hosts",
        )
    return ask.unknown(observed) if unread else ask.answer(Verdict.PASS, observed)


def check_hosts_exist(mesh: Mesh, facts: GatewayFacts, name: str) -> Iterator[Finding]:
    """MK613, before there is a gateway: hosts of the mesh file that no Service of the cluster domain has let nobody in.

    Silent where one may match: what the gateway's Envoy accepts is then judged by `check_hosts`.
    """
    suffix = f".svc.{domain(facts)}"
    hosts = gateway_manifests.hosts(mesh.spec, name, domain(facts))
    ends = [host.rpartition("/")[2].removeprefix("*") for host in hosts]
    if not any(suffix.endswith(end) or end.endswith(suffix) for end in ends):
        ask = Question("MK613", "the gateway lets in what the file says", name, f"hosts that end in {suffix}")
        remedy = f"leave gateway.hosts of {name} out of the mesh file, which means all, or name them as *{suffix}"
        yield ask.fail(f"{', '.join(hosts)}: no Service has such a name", remedy)


def _matches(sni: str, hosts: list[str]) -> bool:
    host = sni.split("_", 3)[-1].removeprefix(".")
    patterns = [pattern.rpartition("/")[2] for pattern in hosts]
    return any(p in ("*", host) or (p.startswith("*.") and host.endswith(p[1:])) for p in patterns)


def check_control_plane(mesh: Mesh, facts: GatewayFacts, name: str) -> Finding:
    """MK614: other clusters do not reach the API server, istiod or kube-system through the gateway."""
    ask = Question("MK614", "no control plane behind the gateway", name, "none that answers")
    rows = facts.opened[facts.opened["cluster"] == name]
    if {*rows["reason"]} == {CLOSED}:
        return ask.answer(Verdict.SKIPPED, f"{CLOSED}: see MK805 and MK613")
    if reason := next((r for r in rows["reason"] if r), ""):
        return ask.unknown(reason)
    named = rows[rows["part_of"] != ""]
    answering = named[named["endpoints"] > 0]
    if len(answering):
        names = sorted({f"{r['service']}.{r['namespace']}:{r['port']}" for r in answering.to_dict("records")})
        sample = f"*.{mesh.spec.probe.namespace}.svc.{domain(facts)}"
        remedy = f'narrow clusters[].gateway.hosts to what is shared, such as ["{sample}"]: one line for each namespace'
        return ask.answer(Verdict.WARN, f"{', '.join(names)} answer to other clusters", remedy)
    parts = ", ".join(sorted(set(named["part_of"])))
    observed = f"{parts}: named, without an endpoint, as none of it takes mutual TLS" if parts else "none is even named"
    return ask.answer(Verdict.PASS, observed)


def check_own_network(mesh: Mesh, facts: GatewayFacts, name: str) -> Finding:
    """MK616: behind the gateway are pods of its own network only, and no gateway of another.

    Else part of the requests that others send here goes back to them, again and again, and no call fails.

    Source: istiod shows a proxy the networks of its ISTIO_META_REQUESTED_NETWORK_VIEW, and all without it
    (pilot/pkg/model/proxy_view.go, newProxyView).
    """
    network = mesh.spec.cluster(name).network
    ask = Question("MK616", "the gateway serves its own network only", name, f"endpoints of {network}")
    rows = facts.opened[facts.opened["cluster"] == name]
    others = {address: one.network for one in facts.gateways if one.network != network for address in one.addresses}
    reader = home(facts.identity, name)
    others |= {one.address: one.network for one in facts.gateways_seen.of(reader) if one.network not in ("", network)}
    back = [(row, host) for row in rows.to_dict("records") for host in _hosts(row) if host in others]
    if back:
        row, host = back[0]
        names = {one["sni"] for one, _ in back}
        of = f"{host}, the gateway of {others[host]}"
        observed = f"{row['gateway']}: {row['service']}.{row['namespace']}:{row['port']} leads to {of}"
        observed += f"; so do {len(names) - 1} more" if len(names) > 1 else ""
        return ask.fail(observed, _network_view(mesh, facts, name))
    if {*rows["reason"]} == {CLOSED}:
        return ask.answer(Verdict.SKIPPED, f"{CLOSED}: see MK805 and MK613")
    # Its Envoy has no other gateway's address but from an istiod that serves it: what those know decides.
    if (
        reason := next((r for r in rows["reason"] if r), "")
        or facts.gateways_seen.unknown(reader)
        or outside(facts.identity, name)
    ):
        return ask.unknown(reason)
    return ask.answer(Verdict.PASS, f"{int(rows['endpoints'].sum())} endpoints, none of them a gateway")


def _hosts(row: Row) -> list[str]:
    return [address.rpartition(":")[0] for address in str(row["addresses"]).split(",")]


def _network_view(mesh: Mesh, facts: GatewayFacts, name: str) -> str:
    """Return the command that limits a gateway's view to its network."""
    entry = mesh.spec.cluster(name)
    own = next((one for one in facts.gateways.of(name, entry.network) if one.selector), None)
    which = f"-n {own.namespace} deployment -l {cell(own.selector)}" if own else "-n NAMESPACE deployment NAME"
    return f"kubectl --context {entry.context} set env {which} ISTIO_META_REQUESTED_NETWORK_VIEW={entry.network}"


def check_mesh_networks(
    mesh: Mesh, facts: GatewayFacts, configured: Mapping[str, gateway_manifests.Networks | Unknown]
) -> Iterator[Finding]:
    """MK615: each istiod is configured with the networks of the mesh file, where it asks for that."""
    if not mesh.spec.topology.mesh_networks:
        return
    wanted = gateway_manifests.mesh_networks(mesh.spec, facts.gateways, domain(facts))
    for name, found in configured.items():
        if is_remote(facts.identity, name):
            continue
        ask = Question("MK615", "istiod has the mesh file's networks", name, f"meshNetworks: {', '.join(wanted)}")
        if isinstance(found, Unknown):
            yield ask.unknown(found.reason)
        else:
            same = _resolved(found, facts.gateways) == _resolved(wanted, facts.gateways)
            yield ask.judge(same, ", ".join(found) or "none", "was it changed since? run stage 06 again")


def _resolved(networks: gateway_manifests.Networks, offered: Gateways) -> gateway_manifests.Networks:
    """Return meshNetworks with the addresses of its gateways, whichever of both ways names a gateway."""

    def place(network: str, gateway: Mapping[str, str | int]) -> tuple[frozenset[str], int]:
        host = str(gateway.get("registryServiceName") or "")
        own = (one for one in offered if one.network == network and one.service)
        addresses = (one.addresses for one in own if host.startswith(f"{one.service}.{one.namespace}.svc."))
        return frozenset(next(addresses, ()) or [host or str(gateway.get("address"))]), int(gateway.get("port") or 0)

    return {
        name: (value.get("endpoints"), {place(name, gateway) for gateway in value.get("gateways") or []})
        for name, value in networks.items()
    }


def domain(facts: GatewayFacts) -> str:
    """Return the cluster domain of the mesh."""
    return next((one.cluster_domain for one in facts.identity if one.cluster_domain), DEFAULT)
