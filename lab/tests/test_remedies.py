"""A remedy is a command that was run: each is followed as it stands, and then its check passes.

The catalogue of checks says of each whether it is followed here (`remedy: drill`), or why it cannot be.
$MESHKIT_TEST_FAULTS chooses the faults, as in test_drills; the table goes to $MESHKIT_TEST_TABLE.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from meshlab.faults import drills
from meshlab.faults.bench import Note
from meshlab.faults.fault import Fault
from meshlab.layout import Settings, tool_path

from meshkit.checks.remedy import commands
from tests.support import drill
from tests.support.lab import Lab, in_folder
from tests.support.remedies import BROKEN, BY_HAND

pytestmark = [pytest.mark.lab, pytest.mark.drill, pytest.mark.timeout(600)]
STAGE = re.compile(r"[Rr]un stage (\d\d)")
SETTLES = 60.0
LOOKS = re.compile(r" (get|describe|logs|edit|remote-clusters|proxy-status|proxy-config) ")
"""A command that changes nothing by itself."""
BLANK = re.compile(r"(?<=[ /=])[A-Z][A-Z_]+\b(?![=.])|…")
"""What the reader has to fill in."""
Finding = dict[str, Any]


def of_stages(remedy: str) -> str:
    """Return a remedy in which `run stage NN` is the command that it means."""
    return STAGE.sub(r"`meshkit run MESH.yaml --only \1 --mode apply`", remedy)


@pytest.fixture(scope="module")
def rows() -> Iterator[dict[str, str]]:
    """What following each remedy did; it is printed, and written as a table."""
    found: dict[str, str] = {}
    yield found
    lines = ["| fault | check | commands of its remedy | then |", "|---|---|---|---|", *found.values(), ""]
    Path(os.environ.get("MESHKIT_TEST_TABLE") or "/dev/null").write_text("\n".join(lines))


@pytest.fixture(scope="module")
def labs(short_folder: Path) -> Iterator[list[Lab]]:
    """The meshed lab that runs, if one does: where a remedy left another mesh, the next test starts a new one."""
    running: list[Lab] = []
    yield running
    for each in running:
        each.stop()


@pytest.fixture
def lab(request: pytest.FixtureRequest, labs: list[Lab], short_folder: Path) -> Lab:
    """A healthy meshed lab, of the shape that a fault needs."""
    shape = getattr(request, "param", "")
    shapes = (shape,) if shape else ()
    if labs and Settings.load(labs[0].home).shapes != shapes:
        labs.pop().stop()
    if not labs:
        made = Lab(short_folder / "remedies")
        made.start("meshed", shapes=shapes)
        labs.append(made)
    return labs[0]


@pytest.mark.parametrize("check", BROKEN)
def test_the_remedy_ends_what_commands_broke(lab: Lab, check: str, labs: list[Lab]) -> None:
    """The remedy of the check that fails after them is followed, and nothing is left that is not good."""
    for command in BROKEN[check]:
        assert follow(lab, command) == "exit 0"
    found = of_check(lab, check)
    said = {one: follow(lab, one) for f in found for one in commands(of_stages(f["remedy"]))}
    print(check, *(f["remedy"] for f in found), said, sep="\n")
    if left := still(lab):
        labs.remove(lab)
        lab.stop()
    assert said
    assert left == []


@pytest.mark.parametrize(("lab", "fault"), drill.WITH_SHAPES, indirect=["lab"])
def test_the_remedy_ends_the_finding(lab: Lab, fault: Fault, labs: list[Lab], rows: dict[str, str]) -> None:
    """The commands of the first finding's remedy end it, and every other finding that is not good with it."""
    with in_folder(lab.home):
        drills.break_(fault.name, "west", print)
    found = of_check(lab, fault.finding)
    remedies = list(dict.fromkeys(f["remedy"] for f in found))
    chosen = list(dict.fromkeys(one for remedy in remedies for one in commands(of_stages(remedy))))
    said = [f"`{one}`: {follow(lab, one)}" for one in chosen]
    left = still(lab) if any(" apply " in one or not LOOKS.search(one) for one in chosen) else remedies
    rows[fault.name] = f"| `{fault.name}` | {fault.finding} | {'<br>'.join(said)} | {'<br>'.join(left) or 'good'} |"
    print(fault.name, *remedies, rows[fault.name], sep="\n")
    if fault.name in BY_HAND:
        with in_folder(lab.home):
            drills.heal([fault.name], print)
    elif left == []:
        Note(lab.home, fault.name).end()  # it is healed by its remedy: nothing is to be reverted
    else:
        labs.remove(lab)
        lab.stop()
    if fault.name not in BY_HAND:
        assert chosen
        assert left == []


def of_check(lab: Lab, check: str) -> list[Finding]:
    """Return the findings of a check that are not good, as soon as they are there."""
    deadline = time.monotonic() + drill.NOTICED
    while not (found := [f for f in drill.check(lab) if f["id"] == check and f["verdict"] not in drill.GOOD]):
        assert time.monotonic() < deadline, f"{check} says nothing"
    return found


def follow(lab: Lab, command: str) -> str:
    """Run a command as a reader of the remedy would; returns how it ended."""
    if BLANK.search(command):
        return "left to be filled in"
    if " edit " in command:
        return "an editor"
    path = os.pathsep.join([tool_path(lab.home), str(Path(sys.executable).parent), os.environ["PATH"]])
    done = lab.tool("env", f"PATH={path}", "sh", "-c", command.replace("MESH.yaml", str(lab.mesh_file)), timeout=300)
    return f"exit {done.returncode}" + (f", {done.stderr.strip()[-200:]}" if done.returncode else "")


def still(lab: Lab) -> list[str]:
    """Return what is still said of the mesh when it should be over."""
    deadline = time.monotonic() + SETTLES
    while True:
        left = drill.bad(drill.check(lab))
        if not left or time.monotonic() > deadline:
            return left
