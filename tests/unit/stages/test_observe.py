"""Stage 09's checks: proxies, versions and measured traffic, each good, bad and unknown."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from meshkit.checks import proxies
from meshkit.checks.finding import Verdict, overall
from meshkit.istio.control_plane import versions
from meshkit.istio.proxies import proxy_status, status_summary
from meshkit.istio.proxies import reading as proxies_reading
from meshkit.probing.pair_probe import SAMPLES
from meshkit.stages import observe
from tests.support.healthy import OTHER, judged, mesh

PASS, FAIL, UNKNOWN = Verdict.PASS, Verdict.FAIL, Verdict.UNKNOWN


def facts(status: dict[str, Any] | None = None, version: dict[str, Any] | None = None) -> proxies_reading.ProxyFacts:
    """Return two healthy clusters, with changes to east's proxy and to east's istiod."""
    good = {"namespace": "sample", "type": "CDS", "state": "SYNCED"}
    states = [{"cluster": name, "istiod_cluster": name, "proxy": f"app-{name}", **good} for name in OTHER]
    known = [{"cluster": name, "component": "istiod", "name": "istiod", "version": "1.31.0"} for name in OTHER]
    states[0] |= status or {}
    known[0] |= version or {}
    read = proxy_status.PROXY_STATUS.frame(states)
    return proxies_reading.ProxyFacts(read, status_summary.summary(read), versions.VERSIONS.frame(known))


@pytest.mark.parametrize(
    ("change", "verdict", "words"),
    [
        ({}, PASS, "1 proxies SYNCED"),
        ({"state": "IGNORED"}, PASS, "1 proxies"),
        ({"state": "NOT SENT"}, PASS, "1 proxies"),
        (
            {"state": "ERROR", "nack": "Invalid\n duration  -1s"},
            FAIL,
            "app-east.sample CDS ERROR: Invalid duration -1s",
        ),
        ({"state": "STALE", "age_s": 12.4}, FAIL, "CDS STALE for 12 s"),
        ({"state": "NOT CONNECTED", "type": ""}, FAIL, "app-east.sample NOT CONNECTED"),
        ({"state": "UNKNOWN", "nack": "no answer"}, UNKNOWN, "no answer"),
        ({"state": "SOMETHING NEW"}, UNKNOWN, "SOMETHING NEW"),
    ],
)
def test_the_state_of_a_proxy_decides_for_its_cluster_only(
    change: dict[str, Any], verdict: Verdict, words: str
) -> None:
    """MK901: west stays good whatever east's proxy does."""
    findings = list(proxies.check_proxies(mesh(), facts(change)))
    assert judged(findings, "MK901", "east") == [verdict]
    assert judged(findings, "MK901", "west") == [PASS]
    assert words in next(f.observed for f in findings if f.subject == "east")


def test_a_cluster_without_proxies_fails() -> None:
    """MK901: no proxy is no pass. MK910 and MK911 leave it to that one."""
    bare = facts({"cluster": "west", "istiod_cluster": "west"})
    findings = observe.check(mesh(), bare)
    assert judged(findings, "MK901", "east") == [FAIL]
    assert [judged(findings, number, "east") for number in ("MK910", "MK911")] == [[Verdict.SKIPPED]] * 2


@pytest.mark.parametrize(
    ("gate", "version", "verdict"),
    [
        ("same-patch", "1.31.0", PASS),
        ("same-patch", "1.31.1", FAIL),
        ("same-minor", "1.31.1", PASS),
        ("same-minor", "1.30.9", FAIL),
        ("same-minor", "1.31-abcdef", PASS),
        ("same-patch", "1.31-abcdef", FAIL),
        ("same-patch", "1.31.0-distroless", PASS),
        ("same-patch", "1.31.0-rc.1", FAIL),
        ("same-patch", "1.31", FAIL),
        ("same-patch", "unknown", UNKNOWN),
        ("same-minor", "v0.0.0-master", UNKNOWN),
    ],
)
def test_versions_are_compared_as_the_gate_says(gate: str, version: str, verdict: Verdict) -> None:
    """MK902."""
    found = proxies.check_versions(mesh(gates={"versions": gate}), facts(version={"version": version}))
    assert [f.verdict for f in found] == [verdict]


def test_a_version_that_is_not_known_is_unknown() -> None:
    """MK902: what the others run does not stand for it."""
    found = list(proxies.check_versions(mesh(), facts(version={"version": "", "reason": "no answer"})))
    assert overall(found) is UNKNOWN


def samples(**change: Any) -> pd.DataFrame:
    """Return warm requests and first ones from east to west, changed alike."""
    row = {"client": "east", "server": "west", "seconds": 0.05, "status": 200, "answered_by": "httpbin", "error": ""}
    rows = [{**row, "phase": phase, **change} for phase in ("first", *["warm"] * 9)]
    return pd.DataFrame(rows, columns=list(SAMPLES.dtypes)).astype(SAMPLES.dtypes)


@pytest.mark.parametrize(
    ("change", "errors", "p99"),
    [
        ({}, [PASS], [PASS]),
        ({"seconds": 0.7}, [PASS], [FAIL]),
        ({"status": 503, "error": "503: overflow"}, [FAIL], [UNKNOWN]),
        ({"status": 0, "seconds": float("nan"), "error": "no answer"}, [FAIL], [UNKNOWN]),
        ({"phase": "", "status": 0, "seconds": float("nan"), "error": "no pod"}, [UNKNOWN], []),
    ],
    ids=["good", "slow", "errors", "no answers", "not tried"],
)
def test_measured_traffic_is_held_against_the_gates(
    change: dict[str, Any], errors: list[Verdict], p99: list[Verdict]
) -> None:
    """MK903 and MK904 of the pair, and unknown for every pair that was not measured."""
    findings = observe.prove(mesh(), samples(**change))
    assert judged(findings, "MK903", "east → west") == errors
    assert judged(findings, "MK904", "east → west") == p99
    assert judged(findings, "MK903", "west → east") == [UNKNOWN]
    assert judged(findings, "MK904", "west → east") == []


SERVED = {"istiod": "istiod", "version": "1.31.0"}


@pytest.mark.parametrize(
    ("proxy", "istiod", "verdict"),
    [
        ("1.31.0", "1.31.4", PASS),
        ("1.31.4", "1.31.0", PASS),
        ("1.30.9", "1.31.0", PASS),
        ("1.31-abc", "1.31-def", PASS),
        ("1.32.0", "1.31.0", FAIL),
        ("1.29.2", "1.31.0", FAIL),
        ("2.0.0", "1.31.0", FAIL),
        ("", "1.31.0", UNKNOWN),
        ("1.31.0", "", UNKNOWN),
        ("master", "1.31.0", UNKNOWN),
    ],
)
def test_a_proxy_may_be_one_minor_version_behind_its_istiod(proxy: str, istiod: str, verdict: Verdict) -> None:
    """MK910: never ahead; of an unknown version nothing is said. West stays as it is."""
    known = facts({**SERVED, "version": proxy}, {"version": istiod})
    assert judged(proxies.check_skew(mesh(), known), "MK910", "east") == [verdict]


def test_skew_without_a_served_proxy_is_unknown() -> None:
    """MK910."""
    assert judged(proxies.check_skew(mesh(), facts()), "MK910", "east") == [UNKNOWN]


@pytest.mark.parametrize(
    ("status", "version", "verdict"),
    [
        (SERVED, {}, PASS),
        ({**SERVED, "istiod_cluster": "west"}, {}, Verdict.WARN),
        ({**SERVED, "istiod_cluster": "west"}, {"cluster": "west"}, PASS),
        ({}, {}, UNKNOWN),
        (SERVED, {"name": "", "version": "", "reason": "no answer"}, UNKNOWN),
    ],
    ids=["its own", "another's, though it has one", "another's, as a remote", "nobody's", "not read"],
)
def test_proxies_belong_to_the_istiods_of_their_cluster(
    status: dict[str, Any], version: dict[str, Any], verdict: Verdict
) -> None:
    """MK911: a cluster without istiods is served by another's, and that is reported."""
    found = list(proxies.check_owners(mesh(), facts(status, version)))
    assert judged(found, "MK911", "east") == [verdict]
    if verdict is PASS:
        assert f"1 by {status.get('istiod_cluster', 'east')}" in found[0].observed


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        ({}, PASS),
        ({"cluster": "Kubernetes"}, Verdict.WARN),
        ({"proxy": "", "state": "UNKNOWN", "nack": "no answer"}, UNKNOWN),
    ],
)
def test_proxies_of_a_cluster_that_nobody_looks_at_are_reported(status: dict[str, Any], verdict: Verdict) -> None:
    """MK912: by their cluster id; and what was not read may serve some."""
    assert judged(proxies.check_strangers(mesh(), facts(status)), "MK912", "mesh") == [verdict]


def test_a_thousand_proxies_in_one_bad_state_are_one_finding() -> None:
    """MK901: the one that has been so for longest, how many others, and the command for it."""
    rows = [
        {"cluster": "east", "istiod_cluster": "east", "namespace": "sample", "proxy": f"p{n}", "type": "CDS"}
        | {"state": "STALE", "age_s": float(n)}
        for n in range(1000)
    ]
    known = proxies_reading.ProxyFacts(
        proxy_status.PROXY_STATUS.frame(rows), pd.DataFrame(), versions.VERSIONS.frame([])
    )
    (finding,) = [f for f in proxies.check_proxies(mesh(), known) if f.subject == "east"]
    assert finding.observed == "p999.sample and 999 others CDS STALE for 999 s or more"
    assert "kubectl --context east -n sample logs p999 -c istio-proxy" in finding.remedy


def test_a_state_of_unknown_age_has_no_number() -> None:
    """MK901: an old istiod tells no times."""
    found = next(iter(proxies.check_proxies(mesh(), facts({"state": "STALE"}))))
    assert found.observed == "app-east.sample CDS STALE"
