"""Who would refuse the new pods of a rolling restart: quotas, PodSecurity, and whoever else admits pods."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Any, Final

import pandas as pd
from kubernetes.utils.quantity import parse_quantity

from meshkit.istio.control_plane.istiods_and_proxies import running
from meshkit.istio.proxies import admission
from meshkit.istio.proxies.workloads import owner, surge
from meshkit.kube.cluster import Cluster
from meshkit.kube.mesh import Mesh, Unknown
from meshkit.kube.pods import PROXY_CONTAINER
from meshkit.tables import Table, text

REFUSALS: Final = Table(
    "refusals",
    "Workloads whose next pod would be refused",
    {
        "cluster": text("its cluster"),
        "namespace": text("its namespace"),
        "kind": text("of the workload"),
        "workload": text("its name"),
        "by": text("`ResourceQuota name`, PodSecurity, or admission: what a dry run was refused by; not tried"),
        "says": text("what is missing, or not allowed"),
        "reason": text("why a cluster could not be read; such a row has no workload"),
    },
    key=("cluster", "namespace", "kind", "workload", "by"),
)
_COMPUTE: Final = ("cpu", "memory")
_COUNTED: Final = ("pods", "count/pods")
ENFORCE: Final = "pod-security.kubernetes.io/enforce"
POD_SECURITY: Final = "PodSecurity"
_STRICT: Final = frozenset({"baseline", "restricted"})
_BASELINE: Final = frozenset({
    "AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE", "SETFCAP",
    "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT",
})  # fmt: skip
_RESTRICTED: Final = frozenset({"NET_BIND_SERVICE"})
Manifest = dict[str, Any]


def refusals(mesh: Mesh) -> pd.DataFrame:
    """Return one row for each workload with a proxy, and istiod's, whose next pod would be refused.

    A cluster without any has no row. Deployments that end a pod before they start one, StatefulSets and DaemonSets need
    no room in a quota. Where PodSecurity, webhooks, policies or LimitRanges decide about pods, a dry run of the next
    pod of each Deployment asks them. Where we may not create pods, one row says that this was not tried, and of what
    PodSecurity forbids only the capabilities are looked at, which Istio's init container asks for where there is no
    istio-cni. It looks at new pods only, so those that run may be of before its label.

    Source: kubernetes: pkg/quota/v1/evaluator/core/pods.go, pod-security-admission/policy/check_capabilities_*.go.
    """
    rows: list[dict[str, Any]] = []
    for name, found in mesh.each(lambda cluster: list(_refusals(cluster, mesh.root_namespace))).items():
        known = [{"reason": found.reason}] if isinstance(found, Unknown) else found
        rows += [{"cluster": name, **row} for row in known]
    return REFUSALS.frame(rows)


def _refusals(cluster: Cluster, root_namespace: str) -> Iterator[dict[str, Any]]:
    quotas: dict[str, list[Manifest]] = {}
    for quota in cluster.get("resourcequotas"):
        quotas.setdefault(quota["metadata"]["namespace"], []).append(quota)
    levels = {
        n["metadata"]["name"]: (n["metadata"].get("labels") or {}).get(ENFORCE, "") for n in cluster.get("namespaces")
    }
    strict = bool(set(levels.values()) & _STRICT)
    rehearsed = strict or admission.decided_by_others(cluster)
    if not rehearsed and not quotas:
        return
    deployments = {(d["metadata"]["namespace"], d["metadata"]["name"]): d for d in cluster.get("deployments.v1.apps")}
    sets = {(o["metadata"]["namespace"], o["metadata"]["name"]): o for o in cluster.get("replicasets.v1.apps")}
    if rehearsed and not cluster.can_i("create", "pods"):
        rehearsed = False
        yield {"by": admission.UNTRIED, "says": "we may not create pods, not even in a dry run"}
    seen: set[tuple[str, str, str]] = set()
    for pod in running(cluster):
        kind, name = owner(pod, sets)
        namespace = pod["metadata"]["namespace"]
        if (namespace, kind, name) in seen or not _ours(pod, root_namespace):
            continue
        seen.add((namespace, kind, name))
        where = {"namespace": namespace, "kind": kind, "workload": name}
        workload = deployments.get((namespace, name)) if rehearsed and kind == "Deployment" else None
        denied = list(_denied(cluster, workload)) if workload else []
        yield from ({**where, **one} for one in denied)
        says = forbidden(levels.get(namespace, ""), pod["spec"])
        if says and POD_SECURITY not in {one["by"] for one in denied}:
            yield {**where, "by": POD_SECURITY, "says": says}
        owned = deployments.get((namespace, name)) if kind == "Deployment" else None
        for quota in quotas.get(namespace, []) if owned and surge(owned) else []:
            by = f"ResourceQuota {quota['metadata']['name']}"
            yield from ({**where, "by": by, "says": says} for says in missing(quota, pod["spec"]))


def _denied(cluster: Cluster, workload: Manifest) -> Iterator[dict[str, str]]:
    """Yield what a dry run of a workload's next pod is refused by; of quotas more is said without it."""
    for says in admission.refused(cluster, workload):
        if "exceeded quota" not in says:
            yield {"by": POD_SECURITY if f"violates {POD_SECURITY}" in says else admission.ADMISSION, "says": says}


def _ours(pod: Manifest, root_namespace: str) -> bool:
    istiod = (pod["metadata"].get("labels") or {}).get("app") == "istiod"
    return (istiod and pod["metadata"]["namespace"] == root_namespace) or any(
        c["name"] == PROXY_CONTAINER for c in _containers(pod["spec"])
    )


def forbidden(level: str, spec: Manifest) -> str:
    """Return which capabilities of a pod the level that its namespace enforces forbids, by container, or nothing."""
    if level not in _STRICT:
        return ""
    allowed = _BASELINE if level == "baseline" else _RESTRICTED
    violations = []
    for container in _containers(spec):
        added = ((container.get("securityContext") or {}).get("capabilities") or {}).get("add") or []
        if wrong := sorted(set(added) - allowed):
            violations.append(f"{container['name']} adds {', '.join(wrong)}")
    return f"{ENFORCE}={level}: {'; '.join(violations)}" if violations else ""


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
