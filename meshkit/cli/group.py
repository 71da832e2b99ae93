"""The group of commands whose help lists each with a whole sentence."""

from __future__ import annotations

import click

WHOLE = 1000
"""Longer than any sentence: click cuts the sentences of a list short, to one line each."""


OF_THE_LAB = ("demo", "lab")
"""Commands of the distribution meshkit-lab, which a machine that touches a production mesh need not have."""


class Group(click.Group):
    """A group of commands; the sentences of its help are wrapped, not cut."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command of a word; of one that is not installed, say what brings it."""
        if args[0] in OF_THE_LAB and self.get_command(ctx, args[0]) is None:
            ctx.fail(f"{args[0]} is a command of the lab, which is not installed; in a clone of meshkit: make setup")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write each command that is not hidden, with the first sentence of its help."""
        known = [(name, command) for name in self.list_commands(ctx) if (command := self.get_command(ctx, name))]
        shown = [(name, command.get_short_help_str(WHOLE)) for name, command in known if not command.hidden]
        if shown:
            with formatter.section("Commands"):
                formatter.write_dl(shown)
