"""The one style of all charts: fonts, colours, and a figure that shows itself in a notebook.

Colours are Okabe and Ito's (jfly.uni-koeln.de/color), distinct with any common colour blindness; symbols and words
stand beside them all the same. Figures are made without pyplot: no global state, no display needed, no leak.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import wraps
from textwrap import fill
from typing import Any, Final, ParamSpec

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogLocator, NullFormatter
from matplotlib.typing import ColorType

from meshkit.marks import Tone, mark

P = ParamSpec("P")
INK: Final = "#222222"
FAINT: Final = "#8a8a8a"
TONES: Final[dict[Tone, str]] = {
    "good": "#009e73",
    "quiet": "#dddddd",
    "warn": "#f0e442",
    "unknown": "#b8b8b8",
    "bad": "#d55e00",
}
PALE: Final[dict[Tone, str]] = {"good": "#cfeee3"}
"""In a matrix what is well steps back, so that the broken cell is seen first."""
ROOMY: Final = 5
"""Up to so many servers, a cell of a matrix has room for a second line."""
LINES: Final = ("#0072b2", "#c45200", "#007a5a", "#a64d79", "#806000", "#222222", "#5b5bd6")
_STYLE: Final[Any] = {
    "font.family": ["DejaVu Sans"],
    "font.size": 9,
    "figure.dpi": 110,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "grid.color": "#e4e4e4",
    "hatch.linewidth": 0.6,
    "timezone": "UTC",
}


class Chart(Figure):
    """A matplotlib figure that a notebook shows as a picture, with its title as the alternative text."""

    def _repr_png_(self) -> tuple[bytes, dict[str, str]]:
        picture = io.BytesIO()
        self.savefig(picture, format="png", metadata={"Software": None})
        return picture.getvalue(), {"alt": self.get_suptitle()}


def styled(draw: Callable[P, Chart]) -> Callable[P, Chart]:
    """Draw in meshkit's style whatever the caller's own settings are."""

    @wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> Chart:
        with rc_context(_STYLE):
            return draw(*args, **kwargs)

    return drawn


def chart(title: str, width: float, height: float) -> Chart:
    """Return an empty figure of that size in inches; the title names what is drawn, and of how many."""
    figure = Chart(figsize=(width, height), layout="constrained")
    figure.suptitle(fill(title, int(width * 10.3)), x=0.01, ha="left", fontsize=11, fontweight="bold")
    return figure


def nothing(words: str) -> Chart:
    """Return a figure that says in words that there was nothing to draw."""
    figure = chart(words, 7, 1.2)
    figure.text(0.01, 0.3, "Nothing to draw.", va="center", color=INK)
    return figure


def tone_text(axes: Axes, x: float, y: float, words: str, background: ColorType, **look: Any) -> None:
    """Write in black or white, whichever reads better on that colour (WCAG 2 relative luminance)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(background)]
    luminance = float(np.dot(linear, (0.2126, 0.7152, 0.0722)))
    axes.text(x, y, words, color="white" if luminance < 0.179 else "black", ha="center", va="center", **look)


def matrix(title: str, clients: list[str], servers: list[str]) -> tuple[Chart, Axes]:
    """Return a client x server matrix without cells, the first client at the top."""
    size = 1.3 if len(servers) <= ROOMY else 0.75 if len(servers) <= 10 else 0.6
    figure = chart(title, max(6.2, 2 + size * len(servers)), 1.2 + 0.62 * size * len(clients) + 0.4)
    axes = figure.add_subplot()
    axes.set(xlim=(0, len(servers)), ylim=(len(clients), 0), xlabel="server (answers)", ylabel="client (calls)")
    crowded = max(map(len, servers)) * 0.09 > size
    turn: dict[str, Any] = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if crowded else {}
    axes.set_xticks(np.arange(len(servers)) + 0.5, servers, **turn)
    axes.set_yticks(np.arange(len(clients)) + 0.5, clients)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure, axes


def draw_cell(axes: Axes, x: int, y: int, words: list[str], color: ColorType | None, *, crowd: int) -> None:
    """Draw one cell of a matrix; without a colour it is hatched. In a crowd of servers, only the first words fit."""
    failed = words[0].startswith(mark("fail").symbol)
    hatch: dict[str, Any] = {"hatch": "////", "hatchcolor": TONES["bad"] if failed else FAINT} if color is None else {}
    axes.add_patch(Rectangle((x, y), 1, 1, facecolor=color or "white", edgecolor="white", **hatch))
    plate: dict[str, Any] = (
        {} if color is not None else {"bbox": {"facecolor": "white", "edgecolor": "none", "pad": 1.5}}
    )
    lines = words if crowd <= ROOMY else words[:1]
    text = "\n".join(fill(line, 17, max_lines=2, placeholder="…") for line in lines if line)
    size = 9 if crowd <= ROOMY else 7.5 if crowd <= 10 else 6.5
    tone_text(axes, x + 0.5, y + 0.5, text, color or "white", fontsize=size, linespacing=1.3, **plate)


def log_ms_axis(axis: Axis) -> None:
    """Mark a logarithmic axis of milliseconds at 1, 2 and 5, in plain numbers, from one mark to another."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())
