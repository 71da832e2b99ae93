"""Where the notebooks and the parameter examples lie: beside the package in a checkout, inside it in a wheel."""

from __future__ import annotations

from pathlib import Path


def folder(name: str) -> Path:
    """Return the folder `notebooks` or `parameters`."""
    package = Path(__file__).parent
    checkout = package.parent / name
    return checkout if checkout.is_dir() else package / "data" / name
