"""Runs that apply: their journal, and what they and `meshkit undo` refuse before anything is changed."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from meshkit.changes.journal import Journal
from meshkit.changes.plan import Plan
from meshkit.changes.planned import PlannedChange
from meshkit.cli.main import main
from meshkit.kube.cluster import Cluster
from meshkit.kube.mesh import Mesh
from meshkit.runs.apply_context import Live
from tests.support.api_server import ApiServer
from tests.support.objects import config_map, mesh_document, there

RUN = "20260301T120000Z-apply"


@pytest.fixture
def shop(api_server: ApiServer, tmp_path: Path, state: Path) -> Path:
    """The mesh file of one real API server."""
    path = tmp_path / "shop.yaml"
    path.write_text(yaml.safe_dump(mesh_document(api_server.kubeconfig)))
    return path


def run_folder(tmp_path: Path, **event: Any) -> Path:
    """Write what a killed run leaves: its first event."""
    folder = tmp_path / "runs" / "shop" / RUN
    folder.mkdir(parents=True)
    first = {"event": "run started", "mesh": "shop", "mode": "apply", "stages": ["12-rollback"], **event}
    (folder / "events.jsonl").write_text(json.dumps(first) + "\n")
    return folder


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str]:
    """Run the command line; return its exit code and what it said on stderr."""
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    return int(str(ended.value.code)), capsys.readouterr().err


def test_the_journal_of_a_run_is_its_evidence(mesh: Mesh, shop: Path, space: str) -> None:
    """Its lines without the path of this machine; its changes as a table, since the run began."""
    live = Live(mesh.spec, shop)
    assert live.open("", RUN) == RUN
    began = datetime.now(UTC)
    plan = Plan(mesh, "06 gateways")
    plan.apply("east", config_map("x", space), "the test")
    plan.carry_out("apply", journal=RUN)
    told = live.close(began)
    assert list(told.changes["object"]) == [f"ConfigMap {space}/x"]
    assert [stage for _, stage in told.marks] == ["06 gateways"]
    assert live.exit_code == 0
    assert str(shop) not in live.journal()
    assert [json.loads(line)["event"] for line in live.journal().splitlines()] == ["opened", "about", "begun", "done"]
    assert Journal.open("shop", RUN).header["mesh_file"] == str(shop)


def test_a_second_run_of_one_second_has_a_journal_of_its_own(mesh: Mesh, shop: Path) -> None:
    """A resumed one goes on in the first."""
    names = [Live(mesh.spec, shop).open(name, RUN) for name in ("", "", RUN)]
    assert names == [RUN, f"{RUN}-2", RUN]


@pytest.mark.parametrize("text", [None, "", "no JSON\n", "[]\n", "{}\n", '{"event": "cell started"}\n'])
@pytest.mark.parametrize("command", ["resume", "undo"])
def test_what_is_no_run_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, shop: Path, command: str, text: str | None
) -> None:
    """With what to name instead."""
    if text is not None:
        (tmp_path / "events.jsonl").write_text(text)
    words = ["run", shop, "--resume", tmp_path] if command == "resume" else ["undo", tmp_path, "--mode", "apply"]
    code, err = refused(capsys, *words, "--out", tmp_path / "out")
    assert code == 2
    assert f"{tmp_path}: not a run folder" in err
    assert not (tmp_path / "out").exists()


def test_a_run_that_changed_nothing_is_not_undone(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A plan has no journal."""
    code, err = refused(capsys, "undo", run_folder(tmp_path, mode="plan"), "--out", tmp_path / "out")
    assert (code, "a run in mode plan changed nothing" in err) == (2, True)


@pytest.mark.parametrize("command", ["resume", "undo"])
def test_a_journal_that_is_not_here_is_reported(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, shop: Path, command: str
) -> None:
    """A resume in a new one would be undone by half."""
    run = run_folder(tmp_path, journal=RUN)
    words = ["run", shop, "--resume", run] if command == "resume" else ["undo", run, "--mode", "apply"]
    code, err = refused(capsys, *words, "--out", tmp_path / "out")
    assert code == 2
    assert f"its journal {RUN} is not here" in err
    assert Journal.all_of("shop") == []


def test_a_run_of_another_mesh_is_not_resumed(capsys: pytest.CaptureFixture[str], tmp_path: Path, shop: Path) -> None:
    """Both are named."""
    run = run_folder(tmp_path, mesh="other", journal=RUN)
    code, err = refused(capsys, "run", shop, "--resume", run, "--out", tmp_path / "out")
    assert (code, "that run was of mesh other, not of shop" in err) == (2, True)


def test_a_store_that_cannot_be_written_stops_a_run_before_its_first_file(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is to be undone could not be noted."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    code, err = refused(capsys, "run", shop, "--mode", "apply", "--only", "06", "--out", tmp_path / "out")
    assert code == 2
    assert "cannot create the private folder: Not a directory" in err
    assert "set XDG_STATE_HOME" in err
    assert not (tmp_path / "out").exists()


def test_the_journal_of_another_cluster_is_not_undone(  # noqa: PLR0917
    capsys: pytest.CaptureFixture[str], tmp_path: Path, shop: Path, east: Cluster, mesh: Mesh, space: str
) -> None:
    """Its name is the same, its UID is not: exit code 1, and what is there stays."""
    plan = Plan(mesh, "06 gateways")
    plan.apply("east", config_map("x", space), "the test")
    plan.carry_out("apply", journal=RUN)
    Journal.open("shop", RUN).about(clusters={"east": "another-uid"}, mesh_file=str(shop))
    run = run_folder(tmp_path, journal=RUN)
    code, err = refused(capsys, "undo", run, "--mode", "apply", "--out", tmp_path / "out")
    assert code == 1, err
    assert there(east, config_map("x", space))


HOLDER = """
import sys
from meshkit.changes.journal import exclusively
with exclusively([sys.argv[1]]):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_mesh_that_another_process_changes_is_left_alone(east: Cluster, mesh: Mesh, space: str) -> None:
    """Nothing is noted and nothing changed; a plan is no change, and is shown."""
    plan = Plan(mesh, "06 gateways")
    plan.apply("east", config_map("x", space), "the test")
    command = [sys.executable, "-c", HOLDER, east.uid()]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout
        assert holder.stdout.readline() == b"held\n"
        assert len(plan.carry_out("plan")) == 1
        with pytest.raises(Exception, match="another meshkit process is changing this mesh") as caught:
            plan.carry_out("apply", journal=RUN)
        assert getattr(caught.value, "exit_code", 0) == 4
        holder.kill()
    assert not there(east, config_map("x", space))
    assert Journal.all_of("shop") == []


def carried_out(mesh: Mesh, *manifests: Any, stage: str = "06 gateways") -> list[PlannedChange]:
    """Plan objects, apply them in the run's journal, and return what was planned."""
    plan = Plan(mesh, stage)
    for manifest in manifests:
        plan.apply("east", manifest, "the test")
    planned = plan.planned()
    plan.carry_out("apply", journal=RUN)
    return planned


def hows(live: Live, began: datetime, planned: list[PlannedChange]) -> list[tuple[str, str]]:
    """Return the differences of a run as its record has them."""
    return [(one.change.object.rpartition("/")[2], one.how.value) for one in live.differences(began, planned)]


def test_what_was_done_is_held_against_the_plan_of_the_run(mesh: Mesh, shop: Path, space: str) -> None:
    """Its own, where none was approved; what an earlier part of the run did is no part of it."""
    live = Live(mesh.spec, shop)
    live.open("", RUN)
    earlier = carried_out(mesh, config_map("x", space, a="1"))
    began = datetime.now(UTC)
    planned = carried_out(mesh, config_map("x", space, a="2"), config_map("y", space))
    assert hows(live, began, planned) == []
    assert hows(live, began, earlier + planned[1:]) == [("x", "done, not planned"), ("x", "planned, not done")]
    other = [replace(planned[0], digest="other"), replace(planned[1], digest="other")]
    assert hows(live, began, other) == [("y", "done with another diff")]


def test_a_resumed_run_is_held_against_the_whole_approved_plan(mesh: Mesh, shop: Path, space: str) -> None:
    """What was done before it stopped counts; so does what is still to do."""
    live = Live(mesh.spec, shop)
    plan = Plan(mesh, "06 gateways")
    for name in ("x", "y", "z"):
        plan.apply("east", config_map(name, space), "the test")
    live.open("", RUN, plan.planned())
    carried_out(mesh, config_map("x", space))
    resumed = Live(mesh.spec, shop)
    resumed.open(RUN, RUN, plan.planned())
    carried_out(mesh, config_map("y", space))
    assert hows(resumed, datetime.now(UTC), []) == [("z", "planned, not done")]


def test_an_undo_is_held_against_what_it_undid(mesh: Mesh, shop: Path, space: str) -> None:
    """Change by change, though several may be of one object."""
    carried_out(mesh, config_map("x", space, a="1"))
    carried_out(mesh, config_map("x", space, a="2"), config_map("y", space))
    live = Live(mesh.spec, shop)
    live.open(RUN, RUN)
    began, book = datetime.now(UTC), Journal.open("shop", RUN)
    plan = Plan(mesh, "12 rollback")
    for entry in reversed(book.entries):
        plan.undo(book, entry, "the test")
    planned = plan.planned()
    plan.carry_out("apply", journal=RUN)
    assert [one.action for one in planned] == ["undo create", "undo update", "undo create"]
    assert hows(live, began, planned) == []
    assert hows(live, began, planned[1:]) == [("y", "done, not planned")]
