"""What a whole run of meshkit asked API servers for: tests/fixtures/requests.json, which a migration on the lab writes.

`tests/e2e/runs/test_migration.py` compares what it asks with that list, and writes it again with `--update-golden`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import astuple, replace
from pathlib import Path

from meshkit.kube.requests import Request

FILE = Path(__file__).parents[1] / "fixtures" / "requests.json"
NAMED = ("delete configmaps",)
"""Rights that are granted for objects of some names only: of other requests the name does not matter."""


def plain(requests: Iterable[Request]) -> list[Request]:
    """Return requests in order, each once, without the names that differ from run to run."""
    named = ((one, f"{one.verb} {one.resource}" in NAMED) for one in requests)
    return sorted({replace(one, name=one.name if keep else "") for one, keep in named})


def load() -> dict[str, list[Request]]:
    """Return the requests of what only reads (`read`), and of what changes (`apply`)."""
    document = json.loads(FILE.read_text(encoding="utf-8"))
    return {role: [Request(*one) for one in requests] for role, requests in document.items()}


def write(requests: dict[str, list[Request]]) -> None:
    """Write the file, a line for each request."""
    lines_of = {role: ",\n".join(f"  {json.dumps(astuple(one))}" for one in each) for role, each in requests.items()}
    text = ",\n".join(f' "{role}": [\n{lines}\n ]' for role, lines in lines_of.items())
    FILE.write_text(f"{{\n{text}\n}}\n", encoding="utf-8")
