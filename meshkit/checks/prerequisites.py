"""Checks of prerequisites of one mesh: clocks, addresses, versions, NetworkPolicies, namespaces."""

from __future__ import annotations

import csv
import functools
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources

import pandas as pd

from meshkit.checks.finding import Finding, Verdict
from meshkit.checks.question import Question
from meshkit.istio.config import network_policies
from meshkit.istio.control_plane.versions import Version, agree
from meshkit.istio.proxies import injection
from meshkit.kube.mesh import Mesh
from meshkit.tables import Row

GRACE = 120.0
"""Seconds by which a workload certificate is dated back: ClockSkewGracePeriod (security/pkg/pki/util)."""


def check_clocks(clocks: pd.DataFrame, limit: float) -> Iterator[Finding]:
    """MK203: clocks agree pairwise, this machine's too: certificates that are made here must be valid there."""
    for one, other in itertools.combinations(clocks.to_dict("records"), 2):
        yield judge_clocks(one, other, limit)


def judge_clocks(one: Row, other: Row, limit: float) -> Finding:
    """Judge two rows of `inventory.clocks` against the gate, and against the grace that certificates have."""
    subject = f"{one['cluster']}, {other['cluster']}"
    expected = f"{limit:g} s apart at most; certificates forgive {GRACE / 60:g} minutes"
    ask = Question("MK203", "clocks agree", subject, expected)
    if reason := one["reason"] or other["reason"]:
        return ask.unknown(reason)
    apart, doubt = abs(one["seconds"] - other["seconds"]), one["uncertainty"] + other["uncertainty"]
    observed = f"{apart:.1f} s apart, give or take {doubt:.1f} s"
    remedy = "synchronize both clusters' nodes by NTP"
    if apart - doubt > GRACE:
        return ask.fail(f"{observed}: new certificates are not valid yet in the other", remedy)
    if apart + doubt > GRACE:
        return ask.unknown(observed, remedy)
    return ask.judge(apart - doubt <= limit, observed, remedy, otherwise=Verdict.WARN)


def check_names(mesh: Mesh, names: pd.DataFrame) -> Iterator[Finding]:
    """MK206: the DNS names that the mesh depends on resolve in pods of each cluster."""
    for cluster in mesh.clusters:
        rows = names[names["cluster"] == cluster].to_dict("records")
        if not rows:
            ask = Question("MK206", "DNS names resolve in pods", cluster, "every name that is needed there")
            yield ask.answer(Verdict.SKIPPED, "no name is needed there yet; all addresses are numbers")
        for row in rows:
            ask = Question("MK206", "DNS names resolve in pods", cluster, f"{row['name']} ({row['of']}) resolves")
            remedy = f"try `getent hosts {row['name']}` in a pod of {cluster}; CoreDNS, private zones, stub domains?"
            if row["state"] == "untried":
                yield ask.answer(Verdict.SKIPPED, row["detail"])
            elif row["state"] == "UNKNOWN":
                yield ask.unknown(row["detail"], remedy)
            else:
                good = row["state"] == "resolved"
                observed = f"{row['address']}, by {row['tried_from']}" if good else row["detail"]
                yield ask.judge(good, observed, remedy)


def check_versions(mesh: Mesh, versions: pd.DataFrame, istioctl: str, reason: str) -> Iterator[Finding]:
    """MK207: istioctl, and what runs, are of the version of the mesh file, as `gates.versions` has it.

    Args:
        mesh: the mesh.
        versions: of `meshkit.istio.control_plane.versions.versions`.
        istioctl: its version; empty if it could not be asked.
        reason: why not.
    """
    gate, said = mesh.spec.gates.versions, mesh.spec.istio.version
    wanted = said or istioctl
    expected = f"{wanted or 'one version'} ({gate})"
    ask = Question("MK207", "Istio's versions agree", "istioctl", expected)
    remedy = f"put istioctl {said} on the PATH, or say `istio: {{version: …}}` as it is"
    good = agree(istioctl, wanted, gate)
    if not istioctl:
        yield ask.unknown(reason, "install istioctl, or `meshkit lab env` for the lab's")
    elif good is None:
        yield ask.unknown(f"{istioctl} cannot be compared with {wanted}", remedy)
    else:
        yield ask.judge(good, istioctl, remedy)
    for name in mesh.clusters:
        rows = versions[(versions["cluster"] == name) & (versions["component"] != "kubernetes")]
        canary = mesh.spec.gates.revisions == "canary"
        yield from _running(name, rows.to_dict("records"), wanted, gate, canary=canary)


def _running(name: str, rows: Sequence[Row], wanted: str, gate: str, *, canary: bool) -> Iterator[Finding]:
    ask = Question("MK207", "Istio's versions agree", name, f"{wanted or 'one version'} ({gate})")
    if not rows:
        yield ask.answer(Verdict.SKIPPED, f"no Istio yet: stage 05 installs {wanted}")
    for component in sorted({row["component"] for row in rows}):
        own = [row for row in rows if row["component"] == component]
        if reason := next((row["reason"] for row in own if row["reason"]), ""):
            yield ask.unknown(f"{component}: {reason}")
            continue
        found = sorted({row["version"] for row in own})
        answers = {agree(version, wanted, gate) for version in found}
        observed = f"{component} {', '.join(found)}"
        if None in answers and False not in answers:
            yield ask.unknown(
                f"{observed}: cannot be compared with {wanted or 'the wanted version, which is not known'}"
            )
            continue
        if component == "istiod" and canary and True in answers:
            yield ask.answer(Verdict.PASS, f"{observed}: a canary upgrade, as gates.revisions says")
            continue
        remedy = f"upgrade {name} to {wanted} first: a migration is no upgrade"
        if component != "istiod":
            remedy = "restart the workloads: their proxies get the version of their istiod then"
        otherwise = Verdict.FAIL if component == "istiod" else Verdict.WARN
        yield ask.judge(answers == {True}, observed, remedy, otherwise=otherwise)


@dataclass(frozen=True)
class Supported:
    """One line of `supported.csv`: which Kubernetes a minor of Istio is supported on.

    `least` and `newest` are of Istio's table of supported releases; below `refused_below` istioctl's `x precheck` fails
    and `install` warns (MinK8SVersion, istioctl/pkg/install/k8sversion/version.go); `source` says where it stands, and
    `looked_at` when.
    """

    istio: str
    least: str
    newest: str
    refused_below: str
    source: str
    looked_at: str


@functools.cache
def supported() -> Mapping[str, Supported]:
    """Return every line of `supported.csv` by the minor of Istio (`1.31`)."""
    text = resources.files("meshkit.checks").joinpath("supported.csv").read_text(encoding="utf-8")
    return {row["istio"]: Supported(**row) for row in csv.DictReader(text.splitlines())}


def check_kubernetes(versions: pd.DataFrame, istio: str) -> Iterator[Finding]:
    """MK208: Kubernetes is one that this Istio is supported on, by the table in meshkit/checks/supported.csv.

    Below the version at which istioctl refuses it fails; else outside the range it warns.
    """
    target = Version.parse(istio)
    known = supported().get(f"{target.major}.{target.minor}") if target else None
    for row in versions[versions["component"] == "kubernetes"].to_dict("records"):
        expected = f"{known.least} to {known.newest} for Istio {known.istio}" if known else "a version Istio supports"
        ask = Question("MK208", "Kubernetes is supported", row["cluster"], expected)
        found = Version.parse(row["version"])
        if row["reason"] or found is None or target is None:
            yield ask.unknown(row["reason"] or f"Kubernetes {row['version'] or '?'}, Istio {istio or '?'}")
        elif known is None:
            observed = f"Kubernetes {row['version']}; of Istio {istio} meshkit's table says nothing"
            yield ask.unknown(observed, "compare with https://istio.io/latest/docs/releases/supported-releases/")
        else:
            yield _supported(ask, str(row["version"]), found, known)


def _supported(ask: Question, text: str, found: Version, known: Supported) -> Finding:
    refused, least, newest = (_minor(bound) for bound in (known.refused_below, known.least, known.newest))
    minor, source = (found.major, found.minor), f"{known.source}, looked at {known.looked_at}"
    if minor < refused:
        observed = f"{text}: `istioctl x precheck` refuses below {known.refused_below} ({source})"
        return ask.fail(observed, f"upgrade Kubernetes to {known.least} or later before Istio {known.istio}")
    if minor < least:
        observed = f"{text} is older than the oldest supported ({source})"
        return ask.answer(Verdict.WARN, observed, f"upgrade Kubernetes to {known.least} or later")
    if minor > newest:
        observed = f"{text} is newer than the newest supported ({source})"
        later = next((one.istio for one in supported().values() if minor <= _minor(one.newest)), "")
        remedy = (
            f"Istio {later} is supported on it" if later else "no Istio of the table is supported on it: try it first"
        )
        return ask.answer(Verdict.WARN, observed, remedy)
    return ask.answer(Verdict.PASS, text)


def _minor(text: str) -> tuple[int, int]:
    found = Version.parse(text)
    return (found.major, found.minor) if found else (0, 0)


def check_policies(mesh: Mesh, found: pd.DataFrame) -> Iterator[Finding]:
    """MK209: no NetworkPolicy blocks a path that the mesh needs."""
    for name in mesh.clusters:
        ask = Question("MK209", "NetworkPolicies leave the mesh's paths open", name, "none blocked")
        rows = found[found["cluster"] == name].to_dict("records")
        if not rows:
            yield ask.answer(Verdict.PASS, "no NetworkPolicy blocks any")
        for row in _gathered(rows):
            if row["state"] == "UNKNOWN":
                yield ask.unknown(row["reason"])
            elif row["state"] == "not judged":
                yield ask.answer(Verdict.WARN, f"{row['policies']} are there, and not judged here", "look at them")
            else:
                yield _policy(ask, name, row)


def _policy(ask: Question, name: str, row: Row) -> Finding:
    way = f"{row['way']}, {row['direction']} {row['port']}, of {row['pods']}"
    remedy = f"in {name}, `kubectl get networkpolicy -n {row['namespace']}`: add a rule for TCP {row['port']}"
    if row["state"] == network_policies.BLOCKED:
        return ask.fail(f"{row['policies']} of {row['namespace']} would block: {way}", remedy)
    observed = f"{row['policies']} of {row['namespace']} allows by address only: {way}"
    return ask.answer(Verdict.WARN, observed, "is the other end in those ranges?")


def _gathered(rows: Iterable[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: (row["state"], row["namespace"], row["way"], row["direction"]))


def labels(row: Row) -> dict[str, str]:
    """Return the injection labels of a row of `injection.namespaces`."""
    known = {injection.INJECTION_LABEL: row["istio_injection"], injection.REVISION_LABEL: row["revision"]}
    return {key: value for key, value in known.items() if value}


def text(known: dict[str, str]) -> str:
    """Return labels as kubectl writes them."""
    return ", ".join(f"{key}={value}" for key, value in known.items())


def check_injection(mesh: Mesh, found: pd.DataFrame) -> Iterator[Finding]:
    """MK211: labels of a namespace do not contradict each other, and its pods have the sidecars that it asks for."""
    for name in mesh.clusters:
        ask = Question("MK211", "injection is as the labels say", name, "one label per namespace, every pod injected")
        kubectl = f"kubectl --context {mesh.spec.cluster(name).context}"
        rows = found[found["cluster"] == name]
        if reason := next((r for r in rows[rows["namespace"] == ""]["reason"] if r), ""):
            yield ask.unknown(reason)
            continue
        both = rows[(rows["istio_injection"] != "") & (rows["revision"] != "")]
        for row in both.to_dict("records"):
            observed = f"{row['namespace']} has {text(labels(row))}: {injection.INJECTION_LABEL} wins"
            yield ask.answer(
                Verdict.WARN, observed, f"{kubectl} label namespace {row['namespace']} {injection.REVISION_LABEL}-"
            )
        bare = rows[rows["bare"] > 0]
        for row in bare.to_dict("records"):
            observed = f"{row['namespace']}: {row['bare']} pods without a sidecar, e.g. {row['example']}"
            remedy = f"{kubectl} rollout restart deployment -n {row['namespace']}"
            remedy = f"first MK210 and MK215 ({row['problem']}), then {remedy}" if row["problem"] else remedy
            yield ask.answer(Verdict.WARN, observed, remedy)
        if both.empty and bare.empty:
            injected = rows[rows["injected"] > 0]
            yield ask.answer(Verdict.PASS, f"{injected['injected'].sum()} pods in {len(injected)} namespaces injected")
