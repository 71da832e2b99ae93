"""Plan: what is shown is what the server says, what is done is what was shown, and nothing is forced on anyone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from meshkit.changes.journal import Journal
from meshkit.changes.plan import Plan
from meshkit.checks.finding import Finding, Verdict
from meshkit.errors import ChangeError, InputError, UnreachableError
from meshkit.kube.cluster import Cluster
from meshkit.kube.mesh import Mesh
from meshkit.spec import MeshSpec
from tests.support.api_server import TOKENS, ApiServer, free_port, write_kubeconfig
from tests.support.objects import (
    CANARY,
    config_map,
    core,
    create,
    deployment,
    edit,
    labelled,
    live,
    mesh_document,
    there,
)

STAGE = "06 gateways"
VALUES: dict[str, Any] = {
    "kind": "HelmValues",
    "metadata": {"namespace": "istio-system", "name": "istiod"},
    "chart": "istiod",
    "values": {"global": {"network": "net-east"}},
}
MANAGED = {"app.kubernetes.io/managed-by": "meshkit"}


def plan_of(mesh: Mesh, *manifests: dict[str, Any]) -> Plan:
    """Return a plan that wants these objects in east."""
    plan = Plan(mesh, STAGE)
    for manifest in manifests:
        plan.apply("east", manifest, "as the test wants")
    return plan


def lines(name: str = "run") -> list[str]:
    """Return the events of a journal, with what each is about."""
    told = [json.loads(line) for line in Journal.open("shop", name).lines().splitlines()]
    return [f"{t['event']} {t.get('object', t.get('n', ''))}".strip() for t in told if t["event"] != "about"]


def gate(verdict: Verdict) -> Finding:
    """Return a gate that was judged so."""
    return Finding(id="MK801", check="c", subject="s", expected="e", observed="o", verdict=verdict)


class TestShown:
    """What a plan shows, and that showing changes nothing."""

    def test_only_what_would_differ_is_a_change(self, mesh: Mesh, east: Cluster, space: str) -> None:
        """Create, then nothing, then update; each as the server would make it, and noted as ours."""
        first = plan_of(mesh, config_map("x", space, a="1"))
        assert [(c.action, c.object, c.problem) for c in first.changes] == [("create", f"ConfigMap {space}/x", "")]
        assert "+  a: '1'" in first.changes[0].diff
        first.carry_out("apply", journal="run")
        assert live(east, config_map("x", space))["metadata"]["labels"] == MANAGED
        assert plan_of(mesh, config_map("x", space, a="1")).empty
        second = plan_of(mesh, config_map("x", space, a="2"))
        assert second.changes[0].action == "update"
        assert [line for line in second.changes[0].diff.splitlines() if line[0] in "+-"] == ["-  a: '1'", "+  a: '2'"]

    def test_a_plan_changes_no_version_and_no_file(self, mesh: Mesh, east: Cluster, space: str, state: Path) -> None:
        """Create, update, delete, restart and scale are shown; `pending` says that they were not made."""
        made = [create(east, config_map("x", space)), create(east, deployment("app", space))]
        plan = plan_of(mesh, config_map("x", space, a="1"), config_map("new", space))
        plan.delete("east", config_map("x", space), "gone")
        plan.restart("east", "Deployment", space, "app", "anew")
        plan.scale("east", "Deployment", space, "app", 2, "more")
        done = plan.carry_out("plan", journal="run")
        assert list(done["action"]) == ["update", "create", "delete", "restart", "scale"]
        assert set(done["status"]) == {"planned"}
        assert plan.pending
        assert [live(east, m)["metadata"]["resourceVersion"] for m in made] == [
            m["metadata"]["resourceVersion"] for m in made
        ]
        assert not there(east, config_map("new", space))
        assert not state.exists()

    def test_what_is_there_as_wanted_is_no_change(self, mesh: Mesh, east: Cluster, space: str) -> None:
        """Deleting what is not there, scaling to what it has; though others made it."""
        create(east, deployment("app", space, replicas=1))
        plan = plan_of(mesh)
        plan.delete("east", config_map("ghost", space), "gone")
        plan.scale("east", "Deployment", space, "app", 1, "same")
        assert plan.empty
        assert len(plan.carry_out("apply")) == 0
        assert not plan.pending

    def test_no_secret_is_shown(
        self, mesh: Mesh, east: Cluster, space: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Not in diffs, tables, findings, errors, what is printed, nor the journal's lines; only in its store."""
        good = core("Secret", "x", space, stringData={"key": CANARY})
        bad = core("Secret", "y", space, data={"key": f"{CANARY}!not-base64"})
        held = plan_of(mesh, good, bad)
        shown = "".join(repr(c) + c.diff for c in held.changes)
        shown += held.carry_out("apply", journal="run").to_csv() + repr(held.findings())
        plan = plan_of(mesh, good)
        shown += plan.carry_out("apply", journal="run").to_csv() + Journal.open("shop", "run").lines()
        after = plan_of(mesh, core("Secret", "x", space, stringData={"key": CANARY + "2"}))
        shown += after.changes[0].diff + "".join(capsys.readouterr())
        assert "(secret, " in shown
        assert held.changes[1].problem
        assert CANARY not in shown
        assert live(east, good)["data"]

    def test_what_is_not_served_yet_is_shown_and_never_made(self, mesh: Mesh, space: str) -> None:
        """A kind or a namespace that an earlier stage brings."""
        gateway = {"apiVersion": "networking.istio.io/v1", "kind": "Gateway", "spec": {"selector": {"a": "b"}}}
        plan = plan_of(mesh, {**gateway, "metadata": {"name": "g", "namespace": space}}, config_map("x", "nowhere"))
        plan.restart("east", "Deployment", space, "ghost", "anew")
        assert [c.problem.partition(":")[0] for c in plan.changes] == ["cannot be checked yet"] * 3
        assert "+  selector:" in plan.changes[0].diff
        assert {f.verdict for f in plan.findings()} == {Verdict.FAIL}
        assert set(plan.carry_out("plan")["status"]) == {"planned"}
        assert set(plan.carry_out("apply")["status"]) == {"held"}


class TestOthers:
    """Other hands on the same objects."""

    def test_what_others_said_stays(self, mesh: Mesh, east: Cluster, space: str) -> None:
        """Labels and annotations are merged; an object that is not ours is not called ours."""
        theirs = labelled(config_map("x", space, a="1"), team="pay")
        theirs["metadata"]["annotations"] = {"note": "keep"}
        create(east, theirs)
        plan_of(mesh, labelled(config_map("x", space), network="net-east")).carry_out("apply")
        found = live(east, theirs)
        assert found["metadata"]["labels"] == {"team": "pay", "network": "net-east"}
        assert found["metadata"]["annotations"] == {"note": "keep"}
        assert found["data"] == {"a": "1"}

    def test_one_conflict_holds_the_whole_plan_and_names_the_owner(
        self, mesh: Mesh, east: Cluster, space: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Nothing is forced, and nothing of the plan is applied; field and owner are named."""
        create(east, config_map("theirs", space, a="theirs"), manager="argocd-controller")
        plan = plan_of(mesh, config_map("fine", space), config_map("theirs", space, a="ours"))
        [refused] = plan.findings()
        assert (refused.id, refused.verdict) == ("MK690", Verdict.FAIL)
        assert refused.subject == f"east: ConfigMap {space}/theirs"
        assert "argocd-controller owns .data.a" in refused.observed
        assert set(plan.carry_out("apply")["status"]) == {"held"}
        assert "held: MK690; nothing was changed" in capsys.readouterr().out
        assert plan.pending
        assert not there(east, config_map("fine", space))
        assert live(east, config_map("theirs", space))["data"] == {"a": "theirs"}

    @pytest.mark.parametrize("verdict", [Verdict.FAIL, Verdict.UNKNOWN])
    def test_a_gate_that_does_not_hold_holds_all(self, mesh: Mesh, east: Cluster, space: str, verdict: Verdict) -> None:
        """Unknown is never pass; a warning is no gate."""
        plan = plan_of(mesh, config_map("x", space))
        assert set(plan.carry_out("apply", gates=[gate(Verdict.PASS), gate(verdict)])["status"]) == {"held"}
        assert [f.verdict for f in plan.held] == [verdict]
        assert not there(east, config_map("x", space))
        assert set(plan.carry_out("apply", gates=[gate(Verdict.WARN), gate(Verdict.SKIPPED)])["status"]) == {"done"}

    def test_what_others_change_after_the_plan_was_shown_is_not_written_over(
        self, mesh: Mesh, east: Cluster, space: str
    ) -> None:
        """The change fails, those after it are not run; a change of what the plan does not touch is no matter."""
        create(east, config_map("x", space, a="1"))
        plan = plan_of(mesh, config_map("first", space), config_map("x", space, b="2"), config_map("last", space))
        edit(east, config_map("x", space, b="theirs"))
        with pytest.raises(ChangeError, match=r"kubectl-edit owns \.data\.b"):
            plan.carry_out("apply", journal="run")
        assert list(plan.table()["status"]) == ["done", "not run", "not run"]
        plan = plan_of(mesh, config_map("new", space, c="3"))
        create(east, config_map("new", space, d="4"))
        with pytest.raises(ChangeError, match="changed by another client since the plan was shown"):
            plan.carry_out("apply", journal="run")
        assert live(east, config_map("new", space))["data"] == {"d": "4"}
        assert live(east, config_map("x", space))["data"] == {"b": "theirs", "a": "1"}
        assert lines() == ["opened", f"begun ConfigMap {space}/first", "done 1"]
        plan = plan_of(mesh, config_map("x", space, c="3"))
        edit(east, config_map("x", space, a="5"))
        plan.carry_out("apply", journal="run")
        assert live(east, config_map("x", space))["data"] == {"a": "5", "b": "theirs", "c": "3"}


class TestJournal:
    """What is noted, and what a kill leaves."""

    def test_each_change_is_noted_before_and_after(self, mesh: Mesh, east: Cluster, space: str) -> None:
        """What stood there, what was wanted and what came of it; and which clusters it is about."""
        create(east, config_map("x", space, a="1"))
        plan_of(mesh, config_map("x", space, b="2"), config_map("y", space)).carry_out("apply", journal="run")
        x, y = f"ConfigMap {space}/x", f"ConfigMap {space}/y"
        assert lines() == ["opened", f"begun {x}", "done 1", f"begun {y}", "done 2"]
        book = Journal.open("shop", "run")
        assert book.header["clusters"] == {"east": east.uid()}
        stored = book.private(book.entries[0])
        assert [stored[key][0]["data"] for key in ("before", "manifests", "after")] == [
            {"a": "1"}, {"b": "2"}, {"a": "1", "b": "2"},
        ]  # fmt: skip
        assert book.private(book.entries[1])["before"] == [None]

    def test_a_change_that_fails_is_noted_and_ends_the_plan(
        self, mesh: Mesh, space: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What it was to cause did not come in time; the next one is not begun."""
        monkeypatch.setattr("meshkit.kube.wait.wait_for.__kwdefaults__", {"deadline": 0.1})
        plan = Plan(mesh, STAGE)
        plan.apply("east", config_map("x", space), "first", wait=lambda: "2 of 3 proxies")
        plan.apply("east", config_map("y", space), "second")
        with pytest.raises(ChangeError, match="still waiting: 2 of 3 proxies"):
            plan.carry_out("apply", journal="run")
        assert list(plan.table()["status"]) == ["failed", "not run"]
        assert lines() == ["opened", f"begun ConfigMap {space}/x", "failed 1"]

    @pytest.mark.parametrize("moment", ["before", "after"])
    def test_a_killed_plan_is_planned_again_and_ends(
        self, mesh: Mesh, east: Cluster, space: str, api_server: ApiServer, moment: str
    ) -> None:
        """Killed between the note and the change, or between the change and the note: both resume, in one journal."""
        argv = [sys.executable, "-c", KILLED, str(api_server.kubeconfig), space, moment]
        assert subprocess.run(argv, check=False, capture_output=True).returncode == -9
        assert lines() == ["opened", f"begun ConfigMap {space}/one", "done 1", f"begun ConfigMap {space}/two"]
        assert there(east, config_map("two", space)) == (moment == "after")
        wanted = [config_map(name, space, a="1") for name in ("one", "two", "three")]
        again = plan_of(mesh, *wanted)
        assert [c.object.partition("/")[2] for c in again.changes] == ["two", "three"][moment == "after" :]
        again.carry_out("apply", journal="run")
        assert all(there(east, one) for one in wanted)
        undo_all(mesh)
        assert not any(there(east, one) for one in wanted)
        undo_all(mesh)

    @pytest.mark.parametrize("moment", ["before", "after"])
    def test_what_was_killed_is_undone_though_nothing_of_it_was_made(
        self, mesh: Mesh, east: Cluster, space: str, api_server: ApiServer, moment: str
    ) -> None:
        """The journal says so, too: or a later undo of it would take away what a later run made."""
        argv = [sys.executable, "-c", KILLED, str(api_server.kubeconfig), space, moment]
        subprocess.run(argv, check=False, capture_output=True)
        undo_all(mesh)
        assert [entry.event for entry in Journal.open("shop", "run").entries] == ["undone", "undone"]
        assert not any(there(east, config_map(name, space)) for name in ("one", "two"))

    def test_a_journal_of_another_cluster_is_refused(self, mesh: Mesh, east: Cluster, space: str) -> None:
        """The name is the same, the UID is not: nothing is written there."""
        Journal.open("shop", "run").about(clusters={"east": "another-uid"})
        with pytest.raises(InputError, match="cluster east is not the cluster this journal was written for"):
            plan_of(mesh, config_map("x", space)).carry_out("apply", journal="run")
        assert not there(east, config_map("x", space))


KILLED = """
import os, pathlib, signal, sys
from tests.support.objects import config_map, mesh_of
from tests.api_server.changes.test_plan import plan_of
kubeconfig, space, moment = sys.argv[1:]
plan = plan_of(mesh_of(pathlib.Path(kubeconfig)), *(config_map(n, space, a="1") for n in ("one", "two", "three")))
do = plan.changes[1].do
def killed():
    if moment == "after":
        do()
    os.kill(os.getpid(), signal.SIGKILL)
plan.changes[1].do = killed
plan.carry_out("apply", journal="run")
"""


def undo_all(mesh: Mesh) -> None:
    """Take the journal `run` back."""
    book = Journal.open("shop", "run")
    plan = Plan(mesh, "12 rollback")
    for entry in reversed([e for e in book.entries if e.stands]):
        plan.undo(book, entry, "as it was")
    plan.carry_out("apply", journal="run")


class TestMode:
    """How carry_out is asked."""

    @pytest.mark.parametrize("mode", ["", "aply", "APPLY", "audit"])
    def test_a_typing_mistake_in_the_mode_is_reported(self, mesh: Mesh, east: Cluster, space: str, mode: str) -> None:
        """It is not taken for either."""
        with pytest.raises(InputError, match="mode: expected plan or apply"):
            plan_of(mesh, config_map("x", space)).carry_out(mode)
        assert not there(east, config_map("x", space))

    def test_a_dead_cluster_stops_it_before_anything_is_changed(
        self, api_server: ApiServer, east: Cluster, space: str, tmp_path: Path
    ) -> None:
        """Though the plan itself does not touch it."""
        lost = write_kubeconfig(tmp_path / "lost", f"https://127.0.0.1:{free_port()}", None, TOKENS)
        document = mesh_document(api_server.kubeconfig)
        document["clusters"] += [{"name": "west", "context": "admin", "network": "w", "kubeconfig": str(lost)}]
        two = Mesh.open(MeshSpec.parse(document, where="test"), timeout=2)
        with pytest.raises(UnreachableError, match="cluster west: it does not answer, so nothing was changed"):
            plan_of(two, config_map("x", space)).carry_out("apply", journal="run")
        assert not there(east, config_map("x", space))

    def test_a_temporary_plan_is_reverted(self, mesh: Mesh, east: Cluster, space: str) -> None:
        """After success and after a change that failed; what stood before stands again."""
        create(east, config_map("x", space, a="1"))
        for wait in (lambda: "", interrupted):
            plan = Plan(mesh, STAGE, temporary=True)
            plan.apply("east", config_map("x", space, b="2"), "for a moment")
            plan.apply("east", config_map("y", space), "for a moment", wait=wait)
            if wait is interrupted:
                with pytest.raises(KeyboardInterrupt):
                    plan.carry_out("apply", journal="run")
            else:
                assert set(plan.carry_out("apply", journal="run")["status"]) == {"undone"}
            assert live(east, config_map("x", space))["data"] == {"a": "1"}
            assert not there(east, config_map("y", space))
        assert [e.event for e in Journal.open("shop", "run").entries] == ["undone"] * 4


def interrupted() -> str:
    """Be interrupted while waiting."""
    raise KeyboardInterrupt


class TestRequested:
    """What an owner of Istio applies: nothing is written, it is waited for, and an undo leaves it alone."""

    def test_nothing_is_a_change_once_it_is_there(self, mesh: Mesh) -> None:
        """As with all that a plan wants."""
        plan = Plan(mesh, STAGE)
        plan.request("east", VALUES, "its owner applies it", lambda: "")
        assert plan.empty

    def test_it_is_shown_waited_for_and_recorded(self, mesh: Mesh, east: Cluster, space: str) -> None:
        """What comes after it is made when the owner is done; the journal says what was asked for."""
        asked: list[str] = []

        def missing() -> str:
            asked.append("")
            if len(asked) == 3:
                create(east, config_map("by-its-owner", space, a="1"))
            return "" if there(east, config_map("by-its-owner", space)) else "its cluster id is Kubernetes"

        plan = Plan(mesh, STAGE)
        plan.request("east", VALUES, "its owner applies it", missing)
        plan.apply("east", config_map("after", space, a="1"), "as the test wants")
        shown = plan.bundle()["text/plain"]
        assert "# its cluster id is Kubernetes" in shown
        assert "+    network: net-east" in shown
        [document, _] = plan.planned()
        assert (document.action, document.manifest) == ("request", VALUES)
        plan.carry_out("apply", journal="requested")
        assert [change.status for change in plan.changes] == ["done", "done"]
        assert there(east, config_map("after", space))
        [asked_for, _] = Journal.open("shop", "requested").entries
        assert (asked_for.action, asked_for.object) == ("request", "HelmValues istio-system/istiod")

    def test_who_never_applies_it_holds_what_comes_after(
        self, mesh: Mesh, east: Cluster, space: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The error says what is still missing; the run can be resumed."""
        monkeypatch.setattr("meshkit.changes.plan.BY_ITS_OWNER", 0.6)
        plan = Plan(mesh, STAGE)
        plan.request("east", VALUES, "its owner applies it", lambda: "its cluster id is Kubernetes")
        plan.apply("east", config_map("never", space, a="1"), "as the test wants")
        with pytest.raises(ChangeError, match="its cluster id is Kubernetes"):
            plan.carry_out("apply", journal="never-applied")
        assert not there(east, config_map("never", space))

    def test_an_undo_leaves_it_to_its_owner(self, mesh: Mesh) -> None:
        """Nothing of it is meshkit's; the journal has it as undone."""
        plan, answers = Plan(mesh, STAGE), iter(["no istiod runs", ""])
        plan.request("east", VALUES, "its owner applies it", lambda: next(answers, ""))
        plan.carry_out("apply", journal="to-undo")
        book = Journal.open("shop", "to-undo")
        back = Plan(mesh, "12 rollback")
        back.undo(book, book.entries[0], "as it was before")
        back.carry_out("apply", journal="to-undo")
        assert not Journal.open("shop", "to-undo").entries[0].stands
