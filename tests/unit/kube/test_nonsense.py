"""A cluster that answers nonsense: it alone is unknown, and what is found of the others stays as it was."""

from __future__ import annotations

import contextlib
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
import yaml

from meshkit.errors import UnreachableError
from meshkit.istio.control_plane import mesh_networks
from meshkit.kube import mesh as kube_mesh
from meshkit.kube import transport
from meshkit.kube.cluster import Cluster
from meshkit.kube.mesh import Mesh, Unknown
from meshkit.kube.transport import NotFoundError
from tests.api_server.cli.test_sick_clusters import mesh_file
from tests.support import healthy
from tests.support.api_server import write_kubeconfig
from tests.support.between import cluster_of, recorder, serving
from tests.support.held import Held

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


def test_a_config_map_that_is_no_yaml_is_unknown_of_its_cluster_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """MeshNetworks, meshConfig and the injector's configuration are texts that people write."""
    monkeypatch.setattr(kube_mesh, "mistakes_are_raised", False)

    def held(told: str) -> Held:
        found = Held(configmaps=[{"metadata": {"name": "istio"}, "data": {"meshNetworks": told}}])
        get = found.get
        monkeypatch.setattr(found, "get", lambda *words: (transport.note(), get(*words))[1])  # type: ignore[func-returns-value]
        return found

    both: Any = {"east": held("networks: {"), "west": held("networks: {n: {}}")}
    mesh = healthy.mesh()
    found = Mesh(mesh.spec, both).each(lambda cluster: mesh_networks.read(cluster, mesh))
    assert found["west"] == {"n": {}}
    assert isinstance(found["east"], Unknown)
    assert "ParserError in mesh_networks.py, line " in found["east"].reason


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
        with pytest.raises(UnreachableError, match=r"no (complete )?answer within") as caught:
            cluster.version()
    assert time.monotonic() - began < 5
    assert ("complete" in str(caught.value)) == beginning
    assert "requestTimeout" in caught.value.remedy


@pytest.mark.parametrize(
    ("status", "after", "answers"), [(429, "1", 2), (503, "1", 2), (429, "60", 1), (503, "", 1), (304, "", 1)]
)
def test_a_busy_server_is_asked_again_when_it_says(tmp_path: Path, status: int, after: str, answers: int) -> None:
    """As every client of Kubernetes does; not if that takes longer than an answer may."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(status if len(asked) == 1 else 200)
            self.send_header("Retry-After", after)
            self.end_headers()
            self.wfile.write(b'{"gitVersion": "v1.37.2"}')

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            """Say nothing."""

    with serving(Handler) as port:
        cluster = cluster_of(tmp_path / "k", {"server": f"http://127.0.0.1:{port}"}, {"token": "t"})
        if answers == 1:
            with pytest.raises(UnreachableError, match=f"it answered {status}"):
                cluster.version()
        else:
            assert cluster.version() == "v1.37.2"
    assert len(asked) == answers


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
