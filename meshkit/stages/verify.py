"""Stage 08: does every cluster reach every other, as whom, and do all witnesses agree?

Read-only but for the probe (see meshkit.probing.pair_probe). Facts come from four witnesses that can contradict each
other: the objects in the API servers, each istiod's own view, each proxy's certificates, and traffic.

What rests on a cluster that cannot be read is unknown, and only that: the run then ends with exit code 3, or with 1 if
something else failed.
"""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from meshkit import parameters
from meshkit.checks import gateways, prometheus, remote_secrets
from meshkit.checks.certificates import check_certificates, check_roots
from meshkit.checks.control_plane import check_istiods
from meshkit.checks.finding import Finding, Verdict, overall, worst_first
from meshkit.checks.pair_traffic import check_pair
from meshkit.checks.question import Question, arrow
from meshkit.checks.remote_secrets import unjoined
from meshkit.istio.snapshot import VerifyFacts
from meshkit.kube.mesh import Mesh
from meshkit.probing import pair_probe

STAGE = "08 verify"


def check(mesh: Mesh, facts: VerifyFacts, mode: str = "audit") -> list[Finding]:
    """Judge what was read: remote secrets, sync state, gateways, trust; in plan mode only where clusters are joined.

    MK800: in plan mode there is nothing to verify before the clusters are one mesh.

    Raises:
        InputError: no such mode.
    """
    parameters.require_choice("mode", mode, parameters.SENDING)
    if mode == "plan" and (missing := unjoined(mesh, facts)):
        ask = Question("MK800", "the clusters are one mesh", "mesh", "an istiod in each, a remote secret for each pair")
        return [ask.answer(Verdict.SKIPPED, f"{missing}; stages 05 to 07 are to change that")]
    findings = [*check_istiods(mesh, facts.identity)]
    for reader, target in mesh.ordered_pairs:
        findings += remote_secrets.check(mesh, facts.identity, facts.secrets, facts.remotes, (reader, target))
        if mesh.spec.topology.network == "multi":
            findings += gateways.check_gateway_seen(
                mesh, facts.gateways, facts.gateways_seen, reader, target, identifier="MK806", moved="MK838"
            )
    if mesh.spec.topology.network == "multi":
        findings += [gateways.check_gateway(mesh, facts.gateways, name, "MK805") for name in mesh.clusters]
    return [*findings, *check_roots(mesh, facts), *check_certificates(mesh, facts.certificates)]


def prove(mesh: Mesh, facts: VerifyFacts, calls: pd.DataFrame) -> list[Finding]:
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
