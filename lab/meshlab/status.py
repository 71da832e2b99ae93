"""What runs of the lab, as a table: one row for each daemon and each container, the dead ones included."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import psutil
import urllib3

from meshkit.errors import UnreachableError
from meshlab import lifecycle
from meshlab.kube import Object, Refused
from meshlab.layout import Settings, Site, folder, sites

DAEMONS = ("etcd", "kube-apiserver", "kube-controller-manager", "nodeapi", "node")
COLUMNS = ["component", "cluster", "pod", "pid", "state", "mib", "cpu_s", "log"]
CONTAINER = re.compile(r"/run/lab/(?P<cluster>[^/]+)/pods/(?P<uid>[^/]+)/(?P<name>[^/]+)/(?P<restart>\d+)/start\.sh")
Key = tuple[str, str, str]


@dataclass
class Row:
    """A daemon or a container, with all its processes."""

    component: str
    cluster: str = ""
    pod: str = ""
    pid: int | None = None
    state: str = "dead"
    mib: float = 0.0
    cpu_s: float = 0.0
    log: str = ""


def table() -> pd.DataFrame:
    """Return one row for each daemon and each container of the lab.

    component (a daemon's or a container's name), cluster, pod (namespace/name), pid of its first process as seen from
    outside, state (daemons: running, dead; containers: ready, not ready, or unknown where the API server does not
    answer), mib (resident memory of all its processes), cpu_s (seconds of CPU so far), log (in the lab's folder).

    Raises:
        UnreachableError: no lab runs.
    """
    home = folder()
    keeper = lifecycle.keeper(home)
    if keeper is None:
        raise UnreachableError("no lab runs", where=str(home), remedy="start one: `meshkit lab up`")
    settings = Settings.load(home)
    rows = expected(settings)
    gather([keeper, *keeper.children(recursive=True)], home, settings, rows)
    frame = pd.DataFrame([[getattr(row, column) for column in COLUMNS] for row in rows.values()], columns=COLUMNS)
    return frame.astype({"pid": "Int64"})


def expected(settings: Settings) -> dict[Key, Row]:
    """Return the daemons that belong to a lab, none of them seen yet."""
    rows = {("", name, ""): Row(name, log=log) for name, log in
            (("keeper", "box.log"), ("box", "box.log"), ("wan", "log/wan.log"))}  # fmt: skip
    for site in sites(settings.clusters):
        rows |= {(site.name, n, ""): Row(n, site.name, log=f"log/{site.name}-{n}.log") for n in DAEMONS}
    return rows


def gather(processes: list[psutil.Process], home: Path, settings: Settings, rows: dict[Key, Row]) -> None:
    """Count each process to its daemon or container: its own row, or that of its nearest ancestor that has one."""
    pods = {site.name: known_pods(home, settings, site) for site in sites(settings.clusters)}
    owner: dict[int, Key] = {}
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            argv = process.cmdline()
            key = daemon(argv, home, settings) or container(argv, rows, pods) or owner.get(process.ppid())
            if key is None or key not in rows or process.status() == psutil.STATUS_ZOMBIE:
                continue
            owner[process.pid] = key
            count(process, argv, rows[key])


def count(process: psutil.Process, argv: list[str], row: Row) -> None:
    """Add a process to its row; `unshare` only stands before the real one."""
    times = process.cpu_times()
    row.mib = round(row.mib + process.memory_info().rss / 2**20, 1)
    row.cpu_s = round(row.cpu_s + times.user + times.system, 1)
    wrapper = bool(argv) and Path(argv[0]).name == "unshare"
    if row.pid is None and not wrapper:
        row.pid = process.pid
    if row.state == "dead":
        row.state = "running"


def daemon(argv: list[str], home: Path, settings: Settings) -> Key | None:
    """Return which daemon a command line is, or None."""
    if "-m" in argv:
        module, *rest = argv[argv.index("-m") + 1 :]
        name = module.removeprefix("meshlab.")
        if name == "sandbox":
            return "", "keeper" if rest[:1] == ["keep"] else "box", ""
        if name == "node":
            return Site(int(rest[1])).name, "node", ""
        return ("", "wan", "") if name == "wan_relay" else None
    # A controller manager that still waits for its API server is a shell with the whole command in it.
    program = next((Path(word).name for word in argv if Path(word).name in DAEMONS), None)
    cluster = next((s.name for s in sites(settings.clusters) if f"{home}/{s.name}/" in " ".join(argv)), None)
    return (cluster, program, "") if cluster and program else None


def container(argv: list[str], rows: dict[Key, Row], pods: dict[str, dict[str, Object]]) -> Key | None:
    """Return which container a command line starts, or None; its row is made when first seen."""
    match = next((m for word in argv if (m := CONTAINER.fullmatch(word))), None)
    if match is None:
        return None
    cluster, uid, name, restart = match["cluster"], match["uid"], match["name"], match["restart"]
    key = cluster, name, uid
    if key not in rows:
        pod = pods.get(cluster, {}).get(uid)
        namespace, pod_name = (pod["metadata"]["namespace"], pod["metadata"]["name"]) if pod else ("", uid)
        log = f"log/{cluster}-pods/{namespace}_{pod_name}_{uid}/{name}/{restart}.log" if pod else ""
        rows[key] = Row(name, cluster, f"{namespace}/{pod_name}" if pod else uid, state=health(pod, name), log=log)
    return key


def health(pod: Object | None, container_name: str) -> str:
    """Return what the node says of a container: ready, not ready, or unknown."""
    status = (pod or {}).get("status", {})
    found = [*status.get("containerStatuses", []), *status.get("initContainerStatuses", [])]
    ready = next((c["ready"] for c in found if c["name"] == container_name), None)
    return "unknown" if ready is None else "ready" if ready else "not ready"


def known_pods(home: Path, settings: Settings, site: Site) -> dict[str, Object]:
    """Return a cluster's pods by uid; none where its API server does not answer."""
    try:
        items = lifecycle.client(home, settings, site).call("GET", "/api/v1/pods")["items"]
    except (Refused, urllib3.exceptions.HTTPError):
        return {}
    return {item["metadata"]["uid"]: item for item in items}
