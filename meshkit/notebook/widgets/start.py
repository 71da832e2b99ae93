"""Where to begin: choose a mesh file or a snapshot, or contexts for a new mesh file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from meshkit.notebook.start import Choice, command, contexts, files
from meshkit.notebook.widgets.page import Page


class StartPage(Page):
    """What can be chosen; the `Choice` takes it, and is the plain display, too."""

    template = "start.html.j2"
    label = "Choose a mesh"

    def __init__(self, choice: Choice) -> None:
        super().__init__(file=choice.chosen)
        self.choice = choice
        self.files = list(dict.fromkeys([choice.chosen, *files()]))
        self.contexts, self.why = contexts()
        self.ticked: list[str] = []

    def choose(self, name: str, value: str) -> None:
        """Take a file, or tick a context."""
        if name == "file":
            super().choose(name, value)
            self.choice.chosen = value
        else:
            context = self.contexts[int(name)]
            self.ticked = [one for one in self.ticked if one != context] + [context] * (value == "true")

    def status(self) -> str:
        """Return what is chosen, and what to do next."""
        return f"{self.chosen['file']} is chosen: run the cells below"

    def content(self) -> Mapping[str, Any]:
        """Return files, contexts, and the command for those that are ticked."""
        known = {"files": self.files, "contexts": self.contexts, "ticked": self.ticked}
        return known | {"command": command(self.ticked) if self.ticked else ""}
