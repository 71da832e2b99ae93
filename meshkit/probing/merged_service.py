"""The merged probe Service as each cluster's client sees it: the endpoints in its Envoy, and which clusters answer."""

from __future__ import annotations

import time
from collections.abc import Iterable
from functools import partial
from typing import Any, Final

import pandas as pd

from meshkit.istio.config import service_view
from meshkit.istio.config.services import endpoints
from meshkit.istio.multicluster import gateways
from meshkit.istio.proxies import envoy_admin
from meshkit.kube.cluster import Cluster
from meshkit.kube.mesh import Mesh, Unknown
from meshkit.probing.curl import curl, failure_text, hostname, parse_answers
from meshkit.probing.pair_probe import CALL_TIMEOUT, PATIENCE, ProbeTarget, cluster_of_pod, find_side
from meshkit.tables import table

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
    "hidden_by": "str",
    "refused_by": "str",
    "reason": "str",
}


def look(mesh: Mesh, patience: float = PATIENCE) -> pd.DataFrame:
    """Call the probe's Service from each cluster, once its Envoy has all endpoints, or after `patience` seconds.

    Columns: cluster, client (pod), service, serving (clusters with ready endpoints of it), unread (clusters whose
    endpoints could not be read, and why: "west: no answer; …"), endpoints (addresses in the client's Envoy), leads_to
    (clusters of these addresses: local pods and the gateways of other networks; in a flat network the pods of all
    clusters), strange (addresses of no cluster), sent, answered (with 200), answered_in (clusters of the pods that
    answered; `?` if a pod does not return its name, or several clusters have pods of that name), error, hidden_by
    (objects that hide a cluster's endpoints from this client: "west: Sidecar …; …", in Istio's order), refused_by
    (objects that redirect its calls or have them refused, likewise), reason (why the cluster could not be tried).
    """
    found = mesh.read_all(calls=partial(calls, patience=patience), views=service_view.views)
    return with_causes(found["calls"], found["views"])


def with_causes(calls: pd.DataFrame, views: Iterable[service_view.ServiceView]) -> pd.DataFrame:
    """Return a table of `calls` with its columns hidden_by and refused_by."""
    links = {
        "hidden_by": (service_view.Link.DISCOVERY, service_view.Link.ENDPOINTS),
        "refused_by": (service_view.Link.GATEWAY, service_view.Link.ANSWERS),
    }
    known = list(views)

    def words(client: str, column: str) -> str:
        mine = [view for view in known if view.client == client]
        return "; ".join(f"{view.server}: {one}" for view in mine for one in view.of(*links[column]))

    return calls.assign(**{name: [words(client, name) for client in calls["cluster"]] for name in links})


def calls(mesh: Mesh, patience: float = PATIENCE) -> pd.DataFrame:
    """Return the table of `look` without what is read of objects: hidden_by and refused_by are empty."""
    spec = mesh.spec.probe
    seen = gateways.gateways_seen(mesh)
    sides = mesh.each(lambda cluster: find_side(cluster, mesh))
    own = mesh.each(lambda cluster: endpoints(cluster, spec.namespace, spec.server))

    def row(cluster: Cluster) -> dict[str, Any]:
        side = sides[cluster.name]
        if isinstance(side, Unknown):
            return {"reason": side.reason}
        cluster_of = _cluster_of_address(mesh, cluster.name, own, seen)
        serving = [name for name, found in own.items() if found]
        unread = [f"{name}: {found.reason}" for name, found in own.items() if isinstance(found, Unknown)]
        found = _endpoints(mesh, side, cluster_of, set(serving), patience)
        return {
            "client": side.client.name,
            "serving": ",".join(serving),
            "unread": "; ".join(unread),
            "endpoints": ",".join(sorted(found)),
            "leads_to": ",".join(name for name in mesh.clusters if name in {cluster_of.get(_ip(a)) for a in found}),
            "strange": ",".join(sorted(a for a in found if _ip(a) not in cluster_of)),
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


def _cluster_of_address(
    mesh: Mesh, reader: str, own: dict[str, set[str] | Unknown], seen: pd.DataFrame
) -> dict[str, str]:
    """Return the cluster that each expected address leads to, for clients in the reader cluster."""
    known: dict[str, str] = {}
    for entry in mesh.spec.clusters:
        addresses = own[entry.name]
        if mesh.spec.topology.network == "multi" and entry.name != reader:
            rows = seen[(seen["cluster"] == reader) & (seen["network"] == entry.network)]
            addresses = set(rows["address"]) - {""}
        known |= {} if isinstance(addresses, Unknown) else dict.fromkeys(addresses, entry.name)
    return known


def _ip(address: str) -> str:
    return address.rpartition(":")[0].strip("[]")


def _endpoints(
    mesh: Mesh, side: ProbeTarget, cluster_of: dict[str, str], serving: set[str], patience: float
) -> set[str]:
    spec = mesh.spec.probe
    deadline = time.monotonic() + patience
    while True:
        hosts = envoy_admin.clusters(side.client)
        ours = hosts["host"].str.startswith(f"{spec.server}.{spec.namespace}.svc.") & (hosts["port"] == spec.port)
        found = set(hosts[ours & (hosts["direction"] == "outbound")]["address"])
        if serving <= {cluster_of.get(_ip(address)) for address in found} or time.monotonic() > deadline:
            return found
        time.sleep(0.5)


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
