"""The users' requests during a run, together with the changes that the run made."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import pandas as pd

from meshkit.probing.request_log import FAILED, REQUESTS
from meshkit.probing.retries import Retried
from meshkit.runs import latency
from meshkit.runs.latency import PHASES, BeforeAfter
from meshkit.tables import Table, moment, number, text

CHANGES_BY_TIME: Final = Table(
    "journal",
    "Changes",
    {
        "time": moment("when it began", resolution="ns"),
        "stage": text("of the change"),
        "cluster": text("its cluster"),
        "action": text("create, update, patch, delete, restart, scale, install, request, undo …"),
        "object": text("kind, namespace and name"),
        "status": text("done or failed"),
        "seconds": number("how long it took", "s"),
    },
    key=("time", "cluster", "action", "object"),
)
TABLES: Final = (REQUESTS, FAILED, CHANGES_BY_TIME, PHASES)
"""The tables of a story."""
GOOD, UNKNOWN, BAD = "passed", "unknown", "failed"


@dataclass(frozen=True)
class Story:
    """Requests and changes of one run.

    `requests`, `failed` and `totals` are those of `meshkit.probing.load_log.Requests`; `changes` is the table of that
    function; `marks` are moments with a short label for the chart. `retries` is None where they are not known.
    """

    requests: pd.DataFrame
    failed: pd.DataFrame
    totals: Mapping[str, Any]
    changes: pd.DataFrame
    marks: Sequence[tuple[datetime, str]] = field(default_factory=tuple)
    retries: Sequence[Retried] | None = None

    @property
    def state(self) -> str:
        """The word for the headline: failed, unknown where not all was observed, or passed."""
        if self.totals.get("failed"):
            return BAD
        return GOOD if self.totals.get("sent") and not self.unobserved else UNKNOWN

    @property
    def lost(self) -> str:
        """How many requests of how many failed; without observations it says so."""
        sent, failed = int(self.totals.get("sent", 0)), int(self.totals.get("failed", 0))
        return f"{failed:,} of {sent:,}" if sent else "not known how many"

    @property
    def headline(self) -> str:
        """The count in one sentence; without observations it says so."""
        if not self.totals.get("sent"):
            return "No request was observed while the run went on."
        return f"{self.lost} requests failed; {self.retried}."

    @property
    def retried(self) -> str:
        """How often sidecars tried again, in words."""
        if self.retries is None:
            return "how often sidecars tried again is unknown"
        times = sum(one.times for one in self.retries)
        return "no sidecar tried one again" if not times else f"sidecars tried again {_times(times)}"

    @property
    def unobserved(self) -> list[str]:
        """What could not be observed, in sentences."""
        gone, why = int(self.totals.get("not_observed", 0)), dict(self.totals.get("why", {}))
        remarks = (
            [f"{gone:,} of {gone + int(self.totals.get('seconds', 0)):,} seconds were not observed."] if gone else []
        )
        remarks += [f"{name + ': ' if name else ''}{reason}." for name, reason in why.items()]
        if lines := int(self.totals.get("unreadable", 0)):
            remarks.append(f"{lines:,} lines of the load's log were not requests and are not counted.")
        return remarks

    @property
    def uncounted(self) -> list[str]:
        """Why retries are not known, in sentences."""
        pods: dict[str, list[str]] = {}
        for pod, reason in dict(self.totals.get("retries_why", {})).items():
            pods.setdefault(reason, []).append(pod)
        return [f"Retries of {', '.join(names)} are unknown: {reason}." for reason, names in pods.items()]

    @property
    def phases(self) -> pd.DataFrame:
        """The requests by stage: the table `latency.PHASES`."""
        return latency.phases(self.requests, self.changes, self.retries)

    @property
    def latency(self) -> BeforeAfter | None:
        """Latency before and after the changes that last; None where one of the two was not observed."""
        return latency.before_after(self.requests, self.changes)

    def files(self) -> list[tuple[str, str]]:
        """Return its tables as CSV, by the names that the report links."""
        frames = (self.requests, self.failed, self.changes, self.phases)
        csvs = (df.to_csv(index=False, date_format="%Y-%m-%dT%H:%M:%SZ") for df in frames)
        return [(table.name, csv) for table, csv in zip(TABLES, csvs, strict=True)]

    def picture(self) -> tuple[str, str]:
        """Return the chart as a PNG in base64, and its text alternative."""
        from meshkit.notebook import timeline

        png, about = timeline.requests_over_time(self.requests, self.marks)._repr_png_()
        return base64.b64encode(png).decode(), " ".join(about["alt"].split())


def _times(count: int) -> str:
    return {1: "once", 2: "twice"}.get(count, f"{count:,} times")


def changes(entries: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """Return the changes of a run, oldest first."""
    return CHANGES_BY_TIME.frame(entries).sort_values("time", kind="stable", ignore_index=True)


def payload(df: pd.DataFrame, table: Table) -> dict[str, Any]:
    """Return a table as `tables.table_html` takes it, times to the second."""
    shown = df.copy()
    for column in (c for c in df.columns if str(df[c].dtype).startswith("datetime64")):
        shown[column] = df[column].dt.strftime("%H:%M:%S")
    seconds = shown.select_dtypes("float64").columns
    shown[seconds] = shown[seconds].round(3)
    rows = [[None if pd.isna(value) else value for value in row] for row in shown.astype(object).to_numpy().tolist()]
    return {
        "name": table.name,
        "caption": table.caption,
        "columns": list(shown.columns),
        "dtypes": [str(dtype) for dtype in shown.dtypes],
        "rows": rows,
    }
