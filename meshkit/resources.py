"""Where things lie: notebooks and parameter examples beside the package or inside it, and what is kept for the user."""

from __future__ import annotations

import os
from pathlib import Path


def folder(name: str) -> Path:
    """Return the folder `notebooks` or `parameters`."""
    package = Path(__file__).parent
    checkout = package.parent / name
    return checkout if checkout.is_dir() else package / "data" / name


def state() -> Path:
    """Return meshkit's folder of what stays: `$XDG_STATE_HOME/meshkit`, or in ~/.local/state."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state") / "meshkit"
