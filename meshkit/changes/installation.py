"""What `istioctl install` would change, as a plan shows it; istioctl itself shows nothing before it writes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from meshkit.changes import undo
from meshkit.changes.change import Change
from meshkit.errors import ChangeError
from meshkit.istio.control_plane import istioctl
from meshkit.kube.cluster import Cluster
from meshkit.kube.manifests import Object, identify, unified
from meshkit.kube.transport import NotFoundError


def preview(cluster: Cluster, change: Change, operator: Object) -> Callable[[], str]:
    """Return what gives the diff of an installation of an IstioOperator; it notes in `change` what will be written.

    Raises:
        ChangeError: by what is returned: istioctl would also remove objects, which undo could not restore.
    """
    rendered, owned = istioctl.render(operator), istioctl.owned_by(operator)

    def look() -> str:
        known = [_installed(cluster, change, obj) for obj in rendered]
        # The journal records all of them: istioctl also writes its own labels on objects that do not differ.
        tags = undo.tags(cluster)
        change.manifests, change.before = [*rendered, *tags], [*(live for live, _ in known), *tags]
        # New objects are named, not shown: Istio's custom resource definitions alone have 20,000 lines.
        change.diff = "\n".join(
            f"# {identify(obj)}\n{diff}" if live else f"+ {identify(obj)}"
            for obj, (live, diff) in zip(rendered, known, strict=True)
            if diff
        )
        if change.diff:  # a tag alone is no reason to install
            change.diff += _default_tag(cluster, change, operator, rendered)
        if gone := undo.pruned(cluster, owned, rendered):
            message = f"istioctl would remove {', '.join(gone)}, which the IstioOperator no longer names"
            raise ChangeError(message, remedy="name it in istio.overlay or the profile, or remove it yourself first")
        return change.diff

    return look


def _installed(cluster: Cluster, change: Change, manifest: Object) -> tuple[Object | None, str]:
    try:
        return undo.installed(cluster, manifest)
    except NotFoundError as error:
        change.problem = change.problem or f"cannot be checked yet: {error.message}"
        return None, unified(None, manifest)


def _default_tag(cluster: Cluster, change: Change, operator: Object, rendered: Sequence[Object]) -> str:
    """Return how the default tag is shown that istioctl makes or moves besides; what it makes is noted, too."""
    shown = ""
    for obj in istioctl.default_tag(operator, rendered, undo.tags(cluster)):
        live, revision = undo.find(cluster, obj), obj["metadata"]["labels"][istioctl.REVISION]
        was = (live["metadata"].get("labels") or {}).get(istioctl.REVISION, "") if live else ""
        if live is None:
            change.manifests, change.before = [*change.manifests, obj], [*change.before, None]
            shown += f"\n+ {identify(obj)} (istioctl makes the tag default, for revision {revision})"
        elif was != revision:
            if identify(obj) not in map(identify, change.manifests):
                change.manifests, change.before = [*change.manifests, live], [*change.before, live]
            shown += f"\n# {identify(obj)}\n-    {istioctl.REVISION}: {was}\n+    {istioctl.REVISION}: {revision}"
    return shown
