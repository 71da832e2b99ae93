"""Stage 08's checks: each can pass, fail and be unknown, and blames the right subject."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from meshkit.checks import control_plane, pair_traffic, remote_reader, remote_secrets
from meshkit.checks.finding import Verdict, overall
from meshkit.checks.question import Question
from meshkit.istio.control_plane import inventory, versions
from meshkit.istio.multicluster import remote_secrets as multicluster_remote_secrets
from meshkit.istio.multicluster.credentials import Credential
from meshkit.istio.proxies import proxy_status
from meshkit.istio.reading import Unread
from meshkit.stages import verify
from tests.support import healthy
from tests.support.healthy import call, facts, judged, mesh
from tests.unit.stages.discovery import test_stage as test_discovery

PASS, FAIL, UNKNOWN, WARN, SKIPPED = Verdict.PASS, Verdict.FAIL, Verdict.UNKNOWN, Verdict.WARN, Verdict.SKIPPED
PAIR, BACK = "east → west", "west → east"
HOUR = timedelta(hours=1)


def test_a_healthy_mesh_passes_every_check() -> None:
    """And each check speaks of each of its subjects."""
    findings = verify.check(mesh(), facts())
    assert overall(findings) is PASS
    splits = {"MK616", "MK843", "MK830", "MK831", "MK832", "MK833", "MK836", "MK838"}
    assert {f.id for f in findings} == {f"MK80{n}" for n in range(1, 10)} | splits
    assert {f.subject for f in findings} == {"east", "west", PAIR, BACK}


SPOILED = [
    ("MK801", "east", "identity", {"cluster_id": "Kubernetes"}, FAIL),
    ("MK801", "east", "identity", {"network": ""}, FAIL),
    ("MK801", "east", "identity", {"reason": "no answer"}, UNKNOWN),
    ("MK843", "east", "claims", {"cluster_id": "former"}, FAIL),
    ("MK616", "east", "opened", {"addresses": f"{healthy.address('west')}:15443"}, FAIL),
    ("MK802", PAIR, "secrets", {"key": "north", "annotation": "north", "leads_to": "north"}, FAIL),
    ("MK802", PAIR, "secrets", {"namespace": "default"}, SKIPPED),
    ("MK830", PAIR, "secrets", {"annotation": "north"}, FAIL),
    ("MK830", PAIR, "secrets", {"key": "north"}, FAIL),
    ("MK830", BACK, "identity", {"cluster_id": "Kubernetes"}, FAIL),
    ("MK830", BACK, "identity", {"reason": "no answer"}, UNKNOWN),
    ("MK831", PAIR, "identity", {"cluster_id": "west"}, FAIL),
    ("MK832", PAIR, "secrets", {"labelled": False}, FAIL),
    ("MK832", PAIR, "secrets", {"labelled": False, "paused": True}, FAIL),
    ("MK832", PAIR, "secrets", {"namespace": "default"}, FAIL),
    ("MK833", PAIR, "secrets", {"server": "https://127.0.0.1:6443"}, FAIL),
    ("MK833", PAIR, "secrets", {"server": "https://localhost:6443"}, FAIL),
    ("MK833", PAIR, "secrets", {"server": "https://[::]:6443"}, FAIL),
    ("MK833", PAIR, "secrets", {"server": ""}, FAIL),
    ("MK803", PAIR, "secrets", {"credential": "401", "leads_to": ""}, FAIL),
    ("MK803", PAIR, "secrets", {"credential": "403", "detail": "may not watch pods"}, PASS),
    ("MK836", PAIR, "secrets", {"credential": "403", "detail": "may not watch pods"}, FAIL),
    ("MK836", PAIR, "secrets", {"credential": "401", "leads_to": ""}, SKIPPED),
    ("MK836", PAIR, "secrets", {"detail": "may not watch configmaps of istio-system"}, WARN),
    ("MK803", PAIR, "secrets", {"credential": "mismatch", "leads_to": "east"}, FAIL),
    ("MK803", PAIR, "secrets", {"credential": "unreachable"}, UNKNOWN),
    ("MK803", PAIR, "secrets", {"credential": "untested", "auth": "exec"}, UNKNOWN),
    ("MK803", PAIR, "secrets", {"credential": "untested", "auth": "unreadable"}, FAIL),
    ("MK803", PAIR, "secrets", {"credential": "rejected", "auth": "exec", "detail": "exec is not allowed"}, FAIL),
    ("MK804", PAIR, "remotes", {"status": "syncing"}, FAIL),
    ("MK804", PAIR, "remotes", {"remote": "north"}, FAIL),
    ("MK804", PAIR, "remotes", {"status": "UNKNOWN", "reason": "no answer"}, UNKNOWN),
    ("MK805", "east", "gateways", {"network": ""}, FAIL),
    ("MK805", "east", "gateways", {"addresses": ()}, FAIL),
    ("MK805", "east", "gateways", {"port": 0}, FAIL),
    ("MK805", "east", "gateways", {"ready": 0}, FAIL),
    ("MK805", "east", "gateways", {"exposed_by": ()}, FAIL),
    ("MK806", BACK, "gateways", {"addresses": ("192.0.2.9",)}, PASS),
    ("MK838", BACK, "gateways", {"addresses": ("192.0.2.9",)}, FAIL),
    ("MK838", BACK, "gateways", {"addresses": ()}, UNKNOWN),
    ("MK838", BACK, "gateways", {"addresses": ("eastwest.example.com",)}, SKIPPED),
    ("MK838", BACK, "gateways", {"addresses": ("eastwest.example.com", "192.0.2.9")}, SKIPPED),
    ("MK838", BACK, "gateways", {"addresses": ("eastwest.example.com", "192.0.2.1")}, PASS),
    ("MK838", BACK, "gateways", {"addresses": ("2001:db8::1",)}, FAIL),
    ("MK838", PAIR, "gateways_seen", {"address": "192.0.2.9"}, FAIL),
    ("MK806", PAIR, "gateways_seen", {"network": "net-north"}, FAIL),
    ("MK807", "east", "certificates", {"anchor": "bb22", "roots": "bb22"}, FAIL),
    ("MK807", "west", "certificates", {"anchor": "bb22", "roots": "bb22"}, FAIL),
    ("MK807", "east", "certificates", {"anchor": ""}, FAIL),
    ("MK807", "east", "certificates", {"anchor": "", "roots": ""}, FAIL),
    ("MK807", "east", "certificates", {"reason": "no answer"}, UNKNOWN),
    ("MK808", "east", "certificates", {"not_after": -HOUR}, FAIL),
    ("MK808", "east", "certificates", {"not_before": HOUR}, FAIL),
    ("MK808", "east", "certificates", {"not_after": HOUR / 2}, WARN),
]


@pytest.mark.parametrize(("number", "subject", "table", "change", "verdict"), SPOILED)
def test_what_is_spoiled_is_found_by_its_check(
    number: str, subject: str, table: str, change: dict[str, Any], verdict: Verdict
) -> None:
    """One thing in east is changed (times are relative to now); the check that is about it says so."""
    now = datetime.now(UTC)
    change = {field: now + value if isinstance(value, timedelta) else value for field, value in change.items()}
    findings = verify.check(mesh(), facts(table, change))
    assert judged(findings, number, subject) == [verdict]
    assert all(f.remedy for f in findings if f.verdict is FAIL)


@pytest.mark.parametrize(
    ("number", "subject", "table", "verdict"),
    [
        ("MK801", "east", "identity", FAIL),
        ("MK802", PAIR, "secrets", FAIL),
        ("MK803", PAIR, "secrets", FAIL),
        ("MK804", PAIR, "remotes", FAIL),
        ("MK805", "east", "gateways", FAIL),
        ("MK806", PAIR, "gateways_seen", UNKNOWN),
        ("MK807", "east", "certificates", FAIL),
    ],
)
def test_what_is_not_there_is_no_pass(number: str, subject: str, table: str, verdict: Verdict) -> None:
    """East has no row at all."""
    assert judged(verify.check(mesh(), facts(table, none=True)), number, subject) == [verdict]


UNREAD = [
    ("identity", {"reason": "no answer"}, {"MK801": "east", "MK830": BACK, "MK831": PAIR, "MK843": "east"}),
    ("secrets", {"credential": "UNKNOWN", "detail": "no answer"}, {"MK802": PAIR, "MK803": PAIR}),
    ("remotes", {"status": "UNKNOWN", "reason": "no answer"}, {"MK804": PAIR}),
    ("gateways", {"reason": "no answer"}, {"MK805": "east", "MK806": BACK}),
    ("gateways_seen", {"reason": "no answer"}, {"MK806": PAIR, "MK616": "east"}),
    ("claims", {"reason": "no answer"}, {"MK843": "east"}),
    ("opened", {"reason": "no answer"}, {"MK616": "east"}),
    ("certificates", {"reason": "no answer"}, {"MK807": "east"}),
]


@pytest.mark.parametrize(("table", "row", "unknown"), UNREAD)
def test_a_cluster_that_cannot_be_read_is_unknown_and_nothing_else_is(
    table: str, row: dict[str, Any], unknown: dict[str, str]
) -> None:
    """Exactly the findings that rest on what was not read; none of them passes or fails."""
    findings = verify.check(mesh(), facts(table, only=row))
    assert {(f.id, f.subject) for f in findings if f.verdict is not PASS} == set(unknown.items())
    assert {f.verdict for f in findings} == {PASS, UNKNOWN}


def test_the_secret_that_istiod_reads_decides_not_a_copy_elsewhere() -> None:
    """A dead copy in another namespace spoils neither MK802 nor MK803."""
    known = facts()
    copies = [
        replace(one, namespace="another", credential=Credential.REFUSED)
        for one in known.remote_secrets.of("east", "west")
    ]
    known = known.with_readings(remote_secrets=known.remote_secrets.with_items([*copies, *known.remote_secrets]))
    assert overall(verify.check(mesh(), known)) is PASS


def test_two_secrets_of_one_cluster_fail() -> None:
    """Istiod takes the first and ignores the rest."""
    known = facts()
    twice = [*known.remote_secrets, *(replace(one, name="again") for one in known.remote_secrets)]
    known = known.with_readings(remote_secrets=known.remote_secrets.with_items(twice))
    assert judged(verify.check(mesh(), known), "MK831", PAIR) == [FAIL]


def test_a_cluster_that_is_read_twice_by_two_ids_fails() -> None:
    """Istiod would know each endpoint there twice, and send it more than its share."""
    known = facts()
    (own,) = known.remote_secrets.of("east")
    second = replace(own, name="old", key="Kubernetes", credential=Credential.WRONG_CLUSTER, leads_to="west")
    for change, verdict in (({}, FAIL), ({"key": "east"}, PASS), ({"labelled": False}, PASS)):
        rows = known.remote_secrets.with_items([*known.remote_secrets, replace(second, **change)])
        assert judged(verify.check(mesh(), known.with_readings(remote_secrets=rows)), "MK831", PAIR) == [verdict]


def test_a_remedy_takes_nothing_away_that_others_need() -> None:
    """A secret of several clusters loses one key; a reader is made in the root namespace, whatever is current."""
    known = facts()
    (own,) = known.remote_secrets.of("east")
    secrets = known.remote_secrets.with_items(
        [*known.remote_secrets, *(replace(own, name="all", key=k) for k in ("west", "north"))]
    )
    watched = [replace(one, secret=own.place) for one in known.remote_clusters]
    findings = verify.check(
        mesh(), known.with_readings(remote_secrets=secrets, remote_clusters=known.remote_clusters.with_items(watched))
    )
    [found] = [f for f in findings if (f.id, f.subject) == ("MK831", PAIR)]
    kubectl = "kubectl --context east -n istio-system"
    assert found.remedy == f"""{kubectl} patch secret all --type=json -p '[{{"op":"remove","path":"/data/west"}}]'"""
    assert (
        remote_secrets.delete_command(mesh(), known.remote_secrets, own)
        == f"{kubectl} delete secret istio-remote-secret-west"
    )
    made, handed = remote_secrets.create_command(mesh(mesh={"rootNamespace": "system"}), "east", "west").split(" | ")
    assert made == "istioctl create-remote-secret --context west -n system --name west"
    assert handed == "kubectl apply --context east -n system -f -"


def test_a_second_gateway_that_lets_nothing_through_is_reported() -> None:
    """Istiods go by its Service alone; one that they do not take for a gateway is no matter."""
    known = facts()
    (own,) = known.gateways.of("east")
    for change, verdict in (({"ready": 0}, FAIL), ({"ready": 0, "network": ""}, PASS), ({"addresses": ()}, PASS)):
        gateways = known.gateways.with_items([*known.gateways, replace(own, service="old", **change)])
        findings = verify.check(mesh(), known.with_readings(gateways=gateways))
        assert judged(findings, "MK805", "east") == [verdict]


LABEL = "kubectl --context east label service -n istio-system eastwest topology.istio.io/network=net-east --overwrite"


@pytest.mark.parametrize(
    ("change", "remedy"),
    [
        ({"network": ""}, LABEL),
        ({"network": "net-west"}, LABEL),
        ({"ready": 0, "selector": {"istio": "eastwest"}}, "get pods -n istio-system -l istio=eastwest"),
        ({"ready": 0, "pods": 0, "selector": {"istio": "eastwest"}},
         "scale deployment -n istio-system -l istio=eastwest --replicas=1"),
        ({"addresses": (), "type": "LoadBalancer"}, "describe service -n istio-system eastwest"),
        ({"addresses": (), "type": "NodePort"}, "eastwest traffic.istio.io/nodeSelector='{}'"),
        ({"addresses": (), "type": "ClusterIP"}, """eastwest -p '{"spec": {"type": "LoadBalancer"}}'"""),
        ({"port": 0}, "patch service -n istio-system eastwest --type=json -p '[{"),
        ({"exposed_by": ()}, "run stage 06"),
        ({"service": "", "reason": "no Service has the label"}, "run stage 06, which installs one"),
    ],
)  # fmt: skip
def test_the_remedy_gives_a_gateway_what_it_lacks(change: dict[str, Any], remedy: str) -> None:
    """MK805: for a missing label the command that sets it, not one that lists those which have it."""
    known = facts("gateways", change)
    [found] = [f for f in verify.check(mesh(), known) if (f.id, f.subject) == ("MK805", "east")]
    assert found.verdict is FAIL
    assert remedy in found.remedy
    assert "get service -A -l" not in found.remedy


@pytest.mark.parametrize(
    ("istiods", "claimed", "verdict"),
    [
        ([{}], ["east", "east"], PASS),
        ([{"cluster_id": "Kubernetes"}], ["east", "east"], FAIL),
        ([{"cluster_id": "Kubernetes"}], ["", "Kubernetes"], PASS),
        ([{"cluster_aliases": ("Kubernetes",)}], ["east", ""], PASS),
        ([{}], ["east", ""], FAIL),
        ([{}, {"istiod": "istiod-old", "cluster_id": "Kubernetes"}], ["east"], FAIL),
        ([{"reason": "no answer"}], ["east"], UNKNOWN),
        ([], ["east"], SKIPPED),
        ([{}], [], SKIPPED),
    ],
)
def test_an_istiod_that_forgot_its_id_refuses_its_proxies(
    istiods: list[dict[str, Any]], claimed: list[str], verdict: Verdict
) -> None:
    """MK843: values of before the migration were applied again; requests go on, and nobody notices."""
    own = [{**healthy.identity("east"), **change} for change in istiods]
    claims = [
        {"cluster": "east", "namespace": "shop", "proxy": f"web-{n}", "cluster_id": c} for n, c in enumerate(claimed)
    ]
    found = control_plane.check_accepted(
        mesh(),
        healthy.identities(own),
        proxy_status.CLAIMS.frame(claims),
        inventory.INVENTORY.frame([{"cluster": "east", "installer": "helm"}]),
    )
    [east] = [f for f in found if f.subject == "east"]
    assert east.verdict is verdict
    assert verdict is not FAIL or "global.multiCluster.clusterName: east" in east.remedy
    assert verdict is not FAIL or "the values of its Helm release" in east.remedy


def test_aliases_are_read_as_istiod_takes_them() -> None:
    """As one argument or two; those of other ids are none of its own."""
    assert versions.aliases(["discovery", "--clusterAliases=Kubernetes=east,old=east,x=west"], "east") == [
        "Kubernetes",
        "old",
    ]
    assert versions.aliases(["--clusterAliases", "old=east"], "east") == ["old"]
    assert versions.aliases(["discovery"], "east") == []


@pytest.mark.parametrize(
    ("label", "injected", "verdict"), [("", "", PASS), ("", "net-east", PASS), ("", "other", FAIL), ("other", "", FAIL)]
)
def test_a_flat_network_needs_no_label(label: str, injected: str, verdict: Verdict) -> None:
    """As Istio's guide for one network installs it."""
    known = facts("identity", {"network": label, "injected_network": injected})
    assert judged(verify.check(mesh(topology={"network": "flat"}), known), "MK801", "east") == [verdict]


def test_a_flat_network_needs_no_gateway() -> None:
    """Neither MK805 nor MK806 is asked, and endpoints must be pods."""
    flat = mesh(topology={"network": "flat"})
    assert not {f.id for f in verify.check(flat, facts())} & {"MK805", "MK806", "MK838"}
    direct = list(pair_traffic.check_pair(flat, facts(), call("east", "west", endpoints="10.0.0.7:8080")))
    assert overall(direct) is PASS
    assert judged(pair_traffic.check_pair(flat, facts(), call("east", "west")), "MK812", PAIR) == [FAIL]


CALLS = [
    ("MK811", {"error": "503: no healthy upstream", "answered": 0}, FAIL),
    ("MK811", {"sent": 0, "error": "no pod"}, UNKNOWN),
    ("MK811", {"answered_in": "east"}, FAIL),
    ("MK811", {"answered_in": "?"}, WARN),
    ("MK812", {"endpoints": ""}, FAIL),
    ("MK812", {"endpoints": "10.0.0.7:8080"}, FAIL),
    ("MK812", {"endpoints": "192.0.2.2:15443,10.0.0.7:8080"}, FAIL),
    ("MK813", {"client_certificate": ""}, FAIL),
    ("MK813", {"client_certificate": "renewed"}, WARN),
    ("MK813", {"client_identity": "spiffe://stranger"}, FAIL),
    ("MK813", {"server_identity": "spiffe://stranger"}, FAIL),
    ("MK814", {"client_counted": 19}, WARN),
    ("MK814", {"server_counted": 3}, WARN),
]


@pytest.mark.parametrize(("number", "change", "verdict"), CALLS)
def test_traffic_is_judged_by_who_answered_which_way_as_whom(
    number: str, change: dict[str, Any], verdict: Verdict
) -> None:
    """One thing about the calls from east to west is changed."""
    assert overall(list(pair_traffic.check_pair(mesh(), facts(), call("east", "west")))) is PASS
    assert judged(pair_traffic.check_pair(mesh(), facts(), call("east", "west", **change)), number, PAIR) == [verdict]


def test_a_pair_that_was_not_tried_has_one_unknown_finding() -> None:
    """Nothing is concluded from what was not sent."""
    findings = list(pair_traffic.check_pair(mesh(), facts(), call("east", "west", sent=0, error="no pod")))
    assert [(f.id, f.verdict) for f in findings] == [("MK811", UNKNOWN)]


def test_the_matrix_shows_the_worst_verdict_and_what_decided_and_unknown_where_nothing_was_said() -> None:
    """A cell without a finding is never a pass."""
    findings = list(pair_traffic.check_pair(mesh(), facts(), call("east", "west", endpoints="")))
    matrix = verify.pairs(mesh(), findings).set_index(["client", "server"])
    assert matrix.loc[("east", "west"), "verdict"] == "fail"
    assert matrix.loc[("east", "west"), "note"] == "MK812 no endpoint"
    assert matrix.loc[("west", "east"), "verdict"] == "unknown"


def test_a_pair_whose_checks_pass_or_are_skipped_is_whole() -> None:
    """One istiod has no replica to disagree with."""
    ask = ("MK837", "replicas agree", "east → west", "the same")
    known = [Question(*ask).answer(verdict, "") for verdict in (PASS, Verdict.SKIPPED)]
    matrix = verify.pairs(mesh(), known).set_index(["client", "server"])
    assert tuple(matrix.loc[("east", "west")]) == ("pass", "")
    assert matrix.loc[("west", "east"), "verdict"] == "unknown"


@pytest.mark.parametrize(
    ("taken", "deleted", "restart"),
    [
        (["west-2"], "west", False),
        (["west"], "west-2", False),
        (["west", "west-2"], "west-2", True),
        ([], "west-2", True),
        (["gone"], "west-2", True),
        (["west-2", None], "west-2", True),
    ],
)
def test_of_two_secrets_the_one_stays_that_istiod_has_taken(
    taken: list[str | None], deleted: str, restart: bool
) -> None:
    """MK831 and MK706: istiod does not load the other when the used one goes; if unknown, it is to restart."""
    known, name = facts(), "istio-remote-secret-"
    (own,) = known.remote_secrets.of("east")
    secrets = known.remote_secrets.with_items([*known.remote_secrets, replace(own, name=f"{name}west-2")])
    (seen,) = known.remote_clusters.of("east")
    watched = [
        replace(seen, istiod=f"istiod-{n}", secret=f"istio-system/{name}{one}") for n, one in enumerate(taken) if one
    ]
    unread = [Unread("east", "no answer", "istiod-9")] if None in taken else []
    remotes = multicluster_remote_secrets.seen_reading([*known.remote_clusters.of("west"), *watched], unread)
    known = known.with_readings(remote_secrets=secrets, remote_clusters=remotes)
    kubectl = "kubectl --context east -n istio-system"
    wanted = f"{kubectl} delete secret {name}{deleted}"
    wanted += f"; {kubectl} rollout restart deployment -l app=istiod" if restart else ""
    [found] = [f for f in verify.check(mesh(), known) if (f.id, f.subject) == ("MK831", PAIR)]
    assert (found.verdict, found.remedy) == (FAIL, wanted)
    discovery = replace(test_discovery.facts(), known=known)
    other = remote_reader.check_others(mesh(), discovery, "east", "west")
    assert (other.verdict, other.remedy) == (FAIL, wanted)


def test_of_two_secrets_the_one_that_istiod_has_taken_is_judged() -> None:
    """MK803: the other's dead token reads nothing."""
    known = facts()
    (own,) = known.remote_secrets.of("east")
    dead = replace(own, name="a-dead-one", credential=Credential.REFUSED, leads_to="")
    (seen,) = known.remote_clusters.of("east")
    for used, verdict in ((own, PASS), (dead, FAIL)):
        remotes = known.remote_clusters.with_items(
            [*known.remote_clusters.of("west"), replace(seen, secret=used.place)]
        )
        two = known.with_readings(
            remote_secrets=known.remote_secrets.with_items([*known.remote_secrets, dead]), remote_clusters=remotes
        )
        assert judged(verify.check(mesh(), two), "MK803", PAIR) == [verdict]
