"""Stage 01: what is there, and which topology do the facts call for?

Changes nothing. The recommendation is a pure function of what was read: `recommend`. Only multi-primary is built, on
networks of their own or on one flat network; where facts call for another topology, that is said, with the facts.
"""

from __future__ import annotations

from meshkit.checks.finding import Finding
from meshkit.checks.topology import (
    AssessFacts,
    check_control_plane,
    check_debug,
    check_distinct,
    check_installers,
    check_load_balancers,
    check_managers,
    check_network,
    check_read,
    recommend,
)
from meshkit.istio.ca import trust_store
from meshkit.istio.control_plane import inventory, managed, versions
from meshkit.kube.mesh import Mesh
from meshkit.probing import api_server_reach, pod_reach

STAGE = "01 assess"


def look(mesh: Mesh) -> AssessFacts:
    """Read every cluster, and try ways between them from the probe's client where it runs; changes nothing."""
    return AssessFacts(
        **mesh.read_all(
            inventory=inventory.inventory,
            identity=versions.identity,
            versions=versions.versions,
            roots=trust_store.roots,
            load_balancers=inventory.load_balancers,
            api_servers=api_server_reach.reach,
            pods=pod_reach.pods,
            managers=managed.managers,
        )
    )


def check(mesh: Mesh, facts: AssessFacts) -> list[Finding]:
    """Judge what was read against the mesh file."""
    advice = recommend(facts)
    return [
        *check_read(mesh, facts),
        *check_debug(facts.inventory),
        *check_distinct(facts),
        check_network(mesh, facts, advice),
        check_control_plane(mesh, facts, advice),
        *check_installers(facts),
        *check_managers(mesh, facts.managers),
        *check_load_balancers(mesh, facts),
    ]
