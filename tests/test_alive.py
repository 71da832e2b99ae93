"""Signs of life: seen while their process lives, told from those of the killed, and gone when forgotten."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from meshkit import alive

if TYPE_CHECKING:
    from collections.abc import Iterator

HOLD = "import sys, time; from meshkit import alive\nwith alive.sign(sys.argv[1]): print(flush=True); time.sleep(60)"


@pytest.fixture
def name() -> Iterator[str]:
    """A name that nobody else has."""
    made = f"test-{uuid.uuid4().hex}"
    yield made
    alive.forget(made)


def test_a_process_is_dead_only_once_it_was_killed(name: str) -> None:
    """While it lives it is not dead; after kill -9 it is, until its sign is forgotten."""
    with subprocess.Popen([sys.executable, "-c", HOLD, name], stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        assert not alive.dead(name)
        process.kill()
    assert alive.dead(name)
    alive.forget(name)
    assert not alive.dead(name)


def test_of_one_that_gave_no_sign_nobody_can_tell(name: str) -> None:
    """It is not taken for dead, and to forget it is no error."""
    assert not alive.dead(name)
    alive.forget(name)


def test_a_name_that_is_taken_gives_no_sign_and_stops_nothing(name: str) -> None:
    """The second goes on without, and takes nothing from the first."""
    with alive.sign(name), alive.sign(name):
        assert not alive.dead(name)
    assert alive.dead(name)


def test_a_link_is_no_sign(name: str, tmp_path: Path) -> None:
    """What another user planted under a name is neither followed nor made."""
    place = Path(tempfile.gettempdir()) / f"meshkit-{os.geteuid()}-{name}"
    place.symlink_to(tmp_path / "target")
    with alive.sign(name):
        pass
    assert not alive.dead(name)
    assert not (tmp_path / "target").exists()
