"""Stage 08: does every cluster reach every other, with which identities, and do all sources agree?

Read-only except for the probe (see meshkit.probing.pair_probe). Facts come from four sources that can contradict each
other: the objects in the API servers, each istiod's own view, each proxy's certificates, and traffic.

A cluster that cannot be read makes unknown what depends on it, and only that: the run then ends with exit code 3, or
with 1 if something else failed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from meshkit import parameters
from meshkit.checks import audit, control_plane, gateway_exposure, gateways, pair_table, prometheus, remote_secrets
from meshkit.checks import pairs as checks_pairs
from meshkit.checks.certificates import check_certificates, check_roots
from meshkit.checks.finding import Finding, Verdict, overall, worst_first
from meshkit.checks.pair_traffic import check_pair
from meshkit.checks.question import Question, arrow
from meshkit.checks.remote_secrets import unjoined
from meshkit.display import Shown
from meshkit.kube.mesh import Mesh
from meshkit.notebook import charts, tables
from meshkit.notebook import link_matrix as notebook_link_matrix
from meshkit.probing import pair_probe
from meshkit.snapshot.snapshot import PAIRS, VERIFIED, Snapshot
from meshkit.spec import MeshSpec
from meshkit.stages.sending import Sending
from meshkit.stages.stage import Draws, Read, Shows

STAGE = "08 verify"


def check(mesh: Mesh, facts: Snapshot, mode: str = "audit") -> list[Finding]:
    """Judge what was read: remote secrets, sync state, gateways, trust; in plan mode only where clusters are joined.

    MK800: in plan mode there is nothing to verify before the clusters are one mesh.

    Raises:
        InputError: no such mode.
    """
    parameters.require_choice("mode", mode, parameters.SENDING)
    if mode == "plan" and (missing := unjoined(mesh, facts)):
        ask = Question("MK800", "the clusters are one mesh", "mesh", "an istiod in each, a remote secret for each pair")
        return [ask.answer(Verdict.SKIPPED, f"{missing}; stages 05 to 07 are to change that")]
    findings = [
        *control_plane.check_istiods(mesh, facts.identity),
        *control_plane.check_accepted(mesh, facts.identity, facts.claims, facts.inventory),
    ]
    for pair in mesh.ordered_pairs:
        findings += remote_secrets.check(mesh, facts.identity, facts.remote_secrets, facts.remote_clusters, pair)
        findings += gateways.check_pair(mesh, facts.identity, facts.gateways, facts.gateways_seen, pair)
    if mesh.spec.topology.network == "multi":
        exposed = audit.gateway_facts(facts)
        for name in mesh.clusters:
            findings += [
                gateways.check_gateway(mesh, facts.gateways, name),
                gateway_exposure.check_own_network(mesh, exposed, name),
            ]
    return [*findings, *check_roots(mesh, facts.certificates), *check_certificates(mesh, facts.certificates)]


def prove(mesh: Mesh, facts: Snapshot, calls: pd.DataFrame) -> list[Finding]:
    """Judge the traffic of `try_pairs` against what was read: one set of findings for each pair.

    MK810: where none was sent, as in plan mode, nothing is proved.
    """
    if calls.empty:
        ask = Question("MK810", "every pair answers", "all pairs", "calls, each pair alone")
        return [ask.answer(Verdict.SKIPPED, "plan mode sends no call; `meshkit audit` does")]
    of_pairs = [finding for row in calls.to_dict("records") for finding in check_pair(mesh, facts, row)]
    return [*of_pairs, *prometheus.check(mesh, calls)]


def try_pairs(mesh: Mesh, calls: int = 10, mode: str = "audit") -> pd.DataFrame:
    """Send calls between every ordered pair alone; the columns are those of `prometheus.ask`. None in plan mode.

    Raises:
        InputError: no such mode, or fewer than one call.
    """
    parameters.require_choice("mode", mode, parameters.SENDING)
    parameters.require_number("calls", calls)
    if mode == "plan":
        return prometheus.PAIRS.frame([])
    with pair_probe.open(mesh) as probing:
        return prometheus.ask(probing, probing.calls(calls))


def pairs(mesh: Mesh, findings: Iterable[Finding]) -> pd.DataFrame:
    """Return the worst verdict for each pair: columns client, server, verdict, note (the finding that decides)."""
    rows = []
    for client in mesh.clusters:
        for server in mesh.clusters:
            own = worst_first(f for f in findings if f.subject == arrow(client, server))
            verdict = overall(own)  # what was skipped beside what passed takes nothing from it
            note = "" if not own or verdict in (Verdict.PASS, Verdict.SKIPPED) else f"{own[0].id} {own[0].observed}"
            rows.append({"client": client, "server": server, "verdict": verdict.value, "note": note})
    return pd.DataFrame(rows, columns=["client", "server", "verdict", "note"], dtype="str")


@dataclass(frozen=True)
class Proved:
    """All findings, those of the calls too; without them no pair is shown as passed."""

    findings: list[Finding]


class Verify(Sending):
    """Stage 08. `calls` is the number of requests for each pair; `links` is what each pair's calls depend on."""

    name = STAGE
    identity = Shows["Verify"](tables.IDENTITY, lambda stage: stage.facts.identity.frame())
    remote_secrets = Shows["Verify"](tables.REMOTE_SECRETS, lambda stage: stage.facts.remote_secrets.frame())
    remote_clusters = Shows["Verify"](tables.REMOTE_CLUSTERS, lambda stage: stage.facts.remote_clusters.frame())
    gateways = Shows["Verify"](tables.GATEWAYS, lambda stage: stage.facts.gateways.frame())
    gateways_seen = Shows["Verify"](tables.GATEWAYS_SEEN, lambda stage: stage.facts.gateways_seen.frame())
    roots = Shows["Verify"](tables.ROOTS, lambda stage: stage.facts.roots.frame())
    certificates = Shows["Verify"](tables.CERTIFICATES, lambda stage: stage.facts.certificates.frame())
    lifetimes = Draws["Verify"](
        "certificate-lifetimes", lambda stage: charts.certificate_lifetimes(stage.facts.certificates.frame())
    )
    hellos = Shows["Verify"](tables.HELLOS, lambda stage: stage.facts.hellos)
    pairs = Shows["Verify"](tables.PAIRS, lambda stage: stage.answers)
    pair_matrix = Draws["Verify"](
        "pair-matrix", lambda stage: charts.pair_matrix(pairs(stage.mesh, stage.after.findings))
    )
    links = Shows["Verify"](tables.LINKS, lambda stage: pair_table.table(stage.mesh, stage.facts, stage.after.findings))
    link_matrix = Draws["Verify"](
        "link-matrix",
        lambda stage: notebook_link_matrix.link_matrix(pair_table.cells(stage.mesh, stage.after.findings)),
    )

    facts: Snapshot
    survey: Any = Read("look")

    def __init__(
        self, mesh: str | Path | MeshSpec | Mesh, *, mode: str = "audit", journal: str = "", calls: int = 10
    ) -> None:
        parameters.require_number("calls", calls)
        super().__init__(mesh, mode=mode, journal=journal)
        self.calls = calls
        self.answers: pd.DataFrame = prometheus.PAIRS.frame([])

    def _look(self) -> Snapshot:
        return Snapshot(self.mesh).read(*{*VERIFIED, *PAIRS})

    def _check(self) -> Iterable[Finding]:
        vars(self).pop("after", None)  # of other findings
        return [*check(self.mesh, self.facts, self.mode), *checks_pairs.check(self.mesh, self.facts, self.mode)]

    def _requests(self) -> str:
        return f"{self.calls} requests"

    def _send(self) -> Shown:
        self.answers = try_pairs(self.mesh, self.calls, self.mode)
        shown: Shown = self.pairs
        return shown

    def _prove(self) -> Iterable[Finding]:
        proved = prove(self.mesh, self.facts, self.answers)
        self.after = Proved([*self.findings, *proved])
        return proved
