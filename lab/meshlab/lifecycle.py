"""Start, look at and end the lab: what `meshkit lab up|status|down` do."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
import urllib3

from meshkit.errors import ChangeError, InputError, UnreachableError
from meshlab import cluster, front, kubeconfig
from meshlab.kube import Kube, Refused
from meshlab.kubeconfig import ACTS_AS, ROBOT
from meshlab.layout import MAX_CLUSTERS, Say, Settings, Site, folder, programs, sites
from meshlab.programs import releases
from meshlab.shapes.shape import combined

PATIENCE = 90.0
LONGEST_PATH = 80
PROGRAMS = ("etcd", "kube-apiserver", "kube-controller-manager", "nodeapi")


def keeper(home: Path) -> psutil.Process | None:
    """Return the process that keeps the lab of this folder, or None when none runs."""
    return next((p for p, role in box_processes(home) if role == "keep"), None)


def box_processes(home: Path) -> list[tuple[psutil.Process, str]]:
    """Return what holds this folder's lab together, each with its role: keep (the keeper) or first (the box's own).

    They are known by their command lines, not by a file: a file may be stale, or not yet written.
    """
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            argv = process.cmdline()
            if "meshlab.sandbox" in argv and argv[-1] == str(home):
                found.append((process, argv[-2]))
    return found


@contextlib.contextmanager
def exclusively(home: Path) -> Iterator[None]:
    """Hold the folder against every other `meshkit lab up` and `down`; the lock is on the folder itself.

    Raises:
        InputError: another one is at work in it.
    """
    descriptor = os.open(home, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if not locked(descriptor, home):
            raise InputError("another `meshkit lab up` or `down` is at work in this folder", where=str(home),
                             remedy="wait for it")  # fmt: skip
        yield
    finally:
        os.close(descriptor)


def locked(descriptor: int, home: Path) -> bool:
    """Lock an open folder, and return whether that came about and it still is the folder of that path."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return home.exists() and os.fstat(descriptor).st_ino == home.stat().st_ino


def start(
    clusters: int, rtt_ms: int, flat: bool, say: Say, *, live_roots: bool = False, shapes: Sequence[str] = ()
) -> Settings:
    """Start bare clusters of a shape and wait until their API servers and nodes are ready.

    Raises:
        InputError: the numbers make no lab, no shape has such a name, the folder is not a lab's, or a lab runs in it
            already.
        UnreachableError: a program is not built.
        ChangeError: the box ended, or was not ready in time; the message names its log.
    """
    home, shape = folder(), combined(shapes)
    if not 1 <= clusters <= MAX_CLUSTERS:
        raise InputError(f"--clusters: expected 1 to {MAX_CLUSTERS}, got {clusters}")
    if rtt_ms < 0:
        raise InputError(f"--rtt: expected milliseconds from 0 up, got {rtt_ms}")
    if len(str(home)) > LONGEST_PATH:
        raise InputError(f"the lab's folder has a path too long for Unix sockets ({len(str(home))} > {LONGEST_PATH})",
                         where=str(home), remedy="set MESHKIT_LAB_DIR to a shorter one")  # fmt: skip
    lacking = [name for name in PROGRAMS if not (programs() / name).exists()]
    if lacking:
        raise UnreachableError(f"programs are not built: {', '.join(lacking)}", where=str(programs()),
                               remedy="build them: `meshkit lab build`")  # fmt: skip
    for release in shape.releases:
        releases.require(release)
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    with exclusively(home):
        if keeper(home):
            raise InputError("a lab of yours runs already, and there can be one at a time", where=str(home),
                             remedy="use it (`meshkit lab status`), or end it: `meshkit lab down`")  # fmt: skip
        end(home)
        wipe(home)
        *ports, before_all = free_ports(clusters + 1)
        settings = Settings(clusters, rtt_ms, flat or shape.flat, tuple(ports), live_roots, tuple(shapes), shape.domain,
                            shape.one_vpc, shape.release(), before_all)  # fmt: skip
        settings.save(home)
        for site in sites(clusters):
            cluster.prepare(home, site)
        front.prepare(home, shape.kubeconfig)
        kubeconfig.write(home, settings, sites(clusters), shape.kubeconfig)
        say(f"starting {clusters} cluster(s): {', '.join(s.context for s in sites(clusters))}")
        process = start_keeper(home)
        wait_ready(home, settings, process, say)
        if shape.kubeconfig == "impersonation":
            for site in sites(clusters):
                allow_impersonation(client(home, settings, site))
    return settings


def start_keeper(home: Path) -> psutil.Process:
    """Start the lab's keeper in a session of its own; it outlives this process, so nobody here waits for it."""
    output = (os.POSIX_SPAWN_OPEN, 1, str(home / "box.log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    pid = os.posix_spawn(
        sys.executable,
        [sys.executable, "-m", "meshlab.sandbox", "keep", str(home)],
        os.environ,
        file_actions=[(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0), output, (os.POSIX_SPAWN_DUP2, 1, 2)],
        setsid=True,
    )
    return psutil.Process(pid)


def wait_ready(home: Path, settings: Settings, process: psutil.Process, say: Say) -> None:
    """Wait until each cluster has a ready node, by its API server's own word."""
    begun, waiting = time.monotonic(), sites(settings.clusters)
    while waiting:
        if not lives(process):
            raise ChangeError(f"the lab ended while starting: {tail(home / 'box.log')}", where=str(home / "box.log"),
                              remedy="`meshkit doctor` names what this machine lacks")  # fmt: skip
        if "a daemon ended" in (last_lines := tail(home / "box.log")):
            raise ChangeError(f"a part of the lab ended while starting: {last_lines}", where=str(home / "log"),
                              remedy="read the logs there; end it: `meshkit lab down`")  # fmt: skip
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
    except (Refused, urllib3.exceptions.HTTPError):
        return False


def client(home: Path, settings: Settings, site: Site) -> Kube:
    """Return a client of a cluster from outside the box."""
    kube = Kube(home / site.name / "node.kubeconfig")
    kube.server = f"https://127.0.0.1:{settings.ports[site.number - 1]}"
    return kube


def allow_impersonation(kube: Kube) -> None:
    """Let the robot of a kubeconfig act as an administrator, and as nobody else."""
    may = {"apiGroups": [""], "resources": ["users", "groups"], "resourceNames": [ACTS_AS]}
    role = {"metadata": {"name": ROBOT}, "rules": [{**may, "verbs": ["impersonate"]}]}
    kube.call("POST", "/apis/rbac.authorization.k8s.io/v1/clusterroles", role)
    for kind, name, allowed in (
        ("User", ROBOT, ROBOT),
        ("Group", ACTS_AS, "cluster-admin"),
    ):
        api = "rbac.authorization.k8s.io"
        kube.call("POST", f"/apis/{api}/v1/clusterrolebindings", {
            "metadata": {"name": name},
            "roleRef": {"apiGroup": api, "kind": "ClusterRole", "name": allowed},
            "subjects": [{"apiGroup": api, "kind": kind, "name": name}],
        })  # fmt: skip


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
    if not home.exists():
        say("no lab runs")
        return
    with exclusively(home):
        ran = end(home)
        wipe(home)
        home.rmdir()
    say("nothing of the lab is left" if ran else "no lab ran; its folder is removed")


def end(home: Path) -> bool:
    """End what lives of the lab of this folder, its keeper alive or not; returns whether anything did.

    Raises:
        ChangeError: something does not end.
    """
    # With the box's first process the kernel ends all its processes, and that one is gone only when they all are.
    members = [process for process, _ in box_processes(home)]
    for process in members:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    deadline = time.monotonic() + 20
    while alive := [p.pid for p in members if lives(p)]:
        if time.monotonic() > deadline:
            raise ChangeError(f"{len(alive)} processes of the lab do not end: {alive}")
        time.sleep(0.02)
    for process in members:
        with contextlib.suppress(ChildProcessError):  # ours only where this process started the lab
            os.waitpid(process.pid, os.WNOHANG)
    return bool(members)


def lives(process: psutil.Process) -> bool:
    """Return whether a process still runs; one that only waits to be collected by its parent does not."""
    try:
        # A killed process is a zombie from its first thread's end on: the others may still hold its sockets.
        return bool(process.status() != psutil.STATUS_ZOMBIE) or process.num_threads() > 1
    except psutil.NoSuchProcess:
        return False


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


def tail(path: Path, lines: int = 3) -> str:
    """Return the last lines of a log, on one line."""
    return " | ".join(path.read_text(errors="replace").strip().splitlines()[-lines:]) if path.exists() else "no log"
