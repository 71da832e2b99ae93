"""The command `meshkit completion`: what makes a shell complete meshkit's commands, options and files."""

from __future__ import annotations

import click
from click.shell_completion import BashComplete, FishComplete, ZshComplete

SHELLS = {"bash": BashComplete, "zsh": ZshComplete, "fish": FishComplete}


@click.command()
@click.argument("shell", type=click.Choice([*SHELLS]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the script that makes a shell complete meshkit's commands, options and file names.

    bash needs version 4.4 or later. A new shell completes after:

    \b
      bash  meshkit completion bash > ~/.local/share/bash-completion/completions/meshkit
      zsh   meshkit completion zsh > "${fpath[1]}/_meshkit"
      fish  meshkit completion fish > ~/.config/fish/completions/meshkit.fish

    \b
    Example, for this shell alone:
      source <(meshkit completion bash)
    """  # noqa: D301
    # click's own name for the variable by which the script asks meshkit.
    script = SHELLS[shell](ctx.find_root().command, {}, "meshkit", "_MESHKIT_COMPLETE")
    click.echo(script.source())
