"""Stage 08: does every cluster reach every other, as whom, and do all witnesses agree?

Read-only but for the probe (see meshkit.probe). Facts come from four witnesses that can contradict each other: the
objects in the API servers, each istiod's own view, each proxy's certificates, and traffic.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from meshkit import probe
from meshkit.checks import Finding, Verdict
from meshkit.istio import networks, remotes, trust, versions

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
        identity=versions.identity(mesh),
        secrets=remotes.remote_secrets(mesh),
        remotes=remotes.remote_clusters(mesh),
        gateways=networks.gateways(mesh),
        gateways_seen=networks.gateways_seen(mesh),
        certificates=trust.certificates(mesh),
        roots=trust.roots(mesh),
    )


def check(mesh: Mesh, facts: Facts) -> list[Finding]:
    """Judge what was read: remote secrets, sync state, gateways, trust."""
    findings = [*check_istiods(mesh, facts)]
    for reader, target in mesh.pairs:
        findings += [
            check_secret(mesh, facts, reader, target),
            check_credential(mesh, facts, reader, target),
            *check_sync(mesh, facts, reader, target),
        ]
        if mesh.spec.topology.network == "multi":
            findings += check_gateway_seen(mesh, facts, reader, target)
    if mesh.spec.topology.network == "multi":
        findings += [check_gateway(mesh, facts, name) for name in mesh.clusters]
    return [*findings, *check_roots(mesh, facts), *check_certificates(mesh, facts)]


def prove(mesh: Mesh, facts: Facts, calls: pd.DataFrame) -> list[Finding]:
    """Judge the traffic of `Probing.calls` against what was read: one set of findings for each pair."""
    findings = []
    for row in calls.to_dict("records"):
        findings += check_pair(mesh, facts, row)
    return findings


def try_pairs(mesh: Mesh, calls: int = 10) -> pd.DataFrame:
    """Send calls between every ordered pair alone; the columns are those of `Probing.calls`."""
    with probe.open(mesh) as probing:
        return probing.calls(calls)


def pairs(mesh: Mesh, findings: Iterable[Finding]) -> pd.DataFrame:
    """Return the worst verdict for each pair: columns client, server, verdict, note (the finding that decides)."""
    import pandas as pd

    from meshkit.checks import SEVERITY

    rows = []
    names = list(mesh.clusters)
    for client in names:
        for server in names:
            own = [f for f in findings if f.subject == arrow(client, server)]
            worst = max(own, key=lambda f: SEVERITY.index(f.verdict), default=None)
            verdict = worst.verdict.value if worst else "unknown"
            note = "" if worst is None or worst.verdict is Verdict.PASS else f"{worst.id} {worst.observed}"
            rows.append({"client": client, "server": server, "verdict": verdict, "note": note})
    return pd.DataFrame(rows, columns=["client", "server", "verdict", "note"], dtype="str")


def arrow(client: str, server: str) -> str:
    """Return the subject of a finding about a pair."""
    return f"{client} → {server}"


# --- istiod and remote secrets ----------------------------------------------------------------------------------------


def check_istiods(mesh: Mesh, facts: Facts) -> Iterator[Finding]:
    """MK801: every primary has an istiod that can be asked, and its id, network and mesh are what the file says."""
    for entry in mesh.spec.clusters:
        rows = facts.identity[facts.identity["cluster"] == entry.name].to_dict("records")
        expected = f"id {entry.name}, network {entry.network}, mesh {mesh.spec.mesh.id}, trust domain {mesh.spec.mesh.trust_domain}"
        make = finding("MK801", "istiod is who the mesh file says", entry.name, expected)
        if not rows:
            yield make("no istiod runs there", Verdict.FAIL, f"kubectl --context {entry.context} get pods -n {mesh.root_namespace} -l app=istiod")
        for row in rows:
            if row["reason"]:
                yield make(row["reason"], Verdict.UNKNOWN, f"can `kubectl --context {entry.context} get pods -A` answer?")
                continue
            observed = f"id {row['cluster_id']}, network {row['network'] or 'none'}, mesh {row['mesh_id'] or 'none'}, trust domain {row['trust_domain']}"
            same = observed == expected
            yield make(observed, Verdict.PASS if same else Verdict.FAIL,
                       "" if same else "the mesh file, or the installation (values.global), says it wrongly")  # fmt: skip


def check_secret(mesh: Mesh, facts: Facts, reader: str, target: str) -> Finding:
    """MK802: the reader holds exactly one usable remote secret of the target."""
    make = finding("MK802", "remote secret is there", arrow(reader, target), f"one, labelled, in {mesh.root_namespace}, key = annotation = {target}")
    if reason := unreadable(facts.secrets, reader, "credential"):
        return make(reason, Verdict.UNKNOWN, "")
    cure = (f"istioctl create-remote-secret --context {mesh.spec.cluster(target).context} --name {target} | "
            f"kubectl apply --context {mesh.spec.cluster(reader).context} -f -")  # fmt: skip
    held = facts.secrets[(facts.secrets["cluster"] == reader) & (facts.secrets["name"] != "")]
    keyed = held[held["key"] == target]
    good = keyed[keyed["labelled"] & (keyed["namespace"] == mesh.root_namespace)]
    if len(good) == 1 and good.iloc[0]["annotation"] in ("", target):
        return make(good.iloc[0]["name"], Verdict.PASS, "")
    if len(good) > 1:
        return make(f"{len(good)} secrets for one id: {', '.join(good['name'])}", Verdict.FAIL, "delete all but one; istiod takes the first and ignores the rest")
    if len(good):
        return make(f"annotation says {good.iloc[0]['annotation']}", Verdict.FAIL, cure)
    if len(keyed):
        row = keyed.iloc[0]
        wrong = f"in namespace {row['namespace']}" if row["namespace"] != mesh.root_namespace else "without the label istio/multiCluster=true"
        return make(f"{row['name']} is {wrong}: istiod ignores it", Verdict.FAIL, cure)
    return make(f"none; it has {', '.join(sorted(held['key'])) or 'no remote secret'}", Verdict.FAIL, cure)


def check_credential(mesh: Mesh, facts: Facts, reader: str, target: str) -> Finding:
    """MK803: the credential in the reader's secret opens the target's API server now, with the rights of a reader."""
    make = finding("MK803", "credential opens the API server now", arrow(reader, target), "ok, leads to " + target)
    if reason := unreadable(facts.secrets, reader, "credential"):
        return make(reason, Verdict.UNKNOWN, "")
    rows = facts.secrets[(facts.secrets["cluster"] == reader) & (facts.secrets["key"] == target)]
    if rows.empty:
        return make("there is no secret to try", Verdict.FAIL, "see MK802")
    row = rows.iloc[0]
    observed = row["credential"] + (f", leads to {row['leads_to']}" if row["leads_to"] else "") + (f" ({row['detail']})" if row["detail"] else "")
    renew = "make the credential anew: istioctl create-remote-secret; istiod says `synced` although its token is refused"
    if row["credential"] == "ok":
        right = row["leads_to"] == target
        return make(observed, Verdict.PASS if right else Verdict.FAIL, "" if right else f"the secret's server is not {target}'s API server")
    return make(observed, Verdict.FAIL if row["credential"] in ("401", "403") else Verdict.UNKNOWN, renew)


def check_sync(mesh: Mesh, facts: Facts, reader: str, target: str) -> Iterator[Finding]:
    """MK804: each istiod replica of the reader says that it has synced the target."""
    make = finding("MK804", "istiod watches the other cluster", arrow(reader, target), "synced, by every replica")
    if reason := unreadable(facts.remotes, reader, "status"):
        yield make(reason, Verdict.UNKNOWN, "")
        return
    own = facts.remotes[facts.remotes["cluster"] == reader]
    for istiod, rows in own.groupby("istiod"):
        states = list(rows[rows["remote"] == target]["status"])
        ok = states == ["synced"]
        observed = f"{istiod}: {', '.join(states) or 'does not know it'}"
        yield make(observed, Verdict.PASS if ok else Verdict.FAIL, "" if ok else f"istioctl remote-clusters --context {mesh.spec.cluster(reader).context}; its log names the cause")
    if own.empty:
        yield make("no istiod", Verdict.FAIL, "see MK801")


# --- gateways ---------------------------------------------------------------------------------------------------------


def check_gateway(mesh: Mesh, facts: Facts, name: str) -> Finding:
    """MK805: the cluster offers a gateway of its network: labelled, addressed, listening, ready, exposed."""
    network = mesh.spec.cluster(name).network
    expected = f"a Service of network {network} with an address, port {networks.PASSTHROUGH_PORT}, ready pods and an AUTO_PASSTHROUGH Gateway"
    make = finding("MK805", "east-west gateway is offered", name, expected)
    rows = facts.gateways[facts.gateways["cluster"] == name]
    if (unread := rows[(rows["service"] == "") & (rows["namespace_network"] == "") & ~rows["reason"].str.startswith("no Service")]).shape[0]:
        return make(unread.iloc[0]["reason"], Verdict.UNKNOWN, "")
    problems = {}
    for row in rows.to_dict("records"):
        lacks = [
            *([row["reason"]] if row["reason"] else []),
            *([f"label {networks.NETWORK} is {row['network'] or 'missing'}"] if row["network"] != network else []),
            *(["no address"] if not row["addresses"] else []),
            *([f"does not listen on {networks.PASSTHROUGH_PORT}"] if not row["port"] else []),
            *([f"{row['ready']} of {row['pods']} pods ready"] if not row["ready"] else []),
            *(["no AUTO_PASSTHROUGH Gateway selects it"] if not row["exposed_by"] else []),
        ]
        problems[row["service"] or "no Service"] = lacks
        if not lacks:
            return make(f"{row['service']} at {row['addresses']}:{row['port']}, {row['ready']}/{row['pods']} ready", Verdict.PASS, "")
    told = "; ".join(f"{service}: {', '.join(lacks)}" for service, lacks in problems.items()) or "none"
    return make(told, Verdict.FAIL, f"kubectl --context {mesh.spec.cluster(name).context} get service -n {mesh.root_namespace} -l {networks.NETWORK}={network}")


def check_gateway_seen(mesh: Mesh, facts: Facts, reader: str, target: str) -> Iterator[Finding]:
    """MK806: each istiod of the reader knows the gateway of the target's network, at the address that it has."""
    network = mesh.spec.cluster(target).network
    offered = facts.gateways[(facts.gateways["cluster"] == target) & (facts.gateways["network"] == network)]
    addresses = {a for text in offered["addresses"] for a in text.split(",") if a}
    expected = f"{network} at {', '.join(sorted(addresses)) or 'an address'}"
    make = finding("MK806", "istiod knows the other network's gateway", arrow(reader, target), expected)
    own = facts.gateways_seen[facts.gateways_seen["cluster"] == reader]
    if own.empty:
        yield make("no istiod to ask", Verdict.UNKNOWN, "see MK801")
    for istiod, rows in own.groupby("istiod"):
        if not istiod or (rows["network"] == "").all() and not rows["reason"].str.startswith("it knows").all():
            yield make(rows.iloc[0]["reason"], Verdict.UNKNOWN, "")
            continue
        seen = set(rows[rows["network"] == network]["address"])
        known = bool(seen) and (seen <= addresses or not any(a.replace(".", "").isdigit() for a in addresses))
        observed = f"{istiod}: {network} at {', '.join(sorted(seen))}" if seen else f"{istiod}: no gateway of {network}"
        yield make(observed, Verdict.PASS if known else Verdict.FAIL, "" if known else "without it, proxies get the pods' own addresses; see MK805")


# --- trust ------------------------------------------------------------------------------------------------------------


def check_roots(mesh: Mesh, facts: Facts) -> Iterator[Finding]:
    """MK807: every proxy's chain ends at a root that every other proxy of the mesh holds."""
    known = facts.certificates[facts.certificates["reason"] == ""]
    everywhere = set.intersection(*(set(r.split(",")) for r in known["roots"])) if len(known) else set()
    for name in mesh.clusters:
        rows = facts.certificates[facts.certificates["cluster"] == name]
        make = finding("MK807", "chains end at a common root", name, "a root that every proxy of the mesh holds")
        for row in rows[rows["reason"] != ""].to_dict("records"):
            yield make(f"{row['proxy'] or 'cluster'}: {row['reason']}", Verdict.UNKNOWN, "")
        good = rows[rows["reason"] == ""]
        if rows.empty:
            yield make("it has no proxy", Verdict.FAIL, "is anything injected there?")
        if good.empty:
            continue
        lonely = good[~good["anchor"].isin(everywhere)]
        anchors = ", ".join(sorted(set(good["anchor"]) - {""})) or "no root that it holds"
        if lonely.empty:
            yield make(f"{len(good)} proxies end at {anchors}", Verdict.PASS, "")
        else:
            yield make(f"{len(lonely)} of {len(good)} proxies end at {anchors}, which others do not hold", Verdict.FAIL,
                       "give all clusters intermediates of one root (stage 04), and restart what still holds old ones")  # fmt: skip


def check_certificates(mesh: Mesh, facts: Facts) -> Iterator[Finding]:
    """MK808: every proxy's certificate is valid now and for a while."""
    now, life = datetime.now(UTC), mesh.spec.gates.min_certificate_life
    for name in mesh.clusters:
        rows = facts.certificates[(facts.certificates["cluster"] == name) & (facts.certificates["reason"] == "")]
        if rows.empty:
            continue
        make = finding("MK808", "certificates are valid", name, f"valid now, and for {life / 3600:g} h more")
        left = (rows["not_after"] - now).dt.total_seconds()
        early = rows[rows["not_before"] > now]
        soonest = rows.loc[left.idxmin()]
        observed = f"{len(rows)} certificates, the first ends {soonest['not_after']:%Y-%m-%d %H:%M} UTC ({soonest['proxy']})"
        if len(early):
            yield make(f"{len(early)} not yet valid, e.g. {early.iloc[0]['proxy']}", Verdict.FAIL, "compare the clocks of the clusters (stage 02)")
        elif left.min() < 0:
            yield make(observed, Verdict.FAIL, "proxies that cannot renew: look at istiod and at their logs (CSR)")
        else:
            yield make(observed, Verdict.PASS if left.min() >= life else Verdict.WARN, "" if left.min() >= life else "does renewal work? see the proxy's log")


# --- traffic ----------------------------------------------------------------------------------------------------------


def check_pair(mesh: Mesh, facts: Facts, row: dict[str, Any]) -> Iterator[Finding]:
    """MK811 to MK814: who answered, by which way, as whom, and do both proxies' counters agree."""
    client, server = row["client"], row["server"]
    subject = arrow(client, server)
    answered = finding("MK811", "every call is answered, by the target", subject, f"all calls 200, from pods of {server}")
    if not row["sent"]:
        yield answered(row["error"], Verdict.UNKNOWN, "the pair could not be tried")
        return
    if row["error"]:
        yield answered(f"{row['answered']} of {row['sent']} calls: {row['error']}", Verdict.FAIL,
                       f"endpoints that the client's Envoy has: {row['endpoints'] or 'none'}; walk MK802 to MK807 of this pair")  # fmt: skip
    else:
        yield answered(f"{row['statuses']} from {row['answered_by'] or 'unnamed pods'}", Verdict.PASS, "")
    yield from check_way(mesh, facts, row)
    if not row["error"]:
        yield check_identity(facts, row)
        yield check_counters(row)


def check_way(mesh: Mesh, facts: Facts, row: dict[str, Any]) -> Iterator[Finding]:
    """MK812: endpoints are the target's gateway where networks differ, else its pods."""
    client, server = row["client"], row["server"]
    through_gateway = client != server and mesh.spec.topology.network == "multi"
    expected = f"the gateway of {server}" if through_gateway else f"pods of {server}"
    make = finding("MK812", "the way is the topology's", arrow(client, server), expected)
    found = [e for e in row["endpoints"].split(",") if e]
    if not found:
        yield make("no endpoint", Verdict.FAIL, f"does istiod of {client} read {server}? see MK802 to MK804")
        return
    gateways = set(facts.gateways_seen[facts.gateways_seen["network"] == mesh.spec.cluster(server).network]["address"]) - {""}
    by_gateway = [e for e in found if e.rpartition(":")[0] in gateways]
    right = len(by_gateway) == len(found) if through_gateway else not by_gateway
    cure = "raw pod addresses of another network: istiod knows no gateway for it (MK805, MK806), or the pods' network label is missing"
    yield make(", ".join(found), Verdict.PASS if right else Verdict.FAIL, "" if right else cure)


def check_identity(facts: Facts, row: dict[str, Any]) -> Finding:
    """MK813: mutual TLS was used, the client's certificate was the one that its proxy holds, roots verify both ways."""
    client, server = row["client"], row["server"]
    make = finding("MK813", "mutual TLS, by the right identities", arrow(client, server), "the client's own certificate, seen by the server")
    if not row["client_certificate"]:
        return make("the server saw no client certificate", Verdict.FAIL, "PeerAuthentication or a DestinationRule turned mutual TLS off, or the server has no sidecar")
    mine = facts.certificates[(facts.certificates["cluster"] == client) & (facts.certificates["sha256"] == row["client_certificate"])]
    observed = f"{row['client_identity']} ({row['client_certificate'][:16]}) to {row['server_identity']}"
    if mine.empty:
        return make(f"{observed}, a certificate that no proxy of {client} held when it was read", Verdict.WARN, "renewed meanwhile? run again")
    if mine.iloc[0]["identity"] != row["client_identity"]:
        return make(f"{observed}, but the proxy holds {mine.iloc[0]['identity']}", Verdict.FAIL, "two identities for one certificate: look at trust domains")
    return make(observed, Verdict.PASS, "")


def check_counters(row: dict[str, Any]) -> Finding:
    """MK814: the client's Envoy counted every call as a success, the server's Envoys at least as many requests."""
    make = finding("MK814", "both proxies counted the calls", arrow(row["client"], row["server"]), f"client {row['sent']}, server {row['sent']} or more")
    observed = f"client {row['client_counted']}, server {row['server_counted']}"
    agree = row["client_counted"] == row["sent"] <= row["server_counted"]
    return make(observed, Verdict.PASS if agree else Verdict.WARN, "" if agree else "did a proxy restart, or was its configuration replaced meanwhile?")


class finding:  # noqa: N801 - reads as the verb that it is
    """A finding about one subject, waiting for what was observed."""

    def __init__(self, id: str, check: str, subject: str, expected: str) -> None:  # noqa: A002 - the field's name
        self.known = {"id": id, "check": check, "subject": subject, "expected": expected}

    def __call__(self, observed: str, verdict: Verdict, remedy: str) -> Finding:
        """Return the finding."""
        return Finding(**self.known, observed=observed, verdict=verdict, remedy=remedy)


def unreadable(table: pd.DataFrame, cluster: str, column: str) -> str:
    """Return why a cluster could not be read for a table, or nothing if it was."""
    rows = table[(table["cluster"] == cluster) & (table[column] == "UNKNOWN")]
    if rows.empty:
        return ""
    reason = "detail" if "detail" in table.columns else "reason"
    return str(rows.iloc[0][reason]) or "it could not be read"
