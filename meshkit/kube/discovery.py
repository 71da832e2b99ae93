"""Which kinds an API server serves, by its aggregated discovery, under all names that kubectl takes for them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

KIND: Final = "APIGroupDiscoveryList"
ACCEPT: Final = ",".join(f"application/json;g=apidiscovery.k8s.io;v={v};as={KIND}" for v in ("v2", "v2beta1"))


@dataclass(frozen=True)
class Resource:
    """A kind as it is served; `names` are those that kubectl takes: plural, singular, short, with version and group."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool
    listable: bool
    names: frozenset[str]

    def path(self, namespace: str | None, name: str | None = None) -> str:
        """Return the API path of its list, or of one object."""
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        scope = f"/namespaces/{quote(namespace, safe='')}" if namespace and self.namespaced else ""
        return f"{root}{scope}/{self.plural}" + (f"/{quote(name, safe='')}" if name else "")


def served(groups: list[Any]) -> Iterator[Resource]:
    """Yield the kinds of the groups of a discovery document.

    An aggregated API may publish malformed entries: those are skipped.
    """
    for group in _mappings(groups):
        name = _mapping(group.get("metadata")).get("name", "")
        for version in _mappings(group.get("versions")):
            for item in _mappings(version.get("resources")):
                if found := _resource(name, version.get("version"), item):
                    yield found


def _resource(group: Any, version: Any, item: Mapping[str, Any]) -> Resource | None:
    """Return a kind from its discovery entry; None if group, name or kind is missing or not a text."""
    plural: Any = item.get("resource")
    kind: Any = _mapping(item.get("responseKind")).get("kind")
    if not isinstance(group, str) or not all(value and isinstance(value, str) for value in (version, plural, kind)):
        return None
    plain = {plural, item.get("singularResource"), kind.lower(), *_texts(item.get("shortNames"))}
    names = {name for name in plain if name and isinstance(name, str)}
    qualified = {f"{name}{suffix}" for name in names for suffix in (f".{group}", f".{version}.{group}")}
    namespaced = item.get("scope") == "Namespaced"
    listable = "list" in _texts(item.get("verbs"))
    return Resource(group, version, plural, kind, namespaced, listable, frozenset(names | qualified))


def _texts(value: Any) -> list[Any]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


def _mappings(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
