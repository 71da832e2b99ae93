"""What changed between two lists of findings: of two snapshots, or of two runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple, TypeVar

import pandas as pd

from meshkit.checks.finding import Finding, Verdict
from meshkit.tables import Table, text

K = TypeVar("K")
Plain = Mapping[str, str]
"""A finding as plain texts: see `Finding.to_dict`."""
FINDING_CHANGES: Final = Table(
    "finding-changes",
    "Findings that changed",
    {
        "change": text("new, gone or changed"),
        "id": text("of the check"),
        "subject": text("what it was asked of"),
        "before": text("its verdict before; empty if it is new"),
        "now": text("its verdict now; empty if it is gone"),
        "observed_before": text("what was found before"),
        "observed": text("what is found now"),
        "remedy": text("the command or action that fixes it"),
    },
    key=("id", "subject"),
)


class Change(NamedTuple):
    """A finding before and now; None where there was, or is, none."""

    before: Plain | None
    now: Plain | None


def changes(before: Mapping[K, Plain], now: Mapping[K, Plain], *, observed: bool = False) -> list[Change]:
    """Return the findings with another verdict, the present ones first; by keys that identify them.

    Args:
        before: the earlier findings.
        now: the later ones.
        observed: whether another observation counts, too, of a finding that does not pass.
    """
    pairs = [Change(before.get(key), now.get(key)) for key in [*now, *(key for key in before if key not in now)]]
    return [pair for pair in pairs if _differ(pair, observed=observed)]


def _differ(pair: Change, *, observed: bool) -> bool:
    if pair.before is None or pair.now is None or pair.before["verdict"] != pair.now["verdict"]:
        return True
    bad = pair.now["verdict"] not in (Verdict.PASS, Verdict.SKIPPED)
    return observed and bad and pair.before["observed"] != pair.now["observed"]


def table(before: Iterable[Finding], now: Iterable[Finding]) -> pd.DataFrame:
    """Return the changes between the findings of two snapshots, in the order of the later ones."""
    old, new = ({(f.id, f.subject): f.to_dict() for f in findings} for findings in (before, now))
    return FINDING_CHANGES.frame(map(row, changes(old, new, observed=True)), in_order=True)


def brief(changed: pd.DataFrame) -> pd.DataFrame:
    """Return the columns of `FINDING_CHANGES` that a terminal has room for."""
    return changed[["change", "id", "subject", "before", "now", "observed"]]


def row(change: Change) -> dict[str, str]:
    """Return a change as a row of `FINDING_CHANGES`."""
    before, now = change.before or {}, change.now or {}
    known = change.now or change.before or {}
    word = "new" if change.before is None else "gone" if change.now is None else "changed"
    return {
        "change": word,
        "id": known["id"],
        "subject": known["subject"],
        "before": before.get("verdict", ""),
        "now": now.get("verdict", ""),
        "observed_before": before.get("observed", ""),
        "observed": now.get("observed", ""),
        "remedy": now.get("remedy", ""),
    }
