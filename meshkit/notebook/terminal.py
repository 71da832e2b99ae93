"""Tables as text: as kubectl prints them, or as JSON or CSV for programs."""

from __future__ import annotations

import csv
import io
import json
import math
import sys
from collections.abc import Mapping
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Literal

import click
from rich.cells import cell_len

from meshkit.errors import InputError
from meshkit.marks import MARKS, mark, plain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import pandas as pd
    from rich.console import Console
    from rich.table import Table


Output = Literal["table", "json", "csv"]

_STYLES: Final = {"good": "green", "quiet": "dim", "warn": "yellow", "unknown": "magenta", "bad": "bold red"}
_GAP: Final = 3
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
    terminal, words of state get a symbol, and a colour unless NO_COLOR is set or TERM is dumb; FORCE_COLOR gives a pipe
    both, too; `color` overrules all of these. Only a terminal, or a `width`, cuts columns, but not numbers and times; a
    pipe gets all. The index is not shown.

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
    return _table(headings, rows, color=color, width=width)


def number(value: float) -> str:
    """Return a number with the digits that say something: three, without an exponent, and whole counts whole."""
    if not math.isfinite(value) or value == int(value):
        return f"{value:.0f}"
    size = abs(float(f"{value:.3g}"))
    digits = next((digits for digits, floor in enumerate((100, 10, 1)) if size >= floor), None)
    return f"{value:.3g}" if digits is None else f"{value:.{digits}f}"


def show(df: pd.DataFrame, output: Output) -> None:
    """Print a table on stdout, as `render` gives it."""
    # click would take colours out of a pipe, those of FORCE_COLOR too; of other formats it may take what clusters say.
    click.echo(render(df, output).rstrip("\n"), color=True if output == "table" else None)


@contextmanager
def talk() -> Iterator[Callable[[str], None]]:
    """Yield what says a line on stderr; on a terminal, the last one has a clock below it until the next or the end."""
    console = _console(None, stderr=True)
    if not (sys.stderr.isatty() and console.is_interactive):
        yield lambda line: print(line, file=sys.stderr, flush=True)
        return
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
    from rich.table import Column
    from rich.text import Text

    # The clock stands before the words: of long ones the end is cut.
    clock_column = TimeElapsedColumn(table_column=Column(min_width=len("0:00:00"), no_wrap=True))
    columns = SpinnerColumn(), clock_column, TextColumn("{task.description}", markup=False)
    with Progress(*columns, console=console, transient=True, redirect_stdout=False) as clock:
        task = clock.add_task("")

        def say(line: str) -> None:
            console.print(Text(line), soft_wrap=True)
            clock.reset(task, description=_printable(line.partition("\n")[0]))

        yield say


def _table(headings: list[str], rows: list[list[Any]], *, color: bool | None, width: int | None) -> str:
    console = _console(color)
    painted = console.color_system is not None and not console.no_color
    terminal = sys.stdout.isatty()
    lines = [[heading.upper().replace("_", " ") for heading in headings]]
    lines += [[_shown(cell, marks=painted or terminal) for cell in row] for row in rows]
    if not painted and not terminal and width is None:
        return _plain(lines)
    whole = {i for row in rows for i, cell in enumerate(row) if isinstance(cell, int | float | date | timedelta)}
    least, most = _widths(lines, whole)
    console.width = max(width or (console.width if terminal else most), least)
    with console.capture() as printed:
        console.print(_rich(lines, rows if painted else [], whole))
    return "\n".join(line.rstrip() for line in printed.get().rstrip("\n").split("\n"))


def _plain(lines: list[list[str]]) -> str:
    """Return a table for a pipe, which scripts read: it is whole, and of many thousand lines quickly made."""
    widths = _columns(lines)
    padded = ((text + " " * (widths[i] - cell_len(text)) for i, text in enumerate(line)) for line in lines)
    return "\n".join((" " * _GAP).join(line).rstrip() for line in padded)


def _rich(lines: list[list[str]], states: list[list[Any]], whole: set[int]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, _GAP, 0, 0), pad_edge=False, header_style="")
    cells = [[Text(text, no_wrap=True, overflow="ellipsis") for text in line] for line in lines]
    for i, heading in enumerate(cells[0]):
        table.add_column(heading, no_wrap=i in whole)
    for row, line in zip(states, cells[1:], strict=False):
        for cell, text in zip(row, line, strict=True):
            if isinstance(cell, str) and plain(cell) in MARKS:
                text.stylize(_STYLES[mark(cell).tone])
    for line in cells[1:]:
        table.add_row(*line)
    return table


def _widths(lines: list[list[str]], whole: set[int]) -> tuple[int, int]:
    """Return how narrow a table may be, whose numbers are not cut, and how wide it is uncut."""
    widths = _columns(lines)
    gaps = _GAP * (len(widths) - 1)
    narrowed = (width if i in whole else min(width, _NARROWEST) for i, width in enumerate(widths))
    return sum(narrowed) + gaps, sum(widths) + gaps


def _columns(lines: list[list[str]]) -> list[int]:
    return [max(map(cell_len, column)) for column in zip(*lines, strict=True)]


def _console(color: bool | None, *, stderr: bool = False) -> Console:
    from rich.console import Console

    # Nothing but words of state has a style: what clusters say is neither markup nor to be highlighted.
    return Console(
        stderr=stderr,
        color_system="standard" if color else "auto",
        force_terminal=color,
        no_color=None if color is None else not color,
        force_jupyter=False,
        legacy_windows=False,
        markup=False,
        highlight=False,
    )


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
    text = _printable(", ".join(map(str, cell)) if isinstance(cell, list) else str(cell))
    return f"{mark(text).symbol} {text}" if marks and plain(text) in MARKS else text


def _printable(text: str) -> str:
    # Texts come from clusters: a line break would break the table, an escape sequence the terminal.
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in " ".join(text.split()))


def _rfc3339(moment: date) -> str:
    if not isinstance(moment, datetime):
        return moment.isoformat()
    zoned = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    return zoned.isoformat().replace("+00:00", "Z")
