"""Retries of sidecars: what their counters grew by, through restarts, and never 0 where nobody could count."""

from __future__ import annotations

from typing import Any

import pytest

from meshkit.kube.cluster import Cluster
from meshkit.probing.retries import UNCOUNTED, Retries
from tests.support.memory_api import MemoryApi, MemoryCluster

COUNTER = "cluster.outbound|8000||{};.upstream_rq_retry"


def stats(*values: int) -> dict[str, Any]:
    """Return what Envoy answers for a counter of several upstream clusters."""
    return {"stats": [{"name": COUNTER.format(f"s{n}"), "value": value} for n, value in enumerate(values)]}


class Load:
    """Pods of a load in one cluster, and what the Envoy of each answers now."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {}
        self.retries = Retries("shop")

    @property
    def cluster(self) -> Cluster:
        """The cluster, as it is now."""
        path = "15000/stats?format=json&filter=%5Ecluster.outbound.%2Aupstream_rq_retry%24"
        return MemoryCluster.of("east", MemoryApi({}, {f"{pod}:{path}": one for pod, one in self.answers.items()}))

    def read(self, **answers: Any) -> None:
        """Read all sidecars, whose answers are these from now on."""
        self.answers = answers
        self.retries.watch(self.cluster, answers)
        for one in self.retries._sidecars.values():
            one.cluster = self.cluster
        self.retries.read()

    def times(self) -> int | None:
        """Return how many retries are known."""
        found, _ = self.retries.result()
        return sum(one.times for one in found) if found is not None else None


@pytest.fixture
def load() -> Load:
    """Return a load without pods."""
    return Load()


def test_what_was_there_before_is_not_counted(load: Load) -> None:
    """Of a pod that ran already; what it retries from then on is, over all upstream clusters."""
    load.read(one=stats(40, 2))
    assert load.times() == 0
    load.read(one=stats(41, 4))
    assert load.times() == 3


def test_a_pod_that_came_later_is_counted_whole(load: Load) -> None:
    """Also a container that was restarted, whose Envoy begins at 0 again; a pod that is gone keeps what it had."""
    load.read(one=stats(40))
    load.read(one=stats(45), two=stats(7))
    load.read(two=stats(3))
    assert load.times() == 5 + 7 + 3


def test_a_sidecar_that_does_not_count_makes_it_unknown(load: Load) -> None:
    """As Istio's bootstrap has it by default; it is said of which pod, and others do not hide it."""
    load.read(one=stats(0), two={"stats": []})
    assert load.times() is None
    assert load.retries.result()[1] == {"two": UNCOUNTED}
    load.read(one=stats(0), two=stats(0))
    assert load.times() == 0


def test_a_pod_that_was_never_read_makes_it_unknown(load: Load) -> None:
    """It may have retried anything."""
    load.read(one=stats(0))
    load.read(one=stats(0), two={"nonsense": True})
    load.read(one=stats(0))
    assert load.times() is None
    assert "two" in load.retries.result()[1]


def test_without_a_pod_nothing_is_known(load: Load) -> None:
    """Not that there was no retry."""
    load.retries.read()
    assert load.retries.result() == (None, {})
