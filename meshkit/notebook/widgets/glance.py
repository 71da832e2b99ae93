"""A mesh at a glance: clusters with networks, versions, gateways and proxies; pairs; what to look at first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pandas as pd

from meshkit.checks import pair_table
from meshkit.checks.finding import Finding, Findings, Verdict
from meshkit.checks.question import arrow
from meshkit.marks import severity
from meshkit.notebook.widgets.findings import NOT_IN_ORDER, Explained, explained
from meshkit.notebook.widgets.page import Page
from meshkit.snapshot.snapshot import Snapshot
from meshkit.tables import row_of

FIRST: Final = 3
"""How many causes are named."""


@dataclass(frozen=True)
class ClusterGlance:
    """One cluster in a few words; `reason` says why it could not be read."""

    name: str
    context: str
    api_server: str
    network: str
    cluster_id: str
    istio: str
    kubernetes: str
    gateways: str
    proxies: Mapping[str, int]
    reason: str


def clusters(taken: Snapshot) -> list[ClusterGlance]:
    """Return each cluster of a snapshot in a few words."""
    identity, versions, gateways = taken.identity.frame(), taken.versions, taken.gateways.frame()
    states = taken.proxies().proxies
    return [
        ClusterGlance(
            entry.name,
            entry.context,
            str(row.get("api_server", "")),
            _several(_own(identity, entry.name)["network"]),
            _several(_own(identity, entry.name)["cluster_id"]),
            _several(_own(versions, entry.name).query("component == 'istiod'")["version"]),
            str(row.get("kubernetes", "")),
            _several(_own(gateways, entry.name)["addresses"]),
            dict(sorted(Counter(_own(states, entry.name)["worst"]).items(), key=lambda one: -severity(one[0]))),
            str(row.get("reason", "")),
        )
        for entry in taken.spec.clusters
        for row in [row_of(taken.inventory, entry.name)]
    ]


def _own(frame: pd.DataFrame, cluster: str) -> pd.DataFrame:
    return frame[frame["cluster"] == cluster]


def _several(values: pd.Series[str]) -> str:
    return ", ".join(dict.fromkeys(value for value in values if value)) or "none"


def pairs(taken: Snapshot, findings: Sequence[Finding]) -> dict[str, list[str]]:
    """Return the ordered pairs by their verdict, the worst first."""
    table = pair_table.table(taken.mesh, taken, findings, taken.sent).drop_duplicates(["client", "server"])
    found: dict[str, list[str]] = {}
    for row in table.to_dict("records"):
        found.setdefault(str(row["verdict"]), []).append(arrow(row["client"], row["server"]))
    return found


def first(findings: Sequence[Finding], names: Sequence[str]) -> list[Explained]:
    """Return the causes to look at first: what is not in order, and follows from nothing."""
    roots = [one for one in explained(findings, names) if one.cause is None and one.finding.verdict in NOT_IN_ORDER]
    return roots[:FIRST]


class GlancePage(Page):
    """The mesh at a glance. `mesh.check()`, `mesh.pairs()` and `mesh.proxies()` are the plain displays."""

    template = "glance.html.j2"
    label = "Overview"

    def __init__(self, taken: Snapshot, findings: Sequence[Finding]) -> None:
        super().__init__()
        self.taken, self.findings = taken, Findings(findings)

    def status(self) -> str:
        """Return the counts of findings."""
        return self.findings.summary

    def content(self) -> Mapping[str, Any]:
        """Return clusters, pairs, findings."""
        names = list(self.taken.mesh.clusters)
        good = (Verdict.PASS.value, Verdict.SKIPPED.value)
        return {
            "clusters": clusters(self.taken),
            "pairs": {word: own for word, own in pairs(self.taken, self.findings).items() if word not in good},
            "count": len(self.taken.mesh.ordered_pairs),
            "counts": self.findings.counts,
            "first": first(self.findings, names),
        }
