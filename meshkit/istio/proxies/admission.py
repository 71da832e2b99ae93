"""Whether the API server would admit the next pod of a workload: asked by a dry run, where others than Istio decide."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

from meshkit.errors import ChangeError, MeshkitError
from meshkit.kube.cluster import Cluster
from meshkit.kube.transport import NotFoundError

Manifest = dict[str, Any]
ADMISSION: Final = "admission"
UNTRIED: Final = "not tried"
_INJECTORS: Final = "sidecar-injector.istio.io"
_POLICIES: Final = "validatingadmissionpolicybindings.v1.admissionregistration.k8s.io"
_PREFIX: Final = re.compile(r'^POST \S+ was refused \(\d+\): (pods "[^"]*" is forbidden: )?')
_DENIES: Final = ("(403)", "(422)")
"""A webhook, a policy, PodSecurity, a quota or a LimitRange; any other answer is about the dry run itself."""


def decided_by_others(cluster: Cluster) -> bool:
    """Return whether pods of a cluster are admitted by more than quotas, PodSecurity and Istio's injection.

    Source: the API server's admission plugins that look at pods, and are on by default.
    """
    hooks = [
        hook
        for kind in ("mutatingwebhookconfigurations", "validatingwebhookconfigurations")
        for one in cluster.get(kind)
        for hook in one.get("webhooks") or []
        if not str(hook.get("name", "")).endswith(_INJECTORS)
    ]
    return any(map(_of_pods, hooks)) or bool(cluster.get("limitranges")) or bool(_bindings(cluster))


def _of_pods(hook: Manifest) -> bool:
    return any(
        {"*", "CREATE"} & {*(rule.get("operations") or [])}
        and {"*", "*/*", "pods"} & {*(rule.get("resources") or [])}
        and {"*", ""} & {*(rule.get("apiGroups") or [])}
        for rule in hook.get("rules") or []
    )


def _bindings(cluster: Cluster) -> list[Manifest]:
    try:
        return cluster.get(_POLICIES)
    except NotFoundError:  # Kubernetes before 1.30
        return []


def refused(cluster: Cluster, workload: Manifest) -> Iterator[str]:
    """Yield why a workload's next pod would be refused, if it would be; webhooks take part as for a real one.

    Nothing where a webhook cannot be asked without effects.
    """
    template, place = workload["spec"]["template"], workload["metadata"]["namespace"]
    metadata = {k: v for k, v in (template.get("metadata") or {}).items() if k in ("labels", "annotations")}
    name = f"{workload['metadata']['name'][:40]}-meshkit-dry-run"
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {**metadata, "name": name, "namespace": place}}
    try:
        cluster.rehearse({**pod, "spec": template["spec"]}, create=True)
    except ChangeError as error:
        if any(code in error.message for code in _DENIES):
            yield _PREFIX.sub("", error.message)
    except MeshkitError:
        return
