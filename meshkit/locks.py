"""Liveness locks: a file that a process keeps locked, so that the next process sees at once that it was killed."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from filelock import BaseFileLock, FileLock


@contextmanager
def alive(name: str) -> Iterator[None]:
    """Hold a liveness lock during a `with`; the file stays until `forget`, so that `dead` can check it.

    If the file cannot be created or locked, or another process holds the name, there is no lock, and `dead` is False.
    The operating system releases the lock of a killed process.
    """
    with ExitStack() as locks:
        with suppress(OSError):
            locks.enter_context(_lock(name))
        yield


def forget(name: str) -> None:
    """Remove the file of a name; a missing file is not an error."""
    with suppress(OSError):
        _path(name).unlink()


def dead(name: str) -> bool:
    """Return whether a process of this user and machine held that lock, and ended without `forget`.

    False if the process is alive, or unknown: of another user, or on another machine.
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
    # Windows has no user ids (st_uid is always 0), and each user has a separate temporary folder.
    return os.geteuid() if hasattr(os, "geteuid") else 0
