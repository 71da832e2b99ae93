"""Meshes as people have them: is a healthy one called healthy, and is a live one migrated, or refused with the reason?

$MESHKIT_TEST_SHAPES chooses them: names with commas, or with + to combine shapes; unset, all. What was seen is added to
the JSON file $MESHKIT_TEST_TABLE, and snapshots to $MESHKIT_TEST_SNAPSHOTS: tests/fixtures/snapshots has those of a
whole run. `python -m tests.support.shape_table FILE` prints the table of docs/lab-shapes.md.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import re
import shlex
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml
from meshlab import helm
from meshlab.layout import programs, sites
from meshlab.programs import CHARTS, share
from meshlab.shapes.shape import names
from meshlab.tools import Tools

from meshkit.changes.change import REQUEST
from meshkit.changes.journal import Journal
from meshkit.checks import audit
from meshkit.kube.mesh import Mesh
from meshkit.snapshot.snapshot import Snapshot
from tests.e2e.runs.test_migration import FORGIVEN, Done, mesh_file, meshkit
from tests.support import drill
from tests.support.lab import Lab, broken, in_folder
from tests.support.lab_fixtures import need_programs
from tests.support.sameness import differences, snapshot

pytestmark = [pytest.mark.lab, pytest.mark.drill, pytest.mark.timeout(1800)]
CHOSEN = (os.environ.get("MESHKIT_TEST_SHAPES") or ",".join(names())).split(",")
SETTLES = 60.0
FAULT = "secret-in-wrong-namespace"
"""One that every shape can have."""
MOST_BYTES = 200_000
PLANNED, APPLIED = ("--until", "07"), ("--until", "08")
"""Stages 09 and 10 change nothing that is there afterwards."""
HEALTHY: dict[str, str] = {
    "no-debug": "MK108",
    "quota": "MK242",
    "distroless-registry-only": "MK702 MK840",
    "older": "MK240",
    "skew": "MK207 MK240 MK910",
}
"""What is rightly said of a healthy mesh of a shape: the ids of checks; the first must be, others may be unknown."""
BY_OTHERS = re.compile(
    r"ConfigMap istio-system/istio-|GatewayClass\.\S+ istio(-remote)?:|Secret \S+/sh\.helm\.release\."
)
"""What an istiod wrote by itself, and stays where its namespace was before; and Helm's notes of its releases."""
REFUSED: dict[str, str] = {"no-debug": "MK108", "quota": "MK242", "helm": "MK105", "skew": "MK207"}
"""Shapes that are not migrated, each with the check that must say so before the first change."""
Row = dict[str, str]


@pytest.fixture
def row(request: pytest.FixtureRequest) -> Iterator[Row]:
    """What is seen of a shape; it is added to the table's file, whatever becomes of the test."""
    seen: Row = {}
    yield seen
    path = Path(os.environ.get("MESHKIT_TEST_TABLE") or Path(tempfile.gettempdir()) / "shapes.json")
    known: dict[str, Row] = json.loads(path.read_text()) if path.exists() else {}
    name = request.node.callspec.params["shape"]
    known[name] = known.get(name, {}) | seen
    path.write_text(json.dumps(known, indent=1))
    print(name, json.dumps(known[name], indent=1), f"in {path}", sep="\n")


@pytest.fixture
def lab() -> Iterator[Lab]:
    """A lab that does not run yet, in a short folder; it is ended afterwards."""
    need_programs()
    folder = Path(tempfile.mkdtemp(prefix="mk-"))
    lab = Lab(folder / "lab")
    try:
        with in_folder(lab.home):  # by that meshkit finds the istioctl of the shape
            yield lab
    finally:
        if lab.home.exists():
            lab.stop()
        shutil.rmtree(folder)


def bad(findings: list[dict[str, Any]]) -> list[str]:
    """Return findings that are not good, as lines: verdict, id, subject, what was observed."""
    return [
        f"{f['verdict']} {f['id']} [{f['subject']}] {f['observed']}" for f in findings if f["verdict"] not in drill.GOOD
    ]


def ids(findings: list[dict[str, Any]]) -> set[str]:
    """Return the ids of findings that are not good."""
    return {f["id"] for f in findings if f["verdict"] not in drill.GOOD}


def false_alarms(shape: str, findings: list[dict[str, Any]]) -> list[str]:
    """Return what should not be said of a healthy mesh of a shape."""
    right = HEALTHY.get(shape, "").split()
    return bad([f for f in findings if not right or (f["id"] not in right and f["verdict"] != "unknown")])


@pytest.mark.parametrize("shape", CHOSEN)
def test_a_healthy_mesh_is_called_healthy(lab: Lab, shape: str, row: Row) -> None:
    """A finished mesh of the shape: calls are answered by both clusters, and `check` says nothing else."""
    lab.start("meshed", shapes=shape.split("+"))
    row["calls"] = "<br>".join(drill.calls(lab))
    deadline = time.monotonic() + SETTLES
    while false_alarms(shape, findings := drill.check(lab)) and time.monotonic() < deadline:
        time.sleep(2)
    unknown = sum(f["verdict"] == "unknown" for f in findings)
    said = [*bad([f for f in findings if f["verdict"] != "unknown"]), *([f"{unknown} unknown"] if unknown else [])]
    row["healthy"] = "<br>".join(said) or "nothing"
    keep(lab, f"{shape}-healthy")
    if "no-debug" not in shape:  # the lab itself could not see by istioctl that it is healed
        with broken(lab, FAULT):
            keep(lab, f"{shape}-{FAULT}")
    assert row["calls"].count(f"0 of {drill.CALLS} failed, answers of east and west") == 2, row["calls"]
    assert false_alarms(shape, findings) == []
    assert {*HEALTHY.get(shape, "").split()[:1]} <= ids(findings)


def keep(lab: Lab, name: str) -> None:
    """Take a snapshot, whose file gives the findings of the live mesh; it is kept in $MESHKIT_TEST_SNAPSHOTS."""
    path = Path(os.environ.get("MESHKIT_TEST_SNAPSHOTS") or lab.home) / f"{name}.json.gz"
    live = Snapshot(Mesh.open(lab.mesh_file)).read()
    live.write(path)
    assert audit.check(Snapshot.load(path)) == audit.check(live)
    # The file goes into the repository, and folders of this machine do not.
    text = re.sub(rb'"overlay":"[^"]*/', b'"overlay":"', gzip.decompress(path.read_bytes()))
    path.write_bytes(gzip.compress(text, mtime=0))
    assert path.stat().st_size <= MOST_BYTES


@pytest.mark.parametrize("shape", CHOSEN)
def test_a_live_mesh_is_migrated_or_refused(lab: Lab, shape: str, row: Row, tmp_path: Path) -> None:
    """East of the shape is live, west bare: plan, apply under load, an empty second plan, undo; or no change at all."""
    lab.start("single", shapes=shape.split("+"))
    if shape not in REFUSED:
        migrate(lab, row, tmp_path)
        return
    before, file = snapshot(lab), mesh_file(lab)
    plan = meshkit(tmp_path, "run", file, *PLANNED)
    row["plan"] = outcome(plan, f"{sum(map(len, plan.plans()))} changes")
    done = meshkit(tmp_path, "run", file, "--mode", "apply", *APPLIED)
    row["apply"] = outcome(done, requests(done))
    left = differences(before, snapshot(lab))
    row["second plan"] = row["undo"] = "refused"
    assert (done.code, REFUSED[shape] in ids(done.findings), left) == (1, True, []), row


@pytest.mark.parametrize("shape", ["helm"])
def test_what_helm_installed_is_migrated_once_its_owner_gave_it_its_ids(
    lab: Lab, shape: str, row: Row, tmp_path: Path
) -> None:
    """MK105's remedy, followed word by word; Helm's own next run of the same values changes nothing after."""
    lab.start("single", shapes=[shape])
    refused = meshkit(tmp_path, "run", mesh_file(lab), "--only", "01")
    (remedy,) = [f["remedy"] for f in refused.findings if f["id"] == "MK105" and f["verdict"] == "fail"]
    chart = str(share(programs()) / CHARTS / "istiod")
    where = ("--kube-context", "lab-east", "--namespace", "istio-system", "--wait")
    values = shlex.split(" ".join(re.findall(r"--set (?:'[^']*'|[^ ;]+)", remedy)))
    lab.must("helm", "upgrade", "istiod", chart, *where, "--reuse-values", *values)
    migrate(lab, row, tmp_path, after=lambda: lab.must("helm", "upgrade", "istiod", chart, *where, "--reuse-values"))


@pytest.mark.parametrize("shape", ["helm"])
def test_with_installer_none_helm_applies_what_is_requested(
    lab: Lab, shape: str, row: Row, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stages 05 and 06 write nothing of Istio: they wait for its owner, who gets the values as files, and go on."""
    lab.start("single", shapes=[shape])
    document = yaml.safe_load(Path(mesh_file(lab)).read_text())
    document["istio"] |= {"installer": "none", "overlay": ""}
    file = lab.home / "owned.yaml"
    file.write_text(yaml.safe_dump(document))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    plan = meshkit(tmp_path, "run", str(file), *PLANNED, "--write", str(tmp_path / "files"))
    owner = HelmOwner(lab, tmp_path / "files")
    with owner.at_work():
        done = meshkit(tmp_path, "run", str(file), "--mode", "apply", *APPLIED)
    row["requested, apply"] = outcome(done, requests(done))
    again = meshkit(tmp_path, "run", str(file), *PLANNED)
    undone = meshkit(tmp_path, "undo", str(done.folder), "--mode", "apply")
    row["requested, undo"] = outcome(undone, requests(undone))
    assert [each.code for each in (plan, done, again, undone)] == [0] * 4, row
    assert sorted(owner.applied) == [
        ("east", "istio-eastwestgateway"), ("east", "istiod"), ("west", "istio-eastwestgateway"), ("west", "istiod"),
    ]  # fmt: skip
    assert sum(map(len, again.plans())) == 0
    assert "MK1209" in ids(undone.findings)
    for each in (done, undone):
        assert each.record["requests"]["failed"] <= FORGIVEN * each.record["requests"]["sent"], row


class HelmOwner:
    """Whoever owns Istio: applies by Helm what a run waits for, from the files that a plan wrote."""

    def __init__(self, lab: Lab, files: Path) -> None:
        self.files, self.tools = files, Tools(lab.home)
        self.applied: list[tuple[str, str]] = []
        self._over = threading.Event()

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """Watch the newest journal for what is requested, until the block ends; what failed is raised then."""
        with ThreadPoolExecutor(1) as pool:
            watching = pool.submit(self._watch)
            try:
                yield
            finally:
                self._over.set()
            watching.result()

    def _watch(self) -> None:
        while not self._over.wait(1.0):
            for entry in (entry for book in Journal.all_of("mesh1") for entry in book.entries):
                release = entry.object.rpartition("/")[2]
                if entry.action == REQUEST and (entry.cluster, release) not in self.applied:
                    self._apply(entry.cluster, release)
                    self.applied.append((entry.cluster, release))

    def _apply(self, cluster: str, release: str) -> None:
        path = self.files / "requested" / cluster / f"{release}.yaml"
        site, values = next(one for one in sites(2) if one.name == cluster), yaml.safe_load(path.read_text())
        if release != "istiod":
            helm.install_gateway(self.tools, site, release, **values)
        elif cluster == "east":  # it has its release: what is requested comes on top of its own values
            chart = str(share(programs()) / CHARTS / "istiod")
            where = ("--kube-context", site.context, "--namespace", "istio-system", "--reuse-values", "--wait")
            self.tools.run("helm", "upgrade", release, chart, *where, "--values", str(path))
        else:
            helm.install_istiod(self.tools, site, values["global"])


def migrate(lab: Lab, row: Row, state: Path, *, after: Callable[[], object] = lambda: None) -> None:
    """Plan, apply under load, plan again, undo; what users do `after` it leaves the second plan empty."""
    before, file = snapshot(lab), mesh_file(lab)
    plan = meshkit(state, "run", file, *PLANNED)
    row["plan"] = outcome(plan, f"{sum(map(len, plan.plans()))} changes")
    done = meshkit(state, "run", file, "--mode", "apply", *APPLIED)
    row["apply"] = outcome(done, requests(done))
    after()
    again = meshkit(state, "run", file, *PLANNED)
    changes = sum(map(len, again.plans()))
    row["second plan"] = outcome(again, "empty" if not changes else f"{changes} changes")
    undone = meshkit(state, "undo", str(done.folder), "--mode", "apply")
    left = [line for line in differences(before, snapshot(lab)) if not BY_OTHERS.search(line)]
    row["undo"] = outcome(undone, requests(undone)) + (f"; left: {'<br>'.join(left)}" if left else "")
    assert [each.code for each in (plan, done, again, undone)] == [0] * 4, row
    assert (changes, left) == (0, []), row
    for each in (done, undone):
        assert each.record["requests"]["failed"] <= FORGIVEN * each.record["requests"]["sent"], row


def outcome(run: Done, good: str) -> str:
    """Return how a run ended: in a few words where it is good, else its exit code, failed findings or last words."""
    if run.code == 0:
        return good
    if not (run.folder / "results.json").exists():
        return f"exit {run.code}: {' '.join(run.said.split()[-60:])}"
    stages = {s["stage"]: s["status"] for s in run.record["stages"]}
    stopped = [f"{name} {status}" for name, status in stages.items() if status != "passed"]
    failed = [line for line in bad(run.findings) if line.startswith(("fail", "unknown"))]
    return "<br>".join([f"exit {run.code}, {good}: {', '.join(stopped)}", *failed])


def requests(run: Done) -> str:
    """Return how many of the load's requests failed during a run, and how long it took."""
    if not (run.folder / "record.json").exists():
        return "no record"
    record = run.record
    counted = record.get("requests") or {"failed": "?", "sent": "?"}
    return f"{counted['failed']} of {counted['sent']} requests failed, {record['seconds']:.0f} s"
