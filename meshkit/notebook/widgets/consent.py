"""Consent to each disruptive step of a plan, before it is applied from JupyterLab.

A step is what a plan does of one kind in one cluster: it names the context, the API server and every object. A headless
run asks nobody: it applies approved plans, or what its command line says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from meshkit.changes.plan import Plan
from meshkit.kube import api_server
from meshkit.notebook.widgets.page import Page

DISRUPTIVE: Final = {
    "restart": "pods are replaced, a few at a time",
    "scale": "pods go or come",
    "install": "istiod and gateways are replaced",
    "delete": "what uses the object loses it",
    "undo": "former states are restored, and created objects removed",
}
"""The first word of an action that what runs may notice, and what that means. All others create or label objects."""


@dataclass(frozen=True)
class Step:
    """What a plan does of one kind in one cluster."""

    cluster: str
    context: str
    api_server: str
    action: str
    means: str
    objects: tuple[str, ...]


def steps(plans: Sequence[Plan]) -> list[Step]:
    """Return the disruptive steps of plans, in their order."""
    found: dict[tuple[str, str], dict[str, None]] = {}
    for plan in plans:
        for change in plan.changes:
            kind = change.action.partition(" ")[0]
            if kind in DISRUPTIVE:
                found.setdefault((change.cluster, kind), {})[change.object] = None
    return [
        Step(cluster, entry.context, api_server.server(entry, mesh[cluster]), kind, DISRUPTIVE[kind], tuple(objects))
        for (cluster, kind), objects in found.items()
        for mesh in [plans[0].mesh]
        for entry in [mesh.spec.cluster(cluster)]
    ]


class ConsentPage(Page):
    """A box to tick for each step. `given` says whether all are ticked."""

    template = "consent.html.j2"
    label = "Consent to what users may notice"

    def __init__(self, plans: Sequence[Plan]) -> None:
        super().__init__()
        self.plans, self.steps = plans, steps(plans)
        self.ticked: set[int] = set()

    @property
    def given(self) -> bool:
        """Whether every step has consent; where nothing is disruptive, none is needed."""
        return len(self.ticked) == len(self.steps)

    def choose(self, name: str, value: str) -> None:
        """Tick a step by its place, or take the tick back.

        Raises:
            IndexError: no such step.
        """
        place = range(len(self.steps))[int(name)]
        self.ticked = self.ticked | {place} if value == "true" else self.ticked - {place}

    def status(self) -> str:
        """Return how many are ticked, and what to do next."""
        told = f"{len(self.ticked)} of {len(self.steps)} ticked"
        return (
            f"{told}: run this cell again, which applies the plan" if self.given else f"{told}: nothing is applied yet"
        )

    def content(self) -> Mapping[str, Any]:
        """Return the steps."""
        return {"steps": self.steps, "ticked": self.ticked}
