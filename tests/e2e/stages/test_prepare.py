"""Stages 01 and 02 on a live cluster with load and a bare one; the tests run in their order, on one lab."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
import yaml

from meshkit.checks import topology
from meshkit.checks.finding import Finding, Verdict, overall
from meshkit.kube.mesh import Mesh
from meshkit.stages import assess, prepare
from tests.support.lab import Lab, Object

pytestmark = pytest.mark.lab

EAST, WEST, SYSTEM = "lab-east", "lab-west", "istio-system"
NETWORK = "topology.istio.io/network"
DENY = {
    "apiVersion": "networking.k8s.io/v1",
    "kind": "NetworkPolicy",
    "metadata": {"name": "deny", "namespace": SYSTEM},
    "spec": {"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [{"from": [{"podSelector": {}}]}]},
}
GATEWAY = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "early", "namespace": "default", "labels": {NETWORK: "net-east"}},
    "spec": {"ports": [{"name": "tls", "port": 15443}], "selector": {"app": "nobody"}},
}


@pytest.fixture(scope="module")
def lab(short_folder: Path) -> Iterator[Lab]:
    """East live with load and a label of its user's, west bare; the private store in a folder of the test's own."""
    made = Lab(short_folder / "prepare")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(short_folder / "state"))
        patch.setenv("PATH", made.command("istioctl")[0][0].rpartition("/")[0], prepend=":")
        try:
            made.start("single")
            made.kubectl(EAST, "label", "namespace", SYSTEM, "team=mesh")
            yield made
        finally:
            made.stop()


@pytest.fixture
def mesh(lab: Lab) -> Mesh:
    """The mesh of lab.yaml."""
    return Mesh.open(lab.mesh_file)


def labels(lab: Lab, context: str, namespace: str) -> dict[str, str]:
    """Return a namespace's labels, as kubectl tells them; none where it is not there."""
    text = lab.kubectl(context, "get", "namespace", namespace, "-o", "json", "--ignore-not-found")
    return dict(json.loads(text)["metadata"]["labels"]) if text else {}


def failed(lab: Lab) -> tuple[int, int]:
    """Return how many requests the load has sent, and how many failed, by its own log."""
    lines = lab.kubectl(EAST, "logs", "-n", "sample", "deploy/load", "-c", "load").splitlines()
    requests = [json.loads(line) for line in lines if line.startswith("{")]
    return len(requests), sum(request["status"] != 200 for request in requests)


def verdicts_of(findings: list[Finding], number: str, subject: str) -> set[Verdict]:
    """Return the verdicts of one check on one subject."""
    return {f.verdict for f in findings if (f.id, f.subject) == (number, subject)}


def check(mesh: Mesh) -> list[Finding]:
    """Look and judge."""
    return prepare.check(mesh, prepare.look(mesh))


@contextlib.contextmanager
def there(lab: Lab, document: Object) -> Iterator[None]:
    """Make an object in east, and remove it."""
    lab.kubectl(EAST, "apply", "-f", "-", stdin=json.dumps(document))
    try:
        yield
    finally:
        lab.kubectl(EAST, "delete", "-f", "-", stdin=json.dumps(document))


def changed(lab: Lab, **west: Any) -> Mesh:
    """Return the mesh of a file that says something else of west."""
    document = yaml.safe_load(lab.mesh_file.read_text())
    document["clusters"][1] |= west
    path = lab.home / "changed.yaml"
    path.write_text(yaml.safe_dump(document))
    return Mesh.open(path)


def test_assess_recommends_what_the_lab_is(lab: Lab, mesh: Mesh) -> None:
    """Two networks, a control plane for each; the facts are those that kubectl tells."""
    facts = assess.look(mesh)
    advice = topology.recommend(facts)
    assert (advice.control_plane, advice.network) == ("multi-primary", "multi")
    assert overall(assess.check(mesh, facts)) is Verdict.PASS
    east, west = facts.inventory.to_dict("records")
    assert (east["control_plane"], east["installer"]) == ("local", "istioctl")
    assert (west["control_plane"], west["installer"]) == ("none", "")
    pods = json.loads(lab.kubectl(EAST, "get", "pods", "-A", "-o", "json"))["items"]
    assert east["pods"] == len(pods)
    ranges = [ip_network(text) for text in east["pod_ranges"].split(",")]
    assert any(ip_address(pods[0]["status"]["podIP"]) in known for known in ranges)
    assert east["service_ranges"] == lab.kubectl(EAST, "get", "servicecidr", "-o", "jsonpath={.items[0].spec.cidrs[0]}")
    answers = dict(zip(facts.api_servers["cluster"], facts.api_servers["answer"], strict=True))
    assert answers == {"east": "200", "west": "UNKNOWN"}


def test_what_is_not_built_is_said_to_be(lab: Lab) -> None:
    """A file that asks for an external control plane fails in stage 01, before anything is changed."""
    document = yaml.safe_load(lab.mesh_file.read_text())
    document["topology"] = {"controlPlane": "external", "network": "multi"}
    path = lab.home / "external.yaml"
    path.write_text(yaml.safe_dump(document))
    mesh = Mesh.open(path)
    assert verdicts_of(assess.check(mesh, assess.look(mesh)), "MK104", "the mesh") == {Verdict.FAIL}


def test_a_plan_changes_nothing(lab: Lab, mesh: Mesh) -> None:
    """It shows three changes; what cannot be proved before them is skipped."""
    version = ("get", "namespace", SYSTEM, "-o", "jsonpath={.metadata.resourceVersion}")
    before = lab.kubectl(EAST, *version)
    facts = prepare.look(mesh)
    plan = prepare.plan(mesh, facts)
    shown = [(c.cluster, c.action, c.object) for c in plan.changes]
    assert shown == [
        ("east", "update", f"Namespace {SYSTEM}"),
        ("west", "create", f"Namespace {SYSTEM}"),
        ("west", "create", "Namespace sample"),
    ]
    plan.carry_out("plan", gates=prepare.check(mesh, facts))
    assert {f.verdict for f in prepare.prove(mesh, facts, plan)} == {Verdict.SKIPPED}
    assert lab.kubectl(EAST, *version) == before
    assert labels(lab, WEST, "sample") == {}


def test_a_gate_holds_the_plan(lab: Lab, mesh: Mesh) -> None:
    """A policy that shuts istiod's namespace, and a gateway that is there before proxies know their network."""
    with there(lab, DENY), there(lab, GATEWAY):
        facts = prepare.look(mesh)
        findings = prepare.check(mesh, facts)
        blocked = {(r["way"], r["port"]) for r in facts.policies.to_dict("records")}
        assert {("API server to istiod's webhook", 15017), ("proxies to istiod", 15012)} <= blocked
        assert verdicts_of(findings, "MK209", "east") == {Verdict.FAIL}
        assert verdicts_of(findings, "MK213", "east") == {Verdict.FAIL}
        plan = prepare.plan(mesh, facts)
        done = plan.carry_out("apply", gates=findings)
        assert set(done["status"]) == {"held"}
        assert verdicts_of(prepare.prove(mesh, facts, plan), "MK221", "east") == {Verdict.SKIPPED}
    assert NETWORK not in labels(lab, EAST, SYSTEM)


def test_an_address_of_this_machine_only_fails(lab: Lab) -> None:
    """It is said by its look, and by the pod that found nobody there."""
    findings = check(changed(lab, apiServer="https://127.0.0.1:6443"))
    assert verdicts_of(findings, "MK701", "west") == verdicts_of(findings, "MK702", "east → west") == {Verdict.FAIL}


def test_the_address_of_another_cluster_is_refused(lab: Lab) -> None:
    """East's API server answers at that address, but its certificate is not west's."""
    findings = check(changed(lab, apiServer="https://172.31.200.1:6443"))
    assert verdicts_of(findings, "MK701", "west") == {Verdict.PASS}
    assert verdicts_of(findings, "MK702", "east → west") == {Verdict.FAIL}


def test_apply_labels_and_harms_nobody(lab: Lab, mesh: Mesh) -> None:
    """The users' requests go on, their labels stay, and the same plan again is empty."""
    sent, bad = failed(lab)
    facts = prepare.look(mesh)
    plan = prepare.plan(mesh, facts)
    done = plan.carry_out("apply", gates=prepare.check(mesh, facts))
    assert set(done["status"]) == {"done"}
    findings = prepare.prove(mesh, facts, plan)
    assert verdicts_of(findings, "MK221", "east") == verdicts_of(findings, "MK221", "west") == {Verdict.PASS}
    assert verdicts_of(findings, "MK222", "east") == verdicts_of(findings, "MK223", "east") == {Verdict.PASS}
    assert verdicts_of(findings, "MK222", "west") == {Verdict.SKIPPED}
    assert {"team": "mesh", NETWORK: "net-east"}.items() <= labels(lab, EAST, SYSTEM).items()
    assert labels(lab, WEST, SYSTEM)[NETWORK] == "net-west"
    assert labels(lab, WEST, "sample")["istio-injection"] == "enabled"
    again = prepare.look(mesh)
    assert prepare.plan(mesh, again).empty
    assert verdicts_of(prepare.check(mesh, again), "MK201", "east") == {Verdict.PASS}
    more, worse = failed(lab)
    print(f"{more - sent} requests while two namespaces were labelled, {worse - bad} failed")
    assert more > sent
    assert worse == bad


def test_a_label_that_is_lost_comes_back_and_one_that_differs_is_not_touched(lab: Lab, mesh: Mesh) -> None:
    """A missing injection label is planned; another network's name is a failure."""
    lab.kubectl(WEST, "label", "namespace", "sample", "istio-injection-")
    lab.kubectl(WEST, "label", "namespace", SYSTEM, f"{NETWORK}=net-other", "--overwrite")
    facts = prepare.look(mesh)
    findings = prepare.check(mesh, facts)
    assert verdicts_of(findings, "MK201", "west") == {Verdict.FAIL}
    assert verdicts_of(findings, "MK210", "west") == {Verdict.SKIPPED}
    assert [c.object for c in prepare.plan(mesh, facts).changes] == ["Namespace sample"]


def test_a_dead_cluster_is_unknown_and_holds_all(lab: Lab) -> None:
    """What cannot be read is neither judged nor changed."""
    config = yaml.safe_load(lab.kubeconfig.read_text())
    server = next(c for c in config["clusters"] if c["name"] == WEST)["cluster"]
    server["server"] = "https://127.0.0.1:9"
    path = lab.home / "dead-kubeconfig"
    path.write_text(yaml.safe_dump(config))
    mesh = changed(lab, kubeconfig=str(path))
    facts = prepare.look(mesh)
    findings = prepare.check(mesh, facts)
    for number in ("MK201", "MK701", "MK208", "MK209", "MK210", "MK211"):
        assert verdicts_of(findings, number, "west") == {Verdict.UNKNOWN}, number
    assert "west" not in {c.cluster for c in prepare.plan(mesh, facts).changes}
    assert verdicts_of(assess.check(mesh, assess.look(mesh)), "MK101", "west") == {Verdict.UNKNOWN}
