"""Reading."""

from __future__ import annotations

import time
from dataclasses import dataclass

import pandas as pd

from meshkit.istio.control_plane import versions
from meshkit.istio.proxies import proxy_status, status_summary
from meshkit.kube.mesh import Mesh

NO_PROXY = "no proxy: MK901 says whether that is wrong"
SETTLE, TRIES = 3.0, 3
LASTING = 15.0
"""Seconds after which a state is no longer one of passing."""
TOLD = 10
"""So many proxies in one bad state are told one by one, more as a number."""


@dataclass(frozen=True)
class ProxyFacts:
    """What was looked at: proxy_status, its summary, versions; each is a table of the function of that name."""

    status: pd.DataFrame
    proxies: pd.DataFrame
    versions: pd.DataFrame


def look(mesh: Mesh, namespace: str = "") -> ProxyFacts:
    """Read every istiod's view of its proxies, or of those of one namespace.

    A state that may only be passing is read again: NOT CONNECTED, and STALE unless it has been so for long.
    """
    for attempt in range(TRIES):
        status = proxy_status.proxy_status(mesh, namespace)
        passing = (status["state"] == "NOT CONNECTED") | (status["state"] == "STALE") & ~(status["age_s"] > LASTING)
        if attempt + 1 == TRIES or not passing.any():
            break
        time.sleep(SETTLE)
    return ProxyFacts(status, status_summary.summary(status), versions.versions(mesh, status))
