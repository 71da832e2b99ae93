"""The audit on the real mesh: no secret in its evidence, latency as curl sees it, and every way to run a notebook."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import nbformat
import pytest
import yaml

from meshkit.checks import question
from meshkit.checks.finding import Verdict
from meshkit.istio.proxies import reading as proxies_reading
from meshkit.kube.mesh import Mesh
from meshkit.paths import folder
from meshkit.probing import pair_probe
from meshkit.snapshot.snapshot import VERIFIED, Snapshot
from meshkit.stages import observe, verify
from tests.e2e.checks.test_faults import meshkit
from tests.support.api_server import free_port
from tests.support.lab import Lab

pytestmark = pytest.mark.lab

LONG = 40
SAMPLES = 300


def canaries(lab: Lab) -> Iterator[bytes]:
    """Yield every secret of the lab: what kubeconfig holds of users, all Secrets of all clusters, its private keys."""
    for user in yaml.safe_load(lab.kubeconfig.read_text())["users"]:
        for name, value in user["user"].items():
            yield base64.b64decode(value) if name.endswith("-data") else value.encode()
    for context in ("lab-east", "lab-west"):
        for secret in json.loads(lab.kubectl(context, "get", "secrets", "-A", "-o", "json"))["items"]:
            public = re.compile(r"cert|^ca\.crt$|^namespace$|^name$")
            yield from (base64.b64decode(v) for k, v in (secret.get("data") or {}).items() if not public.search(k))
    for path in lab.home.glob("certs/**/*key.pem"):
        yield path.read_bytes()


def fragments(secret: bytes) -> set[bytes]:
    """Return a secret as it is, in base64, and in pieces long enough to be of use to a thief."""
    encoded = base64.b64encode(secret)
    lines = [line for line in secret.split() if len(line) >= LONG and not line.startswith(b"-----")]
    pieces = [text[at : at + LONG] for text in (*lines, encoded) for at in range(0, len(text) - LONG, LONG)]
    return {secret, encoded, *pieces}


def public_text(lab: Lab) -> bytes:
    """Return what is no secret although Secrets hold it: certificates, and addresses in remote kubeconfigs."""
    texts = []
    for context in ("lab-east", "lab-west"):
        for secret in json.loads(lab.kubectl(context, "get", "secrets", "-A", "-o", "json"))["items"]:
            data = secret.get("data") or {}
            texts += [base64.b64decode(value) for name, value in data.items() if "cert" in name or name == "ca.crt"]
    return b"\n".join(texts)


@pytest.fixture(scope="module")
def run(meshed_lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a real audit."""
    out = tmp_path_factory.mktemp("runs")
    done = meshkit("audit", str(meshed_lab.mesh_file), "--out", str(out), "-p", "samples", "40")
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip())


def test_no_secret_of_the_lab_is_anywhere_in_the_evidence(meshed_lab: Lab, run: Path) -> None:
    """Not raw, not in base64, not in long fragments; the search itself is proven on a planted one."""
    secrets = [secret for secret in canaries(meshed_lab) if len(secret) >= 16]
    assert len(secrets) > 10
    public = public_text(meshed_lab)
    wanted = {piece for secret in secrets for piece in fragments(secret) if piece not in public}
    evidence = {path.name: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert len(evidence) > 10
    assert [name for name, content in evidence.items() for piece in wanted if piece in content] == []
    planted = b"x" + secrets[0][:200] + b"y"
    assert any(piece in planted for piece in wanted)


def test_the_latency_table_agrees_with_kubectl_exec_curl(meshed_lab: Lab) -> None:
    """Medians of 300 calls each, by meshkit and by hand on the same Service, in turns, within 10 %."""
    mesh = Mesh.open(meshed_lab.mesh_file)
    ours: list[float] = []
    theirs: list[float] = []
    with pair_probe.open(mesh) as probing:
        probing.wait()
        url = f"http://{probing.service('west')}.sample:8000/hostname?[1-{SAMPLES // 3}]"
        curl = ("curl", "-sS", "-o", "/dev/null", "-w", "%{time_total}\n", url)
        for _ in range(3):
            answers = probing.call("east", "west", "/hostname", count=SAMPLES // 3)
            ours += [answer.seconds for answer in answers]
            told = meshed_lab.kubectl("lab-east", "exec", "-n", "sample", "deploy/sleep", "-c", "sleep", "--", *curl)
            theirs += [float(line) for line in told.split()]
    assert len(ours) == len(theirs) == SAMPLES
    print(f"p50: meshkit {1000 * median(ours):.2f} ms, curl {1000 * median(theirs):.2f} ms")
    assert median(ours) == pytest.approx(median(theirs), rel=0.1)


def test_plain_papermill_runs_a_notebook(meshed_lab: Lab, tmp_path: Path) -> None:
    """With `-p` for the mesh file and nothing else of ours."""
    out = tmp_path / "out.ipynb"
    given = ("-p", "mesh_file", str(meshed_lab.mesh_file), "-p", "calls", "3")
    command = [sys.executable, "-m", "papermill", str(folder("notebooks") / "08-verify.ipynb"), str(out), *given]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    last = [cell for cell in nbformat.read(out, as_version=4).cells if cell.cell_type == "code"][-1]
    assert "08 verify: PASS" in last.outputs[0]["data"]["text/plain"]


def test_jupyterlab_runs_a_notebook_from_top_to_bottom(meshed_lab: Lab, tmp_path: Path) -> None:
    """As JupyterLab would: in the notebooks' folder, without parameters, beside the lab's own mesh file."""
    from nbclient import NotebookClient

    for name in ("notebooks", "parameters"):
        (tmp_path / name).mkdir()
    (tmp_path / "parameters" / "lab.yaml").write_text(meshed_lab.mesh_file.read_text())
    nb = nbformat.read(folder("notebooks") / "09-observe.ipynb", as_version=4)
    where = {"metadata": {"path": str(tmp_path / "notebooks")}}
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    NotebookClient(nb, timeout=200, kernel_name="python3", resources=where).execute(env=env)
    last = [cell for cell in nb.cells if cell.cell_type == "code"][-1]
    assert "09 observe: PASS" in last.outputs[0]["data"]["text/plain"]


def test_a_dead_cluster_is_unknown_and_the_living_one_is_reported_rightly(meshed_lab: Lab, tmp_path: Path) -> None:
    """West's context leads to a closed port: east's own findings pass, west's are unknown, nothing fails, in time."""
    kubeconfig = yaml.safe_load(meshed_lab.kubeconfig.read_text())
    west = next(entry for entry in kubeconfig["clusters"] if entry["name"].endswith("west"))
    west["cluster"]["server"] = f"https://127.0.0.1:{free_port()}"
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(kubeconfig))
    spec = yaml.safe_load(meshed_lab.mesh_file.read_text())
    for cluster in spec["clusters"]:
        cluster["kubeconfig"] = str(tmp_path / "kubeconfig")
    (tmp_path / "mesh.yaml").write_text(yaml.safe_dump(spec))
    began = time.monotonic()
    mesh = Mesh.open(tmp_path / "mesh.yaml")
    facts = Snapshot(mesh).read(*VERIFIED)
    findings = [*verify.check(mesh, facts), *verify.prove(mesh, facts, verify.try_pairs(mesh, 3))]
    findings += observe.check(mesh, proxies_reading.look(mesh))
    assert time.monotonic() - began < 60
    by_subject = {(f.id, f.subject): f.verdict for f in findings}
    assert [f for f in findings if f.verdict is Verdict.FAIL] == []
    home = question.arrow("east", "east")
    for told in (("MK801", "east"), ("MK805", "east"), ("MK807", "east"), ("MK811", home), ("MK813", home)):
        assert by_subject[told] is Verdict.PASS, told
    assert {f.subject for f in findings if f.verdict is Verdict.UNKNOWN} >= {
        "west", question.arrow("east", "west"), question.arrow("west", "east"), question.arrow("west", "west"),
    }  # fmt: skip
    assert by_subject["MK802", question.arrow("east", "west")] is Verdict.PASS
    assert by_subject["MK803", question.arrow("east", "west")] is Verdict.UNKNOWN
    done = meshkit("audit", str(tmp_path / "mesh.yaml"), "--out", str(tmp_path / "runs"), "-p", "samples", "20")
    assert done.returncode == 3, done.stderr
