"""Checks of Services that merge when clusters discover each other: which do, are they alike, which could stay local?

Nobody but its owner knows whether a Service is meant to be one. So what could stay apart is proposed by rules that say
why, as a patch of meshConfig; meshkit applies it only where the user makes it the mesh file's `istio.overlay`.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final

import pandas as pd
import yaml

from meshkit.checks.finding import Finding, Verdict
from meshkit.checks.question import Question
from meshkit.istio.config.services import EXPORT_TO, local_entry, local_words
from meshkit.istio.control_plane import istioctl
from meshkit.istio.control_plane.cluster_domain import DEFAULT
from meshkit.istio.control_plane.mesh_config import mesh_config
from meshkit.kube.mesh import Mesh, Unknown
from meshkit.tables import Table, text

NAMED_AT_MOST = 5
LOCAL: Final = Table(
    "local",
    "Services that could stay in each cluster, and why",
    {
        "namespace": text("its namespace"),
        "service": text("its name"),
        "host": text("its DNS name"),
        "clusters": text("that have it, comma-joined"),
        "rule": text("why it could stay in each cluster"),
    },
    key=("namespace", "service"),
)


def check_merging(
    mesh: Mesh, services: pd.DataFrame, merging: pd.DataFrame, new: Collection[tuple[str, str]]
) -> Iterator[Finding]:
    """MK708: which Services become one, by namespace; a warning where that is new and not the probe's.

    Notebook 07 has the patch of meshConfig that keeps them apart.

    Args:
        mesh: the mesh.
        services: of `config.services.services`.
        merging: of `config.services.merging`.
        new: the pairs that do not discover each other yet.
    """
    expected = "only Services that are meant to be one"
    for row in services[services["service"] == ""].to_dict("records"):
        yield Question("MK708", "Services merge only as intended", row["cluster"], expected).unknown(row["reason"])
    rows = _of_users(merging)
    rows = rows[~rows["effect"].str.startswith("stays")]
    if rows.empty:
        ask = Question("MK708", "Services merge only as intended", "mesh", expected)
        yield ask.answer(Verdict.PASS, "no Service is in more than one cluster, but for the system's own")
    for namespace, group in rows.groupby("namespace"):
        ask = Question("MK708", "Services merge only as intended", f"namespace {namespace}", expected)
        begins = group["clusters"].map(lambda held: _begins(held, new)).astype(bool)
        if not begins.any():
            yield ask.answer(Verdict.PASS, f"{_listed(group)}: one already")
            continue
        local = local_words(f"*.{namespace}.svc.{_domain(group)}")
        remedy = f"to keep them apart, set this in every cluster first: {local}"
        meant, observed = namespace == mesh.spec.probe.namespace, f"{_listed(group[begins])}: will be one"
        if kept := [
            f"{row['service']} ({row['export_to']})"
            for row in group[begins & (group["export_to"] != "")].to_dict("records")
        ]:
            meant, observed = False, f"{observed}, but not for all clients or gateways: {', '.join(kept)}"
            remedy = _public(mesh, group[begins])
        yield ask.judge(meant, observed, remedy, otherwise=Verdict.WARN)


def _public(mesh: Mesh, rows: pd.DataFrame) -> str:
    """Return the commands that export Services to all namespaces: another network's gateway serves no others."""
    found = []
    for row in rows.to_dict("records"):
        for kept in filter(None, row["export_to"].split(", ")):
            context = mesh.spec.cluster(kept.partition(" ")[0]).context
            annotate = (
                f"kubectl --context {context} annotate --overwrite service -n {row['namespace']} {row['service']}"
            )
            found.append(f"{annotate} '{EXPORT_TO}=*'")
    return "; ".join(found)


def check_alike(services: pd.DataFrame, merging: pd.DataFrame) -> Iterator[Finding]:
    """MK709: Services that are one to Istio have the same ports and type everywhere, as istioctl's IST0170 asks.

    Two applications under one name are kept apart by an entry of `meshConfig.serviceSettings` with `clusterLocal`.
    The arguments are those of `check_merging`.
    """
    unread = services[services["service"] == ""].to_dict("records")
    for row in unread:
        ask = Question("MK709", "merging Services are alike", row["cluster"], "the same ports and type everywhere")
        yield ask.unknown(row["reason"])
    rows = _of_users(merging)
    unlike = rows[rows["conflict"] != ""]
    for row in unlike.to_dict("records"):
        name = f"{row['namespace']}/{row['service']}"
        ask = Question("MK709", "merging Services are alike", name, "the same ports and type everywhere")
        remedy = f"make them alike first, or keep them apart: {local_words(_host(row))}"
        yield ask.answer(Verdict.WARN, row["conflict"], remedy)
    if unlike.empty and not unread:
        ask = Question("MK709", "merging Services are alike", "mesh", "the same ports and type everywhere")
        yield ask.answer(Verdict.PASS, f"{len(rows)} Services in several clusters")


def proposals(mesh: Mesh, merging: pd.DataFrame, new: Collection[tuple[str, str]]) -> pd.DataFrame:
    """Return one row for each Service of several clusters that could stay in each of them, and the rule by which.

    The rules, of which the first that holds is named: its ports or type differ, so it is two things by one name; it is
    headless and networks differ, so clients reach its pods in their own cluster only; its clusters serve their own
    clients until now. The probe's namespace, the system's own, and what stays already are left out. The arguments are
    those of `check_merging`.
    """
    rows = []
    for row in _of_users(merging).to_dict("records"):
        kept = row["effect"].startswith("stays") or row["namespace"] == mesh.spec.probe.namespace
        if rule := "" if kept else _rule(mesh, row, new):
            place = {name: row[name] for name in ("namespace", "service", "clusters")}
            rows.append({**place, "host": _host(row), "rule": rule})
    return LOCAL.frame(rows)


def _rule(mesh: Mesh, row: Mapping[Any, Any], new: Collection[tuple[str, str]]) -> str:
    if row["conflict"]:
        return f"they differ ({row['conflict']}): two applications under one name"
    clusters = row["clusters"].split(",")
    if row["headless"] == "yes" and any(mesh.spec.crosses(a, b) for a, b in itertools.combinations(clusters, 2)):
        near = "network" if mesh.spec.direct_pairs else "cluster"
        return f"headless: clients reach the pods of their own {near} only"
    if _begins(row["clusters"], new):
        return "each cluster serves only its own clients now; is it meant to be one?"
    return ""


def patch(mesh: Mesh, proposed: pd.DataFrame) -> str:
    """Return the IstioOperator that keeps the Services of `proposals` in their clusters; nothing if there are none.

    istioctl replaces lists as a whole, so it has the serviceSettings of every cluster's meshConfig, too.
    """
    if proposed.empty:
        return ""
    found = mesh.each(lambda cluster: mesh_config(cluster, mesh).get("serviceSettings") or [])
    lost = [
        f"# serviceSettings of {n} are missing here: {r.reason}" for n, r in found.items() if isinstance(r, Unknown)
    ]
    known = [entry for read in found.values() if not isinstance(read, Unknown) for entry in read]
    once = {json.dumps(entry, sort_keys=True): entry for entry in [*known, local_entry(proposed["host"])]}
    document = istioctl.wrap({"meshConfig": {"serviceSettings": [*once.values()]}})
    told = "# Take out what is meant to be one. Then make it, or merge it into, istio.overlay, and run stage 05."
    return "\n".join([told, *lost, yaml.safe_dump(document, sort_keys=False)])


def _begins(clusters: str, new: Collection[tuple[str, str]]) -> bool:
    return any({*pair} <= {*clusters.split(",")} for pair in new)


def _host(row: Mapping[Any, Any]) -> str:
    return f"{row['service']}.{row['namespace']}.svc.{row['domain'] or DEFAULT}"


def _domain(rows: pd.DataFrame) -> str:
    return next((domain for domain in rows["domain"] if domain), DEFAULT)


def _of_users(merging: pd.DataFrame) -> pd.DataFrame:
    return merging[merging["clusters"].str.contains(",") & ~merging["system"]]


def _listed(rows: pd.DataFrame) -> str:
    names = list(rows["service"])
    more = f" and {len(names) - NAMED_AT_MOST} more" if len(names) > NAMED_AT_MOST else ""
    return f"{', '.join(names[:NAMED_AT_MOST])}{more}"
