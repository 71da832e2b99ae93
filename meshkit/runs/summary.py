"""The first screen of the report: what changed, the verdict, what is not well, and what the users noticed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import pandas as pd

from meshkit.changes.journal import DONE, UNDONE
from meshkit.checks.finding import SEVERITY, Finding, Verdict, overall
from meshkit.notebook.terminal import number as short
from meshkit.notebook.topology import Pair
from meshkit.runs.outcome import Outcome, Status
from meshkit.runs.traffic_report import BAD, Story

VERIFY: Final = "08-verify"
NAMED: Final = 5
"""How many clusters a sentence names; of more it gives the number."""
_NUMBERS: Final = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def verdict(outcomes: Sequence[Outcome], lost: Story | None) -> dict[str, str]:
    """Return the word, and the sentence below it, for the whole run; `lost` is the story of one that ended badly."""
    counts = {v: sum(o.counts.get(v.value, 0) for o in outcomes) for v in reversed(SEVERITY)}
    counted = ", ".join(f"{n} {v.value}" for v, n in counts.items() if n) or "nothing was checked"
    bad = [o for o in outcomes if o.status is not Status.PASSED]
    if not bad and lost and lost.state == BAD:
        return {"word": "failed", "text": f"Every stage ran to its verdict ({counted}), but {lost.headline}"}
    if not bad:
        word = "warn" if counts[Verdict.WARN] else "passed"
        return {"word": word, "text": f"Every stage ran to its verdict: {counted}."}
    stopped = [o for o in bad if o.status is not Status.FAILED]
    word = "failed" if counts[Verdict.FAIL] else bad[0].status.value if stopped else "unknown"
    return {"word": word, "text": f"{', '.join(f'{stage_title(o.stage)} {o.status.value}' for o in bad)}: {counted}."}


def stage_title(stage: str) -> str:
    """Return `08-verify` as `08 verify`."""
    return stage.replace("-", " ", 1)


def changed(record: Mapping[str, Any], outcomes: Sequence[Outcome], story: Story | None) -> str:
    """Return in one sentence what the run changed, or that it changed nothing."""
    clusters = [one["cluster"] for one in record["contexts"]]
    answering = _answering(outcomes)
    groups = _meshes(clusters, answering)
    answers = _answers(groups, clusters, answering)
    if record["mode"] != "apply":
        planned = [one for outcome in outcomes for one in outcome.planned]
        where = [name for name in clusters if any(one.cluster == name for one in planned)]
        plan = f"{_many(len(planned), 'change')} planned in {_and(where)}" if planned else answers
        return f"Nothing was changed{f': {plan}' if plan else ''}."
    stand = story.changes[story.changes["status"] != UNDONE] if story else None
    if stand is None or stand.empty:
        return f"Nothing was changed{f': {answers}' if answers else ''}."
    became = _became(_meshes(*_former(outcomes)), groups)
    made = became if answers and became else _made(stand)
    return f"{made}: {answers}." if answers else f"{made}."


def _made(changes: pd.DataFrame) -> str:
    """Return how many changes were made where; what failed or was interrupted may be made in part."""
    undo = all(str(action).startswith("undo") for action in changes["action"])
    where = _and(list(dict.fromkeys(changes["cluster"])))
    rest = int((changes["status"] != DONE).sum())
    words = f"{_many(len(changes) - rest, 'change')} {'undone' if undo else 'made'} in {where}"
    return f"{words}, {rest} begun and not finished" if rest else words


def pair_verdicts(outcomes: Iterable[Outcome], clusters: Sequence[str]) -> dict[Pair, str]:
    """Return the verdict of each ordered pair that stage 08 tried, by all of its findings."""
    names = {f"{a} → {b}": (a, b) for a in clusters for b in clusters if a != b}
    found: dict[Pair, list[Finding]] = {}
    for finding in (f for o in outcomes if o.stage == VERIFY for f in o.findings):
        if finding.subject in names and finding.verdict is not Verdict.SKIPPED:
            found.setdefault(names[finding.subject], []).append(finding)
    return {pair: overall(own).value for pair, own in found.items()}


def pair_latency(outcomes: Iterable[Outcome]) -> dict[Pair, str]:
    """Return the median latency of each pair of two clusters that stage 09 measured."""
    return {
        (row["client"], row["server"]): f"p50 {short(row['p50_ms'])} ms"
        for row in _rows(outcomes, "latency", "client", "server", "p50_ms")[-1]
        if row["client"] != row["server"] and row["p50_ms"] is not None
    }


def _rows(outcomes: Iterable[Outcome], name: str, *columns: str) -> list[list[dict[str, Any]]]:
    """Return the rows of each table of that name with these columns, in the order of the run; of none, no rows.

    A notebook of somebody else may show another table by that name.
    """
    shown = (t for o in outcomes for t in o.tables if t["name"] == name and {*columns} <= {*t["columns"]})
    return [[dict(zip(table["columns"], row, strict=True)) for row in table["rows"]] for table in shown] or [[]]


def _answering(outcomes: Iterable[Outcome]) -> set[Pair]:
    """Return the pairs of which every request was answered, in the last table of them."""
    rows = _rows(outcomes, "pairs", "client", "server", "sent", "answered")[-1]
    return {(row["client"], row["server"]) for row in rows if row["sent"] and row["answered"] == row["sent"]}


def _former(outcomes: Iterable[Outcome]) -> tuple[list[str], set[Pair]]:
    """Return the clusters that had an istiod when the run began, and which of them read which by a remote secret."""
    known = list(outcomes)
    identity = _rows(known, "identity", "cluster", "istiod")[0]
    secrets = _rows(known, "remote-secrets", "cluster", "key")[0]
    names = dict.fromkeys(row["cluster"] for row in identity if row["istiod"])
    return list(names), {(row["cluster"], row["key"]) for row in secrets}


def _meshes(clusters: Sequence[str], linked: set[Pair]) -> list[list[str]]:
    """Return the clusters by mesh, the largest first: those that are linked both ways, directly or by others."""
    groups: list[list[str]] = []
    for name in clusters:
        mine = [group for group in groups if any({(name, one), (one, name)} <= linked for one in group)]
        groups = [group for group in groups if group not in mine] + [[*(one for group in mine for one in group), name]]
    return sorted(groups, key=lambda group: -len(group))


def _became(before: list[list[str]], now: list[list[str]]) -> str:
    """Return what became of the meshes of before; nothing where that is not known."""
    if not before or not now:
        return ""
    size, larger = len(before[0]), len(now[0])
    if len(before) > 1 and larger > size:
        meshes = "clusters" if size == 1 else "meshes"
        return f"{_number(len(before)).capitalize()} separate {meshes} became one mesh of {_number(larger)}"
    if larger > size:
        return f"{_number(size).capitalize()} cluster{'s' * (size > 1)} became {_number(larger)}"
    return f"The mesh still has {_number(larger)} cluster{'s' * (larger > 1)}"


def _answers(groups: list[list[str]], clusters: Sequence[str], answering: set[Pair]) -> str:
    """Return which clusters answer for each other; nothing where no two of them do."""
    if not groups or len(groups[0]) < 2:
        return ""
    wanted = {(a, b) for a in groups[0] for b in groups[0] if a != b}
    if silent := wanted - answering:
        return f"{len(silent)} of {len(wanted)} ordered pairs {'does' if len(silent) == 1 else 'do'} not answer"
    left = [name for name in clusters if name not in groups[0]]
    return f"{_and(groups[0], len(clusters))} answer for each other" + (f", {_and(left)} not" if left else "")


def _and(names: Sequence[str], total: int = 0) -> str:
    if len(names) > NAMED:
        return f"all {total} clusters" if len(names) == total else f"{len(names)} clusters"
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))


def _number(count: int) -> str:
    return _NUMBERS[count] if count < len(_NUMBERS) else str(count)


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}{'s' * (count != 1)}"
