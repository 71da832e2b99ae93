"""What an owner of Istio is to install for the mesh, in the form in which that owner keeps it.

Values of Helm's charts, a resource of the Sail operator, or an IstioOperator; the owner merges it into what there is,
and applies it. It holds only what ids, network and trust need.

Source: manifests/charts/istio-control/istio-discovery/values.yaml of Istio; api/v1/istio_types.go of sail-operator.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from meshkit.istio.control_plane import istioctl
from meshkit.istio.control_plane.inventory import ELSEWHERE, ISTIOCTL
from meshkit.kube.manifests import Object
from meshkit.kube.mesh import Unknown
from meshkit.spec import MeshSpec

VALUES: Final = "HelmValues"
"""The kind of a document of Helm values: `chart` is the one that takes them, its name that of the release."""
SAIL: Final = "Istio"


def form(by: str | Unknown | None, others: Iterable[str | Unknown]) -> str:
    """Return the kind of document that a cluster's owner of Istio takes.

    Args:
        by: who installed its istiod, of `inventory.installers`; where nobody did, it is as elsewhere in the mesh.
        others: the same of all clusters.
    """
    known = [one for one in (by, *others) if isinstance(one, str) and one not in ("", ELSEWHERE)]
    first = next(iter(known), ISTIOCTL)
    return {ISTIOCTL: "IstioOperator", "operator": SAIL}.get(first, VALUES)


def istiod(spec: MeshSpec, name: str, kind: str, *, alias: str = "") -> Object:
    """Return what a cluster's istiod needs, as a document of a kind of `form`.

    Args:
        spec: the mesh file.
        name: of the cluster.
        kind: of `form`.
        alias: another cluster id, which its proxies claim still, and that it goes on accepting.
    """
    if kind == "IstioOperator":
        return istioctl.operator(spec, name, alias=alias)
    values = istiod_values(spec, name, alias=alias)
    revision = spec.istio.revision
    if kind == SAIL:
        arguments = values.pop("extraContainerArgs", None)
        values |= {"pilot": {"extraContainerArgs": arguments}} if arguments else {}
        wanted: Object = {"namespace": spec.mesh.root_namespace, "values": values}
        place = {"name": revision or "default"}
        return {"apiVersion": "sailoperator.io/v1", "kind": SAIL, "metadata": place, "spec": wanted}
    return release(spec, istioctl.deployment(revision), "istiod", values)


def istiod_values(spec: MeshSpec, name: str, *, alias: str = "") -> dict[str, Any]:
    """Return the values of chart istiod that a cluster needs, and nothing else.

    An istiod that gets another id goes on taking its former one, which its proxies claim until they are restarted.
    """
    ids: dict[str, Any] = {
        "multiCluster": {"clusterName": name},
        "network": spec.cluster(name).network,
        "meshID": spec.mesh.id,
    }
    domain = spec.mesh.trust_domain
    return {
        "global": ids | ({"externalIstiod": True} if spec.remotes_of(name) else {}),
        **({"meshConfig": {"trustDomain": domain}} if domain != "cluster.local" else {}),
        **({"extraContainerArgs": [f"{istioctl.ALIAS_FLAG}{alias}={name}"]} if alias else {}),
    }


def release(spec: MeshSpec, name: str, chart: str, values: dict[str, Any]) -> Object:
    """Return the values of a Helm release of a chart, in the mesh's root namespace."""
    place = {"namespace": spec.mesh.root_namespace, "name": name}
    return {"kind": VALUES, "metadata": place, "chart": chart, "values": values}


def flat(values: dict[str, Any], above: str = "") -> list[str]:
    """Return values as `helm --set` takes them: `global.network=net-east`, `extraContainerArgs[0]=…`."""
    found = []
    for key, value in values.items():
        name = f"{above}{key}"
        if isinstance(value, dict):
            found += flat(value, f"{name}.")
        elif isinstance(value, list):
            found += [f"{name}[{n}]={one}" for n, one in enumerate(value)]
        else:
            found.append(f"{name}={str(value).lower() if isinstance(value, bool) else value}")
    return found
