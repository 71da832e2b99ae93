"""Latency by percentile: of each pair as a matrix, and of requests over time as a line for each cluster."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import pandas as pd

from meshkit.notebook.terminal import number
from meshkit.notebook.widgets.page import Page
from meshkit.probing.pair_survey import PAIR_TRAFFIC
from meshkit.probing.request_log import REQUESTS, TRAFFIC
from meshkit.probing.statistics import LATENCY

WINDOWS: Final = {"last minute": 60, "last 5 minutes": 300, "last 15 minutes": 900}
"""Spans of time that can be chosen, in seconds before the last request."""
WIDTH: Final = 900
HEIGHT: Final = 200


@dataclass(frozen=True)
class Time:
    """The latency of a pair in words, with interval and failures, and its place from fastest (0) to slowest (1)."""

    words: str
    interval: str
    failed: int
    place: float


def percentiles(frame: pd.DataFrame) -> dict[str, str]:
    """Return the columns of times by how people name them: `p50`, `first p50`."""
    columns = [str(name) for name in frame.columns if str(name).endswith("_ms")]
    return {name.removesuffix("_ms").replace("_", " "): name for name in columns}


def matrix(frame: pd.DataFrame, column: str) -> dict[str, dict[str, Time]]:
    """Return the time of each pair by client and server, from `LATENCY` or `PAIR_TRAFFIC`."""
    known = frame[column].dropna()
    low, high = (math.log(max(value, 1e-3)) for value in (known.min(), known.max())) if len(known) else (0.0, 0.0)
    stem = column.removesuffix("_ms")
    found: dict[str, dict[str, Time]] = {}
    for row in frame.to_dict("records"):
        value = row[column]
        near, far = (row.get(f"{stem}_{end}", math.nan) for end in ("low", "high"))
        failed = int(row["failed"] if "failed" in row else row["sent"] - row["answered"])
        place = (math.log(max(value, 1e-3)) - low) / (high - low) if high > low and not math.isnan(value) else 0.0
        words = "no answer" if math.isnan(value) else f"{number(value)} ms"
        interval = "" if math.isnan(near) else f"{number(near)} to {'?' if math.isnan(far) else number(far)}"
        found.setdefault(row["client"], {})[row["server"]] = Time(words, interval, failed, place)
    return found


def within(frame: pd.DataFrame, window: str, cluster: str = "") -> pd.DataFrame:
    """Return the seconds of a window before the last one, of a cluster or of all."""
    frame = frame[frame["cluster"] == cluster] if cluster else frame
    if window not in WINDOWS or frame.empty:
        return frame
    after: pd.Series[bool] = frame["time"] > frame["time"].max() - pd.Timedelta(seconds=WINDOWS[window])
    return frame[after]


def lines(frame: pd.DataFrame, column: str) -> dict[str, str]:
    """Return the points of a line for each cluster, in a picture of `WIDTH` x `HEIGHT` from 0 to the slowest second."""
    if frame[column].dropna().empty:
        return {}
    begin, end = frame["time"].min(), frame["time"].max()
    span, top = max((end - begin).total_seconds(), 1.0), max(frame[column].max(), 1e-3)
    found = {}
    for cluster, own in frame.dropna(subset=[column]).groupby("cluster"):
        places = zip((own["time"] - begin).dt.total_seconds() / span, own[column] / top, strict=True)
        found[str(cluster)] = " ".join(f"{WIDTH * x:.1f},{HEIGHT * (1 - y):.1f}" for x, y in places)
    return found


class LatencyPage(Page):
    """The latency of pairs: which percentile. `stage.latency` is the plain display."""

    template = "latency.html.j2"
    label = "Latency of pairs"

    def __init__(self, frame: pd.DataFrame) -> None:
        self.frame, self.percentiles = frame, percentiles(frame)
        super().__init__(percentile=next(iter(self.percentiles)))

    def status(self) -> str:
        """Return the percentile."""
        return f"{self.chosen['percentile']} of {len(self.frame)} pairs"

    def content(self) -> Mapping[str, Any]:
        """Return the matrix."""
        rows = matrix(self.frame, self.percentiles[self.chosen["percentile"]])
        servers = list(dict.fromkeys([*rows, *self.frame["server"]]))
        return {"percentiles": list(self.percentiles), "rows": rows, "servers": servers}


class TimesPage(Page):
    """The latency of requests over time: which percentile, of when, from which cluster; `stage.requests` is plain."""

    template = "times.html.j2"
    label = "Latency over time"

    def __init__(self, frame: pd.DataFrame) -> None:
        self.frame, self.percentiles = frame, percentiles(frame)
        super().__init__(percentile=next(iter(self.percentiles)), time="", cluster="")

    def shown(self) -> pd.DataFrame:
        """Return the chosen seconds."""
        return within(self.frame, self.chosen["time"], self.chosen["cluster"])

    def status(self) -> str:
        """Return how many requests these are, how many failed, and the slowest second."""
        shown = self.shown()
        slowest = shown[self.percentiles[self.chosen["percentile"]]].max()
        slow = "" if math.isnan(slowest) else f"; slowest second {number(slowest)} ms"
        return f"{shown['sent'].sum():,} requests, {shown['failed'].sum():,} failed{slow}"

    def content(self) -> Mapping[str, Any]:
        """Return the lines."""
        shown, column = self.shown(), self.percentiles[self.chosen["percentile"]]
        top = shown[column].max() if len(shown) else math.nan
        return {
            "percentiles": list(self.percentiles),
            "windows": list(WINDOWS),
            "clusters": sorted(set(self.frame["cluster"]) - {""}),
            "lines": lines(shown, column),
            "top": "" if math.isnan(top) else f"{number(top)} ms",
            "span": [f"{moment:%H:%M:%S}" for moment in (shown["time"].min(), shown["time"].max())]
            if len(shown)
            else [],
            "size": (WIDTH, HEIGHT),
        }


TIMED: Final[dict[str, Callable[[pd.DataFrame], Page]]] = {
    **dict.fromkeys((LATENCY.name, PAIR_TRAFFIC.name), LatencyPage),
    **dict.fromkeys((REQUESTS.name, TRAFFIC.name), TimesPage),
}
"""The pages of the tables that have times, by the table's name."""
