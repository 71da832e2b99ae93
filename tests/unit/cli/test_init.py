"""`meshkit init`, and the commands that need no mesh file: what they are given, what they say, and how they end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from meshkit.kube import mesh
from meshkit.spec import MeshSpec
from tests.support.furnished import Contexts, empty, furnished
from tests.unit.cli.test_main import call

BOTH = ("--context", "one", "--context", "two")


@pytest.fixture
def two(contexts: Contexts, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two contexts of a joined mesh, from whose pods nothing can be tried."""
    monkeypatch.setattr(mesh, "mistakes_are_raised", False)
    contexts(one=furnished("east"), two=furnished("west"))


@pytest.mark.usefixtures("two")
def test_init_makes_a_folder_and_says_what_next(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The mesh file's path on stdout, for scripts; talk on stderr."""
    code, out, err = call(capsys, "init", str(tmp_path / "shop"), *BOTH)
    mesh_file = tmp_path / "shop" / "mesh.yaml"
    assert (code, out) == (0, f"{mesh_file}\n")
    assert [one.name for one in MeshSpec.load(mesh_file).clusters] == ["east", "west"]
    undecided = mesh_file.read_text().count("# TO DECIDE: ")
    assert f"decide the {undecided} fields marked TO DECIDE" in err
    for command in (
        f"meshkit check {mesh_file}",
        f"meshkit run {mesh_file}",
        f"jupyter lab {tmp_path / 'shop/notebooks'}",
    ):
        assert command in err


@pytest.mark.usefixtures("two")
def test_init_overwrites_nothing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A second time it is refused, before any cluster is asked; other files stay, and are named."""
    (tmp_path / ".gitignore").write_text("mine")
    assert "kept as it was: " + str(tmp_path / ".gitignore") in call(capsys, "init", str(tmp_path), *BOTH)[2]
    before = (tmp_path / "mesh.yaml").read_text()
    code, _, err = call(capsys, "init", str(tmp_path), *BOTH)
    assert code == 2
    assert "there is a mesh file already" in err
    assert "reading" not in err
    assert (tmp_path / "mesh.yaml").read_text() == before
    assert (tmp_path / ".gitignore").read_text() == "mine"


def test_init_writes_nothing_where_a_cluster_is_not_read(
    capsys: pytest.CaptureFixture[str], contexts: Contexts, tmp_path: Path
) -> None:
    """It would not say what is there: exit code 3, the context and the reason."""

    def dead(*_: Any) -> Any:
        raise ConnectionRefusedError

    contexts(one=furnished("east"), two=dead)
    code, out, err = call(capsys, "init", str(tmp_path / "shop"), *BOTH)
    assert (code, out) == (3, "")
    assert "Error: two: " in err
    assert not (tmp_path / "shop").exists()


@pytest.mark.parametrize(
    "words", [["init"], ["init", "shop"], ["check"], ["check", "m.yaml", *BOTH], ["gather", "-o", "f"]]
)
def test_what_is_to_be_read_is_named_once(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    """A mesh file, contexts or a snapshot."""
    code, _, err = call(capsys, *words)
    assert code == 2
    assert "--context" in err or "DIR" in err


@pytest.mark.usefixtures("two")
def test_check_needs_no_mesh_file(capsys: pytest.CaptureFixture[str]) -> None:
    """Findings name the clusters by the ids that they have; what was taken for a field that nobody says is said."""
    code, out, err = call(capsys, "check", *BOTH, "-o", "json")
    assert code in (1, 3)
    findings = json.loads(out)
    assert {"east", "west"} <= {one["subject"] for one in findings}
    assert "? mesh.id is taken as mesh1: no istiod has a mesh id" in err


def test_check_of_clusters_that_nobody_joined_is_no_pass(
    capsys: pytest.CaptureFixture[str], contexts: Contexts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of them has no Istio at all."""
    monkeypatch.setattr(mesh, "mistakes_are_raised", False)
    contexts(one=furnished("east"), two=empty("west"))
    code, out, err = call(capsys, "check", *BOTH, "-o", "json")
    assert code == 1
    assert "? clusters.1.network is taken as net-two: " in err
    failed = {one["id"] for one in json.loads(out) if one["verdict"] == "fail" and one["subject"] == "two"}
    assert {"MK201", "MK801"} <= failed


@pytest.mark.usefixtures("two")
def test_gather_and_proxies_and_pairs_need_no_mesh_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """What is gathered is judged as any snapshot."""
    file = str(tmp_path / "mesh.json")
    assert call(capsys, "gather", *BOTH, "-o", file)[0] in (0, 3)
    capsys.readouterr()
    assert json.loads(call(capsys, "check", "--snapshot", file, "-o", "json")[1])
    rows = json.loads(call(capsys, "proxies", *BOTH, "-o", "json")[1])
    assert {row["cluster"] for row in rows} == {"east", "west"}
    pairs = json.loads(call(capsys, "pairs", "--samples", "0", *BOTH, "-o", "json")[1])
    assert {(row["client"], row["server"]) for row in pairs} >= {("east", "west"), ("west", "east")}
