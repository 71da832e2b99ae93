"""Where to begin: what there is to choose, and the next stage of a mesh."""

from __future__ import annotations

from pathlib import Path

import pytest

from meshkit import Mesh, Snapshot, Start, Verdict
from meshkit.checks.finding import Finding
from meshkit.notebook.start import Standing, command, files
from meshkit.notebook.widgets.start import StartPage

SNAPSHOTS = Path(__file__).parents[1] / "fixtures/snapshots"
MESH = "mesh: {id: shop}\nclusters:\n  - {name: east, context: shop-east, network: n}\n"
KUBECONFIG = """
{apiVersion: v1, kind: Config, users: [{name: u, user: {}}], clusters: [{name: c, cluster: {server: "https://e:1"}}],
 contexts: [{name: shop-east, context: {cluster: c, user: u}}, {name: shop-west, context: {cluster: c, user: u}}]}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as of `meshkit init`, with notebooks/ as the working folder; two contexts."""
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "mesh.yaml").write_text(MESH)
    (tmp_path / "other.yaml").write_text("a: b\n")
    (tmp_path / "monday.json.gz").write_bytes((SNAPSHOTS / "helm-healthy.json.gz").read_bytes())
    (tmp_path / "kubeconfig").write_text(KUBECONFIG)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    monkeypatch.chdir(tmp_path / "notebooks")
    return tmp_path


@pytest.mark.usefixtures("folder")
def test_mesh_files_and_snapshots_beside_the_notebooks_can_be_chosen() -> None:
    """No other YAML; the mesh follows the choice."""
    assert files() == ["../mesh.yaml", "../monday.json.gz"]
    start = Start("../mesh.yaml")
    assert isinstance(start.mesh, Mesh)
    page = StartPage(start)
    page.choose("file", "../monday.json.gz")
    assert isinstance(start.mesh, Snapshot)
    assert "../monday.json.gz" in repr(start)


@pytest.mark.usefixtures("folder")
def test_contexts_become_a_command() -> None:
    """In the order in which they are ticked; what is unticked goes."""
    page = StartPage(Start("../mesh.yaml"))
    assert page.contexts == ["shop-east", "shop-west"]
    for place, ticked in (("1", "true"), ("0", "true"), ("1", "false"), ("1", "true")):
        page.choose(place, ticked)
    assert page.content()["command"] == command(["shop-east", "shop-west"])
    assert "meshkit init mymesh --context shop-east --context shop-west" in page.html()


def test_without_kubeconfig_the_reason_is_shown(folder: Path) -> None:
    """In the plain display, too."""
    (folder / "kubeconfig").unlink()
    assert "no such kubeconfig file" in StartPage(Start("../mesh.yaml")).html()
    assert "no such kubeconfig file" in repr(Start("../mesh.yaml"))


def test_the_next_stage_is_the_first_with_something_to_do() -> None:
    """A warning is nothing to do; each line leads to its notebook."""
    start = Start(str(SNAPSHOTS / "two-replicas-secret-in-wrong-namespace.json.gz"))
    standing = start.stages
    assert standing.next() == "07"
    assert [one.id for one in standing.of("07").failed] == ["MK711"]
    html = standing.bundle()["text/html"]
    assert '<a href="07-discovery.ipynb">07 discovery</a>' in html
    assert "next: 07 discovery" in html
    assert Start(str(SNAPSHOTS / "helm-healthy.json.gz")).stages.next() == "08"


def test_what_is_unknown_is_something_to_do() -> None:
    """It is no pass."""
    known = {"check": "x", "subject": "east", "expected": "y", "observed": "z"}
    found = [Finding(id="MK201", verdict=Verdict.PASS, **known), Finding(id="MK405", verdict=Verdict.UNKNOWN, **known)]
    assert Standing(found).next() == "04"
