"""Known defects by release: who has them, at the borders of each range."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest

from meshkit.checks import known_defects
from meshkit.checks.finding import Verdict
from meshkit.checks.known_defects import HAS, MAY_HAVE
from meshkit.istio.config import services
from meshkit.istio.control_plane import versions
from meshkit.istio.control_plane.versions import Version
from tests.support.healthy import mesh

PASS, WARN, UNKNOWN, SKIPPED = Verdict.PASS, Verdict.WARN, Verdict.UNKNOWN, Verdict.SKIPPED
ALIASES, BYTES, METRIC, POLICY = (f"istio/istio#{n}" for n in (56021, 59909, 60082, 60806))
STALE, GATEWAYS, SHARDS, WAYPOINTS, HEADLESS = (f"istio/istio#{n}" for n in (60612, 60920, 61043, 61092, 61038))
LOCK, LEAK, CRL, READY, DEPLOY, MIXED, CLASSIC = (
    f"istio/istio#{n}" for n in (60316, 60033, 61073, 61049, 61095, 57878, 60609)
)
START = {READY, DEPLOY}
OF_1_29 = {BYTES, METRIC, WAYPOINTS, MIXED, HEADLESS} | START
OF_1_30 = {GATEWAYS, SHARDS, WAYPOINTS, MIXED, HEADLESS} | START

BORDERS = [
    ("1.26.9", {ALIASES, BYTES, HEADLESS} | START, set()),
    ("1.27.0", {BYTES, MIXED, HEADLESS} | START, set()),
    ("1.28.9", {BYTES, MIXED, HEADLESS} | START, set()),
    ("1.29.0", {POLICY} | OF_1_29, set()),
    ("1.29.1", {POLICY, CLASSIC} | OF_1_29, set()),
    ("1.29.5", {POLICY} | OF_1_29, {CLASSIC}),
    ("1.29.6", OF_1_29, {CLASSIC}),
    ("1.29.7", {BYTES, MIXED, HEADLESS}, {METRIC, CLASSIC}),
    ("1.30.0-rc.1", {MIXED, HEADLESS}, {POLICY, LOCK, STALE, BYTES, METRIC, CLASSIC} | OF_1_30 - {MIXED, HEADLESS}),
    ("1.30.4-rc.0", {MIXED, HEADLESS}, {CLASSIC} | OF_1_30 - {MIXED, HEADLESS}),
    ("1.30.4-asm.2", {MIXED, HEADLESS}, {CLASSIC}),
    ("1.30.0", {POLICY, LOCK, STALE} | OF_1_30, {CLASSIC}),
    ("1.30.1", {POLICY, STALE} | OF_1_30, {CLASSIC}),
    ("1.30.2", {POLICY, STALE} | OF_1_30, {CLASSIC}),
    ("1.30.3", OF_1_30, {CLASSIC}),
    ("1.30.4", {MIXED, HEADLESS}, {CLASSIC}),
    ("1.30-eed52ebb66ad", set(), {POLICY, LOCK, STALE, CLASSIC} | OF_1_30),
    ("1.31.0", {LEAK, CRL, MIXED, HEADLESS}, {CLASSIC}),
    ("1.31.1", {MIXED}, {CLASSIC, HEADLESS}),
    ("1.31-eed52ebb66ad", set(), {LEAK, CRL, MIXED, CLASSIC, HEADLESS}),
    ("1.32.0", set(), {MIXED, CLASSIC}),
    ("1.32-eed52ebb66ad", set(), {MIXED, CLASSIC}),
]


@pytest.mark.parametrize(("text", "has", "may_have"), BORDERS)
def test_a_release_has_the_defects_that_were_reported_of_it(text: str, has: set[str], may_have: set[str]) -> None:
    """The last bad release and the first good one of every line, releases that nobody looked at, and builds."""
    version = Version.parse(text)
    assert version is not None
    said = {
        word: {d.source for d in known_defects.known_defects() if d.in_version(version) == word}
        for word in (HAS, MAY_HAVE)
    }
    assert said == {HAS: has, MAY_HAVE: may_have}


def test_every_line_is_whole_and_its_releases_stand_in_order() -> None:
    """Whoever adds one learns what it needs."""
    for defect in known_defects.known_defects():
        first, last, free = (Version.parse(text) for text in (defect.first, defect.last, defect.free))
        assert free or last, defect
        end = free or Version(99, 0)
        assert (first or Version(0, 0)) <= (last or end) <= end, defect
        assert last != free, defect
        assert defect.when in {"rename", "root", "metric", "policy", "secret", "restart"} | known_defects.CONDITIONS
        assert date.fromisoformat(defect.looked_at) >= date(2026, 8, 22), defect
        assert defect.breaks
        assert defect.remedy
        assert defect.url.startswith("https://github.com/istio/istio/issues/")


def found(
    *istiods: dict[str, Any], headless: bool = False, has: tuple[str, ...] = (), unread: bool = False, **change: Any
) -> list[tuple[Verdict, str]]:
    """Return verdict and words of MK240 about east, whose components and features are these."""
    rows = [{"cluster": "east", "component": "istiod", **row} for row in istiods]
    own = [{"cluster": "east", "namespace": "db", "service": "db", "headless": headless}]
    features = [{"cluster": "east", "feature": feature} for feature in has]
    features += [{"cluster": "east", "reason": "it may not read Secrets"}] if unread else []
    tables = (
        versions.VERSIONS.frame(rows),
        services.SERVICES.frame(own),
        versions.FEATURES_IN_USE.frame(features),
    )
    return [(f.verdict, f.observed) for f in known_defects.check(mesh(**change), *tables) if f.subject == "east"]


def test_each_defect_of_each_release_that_runs_is_a_warning_with_its_source() -> None:
    """Two istiods of one release are reported once; what is not known is no pass."""
    assert found({"version": "1.31.0", "name": "a"}, {"version": "1.31.0", "name": "b"}) == [
        (PASS, "1.31.0: none of 11")
    ]
    two = found({"version": "1.31.0"}, {"version": "1.30.2"})
    assert [verdict for verdict, _ in two] == [WARN, WARN, WARN, WARN, WARN, PASS]
    assert all("1.30.2 has this (https://github.com/istio/istio/issues/" in told for _, told in two[:5])
    assert found({"version": "1.30.4"})[0][0] is PASS
    assert "free of it is 1.30.0, and 1.29.7 was not looked at" in found({"version": "1.29.7"})[1][1]
    assert found({"reason": "no answer"}) == [(UNKNOWN, "no answer")]
    assert found({"version": "custom"})[0][0] is UNKNOWN
    assert found() == [(SKIPPED, "no istiod runs there")]


def test_what_a_cluster_does_not_have_cannot_strike_it() -> None:
    """Waypoints are ambient mode's; headless Services of other clusters are reached in one network only."""
    ztunnel = {"component": "ztunnel", "version": "1.30.3"}
    assert not any("waypoints" in told for _, told in found({"version": "1.30.3"}))
    assert any("waypoints" in told for _, told in found({"version": "1.30.3"}, ztunnel))
    flat = {"topology": {"network": "flat"}}
    assert [verdict for verdict, _ in found({"version": "1.31.0"}, headless=True)] == [PASS]
    assert [verdict for verdict, _ in found({"version": "1.31.0"}, **flat)] == [PASS]
    assert [verdict for verdict, _ in found({"version": "1.31.0"}, headless=True, **flat)] == [WARN]


def test_defects_of_a_feature_count_where_it_is_used() -> None:
    """A CRL, a Gateway that istiod deploys, ambient multi-network beside sidecars."""
    assert [told for verdict, told in found({"version": "1.31.0"}, has=("crl",)) if verdict is WARN and "61073" in told]
    assert [told for _, told in found({"version": "1.30.3"}, has=("gateway-api",)) if "61095" in told]
    ambient = {"component": "ztunnel", "version": "1.32.0"}
    sidecar = {"component": "proxy", "version": "1.32.0"}
    mixed = found({"version": "1.32.0"}, ambient, sidecar, has=("ambient multi-network",))
    assert [verdict for verdict, _ in mixed] == [WARN, WARN]
    assert "on 2026-11-29 it was open, and 1.32.0 was not looked at" in mixed[0][1]
    assert [verdict for verdict, _ in found({"version": "1.32.0"}, ambient, has=("ambient multi-network",))] == [PASS]
    assert [verdict for verdict, _ in found({"version": "1.32.0"}, ambient, sidecar)] == [PASS]
    assert [told for _, told in found({"version": "1.31.0"}, unread=True) if "61073" in told]
