"""Progress of something long: one line in place on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import shutil
import sys
import time
from typing import TextIO

PLAIN_EVERY = 15.0
SOONEST_FORECAST = 0.03


class Progress:
    """Prints the progress of a piece of work, by default on stderr."""

    def __init__(self, title: str, stream: TextIO | None = None) -> None:
        self.title, self.stream = title, stream or sys.stderr
        self.live = self.stream.isatty()
        self.begun = time.monotonic()
        self.printed = self.begun

    def show(self, fraction: float, words: str) -> None:
        """Print how much is done (0 to 1) and what is at work, at a limited rate."""
        now = time.monotonic()
        if not self.live and now - self.printed < PLAIN_EVERY:
            return
        self.printed = now
        line = f"{self.title} {100 * fraction:3.0f} %  {self._times(fraction, now)}  {words}"
        if self.live:
            width = shutil.get_terminal_size().columns - 1
            print(f"\r\x1b[K{line[:width]}", end="", file=self.stream, flush=True)
        else:
            print(line, file=self.stream, flush=True)

    def done(self) -> float:
        """Take the line away and return the seconds it all took."""
        if self.live:
            print("\r\x1b[K", end="", file=self.stream, flush=True)
        return time.monotonic() - self.begun

    def _times(self, fraction: float, now: float) -> str:
        elapsed = now - self.begun
        if fraction < SOONEST_FORECAST:
            return f"{clock(elapsed)} elapsed"
        return f"{clock(elapsed)} elapsed, about {clock(elapsed * (1 - fraction) / fraction)} left"


def clock(seconds: float) -> str:
    """Return seconds as minutes:seconds."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
