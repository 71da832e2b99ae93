"""A live mesh under other ids (stage 05): which proxies still claim the former ones, and when these may go.

A proxy claims the cluster id, network and mesh id that its pod was injected with. istiod cannot tell who still claims
an alias: it takes that for its own id before it notes it (istio/istio, pilot/pkg/xds/ads.go). So pods are read, also
those that start or end, and each Envoy is asked.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any, Final

import pandas as pd

from meshkit import parameters
from meshkit.checks.finding import Finding, Verdict
from meshkit.checks.question import Question, planned
from meshkit.errors import MeshkitError
from meshkit.istio.control_plane import istioctl
from meshkit.istio.control_plane.istiods_and_proxies import Proxy, ask_proxies, pods_with_proxy
from meshkit.istio.proxies import envoy_admin
from meshkit.istio.proxies.proxy_status import proxy_status
from meshkit.kube.cluster import Cluster
from meshkit.kube.mesh import Mesh, Unknown
from meshkit.kube.wait import Wait
from meshkit.tables import Row, Table, text

IDENTITIES: Final = Table(
    "identities",
    "Every proxy and what it claims",
    {
        "cluster": text("its cluster"),
        "namespace": text("its namespace"),
        "proxy": text("its pod"),
        "state": text(
            "its phase, or Ending; empty: connected to istiod without a pod that could be read, such as a virtual "
            "machine's"
        ),
        "cluster_id": text("of its pod"),
        "told": text("the cluster id that its Envoy reports to istiod"),
        "network": text("of its pod"),
        "mesh_id": text("of its pod"),
        "reason": text("why a row, or a whole cluster, could not be read"),
    },
    key=("cluster", "namespace", "proxy"),
)
LEFT: Final = replace(
    IDENTITIES,
    name="proxies-left",
    caption="Proxies that claim another id, network or mesh id, or cannot be read",
    limit=20,
)
LEFT_AFTER: Final = LEFT.renamed("proxies-left-after", "Proxies that are left")
SETTLE, TRIES = 2.0, 3
RESTART = "restart its workload (`kubectl rollout restart`), recreate a bare pod; then run again"
READ = "can its Envoy be asked? `istioctl proxy-config bootstrap POD.NAMESPACE`"


def identities(mesh: Mesh) -> pd.DataFrame:
    """Return one row for each proxy, with the ids that it claims.

    Source: ISTIO_META_CLUSTER_ID, ISTIO_META_NETWORK and ISTIO_META_MESH_ID of each pod that has not ended; the node of
    each Envoy's `/server_info`; `/debug/syncz` of each istiod.
    """
    for attempt in range(TRIES):
        rows = _of_pods(mesh)
        podless = list(_podless(mesh, rows))
        if not podless or attempt + 1 == TRIES:
            break
        time.sleep(SETTLE)  # istiod may not know yet that a proxy is gone
    return IDENTITIES.frame([*rows, *podless])


def _of_pods(mesh: Mesh) -> list[dict[str, str]]:
    found, claimed = mesh.each(_pods), _reported_ids(mesh)
    rows: list[dict[str, str]] = []
    for name, pods in found.items():
        if isinstance(pods, Unknown):
            rows.append({"cluster": name, "reason": pods.reason})
            continue
        for pod in pods:
            answer = claimed.get((name, pod["namespace"], pod["proxy"]))
            rows.append({"cluster": name, **pod, **_asked(pod, answer)})
    return rows


def _pods(cluster: Cluster) -> list[dict[str, str]]:
    return [
        {
            "namespace": proxy.namespace,
            "proxy": proxy.name,
            "state": state,
            "cluster_id": proxy.cluster_id,
            "network": proxy.network,
            "mesh_id": proxy.mesh_id,
        }
        for proxy, state in pods_with_proxy(cluster)
    ]


def _reported_ids(mesh: Mesh) -> dict[tuple[str, str, str], str | Unknown]:
    """Return the cluster id that each running Envoy reports."""

    def ask(proxy: Proxy) -> str:
        metadata = envoy_admin.server_info(proxy).get("node", {}).get("metadata", {})
        return str(metadata.get("CLUSTER_ID", ""))

    return {(name, p.namespace, p.name): answer for name, p, answer in ask_proxies(mesh, ask) if p}


def _asked(pod: dict[str, str], answer: str | Unknown | None) -> dict[str, str]:
    if isinstance(answer, Unknown):
        return {"reason": answer.reason}
    # One that does not run yet, or no more, has its pod's word only.
    silent = answer is None and pod["state"] == "Running"
    return {"told": answer or "", "reason": "its Envoy was not asked" if silent else ""}


def _podless(mesh: Mesh, rows: Iterable[dict[str, str]]) -> Iterator[dict[str, str]]:
    known = {(row["cluster"], row.get("namespace", ""), row.get("proxy", "")) for row in rows}
    status = proxy_status(mesh).drop_duplicates(["cluster", "istiod_cluster", "namespace", "proxy"])
    for row in status.to_dict("records"):
        who = (row["cluster"], row["namespace"], row["proxy"])
        if row["proxy"] and row["istiod"] and who not in known:
            reason = "connected to istiod, and no pod of the cluster: what it claims cannot be read"
            yield {"cluster": row["istiod_cluster"], "namespace": who[1], "proxy": who[2], "reason": reason}
        elif not row["proxy"]:
            yield {"cluster": row["cluster"], "reason": row["nack"]}


def left(mesh: Mesh, rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of `identities` that claim another id, network or mesh id than the mesh file says, or are unread.

    The pod's and its Envoy's cluster id must be the same. A pod that is ending is not listed.
    """
    rows = rows[rows["state"] != "Ending"]
    ids = rows["cluster"]
    networks = ids.map({entry.name: entry.network for entry in mesh.spec.clusters})
    same_id = (rows["told"] == ids) | (rows["told"] == "")
    right = (
        (rows["cluster_id"] == ids) & same_id & (rows["network"] == networks) & (rows["mesh_id"] == mesh.spec.mesh.id)
    )
    return rows[~right | (rows["reason"] != "")]


def check_claims(mesh: Mesh, rows: pd.DataFrame) -> Iterator[Finding]:
    """MK522: every proxy claims the cluster id, the network and the mesh id of the mesh file."""
    for entry in mesh.spec.clusters:
        expected = f"{entry.name}, {entry.network}, {mesh.spec.mesh.id}"
        ask = Question("MK522", "proxies claim the right id and network", entry.name, expected)
        mine = rows[rows["cluster"] == entry.name]
        wrong = left(mesh, mine)
        named = wrong[wrong["reason"] == ""]
        if len(named):
            claimed = [f"{_name(r)} ({_claim(r)})" for r in named.to_dict("records")]
            yield ask.fail(f"{len(named)} of {len(mine)} do not: {_few(claimed)}", RESTART)
        elif len(wrong):
            yield ask.unknown(_few(_unread(wrong)), READ)
        else:
            yield ask.answer(Verdict.PASS, f"all {len(mine)}")


def _claim(row: Row) -> str:
    ids = "/".join(dict.fromkeys(filter(None, (row["cluster_id"], row["told"])))) or "no id"
    return ", ".join((ids, row["network"] or "no network", row["mesh_id"] or "no mesh id"))


def _name(row: Row) -> str:
    return f"{row['namespace']}/{row['proxy']}" if row["proxy"] else str(row["cluster"])


def _unread(rows: pd.DataFrame) -> list[str]:
    return [f"{_name(row)}: {row['reason']}" for row in rows.to_dict("records")]


def _few(texts: list[str], most: int = 5) -> str:
    return "; ".join(texts[:most]) + (f"; and {len(texts) - most} more" if len(texts) > most else "")


def dropped(plane: Row, *, drop_alias: bool) -> str:
    """Return the id that a control plane (a row of `stage.planes`) would no longer accept, or an empty text.

    It is dropped when that is asked for; and when the control plane is renamed again, for it can have one alias only
    (istio/istio, pilot/cmd/pilot-discovery/app/options.go).
    """
    accepted = str(plane["accepts"])
    if accepted in ("", plane["becomes"]):
        return ""
    return accepted if drop_alias or plane["cluster_id"] != plane["becomes"] else ""


def check_former(planes: pd.DataFrame, rows: pd.DataFrame, *, drop_alias: bool) -> Iterator[Finding]:
    """MK507: no proxy claims an id that a control plane is to accept no longer.

    Such a proxy would go on with what its Envoy has, and get neither configuration nor certificates.

    Raises:
        InputError: `drop_alias` is neither True nor False.
    """
    parameters.require_bool("drop_alias", drop_alias)
    for plane in planes.to_dict("records"):
        name, accepted = plane["cluster"], plane["accepts"]
        going = dropped(plane, drop_alias=drop_alias)
        ask = Question("MK507", "no proxy claims a dropped cluster id", name, f"no proxy claims {going or accepted}")
        mine = rows[rows["cluster"] == name]
        if plane["reason"]:
            yield ask.unknown(plane["reason"])
        elif going:
            yield _judge(ask, mine, going)
        elif accepted not in ("", name):
            observed = f"{accepted} stays accepted; {len(_claim_it(mine, accepted))} of {len(mine)} proxies claim it"
            yield ask.answer(Verdict.SKIPPED, f"{observed}; `-p drop_alias true` drops it when none does")
        elif drop_alias:
            renamed = plane["alias"] not in ("", name)
            observed = (
                "it is renamed first; drop the former id in a later run" if renamed else "it accepts its own id only"
            )
            yield ask.answer(Verdict.SKIPPED if renamed else Verdict.PASS, observed)


def _judge(ask: Question, rows: pd.DataFrame, former: str) -> Finding:
    claimants, unread = _claim_it(rows, former), rows[rows["reason"] != ""]
    if len(claimants):
        names = [_name(row) for row in claimants.to_dict("records")]
        return ask.fail(f"{len(names)} of {len(rows)} claim {former}: {_few(names)}", RESTART)
    if len(unread):
        return ask.unknown(_few(_unread(unread)), READ)
    return ask.answer(Verdict.PASS, f"none of {len(rows)} does")


def _claim_it(rows: pd.DataFrame, former: str) -> pd.DataFrame:
    return rows[(rows["cluster_id"] == former) | (rows["told"] == former)]


def unclaimed(mesh: Mesh, name: str, former: str) -> Wait:
    """Return a wait until no proxy of a cluster claims an id, and all could be read: right before it is dropped."""
    alone = Mesh(mesh.spec, {name: mesh.clusters[name]})

    def missing() -> str:
        ask = Question("MK507", "no proxy claims a dropped cluster id", name, f"no proxy claims {former}")
        finding = _judge(ask, identities(alone), former)
        return "" if finding.verdict is Verdict.PASS else finding.observed

    return missing


def check_dropped(mesh: Mesh, planes: pd.DataFrame, *, drop_alias: bool, pending: bool) -> Iterator[Finding]:
    """MK527: no running istiod still accepts the id that was to be dropped."""
    for plane in planes.to_dict("records"):
        former, name = dropped(plane, drop_alias=drop_alias), plane["cluster"]
        ask = Question("MK527", "the former id is no longer accepted", name, f"no istiod takes {former} for {name}")
        if not former:
            continue
        if pending:
            yield planned(*ask.known.values())
            continue
        try:
            pods = mesh.clusters[name].get("pods", mesh.root_namespace, labels="app=istiod")
        except MeshkitError as error:
            yield ask.unknown(error.message)
            continue
        taking = [pod["metadata"]["name"] for pod in pods if _accepts(pod, name) == former]
        observed = f"{', '.join(taking)} still do" if taking else f"none of {len(pods)}"
        yield ask.judge(pods and not taking, observed, "does istio.overlay of the mesh file name the alias?")


def _accepts(pod: dict[str, Any], name: str) -> str:
    return istioctl.alias_of({"spec": {"template": pod}}, name)
