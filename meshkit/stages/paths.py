"""Ways that the mesh needs, tried: proxies to istiod, API servers to istiod's webhook, names of load balancers.

Nothing is changed: a TLS hello from the probe's client, and a dry run of a pod, which is made nowhere.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from meshkit.checks import Finding, Verdict
from meshkit.errors import MeshkitError, UnreachableError
from meshkit.istio import injection, networks
from meshkit.istio.fleet import istiods, table
from meshkit.istio.policies import WEBHOOK, XDS
from meshkit.mesh import Mesh, Unknown
from meshkit.stages import eastwest, reach
from meshkit.stages.finding import Question, Row, arrow
from meshkit.stages.ways import Caller, callers, handshake

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd

    from meshkit.cluster import Cluster

COLUMNS: Final = {
    "cluster": "str", "way": "str", "port": "int64", "tried_from": "str", "state": "str", "detail": "str",
}  # fmt: skip
TO_ISTIOD, TO_WEBHOOK = "proxies to istiod", "API server to istiod's webhook"
_FORBIDDEN: Final = "(403)"
_UNCALLED: Final = "failed calling webhook"


def tried(mesh: Mesh) -> pd.DataFrame:
    """Try ways inside each cluster; one row for each.

    Columns: cluster, way (named as in `policies.network_policies`), port, tried_from, state (ok, no answer, untried:
    nobody to try from, or no right to; UNKNOWN), detail.

    To istiod: a TLS hello with port 15012 of its Service, from the probe's client, by the network that proxies use. To
    its webhook: the API server is asked for a dry run of a pod in the probe's namespace; what comes back has a sidecar
    only if the API server reached istiod.
    """
    known = callers(mesh)
    rows: list[dict[str, Any]] = []
    questions = {(TO_ISTIOD, XDS): _to_istiod, (TO_WEBHOOK, WEBHOOK): _to_webhook}
    for (way, port), question in questions.items():
        for name, told in mesh.each(lambda c, ask=question: ask(mesh, c, known[c.name])).items():  # type: ignore[misc]
            answer = {"state": "UNKNOWN", "detail": told.reason} if isinstance(told, Unknown) else told
            rows.append({"cluster": name, "way": way, "port": port, **answer})
    return table(rows, COLUMNS)


def _to_istiod(mesh: Mesh, cluster: Cluster, caller: Caller | Unknown | None) -> dict[str, str]:
    service = _istiod_service(cluster, mesh.root_namespace)
    if caller is None or isinstance(caller, Unknown) or not service:
        why = caller.reason if isinstance(caller, Unknown) else "no pod of the probe's client to try from"
        return {"state": "untried", "detail": why if service else "no istiod runs there"}
    told = handshake(caller, f"https://{service}.{mesh.root_namespace}.svc:{XDS}/")
    where = {"tried_from": caller.pod, "detail": f"{service}: {told.get('detail') or 'it shows its certificate'}"}
    return {**where, "state": str(told["state"])}


def _istiod_service(cluster: Cluster, namespace: str) -> str:
    revisions = [istiod.revision for istiod in istiods(cluster, namespace)]
    names = [f"istiod-{r}" if r not in ("", "default") else "istiod" for r in revisions]
    return next((name for name in names if cluster.find("services", namespace, name)), "")


def _to_webhook(mesh: Mesh, cluster: Cluster, caller: Caller | Unknown | None) -> dict[str, str]:
    del caller
    where = {"tried_from": "the API server"}
    namespace = cluster.find("namespaces", None, mesh.spec.probe.namespace)
    labels = ((namespace or {}).get("metadata") or {}).get("labels") or {}
    if labels.get(injection.INJECTION) != "enabled" and not labels.get(injection.REVISION):
        return {**where, "state": "untried", "detail": "the probe's namespace does not ask for sidecars"}
    if not cluster.can_i("create", "pods", mesh.spec.probe.namespace):
        return {**where, "state": "untried", "detail": "we may not ask for a dry run of a pod"}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "meshkit-dry-run", "namespace": mesh.spec.probe.namespace},
        "spec": {"containers": [{"name": "main", "image": "none"}]},
    }
    try:
        made = cluster.rehearse(pod, create=True)
    except MeshkitError as error:
        # Another admission's no, or a missing right, tells nothing of istiod's webhook.
        silent = isinstance(error, UnreachableError) or _UNCALLED in error.message
        state = "no answer" if silent and _FORBIDDEN not in error.message else "untried"
        return {**where, "state": state, "detail": error.message[:200]}
    injected = injection.carries(made)
    return {**where, "state": "ok" if injected else "no answer", "detail": "" if injected else "no sidecar was added"}


def check_tried(mesh: Mesh, found: pd.DataFrame) -> Iterator[Finding]:
    """Judge a table of `tried`."""
    for name in mesh.clusters:
        rows = {row["way"]: row for row in found[found["cluster"] == name].to_dict("records")}
        yield check_to_istiod(mesh, rows[TO_ISTIOD], name)
        yield check_to_webhook(mesh, rows[TO_WEBHOOK], name)


def check_to_istiod(mesh: Mesh, row: Row, name: str) -> Finding:
    """MK731: pods reach istiod's port 15012. Proxies that are connected do not notice at once when they do not."""
    ask = Question("MK731", "pods reach istiod", name, f"a TLS answer of istiod on {XDS}")
    context = mesh.spec.cluster(name).context
    cure = f"a firewall or NetworkPolicy between? kubectl --context {context} get networkpolicy -A; see MK209"
    return _way(ask, row, cure)


def check_to_webhook(mesh: Mesh, row: Row, name: str) -> Finding:
    """MK732: the API server reaches istiod's webhook (port 15017), which gives pods their sidecars."""
    ask = Question("MK732", "the API server reaches istiod's webhook", name, "a dry run of a pod gets a sidecar")
    context = mesh.spec.cluster(name).context
    cure = f"kubectl --context {context} get mutatingwebhookconfiguration; does a firewall let it to {WEBHOOK}?"
    return _way(ask, row, cure)


def _way(ask: Question, row: Row, cure: str) -> Finding:
    if row["state"] == "untried":
        return ask.answer(Verdict.SKIPPED, row["detail"])
    if row["state"] == "UNKNOWN":
        return ask.unknown(row["detail"], cure)
    return ask.judge(row["state"] == "ok", row["detail"] or "it does", cure)


# --- addresses --------------------------------------------------------------------------------------------------------


def check_hosts(mesh: Mesh, names: pd.DataFrame, gateways: pd.DataFrame, seen: pd.DataFrame) -> Iterator[Finding]:
    """MK733: where a gateway has a host name, each istiod has the address to which the name leads in its cluster now.

    istiod resolves it itself, now and then, and keeps what it had when that fails.

    Args:
        mesh: the mesh.
        names: of `ways.names`.
        gateways: of `networks.gateways`.
        seen: of `networks.gateways_seen`.
    """
    for reader, target in mesh.pairs:
        ask = Question(
            "MK733", "istiod has the gateway's current address", arrow(reader, target), "as its name resolves"
        )
        own = gateways[(gateways["cluster"] == target) & (gateways["network"] == mesh.spec.cluster(target).network)]
        hosts = {a for text in own["addresses"] for a in text.split(",") if a and not networks.is_number(a)}
        theirs = seen[(seen["cluster"] == reader) & (seen["network"] == mesh.spec.cluster(target).network)]
        resolved = names[(names["cluster"] == reader) & names["name"].isin(hosts) & (names["state"] == "resolved")]
        deaf = map(eastwest.deaf, seen[seen["cluster"] == reader].to_dict("records"))
        if reason := eastwest.unread(gateways, target) or next(filter(None, deaf), ""):
            yield ask.unknown(reason)
            continue
        if not hosts:
            yield ask.answer(Verdict.SKIPPED, "its gateway has no host name")
            continue
        if resolved.empty:
            yield ask.unknown(f"{', '.join(sorted(hosts))} could not be resolved there", "see MK206")
            continue
        known, now = set(theirs["address"]) - {""}, set(resolved["address"])
        told = f"istiod has {', '.join(sorted(known)) or 'none'}; the name leads to {', '.join(sorted(now))}"
        cure = "a name of many addresses may differ for a while; else restart istiod, and look at its DNS"
        yield ask.judge(now <= known, told, cure, otherwise=Verdict.WARN)


def check_ranges(
    mesh: Mesh, inventory: pd.DataFrame, gateways: pd.DataFrame, api_servers: pd.DataFrame
) -> Iterator[Finding]:
    """MK734: gateways and API servers of other clusters have addresses that are none of the cluster's own.

    An address in the ranges that its pods and Services are given, or that one of them has, means that one there, and no
    packet leaves the cluster. An API server that answered from there with a certificate of its own CA is at the right
    address, whatever the ranges.

    Args:
        mesh: the mesh.
        inventory: of `platform.inventory`.
        gateways: of `networks.gateways`.
        api_servers: of `reach.reach`.
    """
    proven = {(r["cluster"], r["target"]): str(r["server"]) for r in api_servers.to_dict("records") if _proves(r)}
    rows = {row["cluster"]: row for row in inventory.to_dict("records")}
    for reader, target in mesh.pairs:
        ask = Question(
            "MK734", "remote addresses are not the cluster's own", arrow(reader, target), "outside its own ranges"
        )
        if reason := rows[reader]["reason"] or rows[target]["reason"] or eastwest.unread(gateways, target):
            yield ask.unknown(reason)
            continue
        offered = gateways[gateways["cluster"] == target]["addresses"]
        written = str(rows[target]["api_server"])
        api = "" if proven.get((reader, target)) == written else urlsplit(written).hostname or ""
        theirs = sorted({a for text in [*offered, api] for a in text.split(",") if networks.is_number(a)})
        ranges = [r for key in ("pod_ranges", "service_ranges") for r in str(rows[reader][key]).split(",") if r]
        own = [ipaddress.ip_network(text, strict=False) for text in ranges]
        hit = [f"{a} is in {net}" for a in theirs for net in own if ipaddress.ip_address(a) in net]
        cure = f"give {target}'s gateway or API server another address, or {reader} other ranges"
        yield ask.judge(not hit, "; ".join(hit) or f"{', '.join(theirs) or 'no number'}: none is", cure)


def _proves(row: Row) -> bool:
    return str(row["answer"]).isdigit() and not str(row["detail"]).startswith(reach.UNCHECKED)
