"""Validation before a run begins: a wrong parameter of stage 09 is an error before stage 01 starts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from meshkit import parameters as meshkit_parameters
from meshkit.istio.ca import ca_files
from meshkit.istio.control_plane import istioctl
from meshkit.spec import MeshSpec

OVERLAY = {"05", "06"}
AUTHORITY = {"04"}
TOPOLOGY = {"02", "04", "05", "06", "07"}


def require_valid(spec: MeshSpec, parameters: Mapping[Path, Mapping[str, Any]]) -> None:
    """Validate the parameters of the chosen notebooks, and the files that the mesh file names for them.

    Raises:
        InputError: a value is wrong, a file is missing or wrong, or the topology is not supported.
    """
    stages = {path.name[:2] for path in parameters}
    _values(spec, parameters.values())
    if stages & TOPOLOGY:
        meshkit_parameters.require_supported_topology(spec)
    if stages & OVERLAY:
        istioctl.overlay(spec)
    if stages & AUTHORITY and spec.trust.root_directory:
        names = [cluster.name for cluster in spec.clusters]
        ca_files.read_directory(spec.trust.root_directory, names, spec.trust.passphrase_from)


def _values(spec: MeshSpec, given: Iterable[Mapping[str, Any]]) -> None:
    for values in given:
        for name, value in values.items():
            if name in meshkit_parameters.LEAST:
                meshkit_parameters.require_number(name, value)
            if name == "cluster" and value:
                spec.cluster(value)
