"""Tables as text: as kubectl prints them, or as JSON or CSV for programs."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import shutil
import sys
import unicodedata
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Literal

from meshkit.errors import InputError
from meshkit.marks import MARKS, mark, plain

if TYPE_CHECKING:
    import pandas as pd

Output = Literal["table", "json", "csv"]

_ANSI: Final = {"good": "32", "quiet": "2", "warn": "33", "unknown": "35", "bad": "31;1"}
_GAP: Final = "   "
_NARROWEST: Final = 12


def render(
    df: pd.DataFrame,
    output: Output = "table",
    *,
    color: bool | None = None,
    width: int | None = None,
) -> str:
    """Return a table as text, without a line break at its end (CSV ends each record with one, as RFC 4180 has it).

    Timestamps are RFC 3339 in UTC (those without a zone are taken as UTC). A table shows missing values as `-`; JSON is
    a list of records with null for what is missing or not finite; durations are seconds in both JSON and CSV. On a
    terminal, words of state get a symbol, and a colour unless NO_COLOR is set or TERM is dumb; `color` overrules both.
    Only a terminal, or a `width`, cuts columns; a pipe gets all. The index is not shown.

    Raises:
        InputError: the output format is none of the three.
    """
    if output not in ("table", "json", "csv"):
        raise InputError(f"unknown output format {output!r}; expected table, json or csv", remedy="use -o table")
    headings = [str(column) for column in df.columns]
    rows = [[_value(cell) for cell in row] for row in df.itertuples(index=False, name=None)]
    if output == "json":
        records = [dict(zip(headings, map(_json, row), strict=True)) for row in rows]
        return json.dumps(records, ensure_ascii=False, indent=2, allow_nan=False)
    if output == "csv":
        text = io.StringIO()
        csv.writer(text, lineterminator="\r\n").writerows([headings, *([_csv(cell) for cell in row] for row in rows)])
        return text.getvalue()
    terminal = sys.stdout.isatty()
    paint = (terminal and wants_color()) if color is None else color
    if width is None and terminal:
        width = shutil.get_terminal_size().columns
    return _table(headings, rows, marks=terminal or paint, paint=paint, width=width)


def wants_color() -> bool:
    """Return whether the environment allows colour: no NO_COLOR (no-color.org), and a TERM that is not dumb."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def number(value: float) -> str:
    """Return a number with the digits that say something: three, without an exponent, and whole counts whole."""
    if not math.isfinite(value) or value == int(value):
        return f"{value:.0f}"
    size = abs(float(f"{value:.3g}"))
    digits = next((digits for digits, floor in enumerate((100, 10, 1)) if size >= floor), None)
    return f"{value:.3g}" if digits is None else f"{value:.{digits}f}"


def cell_width(text: str) -> int:
    """Return how many terminal cells a text takes: wide characters two, combining ones and joiners none."""
    return sum(
        0 if unicodedata.category(c) in ("Mn", "Me", "Cf") else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in text
    )


def _table(headings: list[str], rows: list[list[Any]], *, marks: bool, paint: bool, width: int | None) -> str:
    texts = [[_shown(cell, marks=marks) for cell in row] for row in rows]
    lines = [[heading.upper().replace("_", " ") for heading in headings], *texts]
    widths = [max(map(cell_width, column)) for column in zip(*lines, strict=True)]
    if width is not None:
        whole = {i for row in rows for i, cell in enumerate(row) if isinstance(cell, int | float | date | timedelta)}
        _narrow(widths, width - len(_GAP) * (len(widths) - 1), keep=whole)
    printed = []
    for number, line in enumerate(lines):
        cells = [_cut(text, widths[i]) for i, text in enumerate(line)]
        padded = [cell + " " * (widths[i] - cell_width(cell)) for i, cell in enumerate(cells)]
        if number and paint:
            padded = [_painted(text, rows[number - 1][i]) for i, text in enumerate(padded)]
        printed.append(_GAP.join(padded).rstrip())
    return "\n".join(printed)


def _narrow(widths: list[int], room: int, *, keep: set[int]) -> None:
    # The widest text column gives way, one cell at a time, so that two wide ones end up equal.
    texts = [i for i in range(len(widths)) if i not in keep]
    while texts and sum(widths) > room:
        widest = max(texts, key=lambda i: widths[i])
        if widths[widest] <= _NARROWEST:
            return
        widths[widest] -= 1


def _cut(text: str, width: int) -> str:
    if cell_width(text) <= width:
        return text
    while cell_width(text) > width - 1:
        text = text[:-1]
    return f"{text}…"


def _painted(padded: str, cell: object) -> str:
    if not isinstance(cell, str) or plain(cell) not in MARKS:
        return padded
    text = padded.rstrip()
    return f"\x1b[{_ANSI[mark(cell).tone]}m{text}\x1b[0m{padded[len(text) :]}"


def _value(cell: Any) -> Any:
    """Return a cell as a plain Python value; all that is missing is None."""
    import pandas as pd

    if isinstance(cell, Mapping):
        return {str(key): _value(value) for key, value in cell.items()}
    if isinstance(cell, list | tuple | set | frozenset):
        return [_value(value) for value in cell]
    if cell is None or (pd.api.types.is_scalar(cell) and pd.isna(cell)):
        return None
    if isinstance(cell, pd.Timestamp):
        return cell.to_pydatetime(warn=False)
    if isinstance(cell, str | bool | int | float | date | timedelta):
        return str(cell) if isinstance(cell, str) else cell
    return _value(cell.item()) if hasattr(cell, "item") else str(cell)


def _json(cell: Any) -> Any:
    if isinstance(cell, dict):
        return {key: _json(value) for key, value in cell.items()}
    if isinstance(cell, list):
        return [_json(value) for value in cell]
    if isinstance(cell, float) and not math.isfinite(cell):
        return None
    if isinstance(cell, timedelta):
        return cell.total_seconds()
    return _rfc3339(cell) if isinstance(cell, date) else cell


def _csv(cell: Any) -> str:
    value = _json(cell)
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _shown(cell: Any, *, marks: bool) -> str:
    if cell is None or cell == "":
        return "-"
    if isinstance(cell, bool):
        return str(cell).lower()
    if isinstance(cell, float):
        return number(cell)
    if isinstance(cell, timedelta):
        return f"{number(cell.total_seconds())}s"
    if isinstance(cell, date):
        return _rfc3339(cell.replace(microsecond=0) if isinstance(cell, datetime) else cell)
    text = ", ".join(map(str, cell)) if isinstance(cell, list) else str(cell)
    # Texts come from clusters: a line break would break the table, an escape sequence the terminal.
    text = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in " ".join(text.split()))
    return f"{mark(text).symbol} {text}" if marks and plain(text) in MARKS else text


def _rfc3339(moment: date) -> str:
    if not isinstance(moment, datetime):
        return moment.isoformat()
    zoned = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    return zoned.isoformat().replace("+00:00", "Z")
