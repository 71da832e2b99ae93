"""Whether the lab's mesh is healthy: by istioctl for each cluster, and by calls that every cluster must answer."""

from __future__ import annotations

import re
import time
from pathlib import Path

import urllib3

from meshkit.errors import ChangeError
from meshlab.faults import pods
from meshlab.kube import Kube, Refused
from meshlab.layout import Settings, Site, sites
from meshlab.lifecycle import client
from meshlab.tools import Tools, each

PATIENCE = 120.0
CALLS = 40


def wait(home: Path) -> float:
    """Wait until the mesh is healthy; returns the seconds it took.

    Raises:
        ChangeError: it is not healthy in time; the message says what is still wrong.
    """
    begun = time.monotonic()
    while wrong := complaints(home):
        if time.monotonic() - begun > PATIENCE:
            raise ChangeError(f"not healthy after {PATIENCE:.0f} s: {'; '.join(wrong[:5])}", where="lab",
                              remedy="see `istioctl proxy-status` of each context")  # fmt: skip
        time.sleep(0.5)
    return time.monotonic() - begun


def complaints(home: Path) -> list[str]:
    """Return what is wrong with the mesh now; nothing if it is healthy."""
    tools, found = Tools(home), list[str]()
    all_sites = sites(Settings.load(home).clusters)

    def look(site: Site) -> None:
        try:
            problems = [f"{each} is not ready" for each in pods.lacking(reach(tools, site))]
            remote = tools.shape.control_plane == "primary-remote" and site.number > 1  # it has no istiod to ask
            for ask in (unanswered,) if remote else (unsynced, stale, unanswered):
                problems = problems or ask(tools, site, all_sites)
        except (Refused, urllib3.exceptions.HTTPError) as error:
            problems = [f"the API server does not answer ({type(error).__name__})"]
        found.extend(f"{site.name}: {words}" for words in problems)

    each(all_sites, look)
    return sorted(found)


def unsynced(tools: Tools, site: Site, all_sites: list[Site]) -> list[str]:
    """Return which clusters istiod is not in step with, by `istioctl remote-clusters`."""
    output = output_of(tools, site, "remote-clusters")
    rows = [line.split() for line in output.splitlines()[1:]]
    synced = {row[0] for row in rows if "synced" in row}
    other = [row[0] for row in rows if "synced" not in row]
    return [f"istiod is not in step with {name}" for name in [*sorted({s.name for s in all_sites} - synced), *other]]


def stale(tools: Tools, site: Site, _: list[Site]) -> list[str]:
    """Return which proxies do not have what istiod sent, by `istioctl proxy-status`."""
    rows = output_of(tools, site, "proxy-status", "-v", "1").splitlines()[1:]
    known = {row.split()[0] for row in rows if row}
    bad = [row.split()[0] for row in rows if re.search(r"\b(STALE|ERROR|NOT SENT)\b", row)]
    metas = [pod["metadata"] for pod in pods.chosen(reach(tools, site), pods.PROXIES)]
    lost = {f"{meta['name']}.{meta['namespace']}" for meta in metas} - known
    return [f"{name} is not in sync" for name in (*bad, *sorted(lost))]


def unanswered(tools: Tools, site: Site, all_sites: list[Site]) -> list[str]:
    """Return which clusters did not answer calls of sleep to httpbin."""
    url = f"http://httpbin.sample:8000/hostname?[1-{CALLS}]"
    curl = ("curl", "-sS", "-m", "5", "-w", "\n%{http_code}\n", url)
    answers = output_of(
        tools, site, "exec", "-n", "sample", "deploy/sleep", "-c", "sleep", "--", *curl, program="kubectl"
    )
    serving = {other.name: pods.chosen(reach(tools, other), "sample/httpbin") for other in all_sites}
    missing = [f"no answer of {name} in {CALLS} calls" for name, served in serving.items()
               if not any(pod["metadata"]["name"] in answers for pod in served)]  # fmt: skip
    failed = sum(line != "200" for line in answers.splitlines() if re.fullmatch(r"\d{3}", line))
    return missing + ([f"{failed} of {CALLS} calls failed"] if failed else [])


def reach(tools: Tools, site: Site) -> Kube:
    """Return a client of a cluster's API server."""
    return client(tools.home, Settings.load(tools.home), site)


def output_of(tools: Tools, site: Site, *argv: str, program: str = "istioctl") -> str:
    """Return a tool's output, or its error message if it failed."""
    try:
        return tools.run(program, "--context", site.context, *argv)
    except ChangeError as error:
        return error.message
