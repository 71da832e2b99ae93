"""Whose istiod serves a cluster without one: found by where it leads, by who is connected, by its annotation."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import pytest

from meshkit.errors import UnreachableError
from meshkit.istio.control_plane import primaries, versions
from meshkit.istio.control_plane.primaries import Remote
from meshkit.kube.mesh import Unknown
from tests.support import topologies
from tests.support.api_server import certificate_pem
from tests.support.topologies import APART, Objects, primary, proxy, remote, webhook

URL = webhook({"url": "https://192.0.2.9:15017/inject/cluster/west"})
EXTERNAL_NAME = {
    "metadata": {"name": "istiod", "namespace": "istio-system"},
    "spec": {"type": "ExternalName", "externalName": "istiod.east.example"},
}
OLD = {"metadata": {"name": "istiod", "namespace": "istio-system"}, "subsets": [{"addresses": [{"ip": "192.0.2.9"}]}]}


def served(east: Objects, west: Objects) -> Any:
    """Return who serves west."""
    return primaries.remotes(topologies.mesh(APART, {"east": east, "west": west})).get("west")


@pytest.mark.parametrize(
    ("east", "west"),
    [
        (primary(), remote()),
        (primary(), remote(mutatingwebhookconfigurations=[URL], services=[], endpointslices=[])),
        (primary(), remote(endpointslices=[], endpoints=[OLD])),
        (primary(at="istiod.east.example"), remote(services=[EXTERNAL_NAME], endpointslices=[])),
        (
            primary(),
            remote(mutatingwebhookconfigurations=[], services=[], endpointslices=[], pods=[proxy("192.0.2.9:15012")]),
        ),
        (primary(at="203.0.113.1", port=443), remote(endpointslices=[])),  # by its annotation only
    ],
)
def test_the_primary_is_the_cluster_to_whose_istiod_the_remote_leads(east: Objects, west: Objects) -> None:
    """By its Service, URL, name or proxies, or as its annotation says."""
    found = served(east, west)
    assert isinstance(found, Remote)
    assert (found.primary, found.external, found.own, found.unsigned) == ("east", True, False, ())


def test_a_gateway_may_lead_to_the_istiod_too() -> None:
    """Istio's guide for several networks exposes istiod by the east-west gateway's ports 15012 and 15017."""
    east = primary(at="198.51.100.1")
    ports = [{"port": 15443}, {"port": 15012}]
    gateway = {
        "metadata": {"name": "istio-eastwestgateway", "namespace": "istio-system"},
        "spec": {"selector": {"istio": "eastwestgateway"}, "ports": ports},
        "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.9"}]}},
    }
    east.objects["services"].append(gateway)
    assert served(east, remote(leaders="")).primary == "east"


@pytest.mark.parametrize(
    "west",
    [
        Objects("west"),
        # What an uninstalled istiod left: its Service selects pods of its own cluster.
        remote(
            leaders="",
            services=[
                {
                    "metadata": {"name": "istiod", "namespace": "istio-system"},
                    "spec": {"selector": {"app": "istiod"}, "ports": [{"port": 15012}]},
                }
            ],
        ),
        primary("west"),
    ],
)
def test_a_bare_cluster_and_one_with_an_istiod_are_no_remote(west: Objects) -> None:
    """Nobody serves them from elsewhere."""
    assert served(primary(), west) is None


def test_what_leads_to_no_cluster_of_the_mesh_is_served_from_outside() -> None:
    """And is taken for nobody's of the mesh, though another istiod serves others."""
    found = served(primary(at="203.0.113.1"), remote(leaders=""))
    assert (found.primary, found.found_by) == ("", "its istiod is elsewhere (192.0.2.9)")


def test_proxies_that_are_connected_tell_it_where_addresses_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """An address may be translated on the way."""
    monkeypatch.setattr(primaries.Istiod, "debug", lambda *_: [{"cluster_id": "west", "proxy": "app.sample"}])
    assert served(primary(at="203.0.113.1"), remote(leaders="")).primary == "east"


def test_of_a_primary_that_cannot_be_read_nothing_is_assumed() -> None:
    """West may be served by it."""

    class Dead(Objects):
        def get(self, *_: Any, **__: Any) -> Any:
            raise UnreachableError("it refuses the connection")

    found = served(Dead("east"), remote())
    assert isinstance(found, Unknown)
    assert "east: it refuses the connection" in found.reason
    reading = versions.identity(topologies.mesh(APART, {"east": Dead("east"), "west": remote()}))
    assert "192.0.2.9" in reading.unknown("west")


def test_what_a_remote_lacks_is_read() -> None:
    """The annotation, EXTERNAL_ISTIOD, the CA bundle; and an istiod of its own beside the other's."""
    found = served(primary(external=False), remote(leaders="north", bundle=""))
    assert (found.leaders, found.external, found.unsigned) == (("north",), False, ("istio-sidecar-injector",))
    by_url = webhook({"url": "https://192.0.2.9:15017/inject"}, "")
    assert served(primary(), remote(mutatingwebhookconfigurations=[by_url])).unsigned == ()
    both = primary("west")
    both.objects["namespaces"] = [topologies.namespace("net-west", "east")]
    assert served(primary(), both).own


def test_the_identity_of_an_istiod_has_whom_it_serves() -> None:
    """And the remote cluster has a row that says by whom; home is where its istiod runs."""
    reading = versions.identity(topologies.mesh(APART, {"east": primary(), "west": remote()}))
    (east,) = reading.of("east")
    assert [str(one) for one in east.serves] == ["west"]
    assert versions.home(reading, "west") == "east"
    assert versions.is_remote(reading, "west")
    assert not versions.outside(reading, "west")
    rows = reading.frame().set_index("cluster")
    assert rows.loc["east", "serves"] == "west"
    assert rows.loc["west", "reason"] == "east's istiod serves it: it leads to 192.0.2.9"


def test_configuration_of_a_remote_is_its_primarys() -> None:
    """Istiod reads none elsewhere."""
    east, west = primary(), remote()
    sources = primaries.configured_in(topologies.mesh(APART, {"east": east, "west": west}))
    assert sources == {"east": east, "west": east}


def test_an_annotation_alone_is_not_a_control_plane() -> None:
    """Stage 02 writes it before the primary has its id, and before anything of the remote leads there."""
    bare: dict[str, Any] = {"mutatingwebhookconfigurations": [], "services": [], "endpointslices": []}
    assert served(primary("Kubernetes"), remote(**bare)) is None
    named = served(primary(), remote(**bare))
    assert (named.primary, named.injects) == ("east", False)


def test_where_a_remote_leads_must_be_offered_and_its_pods_claim_its_own_id() -> None:
    """Names may be any address, so that is not judged."""
    assert served(primary(), remote()).astray == ()
    assert served(primary(at="203.0.113.1"), remote()).astray == ("192.0.2.9",)
    assert served(primary(at="istiod.east.example"), remote()).astray == ()
    service = {"namespace": "istio-system", "name": "istiod", "path": "/inject/cluster/west/net/net-west"}
    assert served(primary(), remote(mutatingwebhookconfigurations=[webhook({"service": service})])).claims == (
        "cluster/west/net/net-west",
    )
    assert served(primary(), remote(mutatingwebhookconfigurations=[URL])).claims == ("cluster/west",)


def test_proxies_may_be_connected_where_nothing_is_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both facts are kept: whether a new connection can be made tells them apart."""
    monkeypatch.setattr(primaries.Istiod, "debug", lambda *_: [{"cluster_id": "west", "proxy": "app.sample"}])
    found = served(primary(at="203.0.113.1"), remote())
    assert (found.astray, found.connected) == (("192.0.2.9",), True)


def test_a_ca_bundle_without_a_root_of_the_primary_is_stale() -> None:
    """Order and other roots do not matter; where the primary's roots are not known, nothing is said."""
    pem = {name: certificate_pem(name) for name in ("old", "new")}
    hook = webhook({"service": {"namespace": "istio-system", "name": "istiod"}}, b64encode(pem["old"]).decode())
    west = remote(mutatingwebhookconfigurations=[hook])
    for held, stale in (("new",), ("istio-sidecar-injector",)), (("new", "old"), ()), ((), ()):
        east = primary()
        roots = {"root-cert.pem": b"".join(pem[name] for name in held).decode()}
        metadata = {"name": "istio-ca-root-cert", "namespace": "istio-system"}
        east.objects["configmaps"] = [{"metadata": metadata, "data": roots}]
        assert served(east, west).stale == stale
