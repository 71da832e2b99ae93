"""The report's first section: what the users' requests did, in words that never call good what nobody saw."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from meshkit.probing.request_log import Request, Tally, totals
from meshkit.probing.retries import Retried
from meshkit.runs.outcome import Outcome, Status
from meshkit.runs.report import report_html
from meshkit.runs.traffic_report import Story, changes

BEGIN = 1_790_000_000
START = datetime.fromtimestamp(BEGIN, UTC)
ABOUT: dict[str, Any] = {
    "mesh": "shop", "mode": "apply", "started": "2026-11-24T00:00:00Z", "tool": {"meshkit": "1"}, "contexts": [],
    "seconds": 1.0, "operator": "me", "mesh_file": {"name": "shop.yaml"}, "git": None,
}  # fmt: skip
ENTRY = {
    "time": START, "stage": "05 install", "cluster": "west", "action": "create", "object": "Secret <b>",
    "status": "done", "seconds": 0.51234,
}  # fmt: skip


def story(*, failed: int = 0, gap: range = range(0), why: dict[str, str] | None = None, sent: int = 10) -> Story:
    """Return the story of ten seconds."""
    tally = Tally()
    for second in (s for s in range(10) if s not in gap):
        for n in range(sent):
            bad = second == 0 and n < failed
            known = {"cluster": "east", "pod": "load-1", "seconds": 0.01, "error": "<i>reset</i>" if bad else ""}
            tally.add(Request(time=BEGIN + second + n / 20, status=0 if bad else 200, answered_by="a", **known))
    table = tally.table(BEGIN - 0.5, BEGIN + 10, {"a": "west"})
    told = {**totals(table), "why": why or {}, "unreadable": 0}
    return Story(table, tally.failed(), told, changes([ENTRY]), [(START + timedelta(seconds=3), "05 install")])


def page(told: Story | None) -> str:
    """Return the report with that story."""
    return report_html(ABOUT, [Outcome(stage="05-install", status=Status.PASSED)], {}, None, told)


UNKNOWN = "how often sidecars tried again is unknown"


@pytest.mark.parametrize(
    ("told", "state", "headline"),
    [
        (story(), "passed", f"0 of 100 requests failed; {UNKNOWN}."),
        (story(failed=2), "failed", f"2 of 100 requests failed; {UNKNOWN}."),
        (story(gap=range(4, 6)), "unknown", f"0 of 80 requests failed; {UNKNOWN}."),
        (
            story(why={"west": "no answer"}),
            "unknown",
            "0 of 100 requests failed; how often sidecars tried again is unknown.",
        ),
        (story(sent=0), "unknown", "No request was observed while the run went on."),
    ],
)
def test_the_headline_is_good_only_when_all_was_seen(told: Story, state: str, headline: str) -> None:
    """A failure outranks what was not seen; both are reported."""
    assert (told.state, told.headline) == (state, headline)


def test_what_was_not_observed_is_reported_in_sentences() -> None:
    """Seconds, and reasons by cluster."""
    told = story(gap=range(4, 6), why={"west": "no answer"})
    assert told.unobserved == ["2 of 10 seconds were not observed.", "west: no answer."]


def test_the_section_stands_before_the_stages_and_escapes_what_it_quotes() -> None:
    """Count, picture with its words, failed requests; the changes with their place in the journal."""
    html = page(story(failed=2))
    words = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html.partition("<main>")[2]))
    failed = f"✖ 2 of 100 requests failed; {UNKNOWN}."
    order = ["Requests while the run went on", failed, "Failed requests", "Stages", "Changes"]
    assert [words.index(text) for text in order] == sorted(words.index(text) for text in order)
    assert 'alt="Requests: 100 sent, 2 failed"' in html
    assert "&lt;i&gt;reset&lt;/i&gt;" in html
    assert "Secret &lt;b&gt;" in html
    assert "0.512" in words
    assert 'href="tables/failed_requests.csv"' in html


def test_a_run_without_changes_says_so_and_one_without_story_has_no_section() -> None:
    """An audit's report stays as it was."""
    told = story()
    quiet = Story(told.requests, told.failed, told.totals, told.changes.head(0))
    assert "No change was made." in page(quiet)
    assert "Requests while" not in page(None)
    assert "tables/requests.csv" not in page(None)


def test_nothing_observed_has_no_empty_picture() -> None:
    """Only the words, where there is not even a second to draw."""
    told = story()
    none = Story(told.requests.head(0), told.failed, {"why": {"": "the mesh file names no probe.load"}}, told.changes)
    html = page(none)
    assert "No request was observed" in html
    assert "the mesh file names no probe.load." in html
    assert "<img" not in html


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ((), "no sidecar tried one again"),
        ((1,), "sidecars tried again once"),
        ((2, 10), "sidecars tried again 12 times"),
        (None, UNKNOWN),
    ],
)
def test_retries_stand_beside_what_failed(counts: tuple[int, ...] | None, words: str) -> None:
    """Unknown is never none; each retry is in the stage in whose time it was noticed."""
    seen = story()
    retries = None if counts is None else [Retried(START + timedelta(seconds=n), one) for n, one in enumerate(counts)]
    told = Story(seen.requests, seen.failed, seen.totals, seen.changes, seen.marks, retries)
    assert told.headline == f"0 of 100 requests failed; {words}."
    assert f"users' requests failed; {words}" in page(told).replace("&#39;", "'")
    assert told.phases["retried"].isna().all() == (counts is None)
    assert counts is None or told.phases["retried"].sum() == sum(counts)


def test_why_retries_are_unknown_is_said_once_for_all_pods() -> None:
    """It is no reason to doubt what was counted of requests."""
    seen = story()
    totals = {**seen.totals, "retries_why": {"load-1": "it does not count", "load-2": "it does not count"}}
    told = Story(seen.requests, seen.failed, totals, seen.changes)
    assert told.uncounted == ["Retries of load-1, load-2 are unknown: it does not count."]
    assert told.uncounted[0] in page(told)
    assert told.state == "passed"
