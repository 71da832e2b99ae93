"""Stage 11: symptoms by name and by log line, the walk, the cause apart from its consequences, and the remedy."""

from __future__ import annotations

import re

import pytest

from meshkit.checks import catalogue, causes
from meshkit.checks.finding import Finding, Verdict, overall
from meshkit.errors import InputError
from meshkit.stages import troubleshoot
from tests.support.healthy import mesh

# Log lines stand as they are written.
# ruff: noqa: E501, ISC004
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
    "revocation list": "X509_verify_cert: certificate verification error at depth 1: certificate revoked",
    "certificate expired": "x509: certificate has expired or is not yet valid: current time 2026-11-23T12:00:00Z",
    "gateway ignored": "service istio-system/gw is labeled as gateway, but does not listen on any gateway port",
    "cluster does not sync": "timed out waiting for remote cluster west to sync",
    "only local answers": "my service is only ever answered by the local cluster",
    "RBAC: access denied": '"GET / HTTP/1.1" 403 - rbac_access_denied_matched_policy[ns[shop]-policy[deny]-rule[0]] - "-" 0 19',
    "JWT refused": '"GET / HTTP/1.1" 401 - jwt_authn_access_denied{Jwt_is_missing} - "-" 0 14 1 -',
    "failed calling webhook": 'failed calling webhook "namespace.sidecar-injector.istio.io": failed to call webhook: Post '
    '"https://istiod.istio-system.svc:443/inject?timeout=10s": context deadline exceeded',
    "pods refused": 'pods "app-7d-x" is forbidden: exceeded quota: compute, requested: limits.cpu=2, used: limits.cpu=4',
    "images not pulled": 'Failed to pull image "gcr.io/istio-release/proxyv2:1.29.6": not found; ErrImagePull',
    "kubeconfig refused": "Add cluster: create remote cluster failed: kubeconfig is not allowed: exec is not allowed",
    "API server's name refused": 'watch error in cluster west: failed to list *v1.Node: Get "https://35.1.2.3:6443/api/v1/'
    'nodes": tls: failed to verify certificate: x509: certificate is valid for 10.0.0.1, 10.96.0.1, not 35.1.2.3',
    "API server's CA refused": 'watch error in cluster west: failed to list *v1.Pod: Get "https://10.0.0.9:6443/api/v1/pods": '
    "tls: failed to verify certificate: x509: certificate signed by unknown authority",
    "API server not reached": "watch error in cluster west: failed to list *v1.Service: dial tcp 10.0.0.9:443: i/o timeout",
    "BlackHoleCluster": '"- - -" 0 UH - - "-" 0 0 0 - "-" "-" "-" "-" "-" BlackHoleCluster - 34.1.2.3:443',
    "503 UC": '"GET / HTTP/1.1" 503 UC upstream_reset_before_response_started{connection_termination} - "-" 0 95 2 -',
    "CA not loaded": "failed to create an istiod CA: incomplete signing CA bundle detected",
    "connection reset": "curl: (56) Recv failure: Connection reset by peer",
    "504 UT": '"GET / HTTP/1.1" 504 UT response_timeout - "-" 0 24 15001 - "-" "curl"',
    "503 UPE": '"GET / HTTP/1.1" 502 UPE upstream_reset_before_response_started{protocol_error} - "-" 0 87 1 -',
    "503 UO": '"GET / HTTP/1.1" 503 UO upstream_reset_before_response_started{overflow} - "-" 0 81 0 -',
    "fault injected": '"GET / HTTP/1.1" 503 FI fault_filter_abort - "-" 0 18 0 -',
    "DC": '"GET / HTTP/1.1" 0 DC downstream_remote_disconnect - "-" 0 0 500 -',
    "503 URX": '"GET / HTTP/1.1" 503 URX via_upstream - "-" 0 0 75 74 "-" "curl"',
    "503": "curl: (22) The requested URL returned error: 503 Service Unavailable",
}
FAMILIES = {
    "cluster does not sync": [
        "remote cluster west failed to sync after 30s",
        "remote cluster west failed to sync handler",
        "remote cluster west is timed out, omitting it from the clusters collection",
        "Timed out waiting for cluster west to sync {nodes}",
        "Timed out waiting for remote config source to sync",
        "kube controller for west initial sync timed out",
    ],
    "API server not reached": [
        f'watch error in cluster west: failed to list *v1.Pod: Get "https://api.west.example:6443/api/v1/pods": {why}'
        for why in (
            "dial tcp 10.0.0.9:6443: connect: connection refused",
            "dial tcp: lookup api.west.example on 10.96.0.10:53: no such host",
            "dial tcp 10.0.0.9:6443: connect: no route to host",
            "net/http: TLS handshake timeout",
            "http: server gave HTTP response to HTTPS client",
            "tls: first record does not look like a TLS handshake",
            "context deadline exceeded (Client.Timeout exceeded while awaiting headers)",
            "proxyconnect tcp: dial tcp 10.1.1.1:3128: connect: connection refused",
        )
    ],
    "API server's CA refused": [
        'failed to list *v1.Pod: Get "https://10.0.0.9:6443/api/v1/pods": x509: certificate has expired or is not yet valid',
        'Post "https://10.0.0.9:6443/apis/authentication.k8s.io/v1/tokenreviews": tls: failed to verify certificate: x509: '
        "certificate signed by unknown authority",
    ],
    "API server's name refused": [
        "x509: certificate is valid for kubernetes, kubernetes.default, not api.west.example",
        "x509: certificate is not valid for any names, but wanted to match api.west.example",
        "x509: cannot validate certificate for 35.1.2.3 because it doesn't contain any IP SANs",
    ],
    "CERTIFICATE_VERIFY_FAILED": [
        "TLS_error:|268436526:SSL routines:OPENSSL_internal:TLSV1_ALERT_UNKNOWN_CA:TLS_error_end",
        "TLS_error:|268436502:SSL routines:OPENSSL_internal:SSLV3_ALERT_CERTIFICATE_UNKNOWN:TLS_error_end",
        "x509: certificate signed by unknown authority",
        'failed to sign CSR: rpc error: connection error: desc = "transport: authentication handshake failed: tls: failed to '
        'verify certificate: x509: certificate signed by unknown authority"',
    ],
    "revocation list": [
        "TLS_error:|268435581:SSL_routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED:verify_cert_failed:_X509_verify_cert:"
        "_certificate_verification_error_at_depth_1:_unable_to_get_certificate_CRL:TLS_error_end",
        "X509_verify_cert: certificate verification error at depth 0: CRL has expired",
        "TLS_error:|268436500:SSL routines:OPENSSL_internal:SSLV3_ALERT_CERTIFICATE_REVOKED:TLS_error_end",
        "Failed to update new Plug-in CA certs: missing CRL signed by certificates: [CN=Root]",
    ],
    "certificate expired": [
        "TLS_error:|268435581:SSL_routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED:verify_cert_failed:_X509_verify_cert:"
        "_certificate_verification_error_at_depth_0:_certificate_has_expired:TLS_error_end",
    ],
    "kubeconfig refused": [
        "kubeconfig is not allowed: exec is not allowed",
        "kubeconfig is not allowed: auth provider gcp is not allowed",
        "kubeconfig is not allowed: tokenFile is not allowed",
        "error adding remote config istio-system/west: kubeconfig is not valid: context was not found",
    ],
    "failed calling webhook": [
        'Internal error occurred: failed calling webhook "rev.validation.istio.io": Post "https://istiod:443/validate": x509: '
        "certificate signed by unknown authority",
        'failed calling webhook "namespace.sidecar-injector.istio.io": dial tcp 10.96.1.1:443: connect: connection refused',
    ],
    "images not pulled": [
        'Back-off pulling image "gcr.io/istio-release/pilot:1.29.6"', "ImagePullBackOff",
        'Failed to pull image "docker.io/istio/proxyv2:1.2": failed to pull and unpack image: toomanyrequests',
    ],
    "unknown cluster id": [
        "Failed to sign: rpc error: code = Unauthenticated desc = request authenticate failure",
        "StreamAggregatedResources gRPC config stream closed: 16, authentication failure",
        "proxy is in cluster west, but controller is for cluster east",
        "Unauthorized XDS: 10.0.0.7:4000 with identity [spiffe://b/ns/a/sa/c]: no identities ([spiffe://b/ns/a/sa/c]) matched a/d",
    ],
    "sidecar not ready": [f"failed to warm {what}: rpc error: code = Unavailable" for what in ("certificate", "root certificate")],
    "CA not loaded": ["Multi root is disabled, updating new ROOT-CA not supported", "Failed to update new Plug-in CA certs: x"],
    "WRONG_VERSION_NUMBER": [
        "curl: (35) TLS connect error: error:0A00010B:SSL routines::wrong version number",
        "TLS_error:|268435612:SSL routines:OPENSSL_internal:HTTP_REQUEST:TLS_error_end",
    ],
    "connection reset": ["curl: (52) Empty reply from server", "Error: read ECONNRESET"],
    "remote secret ignored": ["remote config a/b has conflicting file-backed kubeconfigs for the same cluster ID"],
    "pods refused": [
        'Error creating: pods "app-x" is forbidden: exceeded quota: q, requested: pods=1, used: pods=5, limited: pods=5',
        'pods "app-x" is forbidden: violates PodSecurity "restricted:latest": allowPrivilegeEscalation != false',
    ],
    "503 UC": [
        "503 UC", "UC", "uc", '{"response_code":503,"response_flags":"UC"}', '"GET / HTTP/2" 503 UR upstream_reset - ',
        "upstream connect error or disconnect/reset before headers. reset reason: connection termination",
        '"GET / HTTP/2" 503 LR - - ',
    ],
    "504 UT": ["UT", "504", "upstream request timeout", '"GET / HTTP/2" 408 SI stream_idle_timeout - '],
    "503 UPE": ["503 UPE", "502", '"GET / HTTP/1.1" 400 DPE http1.codec_error - '],
    "503 UO": ["UO", "429", '"GET / HTTP/1.1" 429 RL local_rate_limited - ', "reset reason: overflow"],
    "503 NR": ["NC", "NR", "404", '"GET / HTTP/1.1" 404 NR route_not_found - '],
    "503 UF": ["503 URX,UF", "transport failure reason: TLS_error:|33554536:system library:Connection reset by peer", '"- - -" 0 UF,URX - - "-"', "UF"],
    "503 UH": ["UH", '"- - -" 0 UH - - "-"'],
    "503 URX": ["URX", '{"responseFlags":"URX","responseCode":503}'],
    "DC": ["dc", "0 DC", '"- - -" 0 DC - - "-" 120 0 3'],
    "could not resolve host": ['"GET / HTTP/1.1" 503 UH,DF dns_resolution_failure - '],
    "BlackHoleCluster": ['"GET / HTTP/1.1" 502 - direct_response - "-" 0 0 0 - "-" BlackHoleCluster'],
    "JWT refused": ["Jwt issuer is not configured", "Jwks doesn't have key to match kid or alg from Jwt", "Jwt is expired"],
    "RBAC: access denied": ["RBAC: access denied", "rbac_access_denied_matched_policy[none]"],
    "401 in istiod's log": ["401", "failed to list *v1.Pod: the server has asked for the client to provide credentials"],
}  # fmt: skip
QUIET = (
    '"GET / HTTP/1.1" 200 - via_upstream - "-" 0 403 2 1 "-" "curl/8.16.0" "id" "httpbin:8000" "10.1.2.3:8080"',
    '"GET / HTTP/1.1" 200 - via_upstream - "-" 401 403 503 504 "-" "curl/8.16.0"',
    "2026-11-23T12:00:00Z info pushed 403 endpoints to 401 proxies of SC and NC",
    '"- - -" 0 - - - "-" 403 503 1 - "-"',
)


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

    def test_every_flag_of_envoy_belongs_to_one(self) -> None:
        """Recognised by itself, as an access log has it."""
        flags = troubleshoot._FLAG.split("|")
        assert [flag for flag in flags if troubleshoot.recognise(f'"GET / HTTP/1.1" 503 {flag} -') is None] == []
        assert {flag for one in troubleshoot.known().values() for flag in one.flags} == set(flags)

    @pytest.mark.parametrize("name", LINES)
    def test_a_line_of_a_log_is_recognised(self, name: str) -> None:
        """And so is its name, written small or not."""
        for text in (LINES[name], name, f"  {name.upper()} "):
            found = troubleshoot.recognise(text)
            assert found is not None
            assert found.name == name

    @pytest.mark.parametrize(("name", "line"), [(name, line) for name, lines in FAMILIES.items() for line in lines])
    def test_each_line_of_a_family_is_recognised(self, name: str, line: str) -> None:
        """As istiod, Envoy and the API server write it."""
        found = troubleshoot.recognise(line)
        assert found is not None
        assert found.name == name

    @pytest.mark.parametrize("line", QUIET)
    def test_a_number_of_bytes_is_no_status(self, line: str) -> None:
        """Nor are two letters somewhere a flag."""
        assert troubleshoot.classify(line) is None

    def test_a_number_may_be_said_too(self) -> None:
        """Plain papermill makes one of `-p symptom 503`."""
        for said, name in ((503, "503"), (504, "504 UT"), (403, "403 in istiod's log")):
            found = troubleshoot.recognise(said)
            assert found is not None
            assert found.name == name

    @pytest.mark.parametrize("name", ["API server's name refused", "API server's CA refused", "API server not reached"])
    def test_a_remote_api_server_is_no_matter_of_the_meshs_roots(self, name: str) -> None:
        """Its CA or name, and the way there."""
        assert not {"MK807", "MK841", "MK402", "MK403"} & {*troubleshoot.known()[name].checks}
        assert {"MK834", "MK833"} <= {*troubleshoot.known()[name].checks}

    def test_what_a_line_means_is_said_where_no_check_finds_the_reason(self) -> None:
        """A circuit breaker is no fault that a check finds."""
        told = troubleshoot.diagnose(mesh(), [finding("MK711", "west", Verdict.PASS)], troubleshoot.recognise("UO"))
        assert "connectionPool" in troubleshoot.conclusion(told)

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

    def test_what_is_bad_but_not_likely_is_no_cause_and_is_reported(self) -> None:
        """Different roots are not behind a stale proxy."""
        told = diagnose("STALE proxies", [finding("MK807", "west"), finding("MK901", "west", Verdict.PASS)])
        assert told.cause is None
        assert "other things are" in troubleshoot.conclusion(told)
        assert list(troubleshoot.named(told)["place"]) == ["not usual for the symptom"]
        assert troubleshoot.remedy_steps(told, "mesh.yaml").empty

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


class TestRemedySteps:
    """What to do about it."""

    def test_it_is_the_remedy_the_stage_that_fixes_and_the_proof(self) -> None:
        """Commands that can be copied."""
        steps = troubleshoot.remedy_steps(diagnose("401 in istiod's log"), "mesh.yaml")
        assert list(steps["step"]) == [1, 2, 3, 4, 5]
        assert list(steps["do"]) == [
            "mend it",
            "meshkit run mesh.yaml --only 07",
            "meshkit run mesh.yaml --only 07 --mode apply",
            "meshkit check --explain MK803",
            "meshkit check mesh.yaml",
        ]

    def test_what_is_unknown_is_fixed_by_no_stage(self) -> None:
        """A run would change what nobody has seen; nor does stage 05 make a version another one."""
        for cause in (finding("MK801", "west", Verdict.UNKNOWN), finding("MK207", "west")):
            steps = list(troubleshoot.remedy_steps(diagnose("", [cause]), "mesh.yaml")["do"])
            assert steps
            assert not [step for step in steps if step.startswith("meshkit run")]

    def test_each_stage_that_fixes_changes_something_and_what_it_fixes_is_asked_of_a_finished_mesh(self) -> None:
        """Otherwise nobody would be sent to it."""
        fixed = [check for check in catalogue.checks().values() if check.fixed_by]
        assert {check.fixed_by for check in fixed} == {"02", "04", "05", "06", "07"}
        assert {check.asked for check in fixed} == {"check"}


def test_what_the_checks_tried_themselves_is_no_symptom() -> None:
    """A name is tried at a port where nobody listens; the sidecar's access log says so as it would of users' calls."""
    line = '"- - -" 0 UF,URX - - "delayed_connect_error" "10.0.0.1:{0}" PassthroughCluster - 10.0.0.1:{0}'
    assert troubleshoot.OURS.search(line.format(9))
    assert not troubleshoot.OURS.search(line.format(8080))
    assert troubleshoot.classify(line.format(8080)) is not None
