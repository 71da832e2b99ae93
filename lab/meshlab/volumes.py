"""A pod's volumes as folders: secrets, config maps, projected sources, downward API, empty and host folders.

Files are swapped by one rename of `..data`, as the kubelet does: a watching process (istiod of cacerts) sees all
of a new set or none.
"""

from __future__ import annotations

import base64
import json
import math
import os
import re
import shutil
import time
from pathlib import Path
from typing import Any, Protocol

from meshlab.kube import Kube, Object, Store

TOKEN_LIFE = 3600


class NotYet(Exception):  # noqa: N818 - a state that passes, not an error
    """A volume's source does not exist yet; the message says which, as the kubelet's event does."""


class Sources(Protocol):
    """Where volumes come from: what a node knows of its cluster."""

    kube: Kube
    secrets: Store
    config_maps: Store


class Volumes:
    """The volumes of one pod, under one folder."""

    def __init__(self, sources: Sources, pod: Object, folder: Path) -> None:
        self.sources, self.pod, self.folder = sources, pod, folder
        self.tokens: dict[str, tuple[float, str]] = {}
        self.written: dict[str, dict[str, bytes]] = {}

    def path(self, name: str) -> Path:
        """Return the folder (or, for hostPath, the path) of a volume."""
        volume = next(v for v in self.pod["spec"].get("volumes", []) if v["name"] == name)
        return Path(volume["hostPath"]["path"]) if "hostPath" in volume else self.folder / name

    def refresh(self, pod: Object) -> None:
        """Write all volumes as their sources are now.

        Raises:
            NotYet: a source that is not optional is missing.
        """
        self.pod = pod
        for volume in pod["spec"].get("volumes", []):
            name = volume["name"]
            folder = self.folder / name
            folder.mkdir(parents=True, exist_ok=True)
            if "emptyDir" in volume:
                folder.chmod(0o777)
                continue
            if volume.get("hostPath", {}).get("type") == "DirectoryOrCreate":
                Path(volume["hostPath"]["path"]).mkdir(parents=True, exist_ok=True)
            files = self._files(volume)
            if files is not None and files != self.written.get(name):
                swap(folder, files)
                self.written[name] = files

    def _files(self, volume: Object) -> dict[str, bytes] | None:
        if source := volume.get("projected"):
            merged: dict[str, bytes] = {}
            for part in source["sources"]:
                merged.update(self._source(part))
            return merged
        for kind in ("secret", "configMap", "downwardAPI"):
            if kind in volume:
                return self._source({kind: volume[kind]})
        return None

    def _source(self, part: Object) -> dict[str, bytes]:
        kind, source = next(iter(part.items()))
        if kind == "serviceAccountToken":
            return {source["path"]: self._token(source).encode()}
        if kind == "downwardAPI":
            return {i["path"]: str(field(self.pod, i)).encode() for i in source.get("items", [])}
        if kind not in ("secret", "configMap"):
            raise NotYet(f"volume source {kind} is not known to this node")
        return self.keys(kind, source)

    def keys(self, kind: str, source: Object) -> dict[str, bytes]:
        """Return the keys of a Secret or ConfigMap that a source names: all, or those of its items.

        Raises:
            NotYet: the object or a key is missing, and not optional.
        """
        name = source.get("secretName") or source.get("name") or ""
        store = self.sources.secrets if kind == "secret" else self.sources.config_maps
        found = store.get(self.pod["metadata"]["namespace"], name)
        if found is None:
            if source.get("optional"):
                return {}
            raise NotYet(f'{kind.lower()} "{name}" not found')
        data = content(found)
        if "items" not in source:
            return data
        missing = [i["key"] for i in source["items"] if i["key"] not in data]
        if missing and not source.get("optional"):
            raise NotYet(f'{kind.lower()} "{name}" has no key {missing[0]!r}')
        return {i["path"]: data[i["key"]] for i in source["items"] if i["key"] in data}

    def _token(self, source: Object) -> str:
        due, token = self.tokens.get(source["path"], (0.0, ""))
        if time.time() < due:
            return token
        meta, spec = self.pod["metadata"], self.pod["spec"]
        life = source.get("expirationSeconds", TOKEN_LIFE)
        request = {
            "spec": {
                "audiences": [source["audience"]] if source.get("audience") else [],
                "expirationSeconds": life,
                "boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": meta["name"], "uid": meta["uid"]},
            }
        }
        account = spec.get("serviceAccountName", "default")
        path = f"/api/v1/namespaces/{meta['namespace']}/serviceaccounts/{account}/token"
        token = str(self.sources.kube.call("POST", path, request)["status"]["token"])
        self.tokens[source["path"]] = (time.time() + 0.8 * life, token)
        return token


def content(found: Object) -> dict[str, bytes]:
    """Return the keys of a Secret or ConfigMap as bytes."""
    if "type" in found or found.get("kind") == "Secret":
        return {k: base64.b64decode(v) for k, v in (found.get("data") or {}).items()}
    binary = {k: base64.b64decode(v) for k, v in (found.get("binaryData") or {}).items()}
    return {**{k: v.encode() for k, v in (found.get("data") or {}).items()}, **binary}


def swap(folder: Path, files: dict[str, bytes]) -> None:
    """Replace the files of a volume at once."""
    fresh = folder / f"..{time.time_ns()}"
    for path, data in files.items():
        target = fresh / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
        target.chmod(0o644)
    fresh.mkdir(exist_ok=True)
    old = folder / "..data"
    before = old.readlink() if old.is_symlink() else None
    link = folder / "..data_tmp"
    link.symlink_to(fresh.name)
    link.rename(old)
    names = {path.split("/")[0] for path in files}
    for name in names:
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(f"..data/{name}")
    for entry in folder.iterdir():
        if entry.is_symlink() and not entry.name.startswith("..") and entry.name not in names:
            entry.unlink()
    if before is not None:
        shutil.rmtree(folder / before)


def field(pod: Object, source: Object, container: Object | None = None) -> Any:
    """Return what a fieldRef or resourceFieldRef names."""
    if ref := source.get("resourceFieldRef"):
        return resource(pod, ref, container)
    path = source["fieldRef"]["fieldPath"]
    if match := re.fullmatch(r"metadata\.(labels|annotations)(?:\['(.+)'\])?", path):
        values = pod["metadata"].get(match[1]) or {}
        if match[2]:
            return values.get(match[2], "")
        return "\n".join(f"{k}={json.dumps(v)}" for k, v in sorted(values.items()))
    if path == "status.podIPs":
        return pod["status"].get("podIP", "")
    value: Any = pod
    for part in path.split("."):
        value = value.get(part, "") if isinstance(value, dict) else ""
    return value


def resource(pod: Object, ref: Object, container: Object | None) -> int:
    """Return a container's limit or request in units of the divisor; without a limit, what the node has."""
    name = ref.get("containerName")
    containers = [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]
    chosen = next((c for c in containers if c["name"] == name), container) if name else container
    which, unit = ref["resource"].split(".", 1)
    given = ((chosen or {}).get("resources", {}).get(which) or {}).get(unit)
    whole = {
        "cpu": float(os.cpu_count() or 1),
        "memory": float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")),
    }
    value = quantity(given) if given else whole.get(unit, 0.0)
    divisor = quantity(ref.get("divisor") or "1") or 1.0
    return math.ceil(value / divisor)


def quantity(text: str) -> float:
    """Return a Kubernetes quantity (100m, 128Mi, 2) as a number."""
    match = re.fullmatch(r"([0-9.]+)([A-Za-z]*)", str(text))
    if not match:
        return 0.0
    units = {"": 1.0, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}
    return float(match[1]) * units.get(match[2], 1.0)
