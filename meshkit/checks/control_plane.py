"""Checks of each cluster's istiods: their ids, and the cluster ids that they accept."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from urllib.parse import unquote

import pandas as pd

from meshkit.checks.finding import Finding, Verdict
from meshkit.checks.installers import owner
from meshkit.checks.question import Question, arrow
from meshkit.istio.ca.trust_store import Certificates
from meshkit.istio.control_plane.primaries import ANNOTATION, EXTERNAL, Remote
from meshkit.istio.control_plane.revisions import REVISION, named
from meshkit.istio.control_plane.versions import ControlPlane, Identity, outside
from meshkit.kube.mesh import Mesh


def only_signer(mesh: Mesh) -> str:
    """Return the cluster whose istiod is to sign for all clusters, or an empty text where several do."""
    primaries = {mesh.spec.primary_of(name) for name in mesh.clusters}
    return next(iter(primaries)) if mesh.spec.remotes and len(primaries) == 1 else ""


def joined(mesh: Mesh, identity: Identity) -> list[str]:
    """Return the clusters whose pods can have sidecars: a remote's, from when its primary's istiod watches it.

    That istiod then writes its CA bundle into the remote's webhooks (pilot/pkg/bootstrap, initMulticluster).
    """
    served = [remote for name in mesh.clusters for remote in _served(identity, name)]
    ready = {str(remote) for remote in served if remote.injects and not (remote.unsigned or remote.stale)}
    return [name for name in mesh.clusters if name not in mesh.spec.remotes or name in ready]


def of_proxies(mesh: Mesh, certificates: Certificates, findings: Iterable[Finding]) -> Iterator[Finding]:
    """Yield findings about proxies; before stage 07 ends, that a remote cluster has none is skipped, not failed."""
    for one in findings:
        bare = one.subject in mesh.spec.remotes and certificates.lacks(one.subject)
        if one.verdict is Verdict.FAIL and bare:
            told = f"{one.observed}; the first of them come in stage 07"
            yield replace(one, verdict=Verdict.SKIPPED, observed=told, remedy="")
        else:
            yield one


def check_istiods(
    mesh: Mesh, identity: Identity, *, joining: bool = False, silent: Collection[str] = ()
) -> Iterator[Finding]:
    """MK801: every cluster has an istiod that answers, with the ids, network and trust domain of the mesh file.

    A remote cluster, which another's istiod serves, has none, and what that istiod needs there. While one is `joining`,
    that istiod need not watch it yet: stage 07 sees to that. From `silent` clusters a new connection got no answer.
    """
    remotes = [remote for name in mesh.clusters for remote in _served(identity, name)]
    for remote in remotes:
        joins = joining and str(remote) in mesh.spec.remotes
        yield check_remote(mesh, identity, remote, joining=joins, silent=str(remote) in silent)
    for entry in mesh.spec.clusters:
        if entry.name in map(str, remotes):
            continue
        if entry.name in mesh.spec.remotes and not (identity.unknown(entry.name) or outside(identity, entry.name)):
            yield _unserved(mesh, identity, entry.name)
            continue
        expected = _identity(entry.name, entry.network, mesh.spec.mesh.id, mesh.spec.mesh.trust_domain)
        ask = Question("MK801", "istiod is who the mesh file says", entry.name, expected)
        kubectl = f"kubectl --context {entry.context} get pods"
        if reason := outside(identity, entry.name):
            told = "name that istiod's cluster under `clusters:` too, or ask there: istioctl remote-clusters"
            yield ask.unknown(reason, told)
        elif identity.lacks(entry.name):
            yield ask.fail("no istiod runs there", f"{kubectl} -n {mesh.root_namespace} -l app=istiod")
        for unread in identity.unread_in(entry.name):
            yield ask.unknown(unread.reason, f"does it answer? `{kubectl} -A`")
        for one in identity.of(entry.name):
            # Istio's guide labels no namespace where one network is all there is: injection says the network.
            injected = one.injected_network or entry.network
            network = one.network or (injected if mesh.spec.topology.network == "flat" else "")
            observed = _identity(one.cluster_id, network, one.mesh_id, one.trust_domain)
            wrong = "correct the mesh file, or the installation (values.global)"
            yield ask.judge(observed == expected, observed, wrong)


def _unserved(mesh: Mesh, identity: Identity, name: str) -> Finding:
    """Say of a cluster that the mesh file calls a remote that no other cluster's istiod serves it."""
    expected = f"none of its own: {mesh.spec.primary_of(name)}'s serves it"
    ask = Question("MK801", "istiod is who the mesh file says", name, expected)
    own = ", ".join(one.istiod for one in identity.of(name))
    remedy = "say `controlPlane: multi-primary` in the mesh file, if each is to have its own" if own else "run stage 05"
    return ask.fail(f"it has {own}" if own else "nothing of it leads to an istiod", remedy)


def _served(identity: Identity, name: str) -> list[Remote]:
    """Return the remote clusters of a primary, each once however many replicas it has."""
    return list(dict.fromkeys(remote for one in identity.of(name) for remote in one.serves))


def check_remote(
    mesh: Mesh, identity: Identity, remote: Remote, *, joining: bool = False, silent: bool = False
) -> Finding:
    """MK801 of a remote cluster: no istiod of its own, and the primary's can lead there and give its pods sidecars.

    While it is `joining`, its webhooks need no CA bundle yet. If it is `silent`, that its proxies are connected proves
    nothing: a connection outlives the path by which it was made.

    Source: pilot/pkg/serviceregistry/kube/controller/multicluster.go (checkShouldLead), pilot/pkg/bootstrap.
    """
    name, primary = remote.cluster, remote.primary
    ask = Question("MK801", "istiod is who the mesh file says", name, f"none of its own: {primary}'s serves it")
    observed = f"{primary}'s istiod serves it: {remote.found_by}"
    if mesh.spec.topology.control_plane == "multi-primary":
        return ask.fail(observed, "say `topology: {controlPlane: primary-remote}` in the mesh file, if that is meant")
    wrong = _not_led(mesh, identity, remote) or _not_injected(mesh, remote, silent=silent)
    if joining and not wrong and (remote.unsigned or remote.stale):
        return ask.answer(Verdict.SKIPPED, f"{observed}; its webhooks get a CA bundle in stage 07")
    lacks, remedy = wrong or _not_trusted(mesh, identity, remote) or ("", "")
    return ask.judge(not lacks, f"{observed}; {lacks}" if lacks else observed, remedy)


def _not_led(mesh: Mesh, identity: Identity, remote: Remote) -> tuple[str, str] | None:
    """Return why a primary's istiod does not lead in a remote, and what to do."""
    name, primary, root = remote.cluster, remote.primary, mesh.root_namespace
    if remote.own:
        remedy = f"remove one of the two: the installation in {name}, or the annotation {ANNOTATION} of its namespace"
        return "an istiod of its own runs there, too", f"{remedy} {root}"
    if not remote.external:
        then = f"which installs {primary} with values.global.externalIstiod: true"
        return f"that istiod is without {EXTERNAL}", f"run stage 05, {then}; until then pods of {name} get no root"
    ids = sorted({one.cluster_id for one in identity.of(primary)})
    if name in ids or {*ids, "*"} & {*remote.leaders}:
        return None
    annotate = f"{_kubectl(mesh, name)} annotate namespace {root} {ANNOTATION}={','.join(ids)} --overwrite"
    again = f"{_kubectl(mesh, primary)} -n {root} rollout restart deployment -l app=istiod"
    lacks = f"{ANNOTATION} names {', '.join(remote.leaders) or 'nobody'}"
    return lacks, f"{annotate}; istiod reads that at its start: {again}"


def _not_injected(mesh: Mesh, remote: Remote, *, silent: bool) -> tuple[str, str] | None:
    """Return why no webhook of a remote leads new pods to its primary's istiod as what they are, and what to do."""
    name, primary = remote.cluster, remote.primary
    if not remote.injects:
        return "it has no injection webhook, so its pods get no sidecar", "run stage 05"
    if wrong := [path for path in remote.claims if _claimed(path).get("cluster", name) != name]:
        path = f"/inject/cluster/{name}/net/{mesh.spec.cluster(name).network}"
        lacks = f"new pods of it claim {', '.join(wrong)}, and {primary}'s istiod knows no such cluster"
        return lacks, f"run stage 05, which installs it with values.istiodRemote.injectionPath: {path}"
    if remote.astray and (silent or not remote.connected):
        remedy = "run stage 05, which offers it; or install"
        lacks = f"its webhooks and proxies lead to {', '.join(remote.astray)}, where no Service offers that istiod"
        return lacks, f"{remedy} {name} with values.global.remotePilotAddress: its address"
    return None


def _not_trusted(mesh: Mesh, identity: Identity, remote: Remote) -> tuple[str, str] | None:
    """Return why a remote's API server does not trust the istiod that its webhooks call, and what to do."""
    name, primary = remote.cluster, remote.primary
    if remote.unsigned:
        lacks = f"no CA bundle yet in {', '.join(remote.unsigned)}: the API server refuses its pods"
        return lacks, f"does {primary}'s istiod watch {name}? see MK802 to MK804 of {arrow(primary, name)}"
    if not remote.stale:
        return None
    label = f"{REVISION}={named(next((one.revision for one in identity.of(primary)), ''))}"
    remedy = f"{primary}'s istiod writes its root into those with the label {label}, and into no others"
    lacks = f"the CA bundle of {', '.join(remote.stale)} has no root of {primary}: the API server refuses its pods"
    hooks = f"mutatingwebhookconfiguration {' '.join(remote.stale)}"
    return lacks, f"{remedy}: {_kubectl(mesh, name)} label {hooks} {label} --overwrite"


def _kubectl(mesh: Mesh, name: str) -> str:
    return f"kubectl --context {mesh.spec.cluster(name).context}"


def _claimed(path: str) -> dict[str, str]:
    """Return what the path of an injection webhook says: names and values in turn."""
    parts = [unquote(part) for part in path.strip("/").split("/")]
    return dict(zip(parts[::2], parts[1::2], strict=False))


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
            yield ask.answer(Verdict.SKIPPED, "it has no proxy" if own else "it has no istiod of its own")
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
