"""One container as processes: a root of its own, namespaces, environment, logs, signals.

A container has mount, PID and UTS namespaces of its own and its pod's network namespace; its root is made in memory
and borrows the machine's programs and libraries, so the pod's volumes stand at their real paths and nothing of the
machine is written. All of it goes with the last process.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import selectors
import signal
import subprocess
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from meshkit.lab.images import Image
from meshkit.lab.root import start_script


def now() -> str:
    """Return the time as Kubernetes writes it."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Logs:
    """One thread that turns all containers' output into log files of the CRI's format."""

    def __init__(self) -> None:
        self.selector = selectors.DefaultSelector()
        self.wake, self.waker = os.pipe()
        self.selector.register(self.wake, selectors.EVENT_READ)
        self.lock = threading.Lock()
        threading.Thread(target=self._run, daemon=True, name="logs").start()

    def follow(self, descriptor: int, stream: str, file: BinaryIO) -> None:
        """Copy what arrives at a pipe's reading end into the file until the pipe is closed."""
        with self.lock:
            self.selector.register(descriptor, selectors.EVENT_READ, [stream, file, b""])
        os.write(self.waker, b".")

    def _run(self) -> None:
        while True:
            for entry, _ in self.selector.select():
                data = os.read(entry.fd, 1 << 16)
                if entry.fd == self.wake:
                    continue
                stream, file, rest = entry.data
                *lines, entry.data[2] = (rest + data).split(b"\n") if data else ([rest, b""] if rest else [b""])
                stamp = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%f000Z")
                file.write(b"".join(f"{stamp} {stream} F ".encode() + line + b"\n" for line in lines))
                file.flush()
                if not data:
                    with self.lock:
                        self.selector.unregister(entry.fd)
                    os.close(entry.fd)


@dataclass
class Process:
    """A container that was started."""

    outer: subprocess.Popen[bytes]
    pid: int
    started: str = field(default_factory=now)

    def end(self) -> int | None:
        """Return the exit code once it ended (128 + signal, as Kubernetes says it), else None."""
        code = self.outer.poll()
        return code if code is None or code >= 0 else 128 - code

    def signal(self, number: int) -> None:
        """Signal the container's first process only, as a container runtime does."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End the container with all its processes."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        self.outer.kill()
        self.outer.wait()


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
    ends = []
    for stream in ("stdout", "stderr"):
        reading, writing = os.pipe()
        # Envoy opens /dev/stdout again, as its own user.
        os.fchown(writing, *user)
        logs.follow(reading, stream, file)
        ends.append(writing)
    outer = subprocess.Popen(
        ["/usr/bin/nsenter", f"--net=/run/netns/{netns}", "/usr/bin/unshare", "--mount", "--uts", "--pid", "--fork",
         "--kill-child", "/bin/sh", str(script), *argv],
        stdin=subprocess.DEVNULL, stdout=ends[0], stderr=ends[1], env=env, start_new_session=True,
    )  # fmt: skip
    for end in ends:
        os.close(end)
    return Process(outer, first_inside(outer))


def first_inside(outer: subprocess.Popen[bytes], timeout: float = 10.0) -> int:
    """Return the PID, as seen here, of the container's first process once it stands in its own root."""
    children = Path(f"/proc/{outer.pid}/task/{outer.pid}/children")
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline and outer.poll() is None:
        with contextlib.suppress(OSError, IndexError):
            pid = int(children.read_text().split()[0])
            if Path(f"/proc/{pid}/root").readlink() != Path("/"):
                return pid
        time.sleep(0.005)
    return outer.pid
