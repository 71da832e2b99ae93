"""Proxy status for people: one row for each proxy, equal rows counted, and the changes since an earlier status."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any, Final

import pandas as pd

from meshkit import parameters
from meshkit.istio.proxies.syncz import CORE_TYPES
from meshkit.tables import Table, integer, moment, text, without_empty

WORST_FIRST = ("ERROR", "NOT CONNECTED", "UNKNOWN", "STALE", "NOT SENT", "SYNCED", "IGNORED")
BAD = ("ERROR", "NOT CONNECTED", "STALE")
GOOD = ("SYNCED", "IGNORED", "NOT SENT")
KEY = ["cluster", "namespace", "proxy"]
TREND: Final = Table(
    "proxies-since",
    "Proxies that differ from an earlier run",
    {
        "cluster": text("its cluster"),
        "namespace": text("its namespace"),
        "proxy": text("its pod"),
        "change": text("broken, worse, still broken, unknown, gone, `mended`, appeared, version or istiod"),
        "before": text("worst state, version or istiod of the earlier run"),
        "now": text("the same now"),
        "since": moment("the earliest moment at which it is known to have been so"),
        "nack": text("what the proxy refuses now"),
    },
    key=("cluster", "namespace", "proxy", "change"),
)
PROXIES: Final = Table(
    "proxies",
    "Every proxy, the worst first",
    {
        "cluster": text("where the pod runs"),
        "namespace": text("its namespace"),
        "proxy": text("its pod"),
        "kind": text("sidecar, router, waypoint or ztunnel"),
        "version": text("of the proxy"),
        "istiod": text("pod that serves it"),
        "worst": text("the worst of its states"),
        "CDS": text("state of its clusters; this and the following: IGNORED where it did not subscribe"),
        "LDS": text("state of its listeners"),
        "EDS": text("state of its endpoints"),
        "RDS": text("state of its routes; further xDS types follow where a proxy has them"),
    },
    key=("cluster", "namespace", "proxy"),
)
GROUPS: Final = Table(
    "proxy-groups",
    "How many proxies are alike, the worst first",
    {
        "cluster": text("where the pods run"),
        "istiod": text("pod that serves them"),
        "kind": text("sidecar, router, waypoint or ztunnel"),
        "version": text("of the proxies"),
        "worst": text("the worst of their states"),
        "proxies": integer("how many"),
        "namespaces": integer("in how many"),
        "example": text("one of them, with its namespace"),
    },
    key=("cluster", "istiod", "kind", "version", "worst"),
)
NAMES = ["cluster", "namespace", "proxy", "kind", "version", "istiod"]
CHANGES = ("broken", "worse", "still broken", "unknown", "gone", "mended", "appeared", "version", "istiod")


def status_filter(
    mesh: Iterable[str], namespace: str = "", clusters: Sequence[str] = (), states: Sequence[str] = ()
) -> Callable[[pd.DataFrame], pd.DataFrame]:
    """Return a filter for the rows of a `proxy_status`: of these proxies, with a type in one of these states.

    Unknown rows stay, unless states are named. States may be in lower case, and with `-` or `_`.

    Raises:
        InputError: no such cluster in the mesh, or no such state.
    """
    wanted = [re.sub("[-_]", " ", state).upper() for state in states]
    known = list(mesh)
    for cluster in clusters:
        parameters.require_choice("cluster", cluster, known, option="--cluster")
    for state in wanted:
        parameters.require_choice("state", state, WORST_FIRST, option="--state")

    def choose(status: pd.DataFrame) -> pd.DataFrame:
        rows = status[status["cluster"].isin(clusters)] if clusters else status
        rows = rows[(rows["namespace"] == namespace) | (rows["proxy"] == "")] if namespace else rows
        if not wanted:
            return rows
        keys = [rows[key] for key in KEY]
        return rows[rows["state"].isin(wanted).groupby(keys).transform("any")]

    return choose


def rank(states: pd.Series[str]) -> pd.Series[int]:
    """Return the rank of states, 0 the worst; an unknown word ranks as the worst."""
    return states.map(_place).astype("int64")


def _place(state: str) -> int:
    return WORST_FIRST.index(state) if state in WORST_FIRST else 0


def summary(status: pd.DataFrame) -> pd.DataFrame:
    """Return one row for each proxy of `proxy_status`, the worst first.

    Of two connections of one proxy to one istiod the worse one stays.
    """
    present = set(status["type"]) - {""}
    types = [t for t in CORE_TYPES if t in present or t != "ECDS"] + sorted(present - set(CORE_TYPES))
    ranked = _ranked(status.assign(number=status.groupby(NAMES, sort=False).ngroup()))
    frame = ranked.drop_duplicates("number").sort_values(["rank", "number"], kind="stable").set_index("number")
    typed = ranked.drop_duplicates(["number", "type"])
    untyped = frame.index.isin(ranked.loc[ranked["type"] == "", "number"])
    for kind in types:
        states = typed[typed["type"] == kind].set_index("number")["state"].reindex(frame.index)
        frame[kind] = states.where(states.notna() | untyped, "IGNORED").fillna("")
    return frame.assign(worst=frame["state"])[[*NAMES, "worst", *types]].astype("str").reset_index(drop=True)


def brief(proxies: pd.DataFrame) -> pd.DataFrame:
    """Return the columns of a `summary` that a terminal has room for, with `types`: those in the worst state."""
    types = list(proxies.columns[len(NAMES) + 1 :])
    worst = [
        "" if row["worst"] in GOOD else " ".join(kind for kind in types if row[kind] == row["worst"])
        for row in proxies.to_dict("records")
    ]
    named = proxies[["cluster", "namespace", "proxy", "version"]]
    return without_empty(named.assign(state=proxies["worst"], types=worst))


def brief_groups(counted: pd.DataFrame) -> pd.DataFrame:
    """Return the columns of `groups` that a terminal has room for."""
    return counted[["cluster", "istiod", "kind", "version", "worst", "proxies"]].rename(columns={"worst": "state"})


def _ranked(status: pd.DataFrame) -> pd.DataFrame:
    return status.assign(rank=rank(status["state"])).sort_values("rank", kind="stable")


def groups(proxies: pd.DataFrame) -> pd.DataFrame:
    """Return how many proxies of a `summary` are alike, the worst first, so that 100,000 fit a page."""
    same = list(GROUPS.key)
    named = proxies.assign(example=proxies["proxy"] + "." + proxies["namespace"])
    counted = named.groupby(same, sort=False).agg(
        proxies=("proxy", "size"), namespaces=("namespace", "nunique"), example=("example", "first")
    )
    frame = counted.reset_index()
    order = frame.assign(rank=rank(frame["worst"])).sort_values(["rank", *same], kind="stable")
    return order.drop(columns="rank").reset_index(drop=True)


def status_diff(before: pd.DataFrame, now: pd.DataFrame, read_at: datetime | None = None) -> pd.DataFrame:
    """Return the differences between two `proxy_status` of a mesh, the worst first.

    A change is one of: broken, worse, still broken, unknown (could be read before), gone, `mended` (in order again),
    appeared, version, istiod (another serves it). Equal changes of proxies in order are counted: "12 proxies".

    Args:
        before: the earlier status.
        now: the later one.
        read_at: when the earlier one was read; taken from its own times unless given.
    """
    unread = {row["cluster"]: row["nack"] for row in now[now["proxy"] == ""].to_dict("records")}
    at = (before["since"] + pd.to_timedelta(before["age_s"], unit="s")).max()
    was, seen = (_ranked(side[side["proxy"] != ""]).drop_duplicates(KEY) for side in (before, now))
    both = was.merge(seen, on=KEY, how="outer", suffixes=("_before", "_now"))
    same = both["state_before"].eq(both["state_now"]) & both["state_now"].isin(GOOD)
    for what in ("version", "istiod"):
        same &= both[f"{what}_before"] == both[f"{what}_now"]
    known = at if read_at is None else pd.Timestamp(read_at)
    rows = [row for pair in both[~same].to_dict("records") if (row := _change(pair, unread, known))]
    frame = TREND.frame(_counted(rows))
    order = frame.assign(place=frame["change"].map({change: place for place, change in enumerate(CHANGES)}))
    return order.sort_values("place", kind="stable", ignore_index=True).drop(columns="place")


def _change(pair: dict[Any, Any], unread: dict[str, str], known: Any) -> dict[str, Any] | None:
    before, now = (_text(pair[f"state_{side}"]) for side in ("before", "now"))
    row = {**{key: pair[key] for key in KEY}, "before": before, "now": now}
    row |= {"since": pair["since_now"], "nack": _text(pair["nack_now"])}
    if not now and pair["cluster"] in unread:
        row |= {"now": "UNKNOWN", "nack": unread[pair["cluster"]]}
    if row["now"] not in GOOD:
        return {**row, **_bad(pair, before, row["now"], known)}
    if before not in GOOD:
        return {**row, "change": "mended" if before else "appeared"}
    for what in ("version", "istiod"):
        if pair[f"{what}_before"] != pair[f"{what}_now"]:
            return {**row, "change": what, "before": pair[f"{what}_before"], "now": pair[f"{what}_now"]}
    return None


def _bad(pair: dict[Any, Any], before: str, now: str, known: Any) -> dict[str, Any]:

    if not now:
        return {"change": "gone"}
    if now == "UNKNOWN":
        return {"change": "unknown"}
    if before in ("", *GOOD):
        return {"change": "broken"}
    if before != now:
        return {"change": "worse" if _place(now) < _place(before) else "still broken"}
    earlier = [moment for moment in (pair["since_before"], pair["since_now"], known) if not pd.isna(moment)]
    return {"change": "still broken", "since": min(earlier, default=None)}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def brief_diff(changed: pd.DataFrame) -> pd.DataFrame:
    """Return the columns of a `status_diff` that a terminal has room for."""
    return changed[["cluster", "namespace", "proxy", "change", "before", "now"]]


def _counted(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return rows in which equal changes of proxies in order are one row with their number."""
    listed: list[dict[str, Any]] = []
    alike: dict[tuple[str, ...], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        if {row["before"], row["now"]} & {*BAD, "UNKNOWN"}:
            listed.append(row)
        else:
            alike[tuple(row[key] for key in ("cluster", "namespace", "change", "before", "now"))].append(row)
    for group in alike.values():
        many = {"proxy": f"{len(group)} proxies", "since": None} if len(group) > 1 else {}
        listed.append({**group[0], **many})
    return listed
