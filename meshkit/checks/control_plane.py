"""Checks of each cluster's istiods: their ids, and the cluster ids that they accept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pandas as pd

from meshkit.checks.finding import Finding, Verdict
from meshkit.checks.installers import owner
from meshkit.checks.question import Question
from meshkit.istio.control_plane.versions import ControlPlane, Identity
from meshkit.kube.mesh import Mesh


def check_istiods(mesh: Mesh, identity: Identity) -> Iterator[Finding]:
    """MK801: every cluster has an istiod that answers, with the ids, network and trust domain of the mesh file."""
    for entry in mesh.spec.clusters:
        expected = _identity(entry.name, entry.network, mesh.spec.mesh.id, mesh.spec.mesh.trust_domain)
        ask = Question("MK801", "istiod is who the mesh file says", entry.name, expected)
        kubectl = f"kubectl --context {entry.context} get pods"
        if identity.lacks(entry.name):
            yield ask.fail("no istiod runs there", f"{kubectl} -n {mesh.root_namespace} -l app=istiod")
        for unread in identity.unread_in(entry.name):
            yield ask.unknown(unread.reason, f"can `{kubectl} -A` answer?")
        for one in identity.of(entry.name):
            # Istio's guide labels no namespace where one network is all there is: injection says the network.
            injected = one.injected_network or entry.network
            network = one.network or (injected if mesh.spec.topology.network == "flat" else "")
            observed = _identity(one.cluster_id, network, one.mesh_id, one.trust_domain)
            wrong = "correct the mesh file, or the installation (values.global)"
            yield ask.judge(observed == expected, observed, wrong)


def check_accepted(mesh: Mesh, identity: Identity, claims: pd.DataFrame, inventory: pd.DataFrame) -> Iterator[Finding]:
    """MK843: each istiod takes the cluster ids that proxies of its cluster claim: its own, or an alias of it.

    It refuses the tokens of all others, so they get no certificate and no configuration any more; what they have goes
    on until the certificate ends, and nobody notices before. So it is when values of before a migration are applied
    again, by `helm upgrade` or Argo CD: istiod forgets its id, and its proxies still have it.

    Args:
        mesh: the mesh.
        identity: of `istio.versions.identity`.
        claims: of `istio.proxies.claims`.
        inventory: of `istio.platform.inventory`, for who installed istiod.

    Source: KubeJWTAuthenticator (security/pkg/server/ca/authenticate/kubeauth).
    """
    installers = dict(zip(inventory["cluster"], inventory["installer"], strict=True))
    for name in mesh.clusters:
        ask = Question("MK843", "istiod takes the ids that its proxies claim", name, "its own id, or an alias of it")
        own, rows = identity.of(name), claims[claims["cluster"] == name]
        if reason := next(filter(None, [identity.unknown(name), *rows["reason"]]), ""):
            yield ask.unknown(reason)
        elif not own or rows.empty:
            yield ask.answer(Verdict.SKIPPED, "it has no proxy" if own else "it has no istiod")
        else:
            yield _accepted(ask, mesh, name, own, rows, str(installers.get(name) or ""))


def _accepted(  # noqa: PLR0917  (the question, the cluster, its istiods and proxies, and who installed it)
    ask: Question, mesh: Mesh, name: str, own: Sequence[ControlPlane], rows: pd.DataFrame, installer: str
) -> Finding:
    common = frozenset.intersection(*(one.accepted_ids for one in own))
    claimed = rows["cluster_id"].replace("", "Kubernetes")
    refused = rows[~claimed.isin(common)]
    told = f"{len(rows)} proxies; istiod takes {', '.join(sorted(common)) or 'no id in common'}"
    if refused.empty:
        return ask.answer(Verdict.PASS, told)
    ids = ", ".join(sorted(set(claimed[~claimed.isin(common)])))
    first = refused.iloc[0]
    observed = (
        f"{len(refused)} of {told}: it refuses those that claim {ids}, such as {first['namespace']}/{first['proxy']}"
    )
    entry = mesh.spec.cluster(name)
    remedy = (
        f"carry global.multiCluster.clusterName: {name}, global.network: {entry.network} and global.meshID:"
        f" {mesh.spec.mesh.id} into {owner(installer)}, and apply that; then restart the workloads whose proxies claim"
        " another id"
    )
    return ask.fail(observed, remedy)


def _identity(cluster_id: str, network: str, mesh_id: str, trust_domain: str) -> str:
    return f"id {cluster_id}, network {network or 'none'}, mesh {mesh_id or 'none'}, trust domain {trust_domain}"
