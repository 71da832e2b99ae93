"""The first sentence of the report: what changed, and never more than was seen."""

from __future__ import annotations

from dataclasses import replace

import pytest

from meshkit.checks.finding import Verdict
from meshkit.runs.outcome import Outcome
from meshkit.runs.summary import changed, pair_latency, pair_verdicts
from tests.support import report_pages as made

TWO = made.names(2)


def started(istiods: list[str], linked: list[tuple[str, str]] = []) -> Outcome:  # noqa: B006
    """Return what stages 01 and 07 saw first: clusters with an istiod, and their remote secrets."""
    identity = made.IDENTITY.frame({"cluster": name, "istiod": "istiod-1"} for name in istiods)
    secrets = made.SECRETS.frame({"cluster": a, "key": b, "credential": "ok"} for a, b in linked)
    return made.outcome("01-assess", [], made.IDENTITY.view(identity), made.SECRETS.view(secrets))


def answered(clusters: list[str], silent: tuple[str, str] | None = None) -> Outcome:
    """Return stage 08, in which every pair answered but one."""
    pairs = [(a, b) for a in clusters for b in clusters]
    rows = ({"client": a, "server": b, "sent": 10, "answered": 9 if (a, b) == silent else 10} for a, b in pairs)
    return made.outcome("08-verify", [], made.PAIRS.view(made.PAIRS.frame(rows)))


@pytest.mark.parametrize(
    ("first", "silent", "sentence"),
    [
        (started(["east"]), None, "One cluster became two: east and west answer for each other."),
        (
            started(["east", "west"]),
            None,
            "Two separate clusters became one mesh of two: east and west answer for each other.",
        ),
        (
            started(["east", "west"], [("east", "west"), ("west", "east")]),
            None,
            "The mesh still has two clusters: east and west answer for each other.",
        ),
        (started(["east"]), ("east", "west"), "2 changes made in east and west."),
        (started([]), None, "2 changes made in east and west: east and west answer for each other."),
    ],
)
def test_what_became_of_the_mesh_is_one_sentence(first: Outcome, silent: tuple[str, str] | None, sentence: str) -> None:
    """Clusters are one mesh when every request between them was answered, both ways."""
    known = [first, answered(TWO, silent)]
    assert changed(made.record(TWO), known, made.story(TWO)) == sentence


def test_one_silent_pair_of_many_is_counted() -> None:
    """The others may link all clusters: they do not all answer for each other."""
    five = made.names(5)
    known = [started(five[:1]), answered(five, (five[0], five[1]))]
    assert (
        changed(made.record(five), known, made.story(five))
        == "One cluster became five: 1 of 20 ordered pairs does not answer."
    )


def test_many_clusters_are_a_number() -> None:
    """Nobody reads twenty names in a sentence."""
    many = made.names(20)
    known = [started(many[:1]), answered(many)]
    assert (
        changed(made.record(many), known, made.story(many))
        == "One cluster became 20: all 20 clusters answer for each other."
    )


@pytest.mark.parametrize(
    ("mode", "known", "sentence"),
    [
        ("plan", made.outcomes(TWO), "Nothing was changed: 2 changes planned in east and west."),
        ("plan", [], "Nothing was changed."),
        ("audit", [answered(TWO)], "Nothing was changed: east and west answer for each other."),
    ],
)
def test_a_run_that_changed_nothing_says_so(mode: str, known: list[Outcome], sentence: str) -> None:
    """First of all."""
    assert changed(made.record(TWO, mode), known, None) == sentence


def test_an_apply_without_a_change_and_an_undo() -> None:
    """What the journal has is what was done."""
    told = made.story(TWO)
    none = replace(told, changes=told.changes.head(0))
    assert changed(made.record(TWO), [], none) == "Nothing was changed."
    undone = replace(told, changes=told.changes.assign(action="undo create"))
    assert changed(made.record(TWO), [], undone) == "2 changes undone in east and west."


@pytest.mark.parametrize("status", ["failed", "begun"])
def test_a_change_that_was_not_finished_is_not_nothing(status: str) -> None:
    """It may be made in part; a temporary one that was reverted is nothing."""
    told = made.story(TWO)
    half = replace(told, changes=told.changes.assign(status=[status, "undone"]))
    assert changed(made.record(TWO), [], half) == "0 changes made in east, 1 begun and not finished."
    none = replace(told, changes=told.changes.assign(status="undone"))
    assert changed(made.record(TWO), [], none) == "Nothing was changed."


def test_a_pair_has_the_worst_verdict_of_its_findings_and_none_if_it_was_only_skipped() -> None:
    """Not tried is not passed."""
    five = made.names(5)
    verdicts = pair_verdicts(made.outcomes(five), five)
    assert [*verdicts.values()].count("pass") == 16
    assert verdicts[five[4], five[0]] == "fail"
    assert (five[4], five[3]) not in verdicts
    mixed = [made.finding(Verdict.PASS, "east → west"), made.finding(Verdict.UNKNOWN, "east → west")]
    assert pair_verdicts([made.outcome("08-verify", mixed)], TWO) == {("east", "west"): "unknown"}


def test_a_table_of_the_same_name_with_other_columns_is_not_read() -> None:
    """A notebook of somebody else may show what it likes: the report of a run is written all the same."""
    other = made.IDENTITY.renamed("latency", "Another").view(made.IDENTITY.frame([{"cluster": "east"}]))
    assert pair_latency([made.outcome("09-observe", [], other)]) == {}
    assert pair_latency(made.outcomes(TWO)) == {("east", "west"): "p50 40 ms", ("west", "east"): "p50 40 ms"}
