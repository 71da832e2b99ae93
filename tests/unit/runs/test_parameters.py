"""Parameters are read and checked before a kernel starts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import papermill
import pytest

from meshkit.errors import InputError
from meshkit.runs.parameters import assign, read

CELL = '''"""Parameters"""
mesh_file: str = "../parameters/lab.yaml"  # the mesh file
samples: int = 200  # calls for each pair
ratio: float = 0.5
dry_run: bool = True
clusters: list[str] = []
prefix = "x"'''


def test_each_line_is_a_name_a_type_a_default_and_a_help(notebook: Callable[..., Path]) -> None:
    """Read with ast, not with a regular expression."""
    first, second, *_, last = read(notebook(parameters=CELL) / "08-verify.ipynb")
    assert (first.name, first.type, first.default) == ("mesh_file", "str", "../parameters/lab.yaml")
    assert (second.help, second.default) == ("calls for each pair", 200)
    assert (last.type, last.default) == ("", "x")


def test_papermill_reads_the_same(notebook: Callable[..., Path]) -> None:
    """`papermill --help-notebook` tells what we check."""
    path = notebook(parameters=CELL) / "08-verify.ipynb"
    theirs = papermill.inspect_notebook(str(path))
    assert list(theirs) == [p.name for p in read(path)]
    assert [p["help"] for p in theirs.values()] == [p.help for p in read(path)]


@pytest.mark.parametrize(
    "line",
    [
        "value: str | None = None",
        "value: Literal['plan', 'apply'] = 'plan'",
        "value: str = 'a=b'",
        "value: int = 1  # -p value=2",
    ],
)
def test_a_line_that_papermill_leaves_out_is_read(notebook: Callable[..., Path], line: str) -> None:
    """Once papermill's own reader has them all, it can take the place of ours."""
    path = notebook(parameters=line) / "08-verify.ipynb"
    assert [p.name for p in read(path)] == ["value"]
    assert papermill.inspect_notebook(str(path)) == {}


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("samples", "7", 7),
        ("ratio", "1", 1),
        ("ratio", "1e-3", 0.001),
        ("dry_run", "False", False),
        ("mesh_file", "007", "007"),
        ("prefix", "None", "None"),
        ("clusters", "['east']", ["east"]),
    ],
)
def test_a_text_becomes_the_declared_type(notebook: Callable[..., Path], name: str, text: str, value: Any) -> None:
    """As papermill coerces it, but a text stays one where one is declared."""
    path = notebook(parameters=CELL) / "08-verify.ipynb"
    assert assign([path], {name: text}) == {path: {name: value}}


@pytest.mark.parametrize(
    ("annotation", "text", "good"),
    [
        ("int", "x", False),
        ("int", "True", False),
        ("bool", "1", False),
        ("str | None", "None", True),
        ("Optional[int]", "None", True),
        ("Optional[int]", "x", False),
        ("Literal['plan', 'apply']", "apply", True),
        ("Literal['plan', 'apply']", "go", False),
        ("list[int]", "['a']", False),
    ],
)
def test_a_wrong_type_is_refused(notebook: Callable[..., Path], annotation: str, text: str, good: bool) -> None:
    """Papermill would inject it."""
    path = notebook(parameters=f"value: {annotation} = 1") / "08-verify.ipynb"
    if good:
        assign([path], {"value": text})
        return
    with pytest.raises(InputError, match=r"parameter value of 08-verify.ipynb: expected .*, got"):
        assign([path], {"value": text})


def test_an_unknown_name_tells_the_nearest_and_its_notebook(notebook: Callable[..., Path]) -> None:
    """Papermill would only warn."""
    path = notebook(parameters=CELL) / "08-verify.ipynb"
    with pytest.raises(InputError, match=r"'sample'; did you mean 'samples' of 08-verify.ipynb\?"):
        assign([path], {"sample": "7"})


def test_each_notebook_gets_what_it_declares(notebook: Callable[..., Path]) -> None:
    """One `-p` may be meant for a later stage."""
    folder = notebook(parameters="a: int = 1")
    notebook(parameters="b: int = 1", name="09-observe")
    first, second = folder / "08-verify.ipynb", folder / "09-observe.ipynb"
    assert assign([first, second], {"b": "2"}) == {first: {}, second: {"b": 2}}


@pytest.mark.parametrize("line", ["x = now()", "def f(): ...", "x: int = (", "x += 1"])
def test_only_literals_make_parameters(notebook: Callable[..., Path], line: str) -> None:
    """What runs code is no default."""
    with pytest.raises(InputError, match=r"parameters cell of 08-verify.ipynb"):
        read(notebook(parameters=line) / "08-verify.ipynb")


@pytest.mark.parametrize("content", ["", "{}", "not json", "\x80"])
def test_a_broken_notebook_is_one_clear_error(tmp_path: Path, content: str) -> None:
    """Not a stack of nbformat's."""
    (tmp_path / "08-x.ipynb").write_text(content, encoding="latin-1")
    with pytest.raises(InputError, match="not a Jupyter notebook"):
        read(tmp_path / "08-x.ipynb")
