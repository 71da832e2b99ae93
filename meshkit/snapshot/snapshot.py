"""Snapshot: all readings of a mesh at one moment.

    snapshot = mesh.snapshot()           # nothing is sent
    snapshot.remote_secrets              # asked now, once
    snapshot.read()                      # everything, side by side
    snapshot.write("mesh1.snapshot.json.gz")
    Snapshot.load("mesh1.snapshot.json.gz")

A cluster that does not answer is unknown in that reading, with the reason. Identical requests reach an API server, an
istiod or an Envoy once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Self, TypeVar

import pandas as pd

from meshkit.display import Shown, grid, styled
from meshkit.errors import InputError
from meshkit.istio import trust
from meshkit.istio.ca import istiod_ca, trust_store
from meshkit.istio.ca.istiod_ca import AUTHORITIES, SIGNERS
from meshkit.istio.ca.model import Offer
from meshkit.istio.ca.trust_store import CERTIFICATES, DISTRIBUTED_ROOTS, ROOTS, Certificates, Roots
from meshkit.istio.config import config_lint, missing_services, network_policies, service_view, services
from meshkit.istio.config.config_lint import CONFIG_LINT
from meshkit.istio.config.missing_services import MISSING_SERVICES
from meshkit.istio.config.network_policies import NETWORK_POLICIES
from meshkit.istio.config.service_view import ServiceView
from meshkit.istio.config.services import SERVICES
from meshkit.istio.control_plane import inventory, istioctl, managed, revisions, versions
from meshkit.istio.control_plane.inventory import CLOCKS, INVENTORY, LOAD_BALANCERS, ROOT_NAMESPACES
from meshkit.istio.control_plane.istioctl import Tool
from meshkit.istio.control_plane.managed import MANAGERS
from meshkit.istio.control_plane.revisions import ControlPlanes
from meshkit.istio.control_plane.versions import FEATURES_IN_USE, IDENTITY, VERSIONS, Identity
from meshkit.istio.multicluster import (
    endpoint_shards,
    gateway_exposure,
    gateway_manifests,
    gateways,
    remote_secret_manifest,
    remote_secrets,
)
from meshkit.istio.multicluster.endpoint_shards import ENDPOINT_SHARDS
from meshkit.istio.multicluster.gateway_exposure import OPENED
from meshkit.istio.multicluster.gateways import GATEWAYS, GATEWAYS_SEEN, Gateways, GatewaysSeen
from meshkit.istio.multicluster.remote_secret_manifest import READERS
from meshkit.istio.multicluster.remote_secrets import REMOTE_CLUSTERS, REMOTE_SECRETS, RemoteClusters, RemoteSecrets
from meshkit.istio.proxies import injection, new_pods, proxy_status, quotas
from meshkit.istio.proxies import reading as proxies_reading
from meshkit.istio.proxies.images import IMAGES
from meshkit.istio.proxies.injection import INJECTION
from meshkit.istio.proxies.proxy_status import CLAIMS, PROXY_STATUS
from meshkit.istio.proxies.quotas import REFUSALS
from meshkit.istio.proxies.reading import ProxyFacts
from meshkit.kube.memory import Memory
from meshkit.kube.mesh import Mesh, Unknown
from meshkit.probing import (
    api_server_reach,
    client_view,
    control_plane_reach,
    merged_service,
    pair_survey,
    pod_reach,
)
from meshkit.probing.api_server_reach import REACH
from meshkit.probing.client_view import HELLOS, PATHS
from meshkit.probing.control_plane_reach import CONTROL_PLANE_REACH
from meshkit.probing.merged_service import MERGED
from meshkit.probing.pair_survey import PAIR_TRAFFIC
from meshkit.probing.pod_reach import API_NAMES, POD_TO_POD
from meshkit.snapshot.lazy import Lazy, derived, reading
from meshkit.snapshot.secrets import LeftOut, without_secrets
from meshkit.spec import MeshSpec

T = TypeVar("T")

PATIENCE: Final = 3.0
"""Seconds for endpoints to arrive at a client: of a mesh that nobody changes they have arrived."""
SPEAKS_AFTER: Final = 5.0
NAMED_AT_MOST: Final = 4
Tell = Callable[[str], None]


class Snapshot(Shown):
    """All readings of a mesh at one moment: each is an attribute, asked at most once, at its first use.

    `taken` is when it began, `left_out` what was replaced by a fingerprint before it was kept.
    """

    def __init__(self, mesh: Mesh, known: Mapping[str, Any] | None = None, *, taken: datetime | None = None) -> None:
        """Take a snapshot of a mesh; with `known` it has these readings only, and no cluster is asked."""
        self.live = known is None
        self.mesh: Mesh = mesh.remembering() if self.live else mesh
        self.taken = taken or datetime.now(UTC)
        self.left_out: list[LeftOut] = []
        self.known: dict[str, Any] = dict(known or {})
        self._memory = Memory()

    @property
    def spec(self) -> MeshSpec:
        """The mesh file."""
        return self.mesh.spec

    def with_readings(self, **readings: Any) -> Self:
        """Return a snapshot of the same moment with other readings in place of its own; no cluster is asked."""
        twin = type(self)(self.mesh, {**self.known, **readings}, taken=self.taken)
        twin.left_out = [*self.left_out]
        return twin

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Return the snapshot of a file; no cluster is needed.

        Raises:
            InputError: it is missing, cut, of another version, or a field is wrong.
        """
        from meshkit.snapshot import file

        taken, spec, left_out, known = file.load(Path(path), cls.readings())
        snapshot = cls(file.offline(spec), known, taken=taken)
        snapshot.left_out = left_out
        return snapshot

    def write(self, path: str | Path) -> int:
        """Write what was read to a file, compressed if its name ends in `.gz`, and return its size in bytes.

        Raises:
            InputError: it cannot be written there.
        """
        from meshkit.snapshot import file

        return file.write(Path(path), self)

    @classmethod
    def readings(cls) -> dict[str, Lazy[Any]]:
        """Return the readings that a file can have, by name."""
        return {name: one for name, one in vars(cls).items() if isinstance(one, Lazy) and one.kept}

    def read(self, *names: str, tell: Tell = lambda _: None) -> Self:
        """Ask for readings, all side by side: those named, or all that change nothing.

        Args:
            names: of attributes.
            tell: is called after each five seconds with what is still being read.

        Raises:
            InputError: trust.rootDirectory is named, and what it holds is no CA for all clusters.
        """
        chosen = names or tuple(name for name, one in self.readings().items() if not one.tried)
        with ThreadPoolExecutor(len(chosen)) as pool:
            futures = {pool.submit(getattr, self, name): name for name in chosen}
            pending = set(futures)
            while pending:
                done, pending = wait(pending, SPEAKS_AFTER, FIRST_COMPLETED)
                if not done:
                    tell(_progress(len(futures), sorted(futures[one] for one in pending)))
        for cluster in self.mesh.clusters.values() if self.live else ():
            cluster.forget()
        for future in futures:
            future.result()
        return self

    def answer(self, one: Lazy[T]) -> T:
        """Return a reading; ask for it if nobody has yet.

        Raises:
            InputError: the snapshot is of a file that does not have it.
        """
        if one.name in self.known:
            known: T = self.known[one.name]
            return known
        if one.kept and not self.live:
            raise InputError(f"the snapshot has no reading {one.name}", remedy="take another: `meshkit gather`")
        return self._memory.answer(one.name, lambda: self.keep(one, one.ask(self)))

    def keep(self, one: Lazy[T], value: T) -> T:
        """Keep a reading without its secrets, and return it as it is kept."""
        if not one.kept:
            return value
        if isinstance(value, pd.DataFrame) and one.table and list(value.columns) != list(one.table.columns):
            raise TypeError(f"reading {one.name} is no table {one.table.name}: it has {list(value.columns)}")
        value, left_out = without_secrets(one.name, value, self.spec)
        self.left_out += left_out
        self.known[one.name] = value
        return value

    def try_pairs(self, samples: int, tell: Tell = lambda _: None) -> Self:
        """Read what pairs depend on, and send requests between every pair: see `pair_survey.measure`.

        Creates the probe's Services, and removes them.
        """
        tell(f"trying {len(self.mesh.ordered_pairs)} pairs, {samples} requests each, every pair alone …")
        with ThreadPoolExecutor(1) as pool:
            found = pool.submit(self.read, *PAIRS)
            self.keep(type(self).traffic, pair_survey.measure(self.mesh.fresh, samples, meanwhile=found.result))
        return self

    def proxies(self, namespace: str = "") -> ProxyFacts:
        """Return the proxies of the mesh; live, of one namespace, no others are read."""
        if self.live and namespace:
            return proxies_reading.look(self.mesh, namespace)
        status = self.proxy_status
        own = status[status["namespace"].isin([namespace, ""])].reset_index(drop=True) if namespace else status
        return proxies_reading.facts(own, self.versions)

    def require_same_mesh(self, other: Snapshot) -> None:
        """Raise where two snapshots are of two meshes.

        Raises:
            InputError: they are.
        """
        ours, theirs = self.spec.mesh.id, other.spec.mesh.id
        if ours != theirs:
            raise InputError(f"that snapshot is of mesh {theirs}, this one of {ours}")

    @property
    def sent(self) -> pd.DataFrame | None:
        """The requests between pairs, if anybody sent any."""
        return self.known.get("traffic")

    def bundle(self) -> dict[str, Any]:
        """Return what it has: mesh, moment, readings, and how much was left out."""
        heads, row = ["mesh", "taken", "clusters", "readings", "left out"], [
            self.spec.mesh.id, f"{self.taken:%Y-%m-%d %H:%M:%S} UTC", ", ".join(self.mesh.clusters),
            f"{len(self.known)} of {len(self.readings())}", str(len(self.left_out)),
        ]  # fmt: skip
        words, html = grid(heads, [row])
        return {"text/plain": words, "text/html": styled(html)}

    # --- clusters ---

    @reading(INVENTORY)
    def inventory(self) -> pd.DataFrame:
        """What each cluster is made of."""
        return inventory.inventory(self.mesh)

    @reading(LOAD_BALANCERS)
    def load_balancers(self) -> pd.DataFrame:
        """Services of type LoadBalancer."""
        return inventory.load_balancers(self.mesh)

    @reading(MANAGERS)
    def managers(self) -> pd.DataFrame:
        """Who else runs a cluster's Istio; asked before a migration only."""
        return managed.managers(self.mesh)

    @reading()
    def installers(self) -> dict[str, str | Unknown]:
        """Who installed each cluster's Istio; asked before a migration only."""
        return inventory.installers(self.mesh)

    @reading(CLOCKS)
    def clocks(self) -> pd.DataFrame:
        """How far clocks differ."""
        return inventory.clocks(self.mesh)

    @reading(ROOT_NAMESPACES)
    def root_namespaces(self) -> pd.DataFrame:
        """Root namespaces, and their network label."""
        return inventory.root_namespaces(self.mesh)

    # --- control planes ---

    @reading(IDENTITY)
    def identity(self) -> Identity:
        """Who each istiod thinks it is."""
        return versions.identity(self.mesh)

    @reading(VERSIONS)
    def versions(self) -> pd.DataFrame:
        """Versions of Kubernetes, istiod and proxies."""
        return versions.versions(self.mesh, self.proxy_status)

    @reading(FEATURES_IN_USE)
    def features(self) -> pd.DataFrame:
        """Features in use that decide whether a release's defect applies."""
        return versions.features(self.mesh)

    @reading()
    def revisions(self) -> dict[str, ControlPlanes | Unknown]:
        """Istiods, tags and injection webhooks of each cluster."""
        return revisions.look(self.mesh)

    @reading(IMAGES)
    def images(self) -> pd.DataFrame:
        """Images of what runs, and of what stage 05 installs."""
        return new_pods.images_to_pull(self.mesh)

    @reading(REFUSALS)
    def quota_refusals(self) -> pd.DataFrame:
        """Quotas that refuse new pods."""
        return quotas.refusals(self.mesh)

    @reading()
    def istioctl(self) -> Tool:
        """The version of istioctl on this machine, or why there is none."""
        return istioctl.tool()

    # --- proxies ---

    @reading(PROXY_STATUS)
    def proxy_status(self) -> pd.DataFrame:
        """The xDS state of every proxy, by type."""
        return proxies_reading.settled(self.mesh)

    @reading(CLAIMS)
    def claims(self) -> pd.DataFrame:
        """Cluster and network that each proxy claims."""
        return proxy_status.claims(self.mesh)

    @reading(INJECTION)
    def injection(self) -> pd.DataFrame:
        """Namespaces that ask for sidecars, and who injects them."""
        return injection.namespaces(self.mesh)

    # --- trust ---

    @reading(AUTHORITIES)
    def authorities(self) -> pd.DataFrame:
        """What each istiod could sign with."""
        return istiod_ca.authorities(self.mesh)

    @derived
    def _offered(self) -> tuple[Offer | None, pd.DataFrame]:
        return trust.offered(self.mesh)

    @reading()
    def offer(self) -> Offer | None:
        """The user's own CA, if the mesh file names one: fingerprints."""
        return self._offered[0]

    @reading(AUTHORITIES)
    def offered_authority(self) -> pd.DataFrame:
        """The root of the user's own CA, as a row of `authorities`; none without one."""
        return self._offered[1]

    @reading(SIGNERS)
    def signers(self) -> pd.DataFrame:
        """What each istiod signs with."""
        return istiod_ca.signers(self.mesh)

    @reading(CERTIFICATES)
    def certificates(self) -> Certificates:
        """The certificate of each proxy."""
        return trust_store.certificates(self.mesh)

    @reading(ROOTS)
    def roots(self) -> Roots:
        """Root certificates, and who holds them."""
        return trust_store.roots(self.mesh)

    @reading(DISTRIBUTED_ROOTS)
    def distributed_roots(self) -> pd.DataFrame:
        """Roots that istiod distributes to each namespace."""
        return trust_store.distributed_roots(self.mesh)

    # --- clusters together ---

    @reading(REMOTE_SECRETS)
    def remote_secrets(self) -> RemoteSecrets:
        """Remote secrets, each credential tried."""
        return remote_secrets.remote_secrets(self.mesh)

    @reading(REMOTE_CLUSTERS)
    def remote_clusters(self) -> RemoteClusters:
        """What each istiod watches."""
        return remote_secrets.remote_clusters(self.mesh)

    @reading(READERS)
    def readers(self) -> pd.DataFrame:
        """How each cluster is to be read by the others."""
        return remote_secret_manifest.readers(self.mesh)

    @reading(GATEWAYS)
    def gateways(self) -> Gateways:
        """East-west gateways that each cluster offers."""
        return gateways.gateways(self.mesh)

    @reading(GATEWAYS_SEEN)
    def gateways_seen(self) -> GatewaysSeen:
        """Gateways as each istiod knows them."""
        return gateways.gateways_seen(self.mesh)

    @reading(OPENED)
    def opened(self) -> pd.DataFrame:
        """What each gateway lets other clusters reach."""
        return gateway_exposure.opened(self.mesh)

    @reading()
    def mesh_networks(self) -> dict[str, gateway_manifests.Networks | Unknown]:
        """The networks in each istiod's configuration."""
        return gateway_manifests.configured(self.mesh)

    @reading(ENDPOINT_SHARDS)
    def endpoint_shards(self) -> pd.DataFrame:
        """Endpoints of the probe's Service that each istiod holds."""
        return endpoint_shards.known(self.mesh, self.spec.probe.namespace, self.spec.probe.server)

    # --- configuration ---

    @reading(SERVICES)
    def services(self) -> pd.DataFrame:
        """Services of each cluster."""
        return services.services(self.mesh)

    @derived
    def merging(self) -> pd.DataFrame:
        """Services that become one."""
        return services.merging(self.services, list(self.mesh.clusters), self.mesh.root_namespace)

    @reading(NETWORK_POLICIES)
    def network_policies(self) -> pd.DataFrame:
        """NetworkPolicies in Istio's paths."""
        return network_policies.network_policies(self.mesh)

    @reading()
    def service_views(self) -> tuple[ServiceView, ...]:
        """What keeps clients from the other cluster's endpoints of the probe's Service."""
        return service_view.views(self.mesh)

    @reading(CONFIG_LINT)
    def rules(self) -> pd.DataFrame:
        """Istio's objects that break something between clusters."""
        return config_lint.rules(self.mesh)

    @reading(MISSING_SERVICES)
    def missing_services(self) -> pd.DataFrame:
        """Services that a cluster's clients cannot resolve."""
        return missing_services.missing_services(self.mesh)

    # --- tried from pods ---

    @reading(REACH)
    def api_server_reach(self) -> pd.DataFrame:
        """Whether each API server answers each other cluster, at the mesh file's address."""
        return api_server_reach.reach(self.mesh)

    @reading(REACH)
    def remote_secret_reach(self) -> pd.DataFrame:
        """The same, at the address in the remote secret."""
        return api_server_reach.reach(
            self.mesh, pair_survey.written(self.mesh, self.remote_secrets, self.remote_clusters)
        )

    @reading(POD_TO_POD)
    def pod_reach(self) -> pd.DataFrame:
        """Whether pods reach pods of other clusters; tried within a network only."""
        return pod_reach.pods(self.mesh, self.spec.direct_pairs)

    @reading(API_NAMES)
    def dns_names(self) -> pd.DataFrame:
        """DNS names, resolved in pods."""
        return pod_reach.names(self.mesh)

    @reading(CONTROL_PLANE_REACH)
    def control_plane_reach(self) -> pd.DataFrame:
        """Whether proxies reach istiod, and the API server its webhook."""
        return control_plane_reach.tried(self.mesh)

    @derived
    def _clients(self) -> dict[str, client_view.Client | Unknown]:
        return client_view.find(self.mesh)

    @derived
    def _gateway_addresses(self) -> dict[tuple[str, str], list[client_view.Address]]:
        return pair_survey.gateway_addresses(self.mesh, self.identity, self.gateways, self.gateways_seen)

    @reading(PATHS)
    def paths(self) -> pd.DataFrame:
        """How each client's Envoy would reach the other clusters."""
        at = self._gateway_addresses
        gates: dict[str, set[str]] = {name: set() for name in self.mesh.clusters}
        for (_, server), known in at.items():
            gates[server] |= {address for address, _ in known}
        return client_view.paths(self.mesh, self._clients, gates)

    @reading(HELLOS)
    def hellos(self) -> pd.DataFrame:
        """What answers a TLS hello at the other's gateway."""
        return client_view.hellos(self.mesh, self._clients, self._gateway_addresses)

    @reading(MERGED)
    def calls(self) -> pd.DataFrame:
        """The probe's Service as each cluster's client sees it."""
        return merged_service.calls(self.mesh, patience=PATIENCE)

    @reading(PAIR_TRAFFIC, tried=True)
    def traffic(self) -> pd.DataFrame:
        """Requests between every pair: see `try_pairs`."""
        raise InputError("nobody sent requests between the pairs", remedy="`meshkit gather --samples 200`")


PAIRS: Final = (
    "identity", "remote_secrets", "remote_clusters", "gateways", "gateways_seen", "service_views", "endpoint_shards",
    "remote_secret_reach", "paths", "hellos",
)  # fmt: skip
"""What the links between pairs of clusters are judged by."""
VERIFIED: Final = (
    "identity", "remote_secrets", "remote_clusters", "gateways", "gateways_seen", "certificates", "roots", "claims",
    "inventory", "opened", "revisions",
)  # fmt: skip
"""What objects, istiods and proxies say of a mesh that is joined."""


def _progress(count: int, waiting: list[str]) -> str:
    more = f" and {len(waiting) - NAMED_AT_MOST} more" if len(waiting) > NAMED_AT_MOST else ""
    named = ", ".join(name.replace("_", " ") for name in waiting[:NAMED_AT_MOST])
    return f"{count - len(waiting)} of {count} read; {named}{more} …"
