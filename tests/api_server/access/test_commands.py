"""Commands by a credential that may only read: each works, changes nothing, and names what it could not see."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from meshkit.access.roles import ROLES, Places
from meshkit.kube.cluster import Cluster
from tests.api_server.access.conftest import Bind
from tests.support.api_server import ApiServer, write_kubeconfig
from tests.support.objects import core
from tests.support.sick import sick_api_server
from tests.unit.cli.test_main import call

Capture = pytest.CaptureFixture[str]
READING = (["check", "-o", "json"], ["assess"], ["proxies", "-o", "json"], ["pairs", "--samples", "0", "-o", "json"])
REFUSED = "the credential may not"


@pytest.fixture
def mesh_file(tmp_path: Path) -> Any:
    """Return what writes a mesh file of one cluster, east, by a context."""

    def written(context: str, kubeconfig: str = "") -> str:
        east = {"name": "east", "context": context, "network": "n", "kubeconfig": kubeconfig}
        path = tmp_path / f"{context}.yaml"
        path.write_text(yaml.safe_dump({"clusters": [east]}))
        return str(path)

    return written


@pytest.mark.parametrize("command", READING, ids=lambda words: words[0])
def test_a_reader_reads_what_an_admin_reads(
    command: list[str], bind: Bind, api_server: ApiServer, mesh_file: Any, capsys: Capture
) -> None:
    """The role read is enough: the same verdicts, words and exit code, and nothing that was refused."""
    reader = mesh_file(bind(["read"]))
    admin = mesh_file("admin", str(api_server.kubeconfig))
    by_reader, by_admin = (call(capsys, command[0], path, *command[1:]) for path in (reader, admin))
    assert REFUSED not in "".join(map(str, by_reader))
    assert (by_reader[0], printed(by_reader[1])) == (by_admin[0], printed(by_admin[1]))


def printed(out: str) -> str:
    """Return what a command printed, without what tells the contexts apart, moments and measured times."""
    return re.sub(r"Read \S+ \S+ UTC|--context \w+|[-+±]?\d+(\.\d+)? m?s\b", "", out)


def test_what_a_reader_may_not_see_is_named(bind: Bind, mesh_file: Any, tmp_path: Path, capsys: Capture) -> None:
    """Without the Role for Secrets, what depends on them is unknown, with the reason; the rest is judged."""
    path = mesh_file(bind(["read"], "secrets"))
    code, out, _ = call(capsys, "check", path, "-o", "json")
    findings = json.loads(out)
    unknown = [one for one in findings if one["verdict"] == "unknown" and f"{REFUSED} GET" in one["observed"]]
    assert unknown
    assert all("secrets" in one["observed"] for one in unknown)
    assert {one["verdict"] for one in findings} >= {"pass", "fail"}
    assert code == 1
    code, _, _ = call(capsys, "gather", path, "-o", str(tmp_path / "mesh.json"))
    assert f"{REFUSED} GET" in (tmp_path / "mesh.json").read_text()
    assert code == 0


def test_a_plan_says_that_no_server_has_checked_it(
    bind: Bind, mesh_file: Any, east: Cluster, state: Path, capsys: Capture
) -> None:
    """It is shown all the same, and that is no failure: in mode plan nothing is applied."""
    context, labelled = bind(["read"]), (Places().root, Places().probe)
    for name in labelled:  # the API server is that of all tests of this worker: others may have labelled them
        east.patch(core("Namespace", name, "") | {"metadata": {"name": name, "labels": None}})
    had = east.get("namespaces", name=Places().probe)[0]["metadata"]["resourceVersion"]
    call(capsys, "run", mesh_file(context), "--only", "02", "--out", str(state))
    folder = next(state.glob("*/*-plan"))
    findings = json.loads((folder / "results.json").read_text())["findings"]
    taken = {(one["verdict"], one["observed"]) for one in findings if one["id"] == "MK290"}
    assert taken == {("skipped", f"{REFUSED} PATCH namespaces/{name} (403)") for name in labelled}
    assert "istio-injection" in (folder / "02-prepare.html").read_text()
    assert east.get("namespaces", name=Places().probe)[0]["metadata"]["resourceVersion"] == had


def test_doctor_finds_nothing_missing_with_both_roles(bind: Bind, capsys: Capture) -> None:
    """Nor with the role read alone, for reading."""
    code, out, _ = call(capsys, "doctor", "--context", bind(ROLES), "-o", "json")
    assert [(one["role"], one["verdict"], one["resource"]) for one in json.loads(out)] == [
        ("read", "pass", ""),
        ("apply", "pass", ""),
    ]
    assert code == 0


def test_doctor_names_what_is_missing(bind: Bind, mesh_file: Any, capsys: Capture) -> None:
    """Of the role read it fails, of the role apply it warns, unless that is asked for."""
    context = bind(["read"], "secrets")
    code, out, err = call(capsys, "doctor", "--context", context, "-o", "json")
    rows = json.loads(out)
    assert code == 1
    assert [
        (one["resource"], one["namespace"], one["verbs"], one["verdict"]) for one in rows if one["role"] == "read"
    ] == [
        ("pods/log", "istio-system", "get", "fail"),
        ("secrets", "istio-system", "get, list", "fail"),
    ]
    lacking = {(one["resource"], one["namespace"]) for one in rows if one["verdict"] == "warn"}
    assert lacking >= {("namespaces", ""), ("secrets", "istio-system"), ("services", "sample"), ("*.*", "sample")}
    assert "meshkit access read" in err
    assert call(capsys, "doctor", mesh_file(context), "--role", "apply")[0] == 1


def test_doctor_of_a_cluster_that_does_not_answer(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is unknown, never complete; the reason is said."""
    with sick_api_server("refuses") as server:
        monkeypatch.setenv(
            "KUBECONFIG", str(write_kubeconfig(tmp_path / "kubeconfig", server, None, {"west": "token"}))
        )
        code, out, _ = call(capsys, "doctor", "--context", "west", "-o", "json")
    assert {(one["verdict"], one["reason"]) for one in json.loads(out)} == {("unknown", "it refuses the connection")}
    assert code == 3


@pytest.mark.parametrize(
    "words", [["read", "--user", "a", "--group", "b"], ["read", "--serviceaccount", "reader"], ["write"]]
)
def test_access_refuses_what_it_cannot_bind(words: list[str], capsys: Capture) -> None:
    """With what it expects."""
    code, out, err = call(capsys, "access", *words)
    assert (code, out) == (2, "")
    assert "--serviceaccount" in err or "'read', 'apply'" in err


def test_access_prints_what_kubectl_takes(mesh_file: Any, tmp_path: Path, capsys: Capture) -> None:
    """Namespaces and revision are the mesh file's; each role has a binding to whom was named."""
    path = Path(mesh_file("east"))
    document = yaml.safe_load(path.read_text())
    document |= {"mesh": {"rootNamespace": "mesh-root"}, "istio": {"revision": "1-31"}, "probe": {"namespace": "shop"}}
    path.write_text(yaml.safe_dump(document))
    _, out, _ = call(capsys, "access", "apply", str(path), "-n", "edge", "--group", "sre")
    documents = list(yaml.safe_load_all(out))
    places = [(one["kind"], one["metadata"].get("namespace", "")) for one in documents]
    found = [("ClusterRole", ""), *(("Role", one) for one in ("mesh-root", "edge", "shop"))]
    assert places == [*found, *((f"{kind}Binding", place) for kind, place in found)]
    assert {one["subjects"][0]["name"] for one in documents[4:]} == {"sre"}
    assert "istiod-clusterrole-1-31-mesh-root" in out
