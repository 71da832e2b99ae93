"""The patch that keeps a Service in each cluster: istioctl takes it, and istiod does what it says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from meshkit.checks import service_merge
from meshkit.istio.config import services
from meshkit.istio.control_plane import cluster_domain
from meshkit.kube.mesh import Mesh
from meshkit.snapshot.snapshot import Snapshot
from tests.support.lab import Lab, until

pytestmark = pytest.mark.lab

CONFIG = ("configmap", "istio", "-n", "istio-system")


def ways(mesh: Mesh) -> dict[tuple[str, str], str]:
    """Return by which way each cluster's Envoy would reach the other for the probe's Service."""
    found = Snapshot(mesh).paths
    return dict(zip(zip(found["client"], found["server"], strict=True), found["way"], strict=True))


def configure(lab: Lab, text: str) -> None:
    """Give east's istiod a meshConfig, and restart it: the lab does not refresh what is mounted."""
    lab.kubectl("lab-east", "patch", *CONFIG, "--type=merge", "-p", json.dumps({"data": {"mesh": text}}))
    lab.kubectl("lab-east", "rollout", "restart", "deployment/istiod", "-n", "istio-system")
    lab.kubectl("lab-east", "rollout", "status", "deployment/istiod", "-n", "istio-system", "--timeout=90s")


def test_the_patch_keeps_a_service_at_home(meshed_lab: Lab, tmp_path: Path) -> None:
    """Istioctl puts it into meshConfig; with that, east's clients have no endpoint of west, and west's still have."""
    mesh = Mesh.open(meshed_lab.mesh_file)
    spec = mesh.spec.probe
    host = f"{spec.server}.{spec.namespace}.svc.{cluster_domain.DEFAULT}"
    patch = service_merge.patch(mesh, service_merge.LOCAL.frame([{"host": host}]))
    (tmp_path / "patch.yaml").write_text(patch)
    made = meshed_lab.must("istioctl", "manifest", "generate", "-f", str(tmp_path / "patch.yaml"))
    settings = rendered(made)["serviceSettings"]
    assert settings == yaml.safe_load(patch)["spec"]["meshConfig"]["serviceSettings"]

    before = json.loads(meshed_lab.kubectl("lab-east", "get", *CONFIG, "-o", "json"))["data"]["mesh"]
    both = {("east", "west"): "gateway", ("west", "east"): "gateway"}
    try:
        configure(meshed_lab, yaml.safe_dump({**yaml.safe_load(before), "serviceSettings": settings}))
        until(lambda: ways(mesh) == {**both, ("east", "west"): "none"} or None, "east stays at home", 60)
        known = services.services(mesh)
        assert set(known[known["cluster_local"] & (known["service"] == spec.server)]["cluster"]) == {"east"}
    finally:
        configure(meshed_lab, before)
        until(lambda: ways(mesh) == both or None, "whole again", 90)


def rendered(manifests: str) -> dict[str, Any]:
    """Return the meshConfig that istioctl would install."""
    documents = (document for document in yaml.safe_load_all(manifests) if document)
    (config,) = (d for d in documents if (d["kind"], d["metadata"]["name"]) == ("ConfigMap", "istio"))
    settings: dict[str, Any] = yaml.safe_load(config["data"]["mesh"])
    return settings
