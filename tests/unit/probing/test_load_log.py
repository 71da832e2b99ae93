"""The load follower's reading: lines, repeats after a broken connection, what cannot be observed."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from typing import Any

import pytest

from meshkit.kube.mesh import Mesh
from meshkit.probing.load_log import Follower, _Position, parse
from meshkit.probing.request_log import NOT_OBSERVED
from meshkit.spec import MeshSpec
from tests.support.api_server import ApiServer

LINE = {
    "time": "2026-11-24T00:06:11.998947752Z", "url": "http://httpbin", "status": 200, "seconds": 0.04,
    "answeredBy": "httpbin-1", "error": "",
}  # fmt: skip


def mesh(api_server: ApiServer, load: str) -> Mesh:
    """Return a mesh of one real API server, and of one that is not there."""
    clusters = [
        {"name": "east", "context": "admin", "network": "n1", "kubeconfig": str(api_server.kubeconfig)},
        {"name": "west", "context": "stranger", "network": "n2", "kubeconfig": str(api_server.kubeconfig)},
    ]
    spec = MeshSpec.parse({"clusters": clusters, "probe": {"namespace": "default", "load": load}}, where="test")
    return Mesh.open(spec, timeout=2)


def test_a_line_becomes_a_request() -> None:
    """With Go's nine digits of a second; a cluster whose clock leads is brought back."""
    found = parse(json.dumps(LINE), "east", "load-1", offset=2.0)
    assert found is not None
    assert (found.time, found.status, found.answered_by) == (pytest.approx(1795478769.998947), 200, "httpbin-1")


@pytest.mark.parametrize(
    "text", ["", "not JSON", "[1]", "3", '{"time": "yesterday"}', json.dumps({**LINE, "status": None}), "{}"]
)
def test_another_line_is_no_request(text: str) -> None:
    """It is counted apart, and nothing breaks."""
    assert parse(text, "east", "load-1") is None


def test_what_a_new_reading_repeats_is_counted_once() -> None:
    """The API server knows whole seconds only: all lines of the last one come again, in their order."""
    lines = [f"2026-11-24T00:00:0{n // 4}.{n % 4}00000000Z {n}" for n in range(12)]
    twice = "2026-11-24T00:00:01.300000000Z 7"  # a second line of the same stamp and words is another request
    lines.insert(8, twice)
    position = _Position("2026-11-24T00:00:00+00:00")
    seen = [line for line in lines[:9] if position.is_new(line, Counter())]
    again = position.recent.copy()
    since = [line for line in lines if line[:19] >= position.stamp[:19]]
    seen += [line for line in since if position.is_new(line, again)]
    assert seen == lines
    assert len(position.recent) == 4


def test_what_cannot_be_observed_is_said_not_passed(api_server: ApiServer) -> None:
    """No load in one cluster, a refused credential in the other: gaps, a reason, no good second."""
    follower = Follower(mesh(api_server, "load")).start()
    time.sleep(3.5)
    seen = follower.stop()
    assert (seen.totals["sent"], seen.totals["seconds"], seen.totals["pods"]) == (0, 0, 0)
    assert seen.totals["not_observed"] >= 2
    assert set(seen.requests["answered_in"]) == {NOT_OBSERVED}
    assert list(seen.totals["why"]) == ["west"]
    assert seen.failed.empty


def test_without_a_load_nothing_is_asked(api_server: ApiServer) -> None:
    """And the reason is told."""
    before = threading.active_count()
    follower = Follower(mesh(api_server, "")).start()
    assert threading.active_count() == before
    assert follower.stop().totals["why"] == {"": "the mesh file names no probe.load"}


def test_a_load_that_is_nowhere_is_told(api_server: ApiServer) -> None:
    """Where every cluster answers and none has it."""
    spec: dict[str, Any] = mesh(api_server, "nothing").spec.model_dump(by_alias=True)
    spec["clusters"] = spec["clusters"][:1]
    follower = Follower(Mesh.open(MeshSpec.parse(spec, where="test"))).start()
    time.sleep(1.5)
    assert "no pod of nothing" in follower.stop().totals["why"][""]
