"""A run that is killed with -9 again and again, at random moments, and resumed: it ends as one that never broke.

The seed and every hit are printed; MESHKIT_TEST_SEED gives the same moments again, MESHKIT_TEST_KILLS fewer of them,
MESHKIT_TEST_SHAPE (`primary-remote+flat-one-vpc`) a mesh of another shape.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from meshkit.changes.journal import Entry, Journal
from meshkit.kube.mesh import Mesh
from meshkit.probing.load_log import Follower
from meshkit.probing.pair_probe import COMPONENT
from tests.support.lab import Lab, Object, started, until
from tests.support.sameness import Key, differences, snapshot

pytestmark = [pytest.mark.lab, pytest.mark.drill, pytest.mark.timeout(3600)]

# Each moment: from which stage to which, and within how many seconds, or of a change within how many.
# The twelve in the middle hit changes of stages 04 to 07 wherever these have come to.
START = ("", "", 3.0)
READING = (("01", "01", 8.0), ("02", "02", 5.0), ("03", "03", 6.0))
CHANGING = 12 * (("04", "07", 1.5),)
PROVING = (("08", "08", 15.0), ("09", "09", 20.0))
SHIFTING = 2 * (("10", "10", 4.0),)
MOMENTS = (START, *READING, *CHANGING, *PROVING, *SHIFTING)
NEXT = 3
"""The change that is hit is one of the next so many, drawn."""
STAGE_TAKES = 400.0
Moment = tuple[str, str, float]
SHAPES = tuple(filter(None, os.environ.get("MESHKIT_TEST_SHAPE", "").split("+")))
KNOWN_UNTIL = "08"
"""The last stage that a run may begin with if it is to know all parameters of SMALL."""
SMALL = ("-p", "samples", "40", "-p", "calls", "3", "-p", "hold", "3")


@dataclass
class Killed:
    """Runs of one lab that are killed, each resumed from the folder of the one before."""

    lab: Lab
    home: Path
    dice: random.Random
    last: Path | None = None
    hits: list[str] = field(default_factory=list)
    open: set[int] = field(default_factory=set)
    """The changes that were under way when a run was killed."""

    def argv(self, *more: str) -> list[str]:
        """Return the command line of a run, or of going on with the last one."""
        how = ("--resume", str(self.last)) if self.last else ("--mode", "apply")
        out = ("--out", str(self.home / "runs"))
        return [sys.executable, "-m", "meshkit", "run", str(self.lab.mesh_file), *how, *out, *SMALL, *more]

    def env(self) -> dict[str, str]:
        """Return the environment: a private store of the test's own, istioctl at hand."""
        return {**self.lab.command("istioctl")[1], "XDG_STATE_HOME": str(self.home)}

    def folders(self) -> list[Path]:
        """Return the run folders that can be resumed, the oldest first."""
        return sorted(path.parent for path in (self.home / "runs").glob("*/*/events.jsonl") if path.stat().st_size)

    def entries(self) -> list[Entry]:
        """Return the changes that the journal knows."""
        used = [book.entries for book in Journal.all_of("mesh1") if book.entries]
        assert len(used) <= 1, "a resumed run goes on in the journal of the first"
        return used[0] if used else []

    @property
    def at(self) -> str:
        """The stage in which the last run was killed, or an empty text."""
        return max(_stages(self.last), default="") if self.last else ""

    def kill(self, moment: Moment) -> None:
        """Start or resume, and kill everything of it at a random moment of some stages."""
        known = len(self.folders())
        # Every other time as one in a hurry does: from the stage on that was killed.
        again = ("--from", min(self.at, KNOWN_UNTIL)) if self.at >= "04" and len(self.hits) % 2 else ()
        with (self.home / "said.log").open("ab") as said:
            process = psutil.Popen(self.argv(*again), env=self.env(), stdout=said, stderr=said)
        try:
            self._await(moment, process, known)
        finally:
            seen = slain(process)
        if len(self.folders()) > known:
            self.last = self.folders()[-1]
        change = "none"
        if (entries := self.entries()) and (newest := entries[-1]).event == "begun":
            self.open.add(newest.n)
            change = f"{newest.n} {newest.cluster}: {newest.action} {newest.object}"
        told = f"in stage {self.at or '-'}, change under way: {change}; killed {seen}"
        self.hits.append(told)
        print(f"{len(self.hits):>2} {told}", flush=True)

    def _await(self, moment: Moment, process: psutil.Popen, known: int) -> None:
        """Return at a random moment, or as soon as its stages ended before that."""
        first, last, within = moment
        if first:
            until(lambda: self._has_begun(first, process, known), f"stage {first} has begun", STAGE_TAKES)
        if moment in CHANGING + SHIFTING:
            wanted = len(self.entries()) + self.dice.randint(1, NEXT)
            until(
                lambda: len(self.entries()) >= wanted or self._is_past(last, process),
                f"change {wanted} is noted", STAGE_TAKES,
            )  # fmt: skip
        deadline = time.monotonic() + self.dice.uniform(0, within)
        while time.monotonic() < deadline and not (last and self._is_past(last, process)):
            time.sleep(0.02)

    def _has_begun(self, stage: str, process: psutil.Popen, known: int) -> bool:
        assert process.poll() is None, f"it ended before stage {stage}: {process.returncode}; {self._said()}"
        folders = self.folders()[known:]
        return bool(folders) and max(_stages(folders[0]), default="") >= stage

    def _is_past(self, stage: str, process: psutil.Popen) -> bool:
        assert process.poll() is None, f"it ended in stage {stage}: {process.returncode}; {self._said()}"
        return max(_stages(self.folders()[-1])) > stage

    def _said(self) -> str:
        return "\n".join((self.home / "said.log").read_text().splitlines()[-30:])

    def finish(self) -> Path:
        """Resume the first run, all of its stages, to the end; return the folder."""
        self.last = self.folders()[0] if self.folders() else None
        done = run(self.argv(), self.env())
        return Path(done.stdout.split()[-1])


def run(argv: list[str], env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run meshkit to its end; it must pass."""
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-6000:]
    return done


def _stages(folder: Path) -> list[str]:
    """Return the numbers of the stages that a run has started."""
    numbers = []
    for line in (folder / "events.jsonl").read_text().splitlines():
        with contextlib.suppress(ValueError):  # half a line
            event = json.loads(line)
            numbers += [event["stage"][:2]] if event["event"] == "stage started" else []
    return numbers


def slain(process: psutil.Popen) -> str:
    """Kill a process and all of its descendants with -9, so that none can do anything about it; return their names."""
    family: list[psutil.Process] = []
    with contextlib.suppress(psutil.NoSuchProcess):
        process.suspend()  # none of them sees another one die
        for child in process.children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                child.suspend()
        family = process.children(recursive=True)
    names = []
    for member in (*family, process):
        with contextlib.suppress(psutil.NoSuchProcess):
            names.append(member.name())
            member.kill()
    _, alive = psutil.wait_procs([*family, process], timeout=10)
    assert not alive
    return ", ".join(f"{count} {name}" for name, count in sorted(Counter(names).items()))


def test_a_run_killed_twenty_times_ends_as_an_unbroken_one(short_folder: Path, tmp_path: Path) -> None:
    """The last resume passes, leaves nothing temporary, and every object is as after a run that was never killed."""
    seed = int(os.environ.get("MESHKIT_TEST_SEED") or random.SystemRandom().randrange(10**6))
    chosen = chosen_moments(int(os.environ.get("MESHKIT_TEST_KILLS") or len(MOMENTS)))
    print(f"seed {seed}, {len(chosen)} kills")
    with started(short_folder / "killed", "single", shapes=SHAPES) as lab, pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path))
        killed = Killed(lab, tmp_path, random.Random(seed))  # noqa: S311
        follower = Follower(Mesh.open(lab.mesh_file)).start()
        for moment in chosen:
            killed.kill(moment)
        begun = time.monotonic()
        killed.finish()
        print(f"resumed to the end in {time.monotonic() - begun:.0f} s")
        totals = follower.stop().totals
        print(f"requests over all of it: {totals}")
        assert totals["sent"] > 0
        judge_journal(killed)
        judge_leftovers(lab)
        judge_plan(killed)
        broken = snapshot(lab)
    unbroken = unbroken_state(short_folder / "unbroken", tmp_path / "other")
    assert differences(unbroken, broken) == []


def chosen_moments(count: int) -> tuple[Moment, ...]:
    """Return as many of the moments, spread over all of them."""
    return tuple(MOMENTS[round(i * (len(MOMENTS) - 1) / max(1, count - 1))] for i in range(count))


def judge_journal(killed: Killed) -> None:
    """One journal; what began has ended, but for what was under way at a kill; nothing temporary stands."""
    entries = killed.entries()
    assert [entry.n for entry in entries] == list(range(1, len(entries) + 1))
    assert {entry.n for entry in entries if entry.event == "begun"} <= killed.open
    assert [entry for entry in entries if entry.event == "failed"] == []
    assert [entry for entry in entries if entry.temporary and entry.stands] == []


def judge_leftovers(lab: Lab) -> None:
    """No rule of stage 10, no Service of a probe, the server's replicas back."""
    labels = ",".join(f"{key}={value}" for key, value in COMPONENT.items())
    for context in ("lab-east", "lab-west"):
        asked = ("get", "destinationrules,services", "-n", "sample", "-o", "name")
        assert "meshkit-" not in lab.kubectl(context, *asked)
        assert lab.kubectl(context, "get", "services", "-A", "-l", labels, "-o", "name") == ""
        server: dict[str, Any] = json.loads(
            lab.kubectl(context, "get", "deployment", "httpbin", "-n", "sample", "-o", "json")
        )
        assert server["status"].get("readyReplicas") == server["spec"]["replicas"]


def judge_plan(killed: Killed) -> None:
    """A run in plan mode passes and would change nothing."""
    out = ("--out", str(killed.home / "plans"))
    argv = [sys.executable, "-m", "meshkit", "run", str(killed.lab.mesh_file), *out, *SMALL]
    done = run(argv, killed.env())
    shown = [json.loads(path.read_text()) for path in Path(done.stdout.split()[-1]).glob("0[1-7]-*.ipynb")]
    said = [_text(notebook) for notebook in shown]
    assert len(said) == 7
    assert [text for text in said if "are shown, none is made" in text] == []


def _text(notebook: Any) -> str:
    outputs = (output for cell in notebook["cells"] for output in cell.get("outputs", []))
    return "".join("".join(output.get("text", "")) for output in outputs)


def unbroken_state(home: Path, state: Path) -> dict[Key, Object]:
    """Return what a run that was never killed makes of a lab of its own."""
    with started(home, "single", shapes=SHAPES) as lab:
        whole = Killed(lab, state, random.Random(0))  # noqa: S311
        begun = time.monotonic()
        whole.finish()
        print(f"unbroken: {time.monotonic() - begun:.0f} s")
        return snapshot(lab)
