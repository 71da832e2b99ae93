"""What the cells of a notebook that is no stage show: thin functions over `meshkit.display` and `meshkit.tables`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from meshkit.changes.plan import Plan
from meshkit.checks.finding import Conclusion, Finding, Findings
from meshkit.display import Record, Text
from meshkit.notebook.pictures import Picture
from meshkit.tables import Column, Table


def table(
    df: pd.DataFrame,
    name: str,
    caption: str = "",
    *,
    limit: int = 50,
    key: Sequence[str] = (),
    show: Sequence[str] = (),
    compare: Sequence[str] = (),
) -> None:
    """Show a frame as a table: see `meshkit.tables.Table`."""
    frame = df if isinstance(df.index, pd.RangeIndex) else df.reset_index()
    columns = {str(column): Column(str(dtype)) for column, dtype in frame.dtypes.items()}
    Table(name, caption, columns, key, show, compare, limit).view(df).show()


def plan(plan: Plan) -> None:
    """Show what a plan would change."""
    plan.show()


def text(words: str, title: str) -> None:
    """Show a text as it is, folded under a title; nothing where there is none."""
    Text(words, title).show()


def figure(fig: Figure, name: str, alt: str = "") -> None:
    """Show a matplotlib figure once."""
    Picture(fig, name, alt).show()


def record(name: str, value: Any) -> None:
    """Hand a small fact on to `record.json`, and show it."""
    Record(name, value).show()


def gates(findings: Sequence[Finding]) -> None:
    """Show what the checks came to, and whether it holds the stage."""
    Findings(findings).show()


def conclude(stage: str, findings: Sequence[Finding]) -> None:
    """Show the verdict of a stage, and raise where it does not hold: see `Conclusion.raise_if_bad`."""
    conclusion = Conclusion(stage, findings)
    conclusion.show()
    conclusion.raise_if_bad()
