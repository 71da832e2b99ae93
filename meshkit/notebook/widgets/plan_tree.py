"""Plans as trees: clusters, their changes, and the diff of each as the server's dry run showed it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from meshkit.changes.change import Change, counted
from meshkit.changes.plan import Plan
from meshkit.notebook.widgets.page import Page

LINES: Final = {"+": "add", "-": "remove", "@": "place", "#": "place"}
"""What a line of a diff does, by its first character."""
MOST_LINES: Final = 1000
"""Lines of a diff that are shown; the plan itself has them all."""


def tree(changes: Iterable[Change], *, action: str = "", words: str = "") -> dict[str, list[tuple[int, Change]]]:
    """Return the changes of each cluster in the order in which they are made, each with its number in the plan.

    Only those of an action, and with all of the words in object, purpose or diff.
    """
    found: dict[str, list[tuple[int, Change]]] = {}
    for number, change in enumerate(changes, 1):
        text = f"{change.object} {change.why} {change.diff}".lower()
        if (not action or change.action == action) and all(word in text for word in words.lower().split()):
            found.setdefault(change.cluster, []).append((number, change))
    return found


def diff_lines(diff: str) -> list[tuple[str, str]]:
    """Return the lines of a unified diff, each with what it does: add, remove, place, or nothing."""
    lines = diff.splitlines()
    left = len(lines) - MOST_LINES
    shown = [(LINES.get(line[:1], ""), line) for line in lines[:MOST_LINES]]
    return [*shown, ("place", f"# {left} more lines")] if left > 0 else shown


class PlanPage(Page):
    """One plan, or several of one stage: which changes of them. The plans themselves are the plain display."""

    template = "plan_tree.html.j2"
    label = "Plan"

    def __init__(self, *plans: Plan) -> None:
        super().__init__(action="", words="")
        self.plans = plans
        self.label = f"Plan of stage {plans[0].stage}"
        self.changes = [change for plan in plans for change in plan.changes]

    def shown(self) -> list[dict[str, list[tuple[int, Change]]]]:
        """Return what is shown of each plan, by cluster."""
        return [tree(plan.changes, **self.chosen) for plan in self.plans]

    def status(self) -> str:
        """Return how many changes are shown."""
        count = sum(len(changes) for clusters in self.shown() for changes in clusters.values())
        return f"{count} of {len(self.changes)} changes shown"

    def content(self) -> Mapping[str, Any]:
        """Return the trees."""
        actions = list(dict.fromkeys(change.action for change in self.changes))
        tools = {"diff_lines": diff_lines, "counted": counted}
        return {"trees": list(zip(self.plans, self.shown(), strict=True)), "actions": actions, **tools}
