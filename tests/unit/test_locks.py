"""Signs of life: seen while their process lives, distinct from those of the killed, and gone when released."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from meshkit import locks

HOLD = "import sys, time; from meshkit import locks\nwith locks.alive(sys.argv[1]): print(flush=True); time.sleep(60)"


@pytest.fixture
def name() -> Iterator[str]:
    """A name that nobody else has."""
    made = f"test-{uuid.uuid4().hex}"
    yield made
    locks.forget(made)


def test_a_process_is_dead_only_once_it_was_killed(name: str) -> None:
    """While it lives it is not dead; after kill -9 it is, until its sign is forgotten."""
    with subprocess.Popen([sys.executable, "-c", HOLD, name], stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        assert not locks.dead(name)
        process.kill()
    assert locks.dead(name)
    locks.forget(name)
    assert not locks.dead(name)


def test_of_one_that_gave_no_sign_nobody_can_tell(name: str) -> None:
    """It is not taken for dead, and to forget it is no error."""
    assert not locks.dead(name)
    locks.forget(name)


def test_a_name_that_is_taken_gives_no_sign_and_stops_nothing(name: str) -> None:
    """The second goes on without, and takes nothing from the first."""
    with locks.alive(name), locks.alive(name):
        assert not locks.dead(name)
    assert locks.dead(name)


def test_a_link_is_no_sign(name: str, tmp_path: Path) -> None:
    """What another user planted under a name is neither followed nor made."""
    place = Path(tempfile.gettempdir()) / f"meshkit-{os.geteuid()}-{name}"
    place.symlink_to(tmp_path / "target")
    with locks.alive(name):
        pass
    assert not locks.dead(name)
    assert not (tmp_path / "target").exists()
