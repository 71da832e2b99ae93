"""A remedy is a command that was run: each fault's is followed as it stands, and then its check passes.

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
from meshlab.faults.catalogue import KNOWN, find
from meshlab.faults.fault import Fault
from meshlab.layout import tool_path

from tests.support import drill
from tests.support.lab import Lab, broken

pytestmark = [pytest.mark.lab, pytest.mark.drill, pytest.mark.timeout(600)]
CHOSEN = [find(name) for name in (os.environ.get("MESHKIT_TEST_FAULTS") or ",".join(KNOWN)).split(",")]
STAGE = re.compile(r"[Rr]un stage (\d\d)")
BEGINS = re.compile(r"(?<![\w./-])(?:kubectl|istioctl|helm|meshkit) (?=[a-z-])")
ENDS = re.compile(r"`|; |, (?=[a-z])|\.? *$|: (?=[a-z])| \(")
LOOKS = re.compile(r" (get|describe|logs|edit|remote-clusters|proxy-status|proxy-config) ")
"""A command that changes nothing by itself."""
BLANK = re.compile(r"(?<=[ /=])[A-Z][A-Z_]+\b(?![=.])|…")
"""What the reader has to fill in."""
BY_HAND: dict[str, str] = {}
"""Faults whose remedy no command of ours can be, and what it is."""
Finding = dict[str, Any]


def commands(remedy: str) -> list[str]:
    """Return the commands of a remedy, in order; pipes stay whole. `run stage NN` is one of ours."""
    remedy, found, at = STAGE.sub(r"meshkit run MESH.yaml --only \1 --mode apply; ", remedy), [], 0
    while begins := BEGINS.search(remedy, at):
        ends = ENDS.search(remedy, begins.end())
        at = ends.start() if ends else len(remedy)
        found.append(remedy[begins.start() : at].strip())
    return found


@pytest.mark.parametrize(
    ("remedy", "expected"),
    [
        ("kubectl --context a label namespace x l=v", ["kubectl --context a label namespace x l=v"]),
        ("`kubectl get pods -A` shows why; then `istioctl version`", ["kubectl get pods -A", "istioctl version"]),
        ("in west: istioctl x --name w | kubectl apply -f -; wait", ["istioctl x --name w | kubectl apply -f -"]),
        ("open the firewall", []),
        ("run stage 07: it makes one", ["meshkit run MESH.yaml --only 07 --mode apply"]),
    ],
)
def test_commands_of_a_remedy(remedy: str, expected: list[str]) -> None:
    """Those in backticks, and those that stand alone."""
    assert commands(remedy) == expected


@pytest.fixture(scope="module")
def rows() -> Iterator[dict[str, str]]:
    """What following each remedy did; it is printed, and written as a table."""
    found: dict[str, str] = {}
    yield found
    lines = ["| fault | check | commands of its remedy | then |", "|---|---|---|---|", *found.values(), ""]
    Path(os.environ.get("MESHKIT_TEST_TABLE") or "/dev/null").write_text("\n".join(lines))


@pytest.mark.parametrize("fault", CHOSEN, ids=lambda fault: fault.name)
def test_the_remedy_ends_the_finding(meshed_lab: Lab, fault: Fault, rows: dict[str, str]) -> None:
    """The commands of the first finding's remedy end it, and every other finding that is not good with it."""
    with broken(meshed_lab, fault.name):
        found = of_fault(meshed_lab, fault)
        remedies = list(dict.fromkeys(f["remedy"] for f in found))
        chosen = list(dict.fromkeys(one for remedy in remedies for one in commands(remedy)))
        said = [f"`{one}`: {follow(meshed_lab, one)}" for one in chosen]
        print(fault.name, *remedies, *said, sep="\n")
        left = still(meshed_lab, fault) if any(not LOOKS.search(one) for one in chosen) else remedies
        rows[fault.name] = f"| `{fault.name}` | {fault.finding} | {'<br>'.join(said)} | {'<br>'.join(left) or 'good'} |"
        print(rows[fault.name])
    if fault.name not in BY_HAND:
        assert chosen
        assert left == []


def of_fault(lab: Lab, fault: Fault) -> list[Finding]:
    """Return the findings of the fault's own check, as soon as they are there."""
    deadline = time.monotonic() + drill.NOTICED
    while not (found := [f for f in drill.check(lab) if f["id"] == fault.finding and f["verdict"] not in drill.GOOD]):
        assert time.monotonic() < deadline, f"{fault.finding} says nothing of {fault.name}"
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


def still(lab: Lab, fault: Fault) -> list[str]:
    """Return what is still said of the fault when it should be over."""
    deadline = time.monotonic() + drill.NOTICED
    while True:
        told = [f for f in drill.check(lab) if f["verdict"] not in drill.GOOD]
        left = drill.bad([f for f in told if f["id"] == fault.finding])
        if not left or time.monotonic() > deadline:
            return left
