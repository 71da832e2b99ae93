"""A widget with buttons for what takes time: it is done in a thread, one thing at a time, and the kernel stays free."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from meshkit.errors import MeshkitError
from meshkit.notebook.widgets.page import Page, in_background

TEMPLATES = Path(__file__).parent / "templates"


class ButtonPage(Page):
    """A page that says what is being done, or else how that ended. An error is a reply, and ends no cell."""

    templates: ClassVar[Path] = TEMPLATES

    def __init__(self, **chosen: str) -> None:
        super().__init__(**chosen)
        self.doing = ""
        """What is being done now; empty while a button can be pressed."""
        self.reply = ""

    def begin(self, words: str, step: Callable[[], None]) -> None:
        """Begin a step in a thread, unless another one is not done yet."""
        if not self.doing:
            self.doing, self.reply = words, ""
            in_background(self._do, step)

    def say(self, words: str) -> None:
        """Show how far the step is."""
        self.doing = words.strip()
        self.changed()

    def _do(self, step: Callable[[], None]) -> None:
        try:
            step()
        except MeshkitError as error:
            self.reply = str(error)
        finally:
            self.doing = ""
            self.changed()
