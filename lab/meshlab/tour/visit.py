"""A stage run for the tour, in the lab that runs, and what its run showed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pandas as pd

from meshkit.errors import ChangeError
from meshkit.runs.folder import RECORD
from meshkit.runs.outcome import Status
from meshkit.runs.run import execute
from meshlab import meshfile
from meshlab.faults import drills
from meshlab.layout import Say, folder
from meshlab.tour.stops import Evidence, Stop, find

ROWS: Final = 12
"""Rows that are shown of a table; the run's folder has them all."""
NOTHING: Final = "Nothing this time: the stage found it done."


@dataclass(frozen=True)
class Visit:
    """A finished run of a stop's stage: its folder has the evidence."""

    stop: Stop
    folder: Path

    @property
    def place(self) -> str:
        """The run's folder, within the lab's."""
        return str(self.folder.relative_to(folder()))

    def table(self, evidence: Evidence) -> pd.DataFrame:
        """Return the rows that a table shows: of those of its name, the stage's last one.

        A stage that found everything done may have none, or one without rows.
        """
        found = [*self.folder.glob(f"tables/{evidence.table}.csv"), *self.folder.glob(f"tables/{evidence.table}.*.csv")]
        frame = pd.read_csv(max(found, key=_place)) if found else pd.DataFrame(columns=list(evidence.columns))
        frame = frame.query(evidence.rows) if evidence.rows and len(frame) else frame
        shown = frame[list(evidence.columns)].head(ROWS).round(1).astype(object)
        return shown.where(shown.notna(), "")

    @property
    def requests(self) -> str:
        """What users' requests did while the stage ran, in a sentence; empty where no load was observed."""
        totals: dict[str, Any] = json.loads((self.folder / RECORD).read_text()).get("requests") or {}
        if not totals.get("sent"):
            return ""
        return f"Meanwhile users sent {totals['sent']:,} requests, of which {totals['failed']:,} failed."

    def lines(self) -> Iterator[str]:
        """Yield the answer and what shows it, as lines for a terminal."""
        yield from (f"answer: {self.stop.answer}", self.stop.because, *filter(None, [self.requests]))
        for evidence in self.stop.shows:
            table = self.table(evidence)
            yield from ("", evidence.means, NOTHING if table.empty else table.to_string(index=False))
        yield from ("", f"evidence: {self.folder}")


def _place(path: Path) -> int:
    number = path.name.split(".")[1]
    return int(number) if number.isdigit() else 1


def latest(stop: Stop) -> Visit | None:
    """Return the latest run of a stop's stage in this lab that passed; None where there is none."""
    done = [path for path in sorted(folder().glob(f"tour/*/*-{stop.number}")) if (path / RECORD).exists()]
    passed = [path for path in done if json.loads((path / RECORD).read_text())["exit_code"] == 0]
    return Visit(stop, passed[-1]) if passed else None


def run(stop: Stop, say: Say) -> Visit:
    """Apply the stage to the lab's mesh.

    Raises:
        UnreachableError: no lab runs.
        InputError: the mesh file does not fit.
        ChangeError: the stage did not pass; the message says why, and where its notebook is.
    """
    home = drills.running()
    result = execute(meshfile.mesh_file(), [stop.number], "apply", home / "tour", label=stop.number, say=say)
    (outcome,) = result.outcomes
    if outcome.status is not Status.PASSED:
        raise ChangeError(f"stage {stop.title} {outcome.status}: {outcome.reason}", where=str(result.folder),
                          remedy="run the stages in their order, on `meshkit lab up --start single`")  # fmt: skip
    return Visit(stop, result.folder)


def play(number: str, *, apply: bool) -> None:
    """Print a stop without anybody there: the question, and, if the stage is applied, the answer with what showed it.

    Raises:
        MeshkitError: of `run`.
    """
    stop = find(number)
    print(stop.question, *(f"  {place}. {choice}" for place, choice in enumerate(stop.choices, 1)), sep="\n")
    visit = run(stop, print) if apply else latest(stop)
    print(*(visit.lines() if visit else ["the stage has not run yet"]), sep="\n")
