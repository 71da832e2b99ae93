"""Temporary changes on a real API server: reverted in the end, after an interrupt, and after a kill."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

from meshkit.changes import temporary
from meshkit.changes.journal import Journal
from meshkit.changes.plan import Plan
from meshkit.errors import ChangeError, InputError, UnreachableError
from meshkit.kube.mesh import Mesh
from meshkit.spec import MeshSpec
from tests.support.api_server import TOKENS, ApiServer, free_port, write_kubeconfig
from tests.support.objects import create, deployment, edit, live

STAGE = "10 shift"
KILLED = """
import os, signal, sys
from tests.api_server.changes.test_temporary import mesh_of, planned
planned(mesh_of(sys.argv[1]), lambda: os.kill(os.getpid(), signal.SIGKILL)).carry_out("apply")
"""


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Journals go where the test ends."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def mesh(api_server: ApiServer) -> Mesh:
    """One real API server, as two clusters."""
    return mesh_of(str(kubeconfig(api_server)))


def kubeconfig(api_server: ApiServer) -> Path:
    """Return a kubeconfig in which the API server has two names."""
    certificate = api_server.kubeconfig.parent / "pki" / "apiserver.crt"
    tokens = dict.fromkeys(("east", "west"), TOKENS["admin"])
    return write_kubeconfig(api_server.kubeconfig.parent / "twice", api_server.server, certificate, tokens)


def mesh_of(*kubeconfigs: str) -> Mesh:
    """Return a mesh of east and west, whose kubeconfig may be another one."""
    files = {"east": kubeconfigs[0], "west": kubeconfigs[-1]}
    clusters = [{"name": n, "context": n, "network": f"n-{n}", "kubeconfig": file} for n, file in files.items()]
    return Mesh.open(MeshSpec.parse({"clusters": clusters}, where="test"), timeout=3)


def config_map(name: str, **data: str) -> dict[str, Any]:
    """Return a ConfigMap of the default namespace."""
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "default"}, "data": data}


def planned(mesh: Mesh, wait: Callable[[], Any]) -> Plan:
    """Return a temporary plan: one object in each cluster, and a third whose effect is waited for."""
    plan = Plan(mesh, STAGE, temporary=True)
    plan.apply("east", config_map("t-east", a="1"), "first")
    plan.apply("west", config_map("t-west", a="1"), "second")
    plan.apply("east", config_map("t-last", a="1"), "third", wait=wait)
    return plan


def there(mesh: Mesh) -> list[str]:
    """Return which of the objects exist."""
    found = mesh.clusters["east"].get("configmaps", "default")
    return sorted(o["metadata"]["name"] for o in found if o["metadata"]["name"].startswith("t-"))


def killed(api_server: ApiServer) -> None:
    """Carry the plan out in another process, which is killed at its third change."""
    command = [sys.executable, "-c", KILLED, str(kubeconfig(api_server))]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": "."})
    assert done.returncode == -signal.SIGKILL, done.stderr


def test_everything_is_reverted_in_the_end(mesh: Mesh) -> None:
    """While the last change was waited for, all of it was there."""
    seen: list[str] = []

    def wait() -> str:
        seen[:] = there(mesh)
        return ""

    done = planned(mesh, wait).carry_out("apply")
    assert seen == ["t-east", "t-last", "t-west"]
    assert set(done["status"]) == {"undone"}
    assert there(mesh) == []
    assert temporary.recover(mesh, "apply") == 0


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ChangeError("it does not arrive")])
def test_also_after_an_interrupt_and_after_a_failure(mesh: Mesh, error: BaseException) -> None:
    """The error goes on its way."""

    def wait() -> NoReturn:
        raise error

    with pytest.raises(type(error)):
        planned(mesh, wait).carry_out("apply")
    assert there(mesh) == []
    assert temporary.recover(mesh, "apply") == 0


def test_replicas_that_others_set_meanwhile_stay(mesh: Mesh) -> None:
    """Away for a while, and then more than there were before: whoever did that needs them."""
    east = mesh.clusters["east"]
    app = create(east, deployment("t-app", "default", replicas=2))
    plan = Plan(mesh, STAGE, temporary=True)

    def wait() -> NoReturn:
        edit(east, deployment("t-app", "default", replicas=6))
        raise ChangeError("it does not arrive")

    plan.scale("east", "Deployment", "default", "t-app", 0, "away", wait=wait)
    try:
        with pytest.raises(ChangeError, match="does not arrive"):
            plan.carry_out("apply")
        assert live(east, app)["spec"]["replicas"] == 6
    finally:
        east.delete(app)


def test_a_full_disk_keeps_nothing_in_any_cluster(mesh: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    """No step of it can be recorded, and all of them are reverted."""

    def full(_: int) -> NoReturn:
        raise OSError(errno.ENOSPC, "No space left on device")

    def wait() -> str:
        monkeypatch.setattr(os, "fsync", full)
        return ""

    with pytest.raises(ChangeError, match="the journal cannot be written: No space left on device"):
        planned(mesh, wait).carry_out("apply")
    assert there(mesh) == []


def test_what_a_killed_run_left_is_named_and_then_reverted(
    api_server: ApiServer, mesh: Mesh, capsys: pytest.CaptureFixture[str]
) -> None:
    """Mode plan changes nothing."""
    killed(api_server)
    assert (temporary.recover(mesh, "plan"), len(there(mesh))) == (3, 3)
    assert "left east: create ConfigMap default/t-last; mode apply reverts it" in capsys.readouterr().out
    assert (temporary.recover(mesh, "apply"), there(mesh)) == (3, [])
    back = [line for line in capsys.readouterr().out.splitlines() if line.startswith("reverting")]
    assert [line.rpartition("/")[2] for line in back] == ["t-last", "t-west", "t-east"]
    assert temporary.recover(mesh, "apply") == 0
    with pytest.raises(InputError, match="expected plan or apply"):
        temporary.recover(mesh, "perhaps")


def test_a_plan_made_on_what_was_left_is_refused_once_that_is_reverted(api_server: ApiServer, mesh: Mesh) -> None:
    """It would lack what was there when it was made."""
    killed(api_server)
    stale = planned(mesh, lambda: "")
    assert stale.empty
    with pytest.raises(ChangeError, match="this plan is stale"):
        stale.carry_out("apply")
    assert there(mesh) == []
    assert set(planned(mesh, lambda: "").carry_out("apply")["status"]) == {"undone"}


def test_one_that_cannot_be_reverted_keeps_no_other(api_server: ApiServer, mesh: Mesh) -> None:
    """It stays in the journal, and is reported."""
    killed(api_server)
    (book,) = Journal.all_of(mesh.spec.mesh.id)
    needed = book.folder / "0003.json"
    text = needed.read_text()
    needed.unlink()
    with pytest.raises(ChangeError, match="cannot be read"):
        temporary.recover(mesh, "apply")
    assert there(mesh) == ["t-last"]
    needed.write_text(text)
    assert (temporary.recover(mesh, "apply"), there(mesh)) == (1, [])


def test_a_dead_cluster_keeps_nothing_in_the_living_one(api_server: ApiServer, mesh: Mesh, tmp_path: Path) -> None:
    """What it may hold itself is reported, and stays in the journal."""
    killed(api_server)
    dead = write_kubeconfig(tmp_path / "dead", f"https://127.0.0.1:{free_port()}", None, {"west": "x"})
    with pytest.raises(UnreachableError, match="may have left create ConfigMap default/t-west"):
        temporary.recover(mesh_of(str(kubeconfig(api_server)), str(dead)), "apply")
    assert there(mesh) == ["t-west"]
    assert (temporary.recover(mesh, "apply"), there(mesh)) == (1, [])
