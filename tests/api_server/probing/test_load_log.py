"""The load's log where a real API server has no load, or none that can be observed."""

from __future__ import annotations

import threading
import time
from typing import Any

from meshkit.kube.mesh import Mesh
from meshkit.probing.load_log import Follower
from meshkit.probing.request_log import NOT_OBSERVED
from meshkit.spec import MeshSpec
from tests.support.api_server import ApiServer


def mesh(api_server: ApiServer, load: str) -> Mesh:
    """Return a mesh of one real API server, and of one that is not there."""
    clusters = [
        {"name": "east", "context": "admin", "network": "n1", "kubeconfig": str(api_server.kubeconfig)},
        {"name": "west", "context": "stranger", "network": "n2", "kubeconfig": str(api_server.kubeconfig)},
    ]
    spec = MeshSpec.parse({"clusters": clusters, "probe": {"namespace": "default", "load": load}}, where="test")
    return Mesh.open(spec, timeout=2)


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
    """And the reason is reported."""
    before = threading.active_count()
    follower = Follower(mesh(api_server, "")).start()
    assert threading.active_count() == before
    assert follower.stop().totals["why"] == {"": "the mesh file names no probe.load"}


def test_a_load_that_is_nowhere_is_reported(api_server: ApiServer) -> None:
    """Where every cluster answers and none has it."""
    spec: dict[str, Any] = mesh(api_server, "nothing").spec.model_dump(by_alias=True)
    spec["clusters"] = spec["clusters"][:1]
    follower = Follower(Mesh.open(MeshSpec.parse(spec, where="test"))).start()
    time.sleep(1.5)
    assert "no pod of nothing" in follower.stop().totals["why"][""]
