"""What tests of changes need: objects, other hands that write them, and a mesh of one real API server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from meshkit.kube.answers import decoded
from meshkit.kube.cluster import Cluster
from meshkit.kube.mesh import Mesh
from meshkit.spec import MeshSpec

Object = dict[str, Any]
CANARY = "canary-7f3e"


def config_map(name: str, namespace: str = "default", **data: str) -> Object:
    """Return a ConfigMap."""
    return core("ConfigMap", name, namespace, data=data)


def core(kind: str, name: str, namespace: str = "default", **more: Any) -> Object:
    """Return an object of Kubernetes' core group."""
    place = {"namespace": namespace} if namespace else {}
    return {"apiVersion": "v1", "kind": kind, "metadata": {"name": name, **place}, **more}


def deployment(name: str, namespace: str, replicas: int = 0, **metadata: Any) -> Object:
    """Return a Deployment; without replicas it is rolled out without a node."""
    labels = {"app": name}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "main", "image": "none"}]}}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": namespace, **metadata},
        "spec": {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template},
    }


def definition(plural: str, group: str) -> Object:
    """Return the definition of a kind whose objects may hold anything."""
    anything = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    versions = [{"name": "v1", "served": True, "storage": True, "schema": anything}]
    names = {"plural": plural, "singular": plural[:-1], "kind": plural[:-1].title()}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {"group": group, "scope": "Namespaced", "names": names, "versions": versions},
    }


def labelled(manifest: Object, **labels: str) -> Object:
    """Return the manifest with labels."""
    return {**manifest, "metadata": {**manifest["metadata"], "labels": labels}}


def create(cluster: Cluster, manifest: Object, manager: str = "kubectl-create") -> Object:
    """Create an object as another tool does: not by apply."""
    path = cluster._path_of(manifest).rpartition("/")[0]
    answer = cluster._request(
        "POST", path, query=[("fieldManager", manager)], body=manifest, content_type="application/json"
    )
    made: Object = decoded(answer.data, cluster.where)
    return made


def edit(cluster: Cluster, manifest: Object, manager: str = "kubectl-edit") -> Object:
    """Merge fields into an object as another tool does; it owns them from then on."""
    path, kind = cluster._path_of(manifest), "application/merge-patch+json"
    answer = cluster._request("PATCH", path, query=[("fieldManager", manager)], body=manifest, content_type=kind)
    made: Object = decoded(answer.data, cluster.where)
    return made


def live(cluster: Cluster, manifest: Object) -> Object:
    """Return the object as the server has it; it must be there."""
    metadata = manifest["metadata"]
    group, _, version = manifest["apiVersion"].rpartition("/")
    return cluster.get(f"{manifest['kind']}.{version}.{group}", metadata.get("namespace"), metadata["name"])[0]


def there(cluster: Cluster, manifest: Object) -> bool:
    """Return whether the server has the object, and it is not on its way out."""
    metadata = manifest["metadata"]
    group, _, version = manifest["apiVersion"].rpartition("/")
    found = cluster.find(f"{manifest['kind']}.{version}.{group}", metadata.get("namespace"), metadata["name"])
    return found is not None and "deletionTimestamp" not in found["metadata"]


def mesh_document(kubeconfig: Path, mesh_id: str = "shop") -> Object:
    """Return a mesh file's document: one cluster, east, which is the real API server."""
    east = {"name": "east", "context": "admin", "network": "net-east", "kubeconfig": str(kubeconfig)}
    return {"mesh": {"id": mesh_id}, "clusters": [east]}


def mesh_of(kubeconfig: Path, mesh_id: str = "shop") -> Mesh:
    """Return the mesh of that file."""
    return Mesh.open(MeshSpec.parse(mesh_document(kubeconfig, mesh_id), where="test"))
