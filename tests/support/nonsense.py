"""Nonsense that a server may answer: whole bodies, and nodes of a document."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from random import Random
from typing import Any

NONSENSE = (None, [], {}, 0, -1, True, "", "x", [None], [[]], {"x": None}, [{}], ["x"], 1e300, "\u2028", {"name": []})
BROKEN = (b"", b"{", b"[]", b"null", b"3", b'"x"', b"<html>", b"\xff\xfe", b"[" * 100_000, b'{"items": 3}', b"{}")


def spoiled(body: bytes, chance: Random) -> bytes:
    """Return a document with nonsense in place of one to four of its nodes; what is no document, as it is."""
    try:
        document = json.loads(body)
    except ValueError:
        return body
    for _ in range(chance.randint(1, 4)):
        places = [
            (node, key) for node in _nodes(document) for key in (node if isinstance(node, dict) else range(len(node)))
        ]
        if places:
            node, key = chance.choice(places)
            # A copy: what is put in may be spoiled itself, and one list in two places can end inside itself.
            node[key] = copy.deepcopy(chance.choice(NONSENSE))
    return json.dumps(document).encode()


def _nodes(document: Any) -> Iterator[Any]:
    if isinstance(document, dict | list):
        yield document
        for child in document.values() if isinstance(document, dict) else document:
            yield from _nodes(child)
