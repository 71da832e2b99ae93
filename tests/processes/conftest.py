"""Notebooks to run, a mesh file for them, and a state folder with the key that signs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.notebooks import mesh_file, notebook

__all__ = ["mesh_file", "notebook"]


@pytest.fixture(autouse=True)
def own_state(state: Path) -> None:
    """Let no test sign by the key of who runs it."""
