"""Any table with filters for its columns, such as the proxies by cluster, namespace, state and version."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import pandas as pd
from pandas.api.types import is_numeric_dtype

from meshkit.checks.pair_table import LINKS
from meshkit.istio.proxies.status_summary import PROXIES
from meshkit.notebook.widgets.page import Page
from meshkit.tables import Table

FILTERS: Final = {
    PROXIES.name: ("cluster", "namespace", "worst", "version"),
    LINKS.name: ("client", "server", "verdict", "broken"),
}
"""The columns by which a table is filtered; any other by its first `MOST` columns of few values."""
MOST: Final = 4
FEW: Final = 20
ROWS: Final = 50
"""Rows that are shown; filters find the others."""


def filters(table: Table, frame: pd.DataFrame) -> dict[str, list[str]]:
    """Return the columns by which a table is filtered, each with its values in order."""
    texts = [name for name in table.shown(frame).columns if frame[name].dtype == "str"]
    values = {name: sorted(set(frame[name]) - {""}) for name in FILTERS.get(table.name, texts)}
    if table.name in FILTERS:
        return values
    return dict([(name, known) for name, known in values.items() if 1 < len(known) <= FEW][:MOST])


def chosen_rows(frame: pd.DataFrame, choice: Mapping[str, str], words: str = "") -> pd.DataFrame:
    """Return the rows that have the chosen values, and all of the words somewhere. An empty value chooses nothing."""
    for column, value in choice.items():
        frame = frame[frame[column] == value] if value else frame
    for word in words.lower().split():
        texts = (frame[name].str.lower() for name in frame.columns if frame[name].dtype == "str")
        has = [text.str.contains(word, regex=False) for text in texts]
        frame = frame[pd.concat(has, axis=1).any(axis=1)]
    return frame


class TablePage(Page):
    """A table: which rows of it. The view itself is the plain display."""

    template = "table.html.j2"

    def __init__(self, table: Table, frame: pd.DataFrame) -> None:
        self.table, self.frame = table, frame.reset_index(drop=True)
        self.filters = filters(table, self.frame)
        super().__init__(words="", **dict.fromkeys(self.filters, ""))
        self.label = table.caption

    def rows(self) -> pd.DataFrame:
        """Return the chosen rows, all of them."""
        return chosen_rows(self.frame, {name: self.chosen[name] for name in self.filters}, self.chosen["words"])

    def status(self) -> str:
        """Return how many rows are chosen."""
        return f"{len(self.rows()):,} of {len(self.frame):,} rows"

    def content(self) -> Mapping[str, Any]:
        """Return the filters, and the first of the chosen rows; the columns that can be chosen come first."""
        shown = self.table.shown(self.rows())
        rows = shown[[*self.filters, *shown.columns.drop(list(self.filters))]]
        numbers = [name for name in rows.columns if is_numeric_dtype(rows[name])]
        first = rows.head(ROWS).to_dict("records")
        more = max(0, len(rows) - ROWS)
        return {"filters": self.filters, "columns": list(rows.columns), "numbers": numbers, "rows": first, "more": more}
