"""The proxy facts of all clusters in one reading; a transient state is read again."""

from __future__ import annotations

import time
from dataclasses import dataclass

import pandas as pd

from meshkit.istio.control_plane import versions
from meshkit.istio.proxies import proxy_status, status_summary
from meshkit.kube.mesh import Mesh

NO_PROXY = "no proxy: see MK901 on whether that is wrong"
SETTLE, TRIES = 3.0, 3
LASTING = 15.0
"""Seconds after which a STALE state is no longer transient."""
MAX_LISTED = 10
"""Up to this many proxies in one bad state are listed one by one, more as a number."""


@dataclass(frozen=True)
class ProxyFacts:
    """The tables of `proxy_status.proxy_status`, `status_summary.summary` and `versions.versions`."""

    status: pd.DataFrame
    proxies: pd.DataFrame
    versions: pd.DataFrame


def read_versions(mesh: Mesh) -> pd.DataFrame:
    """Return which versions run in each cluster, of proxies, too: `versions.versions`."""
    return versions.versions(mesh, proxy_status.proxy_status(mesh))


def look(mesh: Mesh, namespace: str = "") -> ProxyFacts:
    """Read every istiod's view of its proxies, or of those of one namespace, and what runs where."""
    status = settled(mesh, namespace)
    return facts(status, versions.versions(mesh, status))


def facts(status: pd.DataFrame, found: pd.DataFrame) -> ProxyFacts:
    """Return the facts of a table of proxies and one of versions."""
    return ProxyFacts(status, status_summary.summary(status), found)


def settled(mesh: Mesh, namespace: str = "") -> pd.DataFrame:
    """Return `proxy_status` of every proxy, or of those of one namespace, once it has settled.

    A state that may be transient is read again: NOT CONNECTED, and STALE unless it has lasted for long.
    """
    for _ in range(TRIES - 1):
        status = proxy_status.proxy_status(mesh, namespace)
        transient = (status["state"] == "NOT CONNECTED") | (status["state"] == "STALE") & ~(status["age_s"] > LASTING)
        if not transient.any():
            return status
        time.sleep(SETTLE)
        mesh = mesh.fresh
    return proxy_status.proxy_status(mesh, namespace)
