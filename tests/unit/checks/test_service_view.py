"""The object that hides or refuses the other cluster is the cause: of its own check, and of what follows from it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pandas as pd
import pytest

from meshkit.checks import causes, merged_service, pairs, service_merge, service_view
from meshkit.checks.finding import Finding, Verdict
from meshkit.istio.config import services
from meshkit.istio.config.configuration import AUTHORIZATION_POLICY, SIDECAR, VIRTUAL_SERVICE
from meshkit.istio.config.hindrances import MESH_CONFIG, SERVICE, Hindrance, Impact, Link
from meshkit.istio.config.service_view import ServiceView
from meshkit.kube.mesh import Mesh
from meshkit.probing import merged_service as probing
from meshkit.stages import troubleshoot
from tests.support.healthy import mesh
from tests.unit.checks.test_pairs import PAIR, facts
from tests.unit.istio.config.test_service_view import (
    EAST,
    ELSEWHERE,
    Objects,
    cluster,
    configured,
    istio,
    near,
    only,
    policy,
    service,
)

EXPORT = "networking.istio.io/exportTo"
SELECTED = configured("discoverySelectors: [{matchLabels: {mesh: shared}}]")


def seen(east: Objects | None = None, west: Objects | None = None) -> tuple[ServiceView, ...]:
    """Return the views of a mesh with these objects."""
    from meshkit.istio.config import service_view as reading

    clusters = {"east": cluster("east", **(east or {})), "west": cluster("west", **(west or {}))}
    return reading.views(Mesh(mesh().spec, clusters))


def of_pair(findings: Any, identifier: str) -> Finding:
    """Return the one finding of a check about east and west."""
    (found,) = [f for f in findings if (f.id, f.subject) == (identifier, PAIR)]
    return found  # type: ignore[no-any-return]


CASES = [
    pytest.param(
        seen(SELECTED),
        "shards",
        {"known": ""},
        "MK842",
        (
            "ConfigMap istio-system/istio in east (mesh: discoverySelectors)",
            "kubectl --context west label namespace sample mesh=shared",
        ),
        id="5.2",
    ),
    pytest.param(
        seen(west=service({EXPORT: "."})),
        "hellos",
        {"heard": "closed"},
        "MK840",
        (
            f"Service sample/httpbin in west (metadata.annotations {EXPORT}: .)",
            f"kubectl --context west annotate service -n sample httpbin {EXPORT}-",
        ),
        id="5.3",
    ),
    pytest.param(
        seen(west=configured("defaultServiceExportTo: ['.']")),
        "hellos",
        {"heard": "closed"},
        "MK840",
        (
            "ConfigMap istio-system/istio in west (mesh: defaultServiceExportTo: .)",
            "kubectl --context west edit configmaps -n istio-system istio",
        ),
        id="5.3 for all",
    ),
    pytest.param(
        seen(istio("Sidecar", ELSEWHERE)),
        "paths",
        {"way": "none"},
        "MK839",
        (
            "Sidecar sample/one in east (spec.egress.hosts)",
            "kubectl --context east edit sidecars.networking.istio.io -n sample one",
        ),
        id="5.4",
    ),
    pytest.param(
        seen(west=service(ports=[{"name": "tcp-http", "port": 8000}])),
        "paths",
        {"way": "none"},
        "MK839",
        (
            "Service sample/httpbin in west (spec.ports 8000)",
            """-p '{"spec":{"ports":[{"port":8000,"name":"http"}]}}'""",
        ),
        id="5.5",
    ),
]


@pytest.mark.parametrize(("views", "spoiled", "change", "identifier", "texts"), CASES)
def test_the_object_is_the_cause_and_what_follows_names_it(
    views: tuple[ServiceView, ...], spoiled: str, change: dict[str, Any], identifier: str, texts: tuple[str, str]
) -> None:
    """With its remedy, in place of a guess; and the effect follows from MK728."""
    known = facts(spoiled, change).with_readings(service_views=views)
    effect, cause = of_pair(pairs.check(mesh(), known), identifier), of_pair(service_view.check(mesh(), views), "MK728")
    assert (effect.verdict, cause.verdict) == (Verdict.FAIL, Verdict.FAIL)
    assert all(text in effect.remedy for text in texts)
    assert all(text in f"{cause.observed} {cause.remedy}" for text in texts)
    ordered = causes.in_order([effect, cause], ["east", "west"])
    assert [(one.id, why.id if why else "") for one, why in ordered] == [("MK728", ""), (identifier, "MK728")]


@pytest.mark.parametrize(
    ("spoiled", "change", "identifier"),
    [
        ("shards", {"known": ""}, "MK842"),
        ("hellos", {"heard": "closed"}, "MK840"),
        ("paths", {"way": "none"}, "MK839"),
    ],
)
def test_without_such_an_object_none_is_blamed(spoiled: str, change: dict[str, Any], identifier: str) -> None:
    """Another link's object is no cause either."""
    refused = seen(west=policy("DENY", {"principals": [EAST]}))
    for views in (seen(), refused):
        finding = of_pair(pairs.check(mesh(), facts(spoiled, change).with_readings(service_views=views)), identifier)
        assert "MK728" not in finding.remedy
        assert finding.remedy


def calls(views: tuple[ServiceView, ...], **change: Any) -> list[Finding]:
    """Return MK711 and MK712 of east's calls."""
    row = {"cluster": "east", "serving": "east,west", "endpoints": "10.0.0.1:8080,192.0.2.2:15443", "sent": 30}
    row |= {"leads_to": "east,west", "answered": 30, "answered_in": "east,west", "service": "sample/httpbin"}
    found = probing.with_causes(probing.MERGED.frame([{**row, **change}]), views)
    return list(merged_service.check(mesh(), found))


def test_the_policy_that_refuses_calls_is_named() -> None:
    """5.6: by its name, rather than another stage."""
    views = seen(west=policy("DENY", {"principals": [EAST]}))
    finding = calls(views, answered=15, error="403: RBAC: access denied")[1]
    assert finding.verdict is Verdict.FAIL
    assert "AuthorizationPolicy sample/guard in west (spec.rules[0])" in finding.remedy
    assert "run stage 08" in calls(seen(), answered=15, error="503")[1].remedy


def test_the_route_that_keeps_calls_in_one_cluster_is_named() -> None:
    """5.7: the VirtualService; without one, locality may."""
    finding = calls(seen(only("east")), answered_in="east")[1]
    assert finding.verdict is Verdict.WARN
    assert "VirtualService sample/pin in east (spec.http[0].route)" in finding.remedy
    assert "no object that was read keeps calls at home" in calls(seen(), answered_in="east")[1].remedy


def test_a_service_that_asks_for_the_nearest_is_named_where_no_answer_came_from_afar() -> None:
    """It hinders nobody: MK728 passes, and says it; failed calls are not its fault."""
    views = seen(near(trafficDistribution="PreferClose"))
    assert "Service sample/httpbin in east (spec.trafficDistribution)" in calls(views, answered_in="east")[1].remedy
    assert "trafficDistribution" not in calls(views, answered=15, error="503")[1].remedy
    found = [f for f in service_view.check(mesh(), views) if f.subject == "east → west"]
    assert [(f.verdict, "prefers nearer" in f.observed) for f in found] == [(Verdict.PASS, True)]


def test_the_object_that_hides_endpoints_is_named_for_the_merged_service() -> None:
    """MK711; a policy that refuses calls hides none."""
    finding = calls(seen(istio("Sidecar", ELSEWHERE)), leads_to="east")[0]
    assert "Sidecar sample/one in east" in finding.remedy
    refused = calls(seen(west=policy("DENY", {"principals": [EAST]})), leads_to="east")[0]
    assert "AuthorizationPolicy" not in refused.remedy


def test_the_service_entry_that_adds_an_address_is_named_for_it() -> None:
    """MK711: an address of no cluster is another network's pod only where no object of ours adds it."""
    spec = {"hosts": ["httpbin.sample.svc.cluster.local"], "resolution": "STATIC"}
    spec |= {"ports": [{"name": "http", "number": 8000}], "endpoints": [{"address": "198.51.100.7"}]}
    entry = istio("ServiceEntry", spec)
    added = {"endpoints": "198.51.100.7:8080", "strange": "198.51.100.7:8080"}
    blamed, other = (calls(views, **added)[0].remedy for views in (seen(entry), seen()))
    assert "ServiceEntry sample/one in east (spec.endpoints)" in blamed
    assert "which proxy, pod or gateway lacks its network" in other
    assert "198.51.100.7:8080" in other


def merged(**west: Any) -> Finding:
    """Return MK708 of a Service of both clusters that do not discover each other yet."""
    rows = [{"cluster": name, "namespace": "sample", "service": "httpbin", "endpoints": 1} for name in ("east", "west")]
    found = services.SERVICES.frame([rows[0], {**rows[1], **west}])
    both = services.merging(found, ["east", "west"], "istio-system")
    (finding,) = service_merge.check_merging(mesh(), found, both, {("east", "west")})
    return finding


def test_a_service_that_is_not_exported_to_all_will_not_simply_be_one() -> None:
    """5.3: MK708 names the field and the cluster, and has the command."""
    assert merged().verdict is Verdict.PASS
    for field in (f"{EXPORT}: .", "meshConfig.defaultServiceExportTo: ."):
        finding = merged(export_to=field)
        assert finding.verdict is Verdict.WARN
        assert f"west {field}" in finding.observed
        assert f"kubectl --context west annotate --overwrite service -n sample httpbin '{EXPORT}=*'" in finding.remedy


def test_each_object_is_a_finding_and_none_is_a_pass() -> None:
    """What is not known is unknown, beside what is."""
    good = list(service_view.check(mesh(), seen()))
    assert [(f.subject, f.verdict) for f in good] == [("east → west", Verdict.PASS), ("west → east", Verdict.PASS)]
    both = seen(istio("Sidecar", ELSEWHERE), policy("DENY", {"principals": [EAST]}))
    found = [f for f in service_view.check(mesh(), both) if f.subject == PAIR]
    assert [f.verdict for f in found] == [Verdict.FAIL, Verdict.FAIL]
    lost = replace(both[0], reason="no pod")
    assert [f.verdict for f in service_view.check(mesh(), [lost])] == [Verdict.FAIL, Verdict.FAIL, Verdict.UNKNOWN]


@pytest.mark.parametrize(
    ("impact", "verdict"),
    [(Impact.BREAKS, Verdict.FAIL), (Impact.STEERS, Verdict.WARN), (Impact.PERHAPS, Verdict.WARN)],
)
def test_only_what_breaks_fails(impact: Impact, verdict: Verdict) -> None:
    """The rest may be meant, or concern some calls."""
    one = Hindrance(Link.ANSWERS, impact, VIRTUAL_SERVICE, "east", "sample", "pin", "spec.http", "sends all calls past")
    view = ServiceView("east", "west", "sample/httpbin", (one,))
    assert [f.verdict for f in service_view.check(mesh(), [view])] == [verdict]


def test_every_remedy_is_a_command_of_the_cluster_that_has_the_object() -> None:
    """A namespace's label is set where the namespace is."""
    for kind in (AUTHORIZATION_POLICY, MESH_CONFIG, SERVICE, SIDECAR, VIRTUAL_SERVICE):
        one = Hindrance(Link.ANSWERS, Impact.BREAKS, kind, "west", "sample", "x", "spec", "does")
        command = service_view.remedy(mesh(), ServiceView("east", "west", "sample/httpbin"), one)
        assert command == f"kubectl --context west edit {kind} -n sample x"


@pytest.mark.parametrize(
    ("line", "symptom"),
    [
        ("RBAC: access denied", "RBAC: access denied"),
        ("rbac_access_denied_matched_policy[ns[sample]-policy[guard]-rule[0]]", "RBAC: access denied"),
        ("rbac_access_denied_matched_policy[none]", "RBAC: access denied"),
        ("Jwt is missing", "JWT refused"),
        ("Jwt verification fails", "JWT refused"),
        ("Jwks doesn't have key to match kid or alg from Jwt", "JWT refused"),
        ("jwt_authn_access_denied{Jwt_is_expired}", "JWT refused"),
    ],
)
def test_refusals_are_symptoms_and_lead_to_the_object(line: str, symptom: str) -> None:
    """Notebook 11 knows what sidecars write of policies."""
    found = troubleshoot.classify(line)
    assert found is not None
    assert found.name == symptom
    assert "MK728" in found.checks or symptom == "JWT refused"


def test_a_table_of_calls_without_objects_has_the_columns() -> None:
    """As of a mesh whose objects say nothing."""
    empty = probing.with_causes(probing.MERGED.frame([]), ())
    assert isinstance(empty, pd.DataFrame)
    assert list(empty.columns) == list(probing.MERGED.dtypes)
