"""The tour: a question at each stage, whose answer the tables of a real run show, in a terminal and by buttons.

`tour/` has those tables, of the runs of `meshkit demo` on 2026-11-30.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from meshlab.faults import drills
from meshlab.layout import Settings
from meshlab.tour import visit
from meshlab.tour.page import StopPage
from meshlab.tour.stops import find, stops
from playwright.sync_api import Browser, expect

from meshkit.errors import ChangeError, InputError
from meshkit.runs.outcome import Outcome, Status
from meshkit.runs.run import RunResult
from tests.support.jupyter import THEMES, JupyterLab, jupyterlab
from tests.support.lab import Lab, in_folder, started

RUNS = Path(__file__).parent / "tour"
NOTEBOOK = Path(__file__).parents[1] / "tour.ipynb"
every = pytest.mark.parametrize("number", stops())


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A lab's folder in which every stage of the tour has run."""
    Settings().save(tmp_path)
    shutil.copytree(RUNS, tmp_path / "tour/mesh1")
    with in_folder(tmp_path):
        yield tmp_path


@every
def test_a_stop_asks_and_its_answer_has_evidence(number: str, home: Path) -> None:
    """Three choices, one of them right; every table of the run is there, and has rows."""
    stop = find(number)
    assert len(set(stop.choices)) == 3
    assert stop.answer in stop.choices
    assert len(stop.because.split(". ")) >= 2
    seen = visit.latest(stop)
    assert seen is not None
    for evidence in stop.shows:
        table = seen.table(evidence)
        assert list(table.columns) == list(evidence.columns)
        assert 1 <= len(table) <= visit.ROWS


def test_the_tables_show_what_the_answers_say(home: Path) -> None:
    """The chains end where they did; a remote pod is behind its gateway; a first call takes three round trips."""
    tables = {}
    for stop in stops().values():
        seen = visit.latest(stop)
        assert seen is not None
        tables |= {f"{stop.number} {one.table}": seen.table(one) for one in stop.shows}
    chains, latency = tables["04 chains"], tables["09 latency"].query("path == 'remote'")
    assert list(chains["ends_at_before"]) == list(chains["ends_at"])
    assert all(":15443" in addresses for addresses in tables["07 merged"]["endpoints"])
    assert set(tables["06 gateways-seen"].apply(lambda row: row["network"] == f"net-{row['cluster']}", axis=1)) == {
        True
    }
    assert all(2.5 < ratio < 4 for ratio in latency["first_p50_ms"] / latency["p50_ms"])
    assert set(tables["10 traffic"]["failed"]) == {0}


def test_of_several_tables_and_runs_the_last_one_counts(home: Path) -> None:
    """Within a run by number, among runs by time; a run that failed shows nothing."""
    stop = find("02")
    changes = next(one for one in stop.shows if one.table == "changes")
    tables = home / "tour/mesh1/20261130T220421Z-02/tables"
    for number in (2, 10):
        text = f"cluster,action,object,why,status\nwest,create,Secret {number},,done\n"
        (tables / f"changes.{number}.csv").write_text(text)
    failed = home / "tour/mesh1/20261201T000000Z-02"
    failed.mkdir()
    (failed / "record.json").write_text(json.dumps({"exit_code": 1}))
    seen = visit.latest(stop)
    assert seen is not None
    assert list(seen.table(changes)["object"]) == ["Secret 10"]


def test_a_stage_that_found_everything_done_has_nothing_to_show(home: Path) -> None:
    """Neither a table that is missing nor one without rows is an error, in a terminal or on the page."""
    tables = home / "tour/mesh1/20261130T220421Z-10/tables"
    (tables / "traffic.csv").unlink()
    (tables / "changes.csv").write_text("cluster,action,object,status,seconds\n")
    seen = visit.latest(find("10"))
    assert seen is not None
    assert list(seen.lines()).count(visit.NOTHING) == 2
    assert StopPage("10").html().count(visit.NOTHING) == 2


def test_without_anybody_there_a_stop_prints_itself(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Question, choices, and the answer only if the stage has run."""
    visit.play("04", apply=False)
    told = capsys.readouterr().out
    assert "  1. They keep their certificates" in told
    assert "answer: They keep their certificates" in told
    assert "Meanwhile users sent 380 requests, of which 0 failed." in told
    shutil.rmtree(home / "tour")
    visit.play("04", apply=False)
    assert capsys.readouterr().out.endswith("the stage has not run yet\n")


def test_a_stop_that_there_is_not_is_refused() -> None:
    """With those that there are."""
    with pytest.raises(InputError, match="no stop '11'; it has 01, 02, "):
        find("11")


def test_a_stage_that_does_not_pass_says_why(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the folder of its evidence."""
    bad = Outcome(stage="04-trust", status=Status.FAILED, reason="no root")
    monkeypatch.setattr(drills, "running", lambda: home)
    monkeypatch.setattr(
        visit, "execute", lambda *_, **__: RunResult(folder=home, outcomes=[bad], withheld=[], exit_code=1)
    )
    with pytest.raises(ChangeError, match="stage 04 trust failed: no root"):
        visit.run(find("04"), print)


def test_the_answer_is_kept_until_the_stage_has_run(home: Path) -> None:
    """A choice alone shows neither right nor wrong."""
    page = StopPage("04")
    page.visit = None
    page.choose("choice", "1")
    assert page.status() == "the answer follows when the stage has run"
    assert "✔ right" not in page.html()
    page.visit = visit.latest(page.stop)
    assert page.status() == "right"
    page.choose("choice", "2")
    assert page.status().startswith("not quite: They keep")
    assert "✔ right" in page.html()
    assert "✖ not this one" in page.html()


CELLS = (
    f"""
import os, shutil, time
from pathlib import Path
home = Path("lab").absolute()
os.environ["MESHKIT_LAB_DIR"] = str(home)
from meshlab.tour import page, visit

def run(stop, say):
    say("04  3/21  1.2 s  Look"); time.sleep(4)
    shutil.copytree({str(RUNS)!r}, home / "tour/mesh1", dirs_exist_ok=True)
    return visit.latest(stop)

visit.run = run
""",
    'page.stop("04")',
    "41 + 1",
)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, browser: Browser) -> Iterator[JupyterLab]:
    """JupyterLab with a stop of the tour, whose run is one of `tour/`."""
    with jupyterlab(tmp_path_factory.mktemp("notebooks"), browser) as started:
        started.run(started.write("tour.ipynb", *CELLS))
        yield started


def test_a_stop_by_buttons(lab: JupyterLab) -> None:
    """Chosen, applied while the kernel stays free, answered with the tables of the run."""
    panel = lab.panel("Stage 04 trust")
    panel.get_by_label("They lose their connections").check()
    expect(panel.get_by_role("status")).to_have_text("the answer follows when the stage has run")
    lab.picture(panel, "tour-question")
    panel.get_by_role("button", name="Apply stage 04 trust").click()
    expect(panel.get_by_role("status")).to_contain_text("Look")
    lab.run_cell(2)
    expect(lab.page.locator(".jp-OutputArea-output").get_by_text("42", exact=True)).to_be_visible()
    expect(panel.get_by_role("status")).to_contain_text("Look")
    expect(panel.get_by_text("✖ not this one")).to_be_visible()
    expect(panel).to_contain_text("Meanwhile users sent 380 requests, of which 0 failed.")
    expect(panel.get_by_role("table").last).to_contain_text("045e1fd12d5eb2bf")
    lab.picture(panel, "learn-tour")


@pytest.mark.parametrize("theme", ["Light", "Dark"])
def test_axe_finds_nothing_serious_by_buttons(lab: JupyterLab, theme: str) -> None:
    """In either theme, of an answered stop."""
    lab.set(THEMES, {"theme": f"JupyterLab {theme}"})
    lab.run("tour.ipynb")
    panel = lab.panel("Stage 04 trust")
    panel.get_by_label("They lose their connections").check()
    expect(panel.get_by_text("✖ not this one")).to_be_visible()  # the stage has run before
    lab.picture(panel, f"learn-tour-{theme.lower()}")
    assert lab.serious() == []


@pytest.fixture
def single_lab(short_folder: Path) -> Iterator[Lab]:
    """East with Istio as people have it, west bare."""
    with started(short_folder / "tour", "single") as lab:
        yield lab


@pytest.mark.lab
@pytest.mark.drill
def test_the_whole_tour_on_the_lab(single_lab: Lab, tmp_path: Path) -> None:
    """Headless, by plain papermill: each stage passes, and its answer has evidence."""
    out = tmp_path / "out.ipynb"
    command = [sys.executable, "-m", "papermill", str(NOTEBOOK), str(out), "-p", "apply", "True"]
    with in_folder(single_lab.home):
        done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        assert all(visit.latest(stop) for stop in stops().values())
    told = json.dumps([cell.get("outputs") for cell in nbformat.read(out, as_version=4).cells], ensure_ascii=False)
    assert told.count("answer: ") == len(stops())
