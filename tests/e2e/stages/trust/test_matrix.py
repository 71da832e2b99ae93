"""The kill and undo matrix: a root rotation is killed at every boundary, then resumed, or undone.

Every change of stage 04 is hit as it begins, halfway, and when it is done; under load, on one lab. A run that is
resumed is killed again at the next change, and so on to the last; then it comes to the end, and all of it is undone.
A run that is undone at once is a new one each time, and must come back to the beginning. A kill counts where
the journal says that it struck: what was missed is tried again, sooner. The matrix is printed.

MESHKIT_TEST_CELLS says how many boundaries are tried, spread over all of them (none: all); MESHKIT_TEST_WHEN which of
them (`halfway`, say, or two words of When with a comma);
MESHKIT_TEST_ROOTS=default tries it where proxies and istiods take other roots only when they start; MESHKIT_TEST_RATE
is the load's, of each kind in each cluster; MESHKIT_TEST_STRANGERS may name a lab that runs already.
"""

from __future__ import annotations

import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path

import psutil
import pytest
from meshlab import certificates
from meshlab.tools import Tools

from meshkit.changes.change import RESTARTED
from meshkit.changes.journal import Entry
from meshkit.changes.plan import WAITS
from meshkit.istio import trust as istio_trust
from meshkit.kube.mesh import Mesh
from meshkit.stages.trust import stage as trust
from tests.e2e.runs.test_migration import Done, meshkit
from tests.e2e.stages.trust.test_root_rotation import fingerprint, within
from tests.support.boundaries import Going, Noted, Trust, astray, entries, roots_of, words
from tests.support.lab import Lab, Object, Space, sleeper, until
from tests.support.loads import Count, Loads
from tests.support.sameness import Key, differences, snapshot

pytestmark = [pytest.mark.lab, pytest.mark.drill, pytest.mark.timeout(3 * 3600)]

LIVE = os.environ.get("MESHKIT_TEST_ROOTS", "live") == "live"
RATE = float(os.environ.get("MESHKIT_TEST_RATE") or 25)
"""Of each kind in each cluster: a hundred requests a second in all."""
APPLY = ("--only", "04", "--mode", "apply")
TRIES = 3
"""Runs that are made so that a kill strikes where it should."""
HELD = 20.0
MIDDLE = {"restart": 6.0}
"""Seconds to the middle of what takes longer than a second or two."""
ISTIOD_RESTARTED = re.compile(rf"/istiod: .*{re.escape(RESTARTED)}")
"""The one trace that the way back may leave: an istiod was restarted for it."""


class When(StrEnum):
    """When in the life of a change a run is killed."""

    BEGINS = "as it begins"
    HALFWAY = "halfway"
    DONE = "when it is done"


@dataclass(frozen=True)
class Boundary:
    """A change, by its place in a whole run and its words, and when it is hit; `seconds` are to the middle of it."""

    place: int
    words: str
    when: When
    seconds: float = field(compare=False)

    def __str__(self) -> str:
        return f"{self.place + 1} {self.words}, {self.when}"

    @property
    def event(self) -> str:
        """What a journal says last of the change when a run is killed here."""
        return "done" if self.when is When.DONE else "begun"

    def sooner(self, times: int) -> Boundary:
        """Return it with a shorter way to the middle, for it was missed so many times."""
        return replace(self, seconds=self.seconds / 2**times)


@dataclass(frozen=True)
class Struck:
    """How far a run has come: the place of its last change in the order of a whole run, and what is noted of it."""

    place: int
    event: str

    @classmethod
    def of(cls, noted: list[Noted], order: list[str], first: int) -> Struck:
        """Return how far a run has come that goes on from the place `first`."""
        place = first
        for change in noted:
            place = next((n for n in range(place, len(order)) if order[n] == change.words), place)
        return cls(place, noted[-1].event if noted else "")

    def is_at(self, boundary: Boundary) -> bool:
        """Tell whether this is the boundary."""
        return (self.place, self.event) == (boundary.place, boundary.event)

    def has_reached(self, boundary: Boundary) -> bool:
        """Tell whether this is the boundary, or one behind it."""
        return self.place > boundary.place or (self.place == boundary.place and self.event in (boundary.event, "done"))


@dataclass
class Part:
    """What happened from a first to a last second: what was wrong afterwards, and what became of the requests."""

    begun: float = field(default_factory=time.time)
    ended: float = 0.0
    wrong: list[str] = field(default_factory=list)
    counts: list[Count] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Whether it ended right, and no request was lost."""
        return not self.wrong and not any(count.failed for count in self.counts) and within(self.counts) > 0

    def __str__(self) -> str:
        lost = [str(count) for count in self.counts if count.failed]
        failed = sum(len(count.failed) for count in self.counts)
        return "; ".join([f"{'✔' if self.good else '✘'} {failed} of {within(self.counts)}", *self.wrong, *lost])


@dataclass
class Bench:
    """A mesh of strangers under load: where it stands before an overlap, and where after it."""

    lab: Lab
    loads: Loads
    home: Path
    mesh_file: str
    before: dict[str, Trust]
    after: dict[str, Trust]
    objects: dict[Key, Object]
    order: list[str] = field(default_factory=list)
    """The changes of a whole run, in words."""

    @property
    def mesh(self) -> Mesh:
        """The mesh, with nothing remembered."""
        return Mesh.open(self.mesh_file)

    def state(self) -> Path:
        """Return a private store that nothing was noted in yet."""
        return Path(tempfile.mkdtemp(dir=self.home))

    def boundaries(self) -> list[Boundary]:
        """Return the boundaries of all changes that are planned."""
        planned = trust.plan(self.mesh, istio_trust.look(self.mesh)).changes
        self.order = [words(vars(change)) for change in planned]
        half = [0.0 if change.wait is None else MIDDLE.get(change.action, 0.7) for change in planned]
        return [Boundary(n, told, when, half[n]) for n, told in enumerate(self.order) for when in When]

    def killed(self, state: Path, at: Boundary, *argv: str, first: int = 0) -> tuple[Path, Struck]:
        """Kill a run that goes on from the place `first` at a boundary; return its folder, and where it was struck."""
        known = len(entries(state))

        def struck(noted: list[Noted]) -> Struck:
            return Struck.of(noted[known:], self.order, first)

        with Going(state, "run", self.mesh_file, *(argv or APPLY)) as going:
            going.stop_when(lambda noted: struck(noted).has_reached(at))
            if at.when is When.HALFWAY:
                going.go_on()
                time.sleep(at.seconds)
        where = struck([Noted(entry.n, entry.event, words(vars(entry))) for entry in entries(state)])
        print(f"killed: {at}; it was struck at {where.place + 1} {where.event}", flush=True)
        return going.folder, where

    def resumed(self, chosen: list[Boundary]) -> tuple[dict[Boundary, Part], dict[str, Part]]:
        """Kill a run at one boundary, resume it, kill it at the next, and so on to the end; then undo it.

        Returns what happened after each boundary that was struck until the next was, and the other parts by name. A
        boundary that a late kill has left behind is not tried.
        """
        state = self.state()
        parts: list[tuple[Boundary | None, Part]] = [(None, Part())]
        argv, where = APPLY, Struck(-1, "")
        for at in chosen:
            if where.place >= at.place:
                continue
            folder, where = self.killed(state, at, *argv, first=max(where.place, 0))
            argv = ("--resume", str(folder))
            parts[-1][1].ended = time.time()
            parts.append((at if where.is_at(at) else None, Part()))
        kills = len(parts) - 1
        done = meshkit(state, "run", self.mesh_file, *argv)
        self.judged(parts[-1][1], done, self.at_the_end, state, kills)
        for _, part in parts[:-1]:
            self.count(part)
        others = {f"until it was killed, or missed, {n}": part for n, (at, part) in enumerate(parts) if at is None}
        others[f"undone after {kills} kills"] = self.undone_after_kill(state, done.folder, kills=kills)
        return {at: part for at, part in parts if at is not None}, others

    def undone(self, at: Boundary) -> tuple[Part, bool]:
        """Kill a run, and undo it; tell whether the kill struck where it should."""
        state, part = self.state(), Part()
        folder, where = self.killed(state, at)
        return self.undone_after_kill(state, folder, part), where.is_at(at)

    def undone_after_kill(self, state: Path, folder: Path, part: Part | None = None, kills: int = 1) -> Part:
        """Take a run back."""
        part = part or Part()
        done = meshkit(state, "undo", str(folder), "--mode", "apply")
        return self.judged(part, done, self.at_the_beginning, state, kills)

    def judged(
        self, part: Part, done: Done, judge: Callable[[list[Entry]], list[str]], state: Path, kills: int = 1
    ) -> Part:
        """Judge what a part left."""
        part.ended = time.time()
        noted = entries(state)
        part.wrong = [f"exit code {done.code}"] if done.code else []
        part.wrong += [*judge(noted), *in_order(noted, kills)]
        self.count(part)
        if not part.good:
            print(part, done.said[-6000:], sep="\n", flush=True)
        return part

    def count(self, part: Part) -> None:
        """Count what became of the requests within clusters."""
        part.counts = [count for count in self.loads.counts(part.begun, part.ended) if count.kind == "local"]

    def at_the_end(self, _changes: list[Entry]) -> list[str]:
        """Return what is not as after a run that was never killed."""
        left = trust.plan(self.mesh, istio_trust.look(self.mesh)).changes
        planned = [f"still planned: {change.cluster}: {change.action} {change.object}" for change in left]
        return [*astray(self.mesh, self.after), *planned]

    def at_the_beginning(self, noted: list[Entry]) -> list[str]:
        """Return what is not as it was before the first run."""
        differ = [line for line in differences(self.objects, snapshot(self.lab)) if not ISTIOD_RESTARTED.search(line)]
        return [*astray(self.mesh, self.before), *differ] + [
            f"not undone: {entry.n} {words(vars(entry))}"
            for entry in noted
            if entry.stands and entry.stage == trust.STAGE
        ]


def in_order(changes: list[Entry], kills: int) -> list[str]:
    """Return what of a journal is not as it should be after runs that were killed, and ended well."""
    told = [f"{entry.n} failed: {entry.reason}" for entry in changes if entry.event == "failed"]
    if [entry.n for entry in changes] != list(range(1, len(changes) + 1)):
        told.append("the journal's numbers have gaps")
    if len(left := [entry.n for entry in changes if entry.event == "begun"]) > kills:
        told.append(f"begun, and not ended: {left}")
    return told


@pytest.fixture(scope="module")
def bench(short_folder: Path) -> Iterator[Bench]:
    """Two live clusters with a root each, and a new one in files."""
    running = os.environ.get("MESHKIT_TEST_STRANGERS")
    lab = Lab(Path(running) if running else short_folder / "matrix")
    try:
        if not running:
            lab.start("strangers", live_roots=LIVE)
        yield from on(lab, short_folder)
    finally:
        if not running:
            lab.stop()


def on(lab: Lab, folder: Path) -> Iterator[Bench]:
    """Put load on a lab of strangers, and keep what is noted of runs in a folder."""
    root = lab.home / "certs"
    if not root.exists():
        certificates.make_root(Tools(lab.home))
    with Loads(lab, RATE) as loads:
        mesh_file = loads.mesh_file("local", trust={"strategy": "overlap", "rootDirectory": str(root)})
        new = Trust(fingerprint((root / "root-cert.pem").read_bytes()), "cacerts")
        before = roots_of(Mesh.open(mesh_file))
        home = Path(tempfile.mkdtemp(dir=folder))
        yield Bench(lab, loads, home, mesh_file, before, dict.fromkeys(before, new), snapshot(lab))


def test_a_run_killed_at_any_boundary_is_resumed_to_its_end(bench: Bench) -> None:
    """No request within a cluster is lost, all trust the new root; and all of it is undone from there."""
    cells: dict[Boundary, Part] = {}
    others: dict[str, Part] = {}
    for number, stops in enumerate(runs(chosen(bench.boundaries())), 1):
        for tried in range(TRIES):
            if missed := [at for at in stops if at not in cells]:
                hit, rest = bench.resumed([at.sooner(tried) for at in missed])
                cells |= hit
                others |= {f"run {number}.{tried + 1}, {what}": part for what, part in rest.items()}
                print(*(f"{at}, resumed: {part}" for at, part in hit.items()), sep="\n")
                print(*(f"{what}: {part}" for what, part in rest.items()), sep="\n", flush=True)
        assert [str(at) for at in stops if at not in cells] == [], f"not struck in {TRIES} runs"
    report("resumed", cells)
    print(*(f"- {what}: {part}" for what, part in others.items()), sep="\n", flush=True)
    assert [f"{at}: {part}" for at, part in cells.items() if not part.good] == []
    assert [f"{what}: {part}" for what, part in others.items() if not part.good] == []


def test_a_run_killed_at_any_boundary_is_reverted(bench: Bench) -> None:
    """No request within a cluster is lost, and all is as it was before."""
    cells: dict[Boundary, Part] = {}
    wrong: list[str] = []
    for at in chosen(bench.boundaries()):
        for tried in range(TRIES):
            part, struck = bench.undone(at.sooner(tried))
            print(f"{at}, {'taken back' if struck else 'but missed, and taken back'}: {part}", flush=True)
            wrong += [] if part.good else [f"{at}: {part}"]
            if struck:
                cells[at] = part
                break
        else:
            wrong.append(f"{at}: not struck in {TRIES} runs")
    report("taken back", cells)
    assert wrong == []


def chosen(boundaries: list[Boundary]) -> list[Boundary]:
    """Return as many boundaries as are asked for, spread over all of them; all of them by default."""
    when = {When(word) for word in (os.environ.get("MESHKIT_TEST_WHEN") or ",".join(When)).split(",")}
    boundaries = [at for at in boundaries if at.when in when]
    count = int(os.environ.get("MESHKIT_TEST_CELLS") or 0) or len(boundaries)
    return [boundaries[int((n + 0.5) * len(boundaries) / count)] for n in range(count)]


def runs(stops: list[Boundary]) -> list[list[Boundary]]:
    """Return which boundaries one run can be killed at, one after the other: a change is hit once in each."""
    found: list[list[Boundary]] = []
    for at in stops:
        free = next((one for one in found if one[-1].place < at.place), None)
        if free is None:
            found.append(free := [])
        free.append(at)
    return found


def report(how: str, cells: Mapping[Boundary, Part]) -> None:
    """Print a column of the matrix: failed and sent requests within clusters, by boundary."""
    print("", f"| no. | change | killed | {how} |", "|---|---|---|---|", sep="\n")
    for at, part in cells.items():
        print(f"| {at.place + 1} | {at.words} | {at.when} | {part} |")
    print(f"{RATE:g} requests a second of each kind in each cluster", flush=True)


@pytest.fixture
def idler(bench: Bench) -> Iterator[psutil.Process]:
    """The Envoy of west's pod `idler`, which sends nothing and is sent nothing: while it stands still no call fails."""
    sample = Space(bench.lab, "lab-west", "sample")
    sample.pod("idler", sleeper())
    sample.ready("pod/idler", 90)
    rows = bench.lab.status()
    (agent,) = rows[(rows["component"] == "istio-proxy") & (rows["pod"] == "sample/idler")]["pid"]
    (envoy,) = [p for p in psutil.Process(agent).children(recursive=True) if p.name() == "envoy"]
    yield envoy
    sample.kubectl("delete", "pod", "idler")


def test_a_proxy_that_stands_still_holds_the_gate(bench: Bench, idler: psutil.Process) -> None:
    """Nobody signs under the new root while a proxy cannot be read; it is named, and when it runs again all goes on."""
    state, part = bench.state(), Part()
    wide = [at.words.endswith(": sign") for at in bench.boundaries() if at.when is When.BEGINS].index(True)
    with Going(state, "run", bench.mesh_file, *APPLY) as going:
        going.stop_when(lambda noted: [change.event for change in noted] == ["done"] * wide)
        idler.suspend()
        try:
            going.go_on()
            held = until(lambda: named(going, "idler.sample of west"), "it is held", 90)
            time.sleep(HELD)
            assert going.process.is_running()
            assert len(entries(state)) == wide
            signs = {name: one.root for name, one in roots_of(bench.mesh).items()}
            assert signs == {name: one.root for name, one in bench.before.items()}
        finally:
            idler.resume()
        released = time.monotonic()
        done = Done(going.end(), going.said(), going.folder)
    bench.judged(part, done, bench.at_the_end, state, kills=0)
    print(f"\n{held[0]}\nended {time.monotonic() - released:.0f} s after it ran again; {part}")
    assert part.good, str(part)
    back = bench.undone_after_kill(state, going.folder)
    assert back.good, str(back)


def named(going: Going, proxy: str) -> list[str]:
    """Return the lines in which a run says that it is held by a proxy."""
    return [line.strip() for line in going.said().splitlines() if WAITS in line and proxy in line]
