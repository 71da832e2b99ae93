"""The archive of a backup: plain files that `kubectl apply` takes, in a private folder, with an index of hashes.

    <private folder>/backup/20261124T100000Z/index.json
    <private folder>/backup/20261124T100000Z/east/1-namespaces.yaml … 8-webhooks.yaml

Folders are 0700 and files 0600: they hold private keys. An archive appears whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from meshkit import paths as meshkit_paths
from meshkit.errors import ChangeError
from meshkit.istio.control_plane import istio_objects
from meshkit.istio.control_plane.istio_objects import Item, Key, Manifest

INDEX = "index.json"
FILES = {part: f"{number}-{part}.yaml" for number, part in enumerate(istio_objects.PARTS, 1)}


@dataclass(frozen=True)
class Archive:
    """A finished archive; its contents are read from disk each time."""

    path: Path

    @property
    def where(self) -> str:
        """Its folder, without what is private about this machine."""
        for name, root in (("~", str(Path.home())), ("$XDG_STATE_HOME", os.environ.get("XDG_STATE_HOME", ""))):
            if root and self.path.is_relative_to(root):
                return f"{name}/{self.path.relative_to(root)}"
        return f"…/{'/'.join(self.path.parts[-4:])}"

    @property
    def sha256(self) -> str:
        """The SHA-256 of its index, which holds those of its files and objects."""
        return hashlib.sha256((self.path / INDEX).read_bytes()).hexdigest()

    @property
    def made(self) -> str:
        """When its objects were read: UTC in ISO 8601."""
        return str(self._index()["read"])

    @property
    def clusters(self) -> dict[str, str]:
        """Its clusters by name, with the UID of each."""
        return {name: entry["uid"] for name, entry in self._index()["clusters"].items()}

    def listed(self, cluster: str) -> dict[Key, dict[str, str]]:
        """Return what the index says of each object: file, sha256, uid, resourceVersion."""
        entries = self._index()["clusters"][cluster]["objects"]
        return {istio_objects.Key(entry["kind"], entry["namespace"], entry["name"]): entry for entry in entries}

    def read(self, cluster: str) -> dict[Key, Manifest]:
        """Return the objects of a cluster, as its files have them now.

        Raises:
            ChangeError: a file is not what was written, or is not there. Its content is not quoted.
        """
        found: dict[Key, Manifest] = {}
        for name, digest in self._index()["clusters"][cluster]["files"].items():
            path = self.path / cluster / name
            try:
                content = path.read_bytes()
            except OSError as error:
                raise ChangeError(f"{cluster}/{name} cannot be read ({error.strerror})", where=self.where) from None
            if hashlib.sha256(content).hexdigest() != digest:
                raise ChangeError(f"{cluster}/{name} was changed after it was written", where=self.where)
            found |= {istio_objects.key(one): one for one in yaml.load_all(content, Loader=_Loader) if one}
        return found

    def contents(self) -> list[dict[str, Any]]:
        """Return its files as rows: cluster, file, objects, bytes, sha256."""
        rows = []
        for cluster, entry in self._index()["clusters"].items():
            for name, digest in entry["files"].items():
                held = sum(one["file"] == name for one in entry["objects"])
                size = (self.path / cluster / name).stat().st_size
                rows.append({"cluster": cluster, "file": name, "objects": held, "bytes": size, "sha256": digest})
        return rows

    def open_to_others(self) -> list[str]:
        """Return the files and folders that others than their owner may read, or that are not ours."""
        paths = [self.path, *self.path.rglob("*")]
        return [p.name for p in paths if p.stat().st_mode & 0o077 or p.stat().st_uid != os.getuid()]

    def _index(self) -> Any:
        return json.loads((self.path / INDEX).read_text())


def write(
    folder: Path, mesh_id: str, found: Mapping[str, Iterable[Item]], uids: Mapping[str, str], read: str
) -> Archive:
    """Write an archive into a new folder of `folder`, named after the time.

    Args:
        folder: where archives of this mesh lie, in its private folder.
        mesh_id: the mesh.
        found: the objects of each cluster.
        uids: the UID of each cluster.
        read: when the objects were read.

    Raises:
        ChangeError: it cannot be written; no half of it is left.
    """
    clusters: dict[str, Any] = {}
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        draft, path = _new(folder)
        try:
            for cluster, items in found.items():
                clusters[cluster] = {"uid": uids[cluster], **_write_cluster(draft / cluster, items)}
            index = {"format": 1, "mesh": mesh_id, "read": read, "clusters": clusters}
            _write(draft / INDEX, json.dumps(index, indent=1).encode())
            draft.rename(path)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise
    except OSError as error:
        raise ChangeError(f"the archive cannot be written: {error.strerror}", where=folder.name) from None
    return Archive(path)


def _new(folder: Path) -> tuple[Path, Path]:
    while True:
        name = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
        draft = folder / f".{name}"
        try:
            if not (folder / name).exists():
                draft.mkdir(mode=0o700)
                return draft, folder / name
        except FileExistsError:
            pass
        time.sleep(0.1)  # another backup began within this second


def _write_cluster(folder: Path, items: Iterable[Item]) -> dict[str, Any]:
    folder.mkdir(mode=0o700)
    ordered = sorted(items, key=lambda item: (istio_objects.PARTS.index(item.part), item.key))
    files: dict[str, str] = {}
    for part, name in FILES.items():
        manifests = [item.manifest for item in ordered if item.part == part]
        if manifests:
            content = yaml.dump_all(
                manifests, Dumper=_Dumper, sort_keys=False, width=10**6, explicit_start=True
            ).encode()
            _write(folder / name, content)
            files[name] = hashlib.sha256(content).hexdigest()
    entries = [
        {
            **item.key._asdict(),
            "file": FILES[item.part],
            "sha256": item.digest,
            "uid": item.uid,
            "resourceVersion": item.version,
        }
        for item in ordered
    ]
    return {"files": files, "objects": entries}


def _write(path: Path, content: bytes) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(handle)


def folder_of(mesh_id: str) -> Path:
    """Return where archives of a mesh lie, in its private folder; it may not be there yet."""
    return meshkit_paths.state() / "changes" / mesh_id / "backup"


def latest(folder: Path) -> Archive | None:
    """Return the newest archive of a folder, if it has one."""
    # The name of a draft begins with a dot.
    found = sorted(index.parent for index in folder.glob(f"[0-9]*/{INDEX}"))
    return Archive(found[-1]) if found else None


def problem(folder: Path) -> str:
    """Return why secrets must not lie in a folder, or nothing: others may read it, or it is in a checkout or a run."""
    for place in (folder, *folder.parents):
        if (place / ".git").exists():
            return f"it lies in a git checkout ({place.name})"
        if (place / "events.jsonl").exists():
            return f"it lies in a run folder ({place.name})"
    there = next(place for place in (folder, *folder.parents) if place.exists())
    about = there.stat()
    if there == folder and (about.st_mode & 0o077 or about.st_uid != os.getuid()):
        return f"mode {about.st_mode & 0o777:04o}, owner {about.st_uid}"
    return "" if os.access(there, os.W_OK | os.X_OK) else f"{there.name} cannot be written"


_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    """YAML that kubectl reads as we meant it: Go takes `y`, `1e3` or `0o7` for other things than PyYAML does."""

    def ignore_aliases(self, _data: Any) -> bool:
        return True


def _text(dumper: Any, text: str) -> Any:
    plain = re.fullmatch(r"[A-Za-z_/][\w./-]+( [\w./-]+)*", text, re.ASCII)
    style = "|" if "\n" in text else None if plain else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)
