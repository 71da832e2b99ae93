"""The steps of stage 04 as a run's journal has them: each change of a cluster's `cacerts`, and its restarts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from meshkit.changes.journal import Entry, Journal
from meshkit.istio.ca import istiod_ca, model
from meshkit.kube.manifests import Object
from meshkit.kube.mesh import Mesh
from meshkit.stages.trust import discovery_pause


@dataclass
class JournalStep:
    """One change of a cluster's cacerts, with the restarts that followed it. `secret` is None for restarts alone."""

    cluster: str
    secret: Entry | None
    restarts: list[Entry] = field(default_factory=list)
    reading: Entry | None = None
    """Instead: a remote secret that was paused or resumed (meshkit.stages.trust.discovery_pause)."""
    now: Object | None = field(default=None, repr=False)
    former: Object | None = field(default=None, repr=False)
    """The Secrets, after and before it; where there was none before, istiod's self-signed one."""
    made: bool = True
    """Whether it is in effect: the run may have been killed before it was made, or after it was reverted."""


def steps(mesh: Mesh, book: Journal, entries: Sequence[Entry]) -> list[JournalStep]:
    """Return the changes of stage 04 in the order in which they were made, with those of their restarts that stand.

    A Secret that an earlier undo restored keeps its restarts: they may still be due.
    """
    found: list[JournalStep] = []
    live = {entry.cluster: mesh.clusters[entry.cluster] for entry in entries}
    before: list[tuple[JournalStep, Object | None]] = []
    for entry in entries:
        if entry.action == "restart":
            own = (step for step in reversed(found) if step.cluster == entry.cluster and not step.reading)
            last = next(own, None)
            if last is None:
                found.append(last := JournalStep(entry.cluster, None))
            last.restarts += [entry] if entry.stands else []
            continue
        private = book.private(entry)
        if discovery_pause.is_pause(private["manifests"]):
            if not entry.stands:
                continue
            found.append(JournalStep(entry.cluster, None, reading=entry, former=private["before"][0]))
            continue
        self_signed = mesh.clusters[entry.cluster].find("secrets", mesh.root_namespace, istiod_ca.SELF_SIGNED)
        former = private["before"][0] or self_signed
        found.append(JournalStep(entry.cluster, entry, now=private["manifests"][0], former=former))
        before.append((found[-1], private["before"][0]))
    after = {name: target.find("secrets", mesh.root_namespace, model.SECRET) for name, target in live.items()}
    for step, former in reversed(before):
        if not (step.secret and step.secret.stands):
            step.made = False
            continue
        step.made = _data(after[step.cluster]) != _data(former)
        step.now = after[step.cluster] or step.now  # others may have changed it since
        after[step.cluster] = former
    _join_repeated(found)
    return found


def _join_repeated(found: Sequence[JournalStep]) -> None:
    """Give the restarts of a resumed run to the first change of the phase that it repeated.

    Only reverting that one restores the former state, and only then must its workloads restart.
    """
    first: dict[str, JournalStep] = {}
    for step in found:
        if not step.secret or not step.made:
            continue
        before = first.get(step.cluster)
        if before and before.secret and _phase(before.secret) == _phase(step.secret):
            before.restarts += step.restarts
            step.restarts = []
        else:
            first[step.cluster] = step


def _phase(entry: Entry) -> str:
    return entry.why.partition(":")[0]


def _data(secret: Object | None) -> Any:
    return (secret or {}).get("data")
