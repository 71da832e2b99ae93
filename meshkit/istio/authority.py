"""Making certificates: a cluster's intermediate under a given root, as Istio's own tools/certs makes it.

Keys live in memory only, from where they were read to the Secret that carries them. No key and no passphrase is in any
message, repr or traceback of ours.
"""

from __future__ import annotations

import base64
import os
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meshkit.errors import InputError
from meshkit.istio.trust import chain_end, fingerprint, parse_chain

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
    from cryptography.x509 import Certificate, ExtensionType

    PrivateKey = RSAPrivateKey | EllipticCurvePrivateKey

SECRET = "cacerts"  # noqa: S105 - the Secret's name
FILES = ("ca-cert.pem", "ca-key.pem", "root-cert.pem", "cert-chain.pem")
LIFE = timedelta(days=730)
RSA_BITS = 2048
MAKE = "`make -f Makefile.selfsigned.mk root-ca <cluster>-cacerts` of Istio's tools/certs makes them"


@dataclass(frozen=True)
class Authority:
    """A certificate authority: its certificate, and the key that signs with it."""

    certificate: Certificate
    key: PrivateKey = field(repr=False)


@dataclass(frozen=True)
class Plugged:
    """What a cluster's Secret `cacerts` holds: the intermediate, its root, and the four files."""

    certificate: Certificate
    root: Certificate
    files: dict[str, bytes] = field(repr=False)

    def secret(self, namespace: str) -> dict[str, Any]:
        """Return the Secret as a manifest."""
        data = {name: base64.b64encode(pem).decode() for name, pem in self.files.items()}
        metadata = {"name": SECRET, "namespace": namespace}
        return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": "Opaque", "data": data}


@dataclass(frozen=True)
class Offered:
    """The user's own CA, as files: the root, its key if it is there, and the clusters' intermediates if they are."""

    root: Certificate
    signer: Authority | None = field(repr=False)
    plugged: dict[str, Plugged]

    def of(self, cluster: str, namespace: str) -> Plugged:
        """Return what to plug into a cluster: the intermediate that was offered for it, or else a new one."""
        if cluster in self.plugged:
            return self.plugged[cluster]
        if self.signer is None:
            raise InputError(f"no intermediate for cluster {cluster}, and no root key to sign one", remedy=MAKE)
        return intermediate(self.signer, cluster, namespace)


# --- reading ----------------------------------------------------------------------------------------------------------


def load(certificate: bytes, key: bytes, *, passphrase: bytes = b"", where: str, signs_authorities: bool) -> Authority:
    """Return an authority of PEM texts.

    Args:
        certificate: the first certificate counts.
        key: PKCS#1, PKCS#8 or SEC1, RSA or ECDSA, encrypted or not.
        passphrase: of the key; empty if it has none.
        where: names the pair in errors.
        signs_authorities: whether it must be able to sign intermediates (a root), or workloads only.

    Raises:
        InputError: it is none, is expired, may not sign what it must, or the two do not belong together.
    """
    chain = _certificates(certificate, where)
    private = load_key(key, passphrase, where)
    if wrong := defects(chain[0], signs_authorities=signs_authorities):
        raise InputError(f"the certificate {'; '.join(wrong)}", where=where, remedy=MAKE)
    if not belong_together(chain[0], private):
        raise InputError("the key is not the certificate's", where=where, remedy="name the files that belong together")
    return Authority(chain[0], private)


def _certificates(pem: bytes, where: str) -> list[Certificate]:
    try:
        chain = parse_chain(pem)
    except ValueError:
        chain = []
    if not chain:
        raise InputError("no certificate in PEM", where=where, remedy=MAKE) from None
    return chain


def load_key(pem: bytes, passphrase: bytes, where: str) -> PrivateKey:
    """Return a private key of PEM text.

    Raises:
        InputError: it is no such key, or the passphrase is missing or wrong. Nothing of either is quoted.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    encrypted = b"ENCRYPTED" in pem
    name_it = "name its passphrase: trust.passphraseFrom: {env: NAME} or {file: PATH}"
    if encrypted and not passphrase:
        raise InputError("the key is encrypted, and no passphrase is named", where=where, remedy=name_it)
    try:
        key = load_pem_private_key(pem, passphrase if encrypted else None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        told = "the passphrase does not open the key" if encrypted else "no private key in PEM"
        raise InputError(told, where=where, remedy=name_it if encrypted else MAKE) from None
    if not isinstance(key, RSAPrivateKey | EllipticCurvePrivateKey):
        raise InputError("the key is neither RSA nor ECDSA; Istio takes no other", where=where, remedy=MAKE)
    return key


def defects(certificate: Certificate, *, signs_authorities: bool) -> list[str]:
    """Return what keeps a certificate from being an authority now; empty if nothing does."""
    from cryptography.x509 import BasicConstraints, ExtensionNotFound, KeyUsage

    def extension(kind: type[ExtensionType]) -> Any:
        try:
            return certificate.extensions.get_extension_for_class(kind).value
        except ExtensionNotFound:
            return None

    now, constraints, usage = datetime.now(UTC), extension(BasicConstraints), extension(KeyUsage)
    wrong = []
    if constraints is None or not constraints.ca:
        wrong.append("is no CA's (basicConstraints CA:TRUE is missing)")
    elif signs_authorities and constraints.path_length == 0:
        wrong.append("may sign workloads only (path length 0): a root that signs intermediates is needed")
    if usage is not None and not usage.key_cert_sign:
        wrong.append("may not sign certificates (keyUsage keyCertSign is missing)")
    if certificate.not_valid_after_utc <= now:
        wrong.append(f"expired at {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC")
    if certificate.not_valid_before_utc > now:
        wrong.append(f"is not valid before {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC")
    return wrong


def belong_together(certificate: Certificate, key: PrivateKey) -> bool:
    """Return whether a private key is the certificate's."""
    return _public_der(certificate) == _public_der(key)


def _public_der(holder: Any) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    public: bytes = holder.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return public


def load_plugged(files: Mapping[str, bytes], *, passphrase: bytes = b"", where: str) -> Plugged:
    """Return the four files of a cluster, or of a Secret `cacerts`, as far as istiod would take them.

    Raises:
        InputError: one is missing, the intermediate is none or expired, or its chain does not end at the root.
    """
    missing = [name for name in FILES if not files.get(name)]
    if missing:
        raise InputError(f"{', '.join(missing)} missing", where=where, remedy=MAKE)
    signer = load(
        files["ca-cert.pem"], files["ca-key.pem"], passphrase=passphrase, where=where, signs_authorities=False
    )
    roots = _certificates(files["root-cert.pem"], f"{where}, root-cert.pem")
    chain = _certificates(files["cert-chain.pem"], f"{where}, cert-chain.pem")
    root = chain_end([signer.certificate, *chain], roots)
    if root is None:
        told = "the chain from ca-cert.pem by cert-chain.pem does not end at root-cert.pem"
        raise InputError(told, where=where, remedy=MAKE)
    if wrong := defects(root, signs_authorities=root != signer.certificate):
        raise InputError(f"the root {'; '.join(wrong)}", where=where, remedy=MAKE)
    # istiod cannot open an encrypted key.
    return Plugged(signer.certificate, root, {**{n: files[n] for n in FILES}, "ca-key.pem": _key_pem(signer.key)})


def read_directory(folder: str, clusters: Iterable[str], passphrase_from: Mapping[Any, str]) -> Offered:
    """Return the user's own CA from a folder as `make -f Makefile.selfsigned.mk` of Istio's tools/certs leaves it.

    Args:
        folder: holds root-cert.pem and root-key.pem, or for each cluster a folder of its name with the four files of
            `cacerts`, or both; where a cluster has its folder, that is taken.
        clusters: the clusters of the mesh.
        passphrase_from: `{env: NAME}` or `{file: PATH}` of the keys' passphrase; empty if they have none.

    Raises:
        InputError: a file is missing or wrong, or not all are of one root.
    """
    place = Path(folder)
    if not place.is_dir():
        raise InputError("no such folder", where=folder, remedy="name it in trust.rootDirectory")
    passphrase = read_passphrase(passphrase_from)
    plugged = {
        name: load_plugged(_read(place / name, FILES), passphrase=passphrase, where=str(place / name))
        for name in clusters
        if (place / name).is_dir()
    }
    signer = None
    if (place / "root-key.pem").exists():
        files = _read(place, ("root-cert.pem", "root-key.pem"))
        pair = files.get("root-cert.pem", b""), files["root-key.pem"]
        signer = load(*pair, passphrase=passphrase, where=str(place / "root-key.pem"), signs_authorities=True)
    lacking = [] if signer else [name for name in clusters if name not in plugged]
    if lacking:
        told = f"neither root-key.pem nor a folder for {', '.join(lacking)} with {', '.join(FILES)}"
        raise InputError(told, where=folder, remedy=MAKE)
    roots = {fingerprint(one.root): one.root for one in plugged.values()}
    roots |= {fingerprint(signer.certificate): signer.certificate} if signer else {}
    if len(roots) != 1:
        told = f"{len(roots)} different roots: {', '.join(sorted(digest[:16] for digest in roots))}"
        raise InputError(told, where=folder, remedy="all intermediates must be of the one root-cert.pem")
    return Offered(next(iter(roots.values())), signer, plugged)


def _read(folder: Path, names: Iterable[str]) -> dict[str, bytes]:
    try:
        return {name: (folder / name).read_bytes() for name in names if (folder / name).exists()}
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", where=str(folder)) from None


def read_passphrase(source: Mapping[Any, str]) -> bytes:
    """Return the passphrase that `{env: NAME}` or `{file: PATH}` names; of neither, nothing. A last line end is cut.

    Raises:
        InputError: there is no such variable or file.
    """
    if name := source.get("env", ""):
        if name not in os.environ:
            raise InputError(f"{name} is not set", where="trust.passphraseFrom.env", remedy=f"export {name}=…")
        return os.environ[name].encode()
    if not source.get("file"):
        return b""
    path = Path(source["file"]).expanduser()
    try:
        return path.read_bytes().rstrip(b"\r\n")
    except OSError as error:
        told = f"cannot be read ({error.strerror})"
        raise InputError(told, where=f"trust.passphraseFrom.file {path}") from None


# --- making -----------------------------------------------------------------------------------------------------------


def intermediate(root: Authority, cluster: str, namespace: str) -> Plugged:
    """Return a new intermediate of a cluster with a new key, of the root's kind, and the files for `cacerts`.

    It lives 730 days, but never longer than the root. Name, constraints and SAN are those of Istio's tools/certs.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.serialization import Encoding
    from cryptography.x509.oid import NameOID

    key = _new_key(root.key)
    name = [(NameOID.ORGANIZATION_NAME, "Istio"), (NameOID.COMMON_NAME, "Intermediate CA")]
    subject = x509.Name([x509.NameAttribute(oid, text) for oid, text in (*name, (NameOID.LOCALITY_NAME, cluster))])
    # Clocks differ a little: what is valid from now on is not yet valid where a clock is behind.
    begin = datetime.now(UTC) - timedelta(minutes=5)
    extensions: list[tuple[ExtensionType, bool]] = [
        (x509.BasicConstraints(ca=True, path_length=0), True),
        (_usage(), True),
        (x509.SubjectAlternativeName([x509.DNSName(f"istiod.{namespace}.svc")]), False),
        (x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False),
        (_issuer_id(root.certificate), False),
    ]
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(root.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(max(begin, root.certificate.not_valid_before_utc))
        .not_valid_after(min(begin + LIFE, root.certificate.not_valid_after_utc))
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical=critical)
    certificate = builder.sign(root.key, SHA256())
    own, above = (c.public_bytes(Encoding.PEM) for c in (certificate, root.certificate))
    files = dict(zip(FILES, (own, _key_pem(key), above, own + above), strict=True))
    return Plugged(certificate, root.certificate, files)


def _new_key(like: PrivateKey) -> PrivateKey:
    # istiod makes its workloads' keys of the kind of its CA's.
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    if isinstance(like, rsa.RSAPrivateKey):
        return rsa.generate_private_key(65537, RSA_BITS)
    return ec.generate_private_key(ec.SECP256R1())


def _key_pem(key: PrivateKey) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())


def _usage() -> ExtensionType:
    from cryptography.x509 import KeyUsage

    rest = ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only")
    no = dict.fromkeys((*rest, "decipher_only"), False)
    return KeyUsage(digital_signature=True, key_cert_sign=True, crl_sign=True, **no)


def _issuer_id(root: Certificate) -> ExtensionType:
    from cryptography.x509 import AuthorityKeyIdentifier, ExtensionNotFound, SubjectKeyIdentifier

    try:
        own = root.extensions.get_extension_for_class(SubjectKeyIdentifier).value
    except ExtensionNotFound:
        return AuthorityKeyIdentifier.from_issuer_public_key(root.public_key())  # type: ignore[arg-type]
    return AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own)
