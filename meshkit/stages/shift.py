"""Stage 10: the local server goes away and comes back, and the other clusters answer meanwhile.

All changes are temporary: a DestinationRule in each cluster that prefers the local one while it answers (Istio's
locality failover, which needs outlier detection), and one workload at 0 replicas for some seconds. It is done under
traffic from every cluster, and only where others have healthy endpoints: otherwise it would be an outage.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import pandas as pd

from meshkit import parameters
from meshkit.changes import temporary
from meshkit.changes.change import Change
from meshkit.changes.plan import Plan, refused
from meshkit.checks import restarts
from meshkit.checks.finding import Finding, Verdict, holding
from meshkit.checks.question import Question, awaits, planned
from meshkit.istio.proxies import new_pods
from meshkit.kube.manifests import identify, unified
from meshkit.kube.mesh import Mesh
from meshkit.kube.wait import Wait
from meshkit.notebook import tables
from meshkit.notebook.timeline import requests_over_time
from meshkit.probing import failover_state
from meshkit.probing.load_generator import LoadStep, Traffic
from meshkit.probing.request_log import Request
from meshkit.probing.statistics import quantile
from meshkit.spec import MeshSpec
from meshkit.stages.stage import Draws, Shows, Stage

STAGE: Final = "10 shift"
RULE: Final = "meshkit-shift"
STEADY: Final = 3.0
"""Seconds for which answers must come from where they should, before the next step."""
AWAY, BACK = "away", "back"


@dataclass(frozen=True)
class ShiftFacts:
    """What was looked at: the cluster whose server goes away, and the tables of `meshkit.probing.failover_state`."""

    cluster: str
    rules: pd.DataFrame
    workloads: pd.DataFrame
    endpoints: pd.DataFrame
    new_pods: new_pods.NewPodFacts | None = None

    def workload(self, cluster: str) -> dict[str, Any]:
        """Return the row of a cluster's server workload."""
        rows = self.workloads[self.workloads["cluster"] == cluster].to_dict("records")
        return {str(key): value for key, value in rows[0].items()}


def look(mesh: Mesh, cluster: str = "") -> ShiftFacts:
    """Read the rules for the server's host, its workloads, and the endpoints that each client's Envoy has.

    Raises:
        InputError: the mesh file has no such cluster.
    """
    name = mesh.spec.cluster(cluster).name if cluster else mesh.spec.clusters[0].name
    return ShiftFacts(
        name,
        failover_state.rules(mesh, RULE),
        failover_state.workloads(mesh),
        failover_state.endpoints(mesh),
        new_pods.look(mesh),
    )


def check(mesh: Mesh, facts: ShiftFacts, mode: str = "apply") -> list[Finding]:
    """Judge whether the server may go away: what is missing holds the plan."""
    findings = [
        *check_rules(mesh, facts),
        *check_workloads(mesh, facts),
        *check_owners(facts),
        *check_ending(facts),
        *check_clients(mesh, facts),
        check_others(mesh, facts),
        *restarts.check(mesh, facts.new_pods),
    ]
    return [awaits(finding, mode, "08 verify") for finding in findings]


def check_rules(mesh: Mesh, facts: ShiftFacts) -> Iterator[Finding]:
    """MK1001: there is no other DestinationRule for the host; Istio would merge or ignore one of the two."""
    for name in mesh.clusters:
        rows = facts.rules[facts.rules["cluster"] == name].to_dict("records")
        ask = Question("MK1001", "no other DestinationRule for the host", name, "none")
        if unread := next((row["reason"] for row in rows if row["reason"]), ""):
            yield ask.unknown(unread)
            continue
        others = [
            f"{row['namespace']}/{row['name']} ({row['host']}: {row['policy']})" for row in rows if not row["ours"]
        ]
        yield ask.judge(
            not others, ", ".join(others) or "none", "set `probe.server` of the mesh file to a Service that has none"
        )


def check_workloads(mesh: Mesh, facts: ShiftFacts) -> Iterator[Finding]:
    """MK1002: one workload serves in each cluster, all of its replicas ready."""
    for name in mesh.clusters:
        row = facts.workload(name)
        ask = Question("MK1002", "the server runs", name, "one workload, every replica ready")
        if row["reason"]:
            remedy = f"deploy {mesh.spec.probe.server} there, or name yours under `probe:`"
            yield ask.fail(row["reason"], remedy) if row["answers"] else ask.unknown(row["reason"])
            continue
        observed = f"{row['kind']} {row['workload']}: {row['ready']} of {row['replicas']} ready"
        remedy = f"kubectl --context {mesh.spec.cluster(name).context} get pods -n {mesh.spec.probe.namespace}"
        yield ask.judge(row["ready"] >= row["replicas"] > 0, observed, remedy)


def check_owners(facts: ShiftFacts) -> Iterator[Finding]:
    """MK1003: anything else that sets the replicas is named: an autoscaler, or a controller that restores Git."""
    row = facts.workload(facts.cluster)
    if row["reason"]:
        return
    ask = Question("MK1003", "nobody else scales the server", facts.cluster, "no autoscaler, no GitOps controller")
    observed = [
        *([f"{row['autoscaler']} (pauses at 0 replicas, goes on afterwards)"] if row["autoscaler"] else []),
        *([f"{row['gitops']} may scale it back at once"] if row["gitops"] else []),
    ]
    remedy = "pause it for this stage, or expect the shift to end early"
    yield ask.judge(not observed, "; ".join(observed) or "nobody", remedy, otherwise=Verdict.WARN)


def check_ending(facts: ShiftFacts) -> Iterator[Finding]:
    """MK1012: the server still answers while other proxies have its address."""
    row = facts.workload(facts.cluster)
    if row["reason"]:
        return
    ask = Question("MK1012", "the server drains before it stops", facts.cluster, "a preStop hook in each container")
    observed = f"{row['abrupt']} without one: requests that are on their way when the pod is terminated may fail"
    remedy = "lifecycle.preStop.sleep of some seconds (Kubernetes 1.30 or newer; else exec `sleep`)"
    yield ask.judge(not row["abrupt"], observed if row["abrupt"] else "all have one", remedy, otherwise=Verdict.WARN)


def check_clients(mesh: Mesh, facts: ShiftFacts) -> Iterator[Finding]:
    """MK1004: every cluster has a client whose Envoy can be asked."""
    for name in mesh.clusters:
        rows = facts.endpoints[facts.endpoints["client"] == name]
        ask = Question(
            "MK1004", "a client's Envoy can be asked", name, f"a ready pod of {mesh.spec.probe.client} with a sidecar"
        )
        bad = rows[rows["reason"] != ""].to_dict("records")
        if not bad:
            yield ask.judge(len(rows), f"its Envoy has {len(rows)} endpoints", "stage 08 says what is broken")
        elif bad[0]["answers"]:
            yield ask.fail(bad[0]["reason"], "is the namespace labelled for injection, and were its pods restarted?")
        else:
            yield ask.unknown(bad[0]["reason"])


def check_others(mesh: Mesh, facts: ShiftFacts) -> Finding:
    """MK1005: another cluster has healthy endpoints, so scaling the local server to 0 causes no outage."""
    ask = Question("MK1005", "another cluster can answer", facts.cluster, "a healthy endpoint elsewhere, in its Envoy")
    rows = facts.endpoints[facts.endpoints["client"] == facts.cluster]
    if (rows["reason"] != "").any():
        return ask.unknown("its client's Envoy could not be asked")
    if len(mesh.clusters) < 2:
        return ask.fail("the mesh has one cluster", "bring the second one in first")
    others = rows[rows["where"] == "elsewhere"]
    healthy = others[(others["health"] == "HEALTHY") & ~((others["cx_connect_fail"] > 0) & (others["rq_success"] == 0))]
    observed = ", ".join(f"{r['address']} {r['health']}" for r in others.to_dict("records")) or "none"
    return ask.judge(len(healthy), observed, "run stage 08: its findings say what is missing on the path")


def plan(mesh: Mesh, facts: ShiftFacts, traffic: Traffic, hold: float = 10.0) -> Plan:
    """Plan rules that prefer the local cluster, the server away for `hold` seconds, and the server back.

    Every step waits until the traffic shows its effect for some seconds, so the next one is made on proof.

    Raises:
        InputError: `hold` is negative, or no number.
    """
    parameters.require_number("hold", hold)
    made = Plan(mesh, STAGE, temporary=True)
    everywhere = set(mesh.clusters)
    for name in mesh.clusters:
        made.apply(
            name,
            rule(mesh, facts, name),
            f"the local cluster answers clients in {name} while it can",
            wait=_step(traffic, f"rule {name}", f"rule in {name}", partial(traffic.missing, name, {name}, STEADY)),
        )
    if facts.workload(facts.cluster)["reason"]:
        return made
    name, row = facts.cluster, facts.workload(facts.cluster)
    server = f"{row['workload']} of {name}"
    made.scale(
        name, row["kind"], mesh.spec.probe.namespace, row["workload"], 0,
        f"takes {server} away, for {hold:g} s of answers from elsewhere",
        wait=_step(traffic, AWAY, f"{server} away", partial(traffic.missing, name, everywhere - {name}, hold)),
    )  # fmt: skip
    _bring_back(
        made, mesh, facts, _step(traffic, BACK, f"{server} back", partial(traffic.missing, name, {name}, STEADY))
    )
    return made


def rule(mesh: Mesh, facts: ShiftFacts, cluster: str) -> dict[str, Any]:
    """Return the DestinationRule: outlier detection, which Istio's failover needs, and the order of clusters."""
    spec = mesh.spec.probe
    policy = {
        # Envoy's own defaults; naming them is what switches locality failover on.
        "outlierDetection": {"consecutive5xxErrors": 5, "interval": "10s", "baseEjectionTime": "30s"},
        "loadBalancer": {"localityLbSetting": {"enabled": True, **order(mesh, facts, cluster)}},
    }
    return {
        "apiVersion": "networking.istio.io/v1",
        "kind": "DestinationRule",
        "metadata": {"name": RULE, "namespace": spec.namespace},
        "spec": {"host": spec.server, "trafficPolicy": policy},
    }


def order(mesh: Mesh, facts: ShiftFacts, cluster: str) -> dict[str, Any]:
    """Return who answers a cluster when its own server does not.

    Where each cluster is a region of its own, the next region of the mesh file; else any other cluster, by Istio's
    cluster label.
    """
    regions = {name: facts.workload(name)["region"] for name in mesh.clusters}
    names = list(mesh.clusters)
    if len(names) > 1 and all(regions.values()) and len(set(regions.values())) == len(names):
        following = names[(names.index(cluster) + 1) % len(names)]
        return {"failover": [{"from": regions[cluster], "to": regions[following]}]}
    return {"failoverPriority": ["topology.istio.io/cluster"]}


def _step(traffic: Traffic, key: str, words: str, missing: Callable[[], str]) -> Wait:
    def wait() -> str:
        step = traffic.steps.setdefault(key, LoadStep(words, time.time()))
        lacking = missing()
        if not lacking and not step.settled:
            step.settled = time.time()
        return lacking

    return wait


def _bring_back(made: Plan, mesh: Mesh, facts: ShiftFacts, wait: Wait) -> None:
    """Add the return as a change of its own: a dry run now would not show it, since the server still runs."""
    row, target = facts.workload(facts.cluster), mesh.clusters[facts.cluster]
    if not made.changes or made.changes[-1].action != "scale" or made.changes[-1].problem:
        return
    away = made.changes[-1]
    manifest = {**away.manifests[0], "spec": {"replicas": int(row["replicas"])}}
    diff = unified(away.manifests[0], manifest)
    made.changes.append(
        Change(
            facts.cluster,
            "scale",
            identify(manifest),
            f"brings it back with {row['replicas']} replicas",
            diff=diff,
            before=away.before,
            manifests=[manifest],
            wait=wait,
            do=lambda: target.patch(manifest),
        )
    )


def prove(mesh: Mesh, facts: ShiftFacts, made: Plan, traffic: Traffic, within: float = 5.0) -> list[Finding]:
    """Judge the traffic, step by step, and check that everything is as it was."""
    if made.pending or not traffic.sent:
        known = sorted(_PROVED.items())
        return [*refused(made), *(planned(number, what, facts.cluster, "under traffic") for number, what in known)]
    moved = facts.cluster
    return [
        *(check_before(traffic, name) for name in mesh.clusters),
        check_moved(traffic, moved, AWAY, within),
        check_moved(traffic, moved, BACK, within),
        *(check_failed(mesh, traffic, name) for name in mesh.clusters),
        check_latency(mesh, traffic, moved),
        *check_left(mesh, facts),
    ]


_PROVED: Final = {
    "MK1006": "the local cluster answers first",
    "MK1007": "the others take over",
    "MK1008": "the local cluster answers again",
    "MK1009": "no request fails",
    "MK1010": "answers from elsewhere are fast enough",
    "MK1011": "everything is as it was",
}


def check_before(traffic: Traffic, client: str) -> Finding:
    """MK1006: with the rule, and the server there, only the local cluster answers."""
    ask = Question("MK1006", _PROVED["MK1006"], client, "all answers from the local cluster, with the rule")
    rows = before(traffic, client)
    if not rows:
        return ask.unknown("no answer was seen between the rule and the next step")
    own = sum(traffic.home(row) == client for row in rows)
    remedy = "is outlierDetection in the rule, and do the nodes have region and zone labels?"
    return ask.judge(own == len(rows), f"{own} of {len(rows)} answers", remedy)


def check_moved(traffic: Traffic, client: str, key: str, within: float) -> Finding:
    """MK1007 away, MK1008 back: how fast the answers moved, and that all of them did."""
    number = "MK1007" if key == AWAY else "MK1008"
    # How long pods take to start is not the mesh's matter: the way back counts from the first answer at home.
    away = key == AWAY
    place, moment = ("elsewhere", "the step") if away else ("the local cluster", "its first")
    expected = f"all answers from {place} {within:g} s after {moment}"
    ask = Question(number, _PROVED[number], client, expected)
    step = traffic.steps.get(key)
    if step is None or not step.settled:
        return ask.unknown("that step was not reached")
    rows = [row for row in traffic.since(client, step.begun, _end_of(traffic, key)) if not row.failed]
    moved = [row for row in rows if (traffic.home(row) == client) == (key == BACK)]
    stayed = [row for row in rows if row not in moved]
    if not moved:
        return ask.fail("no answer came from there", "run stage 08: its findings say what is missing on the path")
    first = moved[0].time - step.begun
    last = max((row.time for row in stayed), default=step.begun) - step.begun
    observed = f"the first {first:.1f} s after the step, all from {max(first, last):.1f} s on, {len(moved)} answers"
    took = max(first, last) - (0 if away else first)
    return ask.judge(took <= within, observed, "does istiod push endpoints slowly? `istioctl proxy-status`")


def _end_of(traffic: Traffic, key: str) -> float:
    step = traffic.steps[key]
    following = traffic.steps.get(BACK) if key == AWAY else None
    return following.begun if following else step.settled or math.inf


def check_failed(mesh: Mesh, traffic: Traffic, client: str) -> Finding:
    """MK1009: the error rate of each client, over the whole time."""
    allowed = mesh.spec.gates.max_error_rate
    ask = Question("MK1009", _PROVED["MK1009"], client, f"at most {100 * allowed:g} % (gates.maxErrorRate)")
    rows = traffic.since(client, 0.0)
    failed = [row for row in rows if row.failed]
    if not rows:
        return ask.unknown("it sent nothing")
    observed = f"{len(failed)} of {len(rows)} failed" + (f"; the first: {failed[0].error}" if failed else "")
    remedy = "let the server drain (preStop, terminationGracePeriodSeconds), and its sidecar end last (native sidecars)"
    return ask.judge(len(failed) <= allowed * len(rows), observed, remedy)


def check_latency(mesh: Mesh, traffic: Traffic, client: str) -> Finding:
    """MK1010: how much slower it was, and whether the p99 is still within the gate."""
    gate = mesh.spec.gates.p99
    ask = Question("MK1010", _PROVED["MK1010"], client, f"p99 at most {1000 * gate:g} ms (gates.p99)")
    near = _seconds(before(traffic, client))
    away = traffic.steps.get(AWAY)
    rows = traffic.since(client, away.begun, _end_of(traffic, AWAY)) if away else []
    far = _seconds(row for row in rows if traffic.home(row) not in (client, ""))
    if not near or not far:
        return ask.unknown("there are no answers to compare")
    import numpy as np

    p50, p99 = (quantile(np.sort(np.array(far)), q) for q in (0.5, 0.99))
    own = quantile(np.sort(np.array(near)), 0.5)
    observed = f"p50 {1000 * p50:.0f} ms (+{1000 * (p50 - own):.0f} ms), p99 {1000 * p99:.0f} ms of {len(far)} answers"
    return ask.judge(
        p99 <= gate, observed, "stage 09 measures the path; is the other cluster near enough for this service?"
    )


def check_left(mesh: Mesh, facts: ShiftFacts) -> Iterator[Finding]:
    """MK1011: no rule of ours is left, and the server has its replicas."""
    now = look(mesh, facts.cluster)
    for name in mesh.clusters:
        ask = Question("MK1011", _PROVED["MK1011"], name, "no rule of this stage, as many ready replicas")
        row, was = now.workload(name), facts.workload(name)
        rules = now.rules[now.rules["cluster"] == name]
        if reason := row["reason"] or "".join(rules["reason"]):
            yield ask.unknown(reason)
            continue
        left = bool(rules["ours"].any())
        observed = f"{'a rule is left' if left else 'no rule'}, {row['ready']} of {was['replicas']} replicas"
        remedy = "run this stage again: it reverts what a killed run left"
        yield ask.judge(not left and row["ready"] == row["replicas"] == was["replicas"], observed, remedy)


def before(traffic: Traffic, client: str) -> list[Request]:
    """Return the good answers to a client while the rule stood and the server was there, as the wait proved them."""
    step, away = traffic.steps.get(f"rule {client}"), traffic.steps.get(AWAY)
    if step is None or not step.settled:
        return []
    until = away.begun if away else math.inf
    # The wait for the rule looked back over STEADY seconds, all of them after the rule was in force.
    return [row for row in traffic.since(client, step.settled - STEADY, until) if not row.failed]


def _seconds(rows: Any) -> list[float]:
    return [row.seconds for row in rows]


class Shift(Stage):
    """Stage 10. `cluster` is the one whose server goes away, for `hold` seconds; `traffic` has the requests meanwhile.

    A temporary change that a killed run left is reverted by `look`, in mode apply: it is not the usual state.
    """

    name = STAGE
    rules = Shows["Shift"](tables.RULES, lambda stage: stage.facts.rules)
    servers = Shows["Shift"](tables.SERVERS, lambda stage: stage.facts.workloads)
    endpoints = Shows["Shift"](tables.ENDPOINTS, lambda stage: stage.facts.endpoints)
    requests = Shows["Shift"](tables.TRAFFIC, lambda stage: stage.traffic.requests())
    from_cluster = Draws["Shift"](
        "shift",
        lambda stage: requests_over_time(
            stage.traffic.requests(stage.facts.cluster), stage.traffic.marks, title=f"From {stage.facts.cluster}"
        ),
    )
    from_all = Draws["Shift"](
        "shift-all",
        lambda stage: requests_over_time(stage.traffic.requests(), stage.traffic.marks, title="From all clusters"),
    )

    facts: ShiftFacts

    def __init__(
        self,
        mesh: str | Path | MeshSpec | Mesh,
        *,
        mode: str = "plan",
        journal: str = "",
        cluster: str = "",
        hold: float = 10.0,
    ) -> None:
        parameters.require_number("hold", hold)
        super().__init__(mesh, mode=mode, journal=journal)
        self.cluster, self.hold = cluster, hold
        self._traffic: Traffic = Traffic(self.mesh)

    @property
    def traffic(self) -> Traffic:
        """The requests that were sent meanwhile."""
        return self._traffic

    def _look(self) -> ShiftFacts:
        temporary.recover(self.mesh.fresh, self.mode)
        return look(self.mesh, self.cluster)

    def _check(self) -> Iterable[Finding]:
        return check(self.mesh, self.facts, self.mode)

    def _plans(self) -> Iterator[Plan]:
        self._traffic = Traffic(self.mesh)
        yield plan(self.mesh, self.facts, self.traffic, self.hold)

    def _carry_out(self, plan: Plan) -> None:
        with self.traffic.sending(self.mode, holding(self.findings)):
            super()._carry_out(plan)

    def _prove(self) -> Iterable[Finding]:
        return prove(self.mesh, self.facts, self.plans[0], self.traffic)
