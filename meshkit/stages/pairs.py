"""The N x N truth: for each ordered pair of clusters and each istiod replica, all that a call between them rests on.

A call from client to server rests on a chain: the secret, the address in it, the credential, the sync, the gateway, the
endpoints, TLS through the gateway, the answer. `table` has every link as a column, `cells` the verdict of each link,
`brief` one line for each pair with the first link that is broken. Nothing is changed but for the probe's Services while
`survey` measures.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from meshkit import probe
from meshkit.answers import hostname, told
from meshkit.checks import SEVERITY, Finding, Verdict
from meshkit.istio import fleet, networks, remotes, shards, trust, versions
from meshkit.istio.remote_secret import address_kind
from meshkit.mesh import DaemonThreads, Mesh, Unknown, gather
from meshkit.stages import clients, eastwest, joined, reach, verify
from meshkit.stages.finding import arrow
from meshkit.statistics import quantile

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pandas as pd

    from meshkit.answers import Answer

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
TRAFFIC_COLUMNS: Final = {
    "client": "str", "server": "str", "sent": "int64", "answered": "int64", "statuses": "str", "answered_by": "str",
    "answered_in": "str", "p50_ms": "float64", "p95_ms": "float64", "p99_ms": "float64", "error": "str",
}  # fmt: skip
CELL_COLUMNS: Final = {"client": "str", "server": "str", "cell": "str", "verdict": "str", "id": "str", "told": "str"}
AT_ONCE: Final = 4
_RANKS: Final = (Verdict.SKIPPED, Verdict.PASS, Verdict.WARN, Verdict.UNKNOWN, Verdict.FAIL)
DEADLINE: Final = 60.0
_QUANTILES: Final = {"p50_ms": 0.5, "p95_ms": 0.95, "p99_ms": 0.99}


@dataclass(frozen=True)
class Facts:
    """What was looked at: stage 08's tables, and those of the functions that the others are named after."""

    known: verify.Facts
    shards: pd.DataFrame
    reach: pd.DataFrame
    ways: pd.DataFrame
    hellos: pd.DataFrame


# --- look -------------------------------------------------------------------------------------------------------------


def look(mesh: Mesh, known: verify.Facts | None = None) -> Facts:
    """Read what each pair rests on; `known` is what stage 08 has read already. Changes nothing."""
    spec = mesh.spec.probe
    with ThreadPoolExecutor(3) as pool:
        joins = pool.submit(lambda: known or _known(mesh))
        held = pool.submit(lambda: shards.known(mesh, spec.namespace, spec.server))
        found = pool.submit(lambda: clients.find(mesh))
        facts, who = joins.result(), found.result()
        asked = pool.submit(lambda: reach.reach(mesh, _written(mesh, facts)))
        multi = mesh.spec.topology.network == "multi"
        at = {pair: gateways(mesh, facts, *pair) for pair in mesh.pairs} if multi else {}
        heard = pool.submit(lambda: clients.hellos(mesh, who, at))
        gates = {name: {a for pair, known in at.items() for a, _ in known if pair[1] == name} for name in mesh.clusters}
        ways = clients.ways(mesh, who, gates)
        return Facts(facts, held.result(), asked.result(), ways, heard.result())


def _known(mesh: Mesh) -> verify.Facts:
    """Read stage 08's tables, but for those that ask every proxy."""
    tables = mesh.ask(
        identity=versions.identity,
        secrets=remotes.remote_secrets,
        remotes=remotes.remote_clusters,
        gateways=networks.gateways,
        gateways_seen=networks.gateways_seen,
    )
    unasked = {
        "certificates": fleet.table([], trust.CERTIFICATE_COLUMNS),
        "roots": fleet.table([], trust.ROOT_COLUMNS),
    }
    return verify.Facts(**tables, **unasked)


def _written(mesh: Mesh, known: verify.Facts) -> dict[tuple[str, str], tuple[str, str]]:
    """Return address and TLS name in the remote secret of each pair that has one which istiod reads."""
    found = {}
    for pair in mesh.pairs:
        rows = joined.read(mesh, known.secrets, *pair)
        if len(rows) and address_kind(rows.iloc[0]["server"]) not in ("loopback", "nothing"):
            found[pair] = (str(rows.iloc[0]["server"]), str(rows.iloc[0]["tls_server_name"]))
    return found


def gateways(mesh: Mesh, known: verify.Facts, client: str, server: str) -> list[clients.Address]:
    """Return where a client's proxies would find a server's gateway: as its istiods see it, else as it is offered."""
    network = mesh.spec.cluster(server).network
    rows = known.gateways_seen
    seen = rows[(rows["cluster"] == client) & (rows["network"] == network) & (rows["address"] != "")]
    found = sorted(set(zip(seen["address"], seen["port"], strict=True)))
    if not found:
        rows = known.gateways
        offered = rows[(rows["cluster"] == server) & (rows["network"] == network)]
        found = [(a, r["port"]) for r in offered.to_dict("records") for a in r["addresses"].split(",") if a]
    return [(str(address), int(port) or networks.PASSTHROUGH_PORT) for address, port in found]


# --- traffic ----------------------------------------------------------------------------------------------------------


def survey(mesh: Mesh, samples: int) -> tuple[Facts, pd.DataFrame]:
    """Look, and measure every ordered pair alone; the probe's Services travel while the rest is read."""
    with ThreadPoolExecutor(1) as pool:
        looking = pool.submit(look, mesh)
        with probe.open(mesh) as probing:
            probing.wait()
            facts = looking.result()
            return facts, traffic(probing, samples)


def measure(mesh: Mesh, samples: int) -> pd.DataFrame:
    """Make the probe's Services, and return `traffic`."""
    with probe.open(mesh) as probing:
        probing.wait()
        return traffic(probing, samples)


def traffic(probing: probe.Probing, samples: int) -> pd.DataFrame:
    """Send requests between every ordered pair alone, four at a time: one row for each.

    Columns: client, server, sent, answered (with 200), statuses, answered_by (pods, comma-joined), answered_in (their
    clusters; `?` for a pod of none), p50_ms, p95_ms and p99_ms (of what was answered, on warm connections), error. A
    pair that could not be tried has sent = 0 and says why in error.
    """
    lanes = [n for n in (samples // AT_ONCE + (k < samples % AT_ONCE) for k in range(AT_ONCE)) if n]

    def row(pair: tuple[str, str]) -> dict[str, Any]:
        first = probing.arrived[pair]
        if isinstance(first, Unknown):
            return {"error": first.reason}
        if first.status != 200:
            return {"sent": 1, "statuses": f"{first.status}×1", "error": told(first)}
        sent = gather(lambda n: probing.call(*pair, "/hostname", count=n), lanes, deadline=DEADLINE)
        lost = [lane for lane in sent if isinstance(lane, Unknown)]
        answers = [answer for lane in sent if not isinstance(lane, Unknown) for answer in lane]
        if not answers:
            return {"error": lost[0].reason}
        return {**_summary(probing, answers), **({"error": lost[0].reason} if lost else {})}

    pairs = probing.mesh.pairs
    rows = gather(row, pairs, deadline=2 * DEADLINE, executor=DaemonThreads(2 * len(probing.mesh.clusters)))
    return fleet.table(
        (
            {"client": a, "server": b, **({"error": r.reason} if isinstance(r, Unknown) else r)}
            for (a, b), r in zip(pairs, rows, strict=True)
        ),
        TRAFFIC_COLUMNS,
    )


def _summary(probing: probe.Probing, answers: list[Answer]) -> dict[str, Any]:
    import numpy as np

    good = [a for a in answers if a.status == 200]
    names = {hostname(a.body) for a in good} - {""}
    bad = next((a for a in answers if a.status != 200), None)
    times = 1000 * np.array([a.seconds for a in good], dtype="float64")
    counted = ((s, sum(a.status == s for a in answers)) for s in sorted({a.status for a in answers}))
    return {
        "sent": len(answers),
        "answered": len(good),
        "statuses": ", ".join(f"{status}×{count}" for status, count in counted),
        "answered_by": ",".join(sorted(names)),
        "answered_in": ",".join(sorted({probing.home(name) for name in names})),
        "error": told(bad) if bad else "",
        **{name: quantile(times, q) for name, q in _QUANTILES.items()},
    }


# --- the table --------------------------------------------------------------------------------------------------------


def table(mesh: Mesh, facts: Facts, findings: Iterable[Finding], sent: pd.DataFrame | None = None) -> pd.DataFrame:
    """Return one row for each ordered pair and each istiod replica of the client, the worst first.

    Columns: client, server, istiod (pod of the client's; empty where none is known), verdict (the worst of the pair),
    broken (its first link that is not well, of `CELLS`), why (id and words of that finding); secret (namespace/name of
    those that istiod reads, else of those that were meant, comma-joined), secrets (how many istiod reads), key,
    annotation, server_id (the server's own cluster id); api_server (address in the secret), api_address (loopback,
    link-local, private, public, name), tls_server_name, api_answer (HTTP status from inside, as of `reach`),
    asked_from (pod); credential (of a live request, as of `remotes.remote_secrets`), account, rights (ok, or what it
    may not), ends (in words), expires (NaT: never, or not known); sync (of that replica: synced, syncing, timeout,
    closed, none, UNKNOWN), knows (endpoints of the sample service that this replica holds of the server), ready (that
    the server has); gateway (as offered), gateway_seen (by that replica; UNKNOWN); endpoints, way, local (of the
    client's Envoy, as of `clients.ways`); hello, hello_identity, hello_root (of the first address, as of
    `clients.hellos`); sent, answered, answered_by, answered_in, p50_ms, p95_ms, p99_ms, error (of `traffic`; 0 and NaN
    without); reason (why something is not known).
    """
    worst = _worst(mesh, findings)
    rows = []
    for pair in mesh.pairs:
        known = {**_of_secret(mesh, facts, *pair), **_of_client(facts, *pair), **_sent(sent, *pair)}
        own, why = facts.known.remotes[facts.known.remotes["cluster"] == pair[0]], known.pop("reason", "")
        for istiod in sorted(set(own["istiod"])) or [""]:
            seen = _of_replica(mesh, facts, *pair, istiod)
            reason = "; ".join(dict.fromkeys(r for r in (why, seen.pop("reason", "")) if r))
            rows.append({"client": pair[0], "server": pair[1], "istiod": istiod, **known, **seen, "reason": reason})
            rows[-1] |= dict(zip(("verdict", "broken", "why"), worst[pair], strict=True))
    frame = fleet.table(rows, COLUMNS)
    rank = frame["verdict"].map(lambda word: -SEVERITY.index(Verdict(word)))
    return frame.loc[rank.sort_values(kind="stable").index].reset_index(drop=True)


def _of_secret(mesh: Mesh, facts: Facts, client: str, server: str) -> dict[str, Any]:
    secrets = facts.known.secrets
    used = joined.read(mesh, secrets, client, server)
    rows = used if len(used) else joined.held(secrets, client, server)
    own, why = joined.real_id(facts.known.identity, server)
    unread = secrets[(secrets["cluster"] == client) & (secrets["credential"] == "UNKNOWN")]
    row: dict[str, Any] = {"server_id": own, "secrets": len(used)}
    if len(unread):
        return {**row, "credential": "UNKNOWN", "rights": "UNKNOWN", "reason": str(unread.iloc[0]["detail"])}
    row["reason"] = why
    if rows.empty:
        return row
    first = rows.iloc[0]
    names = sorted({f"{r['namespace']}/{r['name']}" for r in rows.to_dict("records")})
    same = {name: first[name] for name in ("key", "annotation", "tls_server_name", "account", "credential", "ends")}
    rights = {"ok": "ok", "403": str(first["detail"])}.get(str(first["credential"]), "UNKNOWN")
    asked = facts.reach[(facts.reach["cluster"] == client) & (facts.reach["target"] == server)]
    answer = asked.iloc[0] if len(asked) else {"answer": "", "asked_from": ""}
    return {
        **row,
        **same,
        "secret": ",".join(names),
        "expires": first["expires"],
        "rights": rights,
        "api_server": first["server"],
        "api_address": address_kind(first["server"]),
        "api_answer": answer["answer"],
        "asked_from": answer["asked_from"],
    }


def _of_replica(mesh: Mesh, facts: Facts, client: str, server: str, istiod: str) -> dict[str, Any]:
    def own(frame: pd.DataFrame) -> pd.DataFrame:
        return frame[(frame["cluster"] == client) & (frame["istiod"] == istiod)]

    seen, held = own(facts.known.remotes), own(facts.shards)
    lost = "UNKNOWN" in set(seen["status"]) or seen.empty
    states = list(seen[seen["remote"] == server]["status"])
    gates, offered = own(facts.known.gateways_seen), facts.known.gateways
    network = mesh.spec.cluster(server).network
    offered = offered[(offered["cluster"] == server) & (offered["network"] == network)]
    deaf = next(filter(None, map(eastwest.deaf, gates.to_dict("records"))), "")
    there = held[held["target"] == server]
    counts = {name: sum(len([a for a in text.split(",") if a]) for text in there[name]) for name in ("known", "ready")}
    reasons = [*seen["reason"], deaf, *there["reason"]]
    return {
        "sync": "UNKNOWN" if lost else ",".join(states) or "none",
        "knows": counts["known"],
        "ready": counts["ready"],
        "gateway": ",".join(a for a in offered["addresses"] if a),
        "gateway_seen": "UNKNOWN" if deaf else ",".join(sorted(set(gates[gates["network"] == network]["address"]))),
        "reason": "; ".join(dict.fromkeys(r for r in reasons if r)),
    }


def _of_client(facts: Facts, client: str, server: str) -> dict[str, Any]:
    def own(frame: pd.DataFrame) -> list[dict[Any, Any]]:
        return frame[(frame["client"] == client) & (frame["server"] == server)].to_dict("records")

    way = next(iter(own(facts.ways)), {})
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


# --- verdicts ---------------------------------------------------------------------------------------------------------


def cells(mesh: Mesh, findings: Iterable[Finding]) -> pd.DataFrame:
    """Return one row for each ordered pair and each link of `CELLS`: its worst finding.

    Columns: client, server, cell, verdict (unknown where nothing was said that should have been), id, told (what was
    observed, where it is not well). What a cluster's own finding says (MK805) counts for each pair that it serves.
    Links that nothing at all was said of, in the whole mesh, are left out.
    """
    found = list(findings)
    rows = []
    spoken = {cell for cell, ids in CELLS.items() if any(f.id in ids for f in found)}
    for client, server in mesh.pairs:
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
    frame = fleet.table([], CELL_COLUMNS)
    return frame if not rows else _in_order(rows)


def _in_order(rows: list[dict[str, str]]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(rows, columns=list(CELL_COLUMNS)).fillna("").astype(CELL_COLUMNS)


def _worst(mesh: Mesh, findings: Iterable[Finding]) -> dict[tuple[str, str], tuple[str, str, str]]:
    """Return verdict, first broken link, and what broke it, by pair: the first link of the worst verdict."""
    frame = cells(mesh, findings)
    found = {}
    for pair in mesh.pairs:
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
    import pandas as pd

    words = dict.fromkeys(("pair", "verdict", "broken", "why", "answered"), "str")
    dtypes: dict[str, Any] = words | dict.fromkeys(("p50", "p95", "p99"), "float64")
    return pd.DataFrame(lines, columns=list(dtypes)).astype(dtypes)
