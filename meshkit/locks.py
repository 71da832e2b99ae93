"""Signs of life: a file that a process keeps locked, so that the next one sees at once that it was killed."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from filelock import BaseFileLock, FileLock


@contextmanager
def sign(name: str) -> Iterator[None]:
    """Give a sign of life for the length of a `with`; the file stays until `forget`, so that `dead` can tell.

    Where no file can be made or locked, and where another process holds that name, nothing is given, and nobody can
    tell. The operating system releases the lock of a killed process.
    """
    with ExitStack() as held:
        with suppress(OSError):
            held.enter_context(_lock(name))
        yield


def forget(name: str) -> None:
    """Remove the file of a name; one that is not there is no error."""
    with suppress(OSError):
        _path(name).unlink()


def dead(name: str) -> bool:
    """Return whether a process of this user and machine gave a sign of that name, and ended before it forgot it.

    False where nobody can tell: it is alive, another user's, or on another machine.
    """
    with suppress(OSError):
        if _path(name).lstat().st_uid == _user():
            with _lock(name):
                return True
    return False


def _lock(name: str) -> BaseFileLock:
    return FileLock(_path(name), mode=0o600, blocking=False, preserve_lock_file=True)


def _path(name: str) -> Path:
    return Path(tempfile.gettempdir()) / f"meshkit-{_user()}-{name}"


def _user() -> int:
    # Windows has no user ids, says 0 of every file, and gives each user a temporary folder of their own.
    return os.geteuid() if hasattr(os, "geteuid") else 0
