"""Clusters that read each other and do not trust each other yet are kept apart until the overlap is done.

While one trusts the other already and not the other way round, a server refuses a client only after the client has sent
its request: Envoy does not try that again. Measured with Istio 1.31: of 1,020 requests to a Service that both clusters
serve, 87 were lost between the first cluster's new roots and the second's. An east-west gateway that is made anew cuts
what is under way through it, too: 10 of 9,779 were lost by those of the later phases, when the two already trusted each
other. So the label that makes an istiod read a remote secret is taken off for so long; no call between the two
succeeded before either. Services that only the other cluster has are as unreachable as before.
"""

from __future__ import annotations

import functools
import itertools
from typing import TYPE_CHECKING, Any, Final

from meshkit.istio import envoy, networks, remotes
from meshkit.istio.fleet import ask_proxies, table
from meshkit.mesh import Mesh, Unknown
from meshkit.stages import credentials, discovery, joined
from meshkit.stages.finding import Question, arrow
from meshkit.stages.strategy import SHORT
from meshkit.waiting import in_turn

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    import pandas as pd

    from meshkit.changes import Plan
    from meshkit.checks import Finding
    from meshkit.diffs import Object
    from meshkit.stages.strategy import State
    from meshkit.waiting import Wait

COLUMNS: Final = {"cluster": "str", "secret": "str", "targets": "str", "paused": "bool", "reason": "str"}


def readings(mesh: Mesh) -> pd.DataFrame:
    """Return the remote secrets of all clusters that istiods read, or that were paused.

    Columns: cluster (the reader), secret, targets (clusters, with commas), paused, reason (why they cannot be read).
    """
    rows: list[dict[str, Any]] = []
    for name, found in mesh.each(lambda cluster: cluster.get("secrets", mesh.root_namespace)).items():
        if isinstance(found, Unknown):
            rows.append({"cluster": name, "reason": found.reason})
            continue
        for meta, targets in ((secret["metadata"], sorted(secret.get("data") or {})) for secret in found):
            paused = remotes.is_paused(meta)
            if paused or (meta.get("labels") or {}).get(remotes.LABEL) == "true":
                rows.append({"cluster": name, "secret": meta["name"], "targets": ",".join(targets), "paused": paused})
    return table(rows, COLUMNS)


def strangers(states: Sequence[State]) -> set[tuple[str, str]]:
    """Return the pairs of live clusters, both ways round, of which one does not hand out what the other stands by."""
    pairs = itertools.permutations((state for state in states if state.live), 2)
    return {(one.name, other.name) for one, other in pairs if not (_trusts(one, other) and _trusts(other, one))}


def _trusts(one: State, other: State) -> bool:
    stood_by = {other.root[:SHORT], *other.anchors} - {""}
    return stood_by <= one.bundle


def check(known: pd.DataFrame, states: Sequence[State]) -> Iterator[Finding]:
    """MK417: what is read of clusters without common trust can be paused: no secret holds others, too."""
    pairs, expected = strangers(states), "a secret of its own"
    for row in known.to_dict("records") if pairs else ():
        reader, targets = row["cluster"], row["targets"].split(",")
        apart = [target for target in targets if (reader, target) in pairs]
        if not apart and not row["reason"]:
            continue
        subject = arrow(reader, apart[0]) if apart else reader
        ask = Question("MK417", "discovery can be paused until clusters share a root", subject, expected)
        if row["reason"]:
            yield ask.unknown(row["reason"])
            continue
        more = sorted(set(targets) - set(apart))
        cure = "make one remote secret for each cluster (stage 07 does), or requests between them may be lost meanwhile"
        yield ask.judge(not more, f"{row['secret']} also holds {', '.join(more)}" if more else row["secret"], cure)


def check_together(known: pd.DataFrame, name: str) -> Finding:
    """MK420: no remote secret of a cluster is paused any more."""
    rows = known[known["cluster"] == name]
    ask = Question("MK420", "discovery is resumed everywhere", name, "no remote secret is paused")
    if reason := next((r for r in rows["reason"] if r), ""):
        return ask.unknown(reason)
    left = list(rows[rows["paused"]]["secret"])
    told = f"paused: {', '.join(left)}" if left else f"none of {len(rows)}"
    return ask.judge(not left, told, joined.RESUMED_BY)


def pause(wanted: Plan, known: pd.DataFrame, states: Sequence[State]) -> None:
    """Want istiods to forget the clusters that theirs does not trust yet, or that do not trust it."""
    pairs = strangers(states)
    for row in known[known["targets"] != ""].to_dict("records"):
        reader, targets = row["cluster"], row["targets"].split(",")
        if all((reader, target) in pairs for target in targets):
            told = " and ".join(targets)
            why = f"apart: {reader} and {told} do not trust each other yet; requests between could be lost"
            wait = forgotten(wanted.mesh, reader, targets)
            wanted.patch(reader, manifest(wanted.mesh, row["secret"], paused=True), why, wait=wait)


def resume(wanted: Plan, known: pd.DataFrame, signers: pd.DataFrame) -> None:
    """Want paused clusters to be read again: those of earlier runs, and those that this plan pauses."""
    mesh = wanted.mesh
    asked = {(c.cluster, str(c.manifests[0]["metadata"]["name"])) for c in wanted.changes if is_of(c.manifests)}
    for row in known.to_dict("records"):
        reader, targets = row["cluster"], row["targets"].split(",")
        if not row["paused"] and (reader, row["secret"]) not in asked:
            continue
        waits = [discovery.discovered(mesh, reader, target, {}) for target in targets]
        why = f"together: {reader} reads {' and '.join(targets)} again, which trusts what it trusts"
        again = functools.partial(wanted.patch, reader, manifest(mesh, row["secret"], paused=False), why)
        heard(wanted, signers, reader, again, in_turn(waits))


def heard(wanted: Plan, signers: pd.DataFrame, reader: str, want: Callable[..., None], wait: Wait) -> None:
    """Want a change of a remote secret, and its istiods made anew where their release takes it in wrongly."""
    hurt = credentials.hurt(signers.assign(component="istiod"), reader)
    want(wait=None if hurt else wait)
    if hurt:
        credentials.restart_istiods(wanted, reader, wait)


def is_of(manifests: Sequence[Object]) -> bool:
    """Tell whether a change, by its manifests, pauses or resumes the reading of a cluster."""
    return any(remotes.is_paused(m["metadata"]) for m in manifests)


def arrives(mesh: Mesh, reader: str, before: Object) -> Wait:
    """Return the wait for a remote secret that becomes again what it was: read, or forgotten."""
    targets = tuple(sorted(before.get("data") or {}))
    if (before["metadata"].get("labels") or {}).get(remotes.LABEL) == "true":
        return in_turn([discovery.discovered(mesh, reader, target, {}) for target in targets])
    return forgotten(mesh, reader, targets)


def manifest(mesh: Mesh, name: str, *, paused: bool) -> Object:
    """Return the merge patch that pauses a remote secret, or lets it be read again."""
    place = {"name": name, "namespace": mesh.root_namespace}
    labels, notes = {remotes.LABEL: None if paused else "true"}, {remotes.PAUSED: "true" if paused else None}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {**place, "labels": labels, "annotations": notes}}


def forgotten(mesh: Mesh, reader: str, targets: Collection[str]) -> Wait:
    """Return a wait until no istiod of a reader watches the targets, and none of its proxies has a way to them."""
    alone = Mesh(mesh.spec, {reader: mesh.clusters[reader]})
    ways = _addresses(mesh, targets)

    def missing() -> str:
        watched = remotes.remote_clusters(alone)
        rows = watched[watched["remote"].isin(list(targets)) | (watched["reason"] != "")]
        if len(rows):
            told = [f"{r['istiod']} still watches {r['remote'] or r['reason']}" for r in rows.to_dict("records")]
            return ", ".join(told)
        for name, proxy, answer in ask_proxies(alone, envoy.clusters):
            if isinstance(answer, Unknown):
                return f"{proxy.name if proxy else name} cannot be read: {answer.reason}"
            if proxy and (held := ways.intersection(map(str, answer["address"]))):
                return f"{proxy.name}.{proxy.namespace} still has {min(held)}"
        return ""

    return missing


def _addresses(mesh: Mesh, targets: Collection[str]) -> set[str]:
    """Return the addresses (`IP:port`) by which proxies reach other clusters: gateways, and on a flat network pods."""
    rows = networks.gateways(mesh)
    own = rows[rows["cluster"].isin(list(targets))].to_dict("records")
    found = {f"{address}:{row['port']}" for row in own for address in row["addresses"].split(",") if address}
    return found if mesh.spec.topology.network == "multi" else found | set(_of_pods(mesh, targets))


def _of_pods(mesh: Mesh, targets: Collection[str]) -> Iterator[str]:
    for name in targets:
        for piece in mesh.clusters[name].get("endpointslices.v1.discovery.k8s.io") if name in mesh.clusters else ():
            for endpoint in piece.get("endpoints") or []:
                for port in piece.get("ports") or []:
                    yield from (f"{address}:{port['port']}" for address in endpoint["addresses"])
