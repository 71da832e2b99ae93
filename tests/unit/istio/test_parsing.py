"""What istiod and Envoy answer, read without a cluster: every format there has been."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from meshkit.istio.ca import ca_files, certificates, issuing, trust_store
from meshkit.istio.control_plane import versions
from meshkit.istio.multicluster import jwt
from meshkit.istio.proxies import envoy_admin
from meshkit.kube import pem as pem_text
from meshkit.kube.mesh import Mesh
from meshkit.spec import MeshSpec
from tests.support.api_server import certificate_pem
from tests.unit.istio.ca.test_issuing import load, root

NOW = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)
TYPE = "type.googleapis.com/envoy.config."
WHOLE = certificate_pem("whole")
CLUSTER, LISTENER = f"{TYPE}cluster.v3.Cluster", f"{TYPE}listener.v3.Listener"


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
        row = envoy_admin.parse_clusters({"cluster_statuses": [{"name": name, "host_statuses": [host]}]}).iloc[0]
        assert (row["direction"], row["port"], row["subset"]) == ("outbound", 8000, "v2")
        assert (row["host"], row["address"]) == ("httpbin.sample.svc.cluster.local", "172.31.102.1:15443")
        assert (row["rq_total"], row["cx_active"], row["cx_connect_fail"]) == (7, 0, 0)
        assert (row["health"], row["locality"], row["priority"]) == ("HEALTHY", "r1/z1", 1)

    def test_a_failed_check_is_no_health(self) -> None:
        """Outlier detection ejects a host that EDS calls healthy."""
        status = {"eds_health_status": "HEALTHY", "failed_outlier_check": True, "failed_active_hc": False}
        document = {"cluster_statuses": [{"name": "x", "host_statuses": [{"health_status": status}]}]}
        assert envoy_admin.parse_clusters(document).iloc[0]["health"] == "failed_outlier_check"

    def test_a_cluster_without_hosts_is_no_row(self) -> None:
        """The table keeps its columns and dtypes."""
        table = envoy_admin.parse_clusters({"cluster_statuses": [{"name": "BlackHoleCluster"}]})
        assert list(table.columns) == list(envoy_admin.UPSTREAM_HOSTS.dtypes)
        assert table.empty

    def test_stats_are_whole_numbers(self) -> None:
        """Texts and histograms are left out."""
        stats = [{"name": "a", "value": "3"}, {"name": "b"}, {"name": "c", "value": "x"}, {"histograms": {}}]
        assert envoy_admin.parse_stats({"stats": stats}) == {"a": 3, "b": 0}

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
            (found,) = envoy_admin.parse_secrets(configs)
            assert (found.name, found.kind, found.pem.strip()) == ("default", "chain", chain.strip())
            assert b"canary" not in found.pem

    def test_roots_come_from_a_bundle_or_from_trust_domains(self) -> None:
        """Trust domain aliases move them into the SPIFFE validator."""
        one, two = certificate_pem("one"), certificate_pem("two")
        plain = {"trusted_ca": {"inline_bytes": base64.b64encode(one + two).decode()}}
        domains = [{"trust_bundle": {"inline_string": one.decode()}}, {"trust_bundle": {"inline_string": two.decode()}}]
        spiffe = {"custom_validator_config": {"typed_config": {"trust_domains": domains}}}
        for context in (plain, spiffe):
            (found,) = envoy_admin.parse_secrets([{"name": "ROOTCA", "secret": {"validation_context": context}}])
            assert len(certificates.parse_bundle(found.pem)) == 2


class TestTrust:
    """Certificates and bundles."""

    def test_identity_is_read_from_the_leaf(self) -> None:
        """The SPIFFE URI, the leaf's own fingerprint, and the roots in a fixed order."""
        leaf = certificate_pem("leaf", "spiffe://cluster.local/ns/sample/sa/sleep")
        roots = certificate_pem("b") + certificate_pem("a")
        held = [envoy_admin.Secret("default", "chain", leaf, None), envoy_admin.Secret("ROOTCA", "roots", roots, None)]
        one = trust_store.parse_identity(held)
        assert one.identity == "spiffe://cluster.local/ns/sample/sa/sleep"
        assert len(one.sha256) == 64
        assert (list(one.roots), len(one.roots)) == (sorted(one.roots), 2)

    def test_a_certificate_that_cannot_be_read_is_an_error_that_says_so(self) -> None:
        """Of ours, so that a cluster with a broken `cacerts` is unknown, and all others are read."""
        cut = certificate_pem("cut").replace(b"MII", b"M", 1)
        with pytest.raises(certificates.CertificateError, match="was it copied completely"):
            certificates.parse_chain(certificate_pem("whole") + cut)
        data = base64.b64encode(cut).decode()
        secrets = SimpleNamespace(
            find=lambda *_: {"data": {"root-cert.pem": data}}, get=lambda *_, **__: [], name="east"
        )
        spec = MeshSpec.parse({"clusters": [{"name": "east", "context": "x", "network": "n"}]}, where="test")
        told = trust_store.roots(Mesh(spec, {"east": cast("Any", secrets)}))
        (why,) = [one.reason for one in told if one.source is trust_store.RootSource.NEITHER]
        assert "was it copied completely" in why

    @pytest.mark.parametrize(
        "change",
        [
            lambda pem: pem.replace(b"\n", b"\r\n"),
            lambda pem: b"\xef\xbb\xbf# ours\n\n" + pem + b"Subject: O = \xe9\n",
            lambda pem: pem.replace(b"-----BEGIN", b"subject=CN=x\n-----BEGIN"),
            lambda pem: b"\n".join(b"    " + line for line in pem.splitlines()),
            lambda pem: pem.replace(b"-----\n-----", b"----------"),
            lambda pem: b"-----BEGIN PRIVATE KEY-----\n!\n-----END PRIVATE KEY-----\n" + pem,
        ],
        ids=["CRLF", "text around", "text between", "indented", "no line between", "another kind"],
    )
    def test_what_stands_between_certificates_does_not_matter(self, change: Callable[[bytes], bytes]) -> None:
        """As people make bundles: by cat, by openssl with texts, on Windows."""
        pem = certificate_pem("one") + certificate_pem("two")
        assert certificates.parse_chain(change(pem)) == certificates.parse_chain(pem)
        assert [pem_text.same(block) for block in pem_text.blocks(change(pem))] == [
            pem_text.same(b) for b in pem_text.blocks(pem)
        ]
        assert certificates.parse_chain(b"") == certificates.parse_chain(b"no certificate at all") == []

    @pytest.mark.parametrize(
        ("pem", "said"),
        [
            (WHOLE + WHOLE.replace(b"MII", b"M", 1) + WHOLE, "certificate 2 of 3 in PEM cannot be read"),
            (WHOLE + WHOLE.replace(b"MII", b"!!!", 1), "certificate 2 of 2 in PEM cannot be read"),
            (WHOLE + WHOLE[:200], "1 of 2 certificates in PEM have no end"),
            (WHOLE[:200] + b"\n" + WHOLE, "1 of 2 certificates in PEM have no end"),
        ],
        ids=["cut inside", "not base64", "cut at the end", "cut before another"],
    )
    def test_a_broken_certificate_is_reported_by_its_place(self, pem: bytes, said: str) -> None:
        """Also one that ends too soon, which is easily overlooked: the others would pass for the whole bundle."""
        with pytest.raises(certificates.CertificateError, match=said):
            certificates.parse_chain(pem)

    def test_one_broken_config_map_does_not_hide_the_others(self) -> None:
        """Of its namespace alone nothing is known; no root is said to be in every namespace."""
        pems = {"a": WHOLE, "b": WHOLE[:200], "c": WHOLE}
        maps = [{"metadata": {"namespace": n}, "data": {"root-cert.pem": pem.decode()}} for n, pem in pems.items()]
        cluster = SimpleNamespace(find=lambda *_: None, get=lambda kind, **__: maps * (kind == "configmaps"), name="e")
        spec = MeshSpec.parse({"clusters": [{"name": "east", "context": "x", "network": "n"}]}, where="test")
        mesh = Mesh(spec, {"east": cast("Any", cluster)})
        rows = {row["namespace"]: row for row in trust_store.distributed_roots(mesh).to_dict("records")}
        assert {name: bool(row["roots"]) for name, row in rows.items()} == {"a": True, "b": False, "c": True}
        assert "have no end" in rows["b"]["reason"]
        told = trust_store.roots(mesh).of("east", trust_store.RootSource.CONFIG_MAPS)
        assert sorted((one.holders, one.of) for one in told) == [(0, 3), (2, 3)]
        reasons = "".join(one.reason for one in told)
        assert reasons.startswith("namespace b: ConfigMap istio-ca-root-cert: 1 of 1 certificates in PEM have no end")

    def test_a_bundle_counts_each_root_once(self) -> None:
        """Istio's rotation test doubles a root to force new certificates; that is still one root."""
        one = certificate_pem("one")
        assert len(certificates.parse_bundle(b"# comment\n" + one + b"\n\n" + one)) == 1

    def test_roots_of_the_same_name_are_distinguished(self) -> None:
        """Subjects lie."""
        first, second = certificates.parse_bundle(certificate_pem("cluster.local") + certificate_pem("cluster.local"))
        assert first.subject == second.subject
        assert certificates.fingerprint(first) != certificates.fingerprint(second)

    def test_roots_behind_a_chain_do_not_hide_its_own(self) -> None:
        """While two are trusted, istiod's answer ends in all texts of root-cert.pem, and agents keep it so."""
        old, new = (load(root()) for _ in range(2))
        one, two = (issuing.intermediate(above, "east", "istio-system").files for above in (old, new))
        bundle = b"".join(made.certificate.public_bytes(Encoding.PEM) for made in (old, new, new))
        own = ca_files.load(two["ca-cert.pem"], two["ca-key.pem"], where="", signs_authorities=False)
        leaf = issuing.intermediate(own, "leaf", "istio-system").files["ca-cert.pem"]
        for chain, above in ((one["ca-cert.pem"] + bundle, old), (leaf + two["cert-chain.pem"] + bundle, new)):
            held = [
                envoy_admin.Secret("default", "chain", chain, None),
                envoy_admin.Secret("ROOTCA", "roots", bundle, None),
            ]
            assert trust_store.parse_identity(held).anchor == certificates.fingerprint(
                above.certificate, certificates.SHORT
            )

    def test_a_proxy_without_a_certificate_says_so(self) -> None:
        """The row is there, with the reason."""
        assert trust_store.parse_identity([]).reason == "the proxy holds no workload certificate"


class TestVersions:
    """Versions as they are reported."""

    @pytest.mark.parametrize(
        ("text", "version"),
        [
            ("1.31.0", (1, 31, 0)),
            ("1.30.4", (1, 30, 4)),
            ("1.31-eed52ebb66ad", (1, 31, -1)),
            ("v1.37.2", (1, 37, 2)),
            ("1.31.0-rc.0", (1, 31, 0)),
            ("1.31", (1, 31, -1)),
            ("1.31-alpha.eed52ebb66ad", (1, 31, -1)),
            ("1.31-dev", (1, 31, -1)),
            ("1.30.1-distroless", (1, 30, 1)),
            ("1.31.0-tetrate-v0", (1, 31, 0)),
            ("1.20.8-asm.33", (1, 20, 8)),
            ("v1.33.4-gke.1134000", (1, 33, 4)),
            ("v1.32.5-eks-5d4a308", (1, 32, 5)),
            ("v1.30.5+k3s1", (1, 30, 5)),
            ("1.31-" + "9" * 5000, (1, 31, -1)),
        ],
    )
    def test_a_version_is_parsed(self, text: str, version: tuple[int, int, int]) -> None:
        """Releases, candidates and development builds."""
        assert versions.Version.parse(text) == versions.Version(*version)

    @pytest.mark.parametrize(
        "text",
        [
            *(
                "",
                "unknown",
                "latest",
                "v0.0.0-master",
                "0.0.0",
                "eed52ebb66ad",
                "1",
                "1.x",
                "1.31foo",
                "1..31",
                "-1.31",
            ),
            *("1.31.0 or so", "1." + "9" * 5000, "\n", "١.٣١"),
        ],
    )
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
