"""What istiod and Envoy answer, read without a cluster: every format there has been."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from meshkit.istio import authority, envoy, jwt, minting, proxies, rollup, syncz, trust, versions
from tests.istio.test_authority import load, root
from tests.support import certificate_pem

NOW = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)
TYPE = "type.googleapis.com/envoy.config."
CLUSTER, LISTENER = f"{TYPE}cluster.v3.Cluster", f"{TYPE}listener.v3.Listener"


def states(document: Any) -> dict[str, str]:
    """Return type -> state of the one proxy in an answer of syncz."""
    return {row["type"]: row["state"] for row in syncz.parse_syncz(document, NOW)}


def current(**resources: Any) -> list[dict[str, Any]]:
    """Return a syncz list of istiod 1.27 and later."""
    entry = {"cluster_id": "east", "proxy": "a-1.sample", "proxy_type": "sidecar", "istio_version": "1.31.0"}
    return [{**entry, "resources": resources}]


class TestSyncz:
    """`/debug/syncz` in all its forms."""

    def test_the_state_rule_is_istiods_own(self) -> None:
        """An error beats all; nothing sent; acked as sent; else stale (statusgen.go, debugSyncStatus)."""
        document = current(
            error={"sent": "1", "acked": "1", "lastError": "bad filter"},
            new={"acked": ""},
            good={"sent": "2", "acked": "2"},
            late={"sent": "2", "acked": "1"},
        )
        assert states(document) == {"error": "ERROR", "new": "NOT SENT", "good": "SYNCED", "late": "STALE"}

    def test_rows_carry_type_names_text_and_age(self) -> None:
        """Types have istioctl's names, a NACK its text, and age counts from the time of sending."""
        sent = {"sent": "1", "acked": "1", "sentTime": "2026-11-23T11:59:30.123456789Z"}
        row = syncz.parse_syncz(current(**{LISTENER: {**sent, "lastError": "no such filter"}}), NOW)[0]
        assert (row["namespace"], row["proxy"], row["kind"], row["version"]) == ("sample", "a-1", "sidecar", "1.31.0")
        assert (row["type"], row["state"], row["nack"]) == ("LDS", "ERROR", "no such filter")
        assert row["age_s"] == pytest.approx(29.877, abs=0.001)

    def test_a_time_that_never_was_is_none(self) -> None:
        """Go's zero time is not two thousand years of age."""
        row = syncz.parse_syncz(current(**{CLUSTER: {"sentTime": "0001-01-01T00:00:00Z"}}), NOW)[0]
        assert row["since"] is None
        assert row["age_s"] != row["age_s"]

    def test_an_old_list_has_nonces_only(self) -> None:
        """Up to 1.2x there was a pair of nonces for each core type."""
        old = {"proxy": "a-1.sample", "istio_version": "1.14.1", "cluster_sent": "1", "cluster_acked": "1"}
        old |= {"listener_sent": "2", "listener_acked": "1", "endpoint_sent": "3", "endpoint_acked": "3"}
        assert states([old]) == {"CDS": "SYNCED", "LDS": "STALE", "EDS": "SYNCED", "RDS": "NOT SENT"}

    def test_what_istioctl_prints_as_json_is_read_too(self) -> None:
        """The ClientConfig form, as `istioctl proxy-status -o json`."""
        config = [
            {"typeUrl": CLUSTER, "configStatus": "SYNCED", "lastUpdated": "2026-11-23T11:59:00Z"},
            {"typeUrl": LISTENER, "configStatus": "ERROR", "errorState": {"details": "no"}},
            {"typeUrl": "x", "configStatus": "NOT_SENT"},
            {"typeUrl": "y"},
        ]
        node = {"id": "a-1.sample", "metadata": {"CLUSTER_ID": "east", "ISTIO_VERSION": "1.31.0"}}
        document = {"resources": [{"node": node, "genericXdsConfigs": config}]}
        assert states(document) == {"CDS": "SYNCED", "LDS": "ERROR", "x": "NOT SENT", "y": "IGNORED"}

    def test_istioctls_own_connection_is_no_proxy(self) -> None:
        """It subscribes to debug types while it asks."""
        assert syncz.parse_syncz(current(**{"istio.io/debug/syncz": {"sent": "1"}}), NOW) == []

    @pytest.mark.parametrize("nothing", [[], None, {}])
    def test_no_proxies_are_no_rows(self, nothing: Any) -> None:
        """An istiod that nobody is connected to is not an error."""
        assert syncz.parse_syncz(nothing, NOW) == []


class TestSummary:
    """One row for each proxy."""

    def test_the_worst_proxy_comes_first_with_its_worst_state(self) -> None:
        """Types are columns; what a proxy did not subscribe to is IGNORED, of what is unknown nothing is said."""
        status = _status(
            [
                ("fine", "CDS", "SYNCED"),
                ("fine", "LDS", "SYNCED"),
                ("bad", "CDS", "SYNCED"),
                ("bad", "LDS", "ERROR"),
                ("lost", "", "NOT CONNECTED"),
                ("bad", "NDS", "STALE"),
            ]
        )
        table = rollup.summary(status)
        assert list(table["proxy"]) == ["bad", "lost", "fine"]
        assert list(table["worst"]) == ["ERROR", "NOT CONNECTED", "SYNCED"]
        assert list(table.columns[7:]) == ["CDS", "LDS", "EDS", "RDS", "NDS"]
        assert list(table["NDS"]) == ["STALE", "", "IGNORED"]

    def test_of_two_connections_the_worse_counts(self) -> None:
        """A proxy that reconnects may be known twice."""
        table = rollup.summary(_status([("p", "CDS", "STALE"), ("p", "CDS", "SYNCED")]))
        assert list(table["CDS"]) == ["STALE"]

    def test_no_proxies_give_an_empty_table(self) -> None:
        """With its columns."""
        assert list(rollup.summary(_status([])).columns[:7])[-1] == "worst"


class TestEnvoy:
    """The admin interface."""

    def test_hosts_carry_their_service_and_counters(self) -> None:
        """A cluster's name is split, its counters are numbers, zero where Envoy leaves them out."""
        host = {
            "address": {"socket_address": {"address": "172.31.102.1", "port_value": 15443}},
            "stats": [{"name": "rq_total", "value": "7", "type": "COUNTER"}, {"name": "cx_active", "type": "GAUGE"}],
            "health_status": {"eds_health_status": "HEALTHY"},
            "locality": {"region": "r1", "zone": "z1"},
            "priority": 1,
        }
        name = "outbound|8000|v2|httpbin.sample.svc.cluster.local"
        row = envoy.parse_clusters({"cluster_statuses": [{"name": name, "host_statuses": [host]}]}).iloc[0]
        assert (row["direction"], row["port"], row["subset"]) == ("outbound", 8000, "v2")
        assert (row["host"], row["address"]) == ("httpbin.sample.svc.cluster.local", "172.31.102.1:15443")
        assert (row["rq_total"], row["cx_active"], row["cx_connect_fail"]) == (7, 0, 0)
        assert (row["health"], row["locality"], row["priority"]) == ("HEALTHY", "r1/z1", 1)

    def test_a_failed_check_is_no_health(self) -> None:
        """Outlier detection ejects a host that EDS calls healthy."""
        status = {"eds_health_status": "HEALTHY", "failed_outlier_check": True, "failed_active_hc": False}
        document = {"cluster_statuses": [{"name": "x", "host_statuses": [{"health_status": status}]}]}
        assert envoy.parse_clusters(document).iloc[0]["health"] == "failed_outlier_check"

    def test_a_cluster_without_hosts_is_no_row(self) -> None:
        """The table keeps its columns and dtypes."""
        table = envoy.parse_clusters({"cluster_statuses": [{"name": "BlackHoleCluster"}]})
        assert list(table.columns) == list(envoy.COLUMNS)
        assert table.empty

    def test_stats_are_whole_numbers(self) -> None:
        """Texts and histograms are left out."""
        stats = [{"name": "a", "value": "3"}, {"name": "b"}, {"name": "c", "value": "x"}, {"histograms": {}}]
        assert envoy.parse_stats({"stats": stats}) == {"a": 3, "b": 0}

    def test_secrets_are_certificates_never_keys(self) -> None:
        """Both forms of a dump; the key's field is not looked at, redacted or not."""
        chain = certificate_pem("leaf")
        entry = {
            "name": "default",
            "last_updated": "2026-11-23T11:00:00.123Z",
            "secret": {
                "tls_certificate": {
                    "certificate_chain": {"inline_bytes": base64.b64encode(chain).decode()},
                    "private_key": {"inline_bytes": "Y2FuYXJ5"},
                }
            },
        }
        for configs in ([entry], [{"dynamic_active_secrets": [entry]}]):
            (found,) = envoy.parse_secrets(configs)
            assert (found.name, found.kind, found.pem.strip()) == ("default", "chain", chain.strip())
            assert b"canary" not in found.pem

    def test_roots_come_from_a_bundle_or_from_trust_domains(self) -> None:
        """Trust domain aliases move them into the SPIFFE validator."""
        one, two = certificate_pem("one"), certificate_pem("two")
        plain = {"trusted_ca": {"inline_bytes": base64.b64encode(one + two).decode()}}
        domains = [{"trust_bundle": {"inline_string": one.decode()}}, {"trust_bundle": {"inline_string": two.decode()}}]
        spiffe = {"custom_validator_config": {"typed_config": {"trust_domains": domains}}}
        for context in (plain, spiffe):
            (found,) = envoy.parse_secrets([{"name": "ROOTCA", "secret": {"validation_context": context}}])
            assert len(trust.parse_bundle(found.pem)) == 2


class TestTrust:
    """Certificates and bundles."""

    def test_identity_is_read_from_the_leaf(self) -> None:
        """The SPIFFE URI, the leaf's own fingerprint, and the roots in a fixed order."""
        leaf = certificate_pem("leaf", "spiffe://cluster.local/ns/sample/sa/sleep")
        roots = certificate_pem("b") + certificate_pem("a")
        held = [envoy.Secret("default", "chain", leaf, None), envoy.Secret("ROOTCA", "roots", roots, None)]
        row = trust.parse_identity(held)
        assert row["identity"] == "spiffe://cluster.local/ns/sample/sa/sleep"
        assert len(row["sha256"]) == 64
        assert row["roots"].split(",") == sorted(row["roots"].split(","))

    def test_a_bundle_counts_each_root_once(self) -> None:
        """Istio's rotation test doubles a root to force new certificates; that is still one root."""
        one = certificate_pem("one")
        assert len(trust.parse_bundle(b"# comment\n" + one + b"\n\n" + one)) == 1

    def test_roots_of_the_same_name_are_told_apart(self) -> None:
        """Subjects lie."""
        first, second = trust.parse_bundle(certificate_pem("cluster.local") + certificate_pem("cluster.local"))
        assert first.subject == second.subject
        assert trust.fingerprint(first) != trust.fingerprint(second)

    def test_roots_behind_a_chain_do_not_hide_its_own(self) -> None:
        """While two are trusted, istiod's answer ends in all texts of root-cert.pem, and agents keep it so."""
        old, new = (load(root()) for _ in range(2))
        one, two = (minting.intermediate(above, "east", "istio-system").files for above in (old, new))
        bundle = b"".join(made.certificate.public_bytes(Encoding.PEM) for made in (old, new, new))
        own = authority.load(two["ca-cert.pem"], two["ca-key.pem"], where="", signs_authorities=False)
        leaf = minting.intermediate(own, "leaf", "istio-system").files["ca-cert.pem"]
        for chain, above in ((one["ca-cert.pem"] + bundle, old), (leaf + two["cert-chain.pem"] + bundle, new)):
            held = [envoy.Secret("default", "chain", chain, None), envoy.Secret("ROOTCA", "roots", bundle, None)]
            assert trust.parse_identity(held)["anchor"] == trust.fingerprint(above.certificate, trust.SHORT)

    def test_a_proxy_without_a_certificate_says_so(self) -> None:
        """The row is there, with the reason."""
        assert trust.parse_identity([])["reason"] == "the proxy holds no workload certificate"


class TestVersions:
    """Versions as they are told."""

    @pytest.mark.parametrize(
        ("text", "version"),
        [
            ("1.31.0", (1, 31, 0)),
            ("1.30.4", (1, 30, 4)),
            ("1.31-eed52ebb66ad", (1, 31, -1)),
            ("v1.37.2", (1, 37, 2)),
            ("1.31.0-rc.0", (1, 31, 0)),
        ],
    )
    def test_a_version_is_parsed(self, text: str, version: tuple[int, int, int]) -> None:
        """Releases, candidates and development builds."""
        assert versions.Version.parse(text) == versions.Version(*version)

    @pytest.mark.parametrize("text", ["", "unknown", "latest"])
    def test_what_is_no_version_is_none(self, text: str) -> None:
        """An unstamped build says `unknown`."""
        assert versions.Version.parse(text) is None

    def test_istiod_tells_its_version_in_two_ways(self) -> None:
        """As text with revision and build status, or as JSON."""
        assert versions.parse_istiod_version(b"1.31-eed52ebb66ad-eed52ebb66ad-Modified") == "1.31-eed52ebb66ad"
        assert versions.parse_istiod_version(b"1.30.4-abcdef-Clean\n") == "1.30.4"
        answer = json.dumps({"clientVersion": {"version": "1.31.0"}}).encode()
        assert versions.parse_istiod_version(answer) == "1.31.0"


def test_a_tokens_end_is_read_from_it() -> None:
    """A JWT says when it ends; a service account's Secret token never does."""
    claims = base64.urlsafe_b64encode(b'{"exp": 1795435200}').decode().rstrip("=")
    assert jwt.ends(f"h.{claims}.s") == datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
    assert jwt.ends("h.e30.s") is None
    assert jwt.ends("opaque") is None


def _status(rows: list[tuple[str, str, str]]) -> Any:
    from meshkit.istio.fleet import table

    return table(
        ({"cluster": "east", "proxy": name, "type": kind, "state": state} for name, kind, state in rows),
        proxies.COLUMNS,
    )
