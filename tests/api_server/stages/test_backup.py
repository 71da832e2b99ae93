"""Stage 03 against a real API server with a kind of our own in an Istio group; the whole drill is in tests/e2e."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from meshkit.changes.journal import private_folder
from meshkit.errors import InputError
from meshkit.istio.control_plane import istio_objects
from meshkit.kube.cluster import Cluster
from meshkit.kube.mesh import Mesh
from meshkit.stages.backup import archive
from meshkit.stages.backup import stage as backup
from tests.support.api_server import ApiServer
from tests.support.lab import until
from tests.unit.stages.test_backup import (
    FAIL,
    GROUP,
    PASS,
    SKIPPED,
    UNKNOWN,
    WARN,
    Manifest,
    core,
    finding_of,
    mesh_of,
    thing,
)


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the state folder of this test."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state"


def definition(plural: str, *, served: bool = True) -> Manifest:
    """Return a CRD of an Istio group, whose objects may hold anything."""
    anything = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    versions = [{"name": "v1", "served": served, "storage": True, "schema": anything}]
    names = {"plural": plural, "singular": plural[:-1], "kind": plural[:-1].title()}
    spec = {"group": GROUP, "scope": "Namespaced", "names": names, "versions": versions}
    metadata = {"name": f"{plural}.{GROUP}"}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": metadata,
        "spec": spec,
    }


@pytest.fixture(scope="module")
def east(api_server: ApiServer) -> Iterator[Cluster]:
    """A cluster with a kind of an Istio group, two objects of it, and a CA."""
    cluster = Cluster.connect("admin", str(api_server.kubeconfig), name="east")
    made = [
        definition("things"),
        thing("one", n=1),
        thing("two", n=2),
        core("Secret", "cacerts", stringData={"k": "canary"}),
    ]
    cluster.apply(core("Namespace", "istio-system", ""))
    cluster.apply(made[0])
    until(lambda: f"things.{GROUP}" in cluster.kinds(istio_objects.ours), "the kind is served")
    for one in made[1:]:
        cluster.apply(one)
    yield cluster
    for one in reversed(made):
        cluster.delete(one)


def backed_up(mesh: Mesh) -> tuple[backup.BackupFacts, archive.Archive]:
    """Return facts and an archive of them; every gate passes."""
    facts = backup.look(mesh)
    done = backup.write(mesh, facts, "apply", gates=backup.check(mesh, facts))
    assert done
    return facts, done


class TestGates:
    """What must be so before an archive is written."""

    def test_a_good_cluster_is_backed_up_and_drilled(self, east: Cluster) -> None:
        """All pass; the archive says where it is without naming this machine's folders."""
        mesh = mesh_of(east)
        facts, done = backed_up(mesh)
        found = backup.prove(mesh, facts, done)
        assert {f.verdict for f in found} == {PASS}, found
        assert [f.id for f in found] == ["MK305", "MK306", "MK307", "MK308", "MK309"]
        assert done.where.startswith("$XDG_STATE_HOME/meshkit/changes/mesh1/backup/")
        assert backup.latest(mesh) == done
        assert set(backup.contents(done)["file"]) == {
            "1-namespaces.yaml",
            "2-crds.yaml",
            "4-secrets.yaml",
            "6-objects.yaml",
        }
        assert "canary" not in f"{facts!r}{facts.secrets.to_csv()}{found}"

    def test_a_forbidden_kind_is_unknown_and_names_the_right(self, east: Cluster, api_server: ApiServer) -> None:
        """MK301: whoever may read everything but Secrets gets no archive, and learns what lacks."""
        rbac = "rbac.authorization.k8s.io"
        rules = [{"apiGroups": ["*"], "resources": [r], "verbs": ["get", "list"]} for r in ("namespaces", "configmaps")]
        named = sorted({kind.partition(".")[0] for several in istio_objects._LABELLED.values() for kind in several})
        rules.append(
            {"apiGroups": ["*"], "resources": [*named, "customresourcedefinitions", "things"], "verbs": ["list"]}
        )
        role: Manifest = {
            "apiVersion": f"{rbac}/v1",
            "kind": "ClusterRole",
            "metadata": {"name": "drill"},
            "rules": rules,
        }
        subjects = [{"kind": "User", "name": "nobody", "apiGroup": rbac}]
        reference = {"apiGroup": rbac, "kind": "ClusterRole", "name": "drill"}
        binding = {**role, "kind": "ClusterRoleBinding", "subjects": subjects, "roleRef": reference}
        del binding["rules"]
        east.apply(role)
        east.apply(binding)
        mesh = mesh_of(Cluster.connect("nobody", str(api_server.kubeconfig), name="east"))
        try:
            until(lambda: len([f for f in backup.check(mesh, backup.look(mesh)) if f.id == "MK301"]) == 1, "the role")
            facts = backup.look(mesh)
            gates = backup.check(mesh, facts)
        finally:
            east.delete(binding)
            east.delete(role)
        found = finding_of(gates, "MK301")
        assert found.verdict is UNKNOWN
        assert "istio-system/secrets (403)" in found.observed
        assert "allow get and list of secrets" in found.remedy
        assert backup.write(mesh, facts, "apply", gates=gates) is None
        assert backup.latest(mesh) is None

    def test_a_kind_that_is_defined_but_not_served_is_unknown(self, east: Cluster) -> None:
        """MK301: its objects lie in etcd, where nobody can read them."""
        mesh, hidden = mesh_of(east), definition("ghosts", served=False)
        east.apply(hidden)
        try:
            found = finding_of(backup.check(mesh, backup.look(mesh)), "MK301")
        finally:
            east.delete(hidden)
        assert found.verdict is UNKNOWN
        assert "ghosts.drill.istio.io" in found.observed

    def test_a_secret_that_a_gateway_names_is_archived_or_missed(self, east: Cluster) -> None:
        """MK302: what is named but nowhere is warned of; what is there comes along, wherever the gateway's pods are."""
        mesh = mesh_of(east)
        east.apply(
            thing("shop", servers=[{"tls": {"credentialName": "shop-tls"}}, {"tls": {"credentialName": "gone"}}])
        )
        east.apply(core("Secret", "shop-tls", stringData={"tls.key": "canary"}))
        try:
            facts = backup.look(mesh)
        finally:
            east.delete(thing("shop"))
            east.delete(core("Secret", "shop-tls"))
        assert list(facts.secrets["name"]) == ["cacerts", "shop-tls"]
        found = finding_of(backup.check(mesh, facts), "MK302")
        assert found.verdict is WARN
        assert "secret gone (named by Thing default/shop)" in found.observed
        assert "shop-tls" not in found.observed

    def test_a_folder_that_others_may_read_is_refused(self, east: Cluster) -> None:
        """MK303, and nothing is written."""
        mesh = mesh_of(east)
        folder = private_folder("mesh1") / "backup"
        assert archive.folder_of("mesh1") == folder
        folder.mkdir(mode=0o755)
        facts = backup.look(mesh)
        gates = backup.check(mesh, facts)
        assert (finding_of(gates, "MK303").verdict, finding_of(gates, "MK303").observed) == (
            FAIL,
            f"mode 0755, owner {os.getuid()}",
        )
        assert backup.write(mesh, facts, "apply", gates=gates) is None
        assert list(folder.iterdir()) == []

    def test_a_full_disk_is_refused(self, east: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
        """MK304; the disk's own word is simulated, since filling one harms others."""
        mesh = mesh_of(east)
        facts = backup.look(mesh)
        usage = namedtuple("usage", "free")  # noqa: PYI024
        monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage(2**20))
        assert finding_of(backup.check(mesh, facts), "MK304").verdict is FAIL

    def test_a_plan_writes_nothing_and_proves_nothing(self, east: Cluster, state: Path) -> None:
        """No folder appears; the proof is skipped; another mode is an error."""
        mesh = mesh_of(east)
        facts = backup.look(mesh)
        assert backup.write(mesh, facts, "plan", gates=backup.check(mesh, facts)) is None
        assert not state.exists()
        assert [(f.id, f.verdict) for f in backup.prove(mesh, facts, None)] == [("MK305", SKIPPED)]
        with pytest.raises(InputError, match="expected plan or apply"):
            backup.write(mesh, facts, "do", gates=[])


class TestDrill:
    """What the restore drill finds."""

    def test_an_object_that_the_archive_lacks_fails(self, east: Cluster) -> None:
        """MK306 names it; MK307 counts one less than the API server."""
        mesh = mesh_of(east)
        facts, done = backed_up(mesh)
        _forge(done, lambda one: one["metadata"]["name"] != "two")
        found = backup.prove(mesh, facts, done)
        assert finding_of(found, "MK305").verdict is PASS
        assert finding_of(found, "MK306").verdict is FAIL
        assert "Thing default/two" in finding_of(found, "MK306").observed
        assert (finding_of(found, "MK307").verdict, finding_of(found, "MK307").observed) == (
            FAIL,
            f"Thing.{GROUP}: 1 of 2",
        )

    def test_an_object_that_came_or_went_since_is_a_warning(self, east: Cluster) -> None:
        """MK306 names both; counts that differ for that reason warn, too."""
        mesh = mesh_of(east)
        east.apply(thing("leaving"))
        facts, done = backed_up(mesh)
        east.delete(thing("leaving"))
        east.apply(thing("coming"))
        east.apply(thing("here-too"))
        try:
            found = backup.prove(mesh, facts, done)
        finally:
            east.delete(thing("coming"))
            east.delete(thing("here-too"))
        assert finding_of(found, "MK306").verdict is finding_of(found, "MK307").verdict is WARN
        for name in ("coming", "leaving"):
            assert f"Thing default/{name}" in finding_of(found, "MK306").observed
        assert finding_of(found, "MK308").verdict is finding_of(found, "MK309").verdict is PASS

    def test_a_webhook_that_does_not_answer_is_in_the_way_of_a_restore(self, east: Cluster) -> None:
        """MK308 and MK309 fail, and name the object and the webhook."""
        mesh = mesh_of(east)
        rule = {"apiGroups": [GROUP], "apiVersions": ["*"], "operations": ["*"], "resources": ["*"]}
        hook = {
            "name": "silent.drill.example",
            "sideEffects": "None",
            "admissionReviewVersions": ["v1"],
            "clientConfig": {"url": "https://127.0.0.1:1/"},
            "rules": [rule],
        }
        kind = {"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration"}
        webhook = {**kind, "metadata": {"name": "drill"}, "webhooks": [hook]}
        facts, done = backed_up(mesh)
        east.apply(webhook)
        try:
            found = until(
                lambda: [
                    f for f in backup.prove(mesh, facts, done) if f.id in ("MK308", "MK309") and f.verdict is FAIL
                ],
                "the webhook is asked",
            )
        finally:
            east.delete(webhook)
            until(lambda: finding_of(backup.prove(mesh, facts, done), "MK309").verdict is PASS, "the webhook is gone")
        assert all("Thing default/one" in f.observed and "silent.drill.example" in f.observed for f in found)

    def test_who_may_not_write_cannot_try(self, east: Cluster, api_server: ApiServer) -> None:
        """MK306: another credential that may not even look leaves it unknown."""
        facts, done = backed_up(mesh_of(east))
        mesh = mesh_of(Cluster.connect("stranger", str(api_server.kubeconfig), name="east"))
        assert finding_of(backup.prove(mesh, facts, done), "MK306").verdict is UNKNOWN


def _forge(done: archive.Archive, keep: Any) -> None:
    """Take objects out of an archive, so that its hashes fit again."""
    index = json.loads((done.path / "index.json").read_text())
    entry = index["clusters"]["east"]
    file = done.path / "east" / "6-objects.yaml"
    file.write_text(yaml.safe_dump_all([one for one in yaml.safe_load_all(file.read_text()) if keep(one)]))
    entry["files"][file.name] = hashlib.sha256(file.read_bytes()).hexdigest()
    entry["objects"] = [one for one in entry["objects"] if keep({"metadata": one})]
    (done.path / "index.json").write_text(json.dumps({**index, "read": "9999"}))
