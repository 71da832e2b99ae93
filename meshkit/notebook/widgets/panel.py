"""Panel: the ipywidget that shows a page. The kernel computes, the browser shows, and tells what was chosen."""

from __future__ import annotations

from pathlib import Path
from threading import Lock
from typing import Any, Final

import anywidget
import traitlets

from meshkit.display import COLOURS
from meshkit.errors import MeshkitError
from meshkit.marks import MARKS
from meshkit.notebook.widgets.page import Page

HERE: Final = Path(__file__).parent
VIEW: Final = "application/vnd.jupyter.widget-view+json"
DARK: Final = {"✔": "#56d68a", "!": "#e8b84a", "✖": "#ff8a80", "?": "#c7a2ff", "·": "#a9b1bc"}
"""The colours of `display.COLOURS` on a dark ground, where those would be too faint."""


def _colours(selector: str, colours: dict[str, str]) -> str:
    tones = {mark.tone: colours[mark.symbol] for mark in MARKS.values()}
    return f"{selector} {{ {' '.join(f'--mk-{tone}: {colour};' for tone, colour in tones.items())} }}\n"


def _css() -> str:
    light, dark = _colours(".mk-panel", COLOURS), _colours('[data-jp-theme-light="false"] .mk-panel', DARK)
    return light + dark + (HERE / "panel.css").read_text(encoding="utf-8")


class Panel(anywidget.AnyWidget):
    """A page in JupyterLab. What is saved with the notebook is one sentence, and nothing of what it shows."""

    _esm = (HERE / "panel.js").read_text(encoding="utf-8")
    _css = _css()
    html = traitlets.Unicode().tag(sync=True)
    label = traitlets.Unicode().tag(sync=True)
    status = traitlets.Unicode().tag(sync=True)

    def __init__(self, page: Page) -> None:
        super().__init__(html=page.html(), label=page.label, status=page.status())
        self.page = page
        # A reading draws from its thread, a choice from the kernel's: `hold_sync` of both at once loses one's words.
        self._drawing = Lock()
        page.changed = self.draw
        self.on_msg(self._chosen)

    def draw(self) -> None:
        """Show the page as it is now."""
        with self._drawing, self.hold_sync():
            self.html, self.status = self.page.html(), self.page.status()

    def _chosen(self, _: Any, message: dict[str, str], __: Any) -> None:
        try:
            self.page.choose(message["do"], message["value"])
        except MeshkitError as error:
            self.status = str(error)
            return
        self.draw()

    def _repr_mimebundle_(self, **_: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        # ipywidgets' own text would save the beginning of the page with the notebook.
        words = f"{self.page.label}: run this cell to explore"
        view = {"version_major": 2, "version_minor": 1, "model_id": self.model_id}
        return {"text/plain": words, VIEW: view}, {}
