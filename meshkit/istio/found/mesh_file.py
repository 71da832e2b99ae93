"""The mesh file that is found in the clusters of some contexts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from meshkit import redaction
from meshkit.errors import UnreachableError
from meshkit.istio.found import facts
from meshkit.istio.found.fields import Field, fields
from meshkit.spec import MeshSpec


@dataclass(frozen=True)
class Found:
    """The fields that are found, in the file's order, and the mesh file that they are.

    `unread` is why a cluster could not be read, by its context.
    """

    fields: tuple[Field, ...]
    spec: MeshSpec
    unread: Mapping[str, str]

    @property
    def undecided(self) -> tuple[Field, ...]:
        """The fields that no cluster says."""
        return tuple(one for one in self.fields if one.open)

    def require_all_read(self) -> None:
        """Let it pass if every cluster was read.

        Raises:
            UnreachableError: one was not; all of them are named.
        """
        if self.unread:
            reasons = "; ".join(f"{context}: {reason}" for context, reason in self.unread.items())
            raise UnreachableError(reasons, remedy=f"try: kubectl --context {next(iter(self.unread))} get pods -A")


def of_contexts(contexts: Sequence[str]) -> Found:
    """Return the mesh file of the clusters of some contexts, in that order; only reads.

    A cluster that cannot be read is in it, by its context's name.

    Raises:
        InputError: there is no such context, one is named twice, or two of them lead to one cluster.
    """
    return of_facts(facts.read(contexts))


def of_facts(found: facts.Facts) -> Found:
    """Return the mesh file of what was read."""
    known = tuple(_plain(one) for one in fields(found))
    return Found(known, MeshSpec.parse(_document(known), where="what was found"), found.unread())


def _plain(one: Field) -> Field:
    """Return a field without secrets and on one line: a cluster may say anything, and people commit mesh files."""
    value = _words(one.value) if isinstance(one.value, str) else one.value
    return replace(one, value=value, why=_words(one.why))


def _words(text: str) -> str:
    return redaction.text("".join(c for c in " ".join(text.split()) if c.isprintable()))


def _document(known: Iterable[Field]) -> dict[str, Any]:
    document: dict[str, Any] = {}
    for one in known:
        if one.value is not None:
            _set(document, one.path, one.value)
    return document


def _set(node: Any, path: Sequence[str | int], value: Any) -> None:
    part, *rest = path
    if not rest:
        node[part] = value
        return
    empty: Any = [] if isinstance(rest[0], int) else {}
    if isinstance(part, int) and part == len(node):
        node.append(empty)
    inner = node[part] if isinstance(part, int) else node.setdefault(part, empty)
    _set(inner, rest, value)
