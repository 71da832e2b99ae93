"""Checks of east-west gateways, for stages 06 to 08: is one offered, and does each istiod know it?"""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from meshkit.checks.finding import Finding, Verdict
from meshkit.checks.question import Question, arrow
from meshkit.istio.multicluster import gateways as multicluster_gateways
from meshkit.istio.multicluster.gateway_rows import istiod_error, read_error
from meshkit.kube.mesh import Mesh
from meshkit.tables import Row


def check_gateway(mesh: Mesh, gateways: pd.DataFrame, name: str) -> Finding:
    """MK805: the cluster offers a gateway of its network: labelled, addressed, listening, ready, exposed."""
    entry = mesh.spec.cluster(name)
    port = multicluster_gateways.PASSTHROUGH_PORT
    expected = f"a Service of {entry.network} with an address, port {port}, ready pods and an AUTO_PASSTHROUGH Gateway"
    ask = Question("MK805", "east-west gateway is offered", name, expected)
    if reason := read_error(gateways, name):
        return ask.unknown(reason)
    rows = [
        (row, unmet_requirements(row, entry.network))
        for row in gateways[gateways["cluster"] == name].to_dict("records")
    ]
    good = [row for row, missing in rows if not missing]
    problems = [(row, missing) for row, missing in rows if missing]
    # istiod asks a Service for no more: others send their share of the calls to each that has all of this.
    used = [(row, missing) for row, missing in problems if _is_used(row, entry.network)]
    if good and not used:
        row = good[0]
        at = f"{row['service'] or row['made_by']} at {row['addresses']}:{row['port']}"
        behind = "MK840 asks what is behind it" if _is_declared(row) else f"{row['ready']}/{row['pods']} ready"
        return ask.answer(Verdict.PASS, f"{at}, {behind}")
    wrong = used if good else problems
    told = [f"{row['service'] or 'no Service'}: {', '.join(missing)}" for row, missing in wrong]
    told += ["istiods send calls there, too"] if good else []
    steps = dict.fromkeys(step for row, _ in wrong for step in _steps(row, entry.network, entry.context))
    return ask.fail("; ".join(told) or "none", "; ".join(steps) or "run stage 06")


def _is_used(row: Row, network: str) -> bool:
    return bool(row["network"] == network and row["addresses"] and row["port"])


def _is_declared(row: Row) -> bool:
    return bool(row["addresses"]) and not row["service"] and not row["reason"]


def unmet_requirements(row: Row, network: str) -> list[str]:
    """Return which requirements of a network's gateway a row of `gateways.gateways` does not meet."""
    if _is_declared(row):
        return [] if row["port"] else ["no port"]
    pods = f"{row['ready']} of {row['pods']} pods ready"
    wrong = row["network"] != network
    return [
        *([row["reason"]] if row["reason"] else []),
        *([f"label {multicluster_gateways.NETWORK} is {row['network'] or 'missing'}"] if wrong else []),
        *([_no_address(row)] if not row["addresses"] else []),
        *([f"does not listen on {multicluster_gateways.PASSTHROUGH_PORT}"] if not row["port"] else []),
        *([pods] if not row["ready"] else []),
        *(["no AUTO_PASSTHROUGH Gateway selects it"] if not row["exposed_by"] else []),
    ]


def _steps(row: Row, network: str, context: str) -> Iterator[str]:
    """Yield what gives a row of `gateways.gateways` what it lacks, in the order of `lacks`."""
    if not row["service"]:
        yield "run stage 06, which installs one"
        return
    kubectl, place = f"kubectl --context {context}", f"-n {row['namespace']} {row['service']}"
    if row["network"] != network:
        yield f"{kubectl} label service {place} {multicluster_gateways.NETWORK}={network} --overwrite"
    if not row["addresses"]:
        yield {
            "NodePort": f"{kubectl} annotate service {place} {multicluster_gateways.NODE_SELECTOR}='{{}}'",
            "LoadBalancer": f"{kubectl} describe service {place} shows why it is pending",
        }.get(row["type"], f'{kubectl} patch service {place} -p \'{{"spec": {{"type": "LoadBalancer"}}}}\'')
    if not row["port"]:
        port = multicluster_gateways.PASSTHROUGH_PORT
        yield f"{kubectl} edit service {place}: add port {port}, name tls, which its pods listen on"
    if not row["ready"]:
        selector = f" -l {row['selector']}" if row["selector"] else ""
        yield f"{kubectl} get pods -n {row['namespace']}{selector}"
    if not row["exposed_by"]:
        yield "run stage 06, which exposes Services by an AUTO_PASSTHROUGH Gateway"


def _no_address(row: Row) -> str:
    why = {
        "LoadBalancer": "its load balancer is pending",
        "NodePort": f"type NodePort needs {multicluster_gateways.NODE_SELECTOR} and nodes with an ExternalIP",
        "ClusterIP": "type ClusterIP has none without externalIPs",
    }.get(row["type"], "")
    return f"no address ({why})" if why else "no address"


def check_gateway_seen(
    mesh: Mesh, gateways: pd.DataFrame, gateways_seen: pd.DataFrame, reader: str, target: str
) -> Iterator[Finding]:
    """MK806: each istiod of the reader knows the gateway of the target's network; or of its own, if that is meant.

    MK838: istiod's address for the remote gateway is one that the gateway has now.
    """
    network = mesh.spec.cluster(target).network
    offered = gateways[(gateways["cluster"] == target) & (gateways["network"] == network)]
    addresses = {a for text in offered["addresses"] for a in text.split(",") if a}
    expected = f"{network} at {', '.join(sorted(addresses)) or 'an address'}"
    own_view = reader == target
    check = "istiod knows its own network's gateway" if own_view else "istiod knows the other network's gateway"
    subject = reader if own_view else arrow(reader, target)
    ask = Question("MK806", check, subject, expected)
    own = gateways_seen[gateways_seen["cluster"] == reader]
    if own.empty:
        yield ask.unknown("no istiod to ask", "see MK801")
    for istiod, rows in own.groupby("istiod"):
        if reason := next(filter(None, map(istiod_error, rows.to_dict("records"))), ""):
            yield ask.unknown(reason)
            continue
        seen = set(rows[rows["network"] == network]["address"])
        observed = f"{istiod}: {network} at {', '.join(sorted(seen))}" if seen else f"{istiod}: no gateway of {network}"
        if seen and (reason := read_error(gateways, target)):
            yield ask.unknown(f"{observed}; what {target} offers could not be read: {reason}")
            continue
        yield ask.judge(seen, observed, "without it, proxies get the pods' own addresses; see MK805")
        if not seen:
            continue
        at = Question("MK838", "gateway is seen at its current address", subject, expected)
        # istiod resolves host names itself (EKS), so only numbers can be compared.
        if addresses and not any(map(multicluster_gateways.is_number, addresses)):
            yield at.answer(Verdict.SKIPPED, f"{observed}; it has a host name, which istiod resolves: see MK733")
            continue
        if not addresses:
            yield at.unknown(f"{observed}; {target} offers no address to compare it with", "see MK805")
            continue
        cure = "an old address stays while a name does not resolve; meshNetworks may name another; restart that istiod"
        yield at.judge(seen <= addresses, observed, cure)
