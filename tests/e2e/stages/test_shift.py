"""Stage 10 on the real mesh: the server away and back once, under traffic; held where it were an outage; killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from meshkit.changes import temporary
from meshkit.changes.plan import Plan
from meshkit.checks.finding import Finding, Verdict, holding, overall
from meshkit.kube.mesh import Mesh
from meshkit.notebook import timeline
from meshkit.probing import load_generator
from meshkit.spec import MeshSpec
from meshkit.stages import shift
from tests.support.api_server import free_port, write_kubeconfig
from tests.support.healthy import judged
from tests.support.lab import Lab, until

pytestmark = pytest.mark.lab

PASS, FAIL, UNKNOWN, SKIPPED = Verdict.PASS, Verdict.FAIL, Verdict.UNKNOWN, Verdict.SKIPPED
CONTEXTS = ("lab-east", "lab-west")
SAMPLE = ("-n", "sample")
RULES = "destinationrules.networking.istio.io"
ANOTHER: dict[str, Any] = {
    "apiVersion": "networking.istio.io/v1",
    "kind": "DestinationRule",
    "metadata": {"name": "others", "namespace": "sample"},
    "spec": {"host": "httpbin.sample.svc.cluster.local", "trafficPolicy": {"connectionPool": {"tcp": {}}}},
}
LONG = """
import sys
from meshkit import Mesh
from meshkit.stages import shift
mesh = Mesh.open(sys.argv[1])
facts, traffic = shift.look(mesh), shift.Traffic(mesh)
with traffic.sending("apply"):
    shift.plan(mesh, facts, traffic, hold=60).carry_out("apply", gates=shift.check(mesh, facts))
"""


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Journals go where the test ends."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def mesh(meshed_lab: Lab) -> Mesh:
    """The lab's mesh, every server there and known to every client."""
    found = Mesh.open(meshed_lab.mesh_file)

    def usual() -> bool:
        rows = shift.look(found).endpoints
        healthy = rows[rows["health"] == "HEALTHY"]
        return set(zip(healthy["client"], healthy["where"], strict=True)) == {
            (name, where) for name in found.clusters for where in ("own", "elsewhere")
        }

    until(usual, "every client knows both servers")
    return found


def carried_out(
    mesh: Mesh, mode: str = "apply", hold: float = 5.0
) -> tuple[Plan, load_generator.Traffic, list[Finding]]:
    """Do what the notebook does."""
    facts, traffic = shift.look(mesh), load_generator.Traffic(mesh)
    findings = shift.check(mesh, facts, mode)
    plan = shift.plan(mesh, facts, traffic, hold)
    with traffic.sending(mode, holding(findings)):
        plan.carry_out(mode, gates=findings)
    return plan, traffic, [*findings, *shift.prove(mesh, facts, plan, traffic)]


def rules(lab: Lab) -> list[str]:
    """Return the DestinationRules of both clusters."""
    found = (lab.kubectl(context, "get", RULES, "-A", "-o", "name").split() for context in CONTEXTS)
    return [name for names in found for name in names]


def versions(lab: Lab) -> list[tuple[str, int]]:
    """Return each Deployment of the sample, and which specification of it this is."""
    found = []
    for context in CONTEXTS:
        items = json.loads(lab.kubectl(context, *SAMPLE, "get", "deployments", "-o", "json"))["items"]
        found += [(i["metadata"]["uid"], i["metadata"]["generation"]) for i in items]
    return found


def replicas(lab: Lab) -> int:
    """Return how many servers east is to have."""
    return int(lab.kubectl("lab-east", *SAMPLE, "get", "deployment", "httpbin", "-o", "jsonpath={.spec.replicas}"))


@contextmanager
def watched(lab: Lab) -> Iterator[list[str]]:
    """Watch east's server with kubectl; afterwards the list has each number of replicas that was wanted, in order."""
    seen: list[str] = []
    what = (
        "get",
        "deployment",
        "httpbin",
        "--watch",
        "--output-watch-events",
        "-o",
        r"jsonpath={.object.spec.replicas}{'\n'}",
    )
    command, env = lab.command("kubectl", "--context", "lab-east", *SAMPLE, *what)
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        seen.append(process.stdout.readline().strip())  # from here on it misses nothing
        try:
            yield seen
        finally:
            time.sleep(1)
            process.terminate()
            for number in process.stdout.read().split():
                seen += [number] if seen[-1:] != [number] else []


@contextmanager
def under_way(lab: Lab) -> Iterator[subprocess.Popen[str]]:
    """Run the stage in another process, as far as that the server is away."""
    command = [sys.executable, "-c", LONG, str(lab.mesh_file)]
    with subprocess.Popen(command, env={**os.environ, "PYTHONPATH": "."}, text=True, stderr=subprocess.PIPE) as process:
        try:
            until(lambda: replicas(lab) == 0, "the server is away", 60)
            assert len(rules(lab)) == 2
            yield process
        finally:
            process.kill()


def test_plan_mode_sends_and_changes_nothing(meshed_lab: Lab, mesh: Mesh) -> None:
    """What it would draw is drawn at once, and empty."""
    before = versions(meshed_lab)
    plan, traffic, findings = carried_out(mesh, "plan")
    assert [(c.cluster, c.action) for c in plan.changes] == [
        ("east", "create"), ("west", "create"), ("east", "scale"), ("east", "scale"),
    ]  # fmt: skip
    assert {f.verdict for f in findings} == {PASS, SKIPPED}
    assert not traffic.sent
    began = time.monotonic()
    assert timeline.requests_over_time(traffic.requests(), traffic.marks, title="none")._repr_png_()
    assert time.monotonic() - began < 3
    assert (rules(meshed_lab), versions(meshed_lab)) == ([], before)


def test_the_others_answer_while_the_server_is_away_and_it_goes_once(meshed_lab: Lab, mesh: Mesh) -> None:
    """Everything is reverted, and no request fails."""
    with watched(meshed_lab) as seen:
        plan, traffic, findings = carried_out(mesh)
    assert overall(findings) is PASS, [f for f in findings if f.verdict is not PASS]
    assert seen == ["1", "0", "1"]
    assert {c.status for c in plan.changes} == {"undone"}
    assert rules(meshed_lab) == []
    table = traffic.table()
    away = table[table["time"].between(*(traffic.marks[n][0] for n in (2, 3))) & (table["client"] == "east")]
    assert set(away["answered_in"].tail(30)) == {"west"}
    assert not table["error"].any()
    assert temporary.recover(mesh, "apply") == 0


def held(lab: Lab, mesh: Mesh, number: str) -> list[Finding]:
    """Carry the stage out, which a check holds: nothing is sent, and nothing changes."""
    before = versions(lab), rules(lab)
    plan, traffic, findings = carried_out(mesh)
    assert judged(findings, number, "east") == [FAIL], findings
    assert {c.status for c in plan.changes} <= {"held"}
    assert not traffic.sent
    assert (versions(lab), rules(lab)) == before
    return findings


def test_another_rule_for_the_host_holds_it(meshed_lab: Lab, mesh: Mesh) -> None:
    """It is named, and stays."""
    meshed_lab.kubectl("lab-east", "apply", "-f", "-", stdin=json.dumps(ANOTHER))
    try:
        findings = held(meshed_lab, mesh, "MK1001")
        assert "sample/others (httpbin.sample" in next(f.observed for f in findings if f.verdict is FAIL)
    finally:
        meshed_lab.kubectl("lab-east", *SAMPLE, "delete", RULES, "others")


def test_that_nobody_else_could_answer_holds_it(meshed_lab: Lab, mesh: Mesh) -> None:
    """West's server is gone, so east's client knows its own only."""
    scale = (*SAMPLE, "scale", "deployment/httpbin")
    meshed_lab.kubectl("lab-west", *scale, "--replicas=0")
    try:
        until(lambda: "elsewhere" not in _known(mesh, "east"), "east forgets west's server")
        held(meshed_lab, mesh, "MK1005")
    finally:
        meshed_lab.kubectl("lab-west", *scale, "--replicas=1")
        meshed_lab.kubectl("lab-west", *SAMPLE, "rollout", "status", "deployment/httpbin", "--timeout=60s")


def test_a_dead_cluster_holds_it(meshed_lab: Lab, mesh: Mesh, tmp_path: Path) -> None:
    """Nobody knows whether it could answer; east stays as it is."""
    dead = write_kubeconfig(tmp_path / "dead", f"https://127.0.0.1:{free_port()}", None, {"lab-west": "x"})
    document = yaml.safe_load(meshed_lab.mesh_file.read_text())
    document["clusters"][1]["kubeconfig"] = str(dead)
    before = versions(meshed_lab)
    plan, traffic, findings = carried_out(Mesh.open(MeshSpec.parse(document, where="test"), timeout=3))
    for number in ("MK1001", "MK1002", "MK1004"):
        assert (judged(findings, number, "east"), judged(findings, number, "west")) == ([PASS], [UNKNOWN])
    assert ({c.status for c in plan.changes}, traffic.sent) == ({"held"}, False)
    assert (rules(meshed_lab), versions(meshed_lab)) == ([], before)


def _known(mesh: Mesh, client: str) -> set[str]:
    rows = shift.look(mesh).endpoints
    return set(rows[rows["client"] == client]["where"])


def test_what_a_killed_run_left_is_reverted_by_the_next(
    meshed_lab: Lab, mesh: Mesh, capsys: pytest.CaptureFixture[str]
) -> None:
    """Until then the checks hold the stage; in plan mode it is only named."""
    with under_way(meshed_lab) as process:
        process.kill()
    until(lambda: "own" not in _known(mesh, "east"), "east's server is gone")
    assert temporary.recover(mesh, "plan") == 3
    assert "an earlier run left east: scale Deployment sample/httpbin" in capsys.readouterr().out
    assert (replicas(meshed_lab), len(rules(meshed_lab))) == (0, 2)
    assert judged(shift.check(mesh, shift.look(mesh)), "MK1002", "east") == [FAIL]
    with watched(meshed_lab) as seen:
        assert temporary.recover(mesh, "apply") == 3
    assert (seen, rules(meshed_lab)) == (["0", "1"], [])
    assert judged(shift.check(mesh, shift.look(mesh)), "MK1002", "east") == [PASS]


@pytest.mark.drill
def test_an_interrupt_takes_everything_back(meshed_lab: Lab, mesh: Mesh) -> None:
    """Before the process ends."""
    with under_way(meshed_lab) as process:
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert "KeyboardInterrupt" in said
    assert (replicas(meshed_lab), rules(meshed_lab)) == (1, [])
    assert temporary.recover(mesh, "apply") == 0
