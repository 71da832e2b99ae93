"""Who keeps an object as it is: a controller or a pipeline that writes it again, and where it is to be changed.

What such an owner keeps must not be changed beside it: it changes it back, or two CAs take turns.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from meshkit.kube.manifests import managers

Marks = Mapping[str, str]


@dataclass(frozen=True)
class Owner:
    """An object's owner, in words: `cert-manager (Certificate istio-system/istio-ca)`, and where to change it."""

    name: str
    where: str


@dataclass(frozen=True)
class _Kind:
    """How one owner is seen: field managers, beginnings of labels and annotations, kinds of its custom resources.

    `source` says what people change, from the object's labels and annotations, its namespace and name.
    """

    name: str
    managers: str
    marks: tuple[str, ...]
    kinds: tuple[str, ...]
    source: Callable[[Marks, str, str], str]


def _marked(*keys: str) -> Callable[[Marks], str]:
    return lambda marks: next((marks[key] for key in keys if marks.get(key)), "")


def _pair(marks: Marks, prefix: str, place: str) -> str:
    name = marks.get(f"{prefix}name", "")
    return "/".join(filter(None, (marks.get(f"{prefix}namespace", place if name else ""), name)))


def _certificate(marks: Marks, place: str, name: str) -> str:
    issuer = " ".join(
        filter(None, (marks.get("cert-manager.io/issuer-kind"), marks.get("cert-manager.io/issuer-name")))
    )
    of = f" and its issuer {issuer}" if issuer else ""
    return f"Certificate {place}/{marks.get('cert-manager.io/certificate-name', name)}{of}"


def _argo(marks: Marks, place: str, _name: str) -> str:
    tracked = marks.get("argocd.argoproj.io/tracking-id", "").partition(":")[0]
    instance = marks.get("argocd.argoproj.io/instance") or marks.get("app.kubernetes.io/instance") or ""
    return f"the source of Application {tracked or instance or f'that has {place}'}"


def _flux(marks: Marks, place: str, _name: str) -> str:
    kustomization = _pair(marks, "kustomize.toolkit.fluxcd.io/", place)
    release = _pair(marks, "helm.toolkit.fluxcd.io/", place)
    if release and not kustomization:
        return f"the values of HelmRelease {release}"
    return f"the source of Kustomization {kustomization}" if kustomization else "the source in Git"


def _helm(marks: Marks, place: str, _name: str) -> str:
    release = marks.get("meta.helm.sh/release-name", "")
    return f"the values of release {marks.get('meta.helm.sh/release-namespace', place)}/{release or '?'}"


def _copied(marks: Marks, _place: str, _name: str) -> str:
    keys = ("reflector.v1.k8s.emberstack.com/reflects", "replicator.v1.mittwald.de/replicate-from")
    return f"the Secret that it is a copy of{f', {source}' if (source := _marked(*keys)(marks)) else ''}"


_KINDS: Final = (
    _Kind("cert-manager", r"cert-manager.*",
          ("cert-manager.io/certificate-name", "cert-manager.io/issuer-", "controller.cert-manager.io/"),
          ("Certificate",), _certificate),
    _Kind("External Secrets", r"external-?secrets.*", ("reconcile.external-secrets.io/",),
          ("ExternalSecret", "ClusterExternalSecret"),
          lambda _, place, name: f"ExternalSecret {place}/{name}, or what its store holds"),
    _Kind("Sealed Secrets", r"sealed-?secrets.*", ("sealedsecrets.bitnami.com/",), ("SealedSecret",),
          lambda _, place, name: f"SealedSecret {place}/{name}: seal the new files with kubeseal"),
    _Kind("Vault", r"vault-secrets-operator.*|vault-.*|bank-vaults.*",
          ("secrets.hashicorp.com/", "vault.security.banzaicloud.io/", "vault.hashicorp.com/", "vaults.ricoberger.de/"),
          ("VaultStaticSecret", "VaultDynamicSecret", "VaultPKISecret", "VaultSecret"),
          lambda _, place, name: f"what Vault holds for {place}/{name}"),
    _Kind("Secrets Store CSI driver", r"secrets-store-csi.*", ("secrets-store.csi.k8s.io/",), (),
          lambda _, place, _name: f"the SecretProviderClass in {place}, or what its store holds"),
    _Kind("a copier of Secrets", r"reflector|kubernetes-replicator|config-syncer",
          ("reflector.v1.k8s.emberstack.com/reflects", "replicator.v1.mittwald.de/replicate-from",
           "replicator.v1.mittwald.de/replicated-", "kubed.appscode.com/origin"), (), _copied),
    _Kind("Argo CD", r"argocd.*", ("argocd.argoproj.io/",), (), _argo),
    _Kind("Flux", r"kustomize-controller|helm-controller", ("kustomize.toolkit.fluxcd.io/", "helm.toolkit.fluxcd.io/"),
          (), _flux),
    _Kind("Config Sync", r"configsync.*|configmanagement.*", ("configmanagement.gke.io/", "configsync.gke.io/"), (),
          lambda *_: "the source in Git"),
    _Kind("Rancher Fleet", r"fleet.*", ("objectset.rio.cattle.io/", "fleet.cattle.io/"), (),
          lambda *_: "the source in Git"),
    _Kind("Kyverno", r"kyverno.*", ("generate.kyverno.io/",), (),
          lambda marks, *_: f"policy {marks.get('generate.kyverno.io/policy-name', 'that generates it')}"),
    _Kind("Crossplane", r"crossplane.*|apiextensions\.crossplane\.io.*", ("crossplane.io/",), (),
          lambda *_: "the composition that makes it"),
    _Kind("kapp", r"kapp.*", ("kapp.k14s.io/",), ("App",), lambda *_: "the app that kapp deploys"),
    _Kind("Terraform", r"terraform.*|hashicorp|opentofu.*", (), (), lambda *_: "its Terraform configuration"),
    _Kind("Pulumi", r"pulumi.*", ("pulumi.com/",), (), lambda *_: "its Pulumi program"),
    _Kind("Helm", r"helm", ("meta.helm.sh/",), (), _helm),
)  # fmt: skip
"""The first that fits is named: what makes a Secret's content before what delivers a manifest."""

_NO_OWNER: Final = re.compile(r"meshkit|istioctl|istio-operator|pilot-discovery", re.IGNORECASE)
_PERSON: Final = re.compile(
    r"kubectl.*|oc|k9s|node-fetch|mozilla|curl|python.*|openapi-generator|before-first-apply", re.IGNORECASE
)
"""Tools that write when a person says so, and never again by themselves."""
_CONTROLLER: Final = re.compile(r".*(controller|operator|manager|-sync|syncer|-agent).*", re.IGNORECASE)


def owner_of(obj: Mapping[str, Any]) -> Owner | None:
    """Return who keeps an object as it is, by its owner references, labels, annotations and field managers.

    None for what a person, meshkit or Istio made.
    """
    if known := known_owner(obj):
        return known
    meta = obj["metadata"]
    if references := meta.get("ownerReferences") or []:
        parent = references[0]
        what = f"{parent.get('kind')} {meta.get('namespace', '')}/{parent.get('name')}"
        return Owner(f"{what} ({parent.get('apiVersion')})", what)
    by = _marks(meta).get("app.kubernetes.io/managed-by", "")
    if by and not _NO_OWNER.fullmatch(by):
        return Owner(by, f"what {by} makes it of")
    found = sorted(one for one in managers(obj) if _keeps(obj, one))
    return Owner(found[0], f"what {found[0]} makes it of") if found else None


def known_owner(obj: Mapping[str, Any]) -> Owner | None:
    """Return who of those that are known here keeps an object as it is.

    The label `app.kubernetes.io/managed-by` is no sign of one: istioctl, too, writes that of Istio's charts.
    """
    meta = obj["metadata"]
    marks, references = _marks(meta), meta.get("ownerReferences") or []
    for kind in _KINDS:
        parent = next((one for one in references if one.get("kind") in kind.kinds), None)
        if (
            parent
            or _has_marks(kind, marks)
            or any(re.fullmatch(kind.managers, one, re.IGNORECASE) for one in managers(obj))
        ):
            return _owner(kind, parent, marks, str(meta.get("namespace", "")), str(meta["name"]))
    return None


def _marks(metadata: Mapping[str, Any]) -> dict[str, str]:
    return {**(metadata.get("labels") or {}), **(metadata.get("annotations") or {})}


def _has_marks(kind: _Kind, marks: Marks) -> bool:
    return any(key.startswith(kind.marks) for key in marks) if kind.marks else False


def _keeps(obj: Mapping[str, Any], manager: str) -> bool:
    """Return whether a field manager that nobody here knows is a controller: by its name, or since it applies."""
    if _NO_OWNER.fullmatch(manager) or _PERSON.fullmatch(manager):
        return False
    entries = obj["metadata"].get("managedFields") or []
    applies = any(one.get("manager") == manager and one.get("operation") == "Apply" for one in entries)
    return applies or bool(_CONTROLLER.fullmatch(manager))


def _owner(kind: _Kind, parent: Mapping[str, Any] | None, marks: Marks, place: str, name: str) -> Owner:
    if parent and kind.kinds and parent["kind"] != "Certificate":
        what = f"{parent['kind']} {place}/{parent['name']}"
        return Owner(f"{kind.name} ({what})", what)
    where = kind.source(marks, place, parent["name"] if parent else name)
    return Owner(f"{kind.name} ({where})", where)
