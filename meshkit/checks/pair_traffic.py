"""Checks of the calls between pairs of clusters: MK811 to MK814."""

from __future__ import annotations

from collections.abc import Iterator

from meshkit.checks.finding import Finding, Verdict
from meshkit.checks.question import Question, arrow
from meshkit.kube.mesh import Mesh
from meshkit.snapshot.snapshot import Snapshot
from meshkit.tables import Row


def check_pair(mesh: Mesh, facts: Snapshot, row: Row) -> Iterator[Finding]:
    """MK811 to MK814: which cluster answered, by which path, with which identity, and do both proxies count alike."""
    yield check_answers(row)
    if not row["sent"]:
        return
    yield check_way(mesh, facts, row)
    if not row["error"]:
        yield check_identity(facts, row)
        yield check_counters(row)


def check_answers(row: Row) -> Finding:
    """MK811: every call was answered, and by the target alone; for a row of `pair_survey.traffic`."""
    subject, expected = arrow(row["client"], row["server"]), f"all calls 200, from pods of {row['server']}"
    ask = Question("MK811", "every call is answered, by the target", subject, expected)
    if not row["sent"]:
        return ask.unknown(row["error"], "the pair could not be tried")
    known = f"endpoints that the client's Envoy has: {row['endpoints'] or 'none'}; " if "endpoints" in row else ""
    remedy = f"{known}walk MK802 to MK807 of this pair"
    if row["error"]:
        return ask.fail(f"{row['answered']} of {row['sent']} calls: {row['error']}", remedy)
    observed = f"{row['statuses']} from {row['answered_by'] or 'pods that do not report their names'}"
    where = set(row["answered_in"].split(",")) - {""}
    if where - {row["server"], "?"}:
        return ask.fail(f"{observed}, of {row['answered_in']}", remedy)
    if "?" in where:
        unseen = f"{observed}: pods that were in no cluster before, or have the same name in several"
        return ask.answer(
            Verdict.WARN,
            unseen,
            "restarted meanwhile? run again; pods of a StatefulSet have the same names in every cluster",
        )
    return ask.answer(Verdict.PASS, observed)


def check_way(mesh: Mesh, facts: Snapshot, row: Row) -> Finding:
    """MK812: endpoints are the target's gateway where networks differ, else its pods."""
    client, server = row["client"], row["server"]
    through_gateway = mesh.spec.crosses(client, server)
    expected = f"the gateway of {server}" if through_gateway else f"pods of {server}"
    ask = Question("MK812", "traffic takes the expected path", arrow(client, server), expected)
    found = [e for e in row["endpoints"].split(",") if e]
    if not found:
        return ask.fail("no endpoint", f"does istiod of {client} read {server}? see MK802 to MK804")
    network = mesh.spec.cluster(server).network
    gateways = {one.address for one in facts.gateways_seen if one.network == network} - {""}
    by_gateway = [e for e in found if e.rpartition(":")[0] in gateways]
    right = len(by_gateway) == len(found) if through_gateway else not by_gateway
    raw = "pod addresses of another network: istiod knows no gateway for it (MK805, MK806), or the pods' network label"
    return ask.judge(right, ", ".join(found), f"{raw} is missing")


def check_identity(facts: Snapshot, row: Row) -> Finding:
    """MK813: mutual TLS was used, and both sides are who their proxies say: certificate and identity."""
    client, expected = row["client"], "the client's own certificate, seen by a server of that identity"
    ask = Question("MK813", "mutual TLS, by the right identities", arrow(client, row["server"]), expected)
    shown = row["client_certificate"]
    if not shown:
        remedy = "PeerAuthentication or a DestinationRule turned mutual TLS off, or the server has no sidecar"
        return ask.fail("the server saw no client certificate", remedy)
    mine = next((one for one in facts.certificates.of(client) if one.sha256 == shown), None)
    observed = f"{row['client_identity']} ({shown[:16]}) to {row['server_identity']}"
    if mine is None:
        told = f"{observed}, a certificate that no proxy of {client} held when it was read"
        return ask.answer(Verdict.WARN, told, "renewed meanwhile? run again")
    if row["server_identity"] not in {one.identity for one in facts.certificates.of(row["server"])}:
        return ask.fail(f"{observed}, an identity that no proxy of {row['server']} holds", "who answered? see MK811")
    same = mine.identity == row["client_identity"]
    told = observed if same else f"{observed}, but the proxy holds {mine.identity}"
    return ask.judge(same, told, "two identities for one certificate: look at trust domains")


def check_counters(row: Row) -> Finding:
    """MK814: the client's Envoy counted every call as a success, the server's Envoys at least as many requests."""
    sent, client, server = row["sent"], row["client_counted"], row["server_counted"]
    expected = f"client {sent}, server {sent} or more"
    ask = Question("MK814", "both proxies counted the calls", arrow(row["client"], row["server"]), expected)
    remedy = "did a proxy restart, or was its configuration replaced meanwhile?"
    return ask.judge(client == sent <= server, f"client {client}, server {server}", remedy, otherwise=Verdict.WARN)
