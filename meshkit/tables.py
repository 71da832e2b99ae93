"""Tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd


def table(rows: Iterable[dict[str, Any]], columns: dict[str, str]) -> pd.DataFrame:
    """Return rows as a DataFrame with exactly these columns and dtypes, sorted by the text columns in their order.

    What a row leaves out is empty, 0, False, NaN or NaT.
    """
    frame = pd.DataFrame(list(rows), columns=list(columns))
    texts = [name for name, dtype in columns.items() if dtype == "str"]
    blank: dict[str, Any] = {"str": "", "int64": 0, "bool": False}
    for name in (name for name, dtype in columns.items() if dtype in blank):
        frame[name] = frame[name].astype("object").where(frame[name].notna(), blank[columns[name]])
    for name in (name for name, dtype in columns.items() if dtype.startswith("datetime64")):
        frame[name] = pd.to_datetime(frame[name], utc=True)
    dtypes: dict[str, Any] = dict(columns)
    frame = frame.astype(dtypes)
    return frame.sort_values(texts, kind="stable", ignore_index=True) if texts else frame


def row_of(rows: pd.DataFrame, cluster: str) -> dict[str, Any]:
    """Return a cluster's row of a table that has one for each."""
    found = rows[rows["cluster"] == cluster].to_dict("records")
    return {str(key): value for key, value in found[0].items()} if found else {}


Row = Mapping[Any, Any]


def of_cluster(rows: pd.DataFrame, cluster: str) -> pd.DataFrame:
    """Return a table's rows of one cluster."""
    return rows[rows["cluster"] == cluster]
