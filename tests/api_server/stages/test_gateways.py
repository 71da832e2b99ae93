"""Stage 06's checks and plan: what stands in a gateway's place, who made it, and what it lets in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from meshkit.checks import gateways
from meshkit.errors import UnreachableError
from meshkit.istio.multicluster import gateways as multicluster_gateways
from meshkit.kube.mesh import Mesh
from meshkit.spec import MeshSpec
from meshkit.stages import gateways as stages_gateways
from tests.support.api_server import ApiServer, free_port, write_kubeconfig
from tests.support.healthy import judged
from tests.unit.stages.test_gateways import (
    FAIL,
    SYSTEM,
    UNKNOWN,
)


class TestPlan:
    """Plans against a real API server, without istiod."""

    @pytest.fixture(autouse=True)
    def tools(self, istioctl: Path, state: Path) -> None:
        """Istioctl on the PATH, and a private store of the test's own."""

    @pytest.fixture
    def mesh(self, api_server: ApiServer, tmp_path: Path) -> Mesh:
        """That API server, called east, and a dead one, called west."""
        dead = write_kubeconfig(tmp_path / "dead", f"https://127.0.0.1:{free_port()}", None, {"gone": "t"})
        entries = [
            {"name": "east", "context": "admin", "kubeconfig": str(api_server.kubeconfig), "network": "net-east"},
            {"name": "west", "context": "gone", "kubeconfig": str(dead), "network": "net-west"},
        ]
        return Mesh.open(MeshSpec.parse({"clusters": entries}, where="test"))

    @pytest.fixture
    def serve(self, mesh: Mesh) -> Iterator[Callable[..., None]]:
        """Put a Service there for the length of a test."""
        east, there = mesh.clusters["east"], []
        east.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SYSTEM}})

        def put(name: str, labels: dict[str, str], annotations: dict[str, str] | None = None, **spec: Any) -> None:
            metadata = {"name": name, "namespace": SYSTEM, "labels": labels, "annotations": annotations or {}}
            ports = [{"name": "tls", "port": 15443}]
            body = {"selector": {"edge": "mine"}, "ports": ports, **spec}
            there.append({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": body})
            east.apply(there[-1])

        yield put
        for manifest in there:
            east.delete(manifest)

    def test_a_gateway_of_others_that_fits_is_exposed_and_not_made_again(
        self, mesh: Mesh, serve: Callable[..., None]
    ) -> None:
        """Nothing is installed; the exposure selects its pods; the dead cluster is left alone, and holds the plan."""
        serve(
            "edge",
            {multicluster_gateways.NETWORK: "net-east"},
            {"meta.helm.sh/release-name": "edge"},
            externalIPs=["192.0.2.1"],
        )
        known = stages_gateways.look(mesh)
        (edge,) = known.gateways.of("east")
        assert (edge.made_by, edge.selector) == ("Helm, release edge", {"edge": "mine"})
        plan = stages_gateways.plan(mesh, known)
        assert [(c.cluster, c.action, c.object) for c in plan.changes] == [
            ("east", "create", f"Gateway {SYSTEM}/cross-network-gateway")
        ]
        assert plan.changes[0].manifests[0]["spec"]["selector"] == {"edge": "mine"}
        findings = stages_gateways.check(mesh, known)
        assert judged(findings, "MK801", "west") == judged(findings, "MK602", "west") == [UNKNOWN]
        assert list(plan.carry_out("apply", gates=findings)["status"]) == ["held"]

    def test_a_stranger_of_its_name_is_not_touched(self, mesh: Mesh, serve: Callable[..., None]) -> None:
        """The conflict is named, and nothing is planned for that cluster."""
        serve("istio-eastwestgateway", {"app": "theirs"})
        known = stages_gateways.look(mesh)
        assert judged(stages_gateways.check(mesh, known), "MK602", "east") == [FAIL]
        assert stages_gateways.plan(mesh, known).empty

    def test_a_node_port_gateway_has_the_external_addresses_of_the_nodes_that_it_names(
        self, mesh: Mesh, serve: Callable[..., None]
    ) -> None:
        """As istiod takes them; without the annotation it has none, and the finding says why."""
        east = mesh.clusters["east"]
        for name, zone in (("n1", "a"), ("n2", "b")):
            node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {"zone": zone}}}
            east.apply(node)
            addresses = [
                {"type": "ExternalIP", "address": f"192.0.2.{name[1]}"},
                {"type": "InternalIP", "address": "x"},
            ]
            east._request(
                "PATCH", f"/api/v1/nodes/{name}/status", body={"status": {"addresses": addresses}},
                content_type="application/merge-patch+json",
            )  # fmt: skip
        serve(
            "chosen",
            {multicluster_gateways.NETWORK: "net-east"},
            {multicluster_gateways.NODE_SELECTOR: '{"zone": "b"}'},
            type="NodePort",
        )
        serve("none", {multicluster_gateways.NETWORK: "net-east"}, type="NodePort")
        found = {one.service: one.addresses for one in multicluster_gateways.gateways(mesh)}
        assert (found["chosen"], found["none"]) == (("192.0.2.2",), ())
        told_why = gateways.check_gateway(mesh, multicluster_gateways.gateways(mesh), "east").observed
        assert multicluster_gateways.NODE_SELECTOR in told_why
        for name in ("n1", "n2"):
            east.delete({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}})

    def test_without_istioctl_the_plan_says_what_is_missing(
        self, mesh: Mesh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """And not a traceback."""
        monkeypatch.setenv("PATH", "")
        monkeypatch.setenv("MESHKIT_LAB_BIN", str(tmp_path))
        with pytest.raises(UnreachableError, match="istioctl"):
            stages_gateways.plan(mesh, stages_gateways.look(mesh))
