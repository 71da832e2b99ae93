"""Where things lie: notebooks and parameter examples beside the package or inside it, and what is kept for the user."""

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
    """Return meshkit's folder of what stays: `$XDG_STATE_HOME/meshkit`, else the platform's (~/.local/state/meshkit).

    macOS and Windows have another one, unless journals lie in that of Linux from a time when it was used everywhere.
    """
    if chosen := os.environ.get("XDG_STATE_HOME"):
        return Path(chosen) / "meshkit"
    former = Path.home() / ".local/state/meshkit"
    return former if former.is_dir() else platformdirs.user_state_path("meshkit", appauthor=False)
