"""Every pair of clusters, link by link: the table, the worst of each link, and lines for a terminal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import pandas as pd

from meshkit.checks import remote_secrets
from meshkit.checks.finding import SEVERITY, Finding, Verdict
from meshkit.checks.question import arrow
from meshkit.istio.control_plane.versions import home, is_remote, outside
from meshkit.istio.multicluster import gateway_choice
from meshkit.istio.multicluster import remote_secrets as multicluster_remote_secrets
from meshkit.istio.multicluster.credentials import Credential
from meshkit.kube.api_server import address_kind
from meshkit.kube.mesh import Mesh
from meshkit.snapshot.snapshot import Snapshot
from meshkit.tables import Table, integer, moment, number, text, without_empty

CELLS: Final = {
    "secret": ("MK802", "MK830", "MK831", "MK832"),
    "server": ("MK833", "MK834", "MK835"),
    "credential": ("MK803", "MK809", "MK836"),
    "sync": ("MK804", "MK842"),
    "replicas": ("MK837",),
    "gateway": ("MK805", "MK806", "MK838"),
    "endpoints": ("MK839",),
    "hello": ("MK840", "MK841"),
    "answer": ("MK811",),
}
"""The links of the chain in the order in which one depends on the other, and the checks that judge each."""
BY_GATEWAY: Final = frozenset({"gateway", "hello"})
"""The links that only pairs of different networks have."""
LINKS: Final = Table(
    "links",
    "Every pair, link by link, the worst first",
    {
        "client": text("cluster of the client"),
        "server": text("cluster of the server"),
        "istiod": text("pod of the istiod that serves the client; empty where none is known"),
        "verdict": text("the worst of the pair"),
        "broken": text("its first link that is not in order"),
        "why": text("id and text of that finding"),
        "secret": text(
            "namespace/name of the remote secrets that istiod reads, otherwise of those that exist, comma-joined"
        ),
        "secrets": integer("how many of them istiod reads"),
        "key": text("cluster id in the remote secret"),
        "annotation": text("cluster id in its annotation"),
        "server_id": text("cluster id of the server's own istiod"),
        "api_server": text("address in the remote secret"),
        "api_address": text("loopback, link-local, private, public or name"),
        "tls_server_name": text("name that the API server's certificate must be valid for"),
        "api_answer": text("HTTP status from inside the client's cluster, as in `reach`"),
        "asked_from": text("pod that asked"),
        "credential": text("result of a live request, as in `remote-secrets`"),
        "account": text("service account of the token"),
        "rights": text("ok, or what it may not do"),
        "ends": text("when the credential expires, in words"),
        "expires": moment("the same as a moment; empty: never, or not known"),
        "sync": text("of that replica: synced, syncing, timeout, closed, none or UNKNOWN"),
        "knows": integer("endpoints of the sample service that this replica has for the server"),
        "ready": integer("endpoints that the server's cluster has"),
        "gateway": text("as offered"),
        "gateway_seen": text("by that replica; UNKNOWN if it did not answer"),
        "endpoints": text("addresses that the client's Envoy has for the server, comma-joined"),
        "way": text("path they take: gateway, pods, both, none or UNKNOWN"),
        "local": integer("how many lead to the client's own pods"),
        "hello": text("answer to a TLS hello at the first gateway address"),
        "hello_identity": text("SPIFFE URI of the certificate shown there"),
        "hello_root": text("root that its chain ends at"),
        "sent": integer("requests"),
        "answered": integer("requests with status 200"),
        "answered_by": text("pods, comma-joined"),
        "answered_in": text("clusters of those pods"),
        "p50_ms": number("median latency", "ms"),
        "p95_ms": number("95th percentile", "ms"),
        "p99_ms": number("99th percentile", "ms"),
        "error": text("why requests failed"),
        "reason": text("why something is not known"),
    },
    key=("client", "server", "istiod"),
    show=(
        *("client", "server", "istiod", "verdict", "broken", "why", "secret", "api_server", "api_answer"),
        *("credential", "sync", "knows", "gateway_seen", "endpoints", "hello", "reason"),
    ),
    compare=("verdict", "why", "credential", "sync", "knows", "gateway_seen", "endpoints", "hello"),
)


PAIR_CELLS: Final = Table(
    "cells",
    "The worst finding of each link of each pair",
    {
        "client": text("cluster of the client"),
        "server": text("cluster of the server"),
        "cell": text("the link"),
        "verdict": text("unknown where a finding should exist and does not"),
        "id": text("of the check"),
        "told": text("what was observed, where it is not in order"),
    },
    key=("client", "server", "cell"),
)


_RANKS: Final = (Verdict.SKIPPED, Verdict.PASS, Verdict.WARN, Verdict.UNKNOWN, Verdict.FAIL)


def table(mesh: Mesh, facts: Snapshot, findings: Iterable[Finding], sent: pd.DataFrame | None = None) -> pd.DataFrame:
    """Return one row for each ordered pair and each istiod replica of the client, the worst first."""
    worst = _worst(mesh, findings)
    rows = []
    for pair in mesh.ordered_pairs:
        known = {**_of_secret(mesh, facts, *pair), **_of_client(facts, *pair), **_sent(sent, *pair)}
        why = known.pop("reason", "")
        for istiod in _istiods(facts, home(facts.identity, pair[0])) or [""]:
            seen = _of_replica(mesh, facts, *pair, istiod)
            reason = "; ".join(dict.fromkeys(r for r in (why, seen.pop("reason", "")) if r))
            rows.append({"client": pair[0], "server": pair[1], "istiod": istiod, **known, **seen, "reason": reason})
            rows[-1] |= dict(zip(("verdict", "broken", "why"), worst[pair], strict=True))
    frame = LINKS.frame(rows)
    rank = frame["verdict"].map(lambda word: -SEVERITY.index(Verdict(word)))
    return frame.loc[rank.sort_values(kind="stable").index].reset_index(drop=True)


def _istiods(facts: Snapshot, reader: str) -> list[str]:
    known = facts.remote_clusters
    return sorted({one.istiod for one in known.of(reader)} | {one.istiod for one in known.unread_in(reader)})


def _of_secret(mesh: Mesh, facts: Snapshot, client: str, server: str) -> dict[str, Any]:
    secrets = facts.remote_secrets
    if is_remote(facts.identity, client):
        return {"reason": outside(facts.identity, client)}
    used = multicluster_remote_secrets.active_secrets(mesh, secrets, client, server, facts.remote_clusters)
    rows = used or multicluster_remote_secrets.candidate_secrets(secrets, client, server)
    own, why = remote_secrets.actual_cluster_id(facts.identity, server)
    row: dict[str, Any] = {"server_id": own, "secrets": len(used)}
    if unread := secrets.unknown(client):
        return {**row, "credential": "UNKNOWN", "rights": "UNKNOWN", "reason": unread}
    row["reason"] = why
    if not rows:
        return row
    first = rows[0]
    same = {
        name: getattr(first, name) for name in ("key", "annotation", "tls_server_name", "account", "ends", "expires")
    }
    rights = {Credential.OK: "ok", Credential.FORBIDDEN: first.detail}.get(first.credential, "UNKNOWN")
    reach = facts.remote_secret_reach
    asked = reach[(reach["cluster"] == client) & (reach["target"] == server)]
    answer = asked.iloc[0] if len(asked) else {"answer": "", "asked_from": ""}
    return {
        **row,
        **same,
        "secret": ",".join(sorted({secret.place for secret in rows})),
        "credential": first.credential.value,
        "rights": rights,
        "api_server": first.server,
        "api_address": address_kind(first.server),
        "api_answer": answer["answer"],
        "asked_from": answer["asked_from"],
    }


def _of_replica(mesh: Mesh, facts: Snapshot, client: str, server: str, istiod: str) -> dict[str, Any]:
    reader = home(facts.identity, client)

    def own(frame: pd.DataFrame) -> pd.DataFrame:
        return frame[(frame["cluster"] == reader) & (frame["istiod"] == istiod)]

    held, remotes = own(facts.endpoint_shards), facts.remote_clusters
    seen = [one for one in remotes.of(reader) if one.istiod == istiod]
    lost = [one.reason for one in remotes.unread_in(reader) if one.istiod == istiod]
    states = [str(one.status) for one in seen if one.remote == server]
    gates, near = facts.gateways_seen, gateway_choice.offered(mesh, facts.gateways, server)
    offered = [address for one in near for address in one.addresses]
    known = {one.address for one in gateway_choice.seen(mesh, gates, reader, server) if one.istiod == istiod}
    unread = next((one.reason for one in gates.unread_in(reader) if one.istiod == istiod), "")
    there = held[held["target"] == server]
    counts = {name: sum(len([a for a in text.split(",") if a]) for text in there[name]) for name in ("known", "ready")}
    reasons = [*lost, unread, *there["reason"]]
    return {
        "sync": "UNKNOWN" if lost or not seen else ",".join(states) or "none",
        "knows": counts["known"],
        "ready": counts["ready"],
        "gateway": ",".join(offered),
        "gateway_seen": "UNKNOWN" if unread else ",".join(sorted(known)),
        "reason": "; ".join(dict.fromkeys(r for r in reasons if r)),
    }


def _of_client(facts: Snapshot, client: str, server: str) -> dict[str, Any]:
    def own(frame: pd.DataFrame) -> list[dict[Any, Any]]:
        return frame[(frame["client"] == client) & (frame["server"] == server)].to_dict("records")

    way = next(iter(own(facts.paths)), {})
    heard = next(iter(own(facts.hellos)), {})
    shown = {"hello": "heard", "hello_identity": "identity", "hello_root": "anchor"}
    return {
        **{name: way[name] for name in ("endpoints", "way", "local") if name in way},
        **{name: heard[column] for name, column in shown.items() if column in heard},
    }


def _sent(sent: pd.DataFrame | None, client: str, server: str) -> dict[str, Any]:
    if sent is None:
        return {}
    rows = sent[(sent["client"] == client) & (sent["server"] == server)]
    return {str(k): v for k, v in rows.iloc[0].items() if k in LINKS.columns} if len(rows) else {}


def cells(mesh: Mesh, findings: Iterable[Finding]) -> pd.DataFrame:
    """Return one row for each ordered pair and each link of `CELLS`: its worst finding.

    A finding about one cluster (MK805) counts for each pair that it serves. Links without any finding in the whole mesh
    are left out.
    """
    found = list(findings)
    rows = []
    spoken = {cell for cell, ids in CELLS.items() if any(f.id in ids for f in found)}
    for client, server in mesh.ordered_pairs:
        subjects = (arrow(client, server), server)
        for cell, ids in CELLS.items():
            own = [f for f in found if f.id in ids and f.subject in subjects]
            worst = max(own, key=lambda f: SEVERITY.index(f.verdict), default=None)
            row = {"client": client, "server": server, "cell": cell}
            if cell in BY_GATEWAY and not mesh.spec.crosses(client, server):
                rows += [{**row, "verdict": "skipped"}] if cell in spoken else []
                continue
            if worst is None:
                rows += [{**row, "verdict": "unknown", "told": "no check looked at it"}] if cell in spoken else []
                continue
            # What is skipped beside a pass was only not asked twice.
            good = worst.verdict in (Verdict.PASS, Verdict.SKIPPED)
            passed = good and any(f.verdict is Verdict.PASS for f in own)
            verdict = Verdict.PASS if passed else worst.verdict
            rows.append({**row, "verdict": verdict.value, "id": worst.id, "told": "" if good else worst.observed})
    return PAIR_CELLS.frame(rows, in_order=True)


def _worst(mesh: Mesh, findings: Iterable[Finding]) -> dict[tuple[str, str], tuple[str, str, str]]:
    """Return verdict, first broken link, and what broke it, by pair: the first link of the worst verdict."""
    frame = cells(mesh, findings)
    found = {}
    for pair in mesh.ordered_pairs:
        own = frame[(frame["client"] == pair[0]) & (frame["server"] == pair[1])].to_dict("records")
        # What was skipped says nothing, and of equals the first link comes first.
        ranked = sorted(own, key=lambda row: -_RANKS.index(Verdict(row["verdict"])))
        row = ranked[0] if ranked else {"verdict": "unknown", "cell": "", "id": "", "told": ""}
        good = row["verdict"] in ("pass", "skipped")
        why = "" if good else f"{row['id']} {row['told']}".strip()
        found[pair] = (str(row["verdict"]), "" if good else str(row["cell"]), why)
    return found


def brief(rows: pd.DataFrame) -> pd.DataFrame:
    """Return one line for each pair of `table`, the worst first, that a terminal has room for.

    Columns: client, server, verdict, broken, answered ("200/200"), p50_ms, p99_ms; those that say nothing are left out.
    """
    frame = rows.drop_duplicates(["client", "server"])
    answered = frame["answered"].astype("str") + "/" + frame["sent"].astype("str")
    frame = frame.assign(answered=answered.where(frame["sent"] > 0, ""))
    columns = ["client", "server", "verdict", "broken", "answered", "p50_ms", "p99_ms"]
    return without_empty(frame[columns].reset_index(drop=True))


def wide(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the columns of `table` that people see, and what the requests showed."""
    traffic = ("sent", "answered", "p50_ms", "p95_ms", "p99_ms", "error") if rows["sent"].any() else ()
    return without_empty(rows[[*LINKS.show, *traffic]])
