"""The changes of a plan as files, for those who apply by GitOps: DIR/CLUSTER/STAGE/NNN-KIND-NAME.yaml, and ORDER.md.

A file declares a new object, or one that meshkit made. An object that another field manager keeps is named in ORDER.md
with the fields to add, and never taken: two files of one object would undo each other. There is no file of what is no
state, such as a restart. The file of a Secret has references in place of values, as comments: applied, it is nothing.
"""

from __future__ import annotations

import re
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from meshkit.changes.change import REQUEST
from meshkit.changes.planned import PlannedChange
from meshkit.changes.undo import find, installed, keepers
from meshkit.errors import ChangeError, InputError
from meshkit.istio.control_plane import istioctl, requested
from meshkit.kube.cluster import Cluster
from meshkit.kube.manifests import Object, identify
from meshkit.kube.mesh import Mesh
from meshkit.kube.transport import NotFoundError

ORDER: Final = "ORDER.md"
_HEAD: Final = """\
# Changes of mesh {mesh}, in their order

From the plan {run}{failed}. Apply a stage, wait until its workloads are ready, then go on: later stages rely on
earlier ones. Apply on the server's side and never by force, as `kubectl apply --server-side -R -f CLUSTER/STAGE` does.
The next plan finds what was applied, and leaves it out. Temporary changes, such as drills, are not among these.
"""


@dataclass(frozen=True)
class Item:
    """What becomes of a change: the content of its file, if it has one, and the line of ORDER.md with its snippet."""

    change: PlannedChange
    note: str
    content: str = ""
    snippet: str = ""


def require_free(folder: Path) -> None:
    """Require a folder that does not exist yet, or is empty.

    Raises:
        InputError: something is there. Nothing is written over, or put among the files of another plan.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError("expected a new or an empty folder", where=str(folder), remedy="name another one: --write DIR")


def write(folder: Path, mesh: Mesh, run: str, exit_code: int, changes: Iterable[PlannedChange]) -> list[Path]:
    """Write the changes of a plan; return the files, ORDER.md last.

    Raises:
        InputError: the folder is not empty, or cannot be written.
        UnreachableError: a cluster does not answer who keeps an object, or there is no istioctl to render Istio.
    """
    items = [item for change in changes if not change.temporary for item in _items(mesh, change)]
    require_free(folder)
    failed = f", which did not pass (exit code {exit_code}): read its report.html first" if exit_code else ""
    lines, files = [_HEAD.format(mesh=mesh.spec.mesh.id, run=run, failed=failed)], dict[str, str]()
    counts: Counter[tuple[str, str]] = Counter()
    stage = ""
    for n, item in enumerate(items, 1):
        change, path = item.change, ""
        if change.stage != stage:
            lines.append(f"\n## {(stage := change.stage)}\n")
        if change.action == REQUEST and change.manifest:
            path = f"requested/{change.cluster}/{_slug(change.manifest['metadata']['name'])}.yaml"
            files[path] = item.content
        elif item.content:
            counts[change.cluster, change.stage] += 1
            path = f"{change.cluster}/{_slug(change.stage)}/{counts[change.cluster, change.stage]:03}-"
            path += f"{_slug(change.object)}.yaml"
            files[path] = item.content
        lines.append(_line(n, item, path))
    return _written(folder, {**files, ORDER: "\n".join(lines) + "\n"})


def _written(folder: Path, files: Mapping[str, str]) -> list[Path]:
    try:
        for name, content in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            with (folder / name).open("x", encoding="utf-8") as file:
                file.write(content)
    except OSError as error:
        raise InputError(f"cannot be written: {error.strerror}", where=str(folder)) from None
    return [folder / name for name in files]


def _items(mesh: Mesh, change: PlannedChange) -> Iterator[Item]:
    cluster, manifest = mesh.clusters[change.cluster], change.manifest
    if manifest is None:
        yield Item(change, f"by hand: `{_command(mesh, change)}`")
    elif "[redacted " in (text := _yaml(manifest)):
        yield Item(change, "by hand: it holds a secret, which is in no evidence")
    elif change.action == REQUEST:
        yield _requested(change, manifest)
    elif manifest["kind"] == "IstioOperator":
        yield from _installation(cluster, change, manifest)
    elif manifest["kind"] == "Secret":
        note = "has no values: create this Secret from your secret store"
        yield Item(change, note, _commented(change) + textwrap.indent(text, "# "))
    elif change.action == "patch" or (who := _keepers(cluster, manifest)):
        kept = "of the object's own file" if change.action == "patch" else f"where {who} keeps it"
        yield Item(change, f"named, not taken; add these fields {kept}:", snippet=text)
    else:
        yield Item(change, "", _commented(change) + text)


def _requested(change: PlannedChange, document: Object) -> Item:
    """Return what an owner of Istio is to apply: it is merged into that owner's own file, and not for kubectl."""
    if document["kind"] != requested.VALUES:
        return Item(change, f"merge it into the {document['kind']} that is there", _commented(change) + _yaml(document))
    note = f"merge them into the values of the release of chart {document['chart']}"
    return Item(change, note, _commented(change) + _yaml(document["values"]))


def _installation(cluster: Cluster, change: PlannedChange, operator: Object) -> Iterator[Item]:
    """Yield what istioctl would create as one file; what it would change is istioctl's, and named."""
    rendered = istioctl.render(operator)
    fresh = [obj for obj in rendered if _live(cluster, obj) is None]
    known = [identify(obj) for obj in rendered if obj not in fresh and _differs(cluster, obj)]
    if fresh:
        yield Item(change, "", _commented(change) + "---\n".join(map(_yaml, fresh)))
    if known:
        note = f"named, not taken: {', '.join(known)}; `istioctl install -f FILE` changes them, with this FILE:"
        yield Item(change, note, snippet=_yaml(operator))


def _differs(cluster: Cluster, manifest: Object) -> bool:
    try:
        return bool(installed(cluster, manifest)[1])
    except ChangeError:  # the server refuses it, as the plan says
        return True


def _live(cluster: Cluster, manifest: Object) -> Object | None:
    try:
        return find(cluster, manifest)
    except NotFoundError:  # its kind comes with an earlier stage
        return None


def _keepers(cluster: Cluster, manifest: Object) -> str:
    live = _live(cluster, manifest)
    return ", ".join(sorted(keepers(live))) if live else ""


def _command(mesh: Mesh, change: PlannedChange) -> str:
    kind, _, place = change.object.partition(" ")
    namespace, _, name = place.rpartition("/")
    words = {"restart": f"rollout restart {kind.lower()}/{name}", "delete": f"delete {kind.lower()} {name}"}
    where = f" -n {namespace}" if namespace else ""
    context = mesh.spec.cluster(change.cluster).context
    return f"kubectl --context {context}{where} {words.get(change.action, f'{change.action} {place}')}"


def _commented(change: PlannedChange) -> str:
    return f"# {change.stage}, {change.cluster}: {change.object}: {change.why}\n"


def _line(n: int, item: Item, path: str) -> str:
    change = item.change
    what = f"`{path}`" if path else f"{change.cluster}: {change.action} {change.object}"
    note = f", {item.note}" if item.note else ""
    later = f" ({change.later})" if change.later else ""
    block = f"\n\n{textwrap.indent(item.snippet, '       ')}" if item.snippet else ""
    return f"{n}. {what}: {change.why}{later}{note}{block}"


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.")[:200]


def _yaml(obj: Mapping[str, Any]) -> str:
    return str(yaml.safe_dump(dict(obj), sort_keys=False, allow_unicode=True, width=1000))
