"""The commands `meshkit record …`: look after the evidence of runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from meshkit.cli.group import Group
from meshkit.cli.options import output

if TYPE_CHECKING:
    from meshkit.notebook.terminal import Output


@click.group(cls=Group)
def record() -> None:
    """Look after the evidence of runs."""


@record.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--mesh", "mesh_file", type=click.Path(path_type=Path), help="The mesh file that says whose keys count.")
def verify(run: Path, mesh_file: Path | None) -> int:
    """Check that a run's evidence is complete and unchanged, its chain holds, and who signed and approved it.

    With --mesh, `approvals.keys` of that mesh file says who a key is, and `record.timestampRoots` whose time counts.
    Exit code 1: something was changed, added or removed, or a signature is wrong. 3: something is unknown, such as who
    wrote a record that nobody signed.

    \b
    Examples:
      meshkit record verify runs/mesh1/20260301T120000Z-audit
      meshkit record verify runs/mesh1/20260301T120000Z-apply --mesh mesh.yaml
    """  # noqa: D301
    from meshkit.runs import verification
    from meshkit.spec import MeshSpec

    found = verification.verify(run, MeshSpec.load(mesh_file) if mesh_file else None)
    for problem in found.problems:
        click.echo(f"✖ {problem}")
    if not found.problems:
        click.echo(f"✔ {run}: the evidence is complete and unchanged, and the chain holds")
    for line in found.unknown:
        click.echo(f"? {line}")
    for line in found.known:
        click.echo(f"  {line}")
    return found.exit_code


@record.command()
@click.argument("before", type=click.Path(path_type=Path))
@click.argument("after", type=click.Path(path_type=Path))
@output
def diff(before: Path, after: Path, output: Output) -> int:
    """Show the findings that changed between two snapshots, or between two runs: new, gone or changed.

    \b
    Examples:
      meshkit record diff monday.json.gz tuesday.json.gz
      meshkit record diff runs/mesh1/20260301T120000Z-audit runs/mesh1/20260302T120000Z-audit
    """  # noqa: D301
    from meshkit.checks import comparison
    from meshkit.notebook import terminal
    from meshkit.runs import compare

    changed = compare.diff(before, after)
    terminal.show(comparison.brief(changed) if output == "table" else changed, output)
    return 0
