"""The installer: what istioctl is given, and what it makes of it, by the real istioctl."""

from __future__ import annotations

from pathlib import Path

import pytest

from meshkit.changes import undo
from meshkit.changes.plan import Plan
from meshkit.errors import ChangeError
from meshkit.istio.control_plane import istioctl as control_plane_istioctl
from meshkit.kube.cluster import Cluster
from meshkit.kube.mesh import Mesh
from tests.support.objects import Object, config_map, edit, labelled, live
from tests.unit.istio.control_plane.test_istioctl import OVERLAY, spec_of


@pytest.fixture(scope="module")
def plain(istioctl: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Object]:
    """What istioctl renders for a mesh without more."""
    return control_plane_istioctl.render(
        control_plane_istioctl.operator(spec_of(tmp_path_factory.mktemp("plain")), "east")
    )


@pytest.mark.usefixtures("istioctl")
class TestRendered:
    """What istioctl makes of it."""

    def test_an_alias_is_one_more_id_that_istiod_accepts(self, tmp_path: Path, plain: list[Object]) -> None:
        """Beside the overlay's own patches, for a revision's istiod, too; without it there is none."""
        overlay = OVERLAY.replace("name: istiod,", "name: istiod-blue,")
        spec = spec_of(tmp_path, overlay, istio={"revision": "blue"})
        aliased = control_plane_istioctl.render(control_plane_istioctl.operator(spec, "east", alias="Kubernetes"))
        for rendered, alias in ((plain, ""), (aliased, "Kubernetes")):
            [istiod] = [o for o in rendered if o["kind"] == "Deployment"]
            assert control_plane_istioctl.alias_of(istiod, "east") == alias
            assert istiod["spec"]["replicas"] == 3
            [container] = istiod["spec"]["template"]["spec"]["containers"]
            assert {"name": "CLUSTER_ID", "value": "east"} in container["env"]
            assert container["image"].startswith("registry.test/istio/")
            assert control_plane_istioctl.alias_of(undo.with_alias(istiod, "old=east"), "east") == (alias or "old")

    def test_what_istioctl_refuses_is_reported_in_its_words(self, tmp_path: Path) -> None:
        """Cut to its last lines."""
        document = control_plane_istioctl.operator(spec_of(tmp_path), "east")
        document["spec"]["values"]["pilot"] = {"nonsense": True}
        with pytest.raises(ChangeError, match=r"`istioctl manifest generate` failed: .*nonsense"):
            control_plane_istioctl.render(document)

    def test_its_version_is_reported(self) -> None:
        """That of the program, not of a mesh."""
        assert control_plane_istioctl.version().startswith("1.")

    def test_a_plan_shows_each_object_that_would_differ(self, tmp_path: Path, mesh: Mesh, east: Cluster) -> None:
        """New ones are named; what cannot be checked before its namespace exists is reported; nothing is created."""
        plan = Plan(mesh, "05 install")
        spec = spec_of(tmp_path, mesh={"rootNamespace": "not-there-yet"})
        plan.install("east", control_plane_istioctl.operator(spec, "east"), "the test")
        [change] = plan.changes
        assert change.problem.startswith("cannot be checked yet: ")
        assert "+ CustomResourceDefinition gateways.networking.istio.io" in change.diff
        assert "+ Deployment not-there-yet/istiod" in change.diff
        assert east.find("customresourcedefinitions", None, "gateways.networking.istio.io") is None

    def test_what_istioctl_would_remove_holds_the_plan(
        self, tmp_path: Path, mesh: Mesh, east: Cluster, space: str
    ) -> None:
        """What it rendered once, and does not now; what is rendered, another's or of another version it leaves."""
        operator = control_plane_istioctl.operator(spec_of(tmp_path), "east")
        ours = {
            "install.operator.istio.io/owning-resource": "control-plane",
            "istio.io/rev": "default",
            "operator.istio.io/managed": "Reconcile",
            "operator.istio.io/version": control_plane_istioctl.version(),
            "operator.istio.io/component": "IngressGateways",
        }
        change = {
            "theirs": {"install.operator.istio.io/owning-resource": "eastwest"},
            "older": {"operator.istio.io/version": "1.0.0"},
            "blue": {"istio.io/rev": "blue"},
            "tag": {"install.operator.istio.io/owning-resource-not-pruned": "true"},
            "gone": {},
            "rendered": {},
        }
        for name, more in change.items():
            east.apply(labelled(config_map(name, space), **{**ours, **more}))
        found = undo.pruned(east, control_plane_istioctl.owned_by(operator), [config_map("rendered", space)])
        assert found == [f"ConfigMap {space}/gone"]
        plan = Plan(mesh, "05 install")
        try:
            plan.install("east", operator, "the test")
        finally:
            for name in ("gone", "rendered"):
                east.delete(config_map(name, space))
        told = f"istioctl would remove ConfigMap {space}/gone, ConfigMap {space}/rendered, which the IstioOperator"
        assert plan.changes[0].problem.startswith(told)
        assert "+ CustomResourceDefinition gateways.networking.istio.io" in plan.changes[0].diff
        assert [finding.id for finding in plan.findings()] == ["MK590"]

    def test_what_istio_sets_at_run_time_is_no_difference(self, plain: list[Object], east: Cluster) -> None:
        """A webhook's CA bundle and failure policy are istiod's; another's field is a conflict."""
        hook = next(o for o in plain if o["kind"] == "ValidatingWebhookConfiguration")
        try:
            east.apply(hook, manager=control_plane_istioctl.MANAGER)
            assert undo.installed(east, hook)[1] == ""
            now = live(east, hook)
            now["webhooks"][0] |= {"failurePolicy": "Fail"}
            now["webhooks"][0]["clientConfig"]["caBundle"] = "Q0E="
            edit(east, {**hook, "webhooks": now["webhooks"]}, manager="pilot-discovery")
            assert undo.installed(east, hook)[1] == ""
            edit(east, {**hook, "webhooks": [{**now["webhooks"][0], "timeoutSeconds": 3}]})
            wanted = {**hook, "webhooks": [{**hook["webhooks"][0], "timeoutSeconds": 5}]}
            with pytest.raises(ChangeError, match=r"kubectl-edit owns .*timeoutSeconds"):
                undo.installed(east, wanted)
        finally:
            east.delete(hook)
