"""Known defects of istiod's releases in meshes of many clusters, as data.

`known_defects.csv` has one line for each: `first` and `last` release that has it (no first: all before; no last: all
before `free`), the first release known to be `free` of it (empty: none is), `when` it strikes, what it `breaks`, the
remedy, its source, and the day on which that was `looked_at`. Of releases between `last` and `free` nothing is known. A
defect that was fixed in two lines of releases has two lines.
"""

from __future__ import annotations

import csv
import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib import resources
from typing import Final

import pandas as pd

from meshkit.checks.finding import Finding, Verdict
from meshkit.checks.question import Question
from meshkit.istio.control_plane import versions as control_plane_versions
from meshkit.istio.control_plane.versions import FEATURES, Version
from meshkit.kube.mesh import Mesh

HAS, MAY_HAVE = "has", "may have"
SECRET: Final = "secret"  # noqa: S105 - when a remote secret is renewed or removed
CONDITIONS: Final = frozenset({"ambient", "headless", "mixed", "crl", "gateway-api"})
"""Ambient mode; headless Services on a flat network; ambient multi-network beside sidecars; a CRL in cacerts; Gateways
of Gateway API that istiod deploys."""
_ANY: Final = 10**6


@dataclass(frozen=True)
class Defect:
    """One line of `known_defects.csv`.

    `when` is rename (of a running cluster), root (its change), metric, policy (rules of HTTP), secret (a remote one is
    renewed or removed), restart (of istiod), or one of `CONDITIONS`: what a cluster must have to meet it.
    """

    first: str
    last: str
    free: str
    when: str
    breaks: str
    remedy: str
    source: str
    looked_at: str

    def in_version(self, version: Version) -> str:
        """Return whether a release has it: `has`, `may have` (nobody looked, or it names no patch), or nothing.

        A build before the release that has it first, or is free of it first, may have it.
        """
        first, free = Version.parse(self.first) or Version(0, 0), Version.parse(self.free) or Version(_ANY, 0)
        last, named = Version.parse(self.last) or free, version.patch >= 0
        earliest, latest = (version, version) if named else (replace(version, patch=0), replace(version, patch=_ANY))
        if named and version.build and version in (first, free):
            return MAY_HAVE
        if earliest >= free or latest < first:
            return ""
        return HAS if named and version <= last else MAY_HAVE

    @property
    def url(self) -> str:
        """The issue that reports it."""
        repository, _, number = self.source.partition("#")
        return f"https://github.com/{repository}/issues/{number}"


@functools.cache
def known_defects() -> tuple[Defect, ...]:
    """Return every defect, in the order of the file."""
    text = resources.files("meshkit.checks").joinpath("known_defects.csv").read_text(encoding="utf-8")
    return tuple(Defect(**row) for row in csv.DictReader(text.splitlines()))


def check(mesh: Mesh, versions: pd.DataFrame, services: pd.DataFrame, features: pd.DataFrame) -> Iterator[Finding]:
    """MK240: no release of istiod that runs has a known defect in meshes of many clusters.

    Releases whose status is unverified are reported as such. Defects of ambient mode, headless Services, CRLs and
    Gateway API count where these are used. All of them, each with its source: meshkit/checks/known_defects.csv.

    Args:
        mesh: the mesh.
        versions: of `istio.versions.versions`.
        services: of `config.services.services`.
        features: of `istio.versions.features`.
    """
    # Sidecars of one cluster meet the ambient gateway of another.
    mixed = {"proxy", "ztunnel"} <= set(versions["component"]) and mesh.spec.topology.network == "multi"
    for name in mesh.clusters:
        ask = Question("MK240", "istiod's version has no known defect", name, "a release without a known defect")
        rows = versions[versions["cluster"] == name]
        met = {"ambient"} if (rows["component"] == "ztunnel").any() else set()
        own = services[services["cluster"] == name]
        near = any(client == name for client, _ in mesh.spec.direct_pairs)
        met |= {"headless"} if near and own["headless"].any() else set()
        has = features[features["cluster"] == name]
        # What could not be read may be in use.
        used = {*FEATURES} if (has["reason"] != "").any() else set(has["feature"])
        met |= used & {"crl", "gateway-api"}
        met |= {"mixed"} if mixed and "ambient multi-network" in used else set()
        istiods = rows[rows["component"] == "istiod"].drop_duplicates(["version", "reason"]).to_dict("records")
        if not istiods:
            yield ask.answer(Verdict.SKIPPED, "no istiod runs there")
        for row in istiods:
            yield from _of_version(ask, str(row["version"]), str(row["reason"]), met)


def _of_version(ask: Question, text: str, reason: str, met: set[str]) -> Iterator[Finding]:
    version = Version.parse(text)
    if reason or version is None:
        yield ask.unknown(reason or f"version {text or 'unknown'}")
        return
    asked = [defect for defect in known_defects() if defect.when not in CONDITIONS - met]
    found = [(defect, said) for defect in asked if (said := defect.in_version(version))]
    for defect, said in found:
        free = f"free of it is {defect.free}" if defect.free else f"on {defect.looked_at} it was open"
        open_end = f"; {free}, and {text} was not looked at" if said == MAY_HAVE else ""
        observed = f"{text} {said} this ({defect.url}): {defect.breaks}{open_end}"
        yield ask.answer(Verdict.WARN, observed, defect.remedy)
    if not found:
        yield ask.answer(Verdict.PASS, f"{text}: none of {len(asked)}")


def needs_restart_after_secret_change(rows: pd.DataFrame, cluster: str) -> bool:
    """Tell whether an istiod of a cluster must be restarted after a remote secret was changed or removed.

    By `known_defects.csv`; a release whose status is unverified counts. `rows` is of `versions.versions`.
    """
    seen = rows[(rows["cluster"] == cluster) & (rows["component"] == "istiod")]
    known = [version for text in seen["version"] if (version := control_plane_versions.Version.parse(text))]
    of_secrets = [defect for defect in known_defects() if defect.when == SECRET]
    return any(defect.in_version(version) for defect in of_secrets for version in known)
