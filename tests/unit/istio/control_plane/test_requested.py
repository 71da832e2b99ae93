"""What an owner of Istio is to install, in the form in which that owner keeps it."""

from __future__ import annotations

from typing import Any

import pytest

from meshkit.errors import InputError
from meshkit.istio.control_plane import requested
from meshkit.istio.control_plane.inventory import ELSEWHERE
from meshkit.istio.multicluster import gateway_manifests
from meshkit.kube.mesh import Unknown
from meshkit.spec import MeshSpec

ALIAS = ["--clusterAliases=Kubernetes=east"]
IDS = {"multiCluster": {"clusterName": "east"}, "network": "net-east", "meshID": "mesh1"}


def spec(**change: Any) -> MeshSpec:
    """Return a mesh file whose Istio is left to its owner."""
    clusters = [{"name": "east", "context": "east", "network": "net-east", **change.pop("cluster", {})}]
    istio = {"installer": "none", **change.pop("istio", {})}
    return MeshSpec.parse({"istio": istio, "clusters": clusters, **change}, where="test")


@pytest.mark.parametrize(
    ("by", "others", "kind"),
    [
        ("helm", ["istioctl"], requested.VALUES),
        ("other", [], requested.VALUES),
        ("operator", [], requested.SAIL),
        ("istioctl", ["helm"], "IstioOperator"),
        ("", ["", "helm"], requested.VALUES),
        ("", ["", Unknown("dead"), "operator"], requested.SAIL),
        (Unknown("dead"), [ELSEWHERE, ""], "IstioOperator"),
        (None, [], "IstioOperator"),
    ],
)
def test_the_form_is_the_owners_and_of_a_bare_cluster_the_meshs(by: Any, others: list[Any], kind: str) -> None:
    """Argo CD and pipelines have Helm's charts, as most do."""
    assert requested.form(by, others) == kind


def test_helm_gets_the_values_of_the_chart_and_nothing_else() -> None:
    """They are merged into the owner's own; the former id is one of its arguments."""
    document = requested.istiod(spec(), "east", requested.VALUES, alias="Kubernetes")
    assert (document["chart"], document["metadata"]) == ("istiod", {"namespace": "istio-system", "name": "istiod"})
    assert document["values"] == {"global": IDS, "extraContainerArgs": ALIAS}
    other = spec(istio={"revision": "1-31"}, mesh={"trustDomain": "corp"})
    document = requested.istiod(other, "east", requested.VALUES)
    assert document["metadata"]["name"] == "istiod-1-31"
    assert document["values"] == {"global": IDS, "meshConfig": {"trustDomain": "corp"}}


def test_sail_has_the_same_values_with_those_of_istiod_below_pilot() -> None:
    """Its resource has the values of all charts in one."""
    document = requested.istiod(spec(), "east", requested.SAIL, alias="Kubernetes")
    assert (document["apiVersion"], document["kind"]) == ("sailoperator.io/v1", "Istio")
    assert document["spec"]["values"] == {"global": IDS, "pilot": {"extraContainerArgs": ALIAS}}


def test_istioctl_gets_the_operator_that_meshkit_would_install() -> None:
    """With the alias as an overlay of istiod's Deployment."""
    document = requested.istiod(spec(), "east", "IstioOperator", alias="Kubernetes")
    assert document["spec"]["values"]["global"] == IDS
    [overlay] = document["spec"]["components"]["pilot"]["k8s"]["overlays"]
    assert overlay["patches"][0]["value"] == ALIAS[0]


def test_a_gateway_is_of_its_network_with_the_service_of_the_mesh_file() -> None:
    """By the chart for Sail, too; the release's name gives the pods the labels that the exposure selects."""
    kind = {"gateway": {"serviceType": "NodePort", "annotations": {"a": "b"}}}
    document = gateway_manifests.by_its_owner(spec(cluster=kind), "east", requested.SAIL)
    assert (document["chart"], document["metadata"]["name"]) == ("gateway", "istio-eastwestgateway")
    service = {"type": "NodePort", "annotations": {"a": "b"}}
    assert document["values"] == {"networkGateway": "net-east", "service": service}
    assert gateway_manifests.selector(requested.VALUES) == {"app": "istio-eastwestgateway", "istio": "eastwestgateway"}
    by_istioctl = gateway_manifests.by_its_owner(spec(), "east", "IstioOperator")
    assert by_istioctl == gateway_manifests.eastwest(spec(), "east")


def test_values_are_written_as_helm_sets_them() -> None:
    """With true and false as YAML has them."""
    values = {"global": {"a": True, "b": "c"}, "extraContainerArgs": ["x", "y"]}
    assert requested.flat(values) == [
        "global.a=true", "global.b=c", "extraContainerArgs[0]=x", "extraContainerArgs[1]=y",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"topology": {"controlPlane": "primary-remote"}}, "topology.controlPlane is primary-remote"),
        ({"topology": {"meshNetworks": True}}, "topology.meshNetworks is true"),
        ({"istio": {"overlay": "overlay.yaml"}}, "istio.overlay"),
        ({"istio": {"installer": "helm"}}, "istio.installer"),
    ],
)
def test_what_cannot_be_requested_is_refused_with_the_mesh_file(change: dict[str, Any], words: str) -> None:
    """Before anything is read of a cluster."""
    with pytest.raises(InputError, match=words):
        spec(**change)
