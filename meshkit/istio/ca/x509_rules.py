"""The rules by which istiod and proxies accept a certificate as a CA."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.x509 import Certificate, CertificateSigningRequest, ExtensionType

from meshkit.istio.ca.certificates import signed_by

PrivateKey = RSAPrivateKey | EllipticCurvePrivateKey


def extension(certificate: Certificate, kind: type[ExtensionType]) -> Any:
    """Return the value of a certificate's extension, or None."""
    from cryptography.x509 import ExtensionNotFound

    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except ExtensionNotFound:
        return None


def defects(certificate: Certificate, *, below: int) -> list[str]:
    """Return why a certificate cannot be a CA now; empty if it can.

    Args:
        certificate: the authority's.
        below: how many other authorities stand between it and the workloads.
    """
    from cryptography.x509 import BasicConstraints, ExtendedKeyUsage, KeyUsage
    from cryptography.x509.oid import ExtendedKeyUsageOID as Oid

    now, constraints = datetime.now(UTC), extension(certificate, BasicConstraints)
    usage, purposes = extension(certificate, KeyUsage), extension(certificate, ExtendedKeyUsage)
    wrong = []
    if constraints is None or not constraints.ca:
        wrong.append("is no CA's (basicConstraints CA:TRUE is missing)")
    elif below and constraints.path_length == 0:
        wrong.append("may sign workloads only (path length 0): a root that signs intermediates is needed")
    elif constraints.path_length is not None and constraints.path_length < below:
        wrong.append(f"allows {constraints.path_length} authorities below it (path length), and there are {below}")
    if usage is not None and not usage.key_cert_sign:
        wrong.append("may not sign certificates (keyUsage keyCertSign is missing)")
    # istiod and proxies require the workload's purposes of every certificate above it (Go's Verify, BoringSSL).
    if (
        purposes
        and Oid.ANY_EXTENDED_KEY_USAGE not in purposes
        and not {Oid.SERVER_AUTH, Oid.CLIENT_AUTH} <= {*purposes}
    ):
        wrong.append("may not stand above servers and clients of TLS (extendedKeyUsage names other purposes)")
    wrong += _constraints(certificate)
    if certificate.not_valid_after_utc <= now:
        wrong.append(f"expired at {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC")
    if certificate.not_valid_before_utc > now:
        wrong.append(f"is not valid before {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC")
    return wrong


def _constraints(certificate: Certificate) -> Iterator[str]:
    """Yield what of nameConstraints keeps proxies and API servers from istiod, whose names are NAME.NAMESPACE.svc.

    Source: pilot/pkg/bootstrap, GenKeyCert; Go's crypto/x509, checkNameConstraints and parseNameConstraintsExtension,
    which does not know all kinds of names, and refuses a certificate with another kind.
    """
    from cryptography.x509 import DNSName, IPAddress, NameConstraints, RFC822Name, UniformResourceIdentifier

    found = extension(certificate, NameConstraints)
    allowed, excluded = (
        (list(found.permitted_subtrees or []), list(found.excluded_subtrees or [])) if found else ([], [])
    )
    known = (DNSName, IPAddress, RFC822Name, UniformResourceIdentifier)
    if any(not isinstance(one, known) for one in (*allowed, *excluded)):
        yield "has nameConstraints that are no names of DNS, mail, IP or URI: Go refuses them"
    names = [one.value.strip(".") for one in allowed if isinstance(one, DNSName)]
    if names and not any(f".{name}".endswith(".svc") or not name for name in names):
        yield f"permits names of {', '.join(names)} only (nameConstraints), and istiod's is istiod.NAMESPACE.svc"
    if any(isinstance(one, DNSName) and one.value.strip(".") in ("", "svc") for one in excluded):
        yield "excludes the names of istiod, which end in .svc (nameConstraints)"


def key_matches(certificate: Certificate, key: PrivateKey) -> bool:
    """Return whether a private key is the certificate's."""
    return _public_der(certificate) == _public_der(key)


def _public_der(holder: Any) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    public: bytes = holder.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return public


def self_signed(certificate: Certificate) -> bool:
    """Return whether a certificate is a root.

    An old root's own signature by SHA-1 or MD5 cannot be verified any more, and need not: Go and BoringSSL trust a root
    without looking at it.
    """
    from cryptography.x509.oid import SignatureAlgorithmOID as Oid

    old = (Oid.RSA_WITH_SHA1, Oid.ECDSA_WITH_SHA1, Oid.RSA_WITH_MD5)
    named = certificate.subject == certificate.issuer and certificate.signature_algorithm_oid in old
    return named or signed_by(certificate, certificate)


def key_kind(holder: Certificate | CertificateSigningRequest) -> str:
    """Return the kind and bits of the public key of a certificate or a request, such as `RSA 2048`."""
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

    public = holder.public_key()
    if isinstance(public, RSAPublicKey | EllipticCurvePublicKey):
        return f"{'RSA' if isinstance(public, RSAPublicKey) else 'ECDSA'} {public.key_size}"
    return "neither RSA nor ECDSA"
