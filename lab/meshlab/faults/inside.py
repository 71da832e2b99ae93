"""Programs that run inside the lab's sandbox: for its firewalls, processes and clocks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from meshkit.errors import ChangeError, UnreachableError
from meshlab import cluster, lifecycle
from meshlab.kube import Object
from meshlab.layout import Site

SBIN = "/usr/local/sbin:/usr/sbin:/sbin"


def run(
    home: Path, *argv: str, netns: str = "", check: bool = True, timeout: float = 60
) -> subprocess.CompletedProcess[str]:
    """Run a program in the box, in the WAN's network namespace or in one that is named.

    Raises:
        TimeoutExpired: it did not end in time.
        UnreachableError: no lab runs.
        ChangeError: the program failed, and `check` is set.
    """
    first = next((process.pid for process, role in lifecycle.box_processes(home) if role == "first" and
                  argv_of(process.pid)[0] != "unshare"), None)  # fmt: skip
    if first is None:
        raise UnreachableError("no lab runs", where=str(home), remedy="start one: `meshkit lab up --start meshed`")
    user = [] if os.geteuid() == 0 else ["--user", "--preserve-credentials"]
    there = ["nsenter", f"--net=/run/netns/{netns}"] if netns else []
    command = ["nsenter", f"--target={first}", *user, "--mount", "--net", "--pid", "--", *there, *argv]
    env = {**os.environ, "PATH": os.pathsep.join([os.environ.get("PATH", os.defpath), SBIN])}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=timeout, env=env)
    if check and done.returncode:
        output = " | ".join((done.stderr or done.stdout).strip().splitlines()[-3:])
        raise ChangeError(f"`{' '.join(argv[:4])}` failed in the sandbox: {output}", where="lab")
    return done


def argv_of(pid: int) -> list[str]:
    """Return a process's command line, its program by its last name."""
    import psutil

    argv: list[str] = psutil.Process(pid).cmdline()
    return [argv[0].rpartition("/")[2], *argv[1:]]


def states(home: Path, site: Site) -> dict[str, Object]:
    """Return a node's container states, by the path of the file: NAMESPACE/POD/CONTAINER.json."""
    # Not echo: dash's takes JSON's backslashes for its own.
    script = 'cd "$1"; for f in */*/*.json; do printf "%s %s\\n" "$f" "$(cat "$f")"; done'
    listing = run(home, "sh", "-c", script, "sh", str(cluster.state(site))).stdout
    pairs = (line.partition(" ") for line in listing.splitlines())
    return {path: json.loads(text) for path, _, text in pairs if text}  # one that went meanwhile has none


def namespaces(home: Path, site: Site) -> list[str]:
    """Return the network namespaces of a cluster's machine: the node's and its pods'."""
    pods = [
        state["netns"].rpartition("/")[2] for path, state in states(home, site).items() if path.endswith("/pod.json")
    ]
    return [site.name, *pods]


def set_clock(home: Path, site: Site, seconds: int) -> None:
    """Set the clock of every process that runs on a cluster's machine off by seconds; 0 puts it right."""
    run(home, sys.executable, "-m", "meshlab.faults.clock", str(seconds), *namespaces(home, site))


def firewall(home: Path, netns: str, rule: list[str], *, on: bool) -> None:
    """Add or remove a rule that drops packets; idempotent."""
    there = run(home, "iptables", "-w", "-t", "raw", "-C", *rule, netns=netns, check=False).returncode == 0
    if there != on:
        run(home, "iptables", "-w", "-t", "raw", "-I" if on else "-D", *rule, netns=netns)
