"""What says that it only reads changes nothing: every object has the version that it had."""

from __future__ import annotations

import pytest

from tests.e2e.checks.test_faults import meshkit
from tests.support.lab import Lab
from tests.support.sameness import versions

pytestmark = pytest.mark.lab


@pytest.mark.parametrize("command", [["check"], ["proxies"], ["pairs", "--samples", "0"]], ids=lambda words: words[0])
def test_a_reading_command_leaves_every_object_as_it_was(meshed_lab: Lab, command: list[str]) -> None:
    """Of both clusters; what beats by itself is left out. The mesh is whole, so the exit code is 0."""
    before = versions(meshed_lab)
    done = meshkit(*command, str(meshed_lab.mesh_file))
    after = versions(meshed_lab)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(before) > 300
    assert {key: (before.get(key), after.get(key)) for key in before.keys() ^ after.keys()} == {}
    assert {key: (before[key], after[key]) for key in before if before[key] != after[key]} == {}


def test_a_command_that_makes_services_is_noticed(meshed_lab: Lab) -> None:
    """Else the test above could not fail: pairs with samples says that it makes Services, and takes them away."""
    before = versions(meshed_lab)
    assert meshkit("pairs", str(meshed_lab.mesh_file), "--samples", "4").returncode == 0
    assert versions(meshed_lab).keys() == before.keys()
    assert "Creates Services" in " ".join(meshkit("pairs", "--help").stdout.split())
