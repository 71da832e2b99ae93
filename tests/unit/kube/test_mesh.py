"""Mesh without a cluster: unknowns, threads and deadlines."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from meshkit.errors import UnreachableError
from meshkit.kube.mesh import DaemonThreads, Mesh, Unknown, gather
from meshkit.spec import MeshSpec
from tests.support.api_server import free_port, write_kubeconfig


def mesh_of(contexts: dict[str, tuple[str, str]], **options: Any) -> Mesh:
    """Open a mesh of name -> (context, kubeconfig)."""
    clusters = [
        {"name": name, "context": context, "kubeconfig": kubeconfig, "network": f"net-{name}"}
        for name, (context, kubeconfig) in contexts.items()
    ]
    return Mesh.open(MeshSpec.parse({"clusters": clusters}, where="test"), **options)


def test_unknown_is_false_and_says_why() -> None:
    """It cannot be taken for an answer."""
    assert not Unknown("dead")
    assert str(Unknown("dead")) == "unknown: dead"


def test_opening_sends_nothing(tmp_path: Path) -> None:
    """A dead cluster is no error before it is asked."""
    dead = write_kubeconfig(tmp_path / "dead", f"https://127.0.0.1:{free_port()}", None, {"dead": "t"})
    mesh = mesh_of({"dead": ("dead", str(dead))})
    assert list(mesh.clusters) == ["dead"]
    assert mesh.ordered_pairs == []


def test_questions_about_the_whole_mesh_are_asked_side_by_side() -> None:
    """Each waits for all the others here; what one raises is raised."""
    spec = MeshSpec.parse({"clusters": [{"name": "east", "context": "east", "network": "net-east"}]}, where="test")
    mesh, met = Mesh(spec, {}), threading.Barrier(3, timeout=10)

    def meet(_: Mesh) -> bool:
        return met.wait() >= 0

    assert mesh.read_all(first=meet, second=meet, third=meet) == {"first": True, "second": True, "third": True}
    with pytest.raises(ZeroDivisionError):
        mesh.read_all(wrong=lambda _: 1 // 0, right=str)


def test_gather_keeps_order_and_bounds_its_threads() -> None:
    """Answers stand in the subjects' order; no more than so many run at once."""
    running, most, lock = 0, 0, threading.Lock()

    def square(number: int) -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.02)
        with lock:
            running -= 1
        if number == 3:
            raise UnreachableError("three is gone", where="here")
        return number * number

    answers = gather(square, range(8), deadline=10, executor=DaemonThreads(2))
    assert answers == [0, 1, 4, Unknown("three is gone"), 16, 25, 36, 49]
    assert most == 2


def test_a_hung_question_does_not_hold_the_exit() -> None:
    """A program ends although a thread of ours still waits."""
    program = "import time; from meshkit.kube.mesh import gather\n"
    program += "print(gather(lambda n: time.sleep(60), [1], deadline=0.2)[0])"
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.stdout == "unknown: no answer within 0.2 s\n"
    assert time.monotonic() - started < 10
