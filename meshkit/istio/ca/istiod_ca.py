"""istiod's CA: the Secrets that it could sign with, and the one that it signs with now, by its own certificate."""

from __future__ import annotations

import base64
import re
import ssl
from dataclasses import dataclass
from typing import Any, Final

import pandas as pd
from cryptography.x509 import Certificate

from meshkit.errors import InputError, UnreachableError
from meshkit.istio.ca import ca_files, cacerts, model, revocation, root_bundles
from meshkit.istio.ca.certificates import (
    SHORT,
    anchors,
    chain_end,
    fingerprint,
    parse_bundle,
    parse_chain,
    paths,
    signed_by,
)
from meshkit.istio.ca.x509_rules import key_kind
from meshkit.istio.control_plane.istiods_and_proxies import Istiod, ask_istiods, is_on, istiods
from meshkit.istio.control_plane.owners import Owner, owner_of
from meshkit.istio.control_plane.versions import istiod_version
from meshkit.kube.cluster import Cluster
from meshkit.kube.manifests import Object
from meshkit.kube.mesh import Mesh, Unknown
from meshkit.tables import Table, flag, moment, text

SELF_SIGNED = cacerts.SELF_SIGNED
SECURE_PORT = cacerts.SECURE_PORT
AUTHORITIES: Final = Table(
    "authorities",
    "What each istiod could sign with",
    {
        "cluster": text("its cluster"),
        "secret": text("cacerts or istio-ca-secret"),
        "used": flag("istiod signs with this one; cacerts where both exist"),
        "subject": text("of the signing certificate, RFC 4514"),
        "sha256": text("of the signing certificate"),
        "root": text("SHA-256 of the root that it ends at, by signature; its own if it is self-signed"),
        "root_subject": text("RFC 4514"),
        "root_key": text("kind and bits, such as `RSA 2048`"),
        "roots": text("in the root bundle that istiod distributes; the first 16 digits of each SHA-256, comma-joined"),
        "not_after": moment("end of the signing certificate's validity"),
        "root_not_after": moment("end of the root's validity"),
        "problem": text("why istiod could not sign with it; empty if it could"),
        "owner": text("the tool that manages the Secret, such as cert-manager; empty: none"),
        "owner_source": text("where it is changed then"),
        "signed_by_others": text("the signer in istiod's place; empty: istiod signs"),
        "refused": text("CAs of the mesh that the cluster's proxies refuse by their revocation lists, and why"),
        "reason": text("why a cluster could not be read"),
    },
    key=("cluster", "secret"),
    show=(
        *("cluster", "secret", "used", "subject", "sha256", "not_after", "root", "root_key", "problem", "owner"),
        *("signed_by_others", "reason"),
    ),
)
SIGNERS: Final = Table(
    "signers",
    "What each istiod signs with now, by its own certificate",
    {
        "cluster": text("its cluster"),
        "istiod": text("its pod"),
        "signs_with": text("the Secret whose certificate issued istiod's own, verified by signature"),
        "signer": text("SHA-256 of that certificate"),
        "issuer": text("of istiod's own certificate, RFC 4514"),
        "version": text("of istiod"),
        "multi_root": flag("it loads other roots while it runs (ISTIO_MULTIROOT_MESH)"),
        "auto_reload": flag("it loads cacerts while it runs (AUTO_RELOAD_PLUGIN_CERTS, before 1.31)"),
        "signed_by_others": text("the CA in istiod's place; then no Secret is used, and istiod is not called"),
        "others_cluster_id": text("the cluster id that istio-csr uses, where it is the signer"),
        "not_before": moment("start of validity of istiod's own certificate"),
        "not_after": moment("end of validity of istiod's own certificate"),
        "reason": text("why signs_with is empty; without an issuer, istiod's certificate could not be read"),
    },
    key=("cluster", "istiod"),
    show=("cluster", "istiod", "signs_with", "issuer", "signer", "not_before", "reason"),
    compare=("signs_with", "signer", "reason"),
)
SIGNERS_AFTER: Final = SIGNERS.renamed("signers-after", "What each istiod signs with afterwards")
_OWN_CA = {"PILOT_CERT_PROVIDER": "istiod", "ENABLE_CA_SERVER": "true", "EXTERNAL_CA": ""}
STORES_OWN_CA = "USE_CACERTS_FOR_SELF_SIGNED_CA"
ITSELF = Owner(f"istiod ({STORES_OWN_CA})", f"istiod's environment: take {STORES_OWN_CA} away, then the Secret")


def authorities(mesh: Mesh) -> pd.DataFrame:
    """Return one row for each Secret of a cluster that istiod could sign with; of a cluster with none, no row.

    Where another CA signs in istiod's place, none is used, and there is a row also without a Secret.

    The keys are compared with their certificates, and never leave the reading function.
    """
    rows = []
    read = mesh.each(lambda cluster: _read(cluster, mesh.root_namespace))
    chains = {name: one.chain for name, one in read.items() if not isinstance(one, Unknown)}
    for name, one in read.items():
        if isinstance(one, Unknown):
            rows.append({"cluster": name, "reason": one.reason})
            continue
        refused = "; ".join(revocation.refused(one.lists, chains))
        rows += [{"cluster": name, **row, "refused": refused if row.get("used") else ""} for row in one.rows]
    return AUTHORITIES.frame(rows)


@dataclass(frozen=True)
class _Read:
    """What was read of a cluster: rows, the chain of the CA that its istiod uses, and its revocation lists."""

    rows: list[dict[str, Any]]
    chain: tuple[Certificate, ...] = ()
    lists: bytes = b""


def _read(cluster: Cluster, namespace: str) -> _Read:
    rows = _authorities(cluster, namespace)
    used = next((row["secret"] for row in rows if row.get("used")), "")
    if not used:
        return _Read(rows)
    told = (cluster.find("configmaps", namespace, revocation.CONFIG_MAP) or {}).get("data") or {}
    chain = _chain(used, secret_data(cluster, namespace, used))
    return _Read(rows, chain, str(told.get(cacerts.REVOKED) or "").encode())


def _chain(name: str, data: dict[str, bytes]) -> tuple[Certificate, ...]:
    """Return the certificates from a CA up to its root; none where it is not sound, which its row says."""
    files = cacerts.self_signed_as_loaded(data) if name == SELF_SIGNED else cacerts.as_loaded(data)
    try:
        (own, *_), others, roots = (
            parse_chain(files.get(file, b"")) for file in ("ca-cert.pem", "cert-chain.pem", "root-cert.pem")
        )
    except ValueError:
        return ()
    return tuple(next(paths(own, others, roots), ()))


def _authorities(cluster: Cluster, namespace: str) -> list[dict[str, Any]]:
    elsewhere = {"signed_by_others": cacerts.signed_by_others(cluster, namespace)}
    found = [cluster.find("secrets", namespace, name) for name in (model.SECRET, SELF_SIGNED)]
    own_ca = any(is_on(istiod.env, STORES_OWN_CA) for istiod in istiods(cluster, namespace))
    rows = [
        parse_authority(secret["metadata"]["name"], _decoded(secret)) | _owned(secret, own_ca=own_ca) | elsewhere
        for secret in found
        if secret and cacerts.present(secret.get("data") or {})
    ]
    if elsewhere["signed_by_others"]:
        return rows or [elsewhere]
    # istiod that stores its own CA in cacerts takes one in istio-ca-secret first (NewSelfSignedIstioCAOptions).
    first = len(rows) - 1 if rows and rows[0]["owner"] == ITSELF.name else 0
    return [{**row, "used": place == first} for place, row in enumerate(rows)]


def _owned(secret: Object, *, own_ca: bool) -> dict[str, str]:
    """Return the owner of a Secret `cacerts`; one in the form kubernetes.io/tls, or with revocation lists, has one.

    meshkit issues no revocation list, without which istiod would refuse a new intermediate.
    """
    if secret["metadata"]["name"] != model.SECRET:
        return {"owner": "", "owner_source": ""}
    data, owner = secret.get("data") or {}, owner_of(secret)
    if own_ca and cacerts.GENERATED in data:
        owner = ITSELF
    if owner is None and cacerts.REVOKED in data:
        owner = Owner(f"the PKI that issues its {cacerts.REVOKED}", f"its four files together with {cacerts.REVOKED}")
    if owner is None and cacerts.is_tls(data):
        files = ", ".join(cacerts.TLS_FILES)
        owner = Owner(f"the creator of its kubernetes.io/tls form ({files})", f"its {files}, where they are created")
    return {"owner": owner.name if owner else "", "owner_source": owner.where if owner else ""}


def secret_data(cluster: Cluster, namespace: str, name: str) -> dict[str, bytes]:
    """Return a Secret's data, decoded; empty without one. It may hold a key: keep it out of tables and messages."""
    return _decoded(cluster.find("secrets", namespace, name) or {})


def _decoded(secret: Object) -> dict[str, bytes]:
    return {field: base64.b64decode(value) for field, value in (secret.get("data") or {}).items()}


def parse_authority(name: str, data: dict[str, bytes]) -> dict[str, Any]:
    """Return a row of `authorities`, without the cluster, from a Secret's data."""
    files = cacerts.self_signed_as_loaded(data) if name == SELF_SIGNED else cacerts.as_loaded(data)
    problem = ""
    try:
        ca_files.load_plugged(files, where=name)
        problem = ca_files.key_problem(files["ca-key.pem"])
    except InputError as error:
        problem = error.message
    if cacerts.is_tls(data):
        problem = _in_tls_form(problem, cacerts.missing(data))
    try:
        # A multi-certificate ca-cert.pem signs with its first.
        (own, *_), chain = (parse_chain(files.get(file, b"")) for file in ("ca-cert.pem", "cert-chain.pem"))
        bundle = parse_bundle(files.get("root-cert.pem", b""))
    except ValueError:
        return {"secret": name, "problem": problem or "no certificate in it"}
    root = chain_end([own, *chain], bundle)
    return {
        "secret": name,
        "subject": own.subject.rfc4514_string(),
        "sha256": fingerprint(own),
        "not_after": own.not_valid_after_utc,
        "roots": ",".join(sorted(fingerprint(one, SHORT) for one in anchors(bundle))),
        "problem": problem,
        **(parse_root(root) if root else {}),
    }


def _in_tls_form(problem: str, lacking: list[str]) -> str:
    """Return a problem by the names of the files that are there."""
    if lacking:
        return f"{', '.join(lacking)} missing"
    names = dict(zip(model.FILES, (*cacerts.TLS_FILES, "tls.crt and ca.crt"), strict=True))
    return re.sub("|".join(map(re.escape, names)), lambda found: names[found[0]], problem)


def parse_root(root: Certificate) -> dict[str, Any]:
    """Return the fields of the root in a row of `authorities`."""
    return {
        "root": fingerprint(root),
        "root_subject": root.subject.rfc4514_string(),
        "root_key": key_kind(root),
        "root_not_after": root.not_valid_after_utc,
    }


def signers(mesh: Mesh) -> pd.DataFrame:
    """Return one row for each istiod with its present signing certificate.

    Source: a TLS handshake with istiod's port 15012 by port-forward. An istiod reissues its serving certificate with
    its CA whenever it loads that CA, so that certificate shows the CA in use (pilot/pkg/bootstrap, GenKeyCert).
    """
    rows = []
    for name, istiod, answer in ask_istiods(mesh, lambda istiod: _signer(istiod, mesh.root_namespace)):
        where = {"cluster": name, "istiod": istiod.name if istiod else ""}
        rows.append({**where, **({"reason": answer.reason} if isinstance(answer, Unknown) else answer)})
    return SIGNERS.frame(rows)


def _signer(istiod: Istiod, namespace: str) -> dict[str, Any]:
    if elsewhere := cacerts.other_signer(istiod.cluster, istiod):
        known_as = cacerts.csr_cluster_id(istiod.cluster, cacerts.ca_address(istiod.cluster, istiod))
        reason = f"certificates come from {elsewhere}"
        return {"signed_by_others": elsewhere, "others_cluster_id": known_as, "reason": reason}
    own = serving_certificate(istiod)
    serving = {
        "issuer": own.issuer.rfc4514_string(),
        "version": istiod_version(istiod),
        "multi_root": is_on(istiod.env, root_bundles.MULTI_ROOT),
        "auto_reload": is_on(istiod.env, root_bundles.AUTO_RELOAD, default=True),
        "not_before": own.not_valid_before_utc,
        "not_after": own.not_valid_after_utc,
    }
    for name in (model.SECRET, SELF_SIGNED):
        data = cacerts.as_loaded(secret_data(istiod.cluster, namespace, name))
        for certificate in parse_chain(data.get("ca-cert.pem", b""))[:1]:
            if signed_by(own, certificate):
                return {**serving, "signs_with": name, "signer": fingerprint(certificate)}
    if unusual := [f"{name}={istiod.env[name]}" for name, usual in _OWN_CA.items() if _differs(istiod, name, usual)]:
        raise UnreachableError(f"its certificate does not show its signing CA: {', '.join(unusual)}")
    return {**serving, "reason": f"its certificate is signed by neither {model.SECRET} nor {SELF_SIGNED} as they are"}


def deployment_of(istiod: str) -> str:
    """Return the Deployment of an istiod's pod, which is named after it, with two parts more."""
    return istiod.rsplit("-", 2)[0]


def _differs(istiod: Istiod, name: str, usual: str) -> bool:
    return istiod.env.get(name, usual) not in ("", usual)


def serving_certificate(istiod: Istiod, port: int = SECURE_PORT) -> Certificate:
    """Return the certificate that an istiod presents to its proxies.

    Raises:
        UnreachableError: nothing listens there, or it does not speak TLS.
    """
    from cryptography.x509 import load_der_x509_certificate

    # Nothing is sent or trusted here: its signature is verified afterwards, against the Secrets' certificates.
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
