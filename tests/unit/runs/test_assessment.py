"""The assessment before a migration: its phases, its tasks, and both of its formats."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from click.testing import CliRunner

from meshkit.checks import catalogue
from meshkit.checks.catalogue import Phase
from meshkit.checks.finding import Finding, Findings, Verdict
from meshkit.cli.main import cli
from meshkit.istio.control_plane.managed import MANAGERS
from meshkit.runs.assessment import Assessment, assessment
from meshkit.snapshot.snapshot import Snapshot

SNAPSHOTS = Path(__file__).parents[2] / "fixtures" / "snapshots"
FAULT = SNAPSHOTS / "older-secret-in-wrong-namespace.json.gz"


@pytest.fixture(scope="module")
def facts() -> Snapshot:
    """A real mesh with a fault, as `gather` writes it now: with who installed and runs its Istio."""
    taken = Snapshot.load(FAULT)
    return taken.with_readings(managers=MANAGERS.frame([]), installers={"east": "istioctl", "west": "helm"})


@pytest.fixture(scope="module")
def found(facts: Snapshot) -> Assessment:
    """Its assessment."""
    return assessment(facts)


def ids(found: Assessment) -> dict[str, list[str]]:
    """Return the ids of the tasks of each phase."""
    return {phase.value: [task.check.id for task in tasks] for phase, tasks in found.tasks.items()}


def test_phases_are_what_checks_stop_and_which_stage_fixes_them() -> None:
    """Stage 02 is the first that changes anything; what stops none waits, unless the catalogue says otherwise."""
    known = catalogue.checks().values()
    assert {check.phase for check in known} == {*Phase}
    for check in known:
        if check.due:
            assert check.phase is check.due
        elif check.fixed_by:
            assert check.phase is Phase.WITH
        else:
            assert check.phase is {"02": Phase.NOW, "": Phase.AFTER}.get(check.stops, Phase.BEFORE)


def test_stage_01_is_assessed_by_phase() -> None:
    """What cannot be read, before anything; what the facts say against the mesh file, before stage 05."""
    own = [check for check in catalogue.checks().values() if check.stage == "01"]
    phases = {phase: {check.id for check in own if check.phase is phase} for phase in Phase}
    assert {"MK101", "MK102", "MK108", "MK109"} <= phases[Phase.NOW]
    assert {"MK103", "MK105", "MK106", "MK107"} <= phases[Phase.BEFORE]


def test_a_task_is_a_cause_and_what_follows_from_it_is_named_there(found: Assessment) -> None:
    """Twelve known defects of a version are one task; helm's installation has the mesh file's ids."""
    assert ids(found) == {"now": [], "before": ["MK240"], "with": ["MK832"], "after": []}
    defects, secret = found.tasks[Phase.BEFORE][0], found.tasks[Phase.WITH][0]
    assert (len(defects.findings), defects.effort, defects.risk) == (12, "by hand", "low")
    assert [one.id for one in secret.effects] == ["MK804", "MK842", "MK839", "MK711", "MK712"]
    assert secret.effort == "stage 07 discovery does it"
    assert secret.risk.startswith("high, stops stage 08 verify, may lead to ")


def test_an_older_file_leaves_unknown_who_installed_istio() -> None:
    """Never a pass: the exit code says so, and the document what to do."""
    result = CliRunner().invoke(cli, ["assess", "--snapshot", str(FAULT)], standalone_mode=False)
    assert result.return_value == 3
    assert "### MK105: istioctl may install here" in result.stdout
    assert "take another with" in result.stdout


def test_only_what_must_be_done_before_holds_the_migration(found: Assessment) -> None:
    """Not what its own stages do."""
    assert {one.id for one in found.holding} == {"MK240"}
    assert found.holding.verdict is Verdict.WARN


def test_markdown_has_commands_as_they_stand_and_a_box_for_each_task(found: Assessment) -> None:
    """And one for each phase; a code block is closed, and each row of a table has its columns."""
    text = found.render("md")
    assert text.count("- [ ] done by") == 2
    assert text.count("| ☐ ") == 4
    assert "\nkubectl --context lab-east -n default delete secret istio-remote-secret-west\n" in text
    assert text.count("```") % 2 == 0
    tables = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert len(tables) == 6
    for table in tables:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1, table


class _Ids(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, _: str, attributes: list[tuple[str, str | None]]) -> None:
        known = dict(attributes)
        self.ids += [known["id"] or ""] if "id" in known else []
        self.links += [known["href"] or ""] if "href" in known else []
        assert "src" not in known


def test_html_is_one_file_whose_links_lead_somewhere(found: Assessment) -> None:
    """Nothing is fetched; every id is there once."""
    page = _Ids()
    page.feed(text := found.render("html"))
    assert len(page.ids) == len(set(page.ids))
    assert {f"#{name}" for name in page.ids} >= set(page.links) != set()
    assert "istioctl create-remote-secret --context lab-west" in text


@pytest.mark.parametrize("form", ["md", "html"])
def test_what_a_cluster_says_is_text(facts: Snapshot, found: Assessment, form: str) -> None:
    """No tag, no link, no column of its own."""
    evil = '<img src=x onerror="alert(1)"> | [a](http://b) `c`'
    bad = Finding(
        id="MK106", check="load balancers get addresses", subject=evil, expected="e", observed=evil,
        verdict=Verdict.FAIL, remedy=f"look at {evil}",
    )  # fmt: skip
    text = Assessment(facts, found.advice, Findings([bad])).render("html" if form == "html" else "md")
    assert not re.search(r"(?<!\\)<img", text)
    assert form == "html" or r"\[a\](http://b)" in text
