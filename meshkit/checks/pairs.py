"""Checks of what a snapshot reads of pairs beyond stage 08's own tables: MK834 to MK842, and MK811 of its calls.

Each is about an ordered pair, reads only tables, and blames one link; what rests on it follows.
"""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from meshkit.checks import gateways, pair_traffic, remote_reader, remote_secrets, service_view
from meshkit.checks.finding import Finding, Verdict
from meshkit.checks.question import Question, arrow
from meshkit.istio.config.hindrances import Link
from meshkit.istio.control_plane.versions import home, is_remote
from meshkit.istio.multicluster import gateway_choice
from meshkit.istio.multicluster import remote_secrets as multicluster_remote_secrets
from meshkit.kube.mesh import Mesh
from meshkit.probing import api_server_reach, pair_survey, sni_probe
from meshkit.snapshot.snapshot import Snapshot
from meshkit.tables import Row


def check(mesh: Mesh, facts: Snapshot, mode: str = "audit") -> list[Finding]:
    """Judge what pairs depend on beyond stage 08's own tables; in plan mode only where clusters are joined."""
    if mode == "plan" and remote_secrets.unjoined(mesh, facts):
        return []
    return [
        finding
        for client, server in mesh.ordered_pairs
        for finding in (
            *check_server(mesh, facts, client, server),
            *check_known(mesh, facts, client, server),
            check_replicas(mesh, facts, client, server),
            check_endpoints(mesh, facts, client, server),
            *(check_hello(mesh, facts, client, server) if mesh.spec.crosses(client, server) else ()),
        )
    ]


def check_all(mesh: Mesh, facts: Snapshot, sent: pd.DataFrame | None = None) -> list[Finding]:
    """Judge all links of every pair, and nothing else: for `pair_table.table`, `cells` and `brief`."""
    multi = mesh.spec.topology.network == "multi"
    findings = [*(gateways.check_gateway(mesh, facts.gateways, name) for name in mesh.clusters if multi)]
    for pair in mesh.ordered_pairs:
        findings += remote_secrets.check(mesh, facts.identity, facts.remote_secrets, facts.remote_clusters, pair)
        findings += gateways.check_pair(mesh, facts.identity, facts.gateways, facts.gateways_seen, pair)
    findings += check(mesh, facts)
    return (
        findings if sent is None else [*findings, *(pair_traffic.check_answers(row) for row in sent.to_dict("records"))]
    )


def check_server(mesh: Mesh, facts: Snapshot, client: str, server: str) -> Iterator[Finding]:
    """MK834: the address in the secret answers where the client's istiod runs.

    MK835: its certificate is good for that address, or for the secret's tls-server-name.
    """
    reach = facts.remote_secret_reach
    rows = reach[(reach["cluster"] == client) & (reach["target"] == server)]
    if rows.empty:
        if is_remote(facts.identity, client):
            none = Question("MK834", "API server answers where istiod runs", arrow(client, server), "no istiod asks it")
            yield none.answer(Verdict.SKIPPED, f"no istiod runs in {client}")
        return
    row = rows.iloc[0]
    wanted = f"an HTTP answer of {row['server']}, inside {client}"
    ask = Question("MK834", "API server answers where istiod runs", arrow(client, server), wanted)
    used = multicluster_remote_secrets.active_secrets(mesh, facts.remote_secrets, client, server, facts.remote_clusters)
    said = remote_reader.answer_of_api_server(row.to_dict())
    proxied = f"istiod goes there through the proxy-url of {used[0].name}" if used and used[0].proxied else ""
    if proxied or row["answer"] == "UNKNOWN":
        yield ask.unknown(proxied or row["detail"], "asked by curl in istiod or the probe's client")
        return
    if row["answer"] == "none":
        if reason := facts.remote_secrets.unknown(server):
            yield ask.unknown(f"{said}; it does not answer us either: {reason}", f"is {server}'s API server up?")
            return
        remedy = (
            f"open the path from {client}'s istiod to {row['server']} (firewall, route, name), or set another apiServer"
        )
        yield ask.fail(said, remedy)
        return
    if row["answer"] == "429" or row["answer"].startswith("5"):
        yield ask.unknown(said, f"is {server}'s API server well?")
        return
    yield ask.answer(Verdict.PASS, said)
    name = used[0].tls_server_name if used else ""
    yield _certificate(mesh, (client, server), row.to_dict(), name)


def _certificate(mesh: Mesh, pair: tuple[str, str], row: Row, name: str) -> Finding:
    """MK835 of an API server that answers, by a row of `api_server_reach.reach`; `name` is the secret's."""
    client, server = pair
    entry, said = mesh.spec.cluster(server), remote_reader.answer_of_api_server(row)
    good = f"good for {name or 'that address'}, by {server}'s own CA"
    ask = Question("MK835", "API server's certificate is for that name", arrow(client, server), good)
    if row["detail"].startswith(api_server_reach.UNCHECKED):
        return ask.unknown(said, f"kubectl --context {entry.context} get configmap kube-root-ca.crt")
    if row["answer"] == api_server_reach.BY_AGENT:
        return ask.answer(Verdict.SKIPPED, f"it is for that name; by which CA is not known from there: {said}")
    remedy = (
        f"istiod refuses it too: let the certificate name it, or use a name that it has: {_named(mesh, client, server)}"
    )
    if name != entry.tls_server_name:
        again = remote_secrets.create_command(mesh, client, server)
        remedy = f"the mesh file says {entry.tls_server_name or 'no other name'}: {again}"
    return ask.judge(row["answer"] != "refused", said, remedy)


def _named(mesh: Mesh, client: str, server: str) -> str:
    head, pipe, tail = remote_secrets.create_command(mesh, client, server).partition(" | ")
    return f"{head.partition(' --tls-server-name ')[0]} --tls-server-name NAME{pipe}{tail}"


def check_known(mesh: Mesh, facts: Snapshot, client: str, server: str) -> Iterator[Finding]:
    """MK842: each istiod replica of the client holds the endpoints that are ready in the server's cluster now.

    `synced` does not show that: only that it read them once.
    """
    spec = mesh.spec.probe
    what = f"{spec.server}.{spec.namespace}"
    ask = Question(
        "MK842", "istiod follows the other cluster", arrow(client, server), f"{what}'s ready endpoints there"
    )
    shards, reader = facts.endpoint_shards, home(facts.identity, client)
    rows = shards[(shards["cluster"] == reader) & (shards["target"] == server)]
    context = mesh.spec.cluster(reader).context
    cause = service_view.named(mesh, facts.service_views, client, server, Link.DISCOVERY)
    for row in rows.to_dict("records"):
        if row["reason"]:
            yield ask.unknown(f"{row['istiod']}: {row['reason']}" if row["istiod"] else row["reason"])
            continue
        observed = f"{row['istiod']} holds {row['known'] or 'none'}"
        if not row["known"] and not row["ready"]:
            lacking = f"{observed}, and {server} has no ready endpoint to compare it with"
            yield ask.unknown(lacking, cause or f"deploy {what} there")
            continue
        if row["known"] != row["ready"]:
            observed += f"; ready are {row['ready'] or 'none'}"
        remedy = f"`kubectl --context {context} -n {mesh.root_namespace} logs {row['istiod']}` names the cause; "
        remedy += f"MK803 and MK834 of this pair; then kubectl --context {context} -n {mesh.root_namespace} delete pod"
        apart = not set(row["known"].split(",")) & set(row["ready"].split(","))
        worse = Verdict.FAIL if apart else Verdict.WARN
        yield ask.judge(row["known"] == row["ready"], observed, cause or f"{remedy} {row['istiod']}", otherwise=worse)


def check_replicas(mesh: Mesh, facts: Snapshot, client: str, server: str) -> Finding:
    """MK837: all istiod replicas of the client report the same of the server: sync, gateway, endpoints.

    Proxies are spread over the replicas: a replica with another view breaks only some pods, and each restart may
    fix or break it.
    """
    ask = Question("MK837", "istiod's replicas agree", arrow(client, server), "one view of the other cluster")
    reader = home(facts.identity, client)
    remotes, gates = facts.remote_clusters.of(reader), gateway_choice.seen(mesh, facts.gateways_seen, reader, server)
    lost: list[Row] = [vars(one) for one in facts.remote_clusters.unread_in(reader)]
    shards = facts.endpoint_shards
    rows = shards[(shards["cluster"] == reader) & (shards["target"] == server)]
    lost += [r for r in rows.to_dict("records") if r["reason"]]
    lost += [vars(one) for one in facts.gateways_seen.unread_in(reader)]
    if lost:
        return ask.unknown(": ".join(filter(None, (lost[0]["istiod"], lost[0]["reason"]))))
    replicas = sorted({one.istiod for one in remotes})
    if len(replicas) < 2:
        return ask.answer(Verdict.SKIPPED, f"{len(replicas)} replica")
    views: dict[str, tuple[str, str, str]] = {}
    for istiod in replicas:
        states = [one.status for one in remotes if (one.istiod, one.remote) == (istiod, server)]
        seen = {one.address for one in gates if one.istiod == istiod}
        held = rows[rows["istiod"] == istiod]["known"]
        views[istiod] = (
            ",".join(states) or "not known",
            ",".join(sorted(seen)) or "none",
            ",".join(held) or "none",
        )
    parts = [
        f"{what}: " + ", ".join(f"{istiod} {view[n]}" for istiod, view in views.items())
        for n, what in enumerate(("sync", "gateway", "endpoints"))
        if len({view[n] for view in views.values()}) > 1
    ]
    context = mesh.spec.cluster(reader).context
    remedy = (
        f"istioctl remote-clusters --context {context}; restart the replica that is behind: kubectl --context {context}"
    )
    agreed = f"{len(replicas)} replicas agree"
    return ask.judge(not parts, "; ".join(parts) or agreed, f"{remedy} -n {mesh.root_namespace} delete pod NAME")


def check_endpoints(mesh: Mesh, facts: Snapshot, client: str, server: str) -> Finding:
    """MK839: the client's Envoy reaches the server's endpoints by the expected path.

    By the gateway where networks differ, else by the pods' own addresses.
    """
    apart = mesh.spec.crosses(client, server)
    spec = mesh.spec.probe
    what = f"{spec.server}.{spec.namespace}"
    expected = f"{what} of {server} by {f'the gateway of {server}' if apart else 'pod addresses'}"
    ask = Question("MK839", "client has the server's endpoints", arrow(client, server), expected)
    rows = facts.paths[(facts.paths["client"] == client) & (facts.paths["server"] == server)]
    if rows.empty or rows.iloc[0]["way"] == "UNKNOWN":
        return ask.unknown(str(rows.iloc[0]["reason"]) if len(rows) else "not asked")
    row = rows.iloc[0]
    others = f"{row['local']} local" + (f", strange {row['strange']}" if row["strange"] else "")
    if row["way"] == "none":
        remedy = service_view.named(mesh, facts.service_views, client, server, Link.DISCOVERY, Link.ENDPOINTS)
        if not row["ready"]:
            return ask.fail(
                f"none; {server} has no ready endpoint itself", remedy or f"is {spec.server} up in {server}?"
            )
        remedy = remedy or "MK802 to MK806 of this pair; no object that was read hides them"
        return ask.fail(f"none of {row['ready']} ({others})", remedy)
    words = {"gateway": "gateway", "pods": "raw pod address", "both": "gateway and raw pod addresses"}
    observed = f"{row['endpoints']} ({words[row['way']]}), {others}"
    if not apart:
        same = f"are {client} and {server} on one network, as the mesh file says? see MK201 and MK703 of both"
        return ask.judge(row["way"] == "pods", observed, same)
    remedy = f"istiod knows no gateway of {server}'s network (MK805, MK806), or the label topology.istio.io/network is"
    remedy += (
        f" missing on istiod's namespace there: kubectl --context {mesh.spec.cluster(server).context} label namespace"
    )
    remedy += f" {mesh.root_namespace} topology.istio.io/network={mesh.spec.cluster(server).network}"
    return ask.judge(row["way"] == "gateway", observed, remedy)


def check_hello(mesh: Mesh, facts: Snapshot, client: str, server: str) -> Iterator[Finding]:
    """MK840: a TLS hello with the server's SNI comes through its gateway to a proxy.

    MK841: the certificate that is shown there ends at a root that the client's proxy holds.
    """
    rows = facts.hellos[(facts.hellos["client"] == client) & (facts.hellos["server"] == server)]
    ask = Question(
        "MK840", "gateway lets the SNI through", arrow(client, server), "a certificate, or another TLS answer"
    )
    unread = facts.gateways.unknown(server)
    if rows.empty:
        yield _untried(mesh, facts, ask, client, server)
    for row in rows.to_dict("records"):
        at = f"{row['address']}:{row['port']}"
        if row["heard"] == "UNKNOWN" and sni_probe.BY_SIDECAR in row["reason"]:
            shown = "whether calls come through it show MK712 and MK811"
            yield ask.answer(Verdict.WARN, f"{at}: {row['reason']}", shown)
            continue
        if row["heard"] == "UNKNOWN":
            yield ask.unknown(f"{at}: {row['reason']}", "it needs bash or nc in the client's pod")
            continue
        said = f"{at}: {row['heard']}" + (f" ({row['detail']})" if row["detail"] else "")
        if row["heard"] in (sni_probe.OPEN, sni_probe.ALERT):
            yield ask.answer(Verdict.PASS, said)
            yield _trusted(client, server, row)
        elif unread:
            # Nobody knows whether this is still its address, or whether the cluster is up at all.
            yield ask.unknown(f"{said}; what {server} offers could not be read: {unread}", f"is {server} up?")
        else:
            ready = facts.paths[(facts.paths["client"] == client) & (facts.paths["server"] == server)]["ready"]
            links = [Link.GATEWAY] if ready.any() else [Link.DISCOVERY, Link.GATEWAY]
            cause = service_view.named(mesh, facts.service_views, client, server, *links)
            closed = row["heard"] == sni_probe.CLOSED
            yield ask.fail(said, (closed and cause) or _hello_cure(mesh, row, server))


def _untried(mesh: Mesh, facts: Snapshot, ask: Question, client: str, server: str) -> Finding:
    """Return a failure only where every source of gateways could be read, and none names one."""
    reader = home(facts.identity, client)
    if pair_survey.addresses(mesh, facts.gateways, facts.gateways_seen, reader, server):
        return ask.unknown("no hello was sent")
    why = facts.gateways_seen.unknown(reader) or gateway_choice.unread(mesh, facts.gateways, server)
    observed = "there is no gateway address to try"
    return ask.unknown(f"{observed}: {why}") if why else ask.fail(observed, "see MK805 and MK806")


def _hello_cure(mesh: Mesh, row: Row, server: str) -> str:
    context = mesh.spec.cluster(server).context
    gateway = f"kubectl --context {context} -n {mesh.root_namespace} get gateways.networking.istio.io,service,pods"
    remedies = {
        sni_probe.CLOSED: f"filter_chain_not_found: no AUTO_PASSTHROUGH Gateway with hosts of {row['sni']} selects the "
        f"gateway, or no pod is behind it (MK805): {gateway}; stage 06 makes it",
        sni_probe.REFUSED: f"nothing listens on {row['port']} (MK805): {gateway}",
        sni_probe.SILENT: f"a firewall drops port {row['port']}: open it between the clusters' networks",
        sni_probe.STRANGE: "something other than the gateway answers there: is the address right (MK838)?",
    }
    return remedies.get(str(row["heard"]), gateway)


def _trusted(client: str, server: str, row: Row) -> Finding:
    wanted = f"a chain to a root that {client}'s client holds"
    ask = Question("MK841", "the server's certificate is trusted", arrow(client, server), wanted)
    if not row["sha256"]:
        return ask.answer(Verdict.SKIPPED, f"no certificate was shown: {row['detail']}")
    if row["reason"]:
        return ask.unknown(row["reason"], "see MK807")
    told = f"{row['identity'] or 'no SPIFFE identity'}, of {row['issuer'] or 'nobody'}"
    ends = (
        f"{told}, ends at {row['anchor']}"
        if row["anchor"]
        else f"{told}, ends at no root that the client's proxy holds"
    )
    return ask.judge(row["anchor"], ends, "give all clusters intermediates of one root (stage 04); see MK807")
