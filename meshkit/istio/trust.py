"""The trust facts of all clusters in one reading, and the CA state of each cluster from them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import pandas as pd

from meshkit import clock
from meshkit.istio.ca import ca_files, certificates, istiod_ca, model, strategy, trust_store
from meshkit.istio.ca.model import SHORT, Choice, ClusterCaState, Offer
from meshkit.istio.ca.trust_store import Certificates, Roots, RootSource
from meshkit.istio.config import authorization_policies
from meshkit.istio.control_plane import versions
from meshkit.istio.control_plane.versions import Identity
from meshkit.istio.multicluster import discovery_pause
from meshkit.istio.proxies import new_pods, workloads
from meshkit.kube.mesh import Mesh
from meshkit.tables import of_cluster


@dataclass(frozen=True)
class TrustFacts:
    """The readings; each table is that of the function with its name. `offer` is the user's own CA."""

    identity: Identity
    authorities: pd.DataFrame
    signers: pd.DataFrame
    certificates: Certificates
    roots: Roots
    handed: pd.DataFrame
    workloads: pd.DataFrame
    policies: pd.DataFrame
    readings: pd.DataFrame
    offer: Offer | None = None
    new_pods: new_pods.NewPodFacts | None = None


def look(mesh: Mesh) -> TrustFacts:
    """Read every cluster's CA, the signing certificates of its istiods, and its proxies' certificates; changes nothing.

    Raises:
        InputError: trust.rootDirectory is named, and what it holds is no CA for all clusters.
    """
    answers = mesh.read_all(
        identity=versions.identity,
        authorities=istiod_ca.authorities,
        signers=istiod_ca.signers,
        certificates=trust_store.certificates,
        roots=trust_store.roots,
        handed=trust_store.distributed_roots,
        workloads=workloads.workloads,
        policies=authorization_policies.trust_domains,
        readings=discovery_pause.readings,
        new_pods=new_pods.look,
    )
    return with_offer(mesh, TrustFacts(**answers))


def with_offer(mesh: Mesh, facts: TrustFacts) -> TrustFacts:
    """Return facts with the user's own CA, if the mesh file names one.

    Raises:
        InputError: trust.rootDirectory is named, and what it holds is no CA for all clusters.
    """
    offer, own = offered(mesh)
    if offer is None:
        return facts
    return replace(facts, authorities=pd.concat([facts.authorities, own], ignore_index=True), offer=offer)


def offered(mesh: Mesh) -> tuple[Offer | None, pd.DataFrame]:
    """Return the user's own CA, if the mesh file names one, and its root as a table of `istiod_ca.authorities`.

    Raises:
        InputError: trust.rootDirectory is named, and what it holds is no CA for all clusters.
    """
    files = provided_ca(mesh)
    if files is None:
        return None, istiod_ca.AUTHORITIES.frame([])
    row = {"secret": "trust.rootDirectory", **istiod_ca.parse_root(files.root)}
    signers = {name: certificates.fingerprint(one.certificate) for name, one in files.plugged.items()}
    return Offer(certificates.fingerprint(files.root), signers), istiod_ca.AUTHORITIES.frame([row])


def provided_ca(mesh: Mesh) -> ca_files.ProvidedCA | None:
    """Return the CA of the mesh file's `trust.rootDirectory`, if it names one."""
    trust = mesh.spec.trust
    if not trust.root_directory:
        return None
    return ca_files.read_directory(trust.root_directory, mesh.clusters, trust.passphrase_from)


def choose(mesh: Mesh, facts: TrustFacts) -> Choice:
    """Return the strategy for one common root, by `strategy.choose_strategy`."""
    return strategy.choose_strategy(states(mesh, facts), facts.offer, mesh.spec.trust.strategy)


def states(mesh: Mesh, facts: TrustFacts) -> list[ClusterCaState]:
    """Return the CA state of each cluster, for `strategy.choose_strategy`."""
    return [state_of(facts, name, mesh.spec.trust.renew_before) for name in mesh.clusters]


def state_of(facts: TrustFacts, name: str, renew_before: float = 0.0) -> ClusterCaState:
    """Return the CA state of one cluster; its intermediate is due for renewal `renew_before` seconds before its end."""
    secrets = of_cluster(facts.authorities, name)
    unread = [*secrets["reason"], *(one.reason for one in facts.certificates.unread_in(name) if not one.proxy)]
    if reason := next(filter(None, unread), ""):
        return ClusterCaState(name, reason=reason)
    keys = frozenset(secrets[(secrets["sha256"] == secrets["root"]) & (secrets["problem"] == "")]["root"])
    anchors = frozenset(one.anchor for one in facts.certificates.of(name)) - {""}
    known: dict[str, Any] = {"live": not facts.certificates.lacks(name), "keys": keys, "anchors": anchors}
    used = secrets[secrets["used"]]
    if used.empty:
        return _from_proxies(facts, name, known)
    row = used.iloc[0]
    plugged = row["secret"] == model.SECRET
    left, beyond = row["not_after"] - clock.now(), row["root_not_after"] - row["not_after"]
    return ClusterCaState(
        name,
        **known,
        root=row["root"],
        signer=row["sha256"],
        plugged=plugged,
        bundle=frozenset(row["roots"].split(",")) - {""},
        # One that ends with its root cannot be given a longer life.
        ends=plugged and left.total_seconds() < renew_before and beyond > timedelta(days=1),
        problem=row["problem"],
        owner=row["owner"],
        owner_source=row["owner_source"],
    )


def _from_proxies(facts: TrustFacts, name: str, known: dict[str, Any]) -> ClusterCaState:
    """Return the CA state of a cluster whose istiods do not sign, from the roots that its proxies trust or will get.

    A remote cluster's proxies have another cluster's istiod as their CA; elsewhere istio-csr or the like signs.
    """
    by = signed_by_others(facts, name)
    source = RootSource.CONFIG_MAPS if by and not known["live"] else RootSource.PROXIES
    digests = sorted({one.sha256 for one in facts.roots.of(name, source)} - {""})
    shown = [digest for digest in digests if digest[:SHORT] in known["anchors"]]
    bundle = frozenset(digest[:SHORT] for digest in digests)
    state = ClusterCaState(name, **known, root=next(iter([*shown, *digests]), ""), bundle=bundle)
    if not by:
        return state
    # istiod's Secrets are not used for signing there.
    where = f"the issuer that {by.partition(' (')[0]} uses"
    return replace(state, keys=frozenset(), owner=by, owner_source=where, signs_elsewhere=True)


def signed_by_others(facts: TrustFacts, name: str) -> str:
    """Return the CA that signs in place of a cluster's istiods, or an empty text."""
    return next(filter(None, of_cluster(facts.authorities, name)["signed_by_others"]), "")
