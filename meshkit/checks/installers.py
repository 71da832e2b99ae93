"""Who installed and runs each cluster's Istio, and whether istioctl may change that."""

from __future__ import annotations

import csv
import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources

import pandas as pd

from meshkit.checks.finding import Finding, Verdict
from meshkit.checks.question import Question
from meshkit.istio.control_plane import requested
from meshkit.istio.control_plane.inventory import ELSEWHERE, ISTIOCTL
from meshkit.istio.control_plane.revisions import named
from meshkit.istio.control_plane.versions import ControlPlane, Identity
from meshkit.kube.mesh import Mesh, Unknown


def check_installers(mesh: Mesh, installers: Mapping[str, str | Unknown], identity: Identity) -> Iterator[Finding]:
    """MK105: what stage 05 would change of an installation is istioctl's to change.

    An istiod that Helm or an operator installed is left to its owner: it must have its ids and network already, or the
    mesh file says `istio.installer: none`, and stage 05 requests them.

    Args:
        mesh: the mesh.
        installers: who installed each istiod, of `inventory.installers`.
        identity: of `versions.identity`.
    """
    foreign = sorted({by for by in installers.values() if not isinstance(by, Unknown)} - {"", ELSEWHERE, ISTIOCTL})
    for name, by in installers.items():
        yield _check_installer(mesh, name, by, identity, foreign)


def _check_installer(mesh: Mesh, name: str, by: str | Unknown, identity: Identity, foreign: Sequence[str]) -> Finding:
    ask = Question(
        "MK105", "istioctl may install here", name, "no Istio yet, istioctl's, or its owner gave it the mesh file's ids"
    )
    if isinstance(by, Unknown):
        return ask.unknown(by.reason)
    if by == ELSEWHERE or (name in mesh.spec.remotes and not by):
        meant = name in mesh.spec.remotes
        served = f"no istiod of its own: {mesh.spec.primary_of(name)}'s is to serve it"
        return ask.judge(meant, served if meant else "proxies, but no istiod", "see MK104", otherwise=Verdict.WARN)
    if mesh.spec.istio.installer == "none":
        return _requested(mesh, ask, name, by, identity)
    if not by:
        return _bare(mesh, ask, name, foreign)
    if by == ISTIOCTL:
        return ask.answer(Verdict.PASS, "by istioctl")
    return _of_another_owner(mesh, ask, name, by, identity)


def _bare(mesh: Mesh, ask: Question, name: str, foreign: Sequence[str]) -> Finding:
    if not foreign:
        return ask.answer(Verdict.PASS, "no Istio yet: stage 05 installs it")
    observed = f"no Istio yet: stage 05 installs it by istioctl, and Istio of others is by {', '.join(foreign)}"
    remedy = f"to have it by {foreign[0]}, too, install it between stages 04 and 05 with {_values(mesh, name)}"
    return ask.answer(Verdict.WARN, observed, remedy)


def _requested(mesh: Mesh, ask: Question, name: str, by: str, identity: Identity) -> Finding:
    own = own_of(mesh, identity.of(name))
    if reason := identity.unknown(name):
        return ask.unknown(reason)
    if own and not any(fact for one in own for fact in unlike(mesh, one)):
        return ask.answer(Verdict.PASS, f"by {by}, with the mesh file's ids: left to its owner")
    observed = f"by {by}, without the mesh file's ids" if by else "no Istio yet"
    return ask.answer(Verdict.SKIPPED, f"{observed}: stage 05 requests what is to be installed, and waits for it")


def own_of(mesh: Mesh, found: Iterable[ControlPlane]) -> list[ControlPlane]:
    """Return the istiods of the mesh file's revision."""
    return [one for one in found if named(one.revision) == named(mesh.spec.istio.revision)]


def _of_another_owner(mesh: Mesh, ask: Question, name: str, by: str, identity: Identity) -> Finding:
    own = own_of(mesh, identity.of(name))
    if reason := identity.unknown(name) or ("" if own else "no istiod of it runs"):
        return ask.unknown(f"by {by}, and {reason}")
    if mesh.spec.topology.mesh_networks:
        observed = f"by {by}, which stage 05 does not change, and the mesh file asks to write meshNetworks into it"
        return ask.fail(observed, f"take topology.meshNetworks out of the mesh file: those in {owner(by)} are read")
    wrong = sorted({fact for one in own for fact in unlike(mesh, one)})
    if not wrong:
        return ask.answer(Verdict.PASS, f"by {by}, with the mesh file's ids: left to its owner")
    former = next((one.cluster_id for one in own if one.cluster_id != name), "")
    remedy = f"carry into {owner(by)}, and apply: {_values(mesh, name, former)}; then begin again at stage 01"
    return ask.fail(f"by {by}, which stage 05 does not change, and its {', its '.join(wrong)}", remedy)


def unlike(mesh: Mesh, one: ControlPlane) -> Iterator[str]:
    """Yield what of an istiod's installation is not as the mesh file has it."""
    said = mesh.spec.mesh
    facts = {
        "cluster id is": (one.cluster_id, one.cluster),
        "pods get cluster id": (one.injected_cluster_id, one.cluster),
        "pods get network": (one.injected_network or "none", mesh.spec.cluster(one.cluster).network),
        "mesh id is": (one.mesh_id or "none", said.id),
        "trust domain is": (one.trust_domain, said.trust_domain),
    }
    if mesh.spec.remotes_of(one.cluster):
        facts["externalIstiod is"] = ("true" if one.external else "false", "true")
    return (f"{fact} {found}" for fact, (found, wanted) in facts.items() if found != wanted)


def _values(mesh: Mesh, name: str, former: str = "") -> str:
    """Return the values that a cluster's istiod must get: as Helm's chart has them."""
    values = requested.flat(requested.istiod_values(mesh.spec, name, alias=former))
    return " ".join(f"--set '{value}'" if "[" in value else f"--set {value}" for value in values)


def owner(by: str) -> str:
    """Return where the values of an installation are kept."""
    owners = {"helm": "the values of its Helm release", "operator": "spec.values of its Istio resource"}
    return owners.get(by, "what installs istiod (a pipeline, Argo CD?)")


@dataclass(frozen=True)
class Manager:
    """One line of `managed.csv`: who runs a cluster's Istio, the verdict on it, and what is possible."""

    manager: str
    name: str
    bad: str
    possible: str
    source: str
    looked_at: str


@functools.cache
def known_managers() -> Mapping[str, Manager]:
    """Return every line of `managed.csv` by its manager, as `control_plane.managed.managers` names it."""
    text = resources.files("meshkit.checks").joinpath("managed.csv").read_text(encoding="utf-8")
    return {row["manager"]: Manager(**row) for row in csv.DictReader(text.splitlines())}


def check_managers(mesh: Mesh, found: pd.DataFrame) -> Iterator[Finding]:
    """MK107: nobody else runs the cluster's Istio: no add-on of a cloud, no operator, no vendor's build, no other mode.

    What is possible with each: meshkit/checks/managed.csv.
    """
    for name in mesh.clusters:
        ask = Question("MK107", "Istio is run by its owner", name, "a self-managed Istio, with sidecars")
        rows = found[found["cluster"] == name]
        for row in rows.to_dict("records"):
            if row["reason"]:
                yield ask.unknown(row["reason"], "see MK101")
                continue
            known = known_managers()[row["manager"]]
            observed = f"{known.name} ({row['evidence']})"
            yield ask.answer(Verdict(known.bad), observed, f"{known.possible}; {known.source}")
        if rows.empty:
            yield ask.answer(Verdict.PASS, "no add-on, operator or vendor's build, and no ambient mode")
