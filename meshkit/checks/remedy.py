"""A remedy as its steps: what to run, which is copied whole, and what to know or do besides."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

_BEGINS: Final = re.compile(r"(?<![\w./-])(?:(?:kubectl|istioctl|helm) (?=[a-z-])|(?<=`)meshkit )")
_ENDS: Final = re.compile(r"`|; |, (?=[a-z])|\.? *$|: (?=[a-z])| \(")
_QUOTED: Final = re.compile(r"'[^']*'")


class Step(NamedTuple):
    """A command, or words beside one."""

    text: str
    command: bool = False


def steps(remedy: str) -> list[Step]:
    """Return a remedy's commands and the words between them, in order; pipes and what is in quotes stay whole.

    A command stands in backticks, or alone between `; `. The name of meshkit is a command in backticks only.
    """
    # Of the same length, so that a separator in quotes ends no command.
    masked = _QUOTED.sub(lambda quoted: "_" * len(quoted[0]), remedy)
    found, at = [], 0
    while begins := _BEGINS.search(masked, at):
        ends = _ENDS.search(masked, begins.end())
        stop = ends.start() if ends else len(remedy)
        found += _words(remedy[at : begins.start()].removesuffix("`"))
        found.append(Step(remedy[begins.start() : stop].strip(), command=True))
        at = stop + remedy.startswith("`", stop)
    return found + _words(remedy[at:])


def commands(remedy: str) -> list[str]:
    """Return the commands of a remedy, in order."""
    return [step.text for step in steps(remedy) if step.command]


def _words(text: str) -> list[Step]:
    text = text.strip(" ;,").lstrip(":. ")
    return [Step(text)] if text else []
