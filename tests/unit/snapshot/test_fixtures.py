"""Meshes of every shape of the lab, healthy and with a fault, as files: what was found then is found now.

`lab/tests/test_shapes.py` takes them, with $MESHKIT_TEST_SNAPSHOTS as the folder. `--update-golden` writes what is
expected of them again: read the difference.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from meshkit.checks import audit
from meshkit.snapshot.snapshot import Snapshot
from tests.support.drill import GOOD

FOLDER = Path(__file__).parents[2] / "fixtures" / "snapshots"
FILES = {path.name.removesuffix(".json.gz"): path for path in sorted(FOLDER.glob("*.json.gz"))}
EXPECTED = FOLDER / "expected.json"
MOST_BYTES = 200_000


@pytest.mark.parametrize("name", FILES)
def test_what_was_found_then_is_found_now(name: str, pytestconfig: pytest.Config) -> None:
    """Every finding that is not good, and how many there are of each verdict."""
    findings = audit.check(Snapshot.load(FILES[name]))
    bad = [f"{f.verdict.value} {f.id} [{f.subject}]" for f in findings if f.verdict.value not in GOOD]
    now: dict[str, Any] = {**Counter(sorted(f.verdict.value for f in findings)), "said": bad}
    expected = json.loads(EXPECTED.read_text()) if EXPECTED.exists() else {}
    if pytestconfig.getoption("--update-golden"):
        EXPECTED.write_text(json.dumps({**expected, name: now}, indent=1, sort_keys=True) + "\n")
    else:
        assert now == expected[name]


def test_each_shape_is_there_healthy_and_with_a_fault_and_small() -> None:
    """Not all shapes of the lab are: docs/lab-shapes.md says what was tried."""
    kinds = {name.rpartition("-healthy")[0] for name in FILES if name.endswith("-healthy")}
    assert len(FILES) == 2 * len(kinds) > 0
    assert [name for name, path in FILES.items() if path.stat().st_size > MOST_BYTES] == []
