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
def verify(run: Path) -> int:
    """Check that a run's evidence is complete and unchanged, and its chain holds.

    \b
    Example:
      meshkit record verify runs/mesh1/20260301T120000Z-audit
    """  # noqa: D301
    from meshkit.runs import approval, folder

    problems = folder.verify(run)
    approvals, wrong = approval.signatures(run, None)
    problems += wrong
    for problem in problems:
        click.echo(f"✖ {problem}")
    if not problems:
        click.echo(f"✔ {run}: the evidence is complete and unchanged, and the chain holds")
    for one in approvals:
        click.echo(f"  approved by {one.name} at {one.time}, key {one.key}" + f", {one.ticket}" * bool(one.ticket))
    return 1 if problems else 0


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
