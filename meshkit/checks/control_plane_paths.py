"""Checks of paths that the mesh needs: proxies to istiod, API servers to istiod's webhook, names of load balancers.

Nothing is changed: a TLS hello from the probe's client, and a dry run of a pod, which is created nowhere.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from urllib.parse import urlsplit

import pandas as pd

from meshkit.checks.finding import Finding, Verdict
from meshkit.checks.question import Question, arrow
from meshkit.istio.config.network_policies import WEBHOOK, XDS
from meshkit.istio.control_plane.versions import Identity, is_remote
from meshkit.istio.multicluster import gateway_choice
from meshkit.istio.multicluster.gateways import Gateways, GatewaysSeen
from meshkit.kube.api_server import is_number
from meshkit.kube.mesh import Mesh
from meshkit.probing import api_server_reach
from meshkit.probing.control_plane_reach import TO_ISTIOD, TO_WEBHOOK
from meshkit.tables import Row


def check_tried(mesh: Mesh, found: pd.DataFrame) -> Iterator[Finding]:
    """Judge a table of `tried`."""
    for name in mesh.clusters:
        rows = {row["way"]: row for row in found[found["cluster"] == name].to_dict("records")}
        yield check_to_istiod(mesh, rows[TO_ISTIOD], name)
        yield check_to_webhook(mesh, rows[TO_WEBHOOK], name)


def silent(found: pd.DataFrame) -> frozenset[str]:
    """Return the clusters of a table of `tried` from which a new connection to istiod got no answer."""
    return frozenset(found[found["state"] == "no answer"]["cluster"])


def check_to_istiod(mesh: Mesh, row: Row, name: str) -> Finding:
    """MK731: pods reach istiod's port 15012. Proxies that are connected do not notice at once when they do not."""
    ask = Question("MK731", "pods reach istiod", name, f"a TLS answer of istiod on {XDS}")
    context = mesh.spec.cluster(name).context
    remedy = f"a firewall or NetworkPolicy between? kubectl --context {context} get networkpolicy -A; see MK209"
    return _way(ask, row, remedy)


def check_to_webhook(mesh: Mesh, row: Row, name: str) -> Finding:
    """MK732: the API server reaches istiod's webhook (port 15017), which gives pods their sidecars."""
    ask = Question("MK732", "the API server reaches istiod's webhook", name, "a dry run of a pod gets a sidecar")
    context = mesh.spec.cluster(name).context
    remedy = f"kubectl --context {context} get mutatingwebhookconfiguration; does a firewall let it to {WEBHOOK}?"
    return _way(ask, row, remedy)


def _way(ask: Question, row: Row, remedy: str) -> Finding:
    if row["state"] == "untried":
        return ask.answer(Verdict.SKIPPED, row["detail"])
    if row["state"] == "UNKNOWN":
        return ask.unknown(row["detail"], remedy)
    return ask.judge(row["state"] == "ok", row["detail"] or "it does", remedy)


def check_hosts(
    mesh: Mesh, identity: Identity, names: pd.DataFrame, gateways: Gateways, seen: GatewaysSeen
) -> Iterator[Finding]:
    """MK733: where a gateway has a host name, each istiod has the address to which the name leads in its cluster now.

    istiod resolves it itself, now and then, and keeps what it had when that fails.

    Args:
        mesh: the mesh.
        identity: of `versions.identity`.
        names: of `pod_reach.names`.
        gateways: of `gateways.gateways`.
        seen: of `gateways.gateways_seen`.
    """
    for reader, target in mesh.ordered_pairs:
        if not mesh.spec.crosses(reader, target):
            continue
        ask = Question(
            "MK733", "istiod has the gateway's current address", arrow(reader, target), "as its name resolves"
        )
        if is_remote(identity, reader):
            yield ask.answer(Verdict.SKIPPED, f"no istiod runs in {reader}")
            continue
        near = gateway_choice.offered(mesh, gateways, target)
        hosts = {a for one in near for a in one.addresses if not is_number(a)}
        resolved = names[(names["cluster"] == reader) & names["name"].isin(hosts) & (names["state"] == "resolved")]
        if reason := gateway_choice.unread(mesh, gateways, target) or seen.unknown(reader):
            yield ask.unknown(reason)
            continue
        if not hosts:
            yield ask.answer(Verdict.SKIPPED, "its gateway has no host name")
            continue
        if resolved.empty:
            yield ask.unknown(f"{', '.join(sorted(hosts))} could not be resolved there", "see MK206")
            continue
        known, now = {one.address for one in gateway_choice.seen(mesh, seen, reader, target)}, set(resolved["address"])
        observed = f"istiod has {', '.join(sorted(known)) or 'none'}; the name leads to {', '.join(sorted(now))}"
        remedy = "a name of many addresses may differ for a while; else restart istiod, and look at its DNS"
        yield ask.judge(now <= known, observed, remedy, otherwise=Verdict.WARN)


def check_ranges(
    mesh: Mesh, identity: Identity, inventory: pd.DataFrame, gateways: Gateways, api_servers: pd.DataFrame
) -> Iterator[Finding]:
    """MK734: gateways and API servers of other clusters have addresses that are none of the cluster's own.

    An address in the ranges that its pods and Services are given, or that one of them has, means that one there, and no
    packet leaves the cluster. An API server that answered from there with a certificate of its own CA is at the right
    address, whatever the ranges. Gateways count between networks only, API servers where an istiod asks them.

    Args:
        mesh: the mesh.
        identity: of `versions.identity`.
        inventory: of `inventory.inventory`.
        gateways: of `gateways.gateways`.
        api_servers: of `api_server_reach.reach`.
    """
    proven = {(r["cluster"], r["target"]): str(r["server"]) for r in api_servers.to_dict("records") if _proves(r)}
    rows = {row["cluster"]: row for row in inventory.to_dict("records")}
    for reader, target in mesh.ordered_pairs:
        ask = Question(
            "MK734", "remote addresses are not the cluster's own", arrow(reader, target), "outside its own ranges"
        )
        apart = mesh.spec.crosses(reader, target)
        unread = gateway_choice.unread(mesh, gateways, target) if apart else ""
        if reason := rows[reader]["reason"] or rows[target]["reason"] or unread:
            yield ask.unknown(reason)
            continue
        written = str(rows[target]["api_server"])
        unasked = is_remote(identity, reader) or proven.get((reader, target)) == written
        api = "" if unasked else urlsplit(written).hostname or ""
        near = gateways.of(target) or gateway_choice.offered(mesh, gateways, target)
        offered = [address for one in near for address in one.addresses] if apart else []
        theirs = sorted({address for address in [*offered, api] if is_number(address)})
        ranges = [r for key in ("pod_ranges", "service_ranges") for r in str(rows[reader][key]).split(",") if r]
        own = [ipaddress.ip_network(text, strict=False) for text in ranges]
        hit = [f"{a} is in {net}" for a in theirs for net in own if ipaddress.ip_address(a) in net]
        remedy = f"give {target}'s gateway or API server another address, or {reader} other ranges"
        yield ask.judge(not hit, "; ".join(hit) or f"{', '.join(theirs) or 'no number'}: none is", remedy)


def _proves(row: Row) -> bool:
    return str(row["answer"]).isdigit() and not str(row["detail"]).startswith(api_server_reach.UNCHECKED)
