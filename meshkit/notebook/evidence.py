"""What the cells of a notebook that is no stage show: thin functions over `meshkit.display` and `meshkit.tables`."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from io import BytesIO
from typing import Any, Final

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from meshkit.changes.plan import Plan
from meshkit.checks.finding import Conclusion, Finding, Findings
from meshkit.display import Record, Shown, Text, file_name
from meshkit.istio.reading import Reading
from meshkit.tables import Column, Table

CSS_DPI: Final = 96


class Picture(Shown):
    """A matplotlib figure as a PNG with a text alternative, its title unless given; drawn once, then closed.

    Of a figure in which nothing is drawn only the title is shown.
    """

    def __init__(self, figure: Figure, name: str, alt: str = "") -> None:
        self.name = file_name(name)
        self.alt = alt or " ".join(figure.get_suptitle().split()) or name
        self.width = round(figure.get_figwidth() * CSS_DPI)
        self.png = ""
        if figure.get_axes():
            png = BytesIO()
            figure.savefig(png, format="png", dpi=1.5 * CSS_DPI)
            self.png = base64.b64encode(png.getvalue()).decode()
        plt.close(figure)

    def bundle(self) -> dict[str, Any]:
        """Return the picture, and its title as text."""
        if not self.png:
            return {"text/plain": self.alt}
        return {"text/plain": f"[figure {self.name}: {self.alt}]", "image/png": self.png}

    def metadata(self) -> dict[str, Any]:
        """Return its name, its title and the width at which it is to be shown."""
        about = {"figure": self.name, "alt": self.alt, "width": self.width}
        return {"meshkit": about, "image/png": {"width": self.width, "alt": self.alt}} if self.png else {}


def table(
    df: pd.DataFrame | Reading[Any],
    name: str,
    caption: str = "",
    *,
    limit: int = 50,
    key: Sequence[str] = (),
    show: Sequence[str] = (),
    compare: Sequence[str] = (),
) -> None:
    """Show a frame, or that of a reading, as a table: see `meshkit.tables.Table`."""
    df = df.frame() if isinstance(df, Reading) else df
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
