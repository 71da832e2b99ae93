"""Localities of pods, and the distribution of calls by them, as DestinationRules and meshConfig set it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from meshkit.kube.selectors import Labels

Manifest = dict[str, Any]
_REGION: Final = ("topology.kubernetes.io/region", "failure-domain.beta.kubernetes.io/region")
_ZONE: Final = ("topology.kubernetes.io/zone", "failure-domain.beta.kubernetes.io/zone")
_SUBZONE: Final = ("topology.istio.io/subzone",)
MESH: Final = "mesh: "
"""Before a field of meshConfig in the ConfigMap of istiods."""
_OWN: Final = ("topology.istio.io/locality", "istio-locality")


def locality_of(pod: Labels, node: Labels) -> str:
    """Return a pod's `region/zone/subzone`: by its own label, else by its node's; empty where neither says one.

    Source: GetLocalityLabel (pkg/model/proxy.go), getPodLocality (pilot/pkg/serviceregistry/kube/controller).
    """
    if own := _first(pod, _OWN):
        return own if "/" in own else own.replace(".", "/")
    return "/".join(_first(node, names) for names in (_REGION, _ZONE, _SUBZONE)).rstrip("/")


def matches_rule(locality: str, rule: str) -> bool:
    """Return whether a locality is one that a rule names; `*`, and a missing zone or subzone, are any.

    Source: LocalityMatch (pilot/pkg/networking/util/util.go).
    """
    parts, wanted = (f"{one}//".split("/", 3)[:3] for one in (locality, rule))
    free = ("*",), ("*", ""), ("*", "")
    return all(want in any_ or have == want for have, want, any_ in zip(parts, wanted, free, strict=True))


def distribution(policy: Manifest, settings: Manifest, port: int) -> tuple[Sequence[Manifest], str]:
    """Return the `distribute` that counts for a port, and its field; the field of meshConfig begins with `mesh: `.

    The localityLbSetting of a traffic policy replaces that of meshConfig, and a port's settings those of the policy.

    Source: GetEffectiveLbSetting (pilot/pkg/networking/core/loadbalancer), getSubsetTrafficPolicy (pilot/pkg/xds).
    """
    field = "spec.trafficPolicy"
    for own in policy.get("portLevelSettings") or []:
        if (own.get("port") or {}).get("number") == port:
            policy, field = own, f"{field}.portLevelSettings"
            break
    said = (policy.get("loadBalancer") or {}).get("localityLbSetting")
    field = f"{field}.loadBalancer.localityLbSetting"
    if said is None:
        said, field = settings.get("localityLbSetting") or {}, f"{MESH}localityLbSetting"
    return [] if said.get("enabled") is False else said.get("distribute") or [], f"{field}.distribute"


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
