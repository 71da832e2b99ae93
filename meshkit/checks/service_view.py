"""What keeps a cluster's clients from another cluster's endpoints of the probe's Service, object by object."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from meshkit.checks.finding import Finding, Verdict
from meshkit.checks.question import Question, arrow
from meshkit.istio.config.hindrances import MESH_CONFIG, POD, SERVICE, Hindrance, Impact, Link
from meshkit.istio.config.service_view import ServiceView
from meshkit.istio.config.services import EXPORT_TO
from meshkit.kube.mesh import Mesh

ID = "MK728"


def check(mesh: Mesh, views: Iterable[ServiceView]) -> Iterator[Finding]:
    """MK728: no object takes the other cluster's endpoints away from clients, or has their calls refused.

    One finding for each object and pair. What only steers calls, or concerns some pods or calls, is a warning.
    """
    for view in views:
        subject = arrow(view.client, view.server)
        wanted = f"nothing between clients of {view.client} and {view.service} of {view.server}"
        ask = Question("MK728", "no object keeps clients from the other cluster", subject, wanted)
        hindrances = [one for one in view.hindrances if one.link is not Link.PREFERENCE]
        for one in hindrances:
            verdict = Verdict.FAIL if one.impact is Impact.BREAKS else Verdict.WARN
            yield ask.answer(verdict, str(one), remedy(mesh, view, one))
        if view.reason:
            yield ask.unknown(view.reason)
        elif not hindrances:
            yield ask.answer(Verdict.PASS, "; ".join(["none", *map(str, view.of(Link.PREFERENCE))]))


def named(mesh: Mesh, views: Iterable[ServiceView], client: str, server: str, *links: Link) -> str:
    """Return the object that is the cause for a pair, with its remedy, for the remedy of what follows from it.

    Of several it is the first in Istio's order of those that break the links; nothing where none is known.
    """
    found = [(view, one) for view in views if (view.client, view.server) == (client, server) for one in view.of(*links)]
    worst = sorted(found, key=lambda pair: pair[1].impact is not Impact.BREAKS)
    return next((f"{ID}: {one}: {remedy(mesh, view, one)}" for view, one in worst), "")


def remedy(mesh: Mesh, view: ServiceView, one: Hindrance) -> str:
    """Return the command that changes the object: all of it where the change is plain, else its editor."""
    kubectl = f"kubectl --context {mesh.spec.cluster(one.cluster).context}"
    namespace = view.service.partition("/")[0]
    if one.kind == MESH_CONFIG and "discoverySelectors" in one.field and one.wanted:
        return f"kubectl --context {mesh.spec.cluster(view.server).context} label namespace {namespace} {one.wanted}"
    if one.kind == SERVICE and EXPORT_TO in one.field:
        return f"{kubectl} annotate service -n {one.namespace} {one.name} {EXPORT_TO}-"
    if one.kind == SERVICE and one.wanted and one.field == "spec.selector":
        return f"{kubectl} patch service -n {one.namespace} {one.name} --type merge -p '{one.wanted}'"
    if one.kind == SERVICE and one.wanted:
        patch = f'{{"spec":{{"ports":[{{"port":{mesh.spec.probe.port},"name":"{one.wanted}"}}]}}}}'
        return f"{kubectl} patch service -n {one.namespace} {one.name} -p '{patch}'"
    if one.kind == POD:
        return f"{kubectl} rollout restart deployment -n {one.namespace} {one.wanted}; injection is of stage 02"
    return f"{kubectl} edit {one.kind} -n {one.namespace} {one.name}"
