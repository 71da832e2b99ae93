"""The group of commands whose help lists each with a whole sentence."""

from __future__ import annotations

import click

WHOLE = 1000
"""Longer than any sentence: click cuts the sentences of a list short, to one line each."""


class Group(click.Group):
    """A group of commands; the sentences of its help are wrapped, not cut."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write each command that is not hidden, with the first sentence of its help."""
        known = [(name, command) for name in self.list_commands(ctx) if (command := self.get_command(ctx, name))]
        shown = [(name, command.get_short_help_str(WHOLE)) for name, command in known if not command.hidden]
        if shown:
            with formatter.section("Commands"):
                formatter.write_dl(shown)
