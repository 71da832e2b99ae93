"""The command line: thin commands over the functions that the notebooks call.

Data goes to stdout, talk to stderr. Exit codes: 0 passed; 1 a check failed; 2 bad input or usage; 3 a cluster or tool
cannot be reached; 4 a change failed or the run is incomplete; 130 interrupted. Everything heavy is imported inside the
commands, so that `--help` is quick.
"""

from __future__ import annotations

import os
import sys
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

import click

from meshkit import __version__
from meshkit.cli.access import access, doctor
from meshkit.cli.ca import ca
from meshkit.cli.completion import completion
from meshkit.cli.group import Group
from meshkit.cli.init import init
from meshkit.cli.reading import assess, check, gather, latency, pairs, proxies
from meshkit.cli.record import record
from meshkit.cli.runs import approve, audit, run, undo
from meshkit.errors import ChangeError, InputError, MeshkitError

if TYPE_CHECKING:
    from collections.abc import Sequence

INTERRUPTED = 130


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="meshkit", message="%(prog)s %(version)s")
def cli() -> None:
    """Take a live Istio mesh from one cluster to many, and prove each step.

    \b
    Examples:
      meshkit check --context east --context west
                                                what is wrong, the cause first
      meshkit init shop --context east --context west
                                                a mesh file as found, notebooks
      meshkit audit mesh.yaml                   is the mesh healthy?
      meshkit assess mesh.yaml                  what a migration needs, to sign
      meshkit gather mesh.yaml -o FILE          all that is read, in one file
      meshkit proxies mesh.yaml                 every proxy's true xDS states
      meshkit pairs mesh.yaml                   what is broken between clusters
      meshkit latency mesh.yaml                 how long each answer takes
      meshkit run mesh.yaml                     all stages, as a plan
      meshkit run mesh.yaml --mode apply
      meshkit approve runs/mesh1/20260301T110000Z-plan --as ann
      meshkit undo runs/mesh1/20260301T120000Z-apply --mode apply
      meshkit record verify runs/mesh1/20260301T120000Z-audit
      meshkit ca root ca --passphrase-env CA_PASSPHRASE
      meshkit doctor --context east             which rights you lack
      meshkit completion bash                   complete commands in your shell
    """  # noqa: D301  (\b is click's own mark for "keep these lines")


COMMANDS = (
    init, run, approve, undo, audit, gather, assess, check, proxies, pairs, latency, record, ca, access, doctor,
    completion,
)  # fmt: skip
for command in COMMANDS:
    cli.add_command(command)
for plugin in entry_points(group="meshkit.commands"):
    cli.add_command(plugin.load())


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code; every error is printed in one line or two."""
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
