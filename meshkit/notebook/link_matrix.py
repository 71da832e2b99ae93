"""The N x N truth as a picture: a row for each ordered pair, a column for each link that a call rests on."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from meshkit.marks import mark, severity
from meshkit.notebook.style import FAINT, INK, PALE, TONES, Chart, chart, nothing, styled, tone_text

MOST_PAIRS: Final = 30
"""Of more pairs only those that are not well are drawn, so many at most, and one row stands for all the others."""
_ROW: Final = 0.31
_LINK: Final = 0.74
_WORDS: Final = 62
_UNSAID: Final[dict[Any, Any]] = {"verdict": "unknown", "told": "no check looked at it"}


@styled
def link_matrix(cells: pd.DataFrame) -> Chart:
    """Show the verdict of each link of each ordered pair.

    Columns of `cells`: `client`, `server`, `cell`, `verdict`, `id`, `told`.

    Rows are pairs, the worst first; columns are in the order in which one link depends on the other, so the cause is
    the leftmost broken cell of a row: it has a frame, and its message is beside the row.
    """
    if cells.empty:
        return nothing("Pairs of clusters: no pair was looked at")
    links = list(dict.fromkeys(cells["cell"]))
    pairs: dict[str, dict[str, dict[Any, Any]]] = {}
    for row in cells.to_dict("records"):
        own = pairs.setdefault(f"{row['client']} → {row['server']}", dict.fromkeys(links, _UNSAID))
        own[row["cell"]] = row
    ranks = {pair: max(severity(row["verdict"]) for row in own.values()) for pair, own in pairs.items()}
    well = [pair for pair in pairs if mark_of(pairs[pair]) in ("good", "quiet")]
    order = sorted(pairs, key=lambda pair: -ranks[pair])
    drawn = order if len(order) <= MOST_PAIRS else [pair for pair in order if pair not in well][:MOST_PAIRS]
    left = [pair for pair in order if pair not in drawn]
    figure = chart(_title(pairs, well), 2.3 + _LINK * len(links) + 5.2, 1.25 + _ROW * (len(drawn) + bool(left)))
    axes = figure.add_subplot()
    for y, pair in enumerate(drawn):
        _row(axes, y, links, pairs[pair])
    labels = [*drawn, *([f"{len(left)} others"] if left else [])]
    if left:
        _rest(axes, len(drawn), links, [pairs[pair] for pair in left])
    axes.set(xlim=(0, len(links)), ylim=(len(labels), 0))
    axes.xaxis.tick_top()
    axes.set_xticks(np.arange(len(links)) + 0.5, links, rotation=30, ha="left", rotation_mode="anchor")
    axes.set_yticks(np.arange(len(labels)) + 0.5, labels)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure


def mark_of(links: dict[str, dict[Any, Any]]) -> str:
    """Return the tone of the worst link of a pair."""
    return str(mark(max((row["verdict"] for row in links.values()), key=severity)).tone)


def _title(pairs: dict[str, Any], well: list[str]) -> str:
    broken = [pair for pair in pairs if mark_of(pairs[pair]) == "bad"]
    unknown = [pair for pair in pairs if mark_of(pairs[pair]) == "unknown"]
    warned = len(pairs) - len(well) - len(broken) - len(unknown)
    named = f" ({', '.join(broken[:3])}{', …' * (len(broken) > 3)})"
    parts = [f"{len(well)} of {len(pairs)} ordered pair{'s' * (len(pairs) != 1)} whole"]
    for word, count in ((f"broken{named}", len(broken)), ("unknown", len(unknown)), ("with a warning", warned)):
        parts += [f"{count} {word}"] if count else []
    return ", ".join(parts)


def _row(axes: Axes, y: int, links: list[str], own: dict[str, dict[Any, Any]]) -> None:
    cause = _cause(links, own)
    for x, link in enumerate(links):
        row = own[link]
        symbol, tone = mark(row["verdict"])
        color = "white" if tone == "unknown" else PALE.get(tone, TONES[tone])
        hatch: dict[str, Any] = {"hatch": "////", "hatchcolor": FAINT} if tone == "unknown" else {}
        axes.add_patch(Rectangle((x + 0.03, y + 0.06), 0.94, 0.88, facecolor=color, edgecolor="white", **hatch))
        bad = tone == "bad"
        plate = {"bbox": {"facecolor": "white", "edgecolor": "none", "pad": 1}} if tone == "unknown" else {}
        words = f"{symbol} {row['id']}" if bad and row.get("id") else symbol
        look: dict[str, Any] = {"fontsize": 7.5 if bad else 8, "fontweight": "bold" if bad else "normal", **plate}
        tone_text(axes, x + 0.5, y + 0.5, words, color, **look)
    if cause is None:
        return
    x, row = cause
    axes.add_patch(Rectangle((x + 0.03, y + 0.06), 0.94, 0.88, fill=False, edgecolor=INK, linewidth=1.6))
    label = f"{links[x]}: {row.get('told') or row['verdict']}"
    words = label if len(label) <= _WORDS else f"{label[: _WORDS - 1]}…"
    axes.annotate(words, (len(links) + 0.12, y + 0.5), annotation_clip=False, va="center", fontsize=8)


def _cause(links: list[str], own: dict[str, dict[Any, Any]]) -> tuple[int, dict[Any, Any]] | None:
    """Return the leftmost of the worst links of a pair, or nothing where all is well."""
    worst = max(severity(row["verdict"]) for row in own.values())
    found = next((x, own[link]) for x, link in enumerate(links) if severity(own[link]["verdict"]) == worst)
    return None if mark(found[1]["verdict"]).tone in ("good", "quiet") else found


def _rest(axes: Axes, y: int, links: list[str], others: list[dict[str, dict[Any, Any]]]) -> None:
    for x, link in enumerate(links):
        worst = max((own[link]["verdict"] for own in others), key=severity)
        symbol, tone = mark(worst)
        color = PALE.get(tone, TONES[tone])
        axes.add_patch(Rectangle((x + 0.03, y + 0.06), 0.94, 0.88, facecolor=color, edgecolor="white"))
        tone_text(axes, x + 0.5, y + 0.5, symbol, color, fontsize=8)
    good = all(mark_of(own) in ("good", "quiet") for own in others)
    words = "whole, every one of them" if good else "not drawn; the worst verdict of each link"
    axes.annotate(words, (len(links) + 0.12, y + 0.5), annotation_clip=False, va="center", fontsize=8, color=INK)
