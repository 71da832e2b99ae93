"""A stop of the tour in JupyterLab: a question, a button that applies the stage, and the answer with what it showed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from meshkit.notebook import person, widgets
from meshlab.buttons import ButtonPage
from meshlab.tour import visit
from meshlab.tour.stops import find


class StopPage(ButtonPage):
    """A stop: the choice that was made, the run of its stage, and then the answer."""

    template = "stop.html.j2"

    def __init__(self, number: str) -> None:
        super().__init__(choice="")
        self.stop = find(number)
        self.label = f"Stage {self.stop.title}"
        self.visit = visit.latest(self.stop)

    def choose(self, name: str, value: str) -> None:
        """Take the choice, or run the stage."""
        if name == "run":
            self.begin("beginning …", self._run)
        else:
            super().choose(name, value)

    def _run(self) -> None:
        self.visit = visit.run(self.stop, self.say)

    @property
    def right(self) -> bool:
        """Whether the right answer is chosen."""
        return self.chosen["choice"] == str(self.stop.right)

    def status(self) -> str:
        """Return what is being done, or whether the answer was right."""
        if self.doing or self.reply:
            return self.doing or self.reply
        if self.visit and self.chosen["choice"]:
            return "right" if self.right else f"not quite: {self.stop.answer}"
        return "the answer follows when the stage has run" if self.chosen["choice"] else "choose an answer"

    def content(self) -> Mapping[str, Any]:
        """Return the question, and the tables that answer it once the stage has run."""
        shown = [(one.means, self.visit.table(one)) for one in self.stop.shows] if self.visit and not self.doing else []
        return {"stop": self.stop, "shown": shown, "nothing": visit.NOTHING}


def stop(number: str, *, apply: bool = False) -> Any:
    """Return a stop of the tour by buttons where a person is there; otherwise print it.

    Args:
        number: of its stage, such as "04".
        apply: apply the stage, where nobody is there to press the button.

    Raises:
        MeshkitError: of the stage's run, where nobody is there; a widget shows it.
    """
    return widgets.shown(StopPage(number), None) if person.is_there() else visit.play(number, apply=apply)
