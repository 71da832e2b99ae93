"""Tables: one schema for each, from which come its frame, what a cell shows, its CSV and its documentation.

GATEWAYS = Table(
    "gateways", "East-west gateways offered", key=("cluster", "service"),
    columns={"cluster": text("whose"), "port": integer("where it listens for other clusters"), …},
)
frame = GATEWAYS.frame(rows)      # a DataFrame with these columns, sorted
GATEWAYS.view(frame)              # what ends a cell: the table, and all of its rows as data
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from html import escape
from typing import Any, Literal, NamedTuple, Self

import pandas as pd

from meshkit.display import LEFT, TABLE, Shown, cell_html, cell_text, file_name, styled

Row = Mapping[Any, Any]


class Column(NamedTuple):
    """A column: its pandas dtype, what it means, and its unit."""

    dtype: str
    meaning: str = ""
    unit: str = ""


def text(meaning: str = "") -> Column:
    """Return a column of texts; what a row leaves out is empty."""
    return Column("str", meaning)


def integer(meaning: str = "", unit: str = "", *, missing: bool = False) -> Column:
    """Return a column of whole numbers; what a row leaves out is 0, or with `missing` is missing."""
    return Column("Int64" if missing else "int64", meaning, unit)


def number(meaning: str = "", unit: str = "") -> Column:
    """Return a column of numbers; what a row leaves out is NaN."""
    return Column("float64", meaning, unit)


def flag(meaning: str = "") -> Column:
    """Return a column of True and False; what a row leaves out is False."""
    return Column("bool", meaning)


def moment(meaning: str = "", *, resolution: Literal["us", "ns"] = "us") -> Column:
    """Return a column of moments in UTC; what a row leaves out is NaT."""
    return Column(f"datetime64[{resolution}, UTC]", meaning)


@dataclass(frozen=True)
class Table:
    """The schema of a table.

    `name` is the name of its CSV; `key` the columns that identify a row, so that the report can tell which rows
    changed since the run before, in the columns `compare` (all but times unless given). People see the columns `show`
    (all unless given) without those that are empty, and `limit` rows at most; the CSV has everything.
    """

    name: str
    caption: str
    columns: Mapping[str, Column]
    key: Sequence[str] = ()
    show: Sequence[str] = ()
    compare: Sequence[str] = ()
    limit: int = 50

    def __post_init__(self) -> None:
        file_name(self.name)
        if unknown := {*self.key, *self.show, *self.compare} - {*self.columns}:
            raise ValueError(f"table {self.name}: no column {', '.join(sorted(unknown))}; it has {[*self.columns]}")

    @cached_property
    def dtypes(self) -> dict[str, str]:
        """The dtype of each column."""
        return {name: column.dtype for name, column in self.columns.items()}

    def frame(self, rows: Iterable[Mapping[str, Any]], *, in_order: bool = False) -> pd.DataFrame:
        """Return rows as a DataFrame with exactly these columns and dtypes.

        They are sorted by the text columns in their order, or `in_order` as given. What a row leaves out is empty, 0,
        False, NaN or NaT.
        """
        known = list(rows)
        values = {name: _filled([row.get(name) for row in known], dtype) for name, dtype in self.dtypes.items()}
        texts = [values[name] for name, dtype in self.dtypes.items() if dtype == "str"]
        if texts and not in_order:
            keys = list(zip(*texts, strict=True))
            order = sorted(range(len(known)), key=keys.__getitem__)
            values = {name: [column[place] for place in order] for name, column in values.items()}
        return pd.DataFrame({name: _column(values[name], dtype) for name, dtype in self.dtypes.items()}, copy=False)

    def shown(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Return the columns of a frame that people see."""
        return frame[list(self.show)] if self.show else frame

    def view(self, frame: pd.DataFrame) -> View:
        """Return what shows a frame as this table."""
        return View(self, frame)

    def renamed(self, name: str, caption: str) -> Self:
        """Return the same table under another name, such as the one after a change."""
        return replace(self, name=name, caption=caption)

    def markdown(self) -> str:
        """Return the documentation of its columns."""
        units = {name: f", {column.unit}" if column.unit else "" for name, column in self.columns.items()}
        lines = [f"| `{name}` | {column.meaning}{units[name]} |" for name, column in self.columns.items()]
        return "\n".join(["| column | meaning |", "|---|---|", *lines])


class View(Shown):
    """A frame as one table: `frame` has it whole."""

    def __init__(self, table: Table, frame: pd.DataFrame) -> None:
        self.table, self.frame = table, frame

    def payload(self) -> dict[str, Any]:
        """Return the table as data: all rows, and how it is to be shown."""
        frame = self.frame if isinstance(self.frame.index, pd.RangeIndex) else self.frame.reset_index()
        columns = [str(column) for column in frame.columns]
        if unknown := {*self.table.key, *self.table.show, *self.table.compare} - set(columns):
            raise ValueError(f"table {self.table.name}: no column {', '.join(sorted(unknown))}; it has {columns}")
        rows = frame.to_json(orient="values", date_format="iso", double_precision=15, default_handler=str)
        return {
            "name": self.table.name,
            "caption": self.table.caption,
            "columns": columns,
            "dtypes": [str(dtype) for dtype in frame.dtypes],
            "key": list(self.table.key),
            "show": list(self.table.show),
            "compare": list(self.table.compare),
            "rows": json.loads(rows),
        }

    def bundle(self) -> dict[str, Any]:
        """Return the table for people, and as data."""
        payload, limit = self.payload(), self.table.limit
        return {
            "text/plain": table_text(payload, limit=limit),
            "text/html": styled(table_html(payload, limit=limit)),
            TABLE: payload,
        }

    def __len__(self) -> int:
        return len(self.frame)


_BLANK: Mapping[str, Any] = {"str": "", "int64": 0, "bool": False}


def _filled(values: list[Any], dtype: str) -> list[Any]:
    """Return values with what stands for missing ones in a column of that dtype; texts as texts."""
    if dtype not in _BLANK:
        return values
    # NaN and NaT are not what they are.
    filled = [_BLANK[dtype] if value is None or value != value else value for value in values]  # noqa: PLR0124
    return [str(value) for value in filled] if dtype == "str" else filled


def _column(values: list[Any], dtype: str) -> pd.Series[Any]:
    """Return values as a column. A frame of all rows would have pandas guess the dtypes first, for thrice the time."""
    if dtype.startswith("datetime64"):
        moments: pd.Series[Any] = pd.to_datetime(pd.Series(values, dtype="object"), utc=True)
        typed: pd.Series[Any] = moments.astype(dtype)  # type: ignore[call-overload]
        return typed
    plain = pd.Series(values, dtype="object") if dtype in ("int64", "bool") else values
    return pd.Series(plain, dtype=dtype)


def without_empty(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a frame without the columns in which no row says anything; one without rows keeps them all."""
    said = frame.notna() & (frame != "")
    return frame.loc[:, said.any()] if len(frame) else frame


def row_of(rows: pd.DataFrame, cluster: str) -> dict[str, Any]:
    """Return a cluster's row of a table that has one for each."""
    found = rows[rows["cluster"] == cluster].to_dict("records")
    return {str(key): value for key, value in found[0].items()} if found else {}


def of_cluster(rows: pd.DataFrame, cluster: str) -> pd.DataFrame:
    """Return a table's rows of one cluster."""
    return rows[rows["cluster"] == cluster]


def table_html(payload: Mapping[str, Any], *, limit: int, more: str = "") -> str:
    """Return a table payload as HTML, always the same for the same data; `more` is a link to the rest of the rows."""
    columns, dtypes, rows = _shown(payload)
    if not rows:
        return f'<p class="c">{escape(payload["caption"] or payload["name"])}: none</p>'
    name = escape(payload["name"])
    numeric = [re.match(r"u?int|float", dtype, re.IGNORECASE) is not None for dtype in dtypes]
    marks = [' class="n"' if number else "" for number in numeric]
    head = "".join(f"<th{mark or LEFT}>{escape(column)}</th>" for column, mark in zip(columns, marks, strict=True))
    body = "".join(
        "<tr>"
        + "".join(f"<td{mark or _whole(v)}>{cell_html(v)}</td>" for v, mark in zip(row, marks, strict=True))
        + "</tr>\n"
        for row in rows[:limit]
    )
    rest = len(rows) - limit
    note = f"<p>{rest} more rows in {more or f'tables/{name}.csv'}</p>" if rest > 0 else ""
    # Not a <caption>: browsers wrap that to the table's width, and most tables are narrow.
    caption = f'<p class="c" id="mk-{name}-caption">{escape(payload["caption"])}</p>' if payload["caption"] else ""
    labelled = f' aria-labelledby="mk-{name}-caption"' if caption else ""
    return (
        f'{caption}<div style="overflow-x:auto"><table id="mk-{name}"{labelled}><thead><tr>{head}</tr></thead>\n'
        f"<tbody>{body}</tbody></table></div>{note}"
    )


def _whole(value: Any) -> str:
    # Pod names and addresses break at their hyphens otherwise, over three lines each.
    return f' class="w"{LEFT}' if isinstance(value, str) and len(value) <= 44 else LEFT


def table_text(payload: Mapping[str, Any], *, limit: int) -> str:
    """Return a table payload as aligned text."""
    columns, _, rows = _shown(payload)
    if not rows:
        return f"{payload['caption'] or payload['name']}: none"
    grid = [columns, *([cell_text(v) for v in row] for row in rows[:limit])]
    widths = [max(map(len, column)) for column in zip(*grid, strict=True)]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in grid]
    rest = len(rows) - limit
    note = [f"{rest} more rows in tables/{payload['name']}.csv"] if rest > 0 else []
    return "\n".join([payload["caption"]] * bool(payload["caption"]) + lines + note)


def _shown(payload: Mapping[str, Any]) -> tuple[list[str], list[str], list[list[Any]]]:
    """Return the columns that are shown, their dtypes, and the rows cut to them: an empty column says nothing."""
    wanted = payload.get("show") or payload["columns"]
    rows = payload["rows"]
    places = [payload["columns"].index(column) for column in wanted]
    full = [p for p in places if not rows or any(row[p] not in (None, "") for row in rows)]
    return (
        [payload["columns"][p] for p in full],
        [payload["dtypes"][p] for p in full],
        [[row[p] for p in full] for row in rows],
    )
