"""Manifests of an east-west gateway: its IstioOperator, its exposure to other clusters, and meshNetworks.

As Istio's own samples/multicluster make it (gen-eastwest-gateway.sh, expose-services.yaml), with the mesh file's words.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from meshkit.istio.control_plane import istioctl, requested
from meshkit.istio.control_plane.cluster_domain import DEFAULT
from meshkit.istio.control_plane.mesh_networks import read
from meshkit.istio.multicluster.gateway_api import CLASS
from meshkit.istio.multicluster.gateways import NETWORK, PASSTHROUGH_PORT, Gateways
from meshkit.kube.mesh import Mesh, Unknown
from meshkit.spec import MeshSpec

NAME = "istio-eastwestgateway"
OPERATOR = "eastwest"
EXPOSURE = "cross-network-gateway"
SERVICE_TYPE = "networking.istio.io/service-type"
SELECTOR = {"istio": "eastwestgateway"}
PORTS = {"status-port": 15021, "tls": PASSTHROUGH_PORT, "tls-istiod": 15012, "tls-webhook": 15017}
Networks = dict[str, Any]
"""`meshNetworks`: endpoints and gateways by network."""


def eastwest(spec: MeshSpec, name: str) -> dict[str, Any]:
    """Return the IstioOperator of a cluster's east-west gateway, and of nothing else.

    The mesh file's overlay comes first (hub, tag, meshConfig and values of it), the gateway after it.

    Raises:
        InputError: the overlay is missing or no IstioOperator.
    """
    entry = spec.cluster(name)
    taken = {key: value for key, value in istioctl.overlay(spec).items() if key in istioctl.SHARED}
    own: dict[str, Any] = {
        "profile": "empty",
        "components": {"ingressGateways": [_gateway(spec, name)]},
        "values": {
            "gateways": {"istio-ingressgateway": {"injectionTemplate": "gateway"}},
            "global": {
                "network": entry.network,
                "meshID": spec.mesh.id,
                "multiCluster": {"clusterName": name},
                # No control plane is installed here: without this istioctl would make the default tag, or move it.
                istioctl.UNTAGGED: True,
                **({"istioNamespace": spec.mesh.root_namespace} if _elsewhere(spec) else {}),
            },
        },
        **({"revision": spec.istio.revision} if spec.istio.revision else {}),
        **({"namespace": spec.mesh.root_namespace} if _elsewhere(spec) else {}),
    }
    return istioctl.wrap(istioctl.merge(taken, own), OPERATOR)


def gateway_api(spec: MeshSpec, name: str, domain: str = DEFAULT) -> dict[str, Any]:
    """Return a cluster's east-west gateway as a Gateway of the Gateway API, which lets others in by itself.

    istiod copies its labels and annotations to the Service and the pods that it makes, whose name ends in `-istio`.

    Source: pilot/pkg/config/kube/gatewaycommon/deploymentcontroller.go (extractInfrastructureMetadata, serviceType).
    """
    entry, revision = spec.cluster(name), spec.istio.revision
    annotations, kind = dict(entry.gateway.annotations), entry.gateway.service_type
    if kind != "LoadBalancer":
        annotations[SERVICE_TYPE] = kind
    listeners = [
        {
            "name": f"cross-network-{number}",
            "hostname": host,
            "port": PASSTHROUGH_PORT,
            "protocol": "TLS",
            "tls": {"mode": "Passthrough"},
        }
        for number, host in enumerate(hosts(spec, name, domain), 1)
    ]
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "Gateway",
        "metadata": {
            "name": NAME,
            "namespace": spec.mesh.root_namespace,
            "labels": {NETWORK: entry.network, **({istioctl.REVISION: revision} if revision else {})},
            **({"annotations": annotations} if annotations else {}),
        },
        "spec": {"gatewayClassName": CLASS, "listeners": listeners},
    }


def by_its_owner(spec: MeshSpec, name: str, kind: str) -> dict[str, Any]:
    """Return a cluster's east-west gateway as its owner of Istio takes it, in a form of `requested.form`.

    Sail has no resource for a gateway: its users take the chart. Source: manifests/charts/gateway/values.yaml.
    """
    if kind == "IstioOperator":
        return eastwest(spec, name)
    entry, service = spec.cluster(name), dict[str, Any]()
    if entry.gateway.service_type != "LoadBalancer":
        service["type"] = entry.gateway.service_type
    if entry.gateway.annotations:
        service["annotations"] = dict(entry.gateway.annotations)
    values: dict[str, Any] = {
        "networkGateway": entry.network,
        **({"revision": spec.istio.revision} if spec.istio.revision else {}),
        **({"service": service} if service else {}),
    }
    return requested.release(spec, NAME, "gateway", values)


def selector(kind: str) -> dict[str, str]:
    """Return the labels by which an exposure selects the pods of a new gateway, in a form of `requested.form`.

    Source: manifests/charts/gateway/templates/_helpers.tpl, gateway.selectorLabels.
    """
    return SELECTOR if kind == "IstioOperator" else {"app": NAME, **SELECTOR}


def _gateway(spec: MeshSpec, name: str) -> dict[str, Any]:
    entry = spec.cluster(name)
    kind, annotations = entry.gateway.service_type, entry.gateway.annotations
    service = {"ports": [{"name": word, "port": port, "targetPort": port} for word, port in PORTS.items()]}
    return {
        "name": NAME,
        "label": {**SELECTOR, "app": NAME, NETWORK: entry.network},
        "enabled": True,
        **({"namespace": spec.mesh.root_namespace} if _elsewhere(spec) else {}),
        "k8s": {
            "env": [{"name": "ISTIO_META_REQUESTED_NETWORK_VIEW", "value": entry.network}],
            "service": {**service, **({"type": kind} if kind != "LoadBalancer" else {})},
            **({"serviceAnnotations": dict(annotations)} if annotations else {}),
        },
    }


def _elsewhere(spec: MeshSpec) -> bool:
    return spec.mesh.root_namespace != "istio-system"


def hosts(spec: MeshSpec, name: str, domain: str = DEFAULT) -> list[str]:
    """Return the hosts that a cluster's gateway lets others reach: the mesh file's, else all of the cluster domain.

    A remote cluster's are those of its primary, whose exposure is the only one that istiod reads. As Istio's own
    samples/multicluster/expose-services.yaml: `*.local`; another domain is not below that.
    """
    return spec.cluster(spec.primary_of(name)).gateway.hosts or ["*.local" if domain == DEFAULT else f"*.{domain}"]


def exposure(
    spec: MeshSpec, name: str, selector: Mapping[str, str], domain: str = DEFAULT, *, namespace: str = ""
) -> dict[str, Any]:
    """Return the Gateway that lets mutual TLS of other clusters through to the hosts of the mesh.

    Its namespace is the root namespace, unless another is given.
    """
    server = {
        "port": {"number": PASSTHROUGH_PORT, "name": "tls", "protocol": "TLS"},
        "tls": {"mode": "AUTO_PASSTHROUGH"},
        "hosts": list(hosts(spec, name, domain)),
    }
    return {
        "apiVersion": "networking.istio.io/v1",
        "kind": "Gateway",
        "metadata": {"name": EXPOSURE, "namespace": namespace or spec.mesh.root_namespace},
        "spec": {"selector": dict(selector), "servers": [server]},
    }


def mesh_networks(spec: MeshSpec, gateways: Gateways | None = None, domain: str = DEFAULT) -> Networks:
    """Return `values.global.meshNetworks`: which cluster is on which network, behind which gateway Service.

    The Service is named, not its address: an istiod looks it up in the very cluster that the network is of, and
    follows it when it gets another address.

    Args:
        spec: the mesh file.
        gateways: `gateways.gateways`, for gateways that do not have meshkit's name.
        domain: the cluster domain, of `meshkit.istio.control_plane.cluster_domain`.

    Source: pilot/pkg/serviceregistry/kube/controller/network.go (reloadMeshNetworks).
    """
    found: dict[str, Any] = {}
    for entry in spec.clusters:
        place = f"{NAME}.{spec.mesh.root_namespace}"
        if gateways is not None:
            own = (one for one in gateways.of(entry.name, entry.network) if not one.declared)
            places = [f"{one.service}.{one.namespace}" for one in own]
            place = place if place in places or not places else places[0]
        gateway = {"registryServiceName": f"{place}.svc.{domain}", "port": PASSTHROUGH_PORT}
        network = found.setdefault(entry.network, {"endpoints": [], "gateways": []})
        network["endpoints"].append({"fromRegistry": entry.name})
        network["gateways"] += [] if gateway in network["gateways"] else [gateway]
    return found


def configured(mesh: Mesh) -> dict[str, Networks | Unknown]:
    """Return the `meshNetworks` in the ConfigMap of each cluster's istiod, if the mesh file asks for them."""
    if not mesh.spec.topology.mesh_networks:
        return {}
    return mesh.each(lambda cluster: read(cluster, mesh))
