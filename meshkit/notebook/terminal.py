"""Tables as text: as kubectl prints them, or as JSON or CSV for programs."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TextIO, get_args

import click
from rich.cells import cell_len, set_cell_size

from meshkit.errors import InputError
from meshkit.marks import MARKS, Tone, mark, plain

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd
    from rich.console import Console


Output = Literal["table", "wide", "json", "csv"]
FORMATS: Final = get_args(Output)
Paint = Callable[[str, "Tone | Literal['strong']"], str]

_STYLES: Final = {
    "good": "green", "quiet": "dim", "warn": "yellow", "unknown": "magenta", "bad": "bold red", "strong": "bold",
}  # fmt: skip
_GAP: Final = 3
_NARROW_GAP: Final = 2
_NARROWEST: Final = 8


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
    terminal, words of state get a symbol, and a colour as `painter` has it, which may give a pipe both, too. Only a
    terminal, or a `width`, shortens names, never numbers, times or states; a wide table, and a pipe, get all. The index
    is not shown.

    Raises:
        InputError: the output format is none of the four.
    """
    if output not in FORMATS:
        known = f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
        raise InputError(f"unknown output format {output!r}; expected {known}", remedy="use -o table")
    headings = [str(column) for column in df.columns]
    rows = [[_value(cell) for cell in row] for row in df.itertuples(index=False, name=None)]
    if output == "json":
        records = [dict(zip(headings, map(_json, row), strict=True)) for row in rows]
        return json.dumps(records, ensure_ascii=False, indent=2, allow_nan=False)
    if output == "csv":
        text = io.StringIO()
        csv.writer(text, lineterminator="\r\n").writerows([headings, *([_csv(cell) for cell in row] for row in rows)])
        return text.getvalue()
    room = None if output == "wide" else width or columns_of(sys.stdout)
    return _table(headings, rows, color=color, room=room)


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
    click.echo(render(df, output).rstrip("\n"), color=True if output in ("table", "wide") else None)


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
            clock.reset(task, description=printable(line.partition("\n")[0]))

        yield say


def painter(color: bool | None = None, *, stderr: bool = False) -> Paint:
    """Return what gives a text the colour of a tone, or leaves it as it is where no colours are wanted.

    They are on a terminal, unless NO_COLOR is set or TERM is dumb, and wherever FORCE_COLOR is; `color` overrules all.
    """
    console = _console(color, stderr=stderr)
    if console.color_system is None or console.no_color:
        return lambda text, _: text
    from rich.color import ColorSystem
    from rich.style import Style

    return lambda text, tone: Style.parse(_STYLES[tone]).render(text, color_system=ColorSystem.STANDARD)


def columns_of(stream: TextIO) -> int | None:
    """Return how many columns a terminal has; anything else has none, and gets lines of any length."""
    return shutil.get_terminal_size().columns if stream.isatty() else None


def _table(headings: list[str], rows: list[list[Any]], *, color: bool | None, room: int | None) -> str:
    paint = painter(color)
    marks = sys.stdout.isatty() or paint("-", "quiet") != "-"
    lines = [[_Cell(heading.upper().replace("_", " ")) for heading in headings]]
    lines += [[_cell(value, marks=marks) for value in row] for row in rows]
    columns, gap = [list(column) for column in zip(*lines, strict=True)], _GAP
    gaps = len(columns) - 1
    if room and sum(map(_width, columns)) + gap * gaps > room:
        gap = _NARROW_GAP
        columns = _fitted(columns, room - gap * gaps)
    widths = [_width(column) for column in columns]
    return "\n".join(
        (" " * gap).join(_padded(cell, width, paint) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in zip(*columns, strict=True)
    )


class _Cell(NamedTuple):
    text: str
    tone: Tone | None = None
    whole: bool = False
    """Half a number is another number: it is not cut, nor is a time or a state."""


def _padded(cell: _Cell, width: int, paint: Paint) -> str:
    return (paint(cell.text, cell.tone) if cell.tone else cell.text) + " " * (width - cell_len(cell.text))


def _width(column: Sequence[_Cell]) -> int:
    return max(cell_len(cell.text) for cell in column)


def _fitted(columns: list[list[_Cell]], room: int) -> list[list[_Cell]]:
    """Return columns of which the widest are cut, all to the same width, so that they fit the room if they can."""
    widths = [_width(column) for column in columns]
    least = [
        width if any(cell.whole for cell in column) else min(width, max(_NARROWEST, cell_len(column[0].text)))
        for column, width in zip(columns, widths, strict=True)
    ]
    fitted = widths
    for most in range(max(widths), 0, -1):
        fitted = [max(floor, min(width, most)) for floor, width in zip(least, widths, strict=True)]
        if sum(fitted) <= room:
            break
    return [_shortened(column, width) for column, width in zip(columns, fitted, strict=True)]


def _shortened(column: list[_Cell], width: int) -> list[_Cell]:
    """Return a column cut to a width, at the place nearest to the middle that leaves different names different."""
    names = {cell.text for cell in column}
    for tail in sorted(range(width), key=lambda tail: abs(tail - width // 2)):
        cut = {name: shorten(name, width, tail) for name in names}
        if len({*cut.values()}) == len(names):
            break
    else:
        cut = {name: shorten(name, width) for name in names}
    return [cell._replace(text=cut[cell.text]) for cell in column]


def shorten(text: str, width: int, tail: int | None = None) -> str:
    """Return a text in at most so many cells: of a name the middle is left out, of a sentence the end.

    `tail` is how many cells of a name's end stay; half of them unless given.
    """
    if cell_len(text) <= width:
        return text
    kept = 0 if " " in text else (width - 1) // 2 if tail is None else min(tail, width - 1)
    end = set_cell_size(text[::-1], kept)[::-1]
    return f"{set_cell_size(text, width - 1 - kept)}…{end}"


def _console(color: bool | None, *, stderr: bool = False) -> Console:
    from rich.console import Console

    forced = color or (color is None and bool(os.environ.get("FORCE_COLOR")))
    # Nothing but words of state has a style: what clusters say is neither markup nor to be highlighted.
    return Console(
        stderr=stderr,
        color_system="standard" if forced else "auto",  # forced, even a dumb terminal gets colours
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


def _cell(value: Any, *, marks: bool) -> _Cell:
    if value is None or value == "":
        return _Cell("-")
    if isinstance(value, bool | int | float | date | timedelta):
        return _Cell(_measured(value), whole=True)
    text = printable(", ".join(map(str, value)) if isinstance(value, list) else str(value))
    if plain(text) not in MARKS:
        return _Cell(text)
    found = mark(text)
    return _Cell(f"{found.symbol} {text}" if marks else text, found.tone, whole=True)


def _measured(value: float | date | timedelta) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, timedelta):
        return f"{number(value.total_seconds())}s"
    if isinstance(value, date):
        return _rfc3339(value.replace(microsecond=0) if isinstance(value, datetime) else value)
    return number(value) if isinstance(value, float) else str(value)


def printable(text: str) -> str:
    """Return a text as one line that cannot do anything to a terminal."""
    # Texts come from clusters: a line break would break the table, an escape sequence the terminal.
    return escaped(" ".join(text.split()))


def escaped(text: str) -> str:
    """Return a text whose blanks stay as they are, such as a command, with what is no character for people in hex."""
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


def _rfc3339(moment: date) -> str:
    if not isinstance(moment, datetime):
        return moment.isoformat()
    zoned = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    return zoned.isoformat().replace("+00:00", "Z")
