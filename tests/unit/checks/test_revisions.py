"""MK109, MK210, MK215, MK216: the running revisions beside the mesh file's, and where labels of injection lead."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pandas as pd
import pytest

from meshkit.checks import namespaces, prerequisites, proxies
from meshkit.checks import revisions as checks
from meshkit.checks.finding import Finding, Verdict
from meshkit.istio.control_plane import versions
from meshkit.istio.control_plane.revisions import ControlPlanes
from meshkit.istio.proxies import injection
from meshkit.istio.proxies.reading import ProxyFacts
from meshkit.kube.mesh import Unknown
from meshkit.stages import prepare
from meshkit.stages.install import stage as install
from tests.support import healthy, planes
from tests.unit.stages.test_prepare import facts

PASS, WARN, FAIL, UNKNOWN, SKIPPED = (Verdict.PASS, Verdict.WARN, Verdict.FAIL, Verdict.UNKNOWN, Verdict.SKIPPED)
Found = dict[str, ControlPlanes | Unknown]
BOTH = ("1-30-2", "1-31-0")


def gate(found: Found, revision: str = "", policy: str = "one") -> list[Finding]:
    """Return MK109 of a mesh file."""
    mesh = healthy.mesh(istio={"revision": revision}, gates={"revisions": policy})
    return list(checks.check(mesh, found))


def two() -> ControlPlanes:
    """Return a cluster in the midst of a canary upgrade."""
    return planes.planes("revision", run=BOTH)


def test_a_live_revision_that_the_file_does_not_name_stops_the_line() -> None:
    """istio/istio#48643: stage 05 would install a second control plane and take the default over."""
    east, west = gate({"east": planes.named(), "west": planes.NONE})
    assert (east.verdict, west.verdict) == (FAIL, PASS)
    assert east.observed == "revision 1-31-0 (tags prod-stable)"
    assert east.remedy == 'write `istio: {revision: "1-31-0"}` in the mesh file'


CASES = [
    ("1-31-0", planes.named(), "one", PASS, ""),
    ("", planes.unnamed(), "one", PASS, ""),
    ("default", planes.unnamed(), "one", PASS, ""),
    ("1-31-0", planes.unnamed(), "one", FAIL, "take `istio.revision` out"),
    ("1-32-0", planes.named(), "one", FAIL, '"1-31-0"'),
    ("prod-stable", planes.named(), "one", FAIL, '"1-31-0"'),  # a tag is no revision
    ("1-31-0", two(), "one", FAIL, "gates: {revisions: canary}"),
    ("1-31-0", two(), "canary", PASS, ""),
    ("1-32-0", two(), "canary", FAIL, "name one of them"),
    ("1-31-0", planes.planes("revision", run=(*BOTH, "1-29-0")), "canary", WARN, "end one upgrade"),
    ("", ControlPlanes(), "one", PASS, ""),
]


@pytest.mark.parametrize(("revision", "east", "policy", "verdict", "remedy"), CASES)
def test_the_file_and_what_runs(revision: str, east: ControlPlanes, policy: str, verdict: Verdict, remedy: str) -> None:
    """Each way in which they can differ, and what to write."""
    [found, _] = gate({"east": east, "west": ControlPlanes()}, revision, policy)
    assert found.verdict is verdict
    assert remedy in found.remedy


def held(*webhooks: dict[str, Any], selector: bool = True) -> ControlPlanes:
    """Return a cluster with webhooks and without an istiod."""
    service = planes.service("1-31-0")
    found = planes.cluster(services=[service], mutatingwebhookconfigurations=list(webhooks))
    service["spec"] = service["spec"] if selector else {"ports": [{"port": 443}]}
    return planes.revisions.read(found)  # type: ignore[arg-type]


def by_url() -> ControlPlanes:
    """Return a cluster whose webhooks call an external istiod by its URL."""
    hooks = planes.webhooks("unnamed")
    for hook in (hook for obj in hooks for hook in obj["webhooks"]):
        hook["clientConfig"] = {"url": "https://istiod.example:15017/inject"}
    return held(*hooks)


@pytest.mark.parametrize(
    ("revision", "east", "verdict", "words"),
    [
        # Its istiods are down (an image that cannot be pulled, no replicas): nothing may be installed beside it.
        ("", held(*planes.webhooks("revision")), FAIL, "revision 1-31-0 is installed"),
        ("1-31-0", held(*planes.webhooks("revision")), PASS, "no istiod"),
        ("", held(*planes.webhooks("unnamed")), PASS, "no istiod"),
        # An external istiod, or the primary of another cluster.
        ("", by_url(), FAIL, "outside of the cluster (https://istiod.example:15017/inject)"),
        ("1-31-0", held(*planes.webhooks("revision"), selector=False), FAIL, "(istio-system/istiod-1-31-0)"),
    ],
)
def test_what_is_installed_counts_also_where_no_istiod_runs(
    revision: str, east: ControlPlanes, verdict: Verdict, words: str
) -> None:
    """Stage 05 would install a second control plane there."""
    [found, _] = gate({"east": east, "west": ControlPlanes()}, revision)
    assert (found.verdict, words in found.observed) == (verdict, True)


def test_clusters_that_another_model_serves_are_no_failure() -> None:
    """Of such a mesh file stage 05 installs nothing."""
    mesh = healthy.mesh(topology={"controlPlane": "external"})
    assert {f.verdict for f in checks.check(mesh, {"east": by_url(), "west": by_url()})} == {PASS}


def test_clusters_of_different_revisions_do_not_get_the_advice_to_change_the_file() -> None:
    """What one of them would ask for, the other would refuse."""
    _, west = gate({"east": planes.named(), "west": planes.unnamed()}, "1-31-0")
    assert west.verdict is FAIL
    assert "bring west to 1-31-0" in west.remedy


def test_an_istiod_elsewhere_is_no_empty_cluster() -> None:
    """Stage 05 would install a second one beside it."""
    held = planes.cluster(pods=[planes.istiod("default", "istio-prod")])
    east, _ = gate({"east": planes.revisions.read(held), "west": ControlPlanes()})  # type: ignore[arg-type]
    assert east.verdict is FAIL
    assert "rootNamespace: istio-prod" in east.remedy


def test_what_could_not_be_read_does_not_pass() -> None:
    """A cluster that is dead, and facts that nobody read."""
    assert [f.verdict for f in gate({"east": Unknown("it is dead")})] == [UNKNOWN, UNKNOWN]


def test_nothing_is_planned_beside_another_revision() -> None:
    """Neither stage asks a server for a dry run: the clusters of this mesh are none."""
    found: Found = {"east": planes.named(), "west": ControlPlanes()}
    prepared = prepare.plan(healthy.mesh(), replace(facts(), revisions=found))
    known = install.InstallFacts(pd.DataFrame(), pd.DataFrame(), pd.DataFrame(), pd.DataFrame(), "1.31.0")
    installed = install.plan(healthy.mesh(), replace(known, revisions=found))
    for made in (prepared, installed):
        assert made.empty
        assert made.withheld.startswith("MK109 of east")
        made.carry_out("plan")
        assert made.pending  # so that nothing is said to be proved
        assert [f.verdict for f in made.findings()] == [SKIPPED]


def rows(west: dict[str, Any], east: str = "prod-stable") -> pd.DataFrame:
    """Return the probe's namespace of both clusters."""
    known = {"namespace": "sample", "injected": 2}
    first = {"cluster": "east", **known, "revision": east, "injected_by": "1-31-0"}
    return injection.INJECTION.frame([first, {"cluster": "west", **known, **west}])


def labelled(west: ControlPlanes, **row: Any) -> tuple[namespaces.PrepareFacts, Any]:
    """Return the facts of 02 and the mesh: east is injected by its tag."""
    found: Found = {"east": planes.named(), "west": west}
    mesh = healthy.mesh(istio={"revision": "1-31-0"})
    return replace(facts(), injection=rows(row), revisions=found), mesh


@pytest.mark.parametrize("west", [planes.tagless(), ControlPlanes()])
def test_a_tag_is_not_copied_to_a_cluster_that_has_none(west: ControlPlanes) -> None:
    """Its namespace gets what is installed there, or what stage 05 installs; east keeps its tag."""
    known, mesh = labelled(west, reason="missing", injected=0)
    assert namespaces.wanted_label(mesh, known, "east") == {"istio.io/rev": "prod-stable"}
    assert namespaces.wanted_label(mesh, known, "west") == {"istio.io/rev": "1-31-0"}


def test_the_probes_namespace_with_a_label_that_nobody_answers_fails() -> None:
    """MK210 passed where new pods got no sidecar."""
    problem = "no webhook injects for istio.io/rev=prod-stable"
    known, mesh = labelled(planes.tagless(), revision="prod-stable", problem=problem)
    east, west = namespaces.check_probe_namespace(mesh, known, finished=True)
    assert (east.verdict, west.verdict) == (PASS, FAIL)
    assert "istioctl --context west tag set prod-stable --revision 1-31-0" in west.remedy
    assert "label --overwrite namespace sample istio.io/rev=1-31-0" in west.remedy


@pytest.mark.parametrize(("label", "verdict"), [("1-31-0", PASS), ("prod-stable", FAIL)])
def test_before_stage_05_a_label_of_the_files_revision_is_good(label: str, verdict: Verdict) -> None:
    """And one of a tag that nobody will make is not."""
    known, mesh = labelled(ControlPlanes())
    both = rows({"revision": label, "problem": "no webhook"}, east=label)
    _, west = namespaces.check_probe_namespace(mesh, replace(known, injection=both))
    assert west.verdict is verdict


@pytest.mark.parametrize(("injected", "verdict"), [(3, FAIL), (0, WARN)])
def test_labels_that_lead_nowhere(injected: int, verdict: Verdict) -> None:
    """They fail where pods would lose their sidecars at the next restart."""
    row = {"cluster": "west", "namespace": "shop", "revision": "prod-stable", "injected": injected, "problem": "none"}
    found: Found = {"east": planes.named(), "west": planes.tagless()}
    mesh = healthy.mesh(istio={"revision": "1-31-0"})
    east, west = checks.check_labels(mesh, injection.INJECTION.frame([row]), found)
    assert (east.verdict, west.verdict) == (PASS, verdict)
    assert "tag set prod-stable --revision 1-31-0" in west.remedy


def test_a_label_of_its_own_that_a_webhook_leaves_out_is_no_pass() -> None:
    """The reading has all labels of the namespace, the table of it the two of injection only."""
    problem = "no webhook injects for istio.io/rev=prod-stable"
    row = {"cluster": "east", "namespace": "shop", "revision": "prod-stable", "injected": 2, "problem": problem}
    mesh, found = healthy.mesh(istio={"revision": "1-31-0"}), {"east": planes.named(), "west": planes.NONE}
    east, _ = checks.check_labels(mesh, injection.INJECTION.frame([row]), found)
    assert (east.verdict, problem in east.observed) == (FAIL, True)
    known, mesh = labelled(planes.named(), revision="prod-stable", problem=problem)
    _, west = namespaces.check_probe_namespace(mesh, known, finished=True)
    assert (west.verdict, problem in west.observed) == (FAIL, True)


def test_the_probes_pods_have_to_ask_where_others_do() -> None:
    """Its namespace is served, and its pods are not: no tag gives them sidecars."""
    known, mesh = labelled(planes.named(), revision="prod-stable")
    _, west = namespaces.check_probe_namespace(mesh, known, finished=True)
    assert (west.verdict, "sidecar.istio.io/inject=true" in west.remedy) == (FAIL, True)


def test_who_follows_which_revision() -> None:
    """Pods that a moved tag has not reached yet are named."""
    shop = {"cluster": "east", "namespace": "shop", "followed": "1-30-2×2, 1-31-0×1", "outdated": 2}
    web = {"cluster": "west", "namespace": "web", "followed": "1-31-0×4"}
    east, west = checks.check_followed(healthy.mesh(), injection.INJECTION.frame([shop, web]))
    assert (east.verdict, west.verdict, west.observed) == (WARN, PASS, "1-31-0: 4")
    assert "shop: 1-30-2×2, 1-31-0×1" in east.observed


VERSIONS = [("istiod", "istiod-old", "1.30.2"), ("istiod", "istiod-new", "1.31.0"), ("proxy", "shop", "1.30.2")]


def running(*more: tuple[str, str, str]) -> pd.DataFrame:
    """Return the versions of a canary upgrade in east."""
    names = ("component", "name", "version")
    found = [{"cluster": "east", **dict(zip(names, row, strict=True))} for row in (*VERSIONS, *more)]
    return versions.VERSIONS.frame(found)


@pytest.mark.parametrize(("policy", "verdict"), [("one", FAIL), ("canary", PASS)])
def test_two_versions_are_meant_during_a_canary_upgrade(policy: str, verdict: Verdict) -> None:
    """MK902 of the mesh, MK207 of the istiods."""
    mesh = healthy.mesh(gates={"revisions": policy}, istio={"version": "1.31.0"})
    seen = ProxyFacts(status=pd.DataFrame(), proxies=pd.DataFrame(), versions=running())
    assert [f.verdict for f in proxies.check_versions(mesh, seen)] == [verdict]
    told = prerequisites.check_versions(mesh, running(), "1.31.0", "")
    assert verdict in [f.verdict for f in told if f.subject == "east" and f.observed.startswith("istiod")]


def test_a_proxy_of_neither_version_fails_during_a_canary_upgrade() -> None:
    """It follows none of the two."""
    mesh = healthy.mesh(gates={"revisions": "canary"})
    seen = ProxyFacts(status=pd.DataFrame(), proxies=pd.DataFrame(), versions=running(("proxy", "web", "1.28.0")))
    assert [f.verdict for f in proxies.check_versions(mesh, seen)] == [FAIL]
