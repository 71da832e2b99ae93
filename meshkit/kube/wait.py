"""Waiting for what a change causes, with a deadline and a word of progress."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from meshkit.errors import ChangeError, UnreachableError

Wait = Callable[[], str]
"""Returns what is still missing, or an empty text when all has arrived."""

DEADLINE = 180.0
_EVERY = 0.5
_TELL = 5.0
_SELDOM = 60.0


def in_turn(waits: Sequence[Wait]) -> Wait:
    """Return one wait for all of some: what the first says that is not over."""
    return lambda: next(filter(None, (wait() for wait in waits)), "")


def wait_for(wait: Wait, what: str, *, deadline: float = DEADLINE) -> None:
    """Ask until nothing is missing; say what is after five seconds, then when it changes, and else ever less often.

    A cluster that does not answer for a moment is asked again until the deadline.

    Raises:
        ChangeError: time is up; the message says what is still missing.
    """
    begun = told = time.monotonic()
    said, pause = "", _TELL
    while missing := _ask(wait):
        now = time.monotonic()
        if now - begun > deadline:
            raise ChangeError(
                f"{what}: after {deadline:.0f} s still waiting: {missing}", remedy="look at it, then resume"
            )
        if now - told >= (pause if missing == said else _TELL):
            print(f"  {what}: {missing} ({now - begun:.0f} s)")
            pause = min(2 * pause, _SELDOM) if missing == said else _TELL
            told, said = now, missing
        time.sleep(_EVERY)


def _ask(wait: Wait) -> str:
    try:
        return wait()
    except UnreachableError as error:
        return error.message
