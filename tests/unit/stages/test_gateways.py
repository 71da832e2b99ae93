"""Stage 06's checks: what a gateway is, where it should be, and who made it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from meshkit.changes.plan import Plan
from meshkit.checks import gateway_exposure
from meshkit.checks.finding import Finding, Verdict
from meshkit.errors import InputError
from meshkit.istio.multicluster import gateway_api, gateway_manifests, gateways
from meshkit.istio.multicluster import gateway_exposure as multicluster_gateway_exposure
from meshkit.istio.multicluster.gateway_exposure import CLOSED
from meshkit.istio.proxies import proxy_status
from meshkit.kube.mesh import Mesh, Unknown
from meshkit.spec import MeshSpec
from meshkit.stages import eastwest_gateway
from meshkit.stages import gateways as stages_gateways
from tests.support import healthy, planes
from tests.support.healthy import judged

PASS, FAIL, UNKNOWN, WARN, SKIPPED = Verdict.PASS, Verdict.FAIL, Verdict.UNKNOWN, Verdict.WARN, Verdict.SKIPPED


PAIR = "east → west"


SYSTEM = "istio-system"


Row = dict[str, Any]


def opened(cluster: str, service: str = "httpbin", namespace: str = "sample", endpoints: int = 1) -> Row:
    """Return a name that a gateway lets in."""
    part = multicluster_gateway_exposure.part_of(service, namespace, SYSTEM)
    sni = f"outbound_.80_._.{service}.{namespace}.svc.cluster.local"
    row = {"cluster": cluster, "namespace": namespace, "service": service, "port": 80, "endpoints": endpoints}
    addresses = ",".join(f"10.0.0.{n}:8080" for n in range(endpoints))
    return {**row, "addresses": addresses, "part_of": part, "sni": sni, "gateway": f"gw-{cluster}"}


def claim(cluster: str, **change: str) -> Row:
    """Return what a cluster's one proxy claims."""
    return {"cluster": cluster, "namespace": "sample", "proxy": "app", "network": f"net-{cluster}", **change}


def facts(east: Row | None = None, **change: list[Row]) -> gateway_exposure.GatewayFacts:
    """Return the facts of a healthy mesh after stage 07, with another gateway in east, or other tables."""
    known = healthy.facts("gateways", east) if east else healthy.facts()
    own = [{**healthy.gateway_seen(n), "network": f"net-{n}", "address": healthy.address(n)} for n in healthy.OTHER]
    both = [*own, *(healthy.gateway_seen(n) for n in healthy.OTHER)]
    return gateway_exposure.GatewayFacts(
        identity=known.identity,
        gateways=known.gateways,
        gateways_seen=healthy.seen(change.get("seen", both)),
        remotes=healthy.remotes(change.get("remotes", [healthy.remote(n) for n in healthy.OTHER])),
        opened=multicluster_gateway_exposure.OPENED.frame(change.get("opened", [opened(n) for n in healthy.OTHER])),
        claims=proxy_status.CLAIMS.frame(change.get("claims", [claim(n) for n in healthy.OTHER])),
        revisions={name: planes.unnamed() for name in healthy.OTHER},
    )


def proved(mesh: Mesh, known: gateway_exposure.GatewayFacts) -> list[Finding]:
    """Return what is proved when there is nothing left to change."""
    return stages_gateways.prove(mesh, known, Plan(mesh, stages_gateways.STAGE))


def test_a_healthy_mesh_passes_every_check() -> None:
    """And each check speaks of each of its subjects."""
    mesh = healthy.mesh()
    findings = [*stages_gateways.check(mesh, facts()), *proved(mesh, facts())]
    assert {f.verdict for f in findings} == {PASS}
    assert {f.id for f in findings} == {
        "MK109",
        "MK602",
        "MK603",
        "MK613",
        "MK614",
        "MK616",
        "MK801",
        "MK805",
        "MK806",
        "MK838",
    }
    assert {f.subject for f in findings} == {"east", "west", PAIR, "west → east"}


@pytest.mark.parametrize(
    ("domain", "hosts", "words"),
    [
        ("k8s.corp", ["*.local"], "*.local: no Service has such a name"),
        ("k8s.corp", ["*.svc.cluster.local", "httpbin.sample.svc.cluster.local"], "no Service has such a name"),
        ("k8s.corp", ["*.local", "*.sample.svc.k8s.corp"], ""),
        ("k8s.corp", None, ""),
        ("cluster.local", ["*.corp"], "no Service has such a name"),
        ("cluster.local", ["sample/*.local"], ""),
        ("cluster.local", ["*"], ""),
        ("cluster.local", ["httpbin.sample.svc.cluster.local"], ""),
    ],
)
def test_hosts_that_no_service_has_are_refused_before_there_is_a_gateway(
    domain: str, hosts: list[str] | None, words: str
) -> None:
    """MK613: of another domain than the cluster's; the gateway would let nobody in."""
    identity = healthy.identities({**healthy.identity(n), "cluster_domain": domain} for n in healthy.OTHER)
    known = replace(facts(), identity=identity)
    clusters = healthy.mesh().spec.model_dump(by_alias=True)["clusters"]
    one = healthy.mesh(clusters=[{**entry, "gateway": {"hosts": hosts} if hosts else {}} for entry in clusters])
    found = [f.observed for f in stages_gateways.check(one, known) if f.id == "MK613" and f.verdict is FAIL]
    assert len(found) == (2 if words else 0)
    assert all(words in observed for observed in found)


@pytest.mark.parametrize(
    ("change", "mode", "verdict"),
    [
        ({"network": ""}, "apply", FAIL),
        ({"network": "net-west"}, "apply", FAIL),
        ({"network": ""}, "plan", SKIPPED),
        ({"reason": "no answer"}, "apply", UNKNOWN),
    ],
)
def test_no_gateway_before_every_proxy_knows_its_network(change: Row, mode: str, verdict: Verdict) -> None:
    """Its local calls would go through the gateway; stage 05 is to change that, and the proxy is named."""
    findings = stages_gateways.check(healthy.mesh(), facts(claims=[claim("east", **change), claim("west")]), mode)
    assert judged(findings, "MK603", "east") == [verdict]
    assert judged(findings, "MK603", "west") == [PASS]
    assert all("sample/app" in f.observed for f in findings if f.verdict is FAIL)


def test_no_classic_gateway_is_made_beside_a_gateway_api_one_that_terminates_tls() -> None:
    """MK602: its owner has to let mutual TLS through; nothing of ours shares its listener."""
    api = {"service": "edge-istio", "made_by": "istiod", "exposed_by": (), "hosts": ()}
    known = facts({**api, "selector": {"gateway.networking.k8s.io/gateway-name": "edge"}})
    mesh = healthy.mesh()
    assert judged(stages_gateways.check(mesh, known), "MK602", "east") == [FAIL]
    one = replace(known.gateways.of("east")[0], exposed_by=("edge/edge",))
    assert not eastwest_gateway.closed_by_its_owner(one)
    asked: Any = Mesh(mesh.spec, {"east": None})
    assert stages_gateways.plan(asked, known).empty


def test_beside_another_revision_no_gateway_is_made() -> None:
    """MK109, also where a run begins here: the gateway would be of a revision that does not run."""
    other = replace(facts(), revisions={name: planes.named() for name in healthy.OTHER})
    assert judged(stages_gateways.check(healthy.mesh(), other), "MK109", "east") == [FAIL]
    made = stages_gateways.plan(healthy.mesh(), other)
    assert (made.empty, "MK109 of east" in made.withheld) == (True, True)


def test_a_listener_that_envoy_refuses_is_a_failure_though_the_old_one_goes_on() -> None:
    """MK613: all looks well by what is active."""
    config = [
        {
            "name": "0.0.0.0_15443",
            "active_state": {"listener": {}},
            "error_state": {"details": "the same matching rules"},
        }
    ]
    (reason,) = multicluster_gateway_exposure.parse_refusals(config)
    rows = [*(opened(n) for n in healthy.OTHER), {"cluster": "west", "gateway": "gw-west", "reason": reason}]
    (west,) = [f for f in proved(healthy.mesh(), facts(opened=rows)) if (f.id, f.subject) == ("MK613", "west")]
    assert (west.verdict, "the same matching rules" in west.observed) == (FAIL, True)
    assert list(multicluster_gateway_exposure.parse_refusals([{"name": "virtualInbound", "active_state": {}}])) == []


def test_a_flat_mesh_needs_no_gateway() -> None:
    """It says so, and plans nothing."""
    flat = healthy.mesh(topology={"network": "flat"})
    assert [f.verdict for f in stages_gateways.check(flat, facts())] == [SKIPPED]
    assert stages_gateways.plan(flat, facts()).empty
    assert proved(flat, facts()) == []


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        ({"service": "istio-eastwestgateway", "made_by": "istioctl, eastwest", "ready": 0}, PASS),
        ({"service": "istio-eastwestgateway", "made_by": "Helm, release edge"}, PASS),
        ({"service": "istio-eastwestgateway", "made_by": "Helm, release edge", "network": ""}, FAIL),
        ({"service": "istio-eastwestgateway", "made_by": "kubectl", "port": 0}, FAIL),
        ({"service": "another", "network": ""}, PASS),
        ({"service": "", "reason": "no Service has the label"}, PASS),
        ({"service": "", "reason": "it refuses the connection"}, UNKNOWN),
    ],
)
def test_what_stands_in_the_gateways_place_is_used_or_named(change: Row, verdict: Verdict) -> None:
    """Ours is brought up to date, what fits is used; a stranger of its name that does not fit is a conflict."""
    findings = stages_gateways.check(healthy.mesh(), facts(change))
    assert judged(findings, "MK602", "east") == [verdict]
    if verdict is FAIL:
        (conflict,) = [f for f in findings if f.verdict is FAIL]
        assert change["made_by"] in conflict.observed


def test_an_istiod_that_is_to_come_awaits_its_stage_in_plan_mode_only() -> None:
    """In apply mode it holds the stage."""
    bare = healthy.facts("identity", none=True)
    known = replace(facts(), identity=bare.identity)
    assert judged(stages_gateways.check(healthy.mesh(), known, "plan"), "MK801", "east") == [SKIPPED]
    assert judged(stages_gateways.check(healthy.mesh(), known), "MK801", "east") == [FAIL]


def test_the_other_networks_gateway_is_asked_for_only_where_it_can_be_known() -> None:
    """Before stage 07 an istiod watches no other cluster; after it, not to know the gateway is a failure."""
    own = [{**healthy.gateway_seen(n), "network": f"net-{n}", "address": healthy.address(n)} for n in healthy.OTHER]
    before = proved(healthy.mesh(), facts(seen=own, remotes=[]))
    assert (judged(before, "MK806", PAIR), judged(before, "MK806", "east")) == ([SKIPPED], [PASS])
    after = proved(healthy.mesh(), facts(seen=own))
    assert judged(after, "MK806", PAIR) == [FAIL]
    asleep = [{"cluster": "east", "status": "UNKNOWN", "reason": "no answer"}]
    silent = [{"cluster": "east", "reason": "no answer"}]
    assert judged(proved(healthy.mesh(), facts(seen=silent, remotes=asleep)), "MK806", PAIR) == [UNKNOWN]


NARROW = {"gateway": {"hosts": ["./*.sample.svc.cluster.local"]}}


@pytest.mark.parametrize(
    ("east", "hosts", "verdict"),
    [
        ([opened("east")], {}, PASS),
        ([opened("east")], NARROW, PASS),
        ([opened("east"), opened("east", "web", "shop")], NARROW, WARN),
        ([{"cluster": "east", "reason": CLOSED}], {}, FAIL),
        ([{"cluster": "east", "reason": "no answer"}], {}, UNKNOWN),
        ([opened("east"), {"cluster": "east", "reason": "no answer"}], {}, UNKNOWN),
    ],
)
def test_envoy_lets_in_what_the_file_says_and_nothing_else(east: list[Row], hosts: Row, verdict: Verdict) -> None:
    """A name beyond the hosts comes from another exposure."""
    entries = [{"name": n, "context": n, "network": f"net-{n}", **hosts} for n in healthy.OTHER]
    mesh = healthy.mesh(clusters=entries)
    assert judged(proved(mesh, facts(opened=[*east, opened("west")])), "MK613", "east") == [verdict]


@pytest.mark.parametrize(
    ("east", "verdict"),
    [
        ([opened("east"), opened("east", "kubernetes", "default", 0), opened("east", "istiod", SYSTEM, 0)], PASS),
        ([opened("east"), opened("east", "kubernetes", "default", 1)], WARN),
        ([opened("east"), opened("east", "istiod", SYSTEM, 1)], WARN),
        ([opened("east"), opened("east", "kube-dns", "kube-system", 2)], WARN),
        ([{"cluster": "east", "reason": "no answer"}], UNKNOWN),
        ([{"cluster": "east", "reason": CLOSED}], SKIPPED),
    ],
)
def test_a_control_plane_that_answers_through_the_gateway_is_a_warning(east: list[Row], verdict: Verdict) -> None:
    """One that is only named is none: nobody answers."""
    findings = proved(healthy.mesh(), facts(opened=[*east, opened("west")]))
    assert judged(findings, "MK614", "east") == [verdict]
    assert all("hosts" in f.remedy for f in findings if f.verdict is WARN)


@pytest.mark.parametrize(
    ("east", "verdict"),
    [
        ([opened("east")], PASS),
        ([opened("east") | {"addresses": "10.0.0.0:8080,192.0.2.2:15443"}], FAIL),
        ([opened("east") | {"addresses": "192.0.2.1:15443"}], PASS),
        ([{"cluster": "east", "reason": CLOSED}], SKIPPED),
        ([{"cluster": "east", "reason": "no answer"}], UNKNOWN),
        ([opened("east") | {"addresses": "192.0.2.2:15443"}, {"cluster": "east", "reason": "no answer"}], FAIL),
    ],
)
def test_a_gateway_that_sends_requests_back_to_another_gateway_is_found(east: list[Row], verdict: Verdict) -> None:
    """Its own address is no other network's; the remedy limits what istiod shows it."""
    findings = [f for f in proved(healthy.mesh(), facts(opened=[*east, opened("west")])) if f.id == "MK616"]
    assert [f.verdict for f in findings] == [verdict, PASS]
    assert ("ISTIO_META_REQUESTED_NETWORK_VIEW=net-east" in findings[0].remedy) == (verdict is FAIL)


def test_a_gateway_is_not_passed_where_no_istiod_says_which_gateways_it_knows() -> None:
    """Without that nobody can tell an endpoint from another network's gateway."""
    silent = [{"cluster": "east", "reason": "no answer"}]
    assert judged(proved(healthy.mesh(), facts(seen=silent)), "MK616", "east") == [UNKNOWN]


def of_gateway(**gateway: Any) -> Mesh:
    """Return a mesh file in which east's gateway is said to be so."""
    clusters = [{"name": name, "context": name, "network": f"net-{name}"} for name in healthy.OTHER]
    clusters[0]["gateway"] = gateway
    spec = MeshSpec.parse({"istio": {"revision": "1-31"}, "clusters": clusters}, where="test")
    return Mesh(spec, dict.fromkeys(healthy.OTHER))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("why", "mode", "verdict"),
    [
        ("", "apply", PASS),
        (gateway_api.NO_DEFINITIONS, "plan", FAIL),
        ("no istiod has made GatewayClass istio yet", "apply", FAIL),
        ("no istiod has made GatewayClass istio yet", "plan", SKIPPED),
        (Unknown("it is dead"), "apply", UNKNOWN),
    ],
)
def test_a_gateway_of_the_gateway_api_needs_its_definitions_and_an_istiod(
    why: str | Unknown, mode: str, verdict: Verdict
) -> None:
    """MK602: the class comes with the istiod of stage 05; the definitions are somebody else's."""
    known = replace(facts(), gateways=gateways.offered_reading(), not_deployed={"east": why, "west": ""})
    found = stages_gateways.check_place(of_gateway(kind="gateway-api"), known, "east", mode)
    assert (found.id, found.verdict) == ("MK602", verdict), found


def test_a_gateway_of_the_gateway_api_says_network_hosts_and_service() -> None:
    """Istiod copies labels and annotations to the Service; a host is a listener."""
    mesh = of_gateway(kind="gateway-api", serviceType="NodePort", annotations={"a": "b"}, hosts=["x", "y"])
    made = gateway_manifests.gateway_api(mesh.spec, "east")
    assert made["metadata"]["labels"] == {"topology.istio.io/network": "net-east", "istio.io/rev": "1-31"}
    assert made["metadata"]["annotations"] == {"a": "b", "networking.istio.io/service-type": "NodePort"}
    assert [one["hostname"] for one in made["spec"]["listeners"]] == ["x", "y"]
    assert gateway_api.listeners(made) == made["spec"]["listeners"]
    assert len({one["name"] for one in made["spec"]["listeners"]}) == 2


def test_a_remote_can_have_no_gateway_of_the_gateway_api() -> None:
    """No istiod is there that would make its pods."""
    clusters = [
        {"name": "east", "context": "east", "network": "net-east"},
        {"name": "west", "context": "west", "network": "net-west", "gateway": {"kind": "gateway-api"}},
    ]
    document = {"topology": {"controlPlane": "primary-remote"}, "clusters": clusters}
    with pytest.raises(InputError, match=r"gateway\.kind of west"):
        MeshSpec.parse(document, where="test")
