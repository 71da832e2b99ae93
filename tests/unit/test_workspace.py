"""The folder of `meshkit init`: a mesh file that reads as it was found, copies that lead to files that are there."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from meshkit import paths, workspace
from meshkit.errors import InputError
from meshkit.istio.found.fields import Field
from meshkit.istio.found.mesh_file import Found
from meshkit.runs import parameters
from meshkit.spec import MeshSpec

ROOT = Path(__file__).parents[2]
FIELDS = (
    Field(("mesh", "id"), "shop", "of east"),
    Field(("topology", "network"), "multi"),
    Field(("istio", "version"), "1.31", "of east"),
    Field(("istio", "revision"), "", "which one is meant? east: 1-31, default", open=True),
    Field(("clusters", 0, "name"), "east", "its cluster id"),
    Field(("clusters", 0, "context"), "arn:aws:eks:eu-west-1:1:cluster/east", "https://10.0.0.1; Istio by helm"),
    Field(("clusters", 0, "network"), "net-east", "of its pods: " + "words " * 20),
    Field(("clusters", 0, "gateway", "serviceType"), "LoadBalancer", "istio-system/gateway: 192.0.2.7, port 15443"),
    Field(("clusters", 0, "gateway", "hosts"), ["*.sample.svc.cluster.local", "*.shop.svc.cluster.local"], "of cross"),
    Field(("clusters", 1, "name"), "west", "it has no cluster id; this becomes it", open=True),
    Field(("clusters", 1, "context"), "west: #1", "https://127.0.0.1; no istiod"),
    Field(("clusters", 1, "network"), "yes", "nothing names its network " * 8, open=True),
    Field(("clusters", 1, "apiServer"), None, "by which address?", open=True),
    Field(("clusters", 1, "gateway"), None, "there is none; which annotations?", open=True),
    Field(("probe", "namespace"), "sample", "Istio's samples were not found", open=True),
)
SPEC = {
    "mesh": {"id": "shop"},
    "topology": {"network": "multi"},
    "istio": {"version": "1.31", "revision": ""},
    "clusters": [
        {
            "name": "east",
            "context": "arn:aws:eks:eu-west-1:1:cluster/east",
            "network": "net-east",
            "gateway": {
                "serviceType": "LoadBalancer",
                "hosts": ["*.sample.svc.cluster.local", "*.shop.svc.cluster.local"],
            },
        },
        {"name": "west", "context": "west: #1", "network": "yes"},
    ],
    "probe": {"namespace": "sample"},
}
LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)[^)]*\)")
NAMED = re.compile(r"(?:docs|parameters|notebooks)/[\w.-]+\.(?:md|yaml|ipynb)")


def found(fields: Sequence[Field] = FIELDS) -> Found:
    """Return a mesh file that was found."""
    return Found(tuple(fields), MeshSpec.parse(SPEC, where="test"), {})


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A folder that was made."""
    return workspace.create(tmp_path / "shop", found()).mesh_file.parent


def test_the_mesh_file_reads_as_it_was_found(made: Path) -> None:
    """Whatever contexts and networks are called, and however long the comments are."""
    assert yaml.safe_load((made / "mesh.yaml").read_text()) == SPEC
    assert MeshSpec.load(made / "mesh.yaml") == found().spec


def test_each_field_says_where_it_is_from_or_what_there_is_to_decide(made: Path) -> None:
    """Beside it where there is room, above it otherwise; no line is too long."""
    text = (made / "mesh.yaml").read_text()
    assert text.count(f"# {workspace.TO_DECIDE}: ") == len(found().undecided)
    assert "\n  id: shop                        # of east\n" in text
    assert "\n  # TO DECIDE: it has no cluster id; this becomes it\n  - name: west\n" in text
    assert "\n    # TO DECIDE: apiServer: by which address?\n    # TO DECIDE: gateway: there is none" in text
    assert max(map(len, text.splitlines())) <= 120


def test_every_notebook_is_there_and_names_the_mesh_file(made: Path) -> None:
    """The tracked ones stay as they are."""
    before = {path.name: path.read_text() for path in paths.folder("notebooks").glob("*.ipynb")}
    copies = sorted((made / "notebooks").glob("*.ipynb"))
    assert [path.name for path in copies] == sorted(before)
    for path in copies:
        declared = {one.name: one.default for one in parameters.read(path)}
        assert declared.get("mesh_file", "../mesh.yaml") == "../mesh.yaml"
        assert (path.parent / "../mesh.yaml").is_file()
        assert "parameters/lab.yaml" not in path.read_text()
        assert "../parameters/lab.yaml" in before[path.name]


def test_whatever_a_copy_points_to_is_there(made: Path) -> None:
    """Links of notebooks and documents."""
    copies = [path for path in made.rglob("*") if path.suffix in (".md", ".ipynb")]
    links = [(path, target) for path in copies for target in LINK.findall(path.read_text())]
    assert links
    assert [(path.name, target) for path, target in links if not (path.parent / target).exists()] == []


def test_whatever_a_message_points_to_is_there(made: Path) -> None:
    """Documents, examples and notebooks that errors, remedies and help texts of the package name."""
    sources = [*(ROOT / "meshkit").rglob("*.py"), ROOT / "meshkit/checks/catalogue.yaml"]
    named = {name for path in sources for name in NAMED.findall(path.read_text())}
    assert len(named) > 3
    assert [name for name in sorted(named) if not (made / name).is_file()] == []


def test_git_ignores_what_holds_data_of_clusters(made: Path) -> None:
    """Executed copies and runs; the mesh file is to be committed."""
    subprocess.run(["git", "init", "--quiet", str(made)], check=True)
    paths_ = ["notebooks/01-assess.ipynb", "runs/shop/20260301T110000Z-plan/report.html", "mesh.yaml", "docs/trust.md"]
    asked = subprocess.run(
        ["git", "-C", str(made), "check-ignore", *paths_], capture_output=True, text=True, check=False
    )
    assert asked.stdout.split() == paths_[:2]


def test_nothing_is_overwritten(made: Path) -> None:
    """A folder with a mesh file is refused; any other file that is there stays, and is named."""
    with pytest.raises(InputError, match="there is a mesh file already"):
        workspace.create(made, found())
    (made / "mesh.yaml").rename(made / "mine.yaml")
    (made / "notebooks" / "01-assess.ipynb").write_text("mine")
    (made / "docs" / "trust.md").unlink()
    again = workspace.create(made, found())
    assert made / "notebooks" / "01-assess.ipynb" in again.kept
    assert made / "docs" / "trust.md" not in again.kept
    assert (made / "notebooks" / "01-assess.ipynb").read_text() == "mine"
    assert (made / "docs" / "trust.md").is_file()


def test_a_folder_that_cannot_be_written_is_an_error_of_the_user(tmp_path: Path) -> None:
    """A file is in its place, or in that of a folder of it."""
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="it is a file"):
        workspace.create(tmp_path / "file", found())
    with pytest.raises(InputError, match="cannot be written"):
        workspace.create(tmp_path / "file" / "below", found())


def test_the_wheel_has_whatever_is_copied() -> None:
    """As package data; where that is, what lies beside the package is another's."""
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    shipped = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert shipped == {name: f"meshkit/data/{name}" for name, _ in workspace._COPIES}
