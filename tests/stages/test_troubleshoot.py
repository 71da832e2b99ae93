"""Stage 11: symptoms by name and by log line, the walk, the cause apart from its consequences, and the cure."""

from __future__ import annotations

import re

import pytest

from meshkit.checks import Finding, Verdict, overall
from meshkit.errors import InputError
from meshkit.stages import catalogue, causes, troubleshoot
from tests.stages.healthy import mesh

LINES = {
    "CERTIFICATE_VERIFY_FAILED": '"GET / HTTP/1.1" 503 URX,UF upstream_reset_before_response_started{remote_connection_'
    "failure|TLS_error:|268435581:SSL_routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED:verify cert failed}",
    "503 UF": '"GET / HTTP/1.1" 503 UF upstream_reset_before_response_started{remote_connection_failure}',
    "503 UH": '"GET /get HTTP/1.1" 503 UH no_healthy_upstream - "-" 0 19 0 - "-" "curl/8.16.0"',
    "503 NR": '"GET / HTTP/1.1" 503 NC cluster_not_found - "-" 0 0 0 - "-"',
    "filter_chain_not_found": '"- - -" 0 NR filter_chain_not_found - "-" 0 0 0 - "-" 10.12.0.1:15443',
    "could not resolve host": "curl: (6) Could not resolve host: ratings.shop",
    "401 in istiod's log": "watch error in cluster west: failed to list *v1.Service: Unauthorized",
    "403 in istiod's log": 'failed to list *v1.Pod: pods is forbidden: User "r" cannot list',
    "unknown cluster id": 'Failed to authenticate: client claims to be in cluster "Kubernetes", but we only know '
    'about local cluster "east" and remote clusters [west]',
    "STALE proxies": "sleep-97b4f5858-5tqhz.sample   east   STALE   SYNCED   SYNCED   SYNCED",
    "rejected configuration": "gRPC config for type.googleapis.com/envoy.config.listener.v3.Listener rejected",
    "remote secret ignored": "cluster west of secret istio-system/istio-remote-secret-x has already been registered",
    "sidecar not ready": "Envoy proxy is NOT ready: config received from XDS server, but was not fully accepted",
    "WRONG_VERSION_NUMBER": "TLS_error:|268435703:SSL routines:OPENSSL_internal:WRONG_VERSION_NUMBER",
    "certificate expired": "x509: certificate has expired or is not yet valid: current time 2026-11-23T12:00:00Z",
    "gateway ignored": "service istio-system/gw is labeled as gateway, but does not listen on any gateway port",
    "cluster does not sync": "timed out waiting for remote cluster west to sync",
    "only local answers": "my service is only ever answered by the local cluster",
}


def finding(identifier: str, subject: str, verdict: Verdict = Verdict.FAIL) -> Finding:
    """Return a finding of a check of the catalogue."""
    title = catalogue.find(identifier).title
    told = {"expected": "good", "observed": "bad", "remedy": "mend it"}
    return Finding(id=identifier, check=title, subject=subject, verdict=verdict, **told)


REVOKED = [
    finding("MK711", "west → east", Verdict.PASS),
    finding("MK711", "east → west"),
    finding("MK804", "east → west"),
    finding("MK803", "east → west"),
    finding("MK901", "west"),
    finding("MK807", "west", Verdict.PASS),
]


def diagnose(symptom: str, findings: list[Finding] | None = None) -> troubleshoot.Diagnosis:
    """Return the diagnosis of a mesh with a revoked credential and, apart from that, a proxy that is out of sync."""
    return troubleshoot.diagnose(mesh(), REVOKED if findings is None else findings, troubleshoot.recognise(symptom))


class TestSymptoms:
    """What one may say."""

    def test_each_has_a_line_here_and_checks_that_are_asked(self) -> None:
        """Of the catalogue, of those of `meshkit check`, none twice."""
        assert set(troubleshoot.known()) == set(LINES)
        for one in troubleshoot.known().values():
            assert [i for i in one.checks if catalogue.find(i).asked != "check"] == []
            assert len(set(one.checks)) == len(one.checks) > 1
            re.compile(one.pattern)

    @pytest.mark.parametrize("name", LINES)
    def test_a_line_of_a_log_is_recognised(self, name: str) -> None:
        """And so is its name, written small or not."""
        for text in (LINES[name], name, f"  {name.upper()} "):
            found = troubleshoot.recognise(text)
            assert found is not None
            assert found.name == name

    def test_nothing_is_no_symptom(self) -> None:
        """Then everything is looked at; a line that tells nothing is no error in a log."""
        assert troubleshoot.recognise(" ") is None
        assert troubleshoot.classify("2026-11-23T12:00:00Z info ads Push debounce stable") is None

    def test_an_unknown_symptom_names_the_nearest(self) -> None:
        """With what may be said instead."""
        with pytest.raises(InputError, match="the nearest is 'STALE proxies'") as refused:
            troubleshoot.recognise("stail proxys")
        assert "first table" in refused.value.remedy

    def test_the_table_has_all_in_their_order(self) -> None:
        """Each with its first suspects."""
        table = troubleshoot.symptoms()
        assert list(table["name"]) == list(troubleshoot.known())
        assert (table["first_suspects"] != "").all()


class TestDiagnosis:
    """Which bad answer is the cause."""

    @pytest.mark.parametrize(
        ("symptom", "cause"),
        [("", "MK803"), ("only local answers", "MK803"), ("401 in istiod's log", "MK803"), ("STALE proxies", "MK901")],
    )
    def test_the_cause_is_one_that_the_symptom_makes_likely(self, symptom: str, cause: str) -> None:
        """It follows from nothing; what follows from it is no cause."""
        told = diagnose(symptom)
        assert told.cause is not None
        assert told.cause.id == cause
        assert {one.id for one in told.others} == {"MK803", "MK901"} - {cause}
        assert {one.id for one, due in told.follow if due.id == "MK803"} == {"MK804", "MK711"}
        assert cause in troubleshoot.conclusion(told)

    def test_what_is_bad_but_not_likely_is_no_cause_and_is_told(self) -> None:
        """Different roots are not behind a stale proxy."""
        told = diagnose("STALE proxies", [finding("MK807", "west"), finding("MK901", "west", Verdict.PASS)])
        assert told.cause is None
        assert "other things are" in troubleshoot.conclusion(told)
        assert list(troubleshoot.named(told)["place"]) == ["not usual for the symptom"]
        assert troubleshoot.cure(told, "mesh.yaml").empty

    def test_a_whole_mesh_has_no_cause(self) -> None:
        """And passes."""
        told = diagnose("503 UF", [finding("MK807", "west", Verdict.PASS)])
        assert told.cause is None
        assert "all 1 answers are in order" in troubleshoot.conclusion(told)
        assert overall(troubleshoot.judged(told)) is Verdict.PASS

    def test_what_cannot_be_known_is_no_cause_but_must_be_known_first(self) -> None:
        """Unknown is never all right, and never the reason either."""
        told = diagnose("503 UF", [finding("MK805", "west", Verdict.UNKNOWN)])
        assert "this must be known" in troubleshoot.conclusion(told)
        assert overall(troubleshoot.judged(told)) is Verdict.UNKNOWN

    def test_a_cluster_that_cannot_be_read_is_what_must_be_known_first(self) -> None:
        """All that the symptom makes likely is unknown by it: nobody can say that nothing of that is amiss."""
        told = diagnose("STALE proxies", [finding(i, "west", Verdict.UNKNOWN) for i in ("MK901", "MK101", "MK731")])
        assert told.cause is not None
        assert told.cause.id == "MK101"
        assert "this must be known" in troubleshoot.conclusion(told)

    def test_a_failure_comes_before_what_is_unknown(self) -> None:
        """Whatever has more consequences."""
        told = diagnose("", [finding("MK801", "west", Verdict.UNKNOWN), finding("MK901", "east")])
        assert told.cause is not None
        assert told.cause.id == "MK901"

    def test_the_verdict_fails_for_causes_only(self) -> None:
        """No finding is lost."""
        judged = troubleshoot.judged(diagnose("only local answers"))
        assert len(judged) == len(REVOKED)
        assert {one.id for one in judged if one.verdict is Verdict.FAIL} == {"MK803", "MK901"}
        assert [one.observed for one in judged if one.id == "MK804"] == ["follows from MK803 [east → west]: bad"]


class TestWalk:
    """The order of the checks."""

    def test_it_is_the_symptoms(self) -> None:
        """The worst answer of each, how many more are like it, and what may be the reason."""
        rows = troubleshoot.walk(mesh(), [*REVOKED, finding("MK803", "west → east")], troubleshoot.recognise("503 UH"))
        assert list(rows["id"]) == ["MK803", "MK804", "MK711"]
        assert list(rows["step"]) == [1, 2, 3]
        assert rows.iloc[0]["subject"] == "east → west and 1 more"
        assert rows.iloc[1]["follows_from"] == "MK803 east → west"

    def test_without_a_symptom_the_farthest_reaching_comes_first(self) -> None:
        """Every check is there."""
        rows = troubleshoot.walk(mesh(), REVOKED, None)
        reach = [len(causes.consequences(identifier)) for identifier in rows["id"]]
        assert sorted(reach, reverse=True) == reach
        assert set(rows["id"]) == {one.id for one in REVOKED}


class TestCure:
    """What to do about it."""

    def test_it_is_the_remedy_the_stage_that_mends_and_the_proof(self) -> None:
        """Commands that can be copied."""
        steps = troubleshoot.cure(diagnose("401 in istiod's log"), "mesh.yaml")
        assert list(steps["step"]) == [1, 2, 3, 4, 5]
        assert list(steps["do"]) == [
            "mend it",
            "meshkit run mesh.yaml --only 07",
            "meshkit run mesh.yaml --only 07 --mode apply",
            "meshkit check --explain MK803",
            "meshkit check mesh.yaml",
        ]

    def test_each_stage_that_mends_is_one_of_a_run_and_each_id_one_of_the_catalogue(self) -> None:
        """No id stands at two stages."""
        ids = [identifier for told in troubleshoot.MENDS.values() for identifier in told.split()]
        assert len(ids) == len(set(ids))
        assert all(catalogue.find(identifier).asked == "check" for identifier in ids)
        assert set(troubleshoot.MENDS) <= set(catalogue.STAGES)


def test_what_the_checks_tried_themselves_is_no_symptom() -> None:
    """A name is tried at a port where nobody listens; the sidecar's access log says so as it would of users' calls."""
    line = '"- - -" 0 UF,URX - - "delayed_connect_error" "10.0.0.1:{0}" PassthroughCluster - 10.0.0.1:{0}'
    assert troubleshoot.OURS.search(line.format(9))
    assert not troubleshoot.OURS.search(line.format(8080))
    assert troubleshoot.classify(line.format(8080)) is not None
