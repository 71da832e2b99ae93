"""The same run again with one cluster more: a live mesh of one becomes one of two, a third joins, and leaves again.

Only what is new is planned; every ordered pair answers alone; the undo of the later run is the third one's way out.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from meshlab.layout import Settings, sites

from tests.e2e.runs.test_migration import FORGIVEN, SMALL, Done, mesh_file, meshkit
from tests.support.lab import Lab

pytestmark = [pytest.mark.lab, pytest.mark.drill, pytest.mark.timeout(1800)]

TWO, NEW = ("east", "west"), "north"
NAMES = (*TWO, NEW)
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
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of journals and runs."""
    return tmp_path_factory.mktemp("state")


def of_two(lab: Lab) -> str:
    """Return a mesh file that does not name the third cluster."""
    document = yaml.safe_load(Path(mesh_file(lab)).read_text())
    document["clusters"] = [entry for entry in document["clusters"] if entry["name"] in TWO]
    path = lab.home / "two.yaml"
    path.write_text(yaml.safe_dump(document))
    return str(path)


@pytest.fixture(scope="module")
def two(lab: Lab, state: Path) -> Done:
    """The run that made a mesh of two."""
    return meshkit(state, "run", of_two(lab), "--mode", "apply", *SMALL)


@pytest.fixture(scope="module")
def joined(lab: Lab, state: Path, two: Done) -> Done:
    """The run by which the third one joined."""
    assert two.code == 0, two.said[-6000:]
    return meshkit(state, "run", mesh_file(lab), "--mode", "apply", *SMALL)


def synced(lab: Lab, name: str) -> set[str]:
    """Return the clusters that an istiod watches, as istioctl says it."""
    rows = [line.split() for line in lab.istioctl(f"lab-{name}", "remote-clusters").splitlines()[1:]]
    return {row[0] for row in rows if row[2] == "synced"} - {name}


def lost(run: Done) -> float:
    """Return which part of the load's requests failed during a run."""
    requests = run.record["requests"]
    print({s["stage"]: s["seconds"] for s in run.record["stages"]}, requests)
    assert requests["sent"] > 1000
    return float(requests["failed"] / requests["sent"])


def test_ten_stages_pass_with_two_and_with_three(lab: Lab, two: Done, joined: Done) -> None:
    """Under load."""
    assert joined.code == 0, joined.said[-6000:]
    assert [site.name for site in sites(Settings.load(lab.home).clusters)] == list(NAMES)
    for run in (two, joined):
        assert [s["status"] for s in run.record["stages"]] == ["passed"] * 10
        assert lost(run) <= FORGIVEN


def test_only_what_is_new_is_planned(joined: Done) -> None:
    """Changes in the third cluster, and those by which the two others read it."""
    rows = [row for plan in joined.plans() for row in plan.to_dict("records")]
    assert {row["cluster"] for row in rows} == {*NAMES}
    assert [row for row in rows if row["cluster"] != NEW and NEW not in row["object"]] == []


def test_all_six_ordered_pairs_answer_alone(joined: Done) -> None:
    """In mutual TLS, from the cluster that was asked."""
    calls = joined.table("pairs")
    across = calls[calls["client"] != calls["server"]]
    assert set(zip(across["client"], across["server"], strict=True)) == PAIRS
    assert (across["answered"] == across["sent"]).all(), across.to_dict("records")
    assert (across["sent"] > 0).all()
    assert list(across["answered_in"]) == list(across["server"])


def test_istioctl_agrees(lab: Lab, joined: Done) -> None:
    """Each istiod watches the two others."""
    assert joined.code == 0
    assert {name: synced(lab, name) for name in NAMES} == {name: {*NAMES} - {name} for name in NAMES}


def test_the_third_leaves_and_the_two_go_on(lab: Lab, state: Path, joined: Done) -> None:
    """The undo of its run: nobody watches it, nothing of Istio is left in it, and the two need no change."""
    undone = meshkit(state, "undo", str(joined.folder), "--mode", "apply")
    assert undone.code == 0, undone.said[-6000:]
    assert lost(undone) <= FORGIVEN
    assert {name: synced(lab, name) for name in TWO} == {"east": {"west"}, "west": {"east"}}
    assert lab.kubectl(f"lab-{NEW}", "get", "deployments,secrets", "-n", "istio-system", "-o", "name") == ""
    again = meshkit(state, "run", of_two(lab), *SMALL)
    assert again.code == 0, again.said[-6000:]
    assert sum(map(len, again.plans())) == 0
