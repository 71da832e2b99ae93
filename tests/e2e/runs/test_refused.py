"""Runs that are refused, or lose a cluster: a clear stop, the journal knows all, and no secret in the evidence.

The tests run in their order, on one lab: each stands on what the one before left.
"""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.lab import Lab, until
from tests.support.sameness import CONTEXTS, differences, snapshot

pytestmark = [pytest.mark.lab, pytest.mark.drill]

SPACE = "meshkit-test"
CACERTS = "istio-system/cacerts ca-key.pem"
FEW = ("get", "list", "watch", "create", "update", "patch", "delete")
BELOW = (
    "pods/exec",
    "pods/portforward",
    "pods/log",
    "serviceaccounts/token",
    "services/proxy",
    "deployments.apps/scale",
)
ISTIO = tuple(f"{group}.istio.io" for group in ("networking", "security", "telemetry", "extensions"))


@pytest.fixture(scope="module")
def lab(short_folder: Path) -> Iterator[Lab]:
    """East live with load, west bare; the private store in a folder of the test's own."""
    made = Lab(short_folder / "refused")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(short_folder / "state"))
        try:
            made.start("single")
            for context in CONTEXTS:
                made.kubectl(context, "create", "namespace", SPACE)
            yield made
        finally:
            made.stop()


@pytest.fixture(scope="module")
def said(short_folder: Path) -> Path:
    """A folder for all that runs print and leave."""
    folder = short_folder / "said"
    folder.mkdir()
    return folder


def command(lab: Lab, *argv: str) -> tuple[list[str], dict[str, str]]:
    """Return meshkit's command line on a lab, with the lab's tools on its path."""
    _, env = lab.command("istioctl")
    return [sys.executable, "-m", "meshkit", *argv], {**env, "PYTHONPATH": os.pathsep.join(sys.path)}


def meshkit(lab: Lab, said: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    """Run meshkit, and keep what it printed."""
    line, env = command(lab, *argv)
    done = subprocess.run(line, env=env, cwd=said, capture_output=True, text=True, timeout=900, check=False)
    with (said / "printed.txt").open("a") as file:
        file.write(done.stdout + done.stderr)
    assert "Traceback" not in done.stderr + done.stdout
    return done


def run_of(said: Path, done: subprocess.CompletedProcess[str]) -> Path:
    """Return the folder of a run."""
    return said / done.stdout.strip()


def journal(run: Path) -> list[dict[str, Any]]:
    """Return the changes that began, as the evidence has them."""
    lines = [json.loads(line) for line in (run / "journal.jsonl").read_text().splitlines()]
    return [line for line in lines if line["event"] == "begun"]


def without(lab: Lab, resource: str, *verbs: str) -> Path:
    """Return a mesh file with credentials that may do everything but these verbs to a resource."""
    name = f"no-{resource.partition('.')[0]}"
    config = yaml.safe_load(lab.kubeconfig.read_text())
    for context in config["contexts"]:
        names = lab.kubectl(context["name"], "api-resources", "-o", "name").split()
        rules: list[dict[str, Any]] = [{"nonResourceURLs": ["*"], "verbs": ["get"]}]
        rules += [{"apiGroups": [group], "resources": ["*"], "verbs": ["*"]} for group in ISTIO]
        for full in (*names, *BELOW):
            base, _, below = full.partition("/")
            kind, _, group = base.partition(".")
            left = [verb for verb in FEW if full != resource or verb not in verbs]
            known = [f"{kind}/{below}" if below else kind]
            rules += [{"apiGroups": [group], "resources": known, "verbs": left}] if left else []
        objects = [
            {"kind": "ServiceAccount", "apiVersion": "v1", "metadata": {"name": name, "namespace": SPACE}},
            _rbac("ClusterRole", name, rules=rules),
            _rbac(
                "ClusterRoleBinding",
                name,
                roleRef={"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
                subjects=[{"kind": "ServiceAccount", "name": name, "namespace": SPACE}],
            ),
        ]
        listed = {"apiVersion": "v1", "kind": "List", "items": objects}
        lab.kubectl(context["name"], "apply", "-f", "-", stdin=json.dumps(listed))
        token = lab.kubectl(context["name"], "-n", SPACE, "create", "token", name, "--duration=24h").strip()
        user = next(user for user in config["users"] if user["name"] == context["context"]["user"])
        user["user"] = {"token": token}
    limited = lab.home / f"{name}.kubeconfig"
    limited.write_text(yaml.safe_dump(config))
    mesh = yaml.safe_load(lab.mesh_file.read_text())
    for cluster in mesh["clusters"]:
        cluster["kubeconfig"] = str(limited)
    path = lab.home / f"{name}.yaml"
    path.write_text(yaml.safe_dump(mesh))
    return path


def _rbac(kind: str, name: str, **more: Any) -> dict[str, Any]:
    return {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": {"name": name}, **more}


@pytest.mark.parametrize(
    ("resource", "verbs", "first", "stops", "code", "words"),
    [
        (
            "secrets",
            FEW,
            "02",
            "03",
            3,
            ["secrets: the credential may not GET", "(403)", "allow get and list"],
        ),
        ("namespaces", ("create", "patch"), "02", "02", 1, ["the credential may not PATCH namespaces", "(403)"]),
        ("deployments.apps", ("patch",), "02", "03", 3, ["may not PATCH apps/v1/namespaces/istio-system/deployments"]),
    ],
    ids=["secrets", "namespaces", "deployments"],
)
def test_a_run_without_rights_stops_and_its_undo_brings_back_what_was(  # noqa: PLR0917
    lab: Lab, said: Path, resource: str, verbs: tuple[str, ...], first: str, stops: str, code: int, words: list[str]
) -> None:
    """The first stage that needs the right stops it; only what the journal says differs from before."""
    limited = without(lab, resource, *verbs)
    before = snapshot(lab)
    done = meshkit(lab, said, "run", str(limited), "--mode", "apply", "--from", first, "--until", "04")
    assert done.returncode == code, done.stderr
    assert [word for word in words if word not in done.stderr] == [], done.stderr
    run = run_of(said, done)
    outcomes = {s["stage"][:2]: s["status"] for s in json.loads((run / "record.json").read_text())["stages"]}
    assert [stage for stage, status in outcomes.items() if status not in ("passed", "not run")] == [stops]
    noted = {(f"lab-{line['cluster']}", *line["object"].split(" ", 1)) for line in journal(run)}
    after = snapshot(lab)
    changed = {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
    unknown = {key for key in changed if not _noted(key, noted)}
    assert unknown == set(), (unknown, noted)
    if noted:
        undone = meshkit(lab, said, "undo", str(run), "--mode", "apply", "--mesh", str(lab.mesh_file))
        assert undone.returncode == 0, undone.stderr
    assert differences(before, snapshot(lab)) == []


def _noted(key: tuple[str, str, str, str], noted: set[tuple[str, str, str]]) -> bool:
    context, kind, namespace, name = key
    kind = kind.partition(".")[0]
    place = f"{namespace}/{name}" if namespace else name
    # What Kubernetes puts into each new namespace comes and goes with it.
    within = (context, "Namespace", namespace) in noted and name in (
        "kube-root-ca.crt",
        "istio-ca-root-cert",
        "default",
    )
    return (context, kind, place) in noted or within


def test_a_cluster_that_dies_in_stage_06_stops_it_and_a_resume_finishes(lab: Lab, said: Path) -> None:
    """West's API server is frozen after the stage's first change: no answer, no refusal."""
    done = meshkit(lab, said, "run", str(lab.mesh_file), "--mode", "apply", "--until", "05")
    assert done.returncode == 0, done.stderr
    table = lab.status()
    west = table[(table["component"] == "kube-apiserver") & (table["cluster"] == "west")]
    pid = int(west["pid"].iloc[0])
    line, env = command(lab, "run", str(lab.mesh_file), "--mode", "apply", "--only", "06")
    running = subprocess.Popen(line, env=env, cwd=said, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    books = said.parent / "state" / "meshkit" / "changes"

    def began() -> bool:
        known = sorted(books.glob("*/*/journal.jsonl"), key=lambda path: path.stat().st_mtime)
        return '"stage": "06 gateways"' in known[-1].read_text()

    try:
        until(began, "stage 06 begins", 120)
        os.kill(pid, signal.SIGSTOP)
        out, err = running.communicate(timeout=600)
    finally:
        os.kill(pid, signal.SIGCONT)
        running.kill()
    (said / "frozen.txt").write_text(out + err)
    assert running.returncode in (3, 4), err
    assert "Traceback" not in out + err
    assert "no answer within" in err
    assert "west" in err
    run = said / out.strip()
    assert journal(run), "the change that began stands in the journal"
    resumed = meshkit(lab, said, "run", str(lab.mesh_file), "--mode", "apply", "--resume", str(run))
    assert resumed.returncode == 0, resumed.stderr
    assert run_of(said, resumed).is_dir()


def test_no_value_of_any_secret_is_in_the_evidence_or_in_what_was_printed(lab: Lab, said: Path) -> None:
    """Tokens, keys and certificates' keys of both clusters, as they are, in base64, and line by line."""
    done = meshkit(lab, said, "run", str(lab.mesh_file), "--mode", "apply", "--only", "07")
    assert done.returncode == 0, done.stderr
    wanted = canaries(lab)
    assert len(wanted) > 50
    store = said.parent / "state" / "meshkit"
    private = "".join(path.read_text() for path in store.rglob("*.json"))
    assert {name for canary, name in wanted.items() if canary in private} >= {f"{c} {CACERTS}" for c in CONTEXTS}
    files = [path for path in said.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} >= {".ipynb", ".html", ".jsonl", ".csv", ".json", ".txt"}
    texts = {str(path.relative_to(said)): path.read_text(errors="replace") for path in files}
    found = {(file, name) for file, text in texts.items() for canary, name in wanted.items() if canary in text}
    assert found == set()


def test_the_private_store_is_the_users_alone(said: Path) -> None:
    """Folders 0700, files 0600."""
    store = said.parent / "state" / "meshkit"
    inner = list((store / "changes").rglob("*"))
    assert {oct(path.stat().st_mode & 0o777) for path in inner if path.is_dir()} == {"0o700"}
    assert {oct(path.stat().st_mode & 0o777) for path in inner if path.is_file()} == {"0o600"}


def canaries(lab: Lab) -> dict[str, str]:
    """Return what must not be seen, and whose it is: of each secret value, itself, its base64, and its long lines."""
    known: dict[str, str] = {}
    for context in CONTEXTS:
        for obj in json.loads(lab.kubectl(context, "get", "secrets", "-A", "-o", "json"))["items"]:
            for key, encoded in (obj.get("data") or {}).items():
                name = f"{context} {obj['metadata']['namespace']}/{obj['metadata']['name']} {key}"
                known |= dict.fromkeys(_forms(key, base64.b64decode(encoded).decode(errors="replace"), encoded), name)
    return known


def _forms(key: str, value: str, encoded: str) -> list[str]:
    if "PRIVATE KEY" not in value and not key.startswith("token") and "token" not in value:
        return []  # certificates, names and namespaces are public
    private, lines = "", []
    for line in value.splitlines():
        private = line if line.startswith("-----BEGIN") else private
        lines += [line.strip()] if "PRIVATE" in private or "token" in line else []
    if key == "token":
        lines.append(value)
    lines += [line.partition("token: ")[2] for line in lines if "token: " in line]
    inner = [base64.b64encode(line.encode()).decode() for line in lines if len(line) >= 40]
    return [form for form in {encoded, *lines, *inner} if len(form) >= 40 and not form.startswith("-----")]
