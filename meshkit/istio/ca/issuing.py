"""Issuing keys and certificates: a root, a request for the user's PKI, and a cluster's intermediate.

Names, constraints, SAN and lives are those of Istio's tools/certs. Nothing is written here: see
meshkit.istio.ca.ca_folder.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Literal

from cryptography.x509 import Certificate, CertificateBuilder, ExtensionType, Name

from meshkit.errors import InputError
from meshkit.istio.ca.model import FILES, Authority, CaCerts
from meshkit.istio.ca.x509_rules import PrivateKey

Kind = Literal["ec-p256", "rsa-4096"]
LIFE = timedelta(days=730)
RSA_BITS = 4096
LEAST_PASSPHRASE = 12
MOST_PASSPHRASE = 1023


def root(kind: Kind, name: str, organization: str, days: int) -> Authority:
    """Return a new self-signed root with a new key, for a life of so many days.

    Raises:
        InputError: the name or the organization is empty or longer than 64 characters, or the life is too long.
    """
    from cryptography import x509

    key = new_key(kind)
    subject = _name(organization, name)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(key.public_key())
    extensions = [(x509.BasicConstraints(ca=True, path_length=None), True), (_usage(), True), _key_id(key)]
    return Authority(_signed(builder, extensions, key, _begin(), timedelta(days=days)), key)


def request(kind: Kind, cluster: str, namespace: str) -> tuple[PrivateKey, bytes]:
    """Return a new key for a cluster's intermediate, and the request (PEM) that the user's own PKI signs.

    It asks for what `intermediate` would make; whether the PKI grants that is checked when the certificate comes back.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.serialization import Encoding

    key = new_key(kind)
    builder = x509.CertificateSigningRequestBuilder().subject_name(_name("Istio", "Intermediate CA", cluster))
    for extension, critical in _intermediate_extensions(key, namespace):
        builder = builder.add_extension(extension, critical=critical)
    return key, builder.sign(key, SHA256()).public_bytes(Encoding.PEM)


def intermediate(above: Authority, cluster: str, namespace: str) -> CaCerts:
    """Return a new intermediate of a cluster with a new key, of the root's kind and strength, and its `cacerts` files.

    It lives 730 days, but never longer than the root.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    key = new_key(above.key)
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name("Istio", "Intermediate CA", cluster))
        .issuer_name(above.certificate.subject)
        .public_key(key.public_key())
    )
    begin = max(_begin(), above.certificate.not_valid_before_utc)
    life = min(LIFE, above.certificate.not_valid_after_utc - begin)
    extensions = [*_intermediate_extensions(key, namespace), (_issuer_id(above.certificate), False)]
    certificate = _signed(builder, extensions, above.key, begin, life)
    own, root_pem = (c.public_bytes(Encoding.PEM) for c in (certificate, above.certificate))
    files = dict(zip(FILES, (own, key_pem(key), root_pem, own + root_pem), strict=True))
    return CaCerts(certificate, above.certificate, files)


def new_key(like: Kind | PrivateKey) -> PrivateKey:
    """Return a new key of a kind, or of the kind and strength of another."""
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    if isinstance(like, rsa.RSAPrivateKey):
        # Istio's tools/certs makes 4096 bits whatever the root has; a chain is no stronger than its root.
        return rsa.generate_private_key(65537, min(like.key_size, RSA_BITS))
    if like == "rsa-4096":
        return rsa.generate_private_key(65537, RSA_BITS)
    return ec.generate_private_key(like.curve if isinstance(like, ec.EllipticCurvePrivateKey) else ec.SECP256R1())


def key_pem(key: PrivateKey, passphrase: bytes = b"") -> bytes:
    """Return a key as PEM: encrypted PKCS#8 with a passphrase, else as istiod reads it.

    Raises:
        InputError: the passphrase is too short to be worth its name (12 characters), or too long for openssl (1023).
    """
    from cryptography.hazmat.primitives.serialization import (
        BestAvailableEncryption,
        Encoding,
        NoEncryption,
        PrivateFormat,
    )

    if not passphrase:
        return key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    if not LEAST_PASSPHRASE <= len(passphrase) <= MOST_PASSPHRASE:
        message = f"the passphrase has {len(passphrase)} characters; expected {LEAST_PASSPHRASE} to {MOST_PASSPHRASE}"
        raise InputError(message, remedy="anyone with the file can try passphrases offline: generate a long random one")
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(passphrase))


def _begin() -> datetime:
    # Clocks differ a little: a certificate that is valid from now on is not yet valid where a clock is behind.
    return datetime.now(UTC) - timedelta(minutes=5)


def _name(organization: str, common: str, locality: str = "") -> Name:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    parts = [(NameOID.ORGANIZATION_NAME, organization), (NameOID.COMMON_NAME, common)]
    parts += [(NameOID.LOCALITY_NAME, locality)] if locality else []
    try:
        return x509.Name([x509.NameAttribute(oid, text) for oid, text in parts])
    except ValueError:
        message = f"expected names of 1 to 64 characters, got {organization!r} and {common!r}"
        raise InputError(message, remedy="shorten --organization or --name") from None


def _signed(
    builder: CertificateBuilder,
    extensions: list[tuple[ExtensionType, bool]],
    key: PrivateKey,
    begin: datetime,
    life: timedelta,
) -> Certificate:
    from cryptography import x509
    from cryptography.hazmat.primitives.hashes import SHA256

    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical=critical)
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(begin).not_valid_after(begin + life)
    return builder.sign(key, SHA256())


def _intermediate_extensions(key: PrivateKey, namespace: str) -> list[tuple[ExtensionType, bool]]:
    from cryptography import x509

    return [
        (x509.BasicConstraints(ca=True, path_length=0), True),
        (_usage(), True),
        (x509.SubjectAlternativeName([x509.DNSName(istiod_name(namespace))]), False),
        _key_id(key),
    ]


def istiod_name(namespace: str) -> str:
    """Return the DNS name that an intermediate has as its SAN."""
    return f"istiod.{namespace}.svc"


def _usage() -> ExtensionType:
    from cryptography.x509 import KeyUsage

    rest = ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only")
    no = dict.fromkeys((*rest, "decipher_only"), False)
    return KeyUsage(digital_signature=True, key_cert_sign=True, crl_sign=True, **no)


def _key_id(key: PrivateKey) -> tuple[ExtensionType, bool]:
    from cryptography.x509 import SubjectKeyIdentifier

    return SubjectKeyIdentifier.from_public_key(key.public_key()), False


def _issuer_id(root: Certificate) -> ExtensionType:
    from cryptography.x509 import AuthorityKeyIdentifier, ExtensionNotFound, SubjectKeyIdentifier

    try:
        own = root.extensions.get_extension_for_class(SubjectKeyIdentifier).value
    except ExtensionNotFound:
        return AuthorityKeyIdentifier.from_issuer_public_key(root.public_key())  # type: ignore[arg-type]
    return AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own)
