"""What clusters' discovering each other will do to Services: which become one, and are they alike?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshkit.checks import Finding, Verdict
from meshkit.istio.services import DOMAIN
from meshkit.stages.finding import Question

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    import pandas as pd

    from meshkit.mesh import Mesh

NAMED_AT_MOST = 5


def check_merging(
    mesh: Mesh, services: pd.DataFrame, merging: pd.DataFrame, new: Collection[tuple[str, str]]
) -> Iterator[Finding]:
    """MK708: which Services become one, by namespace; a warning where that is new and not the probe's.

    Args:
        mesh: the mesh.
        services: of `istio.services.services`.
        merging: of `istio.services.merging`.
        new: the pairs that do not discover each other yet.
    """
    expected = "only what is meant to be one"
    for row in services[services["service"] == ""].to_dict("records"):
        yield Question("MK708", "what merges is known", row["cluster"], expected).unknown(row["reason"])
    rows = _of_users(merging)
    rows = rows[~rows["effect"].str.startswith("stays")]
    if rows.empty:
        ask = Question("MK708", "what merges is known", "mesh", expected)
        yield ask.answer(Verdict.PASS, "no Service is in more than one cluster, but for the system's own")
    for namespace, group in rows.groupby("namespace"):
        ask = Question("MK708", "what merges is known", f"namespace {namespace}", expected)
        begins = group["clusters"].map(lambda held: any({*pair} <= {*held.split(",")} for pair in new)).astype(bool)
        if not begins.any():
            yield ask.answer(Verdict.PASS, f"{_listed(group)}: one already")
            continue
        hosts = f"*.{namespace}.svc.{DOMAIN}"
        cure = f"to keep them apart, say clusterLocal of {hosts} in meshConfig.serviceSettings of every cluster first"
        meant = namespace == mesh.spec.probe.namespace
        yield ask.judge(meant, f"{_listed(group[begins])}: will be one", cure, otherwise=Verdict.WARN)


def check_alike(merging: pd.DataFrame) -> Iterator[Finding]:
    """MK709: Services that are one to Istio have the same ports and type everywhere, as istioctl's IST0170 asks."""
    rows = _of_users(merging)
    unlike = rows[rows["conflict"] != ""]
    for row in unlike.to_dict("records"):
        name = f"{row['namespace']}/{row['service']}"
        ask = Question("MK709", "merging Services are alike", name, "the same ports and type everywhere")
        yield ask.answer(Verdict.WARN, row["conflict"], "make them alike first, or keep them apart by clusterLocal")
    if len(rows) and unlike.empty:
        ask = Question("MK709", "merging Services are alike", "mesh", "the same ports and type everywhere")
        yield ask.answer(Verdict.PASS, f"{len(rows)} Services")


def _of_users(merging: pd.DataFrame) -> pd.DataFrame:
    return merging[merging["clusters"].str.contains(",") & ~merging["system"]]


def _listed(rows: pd.DataFrame) -> str:
    names = list(rows["service"])
    more = f" and {len(names) - NAMED_AT_MOST} more" if len(names) > NAMED_AT_MOST else ""
    return f"{', '.join(names[:NAMED_AT_MOST])}{more}"
