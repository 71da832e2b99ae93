"""A stop of the tour in JupyterLab: a question, a button that applies the stage, and the answer with what it showed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from meshkit.errors import MeshkitError
from meshkit.notebook import person, widgets
from meshkit.notebook.widgets.page import Page, in_background
from meshlab.tour import visit
from meshlab.tour.stops import find


class StopPage(Page):
    """A stop: the choice that was made, the run of its stage, and then the answer."""

    template = "stop.html.j2"
    templates = Path(__file__).parent / "templates"

    def __init__(self, number: str) -> None:
        super().__init__(choice="")
        self.stop = find(number)
        self.label = f"Stage {self.stop.title}"
        self.visit = visit.latest(self.stop)
        self.doing: str | None = None
        """What the run does now; None while none does."""
        self.trouble = ""

    def choose(self, name: str, value: str) -> None:
        """Take the choice, or run the stage."""
        if name != "run":
            super().choose(name, value)
        elif self.doing is None:
            self.doing, self.trouble = "beginning …", ""
            in_background(self._run)

    def _run(self) -> None:
        try:
            self.visit = visit.run(self.stop, self._say)
        except MeshkitError as error:
            self.trouble = str(error)
        finally:
            self.doing = None
            self.changed()

    def _say(self, words: str) -> None:
        self.doing = words.strip()
        self.changed()

    @property
    def right(self) -> bool:
        """Whether the right answer is chosen."""
        return self.chosen["choice"] == str(self.stop.right)

    def status(self) -> str:
        """Return what is being done, or whether the answer was right."""
        if self.doing or self.trouble:
            return self.doing or self.trouble
        if self.visit and self.chosen["choice"]:
            return "right" if self.right else f"not quite: {self.stop.answer}"
        return "the answer follows when the stage has run" if self.chosen["choice"] else "choose an answer"

    def content(self) -> Mapping[str, Any]:
        """Return the question, and the tables that answer it once the stage has run."""
        shown = [(one.means, self.visit.table(one)) for one in self.stop.shows] if self.visit and not self.doing else []
        return {"stop": self.stop, "shown": shown}


def stop(number: str, *, apply: bool = False) -> Any:
    """Return a stop of the tour by buttons where a person is there; otherwise print it.

    Args:
        number: of its stage, such as "04".
        apply: apply the stage, where nobody is there to press the button.

    Raises:
        MeshkitError: of the stage's run, where nobody is there; a widget shows it.
    """
    return widgets.shown(StopPage(number), None) if person.is_there() else visit.play(number, apply=apply)
