"""A snapshot of the real lab: its file gives the findings of the live mesh, healthy and with a fault; no secrets."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from meshkit import clock
from meshkit.checks import audit, pairs
from meshkit.checks.finding import Finding, Verdict
from meshkit.kube.mesh import Mesh
from meshkit.snapshot.snapshot import Snapshot
from tests.e2e.checks.test_audit import canaries, fragments, public_text
from tests.support.lab import Lab, broken

pytestmark = pytest.mark.lab

MOST_BYTES = 200_000
MOST_SECONDS = 30.0
FAULT, CHECK = "gateway-down", "MK805"
Verdicts = dict[tuple[str, str], str]


def verdicts(findings: list[Finding]) -> Verdicts:
    """Return the verdict of each finding."""
    return {(f.id, f.subject): f.verdict.value for f in findings}


def meshkit(*argv: str, kubeconfig: str = "/nowhere") -> subprocess.CompletedProcess[str]:
    """Run the real command line without a kubeconfig."""
    environment = {**os.environ, "KUBECONFIG": kubeconfig}
    command = [sys.executable, "-m", "meshkit", *argv]
    return subprocess.run(command, capture_output=True, text=True, timeout=180, check=False, env=environment)


def of_pairs(facts: Snapshot) -> list[Finding]:
    """Return what `meshkit pairs` judges."""
    with clock.at(facts.taken):
        return pairs.check_all(facts.mesh, facts, facts.sent)


def kept(lab: Lab, path: Path) -> tuple[Snapshot, Snapshot]:
    """Take a snapshot, write it, and return both: as it was taken, and as the file has it."""
    live = Snapshot(Mesh.open(lab.mesh_file))
    began = time.monotonic()
    findings = audit.check(live.read())
    took = time.monotonic() - began
    size = live.write(path)
    requests = {name: cluster.requests for name, cluster in live.mesh.clusters.items()}
    print(f"check: {took:.1f} s, requests {requests}; file: {size:,} bytes, {len(findings)} findings")
    assert size <= MOST_BYTES
    assert took <= MOST_SECONDS
    return live, Snapshot.load(path)


def same(live: Snapshot, file: Snapshot) -> list[Finding]:
    """Return the findings, which both give; and both show the same proxies and pairs."""
    findings = audit.check(live)
    assert audit.check(file) == findings
    assert of_pairs(file) == of_pairs(live)
    pd.testing.assert_frame_equal(file.proxies().proxies, live.proxies().proxies)
    pd.testing.assert_frame_equal(audit.in_order(file.mesh, findings), audit.in_order(live.mesh, findings))
    return findings


def test_a_healthy_mesh_is_healthy_by_its_file(meshed_lab: Lab, tmp_path: Path) -> None:
    """Finding by finding; another live check agrees, and nothing that a reading says is taken for a secret."""
    live, file = kept(meshed_lab, tmp_path / "healthy.json.gz")
    findings = same(live, file)
    assert {f.verdict for f in findings} <= {Verdict.PASS, Verdict.SKIPPED, Verdict.WARN}
    assert verdicts(audit.check(audit.look(Mesh.open(meshed_lab.mesh_file)))) == verdicts(findings)
    assert [one for one in file.left_out if one.reading != "mesh"] == []


def test_no_secret_of_the_lab_is_in_the_file(meshed_lab: Lab, tmp_path: Path) -> None:
    """Tokens, keys and kubeconfigs of all clusters: whole, encoded, or in pieces."""
    path = tmp_path / "snapshot.json"
    Snapshot(Mesh.open(meshed_lab.mesh_file)).read().write(path)
    content, public = path.read_bytes(), public_text(meshed_lab)
    pieces = {piece for secret in canaries(meshed_lab) for piece in fragments(secret) if len(piece) >= 16}
    assert len(pieces) > 10
    assert [piece for piece in pieces if piece in content and piece not in public] == []


def test_requests_between_pairs_are_part_of_it_once_they_were_sent(meshed_lab: Lab, tmp_path: Path) -> None:
    """With the answers that came then."""
    live = Snapshot(Mesh.open(meshed_lab.mesh_file)).try_pairs(8)
    live.write(tmp_path / "pairs.json.gz")
    file = Snapshot.load(tmp_path / "pairs.json.gz")
    assert of_pairs(file) == of_pairs(live)
    answers = [f for f in of_pairs(file) if f.id == "MK811"]
    assert len(answers) == 2
    assert [f for f in answers if f.verdict is not Verdict.PASS] == []


def test_a_fault_can_be_looked_at_after_it_was_healed(meshed_lab: Lab, tmp_path: Path) -> None:
    """By the command line on a machine without clusters; the change since the healthy mesh is shown."""
    before, during = tmp_path / "before.json.gz", tmp_path / "during.json.gz"
    kept(meshed_lab, before)
    with broken(meshed_lab, FAULT):
        live, file = kept(meshed_lab, during)
        findings = same(live, file)
        own = {name: meshkit(name, str(meshed_lab.mesh_file), *more, kubeconfig=str(meshed_lab.kubeconfig))
               for name, more in (("check", ()), ("pairs", ("--samples", "0")))}  # fmt: skip
    assert (CHECK, Verdict.FAIL) in {(f.id, f.verdict) for f in findings}
    for name, done in own.items():
        replayed = meshkit(name, "--snapshot", str(during))
        assert (replayed.returncode, done.returncode) == (1, 1), (name, replayed.stderr, done.stderr)
    changes = json.loads(meshkit("record", "diff", str(before), str(during), "-o", "json").stdout)
    assert CHECK in {row["id"] for row in changes if row["now"] == "fail"}
    since = meshkit("check", "--snapshot", str(during), "--since", str(before), "-o", "json")
    assert json.loads(since.stdout) == changes
    assert json.loads(gzip.decompress(during.read_bytes()))["schema"] == "meshkit.snapshot/1"


def test_by_hand_and_by_command_it_is_the_same_file(meshed_lab: Lab, tmp_path: Path) -> None:
    """`meshkit gather` writes every reading that changes nothing, for nobody else to read."""
    path = tmp_path / "gathered.json.gz"
    done = meshkit("gather", str(meshed_lab.mesh_file), "-o", str(path), kubeconfig=str(meshed_lab.kubeconfig))
    assert done.returncode == 0, done.stderr
    assert Snapshot.load(path).known.keys() == {name for name, one in Snapshot.readings().items() if not one.tried}
    assert path.stat().st_mode & 0o077 == 0
