"""Istio of another owner: what is requested of it, until when it is waited for, and what an undo says of it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from meshkit.changes.journal import DONE, FAILED
from meshkit.checks.finding import Verdict
from meshkit.istio.control_plane import inventory, versions
from meshkit.istio.control_plane.versions import ControlPlane, identity_reading
from meshkit.istio.reading import Unread
from meshkit.stages.install import by_owner
from meshkit.stages.rollback.stage import check_requested
from tests.support import healthy

RIGHT: dict[str, Any] = {
    "cluster_id": "east",
    "injected_cluster_id": "east",
    "injected_network": "net-east",
    "mesh_id": "mesh1",
    "trust_domain": "cluster.local",
}


def deployment(*args: str) -> dict[str, Any]:
    """Return istiod's Deployment with these arguments."""
    containers = [{"name": "discovery", "args": ["discovery", *args]}]
    place = {"name": "istiod", "namespace": "istio-system"}
    return {"metadata": place, "spec": {"template": {"spec": {"containers": containers}}}}


@pytest.mark.parametrize(
    ("ids", "args", "rolling", "words"),
    [
        (RIGHT, ["--clusterAliases=Kubernetes=east"], "", ""),
        (None, [], "", "no istiod of the mesh file's revision runs"),
        ({**RIGHT, "revision": "1-30"}, [], "", "no istiod of the mesh file's revision runs"),
        ({**RIGHT, "cluster_id": "Kubernetes"}, [], "", "its cluster id is Kubernetes"),
        ({**RIGHT, "injected_network": ""}, [], "", "its pods get network none"),
        (RIGHT, [], "", "it accepts no other id beside its own, and not Kubernetes"),
        (RIGHT, ["--clusterAliases=old=east"], "", "it accepts old beside its own, and not Kubernetes"),
        (RIGHT, ["--clusterAliases=Kubernetes=east"], "1 old pod is still there", "1 old pod is still there"),
    ],
)
def test_it_is_waited_for_until_all_of_it_is_there(
    monkeypatch: pytest.MonkeyPatch, ids: dict[str, Any] | None, args: list[str], rolling: str, words: str
) -> None:
    """Id, network, mesh id and the former id that proxies claim; and until no old istiod serves any of them."""
    found = identity_reading([ControlPlane("east", "istiod-1", **ids)] if ids else [])
    monkeypatch.setattr(versions, "identity", lambda _: found)
    monkeypatch.setattr(inventory, "deployments", lambda *_: [deployment(*args)])
    monkeypatch.setattr(by_owner, "rolled_out", lambda *_: lambda: rolling)
    assert by_owner.missing(healthy.mesh(), "east", "Kubernetes") == words


def test_a_control_plane_that_cannot_be_read_is_not_there_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    """An API server that is down for a moment is no reason to go on."""
    monkeypatch.setattr(versions, "identity", lambda _: identity_reading(unread=[Unread("east", reason="it is dead")]))
    assert by_owner.missing(healthy.mesh(), "east", "") == "it is dead"


def test_an_undo_names_what_owners_applied() -> None:
    """MK1209: it stays; what nobody applied is nothing to name."""
    entries = [
        SimpleNamespace(cluster=name, object="HelmValues istio-system/istiod", action=action, event=event)
        for name, action, event in (("east", "request", DONE), ("west", "request", FAILED), ("west", "install", DONE))
    ]
    [found] = check_requested(SimpleNamespace(entries=entries))  # type: ignore[arg-type]
    assert (found.id, found.verdict) == ("MK1209", Verdict.WARN)
    assert found.subject == "east: HelmValues istio-system/istiod"
