"""The life of credentials: what is replaced, what is granted and revoked, which istiod is restarted."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

from meshkit.changes import plan as changes_plan
from meshkit.changes.change import Change
from meshkit.changes.plan import Plan
from meshkit.checks import known_defects, remote_reader, remote_secrets
from meshkit.checks.finding import Verdict
from meshkit.errors import InputError
from meshkit.istio.control_plane import versions
from meshkit.istio.multicluster import reader_tokens, remote_secret_manifest, secret_kubeconfig
from meshkit.istio.multicluster import remote_secrets as multicluster_remote_secrets
from meshkit.kube.mesh import Mesh
from meshkit.spec import MeshSpec
from meshkit.stages import istiod_restart
from meshkit.stages.discovery import facts as discovery_facts
from meshkit.stages.discovery import stage as discovery
from meshkit.stages.discovery import token_rotation
from tests.support.healthy import Row, judged, mesh, secrets
from tests.support.objects import core
from tests.unit.stages.discovery.test_stage import ADDRESS, facts, secret

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
    rows = secrets([{**secret("east"), **change}])
    findings = list(remote_secrets.check_life(mesh(), rows, "east", "west", renewed=renewed))
    assert judged(findings, "MK809", PAIR) == [verdict]
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
    known = remote_reader.DiscoveryFacts(**{**vars(known), "readers": remote_secret_manifest.READERS.frame(rows)})
    assert token_rotation.token_actions(mesh(), known, renew)["east", "west"] == wish


def test_a_cluster_that_is_not_there_cannot_be_renewed() -> None:
    """The message names those there are."""
    with pytest.raises(InputError, match="there are east, west, or all"):
        token_rotation.token_actions(mesh(), facts(), "north")


@pytest.mark.parametrize(
    ("number", "hurt"),
    [("1.29.6", False), ("1.30.0", True), ("1.30.3", True), ("1.30.4", False), ("1.31-abc", False), ("", False)],
)
def test_versions_that_a_change_affects(number: str, hurt: bool) -> None:
    """By the issues of istio/istio: no such istiod is here."""
    rows = versions.VERSIONS.frame([{"cluster": "east", "component": "istiod", "version": number}])
    assert known_defects.needs_restart_after_secret_change(rows, "east") is hurt


@pytest.mark.parametrize("late", [[], ["west"]])
def test_an_istiod_that_was_not_restarted_after_a_change_holds_the_revocation(
    monkeypatch: pytest.MonkeyPatch, late: list[str]
) -> None:
    """A run that was stopped in between plans the restart again, though the secret is as wanted."""
    monkeypatch.setattr(token_rotation, "secrets_changed_since_start", lambda _, name: late if name == "east" else [])
    known = facts("versions", {"version": "1.30.2"})
    monkeypatch.setattr(versions, "versions", lambda *_: known.versions)
    monkeypatch.setattr(multicluster_remote_secrets, "remote_secrets", lambda _: known.known.remote_secrets)
    monkeypatch.setattr(multicluster_remote_secrets, "remote_clusters", lambda _: known.known.remote_clusters)
    monkeypatch.setattr(multicluster_remote_secrets, "secret_events", lambda _: {})
    monkeypatch.setattr(reader_tokens, "tokens", lambda *_: [])
    restarted: list[str] = []
    monkeypatch.setattr(istiod_restart, "restart_istiods", lambda _, name, __: restarted.append(name))
    discovery.plan(mesh(), known)
    assert restarted == ["east"] * len(late)
    plan = changes_plan.Plan(mesh(), discovery_facts.STAGE)
    plan.changes = [Change("west", "delete", "Secret old", "", manifests=[core("Secret", "old")])]
    held = judged(token_rotation.check_readers_switched(mesh(), plan), "MK713", PAIR)
    assert held == [FAIL if late else PASS]


def test_of_an_id_that_istioctl_refuses_no_secret_is_planned() -> None:
    """The mesh can be read; it is the making of a Secret that is refused, before anything is asked."""
    clusters = [{"name": name, "context": name, "network": name} for name in ("east", "PROD_EU1")]
    plan = Plan(Mesh(MeshSpec.parse({"clusters": clusters}, where="test"), {}), "07 discovery")
    with pytest.raises(InputError, match="istioctl create-remote-secret takes a DNS label"):
        discovery._plan_secret(plan, ("east", "PROD_EU1"), "https://192.0.2.7", None, None)


@pytest.mark.parametrize(
    ("said", "held", "wish", "written"), [("", "a", "", "a"), ("b", "a", "renew", "b"), ("a", "a", "", "a")]
)
def test_a_tls_server_name_is_kept_unless_the_mesh_file_says_another(
    said: str, held: str, wish: str, written: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A renewal that drops it would leave istiod with a certificate that it refuses."""
    clusters = [{"name": n, "context": n, "network": f"net-{n}"} for n in ("east", "west")]
    two = Mesh(MeshSpec.parse({"clusters": [clusters[0], {**clusters[1], "tlsServerName": said}]}, where="test"), {})
    two.clusters.update({n: SimpleNamespace(server="https://192.0.2.9:6443") for n in ("east", "west")})  # type: ignore[misc]
    known = facts("secrets", {"tls_server_name": held, "proxied": True})
    monkeypatch.setattr(multicluster_remote_secrets, "proxy_url", lambda *_: "socks5://proxy.example")
    assert token_rotation.token_actions(two, known)["east", "west"] == wish
    monkeypatch.setattr(multicluster_remote_secrets, "secret_events", lambda _: {})
    token = reader_tokens.Token("token", "t", b"ca")
    monkeypatch.setattr(reader_tokens, "tokens", lambda *_: [token])
    monkeypatch.setattr(reader_tokens, "current", lambda *_: token)
    made: list[Row] = []
    monkeypatch.setattr(Plan, "apply", lambda _, holder, manifest, *__, **___: made.append({holder: manifest}))
    discovery.plan(two, known, "west")
    (secret,) = (one["east"] for one in made if "east" in one)
    renewed = secret_kubeconfig.parse(secret["data"]["west"])
    assert (renewed.tls_server_name, renewed.proxy_url) == (written, "socks5://proxy.example")
    assert renewed.server == ADDRESS["west"] != two.clusters["west"].server
