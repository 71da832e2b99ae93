"""Mesh: one dead, slow or mistaken cluster must not spoil the others."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from meshkit.errors import InputError
from meshkit.kube.cluster import Cluster
from meshkit.kube.mesh import Mesh, Unknown
from tests.support.api_server import ApiServer, free_port, write_kubeconfig
from tests.unit.kube.test_mesh import mesh_of


def three(api_server: ApiServer, tmp_path: Path, hanging_port: int, **options: Any) -> Mesh:
    """Open a mesh of a good cluster, a dead one and a hanging one."""
    dead = write_kubeconfig(tmp_path / "dead", f"https://127.0.0.1:{free_port()}", None, {"dead": "t"})
    slow = write_kubeconfig(tmp_path / "slow", f"https://127.0.0.1:{hanging_port}", None, {"slow": "t"})
    good = ("admin", str(api_server.kubeconfig))
    return mesh_of({"good": good, "dead": ("dead", str(dead)), "slow": ("slow", str(slow))}, **options)


@pytest.fixture
def hanging_port() -> Any:
    """A port that accepts connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield int(listener.getsockname()[1])


def test_each_cluster_answers_for_itself(api_server: ApiServer, tmp_path: Path, hanging_port: int) -> None:
    """The good one's answer is there, the others are unknown and say why, within the deadline."""
    started = time.monotonic()
    answers = three(api_server, tmp_path, hanging_port).each(Cluster.version, deadline=1.5)
    assert time.monotonic() - started < 5
    assert str(answers["good"]).startswith("v1.")
    assert answers["dead"] == Unknown("it refuses the connection")
    assert answers["slow"] == Unknown("no answer within 1.5 s")


def test_a_silent_cluster_is_not_asked_again_at_once(
    api_server: ApiServer, tmp_path: Path, hanging_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stays unknown for a while without being asked; one that refuses quickly is asked each time."""
    mesh, asked = three(api_server, tmp_path, hanging_port), []

    def question(cluster: Cluster) -> str:
        asked.append(cluster.name)
        return cluster.version()

    first = mesh.each(question, deadline=1.5)
    assert mesh.each(question, deadline=1.5) == first
    assert sorted(asked) == ["dead", "dead", "good", "good", "slow"]
    later = time.monotonic() + 60
    monkeypatch.setattr("meshkit.kube.mesh.time.monotonic", lambda: later)
    mesh.each(question, deadline=1.5)
    assert asked.count("slow") == 2


def test_a_request_timeout_is_reported_before_the_deadline(
    api_server: ApiServer, tmp_path: Path, hanging_port: int
) -> None:
    """A hanging API server ends by its own timeout when that is shorter."""
    answers = three(api_server, tmp_path, hanging_port, timeout=0.5).each(Cluster.version, deadline=20)
    assert answers["slow"] == Unknown("no answer within 0.5 s")


def test_a_mistake_of_the_program_is_raised(api_server: ApiServer, tmp_path: Path, hanging_port: int) -> None:
    """A TypeError is no property of a cluster."""

    def wrong(cluster: Cluster) -> int:
        return len(3)  # type: ignore[arg-type]

    with pytest.raises(TypeError):
        three(api_server, tmp_path, hanging_port).each(wrong)


def test_all_wrong_contexts_are_named_at_once(api_server: ApiServer) -> None:
    """One run of trial and error is enough."""
    kubeconfig = str(api_server.kubeconfig)
    with pytest.raises(InputError) as caught:
        mesh_of({"a": ("nope", kubeconfig), "b": ("admin", kubeconfig), "c": ("neither", kubeconfig)})
    assert "'nope'" in str(caught.value)
    assert "'neither'" in str(caught.value)
    assert str(caught.value).count(kubeconfig) == 1


def test_questions_may_run_in_other_processes(api_server: ApiServer) -> None:
    """Any executor will do; a cluster travels without its open connection."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as executor:
        mesh = mesh_of({"good": ("admin", str(api_server.kubeconfig))}, executor=executor)
        assert mesh.clusters["good"].version() == mesh.each(Cluster.version)["good"]
