"""The stages that send requests, undo, or only diagnose: what they send and change, in which mode and order."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from meshkit import stages
from meshkit.changes.change import Change
from meshkit.changes.journal import Journal
from meshkit.changes.plan import Plan
from meshkit.checks.finding import Finding, Verdict
from meshkit.display import RECORD
from meshkit.errors import CheckFailed, InputError
from meshkit.kube.mesh import Mesh
from meshkit.probing.load_generator import Traffic
from meshkit.probing.request_log import Request
from meshkit.stages import observe, shift, troubleshoot, verify
from meshkit.stages.rollback import stage as rollback
from meshkit.stages.trust import proof
from meshkit.stages.trust import stage as trust
from tests.support import healthy

Events = list[tuple[Any, ...]]


def finding(identifier: str, verdict: Verdict = Verdict.PASS, subject: str = "east") -> Finding:
    """Return a finding that says no more than its verdict."""
    return Finding(id=identifier, check="c", subject=subject, expected="e", observed="o", verdict=verdict)


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> Events:
    """Note in their order: requests begin and end, plans are applied; nothing reaches a cluster."""
    noted: Events = []

    @contextlib.contextmanager
    def sending(self: Traffic, mode: str, held_by: Any = ()) -> Iterator[Traffic]:
        noted.append(("requests begin", mode, list(held_by)))
        yield self
        noted.append(("requests end",))

    def carry_out(self: Plan, mode: str, *, gates: Any = (), journal: str = "") -> None:
        noted.append(("applied", mode, [gate.id for gate in gates], journal))

    monkeypatch.setattr(Traffic, "sending", sending)
    monkeypatch.setattr(Plan, "carry_out", carry_out)
    return noted


def planned(mesh: Mesh, stage: str) -> Plan:
    """Return a plan of one change."""
    plan = Plan(mesh, stage)
    plan.changes.append(Change("east", "create", "Secret istio-system/cacerts", "why", diff="+ a", manifests=[{}]))
    return plan


@pytest.mark.parametrize("mode", ["plan", "apply"])
def test_trust_changes_while_requests_are_sent(events: Events, monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    """The checks that failed hold the requests, too; the plan gets the journal."""
    monkeypatch.setattr(trust.istio_trust, "look", lambda _: None)
    monkeypatch.setattr(trust, "check", lambda *_: [finding("MK401"), finding("MK402", Verdict.FAIL)])
    monkeypatch.setattr(trust, "plan", lambda mesh, _: planned(mesh, trust.STAGE))
    monkeypatch.setattr(proof, "watch", lambda mesh, _: Traffic(mesh, clients=["west"]))
    stage = stages.Trust(healthy.mesh(), mode=mode, journal="run")
    stage.look()
    stage.check()
    stage.plan()
    assert events == []
    stage.apply()
    assert events == [
        ("requests begin", mode, ["MK402"]),
        ("applied", mode, ["MK401", "MK402"], "run"),
        ("requests end",),
    ]
    assert stage.traffic.clients == ["west"]


def test_shift_reverts_leftovers_before_it_looks(events: Events, monkeypatch: pytest.MonkeyPatch) -> None:
    """They would count as the usual state; then the server goes away while requests are sent."""
    monkeypatch.setattr(shift.temporary, "recover", lambda _, mode: events.append(("recovered", mode)))
    monkeypatch.setattr(shift, "look", lambda _, cluster: events.append(("looked", cluster)))
    monkeypatch.setattr(shift, "check", lambda *_: [finding("MK1002")])
    given: list[Any] = []

    def plan(mesh: Mesh, _: Any, traffic: Traffic, hold: float) -> Plan:
        given.extend([traffic, hold])
        return planned(mesh, shift.STAGE)

    monkeypatch.setattr(shift, "plan", plan)
    stage = stages.Shift(healthy.mesh(), mode="apply", cluster="west", hold=2.0)
    stage.look()
    stage.check()
    stage.plan()
    stage.apply()
    assert events == [
        ("recovered", "apply"),
        ("looked", "west"),
        ("requests begin", "apply", []),
        ("applied", "apply", ["MK1002"], ""),
        ("requests end",),
    ]
    assert given == [stage.traffic, 2.0], "its waits look at the requests that are sent"


def test_a_wrong_number_stops_before_anything_is_read() -> None:
    """Each says which parameter it is."""
    for make in (
        lambda mesh: stages.Shift(mesh, hold=-1.0),
        lambda mesh: stages.Verify(mesh, calls=0),
        lambda mesh: stages.Observe(mesh, samples=0),
        lambda mesh: stages.Rollback(mesh, consent="no"),
        lambda mesh: stages.Troubleshoot(mesh, symptom="no such thing at all"),
        lambda mesh: stages.Verify(mesh, mode="aply"),
    ):
        with pytest.raises(InputError, match=r"expected|no symptom"):
            make(healthy.mesh())


@pytest.mark.parametrize(("mode", "sent"), [("audit", 1), ("apply", 1), ("plan", 0)])
def test_verify_and_observe_send_in_apply_and_say_so_before(
    monkeypatch: pytest.MonkeyPatch, mode: str, sent: int
) -> None:
    """In mode plan nothing is sent, and no pair passes for want of an answer."""
    opened: list[Mesh] = []

    @contextlib.contextmanager
    def probe(mesh: Mesh) -> Iterator[Any]:
        opened.append(mesh)
        yield type("Probe", (), {"calls": lambda *_: None, "latency": lambda *_: measured})()

    measured = observe.pair_probe.SAMPLES.frame([])
    monkeypatch.setattr(observe.pair_probe, "open", probe)
    monkeypatch.setattr(verify.prometheus, "ask", lambda *_: verify.prometheus.PAIRS.frame([]))
    monkeypatch.setattr(verify, "Snapshot", lambda _: SimpleNamespace(read=lambda *_: healthy.facts()))
    monkeypatch.setattr(observe.reading, "look", lambda *_: None)
    for module in (verify, observe):
        monkeypatch.setattr(module, "check", lambda *_: [finding("MK801")])
    monkeypatch.setattr(verify.checks_pairs, "check", lambda *_: [])
    for stage in (stages.Verify(healthy.mesh(), mode=mode, calls=7), stages.Observe(healthy.mesh(), mode=mode)):
        opened.clear()
        stage.look()
        stage.check()
        told = repr(stage.plan())
        assert opened == []
        assert "2x2 ordered pairs" in told
        assert "a temporary Service meshkit-probe-… for each cluster" in told
        assert told.startswith("mode is plan: nothing is sent") is (mode == "plan")
        stage.apply()
        assert len(opened) == sent
        if isinstance(stage, stages.Verify):
            with pytest.raises(InputError, match=r"prove\(\) must be run before"):
                stage.pair_matrix.show()
        assert [f.verdict for f in stage.prove()] == [Verdict.SKIPPED]
        if isinstance(stage, stages.Verify):
            assert "pair-matrix" in repr(stage.pair_matrix)


def test_troubleshoot_never_applies(events: Events, monkeypatch: pytest.MonkeyPatch) -> None:
    """In mode apply, too, it shows the plan of the stage that fixes the cause; its consequences do not fail."""
    monkeypatch.setattr(troubleshoot.audit, "look", lambda _: None)
    monkeypatch.setattr(troubleshoot, "logs", lambda _: troubleshoot.LOGS.frame([]))
    found = [
        finding("MK803", Verdict.FAIL, "east → west"),
        finding("MK804", Verdict.FAIL, "east → west"),
        finding("MK801"),
    ]
    monkeypatch.setattr(troubleshoot.audit, "check", lambda *_: found)
    monkeypatch.setattr(troubleshoot, "plan", lambda mesh, *_: planned(mesh, troubleshoot.STAGE))
    stage = stages.Troubleshoot(healthy.mesh(), mode="apply", symptom="")
    assert "Nothing was checked yet" in repr(stage.diagnosis)
    assert repr(stage.diagnosis).startswith(Verdict.UNKNOWN.symbol)
    stage.look()
    assert "would hold an apply" not in repr(stage.check())
    assert len(stage.plan().changes) == 1  # type: ignore[attr-defined]
    assert "applies nothing" in repr(stage.apply())
    assert events == []
    assert repr(stage.diagnosis).startswith(
        f"{Verdict.FAIL.symbol} The reason for what is wrong: c [east → west] (MK803)"
    )
    assert stage.symptom.value == "none named: everything is checked"
    with pytest.raises(CheckFailed, match="1 fail"):
        stage.conclude()
    assert {f.id: f.verdict for f in stage.findings} == {
        "MK803": Verdict.FAIL,
        "MK804": Verdict.SKIPPED,
        "MK801": Verdict.PASS,
    }


def test_rollback_is_recorded_in_the_journal_that_it_undoes(
    events: Events, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The newest, unless one is named."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    asked: list[str] = []

    def look(mesh: Mesh, journal: str) -> rollback.RollbackFacts:
        asked.append(journal)
        return rollback.RollbackFacts(Journal.open(mesh.spec.mesh.id, "newest"), rollback.JOURNAL.frame([]), {}, {}, {})

    monkeypatch.setattr(rollback, "look", look)
    monkeypatch.setattr(rollback, "check", lambda *_, consent: [finding("MK1201")] if consent else [])
    monkeypatch.setattr(rollback, "plan", lambda mesh, *_, **__: planned(mesh, rollback.STAGE))
    stage = stages.Rollback(healthy.mesh(), mode="apply", consent=True)
    stage.look()
    stage.check()
    stage.plan()
    stage.apply()
    assert asked == [""]
    assert events == [("applied", "apply", ["MK1201"], "newest")]
    assert stage.book.bundle()[RECORD] == {"name": "journal", "value": "newest"}


def test_a_journal_shows_what_stands_and_no_secret(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """By stage; what the private store holds stays there."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    book = Journal.open("shop", "run")
    facts = {"cluster": "east", "action": "create", "why": "", "manager": "meshkit", "temporary": False}
    for stage, name in (("04 trust", "cacerts"), ("04 trust", "other"), ("07 discovery", "secret")):
        entry = book.begin(
            {"manifests": [{"data": {"key": "c2VjcmV0"}}]}, stage=stage, object=f"Secret a/{name}", **facts
        )
        book.done(entry)
    book.undone(book.entries[0])
    assert repr(book).startswith("journal run: 3 changes, 2 of them not undone\n")
    assert repr(book).splitlines()[2].split()[:4] == ["04", "trust", "2", "1"]
    assert "c2VjcmV0" not in str(book.bundle())


def test_requests_show_who_sent_them_and_who_answered() -> None:
    """Failed ones are counted; of none sent it says so."""
    traffic = Traffic(healthy.mesh())
    assert repr(traffic) == "no request was sent"
    rows = [("east", 200, "httpbin-1"), ("east", 200, "httpbin-1"), ("east", 200, "httpbin-2"), ("west", 503, "")]
    traffic._rows = [
        Request(time=float(n), cluster=client, pod="sleep", status=status, seconds=0.01, answered_by=pod, error="")
        for n, (client, status, pod) in enumerate(rows)
    ]
    traffic._homes = {"httpbin-1": "east", "httpbin-2": "west"}
    assert [line.split() for line in repr(traffic).splitlines()[1:]] == [
        ["east", "3", "0", "east", "2,", "west", "1"],
        ["west", "1", "1"],
    ]
