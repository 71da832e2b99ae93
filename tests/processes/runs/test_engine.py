"""The engine under plain papermill: `papermill --engine meshkit`."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def papermill(folder: Path, *options: str) -> tuple[int, dict[str, Any], str]:
    """Run papermill's own command line; return its exit code, the saved notebook and stderr."""
    saved = folder / "out.ipynb"
    command = [sys.executable, "-m", "papermill", str(folder / "08-verify.ipynb"), str(saved), "--engine", "meshkit"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False, timeout=120)
    return done.returncode, json.loads(saved.read_text()), done.stderr


@pytest.mark.parametrize(
    ("cell", "ended", "name"),
    [
        ("import time; time.sleep(60)", "timed out", "TimedOut"),
        ("import os; os._exit(1)", "kernel died", "KernelDied"),
        ("import sys; sys.exit(0)", "exited", "Exited"),
    ],
)
def test_what_ends_early_fails_and_says_so(notebook: Callable[..., Path], cell: str, ended: str, name: str) -> None:
    """Papermill's own engine marks every cell completed, or exits with 0."""
    code, nb, stderr = papermill(notebook(cell, "print('never')"), "--execution-timeout", "8")
    assert code == 1
    assert nb["metadata"]["meshkit"]["ended"] == ended
    assert nb["metadata"]["papermill"]["exception"] is True
    statuses = [c["metadata"]["papermill"]["status"] for c in nb["cells"] if "papermill" in c["metadata"]]
    assert statuses[-2:] == ["failed", "pending"]
    assert nb["cells"][0]["metadata"]["tags"] == ["papermill-error-cell-tag"]
    assert name in stderr


def test_a_whole_notebook_is_finished_over_unix_sockets(notebook: Callable[..., Path]) -> None:
    """No warning about unencrypted TCP, and no path of this machine in the metadata."""
    folder = notebook("print(get_ipython().kernel.session is not None, get_ipython().kernel.parent.transport)")
    code, nb, stderr = papermill(folder)
    assert (code, nb["metadata"]["meshkit"]["ended"]) == (0, "finished")
    assert nb["cells"][-1]["outputs"][0]["text"] == ["True ipc\n"]
    assert nb["metadata"]["papermill"]["input_path"] == "08-verify.ipynb"
    assert "TCP" not in stderr


def test_a_meshkit_error_is_shown_without_a_traceback(notebook: Callable[..., Path]) -> None:
    """The message and the remedy are what helps."""
    folder = notebook("from meshkit.errors import InputError", "raise InputError('no context x', remedy='name one')")
    _, nb, _ = papermill(folder)
    (output,) = nb["cells"][-1]["outputs"]
    assert output["traceback"] == ["InputError: no context x\n  → name one"]
