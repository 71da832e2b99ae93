"""Localities of pods, and the distribution of calls by them, as DestinationRules and meshConfig set it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from meshkit.kube.selectors import Labels

Manifest = dict[str, Any]
_REGION: Final = ("topology.kubernetes.io/region", "failure-domain.beta.kubernetes.io/region")
_ZONE: Final = ("topology.kubernetes.io/zone", "failure-domain.beta.kubernetes.io/zone")
_SUBZONE: Final = ("topology.istio.io/subzone",)
MESH: Final = "mesh: "
"""Before a field of meshConfig in the ConfigMap of istiods."""
TRAFFIC_DISTRIBUTION: Final = "networking.istio.io/traffic-distribution"
_NEAREST: Final = ("prefersamezone", "preferclose", "prefersamenode")
_ACROSS: Final = ("topology.istio.io/network", "topology.istio.io/cluster")
"""Labels of `failoverPriority` by which another cluster comes later, whatever its locality."""
_OWN: Final = ("topology.istio.io/locality", "istio-locality")


def locality_of(pod: Labels, node: Labels) -> str:
    """Return a pod's `region/zone/subzone`: by its own label, else by its node's; empty where neither says one.

    Source: GetLocalityLabel (pkg/model/proxy.go), getPodLocality (pilot/pkg/serviceregistry/kube/controller).
    """
    if own := _first(pod, _OWN):
        return own if "/" in own else own.replace(".", "/")
    return "/".join(_first(node, names) for names in (_REGION, _ZONE, _SUBZONE)).rstrip("/")


def endpoint_labels(pod: Labels, locality: str, cluster: str, network: str) -> dict[str, str | None]:
    """Return an endpoint's labels, as subsets select by them; None where it has one whose value was not read.

    Source: AugmentLabels (pilot/pkg/serviceregistry/util/label/label.go).
    """
    names = (_REGION[0], _ZONE[0], *_SUBZONE)
    places = dict.fromkeys(names) if not locality else dict(zip(names, locality.split("/"), strict=False))
    known = {k: v for k, v in places.items() if v != ""}
    return {_ACROSS[0]: network, **pod, **known, _ACROSS[1]: cluster, "kubernetes.io/hostname": None}


def matches_rule(locality: str, rule: str) -> bool:
    """Return whether a locality is one that a rule names; `*`, and a missing zone or subzone, are any.

    Source: LocalityMatch (pilot/pkg/networking/util/util.go).
    """
    parts, wanted = (f"{one}//".split("/", 3)[:3] for one in (locality, rule))
    free = ("*",), ("*", ""), ("*", "")
    return all(want in any_ or have == want for have, want, any_ in zip(parts, wanted, free, strict=True))


@dataclass(frozen=True)
class Balancing:
    """How a port's calls are spread over localities: the setting that counts, its field, and whether failover is on.

    The field of meshConfig begins with `mesh: `; `service` means that the Service asks for the nearest endpoints.
    """

    setting: Manifest
    field: str
    failover: bool
    service: bool = False

    @property
    def distribute(self) -> Sequence[Manifest]:
        """The shares of localities; endpoints of those that they do not name are taken away."""
        return self.setting.get("distribute") or []

    def prefers_home(self, *, apart: bool, client: str, server: str) -> bool:
        """Return whether a client's calls go to a server elsewhere only where nearer endpoints are not healthy.

        By `failoverPriority` one of another network or cluster comes later, if it has these labels; else by locality.
        """
        if not self.failover or self.distribute:
            return False
        labels = [str(label).partition("=")[0] for label in self.setting.get("failoverPriority") or []]
        if labels and ((apart and _ACROSS[0] in labels) or _ACROSS[1] in labels):
            return True
        return bool(client and server and client != server) and (not labels or any("/" in one for one in labels))


def traffic_distribution(service: Manifest | None, namespace: Labels) -> str:
    """Return the field by which a Service asks for its nearest endpoints, or nothing.

    Args:
        service: the Service, if there is one.
        namespace: the annotations of its namespace.

    Source: GetTrafficDistribution (pilot/pkg/model/service.go).
    """
    found = service or {}
    annotations = (found.get("metadata") or {}).get("annotations") or {}
    said = str((found.get("spec") or {}).get("trafficDistribution") or "").lower()
    own = str(annotations.get(TRAFFIC_DISTRIBUTION) or "").lower()
    if said in _NEAREST:
        return "spec.trafficDistribution"
    if own:
        return f"annotation {TRAFFIC_DISTRIBUTION}" if own in _NEAREST else ""
    inherited = str(namespace.get(TRAFFIC_DISTRIBUTION) or "").lower()
    return f"annotation {TRAFFIC_DISTRIBUTION} of its namespace" if inherited in _NEAREST else ""


def balancing(policy: Manifest, settings: Manifest, port: int, nearest: str = "") -> Balancing:
    """Return how the calls to a port are spread: by the traffic policy, else by the Service, else by meshConfig.

    The localityLbSetting of a traffic policy replaces all others, and a port's settings those of the policy. Failover
    wants outlier detection, except where the Service asks for the nearest (`nearest`, of `traffic_distribution`).

    Source: GetEffectiveLbSetting (pilot/pkg/networking/core/loadbalancer), getSubsetTrafficPolicy and
    getOutlierDetectionAndLoadBalancerSettings (pilot/pkg/xds/endpoints/endpoint_builder.go).
    """
    place = "spec.trafficPolicy"
    for own in policy.get("portLevelSettings") or []:
        if (own.get("port") or {}).get("number") == port:
            policy, place = own, f"{place}.portLevelSettings"
            break
    said = (policy.get("loadBalancer") or {}).get("localityLbSetting")
    detects = policy.get("outlierDetection") is not None
    if said is not None:
        setting = {} if said.get("enabled") is False else said
        on = detects and said.get("enabled") is not False
        return Balancing(setting, f"{place}.loadBalancer.localityLbSetting", on)
    if nearest:
        return Balancing({"failoverPriority": [_ACROSS[0], *_REGION, *_ZONE]}, nearest, failover=True, service=True)
    mesh = settings.get("localityLbSetting") or {}
    if mesh.get("enabled") is False:
        return Balancing({}, f"{MESH}localityLbSetting", failover=False)
    field = f"{place}.outlierDetection" if detects and not mesh.get("distribute") else f"{MESH}localityLbSetting"
    return Balancing(mesh, field, detects)


def leaves_out(distribute: Sequence[Manifest], client: str, server: str) -> str:
    """Return the rule by which a client's calls get no endpoints of the server's locality; nothing if there is none.

    The first that is for the client's locality counts; endpoints of localities that it does not name are taken away.

    Source: applyLocalityWeights (pilot/pkg/networking/core/loadbalancer/loadbalancer.go).
    """
    own = next((one for one in distribute if matches_rule(client, str(one.get("from", "")))), None)
    to = (own or {}).get("to") or {}
    if own is None or any(matches_rule(server, str(one)) for one in to):
        return ""
    return f"from {own['from']} to {', '.join(to) or 'nothing'}"


def _first(labels: Labels, names: Sequence[str]) -> str:
    return next((labels[name] for name in names if labels.get(name)), "")
