"""Comparison of runs, and of snapshots: findings that changed; added, removed and changed rows of tables."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from meshkit.checks import audit, comparison
from meshkit.checks.catalogue import current
from meshkit.errors import InputError
from meshkit.runs.outcome import Outcome
from meshkit.runs.record import to_csv
from meshkit.snapshot.snapshot import Snapshot

NOISE = 0.1


@dataclass(frozen=True, kw_only=True)
class FindingChange:
    """One difference: of a finding or a row, with its state before and now ("" where it did not exist)."""

    what: str
    before: str
    now: str


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What changed since the run of that name, in the stages that both ran."""

    run: str
    stages: list[str]
    findings: list[FindingChange]
    tables: dict[str, list[FindingChange]]


def compare(previous: Path, outcomes: Sequence[Outcome], tables: Mapping[str, dict[str, Any]]) -> Comparison:
    """Return what changed since the previous run of the mesh.

    Findings are identified by stage, id and subject; a former id is the check that it is now. Rows are identified by
    the table's key columns. If the table names columns to compare, every change in them counts. Otherwise all columns
    count, except times, and numbers only if they differ by more than a tenth.
    """
    old = json.loads((previous / "results.json").read_text())
    ran = {stage["stage"] for stage in json.loads((previous / "record.json").read_text())["stages"] if stage["files"]}
    both = [o for o in outcomes if o.stage in ran and o.status != "not run"]
    names = {o.stage for o in both}
    known = {(f["stage"], current(f["id"]), f["subject"]): f for f in old["findings"] if f["stage"] in names}
    found_now = {(o.stage, current(f.id), f.subject): f.to_dict() for o in both for f in o.findings}
    found = [
        FindingChange(what=_title(now or before or {}), before=_verdict(before), now=_verdict(now))
        for before, now in comparison.changes(known, found_now)
    ]
    common = [n for n, t in tables.items() if t["stage"] in names and t["key"] and n in old["tables"]]
    rows = {name: _rows(tables[name], previous / "tables" / f"{name}.csv") for name in common}
    return Comparison(
        run=previous.name,
        stages=[o.stage for o in both],
        findings=found,
        tables={name: changes for name, changes in rows.items() if changes},
    )


def findings_of(source: Path) -> tuple[str, dict[tuple[str, ...], Mapping[str, str]]]:
    """Return the mesh id and the findings of a snapshot's file or of a run's folder, by what identifies them.

    Raises:
        InputError: it is neither.
    """
    if source.is_dir():
        try:
            known = json.loads((source / "results.json").read_text())["findings"]
            mesh = json.loads((source / "record.json").read_text())["mesh"]
            return str(mesh), {(f["stage"], current(f["id"]), f["subject"]): f for f in known}
        except (OSError, ValueError, KeyError, TypeError):
            raise InputError("no run that has ended", where=str(source), remedy="name a run folder") from None
    snapshot = Snapshot.load(source)
    return snapshot.spec.mesh.id, {(f.id, f.subject): f.to_dict() for f in audit.check(snapshot)}


def diff(before: Path, after: Path) -> pd.DataFrame:
    """Return the findings that changed between two snapshots, or two runs: the table `comparison.FINDING_CHANGES`.

    Raises:
        InputError: one is neither, they are not of one kind, or not of one mesh.
    """
    if before.is_dir() != after.is_dir():
        raise InputError("expected two snapshots, or two run folders", where=f"{before}, {after}")
    (mesh, old), (other, new) = findings_of(before), findings_of(after)
    if mesh != other:
        raise InputError(f"they are of two meshes, {mesh} and {other}", where=f"{before}, {after}")
    found = comparison.changes(old, new, observed=not before.is_dir())
    return comparison.FINDING_CHANGES.frame(map(comparison.row, found), in_order=True)


def _rows(table: Mapping[str, Any], old_csv: Path) -> list[FindingChange]:
    if not old_csv.is_file():  # withheld
        return []
    key, noise = table["key"], 0.0 if table["compare"] else NOISE
    times = {c for c, dtype in zip(table["columns"], table["dtypes"], strict=True) if dtype.startswith("datetime")}
    watched = set(table["compare"]) or set(table["columns"]) - times
    old = _by_key(old_csv.read_text(), key)
    new = _by_key(to_csv(table), key)
    changes = []
    for k in [*new, *(k for k in old if k not in new)]:
        row = " · ".join(k)
        if k not in old or k not in new:
            changes.append(
                FindingChange(what=row, before="was there" if k in old else "", now="gone" if k in old else "appeared")
            )
        elif moved := [c for c in new[k] if c in old[k] and c in watched and _differs(old[k][c], new[k][c], noise)]:
            before, now = (", ".join(f"{c} {_short(side[k][c])}" for c in moved) for side in (old, new))
            changes.append(FindingChange(what=row, before=before, now=now))
    return changes


def _by_key(text: str, key: Sequence[str]) -> dict[tuple[str, ...], dict[str, str]]:
    return {tuple(row.get(k) or "" for k in key): row for row in csv.DictReader(text.splitlines(keepends=True))}


def _differs(before: str, now: str, noise: float) -> bool:
    try:
        a, b = float(before), float(now)
    except ValueError:
        return before != now
    return abs(b - a) > noise * max(abs(a), abs(b))


def _short(text: str) -> str:
    try:
        return f"{float(text):.4g}" if "." in text else text or "—"
    except ValueError:
        return text


def _title(finding: Mapping[str, str]) -> str:
    return f"{finding['id']} {finding['check']} [{finding['subject']}]"


def _verdict(finding: Mapping[str, str] | None) -> str:
    return finding["verdict"] if finding else ""
