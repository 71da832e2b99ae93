"""A cluster that answers nonsense: it alone is unknown, and what is found of the others stays as it was."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from random import Random
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meshkit.errors import UnreachableError
from meshkit.kube import mesh as kube_mesh
from meshkit.kube.cluster import Cluster
from meshkit.kube.mesh import Mesh, Unknown
from meshkit.kube.transport import NotFoundError
from tests.between import cluster_of, recorder, serving
from tests.objects import core, create, deployment
from tests.support import ApiServer, write_kubeconfig
from tests.test_cli import call
from tests.test_sick_clusters import mesh_file

ROOT = "nonsense-system"
NONSENSE = (None, [], {}, 0, -1, True, "", "x", [None], [[]], {"x": None}, [{}], ["x"], 1e300, "\u2028", {"name": []})
BROKEN = (b"", b"{", b"[]", b"null", b"3", b'"x"', b"<html>", b"\xff\xfe", b"[" * 100_000, b'{"items": 3}', b"{}")
WAYS = ("whole", "nodes", "status", "closes", "half")


@contextlib.contextmanager
def mad(api_server: ApiServer, seed: int, ways: list[str]) -> Iterator[str]:
    """Yield the address of a server that answers as the real one does, but for some nonsense in each answer."""
    admin = api_server.connect("admin")

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
                body = _spoiled(body, chance)
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
            return answer.status, answer.read() or b""

        do_POST = do_GET  # noqa: N815

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            """Say nothing."""

    with serving(Handler) as port:
        yield f"http://127.0.0.1:{port}"


def _spoiled(body: bytes, chance: Random) -> bytes:
    try:
        document = json.loads(body)
    except ValueError:
        return body
    for _ in range(chance.randint(1, 4)):
        places = [
            (node, key) for node in _nodes(document) for key in (node if isinstance(node, dict) else range(len(node)))
        ]
        if places:
            node, key = chance.choice(places)
            node[key] = chance.choice(NONSENSE)
    return json.dumps(document).encode()


def _nodes(document: Any) -> Iterator[Any]:
    if isinstance(document, dict | list):
        yield document
        for child in document.values() if isinstance(document, dict) else document:
            yield from _nodes(child)


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


DISCOVERY = {
    "kind": "APIGroupDiscoveryList",
    "items": [
        None,
        3,
        {"metadata": None, "versions": None},
        {"metadata": {"name": "metrics.k8s.io"}, "versions": [None, {"version": "v1", "resources": None}]},
        {
            "metadata": {"name": "odd.example"},
            "versions": [
                {
                    "version": "v1",
                    "resources": [
                        None,
                        {"resource": "nokinds"},
                        {"resource": "nullkinds", "responseKind": None, "verbs": ["list"]},
                        {"resource": ["x"], "responseKind": {"kind": "X"}},
                        {"resource": "noverbs", "responseKind": {"kind": "NoVerb"}, "verbs": None, "shortNames": None},
                        {"resource": "words", "responseKind": {"kind": "Word"}, "verbs": "list", "shortNames": "w"},
                        {"resource": "goods", "responseKind": {"kind": "Good"}, "verbs": ["list"], "shortNames": ["g"]},
                    ],
                }
            ],
        },
    ],
}


def test_what_discovery_says_wrongly_is_passed_over(tmp_path: Path) -> None:
    """Null verbs, no responseKind, null lists: the kinds beside them are known."""
    with recorder(lambda path: (200, DISCOVERY if path == "/apis" else {**DISCOVERY, "items": None})) as server:
        cluster = cluster_of(tmp_path / "k", {"server": server.address}, {"token": "t"})
        assert cluster.kinds(bool) == ["goods.odd.example"]
        assert [cluster.resource(kind).plural for kind in ("g", "noverb", "word")] == ["goods", "noverbs", "words"]
        with pytest.raises(NotFoundError):
            cluster.resource("nokinds")


@pytest.mark.parametrize(
    "answer",
    [
        {"kind": "PodList", "metadata": {}, "items": 3},
        {"kind": "PodList", "metadata": {}, "items": [3]},
        {"kind": "PodList", "metadata": {}, "items": [{}]},
        {"kind": "PodList", "metadata": {}, "items": [{"metadata": {"name": 3}}]},
        {"kind": "PodList", "metadata": {}, "items": [{"metadata": {"name": "a", "labels": []}}]},
        {"kind": "PodList", "metadata": {}, "items": [{"metadata": {"name": "a", "labels": {"b": 3}}}]},
        {"kind": "PodList", "metadata": {"continue": 3}, "items": []},
        {"kind": "PodList", "metadata": {"continue": "on"}, "items": []},
        {"kind": "PodList", "metadata": None, "items": []},
        {"kind": "PodList"},
        {"kind": "Pod", "metadata": {}},
        [],
        3,
    ],
)
def test_a_list_of_a_wrong_shape_is_an_error_of_ours(tmp_path: Path, answer: Any) -> None:
    """It names the cluster; a page that leads to itself does not go on for ever."""
    with recorder(lambda _: (200, answer)) as server:
        cluster = cluster_of(tmp_path / "k", {"server": server.address}, {"token": "t"})
        with pytest.raises(UnreachableError, match="cluster it: its answer is not that of an API server"):
            cluster.get("/api/v1/pods")


@pytest.mark.parametrize("answer", [{}, {"items": None}, {"kind": "APIGroupList", "groups": []}, {"items": 3}])
def test_what_is_no_discovery_is_not_an_empty_one(tmp_path: Path, answer: Any) -> None:
    """Else all kinds would be absent, which is a fact; here nothing is known."""
    with recorder(lambda _: (200, answer)) as server:
        cluster = cluster_of(tmp_path / "k", {"server": server.address}, {"token": "t"})
        with pytest.raises(UnreachableError, match="not that of an API server"):
            cluster.find("pods", "default", "a")


def test_null_is_nothing(tmp_path: Path) -> None:
    """As for every client in Go: null lists are empty, and null fields are not there."""
    item = {"metadata": {"name": "a", "labels": None, "annotations": None}, "spec": {"a": None, "b": 1}}
    with recorder(
        lambda path: (200, {"kind": "XList", "metadata": {}, "items": None if path[:3] == "/n?" else [item]})
    ) as it:
        cluster = cluster_of(tmp_path / "k", {"server": it.address}, {"token": "t"})
        assert cluster.get("/n") == []
        assert cluster.get_json("/n", query=[("limit", "1")], having="items")["items"] == []
        (found,) = cluster.get("/x")
        assert (found["metadata"], found["spec"], found["kind"]) == ({"name": "a"}, {"b": 1}, "X")


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
    assert answers["east"] == []
    assert isinstance(answers["west"], Unknown)
    assert "cannot be read (AttributeError in test_nonsense.py, line" in answers["west"].reason
    assert "canary" not in answers["west"].reason
    with pytest.raises(KeyError):
        mesh.each(lambda _: {}["no question"])


def test_a_long_list_may_take_longer_than_one_page(tmp_path: Path) -> None:
    """Twelve pages of a quarter of a second each, with a timeout of one second and a deadline of one."""

    def page(path: str) -> tuple[int, Any]:
        time.sleep(0.25)
        number = int(path.rpartition("continue=")[2]) if "continue=" in path else 0
        told = {"continue": str(number + 1)} if number < 11 else {}
        return 200, {"kind": "PodList", "metadata": told, "items": [{"metadata": {"name": f"p{number}"}}]}

    with recorder(page) as server:
        kubeconfig = write_kubeconfig(tmp_path / "kubeconfig", server.address, None, {"east": "t", "west": "t"})
        mesh = Mesh.open(mesh_file(tmp_path, ("east", kubeconfig), ("west", kubeconfig)), timeout=1)
        found = mesh.each(lambda cluster: len(cluster.get("/api/v1/pods")), deadline=1)
    assert found == {"east": 12, "west": 12}


@pytest.mark.parametrize(("pause", "beginning"), [(0.2, True), (60, False)])
def test_an_answer_in_drips_ends(tmp_path: Path, pause: float, beginning: bool) -> None:
    """Although something comes each time; and one that stops in the middle ends sooner."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            with contextlib.suppress(OSError):
                for _ in range(600):
                    self.wfile.write(b" ")
                    time.sleep(pause)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            """Say nothing."""

    with serving(Handler) as port:
        cluster = cluster_of(tmp_path / "k", {"server": f"http://127.0.0.1:{port}"}, {"token": "t"}, timeout=0.5)
        began = time.monotonic()
        with pytest.raises(UnreachableError, match="no answer within") as caught:
            cluster.version()
    assert time.monotonic() - began < 5
    assert ("but the beginning" in str(caught.value)) == beginning
    assert "requestTimeout" in caught.value.remedy


def test_the_mesh_file_allows_more_time(tmp_path: Path) -> None:
    """`requestTimeout` of a cluster is the timeout of its requests, and of no other's."""
    with recorder(lambda _: (time.sleep(1.5), (200, {"gitVersion": "v1"}))[1]) as server:  # type: ignore[func-returns-value]
        kubeconfig = write_kubeconfig(tmp_path / "kubeconfig", server.address, None, {"east": "t", "west": "t"})
        path = mesh_file(tmp_path, ("east", kubeconfig), ("west", kubeconfig))
        document = yaml.safe_load((tmp_path / "mesh.yaml").read_text())
        document["clusters"][1]["requestTimeout"] = "5s"
        (tmp_path / "mesh.yaml").write_text(yaml.safe_dump(document))
        found = Mesh.open(path, timeout=1).each(Cluster.version)
    assert found == {"east": Unknown("no answer within 1 s"), "west": "v1"}


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
