"""Every fault of the lab is found by `meshkit check`, by its own check first; what istioctl says stands beside.

$MESHKIT_TEST_FAULTS chooses them: names with commas; unset, all. The table goes to $MESHKIT_TEST_TABLE.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from meshlab.faults.fault import Fault

from tests.support import drill
from tests.support.lab import Lab, broken, started

pytestmark = [pytest.mark.lab, pytest.mark.drill]


def look(lab: Lab, findings: list[dict[str, str]]) -> drill.Seen:
    """Return what is seen of the mesh now, beside findings that were made."""
    return drill.Seen(findings, drill.istioctl(lab), drill.calls(lab))


@pytest.fixture(scope="module")
def lab(request: pytest.FixtureRequest, short_folder: Path) -> Iterator[Lab]:
    """A finished mesh of the shape that a fault needs; $MESHKIT_TEST_LAB may name the folder of one that runs."""
    if not request.param or os.environ.get("MESHKIT_TEST_LAB"):
        yield request.getfixturevalue("meshed_lab")
        return
    with started(short_folder / "shaped", "meshed", shapes=[request.param]) as one:
        yield one


@pytest.fixture(scope="module")
def healthy(lab: Lab) -> drill.Seen:
    """What is seen of the mesh before anything is broken: nothing that is not good."""
    deadline = time.monotonic() + drill.NOTICED
    while told := drill.bad(findings := drill.check(lab)):  # a lab that was just started settles
        assert time.monotonic() < deadline, told
    return look(lab, findings)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """The rows of the table; it is written when all are there."""
    found: list[str] = []
    yield found
    path = Path(os.environ.get("MESHKIT_TEST_TABLE") or tmp_path_factory.mktemp("drills") / "table.md")
    path.write_text("\n".join([drill.heading(), *found]) + "\n")
    print(f"the table is in {path}")


@pytest.mark.parametrize(("lab", "fault"), drill.WITH_SHAPES, indirect=["lab"], scope="module")  # one lab of each
def test_the_first_finding_names_the_fault(lab: Lab, fault: Fault, healthy: drill.Seen, rows: list[str]) -> None:
    """Its own check is first, and nothing is bad that does not follow; a healed mesh has nothing that is not good."""
    began = time.monotonic()
    with broken(lab, fault.name):
        deadline = time.monotonic() + drill.NOTICED
        while (seen := drill.Seen(drill.check(lab), {}, [])).first["id"] != fault.finding or seen.apart:
            if time.monotonic() > deadline:  # an istiod that a fault restarts is away for a moment: that passes
                break
        found = look(lab, seen.findings)
    found.seconds = time.monotonic() - began
    rows.append(drill.row(fault.name, found, healthy))
    print(rows[-1], *drill.bad(seen.findings), sep="\n")
    assert found.first["id"] == fault.finding, drill.bad(found.findings)
    assert found.apart == [], drill.bad(found.apart)
    deadline = time.monotonic() + drill.NOTICED
    while told := drill.bad(drill.check(lab)):
        assert time.monotonic() < deadline, told
