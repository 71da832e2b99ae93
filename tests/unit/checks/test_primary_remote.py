"""A healthy primary-remote mesh has no failure; and what such a mesh lacks is named, with its remedy."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import yaml

from meshkit.checks import control_plane, control_plane_paths, gateway_exposure, pair_table, pairs, remote_reader
from meshkit.checks import gateways as checks_gateways
from meshkit.checks import remote_secrets as checks_remote_secrets
from meshkit.checks import topology as checks_topology
from meshkit.checks.finding import Verdict, overall
from meshkit.istio.config import services
from meshkit.istio.control_plane import inventory
from meshkit.istio.multicluster import gateway_exposure as opened
from meshkit.istio.multicluster import gateways
from meshkit.istio.proxies import proxy_status
from meshkit.istio.reading import Unread
from meshkit.probing import api_server_reach, merged_service, pair_survey
from meshkit.probing.control_plane_reach import CONTROL_PLANE_REACH, TO_ISTIOD
from meshkit.snapshot.snapshot import Snapshot
from meshkit.stages import prepare, verify
from meshkit.stages.install import stage as install
from tests.support import healthy, topologies
from tests.support.healthy import judged
from tests.support.topologies import APART, REMOTE, address, primary_remote, remote
from tests.unit.stages import test_assess, test_prepare

PASS, FAIL, UNKNOWN, WARN, SKIPPED = Verdict.PASS, Verdict.FAIL, Verdict.UNKNOWN, Verdict.WARN, Verdict.SKIPPED
THERE, BACK = "east → west", "west → east"
THREE = {"east": "net-1", "west": "net-1", "north": "net-2"}
OUTSIDE = "its istiod is elsewhere (192.0.2.9)"
Row = dict[str, Any]


def facts(**readings: Any) -> Snapshot:
    """Return what is read of the healthy mesh: east's istiod serves west."""
    return topologies.facts(APART, REMOTE, **readings)


def served(**change: Any) -> Any:
    """Return the identity of east's istiod, which serves west; something of that may be different."""
    rows = topologies.identity(APART, REMOTE, **change)
    return topologies.identities(rows, [{"cluster": "west", "istiod": "", "reason": "east's istiod serves it"}])


def test_a_healthy_mesh_has_no_failure() -> None:
    """One-way remote secrets, and a cluster without istiod."""
    mesh, known = primary_remote(), facts()
    findings = pairs.check_all(mesh, known)
    assert overall(findings) is PASS, [f for f in findings if f.verdict not in (PASS, SKIPPED)]
    assert judged(findings, "MK802", THERE) == judged(findings, "MK803", THERE) == [PASS]
    for number in ("MK802", "MK803", "MK834"):
        assert judged(findings, number, BACK) == [SKIPPED]
    for number in ("MK804", "MK806", "MK838", "MK839", "MK840", "MK842"):
        assert judged(findings, number, BACK) == [PASS], number
    assert {f.verdict for f in control_plane.check_istiods(mesh, known.identity)} == {PASS}
    assert not any("create-remote-secret" in f.remedy for f in findings)


def test_both_pairs_are_shown_as_whole_with_the_istiod_that_serves_them() -> None:
    """`meshkit pairs`."""
    mesh, known = primary_remote(), facts()
    table = pair_table.table(mesh, known, pairs.check_all(mesh, known)).set_index(["client", "server"])
    assert set(table["verdict"]) == {"pass"}
    assert table.loc[("west", "east"), "istiod"] == "istiod-east"
    assert table.loc[("west", "east"), "gateway_seen"] == address("east")
    assert (table.loc[("west", "east"), "knows"], table.loc[("west", "east"), "sync"]) == (1, "synced")


def test_stage_08_takes_it_for_joined() -> None:
    """No secret is missing."""
    assert checks_remote_secrets.unjoined(primary_remote(), facts()) == ""
    without = facts(remote_secrets=healthy.secrets([]))
    assert checks_remote_secrets.unjoined(primary_remote(), without) == "no remote secret for east → west"
    makers = {name: healthy.MAKERS[name] for name in ("certificates", "claims", "inventory", "opened")}
    known = facts(**{name: read([row(n) for n in APART]) for name, (row, read) in makers.items()}, revisions={})
    assert {f.verdict for f in verify.check(primary_remote(), known, "plan")} == {PASS, SKIPPED}


@pytest.mark.parametrize(
    ("reading", "number", "subject"),
    [
        ({"remote_secrets": healthy.secrets([])}, "MK802", THERE),
        ({"remote_clusters": healthy.remotes([healthy.remote("east")])}, "MK804", BACK),
        ({"gateways_seen": healthy.seen([healthy.gateway_seen("east")])}, "MK806", BACK),
    ],
)
def test_what_the_primarys_istiod_lacks_breaks_the_pair_that_needs_it(reading: Row, number: str, subject: str) -> None:
    """Of west's clients too."""
    findings = pairs.check_all(primary_remote(), facts(**reading))
    assert judged(findings, number, subject) == [FAIL]


def test_of_three_clusters_the_remote_reads_by_its_primarys_secret() -> None:
    """West needs none for north: east's istiod has it."""
    mesh = primary_remote(THREE)
    known = topologies.facts(THREE, REMOTE)
    findings = pairs.check_all(mesh, known)
    assert overall(findings) is PASS
    (skipped,) = [f for f in findings if (f.id, f.subject) == ("MK802", "west → north")]
    assert (skipped.verdict, "see east → north" in skipped.observed) == (SKIPPED, True)
    assert judged(findings, "MK802", "north → west") == [PASS]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"external": False}, "externalIstiod: true"),
        ({"leaders": ()}, "topology.istio.io/controlPlaneClusters=east"),
        ({"leaders": ("north",)}, "rollout restart"),
        ({"unsigned": ("istio-sidecar-injector",)}, "see MK802"),
        ({"own": True}, "remove one of the two"),
        ({"injects": False}, "run stage 05"),
        ({"claims": ("cluster/wets/net/net-west",)}, "injectionPath: /inject/cluster/west/net/"),
        ({"astray": ("192.0.2.77",)}, "run stage 05, which offers it"),
        ({"stale": ("one", "two")}, "west label mutatingwebhookconfiguration one two istio.io/rev=default --overwrite"),
    ],
)
def test_what_a_primary_needs_to_serve_another_cluster_is_named(change: Row, words: str) -> None:
    """One failure, with the command."""
    found = list(control_plane.check_istiods(primary_remote(), changed(**change)))
    assert judged(found, "MK801", "east") == [PASS]
    (bad,) = [f for f in found if f.verdict is FAIL]
    assert (bad.subject, words in bad.remedy) == ("west", True)


def changed(**change: Any) -> Any:
    """Return the identity of east's istiod, which serves west; something of what west has is different."""
    rows = topologies.identity(APART, REMOTE)
    one = replace(rows[0]["serves"][0], **change)
    return topologies.identities([{**rows[0], "serves": (one,)}])


def test_connected_proxies_do_not_prove_an_address_that_answers_no_new_connection() -> None:
    """They stay connected until istiod restarts; where a new connection is made, something leads on."""
    known = changed(astray=("192.0.2.77",), connected=True)
    there, gone = (control_plane.check_istiods(primary_remote(), known, silent=names) for names in ((), {"west"}))
    assert judged(there, "MK801", "west") == [PASS]
    assert judged(gone, "MK801", "west") == [FAIL]
    tried = [{"cluster": n, "way": TO_ISTIOD, "state": s} for n, s in (("east", "ok"), ("west", "no answer"))]
    assert control_plane_paths.silent(CONTROL_PLANE_REACH.frame(tried)) == {"west"}


@pytest.mark.parametrize("change", [{"unsigned": ("tag",)}, {"stale": ("tag",)}])
def test_a_remote_that_joins_gets_its_ca_bundles_later(change: Row) -> None:
    """In stage 07; one of another mesh's is no better than none, and no pod of it can have a sidecar."""
    known = changed(**change)
    found = control_plane.check_istiods(primary_remote(), known, joining=True)
    assert judged(found, "MK801", "west") == [SKIPPED]
    assert control_plane.joined(primary_remote(), known) == ["east"]
    assert control_plane.joined(primary_remote(), changed()) == ["east", "west"]


@pytest.mark.parametrize("leaders", [("*",), ("east", "north")])
def test_the_annotation_may_name_several_or_all(leaders: tuple[str, ...]) -> None:
    """As istiod reads it."""
    found = control_plane.check_istiods(primary_remote(), changed(leaders=leaders))
    assert {f.verdict for f in found} == {PASS}


def test_the_mesh_file_says_what_is_there() -> None:
    """A remote in a multi-primary file, and no remote in a primary-remote one, are one failure each."""
    said = list(control_plane.check_istiods(topologies.mesh(APART), served()))
    (bad,) = [f for f in said if f.verdict is FAIL]
    assert (bad.subject, "controlPlane: primary-remote" in bad.remedy) == ("west", True)
    both = list(control_plane.check_istiods(primary_remote(), topologies.facts(APART).identity))
    assert [f.subject for f in both if f.verdict is FAIL] == ["west"]


def test_a_cluster_that_nobody_serves_still_has_no_istiod() -> None:
    """As before."""
    known = topologies.identities(topologies.identity({"east": "net-east"}))
    for mesh in (topologies.mesh(APART), primary_remote()):
        assert judged(control_plane.check_istiods(mesh, known), "MK801", "west") == [FAIL]


def outside() -> Any:
    """Return the identity of a mesh whose west is served by an istiod that is in no cluster of it."""
    rows = topologies.identity({"east": "net-east"})
    return topologies.identities(rows, [{"cluster": "west", "istiod": "", "reason": OUTSIDE}])


def test_of_an_istiod_outside_the_mesh_nothing_is_known_and_nothing_fails() -> None:
    """Its reason is reported, and no secret is asked for."""
    mesh, known = primary_remote(), facts(identity=outside())
    findings = [*pairs.check_all(mesh, known), *control_plane.check_istiods(mesh, known.identity)]
    for number in ("MK802", "MK803", "MK804", "MK806"):
        assert judged(findings, number, BACK) == [UNKNOWN], number
    (who,) = [f for f in findings if (f.id, f.subject) == ("MK801", "west")]
    assert (who.verdict, OUTSIDE in who.observed) == (UNKNOWN, True)
    assert FAIL not in {f.verdict for f in findings}
    opening = opened.OPENED.frame([{"cluster": "west", "sni": "outbound_.80_._.a.b.svc", "addresses": "10.0.0.1:80"}])
    exposed = gateway_exposure.GatewayFacts(
        outside(), known.gateways, known.gateways_seen, known.remote_clusters, opening, proxy_status.CLAIMS.frame([])
    )
    assert gateway_exposure.check_own_network(mesh, exposed, "west").verdict is UNKNOWN
    assert merged_service._reader("west", {"west": topologies.Remote("west", "", OUTSIDE)}) == ("west", OUTSIDE)
    assert merged_service._reader("west", {"west": topologies.Remote("west", "east")}) == ("east", "")
    assert merged_service._reader("east", {}) == ("east", "")


def test_only_an_istiod_needs_another_clusters_api_server() -> None:
    """West's way to east's may be shut, and its address be east's own loopback: that is why people have it so."""
    mesh, known = primary_remote(), facts()
    shut = [{"cluster": "west", "target": "east", "server": "https://127.0.0.1", "answer": "none", "detail": "silent"}]
    reach = api_server_reach.REACH.frame(shut)
    assert remote_reader.check_needed_reach(known.identity, reach, "west", "east").verdict is SKIPPED
    readers: Any = None
    assert {f.verdict for f in remote_reader.check_readable(mesh, readers, "east", read=False)} == {SKIPPED}
    rows = [{"cluster": n, "pod_ranges": "127.0.0.0/8", "api_server": "https://127.0.0.1"} for n in APART]
    found = control_plane_paths.check_ranges(
        mesh, known.identity, inventory.INVENTORY.frame(rows), known.gateways, api_server_reach.REACH.frame([])
    )
    assert judged(list(found), "MK734", BACK) == [PASS]


def test_the_primarys_istiod_gives_the_remotes_clients_their_gateways() -> None:
    """Their addresses are tried; the gateway of east is exposed by east's objects, and so is west's."""
    mesh, known = primary_remote(), facts()
    at = pair_survey.gateway_addresses(mesh, known.identity, known.gateways, known.gateways_seen)
    assert at["west", "east"] == [(address("east"), 15443)]
    east, west = topologies.primary(), remote()
    place = {"name": "cross", "namespace": "istio-system"}
    servers = [{"port": {"number": 15443}, "tls": {"mode": "AUTO_PASSTHROUGH"}, "hosts": ["*.local"]}]
    east.objects["gateways"] = [{"metadata": place, "spec": {"selector": {"istio": "ew"}, "servers": servers}}]
    west.objects["services"] = [
        *west.objects["services"],
        {
            "metadata": {"name": "ew", "namespace": "istio-system", "labels": {gateways.NETWORK: "net-west"}},
            "spec": {"selector": {"istio": "ew"}, "ports": [{"port": 15443}]},
        },
    ]
    found = gateways.gateways(topologies.mesh(APART, {"east": east, "west": west}))
    assert [one.exposed_by for one in found.of("west")] == [("istio-system/cross",)]


def test_the_primarys_mesh_config_says_which_services_stay_at_home() -> None:
    """Whatever the remote's own ConfigMap says: no istiod reads it."""
    east, west = topologies.primary(), remote()
    for cluster, hosts in ((east, ["*.shop.svc.cluster.local"]), (west, ["*.bank.svc.cluster.local"])):
        told = yaml.safe_dump({"serviceSettings": [{"settings": {"clusterLocal": True}, "hosts": hosts}]})
        place = {"name": "istio", "namespace": "istio-system"}
        cluster.objects["configmaps"] = [{"metadata": place, "data": {"mesh": told}}]
        cluster.objects["services"] = [
            *cluster.objects["services"],
            *({"metadata": {"name": "web", "namespace": space}, "spec": {}} for space in ("shop", "bank")),
        ]
    rows = services.services(topologies.mesh(APART, {"east": east, "west": west})).to_dict("records")
    local = {(row["cluster"], row["namespace"]): row["cluster_local"] for row in rows if row["service"] == "web"}
    assert local == {("east", "shop"): True, ("east", "bank"): False, ("west", "shop"): True, ("west", "bank"): False}


def test_stages_that_change_clusters_plan_nothing_beside_anothers_istiod() -> None:
    """Whatever the mesh file says: one failure, that names who serves whom."""
    mesh = topologies.mesh(APART)
    (bad,) = checks_topology.check_served(mesh, served())
    assert (bad.id, bad.verdict, "east's istiod serves it" in bad.observed) == ("MK104", FAIL, True)
    assert not list(checks_topology.check_served(mesh, topologies.facts(APART).identity))
    given = replace(test_prepare.facts(), identity=served())
    assert [f.subject for f in prepare.check(mesh, given) if f.id == "MK104"] == ["the mesh"]
    planned = prepare.plan(mesh, given)
    assert (planned.withheld.partition(" ")[0], planned.changes) == ("MK104", [])
    frame = install.PLANES.frame([])
    known: Any = install.InstallFacts(frame, frame, frame, frame, "", identity=served())
    assert install.plan(mesh, known).withheld.startswith("MK104")


def test_the_facts_call_for_primary_remote_not_for_an_external_control_plane() -> None:
    """Where the istiod is one of the mesh's."""
    known = replace(test_assess.facts(west={"control_plane": "elsewhere"}), identity=served())
    assert checks_topology.recommend(known).control_plane == "primary-remote"
    assert checks_topology.recommend(replace(known, identity=outside())).control_plane == "external"


def test_a_primary_that_is_unread_leaves_its_remote_unknown() -> None:
    """Not bare."""
    known = topologies.identities(
        [], None, [Unread("east", "dead"), Unread("west", f"{OUTSIDE}; not read: east: dead")]
    )
    found = list(control_plane.check_istiods(primary_remote(), known))
    assert {f.verdict for f in found} == {UNKNOWN}
    seen = checks_gateways.check_pair(
        primary_remote(), known, facts().gateways, gateways.seen_reading([], [Unread("west", "dead")]), ("west", "east")
    )
    assert {f.verdict for f in seen} == {UNKNOWN}
