"""A primary and its remotes are made: what each stage wants of either, and in which order."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from meshkit import parameters
from meshkit.checks import certificates, control_plane, installers, topology
from meshkit.checks.finding import Verdict
from meshkit.errors import InputError
from meshkit.istio.ca import trust_store
from meshkit.istio.config import services
from meshkit.istio.control_plane import inventory, istioctl, remote_install
from meshkit.istio.control_plane.primaries import ANNOTATION
from meshkit.istio.multicluster import gateway_manifests
from meshkit.kube.mesh import Mesh
from meshkit.spec import MeshSpec
from meshkit.stages import prepare
from meshkit.stages.discovery import joining, token_rotation
from meshkit.stages.discovery import stage as discovery
from meshkit.stages.trust import stage as trust
from tests.support import healthy, topologies
from tests.support.topologies import APART, REMOTE, SYSTEM, primary_remote
from tests.unit.stages.discovery import test_stage as of_discovery
from tests.unit.stages.test_prepare import facts as prepared

PASS, FAIL, UNKNOWN, SKIPPED = Verdict.PASS, Verdict.FAIL, Verdict.UNKNOWN, Verdict.SKIPPED
THREE = {"east": "net-east", "west": "net-west", "north": "net-north"}
Row = dict[str, Any]


def spec(networks: dict[str, str] = APART, primaries: dict[str, str] | None = None, **change: Any) -> MeshSpec:
    """Return a primary-remote mesh file, whose clusters may name their primaries."""
    named = primaries or {}
    entries = [{"name": n, "context": n, "network": w, "primary": named.get(n, "")} for n, w in networks.items()]
    topology_ = {"controlPlane": "primary-remote", "network": "multi"}
    return MeshSpec.parse({"topology": topology_, "clusters": entries, **change}, where="test")


def unread(known: MeshSpec) -> Mesh:
    """Return the mesh of a file; nothing is sent to anyone."""
    return Mesh(known, dict.fromkeys(entry.name for entry in known.clusters))  # type: ignore[arg-type]


def test_the_first_cluster_is_the_primary_unless_the_file_names_them() -> None:
    """Two primaries and a remote, too."""
    assert (spec(THREE).remotes, spec(THREE).primary_of("north")) == (["west", "north"], "east")
    assert spec(THREE).watched == [("east", "west"), ("east", "north")]
    mixed = spec(THREE, {"north": "west"})
    assert (mixed.remotes, mixed.remotes_of("west"), mixed.remotes_of("east")) == (["north"], ["north"], [])
    assert mixed.watched == [("east", "west"), ("east", "north"), ("west", "east"), ("west", "north")]
    assert (topologies.mesh(APART).spec.remotes, topologies.mesh(APART).spec.primary_of("west")) == ([], "west")
    parameters.require_supported_topology(mixed)


@pytest.mark.parametrize(
    ("primaries", "words"),
    [
        ({"west": "north"}, "primary of west: expected a cluster that has none itself, got 'north'"),
        ({"west": "east", "east": "west"}, "expected a cluster that has none itself"),
        ({"west": "west"}, "expected a cluster that has none itself, got 'west'"),
    ],
)
def test_a_primary_must_have_an_istiod(primaries: dict[str, str], words: str) -> None:
    """Not be a remote itself, nor a stranger."""
    with pytest.raises(InputError, match="primary of"):
        spec(APART, primaries)
    with pytest.raises(InputError) as error:
        spec(APART, primaries)
    assert words in str(error.value)


def test_a_remotes_exposed_hosts_are_its_primarys() -> None:
    """No configuration of a remote cluster is read."""
    hosts = {"gateway": {"hosts": ["*.shop.svc.cluster.local"]}}
    entries = [{"name": n, "context": n, "network": w} for n, w in APART.items()]
    document: Row = {"topology": {"controlPlane": "primary-remote"}, "clusters": [entries[0] | hosts, entries[1]]}
    known = MeshSpec.parse(document, where="test")
    assert gateway_manifests.hosts(known, "west") == ["*.shop.svc.cluster.local"]
    document["clusters"] = [entries[0], entries[1] | hosts]
    with pytest.raises(InputError, match=r"gateway.hosts of west"):
        MeshSpec.parse(document, where="test")


def test_a_primary_serves_others_and_a_remote_has_no_pod_of_istiod() -> None:
    """What istioctl gets."""
    known = spec()
    own, other = istioctl.operator(known, "east"), remote_install.operator(known, "west", "192.0.2.9")
    assert own["spec"]["values"]["global"]["externalIstiod"] is True
    assert "externalIstiod" not in istioctl.operator(topologies.mesh(APART).spec, "east")["spec"]["values"]["global"]
    assert (other["spec"]["profile"], other["spec"]["values"]["global"]["remotePilotAddress"]) == (
        "remote",
        "192.0.2.9",
    )
    assert other["spec"]["values"]["istiodRemote"]["injectionPath"] == "/inject/cluster/west/net/net-west"
    elsewhere = spec(mesh={"rootNamespace": "mesh", "trustDomain": "corp"}, istio={"revision": "r1"})
    placed = remote_install.operator(elsewhere, "west", "a.example")["spec"]
    assert (placed["namespace"], placed["revision"], placed["meshConfig"]) == ("mesh", "r1", {"trustDomain": "corp"})
    assert remote_install.offer(elsewhere)["spec"]["selector"]["istio.io/rev"] == "r1"


def test_istiod_is_offered_on_its_two_ports_only() -> None:
    """A Service of others that does so is used."""
    assert {port["port"] for port in remote_install.offer(spec())["spec"]["ports"]} == {15012, 15017}
    east = topologies.primary()
    assert remote_install.offered(east, SYSTEM) == ("", "")  # it has no port for injection
    east.objects["services"][0]["spec"]["ports"].append({"port": 15017})
    assert remote_install.offered(east, SYSTEM) == ("istiod-out", "192.0.2.9")
    assert remote_install.has_address(east, SYSTEM)() == ""
    east.objects["services"][0]["status"] = {}
    assert remote_install.offered(east, SYSTEM) == ("istiod-out", "")
    assert "istiod-out has no address yet" in remote_install.has_address(east, SYSTEM)()


@pytest.mark.parametrize(
    ("known", "wanted"),
    [("", "east"), ("north", "north,east"), ("east", ""), ("*", ""), ("north, east", "")],
)
def test_the_remotes_root_namespace_names_its_primary(known: str, wanted: str) -> None:
    """Beside those that it names already."""
    assert remote_install.led_by(spec(), "west", known) == ({ANNOTATION: wanted} if wanted else {})


def test_stage_02_wants_the_annotation_and_asks_only_for_api_servers_that_istiods_read() -> None:
    """East's is read by nobody."""
    mesh, facts = primary_remote(), prepared()
    asked = {(f.id, f.subject) for f in prepare.check_api_servers(mesh, facts)}
    assert {subject for number, subject in asked if number == "MK702"} == {"east → west"}
    assert ("MK701", "east") not in asked
    (root,) = facts.roots[facts.roots["cluster"] == "west"].to_dict("records")
    assert prepare._leader(mesh, "west", root) == {ANNOTATION: "east"}
    assert prepare._leader(mesh, "east", root) == {}


def test_before_it_joins_a_remote_waits_for_stage_07_and_has_no_pod() -> None:
    """Its webhooks have no CA bundle; afterwards that is a failure, as anything else is before."""
    (row,) = topologies.identity(APART, REMOTE)
    none = [{"cluster": "west", "istiod": "", "reason": "east's istiod serves it"}]

    def identity(**change: Any) -> Any:
        (one,) = row["serves"]
        return topologies.identities([{**row, "serves": (replace(one, **change),)}], none)

    def said(known: Any, **how: bool) -> Verdict:
        found = control_plane.check_istiods(primary_remote(), known, **how)
        return next(f.verdict for f in found if f.subject == "west")

    waiting = identity(unsigned=("istio-sidecar-injector",))
    assert control_plane.joined(primary_remote(), waiting) == ["east"]
    assert (said(waiting, joining=True), said(waiting)) == (SKIPPED, FAIL)
    for wrong in ({"external": False}, {"leaders": ()}, {"astray": ("192.0.2.7",)}, {"claims": ("cluster/x",)}):
        assert said(identity(unsigned=("x",), **wrong), joining=True) is FAIL
    assert control_plane.joined(primary_remote(), identity()) == ["east", "west"]
    assert said(identity(), joining=True) is PASS


def test_the_mesh_file_and_who_serves_whom_must_agree() -> None:
    """MK104, before a stage that changes clusters."""
    (row,) = topologies.identity(APART, REMOTE)
    none = [{"cluster": "west", "istiod": "", "reason": "east's istiod serves it"}]
    served = topologies.identities([row], none)
    assert topology.stops(primary_remote(), served) == ""
    assert "serves it" in topology.stops(topologies.mesh(APART), served)
    assert "serves it" in topology.stops(unread(spec(THREE, {"west": "north"})), served)
    own = topologies.facts(APART).identity
    assert "has an istiod of its own" in topology.stops(primary_remote(), own)


def test_one_istiod_that_signs_for_all_needs_no_common_root() -> None:
    """Stage 04 changes nothing; of two primaries it sees to those two."""
    assert control_plane.only_signer(primary_remote()) == "east"
    assert control_plane.only_signer(topologies.mesh(APART)) == ""
    mixed = unread(spec(THREE, {"north": "west"}))
    assert control_plane.only_signer(mixed) == ""
    narrow = trust.signing(mixed)
    assert ([*narrow.clusters], narrow.spec.remotes, narrow.spec.pairs[0]) == (["east", "west"], [], ("east", "west"))
    assert trust.signing(topologies.mesh(APART)).spec.remotes == []


def test_only_readers_with_an_istiod_get_a_remote_secret() -> None:
    """West is read by east, and reads nobody."""
    facts = of_discovery.facts("secrets", none=True)
    assert token_rotation.token_actions(primary_remote(), facts) == {("east", "west"): "make"}
    assert {subject for ask in discovery._questions(primary_remote()) for subject in [ask.known["subject"]]} == {
        "east → west"
    }


@pytest.mark.parametrize(
    ("west", "networks", "verdict"),
    [
        ({"endpoints": 0}, APART, PASS),
        ({}, APART, FAIL),
        ({"service": "another"}, APART, PASS),
        ({"reason": "it is dead", "service": ""}, APART, UNKNOWN),
        ({}, {"east": "net", "west": "net"}, SKIPPED),
    ],
)
def test_nothing_may_be_served_in_a_remote_before_its_gateway(west: Row, networks: Row, verdict: Verdict) -> None:
    """MK715: the secret comes first there, as the gateway needs a sidecar."""
    rows = [of_discovery.service("east"), {**of_discovery.service("west"), **west}]
    found = services.SERVICES.frame(rows)
    facts = replace(of_discovery.facts(), services=found, merging=services.merging(found, ["east", "west"], SYSTEM))
    facts = replace(
        facts, known=topologies.facts(APART, identity=topologies.identities(topologies.identity({"east": "e"})))
    )
    flat = {"topology": {"controlPlane": "primary-remote", "network": "flat"}} if verdict is SKIPPED else {}
    mesh = topologies.mesh(networks, **flat) if flat else primary_remote(networks)
    assert [(f.id, f.verdict) for f in joining.check(mesh, facts)] == [("MK715", verdict)]


def test_that_a_remote_has_no_proxy_before_it_joins_is_no_failure() -> None:
    """Of other clusters it is, and so is a proxy of the remote whose root others do not hold."""
    none = trust_store.certificate_reading()
    found = list(certificates.check_roots(primary_remote(), none))
    assert [f.verdict for f in control_plane.of_proxies(primary_remote(), none, found)] == [FAIL, SKIPPED]
    rows = [{**healthy.certificate("east"), "cluster": "west", "anchor": "other", "roots": "other"}]
    lonely = healthy.certificates([healthy.certificate("east"), *rows])
    found = list(certificates.check_roots(primary_remote(), lonely))
    said = {f.subject: f.verdict for f in control_plane.of_proxies(primary_remote(), lonely, found)}
    assert said["west"] is FAIL


def test_a_primary_of_another_owner_is_asked_to_serve_others() -> None:
    """MK105: Helm's istiod needs externalIstiod in its values; a remote has none to install."""
    rows = [
        {**row, "injected_cluster_id": "east", "injected_network": "net-east"}
        for row in topologies.identity(APART, REMOTE)
    ]
    by = {"east": "helm", "west": inventory.ELSEWHERE}
    for external, verdict in ((False, FAIL), (True, PASS)):
        identity = topologies.identities([{**row, "external": external} for row in rows])
        found = {f.subject: f for f in installers.check_installers(primary_remote(), by, identity)}
        assert (found["east"].verdict, found["west"].verdict) == (verdict, PASS), found
        assert external or "--set global.externalIstiod=true" in found["east"].remedy


def test_a_remote_that_others_made_is_left_to_them() -> None:
    """By the labels of its webhooks: istioctl gives its own to all that it installs."""
    west = topologies.remote()
    hook = west.objects["mutatingwebhookconfigurations"][0]
    assert not remote_install.by_others(west)  # one without labels is nobody's
    hook["metadata"]["labels"] = {"app": "sidecar-injector"}
    assert remote_install.by_others(west)
    hook["metadata"]["labels"][istioctl.OWNER] = "control-plane"
    assert not remote_install.by_others(west)
