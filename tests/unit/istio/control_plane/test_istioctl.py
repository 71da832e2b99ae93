"""The operator that istioctl is given, and what is said where there is no istioctl."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from meshkit.errors import InputError, UnreachableError
from meshkit.istio.control_plane import istioctl as control_plane_istioctl
from meshkit.spec import ClusterSpec, MeshSpec
from tests.support.api_server import write_kubeconfig

OVERLAY = """
apiVersion: install.istio.io/v1alpha1
kind: IstioOperator
spec:
  hub: registry.test/istio
  meshConfig: {accessLogFile: /dev/stdout}
  values: {global: {network: wrong, proxy: {readinessPeriodSeconds: 1}}}
  components:
    pilot: {k8s: {overlays: [{kind: Deployment, name: istiod, patches: [{path: spec.replicas, value: 3}]}]}}
"""


def spec_of(tmp_path: Path, overlay: str = OVERLAY, **more: Any) -> MeshSpec:
    """Return a mesh with an overlay."""
    (tmp_path / "overlay.yaml").write_text(overlay)
    istio = {"profile": "minimal", "overlay": str(tmp_path / "overlay.yaml"), **more.pop("istio", {})}
    clusters = [{"name": "east", "context": "east", "network": "net-east"}]
    return MeshSpec.parse({"istio": istio, "clusters": clusters, **more}, where="test")


class TestOperator:
    """Overlay below, ids above."""

    def test_the_meshs_ids_win_over_the_overlay_and_the_rest_stays(self, tmp_path: Path) -> None:
        """And it always has a name: one without takes others' gateways away."""
        made = control_plane_istioctl.operator(spec_of(tmp_path), "east", mesh_networks={"n": {}})
        assert made["metadata"]["name"]
        assert made["spec"]["hub"] == "registry.test/istio"
        assert made["spec"]["values"]["global"] == {
            "meshID": "mesh1", "network": "net-east", "multiCluster": {"clusterName": "east"},
            "meshNetworks": {"n": {}},
            "proxy": {"readinessPeriodSeconds": 1},
        }  # fmt: skip

    def test_merging_changes_neither_side(self) -> None:
        """Mappings are merged, overlays added, all else replaced."""
        lower, upper = {"a": {"x": 1, "y": [1]}, "overlays": [1]}, {"a": {"y": [2]}, "overlays": [2]}
        assert control_plane_istioctl.merge(lower, upper) == {"a": {"x": 1, "y": [2]}, "overlays": [1, 2]}
        assert (lower, upper) == ({"a": {"x": 1, "y": [1]}, "overlays": [1]}, {"a": {"y": [2]}, "overlays": [2]})

    @pytest.mark.parametrize(
        "text",
        [
            *("", "a: [", "- 1", "kind: ConfigMap", "a: 2024-13-45", "a: 1\na: 2"),
            *(f"kind: IstioOperator\nspec: {spec}" for spec in ("text", "[a]", "5", "''")),
        ],
    )
    def test_an_overlay_that_is_no_istiooperator_is_reported(self, tmp_path: Path, text: str) -> None:
        """By the file's name."""
        with pytest.raises(InputError, match=r"overlay\.yaml: istio\.overlay: expected an IstioOperator"):
            control_plane_istioctl.operator(spec_of(tmp_path, text), "east")


def test_without_an_istioctl_the_error_says_where_to_get_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a tool that cannot be reached: exit code 3."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("MESHKIT_LAB_BIN", str(tmp_path))
    with pytest.raises(UnreachableError, match="there is no istioctl on the PATH"):
        control_plane_istioctl.render(control_plane_istioctl.operator(spec_of(tmp_path), "east"))


class TestImpersonation:
    """istioctl reads from no kubeconfig as whom to act."""

    def installed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **user: Any) -> list[str]:
        """Return the flags of an installation for a kubeconfig's user that begin with `--as`."""
        path = write_kubeconfig(tmp_path / "kubeconfig", "https://127.0.0.1:1", None, {"east": "t"})
        document = yaml.safe_load(path.read_text())
        document["users"][0]["user"] |= user
        path.write_text(yaml.safe_dump(document))
        words: list[str] = []
        monkeypatch.setattr(control_plane_istioctl, "_run", lambda given, *_, **__: words.extend(given))
        entry = ClusterSpec(name="east", context="east", network="net-east", kubeconfig=str(path))
        control_plane_istioctl.install(entry, {}, print)
        return [word for word in words if word.startswith("--as")]

    def test_it_acts_as_the_kubeconfigs_user_does(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """User, uid and each group by a flag; without impersonation none."""
        assert self.installed(tmp_path, monkeypatch) == []
        user = {"as": "jane", "as-uid": "7", "as-groups": ["mesh", "ops"]}
        flags = ["--as=jane", "--as-uid=7", "--as-group=mesh", "--as-group=ops"]
        assert self.installed(tmp_path, monkeypatch, **user) == flags

    def test_what_it_has_no_flag_for_is_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """as-user-extra: istioctl would act as somebody with other rights."""
        with pytest.raises(InputError, match="istioctl cannot act as the user of context east"):
            self.installed(tmp_path, monkeypatch, **{"as": "jane", "as-user-extra": {"team": ["a"]}})
