"""Prometheus's word on the calls: a real one that scrapes real sidecars, one that scrapes nothing, one that is gone."""

from __future__ import annotations

import contextlib
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from meshkit.checks import prometheus as stage
from meshkit.checks.finding import Finding, Verdict
from meshkit.kube.mesh import Mesh
from meshkit.spec import MeshSpec
from meshkit.stages import verify
from tests.support.api_server import free_port
from tests.support.lab import Lab
from tests.support.prometheus import prometheus

pytestmark = pytest.mark.lab


@contextlib.contextmanager
def forwarded(lab: Lab, context: str, app: str, port: int) -> Iterator[str]:
    """Forward a loopback port to a pod of an app, and give host and port."""
    pod = lab.kubectl(context, "get", "pod", "-n", "sample", "-l", f"app={app}", "-o", "name").split()[0]
    command, env = lab.command("kubectl", "--context", context, "port-forward", "-n", "sample", pod, f":{port}")
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as process:
        try:
            said = process.stdout.readline() if process.stdout else ""
            match = re.search(r"127\.0\.0\.1:\d+", said)
            assert match, f"kubectl port-forward said {said!r}"
            yield match[0]
        finally:
            process.terminate()


def mesh(lab: Lab, **urls: str) -> Mesh:
    """Open the lab's mesh with the Prometheus of some of its clusters."""
    spec = MeshSpec.load(lab.mesh_file)
    clusters = [cluster.model_copy(update={"prometheus": urls.get(cluster.name, "")}) for cluster in spec.clusters]
    return Mesh.open(spec.model_copy(update={"clusters": clusters}))


def words(opened: Mesh, calls: pd.DataFrame) -> dict[str, Finding]:
    """Return MK815 by subject."""
    return {finding.subject: finding for finding in stage.check(opened, calls)}


def test_prometheus_counts_what_east_sent_and_west_which_has_none_is_skipped(meshed_lab: Lab, tmp_path: Path) -> None:
    """Each of east's pairs passes, with a number that Envoy agrees with and the metric that it is of."""
    with forwarded(meshed_lab, "lab-east", "sleep", 15090) as sidecar, \
         prometheus(tmp_path, [sidecar], "/stats/prometheus") as url:  # fmt: skip
        opened = mesh(meshed_lab, east=url)
        calls = verify.try_pairs(opened, 5)
    found = words(opened, calls)
    assert {subject: finding.verdict for subject, finding in found.items()} == {
        "east → east": Verdict.PASS,
        "east → west": Verdict.PASS,
        "west": Verdict.SKIPPED,
    }
    for row in calls[calls["client"] == "east"].to_dict("records"):
        # The requests that waited for the Service to arrive come on top of those counted as calls.
        assert row["sent"] == row["client_counted"] == 10 <= int(row["prometheus"]) <= 60
        assert row["prometheus_by"] == "envoy_cluster_upstream_rq_total"
    assert set(calls[calls["client"] == "west"]["prometheus_by"]) == {""}


def test_what_has_no_word_is_unknown_and_costs_no_more_than_the_patience(
    meshed_lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Prometheus that scrapes nothing is waited for; one that refuses the connection is not."""
    monkeypatch.setattr(stage, "PATIENCE", 3.0)
    with prometheus(tmp_path) as idle:
        opened = mesh(meshed_lab, east=idle, west=f"http://127.0.0.1:{free_port()}")
        began = time.monotonic()
        calls = verify.try_pairs(opened, 2)
    assert time.monotonic() - began < 40
    found = words(opened, calls)
    assert {finding.verdict for finding in found.values()} == {Verdict.UNKNOWN}
    assert found["east → west"].observed == "Prometheus of east: no series of the calls after 3 s"
    assert found["west → east"].observed == "Prometheus of west: it refuses the connection"


def test_one_prometheus_for_both_clusters_is_not_read_where_it_cannot_tell_them_apart(
    meshed_lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Envoy's own metric has no source: west's calls would pass on what east has sent."""
    monkeypatch.setattr(stage, "PATIENCE", 3.0)
    with forwarded(meshed_lab, "lab-east", "sleep", 15090) as sidecar, \
         prometheus(tmp_path, [sidecar], "/stats/prometheus") as url:  # fmt: skip
        opened = mesh(meshed_lab, east=url, west=url)
        calls = verify.try_pairs(opened, 2)
    assert {finding.verdict for finding in words(opened, calls).values()} == {Verdict.UNKNOWN}


def test_fewer_than_were_sent_is_a_warning(meshed_lab: Lab) -> None:
    """The calls themselves are proven by others; pairs that failed have no finding here."""
    rows = [("east", "west", 10, "9", "istio_requests_total"), ("east", "east", 1, "", "")]
    calls = pd.DataFrame(rows, columns=["client", "server", "sent", "prometheus", "prometheus_by"])
    found = words(mesh(meshed_lab, east="http://e", west="http://w"), calls)
    assert list(found) == ["east → west"]
    assert (found["east → west"].verdict, found["east → west"].observed) == (Verdict.WARN, "9 by istio_requests_total")
