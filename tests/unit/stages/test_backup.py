"""Stage 03 without a cluster: the archive's files, what of a cluster is selected, what is refused."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from meshkit.checks.finding import Finding, Verdict
from meshkit.errors import ChangeError
from meshkit.istio.control_plane import istio_objects
from meshkit.kube.cluster import Cluster
from meshkit.kube.mesh import Mesh, Unknown
from meshkit.spec import MeshSpec
from meshkit.stages.backup import archive
from meshkit.stages.backup import stage as backup
from tests.support.api_server import free_port, write_kubeconfig

PASS, WARN, FAIL, UNKNOWN, SKIPPED = Verdict.PASS, Verdict.WARN, Verdict.FAIL, Verdict.UNKNOWN, Verdict.SKIPPED


GROUP = "drill.istio.io"


Manifest = dict[str, Any]


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the state folder of this test."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state"


def thing(name: str, **spec: Any) -> Manifest:
    """Return an object of that kind."""
    metadata = {"name": name, "namespace": "default"}
    return {"apiVersion": f"{GROUP}/v1", "kind": "Thing", "metadata": metadata, "spec": spec}


def core(kind: str, name: str, namespace: str = "istio-system", **more: Any) -> Manifest:
    """Return an object of Kubernetes' core group."""
    where = {"namespace": namespace} if namespace else {}
    return {"apiVersion": "v1", "kind": kind, "metadata": {"name": name, **where, **more.pop("metadata", {})}, **more}


def mesh_of(cluster: Cluster) -> Mesh:
    """Return the mesh of one cluster."""
    spec = MeshSpec.parse({"clusters": [{"name": "east", "context": "east", "network": "net"}]}, where="test")
    return Mesh(spec, {"east": cluster})


def finding_of(findings: list[Finding], number: str) -> Finding:
    """Return the one finding with that id."""
    [found] = [f for f in findings if f.id == number]
    return found


class TestGates:
    """What must be so before an archive is written."""

    def test_a_dead_cluster_is_unknown(self, tmp_path: Path) -> None:
        """MK301, and a row of the inventory that says so."""
        path = write_kubeconfig(tmp_path / "k", f"https://127.0.0.1:{free_port()}", None, {"lost": "t"})
        mesh = mesh_of(Cluster.connect("lost", str(path), timeout=1, name="east"))
        facts = backup.look(mesh)
        assert list(facts.inventory["reason"]) == ["UNKNOWN: it refuses the connection"]
        assert finding_of(backup.check(mesh, facts), "MK301").verdict is UNKNOWN

    @pytest.mark.parametrize(("place", "name"), [("git", ".git"), ("run", "events.jsonl")])
    def test_a_folder_that_is_handed_on_is_refused(self, state: Path, place: str, name: str) -> None:
        """MK303: neither a git checkout nor a run folder may hold private keys."""
        state.mkdir()
        (state / name).touch()
        assert place in archive.problem(archive.folder_of("mesh1"))


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
        """It names only the folder of the path."""
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


def test_a_cluster_with_definitions_only_has_nothing_to_create() -> None:
    """MK309: those of the Gateway API in a cluster without Istio; what could not be tried stays unknown."""
    now = istio_objects.Found([], {}, [], [], [])
    done: Any = SimpleNamespace(listed=lambda _: {}, made="2026-12-01T00:00:00Z")
    definition = istio_objects.Key("CustomResourceDefinition", "", "gateways.gateway.networking.k8s.io")
    for created, verdict in (({}, SKIPPED), ({definition: Unknown("it is dead")}, UNKNOWN)):
        drilled = backup.Drill(now, {}, {definition: ""}, created)
        [found] = [one for one in backup._judge("west", done, {}, drilled) if one.id == "MK309"]
        assert found.verdict is verdict, found
