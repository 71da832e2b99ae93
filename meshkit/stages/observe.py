"""Stage 09: the state of every proxy, and the latency between clusters.

Read-only except for the probe (see meshkit.probing.pair_probe).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import pandas as pd

from meshkit import parameters
from meshkit.checks.finding import Finding, Verdict
from meshkit.checks.proxies import check_proxies, check_serving, check_versions
from meshkit.checks.question import Question, arrow
from meshkit.display import Shown
from meshkit.istio.proxies import reading
from meshkit.istio.proxies.reading import ProxyFacts
from meshkit.kube.mesh import Mesh
from meshkit.notebook import charts, tables
from meshkit.probing import pair_probe, statistics
from meshkit.spec import MeshSpec
from meshkit.stages.sending import Sending
from meshkit.stages.stage import Draws, Shows

STAGE = "09 observe"


def measure(mesh: Mesh, samples: int = 400, mode: str = "audit") -> pd.DataFrame:
    """Measure every ordered pair alone, and each cluster with itself; the columns are those of `ProbeSession.latency`.

    In plan mode nothing is sent.

    Raises:
        InputError: no such mode, or fewer than one sample.
    """
    parameters.require_choice("mode", mode, parameters.SENDING)
    parameters.require_number("samples", samples)
    if mode == "plan":
        return pair_probe.SAMPLES.frame([])
    with pair_probe.open(mesh) as probing:
        return probing.latency(samples)


def check(mesh: Mesh, facts: ProxyFacts, mode: str = "audit") -> list[Finding]:
    """Judge proxies, who serves them, and versions.

    Raises:
        InputError: no such mode.
    """
    parameters.require_choice("mode", mode, parameters.SENDING)
    return [*check_proxies(mesh, facts, mode), *check_versions(mesh, facts), *check_serving(mesh, facts)]


def prove(mesh: Mesh, samples: pd.DataFrame) -> list[Finding]:
    """Judge the measured traffic of each pair: errors and p99; where none was sent, as in plan mode, say so."""
    if samples.empty:
        ask = Question("MK903", "requests succeed", "all pairs", "requests, each pair alone")
        return [ask.answer(Verdict.SKIPPED, "plan mode sends no request; `meshkit audit` does")]
    findings: list[Finding] = []
    for client in mesh.clusters:
        for server in mesh.clusters:
            own = samples[(samples["client"] == client) & (samples["server"] == server)]
            findings += check_pair(mesh, own, arrow(client, server))
    return findings


def check_pair(mesh: Mesh, samples: pd.DataFrame, subject: str) -> Iterator[Finding]:
    """MK903 and MK904: the share of failed requests of one pair, and p99 of its warm ones, are within the gates."""
    gates = mesh.spec.gates
    ask = Question("MK903", "requests succeed", subject, f"at most {gates.max_error_rate:.2%} fail")
    if (samples["phase"] == "").all():
        reason = "not measured" if samples.empty else samples["error"].iloc[0]
        yield ask.unknown(reason, "the pair could not be measured")
        return
    rate = statistics.error_rate(samples).iloc[0]
    interval = f"95 % interval {rate['rate_low']:.2%} to {rate['rate_high']:.2%}"
    example = next((f"; {error}" for error in samples["error"] if error), "")
    observed = f"{rate['failed']} of {rate['n']} failed ({rate['rate']:.2%}; {interval}){example}"
    yield ask.judge(rate["rate"] <= gates.max_error_rate, observed, "see this pair in notebook 08")
    times = statistics.latency_table(samples).iloc[0]
    ask = Question("MK904", "p99 is within the gate", subject, f"p99 at most {1000 * gates.p99:g} ms")
    if not times["n"]:
        yield ask.unknown("no answer was timed", "see MK903")
        return
    observed = f"p99 {times['p99_ms']:.1f} ms of {times['n']} requests"
    yield ask.judge(times["p99_ms"] <= 1000 * gates.p99, observed, "compare with the round trip between the clusters")


class Observe(Sending):
    """Stage 09. `samples` is the number of warm requests for each pair; `measured` has every request."""

    name = STAGE
    proxies = Shows["Observe"](tables.PROXIES, lambda stage: stage.facts.proxies)
    states = Draws["Observe"]("proxy-states", lambda stage: charts.state_overview(stage.facts.proxies))
    proxy_status = Shows["Observe"](tables.PROXY_STATUS, lambda stage: stage.facts.status)
    versions = Shows["Observe"](tables.VERSIONS, lambda stage: stage.facts.versions)
    latency = Shows["Observe"](tables.LATENCY, lambda stage: stage.quantiles)
    p50 = Draws["Observe"]("latency-p50", lambda stage: charts.latency_heatmap(stage.quantiles, log=True))
    p99 = Draws["Observe"](
        "latency-p99", lambda stage: charts.latency_heatmap(stage.quantiles, column="p99_ms", log=True)
    )
    distribution = Draws["Observe"]("latency-ecdf", lambda stage: charts.latency_ecdf(stage.measured))
    first_vs_warm = Draws["Observe"]("first-vs-warm", lambda stage: charts.first_vs_warm(stage.quantiles))
    answers = Shows["Observe"](tables.ANSWERS, lambda stage: statistics.answers_table(stage.measured))

    facts: ProxyFacts

    def __init__(
        self, mesh: str | Path | MeshSpec | Mesh, *, mode: str = "audit", journal: str = "", samples: int = 400
    ) -> None:
        parameters.require_number("samples", samples)
        super().__init__(mesh, mode=mode, journal=journal)
        self.samples = samples
        self.measured: pd.DataFrame = pair_probe.SAMPLES.frame([])
        self.quantiles: pd.DataFrame = statistics.latency_table(self.measured)

    def _look(self) -> ProxyFacts:
        return reading.look(self.mesh)

    def _check(self) -> Iterable[Finding]:
        return check(self.mesh, self.facts, self.mode)

    def _requests(self) -> str:
        return f"{self.samples} warm requests, and first ones on new connections,"

    def _send(self) -> Shown:
        self.measured = measure(self.mesh, self.samples, self.mode)
        self.quantiles = statistics.latency_table(self.measured)
        shown: Shown = self.latency
        return shown

    def _prove(self) -> Iterable[Finding]:
        return prove(self.mesh, self.measured)
