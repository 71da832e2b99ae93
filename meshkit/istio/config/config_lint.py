"""Objects of Istio that are right in one cluster and wrong in a mesh of many.

Each cluster's clients go by the objects of their own cluster: a rule that was written when there was one cluster goes
on as it is, and nothing refuses it.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import pandas as pd

from meshkit.istio.config.authorization_policies import named_domains
from meshkit.istio.config.missing_services import selects
from meshkit.istio.config.services import is_cluster_local, local_hosts
from meshkit.istio.config.visibility import covers, full
from meshkit.istio.control_plane import primaries
from meshkit.istio.control_plane.cluster_domain import DEFAULT, of_cluster
from meshkit.istio.control_plane.istiods_and_proxies import istiods
from meshkit.istio.control_plane.mesh_config import mesh_config
from meshkit.istio.control_plane.revisions import configured
from meshkit.istio.control_plane.versions import Version, istiod_version
from meshkit.kube.cluster import Cluster
from meshkit.kube.mesh import Mesh, Unknown, understood
from meshkit.tables import Table, text

CONFIG_LINT: Final = Table(
    "config-lint",
    "Istio configuration that fails between clusters",
    {
        "cluster": text("its cluster"),
        "trouble": text("pinned, plain, plain perhaps, foreign, by address or kept"),
        "kind": text("of the object"),
        "namespace": text("its namespace"),
        "name": text("of the object"),
        "says": text("what it says"),
        "field": text("where it says so"),
        "reason": text("why a cluster could not be read"),
    },
    key=("cluster", "trouble", "kind", "namespace", "name", "field"),
)
UNKNOWN_CLUSTER_SUBSET, MTLS_OFF, MTLS_OFF_PARTLY, FOREIGN_TRUST_DOMAIN = "pinned", "plain", "plain perhaps", "foreign"
BY_ADDRESS, NO_OUTLIER_DETECTION = "by address", "kept"
KINDS: Final = (
    "destinationrules.networking.istio.io",
    "peerauthentications.security.istio.io",
    "authorizationpolicies.security.istio.io",
)
PLACES: Final = {"topology.istio.io/cluster": "cluster", "topology.istio.io/network": "network"}
TLS_MODE: Final = "security.istio.io/tlsMode"
_MUTUAL: Final = "ISTIO_MUTUAL"
DEFAULT_POLICY: Final = Version(1, 31)
"""From here on meshConfig has `defaultTrafficPolicy`. A development build of 1.31 has it, too."""
Manifest = dict[str, Any]
Row = dict[str, Any]


@dataclass(frozen=True)
class Behind:
    """A pod behind a Service: its labels, and the numbers of its ports that the Service leads to."""

    labels: Mapping[str, str]
    ports: frozenset[int]


@dataclass(frozen=True)
class Known:
    """What a mesh has, that a cluster's objects may name: clusters, networks, Services (`name.namespace`), identities.

    Services are those of the cluster (`hosts`); those that its clients may call in other networks (`abroad`); and those
    of its own that are in no other network, as far as these were read, but may be called from there (`alone`).
    `trust_domain` is the mesh's, with `aliases`; `domain` is the cluster's; and `outlier_detection` says whether rules
    inherit one. `behind` has each Service's pods of all clusters, with the port numbers that it leads to; `decided` are
    the namespaces with a PeerAuthentication that has a mode for all of their pods.
    """

    places: dict[str, Collection[str]]
    hosts: frozenset[str]
    trust_domain: str
    aliases: frozenset[str]
    abroad: frozenset[str]
    alone: frozenset[str]
    root: str
    decided: frozenset[str] = frozenset()
    domain: str = DEFAULT
    outlier_detection: bool = False
    behind: Mapping[str, Sequence[Behind]] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class _Read:
    """A cluster's objects of Istio; its Services, with the pods behind each; its meshConfig and domain.

    `outlier_detection` says whether every rule inherits one from meshConfig.
    """

    objects: list[Manifest]
    behind: Mapping[str, Sequence[Behind]]
    settings: Manifest
    domain: str
    outlier_detection: bool

    @property
    def modes(self) -> Mapping[str, frozenset[str]]:
        """The TLS modes of the pods behind each Service."""
        return {
            host: frozenset(pod.labels.get(TLS_MODE, "disabled") for pod in pods) for host, pods in self.behind.items()
        }


def rules(mesh: Mesh) -> pd.DataFrame:
    """Return one row for each thing that an object of Istio says and that does no good between clusters.

    The column `trouble` is one of: pinned (a subset of a cluster or network that the mesh does not have, so it is
    empty); plain (mutual TLS is off, and istiod leaves out the endpoints of other networks); plain perhaps (so it does
    if the pods or the port meant are called from there, or Services that no other network has); foreign (a policy names
    identities of a trust domain that does not exist in the mesh); by address (a policy goes by the caller's address,
    which is a gateway's when the caller is elsewhere); kept (locality rules without outlierDetection, so nothing ever
    fails over).

    Source: pilot/pkg/xds/endpoints (ep_filters.go, mtls_checker.go), pilot/pkg/networking/core/loadbalancer.
    """
    sources = primaries.configured_in(mesh)
    read = mesh.each(lambda cluster: _read(cluster, mesh, sources[cluster.name]))
    rows: list[Row] = []
    for name, own in read.items():
        found = own if isinstance(own, Unknown) else understood(_rows, own, _known(mesh, name, own, read))
        known = [{"reason": found.reason}] if isinstance(found, Unknown) else found
        rows += [{"cluster": name, **row} for row in known]
    return CONFIG_LINT.frame(rows)


def _rows(own: _Read, known: Known) -> list[Row]:
    return [row for obj in own.objects for row in _judged(obj, known)]


def _read(cluster: Cluster, mesh: Mesh, source: Cluster) -> _Read:
    pods: dict[str, list[Manifest]] = defaultdict(list)
    for pod in cluster.get("pods", fields="status.phase=Running"):
        pods[pod["metadata"]["namespace"]].append(pod)
    behind = {}
    for service in cluster.get("services"):
        name, namespace = service["metadata"]["name"], service["metadata"]["namespace"]
        behind[f"{name}.{namespace}"] = [
            Behind(pod["metadata"].get("labels") or {}, frozenset(_target_ports(service, pod)))
            for pod in pods[namespace]
            if selects(service["spec"].get("selector") or {}, pod["metadata"].get("labels") or {})
        ]
    # No istiod reads those of a remote cluster; its primary's are judged there.
    objects = [o for kind in KINDS for o in configured(cluster, mesh.root_namespace, kind)] if source is cluster else []
    settings = mesh_config(source, mesh)
    domain = of_cluster(cluster, mesh.root_namespace)
    return _Read(objects, behind, settings, domain, _inherited(source, settings, mesh.root_namespace))


def _target_ports(service: Manifest, pod: Manifest) -> Iterator[int]:
    ports = [port for one in pod["spec"].get("containers") or [] for port in one.get("ports") or []]
    named = {port["name"]: int(port["containerPort"]) for port in ports if port.get("name")}
    for port in service["spec"].get("ports") or []:
        target = port.get("targetPort") or port["port"]
        if number := named.get(target, 0) if isinstance(target, str) else int(target):
            yield number


def _inherited(cluster: Cluster, settings: Manifest, root_namespace: str) -> bool:
    """Return whether rules without outlierDetection have that of meshConfig.

    Source: applyDefaultTrafficPolicy (pilot/pkg/networking/core/cluster_traffic_policy.go), in 1.31.0 and later.
    """
    if (settings.get("defaultTrafficPolicy") or {}).get("outlierDetection") is None:
        return False
    found = [Version.parse(istiod_version(istiod)) for istiod in istiods(cluster, root_namespace)]
    return bool(found) and all(version is not None and version >= DEFAULT_POLICY for version in found)


def _known(mesh: Mesh, name: str, own: _Read, read: Mapping[str, _Read | Unknown]) -> Known:
    root = own.settings.get("rootNamespace") or mesh.root_namespace
    networks = {entry.name: entry.network for entry in mesh.spec.clusters}
    others = {other: found for other, found in read.items() if isinstance(found, _Read)}
    local = local_hosts(own.settings, mesh.root_namespace, own.domain)

    def leaving(hosts: Iterable[str]) -> frozenset[str]:
        return frozenset(host for host in hosts if not is_cluster_local(f"{host}.svc.{own.domain}", local))

    modes: dict[str, frozenset[str]] = defaultdict(frozenset)
    for found in others.values():
        for host, seen in found.modes.items():
            modes[host] |= seen
    # Pods without sidecars take no calls from other networks, whatever objects say.
    bare = {host for host, seen in modes.items() if seen and "istio" not in seen}
    abroad = (
        leaving(h for other, found in others.items() if networks[other] != networks[name] for h in found.modes) - bare
    )
    return Known(
        places={"cluster": set(mesh.clusters), "network": set(networks.values())},
        hosts=abroad | own.modes.keys(),
        trust_domain=mesh.spec.mesh.trust_domain,
        aliases=frozenset(own.settings.get("trustDomainAliases") or []),
        abroad=abroad,
        alone=leaving(own.modes) - abroad - (bare if len(others) == len(read) else set()),
        root=root,
        decided=frozenset(obj["metadata"]["namespace"] for obj in own.objects if _decides(obj)) - {root},
        domain=own.domain,
        outlier_detection=own.outlier_detection,
        behind={host: [pod for found in others.values() for pod in found.behind.get(host, ())] for host in modes},
    )


def _judged(obj: Manifest, known: Known) -> Iterator[Row]:
    where = {"kind": obj["kind"], "namespace": obj["metadata"]["namespace"], "name": obj["metadata"]["name"]}
    yield from ({**where, **row} for row in JUDGES[obj["kind"]](obj, known))


def _destination_rule(obj: Manifest, known: Known) -> Iterator[Row]:
    spec = obj.get("spec") or {}
    for subset in spec.get("subsets") or []:
        for label, place in PLACES.items():
            value = (subset.get("labels") or {}).get(label)
            if value and value not in known.places[place]:
                yield {
                    "trouble": UNKNOWN_CLUSTER_SUBSET,
                    "says": f"{label}: {value}",
                    "field": f"subset {subset['name']}",
                }
    means = partial(is_of_mesh, str(spec.get("host", "")), obj["metadata"]["namespace"], domain=known.domain)
    if not means(known.hosts):
        return
    policies = {"trafficPolicy": spec.get("trafficPolicy") or {}}
    policies |= {f"subset {s['name']}": s.get("trafficPolicy") or {} for s in spec.get("subsets") or []}
    for field, policy in policies.items():
        tls = [policy.get("tls"), *(port.get("tls") for port in policy.get("portLevelSettings") or [])]
        for mode in sorted({str(t.get("mode", "DISABLE")) for t in tls if t} - {_MUTUAL}):
            yield from _plain(f"tls mode {mode} to {spec['host']}", field, means, known)
    if not known.outlier_detection:
        yield from _kept(spec)


def _kept(spec: Manifest) -> Iterator[Row]:
    """Yield each policy of a DestinationRule that asks for failover and has no outlierDetection.

    A subset inherits the rule's own; settings of a port inherit nothing.

    Source: MergeTrafficPolicy (pilot/pkg/model/destination_rule.go).
    """
    own = spec.get("trafficPolicy") or {}
    policies = [("trafficPolicy", own, own)]
    for subset in spec.get("subsets") or []:
        policy = subset.get("trafficPolicy") or {}
        merged = {"outlierDetection": own.get("outlierDetection"), **policy}
        policies.append((f"subset {subset['name']}", policy, merged))
    for field, policy, effective in policies:
        ports = [(f"{field} port {_port(p)}", p, p) for p in policy.get("portLevelSettings") or []]
        for place, asking, having in [(field, policy, effective), *ports]:
            locality = (asking.get("loadBalancer") or {}).get("localityLbSetting") or {}
            asked = sorted(set(locality) & {"failover", "failoverPriority"})
            # An empty outlierDetection is one, with Envoy's defaults.
            if asked and locality.get("enabled") is not False and having.get("outlierDetection") is None:
                yield {
                    "trouble": NO_OUTLIER_DETECTION,
                    "says": f"{', '.join(asked)} without outlierDetection",
                    "field": place,
                }


def _port(settings: Manifest) -> str:
    return str((settings.get("port") or {}).get("number", "?"))


def is_of_mesh(host: str, namespace: str, hosts: Collection[str], *, domain: str = DEFAULT) -> bool:
    """Return whether a rule's host, in the rule's namespace, means a Service of Kubernetes, or some of them."""
    pattern = full(host, namespace, domain)
    return any(covers(pattern, f"{known}.svc.{domain}") for known in hosts)


def _plain(
    says: str, field: str, means: Callable[[Collection[str]], bool], known: Known, *, in_part: bool = False
) -> Iterator[Row]:
    if means(known.abroad) and not in_part:
        yield {"trouble": MTLS_OFF, "says": says, "field": field}
    elif means(known.abroad | known.alone):
        why = "" if in_part else " (no other network that was read has the Service)"
        yield {"trouble": MTLS_OFF_PARTLY, "says": f"{says}{why}", "field": field}


def _peer_authentication(obj: Manifest, known: Known) -> Iterator[Row]:
    spec, namespace = obj.get("spec") or {}, obj["metadata"]["namespace"]

    def means(hosts: Collection[str]) -> bool:
        homes = {host.partition(".")[2] for host in hosts}
        return bool(homes - known.decided) if namespace == known.root else namespace in homes

    labels = (spec.get("selector") or {}).get("matchLabels") or {}
    if (spec.get("mtls") or {}).get("mode") == "DISABLE":
        some = f" for pods with {', '.join(f'{k}={v}' for k, v in labels.items())}" if labels else ""
        part = bool(labels) and not _whole(namespace, labels, known)
        yield from _plain(f"mtls mode DISABLE{some}", "mtls", means, known, in_part=part)
    for port, mtls in (spec.get("portLevelMtls") or {}).items():
        if (mtls or {}).get("mode") == "DISABLE":
            says = f"mtls mode DISABLE for port {port}"
            # Ports count only beside a selector: ComposePeerAuthentication (pilot/pkg/security/authn).
            part = not labels or not _whole(namespace, labels, known, int(port))
            yield from _plain(says, f"portLevelMtls {port}", means, known, in_part=part)


def _decides(obj: Manifest) -> bool:
    """Return whether a PeerAuthentication has a mode for its whole namespace, which comes before that of the mesh."""
    spec = obj.get("spec") or {}
    whole = obj["kind"] == "PeerAuthentication" and not (spec.get("selector") or {}).get("matchLabels")
    return whole and (spec.get("mtls") or {}).get("mode", "UNSET") != "UNSET"


def _whole(namespace: str, labels: Mapping[str, str], known: Known, port: int = 0) -> bool:
    """Return whether labels select all pods behind a Service that other networks call, which leads to the port."""
    hosts = (host for host in known.abroad if namespace == host.partition(".")[2])
    return any(
        pods and all(labels.items() <= pod.labels.items() and (not port or port in pod.ports) for pod in pods)
        for pods in (known.behind.get(host, ()) for host in hosts)
    )


def _authorization_policy(obj: Manifest, known: Known) -> Iterator[Row]:
    spec = obj.get("spec") or {}
    action = str(spec.get("action", "ALLOW"))
    strange: dict[tuple[str, str], set[str]] = defaultdict(set)
    for one in named_domains(obj):
        if not one.means(known.trust_domain, known.aliases):
            condition = one.field.partition(" ")[0] if one.at.endswith("when") else ""
            strange[one.at, condition].add(f"{one.value} (as it stands)" if one.literal else one.trust_domain)
    for (field, _), named in strange.items():
        yield {"trouble": FOREIGN_TRUST_DOMAIN, "says": f"{action} of {', '.join(sorted(named))}", "field": field}
    for number, rule in enumerate(spec.get("rules") or []):
        for part, blocks in _addresses(rule or {}):
            if blocks:
                field = f"rules[{number}].{part}"
                yield {"trouble": BY_ADDRESS, "says": f"{action} of {', '.join(blocks)}", "field": field}


def _addresses(rule: Manifest) -> Iterator[tuple[str, list[str]]]:
    """Yield the source addresses that a policy's rule names, by the part that does."""
    sources = [one.get("source") or {} for one in rule.get("from") or []]
    yield "from", [b for source in sources for key in ("ipBlocks", "notIpBlocks") for b in source.get(key) or []]
    conditions = [one for one in rule.get("when") or [] if one.get("key") == "source.ip"]
    yield "when", [b for one in conditions for key in ("values", "notValues") for b in one.get(key) or []]


JUDGES: Final[dict[str, Callable[[Manifest, Known], Iterator[Row]]]] = {
    "DestinationRule": _destination_rule,
    "PeerAuthentication": _peer_authentication,
    "AuthorizationPolicy": _authorization_policy,
}
