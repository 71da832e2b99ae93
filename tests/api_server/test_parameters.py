"""The overlay of a private hub, rendered by the real istioctl."""

from __future__ import annotations

import pytest
import yaml

from meshkit.istio.control_plane import istioctl as control_plane_istioctl
from meshkit.paths import folder
from meshkit.spec import MeshSpec


@pytest.mark.usefixtures("istioctl")
def test_istioctl_renders_the_overlay_of_a_private_hub() -> None:
    """Every image is the registry's, and istiod and gateways may pull it."""
    spec = MeshSpec.load(folder("parameters") / "private-hub.yaml")
    rendered = control_plane_istioctl.render(control_plane_istioctl.operator(spec, "east"))
    pods = [o["spec"]["template"]["spec"] for o in rendered if o["kind"] == "Deployment"]
    known = {"auto", *(f"registry.example.com/istio/{name}" for name in ("pilot", "proxyv2"))}
    assert {c["image"].removesuffix(":1.31.0") for pod in pods for c in pod["containers"]} <= known
    accounts = [o for o in rendered if o["kind"] == "ServiceAccount"]
    assert any({"name": "registry-login"} in o.get("imagePullSecrets", []) for o in accounts)
    assert "registry-login" in yaml.safe_dump_all(o for o in rendered if o["kind"] == "ConfigMap")
