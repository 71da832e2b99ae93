"""What Prometheus counted of the calls of stage 08 (MK815), where the mesh file names one for the client's cluster."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

import pandas as pd

from meshkit.checks.finding import Finding, Verdict
from meshkit.checks.question import Question, arrow
from meshkit.errors import UnreachableError
from meshkit.istio.control_plane import prometheus
from meshkit.kube.mesh import DaemonThreads, Mesh, Unknown, gather
from meshkit.probing.pair_probe import CALLS, ProbeSession
from meshkit.tables import Row, Table, text

PAIRS: Final = Table(
    "pairs",
    "Every pair tried alone",
    {
        **CALLS.columns,
        "prometheus": text("requests that the Prometheus of the client's cluster counted; empty: not known"),
        "prometheus_by": text("the metric, or why there is no number; empty: it was not asked"),
    },
    key=("client", "server"),
    show=("client", "server", "statuses", "answered_by", "endpoints", "client_counted", "server_counted", "error"),
    compare=("statuses", "endpoints", "error"),
)
PATIENCE: Final = 45.0
INTERVAL: Final = 1.0
CHECK: Final = "Prometheus counted the calls"
CURE: Final = f"does it scrape the client's sidecar, more often than every {PATIENCE:g} s, and keep {prometheus.ISTIO}?"


def ask(probing: ProbeSession, calls: pd.DataFrame) -> pd.DataFrame:
    """Return a table of calls with what the Prometheus of each client's cluster has counted of them.

    Asked while the probe's Services are there: with a Service its proxies' counters go, and their series end. Waits for
    scrapes, up to `PATIENCE` for all pairs together; not at all for clusters without one and for pairs that failed.
    """
    urls = _urls(probing.mesh)
    rows = {index: row for index, row in calls.to_dict("index").items() if urls[row["client"]] and not row["error"]}
    until = time.monotonic() + PATIENCE

    def counted(row: Row) -> prometheus.Counted:
        url, client = urls[row["client"]], row["client"]
        source = client if list(urls.values()).count(url) > 1 else ""
        place = (probing.service(row["server"]), probing.mesh.spec.probe.namespace)
        while True:
            found = prometheus.requests_counted(url, *place, source=source)
            if found.value is not None and (found.value >= row["sent"] or time.monotonic() > until):
                return found
            if time.monotonic() > until:
                raise UnreachableError(f"no series of the calls after {PATIENCE:g} s")
            time.sleep(INTERVAL)

    answers = gather(counted, rows.values(), deadline=2 * PATIENCE, executor=DaemonThreads(16))
    table = calls.assign(prometheus="", prometheus_by="").astype({"prometheus": "str", "prometheus_by": "str"})
    for index, found in zip(rows, answers, strict=True):
        told = ["", found.reason] if isinstance(found, Unknown) else [str(found.value), found.metric]
        table.loc[index, ["prometheus", "prometheus_by"]] = told
    return table


def _urls(mesh: Mesh) -> dict[str, str]:
    return {cluster.name: cluster.prometheus.rstrip("/") for cluster in mesh.spec.clusters}


def check(mesh: Mesh, calls: pd.DataFrame) -> Iterator[Finding]:
    """MK815: the Prometheus of the client's cluster has counted at least the calls that were sent.

    Fewer is a warning, no failure: that the calls arrived is proven by MK811 and MK814, and a Prometheus that scrapes
    less often than we wait looks like one that lost some. No number at all is unknown. Of pairs whose calls failed
    nothing is found here (MK811 says it), and a cluster without a Prometheus is skipped, once.
    """
    for name, url in _urls(mesh).items():
        if not url:
            ask = Question("MK815", CHECK, name, "at least the calls sent")
            yield ask.answer(Verdict.SKIPPED, "the mesh file names no Prometheus for it")
    for row in calls.to_dict("records"):
        if row["prometheus_by"]:
            yield _check_pair(row)


def _check_pair(row: Row) -> Finding:
    ask = Question("MK815", CHECK, arrow(row["client"], row["server"]), f"at least {row['sent']}")
    if not row["prometheus"]:
        return ask.unknown(f"Prometheus of {row['client']}: {row['prometheus_by']}", CURE)
    observed = f"{row['prometheus']} by {row['prometheus_by']}"
    return ask.judge(int(row["prometheus"]) >= row["sent"], observed, CURE, otherwise=Verdict.WARN)
