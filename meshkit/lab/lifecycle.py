"""Start, look at and end the lab: what `meshkit lab up|status|down` do."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import urllib3

from meshkit.errors import ChangeError, InputError, UnreachableError
from meshkit.lab import cluster
from meshkit.lab.kube import Kube
from meshkit.lab.layout import MAX_CLUSTERS, Settings, Site, folder, sites

PATIENCE = 90.0
LONGEST_PATH = 80
Say = Callable[[str], None]


def keeper(home: Path) -> psutil.Process | None:
    """Return the process that keeps the lab of this folder, or None when none runs."""
    try:
        process = psutil.Process(int((home / "keeper.pid").read_text()))
        return process if str(home) in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE else None
    except (FileNotFoundError, ValueError, psutil.NoSuchProcess):
        return None


def start(clusters: int, rtt_ms: int, flat: bool, say: Say) -> Settings:
    """Start bare clusters and wait until their API servers and nodes are ready.

    Raises:
        InputError: the numbers make no lab, or a lab of this user runs already.
        ChangeError: the box ended, or was not ready in time; the message names its log.
    """
    home = folder()
    if not 1 <= clusters <= MAX_CLUSTERS:
        raise InputError(f"--clusters: expected 1 to {MAX_CLUSTERS}, got {clusters}")
    if rtt_ms < 0:
        raise InputError(f"--rtt: expected milliseconds from 0 up, got {rtt_ms}")
    if len(str(home)) > LONGEST_PATH:
        raise InputError(f"the lab's folder has a path too long for Unix sockets ({len(str(home))} > {LONGEST_PATH})",
                         where=str(home), remedy="set MESHKIT_LAB_DIR to a shorter one")  # fmt: skip
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = (home.parent / f"{home.name}.lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InputError(
            "another `meshkit lab` is at work in this folder", where=str(home), remedy="wait for it"
        ) from None
    if keeper(home):
        raise InputError("a lab of yours runs already, and there can be one at a time", where=str(home),
                         remedy="use it (`meshkit lab status`), or end it: `meshkit lab down`")  # fmt: skip
    wipe(home)
    settings = Settings(clusters, rtt_ms, flat, tuple(free_ports(clusters)))
    settings.save(home)
    for site in sites(clusters):
        cluster.prepare(home, site)
    cluster.write_kubeconfig(home, settings, sites(clusters))
    say(f"starting {clusters} cluster(s): {', '.join(s.context for s in sites(clusters))}")
    with (home / "box.log").open("ab") as log:
        process = subprocess.Popen([sys.executable, "-m", "meshkit.lab.box", "keep", str(home)], stdin=subprocess.DEVNULL,
                                   stdout=log, stderr=log, start_new_session=True)  # fmt: skip
    wait_ready(home, settings, process, say)
    return settings


def wait_ready(home: Path, settings: Settings, process: subprocess.Popen[bytes], say: Say) -> None:
    """Wait until each cluster has a ready node, by its API server's own word."""
    begun, waiting = time.monotonic(), sites(settings.clusters)
    while waiting:
        if process.poll() is not None:
            raise ChangeError(f"the lab ended while starting: {tail(home / 'box.log')}", where=str(home / "box.log"),
                              remedy="`meshkit doctor` names what this machine lacks")  # fmt: skip
        if time.monotonic() - begun > PATIENCE:
            names = ", ".join(s.name for s in waiting)
            raise ChangeError(
                f"not ready after {PATIENCE:.0f} s: {names}",
                where=str(home / "log"),
                remedy="read the logs there; end it: `meshkit lab down`",
            )
        for site in list(waiting):
            if node_ready(home, settings, site):
                waiting.remove(site)
                say(f"{site.name} is up ({time.monotonic() - begun:.1f} s)")
        time.sleep(0.1)


def node_ready(home: Path, settings: Settings, site: Site) -> bool:
    """Return whether a cluster's node and its first namespaces are there."""
    try:
        kube = client(home, settings, site)
        kube.call("GET", "/api/v1/namespaces/default/serviceaccounts/default")
        return bool(kube.call("GET", "/api/v1/nodes")["items"])
    except Exception as error:
        if isinstance(error, urllib3.exceptions.HTTPError) or type(error).__name__ == "Refused":
            return False
        raise


def client(home: Path, settings: Settings, site: Site) -> Kube:
    """Return a client of a cluster from outside the box."""
    kube = Kube(home / site.name / "node.kubeconfig")
    kube.server = f"https://127.0.0.1:{settings.ports[site.number - 1]}"
    return kube


def free_ports(count: int) -> list[int]:
    """Return so many loopback ports that nobody uses now."""
    taken = [socket.socket() for _ in range(count)]
    for each in taken:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in taken]
    for each in taken:
        each.close()
    return ports


def stop(say: Say) -> None:
    """End the lab and remove its folder; a lab that is not there is no error."""
    home = folder()
    process = keeper(home)
    if process:
        members = [process, *process.children(recursive=True)]
        say(f"ending {len(members)} processes")
        for child in process.children():
            child.send_signal(signal.SIGKILL)  # `unshare --kill-child`: the kernel ends the whole box with it
        _, alive = psutil.wait_procs(members, timeout=20)
        if alive:
            raise ChangeError(f"{len(alive)} processes of the lab do not end: {[p.pid for p in alive]}")
    if home.exists():
        wipe(home)
        home.rmdir()
    (home.parent / f"{home.name}.lock").unlink(missing_ok=True)
    say("nothing of the lab is left" if process else "no lab runs")


def wipe(home: Path) -> None:
    """Empty the lab's folder, and only a folder that is a lab's (or empty)."""
    entries = list(home.iterdir())
    if entries and not (home / "settings.json").exists():
        raise InputError(
            "this folder is not empty and not a lab's", where=str(home), remedy="set MESHKIT_LAB_DIR to another folder"
        )
    for entry in entries:
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def status() -> list[dict[str, Any]]:
    """Return one record for each process of the lab: component, cluster, pid, state, MiB, CPU seconds, log.

    Raises:
        UnreachableError: no lab runs.
    """
    home = folder()
    process = keeper(home)
    if process is None:
        raise UnreachableError("no lab runs", where=str(home), remedy="start one: `meshkit lab up`")
    settings = Settings.load(home)
    known = {s.name for s in sites(settings.clusters)}
    rows = []
    for each in [process, *process.children(recursive=True)]:
        try:
            component, site = describe(each, known)
            memory = each.memory_info().rss / 2**20
            times = each.cpu_times()
            rows.append({"component": component, "cluster": site, "pid": each.pid, "state": each.status(),
                         "mib": round(memory, 1), "cpu_s": round(times.user + times.system, 1)})  # fmt: skip
        except psutil.NoSuchProcess:
            continue
    return rows


def describe(process: psutil.Process, known: set[str]) -> tuple[str, str]:
    """Return a process's component and cluster as far as its command line and folder tell."""
    argv = process.cmdline() or [process.name()]
    name = Path(argv[0]).name
    if name.startswith("python") and "-m" in argv:
        name = argv[argv.index("-m") + 1].removeprefix("meshkit.lab.")
    text = " ".join(argv)
    site = next((k for k in known if f"/{k}/" in text), "")
    return name, site


def tail(path: Path, lines: int = 3) -> str:
    """Return the last lines of a log, on one line."""
    return " | ".join(path.read_text(errors="replace").strip().splitlines()[-lines:]) if path.exists() else "no log"


def user_is_root() -> bool:
    """Return whether the lab would start with root's rights."""
    return os.geteuid() == 0
