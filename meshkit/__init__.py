"""meshkit: notebooks that take a live Istio service mesh from one cluster to many."""

from meshkit.mesh import Mesh
from meshkit.spec import MeshSpec

__all__ = ["Mesh", "MeshSpec"]
__version__ = "0.1.0"
