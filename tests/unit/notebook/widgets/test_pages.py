"""What each page shows of a real snapshot, choice by choice: the functions behind it, and the HTML."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from meshkit import Plan, Snapshot
from meshkit.changes.change import Change
from meshkit.changes.plan import Plans
from meshkit.checks import audit, catalogue
from meshkit.checks.finding import Finding, Verdict
from meshkit.checks.remedy import commands as remedy_commands
from meshkit.errors import InputError
from meshkit.istio.control_plane.logs import Line
from meshkit.istio.multicluster.credentials import Credential
from meshkit.notebook import person, widgets
from meshkit.notebook.widgets import consent, findings, glance, latency, pair_matrix, plan_tree, tables
from meshkit.notebook.widgets.explorer import Explorer
from meshkit.probing.request_log import TRAFFIC
from meshkit.probing.statistics import LATENCY

SNAPSHOTS = Path(__file__).parents[3] / "fixtures/snapshots"
BROKEN = "east → west"


@pytest.fixture(scope="module")
def taken() -> Snapshot:
    """A mesh whose east has west's remote secret in the wrong namespace."""
    return Snapshot.load(SNAPSHOTS / "two-replicas-secret-in-wrong-namespace.json.gz")


@pytest.fixture(scope="module")
def found(taken: Snapshot) -> list[Finding]:
    """What the checks say of it."""
    return audit.check(taken)


class TestFindings:
    """By what they stop, with cause, consequences and *why*."""

    def test_the_cause_has_its_consequences_and_they_name_it(self, found: list[Finding]) -> None:
        """MK832 explains all else that is not in order."""
        known = [one for one in findings.explained(found, ["east", "west"]) if one.finding.verdict is not Verdict.PASS]
        (root,) = [one for one in known if one.cause is None and one.finding.verdict is Verdict.FAIL]
        assert (root.finding.id, root.finding.subject) == ("MK832", BROKEN)
        assert {one.finding.id for one in known if one.cause is root.finding} == {one.id for one in root.effects}
        assert root.check.why == catalogue.find("MK832").why

    def test_they_are_grouped_by_the_stage_that_they_stop(self, found: list[Finding]) -> None:
        """A warning stops nothing, whatever a failure of its check would."""
        page = findings.FindingsPage(found)
        for stop, group in page.groups().items():
            for one in group:
                stage = one.check.stops if one.finding.verdict is not Verdict.WARN else ""
                assert stop == (f"stops {stage} {catalogue.STAGES[stage]}" if stage else findings.NOTHING)

    def test_verdicts_clusters_and_words_choose(self, found: list[Finding]) -> None:
        """Each choice leaves what it should, and the count says so."""
        page = findings.FindingsPage(found)
        bad = [one for one in found if one.verdict in findings.NOT_IN_ORDER]
        assert page.status() == f"{len(bad)} of {len(found)} findings shown"
        page.choose("verdict", "fail")
        assert page.status() == f"1 of {len(found)} findings shown"
        page.choose("verdict", "pass")
        page.choose("cluster", "west")
        shown = [one.finding for group in page.groups().values() for one in group]
        assert {one.verdict for one in shown} == {Verdict.PASS}
        assert all("west" in one.subject for one in shown)
        page.choose("words", "mk803 WEST")
        assert {one.finding.id for group in page.groups().values() for one in group} == {"MK803"}
        page.choose("words", "nothing has this word")
        assert "Nothing matches" in page.html()

    def test_what_findings_say_is_escaped(self) -> None:
        """A pod's message is no HTML."""
        bad = Finding(
            id="MK802",
            check="x",
            subject="east",
            expected="y",
            observed="<b>",
            verdict=Verdict.FAIL,
            remedy="kubectl get x -l '<a>'; look at <i>",
        )
        html = findings.FindingsPage([bad]).html()
        assert "&lt;b&gt;" in html
        assert 'data-copy="kubectl get x -l &#39;&lt;a&gt;&#39;"' in html
        assert "look at &lt;i&gt;" in html

    def test_only_commands_of_a_remedy_can_be_copied(self, found: list[Finding]) -> None:
        """Each by a button of its own; what to know or do besides is text."""
        page = findings.FindingsPage(found)
        shown = {one.finding.remedy for group in page.groups().values() for one in group}
        copied = [unescape(text) for text in re.findall(r'data-copy="([^"]*)"', page.html())]
        assert sorted(set(copied)) == sorted({command for remedy in shown for command in remedy_commands(remedy)})
        assert copied
        assert any(not remedy_commands(remedy) for remedy in shown)

    def test_of_no_findings_nothing_was_checked(self) -> None:
        """Not even a verdict can be chosen."""
        assert "Nothing was checked" in findings.FindingsPage([]).html()

    def test_a_choice_that_is_none_is_refused(self, found: list[Finding]) -> None:
        """Of a verdict, and of a control."""
        page = findings.FindingsPage(found)
        with pytest.raises(ValueError, match="best"):
            page.choose("verdict", "best")
        with pytest.raises(KeyError):
            page.choose("colour", "red")


class TestPairs:
    """The matrix, and what is behind a cell."""

    def test_the_open_pair_has_links_objects_and_no_logs_of_a_snapshot(
        self, taken: Snapshot, found: list[Finding]
    ) -> None:
        """The links are those of the table; the objects have a command each, with the right context."""
        page = pair_matrix.PairPage(taken, found)
        page.choose("pair", BROKEN)
        links = page.content()["links"]
        assert [(one.name, one.verdict) for one in links][:3] == [
            ("secret", "fail"),
            ("server", "unknown"),
            ("credential", "pass"),
        ]
        assert links[0].remedy.startswith("kubectl --context lab-east")
        objects = page.content()["objects"]
        contexts = {one.cluster: taken.spec.cluster(one.cluster).context for one in objects}
        assert all(f"--context {contexts[one.cluster]} " in one.command for one in objects)
        assert ("remote secret", "default/istio-remote-secret-west") in {(one.what, one.name) for one in objects}
        assert "A snapshot has no logs" in page.html()
        page.choose("pair", BROKEN)
        assert page.status() == "no pair is open"

    def test_of_several_secrets_each_says_what_it_holds(self, taken: Snapshot, found: list[Finding]) -> None:
        """Its own address and credential, not those of the first."""
        page = pair_matrix.PairPage(taken, found)
        (one,) = taken.remote_secrets.of("east", "west")
        other = replace(one, name="another", server="https://192.0.2.9:6443", credential=Credential.REFUSED)
        page.secrets = taken.remote_secrets.with_items([*taken.remote_secrets, other])
        page.table["secret"] = f"{one.place},{other.place}"
        page.choose("pair", BROKEN)
        known = {behind.name: behind.known for behind in page.content()["objects"] if behind.what == "remote secret"}
        assert known == {
            one.place: f"cluster id west, {one.server}; credential ok",
            other.place: "cluster id west, https://192.0.2.9:6443; credential 401",
        }

    def test_one_cell_can_be_reached_by_tab(self, taken: Snapshot, found: list[Finding]) -> None:
        """The open one, or else the first; the arrow keys reach the others."""
        page = pair_matrix.PairPage(taken, found)
        assert re.findall(r'value="([^"]+)"[^>]*tabindex="0"', page.html(), re.DOTALL) == [BROKEN]
        page.choose("pair", "west → east")
        assert re.findall(r'value="([^"]+)"[^>]*tabindex="0"', page.html(), re.DOTALL) == ["west → east"]

    def test_a_pair_that_is_none_is_refused(self, taken: Snapshot, found: list[Finding]) -> None:
        """Nothing is opened."""
        with pytest.raises(InputError, match="no pair"):
            pair_matrix.PairPage(taken, found).choose("pair", "east → north")

    def test_log_lines_are_read_in_a_thread_and_shown(
        self, taken: Snapshot, found: list[Finding], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """They name the other cluster, its API server, its gateway or the probe's Service; one that failed says why."""
        asked: list[Any] = []

        def naming(_: Any, clusters: Any, texts: Any) -> list[Line]:
            asked.append((clusters, texts))
            return [Line("east", "istiod-1", "lost west"), Line("west", "gateway-1", reason="no answer")]

        monkeypatch.setattr(pair_matrix.logs, "naming", naming)
        page = pair_matrix.PairPage(taken, found)
        page.live = True
        done = _awaited(page)
        page.choose("pair", BROKEN)
        page.choose("logs", BROKEN)
        done()
        assert asked == [(("east", "west"), ["west", "172.31.200.2:6443", "172.31.102.2", "httpbin.sample"])]
        assert "lost west" in page.html()
        assert "? no answer" in page.html()


class TestTables:
    """Proxies, and any other table."""

    def test_proxies_are_chosen_by_cluster_namespace_state_and_version(self, taken: Snapshot) -> None:
        """As pandas would."""
        frame = taken.proxies().proxies
        page = widgets.page_of(tables.PROXIES.view(frame))
        assert isinstance(page, tables.TablePage)
        assert list(page.filters) == ["cluster", "namespace", "worst", "version"]
        page.choose("cluster", "east")
        page.choose("namespace", "sample")
        assert len(page.rows()) == len(frame.query("cluster == 'east' and namespace == 'sample'")) == 3
        page.choose("words", "HTTPBIN")
        assert page.status() == f"1 of {len(frame)} rows"

    def test_of_a_large_table_the_first_rows_are_drawn(self) -> None:
        """The count is of all."""
        names = {
            "cluster": "east",
            "namespace": "shop",
            "kind": "sidecar",
            "version": "1.31",
            "istiod": "i",
            "worst": "SYNCED",
        }
        rows = [{**names, "proxy": f"pod-{n:05}"} for n in range(5000)]
        page = tables.TablePage(tables.PROXIES, tables.PROXIES.frame(rows))
        assert page.status() == "5,000 of 5,000 rows"
        assert page.html().count("<tr>") == tables.ROWS + 1
        assert "4950 more rows" in page.html()


class TestLatency:
    """Percentiles of pairs, and of requests over time."""

    def test_each_percentile_is_that_of_the_table(self) -> None:
        """With its interval, and what failed; the slowest has the longest bar."""
        row = {"client": "east", "n": 9, "p50_low": 1.0, "p50_high": 3.0}
        frame = LATENCY.frame(
            [
                {**row, "server": "east", "p50_ms": 2.0, "p99_ms": 5.0},
                {**row, "server": "west", "p50_ms": 80.0, "failed": 2},
            ]
        )
        page = widgets.page_of(LATENCY.view(frame))
        assert isinstance(page, latency.LatencyPage)
        times = page.content()["rows"]["east"]
        assert (times["east"].words, times["east"].interval, times["east"].place) == ("2 ms", "1 to 3", 0.0)
        assert (times["west"].words, times["west"].failed, times["west"].place) == ("80 ms", 2, 1.0)
        page.choose("percentile", "p99")
        assert page.content()["rows"]["east"]["west"].words == "no answer"

    def test_a_window_of_time_and_a_cluster_choose_seconds(self) -> None:
        """Points are as many as seconds, and the slowest is at the top."""
        at = pd.date_range("2026-11-30T20:00:00Z", periods=90, freq="s")
        rows = [
            {"time": t, "cluster": name, "sent": 10, "p50_ms": 1.0 + n, "p99_ms": 100.0}
            for n, t in enumerate(at)
            for name in ("east", "west")
        ]
        page = widgets.page_of(TRAFFIC.view(TRAFFIC.frame(rows)))
        assert isinstance(page, latency.TimesPage)
        page.choose("time", "last minute")
        page.choose("cluster", "west")
        assert page.status() == "600 requests, 0 failed; slowest second 90 ms"
        (points,) = page.content()["lines"].values()
        assert len(points.split()) == 60
        assert points.endswith(f"{latency.WIDTH:.1f},0.0")


class TestPlan:
    """A tree of diffs, and consent."""

    @pytest.fixture
    def plan(self, taken: Snapshot) -> Plan:
        """A plan of four changes, two of which users may notice."""
        made = Plan(taken.mesh, "05 install")
        made.changes = [
            Change("west", "create", "Namespace shop", "for the shop", "+kind: Namespace\n+<x>"),
            Change("west", "restart", "Deployment shop/a", "it gets a sidecar", "@@ -1 +1 @@\n-a\n+b"),
            Change("west", "restart", "Deployment shop/b", "it gets a sidecar", "-a\n+c"),
            Change("east", "undo install", "Istio", "as before", "", problem="the server refuses it"),
        ]
        return made

    def test_changes_stand_below_their_cluster_in_their_order(self, plan: Plan) -> None:
        """Each with its number in the plan, and its diff line by line."""
        page = plan_tree.PlanPage(plan)
        [shown] = page.shown()
        assert {name: [n for n, _ in own] for name, own in shown.items()} == {"west": [1, 2, 3], "east": [4]}
        assert plan_tree.diff_lines(plan.changes[1].diff) == [("place", "@@ -1 +1 @@"), ("remove", "-a"), ("add", "+b")]
        assert "+&lt;x&gt;" in page.html()
        page.choose("action", "restart")
        page.choose("words", "shop/b")
        assert page.status() == "1 of 4 changes shown"

    def test_several_plans_of_a_stage_are_one_page(self, taken: Snapshot, plan: Plan) -> None:
        """One below the other; a choice is for all of them. Headless they are what they are."""
        nothing, more = Plan(taken.mesh, "05 install"), Plan(taken.mesh, "05 install")
        more.changes = [Change("west", "restart", "Deployment shop/c", "it gets a sidecar", "-a\n+d")]
        together = Plans(plan, nothing, more)
        assert together.explore() is together
        page = widgets.page_of(together)
        assert isinstance(page, plan_tree.PlanPage)
        assert page.status() == "5 of 5 changes shown"
        html = page.html()
        assert [word in html for word in ("1 of 3 plans", "3 of 3 plans", "Nothing to change.")] == [True] * 3
        ids = re.findall(r' id="([^"]+)"', html)
        assert len(ids) == len(set(ids))
        page.choose("action", "restart")
        page.choose("words", "sidecar")
        assert page.status() == "3 of 5 changes shown"

    def test_a_long_diff_is_cut_and_says_so(self) -> None:
        """The plan has it whole."""
        lines = plan_tree.diff_lines("\n".join(["+x"] * (plan_tree.MOST_LINES + 7)))
        assert lines[-1] == ("place", "# 7 more lines")

    def test_consent_names_context_api_server_and_objects_of_each_disruptive_step(self, plan: Plan) -> None:
        """To create something needs none; all boxes together are consent."""
        plan.changes = plan.changes[:3]
        page = consent.ConsentPage([plan])
        (step,) = page.steps
        assert (step.context, step.api_server) == ("lab-west", "https://172.31.200.2:6443")
        assert step.objects == ("Deployment shop/a", "Deployment shop/b")
        assert not page.given
        page.choose("0", "true")
        assert page.given
        page.choose("0", "false")
        assert not page.given
        with pytest.raises(IndexError):
            page.choose("1", "true")

    def test_every_action_of_a_plan_is_known(self, plan: Plan) -> None:
        """An undo of any kind is disruptive."""
        assert [step.action for step in consent.steps([plan])] == ["restart", "undo"]


class TestExplorer:
    """A mesh: all pages of one reading."""

    def test_the_pages_are_of_one_snapshot(self, taken: Snapshot) -> None:
        """The overview has each cluster's facts; choices go to the page that is shown."""
        page = Explorer(taken)
        assert list(page.pages) == ["Overview", "Findings", "Pairs", "Proxies"]
        east, west = glance.clusters(taken)
        assert (east.network, east.cluster_id, east.gateways) == ("net-east", "east", "172.31.101.2")
        assert west.proxies == {"SYNCED": 4}
        assert glance.pairs(taken, audit.check(taken)) == {"fail": [BROKEN], "pass": ["west → east"]}
        page.choose("view", "Pairs")
        page.choose("pair", BROKEN)
        assert page.status() == f"{BROKEN} is open"

    def test_a_live_mesh_is_read_in_a_thread_and_choices_stay(
        self, taken: Snapshot, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The pages of the reading before are shown until the next one has come."""
        live = _live(taken)
        page = Explorer(live)
        assert page.reading
        assert page.page is None
        _awaited(page)()
        page.choose("view", "Findings")
        page.choose("cluster", "west")
        before = page.page
        monkeypatch.setattr("meshkit.notebook.widgets.explorer.Snapshot", lambda _: _live(taken))
        done = _awaited(page)
        page.choose("refresh", "")
        assert page.page is before
        done()
        assert page.page is not before
        assert page.page
        assert page.page.chosen["cluster"] == "west"

    def test_a_reading_that_fails_says_so_and_the_next_may_work(self, taken: Snapshot) -> None:
        """It is no empty mesh."""
        live = _live(taken)

        def fails(**_: Any) -> Snapshot:
            raise InputError("no CA there")

        vars(live)["read"] = fails
        page = Explorer(live)
        _awaited(page)()
        assert "no CA there" in page.html()
        assert page.reading is None


def _live(taken: Snapshot) -> Any:
    """Return a snapshot that says it is live, and reads what it has."""
    twin = taken.with_readings()
    twin.live = True
    vars(twin)["read"] = lambda **_: twin
    return twin


def _awaited(page: Any) -> Callable[[], None]:
    """Return what waits until a page that reads in a thread has changed."""
    import threading

    changed = threading.Event()
    page.changed = changed.set

    def wait() -> None:
        assert getattr(page, "reading", "") is None or changed.wait(60)

    return wait


@pytest.mark.parametrize("what", ["snapshot", "findings", "table"])
def test_where_nobody_is_there_a_thing_explores_as_itself(what: str, taken: Snapshot, found: list[Finding]) -> None:
    """So a headless run shows what it always showed."""
    from meshkit import Findings

    thing = {"snapshot": taken, "findings": Findings(found), "table": tables.PROXIES.view(taken.proxies().proxies)}[
        what
    ]
    assert not person.is_there()
    assert thing.explore() is thing
