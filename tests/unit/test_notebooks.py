"""Structure of the notebooks: what makes them diffable, readable and safe to run."""

from __future__ import annotations

import ast
import contextlib
import importlib
import re
import statistics
from pathlib import Path
from types import ModuleType
from typing import Any

import nbformat
import pytest

import meshkit.stages
from meshkit.paths import folder
from meshkit.runs import parameters
from meshkit.runs.run import stages
from meshkit.stages.stage import BEATS, Stage

NOTEBOOKS = sorted(folder("notebooks").glob("*.ipynb"))
STAGES = [path for path in NOTEBOOKS if path.name[0].isdigit() and path.stem != "00-start"]
SECTIONS = ["Look", "Check", "Plan and apply", "Prove", "Verdict"]
LONGEST_CELL = 12
BY_CLASS = [path for path in STAGES if "stage = stages." in path.read_text(encoding="utf-8")]
"""Notebooks whose stage is a class."""
LONGEST, MEDIAN = 3, 2
"""Lines of a code cell of theirs, the parameters cell left out."""

of_every = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
of_a_stage = pytest.mark.parametrize("path", STAGES, ids=lambda path: path.stem)
by_class = pytest.mark.parametrize("path", BY_CLASS, ids=lambda path: path.stem)


def cells(path: Path, kind: str) -> list[Any]:
    """Return the cells of a kind, in their order."""
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == kind]


def parameter_cells(path: Path) -> list[Any]:
    """Return the cells tagged `parameters`."""
    return [cell for cell in cells(path, "code") if "parameters" in cell.metadata.get("tags", [])]


@of_every
def test_a_notebook_is_valid_and_stripped(path: Path) -> None:
    """No outputs, no execution counts, nobody's kernel; ids that stay."""
    nb = nbformat.read(path, as_version=4)
    nbformat.validate(nb)
    assert [cell.source for cell in cells(path, "code") if cell.outputs or cell.execution_count] == []
    assert nb.metadata.kernelspec.name == "python3"
    assert set(nb.metadata) <= {"kernelspec", "language_info", "meshkit"}
    assert set(nb.metadata.language_info) == {"name"}
    assert len({cell.id for cell in nb.cells}) == len(nb.cells)


@of_a_stage
def test_a_notebook_begins_with_its_number_and_keeps_the_order_of_its_sections(path: Path) -> None:
    """One H1, whose number is the file's; look, check, plan, prove, verdict."""
    first, *rest = cells(path, "markdown")
    assert re.match(rf"# {path.name[:2]} \S", first.source)
    text = "\n".join(cell.source for cell in rest)
    assert re.findall(r"^# ", text, re.MULTILINE) == []
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == SECTIONS


@of_every
def test_a_notebook_says_what_it_does_to_a_cluster(path: Path) -> None:
    """In its metadata for programs, and in its first cell for people."""
    nb = nbformat.read(path, as_version=4)
    assert nb.metadata.meshkit.side_effects
    for word in ("Settles", "Changes", "Needs", "Takes", "Undo"):
        assert f"- **{word}**: " in nb.cells[0].source


@of_every
def test_parameters_stand_in_one_cell_that_meshkit_and_papermill_read_alike(path: Path) -> None:
    """Typed literals with a help text each."""
    from papermill import inspect_notebook

    assert len(parameter_cells(path)) == 1
    ours = parameters.read(path)
    theirs = inspect_notebook(path)
    assert {p.name: (p.type, p.default, p.help) for p in ours} == {
        name: (p["inferred_type_name"], ast.literal_eval(p["default"]), p["help"].lstrip("# "))
        for name, p in theirs.items()
    }
    assert all(p.type and p.help and p.accepts(p.default) for p in ours)


@of_a_stage
def test_the_first_parameter_is_the_mesh_file(path: Path) -> None:
    """Its default is the lab's."""
    first = parameters.read(path)[0]
    assert first.name == "mesh_file"
    assert (path.parent / first.default).exists()


@of_every
def test_code_cells_are_short_plain_and_introduced(path: Path) -> None:
    """At most 12 lines; no functions, classes, loops, shell or magic; prose or a sibling's output before each."""
    for cell in cells(path, "code"):
        lines = cell.source.splitlines()
        assert len(lines) <= LONGEST_CELL, cell.source
        assert not [line for line in lines if line.lstrip().startswith(("!", "%"))], cell.source
        kinds = (ast.FunctionDef, ast.ClassDef, ast.For, ast.While, ast.Lambda, ast.AsyncFunctionDef)
        assert not [node for node in ast.walk(ast.parse(cell.source)) if isinstance(node, kinds)], cell.source
    kinds = [cell.cell_type for cell in nbformat.read(path, as_version=4).cells]
    assert kinds[0] == kinds[-1] == "markdown"
    assert not re.search("(code ){2}", " ".join(kinds) + " "), "a code cell without prose before it"


@of_every
def test_a_notebook_asks_modules_only_for_what_they_have(path: Path) -> None:
    """What it imports is there, and each name that it takes from a module: many a cell runs on a live mesh only."""
    tree = ast.parse("\n".join(cell.source for cell in cells(path, "code")))
    modules: dict[str, ModuleType | type] = {}
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom):
            continue
        for alias in node.names:
            with contextlib.suppress(ModuleNotFoundError):
                importlib.import_module(f"{node.module}.{alias.name}")
            if isinstance(found := getattr(importlib.import_module(str(node.module)), alias.name), ModuleType | type):
                modules[alias.asname or alias.name] = found
    taken = {
        (n.value.id, n.attr) for n in ast.walk(tree) if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name)
    }
    assert [
        f"{name}.{what}" for name, what in sorted(taken) if name in modules and not hasattr(modules[name], what)
    ] == []
    assert modules


@of_a_stage
def test_the_verdict_is_the_last_code_cell(path: Path) -> None:
    """And what follows says where to go next."""
    last = cells(path, "code")[-1].source
    assert last == "stage.conclude()" or (
        path not in BY_CLASS and re.search(r"^evidence\.conclude\(\w+\.STAGE, findings\)$", last, re.MULTILINE)
    )
    assert "**What next**" in cells(path, "markdown")[-1].source


@of_a_stage
def test_the_stage_of_a_notebook_has_its_name(path: Path) -> None:
    """`08-verify` is in meshkit.stages.verify, whose STAGE is `08 verify`."""
    number, _, name = path.stem.partition("-")
    room = importlib.import_module(f"meshkit.stages.{name}")
    module = importlib.import_module(f"{room.__name__}.stage") if hasattr(room, "__path__") else room
    assert f"{number} {name}" == module.STAGE


def statements(path: Path) -> list[str]:
    """Return the code cells of a notebook, its parameters left out."""
    known = [cell.id for cell in parameter_cells(path)]
    return [cell.source for cell in cells(path, "code") if cell.id not in known]


def stage_class(path: Path) -> type[Stage]:
    """Return the class of a notebook's stage."""
    (call,) = re.findall(r"^stage = stages\.(\w+)\(", "\n".join(statements(path)), re.MULTILINE)
    found: type[Stage] = getattr(meshkit.stages, call)
    return found


@by_class
def test_a_cell_says_what_is_done_and_nothing_of_how(path: Path) -> None:
    """A line or two, of which the last shows itself; what it shows is evidence by that."""
    lengths = [len(source.splitlines()) for source in statements(path)]
    assert max(lengths) <= LONGEST, path
    assert statistics.median(lengths) <= MEDIAN
    assert not [source for source in statements(path) if re.search(r"\b(evidence|findings)\b", source)]


@by_class
def test_a_stage_gets_the_parameters_of_its_notebook(path: Path) -> None:
    """All of them, each by its own name; it is the stage that the notebook is named after."""
    first = statements(path)[0]
    mesh_file, *others = [parameter.name for parameter in parameters.read(path)]
    given = ", ".join([mesh_file, *(f"{name}={name}" for name in others)])
    assert first == f"from meshkit import stages\n\nstage = stages.{stage_class(path).__name__}({given})"
    assert stage_class(path).name == path.stem.replace("-", " ")


@by_class
def test_beats_come_in_their_order_and_each_once(path: Path) -> None:
    """Every one for which the stage has something; what else a cell shows, the stage has."""
    shown = [ast.parse(source).body[-1] for source in statements(path)[1:]]
    texts = [ast.unparse(one) for one in shown]
    called = [beat for one in texts for beat in BEATS if one.startswith(f"stage.{beat}(")]
    assert called == [beat for beat in BEATS if beat in called]
    stage = stage_class(path)
    own = {beat for beat in BEATS if getattr(stage, beat) is not getattr(Stage, beat)}
    if stage._plans is not Stage._plans:
        own |= {"plan", "apply"}
    if stage._prove is not Stage._prove:
        own |= {"prove"}
    assert {"look", "check", "conclude", *own} <= set(called)
    names = re.findall(r"\bstage\.(\w+)", "\n".join(texts))
    assert [name for name in names if not hasattr(stage, name)] == []


def test_a_run_takes_every_numbered_notebook_for_a_stage() -> None:
    """And nothing else."""
    assert set(stages().values()) == {*STAGES}


@of_every
def test_every_link_leads_to_something(path: Path) -> None:
    """Files beside the notebook, notebooks that it names, and addresses with a host."""
    text = "\n".join(cell.source for cell in cells(path, "markdown"))
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        assert re.match(r"https://[\w.-]+/", target) or (path.parent / target).exists(), target
    stems = {known.stem for known in NOTEBOOKS}
    assert set(re.findall(r"`(\d\d-[a-z-]+)`", text)) <= stems
