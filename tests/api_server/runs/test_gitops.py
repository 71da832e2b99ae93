"""A plan as files: kubectl applies them, the next plan finds them, and nothing is taken from anyone."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_notebook, new_output

from meshkit.changes.plan import Plan
from meshkit.changes.planned import PlannedChange, documents
from meshkit.display import PLANNED
from meshkit.errors import InputError
from meshkit.istio.control_plane import istioctl as istioctls
from meshkit.kube.cluster import Cluster
from meshkit.kube.mesh import Mesh
from meshkit.runs import gitops
from meshkit.runs.outcome import outcome_of
from meshkit.runs.redact import Redactor
from tests.support.api_server import ApiServer
from tests.support.objects import CANARY, config_map, core, create, deployment, edit, live

STAGE = "02 prepare"


def plan_of(mesh: Mesh, *manifests: dict[str, Any], stage: str = STAGE) -> Plan:
    """Return a plan that wants these objects in east."""
    plan = Plan(mesh, stage)
    for manifest in manifests:
        plan.apply("east", manifest, "as the test wants")
    return plan


def written(folder: Path, mesh: Mesh, *changes: PlannedChange, code: int = 0) -> tuple[list[str], str]:
    """Write changes; return the names of the files, and ORDER.md."""
    *files, order = gitops.write(folder, mesh, "20260301T110000Z-plan", code, changes)
    return [path.relative_to(folder).as_posix() for path in files], order.read_text()


def kubectl_apply(api_server: ApiServer, folder: Path) -> None:
    """Apply files as GitOps does: on the server's side, as a manager of its own, without force."""
    kubectl = shutil.which("kubectl", path=str(Path(sys.executable).parent))
    if kubectl is None:
        pytest.fail("kubectl is not installed beside this Python: `make setup` installs it")
    words = ["--context", "admin", "--server-side", "--field-manager", "argocd-controller", "-R", "-f", str(folder)]
    done = subprocess.run([kubectl, "--kubeconfig", api_server.kubeconfig, "apply", *words], capture_output=True,
                          text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_what_gitops_applied_is_not_planned_again(
    mesh: Mesh, api_server: ApiServer, east: Cluster, space: str, tmp_path: Path
) -> None:
    """Files in the plan's order, which is kubectl's too; each says why it is there."""
    wanted = [core("Namespace", f"{space}-new", ""), config_map("x", f"{space}-new", a="1"), deployment("app", space)]
    names, order = written(tmp_path / "out", mesh, *plan_of(mesh, *wanted).planned())
    assert names == [
        f"east/02-prepare/001-namespace-{space}-new.yaml",
        f"east/02-prepare/002-configmap-{space}-new-x.yaml",
        f"east/02-prepare/003-deployment-{space}-app.yaml",
    ]
    assert f"2. `{names[1]}`: as the test wants (cannot be checked yet" in order
    assert (tmp_path / "out" / names[0]).read_text().startswith("# 02 prepare, east: Namespace")
    kubectl_apply(api_server, tmp_path / "out")
    assert plan_of(mesh, *wanted).empty


def test_an_object_of_another_manager_is_named_and_never_taken(
    mesh: Mesh, api_server: ApiServer, east: Cluster, space: str, tmp_path: Path
) -> None:
    """What kubectl made has no file: ORDER.md says who keeps it, and what to add there."""
    create(east, config_map("theirs", space, a="1"))
    plan = plan_of(mesh, config_map("theirs", space, b="2"))
    plan.patch("east", config_map("theirs", space, c="3"), "a patch")
    names, order = written(tmp_path / "out", mesh, *plan.planned())
    assert names == []
    assert f"1. east: update ConfigMap {space}/theirs: as the test wants, named, not taken" in order
    assert "where kubectl-create keeps it" in order
    assert "         b: '2'\n" in order
    edit(east, config_map("theirs", space, b="2", c="3"), "argocd-controller")
    assert plan_of(mesh, config_map("theirs", space, b="2")).empty


def test_what_gitops_keeps_from_then_on_is_its_own(
    mesh: Mesh, api_server: ApiServer, east: Cluster, space: str, tmp_path: Path
) -> None:
    """A later plan that wants it otherwise is refused by the server, and names the manager."""
    written(tmp_path / "out", mesh, *plan_of(mesh, config_map("x", space, a="1")).planned())
    kubectl_apply(api_server, tmp_path / "out")
    names, order = written(tmp_path / "later", mesh, *plan_of(mesh, config_map("x", space, a="2")).planned())
    assert names == []
    assert "where argocd-controller keeps it" in order
    assert live(east, config_map("x", space))["data"] == {"a": "1"}


def test_a_secret_is_a_reference(mesh: Mesh, api_server: ApiServer, east: Cluster, space: str, tmp_path: Path) -> None:
    """No value is in any file, plan or order; applied, the file is nothing, so no empty Secret is made of it."""
    secret = core("Secret", "cacerts", space, stringData={"ca-key.pem": CANARY})
    planned = plan_of(mesh, secret, config_map("x", space)).planned()
    names, order = written(tmp_path / "out", mesh, *planned)
    text = (tmp_path / "out" / names[0]).read_text()
    assert f"#   ca-key.pem: '(secret: key ca-key.pem of Secret {space}/cacerts)'" in text
    assert "create this Secret from your secret store" in order
    assert yaml.safe_load(text) is None
    assert CANARY not in str(planned) + order + text
    kubectl_apply(api_server, tmp_path / "out")
    assert not plan_of(mesh, secret).empty


def test_what_is_no_state_is_a_command(mesh: Mesh, east: Cluster, space: str, tmp_path: Path, istioctl: Path) -> None:
    """Restart and deletion are in ORDER.md; temporary changes are nowhere."""
    create(east, deployment("app", space))
    create(east, config_map("old", space))
    plan = plan_of(mesh)
    plan.restart("east", "Deployment", space, "app", "it loads its roots")
    plan.delete("east", config_map("old", space), "nobody uses it")
    drill = Plan(mesh, "10 shift", temporary=True)
    drill.scale("east", "Deployment", space, "app", 1, "for a while")
    names, order = written(tmp_path / "out", mesh, *plan.planned(), *drill.planned(), code=1)
    assert names == []
    assert f"by hand: `kubectl --context admin -n {space} rollout restart deployment/app`" in order
    assert f"by hand: `kubectl --context admin -n {space} delete configmap old`" in order
    assert "10 shift" not in order
    assert "did not pass (exit code 1)" in order


def test_istio_is_what_istioctl_renders_as_far_as_it_is_not_there(
    mesh: Mesh, api_server: ApiServer, space: str, tmp_path: Path, istioctl: Path
) -> None:
    """One file of new objects; those of an installation that is there are istioctl's."""
    gateway = {"name": "gw", "namespace": space, "enabled": True}
    operator = istioctls.wrap({"profile": "empty", "components": {"ingressGateways": [gateway]}}, "gw")
    plan = Plan(mesh, "05 install")
    plan.install("east", operator, "the gateway")
    (name,), _ = written(tmp_path / "out", mesh, *plan.planned())
    assert name == "east/05-install/001-istio-gw.yaml"
    kubectl_apply(api_server, tmp_path / "out")
    again = Plan(mesh, "05 install")
    again.install("east", operator, "the gateway")
    assert again.empty, again.changes[0].diff
    gateway["k8s"] = {"serviceAnnotations": {"another": "annotation"}}
    more = Plan(mesh, "05 install")
    more.install("east", operator, "the gateway")
    names, order = written(tmp_path / "more", mesh, *more.planned())
    assert names == []
    assert f"named, not taken: Service {space}/gw; `istioctl install -f FILE`" in order
    assert "kind: IstioOperator" in order


def test_nothing_is_written_over(mesh: Mesh, space: str, tmp_path: Path) -> None:
    """Nor among the files of another plan."""
    (tmp_path / "note").write_text("mine")
    with pytest.raises(InputError, match="expected a new or an empty folder"):
        written(tmp_path, mesh, *plan_of(mesh, config_map("x", space)).planned())
    with pytest.raises(InputError, match="expected a new or an empty folder"):
        gitops.require_free(tmp_path / "note")
    assert [path.name for path in tmp_path.iterdir() if path.name != "state"] == ["note"]


def test_paths_in_a_manifest_stay_and_secrets_do_not(mesh: Mesh, space: str, tmp_path: Path) -> None:
    """They are paths of containers, though evidence names none of this machine; a secret makes it no file."""
    changes = plan_of(mesh, config_map("x", space, path="/usr/bin", b="1"), config_map("y", space, a="known-secret"))
    cell = new_code_cell("plan", outputs=[new_output("display_data", {PLANNED: documents(changes.planned())})])
    nb = nbformat.reads(nbformat.writes(new_notebook(cells=[cell])), as_version=4)
    Redactor(["known-secret"], {"/usr": "<python>"}).notebook(nb)
    kept = outcome_of("02-prepare", nb).planned
    assert "<python>/bin" in kept[0].diff
    assert (kept[0].manifest or {})["data"]["path"] == "/usr/bin"
    names, order = written(tmp_path / "out", mesh, *kept)
    assert names == [f"east/02-prepare/001-configmap-{space}-x.yaml"]
    assert "by hand: it holds a secret" in order
    assert "known-secret" not in order


def test_what_its_owner_of_istio_applies_is_where_no_kubectl_takes_it(mesh: Mesh, tmp_path: Path) -> None:
    """Values as Helm reads them, beside the folders that are applied; ORDER.md says where they belong."""
    values = {"global": {"network": "net-east"}}
    place = {"namespace": "istio-system", "name": "istiod"}
    plan = Plan(mesh, "05 install")
    plan.request(
        "east", {"kind": "HelmValues", "metadata": place, "chart": "istiod", "values": values}, "it", lambda: "x"
    )
    operator = {"kind": "IstioOperator", "metadata": {"name": "eastwest"}, "spec": {"profile": "empty"}}
    plan.request("east", operator, "it", lambda: "x")
    names, order = written(tmp_path / "out", mesh, *plan.planned())
    assert names == ["requested/east/istiod.yaml", "requested/east/eastwest.yaml"]
    assert yaml.safe_load((tmp_path / "out" / names[0]).read_text()) == values
    assert yaml.safe_load((tmp_path / "out" / names[1]).read_text()) == operator
    assert "merge them into the values of the release of chart istiod" in order
