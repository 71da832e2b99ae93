"""Kubernetes objects as data: without server-set fields, diffed with Secrets masked, and which manager owns a field."""

from __future__ import annotations

import copy
import difflib
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import yaml

Object = dict[str, Any]
MANAGED = {"app.kubernetes.io/managed-by": "meshkit"}
"""The label of everything that meshkit creates."""

_SERVERS_OWN = ("managedFields", "resourceVersion", "uid", "generation", "creationTimestamp", "selfLink")
_CONTROLLERS_OWN = ("deployment.kubernetes.io/revision", "kubectl.kubernetes.io/last-applied-configuration")
_SALT = os.urandom(16)


def bare(obj: Mapping[str, Any] | None) -> Object:
    """Return a copy of an object without its status and the metadata that the server and controllers set."""
    if not obj:
        return {}
    result = copy.deepcopy({key: value for key, value in obj.items() if key != "status"})
    metadata = result.get("metadata", {})
    for key in _SERVERS_OWN:
        metadata.pop(key, None)
    annotations = metadata.get("annotations") or {}
    for key in _CONTROLLERS_OWN:
        annotations.pop(key, None)
    if not annotations:
        metadata.pop("annotations", None)
    return result


def masked(obj: Mapping[str, Any]) -> Object:
    """Return a copy of an object in which a Secret's values are replaced by their length and a mark.

    Equal values have equal marks within one process; the mark is salted, so it reveals nothing about the value.
    """
    return _without_values(obj, lambda _, value: _mark(value))


def referenced(obj: Mapping[str, Any]) -> Object:
    """Return a copy of an object in which a Secret's values are replaced by where they belong."""
    return _without_values(obj, lambda key, _: f"(secret: key {key} of {identify(obj)})")


def _without_values(obj: Mapping[str, Any], instead: Callable[[str, Any], str]) -> Object:
    result = copy.deepcopy(dict(obj))
    if result.get("kind") == "Secret":
        for field in ("data", "stringData"):
            if result.get(field):
                result[field] = {key: instead(key, value) for key, value in result[field].items()}
    return result


def _mark(value: Any) -> str:
    text = str(value)
    mark = hashlib.blake2b(text.encode(), key=_SALT, digest_size=3).hexdigest()
    return f"(secret, {len(text)} characters, mark {mark})"


def patched(obj: Mapping[str, Any], patch: Mapping[str, Any]) -> Object:
    """Return an object as a JSON merge patch (RFC 7386) leaves it: null removes a field."""
    result = copy.deepcopy(dict(obj))
    for key, value in patch.items():
        if isinstance(value, dict):
            known = result.get(key)
            result[key] = patched(known if isinstance(known, dict) else {}, value)
        elif value is None:
            result.pop(key, None)
        else:
            result[key] = copy.deepcopy(value)
    return result


def unified(before: Mapping[str, Any] | None, after: Mapping[str, Any] | None) -> str:
    """Return the difference of two objects as a unified diff of their YAML, Secrets masked; empty if there is none."""
    old, new = (bare(obj) for obj in (before, after))
    lines = _lines
    if old != new and _lines(old) == _lines(new):
        lines = _exact  # only blanks differ
    return "\n".join(list(difflib.unified_diff(lines(old), lines(new), n=2, lineterm=""))[2:])


def _exact(obj: Object) -> list[str]:
    return json.dumps(masked(obj), indent=1, sort_keys=True).splitlines()


def _lines(obj: Object) -> list[str]:
    if not obj:
        return []
    return yaml.dump(masked(obj), Dumper=_Dumper, sort_keys=True, width=1000, allow_unicode=True).splitlines()


class _Dumper(yaml.SafeDumper):
    """Dumps multi-line texts as blocks, so that a diff shows only the lines that differ."""

    def ignore_aliases(self, _: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    if "\n" not in text:
        return dumper.represent_str(text)
    plain = "\n".join(line.rstrip().expandtabs(4) for line in text.splitlines())  # YAML has no block style for others
    return dumper.represent_scalar("tag:yaml.org,2002:str", plain, style="|")


_Dumper.add_representer(str, _text)


def identify(obj: Mapping[str, Any]) -> str:
    """Return an object's kind, namespace and name: `Secret istio-system/cacerts`, `Namespace sample`."""
    metadata = obj["metadata"]
    place = f"{metadata['namespace']}/" if metadata.get("namespace") else ""
    return f"{obj['kind']} {place}{metadata['name']}"


def qualified(obj: Mapping[str, Any]) -> str:
    """Return an object's kind in the unambiguous form of `Cluster.get`: `Gateway.v1.networking.istio.io`."""
    group, _, version = str(obj["apiVersion"]).rpartition("/")
    return f"{obj['kind']}.{version}.{group}"


def digest(obj: Mapping[str, Any] | None) -> str:
    """Return the SHA-256 of an object's bare form, or an empty text for none."""
    return hashlib.sha256(json.dumps(bare(obj), sort_keys=True).encode()).hexdigest() if obj else ""


def owned(obj: Mapping[str, Any], manager: str) -> Object | None:
    """Return the fields that a manager owns by server-side apply, as a manifest; None if it owns nothing.

    Applying it again as that manager restores those fields, and removes the fields that the manager added since.
    Source: metadata.managedFields, format FieldsV1 (kubernetes.io, Server-Side Apply).
    """
    entries = [e for e in obj["metadata"].get("managedFields") or [] if _applied_by(e, manager)]
    if not entries:
        return None
    picked: Object = _pick(obj, entries[0].get("fieldsV1") or {})
    names = {key: obj["metadata"][key] for key in ("name", "namespace") if obj["metadata"].get(key)}
    return {
        **picked,
        "apiVersion": obj["apiVersion"],
        "kind": obj["kind"],
        "metadata": {**picked.get("metadata", {}), **names},
    }


def _applied_by(entry: Mapping[str, Any], manager: str) -> bool:
    return entry.get("manager") == manager and entry.get("operation") == "Apply" and not entry.get("subresource")


def _pick(value: Any, fields: Mapping[str, Any]) -> Any:
    if not fields or set(fields) == {"."}:
        return copy.deepcopy(value)
    if isinstance(value, dict):
        return {key: _pick(value[key], fields[f"f:{key}"]) for key in value if f"f:{key}" in fields}
    if isinstance(value, list):
        return [picked for item in value for picked in _pick_item(item, fields)]
    return copy.deepcopy(value)


def _pick_item(item: Any, fields: Mapping[str, Any]) -> Iterable[Any]:
    for key, inner in fields.items():
        if key.startswith("v:") and json.loads(key[2:]) == item:
            yield copy.deepcopy(item)
        if key.startswith("k:") and isinstance(item, dict) and json.loads(key[2:]).items() <= item.items():
            yield _pick(item, inner)


def managers(obj: Mapping[str, Any]) -> set[str]:
    """Return the field managers that have written to an object, except to its status."""
    entries = obj["metadata"].get("managedFields") or []
    return {str(e.get("manager")) for e in entries if not e.get("subresource")}


def without(obj: Mapping[str, Any], fields: Iterable[str]) -> Object:
    """Return a copy of a manifest without fields, named as the server does: `.webhooks[name="x"].failurePolicy`."""
    result = copy.deepcopy(dict(obj))
    for field in fields:
        _remove(result, field)
    return result


def _remove(value: Any, path: str) -> None:
    if isinstance(value, dict) and path.startswith("."):
        # Keys may contain dots: the longest key that fits is the one meant.
        fits = [key for key in value if re.match(rf"\.{re.escape(key)}(?=[.\[]|$)", path)]
        key = max(fits, key=len, default=None)
        if key is not None and len(path) == len(key) + 1:
            del value[key]
        elif key is not None:
            _remove(value[key], path[len(key) + 1 :])
    elif isinstance(value, list) and (match := re.match(r'\[((?:[^\]"]|"(?:[^"\\]|\\.)*")*)\]', path)):
        for item in [item for item in value if _selected(item, match[1])]:
            if match.end() == len(path):
                value.remove(item)
            else:
                _remove(item, path[match.end() :])


def _selected(item: Any, selector: str) -> bool:
    if selector.startswith("="):
        return bool(json.loads(selector[1:]) == item)
    pairs = re.findall(r'(\w+)=("(?:[^"\\]|\\.)*"|[^,]+)', selector)
    # The server names a port by its protocol even where the manifest leaves the protocol at its default.
    known = {"protocol": "TCP", **item} if isinstance(item, dict) else {}
    return bool(pairs) and all(known.get(k) == json.loads(v) for k, v in pairs)
