"""The load follower on the real mesh, with kubectl as oracle: rollouts, an outage on purpose, a hung API server."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from subprocess import PIPE, Popen

import psutil
import pytest

from meshkit.kube.mesh import Mesh
from meshkit.probing.load_log import Follower, Requests
from tests.support.lab import Lab, until

pytestmark = pytest.mark.lab

EAST = "lab-east"
SAMPLE = ("-n", "sample")


def load_pods(lab: Lab) -> set[str]:
    """Return the names of the load's pods that exist."""
    text = lab.kubectl(EAST, *SAMPLE, "get", "pods", "-l", "app=load", "-o", "jsonpath={.items[*].metadata.name}")
    return set(text.split())


@contextmanager
def logged(lab: Lab, pod: str) -> Iterator[Popen[str]]:
    """Follow a pod's log with kubectl, until the pod or the test ends."""
    command, env = lab.command("kubectl", "--context", EAST, *SAMPLE, "logs", "-f", pod, "-c", "load", "--since=30s")
    with Popen(command, env=env, stdout=PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def lines(text: str, follower: Follower) -> list[dict[str, object]]:
    """Return the requests in a log that began while the follower followed."""
    found = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    return [r for r in found if follower._begin <= datetime.fromisoformat(r["time"]).timestamp() <= follower._end]


def scaled(lab: Lab, replicas: int) -> None:
    """Scale httpbin in both clusters."""
    for context in (EAST, "lab-west"):
        lab.kubectl(context, *SAMPLE, "scale", "deployment/httpbin", f"--replicas={replicas}")


def served(lab: Lab) -> None:
    """Wait until httpbin is there again in both clusters."""
    for context in (EAST, "lab-west"):
        lab.kubectl(context, *SAMPLE, "rollout", "status", "deployment/httpbin", "--timeout=60s")


def test_a_rollout_of_the_load_itself_loses_no_line_and_counts_none_twice(meshed_lab: Lab) -> None:
    """As many requests as the old pod and the new one logged, by kubectl's word."""
    (old,) = load_pods(meshed_lab)
    with logged(meshed_lab, old) as oracle:
        follower = Follower(Mesh.open(meshed_lab.mesh_file)).start()
        time.sleep(2)
        meshed_lab.kubectl(EAST, *SAMPLE, "rollout", "restart", "deployment/load", "deployment/httpbin")
        meshed_lab.kubectl(EAST, *SAMPLE, "rollout", "status", "deployment/load", "--timeout=60s")
        (new,) = until(lambda: load_pods(meshed_lab) - {old}, "the new pod of the load")
        until(lambda: old not in load_pods(meshed_lab), "the old pod is gone")
        served(meshed_lab)
        time.sleep(2)
        seen = follower.stop()
        first, _ = oracle.communicate(timeout=30)
    second = meshed_lab.kubectl(EAST, *SAMPLE, "logs", new, "-c", "load")
    expected = [*lines(first, follower), *lines(second, follower)]
    assert seen.totals["sent"] == len(expected)
    assert seen.totals["failed"] == sum(r["status"] != 200 for r in expected)
    assert (seen.totals["pods"], seen.totals["unreadable"], seen.totals["why"]) == (2, 0, {})
    assert not any("?" in text for text in seen.requests["answered_in"])


def test_an_outage_of_three_seconds_is_seen_as_failures(meshed_lab: Lab) -> None:
    """Each of them by itself, in the seconds in which it was made; none before."""
    follower = Follower(Mesh.open(meshed_lab.mesh_file)).start()
    try:
        time.sleep(3)
        begun = time.time()
        scaled(meshed_lab, 0)
        time.sleep(3)
    finally:
        scaled(meshed_lab, 1)
        served(meshed_lab)
    time.sleep(2)
    seen: Requests = follower.stop()
    assert 20 <= seen.totals["failed"] < seen.totals["sent"]
    assert len(seen.failed) == seen.requests["failed"].sum() == seen.totals["failed"]
    assert seen.failed["time"].min().timestamp() >= begun - 5  # one that hung may have begun before
    assert set(seen.failed["status"]) <= {0, 502, 503, 504}


def test_an_api_server_that_hangs_costs_no_line_and_doubles_none(meshed_lab: Lab) -> None:
    """It stands still for longer than the follower waits for a line; afterwards nothing is missing."""
    daemons = meshed_lab.status()
    chosen = daemons[(daemons["component"] == "kube-apiserver") & (daemons["cluster"] == "east")]
    server = psutil.Process(int(chosen["pid"].iloc[0]))
    (pod,) = load_pods(meshed_lab)
    follower = Follower(Mesh.open(meshed_lab.mesh_file, timeout=4)).start()
    time.sleep(3)
    server.suspend()
    try:
        time.sleep(9)
    finally:
        server.resume()
    time.sleep(8)
    seen = follower.stop()
    text = meshed_lab.kubectl(EAST, *SAMPLE, "logs", pod, "-c", "load", "--since=60s")
    assert seen.totals["sent"] == len(lines(text, follower))
    assert (seen.totals["not_observed"], seen.totals["pods"], seen.totals["why"]) == (0, 1, {})
