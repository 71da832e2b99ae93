"""The examples in parameters/: each is read, each field of the mesh file is shown, no real host or secret is named."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from pydantic import BaseModel

from meshkit import parameters
from meshkit.errors import InputError
from meshkit.istio.control_plane import istioctl
from meshkit.paths import folder
from meshkit.spec import MeshSpec

FILES = sorted(folder("parameters").glob("*.yaml"))


OVERLAYS = [path for path in FILES if "kind: IstioOperator" in path.read_text()]


MESH_FILES = [path for path in FILES if path not in OVERLAYS]


def fields(model: type[BaseModel]) -> Iterator[str]:
    """Return the name of every field, as it is written in YAML, those of inner models too."""
    for name, field in model.model_fields.items():
        yield field.alias or name
        for kind in (field.annotation, *get_args(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from fields(kind)


@pytest.mark.parametrize("path", MESH_FILES, ids=lambda path: path.stem)
def test_an_example_is_a_mesh_file(path: Path) -> None:
    """And its overlay is an IstioOperator that renders into one for each cluster."""
    spec = MeshSpec.load(path)
    for cluster in spec.clusters:
        operator = istioctl.operator(spec, cluster.name)
        assert operator["spec"]["values"]["global"]["multiCluster"]["clusterName"] == cluster.name


def test_every_field_of_the_mesh_file_is_shown() -> None:
    """In the one example that says so of itself, if only in a comment."""
    text = next(path for path in FILES if path.name == "multi-network.yaml").read_text()
    assert [name for name in fields(MeshSpec) if not re.search(rf"\b{name}:", text)] == []


def test_paths_are_relative_to_the_mesh_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever meshkit runs; absolute ones, and those of the home folder, stay."""
    monkeypatch.setenv("HOME", "/home/me")
    clusters = [{"name": "east", "context": "east", "network": "n", "kubeconfig": "keys/east.yaml"}]
    trust = {"rootDirectory": "ca", "passphraseFrom": {"file": "secret/p"}}
    path = tmp_path / "mesh.yaml"
    path.write_text(yaml.safe_dump({"clusters": clusters, "trust": trust, "istio": {"overlay": "/etc/overlay.yaml"}}))
    spec = MeshSpec.load(path)
    assert spec.istio.overlay == "/etc/overlay.yaml"
    assert spec.trust.root_directory == str(tmp_path / "ca")
    assert spec.clusters[0].kubeconfig == str(tmp_path / "keys/east.yaml")
    assert spec.trust.passphrase_from == {"file": str(tmp_path / "secret/p")}
    path.write_text(yaml.safe_dump({"clusters": clusters, "trust": {"passphraseFrom": {"file": "~/p"}}}))
    assert MeshSpec.load(path).trust.passphrase_from == {"file": "/home/me/p"}


@pytest.mark.parametrize("given", ["-1h", "soon", "9000h"])
def test_a_renewal_is_a_duration_of_a_year_at_most(given: str) -> None:
    """720 hours, unless said otherwise: more than the life of an intermediate would renew it in every run."""
    clusters = [{"name": "east", "context": "east", "network": "n"}]
    assert MeshSpec.parse({"clusters": clusters}, where="mesh").trust.renew_before == 720 * 3600
    with pytest.raises(InputError, match=r"trust\.renewBefore: expected a duration such as 720h"):
        MeshSpec.parse({"clusters": clusters, "trust": {"renewBefore": given}}, where="mesh")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"life": "9m"}, "remoteSecrets.life: expected a duration such as 720h, from ten minutes"),
        ({"credential": "expiring", "life": "24h"}, "renewBefore must be shorter than life"),
        ({"credential": "eternal"}, "remoteSecrets.credential"),
    ],
)
def test_a_credential_that_no_run_could_keep_alive_is_refused(given: dict[str, str], said: str) -> None:
    """An API server grants no token for less than ten minutes; one that ends sooner than it is renewed is no use."""
    clusters = [{"name": "east", "context": "east", "network": "n"}]
    with pytest.raises(InputError, match=said):
        MeshSpec.parse({"clusters": clusters, "remoteSecrets": given}, where="mesh")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_an_example_names_no_real_host(path: Path) -> None:
    """Only names that are reserved for examples, and the lab's own addresses."""
    text = path.read_text()
    hosts = re.findall(r"(?:https?://|hub: )([^/:\s]+)", text)
    assert [h for h in hosts if not re.search(r"(^|\.)example(\.com)?$|^172\.31\.|^meshkit-lab$", h)] == []


@pytest.mark.parametrize("name", ["Kubernetes", "PROD_EU1", "prod.eu-west-1.example", "e" * 71, "1"])
def test_a_mesh_with_any_cluster_id_can_be_read(name: str) -> None:
    """Where a secret would be made of one that is no DNS label, istioctl's rule is named."""
    document = {
        "clusters": [{"name": "east", "context": "a", "network": "x"}, {"name": name, "context": "b", "network": "y"}]
    }
    spec = MeshSpec.parse(document, where="test")
    assert spec.pairs == [("east", name), (name, "east")]
    if name == "1":
        parameters.secret_id(spec, name)
        return
    with pytest.raises(InputError, match="istioctl create-remote-secret takes a DNS label") as caught:
        parameters.secret_id(spec, name)
    assert name in str(caught.value)
    assert caught.value.where == "clusters.1.name of the mesh file"


@pytest.mark.parametrize("name", ["", "a b", "a/b", "..", ".a", "-a", "e" * 254, "ü", "a\n"])
def test_what_no_remote_secret_can_hold_is_no_cluster_id(name: str) -> None:
    """It is a key of a Secret's data."""
    with pytest.raises(InputError, match=r"clusters\.0\.name: expected an Istio cluster id"):
        MeshSpec.parse({"clusters": [{"name": name, "context": "a", "network": "x"}]}, where="test")


@pytest.mark.parametrize(("told", "seconds"), [("30s", 30.0), ("2m", 120.0), (15, 15.0)])
def test_a_request_timeout_is_a_duration(told: Any, seconds: float) -> None:
    """As kubectl's --request-timeout."""
    cluster = {"name": "a", "context": "a", "network": "x", "requestTimeout": told}
    assert MeshSpec.parse({"clusters": [cluster]}, where="test").clusters[0].request_timeout == seconds


@pytest.mark.parametrize("told", ["soon", "0s", "-1s", "1h", True, [1]])
def test_a_wrong_request_timeout_is_refused(told: Any) -> None:
    """And says what would be one."""
    cluster = {"name": "a", "context": "a", "network": "x", "requestTimeout": told}
    with pytest.raises(InputError, match=r"requestTimeout: expected a duration such as 30s"):
        MeshSpec.parse({"clusters": [cluster]}, where="test")
