"""Two labs compared: every object of every cluster, without what is new each time it is made."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from tests.support.lab import Lab, Object

Key = tuple[str, str, str, str]
"""Context, kind with its group, namespace ("" where there is none), name."""

CONTEXTS = ("lab-east", "lab-west")
# Made by controllers of what is compared, or beating like a heart; IPAddress is named after a drawn cluster IP.
PASSING = re.compile(
    r"^(componentstatuses|controllerrevisions|endpoints|endpointslices|events|ipaddresses|leases|nodes|pods|replicasets)\b"
)
# Each writes its own status now and then, whoever reads.
BEATING = re.compile(r"^(componentstatuses|events|horizontalpodautoscalers|leases|nodes)\b")
DRAWN = re.compile(
    r"caBundle|clusterIPs?|creationTimestamp|generation|healthCheckNodePort|managedFields|nodePort|resourceVersion|uid"
)
NOTES = (
    "control-plane.alpha.kubernetes.io/leader",
    "deployment.kubernetes.io/revision",
    "kubectl.kubernetes.io/last-applied-configuration",
    "kubernetes.io/service-account.uid",
)
RESTARTS = ("kubectl.kubernetes.io/restartedAt", "meshkit/restarted-at")
PEM = re.compile(r"-----BEGIN ([A-Z ]+)-----.*?-----END \1-----\s*", re.DOTALL)
NONE = "(none)"


def snapshot(lab: Lab, contexts: tuple[str, ...] = CONTEXTS) -> dict[Key, Object]:
    """Return what every object of the lab says, but for status, and for what is random in each of them.

    Of Secrets only the keys are kept, of certificates in texts how many there are, of a restart that there was one.
    """
    return {
        (context, kind, obj["metadata"].get("namespace", ""), obj["metadata"]["name"]): normalized(obj)
        for context in contexts
        for kind, obj in _objects(lab, context)
    }


def versions(lab: Lab, contexts: tuple[str, ...] = CONTEXTS) -> dict[Key, str]:
    """Return the resourceVersion of every object of the lab, but for those that beat like a heart."""
    return {
        (context, kind, obj["metadata"].get("namespace", ""), obj["metadata"]["name"]): obj["metadata"][
            "resourceVersion"
        ]
        for context in contexts
        for kind, obj in _objects(lab, context, BEATING)
        if NOTES[0] not in obj["metadata"].get("annotations", {})
    }


def _objects(lab: Lab, context: str, but: re.Pattern[str] = PASSING) -> Iterator[tuple[str, Object]]:
    names = lab.kubectl(context, "api-resources", "--verbs=list", "-o", "name").split()
    kinds = [name for name in names if not but.match(name)]
    for obj in json.loads(lab.kubectl(context, "get", ",".join(kinds), "-A", "-o", "json"))["items"]:
        group = obj["apiVersion"].rpartition("/")[0]
        yield f"{obj['kind']}.{group}".rstrip("."), obj


def normalized(obj: Mapping[str, Any]) -> Object:
    """Return an object without its status and what is random each time it is made."""
    said = {key: value for key, value in obj.items() if key != "status"}
    if obj["kind"] == "Secret":
        said["data"] = dict.fromkeys(obj.get("data") or {}, "(secret)")
    plain: Object = _plain(said)
    return plain


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        kept = {key: _plain(inner) for key, inner in value.items() if not DRAWN.fullmatch(key) and key not in NOTES}
        kept |= dict.fromkeys(kept.keys() & set(RESTARTS), "(some time)")
        return {key: inner for key, inner in kept.items() if inner not in ({}, [], None)}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return PEM.sub(r"(\1)", value) if isinstance(value, str) else value


def differences(a: Mapping[Key, Object], b: Mapping[Key, Object]) -> list[str]:
    """Return a line for each object that only one side has, and for each field that differs; none if all is equal."""
    lines = []
    for key in sorted(a.keys() | b.keys()):
        context, kind, namespace, name = key
        where = f"{context}: {kind} {namespace}/{name}" if namespace else f"{context}: {kind} {name}"
        if key not in a or key not in b:
            lines.append(f"{where}: only in the {'first' if key in a else 'second'}")
            continue
        one, other = dict(_leaves(a[key])), dict(_leaves(b[key]))
        lines += [
            f"{where}: {path}: {one.get(path, NONE)!r} != {other.get(path, NONE)!r}"
            for path in sorted(one.keys() | other.keys())
            if one.get(path, NONE) != other.get(path, NONE)
        ]
    return lines


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            # A list's order may mean something, but where its items have names, a line about one should say which.
            name = inner.get("name") if isinstance(inner, dict) else None
            yield from _leaves(inner, f"{path}[{name or index}]")
    else:
        yield path, value
