"""Consent in JupyterLab: nothing disruptive is applied before it, and headless nobody is asked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from meshkit import Plan, Snapshot
from meshkit.changes.change import Change
from meshkit.checks.finding import Finding, Verdict
from meshkit.notebook import person, widgets
from meshkit.notebook.widgets.consent import ConsentPage
from meshkit.stages.stage import Stage

SNAPSHOT = Path(__file__).parents[2] / "fixtures/snapshots/helm-healthy.json.gz"
RESTART = ("west", "restart", "Deployment istio-system/istiod", "it signs with the common root")
CREATE = ("west", "create", "Namespace shop", "for the shop")


class Restarting(Stage):
    """A stage with one change, which is only counted."""

    name = "04 trust"
    change: tuple[str, str, str, str] = RESTART
    verdict = Verdict.PASS
    applied = 0

    def _look(self) -> None:
        return None

    def _check(self) -> Iterable[Finding]:
        yield Finding(id="MK401", check="x", subject="west", expected="y", observed="z", verdict=self.verdict)

    def _plans(self) -> Iterator[Plan]:
        plan = Plan(self.mesh, self.name)
        plan.changes = [Change(*self.change)]
        yield plan

    def _carry_out(self, plan: Plan) -> None:  # noqa: ARG002  (of a stage)
        self.applied += 1


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[ConsentPage]:
    """A person sits there; what is shown to them."""
    pages: list[ConsentPage] = []

    def shown(page: Any, instead: Any) -> Any:
        pages.append(page)
        return page

    monkeypatch.setattr(person, "is_there", lambda: True)
    monkeypatch.setattr(widgets, "shown", shown)
    return pages


def planned(mode: str = "apply", **changed: Any) -> Restarting:
    """Return a stage that is about to apply."""
    stage = Restarting(Snapshot.load(SNAPSHOT).mesh, mode=mode)
    vars(stage).update(changed)
    stage.look()
    stage.check()
    stage.plan()
    return stage


def test_a_restart_waits_for_consent_and_the_same_cell_applies_it(asked: list[ConsentPage]) -> None:
    """Without the tick, again and again nothing is applied, and the plan stays."""
    stage = planned()
    stage.apply()
    stage.apply()
    assert stage.applied == 0
    assert asked[0] is asked[1]
    asked[0].choose("0", "true")
    stage.apply()
    assert stage.applied == 1


def test_another_plan_needs_another_consent(asked: list[ConsentPage]) -> None:
    """Even if it has the same steps."""
    stage = planned()
    stage.apply()
    asked[0].choose("0", "true")
    stage.plan()
    stage.apply()
    assert stage.applied == 0
    assert not asked[1].given


@pytest.mark.parametrize(
    ("mode", "changed"),
    [("plan", {}), ("apply", {"change": CREATE}), ("apply", {"verdict": Verdict.FAIL})],
    ids=["mode plan", "nothing disruptive", "held by a gate"],
)
def test_nobody_is_asked_where_nothing_would_be_disturbed(
    mode: str, changed: dict[str, Any], asked: list[ConsentPage]
) -> None:
    """The beat runs as ever, and says what it says."""
    stage = planned(mode, **changed)
    stage.apply()
    assert asked == []
    assert stage.applied == 1


def test_headless_nobody_is_asked() -> None:
    """Papermill and pytest have no person."""
    stage = planned()
    stage.apply()
    assert stage.applied == 1
