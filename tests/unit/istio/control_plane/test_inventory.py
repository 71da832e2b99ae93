"""What clusters are made of: address ranges, who can use an address, and how Istio came there."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from meshkit.errors import UnreachableError
from meshkit.istio.control_plane import inventory
from meshkit.istio.control_plane.istiods_and_proxies import Istiod
from meshkit.kube.transport import NotFoundError

ARGO = "argocd.argoproj.io/tracking-id"


@pytest.mark.parametrize(
    ("address", "scope"),
    [
        ("https://127.0.0.1:6443", "loopback"),
        ("https://[::1]:6443", "loopback"),
        ("https://localhost:6443", "loopback"),
        ("https://kind.localhost", "loopback"),
        ("https://0.0.0.0:6443", "loopback"),
        ("https://169.254.1.1", "loopback"),
        ("https://10.1.2.3", "private"),
        ("https://8.8.8.8", "public"),
        ("https://api.east.example", "name"),
        ("", "loopback"),
    ],
)
def test_an_address_tells_who_could_use_it(address: str, scope: str) -> None:
    """Loopback and link-local mean another machine elsewhere."""
    assert inventory.scope(address) == scope


def test_ranges_come_from_nodes_and_neighbours_are_merged() -> None:
    """Both families, whichever field the node has; without any, the addresses in use tell."""
    nodes: list[dict[str, Any]] = [
        {"spec": {"podCIDR": "10.0.0.0/24", "podCIDRs": ["10.0.0.0/24", "fd00::/64"]}},
        {"spec": {"podCIDR": "10.0.1.0/24"}},
        {"spec": {}},
    ]
    assert inventory.joined(inventory.node_ranges(nodes)) == "10.0.0.0/23,fd00::/64"
    pods = [
        {"spec": {}, "status": {"podIPs": [{"ip": "10.5.0.7"}, {"ip": "fd01::7"}]}},
        {"spec": {"hostNetwork": True}, "status": {"podIPs": [{"ip": "192.0.2.1"}]}},
        {"spec": {}, "status": {}},
    ]
    assert inventory.joined(inventory.pod_addresses(pods)) == "10.5.0.7/32,fd01::7/128"
    services = [{"spec": {"clusterIPs": ["10.9.0.1"]}}, {"spec": {"clusterIPs": ["None"]}}, {"spec": {}}]
    assert inventory.joined(inventory.cluster_addresses(services)) == "10.9.0.1/32"


def pod(*addresses: str, **spec: Any) -> dict[str, Any]:
    """Return a pod with these addresses."""
    return {"spec": spec, "status": {"podIPs": [{"ip": address} for address in addresses]}}


NODES: list[dict[str, Any]] = [{"spec": {"podCIDR": "10.0.0.0/24"}}, {"spec": {"podCIDR": "10.0.1.0/24"}}]


@pytest.mark.parametrize(
    ("nodes", "pods", "ranges", "source"),
    [
        (NODES, [pod("10.0.1.7")], "10.0.0.0/23", "nodes"),
        (NODES, [], "10.0.0.0/23", "nodes"),
        # A network plugin with pools of its own: the nodes' field is there, and nobody uses it.
        (NODES, [pod("10.0.1.7"), pod("172.20.5.9")], "10.0.1.7/32,172.20.5.9/32", "pods"),
        (NODES, [pod("10.0.1.7"), pod("192.0.2.1", hostNetwork=True)], "10.0.0.0/23", "nodes"),
        (NODES, [pod("10.0.1.7", "fd00::7")], "10.0.0.0/23,fd00::7/128", "nodes,pods"),
        ([{"spec": {}}], [pod("10.0.12.120"), pod("10.0.12.121")], "10.0.12.120/31", "pods"),
        (
            [{"spec": {}}],
            [pod("10.0.12.120") | {"status": {"phase": "Succeeded", "podIPs": [{"ip": "1.1.1.1"}]}}],
            "",
            "",
        ),
    ],
)
def test_ranges_of_pods_are_assigned_or_seen_and_never_guessed(
    nodes: list[dict[str, Any]], pods: list[dict[str, Any]], ranges: str, source: str
) -> None:
    """Addresses of a VPC say nothing of their neighbours; one that a finished Job had is free again."""
    found, told = inventory.ranges_of_pods(nodes, pods)
    assert (inventory.joined(found), told) == (ranges, source)


def test_many_addresses_are_shortened_for_people() -> None:
    """A cluster of a thousand pods fits into a cell."""
    assert inventory.shortened("10.0.0.1/32,10.0.0.4/31,fd00::1/128") == "10.0.0.1, 10.0.0.4/31, fd00::1"
    assert inventory.shortened(",".join(f"10.0.0.{n}/32" for n in range(0, 20, 2))).endswith("10.0.0.6, 6 more")
    assert not inventory.shortened("")


def test_overlaps_are_named() -> None:
    """Families do not mix, and an unknown range overlaps nothing."""
    assert inventory.overlaps("10.0.0.0/16,fd00::/64", "10.0.5.0/24,fd01::/64") == ["10.0.0.0/16 and 10.0.5.0/24"]
    assert inventory.overlaps("10.0.0.0/16", "10.1.0.0/16") == []
    assert inventory.overlaps("", "10.1.0.0/16") == []


@pytest.mark.parametrize(
    ("metadata", "by"),
    [
        (
            {"managedFields": [{"manager": "istio-operator"}], "labels": {"app.kubernetes.io/managed-by": "Helm"}},
            "istioctl",
        ),
        ({"managedFields": [{"manager": "helm"}, {"manager": "kube-controller-manager"}]}, "helm"),
        ({"annotations": {"meta.helm.sh/release-name": "istiod"}}, "helm"),
        ({"managedFields": [{"manager": "helm"}], "ownerReferences": [{"kind": "IstioRevision"}]}, "operator"),
        ({"managedFields": [{"manager": "argocd-controller"}]}, "other"),
        ({"name": "istiod", "managedFields": [{"manager": "istioctl"}, {"manager": "argocd-controller"}]}, "other"),
        ({"name": "istiod", "managedFields": [{"manager": "istioctl"}], "annotations": {ARGO: "mesh:apps"}}, "other"),
        ({"managedFields": [{"manager": "istioctl"}, {"manager": "kubectl-rollout"}]}, "istioctl"),
    ],
)
def test_field_managers_tell_who_installed(metadata: dict[str, Any], by: str) -> None:
    """Labels do not: istioctl renders Helm's charts and keeps them. A pipeline reverts what istioctl changes."""
    assert inventory.installer([{"metadata": metadata}]) == by


def test_a_webhook_by_url_is_an_istiod_elsewhere() -> None:
    """An external control plane's remote has such a webhook; other webhooks say nothing."""

    def hooks(name: str, **client: Any) -> dict[str, Any]:
        return {"webhooks": [{"name": name, "clientConfig": client}]}

    istio = "rev.namespace.sidecar-injector.istio.io"
    assert inventory.injected_from(hooks(istio, url="https://istiod.example:15017/inject")) == "elsewhere"
    assert inventory.injected_from(hooks(istio, service={"name": "istiod"})) == "cluster"
    assert not inventory.injected_from(hooks("policy.example", url="https://policy.example"))


@pytest.mark.parametrize(("env", "tells"), [({}, True), ({"ENABLE_DEBUG_ON_HTTP": "true"}, True)])
@pytest.mark.parametrize("off", ["false", "False", "0", "f"])
def test_an_istiod_without_its_debug_interface_says_so(env: dict[str, str], tells: bool, off: str) -> None:
    """Its 404 is no old version that lacks a handler."""

    def answer(*_: Any) -> bytes:
        raise NotFoundError("it answered 404")

    cluster: Any = SimpleNamespace(http_get=answer)
    with pytest.raises(NotFoundError):
        Istiod(cluster, "istio-system", "istiod-1", "default", 15014, env).debug("syncz")
    silent = Istiod(cluster, "istio-system", "istiod-1", "default", 15014, {"ENABLE_DEBUG_ON_HTTP": off})
    with pytest.raises(UnreachableError, match="istiod istiod-1 tells nothing: ENABLE_DEBUG_ON_HTTP=false"):
        silent.debug("syncz")
    assert Istiod(cluster, "istio-system", "i", "default", 15014, env).tells == tells
    assert not silent.tells
