"""meshkit: notebooks that take a live Istio service mesh from one cluster to many."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from meshkit.kube.mesh import Mesh
    from meshkit.spec import MeshSpec

__all__ = ["Mesh", "MeshSpec"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # Loaded at first use: the command line imports this package, and its --help should not wait for pydantic.
    if name in __all__:
        from meshkit import spec
        from meshkit.kube import mesh

        return {"Mesh": mesh.Mesh, "MeshSpec": spec.MeshSpec}[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
