"""Whether proxies reach istiod, and the API server reaches istiod's webhook, tried inside each cluster."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import pandas as pd

from meshkit.errors import MeshkitError, UnreachableError
from meshkit.istio.config.network_policies import WEBHOOK, XDS
from meshkit.istio.control_plane import revisions
from meshkit.istio.control_plane.istiods_and_proxies import istiods
from meshkit.istio.proxies import injection
from meshkit.kube.cluster import Cluster
from meshkit.kube.mesh import Mesh, Unknown
from meshkit.kube.pods import PROXY_CONTAINER
from meshkit.probing.pod_reach import Caller, callers, handshake
from meshkit.tables import Table, integer, text

CONTROL_PLANE_REACH: Final = Table(
    "control-plane-reach",
    "Paths inside each cluster, tried",
    {
        "cluster": text("its cluster"),
        "way": text("the path, named as in `network-policies`"),
        "port": integer("that was tried"),
        "tried_from": text("pod"),
        "state": text("ok, no answer, untried (no pod to try from, or not allowed) or UNKNOWN"),
        "detail": text("what happened"),
    },
    key=("cluster", "way"),
)
TO_ISTIOD, TO_WEBHOOK = "proxies to istiod", "API server to istiod's webhook"
_FORBIDDEN: Final = "(403)"
_UNCALLED: Final = "failed calling webhook"


def tried(mesh: Mesh) -> pd.DataFrame:
    """Try the paths to istiod inside each cluster; one row for each.

    To istiod: a TLS handshake with port 15012 of its Service, from the probe's client, through the network of the
    proxies. To its webhook: a dry-run create of a pod in the probe's namespace; the returned pod has a sidecar only if
    the API server reached istiod.
    """
    known = callers(mesh)
    rows: list[dict[str, Any]] = []
    attempts = {(TO_ISTIOD, XDS): _to_istiod, (TO_WEBHOOK, WEBHOOK): _to_webhook}
    for (path, port), attempt in attempts.items():
        for name, outcome in mesh.each(lambda c, try_=attempt: try_(mesh, c, known[c.name])).items():  # type: ignore[misc]
            answer = {"state": "UNKNOWN", "detail": outcome.reason} if isinstance(outcome, Unknown) else outcome
            rows.append({"cluster": name, "way": path, "port": port, **answer})
    return CONTROL_PLANE_REACH.frame(rows)


def _to_istiod(mesh: Mesh, cluster: Cluster, caller: Caller | Unknown | None) -> dict[str, str]:
    service = _istiod_service(cluster, mesh.root_namespace)
    if caller is None or isinstance(caller, Unknown) or not service:
        why = caller.reason if isinstance(caller, Unknown) else "no pod of the probe's client to try from"
        return {"state": "untried", "detail": why if service else "no istiod runs there"}
    shaken = _as_its_proxy(caller, f"https://{service}.{mesh.root_namespace}.svc:{XDS}/")
    where = {"tried_from": caller.pod, "detail": f"{service}: {shaken.get('detail') or 'it shows its certificate'}"}
    return {**where, "state": str(shaken["state"])}


def _as_its_proxy(caller: Caller, url: str) -> dict[str, Any]:
    """Shake hands from the pod's proxy container, where it has curl: as for the proxy itself, nothing is intercepted.

    A sidecar would send a call of the app to whichever istiod's Service it knows: a remote's to its primary's pods.
    """
    try:
        shaken = handshake(replace(caller, container=PROXY_CONTAINER), url)
    except MeshkitError:  # it has none
        return handshake(caller, url)
    return shaken if shaken["ran"] else handshake(caller, url)


def _istiod_service(cluster: Cluster, namespace: str) -> str:
    found = [istiod.revision for istiod in istiods(cluster, namespace)]
    names = [f"istiod-{r}" if r not in ("", "default") else "istiod" for r in found]
    # A remote's own webhooks call the Service by which its proxies find their istiod, too.
    names = names or _of_webhooks(cluster, namespace)
    return next((name for name in names if cluster.find("services", namespace, name)), "")


def _of_webhooks(cluster: Cluster, namespace: str) -> list[str]:
    hooks = revisions.read(cluster).webhooks
    return sorted({name for hook in hooks for place, _, name in [hook.service.partition("/")] if place == namespace})


def _to_webhook(mesh: Mesh, cluster: Cluster, caller: Caller | Unknown | None) -> dict[str, str]:
    del caller
    where = {"tried_from": "the API server"}
    namespace = cluster.find("namespaces", None, mesh.spec.probe.namespace)
    labels = ((namespace or {}).get("metadata") or {}).get("labels") or {}
    if labels.get(injection.INJECTION_LABEL) != "enabled" and not labels.get(injection.REVISION_LABEL):
        return {**where, "state": "untried", "detail": "the probe's namespace does not ask for sidecars"}
    if not cluster.can_i("create", "pods", mesh.spec.probe.namespace):
        return {**where, "state": "untried", "detail": "we may not ask for a dry run of a pod"}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "meshkit-dry-run", "namespace": mesh.spec.probe.namespace},
        "spec": {"containers": [{"name": "main", "image": "none"}]},
    }
    try:
        made = cluster.rehearse(pod, create=True)
    except MeshkitError as error:
        # A refusal by another admission plugin, or a missing right, says nothing about istiod's webhook.
        silent = isinstance(error, UnreachableError) or _UNCALLED in error.message
        state = "no answer" if silent and _FORBIDDEN not in error.message else "untried"
        return {**where, "state": state, "detail": error.message[:200]}
    injected = injection.carries(made)
    return {**where, "state": "ok" if injected else "no answer", "detail": "" if injected else "no sidecar was added"}
