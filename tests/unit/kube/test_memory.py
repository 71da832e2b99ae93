"""A memory: one question is asked once, whoever wants the answer, and nobody can change another's."""

from __future__ import annotations

import http.server
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import pytest

from meshkit.errors import UnreachableError
from meshkit.kube import transport
from meshkit.kube.cluster import Cluster
from meshkit.kube.memory import Memory
from meshkit.kube.mesh import Mesh, gather
from meshkit.kube.transport import NotFoundError
from meshkit.spec import MeshSpec
from tests.support.api_server import write_kubeconfig


def test_many_threads_ask_once() -> None:
    """The first asks; the others wait."""
    memory, asked = Memory(), []

    def ask() -> int:
        asked.append(1)
        time.sleep(0.2)
        return 7

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: memory.answer("question", ask), range(8)))
    assert answers == [7] * 8
    assert len(asked) == 1


def test_what_does_not_exist_is_an_answer_and_another_error_is_none() -> None:
    """After a failure the next one asks again."""
    memory, asked = Memory(), Counter[str]()

    def ask(error: Exception) -> int:
        asked[type(error).__name__] += 1
        raise error

    for error in (NotFoundError("gone"), UnreachableError("late")):
        for _ in range(2):
            with pytest.raises(type(error)):
                memory.answer(type(error), lambda error=error: ask(error))  # type: ignore[misc]
    assert asked == {"NotFoundError": 1, "UnreachableError": 2}


def test_a_failure_is_passed_to_those_who_wait() -> None:
    """They do not ask one after the other."""
    memory, asked, waiting = Memory(), [], threading.Event()

    def ask() -> int:
        asked.append(1)
        waiting.wait(5)
        raise UnreachableError("late")

    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(memory.answer, "question", ask) for _ in range(4)]
        time.sleep(0.3)
        waiting.set()
        errors = [future.exception() for future in futures]
    assert [str(error) for error in errors] == ["late"] * 4
    assert len(asked) == 1


def test_who_waits_is_not_late_while_pieces_arrive() -> None:
    """The deadline of a reading is of silence; what arrives for the first one counts for all."""
    memory = Memory()

    def ask() -> int:
        for _ in range(8):
            time.sleep(0.2)
            transport.note()
        return 7

    assert gather(lambda _: memory.answer("question", ask), range(3), deadline=1.0) == [7, 7, 7]


class Counted(http.server.BaseHTTPRequestHandler):
    """An API server that counts what it is asked."""

    seen: ClassVar[Counter[str]] = Counter()

    def do_GET(self) -> None:
        """Answer with a list of one object."""
        self.seen[self.path] += 1
        body: dict[str, Any] = {"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": [_POD]}
        data = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


_POD = {"metadata": {"name": "sleep", "namespace": "sample", "labels": {"app": "sleep"}}}


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Mesh]:
    """A mesh of one counting API server."""
    Counted.seen = Counter()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Counted) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        kubeconfig = write_kubeconfig(tmp_path / "kubeconfig", address, None, {"east": "token"})
        entry = {"name": "east", "context": "east", "kubeconfig": str(kubeconfig), "network": "net"}
        yield Mesh.open(MeshSpec.parse({"clusters": [entry]}, where="test"))
        server.shutdown()


def test_a_mesh_that_remembers_sends_the_same_read_once(mesh: Mesh) -> None:
    """Another selector is another read; the mesh itself, and what is read afresh, remember nothing."""
    remembering = mesh.remembering()

    def pods(cluster: Cluster) -> list[dict[str, Any]]:
        return cluster.get("/api/v1/pods")

    for _ in range(3):
        remembering.each(pods)
    remembering.each(lambda cluster: cluster.get("/api/v1/pods", labels="app=istiod"))
    assert sorted(Counted.seen.values()) == [1, 1]
    assert remembering["east"].requests == mesh["east"].requests == 2
    mesh.each(pods)
    remembering.fresh.each(pods)
    assert max(Counted.seen.values()) == 3
    remembering["east"].forget()
    for _ in range(2):
        remembering.each(pods)
    assert max(Counted.seen.values()) == 4


def test_nobody_changes_what_another_reads(mesh: Mesh) -> None:
    """Each gets a document of its own."""
    east = mesh.remembering()["east"]
    first = east.get("/api/v1/pods")
    first[0]["metadata"]["labels"]["app"] = "changed"
    assert east.get("/api/v1/pods")[0]["metadata"]["labels"] == {"app": "sleep"}
