"""Latency before and after a run's changes, in words that a reader can trust."""

from __future__ import annotations

import pandas as pd
import pytest

from meshkit.runs.latency import before_after, moved, phases
from tests.support.report_pages import START, names, story

TWO = names(2)


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        (5.0, 15.2, "tripled, from 5 to 15.2 ms"),
        (5.0, 9.0, "doubled"),
        (5.0, 8.0, "grew by 60 %"),
        (5.0, 60.0, "grew 12-fold"),
        (5.0, 5.9, "stayed about the same"),
        (8.0, 4.0, "fell by 50 %"),
        (float("nan"), 4.0, "is not known for both times"),
    ],
)
def test_a_factor_has_a_word(before: float, after: float, words: str) -> None:
    """A quarter more or less is noise."""
    assert words in moved(before, after)


def test_the_stage_that_moved_it_and_where_the_answers_come_from_now_are_named() -> None:
    """All answers were local before discovery; then half of them came from the other cluster."""
    known = story(TWO).latency
    assert known is not None
    assert known.stage == "07 discovery"
    assert known.sentences == [
        "Latency of the users' requests: p50 tripled, from 5.90 to 17.7 ms; p99 tripled, from 6.90 to 20.7 ms.",
        "Most of that came with 07 discovery.",
        "50 % of the answers come from another cluster now, none did before.",
    ]


def test_a_latency_that_did_not_move_blames_no_stage() -> None:
    """Half of the answers from elsewhere, as fast as before."""
    known = story(TWO, slow=1.0).latency
    assert known is not None
    assert known.stage == ""
    assert "p50 stayed about the same" in known.sentences[0]
    assert not any("came with" in sentence for sentence in known.sentences)


def test_temporary_changes_are_not_the_time_after() -> None:
    """Stage 10 tries a failover, which is slow on purpose, and reverts it."""
    told = story(TWO)
    late = pd.Timestamp(START) + pd.Timedelta(seconds=45)
    extra = told.changes.tail(1).assign(time=late, stage="10 shift", status="undone")
    requests = told.requests.copy()
    requests.loc[requests["time"] >= late, ["p50_ms", "p99_ms"]] = 9000.0
    known = before_after(requests, pd.concat([told.changes, extra], ignore_index=True))
    assert known is not None
    assert known.after.p99 < 100


@pytest.mark.parametrize("at", [0, 60])
def test_without_a_time_before_or_after_nothing_is_claimed(at: int) -> None:
    """A change in the first second, or in the last."""
    told = story(TWO)
    moment = pd.Timestamp(START) + pd.Timedelta(seconds=at)
    assert before_after(told.requests, told.changes.assign(time=moment)) is None
    assert before_after(told.requests, told.changes.head(0)) is None
    assert before_after(told.requests.head(0), told.changes) is None


def test_each_stage_has_its_own_row() -> None:
    """Every request is in one of them."""
    rows = phases(story(TWO).requests, story(TWO).changes)
    assert [*rows["stage"]] == ["before", "07 discovery"]
    assert rows["sent"].sum() == 1200
    assert [*rows["elsewhere"].round()] == [0, 48]
