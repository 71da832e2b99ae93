"""Trust as proxies have it: the certificates that they hold, and the roots that each cluster distributes.

Certificates are compared by the SHA-256 of their DER form, never by subject: every self-signed istiod calls its root
`O=cluster.local`.
"""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Final

import pandas as pd
from cryptography.x509 import Certificate

from meshkit.istio.ca import cacerts
from meshkit.istio.ca.certificates import SHORT, anchors, chain_end, fingerprint, parse_bundle, parse_chain, spiffe
from meshkit.istio.control_plane.istiods_and_proxies import Proxy, ask_proxies
from meshkit.istio.proxies import envoy_admin
from meshkit.istio.reading import Reading, Unread
from meshkit.kube.cluster import Cluster
from meshkit.kube.mesh import Mesh, Unknown
from meshkit.tables import Table, integer, moment, text

CERTIFICATES: Final = Table(
    "certificates",
    "Workload certificates",
    {
        "cluster": text("its cluster"),
        "namespace": text("its namespace"),
        "proxy": text("its pod"),
        "kind": text("sidecar, router, waypoint or ztunnel"),
        "identity": text("SPIFFE URI"),
        "issuer": text("RFC 4514"),
        "serial": text("in hexadecimal"),
        "sha256": text("of the leaf"),
        "not_before": moment("start of validity"),
        "not_after": moment("end of validity"),
        "chain": integer("certificates in its chain"),
        "anchor": text(
            "root that its chain ends at, verified by signature, the first 16 digits of its SHA-256; empty if the "
            "proxy does not trust that root"
        ),
        "roots": text("that the proxy trusts, the first 16 digits of each SHA-256, sorted, comma-joined"),
        "reason": text("why a row is empty"),
    },
    key=("cluster", "namespace", "proxy"),
    show=("cluster", "proxy", "identity", "not_after", "anchor", "reason"),
    compare=("identity", "issuer", "anchor", "roots", "reason"),
)
ROOTS: Final = Table(
    "roots",
    "Root certificates and who holds them",
    {
        "cluster": text("its cluster"),
        "source": text("secret cacerts, secret istio-ca-secret, configmap istio-ca-root-cert, or proxies"),
        "sha256": text("of the root"),
        "subject": text("RFC 4514"),
        "not_before": moment("start of validity"),
        "not_after": moment("end of validity"),
        "holders": integer("how many have it"),
        "of": integer("of how many"),
        "reason": text("why a source is unknown; such a row has no SHA-256"),
    },
    key=("cluster", "source", "sha256"),
    show=("cluster", "source", "sha256", "subject", "not_after", "holders", "of", "reason"),
)
ZTUNNEL = "a ztunnel, which holds certificates of all pods of its node: meshkit does not read them"
DISTRIBUTED_ROOTS: Final = Table(
    "distributed-roots",
    "Roots that istiod distributes to each namespace",
    {
        "cluster": text("its cluster"),
        "namespace": text("its namespace"),
        "roots": text("in ConfigMap istio-ca-root-cert, the first 16 digits of each SHA-256, sorted, comma-joined"),
        "reason": text("why a cluster (a row without namespace) or the ConfigMap could not be read"),
    },
    key=("cluster", "namespace"),
)


@dataclass(frozen=True)
class ProxyCertificate:
    """The certificate that one proxy shows, and the roots that it trusts: a row of `CERTIFICATES`.

    `reason` is why there is no certificate; its roots are known all the same.
    """

    cluster: str = ""
    namespace: str = ""
    proxy: str = ""
    kind: str = ""
    identity: str = ""
    issuer: str = ""
    serial: str = ""
    sha256: str = ""
    not_before: datetime | None = None
    not_after: datetime | None = None
    chain: int = 0
    anchor: str = ""
    roots: tuple[str, ...] = ()
    reason: str = ""

    @property
    def target(self) -> str:
        """Nothing else than its cluster."""
        return ""

    @property
    def bundle(self) -> frozenset[str]:
        """The roots that the proxy trusts."""
        return frozenset(self.roots)

    def begins(self, now: datetime) -> bool:
        """Tell whether it is not valid yet."""
        return self.not_before is not None and self.not_before > now

    def left(self, now: datetime) -> float:
        """Return the seconds for which it is still valid."""
        return (self.not_after - now).total_seconds() if self.not_after else 0.0


class RootSource(StrEnum):
    """Where a cluster has its roots."""

    CACERTS = f"secret {cacerts.SECRET}"
    SELF_SIGNED = f"secret {cacerts.SELF_SIGNED}"
    NEITHER = "secret"
    """Neither of them is there, can be read, or counts."""
    CONFIG_MAPS = "configmap istio-ca-root-cert"
    PROXIES = "proxies"


@dataclass(frozen=True)
class HeldRoot:
    """A root, and how many of a source of a cluster hold it: a row of `ROOTS`.

    `reason` is what is not known of the source, or that it has none; such an item has no fingerprint.
    """

    cluster: str
    source: RootSource
    sha256: str = ""
    subject: str = ""
    not_before: datetime | None = None
    not_after: datetime | None = None
    holders: int = 0
    of: int = 0
    reason: str = ""

    @property
    def target(self) -> str:
        """Its source."""
        return self.source


Certificates = Reading[ProxyCertificate]
Roots = Reading[HeldRoot]


def certificates(mesh: Mesh) -> Certificates:
    """Return, for each proxy, the certificate that it shows and the roots that it trusts.

    Source: the `default` and `ROOTCA` secrets of each Envoy's config dump. It holds no private key.
    """
    items: list[ProxyCertificate] = []
    unread: list[Unread] = []
    for name, proxy, answer in ask_proxies(mesh, lambda p: parse_identity(envoy_admin.secrets(p)), ztunnels=ZTUNNEL):
        namespace, pod, kind = (proxy.namespace, proxy.name, proxy.kind) if proxy else ("", "", "")
        if isinstance(answer, Unknown):
            unread.append(Unread(name, answer.reason, namespace=namespace, proxy=pod, kind=kind))
        else:
            items.append(replace(answer, cluster=name, namespace=namespace, proxy=pod, kind=kind))
    return certificate_reading(items, unread)


def certificate_reading(items: Iterable[ProxyCertificate] = (), unread: Iterable[Unread] = ()) -> Certificates:
    """Return the reading of what proxies show and trust."""
    return Reading(CERTIFICATES, items, unread, why="reason")


def unproved(known: Certificates, name: str = "") -> list[ProxyCertificate | Unread]:
    """Return what of a cluster, or of all, could not be read, and the proxies that hold no certificate."""
    found: list[ProxyCertificate | Unread] = [*known.unread, *(one for one in known if one.reason)]
    return [one for one in found if name in ("", one.cluster)]


def parse_identity(secrets: list[envoy_admin.Secret]) -> ProxyCertificate:
    """Return what a proxy shows and trusts, from the secrets that it holds; which proxy that is, it does not say."""
    chain = parse_chain(b"".join(s.pem for s in secrets if s.name == "default" and s.kind == "chain"))
    roots = parse_bundle(b"".join(s.pem for s in secrets if s.name == "ROOTCA"))
    trusted = tuple(sorted(_short(roots)))
    if not chain:
        return ProxyCertificate(roots=trusted, reason="the proxy holds no workload certificate")
    leaf = chain[0]
    return ProxyCertificate(
        identity=spiffe(leaf),
        issuer=leaf.issuer.rfc4514_string(),
        serial=f"{leaf.serial_number:x}",
        sha256=fingerprint(leaf),
        not_before=leaf.not_valid_before_utc,
        not_after=leaf.not_valid_after_utc,
        chain=len(chain),
        anchor=_anchor(chain, roots),
        roots=trusted,
    )


def _anchor(chain: list[Certificate], roots: list[Certificate]) -> str:
    root = chain_end(chain, roots)
    return fingerprint(root, SHORT) if root else ""


@dataclass(frozen=True)
class _Source:
    name: RootSource
    holders: list[list[Certificate]]
    reason: str = ""


def roots(mesh: Mesh) -> Roots:
    """Return each root certificate of each place of a cluster where it stands.

    Sources: `secret cacerts` or `secret istio-ca-secret` (what istiod signs with; the first where both are),
    `configmap istio-ca-root-cert` (one in each namespace), `proxies` (each Envoy's ROOTCA). Of the Secret only the root
    certificate is read; its key never leaves the reading function. Where another CA signs in istiod's place, no Secret
    is a source, and the reason names that CA.
    """
    items: list[HeldRoot] = []
    unread: list[Unread] = []
    found = mesh.each(lambda cluster: [_secret_roots(cluster, mesh.root_namespace), _config_map_roots(cluster)])
    for name, sources in found.items():
        if isinstance(sources, Unknown):
            unread.append(Unread(name, sources.reason, source=RootSource.NEITHER.value))
        else:
            items += [root for source in sources for root in _held(name, source)]
    trusted: dict[str, list[list[Certificate]]] = {name: [] for name in mesh.clusters}
    failed: dict[str, list[str]] = {name: [] for name in mesh.clusters}
    for name, proxy, answer in ask_proxies(mesh, _proxy_roots, ztunnels=ZTUNNEL):
        if isinstance(answer, Unknown):
            failed[name].append(f"{proxy.name}.{proxy.namespace}: {answer.reason}" if proxy else answer.reason)
        else:
            trusted[name].append(answer)
    for name, holders in trusted.items():
        items += _held(name, _Source(RootSource.PROXIES, holders, "; ".join(failed[name])))
    return root_reading(items, unread)


def root_reading(items: Iterable[HeldRoot] = (), unread: Iterable[Unread] = ()) -> Roots:
    """Return the reading of roots and who holds them."""
    return Reading(ROOTS, items, unread, why="reason")


def _proxy_roots(proxy: Proxy) -> list[Certificate]:
    return parse_bundle(b"".join(secret.pem for secret in envoy_admin.secrets(proxy) if secret.name == "ROOTCA"))


def _secret_roots(cluster: Cluster, namespace: str) -> _Source:
    if elsewhere := cacerts.signed_by_others(cluster, namespace):
        return _Source(RootSource.NEITHER, [], f"certificates come from {elsewhere}")
    # istiod prefers cacerts, and a left-over istio-ca-secret means nothing then (pilot/pkg/bootstrap/istio_ca.go).
    for name in (cacerts.SECRET, cacerts.SELF_SIGNED):
        secret = cluster.find("secrets", namespace, name) or {}
        data = {file: base64.b64decode(text) for file, text in (secret.get("data") or {}).items()}
        if cacerts.present(data):
            loaded = cacerts.self_signed_as_loaded(data) if name == cacerts.SELF_SIGNED else cacerts.as_loaded(data)
            try:
                return _Source(RootSource(f"secret {name}"), [parse_bundle(loaded.get("root-cert.pem", b""))])
            except ValueError as error:
                return _Source(RootSource.NEITHER, [], f"{name}: {error}")
    return _Source(RootSource.NEITHER, [], f"neither cacerts nor istio-ca-secret in {namespace}")


def distributed_roots(mesh: Mesh) -> pd.DataFrame:
    """Return one row for each namespace with the roots that istiod distributes there (ConfigMap istio-ca-root-cert)."""
    rows: list[dict[str, str]] = []
    for name, found in mesh.each(_config_maps).items():
        if isinstance(found, Unknown):
            rows.append({"cluster": name, "reason": found.reason})
            continue
        for place, own in found.items():
            known = {"reason": own.reason} if isinstance(own, Unknown) else {"roots": ",".join(sorted(_short(own)))}
            rows.append({"cluster": name, "namespace": place, **known})
    return DISTRIBUTED_ROOTS.frame(rows)


def distributed_by_namespace(cluster: Cluster) -> dict[str, frozenset[str]]:
    """Return the roots (cut to `SHORT`) that a cluster distributes by namespace; none where they are unreadable."""
    return {place: frozenset(_short(_known(chain))) for place, chain in _config_maps(cluster).items()}


def bundles_by_namespace(cluster: Cluster) -> dict[str, list[str]]:
    """Return the fingerprints of each namespace's distributed bundle, in order, with repetitions."""
    found = _config_maps(cluster).items()
    return {place: [fingerprint(one) for one in _known(chain)] for place, chain in found}


def _config_maps(cluster: Cluster) -> dict[str, list[Certificate] | Unknown]:
    maps = cluster.get("configmaps", fields="metadata.name=istio-ca-root-cert")
    found: dict[str, list[Certificate] | Unknown] = {}
    for item in maps:
        try:
            chain: list[Certificate] | Unknown = parse_chain((item.get("data") or {}).get("root-cert.pem", "").encode())
        except ValueError as error:
            chain = Unknown(f"ConfigMap istio-ca-root-cert: {error}")
        found[item["metadata"]["namespace"]] = chain
    return found


def _known(chain: list[Certificate] | Unknown) -> list[Certificate]:
    return [] if isinstance(chain, Unknown) else chain


def _short(chain: Iterable[Certificate]) -> set[str]:
    return {fingerprint(one, SHORT) for one in anchors(chain)}


def _config_map_roots(cluster: Cluster) -> _Source:
    maps = _config_maps(cluster)
    broken = [f"namespace {place}: {chain.reason}" for place, chain in maps.items() if isinstance(chain, Unknown)]
    # One that cannot be read counts as a holder without roots, so that no root seems to be in every namespace.
    chains = [_known(chain) for chain in maps.values()]
    return _Source(RootSource.CONFIG_MAPS, chains, "; ".join(broken) if maps else "there is none")


def _held(cluster: str, source: _Source) -> Iterator[HeldRoot]:
    held = [{fingerprint(root): root for root in anchors(bundle)} for bundle in source.holders]
    seen = {digest: root for bundle in held for digest, root in bundle.items()}
    counted = Counter(digest for bundle in held for digest in bundle)
    for digest, root in seen.items():
        yield HeldRoot(
            cluster,
            source.name,
            sha256=digest,
            subject=root.subject.rfc4514_string(),
            not_before=root.not_valid_before_utc,
            not_after=root.not_valid_after_utc,
            holders=counted[digest],
            of=len(source.holders),
        )
    if source.reason:
        yield HeldRoot(cluster, source.name, of=len(source.holders), reason=source.reason)
