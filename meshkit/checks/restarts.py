"""What may keep new pods from starting, before a stage restarts some: registries that end, quotas, PodSecurity."""

from __future__ import annotations

import csv
import functools
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from importlib import resources
from typing import Final

import pandas as pd

from meshkit import clock
from meshkit.checks.finding import Finding, Verdict
from meshkit.checks.question import Question
from meshkit.istio.proxies import images, quotas
from meshkit.istio.proxies.admission import ADMISSION, UNTRIED
from meshkit.istio.proxies.new_pods import INSTALL, NewPodFacts
from meshkit.kube.mesh import Mesh
from meshkit.tables import Row

_NAMED_AT_MOST: Final = 6
_MINUTE: Final = "%Y-%m-%d %H:%M UTC"


@dataclass(frozen=True)
class Retired:
    """One line of `retired.csv`: a registry that ends, when, when it is off for a trial, and what to use instead.

    `ends` is the last day of the month that was announced.
    """

    registry: str
    ends: str
    outage_from: str
    outage_until: str
    instead: str
    source: str
    looked_at: str

    def holds(self, image: str) -> bool:
        """Return whether an image, or a hub, is of this registry."""
        return image == self.registry or image.startswith(f"{self.registry}/")

    def off(self, moment: datetime) -> bool:
        """Return whether it gives no images then: in the trial, or after the end."""
        outage = (self.outage_from, self.outage_until)
        begins, over = (datetime.strptime(minute, _MINUTE).replace(tzinfo=UTC) for minute in outage)
        return begins <= moment < over or moment.date() > date.fromisoformat(self.ends)


@functools.cache
def retired() -> tuple[Retired, ...]:
    """Return every line of `retired.csv`."""
    text = resources.files("meshkit.checks").joinpath("retired.csv").read_text(encoding="utf-8")
    return tuple(Retired(**row) for row in csv.DictReader(text.splitlines()))


def check(mesh: Mesh, facts: NewPodFacts | None, stale: pd.DataFrame | None = None) -> Iterator[Finding]:
    """Judge what was read; without facts nothing: the stage restarts nothing.

    Args:
        mesh: the mesh.
        facts: of `new_pods.look`.
        stale: of `workloads.stale`: what stage 05 restarts, where that is still to come. What it could not, fails.
    """
    columns = ("cluster", "namespace", "kind", "workload")
    restarted = () if stale is None else {*zip(*(stale[column] for column in columns), strict=True)}
    for name in mesh.clusters if facts else ():
        yield check_images(facts.images, name)  # type: ignore[union-attr]
        yield from check_admitted(facts.refusals, name, restarted)  # type: ignore[union-attr]


def check_images(found: pd.DataFrame, name: str) -> Finding:
    """MK241: no new pod has its image from a registry of Istio's that ends: it would stay in ImagePullBackOff.

    Which registries end, and when they are off for a trial before that: meshkit/checks/retired.csv. While one is off it
    fails. Looked at are templates of workloads, the hub that is injected, pods that run, and what stage 05 would
    install.
    """
    ask = Question("MK241", "no image is of a registry that ends", name, "no image of a registry that ends")
    rows = found[found["cluster"] == name]
    if reason := next((r for r in rows["reason"] if r), ""):
        return ask.unknown(reason)
    known = rows[rows["image"] != ""].to_dict("records")
    bad = [(row, end) for row in known for end in retired() if end.holds(str(row["image"]))]
    if not bad:
        return ask.answer(
            Verdict.PASS, f"{len(known)} images of Istio, none of those" if known else "no image of Istio"
        )
    ends = {end.registry: end for _, end in bad}
    when = "; ".join(
        f"{e.registry} ends by {e.ends}, and is off from {e.outage_from} to {e.outage_until} ({e.source})"
        for e in ends.values()
    )
    users = list(dict.fromkeys(_user(row) for row, _ in bad))
    more = [f"{len(users) - _NAMED_AT_MOST} more"] if len(users) > _NAMED_AT_MOST else []
    hubs = ", ".join(sorted({str(row["image"]).rpartition("/")[0] for row, _ in bad}))
    observed = f"{hubs}: {', '.join([*users[:_NAMED_AT_MOST], *more])}; {when}"
    instead = next(iter(ends.values())).instead
    remedy = (
        f"set the hub to {instead}, or to a mirror of yours, before pods are restarted: `hub: {instead}` in"
        f" istio.overlay for istioctl, `--set global.hub={instead}` for Helm; then restart istiod, gateways, workloads"
    )
    off = any(end.off(clock.now()) for end in ends.values())
    return ask.answer(Verdict.FAIL if off else Verdict.WARN, observed, remedy)


def _user(row: Row) -> str:
    if row["source"] == INSTALL:
        return "what stage 05 installs"
    what = f"{row['kind']} {row['namespace']}/{row['workload']}"
    return f"every new sidecar ({what})" if row["source"] == images.INJECTOR else what


def check_admitted(found: pd.DataFrame, name: str, restarted: Collection[tuple[str, ...]] = ()) -> Iterator[Finding]:
    """MK242: nothing refuses the new pods of a rolling restart: no quota, no PodSecurity, no webhook or policy.

    Where one does, the restart stands still: the Deployment says ReplicaFailure, and its old pods stay. So it fails for
    a workload that stage 05 restarts.

    Args:
        found: of `quotas.refusals`.
        name: the cluster.
        restarted: cluster, namespace, kind and name of the workloads that stage 05 restarts.
    """
    ask = Question("MK242", "new pods of a restart are admitted", name, "room for one more pod, and nothing forbidden")
    rows = found[found["cluster"] == name]
    if reason := next((r for r in rows["reason"] if r), ""):
        yield ask.unknown(reason)
        return
    untried = rows.loc[rows["by"] == UNTRIED, "says"]
    for row in rows[rows["by"] != UNTRIED].to_dict("records"):
        observed = f"{row['kind']} {row['namespace']}/{row['workload']}: {row['by']}: {row['says']}"
        remedy = f"raise {row['by']} of {row['namespace']}, or let the Deployment have maxSurge: 0"
        if row["by"] in (quotas.POD_SECURITY, ADMISSION):
            remedy = f"correct the pod, or let what refuses it admit pods of {row['namespace']}"
        if row["by"] == quotas.POD_SECURITY and "istio-init" in row["says"]:
            remedy = f"install istio-cni, so that pods need no such right, or relax the label of {row['namespace']}"
        held = (name, row["namespace"], row["kind"], row["workload"]) in restarted
        yield ask.answer(
            Verdict.FAIL if held else Verdict.WARN, observed + ("; stage 05 restarts it" if held else ""), remedy
        )
    if len(untried):
        yield ask.answer(Verdict.SKIPPED, f"admission by others than Istio was not tried: {untried.iloc[0]}")
    elif rows.empty:
        yield ask.answer(Verdict.PASS, "nothing refuses one")
