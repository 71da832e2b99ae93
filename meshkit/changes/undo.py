"""Taking a change back: what stood before it is put back, what it made is removed, what others did since is kept."""

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
# By their whole names: people's tools are called so, too (node-fetch is Lens; kapp-controller deploys what they wrote).
# Who is not known here is taken for somebody, which costs a question, and no object.
_MACHINES = re.compile(
    r"kube-(apiserver|controller-manager|scheduler)|kubelet|k3s|kubelite|([a-z]+-)*cloud-controller-manager"
    r"|openshift-controller-manager|cluster-policy-controller|admissionsenforcer|istio\.io/[a-z-]+-controller"
)
_MADE_BY_ISTIOD = ("istio-ca-root-cert", "istio-ca-crl")
_NO_STATE = ("metrics.k8s.io", "events.k8s.io")
# Webhooks go first, so that a control plane on its way out refuses nothing; namespaces and definitions go last.
_LEAVING = ("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration", "HorizontalPodAutoscaler", "Deployment")
_LAST = ("CustomResourceDefinition", "Namespace")


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
        return None, unified(None, cluster.apply(asked, dry_run=True, manager=istioctl.MANAGER))
    labels = live["metadata"].get("labels") or {}
    added = {key: value for key, value in labels.items() if key.startswith(istioctl.INSTALL_LABELS)}
    asked["metadata"]["labels"] = {**(asked["metadata"].get("labels") or {}), **added}
    return live, unified(live, apply_as_istioctl(cluster, asked, dry_run=True))


def apply_as_istioctl(cluster: Cluster, manifest: Object, *, dry_run: bool = False) -> Object:
    """Apply as istioctl's field manager, but for the fields that Istio itself owns at run time.

    Raises:
        ConflictError: somebody else owns fields of it.
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
        except NotFoundError:  # not served before Istio is there
            continue
    return [name for name in found if name not in known]


@dataclass(frozen=True)
class UndoStep:
    """One object of a change that is taken back: removed, put back, patched, or made again."""

    action: str
    manifest: Object = field(repr=False)
    live: Object | None = field(repr=False)
    manager: str = FIELD_MANAGER

    def preview(self, cluster: Cluster) -> str:
        """Return the diff that the server's dry run gives; of what is removed only its name."""
        name = identify(self.manifest)
        if self.action == "remove":
            return f"- {name}"
        diff = unified(self.live, self._write(cluster, dry_run=True))
        return f"# {name}\n{diff}" if diff else ""

    def do(self, cluster: Cluster) -> None:
        """Do it; removals and rollouts are waited for by `undo`."""
        if self.action == "remove":
            try:
                cluster.delete(self.manifest)
            except NotFoundError:  # its kind is gone, and it with it
                return
        else:
            self._write(cluster, dry_run=False)

    def _write(self, cluster: Cluster, *, dry_run: bool) -> Object:
        if self.action == "patch":
            return cluster.patch(self.manifest, dry_run=dry_run)
        try:
            return cluster.apply(self.manifest, dry_run, manager=self.manager)
        except ConflictError as error:  # what others took over since is theirs
            theirs = [name for owner, name in error.conflicts if owner != self.manager]
            rest = without(self.manifest, theirs)
            return cluster.apply(rest, dry_run, manager=self.manager)


def steps(
    cluster: Cluster, entry: Entry, private: Mapping[str, Any], *, alias: str = "", keep: Sequence[str] = ()
) -> list[UndoStep]:
    """Return what is to be done to take a change of the journal back, in order; empty if nothing of it is left.

    Args:
        cluster: where it was made.
        entry: the change.
        private: what the journal stored with it.
        alias: `other=id`: what istiod is to accept besides its own cluster id, while proxies still claim the other.
        keep: objects, as `identify` calls them, that others use or changed since, and that are left.
    """
    pairs = list(zip(private["manifests"], private["before"], strict=True))
    back = [step for manifest, before in pairs if before and (step := _back(cluster, entry, manifest, before, alias))]
    if alias:
        return back
    made = [manifest for manifest, before in pairs if before is None]
    if entry.action == "install" and any(is_istiod(manifest) for manifest in made):
        known = {identify(manifest) for manifest, _ in pairs}
        going = [manifest for manifest in made if identify(manifest) not in keep]
        made += [obj for obj in _generated_objects(cluster, going) if identify(obj) not in known]
    there = [live for manifest in made if (live := find(cluster, manifest)) and identify(live) not in keep]
    return [*back, *(UndoStep("remove", live, live) for live in sorted(there, key=_rank))]


def _back(cluster: Cluster, entry: Entry, manifest: Object, before: Object, alias: str) -> UndoStep | None:
    live = find(cluster, manifest)
    if entry.action not in PATCHED and remote_secrets.replaced(before, live):
        return None  # who is given it reads nothing any more
    if entry.action == "delete":
        return None if live else UndoStep("make again", portable(bare(before)), None)
    if live is None:
        return None  # somebody removed it since; it is not ours to bring back
    if entry.action == "scale" and live["spec"].get("replicas") != manifest["spec"]["replicas"]:
        return None  # somebody, or an autoscaler, set another number since, and may need it
    if entry.action in PATCHED:
        step = UndoStep("patch", _fields_of(manifest, before), live)
    else:
        place = {key: before["metadata"][key] for key in ("name", "namespace") if before["metadata"].get(key)}
        nothing: Object = {"apiVersion": manifest["apiVersion"], "kind": manifest["kind"], "metadata": place}
        said = owned(before, entry.manager) or nothing
        step = UndoStep("put back", with_alias(said, alias), live, entry.manager)
    return step if step.preview(cluster) else None


def _fields_of(manifest: Object, before: Object) -> Object:
    """Return a merge patch that gives the manifest's fields the values that they had before; null where none."""

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
    """Return istiod's Deployment with another cluster id that it accepts; any other object as it is."""
    if not alias or not is_istiod(manifest):
        return manifest
    result = copy.deepcopy(manifest)
    for container in result["spec"]["template"]["spec"]["containers"]:
        if container.get("name") == "discovery":
            container["args"] = [*container.get("args", []), f"{istioctl.ALIAS_FLAG}{alias}"]
    return result


def is_istiod(manifest: Object) -> bool:
    """Tell whether an object is the Deployment of a control plane, of whatever revision."""
    return manifest["kind"] == "Deployment" and str(manifest["metadata"]["name"]).startswith("istiod")


def tags(cluster: Cluster) -> list[Object]:
    """Return the objects of a control plane's tag, which istioctl makes besides what it renders."""
    kinds = ("mutatingwebhookconfigurations", "validatingwebhookconfigurations", "services")
    return [obj for kind in kinds for obj in cluster.get(kind, labels="istio.io/tag")]


def _generated_objects(cluster: Cluster, going: Iterable[Object]) -> list[Object]:
    """Return what goes with control planes besides what istioctl renders: tags, and what istiod writes itself.

    Where a control plane of another revision stays, these are only the tags that lead to one that goes.
    """
    found, planes = tags(cluster), {identify(obj): obj for obj in going if is_istiod(obj)}
    if any(identify(obj) not in planes for obj in cluster.get("deployments.v1.apps", labels="app=istiod")):
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
        return 90  # istiod would make them again
    return _LEAVING.index(kind) if kind in _LEAVING else 100 + _LAST.index(kind) if kind in _LAST else 50


def undo(cluster: Cluster, planned: Iterable[UndoStep], objection: Callable[[Object], str] = lambda _: "") -> None:
    """Do the steps of an undo, and wait for what they cause.

    `objection` says of an object right before it is removed why it should stay, or nothing.

    Raises:
        ChangeError: one should stay.
    """
    removed: list[Object] = []
    for step in planned:
        if step.manifest["metadata"]["name"] in _MADE_BY_ISTIOD:
            wait_for(lambda: "it is still going" if cluster.get("pods", labels="app=istiod") else "", "istiod")
        if step.action == "remove" and (why := objection(step.manifest)):
            told = f"{identify(step.manifest)} {why}, since the undo was planned"
            raise ChangeError(told, where=cluster.where, remedy="undo again: it plans anew")
        step.do(cluster)
        place = step.manifest["metadata"]
        if step.action == "remove":
            removed.append(step.manifest)
        elif step.manifest["kind"] in WORKLOADS:
            wait = rolled_out(cluster, step.manifest["kind"], place["namespace"], place["name"])
            wait_for(wait, identify(step.manifest))
    for obj in removed:
        wait_for(lambda obj=obj: "it is still there" if find(cluster, obj) else "", identify(obj))  # type: ignore[misc]


def foreign_managers(obj: Object) -> set[str]:
    """Return who has written to an object, but for meshkit, Istio and the cluster's own controllers.

    Source: metadata.managedFields, as met on kubeadm, k3s, MicroK8s, OpenShift, AKS, and with a cloud's load balancers;
    istio.io/gateway-controller of pilot/pkg/features.
    """
    return {manager for manager in managers(obj) - _OURS if not _MACHINES.fullmatch(manager)}


def _foreign(obj: Object) -> bool:
    """Tell whether others made an object; what nobody is known to have written to may be anyone's."""
    given = (obj["kind"], obj["metadata"]["name"]) == ("ServiceAccount", "default")
    return bool(foreign_managers(obj)) or not (managers(obj) or given)


def removal_guard(cluster: Cluster, book: Journal, entry: Entry) -> Callable[[Object], str]:
    """Return what says why others would miss an object that a change made if it were removed now, or an empty text."""
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
    """Return the objects that a change made, as `identify` calls them."""
    private = book.private(entry)
    pairs = zip(private["manifests"], private["before"], strict=True)
    return [identify(manifest) for manifest, before in pairs if before is None]


def used_by_others(cluster: Cluster, live: Object, after: Object | None, ours: Sequence[str]) -> str:
    """Return why an object that we made should not be removed without consent, or an empty text.

    Args:
        cluster: where it is.
        live: the object.
        after: what it was when we had made it, or None if that was never noted.
        ours: objects, as `identify` calls them, that the same journal made.
    """
    since = foreign_managers(live) - (managers(after) if after else set())
    if since:
        return f"changed since by {', '.join(sorted(since))}"
    if live["kind"] == "CustomResourceDefinition":
        spec = live["spec"]
        held = _listed(cluster, f"{spec['names']['plural']}.{spec['group']}")
    elif live["kind"] == "Namespace":
        try:
            held = list(_contents(cluster, live["metadata"]["name"]))
        except UnreachableError as error:
            return f"may hold something that cannot be read: {error.message}"
    else:
        return ""
    foreign = [identify(o) for o in held if identify(o) not in ours and _foreign(o)]
    return f"holds {', '.join(foreign[:3])}{' and more' if len(foreign) > 3 else ''} of others" if foreign else ""


def _contents(cluster: Cluster, namespace: str) -> Iterable[Object]:
    for kind in cluster.kinds(lambda group: group not in _NO_STATE, namespaced=True):
        for obj in _listed(cluster, kind, namespace):
            # What belongs to something else goes with it.
            if not obj["metadata"].get("ownerReferences") and obj["kind"] != "Event":
                yield obj


def _listed(cluster: Cluster, kind: str, namespace: str | None = None) -> list[Object]:
    try:
        return cluster.get(kind, namespace)
    except NotFoundError:  # its definition went just now, and all of its objects before it
        return []
