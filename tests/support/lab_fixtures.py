"""The real lab, started once for all tests that need it, and always ended."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from meshlab.layout import programs

from tests.support.lab import Lab, Space, space, started

NEEDED = ("etcd", "kube-apiserver", "kube-controller-manager", "nodeapi", "istioctl", "pilot-agent", "pilot-discovery")


def need_programs() -> None:
    """Fail, with the command that fixes it, where the lab's programs are not built."""
    missing = [name for name in NEEDED if not (programs() / name).exists()]
    if missing:
        pytest.fail(f"not built: {', '.join(missing)} (in {programs()}); `meshkit lab build` builds them")


@pytest.fixture(scope="session")
def short_folder() -> Iterator[Path]:
    """A folder whose path is short enough for Unix sockets."""
    need_programs()
    folder = Path(tempfile.mkdtemp(prefix="mk-"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def empty_lab(short_folder: Path) -> Iterator[Lab]:
    """Two bare clusters."""
    lab = Lab(short_folder / "empty")
    try:
        print(f"`lab up --start empty`, warm: {lab.start('empty'):.1f} s")
        yield lab
    finally:
        lab.stop()


@pytest.fixture(scope="session")
def meshed_lab(short_folder: Path) -> Iterator[Lab]:
    """Two clusters, one mesh; $MESHKIT_TEST_LAB may name the folder of one that runs already."""
    if running := os.environ.get("MESHKIT_TEST_LAB"):
        yield Lab(Path(running))
        return
    with started(short_folder / "meshed", "meshed") as lab:
        yield lab


@pytest.fixture
def east(empty_lab: Lab) -> Iterator[Space]:
    """A namespace of the bare cluster east."""
    yield from space(empty_lab, "lab-east")


@pytest.fixture
def west(empty_lab: Lab) -> Iterator[Space]:
    """A namespace of the bare cluster west."""
    yield from space(empty_lab, "lab-west")
