"""Stage 07's checks: each can pass, fail and be unknown; what works is left alone, what is another's is not touched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import yaml

from meshkit.changes.change import Change
from meshkit.changes.plan import Plan
from meshkit.checks import merged_service, remote_reader, remote_secrets, service_merge
from meshkit.checks.finding import Finding, Verdict, overall
from meshkit.errors import UnreachableError
from meshkit.istio.config import services
from meshkit.istio.control_plane import versions
from meshkit.istio.multicluster import remote_secret_manifest
from meshkit.istio.proxies import proxy_status
from meshkit.probing import api_server_reach
from meshkit.probing import merged_service as probing_merged_service
from meshkit.stages.discovery import stage as discovery
from meshkit.stages.discovery import token_rotation
from meshkit.stages.discovery.stage import Discovery
from tests.support import healthy
from tests.support.healthy import OTHER, Row, judged, mesh

PASS, FAIL, UNKNOWN, WARN, SKIPPED = Verdict.PASS, Verdict.FAIL, Verdict.UNKNOWN, Verdict.WARN, Verdict.SKIPPED
PAIR, BACK = "east → west", "west → east"
ADDRESS = {"east": "https://192.0.2.11:6443", "west": "https://192.0.2.12:6443"}


def reader(name: str) -> Row:
    """Return how a cluster is to be read."""
    proof = {"secret": "token", "known": "token", "credential": "ok", "ends": "never"}
    return {"cluster": name, "server": ADDRESS[name], "server_from": "apiServer", "service_account": True, **proof}


def reached(name: str) -> Row:
    """Return that the other cluster's API server answers."""
    return {
        "cluster": name,
        "target": OTHER[name],
        "server": ADDRESS[OTHER[name]],
        "asked_from": "istiod",
        "answer": "200",
    }


def claim(name: str) -> Row:
    """Return what the one proxy of a cluster claims."""
    return {"cluster": name, "namespace": "sample", "proxy": "sleep", "cluster_id": name, "network": f"net-{name}"}


def service(name: str) -> Row:
    """Return a Service that both clusters have."""
    return {
        "cluster": name,
        "namespace": "shop",
        "service": "web",
        "type": "ClusterIP",
        "ports": "http:80/TCP",
        "endpoints": 1,
    }


def version(name: str) -> Row:
    """Return an istiod's version."""
    return {"cluster": name, "component": "istiod", "name": f"istiod-{name}", "version": "1.31.0"}


def secret(name: str) -> Row:
    """Return the remote secret of the other cluster, as this stage makes it."""
    return {**healthy.secret(name), "server": ADDRESS[OTHER[name]]}


MAKERS: dict[str, tuple[Any, Any]] = {
    "readers": (reader, remote_secret_manifest.READERS.frame),
    "reach": (reached, api_server_reach.REACH.frame),
    "claims": (claim, proxy_status.CLAIMS.frame),
    "services": (service, services.SERVICES.frame),
    "versions": (version, versions.VERSIONS.frame),
    "secrets": (secret, healthy.secrets),
}


def facts(
    spoiled: str = "", change: Row | None = None, *, none: bool = False, more: Row | None = None
) -> remote_reader.DiscoveryFacts:
    """Return the facts of two clusters that have discovered each other; east's row of a table is spoiled.

    Args:
        spoiled: the table; one of stage 08's as well.
        change: what is different in east's row.
        none: whether it is missing.
        more: a row more, like east's but for this.
    """
    tables: dict[str, Any] = {}
    for name, (maker, columns) in MAKERS.items():
        rows = [maker(cluster) for cluster in OTHER]
        if name == spoiled:
            rows = [
                *([] if none else [{**rows[0], **(change or {})}]),
                *rows[1:],
                *([{**rows[0], **more}] if more else []),
            ]
        tables[name] = columns(rows)
    known = healthy.facts("" if spoiled in MAKERS else spoiled, change, none=none)
    known = known.with_readings(remote_secrets=tables.pop("secrets"))
    same = services.merging(tables["services"], list(OTHER), "istio-system")
    return remote_reader.DiscoveryFacts(known=known, merging=same, **tables)


def undiscovered(spoiled: str = "", change: Row | None = None) -> remote_reader.DiscoveryFacts:
    """Return the same before the stage: no remote secret."""
    known = facts(spoiled, change)
    none = known.known.with_readings(remote_secrets=healthy.secrets([]))
    return remote_reader.DiscoveryFacts(**{**vars(known), "known": none})


def test_clusters_that_discovered_each_other_pass_and_want_nothing() -> None:
    """Each check speaks, and no pair needs a secret."""
    findings = discovery.check(mesh(), facts())
    assert overall(findings) is PASS
    assert {f.id for f in findings} == {"MK801", "MK805", "MK807", "MK809", *(f"MK70{n}" for n in range(1, 10))}
    assert set(token_rotation.token_actions(mesh(), facts()).values()) == {""}


@pytest.mark.parametrize(("watched", "verdicts"), [("west", (SKIPPED, PASS)), ("north", (FAIL, FAIL))])
def test_an_istiod_that_reads_kubeconfig_files_is_given_no_secret(
    watched: str, verdicts: tuple[Verdict, Verdict]
) -> None:
    """A cluster without a file stops the stage; where all have one nothing is made, and nothing untried passes."""
    known = facts("remotes", {"kubeconfig_folder": "/kubeconfigs", "remote": watched})
    known = replace(known, known=known.known.with_readings(remote_secrets=healthy.secrets([])))
    assert token_rotation.token_actions(mesh(), known)["east", "west"] == ""
    assert judged(discovery.check(mesh(), known), "MK706", PAIR) == [verdicts[0]]
    read = (known.known.identity, known.known.remote_secrets, known.known.remote_clusters)
    proofs = list(remote_secrets.check(mesh(), *read, ("east", "west")))
    assert {(f.id, f.verdict) for f in proofs} == {("MK802", verdicts[1]), ("MK803", SKIPPED), ("MK804", verdicts[1])}
    assert all("/kubeconfigs" in f.observed for f in proofs if f.id != "MK804")


@pytest.mark.parametrize("beside", ["north", "east"])
def test_a_secret_may_hold_other_clusters_too_and_the_readers_own(beside: str) -> None:
    """As pipelines write it, the same in every cluster: istiod takes each key by itself, and passes over its own id."""
    known = facts("secrets", more={"key": beside, "annotation": "", "leads_to": beside})
    assert set(token_rotation.token_actions(mesh(), known).values()) == {""}
    findings = discovery.check(mesh(), known)
    read = (known.known.identity, known.known.remote_secrets, known.known.remote_clusters)
    findings += remote_secrets.check(mesh(), *read, ("east", "west"))
    assert overall(findings) is PASS


def test_before_the_stage_every_pair_wants_a_secret_and_no_gate_stands_before_it() -> None:
    """What merges is a warning only."""
    findings = discovery.check(mesh(), undiscovered())
    assert set(token_rotation.token_actions(mesh(), undiscovered()).values()) == {"make"}
    assert [(f.id, f.verdict) for f in findings if f.verdict is not PASS] == [("MK708", WARN)]


SPOILED = [
    ("MK701", "east", "readers", {"server": "https://127.0.0.1:6443", "server_from": "kubeconfig"}, FAIL),
    ("MK701", "east", "readers", {"server": "https://localhost:6443"}, FAIL),
    ("MK701", "east", "readers", {"server": "https://[::1]:6443"}, FAIL),
    ("MK701", "east", "readers", {"server": "http://192.0.2.11"}, FAIL),
    ("MK701", "east", "readers", {"server": "", "credential": "UNKNOWN", "detail": "no answer"}, UNKNOWN),
    ("MK702", PAIR, "reach", {"answer": "401"}, PASS),
    ("MK702", PAIR, "reach", {"answer": "none", "detail": "curl: (28) timed out"}, FAIL),
    ("MK702", PAIR, "reach", {"answer": "refused"}, FAIL),
    ("MK702", PAIR, "reach", {"answer": "UNKNOWN", "detail": api_server_reach.NO_SENDER}, UNKNOWN),
    ("MK702", PAIR, "reach", {"answer": "200", "detail": f"{api_server_reach.UNCHECKED}: no answer"}, UNKNOWN),
    ("MK702", PAIR, "reach", {"answer": "TLS", "detail": "its CA is not known"}, WARN),
    ("MK703", "east", "claims", {"network": ""}, FAIL),
    ("MK703", "east", "claims", {"network": "net-west"}, FAIL),
    ("MK703", "east", "claims", {"cluster_id": "Kubernetes"}, FAIL),
    ("MK703", "east", "claims", {"reason": "no answer"}, UNKNOWN),
    ("MK704", "east", "readers", {"service_account": False}, FAIL),
    ("MK704", "east", "readers", {"server": "", "detail": "no answer"}, UNKNOWN),
    ("MK705", "east", "readers", {"lacking": "create secrets"}, FAIL),
    ("MK705", "east", "readers", {"server": "", "detail": "no answer"}, UNKNOWN),
    ("MK706", PAIR, "secrets", {"name": "theirs"}, PASS),
    ("MK706", PAIR, "secrets", {"name": "theirs", "credential": "401"}, FAIL),
    ("MK706", PAIR, "secrets", {"credential": "401"}, PASS),
    ("MK706", PAIR, "secrets", {"key": "config"}, FAIL),
    ("MK706", PAIR, "secrets", {"name": "theirs", "key": "2f1c"}, FAIL),
    ("MK706", PAIR, "secrets", {"annotation": "north"}, FAIL),
    ("MK706", PAIR, "secrets", {"namespace": "default"}, FAIL),
    ("MK706", PAIR, "secrets", {"labelled": False}, FAIL),
    ("MK706", PAIR, "secrets", {"labelled": False, "paused": True}, FAIL),
    ("MK706", PAIR, "secrets", {"credential": "unreachable"}, UNKNOWN),
    ("MK706", PAIR, "secrets", {"credential": "untested", "auth": "clientCertificate"}, PASS),
    ("MK706", PAIR, "secrets", {"credential": "untested", "name": "theirs"}, UNKNOWN),
    ("MK706", PAIR, "secrets", {"credential": "UNKNOWN", "detail": "no answer"}, UNKNOWN),
    ("MK708", "east", "services", {"service": "", "reason": "no answer"}, UNKNOWN),
    ("MK709", "shop/web", "services", {"ports": "http:81/TCP"}, WARN),
    ("MK801", "east", "identity", {"network": ""}, FAIL),
    ("MK805", "east", "gateways", {"addresses": ()}, FAIL),
    ("MK807", "east", "certificates", {"anchor": "bb22", "roots": "bb22"}, FAIL),
]


@pytest.mark.parametrize(("number", "subject", "spoiled", "change", "verdict"), SPOILED)
def test_what_is_spoiled_is_found_by_its_check(
    number: str, subject: str, spoiled: str, change: dict[str, Any], verdict: Verdict
) -> None:
    """One thing in east is changed; the check that is about it says so, with a remedy if it fails."""
    findings = discovery.check(mesh(), facts(spoiled, change))
    assert judged(findings, number, subject) == [verdict]
    assert all(f.remedy for f in findings if f.verdict is FAIL)


@pytest.mark.parametrize(
    ("spoiled", "change", "number"),
    [
        ("identity", {"network": ""}, "MK801"),
        ("gateways", {"addresses": ()}, "MK805"),
        ("claims", {"network": ""}, "MK703"),
        ("readers", {"service_account": False}, "MK704"),
        ("reach", {"answer": "UNKNOWN", "detail": api_server_reach.NO_SENDER}, "MK702"),
    ],
)
def test_in_plan_mode_what_an_earlier_stage_fixes_does_not_fail(spoiled: str, change: Row, number: str) -> None:
    """It is skipped, and says which stage."""
    findings = [f for f in discovery.check(mesh(), facts(spoiled, change), "plan") if f.id == number]
    assert {f.verdict for f in findings} == {PASS, SKIPPED}
    assert any("stage 0" in f.observed for f in findings)


@pytest.mark.parametrize(
    ("change", "wish"),
    [
        ({}, ""),
        ({"credential": "401"}, "renew"),
        ({"credential": "mismatch"}, "renew"),
        ({"auth": "unreadable", "credential": "untested"}, "renew"),
        ({"server": "https://127.0.0.1:6443"}, "renew"),
        ({"server": "https://192.0.2.99:6443"}, ""),
        ({"credential": "unreachable"}, ""),
        ({"credential": "UNKNOWN"}, ""),
        ({"name": "theirs", "credential": "401"}, ""),
        ({"namespace": "default"}, "make"),
    ],
)
def test_what_a_pair_needs(change: Row, wish: str) -> None:
    """What works, what is another's and what could not be read is left alone; so is istiod's own way to a cluster.

    Another address than ours may be a private endpoint, or lead past a proxy.
    """
    assert token_rotation.token_actions(mesh(), facts("secrets", change))["east", "west"] == wish


def test_the_mesh_files_address_replaces_that_of_a_secret() -> None:
    """As the remedies of MK833 and MK834 say."""
    clusters = [{"name": n, "context": n, "network": f"net-{n}", "apiServer": ADDRESS[n]} for n in OTHER]
    for server, wish in ((ADDRESS["west"], ""), ("https://192.0.2.99:6443", "renew")):
        found = token_rotation.token_actions(mesh(clusters=clusters), facts("secrets", {"server": server}))
        assert found["east", "west"] == wish


def test_an_address_that_is_not_for_others_renews_nothing() -> None:
    """A mesh file without apiServer does not spoil a secret that works."""
    known = facts("readers", {"server": "https://127.0.0.1:1"})
    assert set(token_rotation.token_actions(mesh(), known).values()) == {""}


@pytest.mark.parametrize(
    ("number", "credential", "verdict"),
    [
        ("1.29.6", "401", PASS),
        ("1.30.0", "none", WARN),
        ("1.30.1", "ok", PASS),
        ("1.30.3", "401", WARN),
        ("1.30.4", "401", PASS),
        ("1.30-abc", "401", WARN),
        ("1.31-abc", "401", PASS),
        ("", "401", UNKNOWN),
    ],
)
def test_istiods_that_are_affected_by_a_change_are_named(number: str, credential: str, verdict: Verdict) -> None:
    """1.30.0 to 1.30.3 and builds of 1.30: a warning, and a restart in the plan after a change."""
    known = undiscovered() if credential == "none" else facts("secrets", {"credential": credential})
    known = remote_reader.DiscoveryFacts(**{**vars(known), "versions": facts("versions", {"version": number}).versions})
    assert judged(discovery.check(mesh(), known), "MK707", "east") == [verdict]


def test_two_secrets_of_one_cluster_fail() -> None:
    """Istiod takes the first and ignores the rest."""
    known = facts("secrets", {}, more={"name": "again"})
    assert judged(discovery.check(mesh(), known), "MK706", PAIR) == [FAIL]


def merges(namespace: str, new: set[tuple[str, str]]) -> list[Verdict]:
    """Return the verdicts of MK708 on a namespace."""
    rows = services.SERVICES.frame([{**service(name), "namespace": namespace} for name in OTHER])
    same = services.merging(rows, list(OTHER), "istio-system")
    return judged(service_merge.check_merging(mesh(), rows, same, new), "MK708", f"namespace {namespace}")


def test_a_merge_is_a_warning_where_it_is_new_and_not_meant() -> None:
    """The probe's own Services are meant; what merged before is no news."""
    assert merges("shop", {("east", "west")}) == [WARN]
    assert merges("shop", {("east", "north")}) == [PASS]
    assert merges("shop", set()) == [PASS]
    assert merges("sample", {("east", "west")}) == [PASS]


def proposed(new: set[tuple[str, str]], change: Row | None = None, **of_all: Any) -> dict[str, str]:
    """Return host and rule of what could stay at home, of a Service of two clusters changed in east, or in both."""
    own = [{**service(name), "namespace": "shop", **of_all} for name in OTHER]
    rows = services.SERVICES.frame([{**own[0], **(change or {})}, own[1]])
    found = service_merge.proposals(mesh(), services.merging(rows, list(OTHER), "istio-system"), new)
    return dict(zip(found["host"], found["rule"], strict=True))


def test_what_could_stay_at_home_is_proposed_by_a_rule_that_says_why() -> None:
    """What differs, what is headless, what serves its own clients until now; nothing else."""
    host, new = "web.shop.svc.cluster.local", {("east", "west")}
    assert proposed(new) == {host: "each cluster serves only its own clients now; is it meant to be one?"}
    assert proposed(set()) == {}, "it is one already, and alike"
    assert "two applications under one name" in proposed(set(), {"ports": "tcp:5432/TCP"})[host]
    assert "their own cluster only" in proposed(set(), headless=True)[host]
    assert proposed(new, cluster_local=True) == {}, "it stays already"
    assert proposed(new, namespace="sample") == {}, "the probe's is meant to be one"
    assert proposed(new, namespace="istio-system") == {}


def test_the_patch_keeps_what_meshconfig_says_today_in_every_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lists are replaced as a whole; what could not be read is reported."""
    theirs = {"settings": {"clusterLocal": True}, "hosts": ["*.db.svc.cluster.local"]}
    answers: list[Any] = [{"serviceSettings": [theirs]}, {"serviceSettings": [theirs]}]
    monkeypatch.setattr(service_merge, "mesh_config", lambda *_: _raised(answers.pop()))
    wanted = service_merge.LOCAL.frame([{"host": "web.shop.svc.cluster.local"}])
    document = yaml.safe_load(service_merge.patch(mesh(), wanted))
    ours = {"settings": {"clusterLocal": True}, "hosts": ["web.shop.svc.cluster.local"]}
    assert document["kind"] == "IstioOperator"
    assert document["spec"] == {"meshConfig": {"serviceSettings": [theirs, ours]}}
    answers += [{}, UnreachableError("no answer within 10 s")]
    assert "are missing here: no answer within 10 s" in service_merge.patch(mesh(), wanted)
    assert service_merge.patch(mesh(), service_merge.LOCAL.frame([])) == ""


def _raised(answer: Any) -> Any:
    if isinstance(answer, Exception):
        raise answer
    return answer


def test_the_one_line_of_a_remedy_is_the_entry_in_yaml() -> None:
    """Anyone who copies it has no quotes to fix."""
    host = "*.shop.svc.cluster.local"
    line = services.local_words(host)
    assert yaml.safe_load(line.replace("meshConfig.", "")) == {"serviceSettings": [services.local_entry([host])]}


def proven(change: Row) -> list[Finding]:
    """Return MK711 and MK712 for a row of east that is good but for the change."""
    row = {"cluster": "east", "serving": "east,west", "endpoints": "10.0.0.1:8080,192.0.2.2:15443", "sent": 30}
    row |= {"leads_to": "east,west", "answered": 30, "answered_in": "east,west", "service": "sample/httpbin"}
    return [*merged_service.check(mesh(), probing_merged_service.MERGED.frame([{**row, **change}]))]


@pytest.mark.parametrize(
    ("change", "endpoints", "calls"),
    [
        ({}, PASS, PASS),
        ({"leads_to": "east"}, FAIL, PASS),
        ({"strange": "10.0.0.9:8080"}, FAIL, PASS),
        ({"serving": "east"}, UNKNOWN, PASS),
        ({"serving": "east", "answered_in": "east", "unread": "north: no; west: no"}, UNKNOWN, UNKNOWN),
        ({"serving": "east,west", "unread": "northwest: no"}, PASS, UNKNOWN),
        ({"answered_in": "?"}, PASS, WARN),
        ({"answered": 29, "error": "503"}, PASS, FAIL),
        ({"answered_in": "east"}, PASS, WARN),
        ({"answered": 0, "answered_in": ""}, PASS, FAIL),
        ({"reason": "no pod"}, UNKNOWN, UNKNOWN),
    ],
)
def test_endpoints_and_calls_are_judged(change: Row, endpoints: Verdict, calls: Verdict) -> None:
    """Calls that succeed do not hide a missing or a raw address."""
    findings = proven(change)
    assert judged(findings, "MK711", PAIR) == [endpoints]
    assert judged(findings, "MK712", "east") == [calls]


def test_no_facts_are_no_pass() -> None:
    """East has no row; only that there is no secret yet is as it should be."""
    for spoiled, number, subject, verdict in (
        ("readers", "MK701", "east", UNKNOWN),
        ("readers", "MK705", "east", UNKNOWN),
        ("reach", "MK702", PAIR, UNKNOWN),
        ("claims", "MK703", "east", SKIPPED),
        ("secrets", "MK706", PAIR, PASS),
    ):
        findings = discovery.check(mesh(), facts(spoiled, none=True))
        assert judged(findings, number, subject) == [verdict]


class Steps:
    """Stands for the functions that stage 07 calls, and notes which, in which order; plans have a change or none."""

    def __init__(self, patch: pytest.MonkeyPatch, changes: dict[str, int]) -> None:
        self.called: list[str] = []
        self.tried: list[Finding] = []
        for module, name in (
            (discovery, "look"),
            (discovery, "check"),
            (token_rotation, "try_tokens"),
            (token_rotation, "check_readers_switched"),
            (discovery, "try_merged"),
            (discovery, "prove"),
        ):
            patch.setattr(module, name, self.function(name))
        for name in ("plan_tokens", "plan", "plan_revoked"):
            patch.setattr(discovery, name, self.planner(name, changes[name]))

    def function(self, name: str) -> Any:
        """Return a function that notes its call; what was tried of tokens is a finding."""

        def call(*_: Any, **__: Any) -> Any:
            self.called.append(name)
            return self.tried if name == "try_tokens" else []

        return call

    def planner(self, name: str, count: int) -> Any:
        """Return a function that makes a plan, which notes when it is carried out, and by which gates."""

        def call(*_: Any) -> Plan:
            self.called.append(name)
            made = Plan(mesh(), "07 discovery")
            made.changes = [Change("east", "create", name, "why") for _ in range(count)]

            def carry_out(mode: str, *, gates: Sequence[Finding] = (), journal: str = "") -> Any:
                held = [f.id for f in gates if f.verdict is FAIL]
                self.called.append(" ".join([mode, name, journal, *held]))
                return made.table()

            made.carry_out = carry_out  # type: ignore[method-assign]
            return made

        return call

    def played(self, mode: str) -> list[str]:
        """Run the stage; return what was called."""
        stage = Discovery(mesh(), mode=mode, journal="run")
        for beat in (stage.look, stage.check, stage.plan, stage.apply, stage.prove):
            beat()
            self.called.append("|")
        return " ".join(self.called).removesuffix(" |").split(" | ")


THREE = dict.fromkeys(("plan_tokens", "plan", "plan_revoked"), 1)


def test_in_mode_plan_three_plans_are_shown_before_any_is_carried_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens are tried before remote secrets are planned; readers are asked before anything is revoked."""
    assert Steps(monkeypatch, THREE).played("plan") == [
        "look",
        "check",
        "plan_tokens try_tokens plan plan_revoked check_readers_switched",
        "plan plan_tokens run plan plan run plan plan_revoked run",
        "try_merged prove",
    ]


def test_in_mode_apply_each_plan_is_carried_out_before_the_next_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """A remote secret needs its token; a token is revoked when no reader has it."""
    assert Steps(monkeypatch, THREE).played("apply") == [
        "look",
        "check",
        "plan_tokens",
        (
            "apply plan_tokens run try_tokens plan apply plan run "
            "plan_revoked check_readers_switched apply plan_revoked run"
        ),
        "try_merged prove",
    ]


def test_without_new_tokens_the_remote_secrets_are_shown_by_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    """And carried out only by `apply`."""
    assert Steps(monkeypatch, {**THREE, "plan_tokens": 0}).played("apply") == [
        "look",
        "check",
        "plan_tokens try_tokens plan",
        "apply plan_tokens run apply plan run plan_revoked check_readers_switched apply plan_revoked run",
        "try_merged prove",
    ]


def test_a_token_that_opens_nothing_holds_the_remote_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """What trying it found is a gate of the plans after it, though the checks passed; not of the tokens themselves."""
    steps = Steps(monkeypatch, THREE)
    steps.tried = [Finding(id="MK710", check="c", subject="s", expected="e", observed="o", verdict=FAIL)]
    applied = steps.played("apply")[3]
    assert "apply plan_tokens run try_tokens" in applied
    assert "apply plan run MK710" in applied
    assert "apply plan_revoked run MK710" in applied
