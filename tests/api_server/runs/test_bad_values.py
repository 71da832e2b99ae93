"""A wrong value of a parameter under plain papermill, on a real API server."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest

from tests.processes.cli.test_bad_input import mesh_file
from tests.support.api_server import ApiServer
from tests.unit.runs.test_bad_values import NOTEBOOKS


@pytest.fixture(autouse=True)
def state(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A private store of the test's own, in which no journal may appear."""
    folder = tmp_path_factory.mktemp("state")
    monkeypatch.setenv("XDG_STATE_HOME", str(folder))
    yield folder
    assert list(folder.rglob("journal.jsonl")) == []


@pytest.mark.parametrize(
    ("number", "given", "words"),
    [
        ("02", {"mode": "aply"}, ["parameter mode", "expected plan or apply, got 'aply'", "did you mean 'apply'?"]),
        ("02", {"mode": "apply", "journal": "../x"}, ["parameter journal", "without a slash, got '../x'"]),
        ("08", {"mode": "plan", "calls": "many"}, ["parameter calls", "expected a whole number from 1 up, got 'many'"]),
        ("12", {"journal": "none"}, ["no journal 'none'", "there are none"]),
        ("01", {"mesh_file": "none.yaml"}, ["none.yaml: no such file", "name the mesh file"]),
    ],
    ids=["mode", "journal", "calls", "no journal", "mesh file"],
)
def test_plain_papermill_gets_the_same_error_from_a_cell(
    tmp_path: Path, api_server: ApiServer, number: str, given: dict[str, str], words: list[str]
) -> None:
    """No traceback in the notebook, and nothing in the cluster has changed."""
    cluster = {"name": "east", "context": "admin", "network": "n", "kubeconfig": str(api_server.kubeconfig)}
    mesh_file(tmp_path, {"clusters": [cluster]})
    before = versions(api_server)
    told = papermill(tmp_path, number, {"mesh_file": "mesh.yaml", **given})
    assert told.startswith("InputError: "), told
    assert [word for word in words if word not in told] == [], told
    assert "Traceback" not in told
    assert versions(api_server) == before


def versions(api_server: ApiServer) -> set[tuple[str, str]]:
    """Return what namespaces and config maps there are, and in which version."""
    found = [obj for kind in ("namespaces", "configmaps") for obj in api_server.connect().get(kind)]
    return {(obj["metadata"]["uid"], obj["metadata"]["resourceVersion"]) for obj in found}


def papermill(folder: Path, number: str, given: dict[str, str]) -> str:
    """Run a notebook by plain papermill, which must fail; return what its failed cell says."""
    values = [text for name, value in given.items() for text in ("-p", name, value)]
    argv = [sys.executable, "-m", "papermill", str(NOTEBOOKS[number]), "out.ipynb", *values]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "JUPYTER_PREFER_ENV_PATH": "1"}
    done = subprocess.run(argv, cwd=folder, env=env, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode != 0
    cells = nbformat.read(folder / "out.ipynb", as_version=4).cells  # type: ignore[no-untyped-call]
    outputs = [output for cell in cells for output in cell.get("outputs", []) if output.output_type == "error"]
    return "\n".join(outputs[0].traceback)
