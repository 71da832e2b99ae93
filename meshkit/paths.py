"""Paths: of notebooks, examples and documents, in a checkout or in the package, of programs, of the state folder."""

from __future__ import annotations

import os
import shutil
from importlib.metadata import entry_points
from pathlib import Path

import platformdirs


def folder(name: str) -> Path:
    """Return the folder `notebooks`, `parameters` or `docs`: of the wheel, else of the checkout."""
    package = Path(__file__).parent
    # What lies beside an installed package may be another's.
    data = package / "data" / name
    return data if data.is_dir() else package.parent / name


def program(name: str) -> str | None:
    """Return the path of a program: the user's on the PATH, else one that a plugin provides, as the lab does istioctl.

    Plugins name their folders, as a PATH does, by the entry point group `meshkit.programs`.
    """
    folders = [str(plugin.load()()) for plugin in entry_points(group="meshkit.programs")]
    return shutil.which(name) or shutil.which(name, path=os.pathsep.join(folders))


def own_key() -> Path:
    """Return the file of the user's own key, which signs approvals and records."""
    return state() / "approver.key"


def state() -> Path:
    """Return meshkit's state folder: `$XDG_STATE_HOME/meshkit`, else the platform's (~/.local/state/meshkit).

    On macOS and Windows it is another one, unless the Linux folder exists: earlier versions used it everywhere.
    """
    if chosen := os.environ.get("XDG_STATE_HOME"):
        return Path(chosen) / "meshkit"
    former = Path.home() / ".local/state/meshkit"
    return former if former.is_dir() else platformdirs.user_state_path("meshkit", appauthor=False)
