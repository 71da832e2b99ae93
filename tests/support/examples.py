"""Synthetic tables, for drawing only: no number here was measured on a mesh."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd

NAMES = ("east", "west", "north", "south", *(f"lab-{i}" for i in range(5, 21)))
NOW = datetime(2026, 1, 2, 12, 0, tzinfo=UTC)


def samples(clusters: int, *, n: int = 120, broken: tuple[str, str] | None = None) -> pd.DataFrame:
    """Return samples of every ordered pair, local ones too; the broken pair answers nothing."""
    rng = np.random.default_rng(clusters)
    rows = []
    for i, client in enumerate(NAMES[:clusters]):
        for j, server in enumerate(NAMES[:clusters]):
            base = 0.003 if i == j else 0.040 + 0.012 * abs(i - j)
            lost = (client, server) == broken
            for phase, count, factor in (("first", 9, 3.0), ("warm", n, 1.0)):
                seconds = base * factor * rng.lognormal(0, 0.12, count)
                rows += [
                    (client, server, phase, *((np.nan, 0, "") if lost else (s, 200, f"httpbin-{server}")), "")
                    for s in seconds
                ]
    return pd.DataFrame(rows, columns=["client", "server", "phase", "seconds", "status", "answered_by", "error"])


def proxies(counts: dict[str, dict[str, int]]) -> pd.DataFrame:
    """Return so many proxies of each state in each cluster."""
    rows = [
        (cluster, "sample", f"sleep-{i}", "sidecar", state)
        for cluster, states in counts.items()
        for state, count in states.items()
        for i in range(count)
    ]
    return pd.DataFrame(rows, columns=["cluster", "namespace", "proxy", "kind", "worst"])


def verdicts(clusters: int, worst: dict[tuple[str, str], tuple[str, str]] | None = None) -> pd.DataFrame:
    """Return a verdict for each ordered pair of distinct clusters: pass, but for those named."""
    pairs = [(a, b) for a in NAMES[:clusters] for b in NAMES[:clusters] if a != b]
    rows = [(*pair, *(worst or {}).get(pair, ("pass", "20 of 20 answered"))) for pair in pairs]
    return pd.DataFrame(rows, columns=["client", "server", "verdict", "note"])


def certificates(proxies_each: int, clusters: int = 2) -> pd.DataFrame:
    """Return workload certificates of 24 hours, issued at different times of the last day; the first has expired."""
    rows = []
    for cluster in NAMES[:clusters]:
        for i in range(proxies_each):
            start = NOW - timedelta(hours=26 - 25 * i / max(proxies_each, 2))
            end = start + timedelta(hours=24)
            rows.append((cluster, "sample", f"sleep-5f9c7d9d8b-{i:05d}", start, end, "O=cluster.local"))
    return pd.DataFrame(rows, columns=["cluster", "namespace", "proxy", "not_before", "not_after", "issuer"])


LINKS = ("secret", "server", "credential", "sync", "replicas", "gateway", "endpoints", "hello", "answer")


def links(clusters: int, worst: dict[tuple[str, str, str], tuple[str, str, str]] | None = None) -> pd.DataFrame:
    """Return a verdict for each link of each ordered pair: pass, but for (`verdict`, `id`, `told`) of those named."""
    pairs = [(a, b) for a in NAMES[:clusters] for b in NAMES[:clusters] if a != b]
    rows = [(a, b, link, *(worst or {}).get((a, b, link), ("pass", "MK802", ""))) for a, b in pairs for link in LINKS]
    return pd.DataFrame(rows, columns=["client", "server", "cell", "verdict", "id", "told"])
