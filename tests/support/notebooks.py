"""Small notebooks, each named by how it behaves, and a mesh file to run them on."""

from __future__ import annotations

import functools
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

MESH = """
mesh: {id: shop}
clusters:
  - {name: east, context: lab-east, network: net-east}
  - {name: west, context: lab-west, network: net-west}
"""
SETUP = """
import pandas as pd
from meshkit import Finding, Verdict
from meshkit.checks.finding import Conclusion
from meshkit.display import Record
from meshkit.notebook.pictures import Picture
from meshkit.tables import Column, Table


def table(frame, name, caption="", **more):
    columns = {str(column): Column(str(dtype)) for column, dtype in frame.dtypes.items()}
    Table(name, caption, columns, **more).view(frame).show()


def figure(*about):
    Picture(*about).show()


def record(name, value):
    Record(name, value).show()


def conclude(stage, findings):
    conclusion = Conclusion(stage, findings)
    conclusion.show()
    conclusion.raise_if_bad()


def finding(verdict, subject="east → west", remedy=""):
    told = {"id": "MK801", "check": "call", "expected": "200", "observed": "503 <b>"}
    return Finding(**told, subject=subject, verdict=verdict, remedy=remedy)
"""
METADATA = {"kernelspec": {"name": "python3", "display_name": "Python 3"}, "language_info": {"name": "python"}}
PASS = "conclude('08 verify', [finding(Verdict.PASS)])"


@pytest.fixture
def mesh_file(tmp_path: Path) -> Path:
    """A mesh of two clusters that nobody connects to."""
    path = tmp_path / "shop.yaml"
    path.write_text(MESH)
    return path


def write_notebook(
    tmp_path: Path, *cells: str, name: str = "08-verify", parameters: str = "", tags: Sequence[str] = ()
) -> Path:
    """Write a stage notebook of the given code cells and return the folder it is in."""
    folder = tmp_path / "stages"
    folder.mkdir(exist_ok=True)
    parts = [new_markdown_cell("# 08 verify\n\nWhat this settles.")]
    if parameters:
        parts.append(new_code_cell(parameters, metadata={"tags": ["parameters"]}))
    parts += [new_code_cell(SETUP), new_markdown_cell("## Calls from each side")]
    parts += [new_code_cell(textwrap.dedent(cell).strip(), metadata={"tags": list(tags)}) for cell in cells]
    nb = new_notebook(cells=parts, metadata=METADATA)
    for index, cell in enumerate(nb.cells):
        cell.id = f"cell-{index}"
    nbformat.write(nb, folder / f"{name}.ipynb")
    return folder


@pytest.fixture
def notebook(tmp_path: Path) -> Callable[..., Path]:
    """Write stage notebooks below the test's folder."""
    return functools.partial(write_notebook, tmp_path)
