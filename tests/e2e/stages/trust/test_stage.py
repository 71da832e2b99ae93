"""A common root on the real mesh: adopted live under load, resumed after a kill, from the user's own files, refused.

The tests run in their order, on one lab: each stands on what the one before left. openssl is the oracle.
"""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from meshlab import scenarios
from meshlab.layout import sites
from meshlab.tools import Timed, Tools

from meshkit.changes.journal import Journal
from meshkit.changes.plan import Plan
from meshkit.checks.finding import Finding, Verdict
from meshkit.istio import trust as istio_trust
from meshkit.istio.ca import ca_files, issuing, istiod_ca
from meshkit.istio.ca.model import StrategyOutcome
from meshkit.kube.mesh import Mesh
from meshkit.probing.load_generator import Traffic
from meshkit.stages.trust import proof as trust_proof
from meshkit.stages.trust import stage as trust
from tests.e2e.checks.test_audit import fragments
from tests.support.api_server import free_port
from tests.support.lab import Lab
from tests.unit.istio.ca.test_issuing import root

pytestmark = pytest.mark.lab

SYSTEM = "istio-system"
NAMES = ("east", "west")
LEADER = "control-plane.alpha.kubernetes.io/leader"


@pytest.fixture(scope="module")
def lab(short_folder: Path) -> Iterator[Lab]:
    """East live with load, west bare but for the root namespace; the private store in a folder of the test's own."""
    made = Lab(short_folder / "trust")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(short_folder / "state"))
        try:
            made.start("single")
            yield made
        finally:
            made.stop()


@pytest.fixture
def mesh(lab: Lab) -> Mesh:
    """The mesh of lab.yaml."""
    return Mesh.open(lab.mesh_file)


def with_files(lab: Lab, folder: Path, **more: Any) -> Mesh:
    """Return the mesh with the user's own CA."""
    document = yaml.safe_load(lab.mesh_file.read_text())
    document["trust"] = {"rootDirectory": str(folder), **more}
    path = lab.home / "own.yaml"
    path.write_text(yaml.safe_dump(document))
    return Mesh.open(path)


def secret(lab: Lab, name: str, what: str = "cacerts") -> dict[str, bytes]:
    """Return what a Secret of a cluster holds."""
    document = json.loads(lab.kubectl(f"lab-{name}", "get", "secret", what, "-n", SYSTEM, "-o", "json"))
    return {key: base64.b64decode(value) for key, value in document["data"].items()}


def versions(lab: Lab) -> set[tuple[str, str]]:
    """Return the version of every Secret, ConfigMap and Deployment's specification, but for istiod's own elections."""
    kinds = "secrets,configmaps,deployments"
    found = [json.loads(lab.kubectl(f"lab-{name}", "get", kinds, "-A", "-o", "json"))["items"] for name in NAMES]
    metadata = [item["metadata"] for items in found for item in items]
    lasting = [m for m in metadata if LEADER not in m.get("annotations", {})]
    return {(m["uid"], str(m.get("generation") or m["resourceVersion"])) for m in lasting}


def istiod(lab: Lab) -> str:
    """Return the name of east's istiod."""
    return lab.kubectl("lab-east", "get", "pods", "-n", SYSTEM, "-l", "app=istiod", "-o", "name").strip()


def statuses(lab: Lab, since: datetime) -> list[int]:
    """Return the statuses of the load's requests from a moment on."""
    text = lab.kubectl("lab-east", "logs", "-n", "sample", "deploy/load", "-c", "load", f"--since-time={since:%FT%TZ}")
    return [json.loads(line)["status"] for line in text.splitlines() if line.startswith("{")]


def verdicts(findings: list[Finding], *numbers: str) -> dict[str, set[Verdict]]:
    """Return the verdicts of checks."""
    return {number: {f.verdict for f in findings if f.id == number} for number in numbers}


def carried_out(mesh: Mesh, only: tuple[str, ...] = ()) -> tuple[Plan, list[Finding]]:
    """Apply the plan, or the changes of some actions only, as a kill would leave it; return its proof."""
    facts = istio_trust.look(mesh)
    plan = trust.plan(mesh, facts)
    plan.changes = [change for change in plan.changes if not only or change.action in only]
    traffic = trust_proof.watch(mesh, plan)
    with traffic.sending("apply"):
        plan.carry_out("apply", gates=trust.check(mesh, facts))
    assert not plan.pending, [f.to_dict() for f in plan.held]
    return plan, trust_proof.prove(mesh, facts, istio_trust.look(mesh), plan, traffic)


def test_plan_mode_changes_nothing(lab: Lab, mesh: Mesh) -> None:
    """West has no namespace yet: that its Secret cannot be checked is said, and proofs are skipped."""
    before = versions(lab)
    facts = istio_trust.look(mesh)
    assert istio_trust.choose(mesh, facts).outcome is StrategyOutcome.ADOPT
    plan = trust.plan(mesh, facts)
    assert [(c.cluster, c.action, bool(c.problem)) for c in plan.changes] == [
        ("east", "create", False),
        ("west", "create", True),
        ("east", "restart", False),
    ]
    plan.carry_out("plan", gates=trust.check(mesh, facts))
    assert {
        f.verdict for f in trust_proof.prove(mesh, facts, istio_trust.look(mesh), plan, trust_proof.watch(mesh, plan))
    } == {Verdict.SKIPPED}
    assert versions(lab) == before


def test_a_run_that_was_killed_before_the_restart_is_resumed(lab: Lab, mesh: Mesh) -> None:
    """What istiod signs with is seen, not believed: the next plan is the restart only. No request fails meanwhile."""
    lab.kubectl("lab-west", "create", "namespace", SYSTEM)
    began = datetime.now(UTC)
    _, killed = carried_out(mesh, only=("create",))
    assert verdicts(killed, "MK411", "MK412") == {"MK411": {Verdict.PASS}, "MK412": {Verdict.FAIL, Verdict.SKIPPED}}
    made = {name: secret(lab, name) for name in NAMES}
    plan, proof = carried_out(mesh)
    assert [(c.cluster, c.action) for c in plan.changes] == [("east", "restart")]
    assert {f.verdict for f in proof} == {Verdict.PASS, Verdict.SKIPPED}
    assert {f.subject for f in proof if f.verdict is Verdict.SKIPPED} == {"west"}
    assert {name: secret(lab, name) for name in NAMES} == made
    sent = statuses(lab, began)
    assert len(sent) > 40
    assert set(sent) == {200}


def test_a_second_plan_is_empty(lab: Lab, mesh: Mesh) -> None:
    """And makes no keys."""
    before = versions(lab)
    facts = istio_trust.look(mesh)
    assert trust.plan(mesh, facts).empty
    assert versions(lab) == before


def test_openssl_follows_every_intermediate_to_easts_old_root(lab: Lab, tmp_path: Path) -> None:
    """The root is east's own, byte for byte, and the intermediates are two."""
    old = secret(lab, "east", "istio-ca-secret")["ca-cert.pem"]
    (tmp_path / "root.pem").write_bytes(old)
    held = {name: secret(lab, name) for name in NAMES}
    for name, files in held.items():
        (tmp_path / f"{name}.pem").write_bytes(files["ca-cert.pem"])
        assert files["root-cert.pem"].split() == old.split()
        openssl("verify", "-x509_strict", "-CAfile", str(tmp_path / "root.pem"), str(tmp_path / f"{name}.pem"))
    assert held["east"]["ca-key.pem"] != held["west"]["ca-key.pem"]


def openssl(*argv: str) -> None:
    """Run openssl; it must succeed."""
    done = subprocess.run(["openssl", *argv], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_new_pod_is_signed_by_the_intermediate_and_old_ones_still_by_the_root(
    lab: Lab, mesh: Mesh, tmp_path: Path
) -> None:
    """As istioctl shows it and openssl verifies it; both chains end at the one root, so calls between them go on."""
    before, began = istio_trust.look(mesh), datetime.now(UTC)
    lab.kubectl("lab-east", "rollout", "restart", "deploy/sleep", "-n", "sample")
    lab.kubectl("lab-east", "rollout", "status", "deploy/sleep", "-n", "sample", "--timeout=60s")
    rows = trust_proof.chains(before, istio_trust.look(mesh))
    new = rows[rows["certificate"] == "new"]
    assert set(new["signed_by"]) == {"L=east,CN=Intermediate CA,O=Istio"}
    assert set(rows[rows["certificate"] == "same"]["signed_by"]) == {"O=cluster.local"}
    assert len(set(rows["ends_at"]) - {""}) == 1
    pod = str(new.iloc[0]["proxy"])
    shown = json.loads(lab.istioctl("lab-east", "proxy-config", "secret", f"{pod}.sample", "-o", "json"))
    own = next(s["secret"] for s in shown["dynamicActiveSecrets"] if s["name"] == "default")
    chain = base64.b64decode(own["tlsCertificate"]["certificateChain"]["inlineBytes"])
    leaf, above = chain.split(b"-----END CERTIFICATE-----\n", 1)
    (tmp_path / "leaf.pem").write_bytes(leaf + b"-----END CERTIFICATE-----\n")
    (tmp_path / "above.pem").write_bytes(above)
    (tmp_path / "root.pem").write_bytes(secret(lab, "east", "istio-ca-secret")["ca-cert.pem"])
    at = {name: str(tmp_path / f"{name}.pem") for name in ("leaf", "above", "root")}
    openssl("verify", "-CAfile", at["root"], "-untrusted", at["above"], at["leaf"])
    assert set(statuses(lab, began)) == {200}


def test_another_intermediate_of_the_same_root_is_taken_without_a_restart(lab: Lab, mesh: Mesh, tmp_path: Path) -> None:
    """From the user's files; istiod loads it while it runs, and the plan waits for that."""
    held = secret(lab, "east", "istio-ca-secret")
    pair = held["ca-cert.pem"], held["ca-key.pem"]
    signer = ca_files.load(*pair, where="east", signs_authorities=True)
    for name in NAMES:
        (tmp_path / name).mkdir()
        files = issuing.intermediate(signer, name, SYSTEM).files if name == "east" else secret(lab, name)
        for file, pem in files.items():
            (tmp_path / name / file).write_bytes(pem)
    own, running = with_files(lab, tmp_path), istiod(lab)
    plan, proof = carried_out(own)
    assert [(c.cluster, c.action) for c in plan.changes] == [("east", "update")]
    assert verdicts(proof, "MK411", "MK412")["MK411"] == {Verdict.PASS}
    assert not [f for f in proof if f.verdict is Verdict.FAIL]
    assert istiod(lab) == running
    assert trust.plan(own, istio_trust.look(own)).empty


def test_adopt_never_changes_what_live_proxies_trust(lab: Lab, tmp_path: Path) -> None:
    """An own root that is not the live one holds everything, and the remedy is given; `auto` would overlap the two."""
    made = root()
    (tmp_path / "root-cert.pem").write_bytes(made.certificate)
    (tmp_path / "root-key.pem").write_bytes(made.key)
    facts = istio_trust.look(with_files(lab, tmp_path))
    assert istio_trust.choose(with_files(lab, tmp_path), facts).outcome is StrategyOutcome.OVERLAP
    own = with_files(lab, tmp_path, strategy="adopt")
    (strategy,) = [f for f in trust.check(own, facts) if f.id == "MK401"]
    assert (strategy.verdict, strategy.observed.split(":")[0]) == (Verdict.FAIL, StrategyOutcome.NO_WAY.value)
    assert "overlap" in strategy.remedy
    assert trust.plan(own, facts).empty


def test_no_key_is_in_anything_that_is_shown(lab: Lab, mesh: Mesh) -> None:
    """Tables, diffs, findings, the journal's lines."""
    facts = istio_trust.look(mesh)
    shown = [table.to_csv() for table in vars(facts).values() if hasattr(table, "to_csv")]
    shown += [str(finding.to_dict()) for finding in trust.check(mesh, facts)]
    shown += [journal.lines() for journal in Journal.all_of("mesh1")]
    lab.kubectl("lab-west", "delete", "secret", "cacerts", "-n", SYSTEM)
    plan = trust.plan(mesh, istio_trust.look(mesh))
    shown += [repr(change) + change.diff for change in plan.changes]
    text = "\n".join(shown).encode()
    manifests = [change.manifests[0]["data"]["ca-key.pem"] for change in plan.changes if change.action == "create"]
    keys = [secret(lab, "east")["ca-key.pem"], secret(lab, "east", istiod_ca.SELF_SIGNED)["ca-key.pem"]]
    keys += [base64.b64decode(key) for key in manifests]
    assert len(keys) == 3
    for key in keys:
        assert not [part for part in fragments(key) if part in text]


def test_a_dead_cluster_is_unknown_and_holds_the_plan(lab: Lab) -> None:
    """Its root may be another one."""
    config = yaml.safe_load(lab.kubeconfig.read_text())
    for cluster in config["clusters"]:
        if "west" in cluster["name"]:
            cluster["cluster"]["server"] = f"https://127.0.0.1:{free_port()}"
    path = lab.home / "dead"
    path.write_text(yaml.safe_dump(config))
    document = yaml.safe_load(lab.mesh_file.read_text())
    for cluster in document["clusters"]:
        cluster["kubeconfig"] = str(path)
    (lab.home / "dead.yaml").write_text(yaml.safe_dump(document))
    dead = Mesh.open(lab.home / "dead.yaml")
    facts = istio_trust.look(dead)
    findings = trust.check(dead, facts)
    assert verdicts(findings, "MK401")["MK401"] == {Verdict.UNKNOWN}
    assert trust.plan(dead, facts).empty
    proof = trust_proof.prove(dead, facts, facts, trust.plan(dead, facts), Traffic(dead))
    assert Verdict.PASS not in {f.verdict for f in proof}


def test_two_live_meshes_of_two_roots_need_an_overlap(lab: Lab, mesh: Mesh) -> None:
    """Every phase is planned for both, the roots are named, and no key is needed but the one that east holds."""
    tools = Tools(lab.home)
    scenarios.install_single(tools, sites(2)[1], Timed(print))
    facts = istio_trust.look(mesh)
    choice = istio_trust.choose(mesh, facts)
    assert choice.outcome is StrategyOutcome.OVERLAP
    west = facts.authorities[(facts.authorities["cluster"] == "west") & facts.authorities["used"]].iloc[0]
    assert f"west trusts {west['root'][:16]}" in choice.why
    phases = [(c.cluster, c.why.split(":")[0]) for c in trust.plan(mesh, facts).changes if c.object.endswith("cacerts")]
    # East signs under the common root already.
    steps = ("east widen", "west widen", "west sign", "east narrow", "west narrow")
    assert [" ".join(step) for step in phases] == list(steps)
