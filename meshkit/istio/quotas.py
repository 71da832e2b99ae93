"""ResourceQuotas that would refuse the pod which a rolling restart starts beside those that run."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from kubernetes.utils.quantity import parse_quantity

from meshkit.istio.fleet import PROXY_CONTAINER, running, table
from meshkit.istio.workloads import owner, surge
from meshkit.mesh import Mesh, Unknown

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd

    from meshkit.cluster import Cluster

COLUMNS: Final = {
    "cluster": "str", "namespace": "str", "workload": "str", "quota": "str", "says": "str", "reason": "str",
}  # fmt: skip
_COMPUTE: Final = ("cpu", "memory")
_COUNTED: Final = ("pods", "count/pods")
Manifest = dict[str, Any]


def refusals(mesh: Mesh) -> pd.DataFrame:
    """Return one row for each Deployment with a proxy, or istiod's, whose next pod a ResourceQuota would refuse.

    Columns: cluster, namespace, workload, quota, says (what is missing, in the quota's words), reason (why a cluster
    could not be read; such a row has no workload). A cluster without any has no row. Deployments that end a pod before
    they start one, StatefulSets and DaemonSets need no room beside.

    Source: kubernetes/pkg/quota/v1/evaluator/core/pods.go.
    """
    rows: list[dict[str, Any]] = []
    for name, found in mesh.each(lambda cluster: list(_refusals(cluster, mesh.root_namespace))).items():
        known = [{"reason": found.reason}] if isinstance(found, Unknown) else found
        rows += [{"cluster": name, **row} for row in known]
    return table(rows, COLUMNS)


def _refusals(cluster: Cluster, root_namespace: str) -> Iterator[dict[str, Any]]:
    quotas: dict[str, list[Manifest]] = {}
    for quota in cluster.get("resourcequotas"):
        quotas.setdefault(quota["metadata"]["namespace"], []).append(quota)
    if not quotas:
        return
    deployments = {(d["metadata"]["namespace"], d["metadata"]["name"]): d for d in cluster.get("deployments.v1.apps")}
    sets = {(o["metadata"]["namespace"], o["metadata"]["name"]): o for o in cluster.get("replicasets.v1.apps")}
    seen: set[tuple[str, str]] = set()
    for pod in running(cluster):
        kind, name = owner(pod, sets)
        key = (pod["metadata"]["namespace"], name)
        if kind != "Deployment" or key in seen or key not in deployments or not _ours(pod, root_namespace):
            continue
        seen.add(key)
        if surge(deployments[key]):
            for quota in quotas.get(key[0], []):
                where = {"namespace": key[0], "workload": name, "quota": quota["metadata"]["name"]}
                yield from ({**where, "says": says} for says in missing(quota, pod["spec"]))


def _ours(pod: Manifest, root_namespace: str) -> bool:
    istiod = (pod["metadata"].get("labels") or {}).get("app") == "istiod"
    return (istiod and pod["metadata"]["namespace"] == root_namespace) or any(
        c["name"] == PROXY_CONTAINER for c in _containers(pod["spec"])
    )


def missing(quota: Manifest, spec: Manifest) -> list[str]:
    """Return what a quota lacks for one more pod of this spec: nothing if it has room, or is not about such pods."""
    if not _applies(quota.get("spec") or {}, spec):
        return []
    status = quota.get("status") or {}
    hard = {**((quota.get("spec") or {}).get("hard") or {}), **(status.get("hard") or {})}
    used, found = status.get("used") or {}, []
    for resource, limit in hard.items():
        part, _, name = resource.rpartition(".")
        if resource in _COUNTED:
            need = Decimal(1)
        elif resource.startswith("count/") or part not in ("", "requests", "limits"):
            continue
        else:
            part = part or "requests"
            if name in _COMPUTE and not all(_has(c, part, name) for c in _containers(spec)):
                found.append(f"a container says no {part}.{name}, which the quota asks for")
                continue
            need = _needed(spec, part, name)
        taken = _quantity(used.get(resource, "0"))
        if need and taken + need > _quantity(limit):
            found.append(
                f"{resource}: {used.get(resource, 0)} of {limit} used, one more pod needs {need.normalize():f}"
            )
    return found


def _containers(spec: Manifest) -> list[Manifest]:
    return [*(spec.get("containers") or []), *(spec.get("initContainers") or [])]


def _has(container: Manifest, part: str, name: str) -> bool:
    resources = container.get("resources") or {}
    # The API server takes a limit for the request where that is not said.
    return name in (resources.get(part) or {}) or (part == "requests" and name in (resources.get("limits") or {}))


def _quantity(text: Any) -> Decimal:
    found: Decimal = parse_quantity(str(text))  # type: ignore[no-untyped-call]
    return found


def _amount(container: Manifest, part: str, name: str) -> Decimal:
    resources = container.get("resources") or {}
    limit = (resources.get("limits") or {}).get(name, "0")
    said = (resources.get(part) or {}).get(name, limit if part == "requests" else "0")
    return _quantity(said)


def _needed(spec: Manifest, part: str, name: str) -> Decimal:
    """Return what a pod counts for: its containers and native sidecars, or its largest init container if more."""
    inits = spec.get("initContainers") or []
    staying = [*(spec.get("containers") or []), *(c for c in inits if c.get("restartPolicy") == "Always")]
    together = sum((_amount(c, part, name) for c in staying), Decimal(0))
    return max([together, *(_amount(c, part, name) for c in inits)])


def _applies(quota: Manifest, spec: Manifest) -> bool:
    terms = [{"scopeName": scope, "operator": "Exists"} for scope in quota.get("scopes") or []]
    terms += (quota.get("scopeSelector") or {}).get("matchExpressions") or []
    effort = any(c.get("resources", {}).get(part) for c in _containers(spec) for part in ("requests", "limits"))
    priority = spec.get("priorityClassName", "")
    holds = {
        "Terminating": "activeDeadlineSeconds" in spec,
        "NotTerminating": "activeDeadlineSeconds" not in spec,
        "BestEffort": not effort,
        "NotBestEffort": effort,
    }
    for term in terms:
        values = term.get("values") or []
        of_class = {
            "In": priority in values,
            "NotIn": priority not in values,
            "Exists": bool(priority),
            "DoesNotExist": not priority,
        }.get(term.get("operator", ""), False)
        # Of a scope that is not known here nothing can be said: it is left out.
        if not (of_class if term["scopeName"] == "PriorityClass" else holds.get(term["scopeName"], False)):
            return False
    return True
