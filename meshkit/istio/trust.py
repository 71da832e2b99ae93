"""Who trusts whom: the certificates that proxies hold, and the roots that each cluster hands out.

Certificates are compared by the SHA-256 of their DER form. Subjects lie: every self-signed istiod calls its root
`O=cluster.local`.
"""

from __future__ import annotations

import base64
from collections import Counter, deque
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from meshkit.errors import MeshkitError
from meshkit.istio import cacerts, envoy
from meshkit.istio.fleet import Proxy, ask_proxies, table
from meshkit.mesh import Mesh, Unknown

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import pandas as pd
    from cryptography.x509 import Certificate

    from meshkit.cluster import Cluster

SHORT = 16
UTC_TIME = "datetime64[us, UTC]"
CERTIFICATE_COLUMNS = {
    "cluster": "str",
    "namespace": "str",
    "proxy": "str",
    "kind": "str",
    "identity": "str",
    "issuer": "str",
    "serial": "str",
    "sha256": "str",
    "not_before": UTC_TIME,
    "not_after": UTC_TIME,
    "chain": "int64",
    "anchor": "str",
    "roots": "str",
    "reason": "str",
}
ROOT_COLUMNS = {
    "cluster": "str",
    "source": "str",
    "sha256": "str",
    "subject": "str",
    "not_before": UTC_TIME,
    "not_after": UTC_TIME,
    "holders": "int64",
    "of": "int64",
    "reason": "str",
}
SIGNATURES = 100
"""Signatures that are verified for one certificate at most, as Go does (crypto/x509)."""
ZTUNNEL = "a ztunnel, which holds certificates of all pods of its node: meshkit does not read them"
HANDED_COLUMNS = {"cluster": "str", "namespace": "str", "roots": "str", "reason": "str"}


class CertificateError(MeshkitError, ValueError):
    """A text that should hold a certificate holds what is none."""


def fingerprint(certificate: Certificate, length: int = 64) -> str:
    """Return the SHA-256 of a certificate's DER form, lower case, cut to a length."""
    from cryptography.hazmat.primitives.hashes import SHA256

    return certificate.fingerprint(SHA256()).hex()[:length]


def parse_chain(pem: bytes) -> list[Certificate]:
    """Return the certificates in PEM text, in their order; anything else in it is passed over.

    Raises:
        CertificateError: one of them cannot be read.
    """
    from cryptography.x509 import load_pem_x509_certificate

    begin, end = b"-----BEGIN CERTIFICATE-----", b"-----END CERTIFICATE-----"
    parts = [part.partition(end) for part in pem.split(begin)[1:]]
    try:
        return [load_pem_x509_certificate(begin + body + end) for body, closed, _ in parts if closed]
    except ValueError:
        raise CertificateError("a certificate in PEM cannot be read: was it copied whole?") from None


def parse_bundle(pem: bytes) -> list[Certificate]:
    """Return the certificates in PEM text, in their order, each once: a bundle is a set."""
    return list({fingerprint(certificate): certificate for certificate in parse_chain(pem)}.values())


def certificates(mesh: Mesh) -> pd.DataFrame:
    """Return one row for each proxy with the certificate that it shows and the roots that it trusts.

    Columns: cluster, namespace, proxy, kind, identity (SPIFFE URI), issuer (RFC 4514), serial (hex), sha256 (of the
    leaf), not_before and not_after (UTC), chain (certificates in its chain), anchor (fingerprint of the root that its
    chain ends at, verified by signature; empty if that is none of the roots it holds), roots (fingerprints of its
    ROOTCA), reason (why a row is empty; empty when all was read). Anchor and roots are cut to 16 digits; roots are
    sorted and comma-joined.

    Source: the `default` and `ROOTCA` secrets of each Envoy's config dump. It holds no private key.
    """
    rows = []
    for name, proxy, answer in ask_proxies(mesh, lambda p: parse_identity(envoy.secrets(p)), ztunnels=ZTUNNEL):
        where = _where(name, proxy)
        rows.append({**where, "reason": answer.reason} if isinstance(answer, Unknown) else {**where, **answer})
    return table(rows, CERTIFICATE_COLUMNS)


def _where(cluster: str, proxy: Proxy | None) -> dict[str, str]:
    if proxy is None:
        return {"cluster": cluster}
    return {"cluster": cluster, "namespace": proxy.namespace, "proxy": proxy.name, "kind": proxy.kind}


def parse_identity(secrets: list[envoy.Secret]) -> dict[str, Any]:
    """Return a row of `certificates`, without the proxy, from the secrets that it holds."""
    chain = parse_chain(b"".join(s.pem for s in secrets if s.name == "default" and s.kind == "chain"))
    roots = parse_bundle(b"".join(s.pem for s in secrets if s.name == "ROOTCA"))
    held = ",".join(sorted(fingerprint(root, SHORT) for root in roots))
    if not chain:
        return {"roots": held, "reason": "the proxy holds no workload certificate"}
    leaf = chain[0]
    return {
        "identity": spiffe(leaf),
        "issuer": leaf.issuer.rfc4514_string(),
        "serial": f"{leaf.serial_number:x}",
        "sha256": fingerprint(leaf),
        "not_before": leaf.not_valid_before_utc,
        "not_after": leaf.not_valid_after_utc,
        "chain": len(chain),
        "anchor": _anchor(chain, roots),
        "roots": held,
        "reason": "",
    }


def spiffe(leaf: Certificate) -> str:
    """Return the SPIFFE identity that a certificate is for, or nothing."""
    from cryptography.x509 import SubjectAlternativeName, UniformResourceIdentifier
    from cryptography.x509.extensions import ExtensionNotFound

    try:
        names = leaf.extensions.get_extension_for_class(SubjectAlternativeName).value
    except ExtensionNotFound:
        return ""
    return ",".join(names.get_values_for_type(UniformResourceIdentifier))


def _anchor(chain: list[Certificate], roots: list[Certificate]) -> str:
    root = chain_end(chain, roots)
    return fingerprint(root, SHORT) if root else ""


def chain_end(chain: Sequence[Certificate], roots: Iterable[Certificate]) -> Certificate | None:
    """Return the root that a chain leads to, each step verified by signature, or None.

    The first of the chain is verified; the others help, in any order. Of several paths one is taken whose certificates
    are all valid now, if there is one.
    """
    found = list(paths(chain[0], chain[1:], roots)) if chain else []
    now = datetime.now(UTC)
    good = [path for path in found if all(one.not_valid_before_utc <= now < one.not_valid_after_utc for one in path)]
    return next((path[-1] for path in [*good, *found]), None)


def paths(
    certificate: Certificate, others: Iterable[Certificate], roots: Iterable[Certificate]
) -> Iterator[list[Certificate]]:
    """Yield the paths from a certificate to a root, the shortest first, each step verified by name and signature.

    Both ends are in the path; a certificate that is itself among the roots is one. Order and repetition of the others
    do not matter, as they do not to Go (istiod) and BoringSSL (Envoy): they verify, and do not walk the file.
    """
    trusted = list(dict.fromkeys(roots))
    known = list(dict.fromkeys([*trusted, *others]))
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


@dataclass(frozen=True)
class _Source:
    name: str
    holders: list[list[Certificate]]
    reason: str = ""


def roots(mesh: Mesh) -> pd.DataFrame:
    """Return one row for each root certificate and each place of a cluster where it stands.

    Columns: cluster, source, sha256, subject (RFC 4514), not_before, not_after (UTC), holders and of (how many of how
    many hold it), reason (why a source is unknown; such a row has no fingerprint).

    Sources: `secret cacerts` or `secret istio-ca-secret` (what istiod signs with; the first where both are),
    `configmap istio-ca-root-cert` (one in each namespace), `proxies` (each Envoy's ROOTCA). Of the Secret only the root
    certificate is looked at; its key never leaves the reading function. Where others sign in istiod's place, no Secret
    is a source, and the reason says who signs.
    """
    rows: list[dict[str, Any]] = []
    found = mesh.each(lambda cluster: [_secret_roots(cluster, mesh.root_namespace), _config_map_roots(cluster)])
    for name, sources in found.items():
        known = [_Source("secret", [], sources.reason)] if isinstance(sources, Unknown) else sources
        rows += [{"cluster": name, **row} for source in known for row in _root_rows(source)]
    held: dict[str, list[list[Certificate]]] = {name: [] for name in mesh.clusters}
    failed: dict[str, list[str]] = {name: [] for name in mesh.clusters}
    for name, proxy, answer in ask_proxies(mesh, _proxy_roots, ztunnels=ZTUNNEL):
        if isinstance(answer, Unknown):
            failed[name].append(f"{proxy.name}.{proxy.namespace}: {answer.reason}" if proxy else answer.reason)
        else:
            held[name].append(answer)
    for name, holders in held.items():
        rows += [{"cluster": name, **row} for row in _root_rows(_Source("proxies", holders, "; ".join(failed[name])))]
    return table(rows, ROOT_COLUMNS)


def _proxy_roots(proxy: Proxy) -> list[Certificate]:
    return parse_bundle(b"".join(secret.pem for secret in envoy.secrets(proxy) if secret.name == "ROOTCA"))


def _secret_roots(cluster: Cluster, namespace: str) -> _Source:
    if elsewhere := cacerts.signed_by_others(cluster, namespace):
        return _Source("secret", [], f"certificates come from {elsewhere}")
    # istiod prefers cacerts, and a left-over istio-ca-secret means nothing then (pilot/pkg/bootstrap/istio_ca.go).
    for name in (cacerts.SECRET, cacerts.SELF_SIGNED):
        secret = cluster.find("secrets", namespace, name) or {}
        data = {file: base64.b64decode(text) for file, text in (secret.get("data") or {}).items()}
        if cacerts.present(data):
            loaded = cacerts.self_signed_as_loaded(data) if name == cacerts.SELF_SIGNED else cacerts.as_loaded(data)
            return _Source(f"secret {name}", [parse_bundle(loaded.get("root-cert.pem", b""))])
    return _Source("secret", [], f"neither cacerts nor istio-ca-secret in {namespace}")


def handed(mesh: Mesh) -> pd.DataFrame:
    """Return one row for each namespace with the roots that istiod hands out there, in ConfigMap istio-ca-root-cert.

    Columns: cluster, namespace, roots (fingerprints, cut to 16 digits, sorted, comma-joined), reason (why a cluster
    could not be read).
    """
    rows: list[dict[str, str]] = []
    for name, found in mesh.each(handed_by).items():
        if isinstance(found, Unknown):
            rows.append({"cluster": name, "reason": found.reason})
            continue
        rows += [{"cluster": name, "namespace": place, "roots": ",".join(sorted(own))} for place, own in found.items()]
    return table(rows, HANDED_COLUMNS)


def handed_by(cluster: Cluster) -> dict[str, frozenset[str]]:
    """Return the roots (cut to `SHORT`) that a cluster hands out in each namespace."""
    return {place: frozenset(one[:SHORT] for one in text) for place, text in texts_handed_by(cluster).items()}


def texts_handed_by(cluster: Cluster) -> dict[str, list[str]]:
    """Return the fingerprints of what a cluster hands out in each namespace, in their order, repeated as they are."""
    return {place: [fingerprint(one) for one in chain] for place, chain in _config_maps(cluster).items()}


def _config_maps(cluster: Cluster) -> dict[str, list[Certificate]]:
    maps = cluster.get("configmaps", fields="metadata.name=istio-ca-root-cert")
    pems = {item["metadata"]["namespace"]: (item.get("data") or {}).get("root-cert.pem", "") for item in maps}
    return {place: parse_chain(pem.encode()) for place, pem in pems.items()}


def _config_map_roots(cluster: Cluster) -> _Source:
    chains = list(_config_maps(cluster).values())
    return _Source("configmap istio-ca-root-cert", chains, "" if chains else "there is none")


def _root_rows(source: _Source) -> list[dict[str, Any]]:
    counted: Counter[str] = Counter()
    seen: dict[str, Certificate] = {}
    for bundle in source.holders:
        counted.update({fingerprint(root) for root in bundle})
        seen.update({fingerprint(root): root for root in bundle})
    rows: list[dict[str, Any]] = [
        {
            "source": source.name,
            "sha256": digest,
            "subject": root.subject.rfc4514_string(),
            "not_before": root.not_valid_before_utc,
            "not_after": root.not_valid_after_utc,
            "holders": counted[digest],
            "of": len(source.holders),
            "reason": "",
        }
        for digest, root in seen.items()
    ]
    if source.reason:
        rows.append({"source": source.name, "holders": 0, "of": len(source.holders), "reason": source.reason})
    return rows
