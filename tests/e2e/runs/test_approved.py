"""A plan that others approved, and an apply of that and nothing else, on two bare clusters of the lab: stage 02."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from meshkit import attestation
from tests.e2e.runs.test_migration import meshkit
from tests.support.lab import Lab

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]
STAGE = ("--only", "02")
NAMESPACES = ("istio-system", "sample")


def key(folder: Path, name: str) -> str:
    """Write a person's key, and return its line for the mesh file."""
    made = Ed25519PrivateKey.generate()
    coding = (serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption())
    (folder / name).write_bytes(made.private_bytes(*coding))
    return attestation.line_of(made.public_key(), name)


@pytest.fixture
def mesh_file(empty_lab: Lab, tmp_path: Path) -> str:
    """A mesh file whose changes ann and ben have to approve."""
    document = yaml.safe_load(empty_lab.mesh_file.read_text())
    document["approvals"] = {"needed": 2, "keys": [key(tmp_path, name) for name in ("ann", "ben")]}
    path = empty_lab.home / "approved.yaml"
    path.write_text(yaml.safe_dump(document))
    return str(path)


def namespaces(lab: Lab) -> list[str]:
    """Return which of the mesh's namespaces are there, by context."""
    found = {
        c: json.loads(lab.kubectl(c, "get", "namespaces", "-o", "json"))["items"] for c in ("lab-east", "lab-west")
    }
    return [f"{c} {n['metadata']['name']}" for c, items in found.items() for n in items
            if n["metadata"]["name"] in NAMESPACES]  # fmt: skip


def say(*argv: str) -> str:
    """Run a command that has no run folder of its own, which must succeed; returns what it printed."""
    return subprocess.run([sys.executable, "-m", "meshkit", *argv], capture_output=True, text=True, check=True).stdout


def approve(state: Path, run: Path, name: str) -> None:
    """Approve a run's plan by somebody's key."""
    say("approve", str(run), "--as", name, "--key", str(state / name), "--ticket", "CHG-1")


def test_what_two_approved_is_applied_and_nothing_else(empty_lab: Lab, mesh_file: str, tmp_path: Path) -> None:
    """Unapproved, half approved and drifted it is refused before the first change."""
    run = meshkit(tmp_path, "run", mesh_file, *STAGE)
    assert run.code == 0, run.said
    planned = json.loads((run.folder / "plan.json").read_text())["changes"]
    assert {(c["stage"], c["action"]) for c in planned} == {("02 prepare", "create")}

    apply = ("run", mesh_file, "--mode", "apply")
    assert (meshkit(tmp_path, *apply).code, namespaces(empty_lab)) == (2, [])
    approved = (*apply, "--approved", str(run.folder))
    approve(tmp_path, run.folder, "ann")
    half = meshkit(tmp_path, *approved)
    assert (half.code, "2 approvals are needed, 1 count: ann" in half.said) == (2, True), half.said
    approve(tmp_path, run.folder, "ben")

    empty_lab.kubectl("lab-west", "create", "namespace", "sample")
    drifted = meshkit(tmp_path, *approved)
    assert (drifted.code, "west: create Namespace sample: it was approved" in drifted.said) == (1, True), drifted.said
    assert namespaces(empty_lab) == ["lab-west sample"]
    empty_lab.kubectl("lab-west", "delete", "namespace", "sample")

    done = meshkit(tmp_path, *approved)
    assert done.code == 0, done.said
    assert len(namespaces(empty_lab)) == 4
    assert {one["listed"] for one in done.record["approved"]["approvals"]} == {"ann", "ben"}
    assert say("record", "verify", str(run.folder)).count("approved by") == 2
    undone = meshkit(tmp_path, "undo", str(done.folder), "--mode", "apply")
    assert (undone.code, namespaces(empty_lab)) == (0, []), undone.said
