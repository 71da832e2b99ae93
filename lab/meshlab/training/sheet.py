"""The score sheet of training: a file of JSON lines, one for each event, that is only ever added to.

A round is what its lines tell, so one that a kill left open is known again. Its fault stands in its last line only:
until then it follows from the seed. The sheet is the user's, not the lab's, and stays when the lab is taken down.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import IO, Any, Final

import pandas as pd
from filelock import FileLock, Timeout

from meshkit import paths
from meshkit.errors import InputError
from meshkit.tables import Column, Table, View
from meshlab.container import now
from meshlab.faults.fault import Fault
from meshlab.layout import Site
from meshlab.training.lesson import Lesson, lessons
from meshlab.training.rules import RoundOutcome, draw, points

OPEN: Final = {"fault": "", "cluster": "", "outcome": "open", "seconds": None, "points": None}
COLUMNS: Final = {
    "date": "str", "seed": "Int64", "number": "Int64", "fault": "str", "cluster": "str", "outcome": "str",
    "hints": "Int64", "tries": "Int64", "seconds": "Int64", "points": "Int64",
}  # fmt: skip


@dataclass
class Round:
    """One round, as its lines tell it.

    `lab` is the lab's folder; `topic` and `level` what was chosen, or nothing; `since` when the fault was made and
    `decided` when it was found or given up, both empty until then; `hints` how many were taken; `tries` all answers;
    `score` the last line, when all is healed.
    """

    lab: str
    date: str
    seed: int
    number: int
    clusters: int
    topic: str = ""
    level: int = 0
    since: str = ""
    hints: int = 0
    tries: list[str] = field(default_factory=list)
    outcome: RoundOutcome | None = None
    decided: str = ""
    score: dict[str, Any] = field(default_factory=dict)

    @property
    def drawn(self) -> tuple[Fault, Site]:
        """The fault and its cluster."""
        return draw(self.seed, self.number, self.clusters, self.topic, self.level)

    @property
    def lesson(self) -> Lesson:
        """What it teaches."""
        fault, site = self.drawn
        return lessons(site)[fault.name]

    @property
    def wrong(self) -> int:
        """How many answers were wrong."""
        return len(self.tries) - bool(self.outcome and self.outcome.right)

    @property
    def points(self) -> int | None:
        """What it is worth, once that is decided."""
        return points(self.outcome, self.hints, self.wrong) if self.outcome else None

    @property
    def seconds(self) -> int | None:
        """How long the fault was looked for."""
        if not self.since or not self.decided:
            return None
        return round((datetime.fromisoformat(self.decided) - datetime.fromisoformat(self.since)).total_seconds())

    def row(self) -> dict[str, Any]:
        """Return its line of the score; the fault stays hidden while the round is open."""
        return self.score or {**self.closing(), **OPEN}

    def closing(self) -> dict[str, Any]:
        """Return what the last line tells."""
        fault, site = self.drawn
        return {
            "date": self.date,
            "seed": self.seed,
            "number": self.number,
            "fault": fault.name,
            "cluster": site.name,
            "outcome": self.outcome,
            "hints": self.hints,
            "tries": len(self.tries),
            "seconds": self.seconds,
            "points": self.points,
        }


def path() -> Path:
    """Return the file of the sheet."""
    return paths.state() / "training.jsonl"


@contextlib.contextmanager
def held() -> Iterator[None]:
    """Hold the sheet against every other process that trains.

    Raises:
        InputError: another one is at work.
    """
    opened().close()
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(FileLock(path(), blocking=False, preserve_lock_file=True))
        except Timeout:
            raise InputError("another `meshkit lab drill` or notebook is at work", where=str(path()),
                             remedy="wait for it") from None  # fmt: skip
        yield


def opened() -> IO[str]:
    """Return the sheet, open for another line; it and its folder are made where they are not there."""
    path().parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path().open("a", encoding="utf-8")


def add(lab: Path, event: str, **facts: Any) -> None:
    """Add a line."""
    line = {"event": event, "time": now(), "lab": str(lab), **facts}
    # The line break stands before, too: who was killed while he wrote left half a line.
    before = path().read_bytes() if path().exists() else b""
    half = "" if before.endswith(b"\n") or not before else "\n"
    with opened() as file:
        file.write(half + json.dumps(line, ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())


def rounds() -> list[Round]:
    """Return every round, the oldest first."""
    found: list[Round] = []
    for text in path().read_text(encoding="utf-8", errors="replace").split("\n") if path().exists() else []:
        try:
            line = json.loads(text)
        except ValueError:
            continue  # half a line: what it would tell had not happened
        _take(found, line)
    return found


def _take(found: list[Round], line: dict[str, Any]) -> None:
    event, time, lab = (line.pop(key) for key in ("event", "time", "lab"))
    if event == "begun":
        found.append(Round(lab, time, **line))
        return
    one = next(each for each in reversed(found) if each.lab == lab)
    match event:
        case "broken":
            one.since = time
        case "hint":
            one.hints += 1
        case "wrong":
            one.tries.append(line["answer"])
        case "decided":
            one.tries += [line["answer"]] if line.get("answer") else []
            one.outcome, one.decided = RoundOutcome(line["outcome"]), time
        case "ended":
            one.score = line


def latest(lab: Path) -> Round | None:
    """Return the latest round of a lab, ended or open."""
    return next((one for one in reversed(rounds()) if one.lab == str(lab)), None)


SCORE: Final = Table("score", "Score", {name: Column(dtype) for name, dtype in COLUMNS.items()}, key=("date",))


def score() -> View:
    """Return what a cell shows of the score: see `table`."""
    return SCORE.view(table())


def table() -> pd.DataFrame:
    """Return the score, the oldest round first.

    Columns: date (when it began), seed, number (of the seed's order), fault and cluster (empty while it is open),
    outcome (found, found by its check, given up, not answered, lost: healed by other means; open), hints and tries (how
    many), seconds (from the fault to the answer), points (missing while it is open, and where it was lost).
    """
    return pd.DataFrame([one.row() for one in rounds()], columns=list(COLUMNS)).astype(COLUMNS)
