"""Faults that fail no call while a local endpoint answers: each turns the audit red, in its own pair, until healed."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from meshkit.checks import question
from meshkit.checks.finding import Finding, Verdict, overall
from meshkit.istio.proxies import reading as proxies_reading
from meshkit.kube.mesh import Mesh
from meshkit.snapshot.snapshot import VERIFIED, Snapshot
from meshkit.stages import observe, verify
from tests.support.lab import Lab, broken, until

pytestmark = pytest.mark.lab

EAST_WEST, WEST_EAST = question.arrow("east", "west"), question.arrow("west", "east")


@dataclass(frozen=True)
class Fault:
    """A fault of the lab, made in west: the findings that name the cause, and the pairs that break."""

    name: str
    causes: set[tuple[str, str]]
    pairs: set[str] = field(default_factory=lambda: {EAST_WEST})


FAULTS = [
    Fault("gateway-without-network-label", {("MK805", "west"), ("MK806", EAST_WEST), ("MK812", EAST_WEST)}),
    Fault("exposure-missing", {("MK805", "west"), ("MK811", EAST_WEST)}),
    Fault("secret-in-wrong-namespace", {("MK832", EAST_WEST), ("MK804", EAST_WEST), ("MK811", EAST_WEST)}),
    Fault("revoked-credential", {("MK803", EAST_WEST)}),
    Fault("gateway-down", {("MK805", "west"), ("MK811", EAST_WEST)}),
    # What is refused is one proxy's matter, and what it took before goes on working.
    Fault("nacked-envoyfilter", {("MK901", "west")}, set()),
    Fault(
        "different-roots",
        {("MK807", "east"), ("MK807", "west"), ("MK811", EAST_WEST), ("MK811", WEST_EAST)},
        {EAST_WEST, WEST_EAST},
    ),
]


def seen(lab: Lab) -> list[Finding]:
    """Return the findings of both stages before any traffic."""
    mesh = Mesh.open(lab.mesh_file)
    return [*verify.check(mesh, Snapshot(mesh).read(*VERIFIED)), *observe.check(mesh, proxies_reading.look(mesh))]


def audit(lab: Lab) -> list[Finding]:
    """Return the findings of both stages, but for the measuring."""
    mesh = Mesh.open(lab.mesh_file)
    facts = Snapshot(mesh).read(*VERIFIED)
    told = [*verify.check(mesh, facts), *observe.check(mesh, proxies_reading.look(mesh))]
    return [*told, *verify.prove(mesh, facts, verify.try_pairs(mesh, 3))]


def failed(findings: list[Finding]) -> set[tuple[str, str]]:
    """Return id and subject of all that failed."""
    return {(f.id, f.subject) for f in findings if f.verdict is Verdict.FAIL}


def bad(findings: list[Finding]) -> list[str]:
    """Return all findings that are not good, as lines."""
    good = (Verdict.PASS, Verdict.SKIPPED)
    return [f"{f.verdict} {f.id} [{f.subject}] {f.observed}" for f in findings if f.verdict not in good]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_each_fault_turns_the_audit_red_in_its_own_pair_until_it_is_healed(meshed_lab: Lab, fault: Fault) -> None:
    """The cause is named, no other pair blamed, nothing unknown, and the healed mesh is green without a warning."""
    visible = {cause for cause in fault.causes if not cause[0].startswith("MK81")}
    with broken(meshed_lab, fault.name):
        until(lambda: visible <= failed(seen(meshed_lab)), f"failed: {visible}")
        began = time.monotonic()
        findings = audit(meshed_lab)
        print(f"red in {time.monotonic() - began:.1f} s", *bad(findings), sep="\n  ")
        assert fault.causes <= failed(findings), bad(findings)
        assert {subject for _, subject in failed(findings) if "→" in subject} == fault.pairs
        assert not [f for f in findings if f.verdict is Verdict.UNKNOWN], bad(findings)
    until(lambda: overall(seen(meshed_lab)) is Verdict.PASS, "green again", 60)
    assert bad(audit(meshed_lab)) == []


def test_two_audits_by_the_command_line_say_red_then_green_and_what_changed(meshed_lab: Lab, tmp_path: Path) -> None:
    """Exit codes, records, JUnit and reports of a broken and a healed mesh agree, and their evidence verifies."""
    small = ("--out", str(tmp_path), "-p", "samples", "40", "-p", "calls", "3")
    with broken(meshed_lab, "gateway-without-network-label"):
        until(lambda: ("MK806", EAST_WEST) in failed(seen(meshed_lab)), "the fault is seen")
        first = meshkit("audit", str(meshed_lab.mesh_file), *small)
    assert first.returncode == 1, first.stderr
    until(lambda: overall(seen(meshed_lab)) is Verdict.PASS, "green again", 60)
    second = meshkit("audit", str(meshed_lab.mesh_file), *small)
    assert second.returncode == 0, second.stderr
    red, green = (Path(done.stdout.strip()) for done in (first, second))
    assert record(red) == (1, ["failed", "failed"])
    assert record(green) == (0, ["passed", "passed"])
    failures = [name for name, told in cases(red) if "failure" in told]
    assert f"istiod knows the other network's gateway [{EAST_WEST}]" in failures
    assert not any(WEST_EAST in name for name in failures), failures
    assert {word for _, told in cases(green) for word in told} <= {"skipped"}
    assert (red / "report.html").stat().st_size > 10_000
    report = (green / "report.html").read_text()
    assert f'Compared with <a href="../{red.name}/report.html">' in report
    assert "MK806" in report
    for run in (red, green):
        assert meshkit("record", "verify", str(run)).returncode == 0


def meshkit(*argv: str) -> subprocess.CompletedProcess[str]:
    """Run the real command line."""
    command = [sys.executable, "-m", "meshkit", *argv]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)


def record(run: Path) -> tuple[int, list[str]]:
    """Return exit code and the stages' states of a run's record."""
    told = json.loads((run / "record.json").read_text())
    return told["exit_code"], [stage["status"] for stage in told["stages"]]


def cases(run: Path) -> list[tuple[str, list[str]]]:
    """Return the test cases of a run's JUnit file, each with what is said of it."""
    found = ET.parse(run / "junit.xml").iter("testcase")  # noqa: S314  (our own file)
    return [(case.get("name", ""), [told.tag for told in case]) for case in found]
