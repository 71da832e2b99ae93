"""The life of credentials: what is replaced, what is granted and revoked, which istiod is restarted."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from meshkit.checks import Verdict
from meshkit.errors import InputError
from meshkit.istio import accounts, remotes, versions
from meshkit.istio.fleet import table
from meshkit.mesh import Mesh
from meshkit.spec import MeshSpec
from meshkit.stages import credentials, discovery, life, rollback
from tests.objects import core, create, deployment
from tests.stages.healthy import Row, mesh, told
from tests.stages.test_discovery import facts, secret

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support import ApiServer

PAIR = "east → west"
NOW = datetime.now(UTC)
HOUR = timedelta(hours=1)
LASTS, SOON, OVER = (
    {"ends": "some day", "issued": NOW - 400 * HOUR, "expires": NOW + hours * HOUR} for hours in (300, 100, -1)
)
SHORT = {"ends": "some day", "issued": NOW - HOUR, "expires": NOW + 23 * HOUR}
PASS, FAIL, WARN, UNKNOWN = Verdict.PASS, Verdict.FAIL, Verdict.WARN, Verdict.UNKNOWN


@pytest.mark.parametrize(
    ("change", "renewed", "verdict"),
    [
        ({}, False, PASS),
        (LASTS, False, PASS),
        (SHORT, False, PASS),
        (SOON, False, WARN),
        (SOON, True, WARN),
        (OVER, False, FAIL),
        (OVER, True, WARN),
        ({"ends": ""}, False, UNKNOWN),
    ],
)
def test_the_end_of_a_credential_is_judged(change: Row, renewed: bool, verdict: Verdict) -> None:
    """A short life, granted by the server, is no alarm until half of it is over; what a run renews does not hold it."""
    rows = table([{**secret("east"), **change}], remotes.SECRET_COLUMNS)
    findings = list(life.check_life(mesh(), rows, "east", "west", renewed=renewed))
    assert told(findings, "MK809", PAIR) == [verdict]
    assert all(f.remedy for f in findings if f.verdict is not PASS)


@pytest.mark.parametrize(
    ("change", "readers", "renew", "wish"),
    [
        (SOON, {}, "", "renew"),
        (OVER, {}, "", "renew"),
        (LASTS, {}, "", ""),
        ({}, {}, "west", "renew"),
        ({}, {}, "all", "renew"),
        ({}, {}, "east", ""),
        ({"name": "theirs"}, {}, "all", ""),
        ({"token_secret": "old"}, {"known": "old,token"}, "", "renew"),
        ({"token_secret": "old"}, {"known": "old", "secret": ""}, "", "renew"),
        ({"token_secret": "of-another-account"}, {"known": "token"}, "", ""),
    ],
)
def test_what_is_replaced(change: Row, readers: Row, renew: str, wish: str) -> None:
    """What ends, what is asked for, and what the mesh file does not want any more; never another's."""
    known = facts("secrets", change)
    rows = known.readers.to_dict("records")
    rows = [{**row, **(readers if row["cluster"] == "west" else {})} for row in rows]
    known = discovery.Facts(**{**vars(known), "readers": table(rows, dict(known.readers.dtypes.astype(str)))})
    assert discovery.wanted(mesh(), known, renew)["east", "west"] == wish


def test_a_cluster_that_is_not_there_cannot_be_renewed() -> None:
    """The message names those there are."""
    with pytest.raises(InputError, match="there are east, west, or all"):
        discovery.wanted(mesh(), facts(), "north")


@pytest.mark.parametrize(
    ("number", "hurt"),
    [("1.29.6", False), ("1.30.0", True), ("1.30.3", True), ("1.30.4", True), ("1.31-abc", False), ("", False)],
)
def test_versions_that_a_change_hurts(number: str, hurt: bool) -> None:
    """By the issues of istio/istio: no such istiod is here."""
    rows = table([{"cluster": "east", "component": "istiod", "version": number}], versions.VERSION_COLUMNS)
    assert credentials.hurt(rows, "east") is hurt


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
    for manifest in accounts.least(namespace):
        east.apply(manifest)
    manifest = accounts.manifest(real, [], ["before"])
    east.apply(manifest)
    assert accounts.current(accounts.tokens(east, namespace), real) is None
    accounts.issue(real, east, manifest["metadata"]["name"])
    token = accounts.current(accounts.tokens(east, namespace), real)
    assert token
    assert token.ends
    assert abs(token.ends - datetime.now(UTC) - HOUR) < timedelta(minutes=1)
    assert (token.account, token.kind, token.replaces) == (accounts.LEAST, "expiring", ("before",))
    assert token.token not in repr(token)
    assert remotes.try_token(east, token.token, b"", namespace)["credential"] == "ok"
    east.delete(manifest)
    assert accounts.tokens(east, namespace) == []

    create(east, deployment("istiod", namespace, labels={"app": "istiod"}))
    plan = discovery.Plan(real, discovery.STAGE)
    credentials.restart_istiods(plan, "east", lambda: "not yet synced")
    (change,) = plan.changes
    assert (change.action, change.object) == ("restart", f"Deployment {namespace}/istiod")
    assert change.wait


@pytest.mark.parametrize(("number", "restarts"), [("1.30.2", 1), ("1.31.0", 0)])
def test_istiods_that_a_removal_hurts_are_restarted_by_undo(
    real: Mesh, monkeypatch: pytest.MonkeyPatch, number: str, restarts: int
) -> None:
    """After the last remote secret is gone; no such istiod is here, so its version is told."""
    rows = table([{"cluster": "east", "component": "istiod", "version": number}], versions.VERSION_COLUMNS)
    monkeypatch.setattr(versions, "versions", lambda *_: rows)
    east, name = real.clusters["east"], f"istiod-{restarts}"
    create(east, deployment(name, real.root_namespace, labels={"app": "istiod"}))
    try:
        plan = rollback.Plan(real, rollback.STAGE)
        rollback._heal(real, {"east"}, plan)
        assert [change.action for change in plan.changes if change.object.endswith(name)] == ["restart"] * restarts
        rollback._heal(real, set(), plan)
    finally:
        east.delete(deployment(name, real.root_namespace))
