"""`meshkit lab …` as people and scripts use it: exit codes, tables, shell lines, Ctrl-C."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from meshlab import lifecycle

pytestmark = pytest.mark.lab
DAEMONS = {"etcd", "kube-apiserver", "kube-controller-manager", "nodeapi", "node"}


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for a lab of its own; whatever runs in it is ended afterwards."""
    parent = Path(tempfile.mkdtemp(prefix="mk-"))
    monkeypatch.setenv("MESHKIT_LAB_DIR", str(parent / "lab"))
    yield parent / "lab"
    lifecycle.stop(print)
    shutil.rmtree(parent)


def meshkit(*argv: str) -> subprocess.CompletedProcess[str]:
    """Run `meshkit lab` with some arguments."""
    command = [sys.executable, "-m", "meshkit", "lab", *argv]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_a_lab_from_up_to_down(home: Path) -> None:
    """Up, status, kubeconfig, env and down do what their help says; a dead daemon is seen and is exit code 1."""
    up = meshkit("up", "--clusters", "1", "--start", "empty")
    assert up.returncode == 0, up.stderr
    assert "east is up (" in up.stderr
    assert not up.stdout

    rows = json.loads(meshkit("status", "-o", "json").stdout)
    assert {r["component"] for r in rows} == {*DAEMONS, "keeper", "box", "wan"}
    assert {r["state"] for r in rows} == {"running"}
    assert all((home / r["log"]).exists() for r in rows)

    assert meshkit("kubeconfig").stdout == f"{home / 'kubeconfig'}\n"
    shell = f"{meshkit('env').stdout}\nkubectl get nodes -o name"
    assert subprocess.run(["sh", "-ec", shell], capture_output=True, text=True, check=True).stdout == "node/east\n"

    psutil.Process(next(r["pid"] for r in rows if r["component"] == "nodeapi")).kill()
    time.sleep(0.5)
    after = meshkit("status", "-o", "csv")
    assert after.returncode == 1
    assert "nodeapi,east,,,dead," in after.stdout
    assert "1 dead" in after.stderr

    assert meshkit("down").returncode == 0
    assert not home.exists()
    again = meshkit("down")
    assert (again.returncode, again.stderr) == (0, "no lab runs\n")


@pytest.mark.parametrize("command", ["status", "kubeconfig", "env"])
def test_without_a_lab_the_remedy_is_up(home: Path, command: str) -> None:
    """What needs a lab ends with exit code 3 and the command that starts one."""
    done = meshkit(command)
    assert done.returncode == 3
    assert done.stderr == f"Error: {home}: no lab runs\n  → start one: `meshkit lab up`\n"


def test_numbers_that_make_no_lab_are_usage_errors(home: Path) -> None:
    """Ten clusters are refused with exit code 2, and nothing starts."""
    done = meshkit("up", "--clusters", "10")
    assert done.returncode == 2
    assert not home.exists()


@pytest.mark.parametrize("seconds", [3.0, 9.0])
def test_ctrl_c_while_starting_leaves_nothing(home: Path, seconds: float) -> None:
    """Interrupted while clusters start, or while Istio is installed: exit code 130, no process, no folder."""
    command = [sys.executable, "-m", "meshkit", "lab", "up", "--clusters", "1", "--start", "meshed"]
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # Tests that run in the background of a shell ignore SIGINT, and their children with them.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - nothing else runs here
    )
    time.sleep(seconds)
    os.killpg(process.pid, signal.SIGINT)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 130, said
    assert not home.exists()
    assert lifecycle.keeper(home) is None
