"""Reader tokens and restarts of istiods, on a real API server."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from meshkit.changes import plan as changes_plan
from meshkit.changes.journal import Entry, Journal
from meshkit.istio.control_plane import versions
from meshkit.istio.multicluster import reader_tokens
from meshkit.istio.multicluster import remote_secrets as multicluster_remote_secrets
from meshkit.istio.multicluster.credentials import try_token
from meshkit.kube.mesh import Mesh
from meshkit.spec import MeshSpec
from meshkit.stages import istiod_restart
from meshkit.stages.discovery import facts as discovery_facts
from meshkit.stages.discovery import token_rotation
from meshkit.stages.rollback import stage as rollback
from tests.support.api_server import ApiServer
from tests.support.objects import core, create, deployment, labelled
from tests.unit.stages.discovery.test_token_rotation import HOUR


@pytest.fixture
def real(api_server: ApiServer, state: Path) -> Mesh:
    """East and west, both the one real API server, which grants tokens."""
    entry = {"context": "admin", "kubeconfig": str(api_server.kubeconfig), "apiServer": "https://192.0.2.1:6443"}
    clusters = [{"name": "east", "network": "a", **entry}]
    wish = {"credential": "expiring", "life": "1h", "renewBefore": "10m", "reader": "least"}
    document: dict[str, Any] = {"clusters": clusters, "remoteSecrets": wish, "mesh": {"rootNamespace": "reader-test"}}
    found = Mesh.open(MeshSpec.parse(document, where="test"))
    found.clusters["east"].apply(core("Namespace", "reader-test", ""))
    return found


def test_a_token_that_ends_is_of_the_account_and_ends_with_its_secret(real: Mesh) -> None:
    """Issued by the API server, read back as it was granted, dead when its Secret is gone; and a restart is planned."""
    east, namespace = real.clusters["east"], real.root_namespace
    create(east, core("ConfigMap", "kube-root-ca.crt", namespace, data={"ca.crt": "public"}))
    for manifest in reader_tokens.least(namespace):
        east.apply(manifest)
    manifest = reader_tokens.manifest(real, [], ["before"])
    east.apply(manifest)
    assert reader_tokens.current(reader_tokens.tokens(east, namespace), real) is None
    reader_tokens.issue(real, east, manifest["metadata"]["name"])
    token = reader_tokens.current(reader_tokens.tokens(east, namespace), real)
    assert token
    assert token.ends
    assert abs(token.ends - datetime.now(UTC) - HOUR) < timedelta(minutes=1)
    assert (token.account, token.kind, token.replaces) == (reader_tokens.LEAST, "expiring", ("before",))
    assert token.token not in repr(token)
    assert try_token(east, token.token, b"", namespace).credential == "ok"
    east.delete(manifest)
    assert reader_tokens.tokens(east, namespace) == []

    create(east, deployment("istiod", namespace, labels={"app": "istiod"}))
    plan = changes_plan.Plan(real, discovery_facts.STAGE)
    istiod_restart.restart_istiods(plan, "east", lambda: "not yet synced")
    (change,) = plan.changes
    assert (change.action, change.object) == ("restart", f"Deployment {namespace}/istiod")
    assert change.wait
    east.delete(deployment("istiod", namespace))  # other tests look for control planes on this server, too


@pytest.mark.parametrize(("number", "restarts"), [("1.30.2", 1), ("1.31.0", 0)])
def test_istiods_that_a_removal_affects_are_restarted_by_undo(
    real: Mesh, monkeypatch: pytest.MonkeyPatch, number: str, restarts: int
) -> None:
    """After the last remote secret is gone; no such istiod is here, so its version is given."""
    rows = versions.VERSIONS.frame([{"cluster": "east", "component": "istiod", "version": number}])
    monkeypatch.setattr(versions, "versions", lambda *_: rows)
    east, name = real.clusters["east"], f"istiod-{restarts}"
    create(east, deployment(name, real.root_namespace, labels={"app": "istiod"}))
    try:
        plan = changes_plan.Plan(real, rollback.STAGE)
        rollback._heal(real, {"east"}, plan)
        assert [change.action for change in plan.changes if change.object.endswith(name)] == ["restart"] * restarts
        rollback._heal(real, set(), plan)
    finally:
        east.delete(deployment(name, real.root_namespace))


def test_a_restart_that_an_undo_was_stopped_before_is_planned_again(
    real: Mesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The remote secret is gone, and noted as undone: nothing stands, and the istiod of that day still runs."""
    rows = versions.VERSIONS.frame([{"cluster": "east", "component": "istiod", "version": "1.30.2"}])
    monkeypatch.setattr(versions, "versions", lambda *_: rows)
    east, namespace = real.clusters["east"], real.root_namespace
    istiod = create(east, deployment("istiod-left", namespace, labels={"app": "istiod"}))
    book = Journal.open(real.spec.mesh.id, "run")
    book.about(clusters={"east": east.uid()})

    def noted(stage: str, action: str, what: str) -> Entry:
        gone = core("Secret", f"{multicluster_remote_secrets.PREFIX}west", namespace, data={"west": ""})
        known = {"stage": stage, "cluster": "east", "why": "", "manager": "meshkit", "temporary": False}
        return book.begin({"before": [None], "manifests": [gone]}, action=action, object=what, **known)

    def restarts() -> list[str]:
        planned = rollback.plan(real, rollback.look(real, "run"))
        return [c.object for c in planned.changes if c.action == "restart"]

    try:
        book.undone(
            noted(discovery_facts.STAGE, "create", f"Secret {namespace}/{multicluster_remote_secrets.PREFIX}west")
        )
        assert f"Deployment {namespace}/istiod-left" in restarts()
        book.done(noted(rollback.STAGE, "restart", f"Deployment {namespace}/istiod-left"))
        assert restarts() == []
    finally:
        east.delete(istiod)


def test_a_secret_that_was_changed_since_an_istiod_started_is_missed(real: Mesh) -> None:
    """One that was only created is not: that breaks none."""
    east, namespace = real.clusters["east"], real.root_namespace
    spec = {"containers": [{"name": "discovery", "image": "none"}]}
    first, second = (labelled(core("Pod", f"istiod-{n}", namespace, spec=spec), app="istiod") for n in (1, 2))
    held = labelled(
        core("Secret", f"{multicluster_remote_secrets.PREFIX}east", namespace),
        **{multicluster_remote_secrets.LABEL: "true"},
    )

    def after(*steps: Callable[[], object]) -> list[str]:
        time.sleep(1.1)  # an API server's moments are whole seconds
        for step in steps:
            step()
        return token_rotation.secrets_changed_since_start(real, "east")

    try:
        assert after() == []
        assert after(lambda: create(east, first)) == []
        assert after(lambda: east.apply({**held, "data": {"east": "YQ=="}})) == []
        assert after(lambda: east.apply({**held, "data": {"east": "Yg=="}})) == ["east"]
        assert after(lambda: create(east, second)) == ["east"]
        assert after(lambda: east.delete(first)) == []
    finally:
        for manifest in (first, second, held):
            east.delete(manifest)
