"""From samples to tables: latency quantiles with confidence intervals, who answered, error rates.

A samples table has one row for each request: client and server (cluster names), phase ("first" for the first request on
a new upstream connection, else "warm"), seconds (NaN when failed), status (HTTP, 0 = no answer), answered_by (pod or
""), error. A request *failed* when it has no finite time or its status is outside 200-399; failed requests are counted,
and never timed: a fast 503 would flatter the quantiles.

A quantile is a time that was measured (the inverse of the ECDF), so that it lies inside its interval for any n.
Intervals are exact and assume no distribution: of n independent samples, the number below the true q-quantile is
Binomial(n, q), so two order statistics enclose it with a known probability (Conover, Practical Nonparametric
Statistics, 3rd ed., section 3.2; Le Boudec, Performance Evaluation, theorem 2.1). Each bound is wrong in at most 2.5 %
of cases. Where no order statistic is that safe, the bound does not exist and is NaN: p50 needs n >= 6, p90 n >= 36 and
p99 n >= 368 for both. Requests sent back to back are not quite independent; true intervals are wider.
"""

from __future__ import annotations

from functools import lru_cache
from statistics import NormalDist
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from meshkit.tables import Table, integer, number, text

QUANTILES: Final = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
_PAIR: Final = ["client", "server"]
LATENCY: Final = Table(
    "latency",
    "Latency in milliseconds, with 95 % intervals",
    {
        "client": text("cluster of the client"),
        "server": text("cluster of the server"),
        "path": text("local or remote"),
        "n": integer("timed requests on open connections"),
        "failed": integer("failed requests, on open and on new connections"),
        "p50_ms": number("median", "ms"),
        "p50_low": number("lower bound of its interval", "ms"),
        "p50_high": number("upper bound of its interval", "ms"),
        "p90_ms": number("90th percentile", "ms"),
        "p90_low": number("lower bound of its interval", "ms"),
        "p90_high": number("upper bound of its interval", "ms"),
        "p99_ms": number("99th percentile", "ms"),
        "p99_low": number("lower bound of its interval", "ms"),
        "p99_high": number("upper bound of its interval", "ms"),
        "first_n": integer("timed first requests on new connections"),
        "first_p50_ms": number("their median", "ms"),
        "first_p50_low": number("lower bound of its interval", "ms"),
        "first_p50_high": number("upper bound of its interval", "ms"),
    },
    key=("client", "server"),
    show=(
        *("client", "server", "n", "failed", "p50_ms", "p50_low", "p50_high", "p90_ms", "p99_ms", "p99_low"),
        *("p99_high", "first_p50_ms"),
    ),
    compare=("p50_ms", "p99_ms", "failed"),
)
ANSWERS: Final = Table(
    "answers",
    "Answers by pod",
    {
        "client": text("cluster of the client"),
        "server": text("cluster of the server"),
        "answered_by": text("pod; empty where the answer does not name it"),
        "answers": integer("requests that it answered"),
    },
)
ERROR_RATE: Final = Table(
    "error-rate",
    "Share of failed requests, with Wilson's 95 % interval",
    {
        "client": text("cluster of the client"),
        "server": text("cluster of the server"),
        "n": integer("requests, on open and on new connections"),
        "failed": integer("of them"),
        "rate": number("share of failed requests, 0 to 1"),
        "rate_low": number("lower bound of its interval"),
        "rate_high": number("upper bound of its interval"),
    },
    key=("client", "server"),
)


@lru_cache(maxsize=4096)
def interval_ranks(n: int, q: float, confidence: float = 0.95) -> tuple[int, int]:
    """Return the ranks (from 1) of the samples that enclose the q-quantile.

    Rank 0 means that there is no lower bound, rank n + 1 that there is no upper one.
    """
    log_factorial = np.concatenate(([0.0], np.cumsum(np.log(np.arange(1, n + 1)))))
    k = np.arange(n + 1)
    log_mass = log_factorial[n] - log_factorial[k] - log_factorial[n - k] + k * np.log(q) + (n - k) * np.log1p(-q)
    mass, tail = np.exp(log_mass), (1 - confidence) / 2
    at_most, at_least = np.cumsum(mass), np.cumsum(mass[::-1])[::-1]
    return int(np.sum(at_most <= tail)), int(n + 1 - np.sum(at_least <= tail))


def quantile(values: NDArray[np.float64], q: float) -> float:
    """Return the q-quantile, one of the values; NaN of none."""
    return float(np.quantile(values, q, method="inverted_cdf")) if len(values) else float("nan")


def quantile_interval(values: NDArray[np.float64], q: float, confidence: float = 0.95) -> tuple[float, float]:
    """Return the bounds of the q-quantile, in the unit of the values; NaN where a bound does not exist."""
    low, high = interval_ranks(len(values), q, confidence)
    padded = np.concatenate(([np.nan], np.sort(values), [np.nan]))
    return float(padded[low]), float(padded[high])


def wilson(failed: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return Wilson's interval of a share (Brown, Cai, DasGupta 2001, Statistical Science 16:2); NaN for n = 0."""
    if n == 0:
        return float("nan"), float("nan")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share, weight = failed / n, 1 + z * z / n
    centre = (share + z * z / (2 * n)) / weight
    half = z / weight * float(np.sqrt(share * (1 - share) / n + z * z / (4 * n * n)))
    return (0.0 if failed == 0 else centre - half), (1.0 if failed == n else centre + half)


def failed_requests(samples: pd.DataFrame) -> pd.Series[bool]:
    """Return which samples failed: no finite time, or a status outside 200-399."""
    timed = np.isfinite(samples["seconds"].astype("float64"))
    answered: pd.Series[bool] = samples["status"].between(200, 399) & timed
    return ~answered


def latency_table(samples: pd.DataFrame) -> pd.DataFrame:
    """Return latency quantiles with 95 % intervals, one row for each (client, server).

    A time is NaN where there is none, and a bound where it does not exist. Rows are in order of name, or of the
    categories where the columns are categorical.
    """
    rows: list[dict[str, object]] = []
    for (client, server), group in _pairs(samples):
        failed = failed_requests(group)
        answered = group[~failed]
        warm, first = (1000 * _times(answered, phase) for phase in ("warm", "first"))
        row: dict[str, object] = {"client": str(client), "server": str(server), "n": len(warm), "first_n": len(first)}
        row |= {"path": "local" if client == server else "remote", "failed": int(failed.sum())}
        for name, q in QUANTILES.items():
            row |= _estimate(name, warm, q)
        rows.append(row | _estimate("first_p50", first, 0.5))
    return LATENCY.frame(rows, in_order=True)


def brief(latency: pd.DataFrame) -> pd.DataFrame:
    """Return the columns of `latency_table` that a terminal has room for: without intervals."""
    columns = ["client", "server", "n", "failed", "p50_ms", "p90_ms", "p99_ms", "first_p50_ms"]
    return latency[columns].rename(columns={"first_p50_ms": "first_ms"})


def answers_table(samples: pd.DataFrame) -> pd.DataFrame:
    """Return the answering pods, the busiest first within each pair."""
    rows = [
        {"client": str(client), "server": str(server), "answered_by": str(name), "answers": int(count)}
        for (client, server), group in _pairs(samples)
        for name, count in sorted(group["answered_by"].value_counts().items(), key=lambda kv: (-kv[1], str(kv[0])))
    ]
    return ANSWERS.frame(rows, in_order=True)


def error_rate(samples: pd.DataFrame) -> pd.DataFrame:
    """Return the share of failed requests with Wilson's 95 % interval, one row for each (client, server)."""
    rows = []
    for (client, server), group in _pairs(samples):
        n, failed = len(group), int(failed_requests(group).sum())
        low, high = wilson(failed, n)
        row = {"client": str(client), "server": str(server), "n": n, "failed": failed, "rate": failed / n}
        rows.append({**row, "rate_low": low, "rate_high": high})
    return ERROR_RATE.frame(rows, in_order=True)


def _pairs(samples: pd.DataFrame) -> list[tuple[tuple[str, str], pd.DataFrame]]:
    # A table without rows often comes without columns too, and groupby would refuse it.
    return [] if samples.empty else list(samples.groupby(_PAIR, sort=True, observed=True))  # type: ignore[arg-type]


def _times(answered: pd.DataFrame, phase: str) -> NDArray[np.float64]:
    return answered.loc[answered["phase"] == phase, "seconds"].to_numpy(dtype="float64")


def _estimate(name: str, values: NDArray[np.float64], q: float) -> dict[str, float]:
    low, high = quantile_interval(values, q)
    return {f"{name}_ms": quantile(values, q), f"{name}_low": low, f"{name}_high": high}
