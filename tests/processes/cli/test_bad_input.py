"""Wrong input, through the real command line: one clear error, the right exit code, and no traceback."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.support.api_server import free_port, write_kubeconfig

GOOD = {"clusters": [{"name": "east", "context": "admin", "network": "net-east"}]}


def meshkit(folder: Path, *argv: str, timeout: float = 60, kubeconfig: str = "") -> subprocess.CompletedProcess[str]:
    """Run the real command line in a folder."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "KUBECONFIG": kubeconfig}
    command = [sys.executable, "-m", "meshkit", *argv]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=env, timeout=timeout, check=False)


def mesh_file(folder: Path, document: object) -> str:
    """Write a mesh file and return its name."""
    (folder / "mesh.yaml").write_text(yaml.safe_dump(document))
    return "mesh.yaml"


def refused(done: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    """Assert one clear error that has all of the words, nothing on stdout, and the exit code."""
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert done.stderr.count("Error:") == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert [word for word in words if word not in done.stderr] == [], done.stderr


def test_a_missing_mesh_file_is_named(tmp_path: Path) -> None:
    """A path that does not exist."""
    refused(meshkit(tmp_path, "audit", "none.yaml"), 2, "none.yaml", "no such file")


def test_a_folder_is_no_mesh_file(tmp_path: Path) -> None:
    """A path that is a folder."""
    (tmp_path / "folder").mkdir()
    refused(meshkit(tmp_path, "audit", "folder"), 2, "folder", "cannot be read")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ["the file is empty"]),
        (b"# only a comment\n", ["the file is empty"]),
        (b"clusters: [\n", ["not YAML", "line 2"]),
        (b"just words", ["expected a mapping", "got a str"]),
        (b"\x00\xff\x00\xfe", ["not a text file"]),
        (b"\x00\x01\x02", ["not YAML"]),
        (b"clusters: 2024-13-45\n", ["not YAML", "month must be in 1..12"]),
        (b"trust: {strategy: adopt}\nclusters: []\ntrust: {}\n", ["trust occurs twice", "line 3"]),
    ],
    ids=["empty", "comment", "not YAML", "no mapping", "binary", "control characters", "no date", "twice"],
)
def test_a_file_that_is_no_mesh_file_says_what_it_is_instead(tmp_path: Path, content: bytes, words: list[str]) -> None:
    """Empty, broken and binary files."""
    (tmp_path / "mesh.yaml").write_bytes(content)
    refused(meshkit(tmp_path, "audit", "mesh.yaml"), 2, "mesh.yaml", *words)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"gatess": {}}, ["gatess", "unknown field", "did you mean 'gates'?"]),
        ({"gates": {"p99s": "1s"}}, ["gates.p99s", "unknown field", "'p99'"]),
        ({"gates": {"p99": "soon"}}, ["gates.p99", "expected a duration", "'soon'"]),
        ({"probe": {"port": "many"}}, ["probe.port", "integer", "'many'"]),
        ({"clusters": "east"}, ["clusters", "list"]),
        ({"clusters": [{"name": "a/b", "context": "a", "network": "b"}]}, ["clusters.0.name", "'a/b'", "PROD_EU1"]),
        ({"clusters": [{"name": "east"}]}, ["clusters.0.context", "clusters.0.network", "required"]),
    ],
    ids=["field", "nested field", "duration", "number", "list", "pattern", "missing"],
)
def test_a_wrong_field_is_named_with_what_came_and_what_was_expected(
    tmp_path: Path, change: dict[str, object], words: list[str]
) -> None:
    """Unknown fields and wrong types."""
    refused(meshkit(tmp_path, "audit", mesh_file(tmp_path, {**GOOD, **change})), 2, "mesh.yaml", *words)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["audit", "mesh.yaml", "-p", "sample", "5"], ["'sample'", "did you mean 'samples' of 09-observe.ipynb?"]),
        (["audit", "mesh.yaml", "-p", "samples", "many"], ["samples of 09-observe.ipynb", "expected int", "'many'"]),
        (["audit", "mesh.yaml", "-p", "mesh_file", "x"], ["mesh_file", "set by meshkit itself"]),
        (["run", "mesh.yaml", "--only", "77"], ["'77'", "08-verify"]),
    ],
    ids=["unknown parameter", "type of parameter", "our own parameter", "unknown stage"],
)
def test_a_wrong_parameter_or_stage_is_refused_before_anything_runs(
    tmp_path: Path, argv: list[str], words: list[str]
) -> None:
    """Nothing is written, either."""
    mesh_file(tmp_path, GOOD)
    refused(meshkit(tmp_path, *argv), 2, *words)
    assert [path.name for path in tmp_path.iterdir()] == ["mesh.yaml"]


def test_a_folder_for_runs_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    """`--out` below a file (for root may write anywhere else)."""
    (tmp_path / "taken").write_text("")
    done = meshkit(tmp_path, "audit", mesh_file(tmp_path, GOOD), "--out", "taken/runs")
    refused(done, 2, "taken/runs")


def test_a_wrong_context_is_an_input_error_that_names_the_nearest(tmp_path: Path) -> None:
    """The verdict of the run is in its exit code and on stderr."""
    kubeconfig = write_kubeconfig(tmp_path / "kubeconfig", "https://127.0.0.1:1", None, {"admin": "token"})
    spec = {"clusters": [{"name": "east", "context": "admim", "network": "n", "kubeconfig": str(kubeconfig)}]}
    done = meshkit(tmp_path, "proxies", mesh_file(tmp_path, spec))
    refused(done, 2, "no context 'admim'", "did you mean 'admin'?")
    done = meshkit(tmp_path, "audit", "mesh.yaml")
    assert done.returncode == 2, done.stderr
    assert "no context 'admim'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def silent_server() -> Iterator[int]:
    """A port that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        held: list[socket.socket] = []
        threading.Thread(target=lambda: hold(server, held), daemon=True).start()
        yield int(server.getsockname()[1])
        server.shutdown(socket.SHUT_RDWR)
    for connection in held:
        connection.close()


def hold(server: socket.socket, held: list[socket.socket]) -> None:
    """Accept until the server is closed."""
    while True:
        try:
            held.append(server.accept()[0])
        except OSError:
            return


def unreachable(folder: Path, port: int, *argv: str) -> tuple[subprocess.CompletedProcess[str], float]:
    """Check a cluster at a port of loopback, and return how that ended and after how many seconds."""
    kubeconfig = write_kubeconfig(folder / "kubeconfig", f"https://127.0.0.1:{port}", None, {"admin": "token"})
    spec = {"clusters": [{"name": "east", "context": "admin", "network": "n", "kubeconfig": str(kubeconfig)}]}
    began = time.monotonic()
    done = meshkit(folder, argv[0], mesh_file(folder, spec), *argv[1:], timeout=180)
    return done, time.monotonic() - began


def test_an_api_server_that_refuses_the_connection_is_unreachable_not_failed(tmp_path: Path) -> None:
    """Exit code 3, in time, with the cluster named."""
    done, seconds = unreachable(tmp_path, free_port(), "audit")
    assert done.returncode == 3, done.stderr
    assert "Traceback" not in done.stderr
    assert "refuses the connection" in done.stderr
    assert seconds < 120


def test_an_api_server_that_never_answers_is_unreachable_in_time(tmp_path: Path, silent_server: int) -> None:
    """Exit code 3, and not a deadline for every question: a cluster that was silent is not asked again at once."""
    done, seconds = unreachable(tmp_path, silent_server, "audit")
    assert done.returncode == 3, done.stderr
    assert "Traceback" not in done.stderr
    assert "no answer within" in done.stderr
    assert seconds < 240
