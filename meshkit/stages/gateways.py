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
from meshkit.istio.control_plane import inventory, istioctl
from meshkit.istio.multicluster import gateway_api, gateway_manifests
from meshkit.istio.multicluster import gateways as multicluster_gateways
from meshkit.istio.multicluster.gateways import NetworkGateway
from meshkit.istio.reading import cell
from meshkit.kube.mesh import Mesh, Unknown
from meshkit.kube.wait import wait_for
from meshkit.notebook import tables
from meshkit.stages import eastwest_gateway
from meshkit.stages.stage import Shows, Stage

STAGE = "06 gateways"
BEFORE, AFTER = "05 install", "07 discovery"
look = eastwest_gateway.look


def check(mesh: Mesh, facts: GatewayFacts, mode: str = "apply") -> list[Finding]:
    """Judge whether gateways can be created: istiods and proxies have their ids and network, and the name is free."""
    if mesh.spec.topology.network != "multi":
        ask = Question("MK602", "east-west gateways are needed", "the mesh", "clusters on different networks")
        return [ask.answer(Verdict.SKIPPED, "topology.network is flat: pods reach each other by their own addresses")]
    gates = [*checks_revisions.check(mesh, facts.revisions)]
    gates += control_plane.check_istiods(mesh, facts.identity, joining=True)
    gates += [check_networks(mesh, facts, name) for name in mesh.clusters]
    places = [check_place(mesh, facts, name, mode) for name in mesh.clusters]
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


def check_place(mesh: Mesh, facts: GatewayFacts, name: str, mode: str = "apply") -> Finding:
    """MK602: no other object has the gateway's name, or the one that has it can be used; a new one gets its pods."""
    place = f"{mesh.root_namespace}/{gateway_manifests.NAME}"
    ask = Question("MK602", "a gateway exists or can be created", name, f"{place} is free, ours, or fits")
    if reason := facts.gateways.unknown(name):
        return ask.unknown(
            reason, f"does it answer? `kubectl --context {mesh.spec.cluster(name).context} get services -A`"
        )
    if used := eastwest_gateway.in_use(mesh, facts, name):
        return _of_the_one_in_use(mesh, facts, ask, used)
    if eastwest_gateway.of_gateway_api(mesh, name, None) and (why := facts.not_deployed.get(name, "")) != "":
        return ask.unknown(why.reason) if isinstance(why, Unknown) else _without_pods(ask, why, mode)
    taken = eastwest_gateway.with_our_name(mesh, facts, name)
    if taken is None:
        return ask.answer(Verdict.PASS, f"{place} is free")
    missing = ", ".join(gateways.unmet_requirements(taken, mesh.spec.cluster(name).network))
    label, port = multicluster_gateways.NETWORK, multicluster_gateways.PASSTHROUGH_PORT
    remedy = f"give it label {label} and port {port}, or remove it with what made it"
    return ask.fail(f"{place} belongs to {taken.made_by or 'somebody'} and does not fit: {missing}", remedy)


def _of_the_one_in_use(mesh: Mesh, facts: GatewayFacts, ask: Question, used: NetworkGateway) -> Finding:
    if eastwest_gateway.closed_by_its_owner(used):
        context, gateway = mesh.spec.cluster(used.cluster).context, gateway_api.made_for(used.selector)
        observed = f"{used.namespace}/{used.service} is of Gateway {gateway}, which lets no mutual TLS through"
        edit = f"kubectl --context {context} edit gateways.gateway.networking.k8s.io -n {used.namespace} {gateway}"
        wanted = f"port {multicluster_gateways.PASSTHROUGH_PORT}, protocol TLS, tls.mode Passthrough"
        return ask.fail(observed, f"{edit}: let its listener be {wanted}, hostname *.{domain(facts)}")
    ours = eastwest_gateway.is_ours(used)
    whose = "made by meshkit or Istio's script" if ours else f"of others ({used.made_by}), is used"
    what = cell(used.addresses) if used.declared else f"{used.namespace}/{used.service}"
    return ask.answer(Verdict.PASS, f"{what}, {whose}")


def _without_pods(ask: Question, why: str, mode: str) -> Finding:
    """Say that no istiod deploys a Gateway of the Gateway API here; the class comes with the istiod of stage 05."""
    if why == gateway_api.NO_DEFINITIONS:
        return ask.fail(why, "install those that this Istio supports, or say `gateway.kind: classic` in the mesh file")
    return awaits(ask.fail(why, "is PILOT_ENABLE_GATEWAY_API off in its istiod?"), mode, BEFORE)


def plan(mesh: Mesh, facts: GatewayFacts) -> Plan:
    """Plan a gateway and its exposure for each cluster without them, and meshNetworks where the mesh file asks."""
    if mesh.spec.topology.network != "multi":
        return Plan(mesh, STAGE)
    # A cluster that cannot be read holds the plan by its findings; what is planned for the others is shown.
    others = [f for f in checks_revisions.check(mesh, facts.revisions) if f.verdict is Verdict.FAIL]
    made = Plan(mesh, STAGE, withheld=next((f"{f.id} of {f.subject}: {f.observed}" for f in others), ""))
    if made.withheld:
        return made
    ready = control_plane.joined(mesh, facts.identity)
    known = [name for name in mesh.clusters if not facts.gateways.unknown(name)]
    for name in (one for one in known if one in ready):
        eastwest_gateway.want(made, mesh, facts, name)
    if mesh.spec.topology.mesh_networks:
        for name in (one for one in known if one not in mesh.spec.remotes):
            if facts.installers.get(name) != inventory.ISTIOCTL:
                continue  # of somebody else, or unknown: MK105
            why = "istiods get the networks by meshNetworks, as the mesh file asks"
            made.install(name, _control_plane(mesh, facts, name), why)
    return made


def _control_plane(mesh: Mesh, facts: GatewayFacts, name: str) -> dict[str, Any]:
    # As stage 05 installs it, the old cluster id that it goes on accepting included.
    istiods = inventory.deployments(mesh, mesh.clusters[name])
    alias = istioctl.alias_of(istiods[0], name) if istiods else ""
    known = gateway_manifests.mesh_networks(mesh.spec, facts.gateways, domain(facts))
    return istioctl.operator(mesh.spec, name, alias=alias, mesh_networks=known)


def prove(mesh: Mesh, facts: GatewayFacts, done: Plan) -> list[Finding]:
    """Judge what is there after the plan: `facts` is a new `look`; what was only planned is skipped."""
    if mesh.spec.topology.network != "multi":
        return []
    if done.pending:
        known = ("MK805", "east-west gateway is offered")
        return [*refused(done), *(planned(*known, name, "a gateway of its network") for name in mesh.clusters)]
    ready = control_plane.joined(mesh, facts.identity)
    findings = [
        gateways.check_gateway(mesh, facts.gateways, name) if name in ready else _after_discovery(mesh, name)
        for name in mesh.clusters
    ]
    for name in mesh.clusters:
        findings += _seen(mesh, facts, name, name) if name not in mesh.spec.remotes else ()
    for reader, target in mesh.spec.watched:
        findings += check_others(mesh, facts, reader, target) if mesh.spec.crosses(reader, target) else ()
    for name in (one for one in mesh.clusters if one in ready):
        findings += [check_hosts(mesh, facts, name), check_control_plane(mesh, facts, name)]
        findings.append(check_own_network(mesh, facts, name))
    return [*findings, *check_mesh_networks(mesh, facts, gateway_manifests.configured(mesh))]


def _after_discovery(mesh: Mesh, name: str) -> Finding:
    """Say of a remote cluster that its gateway comes later: no istiod injects its pods yet."""
    ask = Question("MK805", "east-west gateway is offered", name, f"a gateway of its network, after stage {AFTER}")
    return ask.answer(Verdict.SKIPPED, f"{mesh.spec.primary_of(name)}'s istiod serves {name} from stage {AFTER} on")


def arrived(mesh: Mesh, done: Plan) -> GatewayFacts:
    """Look again; where something was just changed, wait for what it causes first.

    Raises:
        ChangeError: a gateway did not become usable in time.
    """
    changed = {change.cluster for change in done.changes if change.status == "done"}
    for name in (n for n in mesh.clusters if n in changed):
        wait_for(functools.partial(eastwest_gateway.missing, mesh, name), f"east-west gateway of {name}")
    return eastwest_gateway.look(mesh.remembering())


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
