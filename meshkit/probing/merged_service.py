"""The merged probe Service as each cluster's client sees it: the endpoints in its Envoy, and which clusters answer."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Final

import pandas as pd

from meshkit.istio.config import service_view
from meshkit.istio.config.hindrances import Link
from meshkit.istio.control_plane import primaries
from meshkit.istio.multicluster import gateway_choice, gateways
from meshkit.istio.multicluster.gateways import GatewaysSeen
from meshkit.istio.proxies import envoy_admin
from meshkit.kube.cluster import Cluster
from meshkit.kube.endpoints import endpoints
from meshkit.kube.mesh import Mesh, Unknown
from meshkit.probing.curl import curl, failure_text, hostname, parse_answers
from meshkit.probing.pair_probe import CALL_TIMEOUT, PATIENCE, ProbeTarget, cluster_of_pod, find_side
from meshkit.tables import Table, integer, text

CALLS_PER_CLUSTER: Final = 15
MERGED: Final = Table(
    "merged",
    "The probe's Service as each cluster's client sees it",
    {
        "cluster": text("where it was tried"),
        "client": text("pod"),
        "service": text("that was called"),
        "serving": text("clusters with ready endpoints of it, comma-joined"),
        "unread": text("clusters that could not be read, and why"),
        "endpoints": text("addresses that the client's Envoy has"),
        "leads_to": text(
            "clusters of these addresses: own pods, and gateways of other networks, or pods of all clusters in a "
            "flat network"
        ),
        "strange": text("addresses that are none of those"),
        "sent": integer("requests"),
        "answered": integer("requests with status 200"),
        "answered_in": text(
            "clusters of the pods that answered; `?` where pods do not give their names, or several clusters have "
            "pods of that name"
        ),
        "error": text("why requests failed"),
        "hidden_by": text(
            "objects that hide a cluster's endpoints from this client, such as `west: Sidecar …`, in Istio's order"
        ),
        "refused_by": text("objects that redirect its requests or have them refused, likewise"),
        "preferred_by": text("objects that keep its requests with nearer endpoints while those are healthy, likewise"),
        "reason": text("why a cluster could not be tried"),
    },
    key=("cluster",),
    show=("cluster", "endpoints", "leads_to", "strange", "sent", "answered", "answered_in", "error", "reason"),
    compare=("leads_to", "answered_in", "error", "reason"),
)


def look(mesh: Mesh, patience: float = PATIENCE) -> pd.DataFrame:
    """Call the probe's Service from each cluster, once its Envoy has all endpoints, or after `patience` seconds."""
    found = mesh.read_all(calls=partial(calls, patience=patience), views=service_view.views)
    return with_causes(found["calls"], found["views"])


def with_causes(calls: pd.DataFrame, views: Iterable[service_view.ServiceView]) -> pd.DataFrame:
    """Return a table of `calls` with its columns hidden_by, refused_by and preferred_by."""
    links = {
        "hidden_by": (Link.DISCOVERY, Link.ENDPOINTS),
        "refused_by": (Link.GATEWAY, Link.ANSWERS),
        "preferred_by": (Link.PREFERENCE,),
    }
    known = list(views)

    def words(client: str, column: str) -> str:
        mine = [view for view in known if view.client == client]
        return "; ".join(f"{view.server}: {one}" for view in mine for one in view.of(*links[column]))

    return calls.assign(**{name: [words(client, name) for client in calls["cluster"]] for name in links})


def calls(mesh: Mesh, patience: float = PATIENCE) -> pd.DataFrame:
    """Return the table of `look` without what is read of objects: hidden_by and the like are empty."""
    spec = mesh.spec.probe
    seen, remotes = gateways.gateways_seen(mesh), primaries.remotes(mesh)
    sides = mesh.each(lambda cluster: find_side(cluster, mesh))
    own = mesh.each(lambda cluster: endpoints(cluster, spec.namespace, spec.server))

    def row(cluster: Cluster) -> dict[str, Any]:
        side = sides[cluster.name]
        if isinstance(side, Unknown):
            return {"reason": side.reason}
        reader, unasked = _reader(cluster.name, remotes)
        clusters_of = _clusters_of_address(mesh, cluster.name, own, seen, reader)
        serving = [name for name, found in own.items() if found]
        unread = [f"{name}: {found.reason}" for name, found in own.items() if isinstance(found, Unknown)]
        unread += _unseen(mesh, cluster.name, seen, reader, unasked)
        found = _endpoints(mesh, side, clusters_of, set(serving), patience)
        return {
            "client": side.client.name,
            "serving": ",".join(serving),
            "unread": "; ".join(unread),
            "endpoints": ",".join(sorted(found)),
            "leads_to": ",".join(name for name in mesh.clusters if name in _clusters(found, clusters_of)),
            "strange": ",".join(sorted(a for a in found if _ip(a) not in clusters_of)),
            **_call(mesh, side, sides),
        }

    rows = mesh.each(row, deadline=4 * PATIENCE)
    service = {"service": f"{spec.namespace}/{spec.server}"}
    return MERGED.frame(
        (
            {"cluster": name, **service, **({"reason": r.reason} if isinstance(r, Unknown) else r)}
            for name, r in rows.items()
        )
    )


def _clusters_of_address(
    mesh: Mesh, client: str, own: dict[str, set[str] | Unknown], seen: GatewaysSeen, reader: str
) -> dict[str, set[str]]:
    """Return the clusters that each expected address leads to, for a cluster's clients, which a reader's istiods serve.

    Clusters of one network may be behind one gateway.
    """
    known: dict[str, set[str]] = {}
    for name in mesh.clusters:
        addresses = own[name]
        if mesh.spec.crosses(client, name):
            addresses = {one.address for one in gateway_choice.seen(mesh, seen, reader, name)}
        for address in () if isinstance(addresses, Unknown) else addresses:
            known.setdefault(address, set()).add(name)
    return known


def _clusters(addresses: Iterable[str], known: Mapping[str, set[str]]) -> set[str]:
    return set().union(*(known.get(_ip(address), set()) for address in addresses))


def _reader(client: str, remotes: Mapping[str, primaries.Remote | Unknown]) -> tuple[str, str]:
    """Return the cluster whose istiods serve a client's, and why they cannot be asked, if that is so."""
    remote = remotes.get(client)
    if remote is None or (isinstance(remote, primaries.Remote) and remote.own):
        return client, ""
    if isinstance(remote, Unknown):
        return client, remote.reason
    return remote.primary or client, "" if remote.primary else remote.found_by


def _unseen(mesh: Mesh, client: str, seen: GatewaysSeen, reader: str = "", unasked: str = "") -> list[str]:
    """Return the clusters whose gateway no istiod that serves the client could be asked for, and why."""
    reader = reader or client
    why = unasked or seen.unknown(reader)
    others = [name for name in mesh.clusters if mesh.spec.crosses(client, name)] if why else []
    return [f"{name}: {why}" for name in others if not gateway_choice.seen(mesh, seen, reader, name)]


def _ip(address: str) -> str:
    return address.rpartition(":")[0].strip("[]")


def _endpoints(
    mesh: Mesh, side: ProbeTarget, clusters_of: Mapping[str, set[str]], serving: set[str], patience: float
) -> set[str]:
    spec = mesh.spec.probe
    deadline, client = time.monotonic() + patience, side.client
    while True:
        hosts = envoy_admin.clusters(client)
        ours = hosts["host"].str.startswith(f"{spec.server}.{spec.namespace}.svc.") & (hosts["port"] == spec.port)
        found = set(hosts[ours & (hosts["direction"] == "outbound")]["address"])
        if serving <= _clusters(found, clusters_of) or time.monotonic() > deadline:
            return found
        time.sleep(0.5)
        client = replace(client, cluster=client.cluster.fresh)


def _call(mesh: Mesh, side: ProbeTarget, sides: dict[str, ProbeTarget | Unknown]) -> dict[str, Any]:
    spec = mesh.spec.probe
    count = CALLS_PER_CLUSTER * len(mesh.clusters)
    # Where a gateway drops packets, each call takes its full timeout, so one failed call is enough.
    command = curl(f"http://{spec.server}.{spec.namespace}:{spec.port}/hostname", count, CALL_TIMEOUT, fail_early=True)
    done = side.cluster.exec(
        side.client.name, side.client.namespace, side.container, command, 10 + count * CALL_TIMEOUT
    )
    answers = parse_answers(done.stdout)
    bad = next((answer for answer in answers if answer.status != 200), None)
    known = cluster_of_pod(sides)
    where = {known.get(hostname(answer.body), "?") for answer in answers if answer.status == 200}
    return {
        "sent": len(answers) if answers and not answers[-1].status else count,
        "answered": sum(answer.status == 200 for answer in answers),
        "answered_in": ",".join(sorted(where)),
        "error": failure_text(bad) if bad else "",
    }
