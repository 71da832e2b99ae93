"""What keeps a cluster's clients from another cluster's endpoints: each object is named, with cluster and field."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from meshkit.istio.config import service_view
from meshkit.istio.config.hindrances import WORDS, Impact, Link
from meshkit.kube.mesh import Mesh
from tests.support.healthy import mesh
from tests.support.held import Held, held

HOST = "httpbin.sample.svc.cluster.local"
MUTUAL = {"security.istio.io/tlsMode": "istio"}
PORT = {"name": "http", "port": 8000, "targetPort": 8080}
Object = dict[str, Any]
Objects = Mapping[str, list[Object]]
BREAKS, STEERS, PERHAPS = Impact.BREAKS, Impact.STEERS, Impact.PERHAPS


def istio(kind: str, spec: Object, namespace: str = "sample", name: str = "one", **metadata: Any) -> Objects:
    """Return an object of Istio, as a cluster holds it."""
    found = held(kind, name, namespace, spec=spec)
    found["metadata"] |= metadata
    return {f"{kind.lower().removesuffix('y')}{'ies' if kind.endswith('y') else 's'}": [found]}


def configured(settings: str) -> Objects:
    """Return a meshConfig."""
    return {"configmaps": [held("ConfigMap", "istio", "istio-system", data={"mesh": settings})]}


def service(annotations: Object | None = None, ports: list[Object] | None = None) -> Objects:
    """Return the probe's Service beside the cluster's gateway."""
    own = held("Service", "httpbin", "sample", spec={"selector": {"app": "httpbin"}, "ports": ports or [PORT]})
    own["metadata"]["annotations"] = annotations or {}
    door = held("Service", "istio-eastwestgateway", "istio-system", spec={"ports": [{"port": 15443}]})
    return {"services": [own, door]}


def cluster(name: str, **more: list[Object]) -> Any:
    """Return a healthy cluster with other objects."""
    pods = [
        held(
            "Pod",
            f"{app}-1",
            "sample",
            labels={"app": app, **MUTUAL},
            spec={"containers": [], "serviceAccountName": app},
        )
        for app in ("sleep", "httpbin")
    ]
    namespaces = [held("Namespace", "sample", labels={"team": "a"}), held("Namespace", "istio-system")]
    return Held(name, **{"pods": pods, "namespaces": namespaces, **configured("{}"), **service(), **more})


def walked(east: Objects | None = None, west: Objects | None = None, **spec: Any) -> service_view.ServiceView:
    """Return how east's clients see west, with these objects there."""
    clusters = {"east": cluster("east", **(east or {})), "west": cluster("west", **(west or {}))}
    found = service_view.views(Mesh(mesh(**spec).spec, clusters))
    return next(view for view in found if view.client == "east")


def named(east: Objects | None = None, west: Objects | None = None, **spec: Any) -> list[tuple[Link, Impact, str, str]]:
    """Return link, impact, cluster with the object's name, and field of each hindrance."""
    view = walked(east, west, **spec)
    assert not view.reason
    return [(h.link, h.impact, f"{h.cluster} {WORDS[h.kind]} {h.namespace}/{h.name}", h.field) for h in view.hindrances]


def test_nothing_stands_between_healthy_clusters() -> None:
    """In both directions."""
    clusters: Any = {name: cluster(name) for name in ("east", "west")}
    found = service_view.views(Mesh(mesh().spec, clusters))
    assert [(view.client, view.server, view.hindrances, view.reason) for view in found] == [
        ("east", "west", (), ""),
        ("west", "east", (), ""),
    ]


SELECTED = "discoverySelectors: [{matchLabels: {mesh: shared}}]"
ISTIO = "east ConfigMap istio-system/istio"


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        (SELECTED, True),
        ("discoverySelectors: [{matchExpressions: [{key: team, operator: NotIn, values: [a]}]}]", True),
        ("discoverySelectors: [{matchLabels: {mesh: shared}}, {matchLabels: {team: a}}]", False),
        ("discoverySelectors: [{matchLabels: {kubernetes.io/metadata.name: sample}}]", False),
        ("discoverySelectors: [{}]", False),
        ("discoverySelectors: []", False),
    ],
)
def test_discovery_selectors_that_leave_the_other_namespace_out_are_named(settings: str, found: bool) -> None:
    """5.2: those of the reader, by the labels that the namespace has in the other cluster."""
    expected = [(Link.DISCOVERY, BREAKS, ISTIO, "mesh: discoverySelectors")]
    assert named(configured(settings)) == (expected if found else [])


def test_discovery_selectors_name_the_namespace_and_its_labels() -> None:
    """And the label that would select it."""
    (one,) = walked(configured(SELECTED)).hindrances
    assert "leaves out namespace sample of west, whose labels are team=a" in str(one)
    assert one.wanted == "mesh=shared"


def test_the_other_clusters_own_selectors_keep_its_gateway_from_the_service() -> None:
    """Its istiod gives the gateway what it reads itself."""
    (found,) = named(west=configured(SELECTED))
    assert found == (Link.GATEWAY, BREAKS, "west ConfigMap istio-system/istio", "mesh: discoverySelectors")


EXPORT = "networking.istio.io/exportTo"
ANNOTATED, DEFAULT = f"metadata.annotations {EXPORT}", "mesh: defaultServiceExportTo"
WEST_GATEWAY = (Link.GATEWAY, "west Service sample/httpbin", f"{ANNOTATED}: .")
HOME = configured("defaultServiceExportTo: ['.']")


@pytest.mark.parametrize(
    ("east", "west", "found"),
    [
        ({}, service({EXPORT: "."}), [WEST_GATEWAY]),
        ({}, service({EXPORT: "., istio-system"}), []),
        ({}, service({EXPORT: "*,~"}), []),
        (service({EXPORT: "~"}), {}, [(Link.ENDPOINTS, "east Service sample/httpbin", f"{ANNOTATED}: ~")]),
        (service({EXPORT: "other"}), {}, [(Link.ENDPOINTS, "east Service sample/httpbin", f"{ANNOTATED}: other")]),
        (service({EXPORT: "."}), {}, []),
        ({}, HOME, [(Link.GATEWAY, "west ConfigMap istio-system/istio", f"{DEFAULT}: .")]),
        (configured("defaultServiceExportTo: ['~']"), {}, [(Link.ENDPOINTS, ISTIO, f"{DEFAULT}: ~")]),
        ({}, {**HOME, **service({EXPORT: "*"})}, []),
    ],
)
def test_export_to_is_named_where_it_hides_the_service(east: Objects, west: Objects, found: list[Any]) -> None:
    """5.3: from clients by their own cluster's object, and from the other cluster's gateway by that cluster's."""
    assert named(east, west) == [(link, BREAKS, where, field) for link, where, field in found]


def test_in_one_network_there_is_no_gateway_that_would_have_to_know_the_service() -> None:
    """Clients of its namespace get the pods."""
    assert named(west=service({EXPORT: "."}), topology={"network": "flat"}) == []


def test_cluster_local_hosts_are_named() -> None:
    """The client's meshConfig counts."""
    local = configured(f"serviceSettings: [{{settings: {{clusterLocal: true}}, hosts: ['{HOST}']}}]")
    assert named(local) == [(Link.ENDPOINTS, BREAKS, ISTIO, "mesh: serviceSettings.settings.clusterLocal")]
    assert named(west=local) == []


ELSEWHERE = {"egress": [{"hosts": ["istio-system/*"]}]}


@pytest.mark.parametrize(
    ("hosts", "imported"),
    [
        (["./*"], True),
        (["*/*"], True),
        ([f"sample/{HOST}"], True),
        (["sample/*.svc.cluster.local"], True),
        (["*/*.sample.svc.cluster.local"], True),
        (["istio-system/*"], False),
        (["other/*", "sample/web.sample.svc.cluster.local"], False),
        (["*/*", "~sample/*"], False),
        (["~/*"], False),
        (["*/*", "~other/*"], True),
    ],
)
def test_a_sidecar_that_leaves_the_host_out_is_named(hosts: list[str], imported: bool) -> None:
    """5.4: as istiod reads egress hosts."""
    expected = [(Link.ENDPOINTS, BREAKS, "east Sidecar sample/one", "spec.egress.hosts")]
    assert named(istio("Sidecar", {"egress": [{"hosts": hosts}]})) == ([] if imported else expected)


def test_the_sidecar_of_the_clients_own_pods_counts() -> None:
    """One that selects them before their namespace's, and that before the root namespace's; the server's do not."""
    assert named(west=istio("Sidecar", ELSEWHERE)) == []
    assert named(istio("Sidecar", {**ELSEWHERE, "workloadSelector": {"labels": {"app": "httpbin"}}})) == []
    (found,) = named(istio("Sidecar", ELSEWHERE, "istio-system", "default"))
    assert found[2] == "east Sidecar istio-system/default"
    open_ = istio("Sidecar", {"workloadSelector": {"labels": {"app": "sleep"}}, "egress": [{"hosts": ["*/*"]}]})
    both = {"sidecars": [*open_["sidecars"], *istio("Sidecar", ELSEWHERE, name="default")["sidecars"]]}
    assert named(both) == []
    root = istio("Sidecar", ELSEWHERE, "istio-system")["sidecars"]
    assert named({"sidecars": [*root, *istio("Sidecar", {})["sidecars"]]}) == []


@pytest.mark.parametrize(
    ("route", "imported"),
    [
        ({"route": [{"destination": {"host": HOST}}]}, True),
        ({"route": [{"destination": {"host": "web.example"}}], "mirror": {"host": HOST}}, True),
        ({"route": [{"destination": {"host": "web.example"}}], "mirrors": [{"destination": {"host": HOST}}]}, True),
        ({"route": [{"destination": {"host": HOST}}], "match": [{"sourceNamespace": "other"}]}, False),
        (
            {"route": [{"destination": {"host": HOST}}], "match": [{"sourceNamespace": n} for n in ("x", "sample")]},
            True,
        ),
    ],
)
def test_a_sidecar_imports_what_its_virtual_services_route_to(route: Object, imported: bool) -> None:
    """Istiod adds such destinations, of routes for the Sidecar's namespace."""
    sidecar = istio("Sidecar", {"egress": [{"hosts": ["shop/*"]}]})
    found = named({**sidecar, **istio("VirtualService", {"hosts": ["web.example"], "http": [route]}, "shop")})
    assert (not found) is imported


def test_a_port_of_another_name_is_the_cause_and_both_directions_name_one_change() -> None:
    """5.5: the cluster that comes later in the mesh file is to follow."""
    renamed = service(ports=[{**PORT, "name": "tcp-http"}])
    expected = (Link.ENDPOINTS, BREAKS, "west Service sample/httpbin", "spec.ports 8000")
    assert named(west=renamed) == [expected]
    clusters: Any = {"east": cluster("east"), "west": cluster("west", **renamed)}
    both = service_view.views(Mesh(mesh().spec, clusters))
    assert {(one.cluster, one.wanted) for view in both for one in view.hindrances} == {("west", "http")}


@pytest.mark.parametrize(
    ("port", "found"),
    [
        ({"port": 8001}, [(Link.GATEWAY, BREAKS)]),
        ({"appProtocol": "tcp"}, [(Link.ANSWERS, PERHAPS)]),
        ({"appProtocol": "http"}, []),
        ({"targetPort": 9999}, []),
    ],
)
def test_a_port_of_another_number_or_protocol_is_named(port: Object, found: list[Any]) -> None:
    """The SNI has the number; the protocol is what the client's cluster says."""
    assert [one[:2] for one in named(west=service(ports=[{**PORT, **port}]))] == found


def only(place: str, **rule: Any) -> Objects:
    """Return a VirtualService to a subset of one cluster, and the DestinationRule that has it."""
    subset = {"name": "mine", "labels": {"topology.istio.io/cluster": place}}
    route = {"route": [{"destination": {"host": "httpbin", "subset": "mine"}}], **rule}
    return {
        **istio("VirtualService", {"hosts": ["httpbin"], "http": [route]}, name="pin"),
        **istio("DestinationRule", {"host": HOST, "subsets": [subset]}),
    }


def test_a_route_to_a_subset_of_one_cluster_is_named() -> None:
    """5.7: all calls, or some; one to the other cluster's subset is in nobody's way."""
    pinned = (Link.ANSWERS, STEERS, "east VirtualService sample/pin", "spec.http[0].route")
    assert named(only("east")) == [pinned]
    assert named(only("west"), {"destinationrules": only("west")["destinationrules"]}) == []
    assert named(west=only("east")) == []
    (some,) = named(only("east", match=[{"headers": {"x": {"exact": "1"}}}]))
    assert some[1] is PERHAPS
    effect = walked(only("east")).hindrances[0].effect
    assert "past west" in effect
    assert "topology.istio.io/cluster=east" in effect


@pytest.mark.parametrize(
    ("spec", "count"),
    [
        ({"http": [{"route": [{"destination": {"host": "httpbin"}}]}]}, 0),
        ({"http": [{"route": [{"destination": {"host": "other"}}]}]}, 1),
        ({"http": [{"route": [{"destination": {"host": "httpbin", "subset": "gone"}}]}]}, 1),
        ({"gateways": ["istio-system/public"], "http": [{"route": [{"destination": {"host": "other"}}]}]}, 0),
        ({"http": [{"match": [{"sourceNamespace": "other"}], "route": [{"destination": {"host": "other"}}]}]}, 0),
        ({"http": [{"match": [{"sourceLabels": {"app": "web"}}], "route": [{"destination": {"host": "other"}}]}]}, 0),
        ({"http": [{"match": [{"gateways": ["public"]}], "route": [{"destination": {"host": "other"}}]}]}, 0),
        ({"http": [{"match": [{"port": 9}], "route": [{"destination": {"host": "other"}}]}]}, 0),
        ({"http": [{"match": [{"port": 8000}], "route": [{"destination": {"host": "other"}}]}]}, 1),
        ({"tcp": [{"route": [{"destination": {"host": "other"}}]}]}, 0),
        ({"tls": [{"match": [{"sniHosts": [HOST]}], "route": [{"destination": {"host": "other"}}]}]}, 0),
        ({"exportTo": ["other"], "http": [{"route": [{"destination": {"host": "other"}}]}]}, 0),
        ({"http": [{"redirect": {"uri": "/"}}]}, 1),
        ({"http": [{"directResponse": {"status": 503}}]}, 1),
        ({"http": [{"match": [{"uri": {"prefix": "/old"}}], "redirect": {"uri": "/"}}]}, 1),
        (
            {
                "http": [
                    {
                        "route": [
                            {"destination": {"host": "other"}, "weight": 90},
                            {"destination": {"host": "httpbin"}, "weight": 10},
                        ]
                    }
                ]
            },
            0,
        ),
    ],
)
def test_routes_count_where_clients_go_by_them(spec: Object, count: int) -> None:
    """Of sidecars, visible, and with no destination in the other cluster."""
    assert len(named(istio("VirtualService", {"hosts": ["httpbin"], **spec}))) == count


@pytest.mark.parametrize(
    ("name", "layer", "match", "found"),
    [
        ("https", "tls", {"sniHosts": [HOST]}, True),
        ("tls", "tls", {"sniHosts": [HOST], "gateways": ["mesh"], "sourceLabels": {"app": "web"}}, False),
        ("https", "tcp", {}, False),
        ("web", "tls", {"sniHosts": [HOST]}, False),
        ("web", "tcp", {}, True),
    ],
)
def test_routes_of_tls_are_for_ports_of_tls_and_those_of_tcp_for_others(
    name: str, layer: str, match: Object, found: bool
) -> None:
    """By the port's name; `web` says nothing."""
    port = service(ports=[{**PORT, "name": name}])
    route = {"match": [match], "route": [{"destination": {"host": "other"}}]}
    rule = istio("VirtualService", {"hosts": ["httpbin"], layer: [route]})
    assert bool(named({**port, **rule}, port)) is found


OFF = {"host": HOST, "trafficPolicy": {"tls": {"mode": "DISABLE"}}}


def test_mutual_tls_that_is_off_is_named_by_the_object_that_decides() -> None:
    """The caller's DestinationRule before PeerAuthentications; its own port before the whole."""
    field = "spec.trafficPolicy.tls.mode"
    rule = (Link.ENDPOINTS, BREAKS, "east DestinationRule sample/one", field)
    assert named(istio("DestinationRule", OFF)) == [rule]
    mutual = {**OFF, "trafficPolicy": {"tls": {"mode": "ISTIO_MUTUAL"}}}
    off = istio("PeerAuthentication", {"mtls": {"mode": "DISABLE"}})
    assert named({**istio("DestinationRule", mutual), **off}) == []
    ported = {"portLevelSettings": [{"port": {"number": 8000}, "tls": {"mode": "ISTIO_MUTUAL"}}]}
    assert named(istio("DestinationRule", {**OFF, "trafficPolicy": {**OFF["trafficPolicy"], **ported}})) == []  # type: ignore[dict-item]
    # West's own rule is for its gateway.
    assert [one[0] for one in named(west=istio("DestinationRule", OFF))] == [Link.GATEWAY]


@pytest.mark.parametrize(
    ("spec", "namespace", "found"),
    [
        ({"mtls": {"mode": "DISABLE"}}, "sample", True),
        ({"mtls": {"mode": "DISABLE"}}, "istio-system", True),
        ({"mtls": {"mode": "DISABLE"}}, "other", False),
        ({"mtls": {"mode": "STRICT"}}, "sample", False),
        ({"selector": {"matchLabels": {"app": "httpbin"}}, "mtls": {"mode": "DISABLE"}}, "sample", True),
        ({"selector": {"matchLabels": {"app": "sleep"}}, "mtls": {"mode": "DISABLE"}}, "sample", False),
        (
            {"selector": {"matchLabels": {"app": "httpbin"}}, "portLevelMtls": {"8080": {"mode": "DISABLE"}}},
            "sample",
            True,
        ),
        (
            {"selector": {"matchLabels": {"app": "httpbin"}}, "portLevelMtls": {"8000": {"mode": "DISABLE"}}},
            "sample",
            False,
        ),
    ],
)
def test_peer_authentications_count_for_the_pods_and_the_port_that_serve(
    spec: Object, namespace: str, found: bool
) -> None:
    """The pods' port, not the Service's."""
    links = [one[0] for one in named(istio("PeerAuthentication", spec, namespace))]
    assert links == ([Link.ENDPOINTS] if found else [])
    links = [one[0] for one in named(west=istio("PeerAuthentication", spec, namespace))]
    assert links == ([Link.GATEWAY] if found else [])


def test_in_one_network_client_and_server_must_agree_on_mutual_tls() -> None:
    """Plain calls to a plain server are answered."""
    flat: Any = {"topology": {"network": "flat"}}
    off, strict = ({"mtls": {"mode": mode}} for mode in ("DISABLE", "STRICT"))
    plain = istio("DestinationRule", OFF)
    assert named(plain, **flat) == []
    assert [one[:3] for one in named(plain, istio("PeerAuthentication", strict), **flat)] == [
        (Link.ANSWERS, BREAKS, "east DestinationRule sample/one")
    ]
    assert [one[2] for one in named(west=istio("PeerAuthentication", off), **flat)] == [
        "west PeerAuthentication sample/one"
    ]


def test_a_service_entry_of_the_same_host_is_named() -> None:
    """Of the same namespace: those of others stand back behind the client's own."""
    entry = istio("ServiceEntry", {"hosts": [HOST]})
    assert named(entry) == [(Link.ANSWERS, PERHAPS, "east ServiceEntry sample/one", "spec.hosts")]
    assert named(istio("ServiceEntry", {"hosts": [HOST]}, "other")) == []
    assert named(istio("ServiceEntry", {"hosts": [HOST], "exportTo": ["~"]})) == []
    assert named(istio("ServiceEntry", {"hosts": ["web.example"]})) == []


EAST = "cluster.local/ns/sample/sa/sleep"


def policy(action: str, *sources: Object, **rule: Any) -> Objects:
    """Return an AuthorizationPolicy of one rule."""
    rules = [{"from": [{"source": source} for source in sources], **rule}]
    return istio("AuthorizationPolicy", {"action": action, "rules": rules}, name="guard")


@pytest.mark.parametrize(
    ("west", "impact"),
    [
        (policy("DENY", {"principals": [EAST]}), BREAKS),
        (policy("DENY", {"principals": ["*/sa/sleep"]}), BREAKS),
        (policy("DENY", {"namespaces": ["sam*"]}), BREAKS),
        (policy("DENY", {"serviceAccounts": ["sleep"]}), BREAKS),
        (policy("DENY", {"trustDomains": ["cluster.local"]}), BREAKS),
        (policy("DENY", {"notPrincipals": ["*/sa/web"]}), BREAKS),
        (policy("DENY", {"principals": [EAST]}, to=[{"operation": {"paths": ["/admin"]}}]), PERHAPS),
        (policy("DENY", {"principals": [EAST]}, to=[{"operation": {"methods": ["POST"]}}]), None),
        (policy("DENY", {"principals": [EAST]}, to=[{"operation": {"ports": ["8080"]}}]), BREAKS),
        (policy("DENY", {"principals": [EAST]}, to=[{"operation": {"ports": ["8000"]}}]), None),
        (policy("DENY", {"ipBlocks": ["10.0.0.0/8"]}), PERHAPS),
        (policy("DENY", {"principals": ["*/sa/web"]}), None),
        (policy("DENY", when=[{"key": "source.principal", "values": [EAST]}]), BREAKS),
        (policy("DENY", {"requestPrincipals": ["*"]}), None),
        (policy("DENY", when=[{"key": "request.headers[x-debug]", "values": ["*"]}]), PERHAPS),
        (policy("ALLOW", {"principals": ["cluster.local/ns/sample/sa/web"]}), BREAKS),
        (policy("ALLOW", {"principals": [EAST]}), None),
        (policy("ALLOW", {"requestPrincipals": ["*"]}), BREAKS),
        (policy("ALLOW", {"remoteIpBlocks": ["10.0.0.0/8"]}), PERHAPS),
        (istio("AuthorizationPolicy", {}, name="guard"), BREAKS),
        (istio("AuthorizationPolicy", {"rules": [{}]}, name="guard"), None),
        (istio("AuthorizationPolicy", {"selector": {"matchLabels": {"app": "web"}}}, name="guard"), None),
        (istio("AuthorizationPolicy", {"targetRefs": [{"kind": "Service"}]}, name="guard"), None),
        (istio("AuthorizationPolicy", {}, name="guard", annotations={"istio.io/dry-run": "true"}), None),
        (policy("AUDIT", {"principals": [EAST]}), None),
        (policy("CUSTOM", {"principals": [EAST]}), PERHAPS),
    ],
)
def test_the_policy_that_refuses_the_clients_principal_is_named(west: Objects, impact: Impact | None) -> None:
    """5.6: by its name, as the server's sidecar would decide."""
    found = [one[:3] for one in named(west=west)]
    expected = [] if impact is None else [(Link.ANSWERS, impact, "west AuthorizationPolicy sample/guard")]
    assert found == expected
    assert named(east=west) == []


def test_an_alias_of_the_servers_mesh_stands_for_the_clients_trust_domain() -> None:
    """In a whole principal only."""
    aliases = configured("trustDomainAliases: [old.example]")
    assert named(west={**aliases, **policy("ALLOW", {"principals": ["old.example/ns/sample/sa/sleep"]})}) == []
    assert len(named(west={**aliases, **policy("ALLOW", {"principals": ["old.example/*"]})})) == 1


def test_what_an_istiod_does_not_read_shapes_nothing() -> None:
    """Objects of a namespace that its own selectors leave out."""
    sample = [held("Namespace", "sample", labels={"mesh": "shared"}), held("Namespace", "other")]
    settings = configured(SELECTED)
    off = istio("ServiceEntry", {"hosts": [HOST]}, "other")
    assert named({**settings, **off, "namespaces": sample}, {"namespaces": sample}) == []


@pytest.mark.parametrize(("revision", "count"), [("default", 1), ("1-30-2", 0)])
def test_an_object_of_another_revision_shapes_nothing(revision: str, count: int) -> None:
    """Labelled with one that is gone, or with a tag; here runs the one without a name."""
    off = istio("ServiceEntry", {"hosts": [HOST]}, labels={"istio.io/rev": revision})
    assert len(named(off)) == count


def test_a_route_of_the_clients_own_pods_is_for_all_calls() -> None:
    """Conditions that hold for each of them are none."""
    match = [{"sourceLabels": {"app": "sleep"}, "sourceNamespace": "sample", "port": 8000}]
    (found,) = named(only("east", match=match))
    assert found[:2] == (Link.ANSWERS, STEERS)


def test_a_delegate_has_the_routes_and_is_named() -> None:
    """The VirtualService that names it has none; one that the other may not see is none."""
    root = istio(
        "VirtualService", {"hosts": ["httpbin"], "http": [{"delegate": {"name": "part", "namespace": "shop"}}]}
    )
    spec = {"http": [{"route": [{"destination": {"host": "other"}}]}]}
    part = istio("VirtualService", spec, "shop", "part")
    both = {"virtualservices": [*root["virtualservices"], *part["virtualservices"]]}
    assert named(both) == [(Link.ANSWERS, STEERS, "east VirtualService shop/part", "spec.http[0].route")]
    hidden = istio("VirtualService", {**spec, "exportTo": ["."]}, "shop", "part")
    assert named({"virtualservices": [*root["virtualservices"], *hidden["virtualservices"]]}) == []


BACKEND = {"name": "other", "port": 8000}
ALL = {"path": {"type": "PathPrefix", "value": "/"}}
PARENT = {"group": "", "kind": "Service", "name": "httpbin", "namespace": "sample"}


def gamma(*rules: Object, kind: str = "HTTPRoute", name: str = "split", namespace: str = "sample", **more: Any) -> Any:
    """Return a route of the Gateway API whose parent is the Service, as an API server gives it."""
    parent = {**PARENT, **more.pop("parent", {})}
    found = [{"backendRefs": [BACKEND], "matches": [ALL], **rule} for rule in rules or [{}]]
    return istio(kind, {"parentRefs": [parent], "rules": found}, namespace, name, **more)


@pytest.mark.parametrize(
    ("route", "impact"),
    [
        (gamma(), STEERS),
        (gamma({"matches": [{"path": {"type": "PathPrefix", "value": "/v2/"}}]}), PERHAPS),
        (gamma({"matches": [{**ALL, "headers": [{"name": "x", "value": "1"}]}]}), PERHAPS),
        (gamma({"backendRefs": [BACKEND, {"name": "httpbin", "port": 8000}]}), None),
        (gamma({"backendRefs": [BACKEND, {"name": "httpbin", "port": 8000, "weight": 0}]}), STEERS),
        (gamma({"backendRefs": [{"name": "httpbin", "port": 8000}]}), None),
        (gamma({"backendRefs": []}), STEERS),
        (gamma({"backendRefs": [], "filters": [{"type": "RequestRedirect"}]}), STEERS),
        (gamma({"filters": [{"type": "ExtensionRef"}]}), None),
        (gamma({"backendRefs": [{"name": "other.sample", "port": 8000}]}), None),
        (gamma({"backendRefs": [{"group": "networking.istio.io", "kind": "Hostname", "name": HOST}]}), None),
        (gamma({"backendRefs": [{"group": "x.example", "kind": "Pool", "name": "httpbin"}]}), STEERS),
        (gamma(parent={"port": 8000}), STEERS),
        (gamma(parent={"port": 9000}), None),
        (gamma(parent={"name": "gone"}), None),
        (gamma(parent={"group": "gateway.networking.k8s.io", "kind": "Gateway"}), None),
        (gamma(namespace="other"), None),
        (gamma({"matches": [{"method": {"service": "a.B"}}]}, kind="GRPCRoute"), PERHAPS),
        (gamma({"matches": []}, kind="GRPCRoute"), STEERS),
        (gamma({"filters": [{"type": "URLRewrite"}]}, kind="GRPCRoute"), None),
    ],
)
def test_routes_of_the_gateway_api_for_the_service_count_as_virtual_services(route: Objects, impact: Any) -> None:
    """By what istiod makes of them; one in another namespace is for the clients there only."""
    kind = "HTTPRoute" if "httproutes" in route else "GRPCRoute"
    found = (Link.ANSWERS, impact, f"east {kind} sample/split", "spec.rules[0]")
    assert named(route) == ([found] if impact else [])
    assert named(west=route) == []


def test_gateway_api_routes_of_one_service_are_merged_and_precede_virtual_services() -> None:
    """The longest path comes first, whoever wrote it; those of the client's namespace before an older public rule."""
    home = {"backendRefs": [{"name": "httpbin", "port": 8000}]}
    young = gamma({**home, "matches": [{"path": {"type": "Exact", "value": "/get"}}]}, name="young")["httproutes"]
    old = gamma(creationTimestamp="1")["httproutes"]
    found = walked({"httproutes": [*young, *old]}).hindrances
    assert [(one.impact, one.name, one.field) for one in found] == [(STEERS, "split", "spec.rules[0]")]
    public = {"virtualservices": elsewhere("istio-system", "old", exportTo=["*"])}
    assert named({**public, **gamma(home, creationTimestamp="9")}) == []
    assert [one[2] for one in named(public)] == ["east VirtualService istio-system/old"]


def elsewhere(namespace: str = "sample", name: str = "one", **spec: Any) -> list[Object]:
    """Return a VirtualService that sends the Service's calls to another."""
    away = {"http": [{"route": [{"destination": {"host": "other"}}]}]}
    return istio("VirtualService", {"hosts": [HOST], **away, **spec}, namespace, name)["virtualservices"]


def test_of_several_virtual_services_the_private_one_counts() -> None:
    """Before an older one that is for all; and only what a Sidecar imports counts at all."""
    home = {"http": [{"route": [{"destination": {"host": "httpbin"}}]}]}
    private = istio(
        "VirtualService", {"hosts": ["httpbin"], "exportTo": ["."], **home}, name="young", creationTimestamp="2"
    )
    old = elsewhere("istio-system", "old")
    assert [one[2] for one in named({"virtualservices": old})] == ["east VirtualService istio-system/old"]
    assert named({"virtualservices": [*old, *private["virtualservices"]]}) == []
    assert named({"virtualservices": old, **istio("Sidecar", {"egress": [{"hosts": ["./*"]}]})}) == []
    assert len(named({"virtualservices": old, **istio("Sidecar", {"egress": [{"hosts": ["./*", "*/*"]}]})})) == 1


def subset(labels: Object, **more: Any) -> Objects:
    """Return a DestinationRule with one subset, v1."""
    return istio("DestinationRule", {"host": HOST, "subsets": [{"name": "v1", "labels": labels, **more}]})


TO_V1 = istio(
    "VirtualService", {"hosts": ["httpbin"], "http": [{"route": [{"destination": {"host": HOST, "subset": "v1"}}]}]}
)


def test_a_gateway_forwards_only_the_subsets_that_its_own_cluster_has() -> None:
    """The SNI has the subset's name; on one network nobody reads it."""
    rule = subset({"app": "httpbin"})
    assert named({**TO_V1, **rule}) == [(Link.GATEWAY, BREAKS, "east VirtualService sample/one", "spec.http[0].route")]
    assert named({**TO_V1, **rule}, rule) == []
    assert named({**TO_V1, **rule}, topology={"network": "flat"}) == []
    hidden = istio("DestinationRule", {**rule["destinationrules"][0]["spec"], "exportTo": ["."]})
    assert len(named({**TO_V1, **rule}, hidden)) == 1


def test_the_tls_of_the_subset_counts_that_is_called() -> None:
    """It is its own, else its rule's; and not asked where no call goes there."""
    plain = subset({"app": "httpbin"}, trafficPolicy={"tls": {"mode": "SIMPLE"}})
    west = subset({"app": "httpbin"})
    assert named(plain) == []
    assert named({**TO_V1, **plain}, west) == [
        (Link.ENDPOINTS, BREAKS, "east DestinationRule sample/one", "spec.subsets.v1.trafficPolicy.tls.mode")
    ]


def rules(*specs: Object, namespace: str = "sample") -> Objects:
    """Return DestinationRules of the Service, the oldest first."""
    made = [istio("DestinationRule", {"host": HOST, **spec}, namespace, f"r{n}") for n, spec in enumerate(specs)]
    return {"destinationrules": [one for objects in made for one in objects["destinationrules"]]}


PLAIN: Object = {"trafficPolicy": {"tls": {"mode": "DISABLE"}}}
SUBSETS: Object = {"subsets": [{"name": "v1", "labels": {"app": "httpbin"}}]}


@pytest.mark.parametrize(
    ("east", "found"),
    [
        (rules(SUBSETS, PLAIN), "r1"),
        (rules({"trafficPolicy": {"tls": {"mode": "ISTIO_MUTUAL"}}}, PLAIN), ""),
        (rules({"trafficPolicy": {}}, PLAIN), ""),
        (rules({"trafficPolicy": {}, "exportTo": ["*"]}, {**PLAIN, "exportTo": ["."]}), "r1"),
        (rules({**PLAIN, "exportTo": ["*"]}, {"trafficPolicy": {}, "exportTo": ["."]}), ""),
        (rules({**SUBSETS, "exportTo": ["."]}, {**PLAIN, "exportTo": [".", "other"]}), "r1"),
        (rules({**PLAIN, "workloadSelector": {"matchLabels": {"app": "sleep"}}}), "r0"),
        (rules({**PLAIN, "workloadSelector": {"matchLabels": {"app": "web"}}}), ""),
        (rules({"trafficPolicy": {}}, {**PLAIN, "workloadSelector": {"matchLabels": {"app": "sleep"}}}), "r1"),
        (rules({**PLAIN, "host": "*.sample.svc.cluster.local"}, {"trafficPolicy": {}}), ""),
        (rules({**PLAIN, "exportTo": ["other"]}), ""),
        (rules(PLAIN, namespace="istio-system"), "r0"),
        (rules({**PLAIN, "exportTo": ["."]}, namespace="istio-system"), ""),
        (rules(PLAIN, namespace="other"), ""),
    ],
)
def test_destination_rules_of_one_host_are_merged_and_selected_as_istiod_does(east: Objects, found: str) -> None:
    """The first policy of several, for the pods that a rule selects; the author is named."""
    names = [one[2].rpartition("/")[2] for one in named(east)]
    assert names == ([found] if found else [])


def test_a_subset_may_be_in_another_rule_of_the_same_host() -> None:
    """It is not missing then."""
    both = rules({"trafficPolicy": {}}, SUBSETS)
    assert named({**TO_V1, **both}, both) == []


def shaped(**spec: Any) -> Objects:
    """Return the probe's Service with other fields."""
    found = service()
    found["services"][0]["spec"] |= spec
    return found


@pytest.mark.parametrize(
    ("east", "west", "impact", "field"),
    [
        (shaped(internalTrafficPolicy="Local"), {}, BREAKS, "spec.internalTrafficPolicy Local"),
        (shaped(internalTrafficPolicy="Cluster"), {}, None, ""),
        ({}, shaped(internalTrafficPolicy="Local"), None, ""),
        (shaped(clusterIP="None"), {}, STEERS, "spec.clusterIP None"),
        ({}, shaped(clusterIP="None"), None, ""),
        ({"services": []}, shaped(clusterIP="None"), STEERS, "spec.clusterIP None"),
        (shaped(type="ExternalName", externalName="a.example"), {}, BREAKS, "spec.type ExternalName"),
        ({}, shaped(type="ExternalName", externalName="a.example"), BREAKS, "spec.type ExternalName"),
        (service(ports=[{**PORT, "port": 80}]), {}, BREAKS, "spec.ports 8000"),
        ({"services": []}, {}, None, ""),
    ],
)
def test_a_service_that_has_no_endpoints_for_others_is_named(
    east: Objects, west: Objects, impact: Impact | None, field: str
) -> None:
    """Its own cluster's object counts for clients."""
    found = [(one[1], one[3]) for one in named(east, west)]
    assert found == ([(impact, field)] if impact else [])


def test_a_selector_that_leaves_its_pods_out_is_named() -> None:
    """Where the workload runs there; without pods nothing is known."""
    view = walked(west=shaped(selector={"app": "httpbin", "version": "v2"}))
    assert "Service sample/httpbin in west (spec.selector) does not select httpbin-1" in str(view.hindrances[0])
    without = {"pods": cluster("west").objects["pods"][:1]}
    assert walked(west=without).hindrances == ()
    assert "no pod of sample/httpbin" in walked(west=without).reason


def test_a_server_without_a_sidecar_is_named_between_networks() -> None:
    """Its endpoints are left out; on one network clients call it in plain text."""
    sleep, httpbin = cluster("west").objects["pods"]
    for labels in ({"app": "httpbin"}, {"app": "httpbin", "security.istio.io/tlsMode": "disabled"}):
        bare = {"pods": [sleep, held("Pod", "httpbin-1", "sample", labels=labels)]}
        assert {(one[0], one[2]) for one in named(west=bare)} == {
            (Link.ENDPOINTS, "west Pod sample/httpbin-1"),
            (Link.GATEWAY, "west Pod sample/httpbin-1"),
        }
        assert named(west=bare, topology={"network": "flat"}) == []
        both = {"pods": [*bare["pods"], {**httpbin, "metadata": {**httpbin["metadata"], "name": "httpbin-2"}}]}
        assert {one[1] for one in named(west=both)} == {PERHAPS}


def test_a_mesh_without_automatic_mutual_tls_is_named() -> None:
    """Unless the client's DestinationRule says how."""
    off = configured("enableAutoMtls: false")
    found = (Link.ENDPOINTS, BREAKS, ISTIO, "mesh: enableAutoMtls")
    assert named(off) == [found]
    assert named({**off, **rules({"trafficPolicy": {"tls": {"mode": "ISTIO_MUTUAL"}}})}) == []


@pytest.mark.parametrize("dry", ["true", "True", "1", "t", "TRUE"])
def test_a_dry_run_is_one_in_all_the_words_of_go(dry: str) -> None:
    """As strconv.ParseBool takes them; others are none."""
    assert named(west=istio("AuthorizationPolicy", {}, annotations={"istio.io/dry-run": dry})) == []
    assert len(named(west=istio("AuthorizationPolicy", {}, annotations={"istio.io/dry-run": "yes"}))) == 1


@pytest.mark.parametrize(
    ("action", "rule", "impact"),
    [
        ("ALLOW", {"to": [{"operation": {"methods": ["GET"]}}]}, BREAKS),
        ("ALLOW", {"when": [{"key": "request.headers[x]", "notValues": ["1"]}]}, BREAKS),
        ("ALLOW", {"from": [{"source": {"principals": [EAST]}}]}, None),
        ("DENY", {"to": [{"operation": {"methods": ["POST"]}}]}, BREAKS),
        ("DENY", {"to": [{"operation": {"ports": ["9"], "paths": ["/a"]}}]}, None),
        ("DENY", {"from": [{"source": {"notRequestPrincipals": ["*"], "namespaces": ["other"]}}]}, None),
    ],
)
def test_what_a_policy_says_of_http_is_another_thing_on_other_ports(
    action: str, rule: Object, impact: Impact | None
) -> None:
    """An ALLOW of it allows nothing; a DENY of it denies more."""
    tcp = service(ports=[{**PORT, "name": "tcp"}])
    west = istio("AuthorizationPolicy", {"action": action, "rules": [rule]})
    assert [one[1] for one in named(tcp, {**tcp, **west})] == ([impact] if impact else [])


def test_cluster_domains_that_differ_are_named_between_networks() -> None:
    """The SNI has the client's own; on one network nobody reads it."""
    values = "{global: {proxy: {clusterDomain: k8s.corp}}}"
    injector = held("ConfigMap", "istio-sidecar-injector", "istio-system", data={"values": values})
    west = {"configmaps": [*configured("{}")["configmaps"], injector]}
    found = (Link.GATEWAY, BREAKS, "east Deployment istio-system/istiod", "--domain cluster.local")
    assert named(west=west) == [found]
    assert named(west, west) == []
    assert named(west=west, topology={"network": "flat"}) == []


def test_a_selector_that_is_none_makes_istiod_read_all() -> None:
    """As it says in its log; no KeyError."""
    for words in (
        "{key: a, operator: in, values: [b]}",
        "{key: a, operator: In}",
        "{key: a, operator: Exists, values: [b]}",
    ):
        assert named(configured(f"discoverySelectors: [{{matchExpressions: [{words}]}}]")) == []


def test_several_objects_are_reported_in_istios_order() -> None:
    """The first that breaks is the one to change first."""
    read = {"namespaces": [held("Namespace", "sample", labels={"mesh": "shared"})]}
    east = {**configured(SELECTED), **istio("Sidecar", ELSEWHERE), **read}
    found = named(east, policy("DENY", {"principals": [EAST]}))
    assert [one[2].split()[1] for one in found] == ["ConfigMap", "Sidecar", "AuthorizationPolicy"]


def test_what_cannot_be_read_or_is_not_there_is_unknown() -> None:
    """A pair that rests on it has the reason, and no pass."""
    assert "west has no Service sample/httpbin" in walked(west={"services": []}).reason
    assert "no pod of sleep in east" in walked({"pods": []}).reason
    istiod = held("Pod", "istiod", labels={"app": "istiod"})
    lost: Any = {"east": cluster("east"), "west": cluster("west", configmaps=[], pods=[istiod])}
    found = service_view.views(Mesh(mesh().spec, lost))
    assert all("west: no ConfigMap" in view.reason for view in found)


def test_mesh_wide_policies_are_those_of_mesh_configs_root_namespace() -> None:
    """Which need not be istiod's."""
    root, off = configured("rootNamespace: istio-config"), {"mtls": {"mode": "DISABLE"}}
    for kind, spec in (("PeerAuthentication", off), ("Sidecar", ELSEWHERE), ("DestinationRule", OFF)):
        assert [one[2] for one in named({**root, **istio(kind, spec, "istio-config")})] == [
            f"east {kind} istio-config/one"
        ]
        assert named({**root, **istio(kind, spec, "istio-system")}) == []
    assert len(named(west={**root, **istio("AuthorizationPolicy", {}, "istio-config")})) == 1


NEAREST = "networking.istio.io/traffic-distribution"
OUTLIERS = {"outlierDetection": {}}
HOME, AWAY = "eu/a", "us/b"


def placed(locality: str) -> Objects:
    """Return the cluster's pods in a locality."""
    pods = cluster("east").get("pods", "sample")
    for pod in pods:
        pod["metadata"]["labels"]["istio-locality"] = locality.replace("/", ".")
    return {"pods": pods}


def near(**spec: Any) -> Objects:
    """Return the probe's Service with fields of its own."""
    found = service()
    found["services"][0]["spec"] |= spec
    return found


def rule(**policy: Any) -> Objects:
    """Return a DestinationRule for the Service."""
    return istio("DestinationRule", {"host": HOST, "trafficPolicy": policy})


RANDOM = {"simple": "RANDOM"}
LOCALITY = {"localityLbSetting": {"enabled": True}}
LOCALITY_OFF = {"localityLbSetting": {"enabled": False}}
BY_NETWORK = {"localityLbSetting": {"failoverPriority": ["topology.istio.io/network"]}}


@pytest.mark.parametrize(
    ("east", "there", "field"),
    [
        (near(trafficDistribution="PreferClose"), HOME, "spec.trafficDistribution"),
        (near(trafficDistribution="PreferSameNode"), HOME, "spec.trafficDistribution"),
        (service({NEAREST: "PreferSameZone"}), HOME, f"annotation {NEAREST}"),
        (service({NEAREST: "Any"}), HOME, ""),
        (near(trafficDistribution="PreferClose") | rule(loadBalancer=LOCALITY_OFF), HOME, ""),
        (near(trafficDistribution="PreferClose") | rule(loadBalancer=RANDOM), HOME, "spec.trafficDistribution"),
        (rule(**OUTLIERS), AWAY, "spec.trafficPolicy.outlierDetection"),
        (rule(**OUTLIERS), HOME, ""),
        (rule(**OUTLIERS), "", ""),
        (rule(loadBalancer=LOCALITY), AWAY, ""),
        (rule(loadBalancer=LOCALITY, **OUTLIERS), AWAY, "spec.trafficPolicy.loadBalancer.localityLbSetting"),
        (rule(loadBalancer=LOCALITY_OFF, **OUTLIERS), AWAY, ""),
        (rule(loadBalancer=BY_NETWORK, **OUTLIERS), HOME, "spec.trafficPolicy.loadBalancer.localityLbSetting"),
        (rule(**OUTLIERS) | configured("localityLbSetting: {enabled: false}"), AWAY, ""),
    ],
)  # fmt: skip
def test_what_keeps_calls_with_nearer_endpoints_is_named_and_hinders_nobody(
    east: Objects, there: str, field: str
) -> None:
    """As GetEffectiveLbSetting has it: the policy first, then the Service, then the mesh; all but it want outliers."""
    found = named({**placed(HOME), **east}, placed(there) if there else None)
    assert [(link, at) for link, _, _, at in found] == ([(Link.PREFERENCE, field)] if field else [])


def test_a_namespace_may_ask_for_the_nearest() -> None:
    """By the annotation of the Service's namespace, unless the Service says otherwise."""
    space = held("Namespace", "sample", labels={"team": "a"})
    space["metadata"]["annotations"] = {NEAREST: "PreferClose"}
    spaces = {"namespaces": [space, held("Namespace", "istio-system")]}
    assert [at for *_, at in named(spaces)] == [f"annotation {NEAREST} of its namespace"]
    assert named({**spaces, **service({NEAREST: "Any"})}) == []


def test_a_service_that_asks_for_the_nearest_is_not_bound_by_the_shares_of_the_mesh() -> None:
    """MeshConfig's `distribute` counts only where neither a policy nor the Service says more."""
    shares = configured('localityLbSetting: {distribute: [{from: "eu/*", to: {"eu/*": 100}}]}')
    assert [link for link, *_ in named({**placed(HOME), **shares}, placed(AWAY))] == [Link.ENDPOINTS]
    nearest = near(trafficDistribution="PreferClose")
    assert [link for link, *_ in named({**placed(HOME), **shares, **nearest}, placed(AWAY))] == [Link.PREFERENCE]


@pytest.mark.parametrize(
    ("there", "labels", "found"),
    [
        (AWAY, {"topology.kubernetes.io/region": "eu"}, [STEERS]),
        (AWAY, {"topology.kubernetes.io/region": "us", "topology.kubernetes.io/zone": "b"}, []),
        ("", {"topology.kubernetes.io/region": "eu", "topology.istio.io/subzone": "r1"}, []),
        (AWAY, {"kubernetes.io/hostname": "node-1"}, []),
    ],
)
def test_a_subset_of_one_locality_leaves_out_the_servers_of_others(
    there: str, labels: Object, found: list[Impact]
) -> None:
    """5.7: by the labels that istiod gives endpoints; what was not read may be meant."""
    rule = subset(labels)
    west = {**placed(there), **rule} if there else rule
    assert [one[1] for one in named({**placed(HOME), **TO_V1, **rule}, west)] == found
