"""Two clusters on one network and a third elsewhere: each pair is judged by the networks of its two clusters."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pandas as pd
import pytest

from meshkit.checks import control_plane_paths, gateways, known_defects, merged_service, pair_table, pairs
from meshkit.checks import namespaces as checks_namespaces
from meshkit.checks import topology as checks_topology
from meshkit.checks.finding import Verdict, overall
from meshkit.errors import InputError
from meshkit.istio.config import services
from meshkit.istio.control_plane import inventory, versions
from meshkit.istio.multicluster import gateway_choice, sync_wait
from meshkit.istio.multicluster import gateways as multicluster_gateways
from meshkit.probing import merged_service as probing_merged_service
from meshkit.probing import pair_survey, pod_reach
from meshkit.spec import MeshSpec
from meshkit.stages import eastwest_gateway
from meshkit.stages import gateways as stages_gateways
from meshkit.stages.install import stage as install
from meshkit.stages.trust import discovery_pause
from tests.support import healthy, topologies
from tests.support.healthy import judged
from tests.support.topologies import SHARED, address, gateway, pod, seen
from tests.unit.stages import test_assess

PASS, FAIL, UNKNOWN, WARN, SKIPPED = Verdict.PASS, Verdict.FAIL, Verdict.UNKNOWN, Verdict.WARN, Verdict.SKIPPED
NEAR, FAR, HERE = "east → west", "east → north", "north → west"
BY_GATEWAY = {FAR, HERE, "north → east", "west → north"}
Row = dict[str, Any]


def check_all(**readings: Any) -> Any:
    """Judge all links of all pairs."""
    return pairs.check_all(topologies.mesh(SHARED), topologies.facts(SHARED, **readings))


def test_the_mesh_file_takes_clusters_of_one_network_beside_others() -> None:
    """Not all of them: that is a flat mesh."""
    spec = topologies.mesh(SHARED).spec
    assert spec.direct_pairs == [("east", "west"), ("west", "east")]
    assert spec.crosses("east", "north")
    assert not spec.crosses("west", "east")
    flat = topologies.mesh(SHARED, topology={"network": "flat"}).spec
    assert not any(flat.crosses(*pair) for pair in flat.pairs)
    with pytest.raises(InputError, match="net-1 is the network of all clusters"):
        topologies.mesh(dict.fromkeys(SHARED, "net-1"))
    one: MeshSpec = topologies.mesh({"east": "net-1"}).spec
    assert one.direct_pairs == []


def test_a_healthy_mesh_of_shared_networks_has_no_broken_link() -> None:
    """Gateways and hellos are of pairs that cross networks only."""
    findings = check_all()
    assert overall(findings) is PASS
    assert {f.subject for f in findings if f.id in ("MK806", "MK838", "MK840", "MK841")} == BY_GATEWAY
    cells = pair_table.cells(topologies.mesh(SHARED), findings).set_index(["client", "server", "cell"])["verdict"]
    assert cells["east", "west", "gateway"] == cells["east", "west", "hello"] == "skipped"
    assert cells["east", "north", "gateway"] == "pass"


@pytest.mark.parametrize(("pair", "by_gateway"), [(("east", "west"), True), (("east", "north"), False)])
def test_each_pair_has_the_path_of_its_networks(pair: tuple[str, str], by_gateway: bool) -> None:
    """Pods within a network, the gateway between two; the other one is wrong."""
    rows = topologies.facts(SHARED).paths.to_dict("records")
    rows = [topologies.path(*pair, by_gateway=by_gateway) if (r["client"], r["server"]) == pair else r for r in rows]
    findings = check_all(paths=pd.DataFrame(rows))
    assert [f.subject for f in findings if f.verdict is FAIL] == [" → ".join(pair)]
    assert judged(findings, "MK839", " → ".join(pair)) == [FAIL]


def test_a_broken_gateway_breaks_no_pair_of_its_own_network() -> None:
    """East's clients reach west's pods without it."""
    rows = [gateway(n, net, **({"ready": 0} if n == "west" else {})) for n, net in SHARED.items()]
    facts = topologies.facts(SHARED, gateways=healthy.offered(rows))
    findings = pairs.check_all(topologies.mesh(SHARED), facts)
    assert judged(findings, "MK805", "west") == [FAIL]
    table = pair_table.table(topologies.mesh(SHARED), facts, findings).set_index(["client", "server"])["verdict"]
    assert (table["east", "west"], table["north", "west"]) == ("pass", "fail")


def without_west(**seen_too: Any) -> tuple[Any, Any]:
    """Return what is offered and seen where west has no gateway: istiods send what is for it through east's."""
    offered = healthy.offered([gateway(n, net) for n, net in SHARED.items() if n != "west"])
    rows = [seen(a, b, SHARED[b]) for a in SHARED for b in SHARED if b != "west"]
    return offered, healthy.seen(rows)


def test_a_cluster_without_a_gateway_is_reached_through_its_networks() -> None:
    """MK805 names whose; the addresses to try are that one's, and MK711 knows that it leads to both."""
    mesh, (offered, known) = topologies.mesh(SHARED), without_west()
    finding = gateways.check_gateway(mesh, offered, "west")
    assert (finding.verdict, "of east, on the same network" in finding.observed) == (PASS, True)
    assert pair_survey.addresses(mesh, offered, known, "north", "west") == [(address("east"), 15443)]
    (sight,) = [f for f in gateways.check_gateway_seen(mesh, offered, known, "north", "west") if f.id == "MK838"]
    assert sight.verdict is PASS
    own: Any = {name: {pod(name)} for name in SHARED}
    leads = probing_merged_service._clusters_of_address(mesh, "north", own, known, "north")
    assert leads[address("east")] == {"east", "west"}
    near = probing_merged_service._clusters_of_address(mesh, "east", own, known, "east")
    assert (near[pod("west")], address("east") in near) == ({"west"}, False)


def test_without_any_gateway_of_its_network_it_fails_or_is_unknown() -> None:
    """Of east, which cannot be read, nobody knows."""
    mesh = topologies.mesh(SHARED)
    north = [gateway("north", "net-2")]
    assert gateways.check_gateway(mesh, healthy.offered(north), "west").verdict is FAIL
    unread = [*north, {"cluster": "east", "reason": "it refuses the connection"}]
    assert gateways.check_gateway(mesh, healthy.offered(unread), "west").verdict is UNKNOWN


def test_a_clusters_own_gateway_comes_before_its_neighbours() -> None:
    """So istiod chooses; a stale address of west's is seen, although east's is right."""
    mesh, facts = topologies.mesh(SHARED), topologies.facts(SHARED)
    assert [one.address for one in gateway_choice.seen(mesh, facts.gateways_seen, "north", "west")] == [address("west")]
    assert [one.cluster for one in gateway_choice.offered(mesh, facts.gateways, "west")] == ["west"]
    rows = [seen("north", n, SHARED[n]) for n in SHARED]
    rows = [{**r, "address": "192.0.2.99"} if r["gateway_cluster"] == "west" else r for r in rows]
    findings = check_all(
        gateways_seen=healthy.seen([*rows, *(seen(a, b, SHARED[b]) for a in ("east", "west") for b in SHARED)])
    )
    assert judged(findings, "MK838", HERE) == [FAIL]
    assert judged(findings, "MK838", "north → east") == [PASS]


def test_clients_expect_pods_within_a_network_and_gateways_between_two() -> None:
    """MK711 says which."""
    mesh = topologies.mesh(SHARED)
    expected = {
        ask.known["subject"]: ask.known["expected"]
        for ask in merged_service.questions(mesh)
        if "→" in ask.known["subject"]
    }
    assert expected[NEAR] == "pods of west"
    assert expected[FAR].startswith("the gateway of north")
    silent = multicluster_gateways.seen_reading([], [healthy.Unread("east", "it tells nothing")])
    assert probing_merged_service._unseen(mesh, "east", silent) == ["north: it tells nothing"]


def ranges(**pod_ranges: str) -> pd.DataFrame:
    """Return an inventory with these pod ranges."""
    rows = [{"cluster": n, "pod_ranges": pod_ranges.get(n, f"10.{i}.0.0/16")} for i, n in enumerate(SHARED)]
    return inventory.INVENTORY.frame(rows)


@pytest.mark.parametrize(
    ("state", "own", "verdict"),
    [
        ("ok", {}, PASS),
        ("no answer", {}, FAIL),
        ("wrong certificate", {}, FAIL),
        ("untried", {}, WARN),
        ("UNKNOWN", {}, UNKNOWN),
        ("ok", {"west": "10.0.0.0/16"}, FAIL),
        ("ok", {"north": "10.0.0.0/16"}, PASS),  # of another network: only gateways tell them apart, and they do
    ],
)
def test_only_clusters_of_one_network_must_reach_each_others_pods(state: str, own: Row, verdict: Verdict) -> None:
    """And have distinct addresses."""
    mesh = topologies.mesh(SHARED)
    tried = [{"client": a, "server": b, "address": "10.0.0.1:15017", "state": state} for a, b in mesh.spec.direct_pairs]
    facts = replace(test_assess.facts(), inventory=ranges(**own), pods=pod_reach.POD_TO_POD.frame(tried))
    finding = checks_topology.check_network(mesh, facts, checks_topology.recommend(facts))
    assert finding.verdict is verdict, finding.observed
    assert "net-1" in finding.observed


def test_pods_are_tried_within_a_network_only() -> None:
    """A snapshot sends nothing to another network's pods."""
    mesh = topologies.mesh(SHARED, {name: topologies.Objects(name) for name in SHARED})
    tried = pod_reach.pods(mesh, mesh.spec.direct_pairs)
    assert {*zip(tried["client"], tried["server"], strict=True)} == {("east", "west"), ("west", "east")}


def test_a_neighbours_gateway_address_means_nothing_within_a_network() -> None:
    """It may be an address of the range that both share; between networks it must not."""
    mesh, facts = topologies.mesh(SHARED), topologies.facts(SHARED)
    rows = ranges(east="192.0.2.0/24", north="192.0.2.0/24")
    found = list(
        control_plane_paths.check_ranges(
            mesh, facts.identity, rows.assign(api_server="https://203.0.113.1"), facts.gateways,
            facts.remote_secret_reach,
        )
    )  # fmt: skip
    assert judged(found, "MK734", NEAR) == [PASS]
    assert judged(found, "MK734", HERE) == [FAIL]
    assert judged(found, "MK734", FAR) == [FAIL]


def test_waits_for_another_networks_gateway_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Within a network there is none to wait for; while discovery is paused, pods of it must be gone."""
    mesh = topologies.mesh(SHARED, {name: topologies.Objects(name) for name in SHARED})
    synced = topologies.facts(SHARED).remote_clusters
    own = synced.with_items(synced.of("east"))
    monkeypatch.setattr(sync_wait.remote_secrets, "remote_clusters", lambda _: own)
    monkeypatch.setattr(sync_wait.gateways, "gateways_seen", lambda _: multicluster_gateways.seen_reading())
    assert sync_wait.discovered(mesh, "east", "west", {})() == ""
    assert "no gateway of net-2 yet" in sync_wait.discovered(mesh, "east", "north", {})()
    facts = topologies.facts(SHARED)
    monkeypatch.setattr(discovery_pause.gateways, "gateways", lambda _: facts.gateways)
    slices = [{"metadata": {}, "endpoints": [{"addresses": [pod("west")]}], "ports": [{"port": 8080}]}]
    mesh.clusters["west"] = topologies.Objects("west", v1=slices, endpointslices=slices)  # type: ignore[assignment]
    near = discovery_pause._addresses(mesh, "east", ["west"])
    assert (address("west") + ":15443" in near, f"{pod('west')}:8080" in near) == (False, True)
    assert discovery_pause._addresses(mesh, "north", ["west"]) == {f"{address('west')}:15443"}


def test_only_readers_of_another_network_come_through_the_gateway() -> None:
    """Restarts of west concern them, and not east's clients."""
    mesh = topologies.mesh(SHARED)
    planes = install.PLANES.frame([{"cluster": name, "cluster_id": name} for name in SHARED])

    def read_by(name: str) -> bool:
        row = {"cluster": name, "istiod": "istiod", "remote": "west", "status": "synced", "secret": "ns/s"}
        known: Any = install.InstallFacts(planes, planes, planes, planes, "", readers=healthy.remotes([row]))
        return install._has_remote_clients(mesh, known, "west")

    assert (read_by("east"), read_by("north")) == (False, True)


def test_stage_06_makes_a_gateway_for_each_cluster_and_asks_for_it_across_networks() -> None:
    """So istiod has one for each (selectNetworkGateways)."""
    mesh, facts = topologies.mesh(SHARED), topologies.facts(SHARED)
    known: Any = stages_gateways.GatewayFacts(
        facts.identity, facts.gateways, facts.gateways_seen, facts.remote_clusters,
        opened=pd.DataFrame(), claims=pd.DataFrame(),
    )  # fmt: skip
    assert eastwest_gateway.in_use(mesh, known, "west") is not None
    found = stages_gateways.check_others(mesh, known, "north", "west")
    assert {f.verdict for f in found} == {PASS}


def test_a_headless_service_has_its_defect_within_a_network() -> None:
    """North has no neighbour whose headless pods its clients could have."""
    mesh = topologies.mesh(SHARED)
    rows = versions.VERSIONS.frame(
        [{"cluster": n, "component": "istiod", "name": "istiod", "version": "1.31.0"} for n in SHARED]
    )
    own = [{"cluster": n, "namespace": "a", "service": "b", "headless": True} for n in SHARED]
    found = known_defects.check(mesh, rows, services.SERVICES.frame(own), versions.FEATURES_IN_USE.frame([]))
    assert {f.subject for f in found if "headless" in f.observed} == {"east", "west"}


@pytest.mark.parametrize(
    ("network", "declared", "verdict"),
    [("net-1", "", PASS), ("", "net-1", PASS), ("net-2", "", FAIL), ("", "net-2", FAIL), ("", "", FAIL)],
)
def test_the_network_of_a_cluster_is_its_label_or_else_of_mesh_networks(
    network: str, declared: str, verdict: Verdict
) -> None:
    """As istiod takes it (Network of its registry)."""
    mesh = topologies.mesh(SHARED)
    found = checks_namespaces.check_network(mesh, "east", network, "", finished=True, declared=declared)
    assert found.verdict is verdict


def test_mesh_networks_say_the_network_where_no_label_does() -> None:
    """By fromRegistry, which is a cluster id."""
    east = topologies.primary()
    east.objects["namespaces"] = [topologies.namespace("")]
    networks = "networks: {net-1: {endpoints: [{fromRegistry: east}]}, net-2: {endpoints: [{fromRegistry: north}]}}"
    place = {"name": "istio", "namespace": "istio-system"}
    east.objects["configmaps"] = [{"metadata": place, "data": {"mesh": "{}", "meshNetworks": networks}}]
    reading = versions.identity(topologies.mesh({"east": "net-1"}, {"east": east}))
    assert [one.network for one in reading] == ["net-1"]
