"""The mesh file of a lab: parameters/lab.yaml as it is where it fits, or one of the lab's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from meshkit import resources
from meshkit.lab.layout import Settings, folder, replace, sites

_USUAL = "~/.local/state/meshkit/lab/kubeconfig"


def mesh_file() -> Path:
    """Return the mesh file of the lab that runs.

    parameters/lab.yaml tells of two clusters on different networks, in the usual folder; of any other lab `lab.yaml`
    in its folder does.
    """
    settings = Settings.load(folder())
    kubeconfig = folder() / "kubeconfig"
    written = resources.folder("parameters") / "lab.yaml"
    if Path(_USUAL).expanduser() == kubeconfig and settings.clusters == 2 and not settings.flat:
        return written
    return write(folder(), settings)


def write(home: Path, settings: Settings) -> Path:
    """Write the mesh file of a lab into its folder, with the clusters and the networks that it has."""
    examples = resources.folder("parameters")
    document: dict[str, Any] = yaml.safe_load((examples / "lab.yaml").read_text())
    document["istio"]["overlay"] = str(examples / document["istio"]["overlay"])
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
