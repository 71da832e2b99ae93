"""What keeps a cluster's clients from another cluster's endpoints: each object is named, with cluster and field."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from meshkit.istio.config import locality, service_view
from meshkit.istio.config.service_view import Impact, Link
from meshkit.kube.mesh import Mesh
from tests.support.healthy import mesh
from tests.support.held import Held, held

HOST = "httpbin.sample.svc.cluster.local"
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
        held("Pod", f"{app}-1", "sample", labels={"app": app}, spec={"containers": [], "serviceAccountName": app})
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
    return [
        (h.link, h.impact, f"{h.cluster} {service_view.WORDS[h.kind]} {h.namespace}/{h.name}", h.field)
        for h in view.hindrances
    ]


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


def test_a_sidecar_imports_what_its_virtual_services_route_to() -> None:
    """Istiod adds such destinations."""
    imported = istio("Sidecar", {"egress": [{"hosts": ["shop/*"]}]})
    spec = {"hosts": ["web.example"], "http": [{"route": [{"destination": {"host": HOST}}]}]}
    assert named({**imported, **istio("VirtualService", spec, "shop")}) == []


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
    assert named(only("west")) == []
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
        ({"exportTo": ["other"], "http": [{"route": [{"destination": {"host": "other"}}]}]}, 0),
        ({"http": [{"redirect": {"uri": "/"}}]}, 0),
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


OFF = {"host": HOST, "trafficPolicy": {"tls": {"mode": "DISABLE"}}}


def test_a_route_to_a_subset_that_no_rule_has_breaks() -> None:
    """Its calls get 503: that is no matter of taste."""
    route = {"route": [{"destination": {"host": "httpbin", "subset": "gone"}}]}
    found = (Link.ANSWERS, BREAKS, "east VirtualService sample/one", "spec.http[0].route")
    assert named(istio("VirtualService", {"hosts": ["httpbin"], "http": [route]})) == [found]


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
    """Of the same namespace, or another that is visible."""
    entry = istio("ServiceEntry", {"hosts": [HOST]}, "other")
    assert named(entry) == [(Link.ANSWERS, PERHAPS, "east ServiceEntry other/one", "spec.hosts")]
    assert named(istio("ServiceEntry", {"hosts": [HOST], "exportTo": ["."]}, "other")) == []
    assert named(istio("ServiceEntry", {"hosts": ["web.example"]})) == []


ENTRY: Object = {
    "hosts": [HOST],
    "ports": [{"number": 8000, "name": "http"}],
    "resolution": "STATIC",
    "endpoints": [{"address": "192.0.2.7"}],
}


@pytest.mark.parametrize(
    ("change", "namespace", "impact"),
    [
        ({}, "sample", BREAKS),
        ({}, "other", PERHAPS),
        ({"ports": [{"number": 8000, "name": "web"}]}, "sample", PERHAPS),
        ({"resolution": "NONE", "endpoints": []}, "sample", PERHAPS),
    ],
)
def test_a_service_entry_that_adds_endpoints_breaks(change: Object, namespace: str, impact: Impact) -> None:
    """Those of the Service's namespace and of a port of its name are the host's, too."""
    (one,) = walked(istio("ServiceEntry", {**ENTRY, **change}, namespace)).hindrances
    assert one.impact is impact
    assert ("adds 192.0.2.7 to the Service's endpoints" in one.effect) == (impact is BREAKS)


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


def selecting(**labels: str) -> Objects:
    """Return the probe's Service with another selector."""
    found = service()
    found["services"][0]["spec"] = {"selector": labels, "ports": [PORT]}
    return found


def test_a_selector_that_selects_none_of_the_pods_is_named() -> None:
    """The pods run, as the client's own Service knows; the patch takes the wrong label away."""
    (one,) = walked(west=selecting(app="httpbin", version="v2")).hindrances
    assert (one.link, one.impact) == (Link.DISCOVERY, BREAKS)
    assert "Service sample/httpbin in west (spec.selector app=httpbin,version=v2) selects no pod there" in str(one)
    assert "east's app=httpbin selects httpbin-1" in str(one)
    assert json.loads(one.wanted) == {"spec": {"selector": {"app": "httpbin", "version": None}}}
    assert not walked(west=selecting(app="httpbin", version="v2")).reason
    assert "no pod of sample/httpbin in west" in walked(selecting(app="x"), selecting(app="x")).reason


def nodes(name: str, *, zone: str = "a") -> Objects:
    """Return a cluster's node in a region of its name, with pods on it."""
    labels = {"topology.kubernetes.io/region": name, "topology.kubernetes.io/zone": zone}
    pods: list[Object] = [{**pod, "spec": {**pod["spec"], "nodeName": "node"}} for pod in cluster(name).get("pods")]
    return {"nodes": [held("Node", "node", labels=labels)], "pods": pods}


def distributed(to: Object, start: str = "east/*") -> Objects:
    """Return a DestinationRule that distributes calls by locality."""
    setting = {"localityLbSetting": {"distribute": [{"from": start, "to": to}]}}
    return istio("DestinationRule", {"host": HOST, "trafficPolicy": {"loadBalancer": setting}})


FIELD = "spec.trafficPolicy.loadBalancer.localityLbSetting.distribute"


@pytest.mark.parametrize(
    ("rule", "impact"),
    [
        (distributed({"east/*": 100}), BREAKS),
        (distributed({"east/a/*": 100}, "east/a"), BREAKS),
        (distributed({"east/*": 80, "west/*": 20}), None),
        (distributed({"east/*": 80, "*": 20}), None),
        (distributed({"east/*": 80, "west/b/*": 20}), BREAKS),
        (distributed({"east/*": 100}, "north/*"), None),
    ],
)
def test_a_distribution_by_locality_that_leaves_the_other_cluster_out_is_named(
    rule: Objects, impact: Impact | None
) -> None:
    """Istiod takes away what no share is for."""
    rules = [(Link.ENDPOINTS, impact, "east DestinationRule sample/one", FIELD)] if impact else []
    assert named({**nodes("east"), **rule}, nodes("west")) == rules


def test_the_distribution_of_mesh_config_counts_where_no_rule_has_one() -> None:
    """And where nobody knows the localities, it may hinder."""
    shares = "localityLbSetting: {distribute: [{from: 'east/*', to: {'east/*': 100}}]}"
    found = [(Link.ENDPOINTS, BREAKS, ISTIO, "mesh: localityLbSetting.distribute")]
    assert named({**nodes("east"), **configured(shares)}, nodes("west")) == found
    off = istio("DestinationRule", {"host": HOST, "trafficPolicy": {"loadBalancer": {"localityLbSetting": {}}}})
    assert named({**nodes("east"), **configured(shares), **off}, nodes("west")) == []
    anywhere = distributed({"east/*": 100}, "*")
    (unknown,) = named({**nodes("east"), **anywhere})
    assert unknown[1] is PERHAPS


def test_a_pods_own_label_says_its_locality() -> None:
    """Before its node's."""
    node = {"topology.kubernetes.io/region": "r", "topology.kubernetes.io/zone": "z"}
    assert locality.locality_of({}, node) == "r/z"
    assert locality.locality_of({"istio-locality": "a.b.c"}, node) == "a/b/c"
    assert locality.locality_of({"topology.istio.io/locality": "a/b.c"}, node) == "a/b.c"
    assert not locality.locality_of({}, {})


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
