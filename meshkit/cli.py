"""The command line: thin commands over the functions that the notebooks call.

Data goes to stdout, talk to stderr. Exit codes: 0 passed; 1 a check failed; 2 bad input or usage; 3 a cluster or tool
cannot be reached; 4 a change failed or the run is incomplete; 130 interrupted. Everything heavy is imported inside the
commands, so that `--help` is quick.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from meshkit import __version__
from meshkit.errors import ChangeError, InputError, MeshkitError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meshkit.runs.run import RunResult

INTERRUPTED = 130
AUDIT = ("08", "09")
LAST_STAGE = "10"

mesh_file = click.argument("mesh_file", metavar="MESH.yaml", type=click.Path(path_type=Path))
out = click.option(
    "--out", default="runs", show_default=True, type=click.Path(path_type=Path), help="Folder for the run folders."
)
timeout = click.option(
    "--timeout", default=600, show_default=True, metavar="S", type=click.IntRange(min=1), help="Seconds for each cell."
)
settings = click.option(
    "-p", "--parameter", "settings", nargs=2, multiple=True, metavar="NAME VALUE", help="Set a notebook's parameter."
)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="meshkit", message="%(prog)s %(version)s")
def cli() -> None:
    """Take a live Istio mesh from one cluster to many, and prove each step.

    \b
    Examples:
      meshkit audit parameters/lab.yaml           is the mesh whole? reads, but for a probe
      meshkit run parameters/lab.yaml             all stages, as a plan
      meshkit run parameters/lab.yaml --mode apply --from 04
      meshkit record verify runs/mesh1/20260301T120000Z-audit
    """  # noqa: D301  (\b is click's own mark for "keep these lines")


@cli.command()
@mesh_file
@click.option("--mode", type=click.Choice(["plan", "apply"]), default="plan", show_default=True, help="Show, or do.")
@click.option("--from", "first", metavar="NN", default="", help="Begin with this stage.")
@click.option("--until", "last", metavar="NN", default="", help="End with this stage.")
@click.option("--only", multiple=True, metavar="NN", help="Run just this stage; may be given again.")
@out
@settings
@timeout
def run(
    *,
    mesh_file: Path,
    mode: str,
    first: str,
    last: str,
    only: Sequence[str],
    out: Path,
    settings: Sequence[tuple[str, str]],
    timeout: int,
) -> int:
    """Run stages 01 to 10 on a mesh, each a notebook, and write the evidence.

    \b
    Examples:
      meshkit run parameters/lab.yaml --only 08 --only 09
      meshkit run parameters/lab.yaml --mode apply --from 04 --until 07 -p samples 500
    """  # noqa: D301
    from meshkit.runs import run as runs

    chosen = _choose(list(runs.stages()), first, last, only)
    how: runs.Mode = "apply" if mode == "apply" else "plan"
    return _told(runs.execute(mesh_file, chosen, how, out, parameters=dict(settings), cell_timeout=timeout))


@cli.command()
@mesh_file
@out
@settings
@timeout
def audit(mesh_file: Path, out: Path, settings: Sequence[tuple[str, str]], timeout: int) -> int:
    """Verify and observe a mesh: stages 08 and 09, read-only but for the probe.

    Both run, whatever the first one says. A second audit's report shows what changed since the first.

    \b
    Example:
      meshkit audit parameters/lab.yaml
    """  # noqa: D301
    from meshkit.runs import run as runs

    return _told(
        runs.execute(mesh_file, AUDIT, "audit", out, parameters=dict(settings), cell_timeout=timeout, keep_going=True)
    )


@cli.group()
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
    from meshkit.runs import folder

    problems = folder.verify(run)
    for problem in problems:
        click.echo(f"✖ {problem}")
    if not problems:
        click.echo(f"✔ {run}: the evidence is complete and unchanged, and the chain holds")
    return 1 if problems else 0


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code; every error is told in one line or two."""
    try:
        code = cli.main(args=list(argv) if argv is not None else None, prog_name="meshkit", standalone_mode=False)
    except MeshkitError as error:
        click.echo(f"Error: {error}", err=True)
        code = error.exit_code
    except click.ClickException as error:
        error.show()
        code = InputError.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("Error: interrupted", err=True)
        code = INTERRUPTED
    except Exception as error:
        if os.environ.get("MESHKIT_DEBUG"):
            raise
        click.echo(f"Error: {type(error).__name__}: {error}", err=True)
        click.echo("  → this is a bug of meshkit; MESHKIT_DEBUG=1 shows where it happened", err=True)
        code = ChangeError.exit_code
    sys.exit(code or 0)


def _choose(known: Sequence[str], first: str, last: str, only: Sequence[str]) -> list[str]:
    if only and (first or last):
        raise click.UsageError("--only goes with neither --from nor --until")
    if only:
        return sorted({stage.zfill(2) for stage in only})
    first, last = first.zfill(2), (last or LAST_STAGE).zfill(2)
    chosen = [stage for stage in sorted(known) if first <= stage <= last]
    if not chosen:
        raise InputError(f"no stage from {first} until {last}; there are {', '.join(sorted(known)) or 'none'}")
    return chosen


def _told(result: RunResult) -> int:
    for line in result.withheld:
        click.echo(f"✖ {line}", err=True)
    click.echo(f"report: {result.folder / 'report.html'}", err=True)
    click.echo(str(result.folder))
    return result.exit_code
