"""The report's first section: what the users' requests did, in words that never call good what nobody saw."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from meshkit.probing.request_log import Request, Tally, totals
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


@pytest.mark.parametrize(
    ("told", "state", "headline"),
    [
        (story(), "passed", "0 of 100 requests failed."),
        (story(failed=2), "failed", "2 of 100 requests failed."),
        (story(gap=range(4, 6)), "unknown", "0 of 80 requests failed."),
        (story(why={"west": "no answer"}), "unknown", "0 of 100 requests failed."),
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
    order = ["Requests while the run went on", "✖ 2 of 100 requests failed.", "Failed requests", "Stages", "Changes"]
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
