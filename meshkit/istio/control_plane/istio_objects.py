"""Which objects of a cluster are Istio's or the Gateway API's, and what of each a restore needs.

Objects of their API groups are found by discovery, and all of them count. Of Kubernetes' own kinds those count that
Istio's installers label (istioctl and Helm: `operator.istio.io/component`, `app.kubernetes.io/part-of: istio`, the
name of a chart), or that istiod itself goes by.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from meshkit.kube.cluster import Cluster
from meshkit.kube.mesh import Unknown, gather
from meshkit.kube.transport import NotFoundError

Manifest = dict[str, Any]

PARTS = ("namespaces", "crds", "rbac", "secrets", "configmaps", "objects", "workloads", "webhooks")
"""In the order of a restore: webhooks last, because they refuse everything while no istiod answers them."""
REMOTE_LABEL = "istio/multiCluster"
"""The label of Secrets by which istiods read other clusters."""
DEADLINE = 60.0
_KEPT = ("name", "namespace", "labels", "annotations")
_GROUPS = (".istio.io", ".networking.k8s.io", ".networking.x-k8s.io")
_CHART = re.compile(r"(base|istiod|istio-[a-z]+|cni|ztunnel|gateway)-v?\d")
_OWN_LABELS = ("operator.istio.io/", "install.operator.istio.io/", "gateway.istio.io/managed")
_LABELLED = {
    "rbac": (
        "serviceaccounts",
        "roles.rbac.authorization.k8s.io",
        "rolebindings.rbac.authorization.k8s.io",
        "clusterroles.rbac.authorization.k8s.io",
        "clusterrolebindings.rbac.authorization.k8s.io",
    ),
    "workloads": (
        "services",
        "deployments.apps",
        "daemonsets.apps",
        "horizontalpodautoscalers.autoscaling",
        "poddisruptionbudgets.policy",
        "networkpolicies.networking.k8s.io",
    ),
    "webhooks": (
        "mutatingwebhookconfigurations.admissionregistration.k8s.io",
        "validatingwebhookconfigurations.admissionregistration.k8s.io",
        "validatingadmissionpolicies.admissionregistration.k8s.io",
        "validatingadmissionpolicybindings.admissionregistration.k8s.io",
    ),
}
_SECRETS = {
    "cacerts": "plugged-in CA",
    "istio-ca-secret": "self-signed CA",
    "istio-kubeconfig": "istiod's way to its config cluster",
}


class Key(NamedTuple):
    """What identifies an object: `VirtualService.networking.istio.io`, its namespace (or nothing) and its name."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind.partition('.')[0]} {'/'.join(filter(None, (self.namespace, self.name)))}"


@dataclass(frozen=True)
class Item:
    """One object as it would be restored, where it belongs, and which state of it was read."""

    part: str
    manifest: Manifest = field(repr=False)
    uid: str = ""
    version: str = ""
    created: str = ""

    @property
    def key(self) -> Key:
        """What identifies it."""
        return key(self.manifest)

    @property
    def digest(self) -> str:
        """The SHA-256 of its content."""
        return digest(self.manifest)

    @property
    def size(self) -> int:
        """Bytes of its content as compact JSON."""
        return len(_canonical(self.manifest))


@dataclass(frozen=True)
class Found:
    """What a cluster holds.

    `unread` has what could not be listed and why; `missing` the Secrets that are named but not there; `kinds` what
    discovery serves of Istio's groups; `unserved` the CRDs whose kind it does not serve.
    """

    items: list[Item]
    unread: dict[str, str]
    missing: list[str]
    kinds: list[str]
    unserved: list[str]

    @property
    def empty(self) -> bool:
        """Whether there is neither Istio nor the Gateway API."""
        return not self.unread and all(item.part == "namespaces" for item in self.items)


def key(manifest: Manifest) -> Key:
    """Return what identifies an object."""
    group = manifest["apiVersion"].rpartition("/")[0]
    metadata = manifest["metadata"]
    return Key(".".join(filter(None, (manifest["kind"], group))), metadata.get("namespace", ""), metadata["name"])


def digest(manifest: Manifest) -> str:
    """Return the SHA-256 of an object's content; the order of fields does not count."""
    return hashlib.sha256(_canonical(manifest)).hexdigest()


def _canonical(manifest: Manifest) -> bytes:
    return json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode()


def portable(manifest: Manifest) -> Manifest:
    """Return what of an object a restore needs: without status, and with nothing in metadata that the server writes.

    Owner references go too: they name UIDs, and the garbage collector deletes what names an owner that is gone.
    """
    metadata = {name: manifest["metadata"][name] for name in _KEPT if manifest["metadata"].get(name)}
    kept = {name: value for name, value in manifest.items() if name not in ("metadata", "status")}
    if manifest["kind"] == "Namespace":
        kept.pop("spec", None)
    return {"apiVersion": kept.pop("apiVersion"), "kind": kept.pop("kind"), "metadata": metadata, **kept}


def under_another_name(manifest: Manifest) -> Manifest:
    """Return an object as a new one beside the old: a Service without the addresses and ports that the old one has."""
    other = {**manifest, "metadata": {**manifest["metadata"], "name": f"meshkit-drill-{digest(manifest)[:8]}"}}
    if manifest["kind"] == "Service":
        taken = ("clusterIP", "clusterIPs", "healthCheckNodePort", "loadBalancerIP")
        spec = {k: v for k, v in manifest["spec"].items() if k not in taken or v in ("None", ["None"])}
        spec["ports"] = [{k: v for k, v in port.items() if k != "nodePort"} for port in spec.get("ports", [])]
        other["spec"] = spec
    return other


def ours(group: str) -> bool:
    """Return whether an API group is Istio's or the Gateway API's."""
    return group.endswith(_GROUPS)


def installed(manifest: Manifest) -> bool:
    """Return whether an installer of Istio, or istiod for a Gateway, made this object."""
    labels = manifest["metadata"].get("labels") or {}
    return (
        any(label.startswith(_OWN_LABELS) for label in labels)
        or labels.get("app.kubernetes.io/part-of") == "istio"
        or bool(_CHART.match(labels.get("helm.sh/chart", "")))
        or _injected_gateway(manifest)
    )


def _injected_gateway(manifest: Manifest) -> bool:
    if manifest["kind"] not in ("Deployment", "DaemonSet"):
        return False
    annotations = manifest["spec"]["template"].get("metadata", {}).get("annotations") or {}
    return "gateway" in annotations.get("inject.istio.io/templates", "").split(",")


def secret_role(manifest: Manifest) -> str:
    """Return what a Secret of the root namespace is to Istio, or nothing."""
    metadata, kind = manifest["metadata"], manifest.get("type", "")
    account = (metadata.get("annotations") or {}).get("kubernetes.io/service-account.name", "")
    if role := _SECRETS.get(metadata["name"]):
        return role
    if (metadata.get("labels") or {}).get(REMOTE_LABEL) == "true":
        return "remote secret"
    if kind == "kubernetes.io/service-account-token" and account.startswith("istio"):
        return f"token of {account}"
    if kind == "helm.sh/release.v1":
        return "Helm release"
    return "part of the installation" if installed(manifest) or kind.startswith("istio.io/") else ""


def _config_map(manifest: Manifest) -> bool:
    metadata = manifest["metadata"]
    election = "control-plane.alpha.kubernetes.io/leader" in (metadata.get("annotations") or {})
    return not election and (metadata["name"].startswith(("istio", "values")) or installed(manifest))


def collect(cluster: Cluster, root_namespace: str) -> Found:
    """Read every object of a cluster that is Istio's or the Gateway API's, and the labels of all namespaces.

    Raises:
        UnreachableError: it cannot even be asked which kinds it serves.
    """
    kinds = cluster.kinds(ours)
    asks: list[tuple[str, str, str | None, Callable[[Manifest], object]]] = [
        ("namespaces", "namespaces", None, bool),
        ("crds", "customresourcedefinitions", None, lambda crd: ours(crd["spec"]["group"])),
        *(("objects", kind, None, bool) for kind in kinds),
        *((part, kind, None, installed) for part, several in _LABELLED.items() for kind in several),
        ("configmaps", "configmaps", root_namespace, _config_map),
        ("secrets", "secrets", root_namespace, secret_role),
    ]

    def ask(part: str, kind: str, namespace: str | None, wanted: Callable[[Manifest], object]) -> list[Item]:
        try:
            return [_item(part, found) for found in cluster.get(kind, namespace) if wanted(found)]
        except NotFoundError:  # an older API server, or a kind that was removed a moment ago
            return []

    answers = dict(zip([kind for _, kind, *_ in asks], gather(lambda a: ask(*a), asks, deadline=DEADLINE), strict=True))
    items = [item for answer in answers.values() if not isinstance(answer, Unknown) for item in answer]
    unread = {kind: answer.reason for kind, answer in answers.items() if isinstance(answer, Unknown)}
    named, refused, missing = _named(cluster, root_namespace, items)
    defined = {item.manifest["metadata"]["name"] for item in items if item.part == "crds"}
    everything = {item.key: item for item in [*named, *items]}
    return Found(list(everything.values()), {**unread, **refused}, missing, kinds, sorted(defined - set(kinds)))


def _item(part: str, found: Manifest) -> Item:
    metadata = found["metadata"]
    version, created = metadata.get("resourceVersion", ""), metadata.get("creationTimestamp", "")
    return Item(part, portable(found), metadata.get("uid", ""), version, created)


def count(cluster: Cluster, kind: str) -> int:
    """Return how many objects of a kind there are, by the API server's own count."""
    page = cluster.get_json(cluster.resource(kind).path(None), query=[("limit", "1")], having="items")
    return len(page["items"] or []) + int(page["metadata"].get("remainingItemCount") or 0)


class _Reference(NamedTuple):
    kind: str
    namespaces: tuple[str, ...]
    name: str
    by: str
    optional: bool = False


def _named(cluster: Cluster, root: str, items: list[Item]) -> tuple[list[Item], dict[str, str], list[str]]:
    """Return what objects name by name, what of it could not be read, and what is not there."""
    # Istio reads a Gateway's credential in the namespace of the gateway's pods, which the Gateway does not tell.
    workloads = {item.key.namespace for item in items if item.part == "workloads"}
    found: list[Item] = []
    refused: dict[str, str] = {}
    missing: list[str] = []

    def look(reference: _Reference) -> list[Item]:
        answers = [cluster.find(reference.kind, namespace, reference.name) for namespace in reference.namespaces]
        return [_item(f"{reference.kind}s", answer) for answer in answers if answer]

    wanted = list(
        dict.fromkeys(r for item in items if item.part == "objects" for r in references(item, root, workloads))
    )
    for reference, answer in zip(wanted, gather(look, wanted, deadline=DEADLINE), strict=True):
        if isinstance(answer, Unknown):
            refused[f"{reference.kind} {reference.name}"] = answer.reason
        elif answer:
            found += answer
        elif not reference.optional:
            missing.append(f"{reference.kind} {reference.name} (named by {reference.by})")
    return found, refused, missing


def references(item: Item, root: str, workloads: Iterable[str]) -> Iterator[_Reference]:
    """Yield the Secrets and ConfigMaps that an object names: Istio's `credentialName`, the Gateway API's references."""
    by, own = str(item.key), item.key.namespace
    anywhere = tuple(sorted({own, root, *workloads}))
    for name, value in _walk(item.manifest.get("spec")):
        if name in ("credentialName", "credentialNames", "caCertCredentialName", "imagePullSecret"):
            for secret in [value] if isinstance(value, str) else value or []:
                plain = secret.removeprefix("kubernetes://")
                if plain and "://" not in plain:  # others name files or sockets
                    yield _Reference("secret", anywhere, plain, by)
                    yield _Reference("secret", anywhere, f"{plain}-cacert", by, optional=True)
        elif name in ("certificateRefs", "caCertificateRefs", "clientCertificateRef"):
            for to in [value] if isinstance(value, dict) else value or []:
                kind = to.get("kind", "Secret").lower()
                if kind in ("secret", "configmap"):
                    yield _Reference(kind, (to.get("namespace") or own,), to["name"], by)


def _walk(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield name, inner
            yield from _walk(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _walk(inner)
