"""`meshkit init` and `check --context` at a real API server: by a user who may only read, and beside a sick one."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from meshkit.kube.cluster import Cluster
from meshkit.spec import MeshSpec
from tests.support.api_server import ApiServer, write_kubeconfig
from tests.support.objects import Object, create, there
from tests.support.sick import sick_api_server
from tests.unit.cli.test_main import call

KIND = "rbac.authorization.k8s.io"


@pytest.fixture
def reader(api_server: ApiServer, east: Cluster, monkeypatch: pytest.MonkeyPatch) -> str:
    """The context of a user who may read everything and change nothing."""
    name = "test-may-only-read"
    rules = [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["get", "list"]}]
    rules.append({"nonResourceURLs": ["*"], "verbs": ["get"]})
    role: Object = {"apiVersion": f"{KIND}/v1", "kind": "ClusterRole", "metadata": {"name": name}, "rules": rules}
    binding: Object = {
        "apiVersion": f"{KIND}/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": name},
        "roleRef": {"apiGroup": KIND, "kind": "ClusterRole", "name": name},
        "subjects": [{"apiGroup": KIND, "kind": "User", "name": "nobody"}],
    }
    for manifest in (role, binding):
        if not there(east, manifest):
            create(east, manifest)
    monkeypatch.setenv("KUBECONFIG", str(api_server.kubeconfig))
    return "nobody"


def test_init_reads_only(reader: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A user without any right to change finishes it; a cluster without Istio has much to decide."""
    code, out, err = call(capsys, "init", str(tmp_path / "shop"), "--context", reader)
    assert code == 0, err
    spec = MeshSpec.load(out.strip())
    assert [(one.name, one.context) for one in spec.clusters] == [("nobody", "nobody")]
    text = Path(out.strip()).read_text()
    assert "context: nobody" in text
    assert "no istiod" in text
    assert "# TO DECIDE: no istiod says its version; which one is to be installed?\n  version: ''" in text
    assert "# TO DECIDE: apiServer: https://127.0.0.1:" in text


def test_what_init_wrote_is_read_by_check(reader: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And finds what check finds in the same context without a file."""
    mesh_file = call(capsys, "init", str(tmp_path / "shop"), "--context", reader)[1].strip()
    answers = [call(capsys, "check", *words, "-o", "json") for words in ([mesh_file], ["--context", reader])]
    assert [code for code, _, _ in answers] == [1, 1]
    by_file, by_context = (
        {(one["id"], one["subject"], one["verdict"]) for one in json.loads(out)} for _, out, _ in answers
    )
    assert by_file == by_context
    assert ("MK801", "nobody", "fail") in by_file


def test_two_contexts_of_one_api_server_are_one_cluster(
    reader: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A mesh of it and itself is a slip of who names them."""
    code, _, err = call(capsys, "init", str(tmp_path / "shop"), "--context", reader, "--context", "admin")
    assert code == 2
    assert "admin and nobody lead to one cluster" in err
    assert not (tmp_path / "shop").exists()


def test_a_context_that_does_not_answer_is_unknown_and_no_pass(
    api_server: ApiServer,
    reader: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The other cluster is judged; init writes nothing."""
    with sick_api_server("refuses") as server:
        sick = write_kubeconfig(tmp_path / "kubeconfig", server, None, {"west": "canary-token"})
        # Merged as kubectl merges them: of two clusters of one name the first counts.
        sick.write_text(sick.read_text().replace(": test", ": sick"))
        monkeypatch.setenv("KUBECONFIG", os.pathsep.join([str(api_server.kubeconfig), str(sick)]))
        code, out, _ = call(capsys, "check", "--context", reader, "--context", "west", "-o", "json")
        verdicts = {one["verdict"] for one in json.loads(out) if one["subject"] == "west"}
        assert code == 1
        assert "unknown" in verdicts
        assert not {"pass", "fail"} & verdicts
        code, _, err = call(capsys, "init", str(tmp_path / "shop"), "--context", reader, "--context", "west")
    assert code == 3
    assert "west: it refuses the connection" in err
    assert not (tmp_path / "shop").exists()
