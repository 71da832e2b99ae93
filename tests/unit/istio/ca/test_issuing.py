"""Certificates that meshkit makes are those that Istio's own tools make; what is no CA is refused, no key is disclosed.

openssl is the oracle.
"""

from __future__ import annotations

import subprocess
import traceback
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from meshkit.errors import InputError
from meshkit.istio.ca import ca_files, issuing, istiod_ca, model
from meshkit.istio.ca.certificates import fingerprint, parse_chain

SAN = "DNS:istiod.istio-system.svc"
NOW = datetime.now(UTC)
DAY = timedelta(days=1)
PASSPHRASE = b"canary-passphrase"


@dataclass(frozen=True)
class Made:
    """A root of a test: its certificate and key in PEM."""

    certificate: bytes
    key: bytes


def private_key(kind: str = "ec") -> Any:
    """Return a new key."""
    if kind == "rsa":
        return rsa.generate_private_key(65537, 2048)
    return ed25519.Ed25519PrivateKey.generate() if kind == "ed25519" else ec.generate_private_key(ec.SECP256R1())


def root(
    kind: str = "ec",
    *,
    ca: bool = True,
    path_length: int | None = None,
    life: tuple[timedelta, timedelta] = (-DAY, 3650 * DAY),
    passphrase: bytes = b"",
    signs: bool = True,
) -> Made:
    """Return a self-signed root with the extensions of tools/certs, spoiled as asked."""
    key, name = private_key(kind), x509.Name([x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "Test")])
    begin, end = (NOW + offset for offset in life)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), begin, end)
    builder = builder.add_extension(x509.BasicConstraints(ca, path_length if ca else None), critical=True)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    rest = dict.fromkeys(
        ("content_commitment", "data_encipherment", "key_agreement", "encipher_only", "decipher_only"), False
    )
    usage = x509.KeyUsage(digital_signature=True, key_encipherment=True, key_cert_sign=signs, crl_sign=False, **rest)
    signed = builder.add_extension(usage, critical=True).sign(key, None if kind == "ed25519" else hashes.SHA256())
    lock = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, lock)
    return Made(signed.public_bytes(serialization.Encoding.PEM), pem)


def load(made: Made, passphrase: bytes = b"") -> model.Authority:
    """Return a root as one that signs intermediates."""
    return ca_files.load(made.certificate, made.key, passphrase=passphrase, where="the test", signs_authorities=True)


def load_key(files: dict[str, bytes]) -> Any:
    """Return the key of a cluster's files."""
    return ca_files.load_key(files["ca-key.pem"], b"", "the test")


def write(folder: Path, files: dict[str, bytes]) -> Path:
    """Write files into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, pem in files.items():
        (folder / name).write_bytes(pem)
    return folder


def openssl(*argv: str) -> str:
    """Run openssl; it must succeed."""
    return subprocess.run(["openssl", *argv], check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize("kind", ["rsa", "ec"])
def test_openssl_accepts_an_intermediate_and_reads_what_istio_expects(kind: str, tmp_path: Path) -> None:
    """Chain, names, constraints, usage and days are those of tools/certs; its key is of the root's kind."""
    plugged = issuing.intermediate(load(root(kind)), "west", "istio-system")
    write(tmp_path, plugged.files)
    certificate, above = str(tmp_path / "ca-cert.pem"), str(tmp_path / "root-cert.pem")
    assert openssl("verify", "-x509_strict", "-CAfile", above, certificate).endswith(": OK\n")
    text = openssl("x509", "-noout", "-text", "-in", certificate)
    assert "Subject: O = Istio, CN = Intermediate CA, L = west" in text
    for words in ("CA:TRUE, pathlen:0", SAN, "Digital Signature, Certificate Sign, CRL Sign"):
        assert words in text
    assert ("rsaEncryption" if kind == "rsa" else "prime256v1") in text
    assert openssl("pkey", "-pubout", "-in", str(tmp_path / "ca-key.pem")) in openssl(
        "x509", "-noout", "-pubkey", "-in", certificate
    )
    assert timedelta(days=729) < plugged.certificate.not_valid_after_utc - NOW < timedelta(days=731)
    assert (tmp_path / "cert-chain.pem").read_bytes() == plugged.files["ca-cert.pem"] + plugged.files["root-cert.pem"]


def test_an_intermediate_never_outlives_its_root() -> None:
    """And no two are alike."""
    made = load(root(life=(-DAY, 30 * DAY)))
    one, two = (issuing.intermediate(made, "west", "istio-system").certificate for _ in range(2))
    assert one.not_valid_after_utc == made.certificate.not_valid_after_utc
    assert one.serial_number != two.serial_number
    assert one.public_key() != two.public_key()


def test_what_was_made_is_what_istiod_would_take() -> None:
    """The Secret is read back as a sound CA under the root."""
    made = load(root("rsa"))
    plugged = issuing.intermediate(made, "west", "istio-system")
    row = istiod_ca.parse_authority("cacerts", plugged.files)
    assert (row["problem"], row["root"], row["root_key"]) == ("", fingerprint(made.certificate), "RSA 2048")
    assert row["sha256"] == fingerprint(plugged.certificate)


REFUSED = [
    ({"ca": False}, "no CA's"),
    ({"path_length": 0}, "path length 0"),
    ({"life": (-2 * DAY, -DAY)}, "expired at"),
    ({"life": (DAY, 2 * DAY)}, "is not valid before"),
    ({"signs": False}, "keyCertSign"),
    ({"kind": "ed25519"}, "neither RSA nor ECDSA"),
]


@pytest.mark.parametrize(("spoiled", "told"), REFUSED, ids=[told for _, told in REFUSED])
def test_a_root_that_cannot_sign_intermediates_is_refused(spoiled: dict[str, Any], told: str) -> None:
    """With the reason, and what makes a good one."""
    made = root(**spoiled)
    with pytest.raises(InputError, match=told) as caught:
        load(made)
    assert caught.value.remedy
    assert_keeps_quiet(caught.value, made.key)


def assert_keeps_quiet(error: BaseException, *secrets: bytes) -> None:
    """No line of a key, and no passphrase, in what anybody may print of an exception."""
    text = "".join(traceback.TracebackException.from_exception(error, capture_locals=False).format()) + repr(error)
    for secret in secrets:
        lines = [line for line in secret.decode(errors="replace").splitlines() if line and not line.startswith("-----")]
        assert lines
        assert not [line for line in lines if line in text]


class TestKeys:
    """Wrong keys and passphrases."""

    def test_a_key_of_another_certificate(self) -> None:
        """They do not belong together."""
        one, two = root(), root()
        with pytest.raises(InputError, match="not the certificate's") as caught:
            load(Made(one.certificate, two.key))
        assert_keeps_quiet(caught.value, two.key)

    @pytest.mark.parametrize(("given", "told"), [(b"", "no passphrase is named"), (b"canary-wrong", "not decrypt")])
    def test_an_encrypted_key_needs_its_passphrase(self, given: bytes, told: str) -> None:
        """Neither it nor the key is quoted."""
        made = root(passphrase=PASSPHRASE)
        with pytest.raises(InputError, match=told) as caught:
            load(made, given)
        assert "passphraseFrom" in caught.value.remedy
        assert_keeps_quiet(caught.value, made.key, PASSPHRASE, given or PASSPHRASE)

    def test_an_encrypted_key_opens(self) -> None:
        """And istiod gets it open: it cannot ask for a passphrase."""
        made = root(passphrase=PASSPHRASE)
        files = issuing.intermediate(load(made, PASSPHRASE), "west", "istio-system").files
        assert b"ENCRYPTED" not in files["ca-key.pem"]

    @pytest.mark.parametrize("key", [b"", b"canary-no-key-at-all", b"-----BEGIN PRIVATE KEY-----\ncanary\n"])
    def test_what_is_no_key(self, key: bytes) -> None:
        """It is not quoted."""
        with pytest.raises(InputError, match="no private key") as caught:
            load(Made(root().certificate, key))
        assert "canary" not in "".join(traceback.format_exception(caught.value))

    def test_keys_are_in_no_repr(self) -> None:
        """Of what holds them."""
        made = load(root())
        plugged = issuing.intermediate(made, "west", "istio-system")
        offered = ca_files.ProvidedCA(made.certificate, made, {"west": plugged})
        assert "PRIVATE" not in repr((made, plugged, offered))
        assert "key" not in repr(made)


class TestDirectory:
    """The user's own CA, as Istio's tools/certs lays it out."""

    @pytest.fixture
    def made(self) -> Made:
        """A root."""
        return root()

    def files(self, made: Made, cluster: str) -> dict[str, bytes]:
        """Return a cluster's four files."""
        return issuing.intermediate(load(made), cluster, "istio-system").files

    def read(self, folder: Path, passphrase_from: dict[str, str] | None = None) -> ca_files.ProvidedCA:
        """Read a folder for east and west."""
        return ca_files.read_directory(str(folder), ["east", "west"], passphrase_from or {})

    def test_a_root_with_its_key_signs_for_all(self, made: Made, tmp_path: Path) -> None:
        """One intermediate for each."""
        write(tmp_path, {"root-cert.pem": made.certificate, "root-key.pem": made.key})
        offered = self.read(tmp_path)
        assert "L=west" in offered.of("west", "istio-system").certificate.subject.rfc4514_string()

    def test_clusters_folders_are_taken_as_they_are(self, made: Made, tmp_path: Path) -> None:
        """Without the root's key."""
        written = {name: self.files(made, name) for name in ("east", "west")}
        for name, files in written.items():
            write(tmp_path / name, files)
        offered = self.read(tmp_path)
        assert offered.signer is None
        assert {name: offered.of(name, "istio-system").files for name in written} == written

    @pytest.mark.parametrize("named", ["env", "file"])
    def test_an_encrypted_root_key(self, named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Its passphrase comes from the environment or from a file, whose line end is none of it."""
        made = root(passphrase=PASSPHRASE)
        write(tmp_path, {"root-cert.pem": made.certificate, "root-key.pem": made.key, "p": PASSPHRASE + b"\n"})
        monkeypatch.setenv("CANARY", PASSPHRASE.decode())
        source = {"env": "CANARY"} if named == "env" else {"file": str(tmp_path / "p")}
        assert self.read(tmp_path, source).of("west", "istio-system")
        monkeypatch.setenv("CANARY", "canary-wrong")
        (tmp_path / "p").write_text("canary-wrong")
        with pytest.raises(InputError, match="does not decrypt"):
            self.read(tmp_path, source)

    @pytest.mark.parametrize("source", [{"env": "NO_SUCH_VARIABLE"}, {"env": "EMPTY"}, {"file": "/no/such/file"}])
    def test_a_passphrase_that_is_not_there(
        self, source: dict[str, str], made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The variable or file is named."""
        monkeypatch.setenv("EMPTY", "")
        write(tmp_path, {"root-cert.pem": made.certificate, "root-key.pem": made.key})
        with pytest.raises(InputError, match="passphraseFrom"):
            self.read(tmp_path, source)

    def test_a_folder_that_is_not_there(self, tmp_path: Path) -> None:
        """The field is named."""
        with pytest.raises(InputError, match="no such folder") as caught:
            self.read(tmp_path / "nowhere")
        assert "trust.rootDirectory" in caught.value.remedy

    def test_a_root_without_its_key_needs_all_intermediates(self, made: Made, tmp_path: Path) -> None:
        """The cluster that lacks its own is named."""
        write(tmp_path, {"root-cert.pem": made.certificate})
        write(tmp_path / "east", self.files(made, "east"))
        with pytest.raises(InputError, match=r"neither root-key\.pem nor a folder for west"):
            self.read(tmp_path)

    @pytest.mark.parametrize("missing", model.FILES)
    def test_a_missing_file_is_named(self, missing: str, made: Made, tmp_path: Path) -> None:
        """Of a cluster's four."""
        write(tmp_path / "west", self.files(made, "west"))
        write(tmp_path / "east", self.files(made, "east"))
        (tmp_path / "west" / missing).unlink()
        with pytest.raises(InputError, match=missing):
            self.read(tmp_path)

    def test_a_root_key_without_its_certificate(self, made: Made, tmp_path: Path) -> None:
        """No certificate, no root."""
        write(tmp_path, {"root-key.pem": made.key})
        with pytest.raises(InputError, match="no certificate"):
            self.read(tmp_path)

    def test_two_roots_in_one_folder(self, made: Made, tmp_path: Path) -> None:
        """Not one mesh."""
        write(tmp_path / "east", self.files(made, "east"))
        write(tmp_path / "west", self.files(root(), "west"))
        with pytest.raises(InputError, match="2 different roots"):
            self.read(tmp_path)

    def test_files_of_cert_manager(self, made: Made, tmp_path: Path) -> None:
        """Its Secret's names, for the root or for clusters, become what istiod takes."""
        plugged = issuing.intermediate(load(made), "east", "istio-system").files
        chain = plugged["ca-cert.pem"] + made.certificate
        write(tmp_path / "east", {"tls.crt": chain, "tls.key": plugged["ca-key.pem"], "ca.crt": made.certificate})
        write(tmp_path, {"tls.crt": made.certificate, "tls.key": made.key, "ca.crt": made.certificate})
        offered = self.read(tmp_path)
        assert offered.of("east", "istio-system").files == plugged
        assert offered.of("west", "istio-system").root == offered.root

    def test_a_ca_crt_that_is_no_root(self, made: Made, tmp_path: Path) -> None:
        """cert-manager puts the topmost that it knows there; the root beside it completes the chain."""
        upper = issuing.intermediate(load(made), "upper", "istio-system").files
        signer = model.Authority(parse_chain(upper["ca-cert.pem"])[0], load_key(upper))
        below = issuing.intermediate(signer, "east", "istio-system").files
        files = {"tls.crt": below["ca-cert.pem"], "tls.key": below["ca-key.pem"], "ca.crt": upper["ca-cert.pem"]}
        write(tmp_path / "east", files)
        with pytest.raises(InputError, match=r"the issuer of L=upper.* is missing: O=Test"):
            self.read(tmp_path)
        write(tmp_path, {"root-cert.pem": made.certificate})
        with pytest.raises(InputError, match=r"L=upper.* may sign workloads only \(path length 0\)"):
            self.read(tmp_path)

    def test_a_root_that_is_signed_by_another(self, made: Made, tmp_path: Path) -> None:
        """Proxies would have to trust what is no root."""
        upper = issuing.intermediate(load(made), "upper", "istio-system").files
        write(tmp_path, {"root-cert.pem": upper["ca-cert.pem"], "root-key.pem": upper["ca-key.pem"]})
        with pytest.raises(InputError, match="path length 0"):
            self.read(tmp_path)
        for name in ("east", "west"):
            write(tmp_path / name, {**upper, "root-cert.pem": upper["ca-cert.pem"]})
        (tmp_path / "root-key.pem").unlink()
        with pytest.raises(InputError, match=r"does not end|is no root"):
            self.read(tmp_path)

    @pytest.mark.parametrize("answer", [b"", b"[]", b"canary", b'{"data": null}', b'{"data": {"certificate": 1}}'])
    def test_what_is_no_answer_of_vault(self, answer: bytes, made: Made, tmp_path: Path) -> None:
        """It is not quoted."""
        write(tmp_path, {"root-cert.pem": made.certificate, "root-key.pem": made.key})
        write(tmp_path / "east", {ca_files.VAULT: answer})
        with pytest.raises(InputError, match="no answer of Vault's PKI engine") as caught:
            self.read(tmp_path)
        assert "canary" not in "".join(traceback.format_exception(caught.value))

    def test_a_chain_that_ends_elsewhere(self, made: Made, tmp_path: Path) -> None:
        """The same name is not enough."""
        write(tmp_path / "east", self.files(made, "east"))
        write(tmp_path / "west", {**self.files(made, "west"), "root-cert.pem": root().certificate})
        with pytest.raises(InputError, match="does not end at"):
            self.read(tmp_path)

    def test_a_workloads_certificate_is_no_intermediate(self, made: Made, tmp_path: Path) -> None:
        """Whatever the file is called."""
        leaf = root(ca=False)
        write(tmp_path / "east", self.files(made, "east"))
        write(tmp_path / "west", {**self.files(made, "west"), "ca-cert.pem": leaf.certificate, "ca-key.pem": leaf.key})
        with pytest.raises(InputError, match="no CA's"):
            self.read(tmp_path)


def test_a_spoiled_secret_is_a_problem_and_no_crash() -> None:
    """What istiod would reject is reported; a key never is."""
    files = issuing.intermediate(load(root()), "west", "istio-system").files
    other = root()
    assert "no certificate" in istiod_ca.parse_authority("cacerts", {**files, "ca-cert.pem": b"canary"})["problem"]
    assert (
        "not the certificate's" in istiod_ca.parse_authority("cacerts", {**files, "ca-key.pem": other.key})["problem"]
    )
    assert (
        "does not end" in istiod_ca.parse_authority("cacerts", {**files, "root-cert.pem": other.certificate})["problem"]
    )
    del files["ca-key.pem"]
    assert istiod_ca.parse_authority("cacerts", files)["problem"] == "ca-key.pem missing"
