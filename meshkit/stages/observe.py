"""Stage 09: the state of every proxy, and how long the way between clusters takes.

Read-only but for the probe (see meshkit.probe).
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from meshkit import inputs, probe, statistics
from meshkit.checks import Finding, Verdict
from meshkit.istio import proxies, versions
from meshkit.istio.fleet import table
from meshkit.stages.finding import Question, Row, arrow, awaits

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd

    from meshkit.mesh import Mesh

STAGE = "09 observe"
SETTLE, TRIES = 3.0, 3
BAD = ("ERROR", "NOT CONNECTED", "STALE")
GOOD = ("SYNCED", "IGNORED", "NOT SENT")


@dataclass(frozen=True)
class Facts:
    """What was looked at: proxy_status, its summary, versions; each is a table of the function of that name."""

    status: pd.DataFrame
    proxies: pd.DataFrame
    versions: pd.DataFrame


def look(mesh: Mesh) -> Facts:
    """Read every istiod's view of its proxies; a state that is only passing (STALE, not connected) is read again."""
    for attempt in range(TRIES):
        status = proxies.proxy_status(mesh)
        if attempt + 1 == TRIES or not status["state"].isin(["STALE", "NOT CONNECTED"]).any():
            break
        time.sleep(SETTLE)
    return Facts(status, proxies.summary(status), versions.versions(mesh, status))


def measure(mesh: Mesh, samples: int = 400, mode: str = "audit") -> pd.DataFrame:
    """Measure every ordered pair alone, and each cluster with itself; the columns are those of `Probing.latency`.

    In plan mode nothing is sent.

    Raises:
        InputError: no such mode, or fewer than one sample.
    """
    inputs.one_of("mode", mode, inputs.SENDING)
    inputs.number("samples", samples)
    if mode == "plan":
        return table([], probe.SAMPLE_COLUMNS)
    with probe.open(mesh) as probing:
        return probing.latency(samples)


def check(mesh: Mesh, facts: Facts, mode: str = "audit") -> list[Finding]:
    """Judge proxies and versions.

    Raises:
        InputError: no such mode.
    """
    inputs.one_of("mode", mode, inputs.SENDING)
    return [*check_proxies(mesh, facts, mode), *check_versions(mesh, facts)]


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


def check_proxies(mesh: Mesh, facts: Facts, mode: str = "audit") -> Iterator[Finding]:
    """MK901: every proxy is connected and has taken what its istiod sent."""
    for name in mesh.clusters:
        ask = Question("MK901", "every proxy is connected and in sync", name, "all SYNCED")
        rows = facts.status[(facts.status["cluster"] == name) | (facts.status["istiod_cluster"] == name)]
        if rows.empty:
            yield awaits(ask.fail("no proxy", "is anything injected there?"), mode, "05 install")
        bad, unknown = rows[rows["state"].isin(BAD)], rows[~rows["state"].isin([*BAD, *GOOD])]
        for row in bad.to_dict("records"):
            state = " ".join(filter(None, (row["type"], row["state"])))
            yield ask.fail(f"{row['proxy']}.{row['namespace']} {state}{why(row)}", cure(row["state"]))
        for row in unknown.to_dict("records"):
            yield ask.unknown(
                f"{row['proxy'] or row['istiod'] or 'cluster'} {row['type']}: {row['nack'] or row['state']}"
            )
        if len(rows) and bad.empty and unknown.empty:
            count = len(rows[["namespace", "proxy"]].drop_duplicates())
            yield ask.answer(Verdict.PASS, f"{count} proxies SYNCED")


def why(row: Row) -> str:
    """Return what follows a bad state: the proxy's own words, or for how long it has been so."""
    if row["nack"]:
        return f": {' '.join(row['nack'].split())[:300]}"
    return f" for {row['age_s']:.0f} s" if row["state"] == "STALE" else ""


def cure(state: str) -> str:
    """Return what to do about a state of a proxy."""
    return {
        "ERROR": "the proxy refused what istiod sent: find the object named there, often an EnvoyFilter, and mend it",
        "STALE": "istiod waits for the proxy: look at the proxy's log and load; restart its pod if it hangs",
        "NOT CONNECTED": "no istiod knows this proxy: its log (istio-proxy) tells of certificate or connection errors",
    }[state]


def check_versions(mesh: Mesh, facts: Facts) -> Iterator[Finding]:
    """MK902: istiods and proxies have the same version, as the gate says how exactly."""
    gate = mesh.spec.gates.versions
    ask = Question("MK902", "one version everywhere", "mesh", gate)
    rows = facts.versions[facts.versions["component"] != "kubernetes"]
    for row in rows[rows["reason"] != ""].to_dict("records"):
        yield ask.unknown(f"{row['cluster']} {row['component']} {row['name']}: {row['reason']}")
    known = rows[rows["reason"] == ""]
    if known.empty:
        return
    short = known["version"].map(lambda text: release(text, gate))
    found = sorted(set(short))
    told = "; ".join(f"{v}: {', '.join(sorted(set(known.loc[short == v, 'cluster'])))}" for v in found)
    mend = "bring all to one version before going on; restart proxies after an upgrade of istiod"
    yield ask.judge(len(found) == 1, told, mend)


def release(version: str, gate: str) -> str:
    """Return the part of a version that must be the same: all of it, or major and minor."""
    return version if gate == "same-patch" else ".".join(version.partition("-")[0].split(".")[:2])


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
