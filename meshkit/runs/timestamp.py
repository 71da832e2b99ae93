"""The time of a signature, signed by an authority (RFC 3161); needs the extra `meshkit[timestamp]`.

What an authority answers is kept as it is, so that others verify it, too:
`openssl ts -verify -data signature.json -in signature.tsr -CAfile ROOTS.pem`.
"""

from __future__ import annotations

import hashlib
from datetime import datetime
from pathlib import Path
from typing import Final

from cryptography import x509

from meshkit.errors import InputError, UnreachableError
from meshkit.runs.post import post

_LACKING: Final = "rfc3161-client is not installed"
_REMEDY: Final = "pip install 'meshkit[timestamp]'"


def stamped(url: str, content: bytes) -> bytes:
    """Return an authority's answer for a content, as it sent it.

    Raises:
        UnreachableError: it gave none, or one for something else; or the extra is not installed.
    """
    try:
        from rfc3161_client import HashAlgorithm, TimestampRequestBuilder
    except ImportError:
        raise UnreachableError(_LACKING, remedy=_REMEDY) from None
    request = TimestampRequestBuilder().data(content).hash_algorithm(HashAlgorithm.SHA256).build()
    answer = post(url, request.as_bytes(), "application/timestamp-query")
    try:
        read(answer, content)
    except ValueError as error:
        raise UnreachableError(str(error)) from None
    return answer


def roots(path: str) -> list[x509.Certificate]:
    """Return the certificates of a file.

    Raises:
        InputError: it cannot be read, or has none.
    """
    try:
        return x509.load_pem_x509_certificates(Path(path).read_bytes())
    except (OSError, ValueError) as error:
        problem = getattr(error, "strerror", None) or "no certificate in it"
        raise InputError(f"record.timestampRoots: expected certificates in PEM; {problem}", where=path) from None


def read(answer: bytes, content: bytes, trusted: list[x509.Certificate] | None = None) -> datetime:
    """Return the time that an answer gives to a content; with `trusted` roots, verify who signed it, too.

    Raises:
        ValueError: it is of another content, or of an authority below none of these roots.
        UnreachableError: the extra is not installed.
    """
    try:
        from rfc3161_client import VerificationError, VerifierBuilder, decode_timestamp_response
    except ImportError:
        raise UnreachableError(_LACKING, remedy=_REMEDY) from None
    try:
        response = decode_timestamp_response(answer)
        about = response.tst_info
    except ValueError:
        raise ValueError("it is no signed time that rfc3161-client reads") from None  # it wants strict DER
    if about.message_imprint.message != hashlib.sha256(content).digest():
        raise ValueError("it is the time of something else")
    if trusted:
        try:
            VerifierBuilder(roots=trusted).build().verify_message(response, content)
        except VerificationError:
            raise ValueError("its signature is wrong, or of an authority that is not trusted") from None
    return about.gen_time
