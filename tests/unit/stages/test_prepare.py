"""Stage 02: every check passes, fails and is unknown. Skews cannot be made on one machine, so tables stand for them."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from meshkit.checks import namespaces, prerequisites, remote_reader
from meshkit.checks.finding import Verdict
from meshkit.istio.config import discovery_labels, network_policies, services
from meshkit.istio.control_plane import inventory, versions
from meshkit.istio.control_plane.versions import Version
from meshkit.istio.proxies import injection, proxy_status
from meshkit.kube.mesh import Mesh
from meshkit.probing import api_server_reach, pod_reach
from meshkit.stages import prepare
from tests.support import healthy

PASS, WARN, FAIL, UNKNOWN, SKIPPED = (
    Verdict.PASS,
    Verdict.WARN,
    Verdict.FAIL,
    Verdict.UNKNOWN,
    Verdict.SKIPPED,
)
Row = dict[str, Any]
DEAD = {"reason": "it is dead"}
TABLES = {
    "roots": inventory.ROOT_NAMESPACES.frame,
    "claims": proxy_status.CLAIMS.frame,
    "clocks": inventory.CLOCKS.frame,
    "inventory": inventory.INVENTORY.frame,
    "api_servers": api_server_reach.REACH.frame,
    "names": pod_reach.API_NAMES.frame,
    "versions": versions.VERSIONS.frame,
    "features": versions.FEATURES_IN_USE.frame,
    "policies": network_policies.NETWORK_POLICIES.frame,
    "injection": injection.INJECTION.frame,
    "services": services.SERVICES.frame,
}
HEALTHY: dict[str, Row] = {
    "roots": {"namespace": "istio-system", "exists": True, "network": "net-east"},
    "identity": {"istiod": "istiod-east", "cluster_id": "east", "mesh_id": "mesh1", "trust_domain": "cluster.local"},
    "claims": {"namespace": "sample", "proxy": "app", "kind": "sidecar", "cluster_id": "east", "network": "net-east"},
    "clocks": {"seconds": 0.2, "uncertainty": 0.5},
    "inventory": {"api_server": "https://10.0.0.1:6443", "api_scope": "private"},
    "api_servers": {"target": "west", "server": "https://x", "asked_from": "istiod", "answer": "200"},
    "names": {"name": "istiod.istio-system.svc", "of": "istiod", "state": "resolved", "address": "10.9.0.1"},
    "versions": {"component": "istiod", "name": "istiod", "version": "1.31.0"},
    "injection": {"namespace": "sample", "istio_injection": "enabled", "injected": 2},
    "services": {"namespace": "sample", "service": "httpbin", "type": "ClusterIP", "ports": "http:8000/TCP"},
    "gateways": {"reason": "no Service has the label"},
}


def facts(spoiled: str = "", **change: Any) -> namespaces.PrepareFacts:
    """Return the facts of cluster east, healthy but for one row, and of a west like it where a check needs both."""
    rows: dict[str, list[Row]] = {name: [{"cluster": "east", **row}] for name, row in HEALTHY.items()}
    if spoiled:
        base = {} if "reason" in change else HEALTHY.get(spoiled, {})
        rows[spoiled] = [{"cluster": "east", **base, **change}]
    west = {"roots": {"network": "net-west"}, "injection": {}}
    for name, own in west.items():
        rows[name].append({**HEALTHY[name], "cluster": "west", **own})
    tables = {name: columns(rows.get(name, [])) for name, columns in TABLES.items()}
    typed = {"identity": healthy.identities(rows["identity"]), "gateways": healthy.offered(rows["gateways"])}
    return namespaces.PrepareFacts(**tables, **typed, istioctl="1.31.0", no_istioctl="")


CASES = [
    ("MK201", "roots", {}, PASS),
    ("MK201", "roots", {"network": ""}, SKIPPED),
    ("MK201", "roots", {"network": "", "exists": False}, SKIPPED),
    ("MK201", "roots", {"network": "net-other"}, FAIL),
    ("MK201", "roots", DEAD, UNKNOWN),
    ("MK202", "identity", {}, PASS),
    ("MK202", "identity", {"cluster_id": "Kubernetes"}, WARN),
    ("MK202", "identity", {"cluster_id": "west"}, FAIL),
    ("MK202", "identity", {"mesh_id": "other"}, WARN),
    ("MK202", "identity", {"trust_domain": "corp.example"}, FAIL),
    ("MK202", "identity", DEAD, UNKNOWN),
    ("MK701", "inventory", {}, PASS),
    ("MK701", "inventory", {"api_server": "https://127.0.0.1:6443"}, FAIL),
    ("MK701", "inventory", DEAD, UNKNOWN),
    ("MK206", "names", {}, PASS),
    ("MK206", "names", {"state": "not resolved", "detail": "no such host"}, FAIL),
    ("MK206", "names", {"state": "untried"}, SKIPPED),
    ("MK206", "names", {"state": "UNKNOWN"}, UNKNOWN),
    ("MK207", "versions", {}, PASS),
    ("MK207", "versions", {"version": "1.31.2"}, FAIL),
    ("MK207", "versions", {"version": "1.30.0"}, FAIL),
    ("MK207", "versions", {"component": "proxy", "version": "1.30.0"}, WARN),
    ("MK207", "versions", {"component": "istiod", **DEAD}, UNKNOWN),
    ("MK208", "versions", {"component": "kubernetes", "version": "v1.32.0"}, PASS),
    ("MK208", "versions", {"component": "kubernetes", "version": "v1.36.9"}, PASS),
    ("MK208", "versions", {"component": "kubernetes", "version": "v1.37.2"}, WARN),
    ("MK208", "versions", {"component": "kubernetes", "version": "v1.31.9"}, FAIL),
    ("MK208", "versions", {"component": "kubernetes", **DEAD}, UNKNOWN),
    ("MK240", "versions", {}, PASS),
    ("MK240", "versions", {"version": "custom"}, UNKNOWN),
    ("MK209", "", {}, PASS),
    ("MK209", "policies", {"state": "blocked", "way": "proxies to istiod", "policies": "deny"}, FAIL),
    ("MK209", "policies", {"state": "by address", "way": "proxies to istiod", "policies": "some"}, WARN),
    ("MK209", "policies", {"state": "not judged", "policies": "ciliumnetworkpolicies.cilium.io"}, WARN),
    ("MK209", "policies", {"state": "UNKNOWN", **DEAD}, UNKNOWN),
    ("MK210", "injection", {}, PASS),
    ("MK210", "injection", {"istio_injection": ""}, SKIPPED),
    ("MK210", "injection", {"istio_injection": "disabled"}, FAIL),
    ("MK210", "injection", {"namespace": "sample", "reason": "missing"}, SKIPPED),
    ("MK210", "injection", DEAD, UNKNOWN),
    ("MK211", "injection", {}, PASS),
    ("MK211", "injection", {"revision": "canary"}, WARN),
    ("MK211", "injection", {"bare": 1, "example": "web"}, WARN),
    ("MK211", "injection", DEAD, UNKNOWN),
    ("MK709", "services", DEAD, UNKNOWN),
    ("MK213", "gateways", {}, PASS),
    ("MK213", "gateways", {"service": "eastwest", "network": "net-east", "port": 15443, "reason": ""}, PASS),
    ("MK213", "claims", {"network": ""}, PASS),
    ("MK213", "claims", DEAD, UNKNOWN),
    ("MK213", "gateways", DEAD, UNKNOWN),
]


@pytest.mark.parametrize(("number", "spoiled", "change", "verdict"), CASES)
def test_every_check_tells_good_from_bad_from_unknown(number: str, spoiled: str, change: Row, verdict: Verdict) -> None:
    """One row is spoiled, and the check that it is about says so."""
    mesh = healthy.mesh(istio={"version": "1.31.0"})
    assert healthy.judged(prepare.check(mesh, facts(spoiled, **change)), number, "east") == [verdict]


@pytest.mark.parametrize(
    ("istio", "kubernetes", "verdict"),
    [
        ("1.26.8", "v1.28.15", FAIL),
        ("1.26.8", "v1.29.0", PASS),
        ("1.27.1", "v1.33.1", PASS),
        ("1.27.1", "v1.34.0", WARN),
        ("1.28.3", "v1.28.0", FAIL),
        ("1.28.3", "v1.29.9", WARN),
        ("1.29.7", "v1.29.0", FAIL),
        ("1.29.7", "v1.30.0-eks-1", WARN),
        ("1.29.7", "v1.35.0", PASS),
        ("1.30.4", "v1.31.9-gke.100", FAIL),
        ("1.31", "v1.32.0", PASS),
        ("1.31-eed52ebb66ad", "v1.36.0", PASS),
        ("1.25.5", "v1.30.0", UNKNOWN),
        ("1.33.0", "v1.36.0", UNKNOWN),
        ("", "v1.36.0", UNKNOWN),
    ],
)
def test_kubernetes_is_held_against_the_table_of_supported_releases(
    istio: str, kubernetes: str, verdict: Verdict
) -> None:
    """MK208 goes by data: the range that Istio supports, and the version below which istioctl refuses."""
    rows = [{"cluster": "east", "component": "kubernetes", "version": kubernetes}]
    (found,) = prerequisites.check_kubernetes(versions.VERSIONS.frame(rows), istio)
    assert found.verdict is verdict
    assert (verdict in (FAIL, WARN)) == ("looked at 2026-11-29" in found.observed)


def test_every_line_of_supported_kubernetes_is_in_order_and_dated() -> None:
    """Whoever adds one learns what it needs."""
    lines = list(prerequisites.supported().values())
    assert [line.istio for line in lines] == sorted(line.istio for line in lines)
    for line in lines:
        order = [Version.parse(v) or Version(99, 0) for v in (line.refused_below, line.least, line.newest)]
        assert order == sorted(order), line
        assert order[-1] < Version(2, 0), line
        assert line.source, line
        assert date.fromisoformat(line.looked_at), line


@pytest.mark.parametrize(("network", "verdict"), [("multi", FAIL), ("flat", SKIPPED)])
def test_a_finished_mesh_of_one_network_needs_no_label(network: str, verdict: Verdict) -> None:
    """Istio's guide for it sets none; between networks gateways are found by it."""
    found = namespaces.check_networks(
        healthy.mesh(topology={"network": network}), facts("roots", network=""), finished=True
    )
    assert [f.verdict for f in found if f.subject == "east"] == [verdict]


def test_what_fails_says_what_to_do() -> None:
    """No failure without a remedy."""
    mesh = healthy.mesh(istio={"version": "1.31.0"})
    for _, spoiled, change, verdict in CASES:
        for finding in prepare.check(mesh, facts(spoiled, **change)):
            assert finding.remedy or finding.verdict is not FAIL, finding
            assert verdict is not FAIL or finding.observed


def test_a_gateway_beside_proxies_that_do_not_know_their_network_fails() -> None:
    """MK213: their local calls would all go through it."""
    given = vars(facts("claims", network=""))
    gateway = {"cluster": "east", "service": "eastwest", "network": "net-east", "port": 15443}
    given["gateways"] = healthy.offered([gateway])
    found = list(namespaces.check_gateways(healthy.mesh(), namespaces.PrepareFacts(**given)))
    assert healthy.judged(found, "MK213", "east") == [FAIL]
    assert "eastwest" in found[0].remedy


@pytest.mark.parametrize(
    ("seconds", "uncertainty", "verdict"),
    [
        (0.4, 0.5, PASS),
        (5.8, 0.5, PASS),  # within what the header can tell
        (7.0, 0.5, WARN),
        (-30.0, 0.5, WARN),
        (119.9, 0.5, UNKNOWN),
        (-122.0, 0.5, FAIL),
        (3600.0, 0.5, FAIL),
    ],
)
def test_clocks_are_judged_by_the_gate_and_by_the_grace_of_certificates(
    seconds: float, uncertainty: float, verdict: Verdict
) -> None:
    """MK203: pairwise, with the doubt of whole seconds; this machine is a pair, too."""
    one = {"cluster": "east", "seconds": 0.0, "uncertainty": 0.5, "reason": ""}
    other = {"cluster": "west", "seconds": seconds, "uncertainty": uncertainty, "reason": ""}
    assert prerequisites.judge_clocks(one, other, 5.0).verdict is verdict
    assert prerequisites.judge_clocks(one, {**other, **DEAD}, 5.0).verdict is UNKNOWN


@pytest.mark.parametrize(
    ("row", "verdict"),
    [
        ({"answer": "200"}, PASS),
        ({"answer": "401"}, PASS),
        ({"answer": "none", "detail": "connection timed out"}, FAIL),
        ({"answer": "refused", "detail": "no alternative certificate subject name"}, FAIL),
        ({"answer": "200", "detail": "its certificate was not checked: no ConfigMap"}, UNKNOWN),
        ({"answer": "UNKNOWN", "detail": api_server_reach.NO_SENDER}, SKIPPED),
        ({"answer": "UNKNOWN", "detail": "istiod has no curl"}, UNKNOWN),
    ],
)
def test_an_api_server_that_nobody_could_ask_is_never_passed(row: Row, verdict: Verdict) -> None:
    """MK702: any HTTP status under the right certificate is an answer."""
    asked = api_server_reach.REACH.frame([{"cluster": "east", "target": "west", **row}])
    assert remote_reader.check_reach(asked, "east", "west", early=True).verdict is verdict


def test_istioctl_that_is_missing_is_unknown() -> None:
    """MK207."""
    given = namespaces.PrepareFacts(**{**vars(facts()), "istioctl": "", "no_istioctl": "there is no istioctl"})
    mesh = healthy.mesh(istio={"version": "1.31.0"})
    assert healthy.judged(prepare.check(mesh, given), "MK207", "istioctl") == [UNKNOWN]
    assert healthy.judged(prepare.check(healthy.mesh(istio={"version": "1.30.1"}), facts()), "MK207", "istioctl") == [
        FAIL
    ]


@pytest.mark.parametrize(
    ("one", "other", "gate", "same"),
    [
        ("1.31.0", "1.31.0", "same-patch", True),
        ("1.31.0", "1.31.1", "same-patch", False),
        ("1.31.0", "1.31.1", "same-minor", True),
        ("1.31-eed52ebb66ad", "1.31", "same-patch", True),
        ("1.30.1", "1.31.1", "same-minor", False),
        ("1.30.1-distroless", "1.30.1", "same-patch", True),
        ("1.31.0-tetrate-v0", "1.31.0", "same-patch", True),
        ("1.20.8-asm.33", "1.20", "same-patch", True),
        ("1.31.0-rc.0", "1.31.0", "same-patch", False),
        ("1.31.0-rc.0", "1.31.0", "same-minor", True),
        ("1.31-alpha.eed52ebb66ad", "1.31-alpha.eed52ebb66ad", "same-patch", True),
        ("1.31-alpha.eed52ebb66ad", "1.31-alpha.0123456789ab", "same-patch", False),
        ("1.31-dev", "1.31.0", "same-patch", None),
        ("1.31-dev", "1.30.0", "same-patch", False),
        ("", "1.31.1", "same-minor", None),
        ("unknown", "1.31.1", "same-minor", None),
        ("v0.0.0-master", "1.31.1", "same-minor", None),
    ],
)
def test_versions_agree_as_the_gate_asks(one: str, other: str, gate: str, *, same: bool | None) -> None:
    """A development build names no patch; what cannot be compared is neither the same nor another."""
    assert versions.agree(one, other, gate) is same


@pytest.mark.parametrize("text", ["unknown", "v0.0.0-master", "eed52ebb66ad"])
def test_a_version_that_cannot_be_compared_is_unknown(text: str) -> None:
    """MK207: of istioctl and of an istiod; neither a pass nor a failure."""
    mesh = healthy.mesh(istio={"version": "1.31.0"})
    rows = versions.VERSIONS.frame([{"cluster": "east", "component": "istiod", "version": text}])
    found = list(prerequisites.check_versions(mesh, rows, text, ""))
    assert [f.verdict for f in found if f.subject in ("istioctl", "east")] == [UNKNOWN, UNKNOWN]
    assert all(text in f.observed for f in found if f.subject in ("istioctl", "east"))


@pytest.mark.parametrize(
    ("row", "label"),
    [
        ({"istio_injection": "enabled"}, {"istio-injection": "enabled"}),
        ({"istio_injection": "", "revision": "stable"}, {"istio.io/rev": "stable"}),
    ],
)
def test_the_label_is_that_of_the_cluster_that_has_one(row: Row, label: dict[str, str]) -> None:
    """So that the probe is injected everywhere by the same revision."""
    given = vars(facts())
    rows = [
        {"cluster": "west", "namespace": "sample", **row},
        {"cluster": "east", "namespace": "sample", "reason": "missing"},
    ]
    given["injection"] = injection.INJECTION.frame(rows)
    assert namespaces.wanted_label(healthy.mesh(), namespaces.PrepareFacts(**given)) == label


def test_without_any_label_the_revision_decides() -> None:
    """Or the default's."""
    given = vars(facts())
    given["injection"] = injection.INJECTION.frame([])
    assert namespaces.wanted_label(healthy.mesh(), namespaces.PrepareFacts(**given)) == {"istio-injection": "enabled"}
    canary = healthy.mesh(istio={"revision": "canary"})
    assert namespaces.wanted_label(canary, namespaces.PrepareFacts(**given)) == {"istio.io/rev": "canary"}


def test_services_that_share_a_name_but_not_ports_are_said() -> None:
    """MK709: they merge in stage 07."""
    rows = [
        {"cluster": c, "namespace": "sample", "service": "httpbin", "type": "ClusterIP", "ports": p}
        for c, p in (("east", "http:80/TCP"), ("west", "http:81/TCP"))
    ]
    found = prepare.check(
        healthy.mesh(), namespaces.PrepareFacts(**vars(facts()) | {"services": services.SERVICES.frame(rows)})
    )
    assert healthy.judged(found, "MK709", "sample/httpbin") == [WARN]
    assert healthy.judged(prepare.check(healthy.mesh(), facts()), "MK709", "mesh") == [PASS]


def test_namespaces_get_the_labels_by_which_istiod_reads_them(tmp_path: Path) -> None:
    """A bare cluster's before stage 05: without them its istiod gives their pods no root, and they never start."""
    overlay = tmp_path / "overlay.yaml"
    selectors = "[{matchLabels: {istio-discovery: enabled}}]"
    overlay.write_text(f"kind: IstioOperator\nspec: {{meshConfig: {{discoverySelectors: {selectors}}}}}")
    spec = healthy.mesh(istio={"overlay": str(overlay)}).spec
    labels = {"east": {"istio-discovery": "enabled"}, "west": None}
    clusters: Any = {name: Namespaces(name, own) for name, own in labels.items()}
    made = Mesh(spec, clusters)
    lacking = discovery_labels.missing(made)
    own = {"istio-discovery": "enabled"}
    assert lacking == {"east": {}, "west": {"istio-system": own, "sample": own}}
    known = replace(facts(), discovery=lacking)
    known.roots.loc[known.roots["cluster"] == "west", "network"] = ""
    known.injection.loc[known.injection["cluster"] == "west", "reason"] = "missing"
    planned: list[tuple[str, str, dict[str, str]]] = []
    apply = lambda _, cluster, manifest, *__, **___: planned.append(  # noqa: E731
        (cluster, manifest["metadata"]["name"], manifest["metadata"]["labels"])
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepare.checks_revisions, "stops", lambda *_: "")
        patch.setattr(prepare.Plan, "apply", apply)
        prepare.plan(made, known)
    network, injected = {"topology.istio.io/network": "net-west"}, {"istio-injection": "enabled"}
    assert planned == [("west", "istio-system", network | own), ("west", "sample", injected | own)]
    assert discovery_labels.missing(healthy.mesh()) == {}


class Namespaces:
    """A cluster whose namespaces have the same labels, or that has none."""

    def __init__(self, name: str, labels: dict[str, str] | None) -> None:
        self.name, self.labels = name, labels

    def find(self, *_: str | None) -> Row | None:
        """Return a namespace."""
        return None if self.labels is None else {"metadata": {"labels": self.labels}}
