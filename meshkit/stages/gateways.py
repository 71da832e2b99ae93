"""Stage 06: does each network have an east-west gateway that lets in what it should, and does istiod know it?

Only where clusters are on different networks. A gateway that others made is used where it fits, and never changed.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml

from meshkit.changes import Plan
from meshkit.checks import Finding, Verdict
from meshkit.istio import eastwest, exposure, installer, networks, proxies, remotes, versions
from meshkit.istio.domain import DEFAULT, of_mesh
from meshkit.mesh import Mesh, Unknown
from meshkit.stages import eastwest as judge
from meshkit.stages import restarts, verify
from meshkit.stages.finding import Question, Row, arrow, awaits, planned, refused
from meshkit.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd

    from meshkit.cluster import Cluster

STAGE = "06 gateways"
BEFORE, AFTER = "05 install", "07 discovery"
OURS = f"istioctl, {eastwest.OPERATOR}"


@dataclass(frozen=True)
class Facts:
    """What was looked at; each is a table of the function of that name."""

    identity: pd.DataFrame
    gateways: pd.DataFrame
    gateways_seen: pd.DataFrame
    remotes: pd.DataFrame
    opened: pd.DataFrame
    claims: pd.DataFrame
    new_pods: restarts.Facts | None = None


def look(mesh: Mesh) -> Facts:
    """Read gateways, what they let in, and what each istiod knows of them; changes nothing."""
    return Facts(
        **mesh.ask(
            identity=versions.identity,
            gateways=networks.gateways,
            gateways_seen=networks.gateways_seen,
            remotes=remotes.remote_clusters,
            opened=exposure.opened,
            claims=proxies.claims,
            new_pods=restarts.look,
        )
    )


# --- check ------------------------------------------------------------------------------------------------------------


def check(mesh: Mesh, facts: Facts, mode: str = "apply") -> list[Finding]:
    """Judge whether gateways can be made: istiods and proxies know who and where they are, and the place is free."""
    if mesh.spec.topology.network != "multi":
        ask = Question("MK602", "east-west gateways are needed", "the mesh", "clusters on different networks")
        return [ask.answer(Verdict.SKIPPED, "topology.network is flat: pods reach each other by their own addresses")]
    gates = [*verify.check_istiods(mesh, facts.identity, "MK601")]
    gates += [check_networks(mesh, facts, name) for name in mesh.clusters]
    places = [check_place(mesh, facts, name) for name in mesh.clusters]
    gates = [awaits(finding, mode, BEFORE) for finding in gates]
    return [*gates, *places, *restarts.check(mesh, facts.new_pods)]


def check_networks(mesh: Mesh, facts: Facts, name: str) -> Finding:
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
    told = f"{len(wrong)} of {len(rows)} do not: {named}" if wrong else f"all {len(rows)}"
    cure = f"run stage 05; what it leaves: kubectl --context {entry.context} rollout restart, or make a bare pod anew"
    return ask.judge(not wrong, told, cure)


def check_place(mesh: Mesh, facts: Facts, name: str) -> Finding:
    """MK602: nobody else holds the gateway's name, or what stands there can be used."""
    place = f"{mesh.root_namespace}/{eastwest.NAME}"
    ask = Question("MK602", "a gateway exists or can be created", name, f"{place} is free, ours, or fits")
    if reason := judge.unread(facts.gateways, name):
        return ask.unknown(reason, f"can `kubectl --context {mesh.spec.cluster(name).context} get services -A` answer?")
    row = _used(mesh, facts, name)
    if row is not None:
        whose = (
            "made by meshkit or Istio's script" if row["made_by"] == OURS else f"of others ({row['made_by']}), is used"
        )
        return ask.answer(Verdict.PASS, f"{row['namespace']}/{row['service']}, {whose}")
    taken = _named(mesh, facts, name)
    if taken is None:
        return ask.answer(Verdict.PASS, f"{place} is free")
    missing = ", ".join(judge.lacks(taken, mesh.spec.cluster(name).network))
    cure = f"give it label {networks.NETWORK} and port {networks.PASSTHROUGH_PORT}, or remove it with what made it"
    return ask.fail(f"{place} belongs to {taken['made_by'] or 'somebody'} and does not fit: {missing}", cure)


def _rows(facts: Facts, name: str) -> list[Row]:
    found = facts.gateways[(facts.gateways["cluster"] == name) & (facts.gateways["service"] != "")]
    return list(found.to_dict("records"))


def _named(mesh: Mesh, facts: Facts, name: str) -> Row | None:
    place = (mesh.root_namespace, eastwest.NAME)
    return next((row for row in _rows(facts, name) if (row["namespace"], row["service"]) == place), None)


def _used(mesh: Mesh, facts: Facts, name: str) -> Row | None:
    """Return the row of the gateway that a cluster has: meshkit's own, else one of others that fits."""
    named, network = _named(mesh, facts, name), mesh.spec.cluster(name).network
    if named is not None and named["made_by"] == OURS:
        return named
    return next((row for row in _rows(facts, name) if row["network"] == network and row["port"]), None)


# --- plan -------------------------------------------------------------------------------------------------------------


def plan(mesh: Mesh, facts: Facts) -> Plan:
    """Plan a gateway and its exposure for each cluster that lacks them, and meshNetworks where the file asks."""
    made = Plan(mesh, STAGE)
    if mesh.spec.topology.network != "multi":
        return made
    known = [name for name in mesh.clusters if not judge.unread(facts.gateways, name)]
    for name in known:
        _plan_gateway(made, mesh, facts, name)
    if mesh.spec.topology.mesh_networks:
        for name in known:
            told = "istiods are told the networks by meshNetworks, as the mesh file asks"
            made.install(name, _control_plane(mesh, facts, name), told)
    return made


def _plan_gateway(made: Plan, mesh: Mesh, facts: Facts, name: str) -> None:
    entry, row = mesh.spec.cluster(name), _used(mesh, facts, name)
    if row is None and _named(mesh, facts, name) is not None:
        return  # MK602 fails
    ours = row is None or row["made_by"] == OURS
    if ours:
        made.install(name, eastwest.eastwest(mesh.spec, name), f"the way into {entry.network} for other networks")
    own = f"{mesh.root_namespace}/{eastwest.EXPOSURE}"
    if row is not None and row["exposed_by"] not in ("", own):
        return  # others expose it already
    selector = eastwest.SELECTOR if ours or row is None else dict(p.split("=", 1) for p in row["selector"].split(","))
    why = f"lets other clusters reach {', '.join(entry.gateway.hosts)}"
    wait = functools.partial(missing, mesh, name)
    made.apply(name, eastwest.exposure(mesh.spec, name, selector), why, wait=wait)


def _control_plane(mesh: Mesh, facts: Facts, name: str) -> dict[str, Any]:
    # As stage 05 installs it, the old cluster id that it goes on accepting included.
    istiods = mesh.clusters[name].get("deployments.v1.apps", mesh.root_namespace, labels="app=istiod")
    alias = installer.alias_of(istiods[0], name) if istiods else ""
    known = eastwest.mesh_networks(mesh.spec, facts.gateways, of_mesh(mesh))
    return installer.operator(mesh.spec, name, alias=alias, mesh_networks=known)


def missing(mesh: Mesh, name: str) -> str:
    """Return what a cluster's gateway still lacks to be used, or nothing."""
    one = Mesh(mesh.spec, {name: mesh.clusters[name]})
    entry, found = mesh.spec.cluster(name), networks.gateways(one)
    offered = judge.check_gateway(mesh, found, name, "MK611")
    if offered.verdict is not Verdict.PASS:
        look_at = f"kubectl --context {entry.context} describe service -n {mesh.root_namespace} {eastwest.NAME}"
        return f"{offered.observed}; look at `{look_at}`" if "pending" in offered.observed else offered.observed
    seen = judge.check_gateway_seen(mesh, found, networks.gateways_seen(one), name, name, identifier="MK612")
    unseen = next((f.observed for f in seen if f.verdict is not Verdict.PASS), "")
    if unseen:
        return unseen
    reasons = exposure.opened(one)["reason"]
    return next((str(reason) for reason in reasons if reason), "")


# --- prove ------------------------------------------------------------------------------------------------------------


def prove(mesh: Mesh, facts: Facts, done: Plan) -> list[Finding]:
    """Judge what is there after the plan: `facts` is a new `look`; what was only planned is skipped."""
    if mesh.spec.topology.network != "multi":
        return []
    if done.pending:
        known = ("MK611", "east-west gateway is offered")
        return [*refused(done), *(planned(*known, name, "a gateway of its network") for name in mesh.clusters)]
    findings = [judge.check_gateway(mesh, facts.gateways, name, "MK611") for name in mesh.clusters]
    for name in mesh.clusters:
        findings += _seen(mesh, facts, name, name)
    for reader, target in mesh.pairs:
        findings += check_others(mesh, facts, reader, target)
    for name in mesh.clusters:
        findings += [check_hosts(mesh, facts, name), check_control_plane(mesh, facts, name)]
    return [*findings, *check_mesh_networks(mesh, facts)]


def arrived(mesh: Mesh, done: Plan) -> Facts:
    """Look again; where something was just changed, wait for what it causes first.

    Raises:
        ChangeError: a gateway did not become usable in time.
    """
    changed = {change.cluster for change in done.changes if change.status == "done"}
    for name in (n for n in mesh.clusters if n in changed):
        wait_for(functools.partial(missing, mesh, name), f"east-west gateway of {name}")
    return look(mesh)


def _seen(mesh: Mesh, facts: Facts, reader: str, target: str) -> list[Finding]:
    known = facts.gateways, facts.gateways_seen
    return list(judge.check_gateway_seen(mesh, *known, reader, target, identifier="MK612"))


def check_others(mesh: Mesh, facts: Facts, reader: str, target: str) -> list[Finding]:
    """MK612: each istiod that watches another cluster knows that one's gateway; before stage 07 none does."""
    rows = facts.remotes[(facts.remotes["cluster"] == reader)]
    if target not in set(rows["remote"]) and not (rows["status"] == "UNKNOWN").any():
        ask = Question(
            "MK612", "istiod knows the other network's gateway", arrow(reader, target), "known to each istiod"
        )
        return [ask.answer(Verdict.SKIPPED, f"{reader} does not watch {target} yet; after stage {AFTER}")]
    return _seen(mesh, facts, reader, target)


def check_hosts(mesh: Mesh, facts: Facts, name: str) -> Finding:
    """MK613: the gateway's own Envoy lets in names that the mesh file's hosts match, and no others."""
    hosts = mesh.spec.cluster(name).gateway.hosts
    ask = Question("MK613", "the gateway lets in what the file says", name, f"names of {', '.join(hosts)}")
    rows = facts.opened[facts.opened["cluster"] == name]
    names = rows[rows["sni"] != ""]
    if names.empty:
        reason = next(iter(rows["reason"]), "nothing was read")
        if reason.startswith("no gateway"):
            return ask.fail(reason, "do the hosts match any Service? does the exposure select the gateway's pods?")
        return ask.unknown(reason)
    services = {f"{r['service']}.{r['namespace']}" for r in names.to_dict("records")}
    beyond = sorted({n for n in names["sni"] if not _matches(n, hosts)})
    answering = len(set(names[names["endpoints"] > 0]["sni"]))
    told = f"{len(set(names['sni']))} names of {len(services)} Services, {answering} with endpoints"
    if unread := next((r for r in rows["reason"] if r), ""):
        told += f"; not all of its pods could be asked: {unread}"
    if beyond:
        return ask.answer(
            Verdict.WARN,
            f"{told}; {len(beyond)} that the file does not name, e.g. {beyond[0]}",
            "another AUTO_PASSTHROUGH Gateway selects its pods: narrow or remove that, or say it in gateway.hosts",
        )
    return ask.unknown(told) if unread else ask.answer(Verdict.PASS, told)


def _matches(sni: str, hosts: list[str]) -> bool:
    host = sni.split("_", 3)[-1].removeprefix(".")
    patterns = [pattern.rpartition("/")[2] for pattern in hosts]
    return any(p in ("*", host) or (p.startswith("*.") and host.endswith(p[1:])) for p in patterns)


def check_control_plane(mesh: Mesh, facts: Facts, name: str) -> Finding:
    """MK614: through the gateway, nobody of another cluster reaches the API server, istiod or kube-system."""
    ask = Question("MK614", "no control plane behind the gateway", name, "none that answers")
    rows = facts.opened[facts.opened["cluster"] == name]
    if reason := next((r for r in rows["reason"] if r), ""):
        return ask.unknown(reason)
    named = rows[rows["part_of"] != ""]
    answering = named[named["endpoints"] > 0]
    if len(answering):
        names = sorted({f"{r['service']}.{r['namespace']}:{r['port']}" for r in answering.to_dict("records")})
        domain = next((domain for domain in facts.identity["cluster_domain"] if domain), DEFAULT)
        sample = f"*.{mesh.spec.probe.namespace}.svc.{domain}"
        cure = f'narrow clusters[].gateway.hosts to what is shared, such as ["{sample}"]: one line for each namespace'
        return ask.answer(Verdict.WARN, f"{', '.join(names)} answer to other clusters", cure)
    parts = ", ".join(sorted(set(named["part_of"])))
    told = f"{parts}: named, without an endpoint, as none of it takes mutual TLS" if parts else "none is even named"
    return ask.answer(Verdict.PASS, told)


def check_mesh_networks(mesh: Mesh, facts: Facts) -> Iterator[Finding]:
    """MK615: each istiod is configured with the networks of the mesh file, where it asks for that."""
    if not mesh.spec.topology.mesh_networks:
        return
    suffix = f"-{mesh.spec.istio.revision}" if mesh.spec.istio.revision not in ("", "default") else ""
    wanted = eastwest.mesh_networks(mesh.spec, facts.gateways, of_mesh(mesh))

    def read(cluster: Cluster) -> dict[str, Any]:
        found = cluster.find("configmaps", mesh.root_namespace, f"istio{suffix}") or {}
        document = yaml.safe_load(found.get("data", {}).get("meshNetworks", "")) or {}
        return dict(document.get("networks") or {})

    for name, found in mesh.each(read).items():
        ask = Question("MK615", "istiod has the mesh file's networks", name, f"meshNetworks: {', '.join(wanted)}")
        if isinstance(found, Unknown):
            yield ask.unknown(found.reason)
        else:
            yield ask.judge(
                found == wanted, ", ".join(found) or "none", "somebody changed it since? run the stage again"
            )
