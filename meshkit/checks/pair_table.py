"""Pair table."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import pandas as pd

from meshkit import tables
from meshkit.checks import remote_secrets
from meshkit.checks.finding import SEVERITY, Finding, Verdict
from meshkit.checks.question import arrow
from meshkit.istio.multicluster import gateway_rows
from meshkit.istio.multicluster import remote_secrets as multicluster_remote_secrets
from meshkit.istio.multicluster.remote_secret_manifest import address_kind
from meshkit.istio.multicluster.remote_secrets import Credential
from meshkit.kube.mesh import Mesh
from meshkit.probing.pair_survey import PairFacts

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
"""The links of the chain in the order in which one rests on the other, and the checks that judge each."""
COLUMNS: Final = {
    "client": "str", "server": "str", "istiod": "str", "verdict": "str", "broken": "str", "why": "str",
    "secret": "str", "secrets": "int64", "key": "str", "annotation": "str", "server_id": "str",
    "api_server": "str", "api_address": "str", "tls_server_name": "str", "api_answer": "str", "asked_from": "str",
    "credential": "str", "account": "str", "rights": "str", "ends": "str", "expires": "datetime64[us, UTC]",
    "sync": "str", "knows": "int64", "ready": "int64",
    "gateway": "str", "gateway_seen": "str",
    "endpoints": "str", "way": "str", "local": "int64",
    "hello": "str", "hello_identity": "str", "hello_root": "str",
    "sent": "int64", "answered": "int64", "answered_by": "str", "answered_in": "str",
    "p50_ms": "float64", "p95_ms": "float64", "p99_ms": "float64", "error": "str", "reason": "str",
}  # fmt: skip


CELL_COLUMNS: Final = {"client": "str", "server": "str", "cell": "str", "verdict": "str", "id": "str", "told": "str"}


_RANKS: Final = (Verdict.SKIPPED, Verdict.PASS, Verdict.WARN, Verdict.UNKNOWN, Verdict.FAIL)


def table(mesh: Mesh, facts: PairFacts, findings: Iterable[Finding], sent: pd.DataFrame | None = None) -> pd.DataFrame:
    """Return one row for each ordered pair and each istiod replica of the client, the worst first.

    Columns: client, server, istiod (pod of the client's; empty where none is known), verdict (the worst of the pair),
    broken (its first link that is not well, of `CELLS`), why (id and words of that finding); secret (namespace/name of
    those that istiod reads, else of those that were meant, comma-joined), secrets (how many istiod reads), key,
    annotation, server_id (the server's own cluster id); api_server (address in the secret), api_address (loopback,
    link-local, private, public, name), tls_server_name, api_answer (HTTP status from inside, as of `reach`), asked_from
    (pod); credential (of a live request, as of `remote_secrets.remote_secrets`), account, rights (ok, or what it may
    not), ends (in words), expires (NaT: never, or not known); sync (of that replica: synced, syncing, timeout, closed,
    none, UNKNOWN), knows (endpoints of the sample service that this replica holds of the server), ready (that the
    server has); gateway (as offered), gateway_seen (by that replica; UNKNOWN); endpoints, way, local (of the client's
    Envoy, as of `client_view.paths`); hello, hello_identity, hello_root (of the first address, as of
    `client_view.hellos`); sent, answered, answered_by, answered_in, p50_ms, p95_ms, p99_ms, error (of `traffic`; 0 and
    NaN without); reason (why something is not known).
    """
    worst = _worst(mesh, findings)
    rows = []
    for pair in mesh.ordered_pairs:
        known = {**_of_secret(mesh, facts, *pair), **_of_client(facts, *pair), **_sent(sent, *pair)}
        why = known.pop("reason", "")
        for istiod in _istiods(facts, pair[0]) or [""]:
            seen = _of_replica(mesh, facts, *pair, istiod)
            reason = "; ".join(dict.fromkeys(r for r in (why, seen.pop("reason", "")) if r))
            rows.append({"client": pair[0], "server": pair[1], "istiod": istiod, **known, **seen, "reason": reason})
            rows[-1] |= dict(zip(("verdict", "broken", "why"), worst[pair], strict=True))
    frame = tables.table(rows, COLUMNS)
    rank = frame["verdict"].map(lambda word: -SEVERITY.index(Verdict(word)))
    return frame.loc[rank.sort_values(kind="stable").index].reset_index(drop=True)


def _istiods(facts: PairFacts, client: str) -> list[str]:
    known = facts.known.remotes
    read, unread = known.of(client), [one for one in known.unread if one.cluster == client]
    return sorted({one.istiod for one in read} | {one.istiod for one in unread})


def _of_secret(mesh: Mesh, facts: PairFacts, client: str, server: str) -> dict[str, Any]:
    secrets = facts.known.secrets
    used = multicluster_remote_secrets.active_secrets(mesh, secrets, client, server, facts.known.remotes)
    rows = used or multicluster_remote_secrets.candidate_secrets(secrets, client, server)
    own, why = remote_secrets.actual_cluster_id(facts.known.identity, server)
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
    asked = facts.reach[(facts.reach["cluster"] == client) & (facts.reach["target"] == server)]
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


def _of_replica(mesh: Mesh, facts: PairFacts, client: str, server: str, istiod: str) -> dict[str, Any]:
    def own(frame: pd.DataFrame) -> pd.DataFrame:
        return frame[(frame["cluster"] == client) & (frame["istiod"] == istiod)]

    held, remotes = own(facts.shards), facts.known.remotes
    seen = [one for one in remotes.of(client) if one.istiod == istiod]
    lost = [one.reason for one in remotes.unread if (one.cluster, one.istiod) == (client, istiod)]
    states = [str(one.status) for one in seen if one.remote == server]
    gates, offered = own(facts.known.gateways_seen), facts.known.gateways
    network = mesh.spec.cluster(server).network
    offered = offered[(offered["cluster"] == server) & (offered["network"] == network)]
    deaf = next(filter(None, map(gateway_rows.istiod_error, gates.to_dict("records"))), "")
    there = held[held["target"] == server]
    counts = {name: sum(len([a for a in text.split(",") if a]) for text in there[name]) for name in ("known", "ready")}
    reasons = [*lost, deaf, *there["reason"]]
    return {
        "sync": "UNKNOWN" if lost or not seen else ",".join(states) or "none",
        "knows": counts["known"],
        "ready": counts["ready"],
        "gateway": ",".join(a for a in offered["addresses"] if a),
        "gateway_seen": "UNKNOWN" if deaf else ",".join(sorted(set(gates[gates["network"] == network]["address"]))),
        "reason": "; ".join(dict.fromkeys(r for r in reasons if r)),
    }


def _of_client(facts: PairFacts, client: str, server: str) -> dict[str, Any]:
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
    return {str(k): v for k, v in rows.iloc[0].items() if k in COLUMNS} if len(rows) else {}


def cells(mesh: Mesh, findings: Iterable[Finding]) -> pd.DataFrame:
    """Return one row for each ordered pair and each link of `CELLS`: its worst finding.

    Columns: client, server, cell, verdict (unknown where nothing was said that should have been), id, told (what was
    observed, where it is not well). What a cluster's own finding says (MK805) counts for each pair that it serves.
    Links that nothing at all was said of, in the whole mesh, are left out.
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
            if worst is None:
                rows += [{**row, "verdict": "unknown", "told": "nothing was said of it"}] if cell in spoken else []
                continue
            # What is skipped beside a pass was only not asked twice.
            good = worst.verdict in (Verdict.PASS, Verdict.SKIPPED)
            passed = good and any(f.verdict is Verdict.PASS for f in own)
            verdict = Verdict.PASS if passed else worst.verdict
            rows.append({**row, "verdict": verdict.value, "id": worst.id, "told": "" if good else worst.observed})
    frame = tables.table([], CELL_COLUMNS)
    return frame if not rows else _in_order(rows)


def _in_order(rows: list[dict[str, str]]) -> pd.DataFrame:

    return pd.DataFrame(rows, columns=list(CELL_COLUMNS)).fillna("").astype(CELL_COLUMNS)


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

    Columns: pair, verdict, broken, why (cut), answered ("200/200"), p50, p95, p99 (ms).
    """
    lines = []
    for row in rows.drop_duplicates(["client", "server"]).to_dict("records"):
        why = str(row["why"])
        line = {"pair": arrow(row["client"], row["server"]), "verdict": row["verdict"], "broken": row["broken"]}
        line |= {"why": why if len(why) <= MOST_WORDS else f"{why[: MOST_WORDS - 1]}…"}
        line |= {"answered": f"{row['answered']}/{row['sent']}" if row["sent"] else ""}
        lines.append({**line, **{name: row[f"{name}_ms"] for name in ("p50", "p95", "p99")}})
    return _frame(lines)


MOST_WORDS: Final = 44


def _frame(lines: list[dict[str, Any]]) -> pd.DataFrame:

    words = dict.fromkeys(("pair", "verdict", "broken", "why", "answered"), "str")
    dtypes: dict[str, Any] = words | dict.fromkeys(("p50", "p95", "p99"), "float64")
    return pd.DataFrame(lines, columns=list(dtypes)).astype(dtypes)
