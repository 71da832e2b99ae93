"""A cluster whose API server is not well beside one that answers: named, unknown, in time."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest
import yaml

from meshkit.kube.mesh import Mesh
from tests.support.api_server import ApiServer, write_kubeconfig
from tests.support.sick import Sickness, sick_api_server
from tests.unit.cli.test_main import call

DEADLINE = 50.0
SAYS: dict[Sickness, str] = {
    500: "it answered 500",
    429: "it answered 429",
    "refuses": "it refuses the connection",
    "slow": "no answer within",
    "stranger": "its answer is not that of an API server",
}
COMMANDS = pytest.mark.parametrize(
    "command", [["check"], ["proxies"], ["pairs", "--samples", "0"]], ids=lambda words: words[0]
)


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each request have two seconds: of these servers, none answers well after more."""
    monkeypatch.setitem(Mesh.open.__func__.__kwdefaults__, "timeout", 2.0)  # type: ignore[attr-defined]


def mesh_file(folder: Path, east: tuple[str, Path], west: tuple[str, Path]) -> str:
    """Write the mesh file of two contexts, each of a kubeconfig."""
    both = {"east": east, "west": west}
    clusters = [
        {"name": name, "context": context, "kubeconfig": str(kubeconfig), "network": f"net-{name}"}
        for name, (context, kubeconfig) in both.items()
    ]
    (folder / "mesh.yaml").write_text(yaml.safe_dump({"clusters": clusters}))
    return str(folder / "mesh.yaml")


@COMMANDS
@pytest.mark.parametrize("sickness", list(SAYS))
@pytest.mark.usefixtures("hasty")
def test_a_sick_cluster_is_unknown_in_time_and_the_other_is_judged(
    api_server: ApiServer,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    sickness: Sickness,
    command: list[str],
) -> None:
    """East is a real API server without Istio, which fails; of west alone nothing passes, and nothing fails."""
    with sick_api_server(sickness) as server:
        kubeconfig = write_kubeconfig(tmp_path / "kubeconfig", server, None, {"west": "canary-token"})
        mesh = mesh_file(tmp_path, ("admin", api_server.kubeconfig), ("west", kubeconfig))
        began = time.monotonic()
        code, out, err = call(capsys, *command, mesh, "-o", "json")
        took = time.monotonic() - began
    print(f"{command[0]}, {sickness}: {took:.1f} s")
    assert took < DEADLINE, "not even what a busy server asks for is waited out"
    assert code == 1
    assert SAYS[sickness] in out + err
    assert not {word for word in ("Traceback", "bug of meshkit", "canary-token") if word in out + err}
    rows = json.loads(out)
    if command[0] == "check":
        verdicts = {(row["id"], row["subject"]): row["verdict"] for row in rows}
        assert (verdicts["MK101", "east"], verdicts["MK801", "east"]) == ("pass", "fail")
        of_west = {key: told for key, told in verdicts.items() if key[1].split(" → ")[0] == "west"}
        assert set(of_west.values()) <= {"unknown", "skipped"}, of_west
        assert ("MK101", "west") in of_west
    elif command[0] == "proxies":
        assert [(row["cluster"], row["state"]) for row in rows] == [("west", "UNKNOWN")]
        assert "✖ fail MK901" in err
        assert "  observed  no proxy" in err
    else:
        # What fails of west → east is east's own: it has no gateway.
        assert {row["client"]: row["why"][:5] for row in rows} == {"east": "MK802", "west": "MK805"}
        assert "? unknown MK802 remote secret is there [west → east]" in err
        assert "✖ fail MK805 east-west gateway is offered [east]" in err
        assert not re.search(r"✖ fail .*\[west", err)


@COMMANDS
@pytest.mark.usefixtures("hasty")
def test_where_nothing_can_be_found_out_the_exit_code_is_3(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    """Nothing failed, and nothing is known."""
    with sick_api_server(429) as server:
        kubeconfig = write_kubeconfig(tmp_path / "kubeconfig", server, None, {"east": "t", "west": "t"})
        code, out, err = call(capsys, *command, mesh_file(tmp_path, ("east", kubeconfig), ("west", kubeconfig)))
    assert code == 3, out + err
