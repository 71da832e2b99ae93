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
from meshkit.checks.finding import Finding, Verdict
from meshkit.errors import ChangeError, InputError
from meshkit.istio.control_plane import istio_objects
from meshkit.kube.cluster import Cluster
from meshkit.kube.mesh import Mesh
from meshkit.spec import MeshSpec
from meshkit.stages.backup import archive
from meshkit.stages.backup import stage as backup
from tests.support.api_server import ApiServer, free_port, write_kubeconfig
from tests.support.lab import until

PASS, WARN, FAIL, UNKNOWN, SKIPPED = Verdict.PASS, Verdict.WARN, Verdict.FAIL, Verdict.UNKNOWN, Verdict.SKIPPED
GROUP = "drill.istio.io"
Manifest = dict[str, Any]


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


def thing(name: str, **spec: Any) -> Manifest:
    """Return an object of that kind."""
    metadata = {"name": name, "namespace": "default"}
    return {"apiVersion": f"{GROUP}/v1", "kind": "Thing", "metadata": metadata, "spec": spec}


def core(kind: str, name: str, namespace: str = "istio-system", **more: Any) -> Manifest:
    """Return an object of Kubernetes' core group."""
    where = {"namespace": namespace} if namespace else {}
    return {"apiVersion": "v1", "kind": kind, "metadata": {"name": name, **where, **more.pop("metadata", {})}, **more}


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


def mesh_of(cluster: Cluster) -> Mesh:
    """Return the mesh of one cluster."""
    spec = MeshSpec.parse({"clusters": [{"name": "east", "context": "east", "network": "net"}]}, where="test")
    return Mesh(spec, {"east": cluster})


def told(findings: list[Finding], number: str) -> Finding:
    """Return the one finding with that id."""
    [found] = [f for f in findings if f.id == number]
    return found


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
        found = told(gates, "MK301")
        assert found.verdict is UNKNOWN
        assert "istio-system/secrets (403)" in found.observed
        assert "get and list secrets" in found.remedy
        assert backup.write(mesh, facts, "apply", gates=gates) is None
        assert backup.latest(mesh) is None

    def test_a_dead_cluster_is_unknown(self, tmp_path: Path) -> None:
        """MK301, and a row of the inventory that says so."""
        path = write_kubeconfig(tmp_path / "k", f"https://127.0.0.1:{free_port()}", None, {"lost": "t"})
        mesh = mesh_of(Cluster.connect("lost", str(path), timeout=1, name="east"))
        facts = backup.look(mesh)
        assert list(facts.inventory["reason"]) == ["UNKNOWN: it refuses the connection"]
        assert told(backup.check(mesh, facts), "MK301").verdict is UNKNOWN

    def test_a_kind_that_is_defined_but_not_served_is_unknown(self, east: Cluster) -> None:
        """MK301: its objects lie in etcd, where nobody can read them."""
        mesh, hidden = mesh_of(east), definition("ghosts", served=False)
        east.apply(hidden)
        try:
            found = told(backup.check(mesh, backup.look(mesh)), "MK301")
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
        found = told(backup.check(mesh, facts), "MK302")
        assert found.verdict is WARN
        assert "secret gone (named by Thing default/shop)" in found.observed
        assert "shop-tls" not in found.observed

    @pytest.mark.parametrize(("place", "name"), [("git", ".git"), ("run", "events.jsonl")])
    def test_a_folder_that_is_handed_on_is_refused(self, state: Path, place: str, name: str) -> None:
        """MK303: neither a git checkout nor a run folder may hold private keys."""
        state.mkdir()
        (state / name).touch()
        assert place in archive.problem(archive.folder_of("mesh1"))

    def test_a_folder_that_others_may_read_is_refused(self, east: Cluster) -> None:
        """MK303, and nothing is written."""
        mesh = mesh_of(east)
        folder = private_folder("mesh1") / "backup"
        assert archive.folder_of("mesh1") == folder
        folder.mkdir(mode=0o755)
        facts = backup.look(mesh)
        gates = backup.check(mesh, facts)
        assert (told(gates, "MK303").verdict, told(gates, "MK303").observed) == (
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
        assert told(backup.check(mesh, facts), "MK304").verdict is FAIL

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
        assert told(found, "MK305").verdict is PASS
        assert told(found, "MK306").verdict is FAIL
        assert "Thing default/two" in told(found, "MK306").observed
        assert (told(found, "MK307").verdict, told(found, "MK307").observed) == (FAIL, f"Thing.{GROUP}: 1 of 2")

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
        assert told(found, "MK306").verdict is told(found, "MK307").verdict is WARN
        for name in ("coming", "leaving"):
            assert f"Thing default/{name}" in told(found, "MK306").observed
        assert told(found, "MK308").verdict is told(found, "MK309").verdict is PASS

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
            until(lambda: told(backup.prove(mesh, facts, done), "MK309").verdict is PASS, "the webhook is gone")
        assert all("Thing default/one" in f.observed and "silent.drill.example" in f.observed for f in found)

    def test_who_may_not_write_cannot_try(self, east: Cluster, api_server: ApiServer) -> None:
        """MK306: another credential that may not even look leaves it unknown."""
        facts, done = backed_up(mesh_of(east))
        mesh = mesh_of(Cluster.connect("stranger", str(api_server.kubeconfig), name="east"))
        assert told(backup.prove(mesh, facts, done), "MK306").verdict is UNKNOWN


def _forge(done: archive.Archive, keep: Any) -> None:
    """Take objects out of an archive, so that its hashes fit again."""
    index = json.loads((done.path / "index.json").read_text())
    entry = index["clusters"]["east"]
    file = done.path / "east" / "6-objects.yaml"
    file.write_text(yaml.safe_dump_all([one for one in yaml.safe_load_all(file.read_text()) if keep(one)]))
    entry["files"][file.name] = hashlib.sha256(file.read_bytes()).hexdigest()
    entry["objects"] = [one for one in entry["objects"] if keep({"metadata": one})]
    (done.path / "index.json").write_text(json.dumps({**index, "read": "9999"}))


class TestArchive:
    """Files on disk."""

    def items(self, **data: str) -> list[istio_objects.Item]:
        """Return one ConfigMap."""
        return [istio_objects.Item("configmaps", core("ConfigMap", "c", data=data))]

    def write(self, tmp_path: Path, items: list[istio_objects.Item]) -> archive.Archive:
        """Write an archive of one cluster."""
        return archive.write(tmp_path / "backup", "mesh1", {"east": items}, {"east": "uid"}, "2026-11-24T10:00:00Z")

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "y",
            "n",
            "on",
            "1e3",
            "0o17",
            "0x1f",
            "12:30",
            "~",
            "null",
            "=",
            " lead",
            "trail ",
            "a: b",
            "# no",
            "é\t\u2028",
            "two\nlines",
            "two\nlines\n\n",
            "\n lead\n  more",
            "- a\n- b\n",
            "tab\tin\nlines ",
            "\r\n",
            "a" * 500 + " b" * 200,
        ],
    )
    def test_every_text_comes_back(self, tmp_path: Path, text: str) -> None:
        """As it was, whatever YAML may take it for."""
        done = self.write(tmp_path, self.items(key=text))
        assert done.read("east")[istio_objects.Key("ConfigMap", "istio-system", "c")]["data"] == {"key": text}
        assert "&id" not in (done.path / "east" / "5-configmaps.yaml").read_text()

    def test_half_an_archive_is_none(self, tmp_path: Path) -> None:
        """A failure leaves nothing; a draft is never the latest."""
        with pytest.raises(yaml.YAMLError):
            self.write(tmp_path, self.items(key=object()))  # type: ignore[arg-type]
        assert list((tmp_path / "backup").iterdir()) == []
        (tmp_path / "backup" / ".20990101T000000Z").mkdir()
        (tmp_path / "backup" / ".20990101T000000Z" / "index.json").write_text("{}")
        assert archive.latest(tmp_path / "backup") is None
        first, second = (self.write(tmp_path, self.items(key="x")) for _ in range(2))
        assert archive.latest(tmp_path / "backup") == second != first

    def test_a_place_that_cannot_be_written_is_one_error(self, tmp_path: Path) -> None:
        """It names no more of the path than the folder."""
        (tmp_path / "backup").touch()
        with pytest.raises(ChangeError, match="backup: the archive cannot be written"):
            self.write(tmp_path, self.items())

    def test_a_file_that_is_gone_is_named(self, tmp_path: Path) -> None:
        """Reading it says which."""
        done = self.write(tmp_path, self.items(key="x"))
        (done.path / "east" / "5-configmaps.yaml").unlink()
        with pytest.raises(ChangeError, match=r"east/5-configmaps\.yaml cannot be read"):
            done.read("east")


class TestSelection:
    """Which objects are Istio's, and what of them is kept."""

    @pytest.mark.parametrize(
        ("group", "ours"),
        [
            *(
                ("networking.istio.io", True),
                ("gateway.networking.k8s.io", True),
                ("gateway.networking.x-k8s.io", True),
            ),
            *(("networking.k8s.io", False), ("notistio.io", False), ("apps", False), ("", False)),
        ],
    )
    def test_groups(self, group: str, ours: bool) -> None:
        """Istio's and the Gateway API's; Kubernetes' own NetworkPolicies and Ingresses are not."""
        assert istio_objects.ours(group) is ours

    @pytest.mark.parametrize(
        ("labels", "good"),
        [
            ({"operator.istio.io/component": "Pilot"}, True),
            ({"app.kubernetes.io/part-of": "istio"}, True),
            ({"helm.sh/chart": "istiod-1.31.0"}, True),
            ({"helm.sh/chart": "gateway-1.31.0"}, True),
            ({"gateway.istio.io/managed": "istio.io-gateway-controller"}, True),
            ({"helm.sh/chart": "gateway-helm-1.0.0"}, False),
            ({"istio.io/rev": "default", "app": "shop"}, False),
            (None, False),
        ],
    )
    def test_what_installers_label(self, labels: dict[str, str] | None, good: bool) -> None:
        """A workload that merely uses Istio is not part of it."""
        assert istio_objects.installed(core("Service", "s", metadata={"labels": labels})) is good

    def test_a_gateway_that_is_injected_is_istios(self) -> None:
        """Istio's gateway injection: a template's annotation, no label."""
        template = {"metadata": {"annotations": {"inject.istio.io/templates": "gateway"}}}
        assert istio_objects.installed(core("Deployment", "edge", spec={"template": template}))
        assert not istio_objects.installed(core("Deployment", "shop", spec={"template": {}}))

    @pytest.mark.parametrize(
        ("name", "more", "role"),
        [
            ("cacerts", {}, "plugged-in CA"),
            ("istio-ca-secret", {}, "self-signed CA"),
            ("remote", {"metadata": {"labels": {"istio/multiCluster": "true"}}}, "remote secret"),
            ("sh.helm.release.v1.istiod.v1", {"type": "helm.sh/release.v1"}, "Helm release"),
            (
                "t",
                {
                    "type": "kubernetes.io/service-account-token",
                    "metadata": {"annotations": {"kubernetes.io/service-account.name": "istio-reader-service-account"}},
                },
                "token of istio-reader-service-account",
            ),
            ("grafana", {}, ""),
        ],
    )
    def test_secrets_that_matter(self, name: str, more: Manifest, role: str) -> None:
        """By name, label and type; what others keep in the namespace stays there."""
        assert istio_objects.secret_role(core("Secret", name, **more)) == role

    def test_election_locks_are_left_out(self) -> None:
        """They change every second, and mean nothing later."""
        lock = {"annotations": {"control-plane.alpha.kubernetes.io/leader": "{}"}}
        assert not istio_objects._config_map(core("ConfigMap", "istio-leader", metadata=lock))
        assert not istio_objects._config_map(core("ConfigMap", "kube-root-ca.crt"))
        assert istio_objects._config_map(core("ConfigMap", "istio-1-31"))

    def test_what_the_server_writes_is_left_out(self) -> None:
        """Of metadata name, namespace, labels and annotations stay; owners' UIDs would have the object deleted."""
        full = {"uid": "u", "resourceVersion": "1", "ownerReferences": [{}], "labels": {"a": "b"}, "annotations": {}}
        kept = istio_objects.portable({**core("ConfigMap", "c", metadata=full, data={}), "status": {}})
        assert kept == core("ConfigMap", "c", metadata={"labels": {"a": "b"}}, data={})

    def test_every_way_to_name_a_secret(self) -> None:
        """Istio's credentialName in any place that a gateway may run, the Gateway API's references where they say."""
        spec = {
            "servers": [{"tls": {"credentialName": "a"}}, {"tls": {"credentialName": "sds://file"}}],
            "listeners": [{"tls": {"certificateRefs": [{"name": "b"}, {"name": "c", "namespace": "other"}]}}],
            "validation": {"caCertificateRefs": [{"kind": "ConfigMap", "name": "d"}, {"kind": "Else", "name": "e"}]},
        }
        found = istio_objects.references(istio_objects.Item("objects", thing("g", **spec)), "istio-system", ["edge"])
        assert [(r.kind, r.namespaces, r.name) for r in found if not r.optional] == [
            ("secret", ("default", "edge", "istio-system"), "a"),
            ("secret", ("default",), "b"),
            ("secret", ("other",), "c"),
            ("configmap", ("default",), "d"),
        ]

    def test_a_service_beside_the_old_one_asks_for_none_of_its_addresses(self) -> None:
        """A headless one stays headless."""
        spec = {"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"], "ports": [{"port": 80, "nodePort": 30000}]}
        other = istio_objects.under_another_name(core("Service", "s", spec=spec))
        assert other["spec"] == {"ports": [{"port": 80}]}
        assert other["metadata"]["name"].startswith("meshkit-drill-")
        headless = istio_objects.under_another_name(core("Service", "s", spec={"clusterIP": "None"}))
        assert headless["spec"]["clusterIP"] == "None"
