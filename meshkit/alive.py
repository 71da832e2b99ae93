"""Signs of life: a file that a process keeps locked, so that the next one sees at once that it was killed."""

from __future__ import annotations

import fcntl
import os
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def sign(name: str) -> Iterator[None]:
    """Give a sign of life for the length of a `with`; the file stays until `forget`, so that `dead` can tell.

    Where no file can be made nothing is given, and nobody can tell.
    """
    try:
        descriptor = os.open(_path(name), os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError:
        yield
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def forget(name: str) -> None:
    """Remove the file of a name; one that is not there is no error."""
    with suppress(OSError):
        _path(name).unlink()


def dead(name: str) -> bool:
    """Return whether a process of this user and machine gave a sign of that name, and ended before it forgot it.

    False where nobody can tell: it is alive, another user's, or on another machine.
    """
    try:
        descriptor = os.open(_path(name), os.O_RDWR | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.fstat(descriptor).st_uid == os.geteuid()
    except OSError:
        return False
    finally:
        os.close(descriptor)


def _path(name: str) -> Path:
    return Path(tempfile.gettempdir()) / f"meshkit-{os.geteuid()}-{name}"
