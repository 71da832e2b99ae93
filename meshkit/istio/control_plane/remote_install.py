"""What primary-remote needs beside the ids of each cluster: istiod offered by the primary, and the remote's profile.

A remote cluster has no istiod. Its webhooks, and a Service `istiod` without pods, lead to an address of its primary's.

Source: manifests/profiles/remote.yaml; manifests/charts/istio-control/istio-discovery (remote-istiod-service.yaml,
remote-istiod-endpointslices.yaml); samples/multicluster/gen-eastwest-gateway.sh, whose gateway has the same two ports.
"""

from __future__ import annotations

from typing import Any, Final

from meshkit.istio.control_plane import istioctl
from meshkit.istio.control_plane.istiods_and_proxies import istiods
from meshkit.istio.control_plane.primaries import ANNOTATION
from meshkit.kube.cluster import Cluster
from meshkit.kube.manifests import Object
from meshkit.kube.selectors import matches
from meshkit.kube.wait import Wait
from meshkit.spec import MeshSpec

OFFER: Final = "istiod-remotes"
PORTS: Final = {"tls-istiod": 15012, "tls-webhook": 15017}
"""All that a remote asks istiod for: configuration and certificates (XDS, CSR), and injection."""
TO_COME: Final = "192.0.2.1"
"""Stands for an address that is not there yet (RFC 5737: it is nobody's); what has it is shown, never applied."""


def offer(spec: MeshSpec) -> Object:
    """Return the Service by which a primary's istiods are reached from its remotes, on these two ports only."""
    revision = spec.istio.revision or "default"
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": OFFER, "namespace": spec.mesh.root_namespace},
        "spec": {
            "type": "LoadBalancer",
            "selector": {"app": "istiod", istioctl.REVISION: revision},
            "ports": [{"name": name, "port": port, "targetPort": port} for name, port in PORTS.items()],
        },
    }


def offered(cluster: Cluster, namespace: str) -> tuple[str, str]:
    """Return the Service that offers a cluster's istiods to others, ours or one of others, and its address, if any.

    It is of type LoadBalancer, has both ports under their own numbers, and selects the istiods of that namespace.
    """
    pods = [one.labels for one in istiods(cluster, namespace)]
    found: tuple[str, str] = ("", "")
    for service in cluster.get("services", namespace):
        spec, selector = service["spec"], service["spec"].get("selector") or {}
        ports = {port.get("port") for port in spec.get("ports") or []}
        if spec.get("type") != "LoadBalancer" or not selector or not {*PORTS.values()} <= ports:
            continue
        if service["metadata"]["name"] != OFFER and not any(matches({"matchLabels": selector}, one) for one in pods):
            continue
        entries = ((service.get("status") or {}).get("loadBalancer") or {}).get("ingress") or []
        address = next((str(one.get("ip") or one.get("hostname")) for one in entries), "")
        if address:
            return str(service["metadata"]["name"]), address
        found = str(service["metadata"]["name"]), ""
    return found


def has_address(cluster: Cluster, namespace: str) -> Wait:
    """Return a wait until a cluster's istiods are offered at an address."""

    def missing() -> str:
        name, address = offered(cluster, namespace)
        return "" if address else f"Service {name or OFFER} has no address yet: `kubectl -n {namespace} get services`"

    return missing


def operator(spec: MeshSpec, name: str, address: str) -> istioctl.Operator:
    """Return the IstioOperator of a remote cluster, whose primary's istiod is at an address.

    Of the mesh file's overlay it takes hub, tag, meshConfig and values: the rest is of a control plane.

    Raises:
        InputError: the overlay is missing or no IstioOperator.
    """
    entry = spec.cluster(name)
    taken = {key: value for key, value in istioctl.overlay(spec).items() if key in istioctl.SHARED}
    ids: dict[str, Any] = {
        "meshID": spec.mesh.id,
        "network": entry.network,
        "multiCluster": {"clusterName": name},
        "remotePilotAddress": address,
    }
    own: dict[str, Any] = {
        "profile": "remote",
        "values": {"global": ids, "istiodRemote": {"injectionPath": f"/inject/cluster/{name}/net/{entry.network}"}},
    }
    return istioctl.wrap(istioctl.merge(taken, istioctl.placed(spec, own)))


def by_others(cluster: Cluster) -> bool:
    """Tell whether somebody made a cluster a remote by something else than istioctl, such as Helm or Argo CD."""
    injectors = [obj["metadata"] for obj in cluster.get("mutatingwebhookconfigurations") if istioctl.is_injector(obj)]
    return bool(injectors) and not any(istioctl.OWNER in one["labels"] for one in injectors)


def led_by(spec: MeshSpec, name: str, known: str) -> dict[str, str]:
    """Return the annotation by which a remote's root namespace lets its primary's istiod lead; nothing if it does.

    istiod reads it once, when it learns of the cluster: it must be there before the remote secret.

    Args:
        spec: the mesh file.
        name: of the remote cluster.
        known: what the annotation says now.

    Source: pilot/pkg/serviceregistry/kube/controller/multicluster.go (checkShouldLead).
    """
    primary, leaders = spec.primary_of(name), [one.strip() for one in known.split(",") if one.strip()]
    return {} if {"*", primary} & {*leaders} else {ANNOTATION: ",".join([*leaders, primary])}
