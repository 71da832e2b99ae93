"""The mesh file that is found: of 21 shapes of meshes what their users wrote, and open wherever no cluster says it."""

from __future__ import annotations

import base64
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from meshkit.checks import audit
from meshkit.checks.finding import Verdict, overall
from meshkit.errors import InputError, UnreachableError
from meshkit.istio.found import mesh_file
from meshkit.istio.found.facts import Facts, Place
from meshkit.istio.found.fields import ONE_NETWORK
from meshkit.istio.found.mesh_file import Found
from meshkit.kube import mesh as kube_mesh
from meshkit.kube.mesh import Mesh
from meshkit.snapshot.snapshot import Snapshot
from meshkit.spec import MeshSpec
from tests.support.furnished import ROOT, Contexts, empty, furnished, running
from tests.support.held import Object, held
from tests.support.memory_api import MemoryApi
from tests.unit.checks.test_nonsense import WAYS, mad

SNAPSHOTS = sorted((Path(__file__).parents[3] / "fixtures" / "snapshots").glob("*.json.gz"))
HEALTHY = [path for path in SNAPSHOTS if "-healthy" in path.name]
FAULTY = [path for path in SNAPSHOTS if path.name.startswith(("flat", "helm", "primary-remote", "revisioned"))]
LABEL = "topology.istio.io/network"


def facts(taken: Snapshot) -> Facts:
    """Return what is found in a mesh, as a snapshot of it has it."""
    places = []
    for name in taken.mesh.clusters:
        istiods, claims = taken.identity.of(name), taken.claims[taken.claims["cluster"] == name]
        ids = [*(one.cluster_id for one in istiods), *claims["cluster_id"]]
        networks = [*(one.network or one.injected_network for one in istiods), *claims["network"]]
        places.append(Place(next(filter(None, ids), ""), next(filter(None, networks), "")))
    listed = {"east": {"net-east": {}}} if taken.spec.topology.mesh_networks else {}
    return Facts(
        taken.mesh, places, taken.revisions, taken.identity, taken.inventory, taken.versions, taken.gateways,
        taken.remote_secrets, listed, {},
    )  # fmt: skip


def essence(spec: MeshSpec) -> Any:
    """Return what of a mesh file its clusters can say, but for gateways and addresses."""
    istio = (spec.istio.version, spec.istio.revision)
    return (
        spec.mesh,
        spec.topology,
        istio,
        [(one.name, one.context, one.network, spec.primary_of(one.name)) for one in spec.clusters],
    )


@pytest.mark.parametrize("path", HEALTHY, ids=lambda path: path.name.partition(".")[0])
def test_of_a_mesh_of_each_shape_what_its_user_wrote_is_found(path: Path) -> None:
    """Ids, networks, topology, version and revision; nothing but the probe, which no snapshot has, is to decide."""
    taken = Snapshot.load(path)
    found = mesh_file.of_facts(facts(taken))
    assert essence(found.spec) == essence(taken.spec)
    assert [one.path for one in found.undecided] == [("probe", "namespace")]
    assert not found.unread


@pytest.mark.parametrize("path", FAULTY, ids=lambda path: path.name.partition(".")[0])
def test_checks_find_the_same_by_a_mesh_file_that_was_found(path: Path) -> None:
    """Of a healthy mesh and of one with a fault."""
    taken = Snapshot.load(path)
    found = mesh_file.of_facts(facts(taken)).spec
    said = found.model_copy(update={"gates": taken.spec.gates, "probe": taken.spec.probe})
    theirs, ours = (audit.check(one) for one in (taken, Snapshot(Mesh(said, taken.mesh.clusters), taken.known)))
    verdicts = [Counter((one.id, one.subject, one.verdict) for one in findings) for findings in (theirs, ours)]
    assert verdicts[0] == verdicts[1]


def unlabelled(name: str, *, joined: bool) -> MemoryApi:
    """Return a cluster of which nothing says its network, with remote secrets of another or none."""
    api = furnished(name, without=() if joined else ("istio-remote-secret-east", "istio-remote-secret-west"))
    for one in api._objects["namespaces"] + api._objects["services"]:
        one["metadata"]["labels"].pop(LABEL, None)
    for pod in api._objects["pods"]:
        for container in pod["spec"]["containers"]:
            container["env"] = [one for one in container["env"] if "NETWORK" not in one["name"]]
    api._objects["configmaps"] = [
        one for one in api._objects["configmaps"] if "injector" not in one["metadata"]["name"]
    ]
    return api


def with_id(name: str, cluster_id: str) -> MemoryApi:
    """Return a cluster whose istiod has another id."""
    api = furnished(name)
    for container in (one for pod in api._objects["pods"] for one in pod["spec"]["containers"]):
        container["env"] = [
            one | {"value": cluster_id} if "CLUSTER_ID" in one["name"] else one for one in container["env"]
        ]
    return api


def field(found: Found, *path: str | int) -> Any:
    """Return a field of a mesh file, or None."""
    return next((one for one in found.fields if one.path == path), None)


def open_paths(found: Found) -> set[str]:
    """Return which fields are to decide."""
    return {".".join(map(str, one.path)) for one in found.undecided}


def test_two_joined_clusters_say_almost_all(contexts: Contexts) -> None:
    """Their ids and networks, the gateway, the probe, and the addresses by which their remote secrets know them."""
    sleep: Object = held("Deployment", "sleep", "sample")
    contexts(one=furnished("east", sleep), two=furnished("west"))
    found = mesh_file.of_contexts(["one", "two"])
    east, west = found.spec.clusters
    assert (east.name, east.context, east.network, east.api_server) == (
        "east", "one", "net-east", "https://east.example:6443",
    )  # fmt: skip
    assert (west.name, west.api_server) == ("west", "https://west.example:6443")
    assert found.spec.istio.version == "1.31.0"
    assert found.spec.topology.network == "multi"
    assert "192.0.2.7, port 15443" in field(found, "clusters", 0, "gateway", "serviceType").why
    assert (
        found.spec.probe.model_dump()
        == MeshSpec.model_validate(
            {"clusters": [{"name": "a", "context": "a", "network": "a"}], "topology": {"network": "flat"}}
        ).probe.model_dump()
    )
    assert open_paths(found) == {"mesh.id"}


def test_an_empty_cluster_beside_a_live_one_is_open(contexts: Contexts) -> None:
    """The start of a migration: its context names it, and what it is to become is for the user to decide."""
    contexts(**{"east": furnished("east"), "arn:aws:eks:eu-west-1:1:cluster/West_1": empty("west")})
    found = mesh_file.of_contexts(["east", "arn:aws:eks:eu-west-1:1:cluster/West_1"])
    assert (found.spec.clusters[1].name, found.spec.clusters[1].network) == ("west-1", "net-west-1")
    assert open_paths(found) >= {"clusters.1.name", "clusters.1.network", "clusters.1.gateway"}
    assert not {"clusters.0.name", "clusters.0.network", "istio.version"} & open_paths(found)
    assert field(found, "clusters", 1, "gateway").value is None


def test_clusters_with_one_id_are_named_by_their_contexts(contexts: Contexts) -> None:
    """Two installations by default are both Kubernetes."""
    contexts(prod_east=with_id("east", "Kubernetes"), prod_west=with_id("west", "Kubernetes"))
    found = mesh_file.of_contexts(["prod_east", "prod_west"])
    assert [one.name for one in found.spec.clusters] == ["prod-east", "prod-west"]
    assert field(found, "clusters", 0, "name").open
    assert "Kubernetes" in field(found, "clusters", 0, "name").why


def test_an_id_that_no_remote_secret_can_be_made_for_is_said(contexts: Contexts) -> None:
    """It is the cluster's name all the same, and a remark of the file."""
    contexts(east=with_id("east", "PROD_EU1"))
    found = mesh_file.of_contexts(["east"])
    assert found.spec.clusters[0].name == "PROD_EU1"
    assert "stage 07 needs a DNS label" in field(found, "clusters", 0, "name").why


def test_joined_clusters_without_networks_are_on_one_as_istiod_takes_them(contexts: Contexts) -> None:
    """One that is alone, too."""
    contexts(east=unlabelled("east", joined=True), west=unlabelled("west", joined=True))
    for chosen in (["east", "west"], ["east"]):
        found = mesh_file.of_contexts(chosen)
        assert found.spec.topology.network == "flat"
        assert {one.network for one in found.spec.clusters} == {ONE_NETWORK}
        assert not any("network" in path for path in open_paths(found))


def test_networks_that_nothing_names_are_open_and_no_check_passes_for_them(
    contexts: Contexts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two clusters that nobody joined: whether their pods reach each other is not known."""
    monkeypatch.setattr(kube_mesh, "mistakes_are_raised", False)  # this API server lets nothing be tried
    contexts(east=unlabelled("east", joined=False), west=unlabelled("west", joined=False))
    found = mesh_file.of_contexts(["east", "west"])
    assert open_paths(found) >= {"clusters.0.network", "clusters.1.network"}
    findings = audit.check(Snapshot(Mesh.open(found.spec)).read())
    assert overall(findings) is Verdict.FAIL
    assert {one.verdict for one in findings if one.id in ("MK201", "MK801")} == {Verdict.FAIL}


def test_several_revisions_are_for_the_user_to_choose(contexts: Contexts) -> None:
    """The one that pods get unless they ask for another is taken."""
    canary = running("istiod-2", ROOT, "discovery", cluster="east", labels={"app": "istiod", "istio.io/rev": "1-32"})
    contexts(east=furnished("east", canary))
    found = mesh_file.of_contexts(["east"])
    revision = field(found, "istio", "revision")
    assert (revision.value, revision.open) == ("", True)
    assert "1-32, default" in revision.why


def test_of_what_clusters_say_differently_the_first_context_counts_and_the_question_is_open(contexts: Contexts) -> None:
    """The live cluster is named first, whatever its name is."""
    older = furnished("east")
    older._pods["istiod-1:15014/version"] = {"version": "1.30.2"}
    contexts(west=furnished("west"), east=older)
    found = mesh_file.of_contexts(["west", "east"])
    version = field(found, "istio", "version")
    assert (version.value, version.open) == ("1.31.0", True)
    assert version.why == "which one is meant? west: 1.31.0; east: 1.30.2"


def test_a_cluster_that_does_not_answer_is_named_with_the_reason(contexts: Contexts) -> None:
    """The others are found; who wants all of them gets exit code 3."""

    def dead(*_: Any) -> Any:
        raise ConnectionRefusedError

    contexts(east=furnished("east"), west=dead)
    found = mesh_file.of_contexts(["east", "west"])
    assert found.unread.keys() == {"west"}
    assert [one.name for one in found.spec.clusters] == ["east", "west"]
    with pytest.raises(UnreachableError, match="west: ") as error:
        found.require_all_read()
    assert error.value.exit_code == 3


@pytest.mark.parametrize("way", WAYS)
def test_a_cluster_that_answers_nonsense_ends_nothing(
    contexts: Contexts, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """The other one is found as if it were alone."""
    monkeypatch.setattr(kube_mesh, "mistakes_are_raised", False)
    for seed in range(5):
        contexts(east=furnished("east"), west=mad(furnished("west"), seed, [way]))
        east, west = mesh_file.of_contexts(["east", "west"]).spec.clusters
        assert (east.name, east.network, west.context) == ("east", "net-east", "west")


def test_no_password_and_no_line_break_of_a_cluster_gets_into_a_mesh_file(contexts: Contexts) -> None:
    """In an address of a remote secret, or in what a Service says of who made it."""
    east, west = furnished("east"), furnished("west")
    secret = next(one for one in east._objects["secrets"] if one["metadata"]["name"] == "istio-remote-secret-west")
    document = base64.b64decode(secret["data"]["west"]).decode()
    secret["data"]["west"] = base64.b64encode(document.replace("https://", "https://me:hunter2@").encode()).decode()
    service = next(one for one in west._objects["services"] if one["metadata"]["name"] == "gateway")
    service["metadata"]["managedFields"] = [{"manager": "deploy --password=hunter2\nagain"}]
    contexts(east=east, west=west)
    found = mesh_file.of_contexts(["east", "west"])
    assert found.spec.clusters[1].api_server == ""
    assert "hunter2" not in str(found)
    assert not [one for one in found.fields if "\n" in one.why]


def test_two_contexts_of_one_cluster_are_refused(contexts: Contexts) -> None:
    """By the UID of kube-system."""
    contexts(admin=furnished("east"), me=furnished("east"))
    with pytest.raises(InputError, match="admin and me lead to one cluster"):
        mesh_file.of_contexts(["admin", "me"])


def test_a_context_that_is_named_twice_is_refused(contexts: Contexts) -> None:
    """Before anything is read."""
    contexts()
    with pytest.raises(InputError, match="distinct contexts; east occurs twice") as error:
        mesh_file.of_contexts(["east", "east"])
    assert error.value.where == "--context"


def test_istio_of_another_owner_is_left_to_it() -> None:
    """`istio.installer: none`, where Helm installed it; istioctl's own needs no word."""
    by_helm, by_istioctl = (next(path for path in HEALTHY if path.name.startswith(name)) for name in ("helm", "rev"))
    assert mesh_file.of_facts(facts(Snapshot.load(by_helm))).spec.istio.installer == "none"
    assert mesh_file.of_facts(facts(Snapshot.load(by_istioctl))).spec.istio.installer == "istioctl"
