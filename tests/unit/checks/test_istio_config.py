"""What the checks of objects, Services and ways say of tables that a test made."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from meshkit.checks import control_plane_paths, istio_config
from meshkit.checks.finding import Finding, Verdict
from meshkit.errors import ChangeError, MeshkitError, UnreachableError
from meshkit.istio.config import config_lint, missing_services, services
from meshkit.istio.control_plane import inventory, versions
from meshkit.istio.proxies import injection
from meshkit.probing import api_server_reach, control_plane_reach, pod_reach
from tests.support import healthy
from tests.support.healthy import mesh


def verdicts(findings: Iterable[Finding]) -> dict[tuple[str, str], Verdict]:
    """Return verdicts by id and subject."""
    return {(f.id, f.subject): f.verdict for f in findings}


def judged(**row: Any) -> dict[tuple[str, str], Verdict]:
    """Return what is said of one row about east."""
    return verdicts(istio_config.check_rules(mesh(), config_lint.CONFIG_LINT.frame([{"cluster": "east", **row}])))


@pytest.mark.parametrize(
    ("trouble", "number", "worst"),
    [
        (config_lint.UNKNOWN_CLUSTER_SUBSET, "MK721", Verdict.FAIL),
        (config_lint.MTLS_OFF, "MK722", Verdict.FAIL),
        (config_lint.MTLS_OFF_PARTLY, "MK722", Verdict.WARN),
        (config_lint.FOREIGN_TRUST_DOMAIN, "MK723", Verdict.FAIL),
        (config_lint.BY_ADDRESS, "MK724", Verdict.WARN),
        (config_lint.NO_OUTLIER_DETECTION, "MK725", Verdict.WARN),
    ],
)
def test_each_trouble_has_a_check_of_its_own(trouble: str, number: str, worst: Verdict) -> None:
    """All others pass, and the other cluster's, too."""
    found = judged(trouble=trouble, kind="DestinationRule", namespace="sample", name="one", says="so", field="host")
    assert {key for key, verdict in found.items() if verdict is not Verdict.PASS} == {(number, "east")}
    assert found[number, "east"] is worst
    assert set(judged(reason="no answer").values()) == {Verdict.UNKNOWN, Verdict.PASS}


def test_in_one_network_mutual_tls_and_addresses_are_no_matter_of_the_mesh() -> None:
    """There pods answer for themselves."""
    flat = mesh(topology={"network": "flat"})
    found = verdicts(
        istio_config.check_rules(
            flat, config_lint.CONFIG_LINT.frame([{"cluster": "east", "trouble": config_lint.MTLS_OFF}])
        )
    )
    assert {number for number, _ in found} == {"MK721", "MK723", "MK725"}


def lacking(**row: Any) -> Finding:
    """Return what is said of west, which lacks a Service of east."""
    held = {"cluster": "west", "namespace": "shop", "service": "cart", "held_by": "east"}
    found = istio_config.check_absent(
        mesh(), missing_services.MISSING_SERVICES.frame([{**held, "resolves": True, **row}])
    )
    return next(f for f in found if f.subject == "west")


def test_a_service_whose_pods_run_there_must_be_there() -> None:
    """They serve nobody without it; the remedy takes it from the cluster that has it."""
    found = lacking(pods="cart-1,cart-2")
    assert (found.id, found.verdict) == ("MK726", Verdict.FAIL)
    assert "cart-1,cart-2" in found.observed
    assert "kubectl --context east get service -n shop cart" in found.remedy
    assert found.remedy.endswith("| kubectl --context west apply -f -")


def test_a_service_whose_pods_serve_by_another_name_is_a_question() -> None:
    """A canary's or an alias of the others; but it may be the one that is missing. Its owner is reported once."""
    for resolves in (True, False):
        found = lacking(instead="api", resolves=resolves)
        assert (found.id, found.verdict) == ("MK726", Verdict.WARN)
        assert "serve there as api" in found.observed
        assert "kubectl --context west apply -f -" in found.remedy
    assert lacking(instead="api", pods="cart-1").verdict is Verdict.FAIL


NOBODY = versions.identity_reading()
PORT = {"name": "http", "port": 80, "nodePort": 30080}
WHOLE = {"type": "LoadBalancer", "clusterIP": "10.0.0.9", "clusterIPs": ["10.0.0.9"], "selector": {"app": "cart"}}


@pytest.mark.skipif(not shutil.which("jq"), reason="jq is not installed")
@pytest.mark.parametrize(
    ("spec", "copied"),
    [
        ({**WHOLE, "ports": [PORT]}, {"selector": {"app": "cart"}, "ports": [{"name": "http", "port": 80}]}),
        ({**WHOLE, "clusterIP": "None"}, {"selector": {"app": "cart"}, "clusterIP": "None"}),
        ({"type": "ExternalName", "externalName": "a.example"}, {"type": "ExternalName", "externalName": "a.example"}),
    ],
)
def test_a_stub_opens_no_load_balancer_and_belongs_to_nobody(spec: dict[str, Any], copied: dict[str, Any]) -> None:
    """A headless Service stays one, and one without ports is no error."""
    place = {"name": "cart", "namespace": "shop"}
    owned = {**place, "uid": "1", "resourceVersion": "2", "ownerReferences": [{"kind": "Rollout", "uid": "3"}]}
    whole = {"apiVersion": "v1", "kind": "Service", "metadata": owned, "spec": spec, "status": {"loadBalancer": {}}}
    command = (
        istio_config.stub(mesh(), "west", "east", {**place, "service": "cart"})
        .split(" | kubectl")[0]
        .partition(" | ")[2]
    )
    made = subprocess.run(shlex.split(command), input=json.dumps(whole), capture_output=True, text=True, check=True)
    assert json.loads(made.stdout) == {"apiVersion": "v1", "kind": "Service", "metadata": place, "spec": copied}


def test_a_service_that_is_elsewhere_only_must_resolve() -> None:
    """Where proxies answer for its name, nothing is missing; but the probe's server is needed everywhere."""
    assert lacking().verdict is Verdict.PASS
    assert lacking(resolves=False).verdict is Verdict.WARN
    assert lacking(namespace="sample", service="httpbin").verdict is Verdict.FAIL
    assert lacking(reason="no answer").verdict is Verdict.UNKNOWN


def test_a_headless_service_over_networks_is_warned_of() -> None:
    """ClusterLocal says that it is meant to stay; in one network istiod can do it."""
    row = {"cluster": "east", "namespace": "sample", "service": "db", "headless": True}
    [found] = istio_config.check_headless(mesh(), services.SERVICES.frame([row, {**row, "cluster": "west"}]))
    assert (found.id, found.verdict) == ("MK727", Verdict.WARN)
    assert "sample/db in east, west" in found.observed
    [found] = istio_config.check_headless(mesh(), services.SERVICES.frame([{**row, "cluster_local": True}]))
    assert found.verdict is Verdict.PASS
    assert not [*istio_config.check_headless(mesh(topology={"network": "flat"}), services.SERVICES.frame([row]))]


def test_namespaces_that_are_injected_in_one_cluster_only_are_warned_of() -> None:
    """A label by revision counts as one; the probe's namespace has a check of its own."""
    row = {"cluster": "east", "namespace": "shop", "istio_injection": "enabled"}
    by_revision = {"cluster": "west", "namespace": "shop", "revision": "1-31"}
    plain = {"cluster": "west", "namespace": "shop", "injected": 1}
    assert set(
        verdicts(istio_config.check_namespaces(mesh(), injection.INJECTION.frame([row, by_revision]))).values()
    ) == {Verdict.PASS}
    [found] = istio_config.check_namespaces(mesh(), injection.INJECTION.frame([row, plain]))
    assert (found.id, found.subject, found.verdict) == ("MK214", "west: namespace shop", Verdict.WARN)
    assert found.remedy == "kubectl --context west label namespace shop istio-injection=enabled"
    [found] = istio_config.check_namespaces(
        mesh(), injection.INJECTION.frame([by_revision, plain | {"cluster": "east"}])
    )
    assert found.remedy == "kubectl --context east label namespace shop istio.io/rev=1-31"


@pytest.mark.parametrize(
    ("state", "verdict"),
    [("ok", Verdict.PASS), ("no answer", Verdict.FAIL), ("untried", Verdict.SKIPPED), ("UNKNOWN", Verdict.UNKNOWN)],
)
def test_a_way_that_was_tried_passes_only_if_there_was_an_answer(state: str, verdict: Verdict) -> None:
    """What nobody could try is no pass."""
    rows = [
        {"cluster": name, "way": way, "state": state, "detail": "told"}
        for name in ("east", "west")
        for way in (control_plane_reach.TO_ISTIOD, control_plane_reach.TO_WEBHOOK)
    ]
    found = verdicts(control_plane_paths.check_tried(mesh(), control_plane_reach.CONTROL_PLANE_REACH.frame(rows)))
    assert {number for number, _ in found} == {"MK731", "MK732"}
    assert set(found.values()) == {verdict}


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (ChangeError("POST namespaces/sample/pods was refused (422): denied request: set limits"), "untried"),
        (ChangeError("POST … was refused (500): failed calling webhook: timed out"), "no answer"),
        (UnreachableError("it did not answer within 10 s"), "no answer"),
        (UnreachableError("we may not (403)"), "untried"),
    ],
)
def test_another_admissions_no_is_not_istiods(error: MeshkitError, state: str) -> None:
    """Kyverno or a policy of the cluster may want what our pod has not: nothing is known of the webhook then."""

    def rehearse(*_: object, **__: object) -> None:
        raise error

    place = {"metadata": {"labels": {"istio-injection": "enabled"}}}
    cluster = SimpleNamespace(name="east", find=lambda *_: place, can_i=lambda *_: True, rehearse=rehearse)
    assert control_plane_reach._to_webhook(mesh(), cast("Any", cluster), None)["state"] == state


def hosts(known: str, now: str, address: str = "lb.example") -> dict[tuple[str, str], Verdict]:
    """Return what is said of a gateway of west, by its address, what east's istiod has, and what resolves now."""
    offered = {"cluster": "west", "network": "net-west", "addresses": (address,)}
    seen = {"cluster": "east", "istiod": "istiod", "network": "net-west", "address": known}
    name = {"cluster": "east", "name": "lb.example", "state": "resolved" if now else "not resolved", "address": now}
    tables = (
        pod_reach.API_NAMES.frame([name]),
        healthy.offered([offered]),
        healthy.seen([seen]),
    )
    return verdicts(control_plane_paths.check_hosts(mesh(), NOBODY, *tables))


def test_istiod_must_have_the_address_to_which_a_load_balancers_name_leads_now() -> None:
    """Numbers are compared elsewhere, and a name that does not resolve is unknown."""
    pair = ("MK733", "east → west")
    assert hosts("192.0.2.1", "192.0.2.1")[pair] is Verdict.PASS
    assert hosts("192.0.2.1", "192.0.2.2")[pair] is Verdict.WARN
    assert hosts("192.0.2.1", "")[pair] is Verdict.UNKNOWN
    assert hosts("192.0.2.1", "", address="192.0.2.1")[pair] is Verdict.SKIPPED


def test_an_address_within_ones_own_ranges_leads_nowhere() -> None:
    """The other way round it is fine."""
    known = [
        {"cluster": "east", "pod_ranges": "10.1.0.0/16,10.2.0.0/16", "api_server": "https://192.0.2.1:6443"},
        {"cluster": "west", "pod_ranges": "10.3.0.0/16", "api_server": "https://10.2.0.9:6443"},
    ]
    offered = healthy.offered([{"cluster": "west", "addresses": ("192.0.2.7", "lb.example")}])
    for url in ("https://10.2.0.9:6443", "https://10.2.0.9"):
        read = inventory.INVENTORY.frame([known[0], known[1] | {"api_server": url}])
        found = verdicts(
            control_plane_paths.check_ranges(mesh(), NOBODY, read, offered, api_server_reach.REACH.frame([]))
        )
        assert found == {("MK734", "east → west"): Verdict.FAIL, ("MK734", "west → east"): Verdict.PASS}


@pytest.mark.parametrize(
    ("east", "answer", "detail", "verdict"),
    [
        # One VPC: the gateway and the API server of west are neighbours of east's pods, and none of them.
        ({"pod_ranges": "10.0.12.120/32", "pod_ranges_from": "pods"}, "UNKNOWN", "", Verdict.PASS),
        ({"pod_ranges": "10.0.12.200/32", "pod_ranges_from": "pods"}, "UNKNOWN", "", Verdict.FAIL),
        ({"pod_ranges": "10.0.12.201/32", "pod_ranges_from": "pods"}, "UNKNOWN", "", Verdict.FAIL),
        ({"service_ranges": "10.0.12.201/32", "service_ranges_from": "ClusterIPs"}, "none", "", Verdict.FAIL),
        ({"service_ranges": "10.0.12.201/32", "service_ranges_from": "ClusterIPs"}, "401", "", Verdict.PASS),
        ({"service_ranges": "10.0.12.201/32"}, "401", api_server_reach.UNCHECKED, Verdict.FAIL),
    ],
)
def test_neighbours_in_a_vpc_are_not_ones_own(east: dict[str, str], answer: str, detail: str, verdict: Verdict) -> None:
    """MK734: an address that a pod or Service of one's own has, and none around it; an answer proves more."""
    url = "https://10.0.12.201:6443"
    known = [{"cluster": "east", **east}, {"cluster": "west", "api_server": url}]
    asked = {"cluster": "east", "target": "west", "server": url, "answer": answer, "detail": detail}
    offered = healthy.offered([{"cluster": "west", "addresses": ("10.0.12.200",)}])
    read = inventory.INVENTORY.frame(known)
    found = verdicts(
        control_plane_paths.check_ranges(mesh(), NOBODY, read, offered, api_server_reach.REACH.frame([asked]))
    )
    assert found["MK734", "east → west"] is verdict


def test_addresses_of_a_gateway_that_could_not_be_read_are_neither_right_nor_wrong() -> None:
    """Nor is what an istiod has that could not be asked."""
    lost = {"cluster": "west", "reason": "no answer"}
    offered = {"cluster": "west", "network": "net-west", "service": "eastwest", "addresses": ("lb.example",)}
    seen = {"cluster": "east", "istiod": "istiod", "network": "net-west", "address": "192.0.2.1"}
    for gateway, view in ((lost, seen), (offered, {**lost, "cluster": "east"})):
        tables = healthy.offered([gateway]), healthy.seen([view])
        found = verdicts(control_plane_paths.check_hosts(mesh(), NOBODY, pod_reach.API_NAMES.frame([]), *tables))
        assert found["MK733", "east → west"] is Verdict.UNKNOWN
    ranges = [{"cluster": name, "pod_ranges": "10.1.0.0/16"} for name in ("east", "west")]
    read = inventory.INVENTORY.frame(ranges)
    unasked = api_server_reach.REACH.frame([])
    found = verdicts(control_plane_paths.check_ranges(mesh(), NOBODY, read, healthy.offered([lost]), unasked))
    assert found == {("MK734", "east → west"): Verdict.UNKNOWN, ("MK734", "west → east"): Verdict.PASS}
