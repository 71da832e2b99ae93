"""Does each cluster's API server answer the other clusters, at the address that they will be given?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from meshkit.errors import UnreachableError
from meshkit.istio.fleet import istiods, table
from meshkit.istio.remote_secret import server
from meshkit.mesh import DaemonThreads, Mesh, Unknown, gather
from meshkit.probe import find_side

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd

    from meshkit.cluster import Cluster

REACH_COLUMNS: Final = {
    "cluster": "str",
    "target": "str",
    "server": "str",
    "asked_from": "str",
    "answer": "str",
    "detail": "str",
}
NOBODY: Final = "no istiod and no client of the probe runs there"
_CURL_TIMEOUT = 5
_NOT_RUN = (126, 127)
_NOT_TRUSTED = 60


def reach(mesh: Mesh) -> pd.DataFrame:
    """Return one row for each ordered pair: does the target's API server answer the reader, at the address written?

    Columns: cluster (the reader), target, server, asked_from (pod), answer (HTTP status; `refused` where its
    certificate is not good for that address, `none` where nothing answered, UNKNOWN where nobody could ask), detail.

    Asked by curl in the reader's istiod, or where that has no curl in the probe's client, without any credential: any
    HTTP status is an answer. The target's CA (ConfigMap kube-root-ca.crt) must vouch for it, as it must for istiod.
    """
    authorities = mesh.each(_authority)
    pairs = mesh.pairs
    vantages = mesh.each(lambda cluster: list(_vantages(cluster, mesh)))
    rows = gather(
        lambda pair: _reach(mesh, *pair, vantages[pair[0]], authorities[pair[1]]),
        pairs,
        deadline=60.0,
        executor=DaemonThreads(8),
    )
    return table(
        (
            {"cluster": a, "target": b, **({"answer": "UNKNOWN", "detail": r.reason} if isinstance(r, Unknown) else r)}
            for (a, b), r in zip(pairs, rows, strict=True)
        ),
        REACH_COLUMNS,
    )


def _authority(cluster: Cluster) -> str:
    found = cluster.find("configmaps", "default", "kube-root-ca.crt") or {}
    return str((found.get("data") or {}).get("ca.crt", ""))


def _vantages(cluster: Cluster, mesh: Mesh) -> Iterator[tuple[str, str, str]]:
    """Yield (pod, namespace, container) of those who could ask; istiod first, for it is the one who will."""
    for istiod in istiods(cluster, mesh.root_namespace):
        yield istiod.name, istiod.namespace, "discovery"
    try:
        side = find_side(cluster, mesh)
    except UnreachableError:
        return
    yield side.client.name, side.client.namespace, side.container


def _reach(
    mesh: Mesh, reader: str, target: str, vantages: list[tuple[str, str, str]] | Unknown, authority: str | Unknown
) -> dict[str, str]:
    address = server(mesh.spec.cluster(target), mesh.clusters[target])
    row = {"server": address}
    if isinstance(vantages, Unknown):
        return {**row, "answer": "UNKNOWN", "detail": vantages.reason}
    flags = "--cacert /dev/stdin" if authority else "--insecure"
    script = f'printf %s "$1" | curl -sS -m {_CURL_TIMEOUT} {flags} -o /dev/null -w "%{{http_code}}" "$2"'
    command = ["sh", "-c", script, "sh", str(authority or ""), f"{address.rstrip('/')}/version"]
    untried = NOBODY
    for pod, namespace, container in vantages:
        try:
            done = mesh.clusters[reader].exec(pod, namespace, container, command, 2 * _CURL_TIMEOUT)
        except UnreachableError as error:
            untried = f"{pod}: {error.message}"
            continue
        if done.exit_code in _NOT_RUN:
            untried = f"{pod} has no curl"
            continue
        said = next(iter(done.stderr.strip().splitlines()), "")[:200]
        unchecked = "" if authority else "its certificate was not checked: no ConfigMap kube-root-ca.crt"
        answer = {0: done.stdout.strip(), _NOT_TRUSTED: "refused"}.get(done.exit_code, "none")
        return {**row, "asked_from": pod, "answer": answer, "detail": said or unchecked}
    return {**row, "answer": "UNKNOWN", "detail": untried}
