"""Mesh: the clusters of one mesh file, asked all at once.

    mesh = Mesh.open("parameters/lab.yaml")
    mesh.each(Cluster.version)      # {"east": "v1.37.2", "west": Unknown("it refuses the connection")}

A cluster that is dead, slow or refuses us becomes `Unknown` with a reason, and neither delays nor spoils the others.
"""

from __future__ import annotations

import concurrent.futures
import difflib
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

from meshkit.display import Shown
from meshkit.errors import InputError, MeshkitError, UnreachableError
from meshkit.kube import transport
from meshkit.kube.cluster import Cluster
from meshkit.spec import MeshSpec

T = TypeVar("T")
U = TypeVar("U")

PODS_AT_ONCE = 8
SILENCE = 20.0
"""Seconds for which a cluster that did not answer in time is not asked again: each question would wait anew."""
LONGEST = 10
"""How many times its deadline a question may take in all, as long as answers come."""
_LATE = "no answer within"
_WRONG_SHAPE = (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError)
"""What comes of reading a document that is not what its kind says."""


@dataclass(frozen=True)
class Unknown:
    """What could not be found out, and why. It is false, so that `if answer:` never takes it for one."""

    reason: str

    def __bool__(self) -> bool:
        return False

    def __str__(self) -> str:
        return f"unknown: {self.reason}"


class DaemonThreads(concurrent.futures.Executor):
    """A thread for each call, at most so many at once, which nobody waits for at exit: a hung one must not hang us."""

    def __init__(self, at_once: int = 0) -> None:
        self._slots = threading.BoundedSemaphore(at_once) if at_once else None

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> concurrent.futures.Future[T]:
        """Start a call in a thread of its own."""
        future: concurrent.futures.Future[T] = concurrent.futures.Future()
        threading.Thread(target=self._run, args=(future, fn, args, kwargs), daemon=True).start()
        return future

    def _run(
        self, future: concurrent.futures.Future[T], fn: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        if self._slots:
            self._slots.acquire()
        try:
            if future.set_running_or_notify_cancel():
                future.set_result(fn(*args, **kwargs))
        except BaseException as error:  # noqa: BLE001  (the future hands it on)
            future.set_exception(error)
        finally:
            if self._slots:
                self._slots.release()


def gather(
    function: Callable[[U], T],
    subjects: Iterable[U],
    *,
    deadline: float,
    executor: concurrent.futures.Executor | None = None,
) -> list[T | Unknown]:
    """Call a function for each subject, all at once, and return the answers in the subjects' order.

    A subject that fails with a `MeshkitError`, or of which nothing came for `deadline` seconds, is `Unknown`; so is one
    whose answer cannot be read (see `_reading`). Any other exception is a mistake of the program, and is raised.
    """
    pool = executor or DaemonThreads(PODS_AT_ONCE)
    asker, began = transport.progress.get(None), time.monotonic()
    asked: dict[concurrent.futures.Future[Any], transport.Progress] = {}
    for subject in subjects:
        progress = transport.Progress(asker)
        asked[pool.submit(_reading, function, subject, progress)] = progress
    while waiting := {future: progress for future, progress in asked.items() if not future.done()}:
        last = max(max(began, progress.last) for progress in waiting.values())
        left = min(last + deadline, began + LONGEST * deadline) - time.monotonic()
        if left <= 0:
            break
        concurrent.futures.wait(waiting, timeout=left)
    return [_outcome(future, deadline) for future in asked]


def _reading(function: Callable[[U], T], subject: U, progress: transport.Progress) -> T:
    """Call a function, and tell an answer of a wrong shape from a mistake of the program.

    The first is a property of the one who answered, and of nobody else. Where nothing was answered, it is the second.

    Raises:
        UnreachableError: an answer could not be read; it says where, and quotes nothing of it.
    """
    before = transport.progress.set(progress)
    try:
        return function(subject)
    except _WRONG_SHAPE as error:
        if not progress.answers or mistakes_are_raised:
            raise
        frame = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{type(error).__name__} in {Path(frame.filename).name}, line {frame.lineno}"
        raise UnreachableError(f"an answer of it cannot be read ({place})") from error
    finally:
        transport.progress.reset(before)


mistakes_are_raised = False
"""Tests set it: a mistake of ours in reading good answers must not pass as an unknown."""


def _outcome(future: concurrent.futures.Future[T], deadline: float) -> T | Unknown:
    if not future.done():
        future.cancel()
        return Unknown(f"{_LATE} {deadline:.3g} s")
    try:
        return future.result()
    except MeshkitError as error:
        return Unknown(error.message)


class Mesh(Shown):
    """The clusters of one mesh file. Nothing is sent before the first question."""

    def __init__(
        self, spec: MeshSpec, clusters: dict[str, Cluster], executor: concurrent.futures.Executor | None = None
    ) -> None:
        self.spec = spec
        self.clusters = clusters
        self._executor = executor or DaemonThreads()
        self._silent: dict[str, tuple[float, Unknown]] = {}
        self.unanswered: dict[str, list[str]] = {}
        """Why questions of `each` were not answered, by cluster."""

    def bundle(self) -> dict[str, Any]:
        """Return the mesh file's overview; nothing is asked of a cluster."""
        return self.spec.bundle()

    def __getitem__(self, name: str) -> Cluster:
        """Return a cluster by its name.

        Raises:
            InputError: the mesh file has no such cluster.
        """
        if name not in self.clusters:
            near = difflib.get_close_matches(name, self.clusters, n=1)
            told = f"no cluster {name!r}; the mesh file has {', '.join(self.clusters)}"
            raise InputError(told, remedy=f"did you mean {near[0]!r}?" if near else "name one of them")
        return self.clusters[name]

    @classmethod
    def open(
        cls, mesh: MeshSpec | str | Path, *, executor: concurrent.futures.Executor | None = None, timeout: float = 10.0
    ) -> Self:
        """Open the mesh of a file or of a model.

        Args:
            mesh: the mesh file, or what was read from it.
            executor: where questions to clusters run; threads of this process unless given.
            timeout: seconds in which something must come of each request to an API server, where the mesh file says
                nothing else (`requestTimeout`).

        Raises:
            InputError: the file is wrong, or contexts are missing from kubeconfig; all of them are named. That a
                cluster cannot be reached is no error here.
        """
        spec = mesh if isinstance(mesh, MeshSpec) else MeshSpec.load(mesh)
        clusters: dict[str, Cluster] = {}
        wrong: list[InputError] = []
        for entry in spec.clusters:
            try:
                clusters[entry.name] = Cluster.connect(
                    entry.context, entry.kubeconfig, timeout=entry.request_timeout or timeout, name=entry.name
                )
            except InputError as error:
                wrong.append(error)
        if len(wrong) == 1:
            raise wrong[0]
        if wrong:
            raise InputError(
                "; ".join(dict.fromkeys(error.message for error in wrong)),
                where=", ".join(dict.fromkeys(error.where for error in wrong)),
                remedy=wrong[0].remedy,
            )
        return cls(spec, clusters, executor)

    @property
    def root_namespace(self) -> str:
        """The namespace of istiod and of mesh-wide configuration."""
        return self.spec.mesh.root_namespace

    @property
    def ordered_pairs(self) -> list[tuple[str, str]]:
        """Every ordered pair of cluster names, (client, server)."""
        return self.spec.pairs

    def ask(self, **questions: Callable[[Mesh], Any]) -> dict[str, Any]:
        """Return the answers to questions about the whole mesh by their names, asked side by side.

        Each may have to wait for a cluster that does not answer. What a question raises is raised.
        """
        with concurrent.futures.ThreadPoolExecutor(len(questions)) as pool:
            return dict(zip(questions, pool.map(lambda ask: ask(self), questions.values()), strict=True))

    def each(self, function: Callable[[Cluster], T], *, deadline: float = 30.0) -> dict[str, T | Unknown]:
        """Ask every cluster at once; return the answers by name, in the file's order.

        A cluster that fails, or of which nothing came for `deadline` seconds, is `Unknown` with the reason; no deadline
        is shorter than three of the mesh file's `requestTimeout`. One that was too late a moment ago is not asked again
        for `SILENCE` seconds, and is `Unknown` for the same reason.
        """
        patience = max((entry.request_timeout or 0 for entry in self.spec.clusters), default=0)
        deadline = max(deadline, 3 * patience)
        now = time.monotonic()
        silent = {name: why for name, (until, why) in self._silent.items() if now < until}
        asked = {name: cluster for name, cluster in self.clusters.items() if name not in silent}
        answers = gather(function, asked.values(), deadline=deadline, executor=self._executor)
        known: dict[str, T | Unknown] = {**silent, **dict(zip(asked, answers, strict=True))}
        for name, answer in known.items():
            if isinstance(answer, Unknown):
                self.unanswered.setdefault(name, []).append(answer.reason)
                if name in asked and _LATE in answer.reason:
                    self._silent[name] = (time.monotonic() + SILENCE, answer)
        return {name: known[name] for name in self.clusters}
