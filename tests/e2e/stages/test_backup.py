"""The backup on the real mesh: everything of Istio is deleted, and comes back from the files by plain kubectl."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from meshkit import paths
from meshkit.checks.finding import Finding, Verdict, overall
from meshkit.kube.mesh import Mesh
from meshkit.stages.backup import stage as backup
from meshkit.stages.backup.archive import Archive
from tests.support.lab import Lab, until

pytestmark = pytest.mark.lab

EAST = "lab-east"
KINDS = "mutatingwebhookconfigurations,validatingwebhookconfigurations,clusterroles,clusterrolebindings"
INSIDE = "secrets,configmaps,serviceaccounts,roles,rolebindings,services,deployments,hpa"
SERVERS = (
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "managedFields",
    "ownerReferences",
    "finalizers",
)
# Strings that a YAML reader in Go takes for booleans and numbers unless they are quoted.
TRICKY = {"n": "y", "e": "1e3", "o": "0o17", "t": "12:30", "x": "0x1f", "z": "~", "h": "12e5", "l": " two\n lines\n\n"}
OBJECTS = [
    {
        "apiVersion": "networking.istio.io/v1",
        "kind": "VirtualService",
        "metadata": {"name": "httpbin", "namespace": "sample", "annotations": TRICKY},
        "spec": {"hosts": ["httpbin"], "http": [{"route": [{"destination": {"host": "httpbin"}}]}]},
    },
    {
        "apiVersion": "networking.istio.io/v1",
        "kind": "DestinationRule",
        "metadata": {"name": "httpbin", "namespace": "sample"},
        "spec": {"host": "httpbin", "trafficPolicy": {"tls": {"mode": "ISTIO_MUTUAL"}}},
    },
    {
        "apiVersion": "networking.istio.io/v1",
        "kind": "Gateway",
        "metadata": {"name": "shop", "namespace": "sample"},
        "spec": {
            "selector": {"istio": "ingressgateway"},
            "servers": [
                {
                    "port": {"number": 443, "name": "https", "protocol": "HTTPS"},
                    "hosts": ["shop.example"],
                    "tls": {"mode": "SIMPLE", "credentialName": "shop-tls"},
                }
            ],
        },
    },
    {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "shop-tls", "namespace": "istio-system"},
        "type": "kubernetes.io/tls",
        "stringData": {"tls.crt": "canary-certificate", "tls.key": "canary-key-of-the-shop"},
    },
    {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": "istio-remote-secret-gone",
            "namespace": "istio-system",
            "labels": {"istio/multiCluster": "true"},
        },
        "stringData": {"gone": "canary-kubeconfig"},
    },
]


@dataclass(frozen=True)
class Backup:
    """A lab with one mesh, and the archive of it."""

    lab: Lab
    mesh: Mesh
    facts: backup.BackupFacts
    archive: Archive
    findings: list[Finding]


@pytest.fixture(scope="module")
def done(short_folder: Path) -> Iterator[Backup]:
    """East with Istio, a VirtualService, a DestinationRule, a Gateway with its Secret, a remote secret; backed up."""
    lab = Lab(short_folder / "single")
    before = os.environ.get("XDG_STATE_HOME")
    os.environ["XDG_STATE_HOME"] = str(short_folder / "state")
    try:
        lab.start("single")
        lab.kubectl(EAST, "apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": OBJECTS}))
        mesh = Mesh.open(lab.mesh_file)
        facts = backup.look(mesh)
        findings = backup.check(mesh, facts)
        archive = backup.write(mesh, facts, "apply", gates=findings)
        assert archive, findings
        yield Backup(lab, mesh, facts, archive, [*findings, *backup.prove(mesh, facts, archive)])
    finally:
        lab.stop()
        if before is None:
            del os.environ["XDG_STATE_HOME"]
        else:
            os.environ["XDG_STATE_HOME"] = before


def seen(lab: Lab) -> dict[str, Any]:
    """Return all of Istio in east as kubectl shows it, without what the server writes itself."""
    crds = lab.kubectl(EAST, "get", "crd", "-o", "name").split()
    custom = ",".join(name.partition("/")[2] for name in crds)
    found: dict[str, Any] = {}
    for question in (
        ["crd"],
        [custom, "-A"],
        [KINDS, "-l", "app.kubernetes.io/part-of=istio"],
        [INSIDE, "-n", "istio-system"],
    ):
        for one in json.loads(lab.kubectl(EAST, "get", *question, "-o", "json"))["items"]:
            metadata = {key: value for key, value in one.pop("metadata").items() if key not in SERVERS}
            one.pop("status", None)
            if "control-plane.alpha.kubernetes.io/leader" not in metadata.get("annotations", {}):
                found[f"{one['kind']} {metadata.get('namespace', '')}/{metadata['name']}"] = {
                    **one,
                    "metadata": metadata,
                }
    namespaces = json.loads(lab.kubectl(EAST, "get", "namespaces", "-o", "json"))["items"]
    return {**found, "labels": {one["metadata"]["name"]: one["metadata"]["labels"] for one in namespaces}}


def commands() -> list[str]:
    """Return the commands that docs/restore.md gives for a restore of everything, where istiod is gone."""
    text = (paths.folder("notebooks").parent / "docs" / "restore.md").read_text()
    block = text.partition("## Everything")[2].partition("## What to know")[0]
    lines = re.findall(r"^    (.*)$", block, re.MULTILINE)
    return [line for line in lines if not line.startswith("cd ") and "only if istiod was there" not in line]


def test_the_backup_passes_where_istio_is_and_is_skipped_where_it_is_not(done: Backup) -> None:
    """Every check of east passes; west has nothing to back up, which is no pass."""
    assert overall(done.findings) is Verdict.PASS, [f for f in done.findings if f.verdict is not Verdict.PASS]
    assert {f.id for f in done.findings if f.verdict is Verdict.PASS} == {
        *("MK301", "MK303", "MK304", "MK305", "MK306", "MK307", "MK308", "MK309")
    }
    assert [f.id for f in done.findings if f.verdict is Verdict.SKIPPED] == ["MK301"]
    assert list(done.archive.clusters) == ["east"]


def test_the_archive_has_what_kubectl_sees(done: Backup) -> None:
    """All CRDs, all their objects, the Secrets that matter; not the Secrets and ConfigMaps of others."""
    held = {str(key) for key in done.archive.read("east")}
    assert {f"{one['kind']} {one['metadata']['namespace']}/{one['metadata']['name']}" for one in OBJECTS} <= held
    crds = done.lab.kubectl(EAST, "get", "crd", "-o", "name").split()
    assert {f"CustomResourceDefinition {name.partition('/')[2]}" for name in crds} <= held
    assert "Secret istio-system/istio-ca-secret" in held
    assert "ConfigMap istio-system/kube-root-ca.crt" not in held
    assert list(done.facts.secrets["role"]) == ["self-signed CA", "remote secret", "named as a credential"]


def test_secrets_stand_in_the_private_folder_only(done: Backup) -> None:
    """Neither tables nor findings nor the representation of facts have what Secrets hold; the files are ours alone."""
    shown = (
        f"{done.facts!r} {done.findings!r} {done.archive!r}"
        + done.facts.secrets.to_csv()
        + done.facts.inventory.to_csv()
    )
    assert "canary" not in shown
    assert "Y2FuYXJ5" not in shown
    assert "canary" not in (done.archive.path / "index.json").read_text()
    assert {path.stat().st_mode & 0o777 for path in done.archive.path.rglob("*.*")} == {0o600}
    assert {path.stat().st_mode & 0o777 for path in done.archive.path.rglob("*") if path.is_dir()} == {0o700}


def test_a_backup_and_its_drill_change_no_object(done: Backup) -> None:
    """Plan mode writes nothing at all; a second backup is a new archive, and no resourceVersion moved."""
    versions = [
        "get",
        "crd,vs,dr,gateways.networking.istio.io,sa",
        "-A",
        "-o",
        "jsonpath={.items[*].metadata.resourceVersion}",
    ]
    before = done.lab.kubectl(EAST, *versions)
    facts = backup.look(done.mesh)
    gates = backup.check(done.mesh, facts)
    assert backup.write(done.mesh, facts, "plan", gates=gates) is None
    assert backup.latest(done.mesh) == done.archive
    second = backup.write(done.mesh, facts, "apply", gates=gates)
    assert second
    assert overall(backup.prove(done.mesh, facts, second)) is Verdict.PASS
    assert backup.latest(done.mesh) == second != done.archive
    assert done.lab.kubectl(EAST, *versions) == before


def test_what_changes_after_the_reading_is_named(done: Backup) -> None:
    """MK306 warns of an object that was changed, one that was deleted, and one that is new."""
    lab, rule = done.lab, ["-n", "sample", "destinationrule", "httpbin"]
    lab.kubectl(EAST, "annotate", *rule, "drill=later")
    lab.kubectl(EAST, "create", "secret", "generic", "cacerts", "-n", "istio-system", "--from-literal=a=b")
    try:
        found = backup.prove(done.mesh, done.facts, done.archive)
    finally:
        lab.kubectl(EAST, "annotate", *rule, "drill-")
        lab.kubectl(EAST, "delete", "secret", "cacerts", "-n", "istio-system")
    told = {f.id: f for f in found}
    assert told["MK306"].verdict is Verdict.WARN
    assert "DestinationRule sample/httpbin" in told["MK306"].observed
    assert "Secret istio-system/cacerts" in told["MK306"].observed
    assert told["MK308"].verdict is told["MK309"].verdict is Verdict.PASS


def test_files_that_were_touched_are_no_good_backup(done: Backup, tmp_path: Path) -> None:
    """MK305 fails; with the hash made to fit, MK306 does, and MK308 and MK309 name what istiod's validation refuses."""
    copy = Archive(shutil.copytree(done.archive.path, tmp_path / "copy"))
    file, index = copy.path / "east" / "6-objects.yaml", copy.path / "index.json"
    documents = list(yaml.safe_load_all(file.read_text()))
    rule = next(one for one in documents if one["kind"] == "VirtualService")
    rule["spec"]["http"][0]["route"] = [{"destination": {"host": name}, "weight": 0} for name in ("httpbin", "sleep")]
    written = hashlib.sha256(file.read_bytes()).hexdigest()
    file.write_text(yaml.safe_dump_all(documents))
    [touched] = backup.prove(done.mesh, done.facts, copy)
    assert (touched.id, touched.verdict) == ("MK305", Verdict.FAIL)
    assert "east/6-objects.yaml was changed" in touched.observed

    index.write_text(index.read_text().replace(written, hashlib.sha256(file.read_bytes()).hexdigest()))
    told = {f.id: f for f in backup.prove(done.mesh, done.facts, copy)}
    assert told["MK305"].verdict is Verdict.PASS
    for number in ("MK306", "MK308", "MK309"):
        assert told[number].verdict is Verdict.FAIL, told[number]
        assert "VirtualService sample/httpbin" in told[number].observed
    assert "validation.istio.io" in told["MK309"].observed


def test_files_that_others_may_read_are_no_good_backup(done: Backup) -> None:
    """MK305 names them."""
    file = done.archive.path / "east" / "4-secrets.yaml"
    file.chmod(0o640)
    try:
        told = {f.id: f for f in backup.prove(done.mesh, done.facts, done.archive)}
    finally:
        file.chmod(0o600)
    assert told["MK305"].verdict is Verdict.FAIL
    assert "4-secrets.yaml" in told["MK305"].observed


def test_istio_comes_back_from_nothing_by_the_commands_of_the_documentation(done: Backup) -> None:
    """Everything is deleted; kubectl and the files bring it back as it was; istiod, injection and mutual TLS work."""
    lab = done.lab
    before = seen(lab)
    assert len(before) > 50
    files = sorted((done.archive.path / "east").iterdir())
    for path in reversed(files[1:]):
        lab.kubectl(EAST, "delete", "-f", str(path), "--ignore-not-found", "--timeout=60s")
    lab.kubectl(EAST, "label", "namespace", "sample", "istio-injection-")
    assert "No resources" in lab.tool("kubectl", "--context", EAST, "get", "crd").stderr
    assert lab.tool("kubectl", "--context", EAST, "get", "-n", "istio-system", "secret,deploy,svc").stdout == ""

    script = [line.replace("CONTEXT", EAST) for line in commands()]
    assert len(script) > 7
    tools = Path(lab.command("kubectl")[0][0]).parent
    told = lab.tool("bash", "-ec", "\n".join([f"PATH={tools}:$PATH", f"cd {files[0].parent}", *script]), timeout=240)
    assert told.returncode == 0, told.stderr

    after = until(lambda: seen(lab) if seen(lab) == before else None, "everything is as it was", 30)
    assert after == before
    lab.kubectl(EAST, "rollout", "restart", "-n", "istio-system", "deployment/istiod")
    lab.kubectl(EAST, "rollout", "status", "-n", "istio-system", "deployment/istiod", "--timeout=60s")
    lab.kubectl(EAST, "rollout", "restart", "-n", "sample", "deployment/sleep")
    lab.kubectl(EAST, "rollout", "status", "-n", "sample", "deployment/sleep", "--timeout=60s")
    call = ["exec", "-n", "sample", "deploy/sleep", "-c", "sleep", "--", "curl", "-sS", "-m", "5", "-w", "%{http_code}"]
    answer = until(
        lambda: lab.tool("kubectl", "--context", EAST, *call, "http://httpbin:8000/headers").stdout, "an answer"
    )
    assert answer.endswith("200")
    assert "spiffe://cluster.local/ns/sample/sa/sleep" in answer
