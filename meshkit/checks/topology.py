"""Checks of stage 01: topology, and how Istio was installed in each cluster."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

import pandas as pd

from meshkit import parameters
from meshkit.checks.finding import Finding, Verdict
from meshkit.checks.question import Question, arrow
from meshkit.errors import InputError
from meshkit.istio.ca.trust_store import Roots
from meshkit.istio.control_plane import inventory as control_plane_inventory
from meshkit.istio.control_plane.istiods_and_proxies import DEBUG, DEBUG_REMEDY
from meshkit.istio.control_plane.revisions import ControlPlanes
from meshkit.istio.control_plane.versions import Identity, home
from meshkit.kube.mesh import Mesh, Unknown
from meshkit.parameters import BUILT
from meshkit.tables import Row, Table, text

MULTI_PRIMARY = "multi-primary"
DECIDING: Final = Table(
    "deciding-facts",
    "The facts that decide the topology",
    {
        "about": text("network or control plane"),
        "fact": text("what was looked at"),
        "subject": text("cluster or pair"),
        "value": text("what was found"),
        "speaks_for": text("a topology; empty where the fact leaves it open"),
        "why": text("how the fact decides"),
    },
    key=("about", "fact", "subject"),
    show=("about", "fact", "subject", "value", "speaks_for", "why"),
)
NETWORK, CONTROL = "network", "control plane"
Fact = dict[str, str]
_PAGES = "https://istio.io/latest/docs/setup/install/multicluster/"


@dataclass(frozen=True)
class AssessFacts:
    """What was looked at; each is a reading, or a table, of the function that it is named after."""

    inventory: pd.DataFrame
    identity: Identity
    versions: pd.DataFrame
    roots: Roots
    load_balancers: pd.DataFrame
    api_servers: pd.DataFrame
    pods: pd.DataFrame
    managers: pd.DataFrame
    revisions: Mapping[str, ControlPlanes | Unknown] = field(default_factory=dict)
    installers: Mapping[str, str | Unknown] = field(default_factory=dict)


@dataclass(frozen=True)
class Recommendation:
    """The topology that the facts call for, and the facts that decide.

    `facts` is the table `DECIDING`.
    """

    control_plane: str
    network: str
    facts: pd.DataFrame


def recommend(facts: AssessFacts) -> Recommendation:
    """Return the topology that the facts call for.

    Network: `flat` only where no address or assigned range of pods of one cluster is another's, and every pair of
    clusters was tried and reaches pods; else `multi`, which works on either. Control plane: `external` where proxies
    are served from outside; `primary-remote` where an istiod serves other clusters already, or API servers can be
    reached one way only; else `multi-primary`.
    """
    rows = [*_networks(facts), *_control_planes(facts)]
    spoken = {(row["about"], row["speaks_for"]) for row in rows}
    flat = (NETWORK, "multi") not in spoken and (NETWORK, "flat") in spoken
    others = [plane for plane in ("external", "primary-remote") if (CONTROL, plane) in spoken]
    return Recommendation(next(iter(others), MULTI_PRIMARY), "flat" if flat else "multi", DECIDING.frame(rows))


def _networks(facts: AssessFacts) -> Iterator[Fact]:
    known = facts.inventory[facts.inventory["reason"] == ""].to_dict("records")
    for one, other in itertools.combinations(known, 2):
        yield _ranges(one, other)
    for row in facts.pods.to_dict("records"):
        yield _pods(row)
    for one, other in itertools.combinations(known, 2):
        common = control_plane_inventory.overlaps(one["service_ranges"], other["service_ranges"])
        known_ranges = [control_plane_inventory.shortened(row["service_ranges"]) for row in (one, other)]
        value = f"overlap: {_some(common)}" if common else "; ".join(known_ranges)
        why = "decides nothing: ClusterIPs never leave their cluster"
        yield _fact(NETWORK, "service ranges", f"{one['cluster']}, {other['cluster']}", value, "", why)
    for row in facts.load_balancers.to_dict("records"):
        if row["state"] in ("ready", "pending"):
            told = f"{row['namespace']}/{row['service']} {row['address'] or 'is pending'}"
            why = "gateways get addresses" if row["address"] else "a gateway may stay without an address here"
            yield _fact(NETWORK, "load balancer", row["cluster"], told, "", why)


def _ranges(one: Row, other: Row) -> Fact:
    subject = f"{one['cluster']}, {other['cluster']}"
    known = [(control_plane_inventory.shortened(row["pod_ranges"]), row["pod_ranges_from"]) for row in (one, other)]
    told = "; ".join(f"{ranges} (from {source})" if ranges else "?" for ranges, source in known)
    if common := control_plane_inventory.overlaps(one["pod_ranges"], other["pod_ranges"]):
        why = "one address, two pods: only gateways tell them apart"
        return _fact(NETWORK, "pod ranges", subject, f"overlap: {_some(common)}", "multi", why)
    if not one["pod_ranges"] or not other["pod_ranges"]:
        return _fact(NETWORK, "pod ranges", subject, told, "multi", "not known to be distinct; multi works on either")
    if any("pods" in source for _, source in known):
        why = "no pod of one has an address of the other; ranges are not known: what was tried decides"
        return _fact(NETWORK, "pod ranges", subject, told, "", why)
    return _fact(NETWORK, "pod ranges", subject, told, "", "distinct: one flat network would be possible")


def _some(common: list[str], at_most: int = 3) -> str:
    more = [f"and {len(common) - at_most} more"] if len(common) > at_most else []
    return ", ".join([*common[:at_most], *more])


def _pods(row: Row) -> Fact:
    subject, state = arrow(row["client"], row["server"]), row["state"]
    value = (
        f"{row['address'] or 'not tried'}: {row['detail'] or state}" if state != "ok" else f"{row['address']} answers"
    )
    speaks, why = {
        "ok": ("flat", "pods reach pods of the other cluster by their own addresses"),
        "no answer": ("multi", "pods do not reach pods: calls need a gateway"),
        "wrong certificate": ("multi", "the address is another pod's here"),
    }.get(state, ("multi", "nothing was tried; multi works on either"))
    return _fact(NETWORK, "pod to pod", subject, value, speaks, why)


def _control_planes(facts: AssessFacts) -> Iterator[Fact]:
    for row in facts.inventory[facts.inventory["reason"] == ""].to_dict("records"):
        primary = home(facts.identity, row["cluster"])
        if primary != row["cluster"]:
            why = f"{primary}'s istiod serves its proxies; an istiod here would be a second one"
            yield _fact(CONTROL, "istiod", row["cluster"], row["control_plane"], "primary-remote", why)
            continue
        speaks, why = {
            "elsewhere": ("external", "its proxies are served from outside; an istiod here would be a second one"),
            "serves others": ("primary-remote", "its istiod serves proxies of other clusters (EXTERNAL_ISTIOD)"),
            "local": ("multi-primary", "it has its own control plane, and survives the loss of the others"),
        }.get(row["control_plane"], ("", "free to get its own"))
        yield _fact(CONTROL, "istiod", row["cluster"], row["control_plane"], speaks, why)
    yield from _api_servers(facts)


def _api_servers(facts: AssessFacts) -> Iterator[Fact]:
    tried = {(row["cluster"], row["target"]): row for row in facts.api_servers.to_dict("records")}
    scopes = dict(zip(facts.inventory["cluster"], facts.inventory["api_scope"], strict=True))
    usable = {pair: _usable(row, scopes.get(pair[1], "")) for pair, row in tried.items()}
    for (reader, target), row in tried.items():
        good, back = usable[reader, target], usable.get((target, reader))
        value = f"{row['server']}: {_told(row, scopes.get(target, ''))}"
        subject = arrow(reader, target)
        if good is None:
            yield _fact(
                CONTROL, "API server", subject, value, "", "not tried; multi-primary needs it in both directions"
            )
        elif good:
            yield _fact(
                CONTROL, "API server", subject, value, "multi-primary", "this istiod can read the other cluster"
            )
        elif back:
            why = f"{target} could be the primary and {reader} its remote, unless this is fixed (stage 02)"
            yield _fact(CONTROL, "API server", subject, value, "primary-remote", why)
        else:
            yield _fact(CONTROL, "API server", subject, value, "", "every topology needs it: fix it (stage 02)")


def _usable(row: Row, scope: str) -> bool | None:
    if scope == control_plane_inventory.LOOPBACK or row["answer"] in ("none", "refused"):
        return False
    return True if str(row["answer"]).isdigit() else None


def _told(row: Row, scope: str) -> str:
    if scope == control_plane_inventory.LOOPBACK:
        return "a loopback address, of use on its own machine only"
    return f"answers {row['answer']} to {row['asked_from']}" if str(row["answer"]).isdigit() else str(row["detail"])


def _fact(  # noqa: PLR0917  (a row in the order of its columns)
    about: str, fact: str, subject: str, value: str, speaks_for: str, why: str
) -> Fact:
    return {"about": about, "fact": fact, "subject": subject, "value": value, "speaks_for": speaks_for, "why": why}


def check_read(mesh: Mesh, facts: AssessFacts) -> Iterator[Finding]:
    """MK101: every cluster of the file can be read."""
    for row in facts.inventory.to_dict("records"):
        ask = Question("MK101", "the cluster can be read", row["cluster"], "its API server answers us")
        if row["reason"]:
            context = mesh.spec.cluster(row["cluster"]).context
            more = "; more time: `requestTimeout` in the mesh file" if "no answer within" in row["reason"] else ""
            yield ask.unknown(row["reason"], f"does it answer? `kubectl --context {context} get nodes,pods -A`{more}")
        else:
            observed = (
                f"Kubernetes {row['kubernetes']}, {row['nodes']} nodes, {row['pods']} pods, {row['proxies']} proxies"
            )
            yield ask.answer(Verdict.PASS, observed)


def check_debug(inventory: pd.DataFrame) -> Iterator[Finding]:
    """MK108: each istiod answers its debug endpoints; without them no change can be proved, so none is made."""
    for row in inventory.to_dict("records"):
        if row["debug"]:
            ask = Question("MK108", "istiod answers its debug endpoints", row["cluster"], "its debug interface is on")
            yield ask.judge(
                row["debug"] == "on", f"{DEBUG} is {'false' if row['debug'] == 'off' else 'on'}", DEBUG_REMEDY
            )


def check_distinct(facts: AssessFacts) -> Iterator[Finding]:
    """MK102: no two entries of the file lead to one cluster."""
    known = facts.inventory[facts.inventory["uid"] != ""]
    for uid, group in known.groupby("uid"):
        names = ", ".join(group["cluster"])
        ask = Question("MK102", "contexts lead to different clusters", names, "a kube-system of its own")
        observed = f"UID {str(uid)[:8]}… of kube-system"
        yield ask.judge(len(group) == 1, observed, "these contexts are one cluster: correct `context` in the mesh file")


def check_ids(mesh: Mesh, identity: Identity) -> Iterator[Finding]:
    """MK110: a cluster that is to get its id from the mesh file gets one of which a remote secret can be made.

    Else stage 05 would rename it and restart its workloads, before stage 07 can only refuse.
    """
    for name in mesh.clusters:
        ask = Question("MK110", "a remote secret can hold the cluster's id", name, "a DNS label, or its id already")
        try:
            parameters.secret_id(mesh.spec, name)
        except InputError as error:
            if name in {one.cluster_id for one in identity.of(name)}:
                yield ask.answer(Verdict.PASS, f"{name} is its id already")
            elif reason := identity.unknown(name):
                yield ask.unknown(reason, error.remedy)
            else:
                yield ask.fail(error.message, error.remedy)
        else:
            yield ask.answer(Verdict.PASS, name)


def check_network(mesh: Mesh, facts: AssessFacts, advice: Recommendation) -> Finding:
    """MK103: the file's network model works with what was found.

    Clusters of one network fail where pods were tried and do not reach each other, or where an address or an assigned
    range of pods is in two of them; where nobody could try it is a warning. A range around addresses proves nothing.
    """
    said, near = mesh.spec.topology.network, mesh.spec.direct_pairs
    ask = Question("MK103", "the network model fits", "the mesh", f"topology.network: {said} works here")
    if unread := _unread(facts):
        return ask.unknown(f"not read: {unread}", "see MK101")
    deciding = _deciding(advice, NETWORK, advice.network)
    if said == "multi" and not near:
        if said == advice.network:
            return ask.answer(Verdict.PASS, f"{said}: {deciding}")
        remedy = "say `network: flat` to spare the gateways; or leave it: multi works on a flat network too"
        return ask.answer(Verdict.WARN, f"flat would do: {deciding}", remedy)
    against, speaking = (_within(advice, near, topology) for topology in ("multi", "flat"))
    if against.empty and len(speaking):
        where = said if said == "flat" else f"multi, and within {_shared(mesh)}"
        return ask.answer(Verdict.PASS, f"{where}: {_words(speaking)}")
    states = {row["state"] for row in facts.pods.to_dict("records") if (row["client"], row["server"]) in near}
    if not states & {"no answer", "wrong certificate"} and not _overlapping(facts, near):
        verdict = Verdict.UNKNOWN if "UNKNOWN" in states else Verdict.WARN
    else:
        verdict = Verdict.FAIL
    remedy = "say `network: multi`, with a network for each cluster; or give pods a path to each other, and look again"
    return ask.answer(
        verdict,
        f"multi: {_words(against)}" if said == "flat" else f"not within {_shared(mesh)}: {_words(against)}",
        remedy,
    )


def _within(advice: Recommendation, near: list[tuple[str, str]], topology: str) -> pd.DataFrame:
    """Return the facts about pairs of one network that speak for a topology."""
    subjects = {arrow(*pair) for pair in near} | {", ".join(pair) for pair in near}
    rows = _speaking(advice, NETWORK, topology)
    return rows[rows["subject"].isin(subjects)]


def _shared(mesh: Mesh) -> str:
    return ", ".join(sorted({mesh.spec.cluster(name).network for name, _ in mesh.spec.direct_pairs}))


def _overlapping(facts: AssessFacts, near: list[tuple[str, str]]) -> bool:
    ranges = dict(zip(facts.inventory["cluster"], facts.inventory["pod_ranges"], strict=True))
    return any(control_plane_inventory.overlaps(ranges.get(a, ""), ranges.get(b, "")) for a, b in near)


def check_control_plane(mesh: Mesh, facts: AssessFacts, advice: Recommendation) -> Finding:
    """MK104: the file's control plane model is what the facts call for, and is built."""
    said = mesh.spec.topology.control_plane
    ask = Question(
        "MK104", "the control plane model fits", "the mesh", f"topology.controlPlane: {said} fits, and is built"
    )
    if unread := _unread(facts):
        return ask.unknown(f"not read: {unread}", "see MK101")
    deciding = _deciding(advice, CONTROL, advice.control_plane)
    if said not in BUILT:
        remedy = f"say `controlPlane: {MULTI_PRIMARY}`, or install by hand ({_PAGES}) and go on with `meshkit audit`"
        return ask.fail(f"{said} is not yet built; the facts call for {advice.control_plane}: {deciding}", remedy)
    if advice.control_plane in (said, MULTI_PRIMARY):  # what can have an istiod of its own need not
        return ask.answer(Verdict.PASS, deciding)
    observed = f"the facts call for {advice.control_plane}: {deciding}"
    if advice.control_plane == "external":
        remedy = f"leave that cluster out of the mesh file, or install by hand ({_PAGES})"
        return ask.fail(f"{observed}; it is not yet built", remedy)
    say = "say `controlPlane: primary-remote`"
    if "API server" in set(_speaking(advice, CONTROL, "primary-remote")["fact"]):
        remedy = f"make both API servers reachable (see MK701 and MK702 of stage 02), or {say}"
        return ask.answer(Verdict.WARN, observed, remedy)
    return ask.fail(observed, f"{say}, and `primary` of each cluster that another one serves")


def check_served(mesh: Mesh, identity: Identity) -> Iterator[Finding]:
    """MK104 before a stage that changes clusters: each is served by the cluster of the mesh file; nothing if so.

    Labels, an istiod or remote secrets of such a cluster's own would be a second control plane beside that.
    """
    wrong = {
        name: one.reason
        for name in mesh.clusters
        for one in identity.none_in(name)
        if home(identity, name) != mesh.spec.primary_of(name) or name not in mesh.spec.remotes
    }
    expected = "an istiod of another cluster serves only those that the mesh file says"
    ask = Question("MK104", "the control plane model fits", "the mesh", expected)
    if wrong:
        observed = "; ".join(f"{name}: {reason}" for name, reason in wrong.items())
        remedy = (
            f"say `controlPlane: primary-remote` and their `primary`, or leave {', '.join(wrong)} out of the mesh file"
        )
        yield ask.fail(observed, remedy)
    for name in mesh.spec.remotes:
        if own := [one.istiod for one in identity.of(name)]:
            remedy = "say `controlPlane: multi-primary`, or remove that control plane first, by what installed it"
            yield ask.fail(f"{name} is to be a remote cluster, and has an istiod of its own: {', '.join(own)}", remedy)


def stops(mesh: Mesh, identity: Identity) -> str:
    """Return why nothing may be planned: the failure of `check_served`, or an empty text."""
    return next((f"{f.id} of {f.subject}: {f.observed}" for f in check_served(mesh, identity)), "")


def _speaking(advice: Recommendation, about: str, topology: str) -> pd.DataFrame:
    rows = advice.facts
    return rows[(rows["about"] == about) & (rows["speaks_for"] == topology)]


def _deciding(advice: Recommendation, about: str, topology: str) -> str:
    return _words(_speaking(advice, about, topology))


def _words(rows: pd.DataFrame) -> str:
    if rows.empty:
        return "no fact speaks against it"
    return "; ".join(f"{row.fact} {row.subject}: {row.why}" for row in rows.head(2).itertuples())


def _unread(facts: AssessFacts) -> str:
    return ", ".join(facts.inventory[facts.inventory["reason"] != ""]["cluster"])


def check_load_balancers(mesh: Mesh, facts: AssessFacts) -> Iterator[Finding]:
    """MK106: Services of type LoadBalancer get addresses, where gateways need them."""
    for entry in mesh.spec.clusters:
        if mesh.spec.topology.network != "multi" or entry.gateway.service_type != "LoadBalancer":
            continue
        rows = facts.load_balancers[facts.load_balancers["cluster"] == entry.name]
        ask = Question("MK106", "load balancers get addresses", entry.name, "no Service waits for an address")
        pending = rows[rows["state"] == "pending"]
        ready = rows[rows["state"] == "ready"]
        if reason := next((r for r in rows["reason"] if r), ""):
            yield ask.unknown(reason, "see MK101")
        elif len(pending):
            observed = ", ".join(f"{row.namespace}/{row.service}" for row in pending.itertuples())
            remedy = "has the cluster a load balancer? else say `gateway: {serviceType: NodePort}`"
            yield ask.answer(Verdict.WARN, f"pending: {observed}", remedy)
        elif ready.empty:
            yield ask.answer(Verdict.SKIPPED, "no Service of type LoadBalancer to tell; stage 06 will see")
        else:
            yield ask.answer(Verdict.PASS, f"{len(ready)} with an address")
