"""The same question asked once: answers kept for the length of one snapshot's reading.

Belongs here: who asks, who waits, what is kept. Does not: which questions may be kept (`meshkit.kube.cluster`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotYet
from typing import Any, TypeVar

from meshkit.kube import transport
from meshkit.kube.transport import NotFoundError

T = TypeVar("T")
_LISTENS_EVERY = 0.5


class Memory:
    """Answers by question. Of several threads with one question the first asks, and the others wait for its answer.

    That something does not exist is an answer. Another error is passed to those who wait, and not kept: who comes later
    asks again.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asked: dict[Hashable, tuple[Future[Any], transport.Progress]] = {}

    def answer(self, question: Hashable, ask: Callable[[], T]) -> T:
        """Return the kept answer, or the one that `ask` gets now.

        Raises:
            MeshkitError: of `ask`.
        """
        with self._lock:
            known = self._asked.get(question)
            if known is None:
                future: Future[T] = Future()
                progress = transport.Progress(transport.progress.get(None))
                self._asked[question] = future, progress
        if known:
            waited: T = _wait(*known)
            return waited
        self._ask(question, ask, future, progress)
        return future.result()

    def _ask(self, question: Hashable, ask: Callable[[], T], future: Future[T], progress: transport.Progress) -> None:
        before = transport.progress.set(progress)
        try:
            future.set_result(ask())
        except NotFoundError as error:
            future.set_exception(error)
        except BaseException as error:  # noqa: BLE001  (the future passes it on)
            with self._lock:
                del self._asked[question]
            future.set_exception(error)
        finally:
            transport.progress.reset(before)


def _wait(future: Future[T], progress: transport.Progress) -> T:
    """Return the answer that another thread is waiting for; what it receives counts as received here, too."""
    received = 0
    while not future.done():
        if progress.answers > received:
            received = progress.answers
            transport.note()
        try:
            future.exception(_LISTENS_EVERY)
        except NotYet:
            continue
    transport.note()
    return future.result()
