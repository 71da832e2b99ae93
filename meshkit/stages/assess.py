"""Stage 01: what is there, and which topology do the facts call for?

Changes nothing. The recommendation is a pure function of the facts: `recommend`. Only multi-primary is built, on one
network or many; where the facts favour another topology, the verdict reports that, with the facts.
"""

from __future__ import annotations

from collections.abc import Iterable

from meshkit.checks import installers
from meshkit.checks import revisions as checks_revisions
from meshkit.checks.finding import Finding
from meshkit.checks.topologies import compare
from meshkit.checks.topology import (
    AssessFacts,
    Recommendation,
    check_control_plane,
    check_debug,
    check_distinct,
    check_ids,
    check_load_balancers,
    check_network,
    check_read,
    recommend,
)
from meshkit.display import Record, Several
from meshkit.istio.ca import trust_store
from meshkit.istio.control_plane import inventory, managed, revisions, versions
from meshkit.istio.proxies import reading
from meshkit.kube.mesh import Mesh
from meshkit.notebook import tables
from meshkit.probing import api_server_reach, pod_reach
from meshkit.stages.stage import Shows, Stage

STAGE = "01 assess"


def look(mesh: Mesh) -> AssessFacts:
    """Read every cluster, and try the paths between them from istiod's or the probe's pod; changes nothing."""
    return AssessFacts(
        **mesh.read_all(
            inventory=inventory.inventory,
            identity=versions.identity,
            versions=reading.read_versions,
            roots=trust_store.roots,
            load_balancers=inventory.load_balancers,
            api_servers=api_server_reach.reach,
            pods=pod_reach.pods,
            managers=managed.managers,
            revisions=revisions.look,
            installers=inventory.installers,
        )
    )


def check(mesh: Mesh, facts: AssessFacts) -> list[Finding]:
    """Judge the facts against the mesh file."""
    advice = recommend(facts)
    return [
        *check_read(mesh, facts),
        *check_debug(facts.inventory),
        *check_distinct(facts),
        *check_ids(mesh, facts.identity),
        check_network(mesh, facts, advice),
        check_control_plane(mesh, facts, advice),
        *installers.check_installers(mesh, facts.installers, facts.identity),
        *installers.check_managers(mesh, facts.managers),
        *checks_revisions.check(mesh, facts.revisions),
        *check_load_balancers(mesh, facts),
    ]


class Assess(Stage):
    """Stage 01. It changes nothing in any mode."""

    name = STAGE
    inventory = Shows["Assess"](tables.INVENTORY, lambda stage: stage.facts.inventory)
    addresses = Shows["Assess"](tables.ADDRESSES, lambda stage: stage.facts.inventory)
    identity = Shows["Assess"](tables.IDENTITY, lambda stage: stage.facts.identity.frame())
    versions = Shows["Assess"](tables.VERSIONS, lambda stage: stage.facts.versions)
    roots = Shows["Assess"](tables.ROOTS, lambda stage: stage.facts.roots.frame())
    load_balancers = Shows["Assess"](tables.LOAD_BALANCERS, lambda stage: stage.facts.load_balancers)
    api_servers = Shows["Assess"](tables.REACH, lambda stage: stage.facts.api_servers)
    pod_to_pod = Shows["Assess"](tables.POD_TO_POD, lambda stage: stage.facts.pods)
    deciding_facts = Shows["Assess"](tables.DECIDING, lambda stage: stage.advice.facts)
    topologies = Shows["Assess"](tables.TOPOLOGIES, lambda stage: compare(stage.advice))

    @property
    def advice(self) -> Recommendation:
        """The topology that the facts favour."""
        return recommend(self.facts)

    @property
    def recommendation(self) -> Several:
        """The topology that the facts favour, for the record, and the facts."""
        advice = self.advice
        topology = {"controlPlane": advice.control_plane, "network": advice.network}
        return Several(Record("recommended", topology), self.deciding_facts)

    def _look(self) -> AssessFacts:
        return look(self.mesh)

    def _check(self) -> Iterable[Finding]:
        return check(self.mesh, self.facts)
