"""The file of a snapshot: one JSON document, compressed if its name ends in `.gz`.

schema     meshkit.snapshot/1
meshkit    the version that wrote it
taken      when the reading began
mesh       the mesh file, without kubeconfigs
left_out   what is not in it: reading, cluster, field, what stands there instead, why
readings   each by its name: see `meshkit.snapshot.codec`
"""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections.abc import Mapping
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

from meshkit import redaction
from meshkit.errors import InputError
from meshkit.kube.cluster import Cluster
from meshkit.kube.mesh import Mesh
from meshkit.snapshot import codec
from meshkit.snapshot.codec import WrongDocument
from meshkit.snapshot.lazy import Lazy
from meshkit.snapshot.secrets import NEVER_KEPT, LeftOut
from meshkit.spec import MeshSpec

if TYPE_CHECKING:
    from meshkit.snapshot.snapshot import Snapshot

SCHEMA: Final = "meshkit.snapshot/1"
REMEDY: Final = "name a file that `meshkit gather MESH.yaml -o FILE` wrote"
_MAGIC: Final = b"\x1f\x8b"
_KUBECONFIG: Final = LeftOut("mesh", "", "clusters[].kubeconfig", "", "not needed to read the file")


def write(path: Path, snapshot: Snapshot) -> int:
    """Write a snapshot, and return the size of its file in bytes. Nobody else may read it.

    Raises:
        InputError: it cannot be written there.
    """
    data = document(snapshot)
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"), sort_keys=False).encode()
    content = gzip.compress(text, mtime=0) if path.name.endswith(".gz") else text
    part = path.with_name(f".{path.name}.part")
    try:
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as stream:  # noqa: PTH123
            stream.write(content)
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise InputError(f"cannot be written ({error.strerror})", where=str(path)) from None
    return len(content)


def document(snapshot: Snapshot) -> dict[str, Any]:
    """Return a snapshot as JSON-like data."""
    found = redaction.Found()
    spec = _searched(_spec(snapshot.spec), found, "")
    own = [LeftOut("mesh", "", path, instead, kind) for kind, instead, path in found.items]
    left_out = dict.fromkeys([*NEVER_KEPT, _KUBECONFIG, *own, *snapshot.left_out])
    return {
        "schema": SCHEMA,
        "meshkit": version("meshkit"),
        "taken": snapshot.taken.isoformat(),
        "mesh": spec,
        "left_out": codec.encode([*left_out]),
        "readings": {name: codec.encode(snapshot.known[name]) for name in sorted(snapshot.known)},
    }


def _spec(spec: MeshSpec) -> dict[str, Any]:
    dumped: dict[str, Any] = spec.model_dump(by_alias=True, mode="json", exclude={"record", "notify"})
    for entry in dumped["clusters"]:
        entry["kubeconfig"] = ""
    # Where to find a passphrase is no passphrase, but nobody needs it to judge.
    dumped["trust"]["passphraseFrom"] = {}
    return dumped


def _searched(node: Any, found: redaction.Found, path: str) -> Any:
    """Return the mesh file without secrets in its texts; what it calls `credential` is none, annotations may be."""
    if isinstance(node, dict):
        search = {"annotations": redaction.strip}
        return {k: search.get(k, _searched)(v, found, f"{path}.{k}".lstrip(".")) for k, v in node.items()}
    if isinstance(node, list):
        return [_searched(one, found, f"{path}[{number}]") for number, one in enumerate(node)]
    return redaction.text(node, found, path) if isinstance(node, str) else node


def load(path: Path, readings: Mapping[str, Lazy[Any]]) -> tuple[datetime, MeshSpec, list[LeftOut], dict[str, Any]]:
    """Return moment, mesh file, what was left out, and readings of a file.

    Raises:
        InputError: it is missing, cut, of another version, or a field is wrong.
    """
    data = _document(path)
    spec = MeshSpec.parse(data.get("mesh"), where=f"{path}, field mesh")
    try:
        taken, left_out, known = _content(data, readings)
    except WrongDocument as error:
        _wrong(path, f"{error.path}: {error.problem}")
    except RecursionError:
        _wrong(path, "nested too deeply")
    return taken, spec, left_out, known


def _content(
    data: Mapping[str, Any], readings: Mapping[str, Lazy[Any]]
) -> tuple[datetime, list[LeftOut], dict[str, Any]]:
    taken: datetime = codec.decode(data.get("taken"), datetime, None, "taken")
    left_out: list[LeftOut] = codec.decode(data.get("left_out"), list[LeftOut], None, "left_out")
    held = data.get("readings")
    if taken.tzinfo is None or not isinstance(held, dict):
        raise WrongDocument("taken" if isinstance(held, dict) else "readings", "it has no time zone, or is no object")
    if unknown := sorted(held.keys() - readings.keys()):
        raise WrongDocument(f"readings.{unknown[0]}", "no reading of this version of meshkit")
    known = {
        name: codec.decode(one, readings[name].hint, readings[name].table, f"readings.{name}")
        for name, one in held.items()
    }
    return taken, [one for one in left_out if one not in (*NEVER_KEPT, _KUBECONFIG)], known


def _document(path: Path) -> dict[str, Any]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"no snapshot can be read there ({error.strerror})", where=str(path), remedy=REMEDY) from None
    try:
        text = gzip.decompress(content) if content.startswith(_MAGIC) else content
        data = json.loads(text)
    except (OSError, EOFError, zlib.error):
        _wrong(path, "the file is cut, or damaged")
    except (ValueError, RecursionError):
        _wrong(path, "not JSON, or cut")
    if not isinstance(data, dict) or not isinstance(data.get("schema"), str):
        _wrong(path, "no snapshot: it has no field schema")
    if data["schema"] != SCHEMA:
        _wrong(path, f"schema: expected {SCHEMA}, got {data['schema'][:80]!r}")
    return data


def _wrong(path: Path, problem: str) -> NoReturn:
    raise InputError(problem, where=str(path), remedy=REMEDY) from None


def offline(spec: MeshSpec) -> Mesh:
    """Return the mesh of a file: its clusters have names and contexts, and cannot be asked."""

    def unavailable() -> NoReturn:
        raise RuntimeError("a snapshot from a file was asked for what it does not have")

    return Mesh(spec, {one.name: Cluster(one.name, one.context, unavailable, 1.0) for one in spec.clusters})


def is_snapshot(path: Path) -> bool:
    """Return whether a file is, or was meant to be, a snapshot."""
    try:
        with path.open("rb") as stream:
            head = stream.read(256)
    except OSError:
        return False
    return head.startswith(_MAGIC) or b'"meshkit.snapshot/' in head
