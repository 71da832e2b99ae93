"""A remedy's commands and the words between them."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from meshkit.checks import audit
from meshkit.checks.remedy import commands, steps
from meshkit.snapshot.snapshot import Snapshot

SNAPSHOTS = Path(__file__).parents[2] / "fixtures" / "snapshots"


@pytest.mark.parametrize(
    ("remedy", "expected"),
    [
        ("kubectl --context a label namespace x l=v", ["kubectl --context a label namespace x l=v"]),
        ("`kubectl get pods -A` shows why; then `istioctl version`", ["kubectl get pods -A", "istioctl version"]),
        ("in west: istioctl x --name w | kubectl apply -f -; wait", ["istioctl x --name w | kubectl apply -f -"]),
        ("open the firewall", []),
        ("meshkit evaluates selectors, and no CEL", []),
        ("undo them first: `meshkit undo RUN`, the newest first", ["meshkit undo RUN"]),
        (
            "kubectl get x -o json | jq '{a: b; c}' | kubectl apply -f -",
            ["kubectl get x -o json | jq '{a: b; c}' | kubectl apply -f -"],
        ),
    ],
)
def test_commands_of_a_remedy(remedy: str, expected: list[str]) -> None:
    """Those in backticks, and those that stand alone."""
    assert commands(remedy) == expected


def test_words_stay_in_their_place() -> None:
    """What to look at stands between what to run."""
    remedy = "`kubectl logs i` names the cause; MK803 of this pair; then kubectl delete pod i"
    assert [(step.text, step.command) for step in steps(remedy)] == [
        ("kubectl logs i", True),
        ("names the cause; MK803 of this pair; then", False),
        ("kubectl delete pod i", True),
    ]


@pytest.mark.parametrize("shape", ["mesh-networks", "primary-remote", "two-replicas"])
def test_a_real_meshs_remedies_are_whole_and_a_shell_reads_their_commands(shape: str) -> None:
    """No letter is lost, and each command has a program and its quotes closed."""
    facts = Snapshot.load(SNAPSHOTS / f"{shape}-secret-in-wrong-namespace.json.gz")
    remedies = {finding.remedy for finding in audit.check(facts) if finding.remedy}
    assert any(map(commands, remedies))
    for remedy in remedies:
        told = "".join(step.text for step in steps(remedy))
        assert [c for c in told if c.isalnum()] == [c for c in remedy if c.isalnum()]
        assert {shlex.split(command)[0] for command in commands(remedy)} <= {"kubectl", "istioctl"}
