"""Which versions run where, and who each control plane thinks it is."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, Final

import packaging.version
import pandas as pd
import yaml

from meshkit.istio.control_plane import mesh_networks, primaries
from meshkit.istio.control_plane.cluster_domain import of_cluster
from meshkit.istio.control_plane.istiods_and_proxies import NETWORK, Istiod, ask_istiods, is_on, istiods
from meshkit.istio.control_plane.primaries import Remote
from meshkit.istio.reading import Reading, Unread
from meshkit.kube.cluster import Cluster
from meshkit.kube.mesh import Mesh, Unknown
from meshkit.kube.transport import NotFoundError
from meshkit.tables import Table, integer, text

VERSIONS: Final = Table(
    "versions",
    "Versions",
    {
        "cluster": text("its cluster"),
        "component": text("kubernetes, istiod, proxy, gateway, waypoint or ztunnel"),
        "name": text("pod of istiod, or namespace of the proxies"),
        "version": text("as it reports it"),
        "count": integer("of proxies"),
        "reason": text("why a version is unknown"),
    },
    key=("cluster", "component", "name"),
)
FEATURES = ("crl", "gateway-api", "ambient multi-network")
FEATURES_IN_USE: Final = Table(
    "features",
    "Features in use that decide whether a release's defect applies",
    {
        "cluster": text("its cluster"),
        "feature": text(
            "crl (cacerts holds a ca-crl.pem), gateway-api (a Gateway of a class that istiod deploys), or ambient "
            "multi-network (AMBIENT_ENABLE_MULTI_NETWORK)"
        ),
        "reason": text("why a cluster could not be read; such a row has no feature"),
    },
    key=("cluster", "feature"),
)
IDENTITY: Final = Table(
    "identity",
    "Istiods and their identity",
    {
        "cluster": text("where it runs"),
        "istiod": text("its pod"),
        "revision": text("its revision"),
        "cluster_id": text("its CLUSTER_ID; `Kubernetes` unless set"),
        "network": text("label `topology.istio.io/network` of its namespace, otherwise of meshNetworks (fromRegistry)"),
        "mesh_id": text("its mesh id"),
        "trust_domain": text("its trust domain"),
        "trust_domain_aliases": text("comma-joined"),
        "cluster_domain": text("DNS domain of its cluster"),
        "cluster_aliases": text("other cluster ids that it accepts as its own, comma-joined"),
        "injected_cluster_id": text("that new sidecars claim"),
        "injected_network": text("that new sidecars claim"),
        "serves": text("clusters without an istiod that it serves, comma-joined"),
        "reason": text("why a row is empty: it could not be read, or another cluster's istiod serves the cluster"),
    },
    key=("cluster", "istiod"),
)


_FORM = re.compile(r"v?(?P<number>\d{1,6}\.\d{1,6}(?:\.\d{1,6})?)(?:[-+.](?P<suffix>\S+))?", re.ASCII)
_IMAGE_VARIANT = re.compile(r"-(distroless|debug)$")


@dataclass(frozen=True, order=True)
class Version:
    """A version of Istio or Kubernetes; `patch` is -1 where a development build names none (`1.31-eed52ebb66ad`).

    `build` tells builds of one number apart: the suffix of a development build, or which pre-release it is. It is empty
    for releases, those of vendors too (`1.31.0-tetrate-v0`, `1.20.8-asm.33`), and is not part of order and equality.
    """

    major: int
    minor: int
    patch: int = -1
    build: str = field(default="", compare=False)

    @classmethod
    def parse(cls, text: str) -> Version | None:
        """Return the version that a text tells, such as `1.31.0`, `v1.37.2`, `1.30.1-distroless`, `1.31-eed52ebb66ad`.

        None if it tells none: `unknown`, a bare hash, or `v0.0.0-master`, the name of a build without a stamp.
        """
        text = _IMAGE_VARIANT.sub("", text.strip())
        match = _FORM.fullmatch(text)
        if not match:
            return None
        try:
            known = packaging.version.Version(text)
        except ValueError:  # a suffix that Python has no word for: a hash, a vendor's
            known = packaging.version.Version(match["number"])
        if known.major == 0:
            return None
        if len(known.release) < len(("major", "minor", "patch")):
            return cls(known.major, known.minor, build=match["suffix"] or "")
        return cls(known.major, known.minor, known.micro, known.public if known.is_prerelease else "")


def agree(version: str, wanted: str, gate: str = "same-patch") -> bool | None:
    """Return whether a version is the wanted one, as far as that says: `1.31` takes every patch and build of 1.31.

    Args:
        version: of what runs.
        wanted: of the mesh file, or of what is compared with.
        gate: same-patch or same-minor.

    None where that cannot be known: one of them tells no version, or a development build no patch.
    """
    own, other = Version.parse(version), Version.parse(wanted)
    if own is None or other is None:
        return None
    if (own.major, own.minor) != (other.major, other.minor):
        return False
    if gate == "same-minor" or (other.patch < 0 and not other.build):
        return True
    if own.patch != other.patch and -1 in (own.patch, other.patch):
        return None
    return (own.patch, own.build) == (other.patch, other.build)


def alike(found: Iterable[str], gate: str) -> bool | None:
    """Return whether all versions that run are one, as the gate asks; None if one of them tells no version.

    That some differ is known all the same. Builds that name no patch are alike if their whole suffix is.
    """
    known = [Version.parse(text) for text in found]
    minor = gate == "same-minor"
    kinds = {(v.major, v.minor) if minor else (v.major, v.minor, v.patch, v.build) for v in known if v}
    return False if len(kinds) > 1 else None if None in known else True


def versions(mesh: Mesh, status: pd.DataFrame) -> pd.DataFrame:
    """Return which versions run in each cluster.

    Args:
        mesh: the mesh.
        status: of `proxies.proxy_status`, for the proxies' own versions; without rows they are left out.

    Source: the API server's `/version`, istiod's `/version`, and the version that each proxy reports to its istiod.
    """
    rows: list[dict[str, Any]] = []
    for name, answer in mesh.each(_kubernetes).items():
        rows.append(_version_row(name, "kubernetes", "", answer))
    for name, istiod, told in ask_istiods(mesh, istiod_version):
        rows.append(_version_row(name, "istiod", istiod.name if istiod else "", told))
    counted = Counter(
        (row.cluster, _COMPONENTS.get(str(row.kind), str(row.kind)), row.namespace, row.version)
        for row in status[status["proxy"] != ""].drop_duplicates(["cluster", "namespace", "proxy"]).itertuples()
    )
    for (cluster, component, namespace, version), count in counted.items():
        reason = "" if version else "known to no istiod"
        row = {"cluster": cluster, "component": component, "name": namespace, "version": version}
        rows.append({**row, "count": count, "reason": reason})
    return VERSIONS.frame(rows)


_COMPONENTS = {"sidecar": "proxy", "router": "gateway", "": "proxy"}


def _kubernetes(cluster: Cluster) -> str:
    return cluster.version()


def _version_row(cluster: str, component: str, name: str, answer: str | Unknown) -> dict[str, Any]:
    told = {"reason": answer.reason} if isinstance(answer, Unknown) else {"version": answer, "count": 1}
    return {"cluster": cluster, "component": component, "name": name, **told}


def istiod_version(istiod: Istiod) -> str:
    """Return an istiod's version as it tells it: `1.31.0`, or `1.31-eed52ebb66ad` of a development build."""
    return parse_istiod_version(istiod.cluster.http_get(istiod.name, istiod.namespace, istiod.port, "/version"))


def parse_istiod_version(answer: bytes) -> str:
    """Return the version in what istiod's `/version` answers: JSON, or `<version>-<git revision>-<status>`."""
    text = answer.decode(errors="replace").strip()
    if text.startswith("{"):
        document = json.loads(text)
        return str((document.get("clientVersion") or document).get("version", ""))
    return text.rsplit("-", 2)[0]


def features(mesh: Mesh) -> pd.DataFrame:
    """Return one row for each feature in use that decides whether a cluster meets a defect of its istiod's release.

    Source: CACRLFile (security/pkg/pki/ca), pilot/pkg/features/ambient.go, pilot/pkg/config/kube/gateway.
    """
    rows: list[dict[str, Any]] = []
    for name, found in mesh.each(lambda cluster: _features(cluster, mesh.root_namespace)).items():
        known = [{"reason": found.reason}] if isinstance(found, Unknown) else [{"feature": one} for one in found]
        rows += [{"cluster": name, **row} for row in known]
    return FEATURES_IN_USE.frame(rows)


def _features(cluster: Cluster, namespace: str) -> list[str]:
    cacerts = cluster.find("secrets", namespace, "cacerts") or {}
    try:
        deployed = any(
            str(gateway["spec"].get("gatewayClassName", "")) in _DEPLOYED
            for gateway in cluster.get("gateways.gateway.networking.k8s.io")
        )
    except NotFoundError:  # Gateway API is not installed
        deployed = False
    ambient = any(
        istiod.env.get("AMBIENT_ENABLE_MULTI_NETWORK", "").lower() in {"true", "1", "t"}
        for istiod in istiods(cluster, namespace)
    )
    used = ("ca-crl.pem" in (cacerts.get("data") or {}), deployed, ambient)
    return [feature for feature, is_used in zip(FEATURES, used, strict=True) if is_used]


_DEPLOYED = frozenset({"istio", "istio-waypoint", "istio-east-west"})
"""Classes of Gateways whose Deployments istiod makes (pilot/pkg/config/kube/gateway/deploymentcontroller.go)."""


@dataclass(frozen=True)
class ControlPlane:
    """Who one istiod thinks it is, and what it injects into new pods: a row of `IDENTITY`.

    `external` says that it is installed to serve other clusters (EXTERNAL_ISTIOD); `serves` has those that it does.
    """

    cluster: str
    istiod: str
    revision: str = ""
    cluster_id: str = ""
    network: str = ""
    mesh_id: str = ""
    trust_domain: str = ""
    trust_domain_aliases: tuple[str, ...] = ()
    cluster_domain: str = ""
    cluster_aliases: tuple[str, ...] = ()
    injected_cluster_id: str = ""
    injected_network: str = ""
    serves: tuple[Remote, ...] = ()
    external: bool = False
    reason: str = ""

    @property
    def target(self) -> str:
        """Nothing else than its cluster."""
        return ""

    @property
    def accepted_ids(self) -> frozenset[str]:
        """The cluster ids that it takes from proxies."""
        return frozenset({self.cluster_id, *self.cluster_aliases})

    @property
    def trust_domains(self) -> frozenset[str]:
        """The trust domains that its proxies accept."""
        return frozenset({self.trust_domain, *self.trust_domain_aliases})


Identity = Reading[ControlPlane]


def identity(mesh: Mesh) -> Identity:
    """Return who each istiod thinks it is, what it injects into new pods, and which clusters without istiod it serves.

    Source: the pod's environment, and the ConfigMaps `istio` and `istio-sidecar-injector` of its revision; see
    `primaries`.
    """
    served = primaries.remotes(mesh)
    items: list[ControlPlane] = []
    unread: list[Unread] = []
    for name, istiod, answer in ask_istiods(mesh, _identity):
        if isinstance(answer, Unknown):
            unread.append(Unread(name, answer.reason, istiod.name if istiod else ""))
        else:
            own = (one for one in served.values() if isinstance(one, Remote) and one.primary == name)
            items.append(replace(answer, serves=tuple(own)))
    unread += [Unread(name, one.reason) for name, one in served.items() if isinstance(one, Unknown)]
    none = [ControlPlane(name, "", reason=_served(one)) for name, one in served.items() if isinstance(one, Remote)]
    return identity_reading(
        items, unread, [one for one in none if all(one.cluster != known.cluster for known in items)]
    )


def _served(remote: Remote) -> str:
    return f"{remote.primary}'s istiod serves it: {remote.found_by}" if remote.primary else remote.found_by


def identity_reading(
    items: Iterable[ControlPlane] = (), unread: Iterable[Unread] = (), none: Iterable[ControlPlane] = ()
) -> Identity:
    """Return the reading of who istiods are."""
    return Reading(IDENTITY, items, unread, none, why="reason")


def home(identity: Identity, name: str) -> str:
    """Return the cluster whose istiods serve a cluster: itself, unless it has none and another's do."""
    served = (one.cluster for one in identity if name in map(str, one.serves))
    return next(served, name) if identity.lacks(name) else name


def is_remote(identity: Identity, name: str) -> bool:
    """Tell whether a cluster has no istiod, and another's serves it, of the mesh file or not."""
    return identity.lacks(name) and bool(identity.none_in(name))


def outside(identity: Identity, name: str) -> str:
    """Return why a cluster's istiods cannot be asked: they run in no cluster of the mesh file; or an empty text."""
    if home(identity, name) != name or not identity.lacks(name):
        return ""
    return next((f"{one.reason}, in no cluster of the mesh file" for one in identity.none_in(name)), "")


def _identity(istiod: Istiod) -> ControlPlane:
    suffix = f"-{istiod.revision}" if istiod.revision not in ("", "default") else ""
    cluster, namespace = istiod.cluster, istiod.namespace
    config = cluster.find("configmaps", namespace, f"istio{suffix}")
    settings = _field(config, "mesh")
    injector = _field(cluster.find("configmaps", namespace, f"istio-sidecar-injector{suffix}"), "values")
    values = injector.get("global", {})
    own = cluster.find("namespaces", None, namespace) or {}
    cluster_id = istiod.env.get("CLUSTER_ID", "") or "Kubernetes"
    return ControlPlane(
        cluster.name,
        istiod.name,
        revision=istiod.revision,
        cluster_id=cluster_id,
        network=own.get("metadata", {}).get("labels", {}).get(NETWORK, "") or _from_registry(config, cluster_id),
        mesh_id=settings.get("defaultConfig", {}).get("meshId", "") or values.get("meshID", ""),
        trust_domain=settings.get("trustDomain", "") or "cluster.local",
        trust_domain_aliases=tuple(settings.get("trustDomainAliases") or ()),
        cluster_domain=of_cluster(cluster, namespace),
        cluster_aliases=tuple(aliases(istiod.arguments, cluster_id)),
        injected_cluster_id=values.get("multiCluster", {}).get("clusterName", "") or "Kubernetes",
        injected_network=values.get("network", ""),
        external=is_on(istiod.env, primaries.EXTERNAL),
    )


def _from_registry(config_map: dict[str, Any] | None, cluster_id: str) -> str:
    """Return the network that meshNetworks give to all pods of a cluster, where no label does.

    Source: pilot/pkg/serviceregistry/kube/controller, Network and reloadMeshNetworks.
    """
    networks = mesh_networks.parse(config_map)
    told = ((name, one.get("fromRegistry")) for name, known in networks.items() for one in known.get("endpoints") or [])
    return next((str(name) for name, registry in told if registry == cluster_id), "")


def aliases(arguments: Iterable[str], cluster_id: str) -> list[str]:
    """Return the ids that an istiod's arguments let proxies claim in place of its own.

    Source: `--clusterAliases`, `alias=id` comma-joined (pilot/cmd/pilot-discovery/app/cmd.go).
    """
    words = [*arguments, ""]
    said = [w.partition("=")[2] or after for w, after in pairwise(words) if w.partition("=")[0] == "--clusterAliases"]
    pairs = (pair.partition("=") for text in said for pair in text.split(","))
    return sorted({alias for alias, _, target in pairs if target == cluster_id})


def _field(config_map: dict[str, Any] | None, field: str) -> dict[str, Any]:
    document = yaml.safe_load((config_map or {}).get("data", {}).get(field, "")) or {}
    return document if isinstance(document, dict) else {}
