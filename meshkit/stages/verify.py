"""Stage 08: does every cluster reach every other, as whom, and do all witnesses agree?

Read-only but for the probe (see meshkit.probe). Facts come from four witnesses that can contradict each other: the
objects in the API servers, each istiod's own view, each proxy's certificates, and traffic.

What rests on a cluster that cannot be read is unknown, and only that: the run then ends with exit code 3, or with 1 if
something else failed.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from meshkit import inputs, probe
from meshkit.checks import Finding, Verdict, overall, worst_first
from meshkit.istio import networks, remotes, trust, versions
from meshkit.istio.fleet import table
from meshkit.stages import eastwest, joined, prometheus
from meshkit.stages.finding import Question, Row, arrow

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import pandas as pd

    from meshkit.mesh import Mesh

STAGE = "08 verify"


@dataclass(frozen=True)
class Facts:
    """What was looked at; each is a table of the function that it is named after."""

    identity: pd.DataFrame
    secrets: pd.DataFrame
    remotes: pd.DataFrame
    gateways: pd.DataFrame
    gateways_seen: pd.DataFrame
    certificates: pd.DataFrame
    roots: pd.DataFrame


def look(mesh: Mesh) -> Facts:
    """Read objects, istiods and proxies of every cluster; changes nothing."""
    return Facts(
        **mesh.ask(
            identity=versions.identity,
            secrets=remotes.remote_secrets,
            remotes=remotes.remote_clusters,
            gateways=networks.gateways,
            gateways_seen=networks.gateways_seen,
            certificates=trust.certificates,
            roots=trust.roots,
        )
    )


def check(mesh: Mesh, facts: Facts, mode: str = "audit") -> list[Finding]:
    """Judge what was read: remote secrets, sync state, gateways, trust; in plan mode only where clusters are joined.

    MK800: in plan mode there is nothing to verify before the clusters are one mesh.

    Raises:
        InputError: no such mode.
    """
    inputs.one_of("mode", mode, inputs.SENDING)
    if mode == "plan" and (missing := unjoined(mesh, facts)):
        ask = Question("MK800", "the clusters are one mesh", "mesh", "an istiod in each, a remote secret for each pair")
        return [ask.answer(Verdict.SKIPPED, f"{missing}; stages 05 to 07 are to change that")]
    findings = [*check_istiods(mesh, facts.identity)]
    for reader, target in mesh.pairs:
        findings += joined.check(mesh, facts.identity, facts.secrets, facts.remotes, (reader, target))
        if mesh.spec.topology.network == "multi":
            findings += eastwest.check_gateway_seen(
                mesh, facts.gateways, facts.gateways_seen, reader, target, identifier="MK806", moved="MK838"
            )
    if mesh.spec.topology.network == "multi":
        findings += [eastwest.check_gateway(mesh, facts.gateways, name, "MK805") for name in mesh.clusters]
    return [*findings, *check_roots(mesh, facts), *check_certificates(mesh, facts.certificates)]


def unjoined(mesh: Mesh, facts: Facts) -> str:
    """Return what is missing for the clusters to be one mesh, or an empty text; what cannot be read is not missing."""
    read = facts.secrets[facts.secrets["credential"] != "UNKNOWN"]
    unread = set(facts.secrets["cluster"]) - set(read["cluster"])
    held = set(zip(read["cluster"], read["key"], strict=True))
    bare = [name for name in mesh.clusters if name not in set(facts.identity["cluster"])]
    missing = [arrow(*pair) for pair in mesh.pairs if pair not in held and pair[0] not in unread]
    told = [f"no istiod in {', '.join(bare)}"] if bare else []
    return "; ".join([*told, *([f"no remote secret for {', '.join(missing)}"] if missing else [])])


def prove(mesh: Mesh, facts: Facts, calls: pd.DataFrame) -> list[Finding]:
    """Judge the traffic of `try_pairs` against what was read: one set of findings for each pair.

    MK810: where none was sent, as in plan mode, nothing is proved.
    """
    if calls.empty:
        ask = Question("MK810", "every pair answers", "all pairs", "calls, each pair alone")
        return [ask.answer(Verdict.SKIPPED, "plan mode sends no call; `meshkit audit` does")]
    of_pairs = [finding for row in calls.to_dict("records") for finding in check_pair(mesh, facts, row)]
    return [*of_pairs, *prometheus.check(mesh, calls)]


def try_pairs(mesh: Mesh, calls: int = 10, mode: str = "audit") -> pd.DataFrame:
    """Send calls between every ordered pair alone; the columns are those of `prometheus.ask`. None in plan mode.

    Raises:
        InputError: no such mode, or fewer than one call.
    """
    inputs.one_of("mode", mode, inputs.SENDING)
    inputs.number("calls", calls)
    if mode == "plan":
        return table([], {**probe.CALL_COLUMNS, "prometheus": "str", "prometheus_by": "str"})
    with probe.open(mesh) as probing:
        return prometheus.ask(probing, probing.calls(calls))


def pairs(mesh: Mesh, findings: Iterable[Finding]) -> pd.DataFrame:
    """Return the worst verdict for each pair: columns client, server, verdict, note (the finding that decides)."""
    import pandas as pd

    rows = []
    for client in mesh.clusters:
        for server in mesh.clusters:
            own = worst_first(f for f in findings if f.subject == arrow(client, server))
            verdict = overall(own)  # what was skipped beside what passed takes nothing from it
            note = "" if not own or verdict in (Verdict.PASS, Verdict.SKIPPED) else f"{own[0].id} {own[0].observed}"
            rows.append({"client": client, "server": server, "verdict": verdict.value, "note": note})
    return pd.DataFrame(rows, columns=["client", "server", "verdict", "note"], dtype="str")


# --- istiod -----------------------------------------------------------------------------------------------------------


def check_istiods(mesh: Mesh, identity: pd.DataFrame, identifier: str = "MK801") -> Iterator[Finding]:
    """MK801: every primary has an istiod that can be asked, and its id, network and mesh are what the file says."""
    for entry in mesh.spec.clusters:
        rows = identity[identity["cluster"] == entry.name].to_dict("records")
        expected = _identity(entry.name, entry.network, mesh.spec.mesh.id, mesh.spec.mesh.trust_domain)
        ask = Question(identifier, "istiod is who the mesh file says", entry.name, expected)
        kubectl = f"kubectl --context {entry.context} get pods"
        if not rows:
            yield ask.fail("no istiod runs there", f"{kubectl} -n {mesh.root_namespace} -l app=istiod")
        for row in rows:
            if row["reason"]:
                yield ask.unknown(row["reason"], f"can `{kubectl} -A` answer?")
                continue
            # Istio's guide labels no namespace where one network is all there is: injection says the network.
            injected = row["injected_network"] or entry.network
            network = row["network"] or (injected if mesh.spec.topology.network == "flat" else "")
            observed = _identity(row["cluster_id"], network, row["mesh_id"], row["trust_domain"])
            wrong = "the mesh file, or the installation (values.global), says it wrongly"
            yield ask.judge(observed == expected, observed, wrong)


def check_accepted(
    mesh: Mesh, identity: pd.DataFrame, claims: pd.DataFrame, inventory: pd.DataFrame
) -> Iterator[Finding]:
    """MK843: each istiod takes the cluster ids that proxies of its cluster claim: its own, or an alias of it.

    It refuses the tokens of all others, so they get no certificate and no configuration any more; what they have goes
    on until the certificate ends, and nobody notices before. So it is when values of before a migration are applied
    again, by `helm upgrade` or Argo CD: istiod forgets its id, and its proxies still have it.

    Args:
        mesh: the mesh.
        identity: of `istio.versions.identity`.
        claims: of `istio.proxies.claims`.
        inventory: of `istio.platform.inventory`, for who installed istiod.

    Source: KubeJWTAuthenticator (security/pkg/server/ca/authenticate/kubeauth).
    """
    installers = dict(zip(inventory["cluster"], inventory["installer"], strict=True))
    for name in mesh.clusters:
        ask = Question("MK843", "istiod takes the ids that its proxies claim", name, "its own id, or an alias of it")
        own, rows = identity[identity["cluster"] == name], claims[claims["cluster"] == name]
        if reason := next((r for r in [*own["reason"], *rows["reason"]] if r), ""):
            yield ask.unknown(reason)
        elif own.empty or rows.empty:
            yield ask.answer(Verdict.SKIPPED, "it has no istiod" if own.empty else "it has no proxy")
        else:
            yield _accepted(ask, mesh, name, own, rows, str(installers.get(name) or ""))


def _accepted(  # noqa: PLR0917  (the question, the cluster, its two tables, and who installed it)
    ask: Question, mesh: Mesh, name: str, own: pd.DataFrame, rows: pd.DataFrame, installer: str
) -> Finding:
    taken = {r["istiod"]: {r["cluster_id"], *r["cluster_aliases"].split(",")} - {""} for r in own.to_dict("records")}
    common = set.intersection(*taken.values())
    claimed = rows["cluster_id"].replace("", "Kubernetes")
    refused = rows[~claimed.isin(common)]
    told = f"{len(rows)} proxies; istiod takes {', '.join(sorted(common)) or 'no id in common'}"
    if refused.empty:
        return ask.answer(Verdict.PASS, told)
    ids = ", ".join(sorted(set(claimed[~claimed.isin(common)])))
    first = refused.iloc[0]
    observed = (
        f"{len(refused)} of {told}: it refuses those that claim {ids}, such as {first['namespace']}/{first['proxy']}"
    )
    by = {"helm": "the values of its Helm release", "operator": "spec.values of its Istio resource"}.get(
        installer, "what installs istiod (a pipeline, Argo CD?)"
    )
    entry = mesh.spec.cluster(name)
    cure = (
        f"carry global.multiCluster.clusterName: {name}, global.network: {entry.network} and global.meshID:"
        f" {mesh.spec.mesh.id} into {by}, and apply that; then restart the workloads whose proxies claim another id"
    )
    return ask.fail(observed, cure)


def _identity(cluster_id: str, network: str, mesh_id: str, trust_domain: str) -> str:
    return f"id {cluster_id}, network {network or 'none'}, mesh {mesh_id or 'none'}, trust domain {trust_domain}"


# --- trust ------------------------------------------------------------------------------------------------------------


def check_roots(mesh: Mesh, facts: Facts) -> Iterator[Finding]:
    """MK807: every proxy's chain ends at a root that every other proxy of the mesh holds."""
    known = facts.certificates[facts.certificates["reason"] == ""]
    everywhere = set.intersection(*(set(r.split(",")) for r in known["roots"])) if len(known) else set()
    cure = "give all clusters intermediates of one root (stage 04), and restart what still holds old ones"
    for name in mesh.clusters:
        ask = Question("MK807", "chains end at a common root", name, "a root that every proxy of the mesh holds")
        rows = facts.certificates[facts.certificates["cluster"] == name]
        if rows.empty:
            yield ask.fail("it has no proxy", "is anything injected there?")
        for row in rows[rows["reason"] != ""].to_dict("records"):
            yield ask.unknown(f"{row['proxy'] or 'cluster'}: {row['reason']}")
        good = rows[rows["reason"] == ""]
        if good.empty:
            continue
        lonely = good[(good["anchor"] == "") | ~good["anchor"].isin(everywhere)]
        ends = lonely if len(lonely) else good
        anchors = ", ".join(sorted(set(ends["anchor"]) - {""})) or "no root that it holds"
        proxies = f"{len(lonely)} of {len(good)} proxies" if len(lonely) else f"{len(good)} proxies"
        observed = f"{proxies} end at {anchors}" + (", which others do not hold" if len(lonely) else "")
        yield ask.judge(lonely.empty, observed, cure)


def check_certificates(mesh: Mesh, certificates: pd.DataFrame, identifier: str = "MK808") -> Iterator[Finding]:
    """MK808, and MK409 in stage 04: every proxy's certificate is valid now and for a while."""
    now, life = datetime.now(UTC), mesh.spec.gates.min_certificate_life
    for name in mesh.clusters:
        rows = certificates[(certificates["cluster"] == name) & (certificates["reason"] == "")]
        if rows.empty:
            continue
        ask = Question(identifier, "certificates are valid", name, f"valid now, and for {life / 3600:g} h more")
        left = (rows["not_after"] - now).dt.total_seconds()
        early = rows[rows["not_before"] > now]
        first = rows.iloc[int(left.argmin())]
        ends = f"the first ends {first['not_after']:%Y-%m-%d %H:%M} UTC ({first['proxy']})"
        observed = f"{len(rows)} certificates, {ends}"
        if len(early):
            told = f"{len(early)} not yet valid, e.g. {early.iloc[0]['proxy']}"
            yield ask.fail(told, "compare the clocks of the clusters (stage 02)")
        elif left.min() < 0:
            yield ask.fail(observed, "proxies that cannot renew: look at istiod and at their logs (CSR)")
        else:
            cure = "does renewal work? see the proxy's log"
            yield ask.judge(left.min() >= life, observed, cure, otherwise=Verdict.WARN)


# --- traffic ----------------------------------------------------------------------------------------------------------


def check_pair(mesh: Mesh, facts: Facts, row: Row) -> Iterator[Finding]:
    """MK811 to MK814: who answered, by which way, as whom, and do both proxies' counters agree."""
    yield check_answers(row)
    if not row["sent"]:
        return
    yield check_way(mesh, facts, row)
    if not row["error"]:
        yield check_identity(facts, row)
        yield check_counters(row)


def check_answers(row: Row) -> Finding:
    """MK811: every call was answered, and by the target alone; of a row of `Probing.calls` or of `pairs.traffic`."""
    subject, expected = arrow(row["client"], row["server"]), f"all calls 200, from pods of {row['server']}"
    ask = Question("MK811", "every call is answered, by the target", subject, expected)
    if not row["sent"]:
        return ask.unknown(row["error"], "the pair could not be tried")
    known = f"endpoints that the client's Envoy has: {row['endpoints'] or 'none'}; " if "endpoints" in row else ""
    cure = f"{known}walk MK802 to MK807 of this pair"
    if row["error"]:
        return ask.fail(f"{row['answered']} of {row['sent']} calls: {row['error']}", cure)
    observed = f"{row['statuses']} from {row['answered_by'] or 'pods that do not tell their names'}"
    where = set(row["answered_in"].split(",")) - {""}
    if where - {row["server"], "?"}:
        return ask.fail(f"{observed}, of {row['answered_in']}", cure)
    if "?" in where:
        unseen = f"{observed}: pods that were in no cluster before, or are called so in several"
        return ask.answer(Verdict.WARN, unseen, "restarted meanwhile? run again; a StatefulSet cannot be told apart")
    return ask.answer(Verdict.PASS, observed)


def check_way(mesh: Mesh, facts: Facts, row: Row) -> Finding:
    """MK812: endpoints are the target's gateway where networks differ, else its pods."""
    client, server = row["client"], row["server"]
    through_gateway = client != server and mesh.spec.topology.network == "multi"
    expected = f"the gateway of {server}" if through_gateway else f"pods of {server}"
    ask = Question("MK812", "traffic takes the expected path", arrow(client, server), expected)
    found = [e for e in row["endpoints"].split(",") if e]
    if not found:
        return ask.fail("no endpoint", f"does istiod of {client} read {server}? see MK802 to MK804")
    seen = facts.gateways_seen
    gateways = set(seen[seen["network"] == mesh.spec.cluster(server).network]["address"]) - {""}
    by_gateway = [e for e in found if e.rpartition(":")[0] in gateways]
    right = len(by_gateway) == len(found) if through_gateway else not by_gateway
    raw = "pod addresses of another network: istiod knows no gateway for it (MK805, MK806), or the pods' network label"
    return ask.judge(right, ", ".join(found), f"{raw} is missing")


def check_identity(facts: Facts, row: Row) -> Finding:
    """MK813: mutual TLS was used, and both sides are who their proxies say: certificate and identity."""
    client, expected = row["client"], "the client's own certificate, seen by a server of that identity"
    ask = Question("MK813", "mutual TLS, by the right identities", arrow(client, row["server"]), expected)
    shown = row["client_certificate"]
    if not shown:
        cure = "PeerAuthentication or a DestinationRule turned mutual TLS off, or the server has no sidecar"
        return ask.fail("the server saw no client certificate", cure)
    mine = facts.certificates[(facts.certificates["cluster"] == client) & (facts.certificates["sha256"] == shown)]
    observed = f"{row['client_identity']} ({shown[:16]}) to {row['server_identity']}"
    if mine.empty:
        told = f"{observed}, a certificate that no proxy of {client} held when it was read"
        return ask.answer(Verdict.WARN, told, "renewed meanwhile? run again")
    theirs = facts.certificates[facts.certificates["cluster"] == row["server"]]
    if row["server_identity"] not in set(theirs["identity"]):
        return ask.fail(f"{observed}, an identity that no proxy of {row['server']} holds", "who answered? see MK811")
    held = mine.iloc[0]["identity"]
    same = held == row["client_identity"]
    told = observed if same else f"{observed}, but the proxy holds {held}"
    return ask.judge(same, told, "two identities for one certificate: look at trust domains")


def check_counters(row: Row) -> Finding:
    """MK814: the client's Envoy counted every call as a success, the server's Envoys at least as many requests."""
    sent, client, server = row["sent"], row["client_counted"], row["server_counted"]
    expected = f"client {sent}, server {sent} or more"
    ask = Question("MK814", "both proxies counted the calls", arrow(row["client"], row["server"]), expected)
    cure = "did a proxy restart, or was its configuration replaced meanwhile?"
    return ask.judge(client == sent <= server, f"client {client}, server {server}", cure, otherwise=Verdict.WARN)
