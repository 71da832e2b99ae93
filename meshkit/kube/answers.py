"""What an API server's answer must look like before anything is read of it; other servers answer, too."""

from __future__ import annotations

import json
from typing import Any, Final

from meshkit.errors import UnreachableError
from meshkit.kube import discovery

_REMEDY: Final = "is the server address that of an API server, and no proxy before it?"
_SHAPES: Final[dict[str, type]] = {"items": list, "metadata": dict, "status": dict, "gitVersion": str}
_METADATA: Final[dict[str, type]] = {"namespace": str, "uid": str, "labels": dict, "annotations": dict}


def decoded(data: bytes, where: str, having: str = "") -> Any:
    """Return a JSON answer without its nulls; `having` names a field that it must have, with the type of that field.

    Raises:
        UnreachableError: it is not JSON, or lacks that field.
    """
    # Nulls are rare, and a hook for each object costs more than this search.
    hook = _without_nulls if b"null" in data else None
    try:
        document = json.loads(data, object_hook=hook)
    except (ValueError, RecursionError):
        raise UnreachableError("its answer is not JSON", where=where, remedy=_REMEDY) from None
    # An empty list may be null. A kind such as APIGroupList ends in List, but lists no objects and has no metadata.
    kind = str(document.get("kind")) if isinstance(document, dict) else ""
    if kind == discovery.KIND or (kind.endswith("List") and "metadata" in document):
        document.setdefault("items", [])
    if having and not (isinstance(document, dict) and isinstance(document.get(having), _SHAPES[having])):
        raise strange(where)
    return document


def checked(document: dict[str, Any], where: str) -> dict[str, Any]:
    """Return an object after checking that its outermost fields have the types of a Kubernetes object.

    Raises:
        UnreachableError: they do not.
    """
    metadata = document.get("metadata")
    if not isinstance(metadata, dict) or not isinstance(metadata.get("name"), str):
        raise strange(where)
    if not all(isinstance(metadata.get(field, kind()), kind) for field, kind in _METADATA.items()):
        raise strange(where)
    values = [*metadata.get("labels", {}).values(), *metadata.get("annotations", {}).values()]
    if not all(isinstance(value, str) for value in values):
        raise strange(where)
    return document


def strange(where: str) -> UnreachableError:
    """Return the error of an answer that no API server would give."""
    return UnreachableError("its answer is not that of an API server", where=where, remedy=_REMEDY)


def _without_nulls(fields: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if value is not None}
