"""Charts of a mesh: each takes a table and returns a figure; an empty table gives a figure that says so.

What colour says, a number, a word or a mark says too; titles carry n, axes their units. This module loads matplotlib:
import it where you draw.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime
from itertools import product
from typing import Any, Final

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter, date2num

from meshkit.marks import mark, plain, severity
from meshkit.notebook.style import (
    FAINT,
    LINES,
    PALE,
    ROOMY,
    TONES,
    Chart,
    chart,
    draw_cell,
    log_ms_axis,
    matrix,
    nothing,
    styled,
    tone_text,
)
from meshkit.notebook.terminal import number
from meshkit.probing.statistics import failed_requests, quantile

ROWS: Final = 40
"""More rows than this do not fit a page: the worst are drawn, and the title says so."""
_FAIL: Final = f"{mark('fail').symbol} fail"
_UNKNOWN: Final = f"{mark('unknown').symbol} unknown"


@styled
def state_overview(summary: pd.DataFrame) -> Chart:
    """Show proxies by cluster and worst xDS state, from columns cluster and worst, one row for each proxy.

    Each bar is the whole cluster. A segment is never much narrower than 4 %: one stale proxy of 100,000 is seen.
    """
    if summary.empty:
        return nothing("xDS state: no proxy was seen in any cluster")
    table = summary.assign(state=summary["worst"].map(plain)).pivot_table(
        index="cluster", columns="state", aggfunc="size", fill_value=0
    )
    states = sorted(table.columns, key=severity)
    unwell = table[[s for s in states if mark(s).tone in ("warn", "unknown", "bad")]].sum(axis=1)
    worst = {name: max(severity(state) for state in states if table.loc[name, state]) for name in table.index}
    shown = table.loc[sorted(table.index, key=lambda name: (-worst[name], -unwell[name], name))[:ROWS], states]
    title = f"xDS state of {_many(len(summary), 'proxy', 'proxies')} in {_many(len(table), 'cluster')}: "
    title += f"{unwell.sum():,} not in order" if unwell.any() else "all in order"
    figure = chart(title + _only(ROWS, len(table), "worst clusters"), 8, 1.3 + 0.62 * len(shown))
    axes = figure.add_subplot()
    for y, counts in enumerate(shown.to_dict("records")):
        present = {str(state): count for state, count in counts.items() if count}
        widths = np.maximum(np.array(list(present.values())) / sum(present.values()), 0.04)
        widths *= 100 / widths.sum()
        for state, left, width in zip(present, np.cumsum(widths) - widths, widths, strict=True):
            tone = mark(state).tone
            axes.barh(y, width, left=left, height=0.42, color=TONES[tone], edgecolor="white", linewidth=1)
            tone_text(axes, left + width / 2, y, mark(state).symbol, TONES[tone])
        words = "     ".join(f"{mark(state).symbol} {count:,} {state}" for state, count in present.items())
        axes.text(0, y - 0.27, words, va="bottom", fontsize=8.5)
    totals = [f"{cluster}\nn = {count:,}" for cluster, count in shown.sum(axis=1).items()]
    axes.set_yticks(range(len(shown)), totals)
    axes.set(
        ylim=(len(shown) - 0.65, -0.7),
        xlim=(0, 100),
        xlabel="share of the cluster's proxies (%), the smallest widened to be seen",
    )
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    return figure


@styled
def latency_heatmap(latency: pd.DataFrame, *, column: str = "p50_ms", log: bool = False) -> Chart:
    """Show one column of the latency table, client by server, with the numbers in the cells.

    Cells without a number are hatched and say why: every request failed, or nothing was measured.
    """
    if latency.empty:
        return nothing("Latency: no pair of clusters was measured")
    rows = {(row["client"], row["server"]): row for row in latency.to_dict("records")}
    clients, servers = _names(latency)
    known = [row[column] for row in rows.values() if row[column] > 0] or [1.0]
    norm = LogNorm(min(known), max(known)) if log else Normalize(0, max(known))
    what, phase = column.removesuffix("_ms").replace("_", " "), "first" if column.startswith("first") else "warm"
    count = int(latency["first_n" if phase == "first" else "n"].sum())
    interval = " with 95 % interval" if len(servers) <= ROOMY else ""
    title = f"Latency {what} (ms){interval}, n = {_many(count, f'{phase} answer')}"
    figure, axes = matrix(title, clients, servers)
    for (y, client), (x, server) in product(enumerate(clients), enumerate(servers)):
        row = rows.get((client, server), {})
        value = row.get(column, math.nan)
        color = None if math.isnan(value) else colormaps["cividis"](float(norm(max(value, min(known)))))
        draw_cell(axes, x, y, _latency_words(row, column), color, crowd=len(servers))
    scale = figure.colorbar(ScalarMappable(norm, "cividis"), ax=axes, shrink=0.8, aspect=30)
    scale.set_label(f"{what} (ms{', log scale' if log else ''})")
    scale.outline.set_visible(False)
    if log:
        log_ms_axis(scale.ax.yaxis)
    return figure


@styled
def latency_ecdf(samples: pd.DataFrame) -> Chart:
    """Show how warm latency is distributed, one panel for each client, one line for each server, from samples.

    A line ends at the share of requests that were answered: what failed never arrives. Local solid, remote dashed.
    """
    warm = samples if samples.empty else samples[samples["phase"] == "warm"]
    if warm.empty:
        return nothing("Latency distribution: no warm request was sent")
    failed = failed_requests(warm)
    clients, servers = _names(warm)
    across = min(len(clients), 2 if len(clients) <= 8 else 4)
    down = math.ceil(len(clients) / across)
    title = f"Distribution of warm latency with p50, n = {_many(len(warm), 'request')}, {failed.sum():,} failed"
    figure = chart(title, 5.2 * across, 0.5 + max(2.4, 0.17 * len(servers) + 0.8) * down)
    panels = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False)
    for axes in panels.flat[len(clients) :]:
        axes.set_visible(False)
    for axes in panels.flat[len(clients) - across : len(clients)]:
        axes.tick_params(labelbottom=True)
    for axes, client in zip(panels.flat, clients, strict=False):
        mine = warm["client"] == client
        lines = []
        for server in servers:
            pair = mine & (warm["server"] == server)
            times = np.sort(1000 * warm.loc[pair & ~failed, "seconds"].to_numpy(dtype="float64"))
            lines.append((server, times, int(pair.sum())))
        _ecdf_panel(axes, client, [line for line in lines if line[2]], servers)
    if not failed.all():
        panels.flat[0].set_xscale("log")
        log_ms_axis(panels.flat[0].xaxis)
    figure.supxlabel("milliseconds (log scale)", fontsize=9)
    figure.supylabel("share of requests answered", fontsize=9)
    return figure


@styled
def pair_matrix(table: pd.DataFrame) -> Chart:
    """Show the worst verdict of each ordered pair, client by server, from columns client, server, verdict, note.

    A pair that no row speaks of is unknown; so is a verdict that nobody knows.
    """
    if table.empty:
        return nothing("Pairs of clusters: no pair was tried")
    ranked = table.assign(_rank=table["verdict"].map(severity)).sort_values("_rank", kind="stable")
    worst = {(row["client"], row["server"]): row for row in ranked.to_dict("records")}
    clients, servers = _names(table)
    pairs = [pair for pair in product(clients, servers) if pair in worst or pair[0] != pair[1]]
    broken = [pair for pair in pairs if mark(worst.get(pair, {}).get("verdict", "unknown")).tone == "bad"]
    passed = [pair for pair in pairs if mark(worst.get(pair, {}).get("verdict", "unknown")).tone == "good"]
    title = f"{len(passed)} of {_many(len(pairs), 'ordered pair')} pass"
    if broken:
        title += f", {len(broken)} fail: " + ", ".join(f"{a} → {b}" for a, b in broken[:3]) + ", …" * (len(broken) > 3)
    figure, axes = matrix(title, clients, servers)
    for (y, client), (x, server) in product(enumerate(clients), enumerate(servers)):
        if (client, server) not in pairs:
            draw_cell(axes, x, y, ["–"], "white", crowd=len(servers))
            continue
        row = worst.get((client, server), {"verdict": "unknown", "note": "not tried"})
        symbol, tone = mark(row["verdict"])
        note = row.get("note")
        words = [f"{symbol} {plain(row['verdict'])}", note if isinstance(note, str) else ""]
        draw_cell(axes, x, y, words, None if tone == "unknown" else PALE.get(tone, TONES[tone]), crowd=len(servers))
    return figure


@styled
def first_vs_warm(latency: pd.DataFrame) -> Chart:
    """Show p50 of first requests beside warm ones for each ordered pair, with their 95 % intervals."""
    if latency.empty:
        return nothing("First connection beside warm: no pair of clusters was measured")
    ranked = latency.assign(_slow=latency["first_p50_ms"].fillna(latency["p50_ms"]).fillna(math.inf))
    drawn = latency.loc[ranked.sort_values("_slow", kind="stable").index[-ROWS:]].sort_values(["path", "p50_ms"])
    title = (
        f"First request on a new connection beside warm, p50 with 95 % interval{_only(ROWS, len(latency), 'slowest')}"
    )
    figure = chart(title, 8, 1.5 + 0.3 * len(drawn))
    axes = figure.add_subplot()
    looks = (("p50", "n", "o", LINES[0], "warm"), ("first_p50", "first_n", "D", LINES[1], "first"))
    for y, row in enumerate(drawn.to_dict("records")):
        points = [row["p50_ms"], row["first_p50_ms"]]
        axes.plot(points, [y, y], color=FAINT, linewidth=0.6, zorder=1)
        for name, count, marker, color, word in looks:
            point, low, high = (row[f"{name}_{part}"] for part in ("ms", "low", "high"))
            axes.plot([low, high], [y, y], color=color, linewidth=5, alpha=0.35, solid_capstyle="butt")
            label = f"{word}, n = {int(latency[count].sum()):,}" if y == 0 else None
            axes.plot(point, y, marker, color=color, label=label, linestyle="none", markersize=5)
        axes.annotate(_first_words(row), (1.02, y), xycoords=("axes fraction", "data"), va="center", fontsize=8)
    axes.set_yticks(range(len(drawn)), [f"{a} → {b}" for a, b in zip(drawn["client"], drawn["server"], strict=True)])
    axes.set(ylim=(len(drawn) - 0.4, -0.6), xlabel="milliseconds (log scale)")
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")
    if latency[["p50_ms", "first_p50_ms"]].notna().any(axis=None):
        axes.set_xscale("log")
        log_ms_axis(axes.xaxis)
    figure.legend(loc="outside lower left", ncols=2, frameon=False)
    return figure


@styled
def certificate_lifetimes(certs: pd.DataFrame, *, now: datetime | None = None) -> Chart:
    """Show each proxy's certificate from not_before to not_after, grouped by cluster, and the present moment.

    Columns: cluster, namespace, proxy, not_before, not_after (UTC), issuer. Of many, the soonest to expire.
    """
    if certs.empty:
        return nothing("Certificates: no proxy showed one")
    dates = {column: pd.to_datetime(certs[column], utc=True) for column in ("not_before", "not_after")}
    soonest = certs.assign(**dates).sort_values("not_after", na_position="first", kind="stable").head(ROWS)
    drawn = soonest.sort_values(["cluster", "not_after"], na_position="first", kind="stable")
    moment = pd.Timestamp(now or datetime.now(UTC)).tz_convert("UTC")
    expired = int((dates["not_after"] < moment).sum())
    title = f"Certificates of {_many(len(certs), 'proxy', 'proxies')}, {expired:,} expired"
    figure = chart(title + _only(ROWS, len(certs), "soonest to expire"), 9, 1.2 + 0.24 * len(drawn))
    axes = figure.add_subplot()
    axes.use_sticky_edges = False
    colors = {cluster: LINES[i % len(LINES)] for i, cluster in enumerate(sorted(set(certs["cluster"])))}
    several = len(set(certs["issuer"])) > 1
    names: list[str] = []
    for y, row in enumerate(drawn.to_dict("records")):
        words, well = (_UNKNOWN, False) if pd.isna(row["not_after"]) else _life(row["not_after"], moment)
        if not pd.isna(row["not_after"]) and not pd.isna(row["not_before"]):
            start, end = _day(row["not_before"]), _day(row["not_after"])
            (bar,) = axes.barh(y, end - start, left=start, height=0.6, color=colors[row["cluster"]])
            if not well:
                bar.set(facecolor="white", edgecolor=TONES["bad"], hatch="////")
        words += f" · {row['issuer']}" if several else ""
        axes.annotate(words, (1.01, y), xycoords=("axes fraction", "data"), va="center", fontsize=8)
        names.append(f"{row['cluster']}  {row['namespace']}/{row['proxy']}")
    axes.axvline(_day(moment), color="black", linewidth=1)
    axes.annotate("now", (_day(moment), 1.0), xycoords=("data", "axes fraction"), ha="center", va="bottom")
    axes.set_yticks(range(len(drawn)), names)
    axes.set(ylim=(len(drawn) - 0.4, -0.6), xlabel="time (UTC)")
    axes.tick_params(axis="y", length=0)
    locator = AutoDateLocator(minticks=2, maxticks=6)  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
    return figure


def _ecdf_panel(axes: Axes, client: str, lines: list[tuple[str, Any, int]], servers: list[str]) -> None:
    medians = {server: quantile(times, 0.5) for server, times, _ in lines}
    lines = sorted(lines, key=lambda line: medians[line[0]] if len(line[1]) else math.inf)
    for place, (server, times, asked) in enumerate(lines):
        color, local = LINES[servers.index(server) % len(LINES)], server == client
        height = 1 - (place + 0.5) / len(lines)
        words = [f"{server} (local)" if local else server]
        leader: dict[str, Any] = {"xy": (1, height), "xycoords": "axes fraction"}
        if len(times):
            words.append(f"{number(medians[server])} ms")
            shares = np.arange(len(times) + 1) / asked
            axes.step([times[0], *times], shares, where="post", color=color, linestyle="-" if local else "--")
            rank = min(len(times) - 1, int(height * asked))
            line = {"arrowstyle": "-", "color": color, "linewidth": 0.5}
            leader = {"xy": (times[rank], shares[rank + 1]), "arrowprops": line}
        if len(times) < asked:
            words.append(f"✖ {100 * (1 - len(times) / asked):.3g} % failed")
        place_of_words: dict[str, Any] = {"xytext": (1.03, height), "textcoords": "axes fraction", "va": "center"}
        axes.annotate("  ".join(words), **leader, **place_of_words, color=color, fontsize=8)
    axes.set(ylim=(0, 1.02))
    axes.set_title(f"from {client}")
    axes.grid()


def _names(table: pd.DataFrame) -> tuple[list[str], list[str]]:
    """Return clients and servers in the table's order; a cluster that stands on one side only is shown there only."""
    clients, servers = (list(dict.fromkeys(table[column].astype(str))) for column in ("client", "server"))
    return clients, sorted(servers, key=lambda s: clients.index(s) if s in clients else len(clients))


def _latency_words(row: dict[Any, Any], column: str) -> list[str]:
    value, failed = row.get(column, math.nan), int(row.get("failed", 0))
    if math.isnan(value):
        return [_FAIL, f"{failed:,} failed"] if failed else [_UNKNOWN]
    if failed:
        return [number(value), f"✖ {failed:,} failed"]
    stem = column.removesuffix("_ms")
    low, high = (row.get(f"{stem}_{part}", math.nan) for part in ("low", "high"))
    if math.isnan(low):
        return [number(value)]
    return [number(value), f"≥ {number(low)}" if math.isnan(high) else f"{number(low)}–{number(high)}"]


def _first_words(row: dict[Any, Any]) -> str:
    times = {"warm": row["p50_ms"], "first": row["first_p50_ms"]}
    words = [f"{number(time)} {phase}" for phase, time in times.items() if not math.isnan(time)]
    return ", ".join([*(words or ["no answer"]), *([f"✖ {row['failed']:,} failed"] if row["failed"] else [])])


def _day(moment: datetime) -> float:
    return float(date2num(moment))  # type: ignore[no-untyped-call]


def _life(end: datetime, moment: pd.Timestamp) -> tuple[str, bool]:
    hours = abs((end - moment).total_seconds()) / 3600
    span = f"{hours / 24:.0f} d" if hours >= 72 else f"{hours:.0f} h" if hours >= 2 else f"{hours * 60:.0f} min"
    return (f"{span} left", True) if end >= moment else (f"✖ expired {span} ago", False)


def _many(count: int, one: str, more: str = "") -> str:
    return f"{count:,} {one if count == 1 else more or one + 's'}"


def _only(shown: int, total: int, which: str) -> str:
    return f" (the {shown} {which} of {total:,} shown)" if total > shown else ""
