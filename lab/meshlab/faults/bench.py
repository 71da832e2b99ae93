"""The operations of faults: each first records how to revert it, and then changes the lab.

The note is a file in the lab's folder, so another process can heal. Healing reverts the steps in reverse order; then it
restarts what runs with a broken configuration or certificate, in the recorded order.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from meshkit.errors import ChangeError, InputError
from meshlab import lifecycle
from meshlab.faults import inside, objects, pods
from meshlab.faults.objects import Ref
from meshlab.kube import Kube, Object
from meshlab.layout import Settings, Site, replace, sites

Step = dict[str, Any]


class Note:
    """The steps that revert one fault, in a file that exists while the fault does."""

    def __init__(self, home: Path, fault: str) -> None:
        self.path = home / "faults" / f"{fault}.json"

    def begin(self, cluster: str, since: str, *, hidden: bool = False) -> None:
        """Claim the fault; a hidden one belongs to a training round.

        Raises:
            InputError: it is broken already.
        """
        self.path.parent.mkdir(mode=0o700, exist_ok=True)
        try:
            os.close(os.open(self.path, os.O_CREAT | os.O_EXCL, 0o600))
        except FileExistsError:
            raise InputError(f"{self.path.stem} is broken already", where="meshkit lab break",
                             remedy=f"heal it first: `meshkit lab heal {self.path.stem}`") from None  # fmt: skip
        self._write({"cluster": cluster, "since": since, "untold": hidden, "undo": [], "after": []})

    def read(self) -> dict[str, Any]:
        """Return the note; one that was only begun has nothing to revert."""
        text = self.path.read_text()
        document: dict[str, Any] = json.loads(text) if text else {"cluster": "", "since": "", "undo": [], "after": []}
        return document

    def add(self, when: str, step: Step) -> None:
        """Note a step of `undo` or `after`."""
        document = self.read()
        document[when].append(step)
        self._write(document)

    def end(self) -> None:
        """Remove the note: the fault is reverted completely."""
        self.path.unlink(missing_ok=True)

    def _write(self, document: dict[str, Any]) -> None:
        replace(self.path, json.dumps(document), 0o600)


def notes(home: Path) -> dict[str, dict[str, Any]]:
    """Return the notes of all that is broken now, by the names of the faults."""
    return {path.stem: Note(home, path.stem).read() for path in (home / "faults").glob("*.json")}


class Bench:
    """The lab during one fault: `site` is the cluster that breaks, `peer` another one that observes it."""

    def __init__(self, home: Path, note: Note, cluster: str) -> None:
        self.home, self.note = home, note
        self.settings = Settings.load(home)
        self.sites = sites(self.settings.clusters)
        self.site = self._site(cluster)
        others = [site for site in self.sites if site != self.site]
        if not others:
            raise InputError("this lab has one cluster only", where=str(home), remedy="meshkit lab up --start meshed")
        self.peer = others[0]

    def _site(self, name: str) -> Site:
        names = {site.name: site for site in self.sites}
        if name not in names:
            raise InputError(f"--cluster: expected one of {', '.join(names)}, got {name!r}", where=str(self.home))
        return names[name]

    def kube(self, site: Site) -> Kube:
        """Return a client of a cluster's API server."""
        return lifecycle.client(self.home, self.settings, site)

    # Objects -----------------------------------------------------------------------------------------------------

    def get(self, site: Site, ref: Ref) -> Object:
        """Return an object.

        Raises:
            ChangeError: there is none, so this lab is not a finished mesh, or is broken in another way.
        """
        found = objects.read(self.kube(site), ref)
        if found is None:
            raise ChangeError(f"{site.name} has no {ref}", where="lab",
                              remedy="faults need a healthy mesh: `meshkit lab up --start meshed`")  # fmt: skip
        return found

    def edit(self, site: Site, ref: Ref, change: Callable[[Object], object]) -> None:
        """Change an object in place."""
        before = self.get(site, ref)
        self._remember(site, ref, before)
        wanted = json.loads(json.dumps(before))
        change(wanted)
        objects.put(self.kube(site), ref, wanted)

    def delete(self, site: Site, ref: Ref) -> Object:
        """Delete an object, and return what it was."""
        before = self.get(site, ref)
        self._remember(site, ref, before)
        objects.remove(self.kube(site), ref)
        return before

    def keep(self, site: Site, *refs: Ref) -> None:
        """Record objects before something else than the bench changes them."""
        for ref in refs:
            self._remember(site, ref, self.get(site, ref))

    def create(self, site: Site, item: Object) -> None:
        """Create an object.

        Raises:
            ChangeError: there is one of its name.
        """
        ref = Ref(item["kind"], item["metadata"]["name"], item["metadata"].get("namespace", ""))
        if objects.read(self.kube(site), ref) is not None:
            raise ChangeError(f"{site.name} has a {ref} already", where="lab",
                              remedy="`meshkit lab faults` shows what is broken")  # fmt: skip
        self._remember(site, ref, None)
        objects.put(self.kube(site), ref, item)

    def _remember(self, site: Site, ref: Ref, before: Object | None) -> None:
        for name, other in notes(self.home).items():
            if name != self.note.path.stem and any(same(step, site, ref) for step in other["undo"]):
                raise ChangeError(f"{name} changed {ref} of {site.name}, too", where="lab",
                                  remedy=f"heal it first: `meshkit lab heal {name}`")  # fmt: skip
        place = {"site": site.number, "kind": ref.kind, "name": ref.name, "namespace": ref.namespace}
        self.note.add("undo", {"do": "object", **place, "before": before})

    # Processes and the network -----------------------------------------------------------------------------------

    def restart(self, site: Site, *which: str) -> None:
        """Restart istiod, all proxies, or the pods of a Deployment (NAMESPACE/NAME), now and after the fault's end."""
        self.restart_later(site, *which)
        for each in which:
            pods.restart(self.kube(site), each)

    def restart_later(self, site: Site, *which: str) -> None:
        """Restart them after the fault's end only."""
        for each in which:
            self.note.add("after", {"do": "restart", "site": site.number, "which": each})

    def settle(self, site: Site) -> None:
        """Wait until every Deployment of a cluster has what it asks for."""
        pods.settle(self.kube(site))

    def firewall(self, netns: str, *rule: str) -> None:
        """Drop packets in a network namespace: that of a node, of a pod, or (named "") of the WAN."""
        self.note.add("undo", {"do": "firewall", "netns": netns, "rule": list(rule)})
        inside.firewall(self.home, netns, list(rule), on=True)

    def signal(self, site: Site, container: str, number: int, undo: int = 0) -> None:
        """Signal a container's first process (NAMESPACE/POD/CONTAINER), and record the signal that reverts it."""
        pid = inside.states(self.home, site)[f"{container}.json"]["pid"]
        if undo:
            place = {"site": site.number, "container": container, "pid": pid}
            self.note.add("undo", {"do": "signal", **place, "number": undo})
        inside.run(self.home, "kill", f"-{int(number)}", str(pid))

    def clock(self, site: Site, seconds: int) -> None:
        """Shift the clock of every process of a cluster."""
        self.note.add("undo", {"do": "clock", "site": site.number})
        inside.set_clock(self.home, site, seconds)

    def revert(self) -> None:
        """Revert the recorded steps, latest first, then repeat the restarts; idempotent."""
        document = self.note.read()
        for step in reversed(document["undo"]):
            self._undo(step)
        for site in self.sites:
            self.settle(site)
        for step in document["after"]:
            pods.restart(self.kube(Site(step["site"])), step["which"])

    def _undo(self, step: Step) -> None:
        if step["do"] == "object":
            ref = Ref(step["kind"], step["name"], step["namespace"])
            objects.put_back(self.kube(Site(step["site"])), ref, step["before"])
        elif step["do"] == "firewall":
            if not step["netns"].startswith("p-") or step["netns"] in self._pods():
                inside.firewall(self.home, step["netns"], step["rule"], on=False)
        elif step["do"] == "clock":
            inside.set_clock(self.home, Site(step["site"]), 0)
        elif step["do"] == "signal":
            there = inside.states(self.home, Site(step["site"])).get(f"{step['container']}.json", {})
            if there.get("pid") == step["pid"]:
                inside.run(self.home, "kill", f"-{step['number']}", str(step["pid"]))

    def _pods(self) -> set[str]:
        return {name for site in self.sites for name in inside.namespaces(self.home, site)}


def same(step: Step, site: Site, ref: Ref) -> bool:
    """Return whether a step reverts a change of an object."""
    return step["do"] == "object" and (step["site"], step["kind"], step["name"], step["namespace"]) == (
        site.number, ref.kind, ref.name, ref.namespace)  # fmt: skip
