"""Stage 01: the topology follows from facts, and the mesh file is judged by it."""

from __future__ import annotations

import re
from datetime import date
from typing import Any

import pytest

from meshkit.checks import installers, topologies
from meshkit.checks import topology as checks_topology
from meshkit.checks.finding import Verdict
from meshkit.istio.ca import trust_store
from meshkit.istio.control_plane import inventory as control_plane_inventory
from meshkit.istio.control_plane import managed, versions
from meshkit.kube.mesh import Mesh
from meshkit.probing import api_server_reach, pod_reach
from meshkit.stages import assess
from tests.support import healthy
from tests.support.held import Held, held

PASS, WARN, FAIL, UNKNOWN, SKIPPED = (
    Verdict.PASS,
    Verdict.WARN,
    Verdict.FAIL,
    Verdict.UNKNOWN,
    Verdict.SKIPPED,
)
THE_MESH = "the mesh"
Row = dict[str, Any]


def facts(
    east: Row | None = None,
    west: Row | None = None,
    *,
    pods: str = "ok",
    api: Row | None = None,
    managers: list[Row] | None = None,
) -> checks_topology.AssessFacts:
    """Return what two healthy clusters on distinct, routed ranges show; a test changes what it is about."""
    common = {"kubernetes": "v1.37.2", "control_plane": "local", "installer": "istioctl", "api_scope": "private"}
    inventory = [
        {"cluster": "east", "uid": "e", "pod_ranges": "10.1.0.0/16", **common, **(east or {})},
        {"cluster": "west", "uid": "w", "pod_ranges": "10.2.0.0/16", **common, **(west or {})},
    ]
    tried = [
        {"client": a, "server": b, "address": "10.0.0.1:15017", "state": pods}
        for a, b in (("east", "west"), ("west", "east"))
    ]
    answers = {("east", "west"): "200", ("west", "east"): "200", **(api or {})}
    asked = [{"cluster": a, "target": b, "server": "https://x", "answer": answer} for (a, b), answer in answers.items()]
    balancers = [
        {"cluster": n, "namespace": "ns", "service": "lb", "address": "1.2.3.4", "state": "ready"}
        for n in healthy.OTHER
    ]
    return checks_topology.AssessFacts(
        inventory=control_plane_inventory.INVENTORY.frame(inventory),
        identity=versions.identity_reading(),
        versions=versions.VERSIONS.frame([]),
        roots=trust_store.root_reading(),
        load_balancers=control_plane_inventory.LOAD_BALANCERS.frame(balancers),
        api_servers=api_server_reach.REACH.frame(asked),
        pods=pod_reach.POD_TO_POD.frame(tried),
        managers=managed.MANAGERS.frame(managers or []),
    )


@pytest.mark.parametrize(
    ("given", "network"),
    [
        (facts(), "flat"),
        (facts(pods="no answer"), "multi"),
        (facts(pods="untried"), "multi"),
        (facts(pods="wrong certificate"), "multi"),
        (facts(pods="UNKNOWN"), "multi"),
        (facts(west={"pod_ranges": "10.1.128.0/17"}), "multi"),
        (facts(west={"pod_ranges": ""}), "multi"),
        (facts(west={"reason": "it is dead", "pod_ranges": ""}, pods="UNKNOWN"), "multi"),
    ],
)
def test_flat_is_recommended_only_where_it_was_seen_to_work(given: checks_topology.AssessFacts, network: str) -> None:
    """Distinct ranges and every pair tried; all else is multi, which works on either."""
    advice = checks_topology.recommend(given)
    assert advice.network == network
    assert network in set(advice.facts["speaks_for"])


def lacks(given: checks_topology.AssessFacts, network: str, plane: str) -> str:
    """Return what a topology lacks beside facts."""
    table = topologies.compare(checks_topology.recommend(given)).set_index(["network", "control_plane"])
    return str(table.loc[(network, plane), "lacks"])


def test_every_topology_stands_beside_what_was_found() -> None:
    """One is recommended; where all was tried and works, none lacks anything."""
    table = topologies.compare(checks_topology.recommend(facts()))
    assert len(table) == 6
    advised = table[table["recommended"] == "yes"]
    assert advised[["network", "control_plane", "made_by"]].to_numpy().tolist() == [
        ["flat", "multi-primary", "meshkit"]
    ]
    assert set(table["lacks"]) == {""}


def test_what_was_found_is_against_the_topologies_that_need_it() -> None:
    """Pods that do not answer: one network; a pending address: gateways; an API server one way only: two primaries."""
    pending = facts(pods="no answer", api={("east", "west"): "none"})
    balancers = pending.load_balancers.assign(address="", state="pending")
    given = checks_topology.AssessFacts(**{**vars(pending), "load_balancers": balancers})
    assert lacks(given, "flat", "external").startswith("pod to pod east → west: 10.0.0.1:15017: no answer")
    assert lacks(given, "multi", "external") == "; ".join(f"load balancer {n}: ns/lb is pending" for n in healthy.OTHER)
    assert "API server east → west: https://x" in lacks(given, "multi", "multi-primary")
    assert "API server" not in lacks(given, "multi", "primary-remote")


def test_an_api_server_that_nobody_reaches_is_against_each_control_plane() -> None:
    """Some istiod must read each cluster, whatever the topology."""
    given = facts(api={("east", "west"): "none", ("west", "east"): "none"})
    assert all("API server west → east" in lacks(given, "flat", plane) for plane in ("multi-primary", "external"))


VPC = {"pod_ranges_from": "pods"}
EAST_VPC, WEST_VPC = VPC | {"pod_ranges": "10.0.12.120/32"}, VPC | {"pod_ranges": "10.0.12.133/32"}


@pytest.mark.parametrize(
    ("west", "pods", "flat", "multi"),
    [
        (WEST_VPC, "ok", PASS, WARN),
        (WEST_VPC, "untried", WARN, PASS),
        (WEST_VPC, "UNKNOWN", UNKNOWN, PASS),
        (WEST_VPC, "no answer", FAIL, PASS),
        (VPC | {"pod_ranges": "10.0.12.120/31"}, "ok", FAIL, PASS),
        ({"pod_ranges": "10.0.12.0/24", "pod_ranges_from": "nodes"}, "ok", FAIL, PASS),
    ],
)
def test_addresses_that_were_seen_and_paths_that_were_tried_decide(
    west: dict[str, str], pods: str, flat: Verdict, multi: Verdict
) -> None:
    """MK103: two clusters in one VPC, no node has a podCIDR: neighbours are no overlap, the same address is one."""
    given = facts(east=EAST_VPC, west=west, pods=pods)
    assert verdicts(given, "MK103", network="flat") == [flat]
    assert verdicts(given, "MK103", network="multi") == [multi]


@pytest.mark.parametrize(
    ("given", "plane"),
    [
        (facts(), "multi-primary"),
        (facts(west={"control_plane": "none"}), "multi-primary"),
        (facts(west={"control_plane": "elsewhere"}), "external"),
        (facts(east={"control_plane": "serves others"}, west={"control_plane": "none"}), "primary-remote"),
        (facts(api={("west", "east"): "none"}), "primary-remote"),
        (facts(api={("west", "east"): "refused"}), "primary-remote"),
        (facts(east={"api_scope": "loopback"}), "primary-remote"),
        (facts(api={("west", "east"): "none", ("east", "west"): "none"}), "multi-primary"),
        (facts(api={("west", "east"): "UNKNOWN"}), "multi-primary"),
    ],
)
def test_the_control_plane_follows_from_istiods_and_from_who_reaches_whose_api_server(
    given: checks_topology.AssessFacts, plane: str
) -> None:
    """What is not known speaks for nothing."""
    assert checks_topology.recommend(given).control_plane == plane


def verdicts(
    given: checks_topology.AssessFacts, number: str, subject: str = THE_MESH, **topology: str
) -> list[Verdict]:
    """Return the verdicts of one check on a mesh file with this topology."""
    return healthy.judged(assess.check(healthy.mesh(topology=topology), given), number, subject)


@pytest.mark.parametrize(
    ("given", "said", "verdict"),
    [
        (facts(pods="no answer"), "multi", PASS),
        (facts(), "multi", WARN),
        (facts(), "flat", PASS),
        (facts(pods="untried"), "flat", WARN),
        (facts(pods="no answer"), "flat", FAIL),
        (facts(west={"pod_ranges": "10.1.0.0/24"}), "flat", FAIL),
        (facts(west={"reason": "it is dead"}), "multi", UNKNOWN),
    ],
)
def test_the_files_network_model_is_judged_by_the_facts(
    given: checks_topology.AssessFacts, said: str, verdict: Verdict
) -> None:
    """MK103: a choice that cannot work fails; one that could be better is said."""
    assert verdicts(given, "MK103", network=said) == [verdict]


@pytest.mark.parametrize(
    ("given", "said", "verdict"),
    [
        (facts(), "multi-primary", PASS),
        (facts(), "primary-remote", PASS),
        (facts(), "external", FAIL),
        (facts(west={"control_plane": "elsewhere"}), "multi-primary", FAIL),
        (facts(api={("west", "east"): "none"}), "multi-primary", WARN),
        (facts(east={"control_plane": "serves others"}), "multi-primary", FAIL),
        (facts(west={"reason": "it is dead"}), "multi-primary", UNKNOWN),
    ],
)
def test_topologies_that_are_not_built_are_said_to_be(
    given: checks_topology.AssessFacts, said: str, verdict: Verdict
) -> None:
    """MK104: whether the file asks for one, or the facts do."""
    found = [f for f in assess.check(healthy.mesh(topology={"controlPlane": said}), given) if f.id == "MK104"]
    assert [f.verdict for f in found] == [verdict]
    if verdict in (FAIL, WARN):
        assert "not yet built" in found[0].observed or "controlPlane: primary-remote" in found[0].remedy
        assert found[0].remedy


def test_two_contexts_of_one_cluster_fail() -> None:
    """MK102: by the UID of kube-system."""
    findings = list(checks_topology.check_distinct(facts(west={"uid": "e"})))
    assert [(f.subject, f.verdict) for f in findings] == [("east, west", FAIL)]
    assert verdicts(facts(), "MK102", "east") == [PASS]


@pytest.mark.parametrize(
    ("row", "verdict"),
    [
        ({"state": "pending", "namespace": "ns", "service": "lb"}, WARN),
        ({"state": "none"}, SKIPPED),
        ({"state": "UNKNOWN", "reason": "it is dead"}, UNKNOWN),
        ({"state": "ready", "namespace": "ns", "service": "lb", "address": "1.2.3.4"}, PASS),
    ],
)
def test_load_balancers_that_wait_are_seen(row: Row, verdict: Verdict) -> None:
    """MK106: a gateway would wait as well; none at all tells nothing."""
    given = facts()
    balancers = control_plane_inventory.LOAD_BALANCERS.frame([{"cluster": "east", **row}])
    changed = checks_topology.AssessFacts(**{**vars(given), "load_balancers": balancers})
    assert healthy.judged(assess.check(healthy.mesh(), changed), "MK106", "east") == [verdict]


def test_a_cluster_that_cannot_be_read_is_unknown() -> None:
    """MK101."""
    assert verdicts(facts(west={"reason": "it is dead"}), "MK101", "west") == [UNKNOWN]
    assert verdicts(facts(), "MK101", "west") == [PASS]


def istiod(namespace: str = "istio-system", image: str = "docker.io/istio/pilot:1.31.0", **metadata: Any) -> Any:
    """Return a Deployment of istiod."""
    made = held("Deployment", "istiod", namespace, spec={"template": {"spec": {"containers": [{"image": image}]}}})
    made["metadata"] |= {"labels": {"app": "istiod", **metadata.pop("labels", {})}, **metadata}
    return made


def named(name: str, **labels: str) -> Any:
    """Return an object of no namespace."""
    return held("Namespace", name, labels={key.replace("_", "/"): value for key, value in labels.items()})


def hook(url: str = "", revision: str = "") -> Any:
    """Return Istio's webhook."""
    client = {"url": url} if url else {"service": {"name": "istiod"}}
    webhooks = [{"name": "rev.namespace.sidecar-injector.istio.io", "clientConfig": client}]
    return {**held("Hook", "istio", labels={managed.REVISION: revision}), "webhooks": webhooks}


def proxy(name: str, *args: str) -> Any:
    """Return a running pod with a proxy."""
    containers = [{"name": "istio-proxy", "args": ["proxy", *args]}]
    return {**held("Pod", name, spec={"nodeName": "a", "containers": containers}), "status": {"phase": "Running"}}


ZTUNNEL, SIDECAR = proxy("ztunnel-1", "ztunnel"), proxy("web-1", "sidecar")
OF_REVISION = {"ownerReferences": [{"kind": "IstioRevision", "name": "default"}]}


@pytest.mark.parametrize(
    ("objects", "manager", "verdict"),
    [
        ({"namespaces": [named("aks-istio-system")]}, "aks", FAIL),
        ({"deployments": [istiod("istio-system", labels={managed.REVISION: "asm-1-27"})]}, "aks", FAIL),
        ({"namespaces": [held("Namespace", "shop", labels={managed.REVISION: "asm-1-27"})]}, "aks", FAIL),
        ({"namespaces": [held("Namespace", "shop", labels={managed.REVISION: "asm-managed"})]}, "gke-managed", FAIL),
        ({"mutatingwebhookconfigurations": [hook(revision="asm-managed-rapid")]}, "gke-managed", FAIL),
        ({"mutatingwebhookconfigurations": [hook("https://meshconfig.googleapis.com/v1/x")]}, "gke-managed", FAIL),
        ({"controlplanerevisions": [named("asm-managed")]}, "gke-managed", FAIL),
        ({"deployments": [istiod(labels={managed.REVISION: "asm-1264-1"})]}, "gke", WARN),
        ({"servicemeshcontrolplanes": [named("basic")]}, "maistra", FAIL),
        ({"istios": [named("default")]}, "kyma", FAIL),
        ({"deployments": [istiod("mesh", labels={"maistra.io/owner": "mesh"})]}, "maistra", FAIL),
        ({"istiorevisions": [named("default")]}, "sail", WARN),
        ({"deployments": [istiod(**OF_REVISION)]}, "sail", WARN),
        ({"deployments": [istiod(image="us-docker.pkg.dev/soloio-img/istio/pilot:1.30.1-solo")]}, "solo", WARN),
        ({"deployments": [istiod(image="us-docker.pkg.dev/gloo-mesh/istio-aa/pilot:1.30.1")]}, "solo", WARN),
        ({"pods": [ZTUNNEL, SIDECAR]}, "ambient-and-sidecars", WARN),
        ({"pods": [ZTUNNEL]}, "ambient", WARN),
    ],
)
def test_who_else_runs_istio_is_named_with_what_is_possible(
    objects: dict[str, list[Any]], manager: str, verdict: Verdict
) -> None:
    """MK107: in whatever namespace it lies; stage 05 must not put a second istiod beside a managed one."""
    both: Any = {"east": Held(**objects), "west": Held("west")}
    found = managed.managers(Mesh(healthy.mesh().spec, both))
    assert [(row["cluster"], row["manager"]) for row in found.to_dict("records")] == [("east", manager)]
    east, west = installers.check_managers(healthy.mesh(), found)
    assert (east.verdict, west.verdict) == (verdict, PASS)
    known = installers.known_managers()[manager]
    assert known.name in east.observed
    assert known.possible in east.remedy
    assert date.fromisoformat(known.looked_at)


@pytest.mark.parametrize(
    "objects",
    [
        {"deployments": [istiod(labels={managed.REVISION: "1-31-0"})], "pods": [SIDECAR]},
        {"deployments": [istiod(image="registry.corp/solo/pilot:1.31.0")]},
        {"mutatingwebhookconfigurations": [hook("https://istiod.example:15017/inject")]},
        {"namespaces": [held("Namespace", "asm", labels={managed.REVISION: "asm-canary-1"})]},
    ],
)
def test_an_istio_of_ones_own_is_nobody_elses(objects: dict[str, list[Any]]) -> None:
    """Names that only look like theirs, too."""
    both: Any = {"east": Held(**objects), "west": Held("west")}
    assert managed.managers(Mesh(healthy.mesh().spec, both)).empty
    assert verdicts(facts(managers=[{"cluster": "east", "reason": "it is dead"}]), "MK107", "east") == [UNKNOWN]


@pytest.mark.parametrize(("debug", "verdict"), [("on", [PASS]), ("off", [FAIL]), ("", [])])
def test_an_istiod_that_tells_nothing_holds_every_change(debug: str, verdict: list[Verdict]) -> None:
    """MK108: no change of 02 could be proved, so it is a gate there, too."""
    assert verdicts(facts(west={"debug": debug}), "MK108", "west") == verdict
    judged = checks_topology.check_debug(facts(west={"debug": debug}).inventory)
    assert [f.verdict for f in judged] == verdict
    assert all("values.pilot.env" in f.remedy for f in judged)


def test_no_advice_leaves_a_stage_out() -> None:
    """Who begins later lacks what an earlier one makes, such as west's sample."""
    later = re.compile(r"begin (at|with) stage (?!01)")
    assert [one.manager for one in installers.known_managers().values() if later.search(one.possible)] == []


@pytest.mark.parametrize(
    ("name", "now", "verdict"),
    [
        ("east", "Kubernetes", PASS),
        ("east", "", PASS),
        ("PROD_EU1", "Kubernetes", FAIL),
        ("PROD_EU1", "", FAIL),
        ("PROD_EU1", "PROD_EU1", PASS),
        ("prod.eu-west-1.example", "Kubernetes", FAIL),
        ("a" * 64, "Kubernetes", FAIL),
        ("PROD_EU1", None, UNKNOWN),
    ],
)
def test_no_cluster_is_renamed_to_an_id_that_no_secret_can_hold(name: str, now: str | None, verdict: Verdict) -> None:
    """MK110, in 01 and 05; an id that is there already is kept. Empty: no istiod; None: it could not be read."""
    clusters = [{"name": one, "context": one, "network": f"net-{n}"} for n, one in enumerate((name, "west"))]
    own = {"cluster": name, "reason": "no answer"} if now is None else {**healthy.identity(name), "cluster_id": now}
    identity = healthy.identities([own] if now != "" else [])
    mesh: Any = Mesh(healthy.mesh(clusters=clusters).spec, dict.fromkeys((name, "west")))
    found = {f.subject: f for f in checks_topology.check_ids(mesh, identity)}
    assert (found[name].verdict, found["west"].verdict) == (verdict, PASS)
    assert (verdict is FAIL) == ("DNS label" in found[name].observed)
