"""How stages phrase what many of them find."""

from __future__ import annotations

from typing import Any

import pytest

from meshkit.changes.change import Change
from meshkit.changes.plan import Plan, refused
from meshkit.checks.finding import Verdict


@pytest.mark.parametrize(("status", "verdicts"), [("held", [Verdict.FAIL]), ("planned", []), ("done", [])])
def test_a_plan_that_a_server_refused_fails_where_it_was_to_be_applied(status: str, verdicts: list[Verdict]) -> None:
    """In plan mode it is shown only: an earlier stage may bring what it lacks."""
    mesh: Any = None
    plan = Plan(mesh, "05 install")
    change = Change("west", "install", "Istio", "why", problem="somebody else owns .spec.replicas", status=status)
    plan.changes = [change]
    found = refused(plan)
    assert [f.verdict for f in found] == verdicts
    assert all(f.id == "MK590" and "owns .spec.replicas" in f.observed for f in found)
