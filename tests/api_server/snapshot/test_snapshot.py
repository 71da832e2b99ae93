"""A snapshot of a real API server and of a dead one: judged live and by its file alike, without secrets."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from meshkit import clock
from meshkit.checks import audit, pairs
from meshkit.checks.finding import Finding
from meshkit.kube.cluster import Cluster
from meshkit.kube.mesh import Mesh
from meshkit.snapshot.snapshot import PAIRS, Snapshot
from meshkit.spec import MeshSpec
from tests.support.api_server import ApiServer, free_port, write_kubeconfig
from tests.support.objects import core, create
from tests.unit.cli.test_main import call

SYSTEM, SAMPLE = "istio-system", "sample"
CANARIES = ("hunter2-hunter2", "canary-of-a-token-4711", "canary-of-a-key-4711")
MOST_REQUESTS = 80
"""For one `check`, of a cluster with one istiod that does not answer; each reading by itself sent 183."""


def pod(name: str, namespace: str, container: str, **env: str) -> dict[str, Any]:
    """Return a pod with variables, of which some are secret."""
    variables = [{"name": key, "value": value} for key, value in env.items()]
    spec = {"containers": [{"name": container, "image": "none", "env": variables}]}
    manifest = core("Pod", name, namespace, spec=spec)
    manifest["metadata"]["labels"] = {"app": name}
    manifest["metadata"]["annotations"] = {"example.com/source": f"https://me:{CANARIES[0]}@git.example.com/"}
    return manifest


def remote_secret(server: str) -> dict[str, Any]:
    """Return a remote secret whose token nobody takes."""
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "west", "cluster": {"server": server}}],
        "users": [{"name": "west", "user": {"token": CANARIES[1]}}],
        "contexts": [{"name": "west", "context": {"cluster": "west", "user": "west"}}],
        "current-context": "west",
    }
    data = {"west": base64.b64encode(yaml.safe_dump(document).encode()).decode()}
    manifest = core("Secret", "istio-remote-secret-west", SYSTEM, data=data)
    manifest["metadata"]["labels"] = {"istio/multiCluster": "true"}
    manifest["metadata"]["annotations"] = {"networking.istio.io/cluster": "west"}
    return manifest


def objects(server: str) -> Iterator[dict[str, Any]]:
    """Yield what a mesh has of objects that any API server knows, with secrets in it."""
    yield core("Namespace", SYSTEM, "")
    yield core("Namespace", SAMPLE, "")
    yield pod("istiod", SYSTEM, "discovery", CLUSTER_ID="east", DB_PASSWORD=CANARIES[0])
    yield pod("httpbin", SAMPLE, "istio-proxy", ISTIO_META_CLUSTER_ID="east", API_TOKEN=CANARIES[1])
    yield remote_secret(server)
    key = base64.b64encode(f"-----BEGIN PRIVATE KEY-----\n{CANARIES[2]}\n-----END PRIVATE KEY-----\n".encode())
    yield core("Secret", "cacerts", SYSTEM, data=dict.fromkeys(("ca-cert.pem", "ca-key.pem"), key.decode()))
    values = {"global": {"network": "net-east", "proxy": {"password": CANARIES[0]}}}
    yield core("ConfigMap", "istio-sidecar-injector", SYSTEM, data={"values": json.dumps(values)})
    yield core("ConfigMap", "istio", SYSTEM, data={"mesh": "trustDomain: cluster.local\n"})
    port = {"name": "http", "port": 8000}
    yield core("Service", "httpbin", SAMPLE, spec={"ports": [port], "selector": {"app": "httpbin"}})


@pytest.fixture(scope="module")
def east(api_server: ApiServer) -> Iterator[Cluster]:
    """The API server with a mesh's objects."""
    admin = api_server.connect()
    made = [manifest for manifest in objects(api_server.server) if not _there(admin, manifest)]
    for manifest in made:
        create(admin, manifest)
    for name, namespace in (("istiod", SYSTEM), ("httpbin", SAMPLE)):
        path, kind = f"/api/v1/namespaces/{namespace}/pods/{name}/status", "application/merge-patch+json"
        admin._request("PATCH", path, body={"status": {"phase": "Running"}}, content_type=kind)
    yield admin
    for manifest in made:
        if manifest["kind"] != "Namespace":
            admin.delete(manifest)


def _there(cluster: Cluster, manifest: dict[str, Any]) -> bool:
    metadata = manifest["metadata"]
    return cluster.find(manifest["kind"], metadata.get("namespace"), metadata["name"]) is not None


@pytest.fixture
def mesh_file(api_server: ApiServer, east: Cluster, tmp_path: Path) -> Path:
    """A mesh of that API server, and of one that is dead."""
    dead = write_kubeconfig(tmp_path / "dead", f"https://127.0.0.1:{free_port()}", None, {"west": CANARIES[1]})
    both = {"east": ("admin", api_server.kubeconfig), "west": ("west", dead)}
    clusters = [
        {"name": name, "context": context, "kubeconfig": str(kubeconfig), "network": f"net-{name}"}
        for name, (context, kubeconfig) in both.items()
    ]
    path = tmp_path / "mesh.yaml"
    path.write_text(yaml.safe_dump({"clusters": clusters}))
    return path


def of_pairs(facts: Snapshot) -> list[Finding]:
    """Return what `meshkit pairs` judges."""
    with clock.at(facts.taken):
        return pairs.check_all(facts.mesh, facts, facts.sent)


def test_a_file_gives_the_same_findings_as_the_snapshot_that_wrote_it(mesh_file: Path, tmp_path: Path) -> None:
    """Finding by finding, text by text; and the same proxies, and pairs."""
    live = Snapshot(Mesh.open(mesh_file)).read()
    live.write(tmp_path / "snapshot.json.gz")
    kept = Snapshot.load(tmp_path / "snapshot.json.gz")
    findings = audit.check(live)
    assert audit.check(kept) == findings
    assert {f.verdict for f in findings} >= {"pass", "fail", "unknown"}
    assert of_pairs(kept) == of_pairs(live)
    pd.testing.assert_frame_equal(kept.proxies().proxies, live.proxies().proxies)
    pd.testing.assert_frame_equal(audit.in_order(kept.mesh, findings), audit.in_order(live.mesh, findings))


def test_nothing_secret_is_in_the_file(mesh_file: Path, tmp_path: Path) -> None:
    """Not in a variable, an annotation, a kubeconfig, a ConfigMap, nor a key; the file says what it leaves out."""
    path = tmp_path / "snapshot.json"
    Snapshot(Mesh.open(mesh_file)).read().write(path)
    text = path.read_text()
    hidden = [canary for canary in CANARIES if canary in text or base64.b64encode(canary.encode()).decode() in text]
    assert not hidden
    assert "PRIVATE KEY" not in text
    assert {one["reading"] for one in json.loads(text)["left_out"]} >= {"authorities", "remote_secrets", "readers"}


def test_names_and_messages_of_a_real_cluster_are_no_secrets(mesh_file: Path) -> None:
    """Nothing that a reading says of it is taken for one."""
    assert Snapshot(Mesh.open(mesh_file)).read().left_out == []


def test_a_check_sends_each_read_once(mesh_file: Path) -> None:
    """Many readings want the same objects."""
    mesh = Mesh.open(mesh_file)
    audit.look(mesh)
    assert mesh["east"].requests <= MOST_REQUESTS


def test_the_command_line_judges_a_file_without_a_kubeconfig(
    mesh_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same ids, subjects and verdicts as live, in all three commands; and no change since."""
    path = str(tmp_path / "snapshot.json.gz")
    live = {
        name: call(capsys, name, str(mesh_file), *more, "-o", "json")
        for name, more in (("check", ()), ("proxies", ()), ("pairs", ("--samples", "0")))
    }
    code, _, printed = call(capsys, "gather", str(mesh_file), "-o", path)
    assert (code, "? west: it refuses the connection" in printed) == (3, True)
    mesh_file.unlink()
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.setattr(Cluster, "session", property(lambda _: pytest.fail("a cluster was asked")))
    for name, (code, out, _) in live.items():
        again, kept, _ = call(capsys, name, "--snapshot", path, "-o", "json")
        assert again == code, name
        for one, other in zip(json.loads(out), json.loads(kept), strict=True):
            texts = ("observed", "remedy", "age_s", "why", "reason")
            assert {k: v for k, v in one.items() if k not in texts} == {
                k: v for k, v in other.items() if k not in texts
            }
    assert call(capsys, "check", "--snapshot", path, "--since", path, "-o", "json")[1].strip() == "[]"
    assert call(capsys, "record", "diff", path, path, "-o", "json")[1].strip() == "[]"
    assert call(capsys, "proxies", "--snapshot", path, "--since", path, "-o", "json")[1].strip() == "[]"


def test_a_fault_shows_as_a_change_between_two_snapshots(
    mesh_file: Path, east: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was new, gone and changed, with both verdicts; the present findings decide the exit code."""
    before, after = (str(tmp_path / name) for name in ("before.json", "after.json"))
    call(capsys, "gather", str(mesh_file), "-o", before)
    held = east.get("secrets", SYSTEM, "istio-remote-secret-west")[0]
    east.delete(held)
    try:
        call(capsys, "gather", str(mesh_file), "-o", after)
        live = call(capsys, "check", str(mesh_file), "--since", before, "-o", "json")
    finally:
        spec = json.loads(Path(before).read_text())["mesh"]
        create(east, remote_secret(east.server))
    assert MeshSpec.parse(spec, where="test").mesh.id == "mesh1"
    for code, out, _ in (call(capsys, "record", "diff", before, after, "-o", "json"), live):
        changed = {(row["id"], row["subject"]): (row["change"], row["before"], row["now"]) for row in json.loads(out)}
        assert changed["MK802", "east → west"][0] == "changed"
        assert changed["MK802", "east → west"][2] == "fail"
        assert code in (0, 1)


def test_pairs_reads_only_what_pairs_depend_on(mesh_file: Path) -> None:
    """Nothing else is kept."""
    assert Snapshot(Mesh.open(mesh_file)).read(*PAIRS).known.keys() == {*PAIRS}
