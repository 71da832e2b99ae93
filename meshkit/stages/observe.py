"""Stage 09: the state of every proxy, and how long the way between clusters takes.

Read-only but for the probe (see meshkit.probe).
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from meshkit import probe, statistics
from meshkit.checks import Finding, Verdict
from meshkit.istio import proxies, versions
from meshkit.stages.verify import arrow, finding

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd

    from meshkit.mesh import Mesh

STAGE = "09 observe"
SETTLE, TRIES = 3.0, 3
BAD = ("ERROR", "NOT CONNECTED", "STALE")
NEVER_STALE = "NOT SENT"


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


def measure(mesh: Mesh, samples: int = 400) -> pd.DataFrame:
    """Measure every ordered pair alone, and each cluster with itself; the columns are those of `Probing.latency`."""
    with probe.open(mesh) as probing:
        return probing.latency(samples)


def check(mesh: Mesh, facts: Facts) -> list[Finding]:
    """Judge proxies and versions."""
    return [*check_proxies(mesh, facts), *check_versions(mesh, facts)]


def prove(mesh: Mesh, samples: pd.DataFrame) -> list[Finding]:
    """Judge the measured traffic of each pair: errors and p99."""
    latency, errors = statistics.latency_table(samples), statistics.error_rate(samples)
    findings = []
    for client in mesh.clusters:
        for server in mesh.clusters:
            findings += check_pair(mesh, samples, errors, latency, client, server)
    return findings


def check_proxies(mesh: Mesh, facts: Facts) -> Iterator[Finding]:
    """MK901: every proxy is connected and has taken what its istiod sent."""
    for name in mesh.clusters:
        make = finding("MK901", "every proxy is connected and in sync", name, "all SYNCED")
        rows = facts.status[(facts.status["cluster"] == name) | (facts.status["istiod_cluster"] == name)]
        bad, unknown = rows[rows["state"].isin(BAD)], rows[rows["state"] == "UNKNOWN"]
        for row in bad.to_dict("records"):
            told = f": {row['nack'][:300]}" if row["nack"] else f" for {row['age_s']:.0f} s" if row["state"] == "STALE" else ""
            yield make(f"{row['proxy']}.{row['namespace']} {row['type']} {row['state']}{told}", Verdict.FAIL, cure(row["state"]))
        for row in unknown.to_dict("records"):
            yield make(f"{row['proxy'] or row['istiod'] or 'cluster'}: {row['nack']}", Verdict.UNKNOWN, "")
        count = rows[["namespace", "proxy"]].drop_duplicates().shape[0]
        if rows.empty:
            yield make("no proxy", Verdict.FAIL, "is anything injected there?")
        elif bad.empty and unknown.empty:
            yield make(f"{count} proxies SYNCED", Verdict.PASS, "")


def cure(state: str) -> str:
    """Return what to do about a state of a proxy."""
    return {
        "ERROR": "the proxy refused what istiod sent: find the object named there, often an EnvoyFilter, and mend it",
        "STALE": "istiod waits for the proxy: look at the proxy's log and load; restart its pod if it hangs",
        "NOT CONNECTED": "no istiod knows this proxy: look at its log (istio-proxy) for certificate or connection errors",
    }[state]


def check_versions(mesh: Mesh, facts: Facts) -> Iterator[Finding]:
    """MK902: istiods and proxies have the same version, as the gate says how exactly."""
    gate = mesh.spec.gates.versions
    make = finding("MK902", "one version everywhere", "mesh", gate)
    rows = facts.versions[facts.versions["component"] != "kubernetes"]
    for row in rows[rows["reason"] != ""].to_dict("records"):
        yield make(f"{row['cluster']} {row['component']} {row['name']}: {row['reason']}", Verdict.UNKNOWN, "")
    known = rows[rows["reason"] == ""]
    if known.empty:
        return
    short = known["version"].map(lambda text: release(text, gate))
    told = "; ".join(f"{v}: {', '.join(sorted(set(known.loc[short == v, 'cluster'])))}" for v in sorted(set(short)))
    same = short.nunique() == 1
    yield make(told, Verdict.PASS if same else Verdict.FAIL, "" if same else "bring all to one version before going on; restart proxies after an upgrade of istiod")


def release(version: str, gate: str) -> str:
    """Return the part of a version that must be the same: all of it, or major and minor."""
    return version if gate == "same-patch" else ".".join(version.split("-")[0].split(".")[:2])


def check_pair(
    mesh: Mesh, samples: pd.DataFrame, errors: pd.DataFrame, latency: pd.DataFrame, client: str, server: str
) -> Iterator[Finding]:
    """MK903 and MK904: the share of failed requests, and p99 of warm ones, are within the gates."""
    gates = mesh.spec.gates
    own = (samples["client"] == client) & (samples["server"] == server)
    rate = finding("MK903", "requests succeed", arrow(client, server), f"at most {gates.max_error_rate:.2%} fail")
    if not own.any() or (samples[own]["phase"] == "").all():
        yield rate(samples[own]["error"].iloc[0] if own.any() else "not measured", Verdict.UNKNOWN, "the pair could not be measured")
        return
    row = errors[(errors["client"] == client) & (errors["server"] == server)].iloc[0]
    observed = f"{row['failed']} of {row['n']} failed ({row['rate']:.2%}; 95 % interval {row['rate_low']:.2%} to {row['rate_high']:.2%})"
    good = row["rate"] <= gates.max_error_rate
    example = next((e for e in samples[own]["error"] if e), "")
    yield rate(observed + (f"; {example}" if example else ""), Verdict.PASS if good else Verdict.FAIL, "" if good else "see this pair in notebook 08")
    times = latency[(latency["client"] == client) & (latency["server"] == server)].iloc[0]
    make = finding("MK904", "p99 is within the gate", arrow(client, server), f"p99 at most {1000 * gates.p99:g} ms")
    if not times["n"]:
        yield make("no answer was timed", Verdict.UNKNOWN, "see MK903")
        return
    fast = times["p99_ms"] <= 1000 * gates.p99
    yield make(f"p99 {times['p99_ms']:.1f} ms of {times['n']} requests", Verdict.PASS if fast else Verdict.FAIL, "" if fast else "compare with the round trip between the clusters")
