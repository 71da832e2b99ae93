"""A cluster that answers nonsense beside a real API server: it alone is unknown."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from random import Random
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from meshkit.kube import mesh as kube_mesh
from meshkit.kube.cluster import Cluster
from meshkit.kube.mesh import Mesh, Unknown
from tests.api_server.cli.test_sick_clusters import mesh_file
from tests.support.api_server import ApiServer, write_kubeconfig
from tests.support.between import recorder, serving
from tests.support.nonsense import BROKEN, spoiled
from tests.support.objects import core, create, deployment
from tests.unit.cli.test_main import call

ROOT = "nonsense-system"


WAYS = ("whole", "nodes", "status", "closes", "half")


@contextlib.contextmanager
def mad(api_server: ApiServer, seed: int, ways: list[str]) -> Iterator[str]:
    """Yield the address of a server that answers as the real one does, but for some nonsense in each answer."""
    admin = api_server.connect("admin")
    uid = admin.uid().encode()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            chance = Random(f"{seed} {self.path.partition('?')[0]}")  # noqa: S311
            way = chance.choice([*ways, "sane"])
            if way == "closes":
                return
            status, body = self.asked()
            if way == "whole":
                status, body = 200, chance.choice(BROKEN)
            elif way == "nodes":
                body = spoiled(body, chance)
            elif way == "status":
                status = chance.choice((201, 204, 301, 400, 500, 503))
            with contextlib.suppress(ConnectionError):
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body[: len(body) // 2] if way == "half" else body)

        def asked(self) -> tuple[int, bytes]:
            headers = {"Authorization": "Bearer admin-token", "Accept": self.headers.get("Accept", "*/*")}
            length = int(self.headers.get("Content-Length") or 0)
            sent = self.rfile.read(length) or None
            if kind := self.headers.get("Content-Type"):
                headers["Content-Type"] = kind
            path = self.path.replace("limit=500&", "").replace("limit=500", "")
            answer = admin.session.client().rest_client.request(
                self.command, f"{api_server.server}{path}", headers=headers, body=json.loads(sent) if sent else None
            )
            # Both clusters of these tests are one API server: as west it has another identity (MK102 compares them).
            return answer.status, (answer.read() or b"").replace(uid, uid[::-1])

        do_POST = do_GET  # noqa: N815

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            """Say nothing."""

    with serving(Handler) as port:
        yield f"http://127.0.0.1:{port}"


@pytest.fixture
def furnished(api_server: ApiServer) -> Iterator[None]:
    """Let the real API server hold a little of what a mesh is made of, in a root namespace of its own."""
    admin = api_server.connect("admin")
    istiod = deployment("istiod", ROOT, labels={"app": "istiod", "istio.io/rev": "default"})
    gateway = core("Service", "istio-eastwestgateway", ROOT)
    gateway["spec"] = {"type": "LoadBalancer", "ports": [{"port": 15443, "name": "tls"}]}
    secret = core("Secret", "istio-remote-secret-east", ROOT, data={"east": "e30="})
    secret["metadata"]["labels"] = {"istio/multiCluster": "true"}
    hook: dict[str, Any] = {"name": "a.sidecar-injector.istio.io", "admissionReviewVersions": ["v1"]}
    hook |= {"sideEffects": "None", "clientConfig": {"service": {"name": "istiod", "namespace": ROOT}}}
    hook["namespaceSelector"] = {"matchLabels": {"never": "there"}}
    injector: dict[str, Any] = {"kind": "MutatingWebhookConfiguration", "metadata": {"name": ROOT}, "webhooks": [hook]}
    injector["apiVersion"] = "admissionregistration.k8s.io/v1"
    node = core("Node", "nonsense", "", spec={"podCIDR": "10.1.0.0/24"})
    istio = core("ConfigMap", "istio", ROOT, data={"mesh": "trustDomain: cluster.local\n"})
    made = [istiod, gateway, secret, injector, node, istio]
    admin.apply(core("Namespace", ROOT, ""))
    for manifest in made:
        create(admin, manifest)
    yield
    for manifest in made:
        admin.delete(manifest)


@pytest.mark.usefixtures("furnished")
@pytest.mark.parametrize("command", [["proxies"], ["pairs", "--samples", "0"]], ids=lambda words: words[0])
@settings(max_examples=3, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32))
def test_nonsense_of_one_cluster_ends_no_other_command(
    api_server: ApiServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str], seed: int
) -> None:
    """Some rows come, and no traceback."""
    with pytest.MonkeyPatch.context() as patch:
        _patience(patch)
        with mad(api_server, seed, list(WAYS)) as server:
            code, out, err = call(capsys, *command, _file(api_server, tmp_path, server), "-o", "json")
    assert not {word for word in ("Traceback", "bug of meshkit", "canary-token") if word in out + err}, err
    assert code in (1, 3), err
    assert json.loads(out) or "east" in err


@pytest.mark.usefixtures("furnished")
@settings(max_examples=8, suppress_health_check=list(HealthCheck))
@example(seed=0, ways=[])
@given(seed=st.integers(0, 2**32), ways=st.lists(st.sampled_from(WAYS), min_size=1, max_size=3, unique=True))
def test_nonsense_of_one_cluster_leaves_what_is_found_of_the_other(
    api_server: ApiServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], seed: int, ways: list[str]
) -> None:
    """No traceback, and east is judged as it is beside a dead cluster."""
    with pytest.MonkeyPatch.context() as patch:
        _patience(patch)
        alone = _of_east(api_server, tmp_path, capsys, "http://127.0.0.1:9")
        with mad(api_server, seed, ways) as server:
            assert _of_east(api_server, tmp_path, capsys, server) == alone


def test_a_question_that_trips_over_an_answer_is_unknown_for_its_cluster(
    api_server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says where, and nothing of the answer; where nothing was answered, the mistake is ours and is raised."""
    monkeypatch.setattr(kube_mesh, "mistakes_are_raised", False)
    pods = {"kind": "PodList", "metadata": {}, "items": [{"metadata": {"name": "a"}, "spec": "canary"}]}

    def nodes_of(cluster: Cluster) -> list[str]:
        return [item["spec"].get("nodeName", "") for item in cluster.get("/api/v1/pods")]

    with recorder(lambda _: (200, pods)) as server:
        kubeconfig = write_kubeconfig(tmp_path / "kubeconfig", server.address, None, {"west": "t"})
        mesh = Mesh.open(mesh_file(tmp_path, ("admin", api_server.kubeconfig), ("west", kubeconfig)))
        answers = mesh.each(nodes_of)
    # Other tests share this API server, and may have left pods.
    assert answers["east"] == nodes_of(mesh.clusters["east"])
    assert isinstance(answers["west"], Unknown)
    assert "cannot be read (AttributeError in test_nonsense.py, line" in answers["west"].reason
    assert "canary" not in answers["west"].reason
    with pytest.raises(KeyError):
        mesh.each(lambda _: {}["no question"])


def _of_east(api_server: ApiServer, folder: Path, capsys: pytest.CaptureFixture[str], west: str) -> dict[str, str]:
    code, out, err = call(capsys, "check", _file(api_server, folder, west), "-o", "json")
    assert not {word for word in ("Traceback", "bug of meshkit", "canary-token") if word in out + err}, err
    assert code in (1, 3), err
    return {row["id"]: f"{row['verdict']}: {row['observed']}" for row in json.loads(out) if row["subject"] == "east"}


def _file(api_server: ApiServer, folder: Path, west: str) -> str:
    kubeconfig = write_kubeconfig(folder / "kubeconfig", west, None, {"west": "canary-token"})
    mesh = mesh_file(folder, ("admin", api_server.kubeconfig), ("west", kubeconfig))
    document = yaml.safe_load((folder / "mesh.yaml").read_text()) | {"mesh": {"rootNamespace": ROOT}}
    (folder / "mesh.yaml").write_text(yaml.safe_dump(document))
    return mesh


def _patience(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(kube_mesh, "mistakes_are_raised", False)
    patch.setitem(Mesh.open.__func__.__kwdefaults__, "timeout", 2.0)  # type: ignore[attr-defined]
    patch.setattr(kube_mesh, "SILENCE", 120.0)
