"""Certificates in PEM as text: found and compared without being parsed (`istio.ca.certificates` does that)."""

from __future__ import annotations

import re
from typing import Final

BEGIN: Final = b"-----BEGIN CERTIFICATE-----"
_BLOCK: Final = re.compile(BEGIN + rb"(?:(?!-----BEGIN ).)*?-----END CERTIFICATE-----", re.DOTALL)


def blocks(pem: bytes) -> list[bytes]:
    """Return the text of each complete certificate block in PEM text, in order, even if it cannot be parsed.

    Anything between them is passed over, other kinds of blocks too, as Istio does (pilot/pkg/bootstrap/istio_ca.go,
    `pemToRawCertSet`).
    """
    return _BLOCK.findall(pem)


def same(block: bytes) -> bytes:
    """Return a block's text without whitespace, for comparison: line ends and indents do not matter."""
    return b"".join(block.split())


def bundle(pem: bytes) -> frozenset[bytes]:
    """Return the certificates in PEM text, for comparison: their order and what is between them do not matter."""
    return frozenset(same(block) for block in blocks(pem))
