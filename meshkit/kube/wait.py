"""Waiting for the effect of a change, with a deadline and progress messages."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from meshkit.errors import ChangeError, UnreachableError

Wait = Callable[[], str]
"""Returns what is still missing, or an empty text when the wait is over."""

DEADLINE = 180.0
_EVERY = 0.5
_FIRST_MESSAGE = 5.0
_LONGEST_PAUSE = 60.0


def in_turn(waits: Sequence[Wait]) -> Wait:
    """Return one wait for several: it reports the first that is not over yet."""
    return lambda: next(filter(None, (wait() for wait in waits)), "")


def wait_for(wait: Wait, what: str, *, deadline: float = DEADLINE) -> None:
    """Poll until nothing is missing.

    Prints what is missing after five seconds, again when that changes, and otherwise at growing intervals. A cluster
    that does not answer for a moment is polled until the deadline.

    Raises:
        ChangeError: the deadline passed; the message says what is still missing.
    """
    begun = shown_at = time.monotonic()
    shown, pause = "", _FIRST_MESSAGE
    while missing := _ask(wait):
        now = time.monotonic()
        if now - begun > deadline:
            raise ChangeError(
                f"{what}: after {deadline:.0f} s still waiting: {missing}", remedy="fix the cause, then resume"
            )
        if now - shown_at >= (pause if missing == shown else _FIRST_MESSAGE):
            print(f"  {what}: {missing} ({now - begun:.0f} s)")
            pause = min(2 * pause, _LONGEST_PAUSE) if missing == shown else _FIRST_MESSAGE
            shown_at, shown = now, missing
        time.sleep(_EVERY)


def _ask(wait: Wait) -> str:
    try:
        return wait()
    except UnreachableError as error:
        return error.message
