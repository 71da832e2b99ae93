"""Findings and changes of a run as its report lists them: each once, what matters first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from meshkit.changes.planned import Key
from meshkit.checks.catalogue import Check, checks, current
from meshkit.checks.finding import SEVERITY, Finding, Verdict
from meshkit.display import symbol_of
from meshkit.marks import mark, severity
from meshkit.runs.outcome import Outcome

Row = Mapping[Any, Any]
WELL = (Verdict.PASS, Verdict.SKIPPED)


@dataclass(frozen=True)
class Group:
    """Findings of one stage that differ in their subject only. `number` is its place in the report."""

    number: int
    stage: str
    finding: Finding
    subjects: tuple[str, ...]
    count: int

    @property
    def anchor(self) -> str:
        """Its id on the page."""
        return f"finding-{self.number}"

    @property
    def check(self) -> Check | None:
        """Its entry in the catalogue, with the reason why it is asked and Istio's page."""
        return checks().get(current(self.finding.id))

    @property
    def well(self) -> bool:
        """Whether nothing is to be done about it."""
        return self.finding.verdict in WELL


@dataclass(frozen=True)
class Change:
    """One change, as planned, and how far it came. `diff` is empty where only the journal knows the change."""

    stage: str
    cluster: str
    action: str
    object: str
    why: str
    diff: str
    later: str
    status: str
    seconds: float | None = None


def findings(outcomes: Iterable[Outcome]) -> list[Group]:
    """Return the findings of all stages, the worst first, then by stage and id."""
    found = [(outcome.stage, finding) for outcome in outcomes for finding in outcome.findings]
    ordered = sorted(found, key=lambda one: (-SEVERITY.index(one[1].verdict), one[0], _but_subject(one[1])))
    groups = groupby(ordered, key=lambda one: (one[0], _but_subject(one[1])))
    return [
        Group(number, stage, same[0], tuple(dict.fromkeys(one.subject for one in same)), len(same))
        for number, ((stage, _), members) in enumerate(groups, 1)
        if (same := [finding for _, finding in members])
    ]


def _but_subject(finding: Finding) -> tuple[str, ...]:
    return finding.id, finding.check, finding.verdict.value, finding.expected, finding.observed, finding.remedy


def changes(outcomes: Iterable[Outcome], journal: Iterable[Row], *, applied: bool) -> list[Change]:
    """Return the changes in the order of the plan, each with its entry in the journal; then what only that has.

    `applied` says that what has no entry was not run, and not only planned.
    """
    made: dict[Key, list[Row]] = {}
    unmade: Row = {"status": "not run" if applied else "planned", "seconds": None}
    for row in journal:
        made.setdefault((row["stage"], row["cluster"], row["action"], row["object"]), []).append(row)
    shown = []
    for one in (one for outcome in outcomes for one in outcome.planned):
        entry = made[one.key].pop(0) if made.get(one.key) else unmade
        shown.append(Change(*one.key, one.why, one.diff, one.later, entry["status"], entry["seconds"]))
    rest = (row for rows in made.values() for row in rows)
    return [*shown, *(Change(*_key(row), "", "", "", row["status"], row["seconds"]) for row in rest)]


def _key(row: Row) -> Key:
    return row["stage"], row["cluster"], row["action"], row["object"]


def worst_rows_first(payload: Mapping[str, Any]) -> tuple[dict[str, Any], int]:
    """Return a table with the rows of the worst state first, and how many rows have a state that is not good."""
    ranked = sorted(payload["rows"], key=_worst, reverse=True)
    return {**payload, "rows": ranked}, sum(_worst(row) > 0 for row in ranked)


def _worst(row: Sequence[Any]) -> int:
    states = (value for value in row if symbol_of(value) and mark(value).tone not in ("good", "quiet"))
    return max(map(severity, states), default=0)
