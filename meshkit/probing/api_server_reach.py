"""Whether each cluster's API server answers the other clusters at the address in their remote secrets."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final
from urllib.parse import urlsplit

import pandas as pd

from meshkit.errors import UnreachableError
from meshkit.istio.control_plane.istiods_and_proxies import istiods
from meshkit.istio.multicluster.remote_secrets import addresses
from meshkit.kube.api_server import server
from meshkit.kube.cluster import Cluster, ExecResult
from meshkit.kube.mesh import DaemonThreads, Mesh, Unknown, gather
from meshkit.kube.pods import PROXY_CONTAINER
from meshkit.probing.pair_probe import find_side
from meshkit.tables import Table, text

REACH: Final = Table(
    "reach",
    "API servers, asked from inside the other clusters",
    {
        "cluster": text("the reader cluster"),
        "target": text("the target cluster"),
        "server": text("address of its API server"),
        "asked_from": text("pod"),
        "answer": text(
            "HTTP status; TLS (a certificate for that address, of a CA that the sender does not know); refused (its "
            "certificate is not valid for that address), none (no answer) or UNKNOWN (nothing could ask)"
        ),
        "detail": text("what happened"),
    },
    key=("cluster", "target"),
)
UNCHECKED: Final = "its certificate was not checked"
NO_SENDER: Final = "no istiod and no client of the probe runs there"
_CURL_TIMEOUT = 5
_NO_CURL: Final = ExecResult("", "", 127)
_NOT_TRUSTED = 60
_CLOSED: Final = (35, 52, 56)
"""curl's exit codes for a connection that is closed in the handshake, before an answer, or in it."""
BY_AGENT: Final = "TLS"
_LAST_ERROR: Final = re.compile(r"Last error: (?:Get \"[^\"]*\": )?(.*)")
_STATUS: Final = re.compile(r"HTTP status code (\d{3})")
_CAUGHT: Final = "no istiod has curl, and the call was closed by the sidecar of"
_MAY: Final = ": outboundTrafficPolicy REGISTRY_ONLY refuses it (BlackHoleCluster), or nothing answers behind it"


def reach(mesh: Mesh, written: Mapping[tuple[str, str], tuple[str, str]] | None = None) -> pd.DataFrame:
    """Return one row for each ordered pair: whether the target's API server answers the reader cluster.

    Each istiod of the reader sends the request by curl, without a credential, so any HTTP status is an answer. The row
    is of the first istiod without an answer; if only some istiods could send, it is UNKNOWN. Where no istiod has curl
    (a distroless image), the request is sent from the probe client's proxy container, whose traffic is not
    intercepted: by curl, or else by `pilot-agent wait`, which knows no private CA. Last comes the client's own
    container. The client's sidecar may close that connection itself (REGISTRY_ONLY: BlackHoleCluster), so a closed
    connection is then UNKNOWN, and not an API server without an answer.
    Like istiod, the request verifies the certificate with the target's CA (ConfigMap kube-root-ca.crt).

    Source: pilot/pkg/networking/core/cluster_builder.go; tools/istio-iptables, which excludes the proxy's UID;
    pilot/cmd/pilot-agent/app/wait.go.

    Args:
        mesh: the mesh.
        written: address and TLS server name (or nothing) by pair, as a remote secret has them; only these pairs are
            asked then. Unless given, all are, at the address and by the TLS server name that the mesh file says, or
            else that the pair's remote secret has.
    """
    authorities = mesh.each(_authority)
    pairs = mesh.ordered_pairs if written is None else list(written)
    given = dict(written or {})
    if written is None:
        held = addresses(mesh)
        given = {pair: _to_write(mesh, pair[1], *held.get(pair, ("", ""))) for pair in pairs}
    vantages = mesh.each(lambda cluster: list(_vantages(cluster, mesh)))
    rows = gather(
        lambda pair: _reach(mesh, pair, given[pair], vantages[pair[0]], authorities[pair[1]]),
        pairs,
        deadline=60.0,
        executor=DaemonThreads(8),
    )
    return REACH.frame(
        (
            {"cluster": a, "target": b, **({"answer": "UNKNOWN", "detail": r.reason} if isinstance(r, Unknown) else r)}
            for (a, b), r in zip(pairs, rows, strict=True)
        )
    )


def _to_write(mesh: Mesh, target: str, held: str, name: str) -> tuple[str, str]:
    entry = mesh.spec.cluster(target)
    return server(entry, mesh.clusters[target], held), entry.tls_server_name or name


def _authority(cluster: Cluster) -> str:
    found = cluster.find("configmaps", "default", "kube-root-ca.crt") or {}
    return str((found.get("data") or {}).get("ca.crt", ""))


def _vantages(cluster: Cluster, mesh: Mesh) -> Iterator[tuple[str, str, str]]:
    """Yield (pod, namespace, container) of possible senders; istiod first, since it is the real client."""
    for istiod in istiods(cluster, mesh.root_namespace):
        yield istiod.name, istiod.namespace, "discovery"
    try:
        side = find_side(cluster, mesh)
    except UnreachableError:
        return
    yield side.client.name, side.client.namespace, PROXY_CONTAINER
    yield side.client.name, side.client.namespace, side.container


def _reach(
    mesh: Mesh,
    pair: tuple[str, str],
    given: tuple[str, str],
    vantages: list[tuple[str, str, str]] | Unknown,
    authority: str | Unknown,
) -> dict[str, str]:
    address, name = given
    row = {"server": address}
    if isinstance(vantages, Unknown):
        return {**row, "answer": "UNKNOWN", "detail": vantages.reason}
    flags = "--cacert /dev/stdin" if authority else "--insecure"
    script = f'printf %s "$1" | curl -sS -m {_CURL_TIMEOUT} {flags} ${{3:+--connect-to "$3"}} -o /dev/null'
    script += ' -w "%{http_code}" "$2"'
    url, connect_to = _url(address, name)
    command = ["sh", "-c", script, "sh", str(authority or ""), url, connect_to]
    untried, silent, sender = NO_SENDER, "", ""
    good: dict[str, str] = {}
    for pod, namespace, container in vantages:
        if good and container != "discovery":
            break
        try:
            done = mesh.clusters[pair[0]].exec(pod, namespace, container, command, 2 * _CURL_TIMEOUT)
        except UnreachableError as error:
            untried = f"{pod}: {error.message}"
            silent = silent or (untried if container == "discovery" else "")
            done = _NO_CURL
        if done.not_run:
            untried = untried if done is _NO_CURL else f"{pod} has no curl"
            by_agent = container == PROXY_CONTAINER and _by_agent(mesh.clusters[pair[0]], pod, namespace, given)
            if by_agent:
                return {**row, "asked_from": pod, **by_agent}
            continue
        if container not in ("discovery", PROXY_CONTAINER) and _by_sidecar(done, address):
            return {**row, "asked_from": pod, "answer": "UNKNOWN", "detail": f"{_CAUGHT} {pod}{_MAY}"}
        printed = next(iter(done.stderr.strip().splitlines()), "")[:200]
        why = authority.reason if isinstance(authority, Unknown) else "no ConfigMap kube-root-ca.crt"
        unchecked = "" if authority else f"{UNCHECKED}: {why}"
        answer = {0: done.stdout.strip(), _NOT_TRUSTED: "refused"}.get(done.exit_code, "none")
        tried = {**row, "asked_from": pod, "answer": answer, "detail": printed or unchecked}
        if not answer.isdigit():
            return tried
        good, sender = good or tried, sender or container
    if silent and sender == "discovery":
        return {**row, "answer": "UNKNOWN", "detail": f"{good['asked_from']} gets {good['answer']}, but {silent}"}
    return good or {**row, "answer": "UNKNOWN", "detail": untried}


def _by_agent(cluster: Cluster, pod: str, namespace: str, given: tuple[str, str]) -> dict[str, str]:
    """Ask by the agent of a proxy container without curl; nothing where that cannot tell, as of another TLS name."""
    address, name = given
    wait = ["--timeoutSeconds", str(_CURL_TIMEOUT), "--requestTimeoutMillis", str(_CURL_TIMEOUT * 600)]
    command = ["pilot-agent", "wait", "--url", _url(address, "")[0], *wait]
    try:
        return {} if name else _told(cluster.exec(pod, namespace, PROXY_CONTAINER, command, 3 * _CURL_TIMEOUT))
    except UnreachableError:
        return {}


def _told(done: ExecResult) -> dict[str, str]:
    """Return answer and detail of `pilot-agent wait`; nothing where it did not run.

    Go looks at the certificate's names first, and then at its CA, of which the agent knows the system's only.
    """
    said = _LAST_ERROR.search(done.stderr or done.stdout)
    if done.exit_code == 0 or said is None:
        return {"answer": "200"} if done.exit_code == 0 else {}
    error = said[1].strip()[:200]
    if status := _STATUS.search(error):
        return {"answer": status[1]}
    if "unknown authority" in error:
        return {"answer": BY_AGENT, "detail": f"pilot-agent does not know its CA: {error}"}
    return {"answer": "refused" if "x509" in error else "none", "detail": error}


def _by_sidecar(done: ExecResult, address: str) -> bool:
    """Return whether the outcome of a call through a sidecar may come from the sidecar itself."""
    local_reply = address.startswith("http://") and done.stdout.strip() in ("502", "503")
    return local_reply or done.exit_code in _CLOSED


def _url(address: str, name: str) -> tuple[str, str]:
    """Return the URL, and curl's `--connect-to` value if the TLS server name differs from the address."""
    plain = f"{address.rstrip('/')}/version"
    if not name:
        return plain, ""
    parts = urlsplit(address)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    port = parts.port or 443
    return f"https://{name}:{port}{parts.path.rstrip('/')}/version", f"::{host}:{port}"
