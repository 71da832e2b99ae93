"""The mesh file of a lab: parameters/lab.yaml as it is where it fits, or one of the lab's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from meshkit import paths
from meshkit.istio.control_plane.istioctl import merge
from meshlab.layout import Settings, Site, folder, replace, sites
from meshlab.shapes.shape import Shape, combined

_USUAL = "~/.local/state/meshkit/lab/kubeconfig"


def mesh_file() -> Path:
    """Return the mesh file of the lab that runs.

    parameters/lab.yaml tells of two clusters on different networks, in the usual folder; of any other lab `lab.yaml`
    in its folder does.
    """
    settings = Settings.load(folder())
    usual = Settings(rtt_ms=settings.rtt_ms, ports=settings.ports, front=settings.front)
    if Path(_USUAL).expanduser() == folder() / "kubeconfig" and settings == usual:
        return paths.folder("parameters") / "lab.yaml"
    return write(folder(), settings)


def write(home: Path, settings: Settings) -> Path:
    """Write the mesh file of a lab into its folder: the clusters and networks that it has, and what its shape says."""
    shape = combined(settings.shapes)
    usual: dict[str, Any] = yaml.safe_load((paths.folder("parameters") / "lab.yaml").read_text())
    own = {
        "istio": {
            "overlay": str(overlay(home, settings)),
            **({"revision": shape.revision} if shape.revision else {}),
            **({"version": settings.istio} if settings.istio else {}),
        },
        "topology": {
            "network": "flat" if settings.flat else "multi",
            **({"controlPlane": shape.control_plane} if shape.control_plane != "multi-primary" else {}),
            **({"meshNetworks": True} if shape.mesh_networks else {}),
        },
        "clusters": [entry(home, settings, site, shape) for site in sites(settings.clusters)],
    }
    path = home / "lab.yaml"
    replace(path, yaml.safe_dump(merge(merge(usual, own), shape.mesh_file), sort_keys=False))
    return path


def entry(home: Path, settings: Settings, site: Site, shape: Shape) -> dict[str, Any]:
    """Return a cluster as the mesh file has it."""
    gateway = {**shape.gateway, **({"kind": "gateway-api"} if shape.gateway_api else {})}
    return {
        "name": site.name,
        "context": site.context,
        "kubeconfig": str(home / "kubeconfig"),
        "network": "net-flat" if settings.flat else site.network,
        "apiServer": site.api_url,
        **({"gateway": gateway} if gateway else {}),
    }


def overlay(home: Path, settings: Settings) -> Path:
    """Return the lab's IstioOperator; one that differs from parameters/lab-overlay.yaml is in the lab's folder."""
    examples = paths.folder("parameters")
    usual = examples / "lab-overlay.yaml"
    more = [combined(settings.shapes).overlay]
    if settings.istio:
        more.append({"tag": settings.istio})
    if settings.domain != Settings.domain:
        more.append({"values": {"global": {"proxy": {"clusterDomain": settings.domain}}}})
    if settings.live_roots:
        more.append(yaml.safe_load((examples / "live-roots-overlay.yaml").read_text())["spec"])
    if not any(more):
        return usual
    document = yaml.safe_load(usual.read_text())
    for spec in more:
        document["spec"] = merge(document["spec"], spec)
    path = home / "overlay.yaml"
    replace(path, yaml.safe_dump(document))
    return path
