"""Where meshkit keeps what stays: on Linux where it always was, elsewhere where the platform has it."""

from __future__ import annotations

import sys
from pathlib import Path

import platformdirs
import pytest

from meshkit import paths


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder with nothing in it, and no XDG_STATE_HOME."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    return tmp_path


@pytest.mark.skipif(sys.platform != "linux", reason="other platforms have another folder")
def test_on_linux_the_folder_is_that_of_older_journals(home: Path) -> None:
    """Before it is there, and after."""
    place = home / ".local/state/meshkit"
    assert paths.state() == place
    place.mkdir(parents=True)
    assert paths.state() == place


@pytest.mark.parametrize("chosen", ["/state", "state"])
def test_xdg_state_home_chooses_it(home: Path, monkeypatch: pytest.MonkeyPatch, chosen: str) -> None:
    """As it is written; an empty one chooses nothing."""
    monkeypatch.setenv("XDG_STATE_HOME", chosen)
    assert paths.state() == Path(chosen) / "meshkit"
    monkeypatch.setenv("XDG_STATE_HOME", "")
    assert paths.state() == home / ".local/state/meshkit"


def test_elsewhere_journals_from_before_are_still_found(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Mac whose journals lie in Linux's folder keeps using that; a new one has Apple's."""
    apple = home / "Library/Application Support/meshkit"
    monkeypatch.setattr(platformdirs, "user_state_path", lambda *_args, **_named: apple)
    assert paths.state() == apple
    (home / ".local/state/meshkit").mkdir(parents=True)
    assert paths.state() == home / ".local/state/meshkit"


def test_a_program_is_the_users_own_else_that_of_a_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a notebook, too, which nobody started by the command line."""
    theirs, labs = tmp_path / "bin", tmp_path / "lab"
    for folder in (theirs, labs):
        folder.mkdir()
        (folder / "istioctl").touch(0o755)
    monkeypatch.setenv("MESHKIT_LAB_BIN", str(labs))
    monkeypatch.setenv("PATH", str(theirs))
    assert paths.program("istioctl") == str(theirs / "istioctl")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert paths.program("istioctl") == str(labs / "istioctl")
    (labs / "istioctl").unlink()
    assert paths.program("istioctl") is None


def test_the_package_data_of_a_wheel_wins_over_what_lies_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other distributions leave folders such as `docs` in site-packages."""
    package = tmp_path / "meshkit"
    monkeypatch.setattr(paths, "__file__", str(package / "paths.py"))
    (tmp_path / "docs").mkdir()
    assert paths.folder("docs") == tmp_path / "docs"
    (package / "data" / "docs").mkdir(parents=True)
    assert paths.folder("docs") == package / "data" / "docs"
