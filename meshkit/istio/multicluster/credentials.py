"""Whether a credential that istiod reads a cluster with is worth anything: it is tried at the API server.

Belongs here: one token at one cluster. Does not: which secrets there are, and what else they say (`remote_secrets`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from typing import Final
from urllib.parse import urlsplit

from meshkit.errors import MeshkitError
from meshkit.istio.multicluster import jwt, reader_tokens
from meshkit.kube.cluster import Cluster
from meshkit.kube.pem import bundle
from meshkit.kube.transport import NotFoundError

TRY_TIMEOUT = 5.0
_NO_REASON: Final = "revoked, or of another cluster"


class Credential(StrEnum):
    """What came of trying a remote secret's credential."""

    OK = "ok"
    WRONG_CLUSTER = "mismatch"
    REFUSED = "401"
    FORBIDDEN = "403"
    WRONG_CA = "other CA"
    REJECTED = "rejected"
    """istiod itself refuses the kubeconfig: see `secret_kubeconfig.SecretKubeconfig.refusal`."""
    UNREACHABLE = "unreachable"
    NOT_TESTED = "untested"

    @property
    def known(self) -> bool:
        """Whether the try says anything of the credential."""
        return self not in (Credential.UNREACHABLE, Credential.NOT_TESTED)


@dataclass(frozen=True)
class Proof:
    """The outcome of trying a credential."""

    credential: Credential
    detail: str = ""
    tried_at: str = ""
    leads_to: str = ""


def try_token(cluster: Cluster, token: str, ca: bytes, namespace: str) -> Proof:
    """Try a token at our own address of a cluster; where that refuses it, our own credential asks what it is worth.

    Our address may be an authenticating proxy's, as Rancher's or Teleport's: it takes its own tokens only, and istiod
    goes to the API server itself.
    """
    proof = _ask(cluster.with_token(token, ca, timeout=TRY_TIMEOUT), namespace)
    if proof.credential is Credential.UNREACHABLE:
        # A proxy before the API server may end TLS with a certificate that the secret's CA need not know.
        again = _ask(cluster.with_token(token, timeout=TRY_TIMEOUT), namespace)
        if again.credential is Credential.UNREACHABLE:
            return again
        note = f"with the secret's own CA: {proof.detail}"
        if again.credential is Credential.OK and _strange(cluster, ca):
            return Proof(Credential.WRONG_CA, f"its CA is not that of the cluster; {note}")
        proof = replace(again, detail="; ".join(filter(None, (again.detail, note))))
    if proof.credential is not Credential.REFUSED:
        return proof
    why, sure = _why_refused(cluster, token)
    reviewed = None if sure else _reviewed(cluster, token, namespace)
    if reviewed and reviewed.credential is not Credential.REFUSED:
        return reviewed
    if not sure and not reviewed and urlsplit(cluster.server).path.strip("/"):
        told = f"our address {cluster.server} seems to be an authenticating proxy's, which refuses it (401)"
        return Proof(Credential.NOT_TESTED, told)
    return replace(proof, detail=why or proof.detail)


def _strange(cluster: Cluster, ca: bytes) -> bool:
    """Tell whether a CA has no certificate in common with the one that the cluster's own pods are given."""
    try:
        published = cluster.find("configmaps", "default", "kube-root-ca.crt") or {}
    except MeshkitError:
        return False
    own = bundle(str((published.get("data") or {}).get("ca.crt", "")).encode(errors="replace"))
    return bool(own) and not own & bundle(ca)


def _why_refused(cluster: Cluster, token: str) -> tuple[str, bool]:
    """Return why a token is refused, as far as that can be found out, and whether that is certain."""
    ends = jwt.ends(token)
    if ends and ends < datetime.now(UTC):
        return f"expired: it ended {ends:%Y-%m-%d %H:%M} UTC", True
    (namespace, account), (secret, uid) = jwt.account(token), jwt.secret(token)
    if not account:
        return "no token that Kubernetes issued to a ServiceAccount", False
    try:
        if cluster.find("serviceaccounts", namespace, account) is None:
            return f"revoked: its ServiceAccount {namespace}/{account} is gone", True
        held = cluster.find("secrets", namespace, secret) if secret else {"metadata": {"uid": uid}}
    except MeshkitError:
        return "", False
    changed = "is gone" if held is None else "was replaced" if uid and held["metadata"]["uid"] != uid else ""
    return (f"revoked: its Secret {namespace}/{secret} {changed}", True) if changed else (_NO_REASON, False)


def _reviewed(cluster: Cluster, token: str, namespace: str) -> Proof | None:
    """Return what the API server says of a token that our address refuses; None where we may not ask."""
    try:
        status = cluster.review_token(token)
    except MeshkitError:
        return None
    user = status.get("user")
    if not status.get("authenticated") or not isinstance(user, dict):
        return Proof(Credential.REFUSED, _NO_REASON)
    try:
        return _rights(partial(cluster.can_i, user=user), namespace)
    except MeshkitError as error:
        unsure = f"the token is good (TokenReview), its rights are not known: {error.message}"
        return Proof(Credential.NOT_TESTED, unsure)


def _ask(cluster: Cluster, namespace: str) -> Proof:
    try:
        cluster.get_json("/api/v1/services", query=[("limit", "1")], having="items")
        return _rights(cluster.can_i, namespace)
    except MeshkitError as error:
        codes = (Credential.REFUSED, Credential.FORBIDDEN)
        refused = next((code for code in codes if f"({code.value})" in error.message), Credential.UNREACHABLE)
        return Proof(refused, error.message)


def _rights(may: Callable[[str, str, str | None], bool], namespace: str) -> Proof:
    """Return whether a credential may watch all that istiod reads; `may` is `Cluster.can_i`."""
    missing = [*_not_watched(may)]
    in_root = may("watch", reader_tokens.WATCHED_IN_ROOT, namespace)
    # Istio's own reader may not in 1.28 and before, whose istiods do not ask for them (istio/istio#58455): no refusal.
    lacking = [*missing, *([] if in_root else [f"{reader_tokens.WATCHED_IN_ROOT} of {namespace}"])]
    detail = f"may not watch {', '.join(lacking)}" if lacking else ""
    return Proof(Credential.FORBIDDEN if missing else Credential.OK, detail)


def _not_watched(may: Callable[[str, str, str | None], bool]) -> Iterator[str]:
    for group, kinds in reader_tokens.WATCHED.items():
        for kind in kinds:
            try:
                if not may("watch", f"{kind}.{group}" if group else kind, None):
                    yield kind
            except NotFoundError:  # what the cluster does not serve, istiod does not ask for
                continue
