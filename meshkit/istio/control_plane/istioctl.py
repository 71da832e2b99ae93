"""Istio's installation: the IstioOperator of each cluster, rendered from the mesh file, and istioctl to install it.

istioctl does the installing, so that whoever upgrades later finds what it knows. What it would change is seen before
by a server-side dry run of what it would apply, as its own field manager.
"""

from __future__ import annotations

import copy
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from meshkit import paths
from meshkit.errors import ChangeError, InputError, MeshkitError, UnreachableError
from meshkit.kube import kubeconfig
from meshkit.spec import ClusterSpec, MeshSpec, read_yaml

MANAGER = "istio-operator"
"""The field manager of `istioctl install` (operator/pkg/install/install.go)."""
RUNTIME_MANAGERS = frozenset({MANAGER, "istioctl", "pilot-discovery"})
"""Istio's field managers: istiod sets failure policies and CA bundles of webhooks, istioctl moves their selectors."""
REVISION, TAG = "istio.io/rev", "istio.io/tag"
VALIDATOR = "istiod-default-validator"
INSTALL_LABELS = ("install.operator.istio.io/", "operator.istio.io/", "istio.io/rev")
PRUNED = (
    "mutatingwebhookconfigurations", "validatingwebhookconfigurations", "clusterroles", "clusterrolebindings",
    "deployments.v1.apps", "daemonsets.v1.apps", "services", "configmaps", "pods", "secrets", "serviceaccounts",
    "roles", "rolebindings", "poddisruptionbudgets", "horizontalpodautoscalers", "envoyfilters.networking.istio.io",
)  # fmt: skip
"""The kinds of which `istioctl install` removes what it rendered before and does not now (uninstall/prune.go)."""
_COMPONENTS = "Base,Pilot,IngressGateways,EgressGateways,Cni,Ztunnel"
CONTROL_PLANE = "control-plane"
OWNER = "install.operator.istio.io/owning-resource"
"""The label that istioctl gives to all that it installs."""
SHARED = ("hub", "tag", "meshConfig", "values", "unvalidatedValues")
"""What of an overlay is of each installation; the rest is about a control plane, or would install it a second time."""
UNTAGGED = "operatorManageWebhooks"
"""A value of `global`: with it istioctl makes no tag, and renders no webhook of injection."""
DEFAULT_ID = "Kubernetes"
ALIAS_FLAG = "--clusterAliases="
INSTALL_TIMEOUT = 300.0
Operator = dict[str, Any]


def operator(spec: MeshSpec, name: str, *, alias: str = "", mesh_networks: Mapping[str, Any] | None = None) -> Operator:
    """Return the IstioOperator of a cluster's control plane.

    The mesh file's overlay comes first, the ids that the mesh needs after it: profile, revision, mesh id, cluster
    id, network, and an alias for the id that its proxies still claim. With `externalIstiod` it serves remote
    clusters: without, it gives them no root certificate (pilot/pkg/bootstrap, EXTERNAL_ISTIOD).

    Raises:
        InputError: the overlay is missing or no IstioOperator.
    """
    entry = spec.cluster(name)
    ids = {
        "meshID": spec.mesh.id,
        "network": entry.network,
        "multiCluster": {"clusterName": name},
        **({"meshNetworks": dict(mesh_networks)} if mesh_networks else {}),
        **({"externalIstiod": True} if spec.remotes_of(name) else {}),
    }
    own = placed(spec, {"profile": spec.istio.profile, "values": {"global": ids}})
    if alias:
        own["components"] = {"pilot": {"k8s": {"overlays": [_alias(name, alias, spec.istio.revision)]}}}
    return wrap(merge(overlay(spec), own))


def placed(spec: MeshSpec, own: Operator) -> Operator:
    """Return a spec with the revision, root namespace and trust domain of the mesh file, where they are not Istio's."""
    own = copy.deepcopy(own)
    if spec.istio.revision:
        own["revision"] = spec.istio.revision
    if spec.mesh.root_namespace != "istio-system":
        own["namespace"] = spec.mesh.root_namespace
        own["values"]["global"]["istioNamespace"] = spec.mesh.root_namespace
    if spec.mesh.trust_domain != "cluster.local":
        own["meshConfig"] = {"trustDomain": spec.mesh.trust_domain}
    return own


def _alias(name: str, alias: str, revision: str) -> dict[str, Any]:
    # The chart has no value for it that istioctl takes: values.pilot.extraContainerArgs is typed as objects there.
    where = "spec.template.spec.containers.[name:discovery].args.[-1]"
    patch = {"path": where, "value": f"{ALIAS_FLAG}{alias}={name}"}
    return {"kind": "Deployment", "name": deployment(revision), "patches": [patch]}


def deployment(revision: str) -> str:
    """Return the name of istiod's Deployment of a revision, which is also what a Helm release of it is called."""
    return f"istiod-{revision}" if revision not in ("", "default") else "istiod"


def alias_of(deployment: Mapping[str, Any], name: str) -> str:
    """Return the id that an istiod's Deployment accepts besides its own, or an empty text."""
    containers = deployment["spec"]["template"]["spec"]["containers"]
    flags = [arg for container in containers for arg in container.get("args", []) if arg.startswith(ALIAS_FLAG)]
    pairs = [pair.partition("=") for flag in flags for pair in flag.removeprefix(ALIAS_FLAG).split(",")]
    return next((alias for alias, _, target in pairs if target == name), "")


def overlay(spec: MeshSpec) -> dict[str, Any]:
    """Return the `spec` of the mesh file's overlay, or nothing where it names none.

    Raises:
        InputError: it is missing or no IstioOperator.
    """
    if not spec.istio.overlay:
        return {}
    path = Path(spec.istio.overlay)
    expected = "istio.overlay: expected an IstioOperator in YAML"
    try:
        document = read_yaml(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        problem = getattr(error, "strerror", None) or getattr(error, "problem", None) or "it is no text"
        raise InputError(f"{expected}; {problem}", where=path.name) from None
    if not isinstance(document, dict) or document.get("kind") != "IstioOperator":
        kind = document.get("kind") if isinstance(document, dict) else type(document).__name__
        raise InputError(f"{expected}, got {kind}", where=path.name)
    inner = {} if document.get("spec") is None else document["spec"]
    if not isinstance(inner, dict):
        raise InputError(f"{expected}, whose spec is a mapping, got a {type(inner).__name__}", where=path.name)
    return inner


def wrap(spec: Mapping[str, Any], name: str = CONTROL_PLANE) -> Operator:
    """Return an IstioOperator with this spec, and always with a name.

    One without a name removes all gateways that others of the same revision installed (istio/istio#29634).
    """
    metadata = {"name": name}
    return {
        "apiVersion": "install.istio.io/v1alpha1",
        "kind": "IstioOperator",
        "metadata": metadata,
        "spec": dict(spec),
    }


def merge(lower: Mapping[str, Any], upper: Mapping[str, Any]) -> dict[str, Any]:
    """Return two specs merged as istioctl merges its files: mappings deeply, `overlays` added, the rest replaced."""
    merged = copy.deepcopy(dict(lower))
    for key, value in upper.items():
        before = merged.get(key)
        if isinstance(before, dict) and isinstance(value, dict):
            merged[key] = merge(before, value)
        elif key == "overlays" and isinstance(before, list):
            merged[key] = [*before, *value]
        else:
            merged[key] = copy.deepcopy(value)
    return merged


def version() -> str:
    """Return the version of the istioctl that would install.

    Raises:
        UnreachableError: there is none, or it cannot say.
    """
    try:
        printed = json.loads(_run(["version", "--remote=false", "-o", "json"], timeout=30))
        return str(printed["clientVersion"]["version"])
    except (ValueError, KeyError, TypeError):
        raise UnreachableError("`istioctl version` printed no version", remedy="is it the right program?") from None


@dataclass(frozen=True)
class Tool:
    """The istioctl of this machine: its version, or why there is none."""

    version: str = ""
    missing: str = ""


def tool() -> Tool:
    """Return the istioctl that would install."""
    try:
        return Tool(version())
    except MeshkitError as error:
        return Tool(missing=error.message)


def render(document: Operator) -> list[dict[str, Any]]:
    """Return the objects that istioctl would apply for an IstioOperator, namespaces filled in.

    Raises:
        UnreachableError: there is no istioctl.
        ChangeError: it refuses the IstioOperator.
    """
    text = _run(["manifest", "generate", "-f", "-"], stdin=json.dumps(document), timeout=60)
    return [obj for obj in yaml.safe_load_all(text) if obj]


def default_tag(
    document: Operator, rendered: Sequence[Mapping[str, Any]], tags: Iterable[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Return the objects of the tag `default` that istioctl makes, or writes again, besides what it renders.

    It does so where there is no such tag yet, and wherever a control plane without a revision is installed. The
    validating webhook is given by its name and labels only.

    Args:
        document: the IstioOperator.
        rendered: what `render` returned for it.
        tags: the objects of tags that the cluster has.

    Source: operator/pkg/webhook/webhook.go (WebhooksToDeploy, detectIfTagWebhookIsNeeded); istioctl/pkg/tag.

    Raises:
        UnreachableError: there is no istioctl.
        ChangeError: it refuses.
    """
    spec = document["spec"]
    values = spec.get("values") or {}
    settings = values.get("global") or {}
    revision = spec.get("revision") or values.get("revision") or ""
    hook, wanted = "MutatingWebhookConfiguration", {TAG: "default", "app": "sidecar-injector"}
    exists = any(t["kind"] == hook and (t["metadata"].get("labels") or {}).items() >= wanted.items() for t in tags)
    planes = any(obj["kind"] == hook for obj in rendered)
    if str(settings.get(UNTAGGED, False)).lower() == "true" or not planes or (exists and revision):
        return []
    namespace = settings.get("istioNamespace") or "istio-system"
    own = {"profile": "empty", "components": {"pilot": {"enabled": True}}, "namespace": namespace}
    more = {"values": {"revisionTags": ["default"], "global": {"istioNamespace": namespace}}}
    asked = render(wrap({**own, **more, **({"revision": revision} if revision else {})}))
    validator = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": VALIDATOR, "labels": {REVISION: revision or "default"}},
    }
    return [*(obj for obj in asked if (obj["metadata"].get("labels") or {}).get(TAG)), validator]


def is_injector(webhooks: Mapping[str, Any]) -> bool:
    """Tell whether a webhook configuration is a control plane's own for injection, and not that of a tag."""
    labels = webhooks["metadata"].get("labels") or {}
    return labels.get("app") == "sidecar-injector" and TAG not in labels


def owned_by(document: Operator) -> str:
    """Return the labels, as `kubectl -l` takes them, of what istioctl takes for an IstioOperator's, and may remove.

    Source: operator/pkg/install/install.go, `prune` and `getOwnerLabels`.

    Raises:
        UnreachableError: there is no istioctl; what another version installed, it leaves.
    """
    spec = document["spec"]
    revision = spec.get("revision") or (spec.get("values") or {}).get("revision") or "default"
    return (
        f"{OWNER}={document['metadata']['name']},{OWNER}-not-pruned!=true,istio.io/rev={revision},"
        f"operator.istio.io/managed=Reconcile,operator.istio.io/version={version()},"
        f"operator.istio.io/component in ({_COMPONENTS})"
    )


def install(entry: ClusterSpec, document: Operator, say: Callable[[str], None]) -> None:
    """Install an IstioOperator in a cluster and wait until it is ready, as `istioctl install -y` does.

    Raises:
        UnreachableError: there is no istioctl.
        ChangeError: it failed; its last words are in the message.
        InputError: it could not act as the kubeconfig's user does.
    """
    context = ["--context", entry.context, *(["--kubeconfig", entry.kubeconfig] if entry.kubeconfig else [])]
    context += _acts_as(entry)
    wait = ["--readiness-timeout", f"{INSTALL_TIMEOUT - 30:.0f}s"]
    _run(["install", "-y", "-f", "-", *wait, *context], json.dumps(document), timeout=INSTALL_TIMEOUT, say=say)


def _acts_as(entry: ClusterSpec) -> list[str]:
    """Return the flags for the user that a kubeconfig impersonates: istioctl takes it from flags only.

    Source: istioctl/pkg/cli/context.go, newKubeClientWithRevision, which replaces what the kubeconfig says.
    """
    files = kubeconfig.files(entry.kubeconfig)
    flags = {"Impersonate-User": "--as", "Impersonate-Uid": "--as-uid", "Impersonate-Group": "--as-group"}
    found = kubeconfig.access(files, entry.context).identity.impersonated
    if extra := sorted({header for header, _ in found} - flags.keys()):
        raise InputError(f"istioctl cannot act as the user of context {entry.context}: it has no flag for"
                         f" as-user-extra ({', '.join(extra)})", where=os.pathsep.join(files),
                         remedy="name a user without as-user-extra")  # fmt: skip
    return [f"{flags[header]}={value}" for header, value in found]


def _run(words: Sequence[str], stdin: str = "", *, timeout: float, say: Callable[[str], None] = lambda _: None) -> str:
    program = paths.program("istioctl")
    if program is None:
        raise UnreachableError(
            "there is no istioctl on the PATH",
            remedy="install the one of the mesh's version; on the lab: meshkit lab build",
        )
    what = f"`istioctl {' '.join(words[:2]) if words[0] == 'manifest' else words[0]}`"
    process = subprocess.Popen(
        [program, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "NO_COLOR": "1"},
    )  # fmt: skip
    begun, pending = time.monotonic(), stdin or None
    while True:
        try:
            out, err = process.communicate(pending, timeout=5)
        except subprocess.TimeoutExpired:
            pending = None
            took = time.monotonic() - begun
            if took > timeout:
                process.kill()
                process.communicate()
                raise ChangeError(f"{what} was not done after {timeout:.0f} s", remedy="look at its pods") from None
            say(f"{what} … {took:.0f} s")
        except BaseException:
            process.terminate()
            raise
        else:
            break
    if process.returncode:
        said = [line.strip() for line in (err or out).splitlines() if any(c.isalnum() for c in line)]
        raise ChangeError(f"{what} failed: {' | '.join(said[-3:])[-600:]}")
    return out
