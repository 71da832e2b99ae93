"""One container as processes: a root of its own, namespaces, environment, logs, signals.

A container has mount, PID and UTS namespaces of its own and its pod's network namespace; its root is made in memory
and borrows the machine's programs and libraries, so the pod's volumes stand at their real paths and nothing of the
machine is written. All of it goes with the last process.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import selectors
import signal
import subprocess
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from meshlab.images import Image
from meshlab.kube import Object
from meshlab.probes import Probe
from meshlab.rootfs import start_script

CHUNK = 1 << 16
LOG_ROUNDS = 0.05


def now() -> str:
    """Return the time as Kubernetes writes it."""
    return dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Logs:
    """One thread that turns all containers' output into log files of the CRI's format."""

    def __init__(self) -> None:
        self.selector = selectors.DefaultSelector()
        self.wake, self.waker = os.pipe()
        self.selector.register(self.wake, selectors.EVENT_READ)
        self.lock = threading.Lock()
        threading.Thread(target=self._run, daemon=True, name="logs").start()

    def follow(self, descriptor: int, stream: str, file: BinaryIO) -> threading.Event:
        """Copy what arrives at a pipe's reading end into the file; returns what is set when the pipe is closed."""
        followed = Followed(stream, file)
        with self.lock:
            self.selector.register(descriptor, selectors.EVENT_READ, followed)
        os.write(self.waker, b".")
        return followed.done

    def _run(self) -> None:
        due = 0.0
        while True:
            ready = self.selector.select()
            # Many lines at a time: one by one, those of a load of hundreds a second would take a third of a core.
            time.sleep(max(0.0, due - time.monotonic()))
            due = time.monotonic() + LOG_ROUNDS
            for entry, _ in ready:
                data = os.read(entry.fd, CHUNK)
                if len(data) == CHUNK:
                    due = 0.0
                if entry.fd == self.wake:
                    continue
                try:
                    entry.data.take(data)
                except OSError as error:  # a full disk must not stop the others, nor block the container
                    print(f"log lost: {error}", flush=True)
                if not data:
                    with self.lock:
                        self.selector.unregister(entry.fd)
                    os.close(entry.fd)
                    entry.data.done.set()


@dataclass
class Followed:
    """One stream of a container on its way into a log file."""

    stream: str
    file: BinaryIO
    rest: bytes = b""
    done: threading.Event = field(default_factory=threading.Event)

    def take(self, data: bytes) -> None:
        """Write whole lines; of a line without end, pieces (P), so that no line fills the memory."""
        *lines, self.rest = (self.rest + data).split(b"\n")
        tagged = [(b"F", line) for line in lines]
        if self.rest and (not data or len(self.rest) >= CHUNK):
            tagged.append((b"P" if data else b"F", self.rest))
            self.rest = b""
        stamp = dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.%f000Z")
        start = f"{stamp} {self.stream} ".encode()
        self.file.write(b"".join(start + tag + b" " + line + b"\n" for tag, line in tagged))
        self.file.flush()


@dataclass
class Process:
    """A container that was started."""

    outer: subprocess.Popen[bytes]
    pid: int
    handle: int | None
    written: list[threading.Event]
    started: str = field(default_factory=now)

    def end(self) -> int | None:
        """Return the exit code once it ended (128 + signal, as Kubernetes says it), else None."""
        code = self.outer.poll()
        return code if code is None or code >= 0 else 128 - code

    def signal(self, number: int) -> None:
        """Signal the container's first process only, as a container runtime does."""
        # Never by number: the process may have ended, and its number be another's by now.
        if self.handle is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.handle, number)

    def kill(self) -> None:
        """End the container with all its processes, and wait until all that it said is in its log."""
        self.signal(signal.SIGKILL)
        self.outer.kill()
        self.outer.wait()
        if self.handle is not None:
            os.close(self.handle)
            self.handle = None
        for done in self.written:
            done.wait(timeout=2)


@dataclass
class Container:
    """A container's spec, and what became of it so far."""

    spec: Object
    init: bool = False
    process: Process | None = None
    restarts: int = 0
    waiting: tuple[str, str] = ("PodInitializing", "")
    exited: Object | None = None
    last: Object | None = None
    not_before: float = 0.0
    probes: dict[str, Probe] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The container's name in its pod."""
        return str(self.spec["name"])

    @property
    def sidecar(self) -> bool:
        """Whether it is a native sidecar: an init container that keeps running."""
        return self.init and self.spec.get("restartPolicy") == "Always"

    @property
    def started(self) -> bool:
        """Whether it runs and its startup probe, if any, was answered."""
        return self.process is not None and ("startupProbe" not in self.spec or self._ok("startupProbe"))

    @property
    def ready(self) -> bool:
        """Whether it is started and its readiness probe, if any, is answered."""
        if self.init and not self.sidecar:
            return self.exited is not None and self.exited["exitCode"] == 0
        return self.started and ("readinessProbe" not in self.spec or self._ok("readinessProbe"))

    def _ok(self, kind: str) -> bool:
        return kind in self.probes and self.probes[kind].ok is True

    def status(self) -> Object:
        """Return the containerStatus as the kubelet writes it."""
        if self.process:
            state: Object = {"running": {"startedAt": self.process.started}}
        elif self.exited:
            state = {"terminated": self.exited}
        else:
            reason, message = self.waiting
            state = {"waiting": {"reason": reason, **({"message": message} if message else {})}}
        return {
            "name": self.name,
            "image": self.spec["image"],
            "imageID": "",
            "restartCount": self.restarts,
            "ready": self.ready,
            "started": self.started,
            "state": state,
            "lastState": {"terminated": self.last} if self.last else {},
        }


def start(
    *,
    folder: Path,
    netns: str,
    hostname: str,
    image: Image,
    argv: list[str],
    env: dict[str, str],
    cwd: str,
    user: tuple[int, int],
    mounts: dict[str, Path],
    logs: Logs,
    log: Path,
) -> Process:
    """Start a container; `mounts` maps paths inside to files or folders outside.

    Raises:
        OSError: its root could not be made or the program is not there; the log has the words.
    """
    folder.mkdir(parents=True, exist_ok=True)
    script = folder / "start.sh"
    script.write_text(start_script(folder / "root", hostname, {**image.files, **mounts}, cwd, user))
    log.parent.mkdir(parents=True, exist_ok=True)
    file = log.open("ab")
    ends, written = [], []
    for stream in ("stdout", "stderr"):
        reading, writing = os.pipe()
        # Envoy opens /dev/stdout again, as its own user.
        os.fchown(writing, *user)
        written.append(logs.follow(reading, stream, file))
        ends.append(writing)
    outer = subprocess.Popen(
        ["/usr/bin/nsenter", f"--net=/run/netns/{netns}", "/usr/bin/unshare", "--mount", "--uts", "--pid", "--fork",
         "--kill-child", "/bin/sh", str(script), *argv],
        stdin=subprocess.DEVNULL, stdout=ends[0], stderr=ends[1], env=env, start_new_session=True,
    )  # fmt: skip
    for end in ends:
        os.close(end)
    return Process(outer, *first_inside(outer), written)


def first_inside(outer: subprocess.Popen[bytes], timeout: float = 10.0) -> tuple[int, int | None]:
    """Return the container's first process, once it stands in its own root: its PID as seen here, and a handle.

    The handle (a pidfd) is None where the process ended before it was seen.
    """
    children = Path(f"/proc/{outer.pid}/task/{outer.pid}/children")
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline and outer.poll() is None:
        with contextlib.suppress(OSError, IndexError):
            pid = int(children.read_text().split()[0])
            if Path(f"/proc/{pid}/root").readlink() != Path("/"):
                handle = os.pidfd_open(pid)
                if children.read_text().split()[:1] == [str(pid)]:
                    return pid, handle
                os.close(handle)
        time.sleep(0.005)
    return outer.pid, None
