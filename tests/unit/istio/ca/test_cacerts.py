"""What istiod loads as `cacerts`, in both forms and any order of the chain; who keeps it; who signs in its place."""

from __future__ import annotations

import base64
import itertools
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from meshkit.checks import ca
from meshkit.checks.finding import Verdict
from meshkit.errors import InputError
from meshkit.istio.ca import ca_files, cacerts, certificates, istiod_ca, trust_store
from meshkit.istio.ca.x509_rules import key_kind, self_signed
from meshkit.istio.control_plane import owners
from meshkit.istio.proxies import envoy_admin
from meshkit.kube.mesh import Mesh
from meshkit.spec import MeshSpec
from tests.support.held import Held, Object, held

NOW = datetime.now(UTC)


DAY = timedelta(days=1)


PLACE = "istio-system"


class Ca:
    """A CA of a test, under another one or self-signed; `again` is another certificate of the same name and key."""

    def __init__(
        self, name: str, above: Ca | None = None, *, days: int = 100, ca: bool = True, key: Any = None, more: Any = None
    ) -> None:
        self.key = key or ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        issuer = above or self
        begin = NOW - 200 * DAY
        builder = x509.CertificateBuilder(
            issuer.name, self.name, self.key.public_key(), x509.random_serial_number(), begin, NOW + days * DAY
        )
        builder = builder.add_extension(x509.BasicConstraints(ca, None), critical=True)
        builder = builder.add_extension(more, critical=True) if more else builder
        self.certificate = builder.sign(issuer.key, hashes.SHA256())
        self.pem = self.certificate.public_bytes(serialization.Encoding.PEM)
        self.key_pem = self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    @property
    def sha256(self) -> str:
        """Its fingerprint."""
        return certificates.fingerprint(self.certificate)


ROOT = Ca("Root")


ISSUING = Ca("Issuing", ROOT)


OWN = Ca("Istio CA", ISSUING)


LEAF = Ca("leaf", OWN, ca=False)


def tls_form(**more: bytes) -> dict[str, bytes]:
    """Return what cert-manager writes for a CA of three tiers."""
    return {"tls.crt": OWN.pem + ISSUING.pem, "tls.key": OWN.key_pem, "ca.crt": ROOT.pem, **more}


def four_files(chain: Sequence[Ca], root: bytes = ROOT.pem) -> dict[str, bytes]:
    """Return Istio's own form."""
    text = b"".join(one.pem for one in chain)
    return {"ca-cert.pem": OWN.pem, "ca-key.pem": OWN.key_pem, "root-cert.pem": root, "cert-chain.pem": text}


def secret(data: dict[str, bytes], name: str = "cacerts", **metadata: Any) -> Object:
    """Return a Secret."""
    held = {key: base64.b64encode(text).decode() for key, text in data.items()}
    return {"kind": "Secret", "metadata": {"name": name, "namespace": PLACE, **metadata}, "data": held}


def istiod(**env: str) -> Object:
    """Return a pod of istiod."""
    words = [{"name": name, "value": value} for name, value in env.items()]
    metadata = {"name": "istiod-1-a", "namespace": PLACE, "labels": {"app": "istiod"}}
    return {"metadata": metadata, "spec": {"containers": [{"name": "discovery", "env": words}]}}


def injector(address: str) -> Object:
    """Return what injection gives proxies."""
    values = json.dumps({"global": {"caAddress": address}})
    return {"metadata": {"name": "istio-sidecar-injector", "namespace": PLACE}, "data": {"values": values}}


def mesh(**objects: list[Object]) -> Mesh:
    """Return a mesh of one cluster."""
    spec = MeshSpec.parse({"clusters": [{"name": "east", "context": "x", "network": "n"}]}, where="test")
    return Mesh(spec, {"east": cast("Any", Held(**objects))})


def authorities(**objects: list[Object]) -> list[dict[str, Any]]:
    """Return the rows of the table."""
    rows: list[dict[str, Any]] = istiod_ca.authorities(mesh(**objects)).to_dict("records")  # type: ignore[assignment]
    return rows


class TestForms:
    """Both forms of the Secret."""

    def test_three_tiers_in_the_form_of_kubernetes_io_tls_are_sound(self) -> None:
        """Istiod's chain is tls.crt and ca.crt."""
        row = istiod_ca.parse_authority("cacerts", tls_form())
        assert (row["problem"], row["root"], row["sha256"]) == ("", ROOT.sha256, OWN.sha256)

    def test_tls_crt_decides_whatever_else_is_there(self) -> None:
        """As it does where somebody wrote the four files beside it."""
        other = Ca("other")
        beside = {"ca-cert.pem": other.pem, "ca-key.pem": other.key_pem, "root-cert.pem": other.pem}
        objects = {"secrets": [secret(tls_form(**beside))]}
        assert authorities(**objects)[0]["root"] == ROOT.sha256
        told = trust_store.roots(mesh(**objects))
        assert [one.sha256 for one in told if one.source is trust_store.RootSource.CACERTS] == [ROOT.sha256]

    @pytest.mark.parametrize("lacking", ["ca.crt", "tls.key"])
    def test_what_is_missing_is_named_as_it_is_called_there(self, lacking: str) -> None:
        """Some issuers of cert-manager give no ca.crt: istiod does not start then."""
        data = {name: text for name, text in tls_form().items() if name != lacking}
        assert istiod_ca.parse_authority("cacerts", data)["problem"] == f"{lacking} missing"

    def test_a_chain_with_a_gap_is_reported_by_the_names_that_are_there(self) -> None:
        """Without the issuing CA."""
        told = istiod_ca.parse_authority("cacerts", tls_form(**{"tls.crt": OWN.pem}))["problem"]
        assert told == "the chain from tls.crt by tls.crt and ca.crt does not end at ca.crt"

    def test_other_keys_are_no_ca(self) -> None:
        """Istiod signs with its own then."""
        own = Ca("cluster.local")
        objects = [
            secret({"ca-crl.pem": b"x"}),
            secret({"ca-cert.pem": own.pem, "ca-key.pem": own.key_pem}, "istio-ca-secret"),
        ]
        assert [(r["secret"], r["used"]) for r in authorities(secrets=objects)] == [("istio-ca-secret", True)]

    def test_istiods_own_ca_in_cacerts_is_sound_and_istiods(self) -> None:
        """With USE_CACERTS_FOR_SELF_SIGNED_CA, which leaves cert-chain.pem empty."""
        own = Ca("cluster.local")
        data = {"ca-cert.pem": own.pem, "ca-key.pem": own.key_pem, "root-cert.pem": own.pem, "cert-chain.pem": b""}
        made = secret({**data, "istio-generated": b""})
        on = istiod(USE_CACERTS_FOR_SELF_SIGNED_CA="true")
        (row,) = authorities(secrets=[made], pods=[on])
        assert (row["problem"], row["root"]) == ("", own.sha256)
        assert row["owner"].startswith("istiod")
        assert authorities(secrets=[made], pods=[istiod()])[0]["owner"] == ""
        older = secret({"ca-cert.pem": own.pem, "ca-key.pem": own.key_pem}, "istio-ca-secret")
        assert [r["used"] for r in authorities(secrets=[made, older], pods=[on])] == [False, True]


class TestOrder:
    """A chain is verified, not walked."""

    @pytest.mark.parametrize("chain", list(itertools.permutations((OWN, ISSUING, ROOT))))
    def test_any_order_of_cert_chain_is_sound(self, chain: Sequence[Ca]) -> None:
        """And what proxies show of it leads to the root."""
        row = istiod_ca.parse_authority("cacerts", four_files(chain))
        assert (row["problem"], row["root"]) == ("", ROOT.sha256)
        shown = LEAF.pem + four_files(chain)["cert-chain.pem"]
        held = [
            envoy_admin.Secret("default", "chain", shown, None),
            envoy_admin.Secret("ROOTCA", "roots", ROOT.pem, None),
        ]
        assert trust_store.parse_identity(held).anchor == ROOT.sha256[:16]

    def test_strangers_and_repetitions_do_not_matter(self) -> None:
        """Also not one of the same name with another key."""
        chain = (ROOT, Ca("Issuing", ROOT), Ca("stranger"), ISSUING, ISSUING, OWN)
        assert istiod_ca.parse_authority("cacerts", four_files(chain))["problem"] == ""

    def test_a_renewed_issuing_ca_is_taken_for_the_expired_one(self) -> None:
        """Both stand in the file; a path of valid ones is what counts."""
        expired = Ca("Issuing", ROOT, days=-1, key=ISSUING.key)
        assert istiod_ca.parse_authority("cacerts", four_files((OWN, expired, ISSUING)))["problem"] == ""
        assert "expired" in istiod_ca.parse_authority("cacerts", four_files((OWN, expired)))["problem"]

    def test_a_gap_is_no_chain(self) -> None:
        """Nor is a chain that lacks the signing certificate: what proxies show would lead nowhere."""
        assert "does not end" in istiod_ca.parse_authority("cacerts", four_files((OWN, ROOT)))["problem"]
        assert "not in cert-chain.pem" in istiod_ca.parse_authority("cacerts", four_files((ISSUING, ROOT)))["problem"]

    def test_a_cross_signed_root_ends_at_the_root_that_is_trusted(self) -> None:
        """Two paths; the one of the trusted root is found."""
        new = Ca("New root")
        cross = Ca("Root", new, key=ROOT.key)
        chain = [one.certificate for one in (LEAF, cross, ROOT, OWN, ISSUING)]
        for root in (new, ROOT):
            assert certificates.chain_end(chain, [root.certificate]) == root.certificate

    @pytest.mark.parametrize("chain", [(OWN, ISSUING, ROOT), (OWN, ISSUING), (OWN,)])
    @pytest.mark.parametrize("bundle", [ISSUING.pem + ROOT.pem, ROOT.pem + ISSUING.pem + OWN.pem])
    def test_intermediates_in_the_root_bundle_are_no_roots(self, chain: Sequence[Ca], bundle: bytes) -> None:
        """It trusts what a cluster with the root alone trusts: nothing is to be changed, whatever file has them."""
        row = istiod_ca.parse_authority("cacerts", four_files(chain, bundle))
        assert (row["problem"], row["root"], row["roots"]) == ("", ROOT.sha256, ROOT.sha256[:16])
        shown = LEAF.pem + b"".join(one.pem for one in chain)
        held = [
            envoy_admin.Secret("default", "chain", shown, None),
            envoy_admin.Secret("ROOTCA", "roots", bundle, None),
        ]
        proxy = trust_store.parse_identity(held)
        assert (proxy.anchor, proxy.roots) == (ROOT.sha256[:16], (ROOT.sha256[:16],))
        place = {"name": "istio-ca-root-cert", "namespace": "shop"}
        maps = [{"metadata": place, "data": {"root-cert.pem": bundle.decode()}}]
        told = trust_store.roots(mesh(secrets=[secret(four_files(chain, bundle))], configmaps=maps))
        assert {one.sha256 for one in told} - {""} == {ROOT.sha256}

    def test_a_bundle_of_an_intermediate_alone_has_it_for_its_root(self) -> None:
        """As Go and Envoy take it; and a root that another one signed, too, stays one."""
        row = istiod_ca.parse_authority("cacerts", four_files((OWN, ISSUING, ROOT), ISSUING.pem))
        assert row["root"] == ISSUING.sha256
        new = Ca("New root")
        cross = Ca("Root", new, key=ROOT.key)
        bundle = [one.certificate for one in (ROOT, cross, new)]
        assert certificates.anchors(bundle) == [ROOT.certificate, new.certificate]

    def test_a_chain_made_to_cost_time_ends(self) -> None:
        """Names that all issue each other: at most as many signatures as Go verifies."""
        same = [Ca("loop").certificate for _ in range(40)]
        assert certificates.chain_end(same, [ROOT.certificate]) is None

    def test_a_users_folder_may_have_any_order_too(self) -> None:
        """The same reader."""
        plugged = ca_files.load_plugged(four_files((ROOT, ISSUING, OWN)), where="the test")
        assert certificates.fingerprint(plugged.root) == ROOT.sha256


BOM = b"\xef\xbb\xbf"
CHAIN = OWN.pem + ISSUING.pem
PARAMETERS = b"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"
"""As `openssl ecparam -genkey` writes them before the key."""


class TestAsGoReads:
    """A block of PEM begins and ends on lines of its own; of the certificate and the key the first block counts."""

    GOOD = four_files((OWN, ISSUING, ROOT))

    @pytest.mark.parametrize(
        ("name", "text"),
        [
            ("cert-chain.pem", CHAIN.replace(b"\n", b"\r\n")),
            ("cert-chain.pem", b"\n\n# ours\n" + CHAIN.replace(b"-----BEGIN", b"\n\nsubject=x\n-----BEGIN")),
            ("cert-chain.pem", BOM + b"# a comment\n" + CHAIN),
            ("root-cert.pem", Ca("other").pem + ROOT.pem.rstrip(b"\n")),
            ("root-cert.pem", ROOT.pem + ROOT.pem),
            ("ca-key.pem", b"# ours\n" + OWN.key_pem),
        ],
    )
    def test_what_stands_on_other_lines_does_not_matter(self, name: str, text: bytes) -> None:
        """Line ends of Windows, empty lines, texts of openssl, more roots."""
        assert istiod_ca.parse_authority("cacerts", {**self.GOOD, name: text})["problem"] == ""

    @pytest.mark.parametrize(
        ("name", "text", "why"),
        [
            ("ca-cert.pem", BOM + OWN.pem, "has 1 of 1 certificates that do not begin"),
            ("ca-cert.pem", OWN.key_pem + OWN.pem, "begins with PRIVATE KEY"),
            ("cert-chain.pem", CHAIN.replace(b"-----\n-----", b"----------"), "has 2 of 2 certificates"),
            ("cert-chain.pem", CHAIN.replace(b"-----BEGIN", b"  -----BEGIN"), "has 2 of 2 certificates"),
            ("root-cert.pem", BOM + ROOT.pem, "has 1 of 1 certificates"),
            ("ca-key.pem", OWN.pem + OWN.key_pem, "begins with CERTIFICATE"),
            ("ca-key.pem", PARAMETERS + OWN.key_pem, "begins with EC PARAMETERS"),
        ],
    )  # fmt: skip
    def test_what_istiod_does_not_see_is_a_problem(self, name: str, text: bytes, why: str) -> None:
        """It would not start, or proxies would show or trust less than what stands there."""
        told = istiod_ca.parse_authority("cacerts", {**self.GOOD, name: text})["problem"]
        assert told.startswith(f"{name} {why}")

    def test_tls_crt_without_a_last_line_end_runs_into_ca_crt(self) -> None:
        """Istiod joins the two files as they are: both certificates there are lost to the chain that proxies show."""
        told = istiod_ca.parse_authority("cacerts", tls_form(**{"tls.crt": (OWN.pem + ISSUING.pem).rstrip()}))[
            "problem"
        ]
        assert told.startswith("tls.crt and ca.crt has 2 of 3 certificates")
        assert istiod_ca.parse_authority("cacerts", tls_form(**{"ca.crt": ROOT.pem.rstrip()}))["problem"] == ""

    def test_a_users_folder_is_refused_for_the_same(self) -> None:
        """Its files are written as they are, but for the key."""
        ca_files.load_plugged({**self.GOOD, "ca-key.pem": PARAMETERS + OWN.key_pem}, where="the test")
        with pytest.raises(InputError, match=r"cert-chain\.pem has 1 of 2"):
            ca_files.load_plugged({**self.GOOD, "cert-chain.pem": BOM + CHAIN}, where="the test")


@pytest.mark.parametrize(
    ("allowed", "excluded", "why"),
    [
        ([x509.DNSName("corp.example")], [], "permits names of corp.example only"),
        ([x509.DNSName("corp.example"), x509.DNSName("svc")], [], ""),
        ([x509.DNSName(".istio-system.svc")], [], ""),
        ([x509.DNSName("")], [], ""),
        ([x509.UniformResourceIdentifier("cluster.local")], [], ""),
        ([], [x509.DNSName("corp.example")], ""),
        ([], [x509.DNSName("svc")], "excludes the names of istiod"),
        ([x509.DirectoryName(ROOT.name)], [], "Go refuses them"),
    ],
)
def test_name_constraints_of_a_company_s_ca_keep_istiod_out(allowed: list[Any], excluded: list[Any], why: str) -> None:
    """Its serving certificate is for istiod.NAMESPACE.svc; proxies and the API server ask for that name."""
    constraints = x509.NameConstraints(allowed or None, excluded or None)
    issuing = Ca("Issuing", ROOT, more=constraints)
    own = Ca("Istio CA", issuing)
    files = {"ca-cert.pem": own.pem, "ca-key.pem": own.key_pem, "root-cert.pem": ROOT.pem}
    told = istiod_ca.parse_authority("cacerts", {**files, "cert-chain.pem": own.pem + issuing.pem})["problem"]
    assert (why in told, bool(told)) == (True, bool(why))


def manager(name: str, operation: str = "Update") -> dict[str, Any]:
    """Return the metadata of what a field manager wrote."""
    return {"managedFields": [{"manager": name, "operation": operation, "fieldsV1": {"f:data": {}}}]}


def reference(kind: str, name: str, version: str) -> dict[str, Any]:
    """Return the metadata of what another object owns."""
    return {"ownerReferences": [{"apiVersion": version, "kind": kind, "name": name, "controller": True}]}


OWNED = {
    "cert-manager": (
        {"annotations": {"cert-manager.io/certificate-name": "istio-ca", "cert-manager.io/issuer-name": "corp",
                         "cert-manager.io/issuer-kind": "ClusterIssuer"}},
        "Certificate istio-system/istio-ca and its issuer ClusterIssuer corp",
    ),
    "cert-manager by its manager": (manager("cert-manager-certificates-issuing", "Apply"), "Certificate"),
    "cert-manager, owner reference": (reference("Certificate", "istio-ca", "cert-manager.io/v1"), "istio-ca"),
    "External Secrets": (reference("ExternalSecret", "mesh-ca", "external-secrets.io/v1"), "istio-system/mesh-ca"),
    "External Secrets, label": ({"labels": {"reconcile.external-secrets.io/managed": "true"}}, "ExternalSecret"),
    "Sealed Secrets": (reference("SealedSecret", "cacerts", "bitnami.com/v1"), "SealedSecret istio-system/cacerts"),
    "Vault": (reference("VaultStaticSecret", "ca", "secrets.hashicorp.com/v1"), "VaultStaticSecret istio-system/ca"),
    "Argo CD": ({"annotations": {"argocd.argoproj.io/tracking-id": "mesh:/Secret:istio-system/cacerts"}},
                "Application mesh"),
    "Argo CD by its manager": ({"labels": {"app.kubernetes.io/instance": "mesh"}, **manager("argocd-controller")},
                               "Application mesh"),
    "Flux": ({"labels": {"kustomize.toolkit.fluxcd.io/name": "infra",
                         "kustomize.toolkit.fluxcd.io/namespace": "flux-system"}}, "Kustomization flux-system/infra"),
    "Helm": ({"annotations": {"meta.helm.sh/release-name": "ca", "meta.helm.sh/release-namespace": "pki"}},
             "release pki/ca"),
    "Terraform": (manager("HashiCorp"), "Terraform"),
    "a copy": ({"annotations": {"replicator.v1.mittwald.de/replicate-from": "pki/ca"}}, "a copy of, pki/ca"),
    "an agent": (manager("work-agent"), "work-agent"),
    "any controller": (manager("corp-pki-controller"), "corp-pki-controller"),
    "any that applies": (manager("corp-pki", "Apply"), "corp-pki"),
    "any owner": (reference("MeshCA", "one", "corp.example/v1"), "MeshCA istio-system/one"),
    "any label": ({"labels": {"app.kubernetes.io/managed-by": "corp-deployer"}}, "corp-deployer"),
}  # fmt: skip


@pytest.mark.parametrize(("metadata", "where"), OWNED.values(), ids=OWNED)
def test_who_keeps_a_secret_is_named_with_what_is_to_be_changed(metadata: dict[str, Any], where: str) -> None:
    """By owner references, labels, annotations and field managers."""
    (row,) = authorities(secrets=[secret(tls_form(), **metadata)])
    assert row["owner"]
    assert where in row["owner_source"]


@pytest.mark.parametrize(
    "metadata",
    [{}, manager("kubectl-create"), manager("kubectl", "Apply"), manager("meshkit", "Apply"), manager("node-fetch"),
     {"labels": {"app.kubernetes.io/managed-by": "meshkit"}}, manager("pilot-discovery"),
     # The source of copies, and one that cert-manager may inject from, are people's own.
     {"annotations": {"replicator.v1.mittwald.de/replicate-to": "shop"}},
     {"annotations": {"cert-manager.io/allow-direct-injection": "true"}}],
)  # fmt: skip
def test_what_a_person_made_is_nobodys(metadata: dict[str, Any]) -> None:
    """It may be changed."""
    assert owners.owner_of(secret(four_files((OWN, ISSUING, ROOT)), **metadata)) is None


def test_the_form_of_kubernetes_io_tls_is_never_nobodys() -> None:
    """The four files beside it would be read by no istiod."""
    (row,) = authorities(secrets=[secret(tls_form())])
    assert "kubernetes.io/tls" in row["owner"]


def revoked(*by: Ca, days: int = 1, those: Sequence[Ca] = ()) -> bytes:
    """Return a revocation list by each CA: an empty one, or one with certificates."""
    begin, end = NOW - 9 * DAY, NOW + days * DAY
    found = [
        x509.RevokedCertificateBuilder(one.certificate.serial_number, revocation_date=begin).build() for one in those
    ]
    made = (
        x509.CertificateRevocationListBuilder(one.name, last_update=begin, next_update=end, revoked_certificates=found)
        for one in by
    )
    lists = (builder.sign(one.key, hashes.SHA256()) for builder, one in zip(made, by, strict=True))
    return b"".join(one.public_bytes(serialization.Encoding.PEM) for one in lists)


class TestRevocationLists:
    """With ca-crl.pem in it istiod loads a CA only if each of its chain has a list (1.27 and later)."""

    @pytest.mark.parametrize(
        ("lists", "problem"),
        [
            (revoked(ROOT, ISSUING, OWN), ""),
            (b"", ""),
            (revoked(ROOT, ISSUING), "ca-crl.pem has no list by CN=Istio CA, which is in cert-chain.pem"),
            (revoked(OWN, ISSUING, Ca("Root")), "ca-crl.pem has no list by CN=Root, which is in cert-chain.pem"),
            (b"-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n", "ca-crl.pem cannot be read"),
        ],
    )
    def test_each_certificate_of_the_chain_needs_a_list(self, lists: bytes, problem: str) -> None:
        """By its key, and not only by its name."""
        data = {**four_files((OWN, ISSUING, ROOT)), "ca-crl.pem": lists}
        assert istiod_ca.parse_authority("cacerts", data)["problem"] == problem

    def test_a_ca_with_lists_is_its_pki_s_to_change(self) -> None:
        """A new intermediate beside the old lists keeps istiod from starting; in the other form nobody reads them."""
        data = {**four_files((OWN, ISSUING, ROOT)), "ca-crl.pem": revoked(ROOT, ISSUING, OWN)}
        (row,) = authorities(secrets=[secret(data)])
        told = row["owner"], row["owner_source"]
        assert told == ("the PKI that issues its ca-crl.pem", "its four files together with ca-crl.pem")
        assert istiod_ca.parse_authority("cacerts", tls_form(**{"ca-crl.pem": b"x"}))["problem"] == ""


WEST = Ca("West CA", ROOT)
EAST = Ca("East CA", ROOT)


def of_cluster(own: Ca, lists: bytes) -> Held:
    """Return a cluster with its CA, whose istiod has distributed these lists."""
    data = {**four_files((own, ROOT)), "ca-cert.pem": own.pem, "ca-key.pem": own.key_pem}
    maps = [held("ConfigMap", "istio-ca-crl", PLACE, data={"ca-crl.pem": lists.decode()})]
    return Held(secrets=[secret(data)], configmaps=maps)


@pytest.mark.parametrize(
    ("lists", "refused"),
    [
        (b"", ""),
        (revoked(ROOT, EAST, WEST), ""),
        (revoked(ROOT, EAST), "CN=West CA of west: no list by it"),
        (revoked(EAST, WEST), "CN=Root of east, west: no list by it"),
        (revoked(ROOT, EAST, Ca("West CA")), "CN=West CA of west: no list by it"),
        (revoked(EAST, WEST) + revoked(ROOT, those=[WEST]), "CN=West CA of west: revoked by CN=Root"),
        (revoked(ROOT, EAST) + revoked(WEST, days=-1), "CN=West CA of west: its list ended"),
        (revoked(ROOT, EAST, WEST) + revoked(WEST, days=-1), ""),
        (b"-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n", "a list of istio-ca-crl cannot be read"),
    ],
)
def test_proxies_refuse_a_ca_of_another_cluster_that_their_lists_do_not_let_in(lists: bytes, refused: str) -> None:
    """MK422: istiod asks for lists by its own chain only; its proxies ask for one by each CA of a peer's."""
    clusters: Any = {"east": of_cluster(EAST, lists), "west": of_cluster(WEST, b"")}
    entries = [{"name": name, "context": name, "network": name} for name in clusters]
    read = istiod_ca.authorities(Mesh(MeshSpec.parse({"clusters": entries}, where="test"), clusters))
    facts: Any = SimpleNamespace(authorities=read)
    found = {one.subject: one for name in clusters for one in ca.check_lists(facts, name)}
    assert [*found] == (["east"] if refused else [])
    assert not refused or (found["east"].verdict, found["east"].observed.startswith(refused)) == (Verdict.FAIL, True)


OLD_ROOT = b"""-----BEGIN CERTIFICATE-----
MIIBdzCCAR6gAwIBAgIUFGNiT4IiLLcmhaLL3Yt8Penkq1kwCQYHKoZIzj0EATAS
MRAwDgYDVQQDDAdPbGRSb290MB4XDTI2MTIwMTAyMDQzOFoXDTQ2MDEzMDAyMDQz
OFowEjEQMA4GA1UEAwwHT2xkUm9vdDBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IA
BIhwa93rNWwwL4biouoi/eNObZ/X4T0yPaqUxHbiDaV567w4MxCyD5HhvukMfLOk
lAZ2WRHAmT/ng3bSMJSxOR2jUzBRMB0GA1UdDgQWBBQZny1rF9DzAn+J85EPrLRl
YCTRxjAfBgNVHSMEGDAWgBQZny1rF9DzAn+J85EPrLRlYCTRxjAPBgNVHRMBAf8E
BTADAQH/MAkGByqGSM49BAEDSAAwRQIgCIBwd/Z01CXj03A/5mLEx5Xy9QCiwT+7
ZKbVyOV9oyACIQClVWDiNXXIWPxLyHXRWuTvHLqgqVDzDgRnRdhe5khh6g==
-----END CERTIFICATE-----
"""
"""Of 2026, signed by itself with SHA-1, as roots of companies often are: `openssl req -x509 -sha1`."""


def test_a_root_signed_with_sha1_is_a_root() -> None:
    """Nobody verifies a root's own signature, Go and BoringSSL included; and nobody could make it again."""
    (root,) = certificates.parse_chain(OLD_ROOT)
    assert self_signed(root)
    assert not self_signed(ISSUING.certificate)


def test_a_key_that_is_neither_rsa_nor_ecdsa_is_called_so() -> None:
    """Ed25519 is legal above an intermediate that istiod signs with."""
    key = ed25519.Ed25519PrivateKey.generate()
    builder = x509.CertificateBuilder(ROOT.name, ROOT.name, key.public_key(), 1, NOW - DAY, NOW + DAY)
    assert key_kind(builder.sign(key, None)) == "neither RSA nor ECDSA"
    assert key_kind(ROOT.certificate) == "ECDSA 256"


class TestOtherSigners:
    """Where istiod signs nothing, its Secrets prove nothing."""

    CSR = "cert-manager-istio-csr.cert-manager.svc:443"
    LEFT = secret({"ca-cert.pem": ROOT.pem, "ca-key.pem": ROOT.key_pem}, "istio-ca-secret")

    def test_an_old_secret_is_not_what_signs(self) -> None:
        """Neither as an authority nor as a root."""
        off = istiod(ENABLE_CA_SERVER="false")
        objects = {"pods": [off], "configmaps": [injector(self.CSR)], "secrets": [self.LEFT]}
        (row,) = authorities(**objects)
        assert not row["used"]
        assert row["signed_by_others"] == f"istio-csr at {self.CSR} (ENABLE_CA_SERVER=false)"
        told = trust_store.roots(mesh(**objects))
        assert trust_store.RootSource.SELF_SIGNED not in {one.source for one in told}
        (why,) = [one.reason for one in told if one.source is trust_store.RootSource.NEITHER]
        assert self.CSR in why

    def test_it_is_reported_without_a_secret_too(self) -> None:
        """A row of its own."""
        (row,) = authorities(pods=[istiod(ENABLE_CA_SERVER="false")], configmaps=[injector(self.CSR)])
        assert (row["secret"], row["used"], row["reason"]) == ("", False, "")

    @pytest.mark.parametrize(
        ("env", "address", "told"),
        [
            ({}, "", ""),
            ({}, "istiod.istio-system.svc:15012", ""),
            ({}, "control-plane.corp.example:15012", ""),
            ({"ENABLE_CA_SERVER": "0"}, "", "no istiod, and no global.caAddress"),
            ({}, CSR, "istio-csr at"),
            ({}, "ca.corp.example:443", "another CA at ca.corp.example:443"),
            ({"EXTERNAL_CA": "ISTIOD_RA_KUBERNETES_API", "PILOT_CERT_PROVIDER": "k8s.io/clusterissuers.x/corp"}, "",
             "the Kubernetes signer clusterissuers.x/corp"),
            ({"EXTERNAL_CA": "ISTIOD_RA_KUBERNETES_API", "PILOT_CERT_PROVIDER": "istiod", "K8S_SIGNER": "x/corp"}, "",
             "the Kubernetes signer x/corp"),
            ({"EXTERNAL_CA": "ISTIOD_RA_KUBERNETES_API", "CERT_SIGNER_DOMAIN": "clusterissuers.x"}, "",
             "the Kubernetes signer clusterissuers.x"),
            ({"PILOT_CERT_PROVIDER": "k8s.io/x"}, "", ""),
        ],
    )  # fmt: skip
    def test_who_signs_is_seen_by_istiod_and_by_what_proxies_are_given(
        self, env: dict[str, str], address: str, told: str
    ) -> None:
        """ENABLE_CA_SERVER, global.caAddress and PILOT_CERT_PROVIDER."""
        held = Held(pods=[istiod(**env)], configmaps=[injector(address)])
        found = cacerts.signed_by_others(cast("Any", held), PLACE)
        assert found.startswith(told)
        assert bool(found) == bool(told)

    @pytest.mark.parametrize(("args", "takes"), [(["--cluster-id=west"], "west"), ([], "Kubernetes")])
    def test_the_id_that_istio_csr_takes_is_read(self, args: list[str], takes: str) -> None:
        """By default Kubernetes; without its Deployment nothing."""
        spec = {"template": {"spec": {"containers": [{"args": args}]}}}
        held = cast("Any", Held(deployments=[{"metadata": {"name": "cert-manager-istio-csr"}, "spec": spec}]))
        assert cacerts.csr_cluster_id(held, self.CSR) == takes
        assert cacerts.csr_cluster_id(cast("Any", Held()), self.CSR) == ""
