"""A round of training in JupyterLab, by buttons."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import pandas as pd

from meshkit.notebook import person, widgets
from meshlab.buttons import ButtonPage
from meshlab.layout import Site, folder
from meshlab.training import lesson, rounds, rules, sheet
from meshlab.training.expert import TELLS, Debrief
from meshlab.training.sheet import Round

BUTTONS: Final = {
    "start": "checking that the mesh is healthy, then breaking it …",
    "look": "calling the service from a pod of each cluster …",
    "hint": "taking a hint …",
    "answer": "checking the answer …",
    "give_up": "giving up …",
    "heal": "healing the mesh …",
}
"""What each button begins, in words; what it does is the method of its name."""


class TrainingPage(ButtonPage):
    """A round: to be started, open, or ended with the path of an expert.

    Args:
        seed: chooses fault and cluster of the first round; 0: each draws its own.
        number: which of the seed's order; the next round has the next one.
        topic: that is chosen at first; empty for any.
        level: that is chosen at first; 0 for any.
    """

    template = "training.html.j2"
    label = "Training"

    def __init__(self, seed: int = 0, number: int = 1, topic: str = "", level: int = 0) -> None:
        super().__init__(topic=topic, level=str(level or ""), object="", field="")
        self.seed, self.next = seed, number
        self.calls: pd.DataFrame | None = None
        self.debrief: Debrief | None = None
        self.path_is_shown = False

    @property
    def round(self) -> Round | None:
        """The round that is open, or is still to be healed."""
        one = sheet.latest(folder())
        return one if one and one.since and not one.score else None

    def choose(self, name: str, value: str) -> None:
        """Take a choice, show or hide the path, or begin what a button is for."""
        if name in self.chosen:
            super().choose(name, value)
        elif name == "path":
            self.path_is_shown = not self.path_is_shown
        else:
            self.begin(BUTTONS[name], getattr(self, f"_{name}"))

    def _start(self) -> None:
        self.chosen |= {"object": "", "field": ""}
        self.calls, self.debrief, self.path_is_shown = None, None, False
        rounds.start(self.seed or None, self.next, self.chosen["topic"], int(self.chosen["level"] or 0), self.say)
        self.next += bool(self.seed)

    def _look(self) -> None:
        view = rounds.calls()
        shown = view.table.shown(view.frame)
        self.calls = shown.loc[:, (shown.astype(str) != "").any()]

    def _hint(self) -> None:
        rounds.hint(say=self.say)

    def _answer(self) -> None:
        right, self.reply = rounds.answer(f"{self.chosen['object']} {self.chosen['field']}".strip(), self.say)
        if right:
            self._end()

    def _give_up(self) -> None:
        self.reply = rounds.give_up(self.say)
        self._end()

    def _end(self) -> None:
        self.debrief = rounds.debrief(self.say)
        self._heal()

    def _heal(self) -> None:
        rounds.finish(self.say)

    def status(self) -> str:
        """Return what is being done, the last reply, or what can be done."""
        open_ = "a round is open: look, then answer" if self.round else "start a round"
        return self.doing or self.reply.partition("\n")[0] or open_

    def content(self) -> Mapping[str, Any]:
        """Return the round, its hints, what can be answered, and the path of one that ended."""
        one = self.round
        objects, fields = lesson.answers(one.clusters) if one else ([], [])
        return {
            "round": one, "objects": objects, "fields": fields, "topics": lesson.topics(Site(1)),
            "levels": lesson.LEVELS, "tools": lesson.tools(one.topic) if one else {},
            "hints": rounds.taken(one).splitlines() if one else [],
            "costs": rules.HINTS, "wrong": rules.WRONG, "tells": TELLS,
        }  # fmt: skip


def train(seed: int = 0, number: int = 1, *, topic: str = "", level: int = 0, hints: int = 0, answer: str = "") -> Any:
    """Return a round by buttons where a person is there; otherwise play one, and print it.

    Args:
        seed: chooses fault and cluster; 0: one is drawn.
        number: which of the seed's order.
        topic: discovery, gateways, trust, policy or proxies; empty for any.
        level: 1 to 3; 0 for any.
        hints: so many are taken; only where nobody is there, as the answer.
        answer: object and field, or a fault's name.

    Raises:
        MeshkitError: of `rounds.play`; a widget shows it instead.
    """
    if person.is_there():
        return widgets.shown(TrainingPage(seed, number, topic, level), None)
    return rounds.play(seed or None, number, topic=topic, level=level, hints=hints, words=answer)
