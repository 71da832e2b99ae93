"""Requests over time: sums by second, quantiles, gaps that are reported, memory that is bounded."""

from __future__ import annotations

import math

import pytest

from meshkit.probing import load_generator, request_log
from meshkit.probing.curl import MARK
from meshkit.probing.request_log import NOT_OBSERVED, Request, Tally

HOMES = {"httpbin-e": "east", "httpbin-w": "west"}


def request(moment: float, *, status: int = 200, seconds: float = 0.01, by: str = "httpbin-e", **more: str) -> Request:
    """Return a request of east's load."""
    known = {"cluster": "east", "pod": "load", "error": "", **more}
    return Request(time=moment, status=status, seconds=seconds, answered_by=by if status == 200 else "", **known)


def counted(*requests: Request) -> Tally:
    """Return a tally of requests."""
    tally = Tally()
    for one in requests:
        tally.add(one)
    return tally


def test_requests_are_summed_by_second_sender_and_answering_cluster() -> None:
    """Who answered is known by its pod; a pod that nobody knows is a question mark."""
    tally = counted(
        *(request(100 + n / 10, seconds=n / 1000) for n in range(1, 8)),
        request(100.9, by="httpbin-w", seconds=0.5),
        request(100.95, by="stranger"),
        request(100.99, status=503, error=""),
        request(100.5, cluster="west"),
    )
    table = tally.table(100.0, 101.0, HOMES)
    east, west = table.to_dict("records")
    assert (east["cluster"], east["sent"], east["failed"]) == ("east", 10, 1)
    assert east["answered_in"] == "?×1 east×7 west×1"
    assert east["p99_ms"] == pytest.approx(500)
    assert east["p50_ms"] == pytest.approx(5)
    assert (west["cluster"], west["answered_in"]) == ("west", "east×1")
    assert str(east["time"]) == "1970-01-01 00:01:40+00:00"
    assert request_log.totals(table) == {"sent": 11, "failed": 1, "seconds": 1, "not_observed": 0}


@pytest.mark.parametrize(
    ("status", "error", "failed"),
    [(200, "", False), (204, "", False), (302, "", True), (503, "", True), (0, "timeout", True), (200, "EOF", True)],
)
def test_failed_is_what_has_no_2xx_or_an_error(status: int, error: str, failed: bool) -> None:
    """Also an answer whose body broke off."""
    assert request(1.0, status=status, error=error).failed is failed


def test_a_second_that_nobody_saw_is_reported() -> None:
    """Before the first sender without cluster, later as a gap of each sender that was there; never as a good second."""
    table = counted(
        request(103.1), request(105.1), request(105.2, cluster="west"), request(107.2, cluster="west")
    ).table(100.5, 108.5, HOMES)
    gaps = table[table["answered_in"] == NOT_OBSERVED]
    told = {(int(t.timestamp()), c) for t, c in zip(gaps["time"], gaps["cluster"], strict=True)}
    assert told == {(101, ""), (102, ""), (104, "east"), (106, "east"), (106, "west"), (107, "east")}
    assert gaps[["sent", "failed"]].to_numpy().sum() == 0
    assert gaps["p99_ms"].isna().all()
    assert request_log.totals(table)["not_observed"] == 5


def test_nothing_seen_is_all_gap() -> None:
    """An empty tally of some seconds has no good second."""
    table = Tally().table(100.0, 104.0, {})
    assert list(table["answered_in"]) == [NOT_OBSERVED] * 3
    assert request_log.totals(table)["seconds"] == 0


def test_failed_requests_are_kept_one_by_one_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond it they are counted."""
    monkeypatch.setattr(request_log, "MOST_FAILED", 3)
    tally = counted(*(request(100 + n, status=503, error=f"no {n}") for n in range(9)))
    assert list(tally.failed()["error"]) == ["no 0", "no 1", "no 2"]
    assert request_log.totals(tally.table(100, 109, {}))["failed"] == 9


def test_single_times_are_let_go_when_a_second_has_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its quantiles stay; a line that comes later still is counted."""
    monkeypatch.setattr(request_log, "SETTLED_AFTER", -1.0)
    tally = counted(request(100.1, seconds=0.1), request(101.1))
    assert not tally._seconds[100, "east"].samples
    tally.add(request(100.2, seconds=9.0))
    first = tally.table(100, 102, HOMES).iloc[0]
    assert (first["sent"], first["p99_ms"]) == (2, pytest.approx(100))


def test_in_clusters_reads_what_table_writes() -> None:
    """Also of names with signs in them, and of nothing."""
    assert request_log.in_clusters("?×1 a-b×20") == {"?": 1, "a-b": 20}
    assert request_log.in_clusters(NOT_OBSERVED) == request_log.in_clusters("") == {}


@pytest.mark.parametrize("size", [1, 7, 4096])
def test_answers_are_received_as_soon_as_they_are_whole(size: int) -> None:
    """However the output is cut into pieces."""
    one = '{"hostname": "httpbin-e"}\n\n' + MARK + '{"status":"200","seconds":"0.004","error":""}\n'
    none = "\n" + MARK + '{"status":"000","seconds":"2.001","error":"timed out"}\n'
    text = (one + none + one).encode()
    heard: list[tuple[int, str]] = []
    ear = load_generator.CurlStreamParser(lambda answer: heard.append((answer.status, answer.body)))
    for start in range(0, len(text), size):
        ear(text[start : start + size])
    assert heard == [(200, '{"hostname": "httpbin-e"}'), (0, ""), (200, '{"hostname": "httpbin-e"}')]
    assert ear.answers == 3


def test_a_request_without_times_does_not_spoil_the_sums() -> None:
    """Status 0 has no latency."""
    row = counted(request(100.0, status=0, seconds=5.0, error="timeout")).table(100, 101, {}).iloc[0]
    assert math.isnan(row["p99_ms"])
    assert (row["sent"], row["failed"], row["answered_in"]) == (1, 1, "")
