"""The load follower's reading: lines, repeats after a broken connection, what cannot be observed."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from meshkit.probing.load_log import _Position, parse

LINE = {
    "time": "2026-11-24T00:06:11.998947752Z", "url": "http://httpbin", "status": 200, "seconds": 0.04,
    "answeredBy": "httpbin-1", "error": "",
}  # fmt: skip


def test_a_line_becomes_a_request() -> None:
    """With Go's nine digits of a second; a cluster whose clock leads is brought back."""
    found = parse(json.dumps(LINE), "east", "load-1", offset=2.0)
    assert found is not None
    assert (found.time, found.status, found.answered_by) == (pytest.approx(1795478769.998947), 200, "httpbin-1")


@pytest.mark.parametrize(
    "text", ["", "not JSON", "[1]", "3", '{"time": "yesterday"}', json.dumps({**LINE, "status": None}), "{}"]
)
def test_another_line_is_no_request(text: str) -> None:
    """It is counted apart, and nothing breaks."""
    assert parse(text, "east", "load-1") is None


def test_what_a_new_reading_repeats_is_counted_once() -> None:
    """The API server knows whole seconds only: all lines of the last one come again, in their order."""
    lines = [f"2026-11-24T00:00:0{n // 4}.{n % 4}00000000Z {n}" for n in range(12)]
    twice = "2026-11-24T00:00:01.300000000Z 7"  # a second line of the same stamp and words is another request
    lines.insert(8, twice)
    position = _Position("2026-11-24T00:00:00+00:00")
    seen = [line for line in lines[:9] if position.is_new(line, Counter())]
    again = position.recent.copy()
    since = [line for line in lines if line[:19] >= position.stamp[:19]]
    seen += [line for line in since if position.is_new(line, again)]
    assert seen == lines
    assert len(position.recent) == 4
