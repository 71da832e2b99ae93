"""The probe's Service as each cluster's client sees it once clusters have found each other: endpoints, and calls."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from meshkit.answers import curl, hostname, parse_answers, told
from meshkit.checks import Finding, Verdict
from meshkit.istio import envoy, networks
from meshkit.istio.fleet import table
from meshkit.istio.services import endpoints
from meshkit.mesh import Mesh, Unknown
from meshkit.probe import CALL_TIMEOUT, PATIENCE, Side, find_side, homes
from meshkit.stages.finding import Question, Row, arrow

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd

    from meshkit.cluster import Cluster

CALLS_PER_CLUSTER: Final = 15
COLUMNS: Final = {
    "cluster": "str",
    "client": "str",
    "service": "str",
    "serving": "str",
    "unread": "str",
    "endpoints": "str",
    "leads_to": "str",
    "strange": "str",
    "sent": "int64",
    "answered": "int64",
    "answered_in": "str",
    "error": "str",
    "reason": "str",
}


def look(mesh: Mesh, patience: float = PATIENCE) -> pd.DataFrame:
    """Call the probe's Service from each cluster, once its Envoy knows the others' endpoints, or after some patience.

    Columns: cluster, client (pod), service, serving (clusters with ready endpoints of it), unread (clusters of which
    that could not be read, and why: "west: no answer; …"), endpoints (addresses that the client's Envoy has), leads_to
    (clusters that they are of: own pods, and the gateways of the other networks, or the pods of all clusters in a flat
    one), strange (addresses that are none of those), sent, answered (with 200), answered_in (clusters of the pods that
    answered; `?` where they do not tell their names, or several clusters have pods of that name), error, reason (why a
    cluster could not be tried).
    """
    spec = mesh.spec.probe
    seen = networks.gateways_seen(mesh)
    sides = mesh.each(lambda cluster: find_side(cluster, mesh))
    own = mesh.each(lambda cluster: endpoints(cluster, spec.namespace, spec.server))

    def row(cluster: Cluster) -> dict[str, Any]:
        side = sides[cluster.name]
        if isinstance(side, Unknown):
            return {"reason": side.reason}
        ways = _ways(mesh, cluster.name, own, seen)
        serving = [name for name, found in own.items() if found]
        unread = [f"{name}: {found.reason}" for name, found in own.items() if isinstance(found, Unknown)]
        found = _endpoints(mesh, side, ways, set(serving), patience)
        return {
            "client": side.client.name,
            "serving": ",".join(serving),
            "unread": "; ".join(unread),
            "endpoints": ",".join(sorted(found)),
            "leads_to": ",".join(name for name in mesh.clusters if name in {ways.get(_ip(a)) for a in found}),
            "strange": ",".join(sorted(a for a in found if _ip(a) not in ways)),
            **_call(mesh, side, sides),
        }

    rows = mesh.each(row, deadline=4 * PATIENCE)
    service = {"service": f"{spec.namespace}/{spec.server}"}
    return table(
        (
            {"cluster": name, **service, **({"reason": r.reason} if isinstance(r, Unknown) else r)}
            for name, r in rows.items()
        ),
        COLUMNS,
    )


def _ways(mesh: Mesh, reader: str, own: dict[str, set[str] | Unknown], seen: pd.DataFrame) -> dict[str, str]:
    """Return the cluster that each right address leads to, for clients of the reader."""
    ways: dict[str, str] = {}
    for entry in mesh.spec.clusters:
        addresses = own[entry.name]
        if mesh.spec.topology.network == "multi" and entry.name != reader:
            rows = seen[(seen["cluster"] == reader) & (seen["network"] == entry.network)]
            addresses = set(rows["address"]) - {""}
        ways |= {} if isinstance(addresses, Unknown) else dict.fromkeys(addresses, entry.name)
    return ways


def _ip(address: str) -> str:
    return address.rpartition(":")[0].strip("[]")


def _endpoints(mesh: Mesh, side: Side, ways: dict[str, str], serving: set[str], patience: float) -> set[str]:
    spec = mesh.spec.probe
    deadline = time.monotonic() + patience
    while True:
        hosts = envoy.clusters(side.client)
        ours = hosts["host"].str.startswith(f"{spec.server}.{spec.namespace}.svc.") & (hosts["port"] == spec.port)
        found = set(hosts[ours & (hosts["direction"] == "outbound")]["address"])
        if serving <= {ways.get(_ip(address)) for address in found} or time.monotonic() > deadline:
            return found
        time.sleep(0.5)


def _call(mesh: Mesh, side: Side, sides: dict[str, Side | Unknown]) -> dict[str, Any]:
    spec = mesh.spec.probe
    count = CALLS_PER_CLUSTER * len(mesh.clusters)
    # A gateway that swallows packets costs each call its whole time: one of them tells as much as all.
    command = curl(f"http://{spec.server}.{spec.namespace}:{spec.port}/hostname", count, CALL_TIMEOUT, fail_early=True)
    done = side.cluster.exec(
        side.client.name, side.client.namespace, side.container, command, 10 + count * CALL_TIMEOUT
    )
    answers = parse_answers(done.stdout)
    bad = next((answer for answer in answers if answer.status != 200), None)
    known = homes(sides)
    where = {known.get(hostname(answer.body), "?") for answer in answers if answer.status == 200}
    return {
        "sent": len(answers) if answers and not answers[-1].status else count,
        "answered": sum(answer.status == 200 for answer in answers),
        "answered_in": ",".join(sorted(where)),
        "error": told(bad) if bad else "",
    }


def check(mesh: Mesh, table: pd.DataFrame) -> Iterator[Finding]:
    """Judge what `look` saw: MK711 for each pair, MK712 for each cluster."""
    for row in table.to_dict("records"):
        for target in mesh.clusters:
            if target != row["cluster"]:
                yield check_endpoints(mesh, row, target)
        yield check_calls(row)


def questions(mesh: Mesh) -> list[Question]:
    """Return what `check` asks, for a plan that was not carried out."""
    return [_of_endpoints(mesh, reader, target) for reader, target in mesh.pairs] + [
        _of_calls(n) for n in mesh.clusters
    ]


def _of_endpoints(mesh: Mesh, reader: str, target: str) -> Question:
    multi = mesh.spec.topology.network == "multi"
    expected = f"the gateway of {target}, and no pod of another network" if multi else f"pods of {target}"
    return Question("MK711", "clients have the other cluster's endpoints", arrow(reader, target), expected)


def check_endpoints(mesh: Mesh, row: Row, target: str) -> Finding:
    """MK711: the client's Envoy has the target's gateway (or pods, in a flat network) for the probe's Service."""
    ask = _of_endpoints(mesh, row["cluster"], target)
    if row["reason"]:
        return ask.unknown(row["reason"], "stage 08 needs the probe's client and server in every cluster too")
    if unread := next((told for told in row["unread"].split("; ") if told.startswith(f"{target}: ")), ""):
        return ask.unknown(unread)
    if target not in row["serving"].split(","):
        return ask.unknown(
            f"{target} has no ready pod of {row['service']}", "deploy it there, or name yours in `probe:`"
        )
    if row["strange"]:
        cure = "addresses of another network's pods: which proxy, pod or gateway lacks its network? see MK703, MK806"
        return ask.fail(row["endpoints"], cure)
    there = target in row["leads_to"].split(",")
    return ask.judge(there, row["endpoints"] or "no endpoint", "is it clusterLocal in meshConfig? see MK804, MK806")


def _of_calls(name: str) -> Question:
    return Question("MK712", "every serving cluster answers calls", name, "all 200, from every cluster that serves")


def check_calls(row: Row) -> Finding:
    """MK712: calls to the merged Service succeed, and each cluster that serves it answered some."""
    ask = _of_calls(row["cluster"])
    if row["reason"]:
        return ask.unknown(row["reason"])
    observed = f"{row['answered']} of {row['sent']} from {row['answered_in'] or 'nobody'}"
    if row["answered"] != row["sent"]:
        return ask.fail(f"{observed}: {row['error'] or 'curl could not send'}", "which pair? run stage 08")
    if row["unread"]:
        return ask.unknown(f"{observed}; who serves is not known, {row['unread']}")
    missing = sorted(set(row["serving"].split(",")) - set(row["answered_in"].split(",")))
    cure = f"none from {', '.join(missing)}: locality rules may keep calls at home; stage 08 tries each pair alone"
    return ask.judge(not missing, observed, cure, otherwise=Verdict.WARN)
