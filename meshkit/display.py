"""How values show themselves: as text for a terminal or a log, as HTML for a notebook, and as data for the run folder.

Whatever ends a cell shows itself (`_repr_mimebundle_`) and is evidence by that: the runner writes CSVs, the record and
the report from the data that stands beside the HTML, and judges the stage by its verdict. Here are the pieces; tables
are in `meshkit.tables`, findings, plans and clusters show themselves by these.
"""

from __future__ import annotations

import json
import math
import re
import sys
import textwrap
from collections.abc import Sequence
from html import escape
from importlib import import_module
from typing import Any, Final

from meshkit.marks import MARKS, plain

_TONES: Final = {known.symbol: known.tone for known in MARKS.values()}
TABLE: Final = "application/vnd.meshkit.table+json"
RECORD: Final = "application/vnd.meshkit.record+json"
VERDICT: Final = "application/vnd.meshkit.verdict+json"
PLANNED: Final = "application/vnd.meshkit.plan+json"

COLOURS: Final = {"✔": "#1a7f37", "!": "#8a5a00", "✖": "#c5221f", "?": "#7a3ec8", "·": "#5b6470"}
DARK: Final = {"good": "#56d364", "warn": "#e3b341", "bad": "#ff8a80", "unknown": "#cfa6ff", "quiet": "#a5b0bd"}
"""The colour of each tone on a dark page, by the class that text of that tone has: it outweighs the style beside it."""
LEFT: Final = ' style="text-align:left"'
"""JupyterLab drops our rules from a notebook that was executed elsewhere, and sets texts to the right then."""
# The class is thrice in the selectors to outweigh JupyterLab's own rules for tables.
STYLE: Final = (
    """<style>
.mk table { border-collapse: collapse; font-size: 13px; margin: .3em 0 }
.mk .c { font-weight: 600; margin: .6em 0 .2em }
.mk.mk.mk th, .mk.mk.mk td { text-align: left; vertical-align: top; padding: .3em 1.2em .3em 0 }
.mk tr { border-bottom: 1px solid #8884 } .mk th { white-space: nowrap }
.mk.mk.mk td { overflow-wrap: break-word; max-width: 36em }
.mk.mk.mk .w { white-space: nowrap }
.mk.mk.mk .n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
.mk .s { white-space: nowrap; font-weight: 600 } .mk p { margin: .4em 0 }
.mk summary { cursor: pointer; margin: .2em 0 }
.mk pre { font-size: 12px; white-space: pre-wrap; overflow-wrap: anywhere; margin: .2em 0 .8em 1em }
"""
    + "\n".join(
        f'[data-jp-theme-light="false"] .mk .{tone} {{ color: {colour} !important }}' for tone, colour in DARK.items()
    )
    + "\n</style>"
)


class Shown:
    """Something that shows itself at the end of a cell, or in a terminal.

    A subclass says what in `bundle`: MIME type to content, with `text/plain` always there.
    """

    def bundle(self) -> dict[str, Any]:
        """Return what is shown, by MIME type."""
        raise NotImplementedError

    def metadata(self) -> dict[str, Any]:
        """Return what Jupyter is to know about the bundle."""
        return {}

    def _repr_mimebundle_(self, **_: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        return self.bundle(), self.metadata()

    def __repr__(self) -> str:
        return str(self.bundle()["text/plain"])

    def show(self) -> None:
        """Show it now, in the middle of a cell; without a notebook it is printed."""
        ipython = sys.modules.get("IPython")
        if ipython is None or ipython.get_ipython() is None:
            print(repr(self))
            return
        from IPython.display import display

        display(self.bundle(), metadata=self.metadata(), raw=True)  # type: ignore[no-untyped-call]


class Explorable(Shown):
    """Something that has a widget besides."""

    def explore(self) -> Any:
        """Return a widget of it for JupyterLab; where nobody sits before the cell, it shows itself as ever."""
        # By name: what is shown lies below what shows it.
        return import_module("meshkit.notebook.widgets").explore(self)


class Several(Shown):
    """Some things one after the other, each an output of its own."""

    def __init__(self, *parts: Shown) -> None:
        self.parts = parts

    def bundle(self) -> dict[str, Any]:
        """Return their texts, one below the other."""
        return {"text/plain": "\n\n".join(repr(part) for part in self.parts)}

    def _ipython_display_(self) -> None:
        self.show()

    def show(self) -> None:
        """Show each."""
        for part in self.parts:
            part.show()


class Text(Shown):
    """A text as it is. With a title, such as a file to write, it is folded under that; nothing where there is none."""

    def __init__(self, words: str, title: str = "") -> None:
        self.words, self.title = words, title

    def bundle(self) -> dict[str, Any]:
        """Return the text, and folded HTML where it has a title."""
        if not self.words or not self.title:
            return {"text/plain": self.words}
        html = folded(self.title, f"<pre>{escape(self.words)}</pre>")
        return {"text/plain": f"{self.title}:\n{self.words}", "text/html": styled(html)}

    def show(self) -> None:
        """Show it now, if there is anything."""
        if self.words:
            super().show()


class Record(Shown):
    """A small fact for `record.json`: a text is shown whole, a long mapping as one line for each key.

    Raises:
        TypeError: the value is not JSON.
    """

    def __init__(self, name: str, value: Any) -> None:
        self.name, self.value = name, value
        self._json = json.dumps(value, ensure_ascii=False)

    def bundle(self) -> dict[str, Any]:
        """Return the line, and the fact as data."""
        short = self._json if len(self._json) <= 120 else self._json[:117] + "…"
        line = f"{self.name}: {short}"
        if isinstance(self.value, str):
            line = textwrap.fill(f"{self.name}: {self.value}", 110, subsequent_indent="  ")
        elif len(self._json) > 120 and isinstance(self.value, dict):
            line = "\n".join([f"{self.name}:", *(f"  {key}: {entry}" for key, entry in self.value.items())])
        return {"text/plain": line, RECORD: {"name": self.name, "value": json.loads(self._json)}}


def styled(html: str) -> str:
    """Return HTML with our rules around it."""
    return f'<div class="mk">{STYLE}{html}</div>'


def folded(title: str, html: str) -> str:
    """Return HTML that is folded away under a title; nothing of nothing."""
    return f"<details><summary>{escape(title)}</summary>{html}</details>" if html else ""


def grid(heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> tuple[str, str]:
    """Return a few rows for people, as aligned text and as HTML."""
    cells = [list(heads), *([cell_text(value) for value in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in cells]
    head = "".join(f"<th{LEFT}>{escape(name)}</th>" for name in heads)
    body = "".join("<tr>" + "".join(f"<td{LEFT}>{cell_html(value)}</td>" for value in row) + "</tr>" for row in rows)
    return "\n".join(lines), f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def headline(words: str, symbol: str, *, large: bool = False) -> str:
    """Return a line of HTML in the colour of a symbol."""
    frame = f' style="border-left:5px solid {COLOURS[symbol]};padding:.5em .8em;font-size:16px"' if large else ""
    return f"<p{frame}>{tinted(words, symbol, tag='b')}</p>"


def tinted(words: str, symbol: str, *, tag: str = "span", more: str = "") -> str:
    """Return words as HTML in the colour of a symbol; `more` are other classes."""
    known = f"{more} {_TONES[symbol]}".strip()
    return f'<{tag} class="{known}" style="color:{COLOURS[symbol]}">{escape(words)}</{tag}>'


def coloured(diff: str) -> str:
    """Return a unified diff as HTML, its lines coloured by what they do."""
    symbols = {"+": "✔", "-": "✖", "@": "·", "#": "?"}
    return "\n".join(
        tinted(line, symbols[line[0]]) if line[:1] in symbols else escape(line) for line in diff.splitlines()
    )


def cell_html(value: Any) -> str:
    """Return one value as HTML: escaped, a state with its symbol and colour."""
    text = cell_text(value)
    symbol = symbol_of(value)
    return tinted(text, symbol, more="s") if symbol else escape(text)


def symbol_of(value: Any) -> str:
    """Return the symbol of a word for a state or verdict, or nothing for any other value."""
    return MARKS[plain(value)].symbol if isinstance(value, str) and plain(value) in MARKS else ""


def cell_text(value: Any) -> str:
    """Return one value as people read it, a state with its symbol."""
    symbol = symbol_of(value)
    return f"{symbol} {value}" if symbol else _text(value)


def _text(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "—"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    if isinstance(value, str):
        if re.fullmatch(r"[0-9a-f]{64}", value):  # a SHA-256: its beginning tells it apart, the CSV has it whole
            return f"{value[:16]}…"
        return re.sub(r"^(\d{4}-\d\d-\d\d)T(\d\d:\d\d:\d\d)(\.\d+)?(Z|\+00:00)$", r"\1 \2 UTC", value)
    return json.dumps(value, ensure_ascii=False)


def file_name(name: str) -> str:
    """Return the name of a table or figure, which is the name of its file, too.

    Raises:
        ValueError: it has other characters than small letters, digits, `-` and `_`.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", name):
        raise ValueError(f"a name of small letters, digits, - and _ is expected, got {name!r}")
    return name
