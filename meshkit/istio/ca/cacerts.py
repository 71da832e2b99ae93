"""The Secret `cacerts` as istiod loads it, in both of its forms, and who signs where istiod does not.

Source: pilot/pkg/bootstrap/istio_ca.go (`detectSigningCABundleAndCRL`, `checkCABundleCompleteness`) and server.go
(`maybeCreateCA`, `startCA`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final

from meshkit.istio.control_plane.istiods_and_proxies import Istiod, is_on, istiods
from meshkit.kube.cluster import Cluster

SECRET: Final = "cacerts"  # noqa: S105 - the Secret's name
SELF_SIGNED: Final = "istio-ca-secret"
FILES: Final = ("ca-cert.pem", "ca-key.pem", "root-cert.pem", "cert-chain.pem")
TLS_FILES: Final = ("tls.crt", "tls.key", "ca.crt")
REVOKED: Final = "ca-crl.pem"
"""Revocation lists beside Istio's own form (1.27 and later): istiod loads no certificate of which it has no list.

Source: security/pkg/pki/util/keycertbundle.go, `Verify`; pilot/pkg/features, PILOT_ENABLE_CA_CRL.
"""
GENERATED: Final = "istio-generated"
"""A key of the Secret where istiod stored its self-signed CA in `cacerts` (USE_CACERTS_FOR_SELF_SIGNED_CA)."""
KUBERNETES_SIGNER: Final = "k8s.io/"
SECURE_PORT: Final = 15012
"""Where istiod serves its CA."""


def is_tls(data: Mapping[str, object]) -> bool:
    """Return whether istiod reads a Secret in the form of kubernetes.io/tls: `tls.crt` decides."""
    return TLS_FILES[0] in data


def present(data: Mapping[str, object]) -> bool:
    """Return whether istiod finds a CA at all in a mounted Secret; of one with other keys only it takes no notice."""
    return any(name in data for name in (TLS_FILES if is_tls(data) else FILES))


def missing(data: Mapping[str, bytes]) -> list[str]:
    """Return the files that istiod does not start without; an empty cert-chain.pem is enough for a self-signed CA."""
    names = TLS_FILES if is_tls(data) else FILES
    return [name for name in names if name not in data or not (data[name] or name == FILES[3])]


def as_loaded(data: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return what istiod loads of a Secret, by the names of Istio's own form; what is missing is left out.

    In the form of kubernetes.io/tls the signing certificate is the first of `tls.crt`, the chain is `tls.crt` followed
    by `ca.crt`, with no line end between them, and the roots are `ca.crt`.
    """
    if not is_tls(data):
        return {name: data[name] for name in (*FILES, REVOKED) if name in data}
    certificate, key, root = (data.get(name, b"") for name in TLS_FILES)
    parts = (certificate, key, root, certificate + root)
    return {name: part for name, part in zip(FILES, parts, strict=True) if part.strip()}


def self_signed_as_loaded(data: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return what istiod loads of `istio-ca-secret`: its one certificate is signer, chain and root."""
    own = data.get(FILES[0], b"")
    return dict(zip(FILES, (own, data.get(FILES[1], b""), own, own), strict=True))


def signed_by_others(cluster: Cluster, namespace: str) -> str:
    """Return who signs workload certificates in a cluster in place of its istiods, and how one sees it; else nothing.

    Such as `istio-csr at cert-manager-istio-csr.cert-manager.svc:443 (ENABLE_CA_SERVER=false)`. The Secrets `cacerts`
    and `istio-ca-secret` mean nothing there. Where one of several istiods signs by itself, nothing is returned.
    """
    signers = [other_signer(cluster, istiod) for istiod in istiods(cluster, namespace)]
    return signers[0] if signers and all(signers) else ""


def other_signer(cluster: Cluster, istiod: Istiod) -> str:
    """Return `signed_by_others` of one istiod.

    With EXTERNAL_CA the Kubernetes API signs for workloads, also where istiod signs its own certificate by another
    PILOT_CERT_PROVIDER (startCA).
    """
    env, address = istiod.env, ca_address(cluster, istiod)
    # An external istiod has an address of its own, which proxies are given so, too: it signs by itself.
    own = address.startswith("istiod") or address.endswith(f":{SECURE_PORT}")
    outside = "" if own else address
    provider = env.get("PILOT_CERT_PROVIDER", "")
    if not is_on(env, "ENABLE_CA_SERVER", default=True):
        return f"{_named(address)} (ENABLE_CA_SERVER=false)"
    if external := env.get("EXTERNAL_CA"):
        if provider.startswith(KUBERNETES_SIGNER):
            return f"the Kubernetes signer {provider.removeprefix(KUBERNETES_SIGNER)} (PILOT_CERT_PROVIDER={provider})"
        signer = env.get("K8S_SIGNER") or env.get("CERT_SIGNER_DOMAIN") or "that proxies name"
        return f"the Kubernetes signer {signer} (EXTERNAL_CA={external})"
    return f"{_named(outside)} (global.caAddress)" if outside else ""


def _named(address: str) -> str:
    if not address:
        return "no istiod, and no global.caAddress names who does"
    return f"{'istio-csr' if 'istio-csr' in address else 'another CA'} at {address}"


def csr_cluster_id(cluster: Cluster, address: str) -> str:
    """Return the one cluster id that an istio-csr takes from proxies; empty where its Deployment is not found.

    Source: its chart's `--cluster-id` (app.server.clusterID), by default `Kubernetes`. Its Deployment has the name of
    its Service.
    """
    service, _, rest = address.partition(":")[0].partition(".")
    found = cluster.find("deployments.v1.apps", rest.partition(".")[0], service) if rest else None
    if found is None:
        return ""
    words = [word for one in found["spec"]["template"]["spec"]["containers"] for word in one.get("args") or []]
    return next((word.partition("=")[2] for word in words if word.startswith("--cluster-id=")), "Kubernetes")


def ca_address(cluster: Cluster, istiod: Istiod) -> str:
    """Return values.global.caAddress, which injection gives each proxy as CA_ADDR; empty: its istiod.

    Source: manifests/charts/istio-control/istio-discovery, files/injection-template.yaml.
    """
    suffix = "" if istiod.revision in ("", "default") else f"-{istiod.revision}"
    found = cluster.find("configmaps", istiod.namespace, f"istio-sidecar-injector{suffix}") or {}
    try:
        values = json.loads((found.get("data") or {}).get("values") or "{}")
        return str((values.get("global") or {}).get("caAddress") or "")
    except (ValueError, AttributeError):
        return ""
