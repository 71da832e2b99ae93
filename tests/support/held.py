"""A cluster that holds what a test gives it; nothing is sent to anyone."""

from __future__ import annotations

from typing import Any

Object = dict[str, Any]


class Held:
    """What of a cluster reads objects: lists by the kind's plural, and single objects by their names."""

    def __init__(self, name: str = "east", *, may: bool = True, **objects: list[Object]) -> None:
        self.name = name
        self.may = may
        self.objects = objects

    def get(self, kind: str, *_: Any, **__: Any) -> list[Object]:
        """Return all objects of a kind (`pods`, `gateways.networking.istio.io`) or path, whatever else is asked."""
        return self.objects.get(kind.rpartition("/")[2].partition(".")[0], [])

    def find(self, kind: str, _: str | None, name: str) -> Object | None:
        """Return the object of that name."""
        return next((found for found in self.get(kind) if found["metadata"]["name"] == name), None)

    def can_i(self, *_: Any, **__: Any) -> bool:
        """Return whether the credential may do anything at all."""
        return self.may


def held(kind: str, name: str, namespace: str = "shop", *, labels: dict[str, str] | None = None, **more: Any) -> Object:
    """Return an object."""
    metadata = {"name": name, "namespace": namespace, "labels": labels or {}}
    return {"kind": kind, "metadata": metadata, "spec": {"containers": []}, **more}
