"""The mesh file of a lab: parameters/lab.yaml as it is where it fits, or one of the lab's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from meshkit import paths
from meshlab.layout import Settings, folder, replace, sites

_USUAL = "~/.local/state/meshkit/lab/kubeconfig"


def mesh_file() -> Path:
    """Return the mesh file of the lab that runs.

    parameters/lab.yaml tells of two clusters on different networks, in the usual folder; of any other lab `lab.yaml`
    in its folder does.
    """
    settings = Settings.load(folder())
    usual = Path(_USUAL).expanduser() == folder() / "kubeconfig" and settings.clusters == 2
    if usual and not settings.flat and not settings.live_roots:
        return paths.folder("parameters") / "lab.yaml"
    return write(folder(), settings)


def write(home: Path, settings: Settings) -> Path:
    """Write the mesh file of a lab into its folder, with the clusters and the networks that it has."""
    examples = paths.folder("parameters")
    document: dict[str, Any] = yaml.safe_load((examples / "lab.yaml").read_text())
    document["istio"]["overlay"] = str(overlay(home, settings))
    document["topology"]["network"] = "flat" if settings.flat else "multi"
    document["clusters"] = [
        {
            "name": site.name,
            "context": site.context,
            "kubeconfig": str(home / "kubeconfig"),
            "network": "net-flat" if settings.flat else site.network,
            "apiServer": site.api_url,
        }
        for site in sites(settings.clusters)
    ]
    path = home / "lab.yaml"
    replace(path, yaml.safe_dump(document, sort_keys=False))
    return path


def overlay(home: Path, settings: Settings) -> Path:
    """Return the lab's IstioOperator; the one that also takes roots live is merged into the lab's folder."""
    examples = paths.folder("parameters")
    own = examples / "lab-overlay.yaml"
    if not settings.live_roots:
        return own
    document, more = (yaml.safe_load(path.read_text()) for path in (own, examples / "live-roots-overlay.yaml"))
    spec = document["spec"]
    spec["meshConfig"]["defaultConfig"] |= more["spec"]["meshConfig"]["defaultConfig"]
    spec["values"]["pilot"]["env"] |= more["spec"]["values"]["pilot"]["env"]
    path = home / "overlay.yaml"
    replace(path, yaml.safe_dump(document))
    return path
