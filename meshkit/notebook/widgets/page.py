"""Page: what a widget shows, as HTML of a template, and what a person has chosen in it.

A template names each control (`data-do`). What is done with it comes back to `choose`, and the page is drawn again:

    page = FindingsPage(findings)
    page.choose("verdict", "warn")
    page.html()
"""

from __future__ import annotations

import contextvars
import itertools
import re
import threading
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from meshkit.checks.remedy import steps
from meshkit.display import cell_text, symbol_of
from meshkit.marks import mark

TEMPLATES: Final = Path(__file__).parent / "templates"
_numbers = itertools.count(1)


def in_background(function: Callable[..., None], *arguments: object) -> None:
    """Call a function in a thread, in the context of the cell or choice that began it.

    ipykernel 7 takes what is chosen to the subshell in whose context the page was drawn last (`BaseComm.publish_msg`).
    A thread without a context draws in one that JupyterLab may have ended, and then no choice arrives any more.
    """
    context = contextvars.copy_context()
    threading.Thread(target=context.run, args=(function, *arguments), daemon=True).start()


class Page:
    """What a widget shows. A subclass names its template, and returns what the template needs in `content`."""

    template: ClassVar[str]
    templates: ClassVar[Path] = TEMPLATES
    """The folder of its template; another distribution has one of its own, beside which it can import from ours."""
    label: str
    """The name of the page, for screen readers."""

    def __init__(self, **chosen: str) -> None:
        self.chosen: dict[str, str] = chosen
        self.number = next(_numbers)
        self.changed: Callable[[], None] = lambda: None
        """Is called where something changed that nobody chose, such as the end of a reading."""

    def content(self) -> Mapping[str, Any]:
        """Return what the template needs."""
        raise NotImplementedError

    def choose(self, name: str, value: str) -> None:
        """Take what a person chose; a name that the page does not have is an error.

        Raises:
            KeyError: no such control.
        """
        if name not in self.chosen:
            raise KeyError(name)
        self.chosen[name] = value

    def go_on_from(self, former: Page) -> None:
        """Take the choices of a page of an earlier reading, so that what a person looks at stays."""
        self.chosen |= {name: value for name, value in former.chosen.items() if name in self.chosen}
        self.number = former.number

    def status(self) -> str:
        """Return one short sentence on what is shown now; a screen reader says it after each choice."""
        return ""

    def html(self) -> str:
        """Return the page."""
        return (
            environment(self.templates)
            .get_template(self.template)
            .render(self.content(), chosen=self.chosen, page=self)
        )

    def inner(self) -> Markup:
        """Return the page for the template of another page."""
        return Markup(self.html())  # noqa: S704  (made by a template, which escapes)


def _code(text: str) -> Markup:
    """Return a text of the catalogue, in which what stands between backticks is code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))  # noqa: S704  (escaped before)


@cache
def environment(folder: Path) -> Environment:
    """Return Jinja's environment of a folder: everything is escaped, and what a template misses is an error."""
    made = Environment(
        loader=FileSystemLoader([folder, TEMPLATES]), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    made.filters |= {"tone": lambda word: mark(word).tone, "symbol": lambda word: mark(word).symbol}
    made.filters |= {"cell": cell_text, "state": symbol_of, "code": _code, "steps": steps}
    return made
