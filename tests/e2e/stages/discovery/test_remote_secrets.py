"""The life of remote secrets on the real mesh: replaced under load, revoked, and named when they are dead."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from meshkit.checks import remote_secrets as joined_checks
from meshkit.checks.finding import Finding, Verdict, overall
from meshkit.istio.multicluster import reader_tokens, remote_secrets
from meshkit.kube.mesh import Mesh
from meshkit.paths import folder
from meshkit.probing import failover_state
from meshkit.snapshot.snapshot import VERIFIED, Snapshot
from meshkit.stages.discovery import facts as discovery_facts
from meshkit.stages.discovery import stage as discovery
from tests.e2e.checks.test_audit import canaries, fragments, public_text
from tests.e2e.runs.test_migration import meshkit
from tests.e2e.stages.discovery.test_stage import CONTEXTS, PAIRS, SYSTEM, TOKEN_SECRET, stage, verdicts
from tests.support.lab import Lab, until
from tests.support.loads import Loads

pytestmark = pytest.mark.lab
LEAST = {"credential": "expiring", "life": "720h", "renewBefore": "168h", "reader": "least"}


@pytest.fixture
def joined(undiscovered: Lab, tmp_path: Path) -> Iterator[Lab]:
    """The lab after stage 07 as it is by default; afterwards without the least account."""
    stage(Mesh.open(undiscovered.mesh_file), "apply")
    yield undiscovered
    for context in CONTEXTS:
        for kind in ("serviceaccount,role,rolebinding", "clusterrole,clusterrolebinding"):
            undiscovered.kubectl(context, "delete", kind, *SYSTEM, reader_tokens.LEAST, "--ignore-not-found")


def wanting(lab: Lab, tmp_path: Path, **wish: str) -> Path:
    """Write the lab's mesh file with another wish for credentials."""
    document = {**yaml.safe_load(lab.mesh_file.read_text()), "remoteSecrets": wish}
    (tmp_path / "mesh.yaml").write_text(yaml.safe_dump(document))
    return tmp_path / "mesh.yaml"


def held(lab: Lab, context: str) -> list[str]:
    """Return the Secrets of readers' credentials in a cluster."""
    kinds = (reader_tokens.TOKEN_TYPE, reader_tokens.EXPIRING_TYPE)
    found = [lab.kubectl(context, "get", "secrets", *SYSTEM, f"--field-selector=type={k}", "-o", "name") for k in kinds]
    return [name.partition("/")[2] for text in found for name in text.split()]


@contextmanager
def endpoints_watched(mesh: Mesh) -> Iterator[list[str]]:
    """Ask the clients' Envoys for the other cluster's endpoint all the time; yield when it was not there."""
    gone: list[str] = []
    asked: list[int] = []
    over = threading.Event()

    def watch() -> None:
        while not over.is_set():
            seen = failover_state.endpoints(mesh)
            there = set(seen[(seen["where"] == "elsewhere") & (seen["address"] != "")]["client"])
            told = set(seen[seen["address"] != ""]["client"])  # a busy machine may not answer
            gone.extend(f"{time.time():.1f}: {name}" for name in told - there)
            asked.append(len(told))
            time.sleep(0.5)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield gone
    finally:
        over.set()
        thread.join()
    assert sum(asked) > 10


def learns(lab: Lab, reader: str, target: str, name: str) -> None:
    """Prove that an istiod reads a cluster now: it learns of a Service that is made there now."""
    try:
        lab.kubectl(target, "create", "service", "clusterip", name, "-n", "sample", "--tcp=80:8080")
        host = f"{name}.sample.svc.cluster.local"
        ask = ("proxy-config", "clusters", "deploy/sleep", "-n", "sample", "--fqdn", host)
        until(lambda: host in lab.istioctl(reader, *ask), f"{reader} learns of {host}", 120)
    finally:
        lab.kubectl(target, "delete", "service", name, "-n", "sample", "--ignore-not-found")


def may(lab: Lab, *asked: str) -> bool:
    """Tell whether the least account of west may do something."""
    who = f"--as=system:serviceaccount:istio-system:{reader_tokens.LEAST}"
    return lab.tool("kubectl", "--context", "lab-west", "auth", "can-i", *asked, who).stdout.strip() == "yes"


@pytest.mark.drill
def test_credentials_are_replaced_and_revoked_under_load_and_nothing_is_lost(joined: Lab, tmp_path: Path) -> None:
    """From istioctl's to ones that end, of the least account; then renewed on request. A new Service proves each step.

    A busy machine loses a few requests by itself; for want of an endpoint none may be lost.
    """
    lab = joined
    mesh = Mesh.open(wanting(lab, tmp_path, **LEAST))
    with Loads(lab, rate=50) as loads, endpoints_watched(mesh) as gone:
        begun = time.time()
        for renew in ("", "all"):
            before = {context: held(lab, context) for context in CONTEXTS}
            findings, changes = stage(mesh, "apply", renew)
            assert [f for f in findings if f.verdict is not Verdict.PASS] == []
            assert [change for change in changes if not change.endswith(": done")] == []
            assert set(verdicts(findings, "MK713")) == set(PAIRS)
            assert len(verdicts(findings, "MK714")) == len(CONTEXTS)
            for context in CONTEXTS:
                (now,) = held(lab, context)
                assert now.startswith(f"{reader_tokens.LEAST}-")
                assert now not in before[context]
            learns(lab, "lab-east", "lab-west", f"after-{renew or 'wish'}")
            learns(lab, "lab-west", "lab-east", f"after-{renew or 'wish'}")
        counts = loads.counts(begun, time.time())
        logs = [lab.kubectl(c, "logs", "-n", "sample", "deploy/across", "-c", "istio-proxy") for c in CONTEXTS]
    print("\n".join(map(str, counts)))
    assert [str(c) for c in counts if c.sent < 300 or (c.kind == "across" and len(c.failed) > c.sent / 100)] == []
    assert [line for log in logs for line in log.splitlines() if " 503 UH " in line or " NR " in line] == []
    assert gone == []

    ends = remote_secrets.remote_secrets(mesh).frame()["ends"]
    assert [text for text in ends if not text.endswith("UTC")] == []
    findings, changes = stage(mesh, "apply")
    assert (overall(findings), changes) == (Verdict.PASS, [])
    for asked in (("list", "secrets", "-A"), ("watch", "endpointslices", "-A"), ("list", "configmaps", *SYSTEM)):
        assert may(lab, *asked), asked
    for verb in ("create", "patch", "delete"):
        assert not may(lab, verb, "serviceexports.multicluster.x-k8s.io", "-A")
        assert not may(lab, verb, "secrets", *SYSTEM)
    for asked in (("list", "authorizationpolicies"), ("list", "configmaps"), ("create", "tokenreviews")):
        assert not may(lab, *asked, "-A"), asked


def test_a_run_that_was_stopped_goes_on_and_leaves_one_credential(joined: Lab, tmp_path: Path) -> None:
    """Once after the new tokens were made, once after one reader was given the new one."""
    mesh = Mesh.open(wanting(joined, tmp_path, credential="expiring"))
    facts = discovery_facts.look(mesh)
    discovery.plan_tokens(mesh, facts).carry_out("apply")
    assert {len(held(joined, context)) for context in CONTEXTS} == {2}
    half = discovery.plan(mesh, discovery_facts.look(mesh))
    half.changes = half.changes[:1]
    half.carry_out("apply")
    findings, changes = stage(mesh, "apply")
    assert overall(findings) is Verdict.PASS
    assert [change.split()[1] for change in changes] == ["update", "delete", "delete"]
    assert {len(held(joined, context)) for context in CONTEXTS} == {1}
    assert TOKEN_SECRET not in held(joined, "lab-east")


def test_a_wish_is_planned_whole_and_nothing_is_written(joined: Lab) -> None:
    """The new token, the secret that will hold it, and the end of the old one."""
    mesh = Mesh.open(joined.mesh_file)
    before = [held(joined, context) for context in CONTEXTS]
    findings, changes = stage(mesh, "plan", "west")
    assert [change.partition(" Secret")[0] for change in changes] == ["west create", "east update", "west delete"]
    assert overall(findings) is Verdict.PASS
    assert [held(joined, context) for context in CONTEXTS] == before


def test_istiods_that_a_change_affects_are_restarted_after_it(joined: Lab) -> None:
    """Those of east are said to be 1.30.2, for there is none: renewed, restarted, synced; west's are not."""
    mesh = Mesh.open(joined.mesh_file)
    facts = discovery_facts.look(mesh)
    facts.versions.loc[facts.versions["cluster"] == "east", "version"] = "1.30.2"
    assert verdicts(discovery.check(mesh, facts, "apply", "all"), "MK707")["east"] is Verdict.WARN
    discovery.plan_tokens(mesh, facts, "all").carry_out("apply")
    plan = discovery.plan(mesh, facts, "all")
    assert [(change.cluster, change.action) for change in plan.changes] == [
        ("east", "update"),
        ("east", "restart"),
        ("west", "update"),
    ]
    plan.carry_out("apply")
    findings, changes = stage(mesh, "apply")
    assert (overall(findings), len(changes)) == (Verdict.PASS, len(CONTEXTS))


def credential(lab: Lab) -> Finding:
    """Return MK803 of east about west, or MK836 where that is no pass."""
    mesh = Mesh.open(lab.mesh_file)
    known = Snapshot(mesh).read(*VERIFIED)
    tables = (mesh, known.remote_secrets, known.remote_clusters, "east", "west")
    found = [joined_checks.check_credential(*tables), *joined_checks.check_rights(*tables)]
    return next((f for f in found if f.verdict is not Verdict.PASS), found[0])


def test_what_is_wrong_with_a_credential_is_named_while_istiod_says_synced(joined: Lab) -> None:
    """No rights, or revoked: two causes, two remedies; istioctl sees neither."""
    lab = joined
    role = "istio-reader-clusterrole-istio-system"
    kept = json.loads(lab.kubectl("lab-west", "get", "clusterrolebinding", role, "-o", "json"))
    lab.kubectl("lab-west", "delete", "clusterrolebinding", role)
    try:
        found = until(lambda: None if (f := credential(lab)).verdict is Verdict.PASS else f, "no rights", 60)
        assert (found.verdict, found.id) == (Verdict.FAIL, "MK836")
        assert "istiod still says synced" in found.observed
    finally:
        kept["metadata"] = {"name": role, "labels": kept["metadata"]["labels"]}
        lab.kubectl("lab-west", "apply", "-f", "-", stdin=json.dumps(kept))
    until(lambda: credential(lab).verdict is Verdict.PASS, "the rights are back", 60)

    lab.kubectl("lab-west", "delete", "secret", *SYSTEM, TOKEN_SECRET)
    found = until(lambda: None if (f := credential(lab)).verdict is Verdict.PASS else f, "revoked", 60)
    assert found.verdict is Verdict.FAIL
    assert f"revoked: its Secret istio-system/{TOKEN_SECRET} is gone" in found.observed
    assert "istiod still says synced" in found.observed
    assert "west     istio-system/istio-remote-secret-west     synced" in lab.istioctl("lab-east", "remote-clusters")


def test_no_token_that_ends_is_in_the_notebook(joined: Lab, tmp_path: Path) -> None:
    """Neither the new ones, nor those that were revoked meanwhile, after a real run of it by papermill."""
    out, mesh_file = tmp_path / "out.ipynb", wanting(joined, tmp_path, **LEAST)
    secrets = {*canaries(joined)}
    given = ("-p", "mesh_file", str(mesh_file), "-p", "mode", "apply", "-p", "renew", "all")
    command = [sys.executable, "-m", "papermill", str(folder("notebooks") / "07-discovery.ipynb"), str(out), *given]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "07 discovery: PASS" in out.read_text()
    secrets |= {*canaries(joined)}
    public = public_text(joined)
    wanted = {piece for secret in secrets if len(secret) >= 16 for piece in fragments(secret) if piece not in public}
    told: Any = out.read_bytes() + done.stdout.encode() + done.stderr.encode()
    assert len(wanted) > 50
    assert [piece for piece in wanted if piece in told] == []


@pytest.mark.drill
def test_the_undo_of_a_renewal_leaves_what_clusters_are_read_by(joined: Lab, tmp_path: Path) -> None:
    """What ends cannot come back once it was replaced: the new ones stay, and each cluster still reads the other."""
    mesh_file = str(wanting(joined, tmp_path, **LEAST))
    run = ("run", mesh_file, "--only", "07", "--mode", "apply", "-p", "renew", "all")
    replaced, again = (meshkit(tmp_path, *run) for _ in range(2))
    assert (replaced.code, again.code) == (0, 0), again.said[-3000:]
    now = {context: held(joined, context) for context in CONTEXTS}
    undone = meshkit(tmp_path, "undo", str(again.folder), "--mode", "apply")
    assert undone.code == 0, undone.said[-3000:]
    assert {f["verdict"] for f in undone.findings if f["id"] == "MK803"} == {"pass"}
    assert [f["verdict"] for f in undone.findings if f["id"] == "MK1207"] == ["warn"] * len(CONTEXTS)
    assert {context: held(joined, context) for context in CONTEXTS} == now
    assert credential(joined).verdict is Verdict.PASS
    learns(joined, "lab-east", "lab-west", "after-undo")
