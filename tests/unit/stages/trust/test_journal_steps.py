"""What a journal says of stage 04: which restart belongs to which change, and what of it stands."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from meshkit.changes.journal import BEGUN, DONE, UNDONE, Entry
from meshkit.stages.trust import journal_steps
from meshkit.stages.trust import undo as trust_undo

ISTIOD = "Deployment istio-system/istiod"


class Book:
    """What a journal holds of changes of one cluster, one after the other: `(event, action, why, text)`."""

    def __init__(self, *changes: tuple[str, str, str, str]) -> None:
        self.entries: list[Entry] = []
        self.known: dict[int, dict[str, Any]] = {}
        stood = None
        for n, (event, action, why, text) in enumerate(changes, 1):
            what = ISTIOD if action == "restart" else "Secret istio-system/cacerts"
            self.entries.append(Entry(n, event, trust_undo.STAGE, "east", action, what, why, "meshkit", False, ""))
            wanted = secret(text)
            self.known[n] = {"before": [stood], "manifests": [wanted]}
            stood = wanted if action != "restart" and event == DONE else stood
        self.now = stood

    def private(self, entry: Entry) -> dict[str, Any]:
        """Return what stood before a change, and what it applied."""
        return self.known[entry.n]

    def steps(self) -> list[tuple[int, list[int], bool]]:
        """Return each step's change of the Secret, what is restarted with it, and whether it stands."""
        east = SimpleNamespace(find=lambda _resource, _namespace, name: self.now if name == "cacerts" else None)
        mesh = cast("Any", SimpleNamespace(clusters={"east": east}, root_namespace="istio-system"))
        found = journal_steps.steps(mesh, cast("Any", self), self.entries)
        return [(s.secret.n if s.secret else 0, [e.n for e in s.restarts], s.made) for s in found]


def secret(text: str) -> dict[str, Any]:
    """Return cacerts with a text of roots."""
    return {"kind": "Secret", "metadata": {"name": "cacerts"}, "data": {"root-cert.pem": text}}


RESTART = ("restart", "it loads another root only when it starts", "")
WIDEN, SIGN = "widen: its proxies trust both", "sign: the new one signs"


@pytest.mark.parametrize(
    ("changes", "steps"),
    [
        (
            [(DONE, "create", WIDEN, "AB"), (DONE, *RESTART), (DONE, "update", SIGN, "B")],
            [(1, [2], True), (3, [], True)],
        ),
        (
            [(DONE, "create", WIDEN, "AB"), (BEGUN, *RESTART), (DONE, "update", WIDEN, "BA"), (DONE, *RESTART)],
            [(1, [2, 4], True), (3, [], True)],
        ),
        (
            [(BEGUN, "create", WIDEN, "AB"), (DONE, "create", WIDEN, "AB"), (DONE, *RESTART)],
            [(1, [], False), (2, [3], True)],
        ),
        (
            [(DONE, "create", WIDEN, "AB"), (DONE, *RESTART), (DONE, "update", SIGN, "B"), (DONE, *RESTART)],
            [(1, [2], True), (3, [4], True)],
        ),
        (
            [(DONE, "create", WIDEN, "AB"), (DONE, *RESTART), (UNDONE, "update", SIGN, "B"), (DONE, *RESTART)],
            [(1, [2], True), (3, [4], False)],
        ),
    ],
    ids=["unbroken", "killed before the restart", "killed before the Secret", "another phase", "undone in part"],
)
def test_a_restart_belongs_to_the_change_whose_reversal_needs_it(
    changes: list[tuple[str, str, str, str]], steps: list[tuple[int, list[int], bool]]
) -> None:
    """A phase that a resumed run repeated is reverted as one."""
    assert Book(*changes).steps() == steps


def test_a_restart_without_a_secret_is_a_step_of_its_own() -> None:
    """As after a run that found the Secret there."""
    assert Book((DONE, *RESTART)).steps() == [(0, [1], True)]
