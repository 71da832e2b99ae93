"""Gateways of the Kubernetes Gateway API as east-west gateways: which listeners let mutual TLS through, on whose pods.

Belongs here: what one such object means. Does not: what a cluster offers altogether (`gateways`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

from meshkit.istio.control_plane.istiods_and_proxies import NETWORK
from meshkit.kube.cluster import Cluster
from meshkit.kube.mesh import Mesh, Unknown
from meshkit.kube.transport import NotFoundError

PORT_LABEL: Final = "networking.istio.io/gatewayPort"
NAME_LABELS: Final = ("gateway.networking.k8s.io/gateway-name", "istio.io/gateway-name")
"""The pods of a Gateway have the second label up to Istio 1.22, and no other up to 1.20 (files/kube-gateway.yaml)."""
LISTENER_MODE: Final = "gateway.istio.io/listener-protocol"
NO_DEFINITIONS: Final = "the definitions of the Gateway API are not installed"
PASSTHROUGH: Final = "Passthrough"
PASSTHROUGH_PORT: Final = 15443
CLASS: Final = "istio"
"""The GatewayClass whose Gateways istiod deploys; it makes the class once the definitions are there."""
Manifest = dict[str, Any]
Labels = Mapping[str, str]


def read(cluster: Cluster) -> list[Manifest]:
    """Return the Gateways that istiod takes for a network's."""
    try:
        found = cluster.get("gateways.gateway.networking.k8s.io")
    except NotFoundError:  # its definitions are not installed
        return []
    return [gateway for gateway in found if listeners(gateway)]


def not_deployed(mesh: Mesh) -> dict[str, str | Unknown]:
    """Return for each cluster why a new Gateway would get no pods, or an empty text."""

    def read(cluster: Cluster) -> str:
        try:
            classes = cluster.get("gatewayclasses.gateway.networking.k8s.io")
        except NotFoundError:
            return NO_DEFINITIONS
        found = any(one["metadata"]["name"] == CLASS for one in classes)
        return "" if found else f"no istiod has made GatewayClass {CLASS} yet"

    return mesh.each(read)


def listeners(resource: Manifest) -> list[Manifest]:
    """Return the listeners that istiod takes for a network's gateway; one that serves it has the mode Passthrough, too.

    Source: pilot/pkg/serviceregistry/kube/conversion.go, IsAutoPassthrough.
    """
    labels = resource["metadata"].get("labels") or {}
    wanted = labels.get(PORT_LABEL, str(PASSTHROUGH_PORT)) if NETWORK in labels else ""
    return [
        one
        for one in resource["spec"].get("listeners") or []
        if (tls := one.get("tls")) is not None
        and (str(one.get("port")) == wanted or (tls.get("options") or {}).get(LISTENER_MODE) == "auto-passthrough")
    ]


def made_for(labels: Labels) -> str:
    """Return the Gateway that pods with these labels were made for, or an empty text."""
    return next((labels[key] for key in NAME_LABELS if key in labels), "")


def lets_in(resource: Manifest, service: Manifest, pods: Collection[Labels]) -> list[str]:
    """Return the hosts that a Gateway lets in on a Service's pods."""
    if not _serves(resource, service, pods):
        return []
    return [str(one.get("hostname") or "*") for one in listeners(resource) if one["tls"].get("mode") == PASSTHROUGH]


def _serves(resource: Manifest, service: Manifest, pods: Collection[Labels]) -> bool:
    """Tell whether a Gateway listens on a Service's pods: made for it, or the Service that an address names.

    Either is in the Gateway's namespace. A name without a dot is a Service's; only the type Hostname counts.

    Source: pilot/pkg/config/kube/gateway/conversion.go, extractGatewayServices; pilot/pkg/model/push_context.go,
    mergeGateways.
    """
    gateway, own = resource["metadata"], service["metadata"]
    if gateway["namespace"] != own["namespace"]:
        return False
    addresses = resource["spec"].get("addresses") or []
    names = [str(address["value"]) for address in addresses if address.get("type") == "Hostname"]
    host = f"{own['name']}.{own['namespace']}.svc."
    named = any(name == own["name"] or name.startswith(host) for name in names)
    return named or gateway["name"] in map(made_for, pods)
