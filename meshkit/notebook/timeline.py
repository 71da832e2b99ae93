"""Requests over time: who answered, what failed, what nobody saw, and what was done meanwhile."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter, date2num
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from meshkit.marks import mark
from meshkit.notebook.style import FAINT, INK, LINES, Chart, chart, nothing, styled
from meshkit.probing.request_log import NOT_OBSERVED, in_clusters, totals

WIDTH: Final = 10.4
MOST_POINTS: Final = 600
MOST_LEVELS: Final = 8
MOST_LETTERS: Final = 34
RED: Final = "#c5221f"
# No orange: it would be taken for the red of what failed.
ANSWERING: Final = (LINES[0], "#5ab4ac", LINES[3], LINES[4], LINES[6], "#7f7f7f")
_DAY: Final = 86_400.0


@styled
def requests_over_time(
    requests: pd.DataFrame, marks: Sequence[tuple[datetime, str]] = (), *, title: str = "Requests"
) -> Chart:
    """Show requests per second by the cluster that answered, failed ones in red, seconds that nobody saw hatched.

    `requests` is the table `meshkit.probing.request_log.TRAFFIC`; `marks` are moments with a short label each. A
    long time is drawn in steps of several seconds. Below: the slowest p99 of the senders.
    """
    if requests.empty:
        return nothing(f"{title} over time: no request was seen")
    series = _Series(requests)
    counts = totals(requests)
    caption = f"{title}: {counts['sent']:,} sent, {counts['failed']:,} failed"
    caption += f"; {counts['not_observed']:,} s not observed" if counts["not_observed"] else ""
    placed = _levels(marks, series)
    figure = chart(caption, WIDTH, 4.1 + 0.19 * (1 + max((level for _, _, level, _ in placed), default=-1)))
    rate, slow = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    _rates(rate, series)
    _slowest(slow, series)
    for axes in (rate, slow):
        _bands(axes, series)
    _draw_marks(rate, slow, placed)
    locator = AutoDateLocator(minticks=3, maxticks=9)  # type: ignore[no-untyped-call]
    slow.xaxis.set_major_locator(locator)
    slow.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
    slow.set(xlim=(series.edges[0], series.edges[-1]), xlabel="time (UTC)")
    handles = [Patch(color=_colour(series, name), label=f"answered in {name}") for name in series.names]
    if series.failed.any():
        handles.append(Patch(color=RED, label=f"{mark('fail').symbol} failed"))
    if series.gap.any():
        handles.append(Patch(facecolor="white", edgecolor=FAINT, hatch="////", label="not observed"))
    figure.legend(handles=handles, loc="outside lower left", ncols=6, frameon=False)
    return figure


class _Series:
    """The table by steps of one second or more: edges (matplotlib dates), and one number for each step."""

    def __init__(self, requests: pd.DataFrame) -> None:
        stamps = np.array([stamp.timestamp() for stamp in requests["time"]]).astype("int64")
        begin, end = int(stamps.min()), int(stamps.max()) + 1
        self.step = max(1, math.ceil((end - begin) / MOST_POINTS))
        steps = math.ceil((end - begin) / self.step)
        self.edges = np.array([(begin + self.step * n) / _DAY for n in range(steps + 1)])
        at = (stamps - begin) // self.step
        gone = (requests["answered_in"] == NOT_OBSERVED).to_numpy()
        self.failed, self.gap = np.zeros(steps), np.zeros(steps, dtype=bool)
        np.add.at(self.failed, at, requests["failed"].to_numpy())
        self.gap[at[gone]] = True
        answered = [in_clusters(text) for text in requests["answered_in"]]
        self.names = sorted({name for counts in answered for name in counts}, key=lambda name: (name == "?", name))
        self.rates = {name: np.zeros(steps) for name in self.names}
        self.p99 = np.full(steps, np.nan)
        for place, counts, p99 in zip(at, answered, requests["p99_ms"], strict=True):
            for name, count in counts.items():
                self.rates[name][place] += count / self.step
            self.p99[place] = np.fmax(self.p99[place], p99)


def _colour(series: _Series, name: str) -> str:
    return FAINT if name == "?" else ANSWERING[series.names.index(name) % len(ANSWERING)]


def _rates(axes: Axes, series: _Series) -> None:
    below = np.zeros(len(series.failed))
    for name in series.names:
        above = below + series.rates[name]
        axes.stairs(above, series.edges, baseline=below, fill=True, color=_colour(series, name), linewidth=0)
        axes.stairs(above, series.edges, baseline=None, color="white", linewidth=0.6)
        below = above
    failing = below + series.failed / series.step
    axes.stairs(failing, series.edges, baseline=below, fill=True, color=RED, linewidth=0)
    top = max(1.0, float(failing.max())) * 1.18
    axes.set(ylim=(0, top), ylabel="requests per second")
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    axes.grid(axis="y")
    _count_failed(axes, series, top)


def _count_failed(axes: Axes, series: _Series, top: float) -> None:
    """Write how many failed above each run of failing steps; one request is seen as well as a thousand."""
    failing = np.flatnonzero(series.failed)
    near = max(1, round(len(series.failed) * 0.05))  # marks that are closer than their labels are wide share one
    groups = np.split(failing, np.flatnonzero(np.diff(failing) > near) + 1) if len(failing) else []
    for group in groups:
        middle = (series.edges[group[0]] + series.edges[group[-1] + 1]) / 2
        words = f"{mark('fail').symbol} {int(series.failed[group].sum()):,} failed"
        plate: dict[str, Any] = {"facecolor": "white", "edgecolor": RED, "boxstyle": "round,pad=0.25"}
        share = float((middle - series.edges[0]) / (series.edges[-1] - series.edges[0]))
        place = "left" if share < 0.06 else "right" if share > 0.94 else "center"
        look: dict[str, Any] = {"color": RED, "fontweight": "bold", "fontsize": 8.5, "bbox": plate, "zorder": 6}
        axes.text(middle, 0.97 * top, words, ha=place, va="top", **look)


def _slowest(axes: Axes, series: _Series) -> None:
    axes.stairs(series.p99, series.edges, baseline=None, color=INK, linewidth=1.1)
    axes.set(ylabel="p99 (ms)")
    if np.isfinite(series.p99).any():
        axes.set_yscale("log")
        low, high = np.nanmin(series.p99), np.nanmax(series.p99)
        axes.set_ylim(max(0.1, low / 1.6), max(high * 1.6, 10 * low / 1.6))
        axes.yaxis.set_major_locator(LogLocator(subs=(1,) if high > 30 * low else (1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(axis="y")


def _bands(axes: Axes, series: _Series) -> None:
    # At least so wide that one second of an hour is still seen.
    least = (series.edges[-1] - series.edges[0]) / 350
    for place in np.flatnonzero(series.failed):
        middle = (series.edges[place] + series.edges[place + 1]) / 2
        half = max(least, series.edges[place + 1] - series.edges[place]) / 2
        axes.axvspan(middle - half, middle + half, color=RED, alpha=0.55, linewidth=0, zorder=2.5)
    for begin, end in _runs(series.gap):
        look: dict[str, Any] = {"facecolor": "white", "edgecolor": FAINT, "hatch": "////", "linewidth": 0}
        axes.axvspan(series.edges[begin], series.edges[end], **look, zorder=2.4)


def _runs(flags: np.ndarray[Any, Any]) -> list[tuple[int, int]]:
    """Return (begin, end) of each run of true values."""
    padded = np.concatenate(([0], flags.astype("int8"), [0]))
    turns = np.flatnonzero(np.diff(padded))
    return [(int(a), int(b)) for a, b in zip(turns[::2], turns[1::2], strict=True)]


def _levels(marks: Sequence[tuple[datetime, str]], series: _Series) -> list[tuple[float, str, int, str]]:
    """Return (moment, label, level, side) for each mark, so that no label of a level covers another."""
    span = series.edges[-1] - series.edges[0]
    letter = span / (WIDTH * 0.87) * 0.0605  # one inch in 8 points has some 16 letters
    taken: list[float] = []
    placed = []
    for moment, words in sorted(marks, key=lambda known: known[0]):
        at = float(date2num(moment))  # type: ignore[no-untyped-call]
        if not series.edges[0] <= at <= series.edges[-1]:
            at = min(max(at, series.edges[0]), series.edges[-1])
        label = words if len(words) <= MOST_LETTERS else words[: MOST_LETTERS - 1] + "…"
        width = (len(label) + 1.5) * letter
        side = "right" if at + width > series.edges[-1] and at - width > series.edges[0] else "left"
        left, right = (at - width, at) if side == "right" else (at, at + width)
        level = next((n for n, end in enumerate(taken) if end <= left), len(taken))
        if level == MOST_LEVELS:
            level, label = 0, ""
        elif level == len(taken):
            taken.append(right)
        else:
            taken[level] = right
        placed.append((at, label, level, side))
    return placed


def _draw_marks(rate: Axes, slow: Axes, placed: list[tuple[float, str, int, str]]) -> None:
    line: dict[str, Any] = {"color": INK, "linewidth": 0.8, "linestyle": (0, (4, 2)), "zorder": 5}
    for at, label, level, side in placed:
        height = 1.025 + 0.07 * level
        rate.plot([at, at], [0, height + 0.03], transform=rate.get_xaxis_transform(), clip_on=False, **line)
        slow.axvline(at, **line)
        words = f" {label}" if side == "left" else f"{label} "
        # On white, since the lines of labels above pass behind it.
        plate: dict[str, Any] = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}
        look: dict[str, Any] = {"va": "bottom", "fontsize": 8, "bbox": plate, "zorder": 7}
        rate.text(at, height, words, transform=rate.get_xaxis_transform(), ha=side, **look)
