"""Training: the same round of a seed each time, no word too many, what answers are worth, and what outlives a kill."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from meshlab.faults import drills
from meshlab.faults.bench import Note
from meshlab.faults.catalogue import find
from meshlab.layout import Site, sites
from meshlab.training import rounds, rules, sheet
from meshlab.training.lesson import lessons
from meshlab.training.rules import KNOWN, RoundOutcome

from meshkit.errors import CheckFailed, InputError
from tests.support.lab import Lab, in_folder, until

NOTEBOOK = Path(__file__).parents[1] / "training.ipynb"
EAST, WEST = sites(2)
ALL = len(KNOWN)


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for a score sheet of this test's own."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path


def meshkit(*argv: str, timeout: float = 400) -> subprocess.CompletedProcess[str]:
    """Run `meshkit lab drill`, or another of the lab's commands."""
    command = [sys.executable, "-m", "meshkit", "lab", *argv]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)


def test_a_seed_draws_the_same_faults_in_the_same_clusters_and_order() -> None:
    """Each fault once, in clusters of the lab; another seed has another order; in three clusters, the same faults."""
    first = [rules.draw(7, n, 2) for n in range(1, ALL + 1)]
    assert first == [rules.draw(7, n, 2) for n in range(1, ALL + 1)]
    assert sorted(fault.name for fault, _ in first) == sorted(KNOWN)
    assert {site for _, site in first} == {EAST, WEST}
    assert first != [rules.draw(8, n, 2) for n in range(1, ALL + 1)]
    assert [fault for fault, _ in first] == [rules.draw(7, n, 3)[0] for n in range(1, ALL + 1)]


@pytest.mark.parametrize("number", [0, -1, ALL + 1])
def test_a_number_that_no_fault_has_is_refused(number: int) -> None:
    """With how many there are."""
    with pytest.raises(InputError, match=f"expected 1 to {ALL}, .* got {number}"):
        rules.draw(7, number, 2)


@pytest.mark.parametrize(("topic", "level"), [("trust", 0), ("", 1), ("gateways", 2)])
def test_a_topic_and_a_level_choose_among_the_faults_of_a_seed(topic: str, level: int) -> None:
    """In the order that the seed has anyway; one more than there are is refused."""
    wanted = {name for name, one in lessons(EAST).items() if topic in ("", one.topic) and level in (0, one.level)}
    drawn = [rules.draw(7, n, 2, topic, level) for n in range(1, len(wanted) + 1)]
    assert {fault.name for fault, _ in drawn} == wanted
    assert drawn == [one for n in range(1, ALL + 1) if (one := rules.draw(7, n, 2)) in drawn]
    with pytest.raises(InputError, match=f"expected 1 to {len(wanted)}, "):
        rules.draw(7, len(wanted) + 1, 2, topic, level)


@pytest.mark.parametrize(("topic", "level"), [("gateway", 0), ("", 4)])
def test_a_topic_or_level_that_there_is_not_is_refused(topic: str, level: int) -> None:
    """With those that there are."""
    with pytest.raises(InputError, match="expected a topic of discovery, gateways, trust, policy, proxies and a level"):
        rules.draw(7, 1, 2, topic, level)


def test_only_the_last_hint_offers_the_checks() -> None:
    """It has the command, the id and the title, and asks for the cause."""
    first, second, last = rules.hints(find("gateway-down"), WEST, "lab.yaml")
    assert "check" not in first + second
    assert last.startswith("`meshkit check lab.yaml` finds it: MK805, ")
    assert "Which object is the cause" in last


@pytest.mark.parametrize(
    ("answer", "outcome", "near"),
    [
        ("gateway-down", RoundOutcome.NAME, ""),
        (" Gateway-Down ", RoundOutcome.NAME, ""),
        ("Deployment/istio-eastwestgateway spec.replicas", RoundOutcome.NAME, ""),
        ("deployment/istio-eastwestgateway  SPEC.replicas", RoundOutcome.NAME, ""),
        ("Deployment/istio-eastwestgateway image", None, "the object is right: which field of it?"),
        ("Service/istio-eastwestgateway spec.ports", None, ""),
        ("network port 15443", None, ""),
        ("mk805", None, "this check finds it: which object is the cause, and which field of it?"),
        ("exposure-missing", None, "the same check names both"),
        ("namespace-without-network-label", None, "it is of the same topic, gateways"),
        ("skewed-clock", None, ""),
        ("MK711", None, "what it finds follows from the fault: what is the reason for it?"),
        ("MK201", None, "what it finds may be a reason for what is asked"),
        ("MK203", None, ""),
    ],
)
def test_an_answer_is_right_near_or_wrong(answer: str, outcome: RoundOutcome | None, near: str) -> None:
    """By object and field, or by name; a check is where to look, and no cause; a near miss says what differs."""
    assert rules.check_answer(answer, find("gateway-down"), WEST) == (outcome, near)


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ("gatway-down", "gateway-down"),
        ("MK80", "MK80"),
        ("", "no fault is called ''"),
        ("Deployment/istio-eastwest spec.replicas", "the nearest is Deployment/istio-eastwestgateway"),
        ("Deployment/istio-eastwestgateway replicas", "the nearest is spec.replicas"),
        ("Deployment/istio-eastwestgateway", "no cause has the field ''"),
    ],
)
def test_an_answer_that_names_nothing_is_refused(answer: str, told: str) -> None:
    """With what is nearest."""
    with pytest.raises(InputError, match=told):
        rules.check_answer(answer, find("gateway-down"), WEST)


@pytest.mark.parametrize(
    ("outcome", "hints", "wrong", "points"),
    [
        (RoundOutcome.NAME, 0, 0, 10),
        (RoundOutcome.NAME, 1, 0, 9),
        (RoundOutcome.NAME, 2, 1, 5),
        (RoundOutcome.NAME, 3, 0, 4),
        (RoundOutcome.NAME, 3, 9, 1),
        (RoundOutcome.GIVEN_UP, 0, 0, 0),
        (RoundOutcome.UNANSWERED, 0, 0, 0),
        (RoundOutcome.LOST, 0, 0, None),
    ],
)
def test_what_a_round_is_worth(outcome: RoundOutcome, hints: int, wrong: int, points: int | None) -> None:
    """Help costs, a right answer always counts, and none that was not given ever does."""
    assert rules.points(outcome, hints, wrong) == points


def test_a_round_is_known_again_by_its_lines(state: Path) -> None:
    """Open, its fault stands nowhere; ended, the row has all of it; another lab's rounds are others."""
    lab = state / "lab"
    fault, site = rules.draw(7, 3, 2)
    sheet.add(lab, "begun", seed=7, number=3, clusters=2)
    sheet.add(state / "other", "begun", seed=8, number=1, clusters=2)
    sheet.add(lab, "broken")
    sheet.add(lab, "hint")
    sheet.add(lab, "wrong", answer="MK101")
    one = sheet.latest(lab)
    assert one is not None
    assert (one.seed, one.number, one.hints, one.tries, one.outcome) == (7, 3, 1, ["MK101"], None)
    assert fault.name not in sheet.path().read_text()
    assert fault.name not in sheet.table().to_csv()
    assert list(sheet.table()["outcome"]) == ["open", "open"]
    sheet.add(lab, "decided", outcome=RoundOutcome.NAME, answer=fault.name)
    one = sheet.latest(lab)
    assert one is not None
    sheet.add(lab, "ended", **one.closing())
    row = sheet.table().iloc[0]
    assert (row["fault"], row["cluster"], row["outcome"]) == (fault.name, site.name, "found")
    assert (row["hints"], row["tries"], row["points"]) == (1, 2, 7)
    assert 0 <= row["seconds"] <= 60


def test_half_a_line_of_a_killed_process_harms_no_other(state: Path) -> None:
    """It is passed over, and the next line stands on a line of its own."""
    lab = state / "lab"
    sheet.add(lab, "begun", seed=7, number=3, clusters=2)
    with sheet.path().open("a") as file:
        file.write('{"event": "hi')
    sheet.add(lab, "hint")
    one = sheet.latest(lab)
    assert one is not None
    assert one.hints == 1


def test_two_at_once_are_refused(state: Path) -> None:
    """The second has to wait."""
    with sheet.held(), pytest.raises(InputError, match="is at work"), sheet.held():
        pass


def test_the_score_is_a_table_in_three_formats(state: Path) -> None:
    """Of nobody's rounds it is empty."""
    assert json.loads(meshkit("drill", "score", "-o", "json").stdout) == []
    assert meshkit("drill", "score", "-o", "csv").stdout.startswith("date,seed,number,fault,cluster,outcome,hints,")
    sheet.add(state, "begun", seed=7, number=3, clusters=2)
    (row,) = json.loads(meshkit("drill", "score", "-o", "json").stdout)
    assert (row["outcome"], row["fault"], row["points"]) == ("open", "", None)


def test_what_is_broken_is_reported_nowhere_while_a_training_goes_on(state: Path) -> None:
    """The list of faults says `untold` of all of them, and no name can be tried by breaking or healing it."""
    note = Note(state, "gateway-down")
    note.begin("west", "2026-01-01T00:00:00Z", hidden=True)
    with in_folder(state):
        assert set(drills.table()["broken"]) == {"untold"}
        with pytest.raises(InputError, match="a training round is open"):
            drills.refuse_in_training(state)
        note.end()
        assert set(drills.table()["broken"]) == {""}
        drills.refuse_in_training(state)


@pytest.mark.parametrize("argv", [("start",), ("hint",), ("answer", "gateway-down"), ("give-up",)])
def test_without_a_lab_the_remedy_is_up(state: Path, argv: tuple[str, ...]) -> None:
    """Exit code 3, and nothing is written."""
    with in_folder(state / "none"):
        done = meshkit("drill", *argv)
    assert done.returncode == 3
    assert "no lab runs\n  → start one: `meshkit lab up --start meshed`\n" in done.stderr
    assert not sheet.path().exists()


@pytest.fixture
def lab(meshed_lab: Lab, state: Path) -> Iterator[Lab]:
    """The meshed lab, with a score sheet of this test's own; whatever it leaves broken is healed."""
    with in_folder(meshed_lab.home):
        yield meshed_lab
        drills.heal(list(drills.broken(meshed_lab.home)), print)


def number_of(name: str, site: Site, seed: int = 1) -> tuple[int, int]:
    """Return a seed and a number that draw a fault in a cluster."""
    while (drawn := next(n for n in range(1, ALL + 1) if rules.draw(seed, n, 2)[0].name == name)) and (
        rules.draw(seed, drawn, 2)[1] != site
    ):
        seed += 1
    return seed, drawn


@pytest.mark.lab
@pytest.mark.drill
def test_a_round_on_the_command_line(lab: Lab) -> None:
    """Broken secretly, hinted at, answered wrongly and rightly, healed, scored; a second round meanwhile is refused."""
    seed, number = number_of("gateway-down", WEST)
    drawn = ("--seed", str(seed), "--number", str(number))
    untold = [meshkit("drill", "start", *drawn), meshkit("faults"), meshkit("drill", "hint"), meshkit("drill", "hint")]
    assert [done.returncode for done in untold] == [0] * 4, untold
    assert f"number {number} of seed {seed}: since" in untold[0].stderr
    assert untold[1].stdout.count("untold") == ALL
    assert "Does anything stand behind it?" in untold[3].stdout
    untold += [meshkit("drill", "start"), meshkit("drill", "start", "--seed", str(seed + 1)), meshkit("drill", "score")]
    assert [done.returncode for done in untold[4:]] == [0, 2, 0]
    told = "".join(done.stdout + done.stderr for done in (untold[0], *untold[2:]))
    assert "gateway-down" not in told
    assert meshkit("heal", "gateway-down").returncode == meshkit("heal", "exposure-missing").returncode == 2
    assert "meshkit check" not in untold[0].stderr
    assert "Deployment/istio-eastwestgateway, " in meshkit("drill", "answer").stdout
    wrong = meshkit("drill", "answer", "exposure-missing")
    assert wrong.returncode == 1
    assert wrong.stdout == "✖ not exposure-missing; near: the same check names both (−2)\n"
    right = meshkit("drill", "answer", "Deployment/istio-eastwestgateway", "spec.replicas")
    assert right.returncode == 0, right.stderr
    assert "✔ found: gateway-down in west" in right.stdout
    assert re.search(r"^▶ istio-eastwestgateway +0/0 ", right.stdout, re.MULTILINE), right.stdout
    assert "5 of 10 points: 2 hints, 1 wrong, " in right.stdout
    assert re.search(r"the mesh is healthy after \d+\.\d s", right.stderr)
    assert not drills.broken(lab.home)
    (row,) = json.loads(meshkit("drill", "score", "-o", "json").stdout)
    assert (row["fault"], row["cluster"], row["hints"], row["tries"], row["points"]) == (
        "gateway-down", "west", 2, 2, 5)  # fmt: skip
    assert meshkit("drill", "hint").returncode == 2


@pytest.mark.lab
@pytest.mark.drill
def test_giving_up_shows_what_the_checks_say(lab: Lab) -> None:
    """The fault, its check among the causes, no point; the mesh is healed."""
    seed, number = number_of("exposure-missing", EAST)
    assert meshkit("drill", "start", "--seed", str(seed), "--number", str(number)).returncode == 0
    done = meshkit("drill", "give-up")
    assert done.returncode == 0, done.stderr
    assert "✖ given up: exposure-missing in east" in done.stdout
    assert re.search(r"^  ✖ MK805 \[east\]", done.stdout, re.MULTILINE), done.stdout
    assert not drills.broken(lab.home)
    assert list(sheet.table()["points"]) == [0]


@pytest.mark.lab
@pytest.mark.drill
def test_a_round_outlives_kills(lab: Lab) -> None:
    """Killed while it breaks, it goes on with the same fault; killed while it heals, the next command heals."""
    seed, number = number_of("gateway-down", WEST)
    drawn = ("--seed", str(seed), "--number", str(number))
    kill_when(lab, ("start", *drawn), lambda: bool(drills.broken(lab.home)))
    assert meshkit("drill", "hint").returncode == 2
    again = meshkit("drill", "start")
    assert again.returncode == 0, again.stderr
    assert f"number {number} of seed {seed}: since" in again.stderr
    kill_when(lab, ("answer", "gateway-down"), lambda: any(one.outcome for one in sheet.rounds()))
    assert list(sheet.table()["outcome"]) == ["open"]
    none = meshkit("drill", "hint")
    assert none.returncode == 2
    assert "no round is open" in none.stderr
    assert not drills.broken(lab.home)
    assert list(sheet.table()["outcome"]) == ["found"]
    assert list(sheet.table()["points"]) == [10]


def kill_when(lab: Lab, argv: tuple[str, ...], there: object) -> None:
    """Start `meshkit lab drill` and kill it as soon as something is there."""
    process = subprocess.Popen([sys.executable, "-m", "meshkit", "lab", "drill", *argv], stderr=subprocess.DEVNULL)
    assert callable(there)
    until(there, f"{argv} begun", 60)
    process.send_signal(signal.SIGKILL)
    process.wait()


@pytest.mark.lab
@pytest.mark.drill
def test_what_another_hand_healed_is_lost_and_counts_nowhere(lab: Lab) -> None:
    """`meshkit lab heal --all` ends a round; the next command says so."""
    seed, number = number_of("exposure-missing", WEST)
    rounds.start(seed, number)
    assert meshkit("heal", "--all").returncode == 0
    with pytest.raises(InputError, match="no round is open"):
        rounds.hint()
    assert list(sheet.table()["outcome"]) == ["lost"]
    assert sheet.table()["points"].isna().all()


@pytest.mark.lab
@pytest.mark.drill
def test_a_mesh_that_is_not_whole_is_refused(lab: Lab) -> None:
    """Where something is broken already, with its name and the remedy."""
    drills.break_("exposure-missing", "west", print)
    done = meshkit("drill", "start")
    assert done.returncode == 2
    assert "found exposure-missing broken in west" in done.stderr
    assert "meshkit lab heal --all" in done.stderr
    assert not sheet.rounds()


@pytest.mark.lab
@pytest.mark.drill
@pytest.mark.parametrize(
    ("answer", "outcome", "code"), [("exposure-missing", "found", 0), ("", "not answered", 1), ("MK203", "given up", 1)]
)
def test_the_notebook_runs_headless(lab: Lab, tmp_path: Path, answer: str, outcome: str, code: int) -> None:
    """By plain papermill: only a right answer counts; without one it says so; the mesh is whole in any case."""
    seed, number = number_of("exposure-missing", WEST)
    out = tmp_path / "out.ipynb"
    given = ("-p", "seed", str(seed), "-p", "number", str(number), "-p", "hints", "1", "-r", "answer", answer)
    command = [sys.executable, "-m", "papermill", str(NOTEBOOK), str(out), *given]
    began = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)
    print(f"{time.monotonic() - began:.0f} s")
    assert done.returncode == code, done.stderr[-3000:]
    assert list(sheet.table()["outcome"]) == [outcome]
    told = json.dumps([cell.get("outputs") for cell in nbformat.read(out, as_version=4).cells], ensure_ascii=False)
    assert "Callers elsewhere have the right address" in told
    assert "▶ Error from server (NotFound)" in told
    assert (answer == "") == ("no answer was given" in told)
    assert not drills.broken(lab.home)
    if code:
        with pytest.raises(CheckFailed, match=f"{outcome}, 0 of 10 points"):
            rounds.conclude()
