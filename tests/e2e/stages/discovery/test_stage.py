"""Stage 07 on the real mesh: remote secrets as istioctl makes them, none disclosed, nothing half done, no call lost."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from meshkit.checks.finding import Finding, Verdict, overall
from meshkit.istio.multicluster import reader_tokens, remote_secret_manifest
from meshkit.kube.mesh import Mesh
from meshkit.paths import folder
from meshkit.stages.discovery import facts as discovery_facts
from meshkit.stages.discovery import stage as discovery
from meshkit.stages.discovery import token_rotation
from tests.e2e.checks.test_audit import canaries, fragments, public_text
from tests.support.api_server import write_kubeconfig
from tests.support.lab import Lab, until

pytestmark = pytest.mark.lab

CONTEXTS = ("lab-east", "lab-west")
TOKEN_SECRET = "istio-reader-service-account-istio-remote-secret-token"
SYSTEM = ("-n", "istio-system")
PAIRS = ("east → west", "west → east")
WITHOUT_SECRETS: dict[str, Any] = {
    "apiVersion": "rbac.authorization.k8s.io/v1",
    "kind": "ClusterRole",
    "metadata": {"name": "no-secrets"},
    "rules": [
        {"apiGroups": [""], "resources": ["pods", "services", "namespaces", "nodes", "configmaps"], "verbs": ["*"]},
        {"apiGroups": [""], "resources": ["serviceaccounts", "pods/exec", "pods/portforward"], "verbs": ["*"]},
        {"apiGroups": ["discovery.k8s.io", "networking.istio.io"], "resources": ["*"], "verbs": ["*"]},
    ],
}


def versions(lab: Lab) -> dict[tuple[str, str], str]:
    """Return the resourceVersion of every Secret of istiod's namespaces."""
    found = {}
    for context in CONTEXTS:
        for item in json.loads(lab.kubectl(context, "get", "secrets", *SYSTEM, "-o", "json"))["items"]:
            found[context, item["metadata"]["name"]] = item["metadata"]["resourceVersion"]
    return found


def stage(mesh: Mesh, mode: str, renew: str = "") -> tuple[list[Finding], list[str]]:
    """Do the stage as its notebook does; return its findings, and the changes of its plans with their status."""
    facts = discovery_facts.look(mesh)
    findings = discovery.check(mesh, facts, mode, renew)
    tokens = discovery.plan_tokens(mesh, facts, renew)
    tokens.carry_out(mode, gates=findings)
    findings += token_rotation.try_tokens(mesh, facts, mode, renew)
    plan = discovery.plan(mesh, facts, renew)
    plan.carry_out(mode, gates=findings)
    old = discovery.plan_revoked(mesh, tokens)
    findings += token_rotation.check_readers_switched(mesh, old, mode)
    old.carry_out(mode, gates=findings)
    findings += discovery.prove(mesh, plan, discovery.try_merged(mesh, pending=plan.pending), old)
    changes = (*tokens.changes, *plan.changes, *old.changes)
    return findings, [f"{c.cluster} {c.action} {c.object}: {c.status}" for c in changes]


def verdicts(findings: list[Finding], number: str) -> dict[str, Verdict]:
    """Return the verdicts of one check by subject."""
    return {f.subject: f.verdict for f in findings if f.id == number}


def edited(lab: Lab, tmp_path: Path, **clusters: dict[str, str]) -> Mesh:
    """Open the lab's mesh with some fields of some clusters changed."""
    document = yaml.safe_load(lab.mesh_file.read_text())
    for entry in document["clusters"]:
        entry.update(clusters.get(entry["name"], {}))
    (tmp_path / "mesh.yaml").write_text(yaml.safe_dump(document))
    return Mesh.open(tmp_path / "mesh.yaml")


def test_our_remote_secret_is_istioctls(meshed_lab: Lab) -> None:
    """Name, namespace, annotation, label, key, and the kubeconfig byte for byte; ours has data, theirs stringData."""
    mesh = Mesh.open(meshed_lab.mesh_file)
    for entry in mesh.spec.clusters:
        command = ("create-remote-secret", f"--name={entry.name}", f"--server={entry.api_server}")
        theirs = next(yaml.safe_load_all(meshed_lab.istioctl(entry.context, *command)))
        token = reader_tokens.current(reader_tokens.tokens(mesh.clusters[entry.name], "istio-system"), mesh)
        assert token
        ours = remote_secret_manifest.manifest(entry.name, entry.api_server, token, "istio-system")
        ours["stringData"] = {key: base64.b64decode(value).decode() for key, value in ours.pop("data").items()}
        differing = [key for key in {*ours, *theirs} if ours.get(key) != theirs.get(key)]
        assert differing == []  # and no token in the message
        assert token.token not in repr(token)


def test_the_stage_joins_the_clusters_without_a_lost_call_and_is_empty_afterwards(undiscovered: Lab) -> None:
    """Plan mode writes nothing; apply makes two tokens and two secrets; again nothing is left to do."""
    mesh = Mesh.open(undiscovered.mesh_file)
    before = versions(undiscovered)
    findings, changes = stage(mesh, "plan")
    assert versions(undiscovered) == before
    assert overall(findings) is Verdict.PASS
    assert Counter(change.rpartition(" ")[2] for change in changes) == {"planned": 4}

    since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    findings, changes = stage(mesh, "apply")
    assert [f for f in findings if f.verdict is not Verdict.PASS] == []
    assert Counter(change.rpartition(" ")[2] for change in changes) == {"done": 4}
    assert set(verdicts(findings, "MK711")) == set(PAIRS)
    time.sleep(2)
    log = undiscovered.kubectl("lab-east", "logs", "-n", "sample", "deploy/load", "-c", "load", f"--since-time={since}")
    requests = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    assert len(requests) > 50
    assert [request for request in requests if request["status"] != 200] == []
    assert len({request["answeredBy"] for request in requests}) == 2

    after = versions(undiscovered)
    findings, changes = stage(mesh, "apply")
    assert (overall(findings), changes, versions(undiscovered)) == (Verdict.PASS, [], after)


def test_what_istioctl_made_is_left_as_it_is(undiscovered: Lab) -> None:
    """Its token is used again, its secret is ours but for the owner."""
    mesh = Mesh.open(undiscovered.mesh_file)
    west = mesh.spec.cluster("west")
    made = undiscovered.istioctl("lab-west", "create-remote-secret", "--name=west", f"--server={west.api_server}")
    undiscovered.kubectl("lab-east", "apply", "-f", "-", stdin=made)
    before = versions(undiscovered)
    findings, changes = stage(mesh, "apply")
    assert overall(findings) is Verdict.PASS
    assert changes == [
        f"east create Secret istio-system/{TOKEN_SECRET}: done",
        "west create Secret istio-system/istio-remote-secret-east: done",
    ]
    assert versions(undiscovered).items() >= before.items()


@pytest.mark.parametrize("mode", ["plan", "apply"])
def test_no_secret_is_in_the_notebook(undiscovered: Lab, mode: str, tmp_path: Path) -> None:
    """Neither token nor key, in no form, after a real run of it by papermill."""
    out = tmp_path / "out.ipynb"
    given = ("-p", "mesh_file", str(undiscovered.mesh_file), "-p", "mode", mode)
    command = [sys.executable, "-m", "papermill", str(folder("notebooks") / "07-discovery.ipynb"), str(out), *given]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "07 discovery: PASS" in out.read_text()
    held = [secret for secret in canaries(undiscovered) if len(secret) >= 16]
    public = public_text(undiscovered)
    wanted = {piece for secret in held for piece in fragments(secret) if piece not in public}
    told = out.read_bytes() + done.stdout.encode() + done.stderr.encode()
    assert len(wanted) > 50
    assert [piece for piece in wanted if piece in told] == []


def test_without_the_right_to_make_secrets_nothing_is_half_done(undiscovered: Lab, tmp_path: Path) -> None:
    """West's credential may do all but secrets: that is reported, and no token is created in east either."""
    lab = undiscovered
    lab.kubectl("lab-west", "apply", "-f", "-", stdin=json.dumps(WITHOUT_SECRETS))
    lab.kubectl("lab-west", "create", "serviceaccount", "narrow", "-n", "default")
    bind = ("create", "clusterrolebinding", "no-secrets", "--clusterrole=no-secrets", "--serviceaccount=default:narrow")
    lab.kubectl("lab-west", *bind)
    try:
        document = yaml.safe_load(lab.kubeconfig.read_text())
        server = next(c["cluster"] for c in document["clusters"] if "west" in c["name"])
        (tmp_path / "ca.crt").write_bytes(base64.b64decode(server["certificate-authority-data"]))
        token = lab.kubectl("lab-west", "create", "token", "narrow", "-n", "default").strip()
        narrow = write_kubeconfig(tmp_path / "narrow", server["server"], tmp_path / "ca.crt", {"narrow": token})
        mesh = edited(lab, tmp_path, west={"kubeconfig": str(narrow), "context": "narrow"})
        before = versions(lab)
        findings, changes = stage(mesh, "apply")
        assert verdicts(findings, "MK705") == {"east": Verdict.PASS, "west": Verdict.FAIL}
        assert verdicts(findings, "MK706")["west → east"] is Verdict.UNKNOWN
        assert [change for change in changes if change.endswith("done")] == []
        assert versions(lab) == before
    finally:
        lab.kubectl("lab-west", "delete", "clusterrolebinding,clusterrole", "no-secrets")
        lab.kubectl("lab-west", "delete", "serviceaccount", "narrow", "-n", "default")


@pytest.mark.parametrize(
    ("fields", "number", "subject"),
    [
        ({"apiServer": "https://127.0.0.1:6443"}, "MK701", "west"),
        ({"apiServer": "https://172.31.200.1:6443"}, "MK702", "east → west"),
        ({"apiServer": "https://172.31.200.9:6443"}, "MK702", "east → west"),
    ],
    ids=["loopback", "another cluster's", "nobody's"],
)
def test_a_wrong_address_is_found_before_anything_is_made(
    undiscovered: Lab, tmp_path: Path, fields: dict[str, str], number: str, subject: str
) -> None:
    """From inside the reader, by the target's own CA."""
    before = versions(undiscovered)
    findings, _ = stage(edited(undiscovered, tmp_path, west=fields), "apply")
    assert verdicts(findings, number)[subject] is Verdict.FAIL
    assert versions(undiscovered) == before


def test_a_dead_secret_of_another_name_is_not_overwritten(undiscovered: Lab) -> None:
    """It stands in the way, and is named with the command that removes it."""
    lab, mesh = undiscovered, Mesh.open(undiscovered.mesh_file)
    bad = reader_tokens.Token("", "not-a-token", b"-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n")
    manifest = remote_secret_manifest.manifest("west", str(mesh.spec.cluster("west").api_server), bad, "istio-system")
    manifest["metadata"]["name"] = "theirs"
    lab.kubectl("lab-east", "apply", "-f", "-", stdin=json.dumps(manifest))
    before = versions(lab)
    findings, _ = stage(mesh, "apply")
    (blamed,) = [f for f in findings if f.id == "MK706" and f.verdict is not Verdict.PASS]
    assert (blamed.subject, blamed.verdict) == ("east → west", Verdict.FAIL)
    assert "theirs" in blamed.observed
    assert "delete secret" in blamed.remedy
    assert versions(lab) == before


def test_services_that_will_merge_are_reported_before(undiscovered: Lab) -> None:
    """A namespace of both clusters whose Services have other ports: a warning for the merge, one for the ports."""
    lab = undiscovered
    try:
        for context, port in zip(CONTEXTS, ("80", "81"), strict=True):
            lab.kubectl(context, "create", "namespace", "shop")
            lab.kubectl(context, "create", "service", "clusterip", "web", "-n", "shop", f"--tcp={port}:8080")
        mesh = Mesh.open(lab.mesh_file)
        findings = discovery.check(mesh, discovery_facts.look(mesh))
        assert verdicts(findings, "MK708") == {"namespace sample": Verdict.PASS, "namespace shop": Verdict.WARN}
        assert verdicts(findings, "MK709") == {"shop/web": Verdict.WARN}
    finally:
        for context in CONTEXTS:
            lab.kubectl(context, "delete", "namespace", "shop", "--wait=false")


def test_a_revoked_token_is_renewed(undiscovered: Lab) -> None:
    """West's token Secret is deleted, and its token with it: a new one is issued, and distributed in our own secret."""
    lab, mesh = undiscovered, Mesh.open(undiscovered.mesh_file)
    stage(mesh, "apply")
    lab.kubectl("lab-west", "delete", "secret", *SYSTEM, TOKEN_SECRET)
    until(
        lambda: token_rotation.token_actions(mesh, discovery_facts.look(mesh))["east", "west"] == "renew",
        "east's secret is dead",
    )
    findings, changes = stage(mesh, "apply")
    assert overall(findings) is Verdict.PASS
    assert changes == [
        f"west create Secret istio-system/{TOKEN_SECRET}: done",
        "east update Secret istio-system/istio-remote-secret-west: done",
    ]
    assert verdicts(findings, "MK803")["east → west"] is Verdict.PASS


def test_a_proxy_without_a_network_holds_the_stage(undiscovered: Lab) -> None:
    """It was injected before its istiod knew a network: here its injected claim is taken away."""
    lab, mesh = undiscovered, Mesh.open(undiscovered.mesh_file)
    found = lab.kubectl("lab-east", "get", "pods", "-n", "sample", "-l", "app=sleep", "-o", "json")
    pod = json.loads(found)["items"][0]
    for container in [*pod["spec"]["containers"], *pod["spec"].get("initContainers", [])]:
        container["env"] = [e for e in container.get("env", []) if e["name"] != "ISTIO_META_NETWORK"]
    labels = {"app": "stale", "sidecar.istio.io/inject": "false"}
    pod["metadata"] = {"name": "stale", "namespace": "sample", "labels": labels}
    lab.kubectl("lab-east", "apply", "-f", "-", stdin=json.dumps({**pod, "status": {}}))
    try:
        lab.kubectl("lab-east", "wait", "-n", "sample", "pod/stale", "--for=condition=Ready", "--timeout=60s")
        before = versions(lab)
        findings, _ = stage(mesh, "apply")
        (blamed,) = [f for f in findings if f.id == "MK703" and f.verdict is not Verdict.PASS]
        assert (blamed.subject, blamed.verdict) == ("east", Verdict.FAIL)
        assert "sample/stale" in blamed.observed
        assert versions(lab) == before
    finally:
        lab.kubectl("lab-east", "delete", "pod", "-n", "sample", "stale", "--wait=false")
