"""Starting the lab's programs inside the sandbox, with their output in its log."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
from pathlib import Path

PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent dies (for Popen's preexec_fn)."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def run(*argv: str) -> None:
    """Run a program that must succeed; its output is in the sandbox's log."""
    subprocess.run(argv, check=True)


def spawn(
    home: Path, name: str, argv: list[str], *, netns: str = "", env: dict[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start a daemon of the box with a log of its own, in a network namespace if one is named."""
    # nsenter, not `ip netns exec`: the latter gives a private mount namespace, where later pods' names never appear.
    inside = ["nsenter", f"--net=/run/netns/{netns}"] if netns else []
    log = home / "log" / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        return subprocess.Popen([*inside, *argv], stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                                env={**os.environ, **(env or {})})  # fmt: skip
