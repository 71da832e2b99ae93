"""Stage 04's checks: each can pass, fail or warn, and be unknown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from meshkit.changes.change import Change
from meshkit.changes.plan import Plan
from meshkit.checks import ca as stage
from meshkit.checks import trust_domains
from meshkit.checks.finding import Verdict
from meshkit.istio import trust as istio_trust
from meshkit.istio.ca import istiod_ca, trust_store
from meshkit.istio.ca.model import Choice, StrategyOutcome
from meshkit.istio.config import authorization_policies
from meshkit.istio.multicluster import discovery_pause
from meshkit.istio.proxies import workloads
from meshkit.istio.reading import Unread
from meshkit.kube.mesh import Mesh
from meshkit.probing.curl import Answer
from meshkit.probing.load_generator import Traffic
from meshkit.stages.rollback import stage as rollback
from meshkit.stages.trust import proof as trust_proof
from meshkit.stages.trust import stage as trust_stage
from tests.support import healthy
from tests.support.healthy import certificate, identity, judged, mesh

PASS, FAIL, UNKNOWN, WARN, SKIPPED = Verdict.PASS, Verdict.FAIL, Verdict.UNKNOWN, Verdict.WARN, Verdict.SKIPPED
ROOT, OTHER, SHORT = "a" * 64, "b" * 64, "a" * 16
NOW = datetime.now(UTC)
DAY = timedelta(days=1)
Row = dict[str, Any]


def authority(name: str) -> Row:
    """Return a good cacerts."""
    bundle = {"root": ROOT, "root_subject": "O=x", "root_key": "RSA 2048", "roots": SHORT}
    ends = {"not_after": NOW + 700 * DAY, "root_not_after": NOW + 3000 * DAY}
    return {"cluster": name, "secret": "cacerts", "used": True, "subject": name, "sha256": name, **bundle, **ends}


def signer(name: str) -> Row:
    """Return an istiod that signs with it."""
    return {"cluster": name, "istiod": f"istiod-{name}", "signs_with": "cacerts", "signer": name, "issuer": name}


def proxy(name: str) -> Row:
    """Return a proxy of the common root."""
    who = {"identity": "spiffe://cluster.local/ns/sample/sa/app"}
    return {**certificate(name), **who, "anchor": SHORT, "roots": SHORT}


def handed(name: str) -> Row:
    """Return what new proxies get."""
    return {"cluster": name, "source": "configmap istio-ca-root-cert", "sha256": ROOT, "holders": 3, "of": 3}


def configmap(name: str) -> Row:
    """Return what istiod hands out where the proxy lives."""
    return {"cluster": name, "namespace": proxy(name)["namespace"], "roots": SHORT}


def workload(name: str) -> Row:
    """Return a workload that restarts without a gap."""
    return {"cluster": name, "namespace": "sample", "kind": "Deployment", "workload": "app", "pods": 1, "names": "p"}


def policy(name: str) -> Row:
    """Return a policy that names the mesh's own identities."""
    what = {"value": "cluster.local/ns/a/sa/b", "trust_domain": "cluster.local", "field": "principals"}
    return {"cluster": name, "namespace": "sample", "policy": "own", "action": "ALLOW", **what}


def reading(name: str) -> Row:
    """Return a remote secret that a cluster's istiods read."""
    return {"cluster": name, "secret": "istio-remote-secret-other", "targets": "other", "paused": False}


MAKERS: dict[str, tuple[Callable[[str], Row], Callable[[Sequence[Row]], Any]]] = {
    "identity": (identity, healthy.identities),
    "authorities": (authority, istiod_ca.AUTHORITIES.frame),
    "signers": (signer, istiod_ca.SIGNERS.frame),
    "certificates": (proxy, healthy.certificates),
    "roots": (handed, healthy.roots),
    "handed": (configmap, trust_store.DISTRIBUTED_ROOTS.frame),
    "workloads": (workload, workloads.WORKLOADS.frame),
    "policies": (policy, authorization_policies.POLICY_TRUST_DOMAINS.frame),
    "readings": (reading, discovery_pause.READINGS.frame),
}


def facts(
    spoiled: str = "", change: Row | None = None, *more: Row, clusters: Sequence[str] = ("east", "west")
) -> istio_trust.TrustFacts:
    """Return the facts of two plugged clusters, with a change in the row of east, and more rows in that table."""
    tables: dict[str, Any] = {}
    for name, (maker, columns) in MAKERS.items():
        rows = [maker(cluster) for cluster in clusters]
        if name == spoiled:
            rows = [{**rows[0], **(change or {})}, *rows[1:], *more]
        tables[name] = columns(rows)
    return istio_trust.TrustFacts(**tables)


def test_two_plugged_clusters_pass_every_check() -> None:
    """And there is nothing to do."""
    findings = trust_stage.check(mesh(), facts())
    assert {f.verdict for f in findings} == {PASS}
    assert {f.id for f in findings} == {*(f"MK40{n}" for n in range(1, 9)), "MK414", "MK415", "MK808"}


SPOILED = [
    ("MK401", "mesh", "authorities", {"root": OTHER, "problem": "expired", "secret": "istio-ca-secret"}, FAIL),
    ("MK401", "mesh", "authorities", {"reason": "no answer"}, UNKNOWN),
    ("MK401", "mesh", "certificates", {"proxy": "", "reason": "no answer"}, UNKNOWN),
    ("MK402", "east", "authorities", {"problem": "the key is not the certificate's"}, FAIL),
    ("MK402", "east", "authorities", {"reason": "no answer"}, UNKNOWN),
    ("MK403", "east", "signers", {"signs_with": "", "reason": "neither"}, WARN),
    ("MK403", "east", "signers", {"issuer": "", "signs_with": "", "reason": "no answer"}, UNKNOWN),
    ("MK404", "east", "authorities", {"not_after": NOW + 10 * DAY}, WARN),
    ("MK404", "east", "authorities", {"not_after": NOW + 4000 * DAY}, WARN),
    ("MK405", "east", "identity", {"trust_domain": "other.local"}, FAIL),
    ("MK405", "east", "identity", {"reason": "no answer"}, UNKNOWN),
    ("MK406", SHORT, "authorities", {"root_not_after": NOW + 100 * DAY, "not_after": NOW + 99 * DAY}, WARN),
    ("MK406", SHORT, "authorities", {"root_key": "RSA 1024"}, WARN),
    ("MK407", SHORT, "authorities", {"sha256": ROOT}, WARN),
    ("MK408", "east", "certificates", {"anchor": "", "roots": OTHER[:16]}, FAIL),
    ("MK408", "east", "certificates", {"reason": "no answer"}, UNKNOWN),
    ("MK408", "east", "roots", {"holders": 2}, FAIL),
    ("MK408", "east", "roots", {"sha256": OTHER}, FAIL),
    ("MK408", "east", "roots", {"sha256": "", "holders": 0, "of": 3, "reason": "namespace b: cut"}, UNKNOWN),
    ("MK408", "east", "certificates", {"roots": f"{SHORT},{OTHER[:16]}"}, FAIL),
    ("MK808", "east", "certificates", {"not_after": NOW - DAY}, FAIL),
    ("MK414", "east", "identity", {"reason": "no answer"}, UNKNOWN),
    ("MK414", "east", "identity", {"trust_domain": "td.test"}, FAIL),
    ("MK414", "east", "identity", {"trust_domain": "td.test", "trust_domain_aliases": ("x", "cluster.local")}, PASS),
    ("MK414", "west", "certificates", {"identity": "spiffe://td.test/ns/a/sa/b"}, FAIL),
    ("MK414", "west", "certificates", {"identity": "", "reason": "no answer"}, UNKNOWN),
    ("MK415", "east", "policies", {"reason": "no answer"}, UNKNOWN),
    ("MK415", "east: sample/own", "policies", {"trust_domain": "td.test"}, WARN),
    ("MK415", "east", "policies", {"trust_domain": "*.local"}, PASS),
]


@pytest.mark.parametrize(("number", "subject", "spoiled", "change", "verdict"), SPOILED)
def test_a_check_tells_what_is_wrong(number: str, subject: str, spoiled: str, change: Row, verdict: Verdict) -> None:
    """Of the subject that it is about, with a remedy where it failed."""
    findings = trust_stage.check(mesh(), facts(spoiled, change))
    assert judged(findings, number, subject) == [verdict]
    assert all(f.remedy for f in findings if f.verdict in (FAIL, WARN))


@pytest.mark.parametrize(
    ("signs", "stands", "verdict"),
    [
        ({"signs_with": "istio-ca-secret", "signer": "own"}, OTHER, FAIL),
        ({"signs_with": "", "signer": ""}, OTHER, FAIL),
        ({"signs_with": "istio-ca-secret", "signer": "own"}, ROOT, PASS),
        ({}, OTHER, PASS),
    ],
    ids=["its own CA", "what is there no more", "of the same root", "it signs so already"],
)
def test_what_an_istiod_takes_next_is_trusted_already(signs: Row, stands: str, verdict: Verdict) -> None:
    """Or the first restart, whoever does it, has it sign what running proxies refuse."""
    known = replace(facts("signers", signs), authorities=facts("authorities", {"root": stands}).authorities)
    assert judged(list(stage.check_signers(known, "east")), "MK403", "east") == [verdict]


CSR = "istio-csr at cert-manager-istio-csr.cert-manager.svc:443 (ENABLE_CA_SERVER=false)"
LEFT_OVER = {"secret": "istio-ca-secret", "used": False, "sha256": OTHER, "root": OTHER, "signed_by_others": CSR}


def with_istio_csr(**change: Any) -> istio_trust.TrustFacts:
    """Return facts of an east whose certificates come from istio-csr, with an old Secret of istiod beside it."""
    seen = {
        "istiod": "istiod-east",
        "signs_with": "",
        "signer": "",
        "issuer": "",
        "reason": f"certificates come from {CSR}",
    }
    signs = {**seen, "signed_by_others": CSR, "others_cluster_id": "east", **change}
    trusted = {**handed("east"), "source": "proxies"}
    known = replace(facts("authorities", LEFT_OVER), signers=facts("signers", signs).signers)
    return replace(known, roots=facts("roots", {}, trusted).roots)


class TestOtherSigners:
    """Certificates come from istio-csr: istiod's Secrets prove nothing."""

    def test_what_does_not_apply_is_skipped_and_says_why(self) -> None:
        """All others are under one root with it."""
        findings = trust_stage.check(mesh(), with_istio_csr())
        assert {f.verdict for f in findings} == {PASS, SKIPPED}
        skipped = [f for f in findings if f.verdict is SKIPPED]
        assert {(f.id, f.subject) for f in skipped} == {("MK402", "east"), ("MK403", "east")}
        assert all(f"certificates come from {CSR}" in f.observed for f in skipped)

    def test_a_root_that_signs_nothing_is_never_passed(self) -> None:
        """West is under the old Secret's root, east's proxies are not."""
        known = with_istio_csr()
        west = {**authority("west"), "root": OTHER, "roots": OTHER[:16]}
        rows = istiod_ca.AUTHORITIES.frame([{**authority("east"), **LEFT_OVER}, west])
        (finding,) = [f for f in trust_stage.check(mesh(), replace(known, authorities=rows)) if f.id == "MK401"]
        assert finding.verdict is FAIL
        assert "istio-csr" in finding.observed
        assert "the issuer that istio-csr" in finding.remedy

    def test_nothing_is_planned_for_it(self) -> None:
        """No restart either."""
        assert trust_stage.plan(mesh(), with_istio_csr()).empty

    @pytest.mark.parametrize(
        ("takes", "says", "verdict"),
        [
            ("east", "east", PASS),
            ("Kubernetes", "Kubernetes", WARN),
            ("Kubernetes", "east", FAIL),
            ("east", "Kubernetes", WARN),
            ("other", "Kubernetes", FAIL),
            ("", "east", UNKNOWN),
        ],
    )
    def test_its_cluster_id_goes_with_the_clusters_name(self, takes: str, says: str, verdict: Verdict) -> None:
        """It refuses proxies that say another."""
        known = replace(
            with_istio_csr(others_cluster_id=takes), identity=facts("identity", {"cluster_id": says}).identity
        )
        assert judged(trust_stage.check(mesh(), known), "MK421", "east") == [verdict]

    def test_after_it_nothing_of_istiods_own_is_to_be_proved(self) -> None:
        """MK411 and MK412 do not apply."""
        findings = trust_proof.prove(
            mesh(), with_istio_csr(), with_istio_csr(), Plan(mesh(), trust_stage.STAGE), Traffic(mesh())
        )
        assert {f.verdict for f in findings if f.id in ("MK411", "MK412") and f.subject == "east"} == {SKIPPED}


def test_what_others_keep_is_one_finding_and_no_plan() -> None:
    """Before anything is changed, and the same in the next run."""
    kept = {"owner": "cert-manager (Certificate istio-system/ca)", "owner_source": "Certificate istio-system/ca"}
    known = facts("authorities", {**kept, "root": OTHER, "roots": OTHER[:16]})
    first, second = (trust_stage.check(mesh(), known) for _ in range(2))
    assert first == second
    (finding,) = [f for f in first if f.verdict is FAIL]
    assert finding.id == "MK401"
    assert "cert-manager (Certificate istio-system/ca)" in finding.observed
    assert "change Certificate istio-system/ca" in finding.remedy
    assert trust_stage.plan(mesh(), known).empty


def test_what_is_wrong_with_it_is_its_owners() -> None:
    """No remedy tells to replace the Secret."""
    kept = {"owner": "cert-manager", "owner_source": "Certificate istio-system/ca", "problem": "ca.crt missing"}
    finding = stage.check_authority(facts("authorities", kept), "east")
    assert finding.verdict is FAIL
    assert finding.remedy == "cert-manager keeps it: change Certificate istio-system/ca"


def test_a_cluster_without_anything_is_skipped() -> None:
    """It has no CA and no proxy, and is no fault."""
    findings = trust_stage.check(mesh(), facts(clusters=["east"]))
    assert {f.verdict for f in findings if f.subject == "west"} == {SKIPPED}


def test_roots_of_a_cluster_that_could_not_be_read_are_unknown() -> None:
    """MK408: that no ConfigMap was read does not say that all of them hand out another root."""
    unread = trust_store.root_reading(unread=[Unread("east", "no answer")])
    known = replace(facts(), roots=unread)
    assert judged(trust_stage.check(mesh(), known), "MK408", "east") == [UNKNOWN]


def test_what_an_istiod_accepts_that_could_not_be_read_is_nothing() -> None:
    """MK415: an alias of the other istiods alone excuses no policy."""
    both = [{**identity("east"), "trust_domain_aliases": ("td.test",)}, {"cluster": "east", "reason": "no answer"}]
    assert trust_domains.accepted(healthy.identities(both[:1]), "east") == {"cluster.local", "td.test"}
    assert trust_domains.accepted(healthy.identities(both), "east") == set()


def test_trust_domains_other_than_the_default() -> None:
    """The mesh file's counts."""
    wanted = mesh(mesh={"trustDomain": "other.local"})
    assert judged(trust_stage.check(wanted, facts()), "MK405", "east") == [FAIL]


@pytest.mark.parametrize(
    ("change", "aliases", "verdict", "said"),
    [
        ({}, (), FAIL, "no longer lets them in"),
        ({"action": "DENY"}, (), FAIL, "no longer keeps them out"),
        ({"field": "notPrincipals"}, (), FAIL, "no longer keeps them out"),
        ({"action": "DENY", "field": "source.principal notValues"}, (), FAIL, "no longer lets them in"),
        ({"action": "CUSTOM"}, (), FAIL, "no longer applies to them"),
        ({}, ("td.test",), PASS, "all 2 values"),
        ({"literal": True}, ("td.test",), FAIL, "no longer lets them in"),
        ({"trust_domain": "*.test"}, ("td.test",), PASS, "all 2 values"),
        ({"trust_domain": "cluster.local", "field": "trustDomains"}, (), PASS, "all 2 values"),
    ],
)
def test_what_a_policy_will_mean_no_longer_is_named(
    change: Row, aliases: tuple[str, ...], verdict: Verdict, said: str
) -> None:
    """West's proxies are of another trust domain now; an alias translates whole principals only."""
    named = {**policy("east"), "value": "td.test/ns/a/sa/b", "trust_domain": "td.test", "policy": "theirs", **change}
    known = facts("policies", {}, named)
    foreign = facts("certificates", {"identity": "spiffe://td.test/ns/a/sa/b"})
    own = facts("identity", {"trust_domain_aliases": aliases})
    found = trust_stage.check(mesh(), replace(known, certificates=foreign.certificates, identity=own.identity))
    (finding,) = [f for f in found if f.id == "MK415" and f.subject.startswith("east")]
    assert finding.verdict is verdict
    assert said in finding.observed
    assert bool(finding.remedy) == (verdict is FAIL)


def test_adopting_a_root_says_what_it_costs() -> None:
    """Its key was in a cluster: no deletion reverts that."""
    known = facts("authorities", {"secret": "istio-ca-secret", "sha256": ROOT})
    (finding,) = stage.check_key(known, Choice(StrategyOutcome.ADOPT, "", root=ROOT, key_in="east"))
    assert finding.verdict is WARN
    assert "a copied key cannot be revoked" in finding.observed
    assert "meshkit ca root" in finding.remedy


class TestProof:
    """What was looked at afterwards."""

    def prove(self, after: istio_trust.TrustFacts) -> list[Any]:
        """Judge an empty plan."""
        nothing = Plan(mesh(), trust_stage.STAGE)
        return trust_proof.prove(mesh(), facts(), after, nothing, Traffic(mesh()))

    def test_all_is_well(self) -> None:
        """For each cluster."""
        findings = self.prove(facts())
        passed = {(f"MK4{n}", PASS) for n in (11, 12, 13, 18, 20)}
        assert {(f.id, f.verdict) for f in findings} == {*passed, ("MK419", SKIPPED)}

    @pytest.mark.parametrize(
        ("number", "spoiled", "change", "verdict"),
        [
            ("MK411", "authorities", {"secret": "istio-ca-secret"}, FAIL),
            ("MK411", "authorities", {"root": OTHER}, FAIL),
            ("MK411", "authorities", {"reason": "no answer"}, UNKNOWN),
            ("MK412", "signers", {"signs_with": "istio-ca-secret", "signer": ROOT}, FAIL),
            ("MK412", "signers", {"signer": "the intermediate before"}, FAIL),
            ("MK412", "signers", {"issuer": "", "reason": "no answer"}, UNKNOWN),
            ("MK413", "certificates", {"anchor": OTHER[:16]}, FAIL),
            ("MK413", "certificates", {"roots": f"{SHORT},{OTHER[:16]}"}, FAIL),
            ("MK413", "certificates", {"reason": "no answer"}, UNKNOWN),
            ("MK418", "authorities", {"roots": f"{SHORT},{OTHER[:16]}"}, FAIL),
            ("MK418", "authorities", {"roots": ""}, FAIL),
            ("MK418", "authorities", {"reason": "no answer", "used": False}, UNKNOWN),
            ("MK418", "handed", {"roots": OTHER[:16]}, FAIL),
            ("MK418", "handed", {"reason": "no answer"}, UNKNOWN),
            ("MK418", "certificates", {"roots": f"{SHORT},{OTHER[:16]}"}, FAIL),
            ("MK418", "certificates", {"anchor": ""}, FAIL),
            ("MK418", "certificates", {"reason": "no answer"}, UNKNOWN),
        ],
    )
    def test_what_is_not_proved_is_reported(self, number: str, spoiled: str, change: Row, verdict: Verdict) -> None:
        """And never passes."""
        assert judged(self.prove(facts(spoiled, change)), number, "east") == [verdict]

    @pytest.mark.parametrize(("change", "verdict"), [({"paused": True}, FAIL), ({"reason": "no answer"}, UNKNOWN)])
    def test_who_is_still_kept_apart_is_reported(self, change: Row, verdict: Verdict) -> None:
        """By the secret that is paused, where it can be read."""
        row = {"cluster": "east", "secret": "istio-remote-secret-west", "targets": "west", **change}
        after = replace(facts(), readings=discovery_pause.READINGS.frame([row]))
        assert judged(self.prove(after), "MK420", "east") == [verdict]

    def test_what_was_not_applied_is_skipped(self) -> None:
        """All of it."""
        plan = Plan(mesh(), trust_stage.STAGE)
        plan.pending = True
        assert {f.verdict for f in trust_proof.prove(mesh(), facts(), facts(), plan, Traffic(mesh()))} == {SKIPPED}


class TestRequests:
    """What was sent while trust changed."""

    def verdicts(self, *statuses: int) -> list[Verdict]:
        """Judge requests of east that were answered so, while a plan of one change was carried out."""
        plan, traffic = Plan(mesh(), trust_stage.STAGE), Traffic(mesh())
        plan.changes.append(Change("east", "update", "Secret istio-system/cacerts", "widen"))
        for status in statuses:
            traffic._note("east", "sleep", Answer(status, 0.01, "", ""))
        return judged(trust_proof.prove(mesh(), facts(), facts(), plan, traffic), "MK419", "east")

    def test_all_are_answered(self) -> None:
        """Then it passes."""
        assert self.verdicts(200, 200) == [PASS]

    def test_one_is_lost(self) -> None:
        """One is one too many, unless the mesh file allows it."""
        assert self.verdicts(200, 503) == [FAIL]

    def test_nobody_looked(self) -> None:
        """That is not good."""
        assert self.verdicts() == [WARN]

    def test_nothing_was_changed(self) -> None:
        """Then nothing was to be seen, and nobody is asked."""
        nothing = Plan(mesh(), trust_stage.STAGE)
        assert trust_proof.watch(mesh(), nothing).clients == []
        proof = trust_proof.prove(mesh(), facts(), facts(), nothing, Traffic(mesh()))
        assert judged(proof, "MK419", "east") == [SKIPPED]


def test_marks_name_the_steps_of_an_overlap() -> None:
    """And other changes by what they do, restarts in a row together; those that were not begun have none."""
    plan = Plan(mesh(), trust_stage.STAGE)
    for action, why in (("update", "widen: its proxies trust both"), ("restart", "it takes it only when it starts")):
        plan.changes.append(Change("east", action, "Deployment istio-system/istiod", why, begun=NOW))
    for name in ("gateway", "httpbin"):
        plan.changes.append(Change("east", "restart", f"Deployment sample/{name}", "made anew", begun=NOW))
    plan.changes.append(Change("west", "restart", "Deployment sample/httpbin", "made anew", begun=NOW))
    plan.changes.append(Change("east", "update", "Secret istio-system/cacerts", "narrow: only one"))
    words = ["east: widen", "east: restart istiod", "east: restart 2 workloads", "west: restart a workload"]
    assert trust_proof.marks(plan) == [(NOW, told) for told in words]


def test_witnesses_tell_who_disagrees() -> None:
    """Each by its name."""
    rows = trust_proof.witnesses(facts("handed", {"roots": OTHER[:16]})).to_dict("records")
    assert [row["agree"].count(";") for row in rows] == [1, 0]
    assert "istiod distributes other roots" in rows[0]["agree"]
    assert rows[1]["agree"] == "yes"


@pytest.mark.parametrize(("namespace", "unknown"), [("", True), ("sample", True), ("elsewhere", False)])
def test_what_a_namespace_is_handed_matters_to_its_own_proxies(namespace: str, unknown: bool) -> None:
    """A ConfigMap that cannot be read makes nobody else's trust unknown; a cluster that cannot be, everybody's."""
    row = {"cluster": "east", "namespace": namespace, "reason": "certificate 1 of 1 in PEM cannot be read"}
    east, west = trust_proof.witnesses(facts("handed", {}, row)).to_dict("records")
    assert (bool(east["reason"]), west["agree"]) == (unknown, "yes")


@pytest.mark.parametrize(("spoiled", "verdict"), [("", Verdict.PASS), (OTHER[:16], Verdict.FAIL)])
def test_an_undo_is_not_proved_while_a_proxy_holds_other_roots(
    spoiled: str, verdict: Verdict, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is asked only where the run changed trust."""
    known = facts("certificates", {"roots": spoiled}) if spoiled else facts()
    monkeypatch.setattr(Mesh, "read_all", lambda _, **readings: {name: getattr(known, name) for name in readings})

    def proved(stage_of_it: str) -> list[tuple[str, str, Verdict]]:
        book: Any = SimpleNamespace(entries=[SimpleNamespace(stage=stage_of_it, cluster="east")])
        found = rollback.check_trust(mesh(), rollback.RollbackFacts(book, rollback.JOURNAL.frame([]), {}, {}, {}))
        return [(finding.id, finding.subject, finding.verdict) for finding in found]

    assert proved("04 trust") == [("MK418", "east", verdict)]
    assert proved("06 gateways") == []


def test_chains_tell_same_from_new_and_gone() -> None:
    """One row for each proxy that was or is there."""
    before, after = facts(), facts("certificates", {"sha256": "renewed", "issuer": "new"})
    east = after.certificates.with_items(after.certificates.of("east"))
    rows = trust_proof.chains(before, replace(after, certificates=east))
    assert list(rows["certificate"]) == ["new", "gone"]
    assert list(rows["signed_by"]) == ["new", ""]
    assert list(rows["ends_at_before"]) == [SHORT, SHORT]


@pytest.mark.parametrize(
    ("reader", "targets", "network", "verdict"),
    [
        ("west", "east", "multi", WARN),
        ("west", "north,east", "multi", WARN),
        ("west", "north", "multi", PASS),
        ("east", "east", "multi", PASS),
        ("west", "east", "flat", PASS),
    ],
)
def test_a_restart_of_what_other_networks_call_is_a_risk_here_too(
    reader: str, targets: str, network: str, verdict: Verdict
) -> None:
    """MK410, as MK506 of stage 05: their connections stay with the old pod, behind the gateway."""
    risk = {"remote_risk": "clients of other networks may lose requests"}
    rows = discovery_pause.READINGS.frame([{**reading(reader), "targets": targets}])
    known = replace(facts("workloads", risk), readings=rows)
    (found,) = trust_stage.check_way(healthy.mesh(topology={"network": network}), known, "east")
    assert (found.verdict, "localhost:15020/drain" in found.remedy) == (verdict, verdict is WARN)
