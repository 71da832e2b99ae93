"""Checks of revisions: the running ones against the mesh file's, and the istiods that injection labels lead to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

import pandas as pd

from meshkit.checks import prerequisites
from meshkit.checks.finding import Finding, Verdict
from meshkit.checks.question import Question
from meshkit.istio.control_plane.revisions import (
    DEFAULT,
    INJECTION,
    REVISION,
    ControlPlanes,
    named,
)
from meshkit.kube.mesh import Mesh, Unknown

Found = Mapping[str, ControlPlanes | Unknown]
NOT_READ = Unknown("its control planes were not read")
CANARY = 2
"""Revisions of a canary upgrade: the old one and the new one."""


def check(mesh: Mesh, found: Found) -> Iterator[Finding]:
    """MK109: the revisions that run are the mesh file's; during a canary upgrade it is one of two.

    Stage 05 installs the mesh file's revision: beside another one that would be a second control plane, which takes
    over the default tag, gateways and new pods.
    """
    wanted = named(mesh.spec.istio.revision)
    also = ", and at most one more" if mesh.spec.gates.revisions == "canary" else " alone"
    for name in mesh.clusters:
        ask = Question("MK109", "the mesh file names the running revision", name, f"no istiod, or {wanted}{also}")
        planes = found.get(name, NOT_READ)
        if isinstance(planes, Unknown):
            yield ask.unknown(planes.reason, "see MK101")
        else:
            yield _judge(mesh, found, name, planes, ask)


def _judge(mesh: Mesh, found: Found, name: str, planes: ControlPlanes, ask: Question) -> Finding:
    wanted, root = named(mesh.spec.istio.revision), mesh.root_namespace
    here = planes.running(root)
    if not here and planes.istiods:
        places = sorted({f"{one.revision} in namespace {one.namespace}" for one in planes.istiods})
        namespace = planes.istiods[0].namespace
        observed = f"none in {root}, but {', '.join(places)}"
        return ask.fail(
            observed, f"if that is this mesh's, say `mesh: {{rootNamespace: {namespace}}}` in the mesh file"
        )
    if not here and (left := _left(mesh, name, planes)):
        return ask.fail(*left)
    observed = "; ".join(_described(planes, revision) for revision in here) or "no istiod"
    others = [revision for revision in here if revision != wanted]
    if not others:
        return ask.answer(Verdict.PASS, observed)
    if wanted not in here:
        return ask.fail(*_not_running(mesh, found, name, planes, observed))
    if mesh.spec.gates.revisions != "canary":
        remedy = (
            "while two are meant, say `gates: {revisions: canary}` in the mesh file; else move what still follows "
            f"{', '.join(others)} to {wanted}, and remove the rest of it by what installed it"
        )
        return ask.fail(observed, remedy)
    remedy = f"end one upgrade before the next: a canary upgrade has {CANARY} revisions"
    return ask.judge(len(here) <= CANARY, observed, remedy, otherwise=Verdict.WARN)


def _left(mesh: Mesh, name: str, planes: ControlPlanes) -> tuple[str, str] | None:
    """Return what injects in a cluster where no istiod runs, and the remedy; None where stage 05 may install.

    It may where nothing is installed, or the mesh file's revision, whose istiods are down. A remote cluster is to have
    webhooks that call the istiod of another one.
    """
    root, context = mesh.root_namespace, mesh.spec.cluster(name).context
    hooks = [hook for hook in planes.webhooks if not hook.tag]
    if name in mesh.spec.remotes or mesh.spec.topology.control_plane == "external":
        return None
    if outside := next((hook for hook in hooks if hook.served_by), None):
        observed = f"no istiod, but {outside.configuration} calls one outside of the cluster ({outside.service})"
        return observed, "an istiod here would be a second control plane: leave that cluster out of the mesh file"
    down = {hook.revision: hook for hook in hooks if hook.service.startswith(f"{root}/")}
    if not down or named(mesh.spec.istio.revision) in down:
        return None
    revision, hook = next(iter(down.items()))
    remedy = f"`kubectl --context {context} -n {root} get deployments,pods -l app=istiod` shows why none runs; then "
    remedy += f"{_write(revision)}, or remove what is left of {revision} by what installed it"
    return f"no istiod runs, but revision {revision} is installed ({hook.configuration})", remedy


def _described(planes: ControlPlanes, revision: str) -> str:
    tags = sorted(tag.name for tag in planes.tags if tag.revision == revision and tag.name != revision)
    return f"revision {revision}" + (f" (tags {', '.join(tags)})" if tags else "")


def _not_running(mesh: Mesh, found: Found, name: str, planes: ControlPlanes, told: str) -> tuple[str, str]:
    """Return what to say of a cluster whose istiods are all of other revisions than the mesh file's, and the remedy."""
    wanted, here = named(mesh.spec.istio.revision), planes.running(mesh.root_namespace)
    if (target := planes.target(wanted)) in here:
        return f"{told}; {wanted} is a tag of {target}, and no revision", _write(target)
    known = {other: p for other, p in found.items() if isinstance(p, ControlPlanes) and other != name}
    alike = sorted(other for other, p in known.items() if wanted in p.running(mesh.root_namespace))
    if alike:
        remedy = f"the mesh file has one revision for all clusters: bring {name} to {wanted} by a canary upgrade first"
        return f"{told}; {', '.join(alike)} runs {wanted}", remedy
    if len(here) == 1:
        return told, _write(here[0])
    return told, _write(planes.default) if planes.default in here else f"name one of them: {_write(here[0])}"


def _write(revision: str) -> str:
    if revision == DEFAULT:
        return "take `istio.revision` out of the mesh file: the running istiod has no revision"
    return f'write `istio: {{revision: "{revision}"}}` in the mesh file'


def stops(mesh: Mesh, found: Found) -> str:
    """Return why nothing may be planned: the first failure or unknown of MK109, or an empty text."""
    bad = (f for f in check(mesh, found) if f.verdict in (Verdict.FAIL, Verdict.UNKNOWN))
    return next((f"{f.id} of {f.subject}: {f.observed}" for f in bad), "")


def check_labels(mesh: Mesh, injected: pd.DataFrame, found: Found) -> Iterator[Finding]:
    """MK215: each namespace that asks for sidecars has a webhook that injects them, and an istiod behind it.

    It fails where pods with a sidecar would lose it at their next restart. Of the probe's namespace MK210 says it.
    """
    for name in mesh.clusters:
        ask = Question("MK215", "labels of injection lead to an istiod", name, "a webhook for each, with an istiod")
        rows, planes = injected[injected["cluster"] == name], found.get(name, NOT_READ)
        unread = next((r for r in rows[rows["namespace"] == ""]["reason"] if r), "")
        if unread or isinstance(planes, Unknown):
            yield ask.unknown(unread or str(planes), "see MK101")
            continue
        asked = rows[rows["namespace"] != mesh.spec.probe.namespace]
        bad = 0
        for row in asked[asked["problem"] != ""].to_dict("records"):
            own = prerequisites.labels(row)
            if planes.to_come(own, mesh.spec.istio.revision):
                continue  # before stage 05
            bad += 1
            observed = f"{row['namespace']}: {row['problem']}; {row['injected']} pods have a sidecar"
            if planes.injection(row["namespace"], own).unknown:
                yield ask.unknown(observed, "meshkit evaluates selectors, and no CEL")
            else:
                verdict = Verdict.FAIL if row["injected"] else Verdict.WARN
                yield ask.answer(verdict, observed, remedy(mesh, name, planes, row["namespace"], own))
        if not bad:
            yield ask.answer(Verdict.PASS, f"{(asked['injected_by'] != '').sum()} namespaces besides the probe's")


def remedy(mesh: Mesh, name: str, planes: ControlPlanes, namespace: str, labels: Mapping[str, str]) -> str:
    """Return the commands that give sidecars to a namespace whose label no webhook selects."""
    context, root = mesh.spec.cluster(name).context, mesh.root_namespace
    here, wanted = planes.running(root), named(mesh.spec.istio.revision)
    revision = wanted if wanted in here or not here else here[0]
    tag = DEFAULT if labels.get(INJECTION) else labels.get(REVISION, DEFAULT)
    if not here:
        return f"stage 05 installs revision {wanted} there; then look again"
    if tag == revision:
        return f"the webhook of revision {revision} does not select it: install that revision again, as it was"
    where = "" if root == "istio-system" else f" -i {root}"
    over = " --overwrite" if planes.target(tag) else ""
    drop = f" {INJECTION}-" if labels.get(INJECTION) else ""
    label = f"{REVISION}={revision}"
    return (
        f"`istioctl --context {context}{where} tag set {tag} --revision {revision}{over}`, or "
        f"`kubectl --context {context} label --overwrite namespace {namespace} {label}{drop}`"
    )


def check_followed(mesh: Mesh, injected: pd.DataFrame) -> Iterator[Finding]:
    """MK216: proxies are of the revision that would inject them now: a new label or tag moves them at a restart only.

    What passes names how many proxies follow which revision.
    """
    for name in mesh.clusters:
        ask = Question("MK216", "proxies follow the revision of their labels", name, "injected by it, each")
        rows = injected[injected["cluster"] == name]
        if reason := next((r for r in rows[rows["namespace"] == ""]["reason"] if r), ""):
            yield ask.unknown(reason, "see MK101")
            continue
        context = mesh.spec.cluster(name).context
        for row in rows[rows["outdated"] > 0].to_dict("records"):
            observed = f"{row['namespace']}: {row['followed']}; {row['outdated']} would be of another revision now"
            remedy = f"kubectl --context {context} -n {row['namespace']} rollout restart deployment"
            yield ask.answer(Verdict.WARN, observed, remedy)
        counted: Counter[str] = Counter()
        for pair in ", ".join(text for text in rows["followed"] if text).split(", "):
            revision, _, count = pair.partition("×")
            counted[revision] += int(count or 0)
        observed = ", ".join(f"{revision}: {count}" for revision, count in sorted(counted.items()) if count)
        if not (rows["outdated"] > 0).any():
            yield ask.answer(
                Verdict.PASS if observed else Verdict.SKIPPED, observed or "no proxy was injected by a revision"
            )
