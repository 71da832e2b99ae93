"""The mesh as people hold it: its clusters, and what can be asked of them. Every answer shows itself.

    mesh = Mesh.open("mesh.yaml")
    mesh                      # its clusters; nothing is sent
    mesh["east"]              # one of them
    mesh.check()              # what is wrong, the cause first
    mesh.pairs()              # every ordered pair, link by link
    mesh.proxies().frame      # the DataFrame

Belongs here: questions. Does not: how they are answered (istio, probing, checks). All of them only read.
"""

from __future__ import annotations

from meshkit.checks import audit, pair_table, pairs
from meshkit.checks.finding import Findings
from meshkit.istio.ca import trust_store
from meshkit.istio.ca.trust_store import Certificates
from meshkit.istio.multicluster import gateways, remote_secrets
from meshkit.istio.multicluster.gateways import Gateways
from meshkit.istio.multicluster.remote_secrets import RemoteSecrets
from meshkit.istio.proxies import reading, status_summary
from meshkit.kube import mesh as kube
from meshkit.snapshot.snapshot import PAIRS, Snapshot
from meshkit.tables import View


class Mesh(kube.Mesh):
    """The clusters of one mesh file. Nothing is sent before the first question."""

    def check(self) -> Findings:
        """Return what is wrong with the mesh, the causes first; read-only, as `meshkit check`."""
        return Findings(audit.findings_in_order(self))

    def proxies(self, namespace: str = "") -> View:
        """Return every proxy of every cluster, or of a namespace, the worst first."""
        return status_summary.PROXIES.view(reading.look(self, namespace).proxies)

    def pairs(self) -> View:
        """Return every ordered pair of clusters, link by link, the worst first; no request is sent."""
        links = self.snapshot().read(*PAIRS)
        return pair_table.LINKS.view(pair_table.table(self, links, pairs.check_all(self, links, None)))

    def snapshot(self) -> Snapshot:
        """Return a snapshot: every reading is asked at its first use, once. `Snapshot.load` reads one from a file."""
        return Snapshot(self)

    def remote_secrets(self) -> RemoteSecrets:
        """Return the remote secrets of every cluster, each credential tried now."""
        return remote_secrets.remote_secrets(self)

    def gateways(self) -> Gateways:
        """Return the east-west gateways that each cluster offers."""
        return gateways.gateways(self)

    def certificates(self) -> Certificates:
        """Return the certificate of each proxy, and the root it leads to."""
        return trust_store.certificates(self)
