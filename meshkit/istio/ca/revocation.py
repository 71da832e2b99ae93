"""Revocation lists (CRLs): by which of them proxies refuse CAs of their mesh.

istiod writes `ca-crl.pem` of its cluster's `cacerts` into ConfigMap istio-ca-crl of every namespace; proxies mount it,
and give it to Envoy with the roots. Envoy then wants a current list by each CA of a peer's chain, the root included: a
chain that lacks one fails, whether anything of it is revoked or not.

Source: detectSigningCABundleAndCRL (pilot/pkg/bootstrap/istio_ca.go), reconcileCACertAndCRL
(pilot/pkg/serviceregistry/kube/controller/namespacecontroller.go), toEnvoySecret
(security/pkg/nodeagent/sds/sdsservice.go), Verify (security/pkg/pki/util/keycertbundle.go); of Envoy
X509_V_FLAG_CRL_CHECK_ALL (source/common/tls/cert_validator).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from cryptography.x509 import Certificate, CertificateRevocationList

from meshkit import clock

CONFIG_MAP: Final = "istio-ca-crl"
_LIST: Final = re.compile(rb"-----BEGIN X509 CRL-----.*?-----END X509 CRL-----", re.DOTALL)


def lists(pem: bytes) -> list[CertificateRevocationList]:
    """Return the lists in PEM text.

    Raises:
        ValueError: one cannot be read.
    """
    from cryptography.x509 import load_pem_x509_crl

    return [load_pem_x509_crl(block) for block in _LIST.findall(pem)]


def by(issuer: Certificate, known: Sequence[CertificateRevocationList]) -> list[CertificateRevocationList]:
    """Return the lists that a CA signed."""
    return [one for one in known if one.is_signature_valid(issuer.public_key())]  # type: ignore[arg-type]


def refused(pem: bytes, chains: Mapping[str, Sequence[Certificate]]) -> Iterator[str]:
    """Yield each CA that proxies with these lists refuse, and why.

    Args:
        pem: what the proxies mount; without a list they ask for none.
        chains: by cluster, its CA and those above it up to its root.
    """
    try:
        known = lists(pem)
    except ValueError:
        yield f"a list of {CONFIG_MAP} cannot be read"
        return
    places: dict[tuple[Certificate, Certificate], list[str]] = {}
    for name, chain in chains.items():
        for one, upper in zip(chain, [*chain[1:], *chain[-1:]], strict=True):
            places.setdefault((one, upper), []).append(name)
    for (one, upper), names in places.items() if known else ():
        if why := _why(one, upper, known):
            yield f"{one.subject.rfc4514_string()} of {', '.join(names)}: {why}"


def _why(one: Certificate, upper: Certificate, known: Sequence[CertificateRevocationList]) -> str:
    now = clock.now()
    current = [of for of in by(upper, known) if of.next_update_utc is None or of.next_update_utc > now]
    if any(of.get_revoked_certificate_by_serial_number(one.serial_number) for of in current):
        return f"revoked by {upper.subject.rfc4514_string()}"
    own = by(one, known)
    if not own:
        return "no list by it"
    ends = [of.next_update_utc for of in own]
    last = None if None in ends else max(filter(None, ends))
    return f"its list ended {last:%Y-%m-%d %H:%M} UTC" if last is not None and last <= now else ""
