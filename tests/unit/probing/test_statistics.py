"""Quantiles, their intervals and error rates: against definitions, against numpy, and at the empty edges."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshkit.notebook.terminal import render
from meshkit.probing.statistics import (
    LATENCY,
    answers_table,
    brief,
    error_rate,
    interval_ranks,
    latency_table,
    quantile_interval,
    wilson,
)

SAMPLE_COLUMNS = ["client", "server", "phase", "seconds", "status", "answered_by", "error"]
times = st.lists(st.floats(min_value=1e-4, max_value=100), max_size=60)


def samples(seconds: list[float], *, client: str = "east", server: str = "west", phase: str = "warm") -> pd.DataFrame:
    """Return synthetic samples; NaN seconds stand for requests without an answer."""
    rows = [
        (client, server, phase, s, 0 if math.isnan(s) else 200, "" if math.isnan(s) else f"httpbin-{server}", "")
        for s in seconds
    ]
    return pd.DataFrame(rows, columns=SAMPLE_COLUMNS)


def binomial_cdf(k: int, n: int, q: Fraction) -> Fraction:
    """Return P(B <= k) in exact arithmetic."""
    return sum((math.comb(n, i) * q**i * (1 - q) ** (n - i) for i in range(k + 1)), Fraction(0))


@settings(max_examples=60)
@given(n=st.integers(0, 400), q=st.sampled_from([Fraction(1, 2), Fraction(9, 10), Fraction(99, 100)]))
def test_ranks_cover_at_least_95_percent_and_are_the_tightest(n: int, q: Fraction) -> None:
    """In exact arithmetic each tail holds at most 2.5 %, and one rank closer would hold more."""
    low, high = interval_ranks(n, float(q))
    tail = Fraction(1, 40)
    if low > 0:
        assert binomial_cdf(low - 1, n, q) <= tail
    if high <= n:
        assert 1 - binomial_cdf(high - 1, n, q) <= tail
    assert binomial_cdf(low, n, q) > tail or low == n
    assert 1 - binomial_cdf(high - 2, n, q) > tail or high == 1


@pytest.mark.parametrize(("q", "needed"), [(0.5, 6), (0.9, 36), (0.99, 368)])
def test_both_bounds_exist_from_the_documented_number_of_samples(q: float, needed: int) -> None:
    """One sample fewer than the module says leaves the interval open."""
    enough, fewer = (quantile_interval(np.arange(float(n)), q) for n in (needed, needed - 1))
    assert not any(map(math.isnan, enough))
    assert any(map(math.isnan, fewer))


@pytest.mark.parametrize("q", [0.5, 0.9, 0.99])
def test_intervals_hold_the_true_quantile_in_95_of_100_experiments(q: float) -> None:
    """Drawn from a known distribution, the interval misses its quantile at most as often as promised."""
    draws = np.random.default_rng(7).exponential(size=(2000, 400))
    bounds = np.array([quantile_interval(row, q) for row in draws])
    truth = -math.log(1 - q)
    held = (bounds[:, 0] <= truth) & (truth <= bounds[:, 1])
    assert held.mean() >= 0.94


@settings(max_examples=60)
@given(values=times)
def test_quantiles_are_numpys_and_lie_inside_their_intervals_in_order(values: list[float]) -> None:
    """p50 <= p90 <= p99, each equal to numpy's quantile and between its own bounds."""
    table = latency_table(samples(values))
    if not values:
        assert table.empty
        return
    row = table.iloc[0]
    for name, q in {"p50": 0.5, "p90": 0.9, "p99": 0.99}.items():
        assert row[f"{name}_ms"] == pytest.approx(np.quantile(values, q, method="inverted_cdf") * 1000)
        low, high = row[f"{name}_low"], row[f"{name}_high"]
        assert math.isnan(low) or low <= row[f"{name}_ms"] * (1 + 1e-9)
        assert math.isnan(high) or high >= row[f"{name}_ms"] * (1 - 1e-9)
    assert row["p50_ms"] <= row["p90_ms"] * (1 + 1e-9)
    assert row["p90_ms"] <= row["p99_ms"] * (1 + 1e-9)


@settings(max_examples=60)
@given(values=times.filter(bool), factor=st.sampled_from([0.5, 2.0, 1000.0]))
def test_slower_samples_scale_every_bound(values: list[float], factor: float) -> None:
    """Times as many milliseconds give as many times the quantiles and bounds."""
    ours, scaled = (latency_table(samples([v * f for v in values])).filter(regex="p50") for f in (1.0, factor))
    pd.testing.assert_frame_equal(ours * factor, scaled)


@pytest.mark.parametrize("nothing", [pd.DataFrame(), pd.DataFrame(columns=SAMPLE_COLUMNS), samples([])])
def test_no_samples_give_empty_tables_with_their_columns(nothing: pd.DataFrame) -> None:
    """An empty input is a table without rows, never an exception."""
    assert list(latency_table(nothing).columns) == list(LATENCY.columns)
    assert list(answers_table(nothing).columns) == ["client", "server", "answered_by", "answers"]
    assert list(error_rate(nothing).columns) == ["client", "server", "n", "failed", "rate", "rate_low", "rate_high"]
    assert latency_table(nothing).empty
    assert answers_table(nothing).empty
    assert error_rate(nothing).empty


def test_a_pair_that_only_failed_is_a_row_of_unknowns() -> None:
    """All requests failed: n is 0, failed says how many, every time is NaN."""
    row = latency_table(samples([math.nan] * 12)).iloc[0]
    assert (row["n"], row["failed"], row["first_n"]) == (0, 12, 0)
    assert row.filter(regex="p50|p90|p99").isna().all()


def test_a_fast_503_is_a_failure_and_not_a_fast_answer() -> None:
    """Envoy's own 503 carries a time; it is counted and not timed."""
    frame = samples([0.050] * 9 + [0.001])
    frame.loc[9, "status"] = 503
    row = latency_table(frame).iloc[0]
    assert (row["n"], row["failed"]) == (9, 1)
    assert row["p50_ms"] == pytest.approx(50)
    assert row["p50_low"] == pytest.approx(50)


def test_first_requests_stand_beside_warm_ones() -> None:
    """The handshake shows in first_p50_ms and never in p50_ms."""
    frame = pd.concat([samples([0.136] * 7, phase="first"), samples([0.046] * 40)])
    row = latency_table(frame).iloc[0]
    assert (row["n"], row["first_n"]) == (40, 7)
    assert row["first_p50_ms"] == pytest.approx(136)
    assert row["p50_ms"] == pytest.approx(46)
    assert row["first_p50_high"] == pytest.approx(136)


def test_p99_of_few_samples_has_a_floor_and_no_ceiling() -> None:
    """With 100 samples nothing bounds p99 from above; that is NaN, not the maximum."""
    row = latency_table(samples(list(np.linspace(0.01, 0.02, 100)))).iloc[0]
    assert math.isnan(row["p99_high"])
    assert row["p99_low"] > row["p90_ms"]


def test_pairs_are_local_or_remote_and_in_the_order_of_their_categories() -> None:
    """Rows follow the mesh file's order where the columns carry it, else the alphabet."""
    frame = pd.concat([samples([0.1], client=c, server=s) for c in ("north", "east") for s in ("north", "east")])
    assert list(latency_table(frame)["client"]) == ["east", "east", "north", "north"]
    assert list(latency_table(frame)["path"]) == ["local", "remote", "remote", "local"]
    order = pd.CategoricalDtype(["north", "east"])
    ordered = frame.astype({"client": order, "server": order})
    assert list(latency_table(ordered)["client"]) == ["north", "north", "east", "east"]
    assert list(error_rate(ordered)["server"]) == ["north", "east", "north", "east"]


def test_answers_are_counted_by_pod_the_busiest_first() -> None:
    """Nobody's answers are counted under the empty name."""
    frame = samples([0.1, 0.1, 0.1, math.nan])
    frame.loc[0, "answered_by"] = "httpbin-2"
    answers = answers_table(frame)
    assert answers["answered_by"].tolist() == ["httpbin-west", "", "httpbin-2"]
    assert answers["answers"].tolist() == [2, 1, 1]


@given(n=st.integers(1, 5000), data=st.data())
def test_wilson_encloses_the_observed_share_within_0_and_1(n: int, data: st.DataObject) -> None:
    """The bounds never leave the scale and never exclude what was seen."""
    failed = data.draw(st.integers(0, n))
    low, high = wilson(failed, n)
    assert 0 <= low <= failed / n + 1e-12
    assert failed / n - 1e-12 <= high <= 1


def test_wilson_agrees_with_a_published_example_and_knows_nothing_of_no_requests() -> None:
    """10 of 100 gives 5.52 % to 17.44 %; 0 of 0 gives NaN."""
    assert wilson(10, 100) == pytest.approx((0.0552, 0.1744), abs=1e-4)
    assert all(map(math.isnan, wilson(0, 0)))


def test_no_failure_in_a_hundred_is_not_a_rate_of_zero() -> None:
    """The upper bound says what a hundred good answers leave possible: 3.7 %."""
    row = error_rate(samples([0.1] * 100)).iloc[0]
    assert (row["n"], row["failed"], row["rate"], row["rate_low"]) == (100, 0, 0, 0)
    assert row["rate_high"] == pytest.approx(0.037, abs=1e-3)


def test_80_columns_hold_the_terminals_table_with_names_that_still_differ() -> None:
    """Slow answers of clusters with long names; the intervals are in the wide table."""
    names = ["prod-eu-west-1-payments-and-orders-blue", "prod-eu-west-2-payments-and-orders-blue"]
    slow = [12.3456] * 400
    table = latency_table(pd.concat([samples(slow, client=a, server=b) for a in names for b in names]))
    lines = render(brief(table), width=80).splitlines()
    assert max(map(len, lines)) <= 80, lines
    assert lines[0].split()[:4] == ["CLIENT", "SERVER", "N", "FAILED"]
    assert all("12346" in line for line in lines[1:])
    assert len({tuple(line.split()[:2]) for line in lines[1:]}) == 4
    assert "P50 LOW" in render(table, "wide", width=80)
