"""Which log lines are about a pair, and what is shown of a log that cannot be read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from meshkit import Snapshot
from meshkit.istio.control_plane import logs
from meshkit.istio.control_plane.istiods_and_proxies import Istiod
from meshkit.istio.control_plane.logs import Line
from meshkit.kube.mesh import Mesh, Unknown

SNAPSHOT = Path(__file__).parents[3] / "fixtures/snapshots/helm-healthy.json.gz"


@pytest.fixture
def mesh(monkeypatch: pytest.MonkeyPatch) -> Mesh:
    """Two clusters with an istiod each: that of east speaks, that of west cannot be read."""
    found = Snapshot.load(SNAPSHOT).mesh
    spoken = [f"{n} retrying west at 10.0.0.9:6443" for n in range(logs.LINES)] + ["something else"]

    def last_lines(_: Mesh, cluster: Any) -> list[Any]:
        pod = Istiod(cluster, "istio-system", f"istiod-{cluster.name}", "", 15014, {})
        return [(pod, spoken if cluster.name == "east" else Unknown("it refuses us"))]

    monkeypatch.setattr(logs, "last_lines", last_lines)
    return found


def test_the_last_lines_that_name_a_text_are_kept(mesh: Mesh) -> None:
    """No more than some, and no other line."""
    lines = logs.naming(mesh, ["east"], ["10.0.0.9:6443"])
    assert len(lines) == logs.MOST
    assert lines[-1] == Line("east", "istiod-east", f"{logs.LINES - 1} retrying west at 10.0.0.9:6443")
    assert logs.naming(mesh, ["east"], ["north"]) == []


def test_a_log_that_cannot_be_read_says_why(mesh: Mesh) -> None:
    """It is no quiet log."""
    assert logs.naming(mesh, ["west"], ["east"]) == [Line("west", "istiod-west", reason="it refuses us")]
