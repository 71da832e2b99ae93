"""What a remote cluster can have only once its primary's istiod watches it: a gateway, and the probe's workloads.

Their pods get sidecars from that istiod, and it gives its CA bundle to the webhooks of a cluster that it watches.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterator

from meshkit.changes.plan import Plan
from meshkit.checks.control_plane import joined
from meshkit.checks.finding import Finding, Verdict
from meshkit.checks.question import Question
from meshkit.checks.remote_reader import DiscoveryFacts
from meshkit.istio.control_plane import versions
from meshkit.kube.mesh import Mesh
from meshkit.kube.wait import Wait
from meshkit.stages import eastwest_gateway, probe_workloads
from meshkit.stages.discovery.facts import STAGE


def can_inject(mesh: Mesh, name: str) -> Wait:
    """Return a wait until a remote cluster's webhooks have the CA bundle of its primary's istiod."""
    both = Mesh(mesh.spec, {one: mesh.clusters[one] for one in (mesh.spec.primary_of(name), name)})

    def missing() -> str:
        ready = name in joined(both, versions.identity(both))
        return "" if ready else f"webhooks of {name} have no CA bundle: no pod of it gets a sidecar yet"

    return missing


def check(mesh: Mesh, facts: DiscoveryFacts) -> Iterator[Finding]:
    """MK715: no Service of a remote cluster on another network is served there before that network has a gateway.

    Between the remote secret and the gateway, which needs a sidecar of that istiod, clients of other networks would get
    the addresses of its pods, and reach nothing.

    Source: pilot/pkg/xds/endpoints/ep_filters.go: endpoints of a network without a gateway are left as they are.
    """
    for name in _to_join(mesh, facts):
        primary = mesh.spec.primary_of(name)
        ask = Question("MK715", "nothing is served there before the gateway", name, "no merging Service has endpoints")
        if not mesh.spec.crosses(primary, name):
            yield ask.answer(Verdict.SKIPPED, f"on {primary}'s network, which needs no gateway")
            continue
        here = facts.services[facts.services["cluster"] == name]
        if reason := next((one for one in here["reason"] if one), ""):
            yield ask.unknown(reason)
            continue
        merging = facts.merging[~facts.merging["system"] & ~facts.merging["effect"].str.startswith("stays")]
        merging = merging[merging["clusters"].str.contains(",")]
        shared = {(row["namespace"], row["service"]) for row in merging.to_dict("records")}
        served = [
            f"{row['namespace']}/{row['service']}"
            for row in here[here["endpoints"] > 0].to_dict("records")
            if (row["namespace"], row["service"]) in shared
        ]
        remedy = "scale what serves them there to 0 until this stage is done, or keep them apart (see MK708)"
        yield ask.judge(not served, ", ".join(served[:5]) or "none", remedy)


def plan(mesh: Mesh) -> Plan:
    """Plan the gateway of each remote cluster that has none, then the probe's workloads there."""
    made = Plan(mesh, STAGE)
    crossing = [name for name in mesh.spec.remotes if mesh.spec.topology.network == "multi"]
    offered = eastwest_gateway.look(mesh.remembering()) if crossing else None
    for name in mesh.spec.remotes:
        gate = functools.partial(eastwest_gateway.missing, mesh, name) if offered else None
        if offered and not offered.gateways.unknown(name):
            eastwest_gateway.want(made, mesh, offered, name)
        # A server's endpoint must not be there before its gateway: clients would get the pod's own address.
        probe_workloads.want(mesh, made, [name], gate=gate)
    return made


def _to_join(mesh: Mesh, facts: DiscoveryFacts) -> Collection[str]:
    ready = joined(mesh, facts.known.identity)
    return [name for name in mesh.spec.remotes if name not in ready]
