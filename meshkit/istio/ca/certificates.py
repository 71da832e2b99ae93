"""Certificates in PEM: read one by one, named by fingerprint, and followed up their chain by signature."""

from __future__ import annotations

import re
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime

from cryptography.x509 import Certificate, Name

from meshkit.errors import MeshkitError
from meshkit.kube.pem import BEGIN, blocks

_OF_GO = re.compile(
    rb"^-----BEGIN ([A-Z0-9 ]+)-----[ \t]*\r?$(?:(?!-----BEGIN ).)*?^-----END \1-----[ \t]*\r?$",
    re.DOTALL | re.MULTILINE,
)
SHORT = 16
SIGNATURES = 100
"""Signatures that are verified for one certificate at most, as Go does (crypto/x509)."""


class CertificateError(MeshkitError, ValueError):
    """A text that should be a certificate is not one."""


def fingerprint(certificate: Certificate, length: int = 64) -> str:
    """Return the SHA-256 of a certificate's DER form, lower case, cut to a length."""
    from cryptography.hazmat.primitives.hashes import SHA256

    return certificate.fingerprint(SHA256()).hex()[:length]


def kinds(pem: bytes) -> list[str]:
    """Return what each block of PEM text is that istiod sees, such as `CERTIFICATE` or `EC PARAMETERS`.

    A block begins and ends on lines of its own (Go's encoding/pem): one after a byte order mark or spaces, or right
    behind another, is none.
    """
    return [found[1].decode() for found in _OF_GO.finditer(pem)]


def parse_chain(pem: bytes) -> list[Certificate]:
    """Return the certificates in PEM text, in their order; anything else in it is passed over.

    Raises:
        CertificateError: one of them cannot be read, or has no end; the message says which.
    """
    from cryptography.x509 import load_pem_x509_certificates

    # One by one: parsing all at once skips an unfinished one at the end, and does not say which one is broken.
    found, known = blocks(pem), []
    begun = pem.count(BEGIN)
    for number, block in enumerate(found, 1):
        try:
            known += load_pem_x509_certificates(block)
        except ValueError:
            message = f"certificate {number} of {begun} in PEM cannot be read: was it copied completely?"
            raise CertificateError(message) from None
    if begun > len(found):
        raise CertificateError(
            f"{begun - len(found)} of {begun} certificates in PEM have no end: was it copied completely?"
        )
    return known


def signer(files: Mapping[str, bytes]) -> Certificate:
    """Return the certificate of the CA in the files of a `cacerts`: the first in `ca-cert.pem`.

    Raises:
        CertificateError: there is none, or it cannot be read.
    """
    chain = parse_chain(files.get("ca-cert.pem", b""))
    if not chain:
        remedy = "`kubectl get secret cacerts -o yaml` in the root namespace: who emptied it?"
        raise CertificateError("no certificate in ca-cert.pem", where="Secret of istiod's CA", remedy=remedy)
    return chain[0]


def parse_bundle(pem: bytes) -> list[Certificate]:
    """Return the certificates in PEM text, in their order, each once: a bundle is a set."""
    return list({fingerprint(certificate): certificate for certificate in parse_chain(pem)}.values())


def spiffe(leaf: Certificate) -> str:
    """Return the SPIFFE identity that a certificate is for, or nothing."""
    from cryptography.x509 import SubjectAlternativeName, UniformResourceIdentifier
    from cryptography.x509.extensions import ExtensionNotFound

    try:
        names = leaf.extensions.get_extension_for_class(SubjectAlternativeName).value
    except ExtensionNotFound:
        return ""
    return ",".join(names.get_values_for_type(UniformResourceIdentifier))


def chain_end(chain: Sequence[Certificate], roots: Iterable[Certificate]) -> Certificate | None:
    """Return the root that a chain leads to, each step verified by signature, or None.

    The first of the chain is verified; the others help, in any order. Of several paths one is taken whose certificates
    are all valid now, if there is one.
    """
    found = list(paths(chain[0], chain[1:], roots)) if chain else []
    now = datetime.now(UTC)
    good = [path for path in found if all(one.not_valid_before_utc <= now < one.not_valid_after_utc for one in path)]
    return next((path[-1] for path in [*good, *found]), None)


def anchors(bundle: Iterable[Certificate]) -> list[Certificate]:
    """Return the certificates of a bundle that no other of it signed: whoever trusts these trusts the others, too.

    A root bundle often holds its intermediates as well. They are no roots, though Go and Envoy would stop at them.
    """
    known = list(dict.fromkeys(bundle))
    by_name: dict[Name, list[Certificate]] = defaultdict(list)
    for one in known:
        by_name[one.subject].append(one)
    return [
        one
        for one in known
        if one.subject == one.issuer or not any(signed_by(one, upper) for upper in by_name.get(one.issuer, ()))
    ]


def paths(
    certificate: Certificate, others: Iterable[Certificate], roots: Iterable[Certificate]
) -> Iterator[list[Certificate]]:
    """Yield the paths from a certificate to a root, the shortest first, each step verified by name and signature.

    Both ends are in the path; a certificate that is itself among the `anchors` of the roots is one. Order and
    repetition of the others do not matter, as they do not to Go (istiod) and BoringSSL (Envoy): they verify, and do not
    walk the file.
    """
    bundle = list(dict.fromkeys(roots))
    trusted, known = anchors(bundle), list(dict.fromkeys([*bundle, *others]))
    waiting, left = deque([[certificate]]), SIGNATURES
    while waiting:
        path = waiting.popleft()
        if path[-1] in trusted:
            yield path
            continue
        for upper in known:
            if upper not in path and upper.subject == path[-1].issuer and left:
                left -= 1
                if signed_by(path[-1], upper):
                    waiting.append([*path, upper])


def signed_by(lower: Certificate, upper: Certificate) -> bool:
    """Return whether a certificate was issued by another: by its name, and by its signature."""
    from cryptography.exceptions import InvalidSignature

    try:
        lower.verify_directly_issued_by(upper)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True
