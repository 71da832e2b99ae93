"""Requests over time, by second and sending cluster: how many failed, which clusters answered, how fast.

A second without observations is marked as such, and never counted as success.
"""

from __future__ import annotations

import math
import time
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import pandas as pd

from meshkit.tables import Table, integer, moment, number, text

NOT_OBSERVED: Final = "not observed"
MOST_FAILED: Final = 5000
"""Failed requests are kept one by one up to this many; beyond it they are counted only."""
MOST_SAMPLES: Final = 2000
SETTLED_AFTER: Final = 30.0
TRAFFIC: Final = Table(
    "traffic",
    "Requests by second",
    {
        "time": moment("the second", resolution="ns"),
        "cluster": text("of the sender; empty before any sender was seen"),
        "sent": integer("requests"),
        "failed": integer("requests"),
        "p50_ms": number("median latency of answers; empty without any", "ms"),
        "p99_ms": number("99th percentile; empty without any", "ms"),
        "answered_in": text(
            'clusters of the pods that answered well, such as `east×14 west×6`; `?` for an unknown pod; "not observed"'
        ),
    },
    key=("time", "cluster"),
    compare=("failed",),
    limit=5,
)
REQUESTS: Final = TRAFFIC.renamed("requests", "Requests by second")
FAILED: Final = Table(
    "failed_requests",
    "Failed requests, one by one",
    {
        "time": moment("when it began", resolution="ns"),
        "cluster": text("of the sender"),
        "pod": text("that sent it"),
        "status": integer("HTTP status; 0: no answer"),
        "error": text("why it failed"),
        "answered_by": text("pod"),
        "seconds": number("until the answer", "s"),
    },
    key=("time", "cluster", "pod"),
)


@dataclass(frozen=True, kw_only=True)
class Request:
    """One request: when it began (Unix time), the cluster and pod that sent it, its outcome (status 0: no answer)."""

    time: float
    cluster: str
    pod: str
    status: int
    seconds: float
    answered_by: str = ""
    error: str = ""

    @property
    def failed(self) -> bool:
        """Whether it had no answer, or another one than 2xx."""
        return bool(self.error) or not 200 <= self.status < 300


@dataclass
class _Second:
    sent: int = 0
    failed: int = 0
    answered_by: Counter[str] = field(default_factory=Counter)
    samples: array[float] = field(default_factory=lambda: array("f"))
    quantiles: tuple[float, float] | None = None
    touched: float = 0.0

    def add(self, request: Request) -> None:
        self.sent += 1
        self.touched = time.monotonic()
        if request.failed:
            self.failed += 1
        else:
            self.answered_by[request.answered_by] += 1
        if request.status and self.quantiles is None and len(self.samples) < MOST_SAMPLES:
            self.samples.append(1000 * request.seconds)

    def settle(self) -> tuple[float, float]:
        """Return p50 and p99 in milliseconds, and drop the samples."""
        if self.quantiles is None:
            ranked = sorted(self.samples)
            ranks = [max(0, math.ceil(q * len(ranked)) - 1) for q in (0.5, 0.99)]
            p50, p99 = (ranked[rank] if ranked else math.nan for rank in ranks)
            self.quantiles, self.samples = (p50, p99), array("f")
        return self.quantiles


class Tally:
    """Counts requests by second and sending cluster, in bounded memory; not thread-safe."""

    def __init__(self) -> None:
        self._seconds: dict[tuple[int, str], _Second] = {}
        self._failed: list[Request] = []
        self._swept = time.monotonic()

    def add(self, request: Request) -> None:
        """Count one request."""
        second = self._seconds.setdefault((math.floor(request.time), request.cluster), _Second())
        second.add(request)
        if request.failed and len(self._failed) < MOST_FAILED:
            self._failed.append(request)
        if time.monotonic() - self._swept > SETTLED_AFTER:
            self._sweep()

    def _sweep(self) -> None:
        self._swept = time.monotonic()
        for second in self._seconds.values():
            if self._swept - second.touched > SETTLED_AFTER:
                second.settle()

    @property
    def answerers(self) -> set[str]:
        """The pods that answered."""
        return {pod for second in self._seconds.values() for pod in second.answered_by} - {""}

    def table(self, begin: float, end: float, homes: Mapping[str, str]) -> pd.DataFrame:
        """Return one row for each second and sending cluster, from `begin` to `end` (Unix times).

        A second in which a sender that was seen before is not seen is a row of its cluster with answered_in "not
        observed"; before any was seen, it is a row without cluster. `homes` is the cluster of each pod.
        """
        rows = []
        for (stamp, cluster), second in self._seconds.items():
            p50, p99 = second.settle()
            clusters: Counter[str] = Counter()
            for pod, count in second.answered_by.items():
                clusters[homes.get(pod, "?")] += count
            answered_in = " ".join(f"{name}×{count}" for name, count in sorted(clusters.items()))
            rows.append(
                {"time": _utc(stamp), "cluster": cluster, "sent": second.sent, "failed": second.failed}
                | {"p50_ms": p50, "p99_ms": p99, "answered_in": answered_in}
            )
        rows += [{"time": _utc(s), "cluster": c, "answered_in": NOT_OBSERVED} for s, c in self._gaps(begin, end)]
        return TRAFFIC.frame(rows).sort_values(["time", "cluster"], kind="stable", ignore_index=True)

    def _gaps(self, begin: float, end: float) -> Iterator[tuple[int, str]]:
        first: dict[str, int] = {}
        for stamp, cluster in self._seconds:
            first[cluster] = min(stamp, first.get(cluster, stamp))
        # The first and the last second are incomplete: no request in them means nothing.
        for stamp in range(math.floor(begin) + 1, math.floor(end)):
            if stamp < min(first.values(), default=math.inf):
                yield stamp, ""
            yield from ((stamp, c) for c, since in first.items() if stamp > since and (stamp, c) not in self._seconds)

    def failed(self) -> pd.DataFrame:
        """Return the failed requests one by one, the first `MOST_FAILED` of them."""
        rows = [{**vars(request), "time": _utc(request.time)} for request in self._failed]
        return FAILED.frame(rows).sort_values("time", kind="stable", ignore_index=True)


def totals(requests: pd.DataFrame) -> dict[str, Any]:
    """Return the sums of a table of requests: sent, failed, seconds (observed), not_observed (seconds)."""
    gaps = requests["answered_in"] == NOT_OBSERVED
    return {
        "sent": int(requests["sent"].sum()),
        "failed": int(requests["failed"].sum()),
        "seconds": int(requests.loc[~gaps, "time"].nunique()),
        "not_observed": int(requests.loc[gaps, "time"].nunique()),
    }


def in_clusters(answered_in: str) -> dict[str, int]:
    """Return "east×14 west×6" as numbers by cluster; nothing for a second that was not observed."""
    if answered_in == NOT_OBSERVED:
        return {}
    parts = (part.rpartition("×") for part in answered_in.split())
    return {name: int(count) for name, _, count in parts}


def _utc(stamp: float) -> datetime:
    return datetime.fromtimestamp(stamp, UTC)
