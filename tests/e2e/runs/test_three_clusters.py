"""The same run on three clusters: a live mesh of one becomes one of three, whose every ordered pair answers alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from meshlab.layout import Settings, sites

from tests.e2e.runs.test_migration import FORGIVEN, SMALL, Done, mesh_file, meshkit
from tests.support.lab import Lab

pytestmark = [pytest.mark.lab, pytest.mark.drill, pytest.mark.timeout(1200)]

NAMES = ("east", "west", "north")
PAIRS = {(client, server) for client in NAMES for server in NAMES if client != server}


@pytest.fixture(scope="module")
def lab(short_folder: Path) -> Iterator[Lab]:
    """East alone, live, under load; west and north empty."""
    made = Lab(short_folder / "three")
    try:
        made.start("single", clusters=3)
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="module")
def migrated(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Done:
    """The run that applied everything."""
    return meshkit(tmp_path_factory.mktemp("state"), "run", mesh_file(lab), "--mode", "apply", *SMALL)


def test_ten_stages_pass(lab: Lab, migrated: Done) -> None:
    """Under load, as with two."""
    assert migrated.code == 0, migrated.said[-6000:]
    assert [site.name for site in sites(Settings.load(lab.home).clusters)] == list(NAMES)
    assert [s["status"] for s in migrated.record["stages"]] == ["passed"] * 10
    requests = migrated.record["requests"]
    print({s["stage"]: s["seconds"] for s in migrated.record["stages"]}, requests)
    assert requests["sent"] > 1000
    assert requests["failed"] <= FORGIVEN * requests["sent"]


def test_all_six_ordered_pairs_answer_alone(migrated: Done) -> None:
    """In mutual TLS, from the cluster that was asked."""
    calls = migrated.table("pairs")
    across = calls[calls["client"] != calls["server"]]
    assert set(zip(across["client"], across["server"], strict=True)) == PAIRS
    assert (across["answered"] == across["sent"]).all(), across.to_dict("records")
    assert (across["sent"] > 0).all()
    assert list(across["answered_in"]) == list(across["server"])


def test_istioctl_agrees(lab: Lab, migrated: Done) -> None:
    """Each istiod watches the two others."""
    assert migrated.code == 0
    for name in NAMES:
        rows = [line.split() for line in lab.istioctl(f"lab-{name}", "remote-clusters").splitlines()[1:]]
        assert {row[0] for row in rows if row[2] == "synced"} == set(NAMES) - {name}
