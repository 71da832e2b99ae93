"""Gateways as istiod finds them: by label, Gateway API, meshNetworks and node ports."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from meshkit.changes.plan import Plan
from meshkit.checks.finding import Verdict
from meshkit.checks.gateways import check_gateway, check_gateway_seen
from meshkit.errors import UnreachableError
from meshkit.istio.control_plane import mesh_networks
from meshkit.istio.multicluster import gateway_api, gateway_manifests, gateways
from meshkit.istio.multicluster.gateways import (
    NETWORK,
    NODE_SELECTOR,
    GatewayType,
    NetworkGateway,
)
from meshkit.istio.reading import Unread
from meshkit.kube.mesh import Mesh
from meshkit.kube.transport import NotFoundError
from meshkit.spec import MeshSpec
from meshkit.stages import eastwest_gateway
from meshkit.stages import gateways as stage
from tests.support import planes
from tests.unit.stages import test_gateways

SYSTEM = "istio-system"
GATEWAY_NAME, FORMER_NAME = gateway_api.NAME_LABELS
Row = dict[str, Any]


class Objects:
    """A cluster that consists of its objects."""

    def __init__(self, name: str, **objects: list[Row]) -> None:
        self.name, self.objects = name, objects

    def get(self, kind: str, namespace: str = "", *, labels: Any = None, **_: Any) -> list[Row]:
        """Return the objects of a kind; of one that is not served an error, as an API server gives it."""
        labels = dict([labels.split("=")]) if isinstance(labels, str) else labels
        kinds = {"gateways.networking.istio.io": "istio", "gateways.gateway.networking.k8s.io": "kubernetes"}
        name = kinds.get(kind, kind)
        if kind in kinds and name not in self.objects:
            raise NotFoundError("not served")
        found = [o for o in self.objects.get(name, []) if namespace in ("", o["metadata"]["namespace"])]
        return [o for o in found if (labels or {}).items() <= o["metadata"].get("labels", {}).items()]

    def find(self, kind: str, namespace: str | None, name: str) -> Row | None:
        """Return one object."""
        return next((o for o in self.get(kind, namespace or "") if o["metadata"]["name"] == name), None)


def mesh(east: Objects, west: Objects | None = None) -> Mesh:
    """Return the mesh of two clusters, each on its own network."""
    clusters = [{"name": n, "context": n, "network": f"net-{n}"} for n in ("east", "west")]
    both: Any = {"east": east, "west": west or Objects("west")}
    return Mesh(MeshSpec.parse({"clusters": clusters}, where="test"), both)


def service(labels: Row | None = None, *, port: int = 15443, **spec: Any) -> Row:
    """Return a Service with an address and a pod selector."""
    notes = spec.pop("annotations", {})
    metadata = {"name": "gw", "namespace": "edge", "labels": labels or {}, "annotations": notes}
    ports = [{"port": port, "nodePort": 31443}]
    lb = {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}
    held = {"type": "LoadBalancer", "ports": ports, "selector": {GATEWAY_NAME: "gw"}, **spec}
    return {"metadata": metadata, "spec": held, "status": lb}


POD = {
    "metadata": {"name": "gw-1", "namespace": "edge", "labels": {GATEWAY_NAME: "gw"}},
    "status": {"conditions": [{"type": "Ready", "status": "True"}]},
}


def resource(*, cls: str = "istio", network: str = "net-east", **change: Any) -> Row:
    """Return a Gateway API Gateway with a passthrough listener."""
    tls = {"mode": change.get("mode", "Passthrough"), "options": change.get("options", {})}
    listener = {"name": "tls", "port": change.get("port", 15443), "protocol": "TLS", "tls": tls}
    listener |= {"hostname": "*.shop.svc.cluster.local"} if change.get("narrow", True) else {}
    spec = {"gatewayClassName": cls, "listeners": [listener], "addresses": change.get("addresses", [])}
    labels = {NETWORK: network, **change.get("labels", {})} if network else change.get("labels", {})
    return {"metadata": {"name": "gw", "namespace": "edge", "labels": labels}, "spec": spec}


def networks(told: str) -> list[Row]:
    """Return istiod's ConfigMap with meshNetworks."""
    return [{"metadata": {"name": "istio", "namespace": SYSTEM}, "data": {"meshNetworks": told}}]


def injector(domain: str) -> Row:
    """Return what new sidecars get."""
    values = f'{{"global": {{"proxy": {{"clusterDomain": "{domain}"}}}}}}'
    return {"metadata": {"name": "istio-sidecar-injector", "namespace": SYSTEM}, "data": {"values": values}}


def found(east: Objects, west: Objects | None = None, of: str = "east") -> list[NetworkGateway]:
    """Return what is offered by a cluster."""
    return gateways.gateways(mesh(east, west)).of(of)


def test_a_gateway_api_gateway_exposes_its_own_pods_with_its_hostname() -> None:
    """Nothing is to be planned beside it: a second exposure of the same pods makes Envoy refuse the listener."""
    east = Objects("east", services=[service({NETWORK: "net-east"})], pods=[POD], kubernetes=[resource()])
    offered = gateways.gateways(mesh(east))
    (one,) = offered
    assert (one.exposed_by, one.hosts) == (("edge/gw",), ("*.shop.svc.cluster.local",))
    assert check_gateway(mesh(east), offered, "east").verdict is Verdict.PASS
    facts = replace(test_gateways.facts(), gateways=offered)
    plan = Plan(mesh(east), stage.STAGE)
    eastwest_gateway.want(plan, mesh(east), facts, "east")
    assert plan.changes == []


@pytest.mark.parametrize("selector", [{"app": "gw"}, {}])
def test_a_gateway_of_others_is_exposed_by_its_own_selector_or_not_at_all(
    selector: Row, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Service without a selector has pods that nobody names; an exposure without one would be of every gateway."""
    exposed = exposures(Objects("east", services=[service({NETWORK: "net-east"}, selector=selector)]), monkeypatch)
    assert [one["spec"]["selector"] for one in exposed] == ([selector] if selector else [])


def exposures(east: Objects, monkeypatch: pytest.MonkeyPatch) -> list[Row]:
    """Return the exposures that stage 06 wants for a cluster."""
    facts = replace(test_gateways.facts(), gateways=gateways.gateways(mesh(east)))
    exposed: list[Row] = []
    monkeypatch.setattr(Plan, "apply", lambda _, __, manifest, *___, **____: exposed.append(manifest))
    eastwest_gateway.want(Plan(mesh(east), stage.STAGE), mesh(east), facts, "east")
    return exposed


@pytest.mark.parametrize(
    ("scoped", "gateway", "read", "wanted"),
    [
        ("true", f"{SYSTEM}/cross", False, "edge"),
        ("true", "edge/cross", True, ""),
        ("true", f"{SYSTEM}/{gateway_manifests.EXPOSURE}", False, "edge"),
        ("true", f"edge/{gateway_manifests.EXPOSURE}", True, "edge"),
        ("", f"{SYSTEM}/{gateway_manifests.EXPOSURE}", True, SYSTEM),
        ("false", f"{SYSTEM}/cross", True, ""),
    ],
)
def test_an_istiod_that_scopes_gateways_reads_those_of_their_pods_namespace_only(
    scoped: str, gateway: str, read: bool, wanted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PILOT_SCOPE_GATEWAY_TO_NAMESPACE: an exposure is made beside the gateway, unless ours is read where it is."""
    held = passing(15443)
    held["metadata"] = dict(zip(("namespace", "name"), gateway.split("/"), strict=True))
    east = Objects("east", services=[service({NETWORK: "net-east"})], pods=[POD], istio=[held])
    pod = planes.istiod("default")
    pod["spec"]["containers"][0]["env"] = [{"name": gateways.SCOPED, "value": scoped}]
    east.objects[f"/api/v1/namespaces/{SYSTEM}/pods"] = [pod]
    (one,) = found(east)
    assert one.exposed_by == ((gateway,) if read else ())
    monkeypatch.setattr(eastwest_gateway, "closed_by_its_owner", lambda _: False)
    assert [one["metadata"]["namespace"] for one in exposures(east, monkeypatch)] == ([wanted] if wanted else [])


@pytest.mark.parametrize(
    ("change", "exposed"),
    [
        ({}, True),
        ({"narrow": False}, True),
        ({"mode": "Terminate"}, False),
        ({"port": 15444}, False),
        ({"port": 15444, "labels": {gateway_api.PORT_LABEL: "15444"}}, True),
        ({"port": 15444, "options": {gateway_api.LISTENER_MODE: "auto-passthrough"}}, True),
        ({"network": "", "options": {gateway_api.LISTENER_MODE: "auto-passthrough"}}, True),
        ({"network": ""}, False),
    ],
)
def test_a_listener_passes_through_as_istiod_decides(change: Row, exposed: bool) -> None:
    """By its mode, and by port, label or option."""
    east = Objects("east", services=[service({NETWORK: "net-east"})], pods=[POD], kubernetes=[resource(**change)])
    (one,) = found(east)
    assert bool(one.exposed_by) is exposed
    assert change.get("narrow", True) or one.hosts == ("*",)


@pytest.mark.parametrize(
    ("address", "elsewhere", "exposed"),
    [
        ({"type": "Hostname", "value": "gw"}, False, True),
        ({"type": "Hostname", "value": "gw.edge.svc.cluster.local"}, False, True),
        ({"type": "Hostname", "value": "gw.edge"}, False, False),
        ({"type": "IPAddress", "value": "gw.edge.svc.cluster.local"}, False, False),
        ({"type": "Hostname", "value": "gw.edge.svc.cluster.local"}, True, False),
    ],
)
def test_a_gateway_on_a_service_of_others_names_it_as_istiod_reads_it(
    address: Row, elsewhere: bool, exposed: bool
) -> None:
    """A short name is of the Gateway's own namespace, where the Service has to be in any case."""
    pod = {**POD, "metadata": {**POD["metadata"], "labels": {"app": "gw"}}}
    held = resource(addresses=[address])
    held["metadata"]["namespace"] = "infra" if elsewhere else "edge"
    east = Objects(
        "east", services=[service({NETWORK: "net-east"}, selector={"app": "gw"})], pods=[pod], kubernetes=[held]
    )
    assert bool(next(one for one in found(east) if one.service).exposed_by) is exposed


def test_the_pods_of_a_gateway_have_another_label_before_istio_1_21() -> None:
    """One that exposes needs nothing beside it; one that does not is its owner's to change."""
    pod = {**POD, "metadata": {**POD["metadata"], "labels": {FORMER_NAME: "gw"}}}
    held = service({NETWORK: "net-east"}, selector={FORMER_NAME: "gw"})
    for change, exposed in (({}, ("edge/gw",)), ({"mode": "Terminate"}, ())):
        (one,) = found(Objects("east", services=[held], pods=[pod], kubernetes=[resource(**change)]))
        assert one.exposed_by == exposed
        assert eastwest_gateway.closed_by_its_owner(one) is not bool(exposed)


@pytest.mark.parametrize(
    ("revision", "running", "exposed"),
    [
        ("1-31-0", ("1-31-0",), True),
        ("1-30-2", ("1-31-0",), False),
        ("prod-stable", ("1-31-0",), False),
        ("1-30-2", ("1-30-2", "1-31-0"), True),
        ("default", ("",), True),
        ("1-31-0", ("",), False),
        ("1-31-0", (), True),
    ],
)
def test_a_gateway_that_is_labelled_with_a_revision_is_read_by_that_one_only(
    revision: str, running: tuple[str, ...], exposed: bool
) -> None:
    """Left after an upgrade, or labelled with a tag, it exposes nothing."""
    path = f"/api/v1/namespaces/{SYSTEM}/pods"
    held = passing(15443)
    held["metadata"]["labels"] = {"istio.io/rev": revision}
    east = Objects("east", services=[service({NETWORK: "net-east"})], pods=[POD], istio=[held])
    east.objects[path] = [planes.istiod(one or "default") for one in running]
    (one,) = found(east)
    assert bool(one.exposed_by) is exposed


@pytest.mark.parametrize(
    ("east", "west", "labels", "left_out_by", "read"),
    [
        ("", "", {}, (), True),
        ("mesh", "", {}, ("east",), True),
        ("", "mesh", {}, ("west",), True),
        ("mesh", "mesh", {"mesh": "yes"}, (), True),
        ("mesh", "mesh", {"edge": "yes"}, ("east", "west"), True),
        ("edge", "edge", {"edge": "yes"}, (), False),
    ],
)
def test_discovery_selectors_hide_gateways_and_what_exposes_them(
    east: str, west: str, labels: Row, left_out_by: tuple[str, ...], read: bool
) -> None:
    """Of the namespace of a gateway each istiod's own count, of that of a Gateway those of its own cluster."""
    maps = {
        name: [{"metadata": {"name": "istio", "namespace": SYSTEM}, "data": {"mesh": told}}]
        for name, key in (("east", east), ("west", west))
        for told in [f"discoverySelectors: [{{matchLabels: {{{key}: 'yes'}}}}]" if key else "{}"]
    }
    spaces = [("edge", labels), (SYSTEM, {"mesh": "yes"})]
    namespaces = [{"metadata": {"name": name, "namespace": "", "labels": own}} for name, own in spaces]
    held = {"services": [service({NETWORK: "net-east"})], "pods": [POD], "istio": [passing(15443)]}
    both = mesh(
        Objects("east", **held, configmaps=maps["east"], namespaces=namespaces),
        Objects("west", configmaps=maps["west"]),
    )
    offered = gateways.gateways(both)
    (one,) = offered.of("east")
    assert (one.left_out_by, bool(one.exposed_by)) == (left_out_by, read)
    finding = check_gateway(both, offered, "east")
    assert (finding.verdict is Verdict.PASS) is (read and "east" not in left_out_by)
    assert ("label namespace edge" in finding.remedy) is ("east" in left_out_by)
    none = gateways.GatewaySeen("west", "istiod-1", reason="it knows no gateway")
    (seen,) = check_gateway_seen(both, offered, gateways.seen_reading(none=[none]), "west", "east")
    assert (seen.verdict, "label namespace edge" in seen.remedy) == (Verdict.FAIL, "west" in left_out_by)


def test_a_gateway_without_definitions_of_the_gateway_api_is_read_all_the_same() -> None:
    """And the hosts of an Istio Gateway are reported."""
    server = {"port": {"number": 15443}, "tls": {"mode": "AUTO_PASSTHROUGH"}, "hosts": ["*.local"]}
    held = {
        "metadata": {"name": "cross", "namespace": SYSTEM},
        "spec": {"selector": {GATEWAY_NAME: "gw"}, "servers": [server]},
    }
    (one,) = found(Objects("east", services=[service({NETWORK: "net-east"})], pods=[POD], istio=[held]))
    assert (one.exposed_by, one.hosts) == (("istio-system/cross",), ("*.local",))


def test_mesh_networks_name_an_unlabelled_service() -> None:
    """Only in the cluster whose registry the network is of, on the port that they say."""
    told = """
networks:
  net-east:
    endpoints: [{fromRegistry: east}]
    gateways: [{registryServiceName: gw.edge.svc.k8s.corp, port: 443}]
"""
    maps = [*networks(told), injector("k8s.corp")]
    east = Objects("east", services=[service(port=443)], pods=[POD], configmaps=maps)
    west = Objects("west", services=[service(port=443)], configmaps=networks(told))
    offered = gateways.gateways(mesh(east, west))
    (one,) = offered
    assert (one.cluster, one.service, one.network, one.port) == ("east", "gw", "net-east", 443)
    assert one.addresses == ("192.0.2.1",)
    (none,) = offered.none_in("west")
    assert none.reason == "no Service has the label topology.istio.io/network, none listens on 15443"


@pytest.mark.parametrize(
    ("domain", "name", "network"),
    [
        ("k8s.corp", "gw.edge.svc.k8s.corp", "net-east"),
        ("", "gw.edge.svc.cluster.local", "net-east"),
        ("k8s.corp", "gw.edge.svc.cluster.local", ""),
        ("", "gw.edge.svc", ""),
        ("", "gw.edge", ""),
    ],
)
def test_mesh_networks_name_a_service_by_its_whole_host_name(domain: str, name: str, network: str) -> None:
    """As documents have it is not enough where the cluster domain is another: istiod then knows no gateway."""
    told = (
        f"networks: {{net-east: {{endpoints: [{{fromRegistry: east}}], gateways: [{{registryServiceName: {name}}}]}}}}"
    )
    maps = [*networks(told), *([injector(domain)] if domain else [])]
    (one,) = found(Objects("east", services=[service()], pods=[POD], configmaps=maps))
    assert one.network == network


@pytest.mark.parametrize(
    ("revision", "held", "found"),
    [("", {"istio": "gw"}, True), ("1-31-0", {"istio-1-31-0": "gw"}, True), ("default", {"istio": "gw"}, True),
     ("1-31-0", {"istio-1-31-0": "", "istio": "gw"}, False)],
)  # fmt: skip
def test_mesh_networks_are_those_of_the_files_revision_by_either_name_of_a_field(
    revision: str, held: dict[str, str], found: bool
) -> None:
    """Each istiod reads the ConfigMap of its revision only; protobuf takes camel case and snake case."""
    told = "networks: {net-east: {endpoints: [{from_registry: east}], gateways: [{registry_service_name: %s}]}}"
    maps = [
        {
            "metadata": {"name": name, "namespace": SYSTEM},
            "data": {"meshNetworks": told % "gw.edge.svc.cluster.local"} if of else {},
        }
        for name, of in held.items()
    ]
    east = Objects("east", services=[service(port=443)], pods=[POD], configmaps=maps)
    both = mesh(east)
    read = Mesh(both.spec.model_copy(update={"istio": both.spec.istio.model_copy(update={"revision": revision})}),
                both.clusters)  # fmt: skip
    assert bool(gateways.gateways(read).of("east")) is found
    assert bool(mesh_networks.read(east, read)) is found  # type: ignore[arg-type]


def passing(number: int) -> Row:
    """Return an AUTO_PASSTHROUGH Gateway on a port."""
    server = {"port": {"number": number}, "tls": {"mode": "AUTO_PASSTHROUGH"}, "hosts": ["*.local"]}
    held = {"selector": {GATEWAY_NAME: "gw"}, "servers": [server]}
    return {"metadata": {"name": "cross", "namespace": SYSTEM}, "spec": held}


@pytest.mark.parametrize(
    ("number", "target", "exposed"),
    [(15443, 15443, True), (15443, None, True), (8443, 15443, False), (15443, 8443, True), (8443, 8443, True),
     (8443, "tls", True), (443, 15443, False)],
)  # fmt: skip
def test_a_gateway_exposes_a_service_on_the_services_port_or_that_of_its_pods(
    number: int, target: int | str | None, exposed: bool
) -> None:
    """Source: pilot/pkg/model/gateway.go, resolvePorts."""
    held = service({NETWORK: "net-east"})
    held["spec"]["ports"][0] |= {"targetPort": target} if target else {}
    (one,) = found(Objects("east", services=[held], pods=[POD], istio=[passing(number)]))
    assert bool(one.exposed_by) is exposed


def test_a_gateway_for_hbone_only_is_none_to_sidecars() -> None:
    """Class istio-east-west of ambient mode: nothing is sent there, and nothing may be exposed on its pods."""
    east = Objects("east", services=[service({NETWORK: "net-east"}, port=15008)], pods=[POD], istio=[passing(15443)])
    offered = gateways.gateways(mesh(east))
    assert [one.port for one in offered.of("east")] == [0]
    told = check_gateway(mesh(east), offered, "east")
    assert (told.verdict, "does not listen on 15443" in told.observed) == (Verdict.FAIL, True)


@pytest.mark.parametrize(("kind", "addresses"), [("LoadBalancer", ("192.0.2.1",)), ("ClusterIP", ()), ("NodePort", ())])
def test_an_address_of_a_load_balancer_counts_of_that_type_only(kind: str, addresses: tuple[str, ...]) -> None:
    """What another type has left in its status, istiod does not read."""
    (one,) = found(Objects("east", services=[service({NETWORK: "net-east"}, type=kind)], pods=[POD]))
    assert one.addresses == addresses


def test_an_address_in_mesh_networks_is_the_gateway_of_that_networks_cluster() -> None:
    """Whichever cluster it is declared in; nothing is planned for it."""
    told = "networks: {net-east: {endpoints: [], gateways: [{address: 192.0.2.9, port: 15443}]}}"
    west = Objects("west", configmaps=networks(told))
    east = Objects("east", configmaps=networks(told))
    offered = gateways.gateways(mesh(east, west))
    (one,) = offered
    assert (one.addresses, one.port, one.type) == (("192.0.2.9",), 15443, GatewayType.MESH_NETWORKS)
    assert one.made_by == "meshNetworks of east, meshNetworks of west"
    assert check_gateway(mesh(east, west), offered, "east").verdict is Verdict.PASS
    assert check_gateway(mesh(east, west), offered, "west").verdict is Verdict.FAIL
    facts = replace(test_gateways.facts(), gateways=offered)
    plan = Plan(mesh(east, west), stage.STAGE)
    eastwest_gateway.want(plan, mesh(east, west), facts, "east")
    assert plan.changes == []
    assert stage.check_place(mesh(east, west), facts, "east").verdict is Verdict.PASS


def test_an_unlabelled_service_at_an_address_of_mesh_networks_is_that_gateway() -> None:
    """Its pods and its exposure are known; at another port, or for another network, it is none."""
    told = "networks: {{{network}: {{endpoints: [], gateways: [{{address: 192.0.2.1, port: {port}}}]}}}}"

    def offered(network: str, port: int) -> NetworkGateway:
        west = Objects("west", configmaps=networks(told.format(network=network, port=port)))
        return next(one for one in found(Objects("east", services=[service()], pods=[POD]), west) if one.service)

    one = offered("net-east", 15443)
    assert (one.service, one.network, one.ready, one.type) == ("gw", "net-east", 1, GatewayType.LOAD_BALANCER)
    assert [offered("net-east", 443).network, offered("net-west", 15443).network] == ["", ""]


def test_a_remote_gateway_is_known_by_its_addresses() -> None:
    """Class istio-remote, in another cluster than the network's; istiod ignores an address without a type."""
    addresses = [{"type": "Hostname", "value": "gw.example"}, {"value": "192.0.2.8"}]
    # Which TLS mode its listener has, nobody serves: istiod does not ask.
    west = Objects("west", kubernetes=[resource(cls="istio-remote", addresses=addresses, mode="Terminate")])
    (one,) = found(Objects("east"), west)
    assert (one.addresses, one.port, one.type) == (("gw.example",), 15443, GatewayType.ISTIO_REMOTE)
    assert one.made_by == "Gateway edge/gw of west"


class Dead(Objects):
    """A cluster that does not answer."""

    def find(self, *_: str | None) -> Row | None:
        """Refuse."""
        raise UnreachableError("no answer")


def test_a_cluster_that_cannot_be_read_is_unknown_whatever_others_declare_of_it() -> None:
    """Its declared gateway is a row all the same, and the others are read."""
    told = "networks: {net-east: {endpoints: [], gateways: [{address: 192.0.2.9, port: 15443}]}}"
    dead, west = Dead("east"), Objects("west", services=[service({NETWORK: "net-west"})], configmaps=networks(told))
    offered = gateways.gateways(mesh(dead, west))
    assert [(one.cluster, one.addresses) for one in offered] == [("east", ("192.0.2.9",)), ("west", ("192.0.2.1",))]
    assert (offered.unknown("east"), offered.unknown("west")) == ("no answer", "")
    assert check_gateway(mesh(dead, west), offered, "east").verdict is Verdict.UNKNOWN


FRAMES = [
    (
        False,
        """\
east,,,net-east,,meshNetworks,192.0.2.9,15443,0,0,,,,,meshNetworks of west,
east,edge,gw,net-east,,LoadBalancer,"192.0.2.1,192.0.2.3",15443,1,1,"istio-system/again,istio-system/cross","*.local,\
*.shop",,"app=gw,gateway.networking.k8s.io/gateway-name=gw",,
""",
    ),
    (
        True,
        """\
east,,,,,,,0,0,0,,,,,,no answer
east,,,net-east,,meshNetworks,192.0.2.9,15443,0,0,,,,,meshNetworks of west,
""",
    ),
]


@pytest.mark.parametrize(("dead", "rows"), FRAMES)
def test_the_table_has_lists_with_commas_and_a_row_for_each_cluster_without_gateway(dead: bool, rows: str) -> None:
    """Its columns, order and texts are a contract."""
    told = "networks: {net-east: {endpoints: [], gateways: [{address: 192.0.2.9, port: 15443}]}}"
    server = {"port": {"number": 15443}, "tls": {"mode": "AUTO_PASSTHROUGH"}, "hosts": ["*.shop", "*.local"]}
    lets_in = {"selector": {GATEWAY_NAME: "gw"}, "servers": [server]}
    exposures = [{"metadata": {"name": name, "namespace": SYSTEM}, "spec": lets_in} for name in ("cross", "again")]
    both = {"app": "gw", GATEWAY_NAME: "gw"}
    held = service({NETWORK: "net-east"}, selector=both, externalIPs=["192.0.2.3"])
    pod = {**POD, "metadata": {"name": "gw-1", "namespace": "edge", "labels": both}}
    east = Dead("east") if dead else Objects("east", services=[held], pods=[pod], istio=exposures)
    root = {"metadata": {"name": SYSTEM, "namespace": "", "labels": {NETWORK: "net-west"}}}
    west = Objects("west", configmaps=networks(told), namespaces=[root])
    assert gateways.gateways(mesh(east, west)).frame().to_csv(index=False) == (
        "cluster,namespace,service,network,namespace_network,type,addresses,port,ready,pods,exposed_by,hosts,"
        f"left_out_by,selector,made_by,reason\n{rows}"
        'west,,,,net-west,,,0,0,0,,,,,,"no Service has the label topology.istio.io/network, none listens on 15443"\n'
    )


def test_the_table_of_what_istiods_know_has_a_row_for_each_that_knows_none_or_was_not_read() -> None:
    """Its columns, order and texts are a contract."""
    known = gateways.GatewaySeen("east", "istiod-b", "net-west", "west", "192.0.2.1", 15443, 15008)
    none = gateways.GatewaySeen("east", "istiod-a", reason="it knows no gateway")
    unread = [Unread("west", "no answer"), Unread("east", "404", "istiod-c")]
    assert gateways.seen_reading([known], unread, [none]).frame().to_csv(index=False) == (
        "cluster,istiod,network,gateway_cluster,address,port,hbone_port,reason\n"
        "east,istiod-a,,,,0,0,it knows no gateway\n"
        "east,istiod-b,net-west,west,192.0.2.1,15443,15008,\n"
        "east,istiod-c,,,,0,0,404\n"
        "west,,,,,0,0,no answer\n"
    )


def node(name: str, external: list[str], **labels: str) -> Row:
    """Return a node."""
    addresses = [{"type": "InternalIP", "address": "10.0.0.1"}]
    addresses += [{"type": "ExternalIP", "address": address} for address in external]
    return {"metadata": {"name": name, "namespace": "", "labels": labels}, "status": {"addresses": addresses}}


@pytest.mark.parametrize(
    ("selector", "addresses"),
    [
        ("{}", ["3.3.3.3", "4.4.4.4"]),
        ('{"role": "edge"}', ["3.3.3.3"]),
        ("", ["3.3.3.3", "4.4.4.4"]),
        ("role=edge", ["3.3.3.3", "4.4.4.4"]),
        ("[1]", ["3.3.3.3", "4.4.4.4"]),
        ('{"role": 1}', []),
    ],
)
def test_a_node_port_gateway_is_found_at_its_node_port(selector: str, addresses: list[str]) -> None:
    """On the first external address of the nodes that istiod chooses; externalIPs come before these."""
    nodes = [node("a", ["3.3.3.3", "3.3.3.4"], role="edge"), node("b", ["4.4.4.4"]), node("c", [])]
    held = service({NETWORK: "net-east"}, type="NodePort", annotations={NODE_SELECTOR: selector})
    (one,) = found(Objects("east", services=[held], nodes=nodes, pods=[POD]))
    assert (one.addresses, one.port) == (tuple(addresses), 31443)
    held["spec"]["externalIPs"] = ["192.0.2.50"]
    (one,) = found(Objects("east", services=[held], nodes=nodes, pods=[POD]))
    assert (one.addresses, one.port) == (("192.0.2.50",), 31443)
    bare = service({NETWORK: "net-east"}, type="NodePort")
    (one,) = found(Objects("east", services=[bare], nodes=nodes, pods=[POD]))
    assert one.port == 15443
