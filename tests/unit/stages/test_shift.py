"""Stage 10's checks on tables and on requests that a test makes up: each passes, fails, and is unknown."""

from __future__ import annotations

import time
from typing import Any

import pytest

from meshkit.checks.finding import Verdict
from meshkit.istio.proxies import workloads
from meshkit.kube.mesh import Mesh
from meshkit.probing import failover_state, load_generator
from meshkit.probing.load_generator import LoadStep
from meshkit.probing.request_log import Request
from meshkit.stages import shift
from tests.support import healthy
from tests.support.healthy import judged

PASS, FAIL, UNKNOWN, WARN, SKIPPED = Verdict.PASS, Verdict.FAIL, Verdict.UNKNOWN, Verdict.WARN, Verdict.SKIPPED
DEAD = {"reason": "it is dead"}
NAMES = ("east", "west")
Row = dict[str, Any]


def facts(spoiled: str = "", **change: Any) -> shift.ShiftFacts:
    """Return the facts of a mesh in which east's server may go away, but for the row of east in one table."""
    server = {"kind": "Deployment", "workload": "httpbin", "replicas": 1, "ready": 1, "answers": True}
    rows: dict[str, list[Row]] = {
        "rules": [],
        "workloads": [{**server, "cluster": name, "region": f"region-{name}"} for name in NAMES],
        "endpoints": [
            {"client": name, "where": where, "address": where, "health": "HEALTHY", "answers": True}
            for name in NAMES
            for where in ("elsewhere", "own")
        ],
    }
    if spoiled == "rules":
        rows["rules"] = [{"cluster": "east", "namespace": "sample", "name": "r", "host": "httpbin", **change}]
    elif spoiled:
        rows[spoiled][0] |= change
    columns = {
        "rules": failover_state.RULES.frame,
        "workloads": failover_state.SERVERS.frame,
        "endpoints": failover_state.ENDPOINTS.frame,
    }  # fmt: skip
    return shift.ShiftFacts("east", **{name: columns[name](rows[name]) for name in rows})


def test_where_the_server_may_go_away_every_check_passes() -> None:
    """And each was asked."""
    findings = shift.check(healthy.mesh(), facts())
    assert {f.verdict for f in findings} == {PASS}
    assert {f.id for f in findings} == {"MK1001", "MK1002", "MK1003", "MK1004", "MK1005", "MK1012"}


@pytest.mark.parametrize(
    ("number", "spoiled", "change", "verdict"),
    [
        ("MK1001", "rules", {"name": "others"}, FAIL),
        ("MK1001", "rules", {"ours": True}, PASS),
        ("MK1001", "rules", DEAD, UNKNOWN),
        ("MK1002", "workloads", {"ready": 0}, FAIL),
        ("MK1002", "workloads", {"replicas": 0, "ready": 0}, FAIL),
        ("MK1002", "workloads", {"reason": "no Service httpbin"}, FAIL),
        ("MK1002", "workloads", {**DEAD, "answers": False}, UNKNOWN),
        ("MK1003", "workloads", {"autoscaler": "HPA httpbin"}, WARN),
        ("MK1003", "workloads", {"gitops": "Flux"}, WARN),
        ("MK1012", "workloads", {"abrupt": "httpbin"}, WARN),
        ("MK1004", "endpoints", {"reason": "no ready pod of sleep"}, FAIL),
        ("MK1004", "endpoints", {**DEAD, "answers": False}, UNKNOWN),
        ("MK1005", "endpoints", {"where": "own"}, FAIL),
        ("MK1005", "endpoints", {"health": "FAILED_OUTLIER_CHECK"}, FAIL),
        ("MK1005", "endpoints", {"cx_connect_fail": 3}, FAIL),
        ("MK1005", "endpoints", {"cx_connect_fail": 3, "rq_success": 1}, PASS),
        ("MK1005", "endpoints", DEAD, UNKNOWN),
    ],
)
def test_what_makes_it_an_outage_holds_it(number: str, spoiled: str, change: Row, verdict: Verdict) -> None:
    """What only risks some requests warns."""
    assert judged(shift.check(healthy.mesh(), facts(spoiled, **change)), number, "east") == [verdict]


def test_in_plan_mode_what_earlier_stages_bring_is_awaited() -> None:
    """What nobody knows stays unknown."""
    assert judged(shift.check(healthy.mesh(), facts("endpoints", where="own"), "plan"), "MK1005", "east") == [SKIPPED]
    assert judged(shift.check(healthy.mesh(), facts("endpoints", **DEAD), "plan"), "MK1005", "east") == [UNKNOWN]


def test_the_order_goes_by_regions_where_each_cluster_is_one_of_its_own() -> None:
    """Else by Istio's label of the cluster; and outlier detection is always there."""
    mesh = healthy.mesh()
    assert shift.order(mesh, facts(), "west") == {"failover": [{"from": "region-west", "to": "region-east"}]}
    for region in ("region-west", ""):
        assert "failoverPriority" in shift.order(mesh, facts("workloads", region=region), "east")
    assert shift.rule(mesh, facts(), "east")["spec"]["trafficPolicy"]["outlierDetection"]["consecutive5xxErrors"] == 5


@pytest.mark.parametrize(
    ("host", "namespace", "verdict"),
    [
        ("httpbin", "sample", True),
        ("httpbin", "shop", False),
        ("httpbin.sample", "shop", True),
        ("httpbin.sample.svc.cluster.local", "istio-system", True),
        ("*.sample.svc.cluster.local", "istio-system", True),
        ("*", "istio-system", True),
        ("httpbin.shop.svc.cluster.local", "sample", False),
        ("httpbin2", "sample", False),
    ],
)
def test_a_rule_covers_the_host_by_every_name_that_istio_takes(host: str, namespace: str, verdict: bool) -> None:
    """Short, qualified, wild."""
    assert failover_state.covers(host, namespace, healthy.mesh().spec.probe) is verdict


def requests(mesh: Mesh, away: float = 0.2, back: float = 0.3, **change: Any) -> load_generator.Traffic:
    """Return 10 requests a second from each client: rule at 0 s, east away at 5, back at 15, settled at 20.

    Answers move `away` seconds after the step, and `back` seconds after the server's first new answer at 16 s. The
    request of east at 10 s is changed by the rest.
    """
    traffic, now = load_generator.Traffic(mesh), time.time() - 30
    traffic._homes = {"pod-east": "east", "pod-west": "west"}
    steps = {"rule east": (0, 3), "rule west": (0, 3), shift.AWAY: (5, 15), shift.BACK: (15, 20)}
    traffic.steps = {key: LoadStep(key, now + begun, now + settled) for key, (begun, settled) in steps.items()}
    for n in range(200):
        at = n / 10
        gone = 5 + away <= at < 16 + back and not (at >= 16 and n % 2)
        for client in NAMES:
            pod = "pod-west" if client == "west" or gone else "pod-east"
            said = {"status": 200, "seconds": 0.05 if client not in pod else 0.005, "answered_by": pod}
            known = {**said, **(change if (client, n) == ("east", 100) else {})}
            traffic._rows.append(Request(time=now + at, cluster=client, pod="sleep", **known))
    return traffic


def proved(traffic: load_generator.Traffic, number: str) -> list[Verdict]:
    """Return what is proved of east by its requests."""
    mesh = traffic.mesh
    findings = [
        shift.check_before(traffic, "east"),
        shift.check_moved(traffic, "east", shift.AWAY, 5),
        shift.check_moved(traffic, "east", shift.BACK, 5),
        shift.check_failed(mesh, traffic, "east"),
        shift.check_latency(mesh, traffic, "east"),
    ]
    return judged(findings, number, "east")


NUMBERS = ("MK1006", "MK1007", "MK1008", "MK1009", "MK1010")


def test_a_shift_that_loses_nothing_passes() -> None:
    """In every respect."""
    traffic = requests(healthy.mesh())
    assert [proved(traffic, number) for number in NUMBERS] == [[PASS]] * 5


def test_answers_that_move_too_late_fail() -> None:
    """Away counts from the step; back from the first answer at home, since a pod's start is not the mesh's matter."""
    assert proved(requests(healthy.mesh(), away=6), "MK1007") == [FAIL]
    assert shift.check_moved(requests(healthy.mesh(), back=3.5), "east", shift.BACK, within=3).verdict is FAIL


def test_a_failed_request_a_slow_one_and_one_from_elsewhere_fail() -> None:
    """By the gates of the mesh file."""
    gates = {"maxErrorRate": 0.0, "p99": 0.2}
    mesh = healthy.mesh(gates=gates)
    assert proved(requests(mesh, status=503, answered_by="", error="503"), "MK1009") == [FAIL]
    assert proved(requests(mesh), "MK1009") == [PASS]
    slow = requests(mesh)
    slow._rows = [
        Request(**{**vars(row), "seconds": 0.5}) if slow.home(row) != row.cluster else row for row in slow._rows
    ]
    assert proved(slow, "MK1010") == [FAIL]
    slow._homes["pod-east"] = "west"
    assert proved(slow, "MK1006") == [FAIL]


def test_without_answers_and_without_steps_nothing_is_known() -> None:
    """And nothing passes."""
    silent = load_generator.Traffic(healthy.mesh())
    assert [proved(silent, number) for number in NUMBERS] == [[UNKNOWN]] * 5


def test_answers_that_never_move_fail() -> None:
    """The step was reached, and the local cluster went on answering."""
    traffic = requests(healthy.mesh(), away=99)
    assert proved(traffic, "MK1007") == [FAIL]


HOOK = {"lifecycle": {"preStop": {"sleep": {"seconds": 2}}}}
PORTS = {"ports": [{"containerPort": 8080}]}


@pytest.mark.parametrize(
    ("containers", "abrupt", "risky"),
    [
        ([{"name": "app", **PORTS}], ["app"], True),
        ([{"name": "app", **PORTS, **HOOK}], [], False),
        ([{"name": "app"}], ["app"], False),
        ([{"name": "istio-proxy", **PORTS}], [], False),
        ([{"name": "app", **PORTS, **HOOK}, {"name": "side", **PORTS, "lifecycle": {"postStart": {}}}], ["side"], True),
    ],
)
def test_a_container_without_a_hook_ends_at_once(containers: list[Row], abrupt: list[str], risky: bool) -> None:
    """A restart risks requests where it serves a port; the proxy drains by itself."""
    workload = {"spec": {"replicas": 1, "strategy": {}, "template": {"spec": {"containers": containers}}}}
    assert workloads.abrupt(workload) == abrupt
    assert ("preStop" in workloads.risk("Deployment", workload)) is risky


def test_a_gap_is_reported_before_the_ending() -> None:
    """It is the greater risk."""
    template = {"spec": {"containers": [{"name": "app", **PORTS}]}}
    workload = {"spec": {"strategy": {"type": "Recreate"}, "template": template}}
    assert "Recreate" in workloads.risk("Deployment", workload)
