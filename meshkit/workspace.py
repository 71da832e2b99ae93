"""The folder to work in: a mesh file as it was found, and beside it notebooks, examples and documents.

Whoever installed the wheel has these as package data, whoever cloned has them in the checkout; in the folder they lie
as in the checkout, so that each path in a notebook, a document or a message leads to a file there.

Belongs here: what is written into that folder. Does not: what the mesh file says (istio.found).
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from meshkit import clock, paths
from meshkit.errors import InputError
from meshkit.istio.found.fields import Field
from meshkit.istio.found.mesh_file import Found

MESH_FILE: Final = "mesh.yaml"
TO_DECIDE: Final = "TO DECIDE"
_LAB: Final = "../parameters/lab.yaml"
"""The mesh file that the notebooks name before they are copied."""
_COPIES: Final = (("notebooks", "*.ipynb"), ("parameters", "*.yaml"), ("docs", "*.md"), ("docs", "*.png"))
_IGNORED: Final = """\
# Executed notebooks and runs hold what was read in your clusters: commit the mesh file, and not these.
/notebooks/
/runs/
"""
_WIDTH, _COMMENT = 120, 32


@dataclass(frozen=True)
class Workspace:
    """A folder to work in; `kept` are files that were there before, and were not touched."""

    mesh_file: Path
    kept: tuple[Path, ...]


def require_new(folder: Path) -> None:
    """Let a folder pass that has no mesh file yet.

    Raises:
        InputError: it has one, or is a file itself.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError("expected a folder, and it is a file", where=str(folder), remedy="name another one")
    if (folder / MESH_FILE).exists():
        remedy = "go on with that one, or name another folder"
        raise InputError("there is a mesh file already; nothing is overwritten", where=str(folder), remedy=remedy)


def create(folder: Path, found: Found) -> Workspace:
    """Write the mesh file that was found into a folder, and beside it whatever it needs; nothing is overwritten.

    Raises:
        InputError: the folder has a mesh file, or cannot be written.
    """
    require_new(folder)
    files = {folder / ".gitignore": _IGNORED.encode(), **{folder / place: held for place, held in _copies()}}
    try:
        kept = tuple(path for path, held in files.items() if not _written(path, held))
        _written(folder / MESH_FILE, mesh_yaml(found).encode())
    except OSError as error:
        raise InputError(f"cannot be written ({error.strerror})", where=str(error.filename or folder)) from None
    return Workspace(folder / MESH_FILE, kept)


def _copies() -> Iterator[tuple[str, bytes]]:
    for name, pattern in _COPIES:
        for path in sorted(paths.folder(name).glob(pattern)):
            yield f"{name}/{path.name}", path.read_bytes().replace(_LAB.encode(), f"../{MESH_FILE}".encode())


def _written(path: Path, held: bytes) -> bool:
    """Write a file, and return whether it is new: one that is there stays as it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("xb") as file:
            file.write(held)
    except FileExistsError:
        return False
    return True


def mesh_yaml(found: Found) -> str:
    """Return the text of a mesh file, each field with what says so, or with what there is to decide."""
    contexts = ", ".join(entry.context for entry in found.spec.clusters)
    head = (
        f"What `meshkit init` found on {clock.now():%Y-%m-%d} in {contexts}. {TO_DECIDE} marks "
        "what no cluster says. parameters/multi-network.yaml has every field that a mesh file can have, with comments."
    )
    return "\n".join([*_comment(head, ""), *_lines(found.fields)]) + "\n"


def _lines(fields: Iterable[Field]) -> Iterator[str]:
    """Yield the lines of fields: a head where a section begins, a dash where an item does."""
    before: tuple[str | int, ...] = ()
    for one in fields:
        *sections, _ = one.path
        depth = len(sections)
        new = [i for i in range(depth) if one.path[: i + 1] != before[: i + 1]]
        yield from (f"{'  ' * i}{sections[i]}:" for i in new if isinstance(sections[i], str))
        first = depth - 1 in new and isinstance(sections[-1], int)
        yield from _entry(one, "  " * (depth - 1) + "- " if first else "  " * depth)
        before = one.path


def _entry(one: Field, indent: str) -> Iterator[str]:
    """Yield a field with its comment: beside it, or above it if there is something to decide or no room."""
    name = one.path[-1]
    entry = "" if one.value is None else f"{indent}{name}: {_scalar(one.value)}"
    beside = f"{entry:<{_COMMENT}}  # {one.why}"
    if one.open:
        why = one.why if one.value is not None else f"{name}: {one.why}"
        yield from _comment(f"{TO_DECIDE}: {why}", indent.removesuffix("- "))
    elif one.why and len(beside) <= _WIDTH:
        entry = beside
    elif one.why:
        yield from _comment(one.why, indent.removesuffix("- "))
    if entry:
        yield entry


def _comment(text: str, indent: str) -> Iterator[str]:
    lines = textwrap.wrap(text, _WIDTH - len(indent) - 2, break_long_words=False, break_on_hyphens=False)
    return (f"{indent}# {line}" for line in lines)


def _scalar(value: Any) -> str:
    return str(yaml.safe_dump(value, default_flow_style=True, width=_WIDTH)).removesuffix("\n").removesuffix("\n...")
