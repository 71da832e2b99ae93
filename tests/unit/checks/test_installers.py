"""Whose installation is it, and may istioctl change it?"""

from __future__ import annotations

from typing import Any

import pytest

from meshkit.checks import installers
from meshkit.checks.finding import Finding, Verdict
from meshkit.istio.control_plane.inventory import ELSEWHERE
from meshkit.istio.control_plane.versions import ControlPlane, identity_reading
from meshkit.kube.mesh import Unknown
from tests.support import healthy

PASS, WARN, FAIL, UNKNOWN = Verdict.PASS, Verdict.WARN, Verdict.FAIL, Verdict.UNKNOWN
LIVE: dict[str, Any] = {
    "cluster_id": "Kubernetes",
    "injected_cluster_id": "Kubernetes",
    "trust_domain": "cluster.local",
}
RIGHT = {
    **LIVE,
    "cluster_id": "east",
    "injected_cluster_id": "east",
    "injected_network": "net-east",
    "mesh_id": "mesh1",
}


def of_east(by: str | Unknown, ids: dict[str, Any], **spec: Any) -> Finding:
    """Return what MK105 says of east; west is bare."""
    planes = [ControlPlane("east", "istiod-1", **ids)] if ids else []
    found = installers.check_installers(healthy.mesh(**spec), {"east": by, "west": ""}, identity_reading(planes))
    return next(one for one in found if one.subject == "east")


@pytest.mark.parametrize(
    ("by", "ids", "verdict", "words"),
    [
        ("istioctl", LIVE, PASS, "by istioctl"),
        ("", {}, PASS, "stage 05"),
        (ELSEWHERE, {}, WARN, "no istiod"),
        ("helm", RIGHT, PASS, "left to its owner"),
        ("helm", {**RIGHT, "trust_domain": "corp"}, FAIL, "trust domain is corp"),
        ("helm", {**RIGHT, "injected_network": ""}, FAIL, "pods get network none"),
        ("operator", LIVE, FAIL, "cluster id is Kubernetes"),
        ("other", LIVE, FAIL, "mesh id is none"),
        ("helm", {}, UNKNOWN, "no istiod of it runs"),
        ("helm", {**RIGHT, "revision": "1-30"}, UNKNOWN, "no istiod of it runs"),
        (Unknown("it is dead"), LIVE, UNKNOWN, "it is dead"),
    ],
)
def test_an_installation_of_others_must_have_its_ids_first(
    by: str | Unknown, ids: dict[str, Any], verdict: Verdict, words: str
) -> None:
    """MK105: what another tool made, that tool would make again; meshkit leaves it, and names the values."""
    found = of_east(by, ids)
    assert (found.verdict, words in found.observed) == (verdict, True), found
    if verdict is FAIL:
        assert "--set global.network=net-east" in found.remedy
        assert ("--clusterAliases=Kubernetes=east" in found.remedy) == (ids["cluster_id"] == "Kubernetes")


@pytest.mark.parametrize(
    ("by", "ids", "verdict", "words"),
    [
        ("helm", RIGHT, PASS, "left to its owner"),
        ("istioctl", RIGHT, PASS, "left to its owner"),
        ("helm", LIVE, Verdict.SKIPPED, "by helm, without the mesh file's ids: stage 05 requests"),
        ("istioctl", LIVE, Verdict.SKIPPED, "stage 05 requests"),
        ("", {}, Verdict.SKIPPED, "no Istio yet: stage 05 requests"),
        (ELSEWHERE, {}, WARN, "no istiod"),
        (Unknown("it is dead"), LIVE, UNKNOWN, "it is dead"),
    ],
)
def test_with_installer_none_all_is_left_to_owners(
    by: str | Unknown, ids: dict[str, Any], verdict: Verdict, words: str
) -> None:
    """MK105: istioctl's, too; nothing is asked of an owner before stage 05 asks for it."""
    found = of_east(by, ids, istio={"installer": "none"})
    assert (found.verdict, words in found.observed) == (verdict, True), found


def test_mesh_networks_are_not_written_into_an_installation_of_others() -> None:
    """MK105: they would be gone with the owner's next run."""
    found = of_east("helm", RIGHT, topology={"meshNetworks": True})
    assert (found.verdict, "topology.meshNetworks" in found.remedy) == (FAIL, True), found


def test_a_cluster_without_istio_beside_one_of_helm_gets_it_by_istioctl() -> None:
    """MK105: who wants Helm there, too, learns it before, with the values."""
    known = installers.check_installers(healthy.mesh(), {"east": "helm", "west": ""}, identity_reading())
    found = next(one for one in known if one.subject == "west")
    assert (found.verdict, "--set global.network=net-west" in found.remedy) == (WARN, True), found
