"""What new pods of a rolling restart would get: images and admission."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import pandas as pd

from meshkit.errors import MeshkitError
from meshkit.istio.control_plane import istioctl
from meshkit.istio.control_plane.versions import Version
from meshkit.istio.proxies import images, quotas
from meshkit.kube.mesh import Mesh

INSTALL: Final = "istioctl install"
_DEFAULT_HUBS: Final = {(1, 30): "registry.istio.io/release"}
"""The hub built into a release's istioctl, where it is another than docker.io/istio (release notes of 1.30)."""


@dataclass(frozen=True)
class NewPodFacts:
    """What was looked at: `images` of workloads and of what stage 05 installs; `refusals` by quotas and PodSecurity."""

    images: pd.DataFrame
    refusals: pd.DataFrame


def look(mesh: Mesh) -> NewPodFacts:
    """Read images and quotas of every cluster; changes nothing."""
    return NewPodFacts(**mesh.read_all(images=images_to_pull, refusals=quotas.refusals))


def images_to_pull(mesh: Mesh) -> pd.DataFrame:
    """Return `images.images`, with what stage 05 installs."""
    one = _installed(mesh)
    installed = images.IMAGES.frame({"cluster": name, **one} for name in mesh.clusters)
    return pd.concat([images.images(mesh), installed], ignore_index=True)


def _installed(mesh: Mesh) -> dict[str, str]:
    where = {"source": INSTALL, "kind": "mesh file", "workload": INSTALL}
    try:
        overlay = istioctl.overlay(mesh.spec)
        said = overlay.get("hub") or ((overlay.get("values") or {}).get("global") or {}).get("hub")
        tool = None if said else Version.parse(istioctl.version())
    except MeshkitError:  # no istioctl or no overlay: stage 05 says so, and nothing is installed
        return {**where, "image": ""}
    hub = said or (_DEFAULT_HUBS.get((tool.major, tool.minor), "docker.io/istio") if tool else "")
    return {**where, "image": f"{hub}/pilot" if hub else ""}
