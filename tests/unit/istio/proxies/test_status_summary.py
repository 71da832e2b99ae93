"""The fleet's proxies as people read them: one row each, counted, chosen, and what changed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pandas as pd
import pytest

from meshkit.errors import InputError
from meshkit.istio.proxies import proxy_status, status_summary
from meshkit.notebook.terminal import render

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


def fleet(*rows: dict[str, Any]) -> pd.DataFrame:
    """Return a proxy_status: of east's sample namespace, CDS in sync, unless a row says otherwise."""
    usual = {"cluster": "east", "namespace": "sample", "istiod": "istiod-1", "istiod_cluster": "east"}
    return proxy_status.PROXY_STATUS.frame({**usual, "type": "CDS", "state": "SYNCED", **row} for row in rows)


def _status(rows: list[tuple[str, str, str]]) -> pd.DataFrame:
    return fleet(*({"proxy": name, "type": kind, "state": state, "istiod": ""} for name, kind, state in rows))


class TestSummary:
    """One row for each proxy."""

    def test_the_worst_proxy_comes_first_with_its_worst_state(self) -> None:
        """Types are columns; what a proxy did not subscribe to is IGNORED, of what is unknown nothing is said."""
        status = _status(
            [
                ("fine", "CDS", "SYNCED"),
                ("fine", "LDS", "SYNCED"),
                ("bad", "CDS", "SYNCED"),
                ("bad", "LDS", "ERROR"),
                ("lost", "", "NOT CONNECTED"),
                ("bad", "NDS", "STALE"),
            ]
        )
        table = status_summary.summary(status)
        assert list(table["proxy"]) == ["bad", "lost", "fine"]
        assert list(table["worst"]) == ["ERROR", "NOT CONNECTED", "SYNCED"]
        assert list(table.columns[7:]) == ["CDS", "LDS", "EDS", "RDS", "NDS"]
        assert list(table["NDS"]) == ["STALE", "", "IGNORED"]

    def test_of_two_connections_the_worse_counts(self) -> None:
        """A proxy that reconnects may be known twice."""
        table = status_summary.summary(_status([("p", "CDS", "STALE"), ("p", "CDS", "SYNCED")]))
        assert list(table["CDS"]) == ["STALE"]

    def test_no_proxies_give_an_empty_table(self) -> None:
        """With its columns."""
        assert list(status_summary.summary(_status([])).columns[:7])[-1] == "worst"

    def test_a_state_that_nobody_knows_is_the_worst(self) -> None:
        """It is seen, not sorted away."""
        table = status_summary.summary(_status([("a", "CDS", "ERROR"), ("b", "CDS", "OF TOMORROW")]))
        assert set(table["worst"]) == {"ERROR", "OF TOMORROW"}


def test_alike_proxies_are_counted_the_worst_first() -> None:
    """Each group with how many, in how many namespaces, and one of them."""
    many = [{"proxy": f"p{n}", "namespace": f"ns{n % 3}", "version": "1.31.0", "kind": "sidecar"} for n in range(9)]
    lone = {"proxy": "bad", "state": "STALE", "version": "1.30.0", "kind": "router"}
    counted = status_summary.groups(status_summary.summary(fleet(*many, lone))).to_dict("records")
    shown = [(row["worst"], row["version"], row["proxies"], row["namespaces"], row["example"]) for row in counted]
    assert shown == [("STALE", "1.30.0", 1, 1, "bad.sample"), ("SYNCED", "1.31.0", 9, 3, "p0.ns0")]


class TestChooser:
    """-n, --cluster and --state."""

    STATUS = fleet(
        {"proxy": "a", "state": "ERROR"},
        {"proxy": "a", "type": "LDS"},
        {"proxy": "b"},
        {"proxy": "c", "namespace": "other", "state": "NOT CONNECTED", "type": ""},
        {"proxy": "d", "cluster": "west"},
        {"proxy": "", "cluster": "gone", "namespace": "", "state": "UNKNOWN", "type": ""},
    )

    @pytest.mark.parametrize(
        ("choice", "chosen"),
        [
            ({}, ["", "a", "a", "b", "c", "d"]),
            ({"states": ["error"]}, ["a", "a"]),
            ({"states": ["not-connected", "NOT_SENT"]}, ["c"]),
            ({"clusters": ["west"]}, ["d"]),
            ({"namespace": "sample"}, ["", "a", "a", "b", "d"]),
            ({"namespace": "sample", "clusters": ["east"], "states": ["synced"]}, ["a", "a", "b"]),
        ],
    )
    def test_rows_are_chosen(self, choice: dict[str, Any], chosen: list[str]) -> None:
        """A proxy comes whole; what could not be read stays, unless states are named."""
        choose = status_summary.status_filter(["east", "west", "gone"], **choice)
        assert sorted(choose(self.STATUS)["proxy"]) == chosen

    @pytest.mark.parametrize(
        ("choice", "words"),
        [({"clusters": ["eastt"]}, "did you mean 'east'"), ({"states": ["stael"]}, "did you mean 'STALE'")],
    )
    def test_a_wrong_word_names_the_nearest(self, choice: dict[str, Any], words: str) -> None:
        """And where it stood."""
        with pytest.raises(InputError) as refused:
            status_summary.status_filter(["east", "west"], **choice)
        assert words in str(refused.value)
        assert "--" in refused.value.where


class TestTrend:
    """Two looks at one fleet."""

    EARLIER = NOW - timedelta(hours=1)

    @pytest.mark.parametrize(
        ("before", "now", "told"),
        [
            ({}, {}, None),
            ({}, {"state": "STALE"}, ("broken", "SYNCED", "STALE")),
            (None, {"state": "NOT CONNECTED"}, ("broken", "", "NOT CONNECTED")),
            ({"state": "STALE"}, {"state": "ERROR"}, ("worse", "STALE", "ERROR")),
            ({"state": "ERROR"}, {"state": "STALE"}, ("still broken", "ERROR", "STALE")),
            ({"state": "STALE"}, {"state": "STALE"}, ("still broken", "STALE", "STALE")),
            ({"state": "ERROR"}, {}, ("mended", "ERROR", "SYNCED")),
            ({}, None, ("gone", "SYNCED", "")),
            (None, {}, ("appeared", "", "SYNCED")),
            ({"version": "1.30.0"}, {"version": "1.31.0"}, ("version", "1.30.0", "1.31.0")),
            ({}, {"istiod": "istiod-2"}, ("istiod", "istiod-1", "istiod-2")),
            ({}, {"proxy": "", "namespace": "", "state": "UNKNOWN"}, ("unknown", "SYNCED", "UNKNOWN")),
        ],
    )
    def test_each_change_has_its_word(
        self, before: dict[str, Any] | None, now: dict[str, Any] | None, told: tuple[str, ...] | None
    ) -> None:
        """What is as it was, and well, is no row."""
        sides = [fleet(*([] if side is None else [{"proxy": "p", **side}])) for side in (before, now)]
        rows = status_summary.status_diff(*sides)[["change", "before", "now"]].itertuples(index=False, name=None)
        assert list(rows) == ([] if told is None else [told])

    def test_what_is_still_broken_has_been_so_since_the_earliest_known_moment(self) -> None:
        """Istiod sends again while the proxy hangs: its last push is not the beginning."""
        first = {"proxy": "p", "state": "STALE", "since": NOW - timedelta(hours=2), "age_s": 3600.0}
        later = {**first, "since": NOW - timedelta(seconds=5), "age_s": 5.0}
        assert status_summary.status_diff(fleet(first), fleet(later)).iloc[0]["since"] == NOW - timedelta(hours=2)

    def test_an_istiod_that_tells_no_times_leaves_the_time_of_the_run(self) -> None:
        """Before 1.27: it was so when the run read it."""
        stale = fleet({"proxy": "p", "state": "STALE"})
        assert status_summary.status_diff(stale, stale, self.EARLIER).iloc[0]["since"] == self.EARLIER

    def test_what_came_and_went_in_order_is_counted_and_the_worst_stands_first(self) -> None:
        """A rollout of a thousand pods is two rows."""
        before = fleet(*({"proxy": f"old-{n}"} for n in range(7)), {"proxy": "sick", "state": "ERROR"})
        now = fleet(*({"proxy": f"new-{n}"} for n in range(5)), {"proxy": "hit", "state": "STALE"})
        rows = status_summary.status_diff(before, now)[["proxy", "change"]].itertuples(index=False, name=None)
        expected = [("hit", "broken"), ("7 proxies", "gone"), ("sick", "gone"), ("5 proxies", "appeared")]
        assert sorted(rows) == sorted(expected)


LONG = [
    {
        "cluster": f"prod-eu-west-{zone}-payments-blue",
        "namespace": "payments-and-orders-production",
        "proxy": f"istio-ingressgateway-internal-7f8c9d6b54-{pod}",
        "version": "1.31.0-distroless",
    }
    for zone in (1, 2)
    for pod in ("x2x9z", "k4q7w")
]


def test_80_columns_hold_each_table_with_names_that_still_differ() -> None:
    """Long names of clusters, namespaces and pods; states and types are whole."""
    summary = status_summary.summary(
        fleet(*({**row, "type": kind, "state": "NOT CONNECTED"} for row in LONG for kind in ("CDS", "EDS")))
    )
    lines = render(status_summary.brief(summary), width=80).splitlines()
    assert lines[0].split() == ["CLUSTER", "NAMESPACE", "PROXY", "VERSION", "STATE", "TYPES"]
    assert max(map(len, lines)) <= 80, lines
    assert len({(line.split()[0], line.split()[2]) for line in lines[1:]}) == len(LONG)
    assert all("NOT CONNECTED" in line and line.endswith("CDS EDS") for line in lines[1:]), lines
    groups = render(status_summary.brief_groups(status_summary.groups(summary)), width=80)
    assert max(map(len, groups.splitlines())) <= 80, groups
    now = fleet(*({**row, "state": "STALE"} for row in LONG))
    changed = render(status_summary.brief_diff(status_summary.status_diff(fleet(*LONG), now)), width=80)
    assert max(map(len, changed.splitlines())) <= 80, changed
    assert "broken" in changed


def test_a_healthy_meshs_table_has_no_types_and_names_are_whole_where_they_fit() -> None:
    """An empty column says nothing."""
    frame = status_summary.brief(status_summary.summary(fleet({"proxy": "httpbin-84f8d597df-bblkk"})))
    assert list(frame.columns) == ["cluster", "namespace", "proxy", "state"]
    assert "httpbin-84f8d597df-bblkk" in render(frame, width=80)
