"""Mesh: the clusters of one mesh file, read concurrently.

    mesh = Mesh.open("mesh.yaml")
    mesh.each(Cluster.version)      # {"east": "v1.37.2", "west": Unknown("it refuses the connection")}

A cluster that is down, slow or refuses us becomes `Unknown` with a reason, and neither delays nor breaks the others.
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

import yaml

from meshkit.display import Shown
from meshkit.errors import InputError, MeshkitError, UnreachableError
from meshkit.kube import transport
from meshkit.kube.cluster import Cluster
from meshkit.spec import MeshSpec

T = TypeVar("T")
U = TypeVar("U")

PODS_AT_ONCE = 8
SILENCE = 20.0
"""Seconds for which a cluster that did not answer in time is not called again: every reading would wait for it."""
LONGEST = 10
"""How many times its deadline a reading may take in all, as long as answers arrive."""
_LATE = "no answer within"
_WRONG_SHAPE = (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError, yaml.YAMLError)
"""Errors of reading a document that does not have the fields of its kind, or holds a text that is no YAML."""
_PACKAGE = Path(__file__).parents[1]


@dataclass(frozen=True)
class Unknown:
    """A fact that could not be read, and why. It is false, so that `if answer:` never takes it for an answer."""

    reason: str

    def __bool__(self) -> bool:
        return False

    def __str__(self) -> str:
        return f"unknown: {self.reason}"


class DaemonThreads(concurrent.futures.Executor):
    """A daemon thread for each call, at most `at_once` of them: a thread that hangs must not keep the process alive."""

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
        except BaseException as error:  # noqa: BLE001  (the future passes it on)
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

    A subject that fails with a `MeshkitError`, or from which nothing arrived for `deadline` seconds, is `Unknown`; so
    is one whose answer is malformed (see `_reading`). Any other exception is a bug of ours, and is raised.
    """
    pool = executor or DaemonThreads(PODS_AT_ONCE)
    caller, began = transport.progress.get(None), time.monotonic()
    calls: dict[concurrent.futures.Future[Any], transport.Progress] = {}
    for subject in subjects:
        progress = transport.Progress(caller)
        calls[pool.submit(_reading, function, subject, progress)] = progress
    while waiting := {future: progress for future, progress in calls.items() if not future.done()}:
        last = max(max(began, progress.last) for progress in waiting.values())
        left = min(last + deadline, began + LONGEST * deadline) - time.monotonic()
        if left <= 0:
            break
        concurrent.futures.wait(waiting, timeout=left)
    return [_outcome(future, deadline) for future in calls]


def _reading(function: Callable[[U], T], subject: U, progress: transport.Progress) -> T:
    """Call a function, and distinguish a malformed answer from a bug of ours.

    A malformed answer makes only its own subject unknown. Where no answer arrived at all, the exception is our bug.

    Raises:
        UnreachableError: an answer is malformed; the message names our place in the code, and quotes nothing of it.
    """
    before = transport.progress.set(progress)
    try:
        return function(subject)
    except _WRONG_SHAPE as error:
        if not progress.answers or mistakes_are_raised:
            raise
        raise UnreachableError(_malformed(error)) from error
    finally:
        transport.progress.reset(before)


def understood(function: Callable[..., T], *read: Any) -> T | Unknown:
    """Return what a function makes of what was read; Unknown where that does not have the fields of its kind.

    For what can only be judged once several clusters are read: within one reading, `gather` does the same.
    """
    try:
        return function(*read)
    except _WRONG_SHAPE as error:
        if mistakes_are_raised:
            raise
        return Unknown(_malformed(error))


def _malformed(error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    ours = [one for one in frames if Path(one.filename).is_relative_to(_PACKAGE) and one.filename != __file__]
    frame = ours[-1] if ours else frames[-1]
    return f"its answer cannot be read ({type(error).__name__} in {Path(frame.filename).name}, line {frame.lineno})"


mistakes_are_raised = False
"""Tests set it, so that a bug of ours in reading good answers does not pass as unknown."""


def _outcome(future: concurrent.futures.Future[T], deadline: float) -> T | Unknown:
    if not future.done():
        future.cancel()
        return Unknown(f"{_LATE} {deadline:.3g} s")
    try:
        return future.result()
    except MeshkitError as error:
        return Unknown(error.message)


class Mesh(Shown):
    """The clusters of one mesh file. Nothing is sent before the first reading."""

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
        """Return the mesh file's overview; no cluster is called."""
        return self.spec.bundle()

    def __getitem__(self, name: str) -> Cluster:
        """Return a cluster by its name.

        Raises:
            InputError: the mesh file has no such cluster.
        """
        if name not in self.clusters:
            near = difflib.get_close_matches(name, self.clusters, n=1)
            message = f"no cluster {name!r}; the mesh file has {', '.join(self.clusters)}"
            raise InputError(message, remedy=f"did you mean {near[0]!r}?" if near else "name one of them")
        return self.clusters[name]

    @classmethod
    def open(
        cls, mesh: MeshSpec | str | Path, *, executor: concurrent.futures.Executor | None = None, timeout: float = 10.0
    ) -> Self:
        """Open the mesh of a file or of a model.

        Args:
            mesh: the mesh file, or its model.
            executor: where calls to clusters run; threads of this process unless given.
            timeout: seconds in which an API server must begin to answer a request, unless the mesh file has
                `requestTimeout`.

        Raises:
            InputError: the file is wrong, or contexts are missing from kubeconfig; all of them are named. An
                unreachable cluster is not an error here.
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

    def remembering(self) -> Self:
        """Return the same mesh, whose clusters send the same read once: for the readings of one moment."""
        return self._with({name: cluster.remembering() for name, cluster in self.clusters.items()})

    @property
    def fresh(self) -> Self:
        """The mesh without a memory: for what reads again to see a change."""
        return self._with({name: cluster.fresh for name, cluster in self.clusters.items()})

    def _with(self, clusters: dict[str, Cluster]) -> Self:
        twin = type(self)(self.spec, clusters, self._executor)
        vars(twin).update(_silent=self._silent, unanswered=self.unanswered)
        return twin

    @property
    def root_namespace(self) -> str:
        """The namespace of istiod and of mesh-wide configuration."""
        return self.spec.mesh.root_namespace

    @property
    def ordered_pairs(self) -> list[tuple[str, str]]:
        """Every ordered pair of cluster names, (client, server)."""
        return self.spec.pairs

    def read_all(self, **readings: Callable[[Mesh], Any]) -> dict[str, Any]:
        """Run several readings of the mesh concurrently, and return their results by name.

        Each may have to wait for a cluster that does not answer. An exception of a reading is raised.
        """
        with concurrent.futures.ThreadPoolExecutor(len(readings)) as pool:
            return dict(zip(readings, pool.map(lambda read: read(self), readings.values()), strict=True))

    def each(self, function: Callable[[Cluster], T], *, deadline: float = 30.0) -> dict[str, T | Unknown]:
        """Call a function for every cluster concurrently; return the answers by name, in the file's order.

        A cluster that fails, or from which nothing arrived for `deadline` seconds, is `Unknown` with the reason. The
        deadline is at least three times the longest `requestTimeout` of the mesh file. A cluster that was too late is
        not called again for `SILENCE` seconds, and is `Unknown` for the same reason.
        """
        patience = max((entry.request_timeout or 0 for entry in self.spec.clusters), default=0)
        deadline = max(deadline, 3 * patience)
        now = time.monotonic()
        silent = {name: why for name, (until, why) in self._silent.items() if now < until}
        called = {name: cluster for name, cluster in self.clusters.items() if name not in silent}
        answers = gather(function, called.values(), deadline=deadline, executor=self._executor)
        known: dict[str, T | Unknown] = {**silent, **dict(zip(called, answers, strict=True))}
        for name, answer in known.items():
            if isinstance(answer, Unknown):
                self.unanswered.setdefault(name, []).append(answer.reason)
                if name in called and _LATE in answer.reason:
                    self._silent[name] = (time.monotonic() + SILENCE, answer)
        return {name: known[name] for name in self.clusters}
