"""Taking a change back: what stood before it is put back, what it made is removed, what others did since is kept."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from meshkit.cluster import FIELD_MANAGER, NotFoundError
from meshkit.diffs import Object, bare, identify, managers, owned, qualified, unified, without
from meshkit.errors import ConflictError
from meshkit.istio import installer
from meshkit.waiting import rolled_out, wait_for

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from meshkit.cluster import Cluster
    from meshkit.journal import Entry

WORKLOADS = ("Deployment", "StatefulSet", "DaemonSet")
_MACHINERY = frozenset(
    {FIELD_MANAGER, *installer.RUNTIME_MANAGERS, "kube-controller-manager", "kube-apiserver", "kubelet"}
)
_MADE_BY_ISTIOD = ("istio-ca-root-cert", "istio-ca-crl")
# Webhooks go first, so that a control plane on its way out refuses nothing; definitions last, objects hang on them.
_LEAVING = ("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration", "HorizontalPodAutoscaler", "Deployment")
_LAST = ("CustomResourceDefinition",)


def find(cluster: Cluster, manifest: Mapping[str, Any]) -> Object | None:
    """Return the live object that a manifest names, or None."""
    return cluster.find(qualified(manifest), manifest["metadata"].get("namespace"), manifest["metadata"]["name"])


def installed(cluster: Cluster, manifest: Object) -> tuple[Object | None, str]:
    """Return the live object of an installer's manifest, and how a dry run as istioctl would change it.

    What istiod and istioctl set while they run, and the labels that istioctl adds, count as no difference.

    Raises:
        ConflictError: somebody else owns fields of it.
    """
    live = find(cluster, manifest)
    asked = copy.deepcopy(manifest)
    if live is None:
        return None, unified(None, cluster.apply(asked, dry_run=True, manager=installer.MANAGER))
    labels = live["metadata"].get("labels") or {}
    added = {key: value for key, value in labels.items() if key.startswith(installer.INSTALL_LABELS)}
    asked["metadata"]["labels"] = {**(asked["metadata"].get("labels") or {}), **added}
    return live, unified(live, apply_as_istioctl(cluster, asked, dry_run=True))


def apply_as_istioctl(cluster: Cluster, manifest: Object, *, dry_run: bool = False) -> Object:
    """Apply as istioctl's field manager, but for the fields that Istio itself owns at run time.

    Raises:
        ConflictError: somebody else owns fields of it.
    """
    try:
        return cluster.apply(manifest, dry_run, manager=installer.MANAGER)
    except ConflictError as error:
        if any(manager not in installer.RUNTIME_MANAGERS for manager, _ in error.conflicts):
            raise
        rest = without(manifest, [field for _, field in error.conflicts])
        return cluster.apply(rest, dry_run, manager=installer.MANAGER)


def undo(
    cluster: Cluster, entry: Entry, private: Mapping[str, Any], *, alias: str = "", keep: Sequence[str] = ()
) -> None:
    """Take a change of the journal back, and wait for what that causes.

    Args:
        cluster: where it was made.
        entry: the change.
        private: what the journal stored with it.
        alias: `other=id`: what istiod is to accept besides its own cluster id, while proxies still claim the other.
        keep: objects, as `identify` calls them, that others use or changed since, and that are left.
    """
    pairs = list(zip(private["manifests"], private["before"], strict=True))
    made = [manifest for manifest, before in pairs if before is None]
    for manifest, before in pairs:
        if before is not None:
            _put_back(cluster, entry, manifest, before, alias)
    if entry.action == "install" and not alias:
        made += [obj for obj in _made_by_install(cluster) if not _known(obj, private)]
    if made and not alias:
        _remove(cluster, made, keep)
        if entry.action == "install" and any(obj["kind"] == "Deployment" for obj in made):
            _remove_istiods_own(cluster)


def _put_back(cluster: Cluster, entry: Entry, manifest: Object, before: Object, alias: str) -> None:
    live = find(cluster, manifest)
    if entry.action == "delete":
        if live is None:
            cluster.apply(bare(before))
        return
    if live is None:
        return  # somebody removed it since; it is not ours to bring back
    if entry.action in ("restart", "scale"):
        cluster.patch(_fields_of(manifest, before))
    else:
        minimal = {key: manifest[key] for key in ("apiVersion", "kind")}
        place = {key: before["metadata"][key] for key in ("name", "namespace") if before["metadata"].get(key)}
        said = owned(before, entry.manager) or {**minimal, "metadata": place}
        if entry.manager == installer.MANAGER:
            apply_as_istioctl(cluster, with_alias(said, alias))
        else:
            cluster.apply(said, manager=entry.manager)
    if manifest["kind"] in WORKLOADS:
        place = manifest["metadata"]
        wait_for(rolled_out(cluster, manifest["kind"], place["namespace"], place["name"]), identify(manifest))


def _fields_of(manifest: Object, before: Object) -> Object:
    """Return a merge patch that gives the manifest's fields the values that they had before; null where none."""

    def values(wanted: Any, had: Any) -> Any:
        if isinstance(wanted, dict):
            return {
                key: values(value, had.get(key) if isinstance(had, dict) else None) for key, value in wanted.items()
            }
        return had

    return {**manifest, "spec": values(manifest["spec"], before["spec"])}


def with_alias(deployment: Object, alias: str) -> Object:
    """Return istiod's Deployment with another cluster id that it accepts; any other object as it is."""
    result = copy.deepcopy(deployment)
    containers = result.get("spec", {}).get("template", {}).get("spec", {}).get("containers", [])
    for container in containers if alias and result["kind"] == "Deployment" else []:
        if container.get("name") == "discovery":
            container["args"] = [*container.get("args", []), f"{installer.ALIAS_FLAG}{alias}"]
    return result


def _made_by_install(cluster: Cluster) -> list[Object]:
    """Return the tag objects, which `istioctl install` makes besides what it renders."""
    found: list[Object] = []
    for kind in ("mutatingwebhookconfigurations", "validatingwebhookconfigurations", "services"):
        found += [
            o
            for o in cluster.get(kind, labels="operator.istio.io/component=Pilot")
            if "istio.io/tag" in o["metadata"].get("labels", {})
        ]
    return found


def _known(obj: Object, private: Mapping[str, Any]) -> bool:
    return any(identify(obj) == name for name in private.get("tags", []))


def _remove(cluster: Cluster, made: Sequence[Object], keep: Sequence[str]) -> None:
    def rank(obj: Object) -> int:
        return _LEAVING.index(obj["kind"]) if obj["kind"] in _LEAVING else 99 if obj["kind"] in _LAST else 50

    leaving = [obj for obj in made if identify(obj) not in keep]
    for obj in sorted(leaving, key=rank):
        try:
            cluster.delete(obj)
        except NotFoundError:
            continue
    for obj in leaving:
        wait_for(lambda obj=obj: "it is still there" if find(cluster, obj) else "", identify(obj))  # type: ignore[misc]


def _remove_istiods_own(cluster: Cluster) -> None:
    if cluster.get("deployments", labels="app=istiod"):
        return
    wait_for(lambda: "istiod is still going" if cluster.get("pods", labels="app=istiod") else "", "istiod")
    for name in _MADE_BY_ISTIOD:
        for config_map in cluster.get("configmaps", fields=f"metadata.name={name}"):
            cluster.delete(config_map)


def altered(live: Object, after: Object | None, manager: str) -> list[str]:
    """Return who changed an object since we did; of one that was never noted as done, who else has a hand in it."""
    since = managers(live) - (managers(after) if after else set()) - _MACHINERY
    if after and owned(live, manager) != owned(after, manager):
        since.add(manager)
    return sorted(since)
