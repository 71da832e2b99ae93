"""The base of all stages: beats in their order, plans shown before they are applied, gates, and the verdict."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from meshkit.changes.journal import Journal
from meshkit.changes.plan import Plan
from meshkit.checks.finding import Finding, Findings, Verdict
from meshkit.display import Shown, Text
from meshkit.errors import CheckFailed, InputError, MeshkitError, UnreachableError
from meshkit.kube.cluster import Cluster
from meshkit.kube.mesh import Mesh
from meshkit.stages.stage import BEATS, Shows, Stage
from meshkit.tables import Table, integer, text
from tests.support.objects import config_map, edit, live, mesh_document, there

READINGS = Table("readings", "What was read", {"cluster": text(), "n": integer()}, key=("cluster",))
JOURNAL = "run"
IN_ORDER = ("look", "check", "plan", "apply", "prove")


def finding(identifier: str, verdict: Verdict = Verdict.PASS) -> Finding:
    """Return a finding that says no more than its verdict."""
    return Finding(id=identifier, check="c", subject="east", expected="e", observed="o", verdict=verdict)


@dataclass(frozen=True)
class Facts:
    """What the stage of these tests reads."""

    readings: pd.DataFrame
    config_maps: int


class Fake(Stage):
    """A stage of two plans: `first`, and `second`, which has the version of the first as the server made it."""

    name = "06 gateways"
    readings = Shows["Fake"](READINGS, lambda stage: stage.facts.readings)
    again = Shows["Fake"](READINGS, lambda stage: stage.after.readings)

    gate = Verdict.PASS
    proof = Verdict.PASS
    space = ""

    def __init__(self, mesh: str | Path | Mesh, *, mode: str = "plan", journal: str = "") -> None:
        super().__init__(mesh, mode=mode, journal=journal)
        self.wanted = {"a": "1"}

    def _look(self) -> Facts:
        found = self.mesh.each(lambda cluster: len(cluster.get("configmaps", self.space)))
        return Facts(READINGS.frame([{"cluster": name, "n": n or 0} for name, n in found.items()]), 1)

    def _check(self) -> Iterable[Finding]:
        yield finding("MK801", self.gate)

    def _plans(self) -> Iterator[Plan]:
        first = Plan(self.mesh, self.name)
        first.apply("east", config_map("first", self.space, **self.wanted), "the first")
        yield first
        made = self.mesh["east"].find("configmaps", self.space, "first")
        self.findings += [finding("MK602")]
        second = Plan(self.mesh, self.name)
        version = made["metadata"]["uid"] if made else "to come"
        second.apply("east", config_map("second", self.space, of=version), "the second")
        yield second

    def _prove(self) -> Iterable[Finding]:
        self.after = self._look()
        yield finding("MK805", self.proof)


def fake(mesh: Mesh, space: str, mode: str = "plan") -> Fake:
    """Return the stage, not begun."""
    stage = Fake(mesh, mode=mode, journal=JOURNAL)
    stage.space = space
    return stage


def played(stage: Stage, until: str = "prove") -> dict[str, Any]:
    """Run the beats up to one; return what each showed."""
    return {beat: getattr(stage, beat)() for beat in IN_ORDER[: IN_ORDER.index(until) + 1]}


def noted() -> list[str]:
    """Return the events of the journal, with what each is about."""
    lines = [json.loads(line) for line in Journal.open("shop", JOURNAL).lines().splitlines()]
    return [f"{line['event']} {line['object'].rpartition('/')[2]}" for line in lines if "object" in line]


def statuses(stage: Stage) -> list[list[str]]:
    """Return the status of each change, plan by plan."""
    return [[change.status for change in plan.changes] for plan in stage.plans]


class TestOrder:
    """A beat runs in its turn only."""

    @pytest.mark.parametrize(
        ("beat", "needed"),
        [("check", "look"), ("plan", "check"), ("apply", "plan"), ("prove", "apply"), ("conclude", "prove")],
    )
    def test_a_beat_that_comes_too_early_is_refused(self, mesh: Mesh, space: str, beat: str, needed: str) -> None:
        """The message names the beat that is missing; nothing was read or changed."""
        stage = fake(mesh, space, "apply")
        with pytest.raises(InputError, match=rf"stage\.{needed}\(\) must be run before stage\.{beat}\(\)"):
            getattr(stage, beat)()
        assert "facts" not in vars(stage)
        assert not stage.plans

    def test_a_table_of_what_was_not_read_says_what_to_run(self, mesh: Mesh, space: str) -> None:
        """Before `look`, and before `prove`; afterwards it is the table."""
        stage = fake(mesh, space)
        with pytest.raises(InputError, match=r"stage\.look\(\) must be run before there is something to show"):
            _ = stage.readings
        played(stage, "apply")
        assert list(stage.readings.frame.columns) == ["cluster", "n"]
        with pytest.raises(InputError, match=r"stage\.prove\(\) must be run before"):
            _ = stage.again
        stage.prove()
        assert list(stage.again.frame["cluster"]) == ["east"]

    def test_a_mistake_in_a_table_is_no_wrong_order(self, mesh: Mesh, space: str) -> None:
        """A field that the facts do not have is an AttributeError after `look`, too."""
        stage = fake(mesh, space)
        stage.look()
        with pytest.raises(AttributeError, match="nothing"):
            Shows[Fake](READINGS, lambda it: it.facts.nothing).__get__(stage, Fake)

    def test_a_beat_that_is_run_again_replaces_its_findings(self, mesh: Mesh, space: str) -> None:
        """So a cell can be run twice; those of the beats before stay."""
        stage = fake(mesh, space)
        played(stage)
        once = [f.id for f in stage.findings]
        assert once == ["MK801", "MK602", "MK805"]
        for beat in ("plan", "apply", "prove", "prove"):
            getattr(stage, beat)()
        assert [f.id for f in stage.findings] == once
        stage.check()
        assert [f.id for f in stage.findings] == ["MK801"]
        with pytest.raises(InputError, match=r"stage\.apply\(\) must be run before stage\.prove\(\)"):
            stage.prove()

    def test_an_override_is_in_the_order_too(self, mesh: Mesh, space: str) -> None:
        """And can call what it overrides."""

        class Other(Fake):
            def check(self) -> Findings:
                found = super().check()
                self.findings = Findings([*found, finding("MK603")])
                return self.findings

            def apply(self) -> Shown:
                return Text("applied")

        stage = Other(mesh)
        stage.space = space
        with pytest.raises(InputError, match="must be run before"):
            stage.apply()
        played(stage)
        assert [f.id for f in stage.findings] == ["MK801", "MK603", "MK602", "MK805"]

    def test_beats_without_anything_may_be_left_out(self, mesh: Mesh) -> None:
        """A stage that only judges concludes after its checks; the others say that it changes nothing."""

        class Judging(Stage):
            name = "01 assess"

            def _look(self) -> Facts:
                return Facts(READINGS.frame([]), 0)

            def _check(self) -> Iterable[Finding]:
                yield finding("MK101")

        stage = Judging(mesh)
        played(stage, "check")
        stage.conclude()
        assert repr(stage.plan()) == repr(stage.apply()) == "this stage changes nothing"

    def test_modes_are_judged_at_once(self, mesh: Mesh) -> None:
        """Before anything is read."""
        with pytest.raises(InputError, match="expected plan or apply, got 'aply'"):
            Fake(mesh, mode="aply")

    def test_there_are_six(self) -> None:
        """The same names and order in all stages."""
        assert (*IN_ORDER, "conclude") == BEATS


class TestLook:
    """What `look` says of what it read."""

    def test_it_says_what_was_read_and_in_how_many_seconds(self, mesh: Mesh, space: str) -> None:
        """Every cluster answered."""
        line, unknown = repr(fake(mesh, space).look()).splitlines()
        assert line.startswith("read readings of east in ")
        assert line.endswith(" s")
        assert unknown == "every cluster answered"

    def test_it_names_the_cluster_that_did_not_answer(self, mesh: Mesh, space: str) -> None:
        """Each reason once; a later look that is answered does not repeat it."""
        stage = fake(mesh, space)
        asked = stage.mesh.clusters["east"]
        stage.mesh.clusters["east"] = Cluster.connect("nobody", mesh.spec.clusters[0].kubeconfig or "", name="east")
        _, *unknown = repr(stage.look()).splitlines()
        assert unknown[0].startswith("unknown: east: ")
        assert "(403)" in unknown[0]
        assert "every cluster answered" not in unknown
        stage.mesh.clusters["east"] = asked
        assert repr(stage.look()).endswith("\nevery cluster answered")


class TestModePlan:
    """All plans are shown, and nothing is changed."""

    def test_all_plans_are_shown_and_nothing_is_changed(
        self, mesh: Mesh, east: Cluster, space: str, state: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Both objects, the second with a placeholder; no journal is begun."""
        shown = played(stage := fake(mesh, space))
        assert "+  a: '1'" in repr(shown["plan"])
        assert "+  of: to come" in repr(shown["plan"])
        assert capsys.readouterr().out == "mode is plan: 1 changes are shown, none is made\n" * 2
        assert statuses(stage) == [["planned"], ["planned"]]
        assert [plan.pending for plan in stage.plans] == [True, True]
        assert repr(shown["apply"]).count("· planned") == 2
        assert not there(east, config_map("first", space))
        assert not there(east, config_map("second", space))
        assert not state.exists()

    def test_apply_can_be_run_again(self, mesh: Mesh, space: str) -> None:
        """It changes nothing."""
        stage = fake(mesh, space)
        played(stage)
        assert repr(stage.apply()).count("· planned") == 2


class TestModeApply:
    """What was shown is applied, plan by plan."""

    def test_plans_are_applied_one_after_the_other(
        self, mesh: Mesh, east: Cluster, space: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """The first is shown by `plan`; the second is made of what came of it, and shown before it is applied."""
        stage = fake(mesh, space, "apply")
        shown = played(stage, "plan")
        assert len(stage.plans) == 1
        assert "+  a: '1'" in repr(shown["plan"])
        assert not there(east, config_map("first", space))
        assert capsys.readouterr().out == ""
        done = stage.apply()
        uid = live(east, config_map("first", space))["metadata"]["uid"]
        assert live(east, config_map("second", space))["data"] == {"of": uid}
        assert statuses(stage) == [["done"], ["done"]]
        assert noted() == ["begun first", "begun second"]
        printed = capsys.readouterr().out
        places = [
            printed.index(part)
            for part in (
                "1/1 east: create ConfigMap",
                "✔ done",
                f"+  of: {uid}",
                f"create ConfigMap {space}/second: done",
            )
        ]
        assert places == sorted(places)
        assert "second" in repr(done)
        stage.prove()
        assert [f.id for f in stage.findings] == ["MK801", "MK602", "MK805"]

    def test_what_was_shown_first_is_what_is_applied(self, mesh: Mesh, east: Cluster, space: str) -> None:
        """An object that another client changed since is left to it; the plan must be made again."""
        played(fake(mesh, space, "apply"), "apply")
        stage = fake(mesh, space, "apply")
        stage.wanted = {"a": "2"}
        played(stage, "plan")
        edit(east, config_map("first", space, a="theirs"))
        with pytest.raises(MeshkitError):
            stage.apply()
        for beat in ("apply", "prove"):
            with pytest.raises(InputError, match="must be run before"):
                getattr(stage, beat)()
        stage.plan()
        stage.apply()
        assert statuses(stage)[0] == ["held"]  # the field belongs to the other client: nothing is forced
        assert live(east, config_map("first", space))["data"] == {"a": "theirs"}

    def test_a_plan_is_applied_once(self, mesh: Mesh, space: str) -> None:
        """A second `apply` wants a new plan, which is empty; then both plans are shown."""
        stage = fake(mesh, space, "apply")
        played(stage, "apply")
        with pytest.raises(InputError, match=r"stage\.plan\(\) must be run before stage\.apply\(\)"):
            stage.apply()
        stage.plan()
        assert [plan.empty for plan in stage.plans] == [True, True]
        stage.apply()
        assert noted() == ["begun first", "begun second"]

    def test_an_empty_plan_lets_the_next_be_shown(self, mesh: Mesh, east: Cluster, space: str) -> None:
        """Nothing has to be applied before it."""
        fake_first = fake(mesh, space, "apply")
        played(fake_first, "apply")
        east.delete(config_map("second", space))
        stage = fake(mesh, space, "apply")
        shown = played(stage, "plan")
        assert [len(plan.changes) for plan in stage.plans] == [0, 1]
        assert f"create ConfigMap {space}/second" in repr(shown["plan"])
        assert not there(east, config_map("second", space))
        stage.apply()
        assert there(east, config_map("second", space))

    @pytest.mark.parametrize("verdict", [Verdict.FAIL, Verdict.UNKNOWN])
    def test_a_gate_holds_all_plans(
        self, mesh: Mesh, east: Cluster, space: str, verdict: Verdict, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Unknown holds, too. Each plan is still shown, and its changes are held."""
        stage = fake(mesh, space, "apply")
        stage.gate = verdict
        shown = played(stage)
        assert "MK801 would hold an apply" in repr(shown["check"])
        assert capsys.readouterr().out.count("held: MK801; nothing was changed") == 2
        assert statuses(stage) == [["held"], ["held"]]
        assert not there(east, config_map("first", space))
        assert not there(east, config_map("second", space))
        with pytest.raises(MeshkitError, match="MK801"):
            stage.conclude()


class TestVerdict:
    """What `prove` and `conclude` say."""

    @pytest.mark.parametrize(
        ("verdicts", "error"),
        [
            ((Verdict.PASS, Verdict.PASS), None),
            ((Verdict.PASS, Verdict.WARN), None),
            ((Verdict.PASS, Verdict.FAIL), CheckFailed),
            ((Verdict.FAIL, Verdict.PASS), CheckFailed),
            ((Verdict.PASS, Verdict.UNKNOWN), UnreachableError),
            ((Verdict.UNKNOWN, Verdict.PASS), UnreachableError),
        ],
    )
    def test_it_raises_unless_all_is_well(
        self,
        mesh: Mesh,
        space: str,
        verdicts: tuple[Verdict, Verdict],
        error: type[MeshkitError] | None,
        *,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        """Findings of all beats count; the verdict is shown before."""
        stage = fake(mesh, space)
        stage.gate, stage.proof = verdicts
        played(stage)
        if error is None:
            stage.conclude()
        else:
            with pytest.raises(error, match=stage.name):
                stage.conclude()
        assert f"{stage.name}: {max(verdicts, key=[*Verdict].index).value.upper()} — " in capsys.readouterr().out

    def test_a_proof_that_failed_holds_nothing(self, mesh: Mesh, space: str) -> None:
        """After the apply nothing is left to hold; the gates say what would be held."""
        stage = fake(mesh, space)
        stage.proof = Verdict.FAIL
        proved = played(stage)["prove"]
        assert repr(proved).startswith("✖ 1 fail\n")
        assert [f.id for f in proved] == ["MK805"]


def test_a_mesh_file_opens_the_mesh(mesh: Mesh, tmp_path: Path) -> None:
    """By its name, or by the mesh that is open already."""
    file = tmp_path / "shop.yaml"
    file.write_text(json.dumps(mesh_document(Path(str(mesh.spec.clusters[0].kubeconfig)))))
    assert repr(Fake(file)) == repr(Fake(str(file))) == repr(Fake(mesh)) == "06 gateways of mesh shop, mode plan"
