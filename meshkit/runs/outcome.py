"""The outcome of a stage, taken from its executed notebook alone.

A stage passed if every code cell ran, the verdict was reached, and it is pass, warn or skipped. Nothing else counts:
no exit code, no status that papermill wrote.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from meshkit import errors
from meshkit.changes.planned import PlannedChange, parse
from meshkit.checks.finding import SEVERITY, Finding, Verdict, overall
from meshkit.display import PLANNED, RECORD, TABLE, VERDICT

EXIT_CODES = {
    cls.__name__: cls.exit_code
    for cls in (errors.CheckFailed, errors.InputError, errors.UnreachableError, errors.ChangeError)
}


class Status(StrEnum):
    """The status of a stage; only `PASSED` is success."""

    PASSED = "passed"
    FAILED = "failed"
    ABORTED = "aborted"
    INTERRUPTED = "interrupted"
    TIMED_OUT = "timed-out"
    INCOMPLETE = "incomplete"
    NOT_RUN = "not run"


_ENDS = {"interrupted": Status.INTERRUPTED, "timed out": Status.TIMED_OUT, "exited": Status.INCOMPLETE}


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The outcome of a stage: its status with the reason, its findings, and its outputs, in the notebook's order.

    `shown` holds table payloads as `meshkit.tables.View` makes them, and figures as {figure, alt, width, png} (base64).
    """

    stage: str
    status: Status
    reason: str = ""
    findings: list[Finding] = field(default_factory=list)
    exit_code: int = 4
    cells: int = 0
    cells_run: int = 0
    facts: dict[str, Any] = field(default_factory=dict)
    planned: list[PlannedChange] = field(default_factory=list)
    shown: list[dict[str, Any]] = field(default_factory=list)
    started: str = ""
    seconds: float = 0.0
    source: str = ""

    @property
    def verdict(self) -> Verdict:
        """The worst verdict of the findings; unknown at best for a stage that did not reach its verdict."""
        worst = overall(self.findings)
        return worst if self.status in (Status.PASSED, Status.FAILED) else max(worst, Verdict.UNKNOWN, key=_rank)

    @property
    def counts(self) -> dict[str, int]:
        """How many findings of each verdict, the worst first."""
        verdicts = [f.verdict for f in self.findings]
        return {v.value: verdicts.count(v) for v in sorted(set(verdicts), key=_rank, reverse=True)}

    @property
    def tables(self) -> list[dict[str, Any]]:
        """The table payloads among its outputs."""
        return [item for item in self.shown if "rows" in item]


def outcome_of(stage: str, nb: Any, **about: Any) -> Outcome:
    """Return the outcome of an executed notebook; `about` is what only its runner knows (started, seconds, source)."""
    code = [cell for cell in nb.cells if cell.cell_type == "code" and cell.source.strip()]
    outputs = [output for cell in code for output in cell.outputs]
    bundles = [output.get("data", {}) for output in outputs]
    verdicts = [bundle[VERDICT] for bundle in bundles if VERDICT in bundle]
    findings = [Finding(**{**f, "verdict": Verdict(f["verdict"])}) for v in verdicts for f in v["findings"]]
    error_names = [output.ename for output in outputs if output.output_type == "error"]
    ended = nb.metadata.get("meshkit", {"ended": "running", "reason": ""})
    unrun = [cell for cell in code if cell.execution_count is None]
    raised = [o.get("data", {}) for c in code for o in c.outputs if any(e.output_type == "error" for e in c.outputs)]
    concluded = any(bundle[VERDICT]["exit_code"] for bundle in raised if VERDICT in bundle)
    bad = any(v["exit_code"] for v in verdicts)
    status, reason = _status(ended, has_verdict=bool(verdicts), concluded=concluded, bad=bad, unrun=len(unrun))
    facts = {bundle[RECORD]["name"]: bundle[RECORD]["value"] for bundle in bundles if RECORD in bundle}
    return Outcome(
        stage=stage,
        status=status,
        reason=reason,
        findings=findings,
        exit_code=_exit_code(status, overall(findings), error_names),
        cells=len(code),
        cells_run=len(code) - len(unrun),
        facts=facts,
        planned=[one for b in bundles if PLANNED in b for one in parse(_plain(b[PLANNED]), where=stage)],
        shown=[item for output in outputs if (item := _shown(output))],
        **about,
    )


def _status(ended: dict[str, str], *, has_verdict: bool, concluded: bool, bad: bool, unrun: int) -> tuple[Status, str]:
    how, reason = ended["ended"], ended["reason"]
    if how == "error":
        return (Status.FAILED if concluded else Status.ABORTED), reason
    if how != "finished":
        status = _ENDS.get(how, Status.ABORTED)
        return status, reason or "the process that ran the notebook died"
    if not has_verdict:
        return Status.INCOMPLETE, "the notebook ended without a verdict"
    if bad:
        return Status.FAILED, "the verdict was not good, though the notebook went on"
    return (Status.INCOMPLETE, f"{unrun} of its code cells never ran") if unrun else (Status.PASSED, "")


def _exit_code(status: Status, verdict: Verdict, error_names: list[str]) -> int:
    if status is Status.PASSED:
        return 0
    if status is Status.INTERRUPTED:
        return 130
    if status is Status.FAILED:
        return {Verdict.FAIL: 1, Verdict.UNKNOWN: 3}.get(verdict, 4)
    return next((EXIT_CODES[name] for name in error_names if name in EXIT_CODES), 4)


def _plain(node: Any) -> Any:
    """Return JSON-like data of a notebook as plain dicts: nbformat has a class of its own, which is no YAML."""
    return json.loads(json.dumps(node))


def _shown(output: Any) -> dict[str, Any] | None:
    data = output.get("data", {})
    about = output.get("metadata", {}).get("meshkit", {})
    if TABLE in data:
        return dict(data[TABLE])
    if "figure" in about and "image/png" in data:
        return {**about, "png": "".join(data["image/png"].split())}
    return None


def _rank(verdict: Verdict) -> int:
    return SEVERITY.index(verdict)
