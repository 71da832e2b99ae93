"""Discovery between clusters without a common root is paused until the root rotation is done.

While only one of two clusters trusts the other, a server refuses a client only after the client has sent its request,
and Envoy does not retry that. Measured with Istio 1.31: of 1,020 requests to a Service that both clusters serve, 87
were lost between the first cluster's new roots and the second's. The restart of an east-west gateway cuts requests in
flight, too: 10 of 9,779 were lost by those of the later phases, when the two already trusted each other. So the label
that makes an istiod read a remote secret is taken off meanwhile. No call between the two succeeded before either:
Services that only the other cluster has are as unreachable as before.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterator, Sequence

import pandas as pd

from meshkit.changes.plan import Plan
from meshkit.checks import known_defects
from meshkit.istio.ca.model import ClusterCaState
from meshkit.istio.control_plane.istiods_and_proxies import ask_proxies
from meshkit.istio.multicluster import gateways, remote_secrets, sync_wait
from meshkit.istio.multicluster.discovery_pause import pairs_without_common_root
from meshkit.istio.proxies import envoy_admin
from meshkit.kube.manifests import Object
from meshkit.kube.mesh import Mesh, Unknown
from meshkit.kube.wait import Wait, in_turn
from meshkit.stages import istiod_restart


def pause(wanted: Plan, known: pd.DataFrame, states: Sequence[ClusterCaState]) -> None:
    """Want discovery paused between clusters of which one does not trust the other yet."""
    pairs = pairs_without_common_root(states)
    for row in known[known["targets"] != ""].to_dict("records"):
        reader, targets = row["cluster"], row["targets"].split(",")
        if all((reader, target) in pairs for target in targets):
            others = " and ".join(targets)
            why = f"apart: {reader} and {others} have no common root yet; requests between them could be lost"
            wait = wait_until_unwatched(wanted.mesh, reader, targets)
            wanted.patch(reader, manifest(wanted.mesh, row["secret"], paused=True), why, wait=wait)


def resume(wanted: Plan, known: pd.DataFrame, signers: pd.DataFrame) -> None:
    """Want discovery resumed where it is paused: by earlier runs, and by this plan."""
    mesh = wanted.mesh
    asked = {(c.cluster, str(c.manifests[0]["metadata"]["name"])) for c in wanted.changes if is_pause(c.manifests)}
    for row in known.to_dict("records"):
        reader, targets = row["cluster"], row["targets"].split(",")
        if not row["paused"] and (reader, row["secret"]) not in asked:
            continue
        waits = [sync_wait.discovered(mesh, reader, target, {}) for target in targets]
        why = f"together: resume discovery, {reader} and {' and '.join(targets)} now share a root"
        again = functools.partial(wanted.patch, reader, manifest(mesh, row["secret"], paused=False), why)
        apply_and_restart_if_defective(wanted, signers, reader, again, in_turn(waits))


def apply_and_restart_if_defective(
    wanted: Plan, signers: pd.DataFrame, reader: str, want: Callable[..., None], wait: Wait
) -> None:
    """Want a change of a remote secret, and a restart of its istiods where their release has the reload bug."""
    defective = known_defects.needs_restart_after_secret_change(signers.assign(component="istiod"), reader)
    want(wait=None if defective else wait)
    if defective:
        istiod_restart.restart_istiods(wanted, reader, wait)


def is_pause(manifests: Sequence[Object]) -> bool:
    """Tell whether a change, by its manifests, pauses or resumes discovery of a cluster."""
    return any(remote_secrets.is_paused(m["metadata"]) for m in manifests)


def wait_until_restored(mesh: Mesh, reader: str, before: Object) -> Wait:
    """Return a wait until a restored remote secret shows its effect: its clusters are watched, or no longer watched."""
    targets = tuple(sorted(before.get("data") or {}))
    if (before["metadata"].get("labels") or {}).get(remote_secrets.LABEL) == "true":
        return in_turn([sync_wait.discovered(mesh, reader, target, {}) for target in targets])
    return wait_until_unwatched(mesh, reader, targets)


def manifest(mesh: Mesh, name: str, *, paused: bool) -> Object:
    """Return the merge patch that pauses a remote secret, or lets it be read again."""
    place = {"name": name, "namespace": mesh.root_namespace}
    labels, notes = (
        {remote_secrets.LABEL: None if paused else "true"},
        {remote_secrets.PAUSED: "true" if paused else None},
    )
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {**place, "labels": labels, "annotations": notes}}


def wait_until_unwatched(mesh: Mesh, reader: str, targets: Collection[str]) -> Wait:
    """Return a wait until no istiod of a reader watches the targets, and none of its proxies has an endpoint there."""
    alone = Mesh(mesh.spec, {reader: mesh.clusters[reader]})
    ways = _addresses(mesh, reader, targets)

    def missing() -> str:
        watched = remote_secrets.remote_clusters(alone)
        watching = [f"{one.istiod} still watches {one.remote}" for one in watched if one.remote in targets]
        watching += [f"{one.istiod} still watches {one.reason}" for one in watched.unread]
        if watching:
            return ", ".join(watching)
        for name, proxy, answer in ask_proxies(alone, envoy_admin.clusters):
            if isinstance(answer, Unknown):
                return f"{proxy.name if proxy else name} cannot be read: {answer.reason}"
            if proxy and (held := ways.intersection(map(str, answer["address"]))):
                return f"{proxy.name}.{proxy.namespace} still has {min(held)}"
        return ""

    return missing


def _addresses(mesh: Mesh, reader: str, targets: Collection[str]) -> set[str]:
    """Return the addresses (`IP:port`) by which a reader's proxies reach targets: gateways; pods of its own network."""
    apart = {name for name in targets if name in mesh.clusters and mesh.spec.crosses(reader, name)}
    offered = (one for one in gateways.gateways(mesh) if one.cluster in apart)
    found = {f"{address}:{one.port}" for one in offered for address in one.addresses}
    return found | set(_of_pods(mesh, {*targets} - apart))


def _of_pods(mesh: Mesh, targets: Collection[str]) -> Iterator[str]:
    for name in targets:
        for piece in mesh.clusters[name].get("endpointslices.v1.discovery.k8s.io") if name in mesh.clusters else ():
            for endpoint in piece.get("endpoints") or []:
                for port in piece.get("ports") or []:
                    yield from (f"{address}:{port['port']}" for address in endpoint["addresses"])
