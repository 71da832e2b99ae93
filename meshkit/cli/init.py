"""The command `meshkit init`: a folder to work in, from what is found in some contexts."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

import click

from meshkit.cli.options import contexts


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@contexts
def init(*, folder: Path, contexts: Sequence[str]) -> int:
    """Make a folder to work in: the mesh file of what is found in these contexts, and the notebooks.

    Read-only: nothing is changed in any API server. The mesh file says of each field where it was found, and marks with
    TO DECIDE what no cluster says. Beside it are copies of the notebooks, the commented examples and the documents.
    Files that are there already stay as they are. Name the context of the live cluster first.

    \b
    Examples:
      meshkit init shop --context prod-east --context prod-west
      meshkit check shop/mesh.yaml
      jupyter lab shop/notebooks
    """  # noqa: D301
    from meshkit import workspace
    from meshkit.istio.found import mesh_file
    from meshkit.notebook import terminal

    if not contexts:
        raise click.UsageError(
            "name the contexts of the mesh, each with --context; `kubectl config get-contexts` lists them"
        )
    workspace.require_new(folder)
    with terminal.talk() as say:
        say(f"reading {', '.join(contexts)} …")
        known = mesh_file.of_contexts(contexts)
    known.require_all_read()
    made = workspace.create(folder, known)
    for path in made.kept:
        click.echo(f"kept as it was: {path}", err=True)
    click.echo(_next(made.mesh_file, len(known.undecided)), err=True)
    click.echo(str(made.mesh_file))
    return 0


def _next(mesh_file: Path, undecided: int) -> str:
    steps = {
        ("meshkit", "check", str(mesh_file)): "what is wrong with the mesh, the causes first; changes nothing",
        ("meshkit", "run", str(mesh_file)): "the plan of every stage; changes nothing",
        ("jupyter", "lab", str(mesh_file.parent / "notebooks")): "the same, cell by cell",
    }
    commands = {shlex.join(words): purpose for words, purpose in steps.items()}
    width = max(map(len, commands))
    head = f"decide the {undecided} fields marked TO DECIDE in {mesh_file}, then:" if undecided else "next:"
    return "\n".join([head, *(f"  {command:<{width}}   {purpose}" for command, purpose in commands.items())])
