"""Notebooks to run, and a mesh file for them."""

from __future__ import annotations

from tests.support.notebooks import mesh_file, notebook

__all__ = ["mesh_file", "notebook"]
