"""The moment as of which facts are judged: now, or when they were read.

A snapshot may be judged long after it was read, and must give the same findings: how long a certificate is still good
is counted from the moment of the reading.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from datetime import UTC, datetime

_moment: ContextVar[datetime | None] = ContextVar("moment", default=None)


def now() -> datetime:
    """Return the moment as of which this thread judges."""
    return _moment.get() or datetime.now(UTC)


@contextlib.contextmanager
def at(moment: datetime) -> Iterator[None]:
    """Judge as of a moment."""
    before = _moment.set(moment)
    try:
        yield
    finally:
        _moment.reset(before)
