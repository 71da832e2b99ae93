"""A mesh of which one API server is suddenly not well: what is known of the other still is, and nothing fails."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import yaml

from tests.e2e.checks.test_faults import meshkit
from tests.support.api_server import write_kubeconfig
from tests.support.lab import Lab
from tests.support.sick import Sickness, sick_api_server

pytestmark = pytest.mark.lab

DEADLINE = 120.0


@pytest.mark.parametrize("command", ["check", "proxies", "pairs"])
@pytest.mark.parametrize("sickness", [429, "slow"])
def test_nothing_fails_where_a_cluster_only_cannot_be_read(
    meshed_lab: Lab, tmp_path: Path, sickness: Sickness, command: str
) -> None:
    """A fake API server stands for west's, which cannot be made sick at will; west's mesh runs on. Exit code 3."""
    with sick_api_server(sickness) as server:
        kubeconfig = write_kubeconfig(tmp_path / "kubeconfig", server, None, {"lab-west": "canary-token"})
        document = yaml.safe_load(meshed_lab.mesh_file.read_text())
        document["clusters"][1]["kubeconfig"] = str(kubeconfig)
        (tmp_path / "mesh.yaml").write_text(yaml.safe_dump(document))
        began = time.monotonic()
        done = meshkit(command, str(tmp_path / "mesh.yaml"), "-o", "json")
        took = time.monotonic() - began
    print(f"{command}, {sickness}: {took:.1f} s")
    told = done.stdout + done.stderr
    assert done.returncode == 3, told
    assert done.stdout, told
    assert took < DEADLINE
    assert not {word for word in ("Traceback", "bug of meshkit", "canary-token") if word in told}
    assert "west" in told
    rows = json.loads(done.stdout)
    if command == "check":
        assert [row for row in rows if row["verdict"] == "fail"] == []
        verdicts = {(row["id"], row["subject"]): row["verdict"] for row in rows}
        east = [verdicts[number, "east"] for number in ("MK101", "MK801", "MK805", "MK901")]
        assert (set(east), verdicts["MK101", "west"]) == ({"pass"}, "unknown")
    elif command == "proxies":
        assert {(row["cluster"], row["state"]) for row in rows if row["cluster"] == "west"} == {("west", "UNKNOWN")}
        assert {row["state"] for row in rows if row["cluster"] == "east"} <= {"SYNCED", "IGNORED", "NOT SENT"}
    else:
        assert {row["verdict"] for row in rows} == {"unknown"}
