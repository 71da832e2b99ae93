"""Paths of notebooks and parameter examples, in a checkout or in the package, and of the user's state folder."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def folder(name: str) -> Path:
    """Return the folder `notebooks` or `parameters`."""
    package = Path(__file__).parent
    checkout = package.parent / name
    return checkout if checkout.is_dir() else package / "data" / name


def state() -> Path:
    """Return meshkit's state folder: `$XDG_STATE_HOME/meshkit`, else the platform's (~/.local/state/meshkit).

    On macOS and Windows it is another one, unless the Linux folder exists: earlier versions used it everywhere.
    """
    if chosen := os.environ.get("XDG_STATE_HOME"):
        return Path(chosen) / "meshkit"
    former = Path.home() / ".local/state/meshkit"
    return former if former.is_dir() else platformdirs.user_state_path("meshkit", appauthor=False)
