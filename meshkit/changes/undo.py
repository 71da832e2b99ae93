"""Undo of one change: restore the former state, remove created objects, keep later changes of other clients."""

from __future__ import annotations

import copy
import functools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from meshkit.changes.journal import Entry, Journal
from meshkit.errors import ChangeError, ConflictError, UnreachableError
from meshkit.istio.control_plane import istioctl
from meshkit.istio.control_plane.istio_objects import portable
from meshkit.istio.multicluster import remote_secrets
from meshkit.kube.cluster import FIELD_MANAGER, Cluster
from meshkit.kube.manifests import Object, bare, identify, managers, owned, qualified, unified, without
from meshkit.kube.rollout import rolled_out
from meshkit.kube.transport import NotFoundError
from meshkit.kube.wait import wait_for

PATCHED = ("restart", "scale", "patch")
WORKLOADS = ("Deployment", "StatefulSet", "DaemonSet")
_WHO = ("apiVersion", "kind", "metadata", "type")
_OURS = frozenset({FIELD_MANAGER, *istioctl.RUNTIME_MANAGERS})
# By their full names: users' tools have similar ones (node-fetch is Lens; kapp-controller deploys users' manifests).
# An unknown manager counts as another client: then undo asks for consent, and removes nothing wrongly.
_CONTROLLERS = re.compile(
    r"kube-(apiserver|controller-manager|scheduler)|kubelet|k3s|kubelite|([a-z]+-)*cloud-controller-manager"
    r"|openshift-controller-manager|cluster-policy-controller|admissionsenforcer|istio\.io/[a-z-]+-controller"
)
_MADE_BY_ISTIOD = ("istio-ca-root-cert", "istio-ca-crl")
_NO_STATE = ("metrics.k8s.io", "events.k8s.io")
# Webhooks are removed first, so that a control plane that is being removed refuses nothing; namespaces and custom
# resource definitions are removed last.
_FIRST = ("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration", "HorizontalPodAutoscaler", "Deployment")
_LAST = ("CustomResourceDefinition", "Namespace")


def find(cluster: Cluster, manifest: Mapping[str, Any]) -> Object | None:
    """Return the live object that a manifest names, or None."""
    return cluster.find(qualified(manifest), manifest["metadata"].get("namespace"), manifest["metadata"]["name"])


def installed(cluster: Cluster, manifest: Object) -> tuple[Object | None, str]:
    """Return the live object of an installer's manifest, and how a dry run as istioctl would change it.

    Fields that istiod and istioctl set at run time, and the labels that istioctl adds, are not differences.

    Raises:
        ConflictError: another field manager owns fields of it.
    """
    live = find(cluster, manifest)
    desired = copy.deepcopy(manifest)
    if live is None:
        return None, unified(None, cluster.apply(desired, dry_run=True, manager=istioctl.MANAGER))
    labels = live["metadata"].get("labels") or {}
    added = {key: value for key, value in labels.items() if key.startswith(istioctl.INSTALL_LABELS)}
    desired["metadata"]["labels"] = {**(desired["metadata"].get("labels") or {}), **added}
    return live, unified(live, unless_the_same(cluster, live, desired, apply_as_istioctl))


def unless_the_same(
    cluster: Cluster, live: Object | None, manifest: Object, apply: Callable[..., Object] = Cluster.apply
) -> Object:
    """Return what the dry run of an apply makes of an object; the live one where others own the same already.

    The server reports a conflict also where values differ in their spelling only, as 2000m and 2 do.

    Raises:
        ConflictError: others own other values.
    """
    try:
        return apply(cluster, manifest, dry_run=True)
    except ConflictError:
        if live is None or unified(live, cluster.rehearse(manifest)):
            raise
        return live


def apply_as_istioctl(cluster: Cluster, manifest: Object, *, dry_run: bool = False) -> Object:
    """Apply as istioctl's field manager, except for the fields that Istio itself owns at run time.

    Raises:
        ConflictError: another field manager owns fields of it.
    """
    try:
        return cluster.apply(manifest, dry_run, manager=istioctl.MANAGER)
    except ConflictError as error:
        if any(manager not in istioctl.RUNTIME_MANAGERS for manager, _ in error.conflicts):
            raise
        rest = without(manifest, [name for _, name in error.conflicts])
        return cluster.apply(rest, dry_run, manager=istioctl.MANAGER)


def pruned(cluster: Cluster, labels: str, rendered: Iterable[Object]) -> list[str]:
    """Return the objects, as `identify` calls them, that istioctl would remove: see `istioctl.owned_by`."""
    known, found = {identify(manifest) for manifest in rendered}, []
    for kind in istioctl.PRUNED:
        try:
            found += [identify(obj) for obj in cluster.get(kind, labels=labels)]
        except NotFoundError:  # not served before Istio is installed
            continue
    return [name for name in found if name not in known]


@dataclass(frozen=True)
class UndoStep:
    """One object of a change that is undone: removed, restored, patched or recreated."""

    action: str
    manifest: Object = field(repr=False)
    live: Object | None = field(repr=False)
    manager: str = FIELD_MANAGER

    def preview(self, cluster: Cluster) -> str:
        """Return the diff of the server's dry run; for a removal only the object's name."""
        name = identify(self.manifest)
        if self.action == "remove":
            return f"- {name}"
        diff = unified(self.live, self._write(cluster, dry_run=True))
        return f"# {name}\n{diff}" if diff else ""

    def do(self, cluster: Cluster) -> None:
        """Do it; `undo` waits for removals and rollouts."""
        if self.action == "remove":
            try:
                cluster.delete(self.manifest)
            except NotFoundError:  # its kind was removed, and the object with it
                return
        else:
            self._write(cluster, dry_run=False)

    def _write(self, cluster: Cluster, *, dry_run: bool) -> Object:
        if self.action == "patch":
            return cluster.patch(self.manifest, dry_run=dry_run)
        try:
            return cluster.apply(self.manifest, dry_run, manager=self.manager)
        except ConflictError as error:  # fields that other managers own by now are left to them
            theirs = [name for owner, name in error.conflicts if owner != self.manager]
            rest = without(self.manifest, theirs)
            return cluster.apply(rest, dry_run, manager=self.manager)


def steps(
    cluster: Cluster, entry: Entry, private: Mapping[str, Any], *, alias: str = "", keep: Sequence[str] = ()
) -> list[UndoStep]:
    """Return the steps that undo a change of the journal, in order; empty if nothing is left of it.

    Args:
        cluster: where it was made.
        entry: the change.
        private: what the journal stored with it.
        alias: `other=id`, an alias for istiod's `--clusterAliases` while proxies still send the other cluster id.
        keep: names (of `identify`) of objects that are kept because other clients use or changed them.
    """
    pairs = list(zip(private["manifests"], private["before"], strict=True))
    restored = [
        step for manifest, before in pairs if before and (step := _restoring(cluster, entry, manifest, before, alias))
    ]
    if alias:
        return restored
    made = [manifest for manifest, before in pairs if before is None]
    if entry.action == "install" and any(is_istiod(manifest) or _is_injector(manifest) for manifest in made):
        known = {identify(manifest) for manifest, _ in pairs}
        going = [manifest for manifest in made if identify(manifest) not in keep]
        made += [obj for obj in _generated_objects(cluster, going) if identify(obj) not in known]
    there = [live for manifest in made if (live := find(cluster, manifest)) and identify(live) not in keep]
    return [*restored, *(UndoStep("remove", live, live) for live in sorted(there, key=_rank))]


def _restoring(cluster: Cluster, entry: Entry, manifest: Object, before: Object, alias: str) -> UndoStep | None:
    live = find(cluster, manifest)
    if entry.action not in PATCHED and remote_secrets.replaced(before, live):
        return None  # its credential was replaced since: no istiod can read with the former one
    if entry.action == "delete":
        return None if live else UndoStep("recreate", portable(bare(before)), None)
    if live is None:
        return None  # another client removed it since, so it is not recreated
    if entry.action == "scale" and live["spec"].get("replicas") != manifest["spec"]["replicas"]:
        return None  # another client or an autoscaler set another number since, and may need it
    if entry.action in PATCHED:
        step = UndoStep("patch", _fields_of(manifest, before), live)
    else:
        place = {key: before["metadata"][key] for key in ("name", "namespace") if before["metadata"].get(key)}
        nothing: Object = {"apiVersion": manifest["apiVersion"], "kind": manifest["kind"], "metadata": place}
        former = owned(before, entry.manager) or nothing
        step = UndoStep("restore", with_alias(former, alias), live, entry.manager)
    return step if step.preview(cluster) else None


def _fields_of(manifest: Object, before: Object) -> Object:
    """Return a merge patch that restores the former values of a manifest's fields; null where a field was unset."""

    def values(wanted: Any, had: Any) -> Any:
        if isinstance(wanted, dict):
            known = had if isinstance(had, dict) else {}
            return {key: values(value, known.get(key)) for key, value in wanted.items()}
        return had

    rest = {key: values(value, before.get(key)) for key, value in manifest.items() if key not in _WHO}
    place, had = manifest["metadata"], before["metadata"]
    notes = {key: values(place[key], had.get(key)) for key in ("labels", "annotations") if key in place}
    return {**manifest, **rest, "metadata": {**place, **notes}}


def with_alias(manifest: Object, alias: str) -> Object:
    """Return istiod's Deployment with a cluster alias added; any other object unchanged."""
    if not alias or not is_istiod(manifest):
        return manifest
    result = copy.deepcopy(manifest)
    for container in result["spec"]["template"]["spec"]["containers"]:
        if container.get("name") == "discovery":
            container["args"] = [*container.get("args", []), f"{istioctl.ALIAS_FLAG}{alias}"]
    return result


def is_istiod(manifest: Object) -> bool:
    """Tell whether an object is the Deployment of a control plane, of any revision."""
    return manifest["kind"] == "Deployment" and str(manifest["metadata"]["name"]).startswith("istiod")


def _is_injector(manifest: Object) -> bool:
    """Tell whether an object is an injection webhook: a remote cluster has that of a control plane, and no istiod."""
    return manifest["kind"] == "MutatingWebhookConfiguration" and istioctl.is_injector(manifest)


def installed_control_plane(book: Journal, name: str) -> bool:
    """Tell whether a run installed the control plane of a cluster."""
    private = (book.private(e) for e in book.entries if e.cluster == name and e.action == "install")
    pairs = (pair for known in private for pair in zip(known["manifests"], known["before"], strict=True))
    return any(is_istiod(made) and before is None for made, before in pairs)


def tags(cluster: Cluster) -> list[Object]:
    """Return the objects of revision tags, which istioctl creates in addition to the rendered ones."""
    kinds = ("mutatingwebhookconfigurations", "validatingwebhookconfigurations", "services")
    return [obj for kind in kinds for obj in cluster.get(kind, labels="istio.io/tag")]


def _generated_objects(cluster: Cluster, going: Iterable[Object]) -> list[Object]:
    """Return the objects of removed control planes that istioctl does not render: tags, and istiod's own ConfigMaps.

    Where a control plane of another revision remains, or webhooks of one elsewhere, these are only the tags of the
    removed revisions.
    """
    found, planes = tags(cluster), {identify(obj): obj for obj in going if is_istiod(obj) or _is_injector(obj)}
    left = cluster.get("deployments.v1.apps", labels="app=istiod")
    left += [obj for obj in cluster.get("mutatingwebhookconfigurations") if _is_injector(obj)]
    if any(identify(obj) not in planes for obj in left):
        revisions = {_revision(obj) for obj in planes.values()}
        return [obj for obj in found if _revision(obj) in revisions]
    for name in _MADE_BY_ISTIOD:
        found += cluster.get("configmaps", fields=f"metadata.name={name}")
    return found


def _revision(obj: Object) -> str:
    return str((obj["metadata"].get("labels") or {}).get("istio.io/rev", ""))


def _rank(obj: Object) -> int:
    kind = obj["kind"]
    if obj["metadata"]["name"] in _MADE_BY_ISTIOD:
        return 90  # istiod recreates them while it runs
    return _FIRST.index(kind) if kind in _FIRST else 100 + _LAST.index(kind) if kind in _LAST else 50


def undo(cluster: Cluster, planned: Iterable[UndoStep], objection: Callable[[Object], str] = lambda _: "") -> None:
    """Do the steps of an undo, and wait for their effect.

    `objection` is called right before an object is removed, and returns why it must be kept, or an empty text.

    Raises:
        ChangeError: an object must be kept.
    """
    removed: list[Object] = []
    for step in planned:
        if step.manifest["metadata"]["name"] in _MADE_BY_ISTIOD:
            wait_for(
                lambda: "its pods are still terminating" if cluster.get("pods", labels="app=istiod") else "", "istiod"
            )
        if step.action == "remove" and (why := objection(step.manifest)):
            message = f"{identify(step.manifest)} {why}, since the undo was planned"
            raise ChangeError(message, where=cluster.where, remedy="run the undo again, which makes a new plan")
        step.do(cluster)
        place = step.manifest["metadata"]
        if step.action == "remove":
            removed.append(step.manifest)
        elif step.manifest["kind"] in WORKLOADS:
            wait = rolled_out(cluster, step.manifest["kind"], place["namespace"], place["name"])
            wait_for(wait, identify(step.manifest))
    for obj in removed:
        wait_for(lambda obj=obj: "it still exists" if find(cluster, obj) else "", identify(obj))  # type: ignore[misc]


def foreign_managers(obj: Object) -> set[str]:
    """Return the field managers of an object, without meshkit, Istio and the cluster's own controllers.

    Source: metadata.managedFields as seen on kubeadm, k3s, MicroK8s, OpenShift, AKS, and with cloud load balancers;
    istio.io/gateway-controller of pilot/pkg/features.
    """
    return keepers(obj) - _OURS


def keepers(obj: Object) -> set[str]:
    """Return the field managers of an object without meshkit and the cluster's own controllers: who keeps it."""
    return {manager for manager in managers(obj) - {FIELD_MANAGER} if not _CONTROLLERS.fullmatch(manager)}


def _foreign(obj: Object) -> bool:
    """Tell whether an object may belong to another client; one without field managers may."""
    given = (obj["kind"], obj["metadata"]["name"]) == ("ServiceAccount", "default")
    return bool(foreign_managers(obj)) or not (managers(obj) or given)


def removal_guard(cluster: Cluster, book: Journal, entry: Entry) -> Callable[[Object], str]:
    """Return a function that says why an object created by a change must not be removed now, or an empty text."""
    private = book.private(entry)
    after = private.get("after") or [None] * len(private["manifests"])
    made = zip(private["manifests"], private["before"], after, strict=True)
    known = {identify(manifest): then for manifest, before, then in made if before is None}
    own = [other for other in book.entries if other.stands and other.cluster == entry.cluster]
    ours = functools.cache(lambda: [name for other in own for name in names(book, other)])

    def objection(obj: Object) -> str:
        live = find(cluster, obj) if identify(obj) in known else None
        if live is None:
            return ""
        return used_by_others(cluster, live, known[identify(obj)], ours() if live["kind"] in _LAST else ())

    return objection


def names(book: Journal, entry: Entry) -> list[str]:
    """Return the names (of `identify`) of the objects that a change created."""
    private = book.private(entry)
    pairs = zip(private["manifests"], private["before"], strict=True)
    return [identify(manifest) for manifest, before in pairs if before is None]


def used_by_others(cluster: Cluster, live: Object, after: Object | None, ours: Sequence[str]) -> str:
    """Return why an object that we created should not be removed without consent, or an empty text.

    Args:
        cluster: where it is.
        live: the object.
        after: the object right after we created it, or None if that was not recorded.
        ours: names (of `identify`) of objects that the same journal created.
    """
    since = foreign_managers(live) - (managers(after) if after else set())
    if since:
        return f"changed since by {', '.join(sorted(since))}"
    if live["kind"] == "CustomResourceDefinition":
        spec = live["spec"]
        contents = _listed(cluster, f"{spec['names']['plural']}.{spec['group']}")
    elif live["kind"] == "Namespace":
        try:
            contents = list(_contents(cluster, live["metadata"]["name"]))
        except UnreachableError as error:
            return f"may contain objects that cannot be read: {error.message}"
    else:
        return ""
    foreign = [identify(o) for o in contents if identify(o) not in ours and _foreign(o)]
    shown = f"{', '.join(foreign[:3])}{' and more' if len(foreign) > 3 else ''}"
    return f"contains {shown} of other clients" if foreign else ""


def _contents(cluster: Cluster, namespace: str) -> Iterable[Object]:
    for kind in cluster.kinds(lambda group: group not in _NO_STATE, namespaced=True):
        for obj in _listed(cluster, kind, namespace):
            # Owned objects are removed with their owner.
            if not obj["metadata"].get("ownerReferences") and obj["kind"] != "Event":
                yield obj


def _listed(cluster: Cluster, kind: str, namespace: str | None = None) -> list[Object]:
    try:
        return cluster.get(kind, namespace)
    except NotFoundError:  # its definition was removed just now, and all of its objects before it
        return []
