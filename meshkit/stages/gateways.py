"""Stage 06: does each network have an east-west gateway that lets in what it should, and does istiod know it?

Only where clusters are on different networks. Each cluster gets a gateway of its own, also where two are on one
network: istiod then sends what is for a cluster through that one's. A gateway that others made is used where it fits,
and never changed.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from typing import Any

from meshkit.changes.plan import Plan, refused
from meshkit.checks import control_plane, gateways, installers, restarts
from meshkit.checks import revisions as checks_revisions
from meshkit.checks.finding import Finding, Verdict
from meshkit.checks.gateway_exposure import (
    GatewayFacts,
    check_control_plane,
    check_hosts,
    check_hosts_exist,
    check_mesh_networks,
    check_own_network,
    domain,
)
from meshkit.checks.question import Question, arrow, awaits, planned
from meshkit.istio.control_plane import inventory, istioctl, revisions, versions
from meshkit.istio.multicluster import gateway_api, gateway_exposure, gateway_manifests, remote_secrets
from meshkit.istio.multicluster import gateways as multicluster_gateways
from meshkit.istio.multicluster.gateways import NetworkGateway
from meshkit.istio.proxies import new_pods, proxy_status
from meshkit.istio.reading import cell
from meshkit.kube.mesh import Mesh
from meshkit.kube.wait import wait_for
from meshkit.notebook import tables
from meshkit.stages.stage import Shows, Stage

STAGE = "06 gateways"
BEFORE, AFTER = "05 install", "07 discovery"
OURS = f"istioctl, {gateway_manifests.OPERATOR}"


def look(mesh: Mesh) -> GatewayFacts:
    """Read gateways, what they let in, and what each istiod knows of them; changes nothing."""
    return GatewayFacts(
        **mesh.read_all(
            identity=versions.identity,
            gateways=multicluster_gateways.gateways,
            gateways_seen=multicluster_gateways.gateways_seen,
            remotes=remote_secrets.remote_clusters,
            opened=gateway_exposure.opened,
            claims=proxy_status.claims,
            new_pods=new_pods.look,
            installers=inventory.installers,
            revisions=revisions.look,
        )
    )


def check(mesh: Mesh, facts: GatewayFacts, mode: str = "apply") -> list[Finding]:
    """Judge whether gateways can be created: istiods and proxies have their ids and network, and the name is free."""
    if mesh.spec.topology.network != "multi":
        ask = Question("MK602", "east-west gateways are needed", "the mesh", "clusters on different networks")
        return [ask.answer(Verdict.SKIPPED, "topology.network is flat: pods reach each other by their own addresses")]
    gates = [*checks_revisions.check(mesh, facts.revisions), *control_plane.check_istiods(mesh, facts.identity)]
    gates += [check_networks(mesh, facts, name) for name in mesh.clusters]
    places = [check_place(mesh, facts, name) for name in mesh.clusters]
    places += [finding for name in mesh.clusters for finding in check_hosts_exist(mesh, facts, name)]
    gates = [awaits(finding, mode, BEFORE) for finding in gates]
    if mesh.spec.topology.mesh_networks:  # they are written only into what istioctl installed
        gates += installers.check_installers(mesh, facts.installers, facts.identity)
    return [*gates, *places, *restarts.check(mesh, facts.new_pods)]


def check_networks(mesh: Mesh, facts: GatewayFacts, name: str) -> Finding:
    """MK603: every proxy knows its network before that has a gateway.

    To istiod one that knows none is on none: even its calls within the cluster are sent through a gateway as soon as
    there is one (Istio 1.31, measured).
    """
    entry, rows = mesh.spec.cluster(name), facts.claims[facts.claims["cluster"] == name]
    ask = Question("MK603", "proxies know their network", name, f"all: {entry.network}")
    if reason := next((r for r in rows["reason"] if r), ""):
        return ask.unknown(reason)
    if rows.empty:
        return ask.answer(Verdict.SKIPPED, "it has no proxy")
    wrong = rows[rows["network"] != entry.network].to_dict("records")
    named = ", ".join(f"{r['namespace']}/{r['proxy']} ({r['network'] or 'none'})" for r in wrong[:3])
    observed = f"{len(wrong)} of {len(rows)} do not: {named}" if wrong else f"all {len(rows)}"
    remedy = f"run stage 05; what it leaves: kubectl --context {entry.context} rollout restart, or recreate a bare pod"
    return ask.judge(not wrong, observed, remedy)


def check_place(mesh: Mesh, facts: GatewayFacts, name: str) -> Finding:
    """MK602: no other object has the gateway's name, or the one that has it can be used."""
    place = f"{mesh.root_namespace}/{gateway_manifests.NAME}"
    ask = Question("MK602", "a gateway exists or can be created", name, f"{place} is free, ours, or fits")
    if reason := facts.gateways.unknown(name):
        return ask.unknown(
            reason, f"does it answer? `kubectl --context {mesh.spec.cluster(name).context} get services -A`"
        )
    used = _used(mesh, facts, name)
    if used and _closed_by_its_owner(used):
        context, gateway = mesh.spec.cluster(name).context, gateway_api.made_for(used.selector)
        observed = f"{used.namespace}/{used.service} is of Gateway {gateway}, which lets no mutual TLS through"
        edit = f"kubectl --context {context} edit gateways.gateway.networking.k8s.io -n {used.namespace} {gateway}"
        wanted = f"port {multicluster_gateways.PASSTHROUGH_PORT}, protocol TLS, tls.mode Passthrough"
        return ask.fail(observed, f"{edit}: let its listener be {wanted}, hostname *.{domain(facts)}")
    if used:
        whose = "made by meshkit or Istio's script" if _ours(used) else f"of others ({used.made_by}), is used"
        what = cell(used.addresses) if used.declared else f"{used.namespace}/{used.service}"
        return ask.answer(Verdict.PASS, f"{what}, {whose}")
    taken = _named(mesh, facts, name)
    if taken is None:
        return ask.answer(Verdict.PASS, f"{place} is free")
    missing = ", ".join(gateways.unmet_requirements(taken, mesh.spec.cluster(name).network))
    label, port = multicluster_gateways.NETWORK, multicluster_gateways.PASSTHROUGH_PORT
    remedy = f"give it label {label} and port {port}, or remove it with what made it"
    return ask.fail(f"{place} belongs to {taken.made_by or 'somebody'} and does not fit: {missing}", remedy)


def _named(mesh: Mesh, facts: GatewayFacts, name: str) -> NetworkGateway | None:
    place = (mesh.root_namespace, gateway_manifests.NAME)
    return next((one for one in facts.gateways.of(name) if (one.namespace, one.service) == place), None)


def _ours(gateway: NetworkGateway) -> bool:
    return gateway.made_by == OURS


def _closed_by_its_owner(gateway: NetworkGateway) -> bool:
    """Return whether it is of the Gateway API and exposes nothing: a classic Gateway beside would share its listener.

    Envoy then refuses the listener: two filter chains of the same matching rules.
    """
    return bool(gateway_api.made_for(gateway.selector)) and not gateway.exposed_by


def _used(mesh: Mesh, facts: GatewayFacts, name: str) -> NetworkGateway | None:
    """Return the gateway that a cluster has: meshkit's own, else one of others that fits."""
    named = _named(mesh, facts, name)
    if named and _ours(named):
        return named
    return next((one for one in facts.gateways.of(name, mesh.spec.cluster(name).network) if one.port), None)


def plan(mesh: Mesh, facts: GatewayFacts) -> Plan:
    """Plan a gateway and its exposure for each cluster without them, and meshNetworks where the mesh file asks."""
    if mesh.spec.topology.network != "multi":
        return Plan(mesh, STAGE)
    # A cluster that cannot be read holds the plan by its findings; what is planned for the others is shown.
    others = [f for f in checks_revisions.check(mesh, facts.revisions) if f.verdict is Verdict.FAIL]
    made = Plan(mesh, STAGE, withheld=next((f"{f.id} of {f.subject}: {f.observed}" for f in others), ""))
    if made.withheld:
        return made
    known = [name for name in mesh.clusters if not facts.gateways.unknown(name)]
    for name in known:
        _plan_gateway(made, mesh, facts, name)
    if mesh.spec.topology.mesh_networks:
        for name in known:
            if facts.installers.get(name) != inventory.ISTIOCTL:
                continue  # of somebody else, or unknown: MK105
            why = "istiods get the networks by meshNetworks, as the mesh file asks"
            made.install(name, _control_plane(mesh, facts, name), why)
    return made


def _plan_gateway(made: Plan, mesh: Mesh, facts: GatewayFacts, name: str) -> None:
    entry, used = mesh.spec.cluster(name), _used(mesh, facts, name)
    if used is None and _named(mesh, facts, name):
        return  # MK602 fails
    if used is None or _ours(used):
        made.install(name, gateway_manifests.eastwest(mesh.spec, name), f"lets other networks into {entry.network}")
    own = f"{mesh.root_namespace}/{gateway_manifests.EXPOSURE}"
    if used and (used.declared or _closed_by_its_owner(used) or used.exposed_by not in ((), (own,))):
        return  # others expose it already, or MK602 fails, or it is known by its address only
    selector = used.selector if used and not _ours(used) else gateway_manifests.SELECTOR
    if not selector:
        return  # an exposure without one would be of every gateway
    why = f"lets other clusters reach {', '.join(gateway_manifests.hosts(mesh.spec, name, domain(facts)))}"
    wait = functools.partial(missing, mesh, name)
    made.apply(name, gateway_manifests.exposure(mesh.spec, name, selector, domain(facts)), why, wait=wait)


def _control_plane(mesh: Mesh, facts: GatewayFacts, name: str) -> dict[str, Any]:
    # As stage 05 installs it, the old cluster id that it goes on accepting included.
    istiods = inventory.deployments(mesh, mesh.clusters[name])
    alias = istioctl.alias_of(istiods[0], name) if istiods else ""
    known = gateway_manifests.mesh_networks(mesh.spec, facts.gateways, domain(facts))
    return istioctl.operator(mesh.spec, name, alias=alias, mesh_networks=known)


def missing(mesh: Mesh, name: str) -> str:
    """Return what is missing before a cluster's gateway can be used, or nothing."""
    one = Mesh(mesh.spec, {name: mesh.clusters[name]})
    entry, found = mesh.spec.cluster(name), multicluster_gateways.gateways(one)
    offered = gateways.check_gateway(mesh, found, name)
    if offered.verdict is not Verdict.PASS:
        look_at = (
            f"kubectl --context {entry.context} describe service -n {mesh.root_namespace} {gateway_manifests.NAME}"
        )
        return f"{offered.observed}; look at `{look_at}`" if "pending" in offered.observed else offered.observed
    seen = gateways.check_gateway_seen(mesh, found, multicluster_gateways.gateways_seen(one), name, name)
    unseen = next((f.observed for f in seen if f.verdict not in (Verdict.PASS, Verdict.SKIPPED)), "")
    if unseen:
        return unseen
    reasons = gateway_exposure.opened(one)["reason"]
    return next((str(reason) for reason in reasons if reason), "")


def prove(mesh: Mesh, facts: GatewayFacts, done: Plan) -> list[Finding]:
    """Judge what is there after the plan: `facts` is a new `look`; what was only planned is skipped."""
    if mesh.spec.topology.network != "multi":
        return []
    if done.pending:
        known = ("MK805", "east-west gateway is offered")
        return [*refused(done), *(planned(*known, name, "a gateway of its network") for name in mesh.clusters)]
    findings = [gateways.check_gateway(mesh, facts.gateways, name) for name in mesh.clusters]
    for name in mesh.clusters:
        findings += _seen(mesh, facts, name, name)
    for reader, target in mesh.ordered_pairs:
        findings += check_others(mesh, facts, reader, target) if mesh.spec.crosses(reader, target) else ()
    for name in mesh.clusters:
        findings += [check_hosts(mesh, facts, name), check_control_plane(mesh, facts, name)]
        findings.append(check_own_network(mesh, facts, name))
    return [*findings, *check_mesh_networks(mesh, facts, gateway_manifests.configured(mesh))]


def arrived(mesh: Mesh, done: Plan) -> GatewayFacts:
    """Look again; where something was just changed, wait for what it causes first.

    Raises:
        ChangeError: a gateway did not become usable in time.
    """
    changed = {change.cluster for change in done.changes if change.status == "done"}
    for name in (n for n in mesh.clusters if n in changed):
        wait_for(functools.partial(missing, mesh, name), f"east-west gateway of {name}")
    return look(mesh.remembering())


def _seen(mesh: Mesh, facts: GatewayFacts, reader: str, target: str) -> list[Finding]:
    return list(gateways.check_gateway_seen(mesh, facts.gateways, facts.gateways_seen, reader, target))


def check_others(mesh: Mesh, facts: GatewayFacts, reader: str, target: str) -> list[Finding]:
    """MK806: each istiod that watches another cluster knows that one's gateway; before stage 07 none does."""
    if facts.remotes.lacks(reader, target):
        ask = Question(
            "MK806", "istiod knows the other network's gateway", arrow(reader, target), "known to each istiod"
        )
        return [ask.answer(Verdict.SKIPPED, f"{reader} does not watch {target} yet; after stage {AFTER}")]
    return _seen(mesh, facts, reader, target)


class Gateways(Stage):
    """Stage 06."""

    name = STAGE
    identity = Shows["Gateways"](tables.IDENTITY, lambda stage: stage.facts.identity.frame())
    gateways_before = Shows["Gateways"](tables.OFFERED, lambda stage: stage.facts.gateways.frame())
    gateways = Shows["Gateways"](tables.GATEWAYS, lambda stage: stage.after.gateways.frame())
    gateways_seen = Shows["Gateways"](tables.GATEWAYS_SEEN, lambda stage: stage.after.gateways_seen.frame())
    opened = Shows["Gateways"](tables.OPENED, lambda stage: stage.after.opened)

    def _look(self) -> GatewayFacts:
        return look(self.mesh)

    def _check(self) -> Iterable[Finding]:
        return check(self.mesh, self.facts, self.mode)

    def _plans(self) -> Iterator[Plan]:
        yield plan(self.mesh, self.facts)

    def _prove(self) -> Iterable[Finding]:
        (made,) = self.plans
        self.after = arrived(self.mesh, made)
        return prove(self.mesh, self.after, made)
