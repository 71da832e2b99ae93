"""What shapes the view that a cluster's clients have of another cluster's endpoints of a Service.

`views` walks for every ordered pair, in Istio's order, what decides which endpoints a client's proxy gets and whether
the server takes its calls (`service_walk`), and names each object that takes the other cluster's endpoints away or
changes how they are called. NetworkPolicies are read by `network_policies`.
"""

from __future__ import annotations

from dataclasses import dataclass

from meshkit.istio.config.configuration import configuration
from meshkit.istio.config.hindrances import Hindrance, Link
from meshkit.istio.config.service_walk import Walk
from meshkit.istio.control_plane import primaries
from meshkit.kube.mesh import Mesh, Unknown, understood


@dataclass(frozen=True)
class ServiceView:
    """One ordered pair: what stands between the client's cluster and the server's endpoints of a Service.

    `service` is `namespace/name`; `reason` says why all, or some, of it is not known.
    """

    client: str
    server: str
    service: str
    hindrances: tuple[Hindrance, ...] = ()
    reason: str = ""

    def of(self, *links: Link) -> list[Hindrance]:
        """Return the hindrances of some links, in Istio's order; of no link, all."""
        return [one for one in self.hindrances if one.link in links or not links]


def views(mesh: Mesh) -> tuple[ServiceView, ...]:
    """Return for each ordered pair what keeps clients from the other cluster's endpoints of the probe's Service."""
    sources = primaries.configured_in(mesh)
    read = mesh.each(lambda cluster: configuration(cluster, mesh, sources[cluster.name]))
    service = f"{mesh.spec.probe.namespace}/{mesh.spec.probe.server}"
    found = []
    for client, server in mesh.ordered_pairs:
        ours, theirs = read[client], read[server]
        if isinstance(ours, Unknown) or isinstance(theirs, Unknown):
            lost = [f"{n}: {r.reason}" for n, r in ((client, ours), (server, theirs)) if isinstance(r, Unknown)]
            found.append(ServiceView(client, server, service, reason="; ".join(lost)))
            continue
        if theirs.service is None:
            found.append(ServiceView(client, server, service, reason=f"{server} has no Service {service}"))
            continue
        first = min(client, server, key=list(mesh.clusters).index)
        walk = Walk(ours, theirs, mesh.spec.probe, first)
        once = understood(walk.hindrances)
        if isinstance(once, Unknown):
            found.append(ServiceView(client, server, service, reason=once.reason))
            continue
        lacking = [f"no pod of {mesh.spec.probe.client} in {client}"] if not ours.clients else []
        lacking += [f"no pod of {service} in {server}"] if not theirs.servers else []
        unread = f"{' and '.join(lacking)}: policies by labels or accounts are not known" if lacking else ""
        found.append(ServiceView(client, server, service, once, unread))
    return tuple(found)
