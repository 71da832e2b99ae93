"""How what was done differs from a plan."""

from __future__ import annotations

from dataclasses import replace

import pytest

from meshkit.changes.planned import How, PlannedChange, compare
from meshkit.runs.record import changes_record

ONE = PlannedChange("06 gateways", "west", "create", "Gateway a/b", "lets others in", "+ x", "d1")
TWO = replace(ONE, object="Gateway a/c")


@pytest.mark.parametrize(
    ("made", "touched", "found"),
    [
        ([ONE, TWO], [], []),
        ([ONE], [], [(TWO, How.LACKING)]),
        ([ONE, TWO, TWO], [], [(TWO, How.EXTRA)]),
        ([replace(ONE, action="delete"), TWO], [], [(replace(ONE, action="delete"), How.EXTRA), (ONE, How.LACKING)]),
        ([replace(ONE, digest="d2"), TWO], [], [(replace(ONE, digest="d2"), How.OTHER)]),
        ([replace(ONE, digest="d2"), TWO], [("west", "Gateway a/b")], []),
        ([replace(ONE, digest="", later="not noted"), TWO], [], []),
    ],
)
def test_each_kind_of_difference_is_named(
    made: list[PlannedChange], touched: list[tuple[str, str]], found: list[tuple[PlannedChange, How]]
) -> None:
    """Planned and not done, done and not planned, done with another diff; an object that moved on is not compared."""
    assert compare([ONE, TWO], made, touched) == found


def test_a_record_has_both_digests_and_the_difference() -> None:
    """The approved plan counts, where there is one."""
    files = {"plan.json": "p", "journal.jsonl": "j"}
    about = changes_record(files, compare([ONE, TWO], [ONE]))
    assert about == {
        "plan": {"name": "plan.json", "sha256": "p"},
        "done": {"name": "journal.jsonl", "sha256": "j"},
        "difference": [{"change": "06 gateways: west: create Gateway a/c", "how": "planned, not done"}],
    }
    assert changes_record({**files, "approved-plan.json": "a"}, [])["plan"]["sha256"] == "a"
