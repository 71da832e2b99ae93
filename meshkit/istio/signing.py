"""What an istiod could sign with (its Secrets), and what it does sign with now (its own certificate)."""

from __future__ import annotations

import base64
import ssl
from typing import TYPE_CHECKING, Any

from meshkit.errors import InputError, UnreachableError
from meshkit.istio import authority, bundles
from meshkit.istio.certificates import key_kind
from meshkit.istio.fleet import Istiod, ask_istiods, table
from meshkit.istio.trust import SHORT, UTC_TIME, chain_end, fingerprint, parse_bundle, parse_chain, signed_by
from meshkit.istio.versions import istiod_version
from meshkit.mesh import Mesh, Unknown

if TYPE_CHECKING:
    import pandas as pd
    from cryptography.x509 import Certificate

    from meshkit.cluster import Cluster

SELF_SIGNED = "istio-ca-secret"
SECURE_PORT = 15012
AUTHORITY_COLUMNS = {
    "cluster": "str",
    "secret": "str",
    "used": "bool",
    "subject": "str",
    "sha256": "str",
    "root": "str",
    "root_subject": "str",
    "root_key": "str",
    "roots": "str",
    "not_after": UTC_TIME,
    "root_not_after": UTC_TIME,
    "problem": "str",
    "reason": "str",
}
SIGNER_COLUMNS = {
    "cluster": "str",
    "istiod": "str",
    "signs_with": "str",
    "signer": "str",
    "issuer": "str",
    "version": "str",
    "multi_root": "bool",
    "auto_reload": "bool",
    "not_before": UTC_TIME,
    "not_after": UTC_TIME,
    "reason": "str",
}
_ISTIO = {"certificate": "ca-cert.pem", "key": "ca-key.pem", "root": "root-cert.pem", "chain": "cert-chain.pem"}
_OWN_CA = {"PILOT_CERT_PROVIDER": "istiod", "ENABLE_CA_SERVER": "true", "EXTERNAL_CA": ""}
_TLS = {"certificate": "tls.crt", "key": "tls.key", "root": "ca.crt", "chain": "ca.crt"}


def authorities(mesh: Mesh) -> pd.DataFrame:
    """Return one row for each Secret of a cluster that istiod could sign with; of a cluster with none, no row.

    Columns: cluster, secret (cacerts or istio-ca-secret), used (istiod takes cacerts where both are), subject and
    sha256 (of the signing certificate), root (sha256 of the root that it ends at, by signature; its own if it is
    self-signed), root_subject, root_key (kind and bits, such as `RSA 2048`), roots (of the bundle that it hands out,
    cut to 16 digits, comma-joined), not_after and root_not_after (UTC), problem (why istiod could not sign with it;
    empty if it could), reason (why a cluster could not be read).

    The keys are compared with their certificates, and never leave the reading function.
    """
    rows = []
    for name, answer in mesh.each(lambda cluster: _authorities(cluster, mesh.root_namespace)).items():
        found = [{"reason": answer.reason}] if isinstance(answer, Unknown) else answer
        rows += [{"cluster": name, **row} for row in found]
    return table(rows, AUTHORITY_COLUMNS)


def _authorities(cluster: Cluster, namespace: str) -> list[dict[str, Any]]:
    found = ((name, secret_data(cluster, namespace, name)) for name in (authority.SECRET, SELF_SIGNED))
    rows = [parse_authority(name, data) for name, data in found if data]
    return [{**row, "used": place == 0} for place, row in enumerate(rows)]


def secret_data(cluster: Cluster, namespace: str, name: str) -> dict[str, bytes]:
    """Return what a Secret holds, decoded; of none, nothing. It may be a key: keep it out of tables and texts."""
    secret = cluster.find("secrets", namespace, name) or {}
    return {field: base64.b64decode(value) for field, value in (secret.get("data") or {}).items()}


def parse_authority(name: str, data: dict[str, bytes]) -> dict[str, Any]:
    """Return a row of `authorities`, without the cluster, from what a Secret holds."""
    fields = _TLS if "tls.crt" in data else _ISTIO
    parts = {part: data.get(field, b"") for part, field in fields.items()}
    if name == SELF_SIGNED:
        parts |= {"root": parts["certificate"], "chain": parts["certificate"]}
    files = {file: parts[part] for part, file in _ISTIO.items()}
    problem = ""
    try:
        authority.load_plugged(files, where=name)
    except InputError as error:
        problem = error.message
    try:
        # A multi-certificate ca-cert.pem signs with its first.
        (own, *_), chain = parse_chain(parts["certificate"]), parse_chain(parts["chain"])
        bundle = parse_bundle(parts["root"])
    except ValueError:
        return {"secret": name, "problem": problem or "no certificate in it"}
    root = chain_end([own, *chain], bundle)
    return {
        "secret": name,
        "subject": own.subject.rfc4514_string(),
        "sha256": fingerprint(own),
        "not_after": own.not_valid_after_utc,
        "roots": ",".join(sorted(fingerprint(one, SHORT) for one in bundle)),
        "problem": problem,
        **(parse_root(root) if root else {}),
    }


def parse_root(root: Certificate) -> dict[str, Any]:
    """Return what a row of `authorities` says of the root."""
    return {
        "root": fingerprint(root),
        "root_subject": root.subject.rfc4514_string(),
        "root_key": key_kind(root),
        "root_not_after": root.not_valid_after_utc,
    }


def signers(mesh: Mesh) -> pd.DataFrame:
    """Return one row for each istiod with what it signs with now.

    Columns: cluster, istiod, signs_with (the Secret whose certificate issued the istiod's own, verified by signature),
    signer (sha256 of that certificate), issuer (RFC 4514), version, multi_root (it takes other roots while it runs:
    ISTIO_MULTIROOT_MESH), auto_reload (before 1.31, it looks at cacerts while it runs: AUTO_RELOAD_PLUGIN_CERTS),
    not_before and not_after (UTC, of the istiod's own), reason (why signs_with is empty; without an issuer, it could
    not be seen).

    Source: a TLS handshake with istiod's port 15012 by port-forward. An istiod makes its serving certificate anew with
    its CA whenever that CA is loaded, so it is the newest certificate that there is (pilot/pkg/bootstrap, GenKeyCert).
    """
    rows = []
    for name, istiod, answer in ask_istiods(mesh, lambda istiod: _signer(istiod, mesh.root_namespace)):
        where = {"cluster": name, "istiod": istiod.name if istiod else ""}
        rows.append({**where, **({"reason": answer.reason} if isinstance(answer, Unknown) else answer)})
    return table(rows, SIGNER_COLUMNS)


def _signer(istiod: Istiod, namespace: str) -> dict[str, Any]:
    own = serving_certificate(istiod)
    told = {
        "issuer": own.issuer.rfc4514_string(),
        "version": istiod_version(istiod),
        "multi_root": bundles.is_on(istiod.env, bundles.MULTI_ROOT),
        "auto_reload": bundles.is_on(istiod.env, bundles.AUTO_RELOAD, default=True),
        "not_before": own.not_valid_before_utc,
        "not_after": own.not_valid_after_utc,
    }
    for name in (authority.SECRET, SELF_SIGNED):
        data = secret_data(istiod.cluster, namespace, name)
        for certificate in parse_chain(data.get("tls.crt") or data.get("ca-cert.pem", b""))[:1]:
            if signed_by(own, certificate):
                return {**told, "signs_with": name, "signer": fingerprint(certificate)}
    if elsewhere := [f"{name}={istiod.env[name]}" for name, usual in _OWN_CA.items() if _differs(istiod, name, usual)]:
        raise UnreachableError(f"its certificate does not tell what it signs with: {', '.join(elsewhere)}")
    return {**told, "reason": f"its certificate is signed by neither {authority.SECRET} nor {SELF_SIGNED} as they are"}


def deployment_of(istiod: str) -> str:
    """Return the Deployment of an istiod's pod, which is named after it, with two parts more."""
    return istiod.rsplit("-", 2)[0]


def _differs(istiod: Istiod, name: str, usual: str) -> bool:
    return istiod.env.get(name, usual) not in ("", usual)


def serving_certificate(istiod: Istiod, port: int = SECURE_PORT) -> Certificate:
    """Return the certificate that an istiod shows to its proxies.

    Raises:
        UnreachableError: nothing listens there, or it speaks no TLS.
    """
    from cryptography.x509 import load_der_x509_certificate

    # Nothing is sent and nothing believed: who signed it is verified afterwards, against what the Secrets hold.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    come, go = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(come, go, server_hostname=f"istiod.{istiod.namespace}.svc")
    with istiod.cluster.forward(istiod.name, istiod.namespace, port) as tunnel:
        while not (shown := tls.getpeercert(binary_form=True) if _shaken(tls) else None):
            tunnel.write(go.read())
            come.write(tunnel.read(1 << 14) or _closed(istiod, port))
    return load_der_x509_certificate(shown)


def _shaken(tls: ssl.SSLObject) -> bool:
    try:
        tls.do_handshake()
    except ssl.SSLWantReadError:
        return False
    return True


def _closed(istiod: Istiod, port: int) -> bytes:
    raise UnreachableError(f"istiod {istiod.name} closed port {port} in the TLS handshake")
