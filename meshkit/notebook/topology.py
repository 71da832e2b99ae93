"""The mesh as a picture: its clusters, and how each calls each other one. SVG, which needs no script and no font."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Final

from meshkit.display import COLOURS
from meshkit.marks import mark, severity

Pair = tuple[str, str]
Point = tuple[float, float]
WIDTH: Final = 456.0
ROOMY: Final = 6
"""Up to so many clusters have their names in boxes; more are dots on a ring, with their names outside."""
LETTERS: Final = 14
"""Longer names lose their middle: it is their end that tells clusters apart."""
_BOX: Final = (64.0, 24.0)
_DOT: Final = (7.0, 7.0)


def topology(clusters: Mapping[str, str], pairs: Mapping[Pair, str], notes: Mapping[Pair, str] | None = None) -> str:
    """Return a picture of a mesh as SVG, with its summary as the text alternative.

    Args:
        clusters: the network of each cluster; clusters of one network stand beside each other.
        pairs: the verdict of each ordered pair, client before server; one that is not there was not tried.
        notes: a few letters on the arrow of a pair, such as its latency; drawn for two clusters only.
    """
    names = sorted(clusters, key=lambda name: (clusters[name], name))
    at, height = _places(names)
    arrows = [(a, b) for a in names for b in names if a != b]
    # What is broken is drawn last, over all that is well.
    arrows.sort(key=lambda pair: severity(pairs.get(pair, "not run")))
    parts = [_arrow(at, pair, pairs.get(pair, ""), len(names)) for pair in arrows]
    parts += [_cluster(name, clusters[name], at[name], height, len(names)) for name in names]
    if len(names) == 2:
        parts += [_note(at, pair, words) for pair, words in (notes or {}).items()]
    words = escape(summary(list(clusters), pairs))
    return (
        f'<svg class="topology" viewBox="0 0 {WIDTH:g} {height:g}" role="img" aria-label="{words}" fill="none"'
        f' font-size="13" font-family="inherit">{"".join(parts)}</svg>'
    )


def summary(clusters: Sequence[str], pairs: Mapping[Pair, str]) -> str:
    """Return in words how the pairs are: `2 of 2 ordered pairs pass`, and which do not."""
    ordered = [(a, b) for a in clusters for b in clusters if a != b]
    tones = {pair: mark(pairs[pair]).tone if pair in pairs else "quiet" for pair in ordered}
    text = f"{sum(tone == 'good' for tone in tones.values())} of {len(ordered)} ordered pairs pass"
    for tone, word in (("bad", "fail"), ("unknown", "unknown"), ("warn", "warn"), ("quiet", "not tried")):
        found = [f"{a} → {b}" for (a, b), known in tones.items() if known == tone]
        named = f" ({', '.join(found[:3])}{', …' * (len(found) > 3)})" if tone != "quiet" else ""
        text += f", {len(found)} {word}{named}" if found else ""
    return text


def _places(names: Sequence[str]) -> tuple[dict[str, Point], float]:
    """Return where each cluster is drawn, and the height of the picture."""
    middle = WIDTH / 2
    if len(names) <= 2:
        return {name: (middle + (n - (len(names) - 1) / 2) * 300, 70.0) for n, name in enumerate(names)}, 140.0
    radius, height = (150.0, 370.0) if len(names) <= ROOMY else (102.0, WIDTH)
    angles = [2 * math.pi * n / len(names) - math.pi / 2 for n in range(len(names))]
    spots = [(middle + radius * math.cos(angle), height / 2 + radius * math.sin(angle)) for angle in angles]
    return dict(zip(names, spots, strict=True)), height


def _arrow(at: Mapping[str, Point], pair: Pair, verdict: str, many: int) -> str:
    """Return the arrow from client to server, bent to its right, so that both directions are seen."""
    symbol, tone = mark(verdict) if verdict else mark("not run")
    bent = (x1, y1), (x2, y2), (cx, cy) = _bend(at, pair, many)
    angle = math.atan2(y2 - cy, x2 - cx)
    wings = [(x2 - 7 * math.cos(angle + turn), y2 - 7 * math.sin(angle + turn)) for turn in (0.45, -0.45)]
    tip = " ".join(f"{x:.1f},{y:.1f}" for x, y in [(x2, y2), *wings])
    well, roomy = tone in ("good", "quiet"), many <= ROOMY
    width = (1.8 if roomy else 0.5) if well else 2.4
    head = f'<polygon points="{tip}" fill="currentColor"/>' if roomy or not well else ""
    dashes = ' stroke-dasharray="5 4"' if tone in ("quiet", "unknown") else ""
    words = escape(f"{pair[0]} → {pair[1]}: {symbol} {verdict or 'not tried'}")
    return (
        f'<g class="{tone}" style="color:{COLOURS[symbol]}"><title>{words}</title>'
        f'<path d="M{x1:.1f} {y1:.1f}Q{cx:.1f} {cy:.1f} {x2:.1f} {y2:.1f}" stroke="currentColor"'
        f' stroke-width="{width:g}"{dashes}/>{head}'
        f"{'' if well else _badge(symbol, _apex(bent))}</g>"
    )


def _badge(symbol: str, place: Point) -> str:
    """Return the symbol of what is not well, so that colour is not the only sign of it."""
    x, y = place
    return (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="8" fill="currentColor"/>'
        f'<text class="badge" x="{x:.1f}" y="{y + 4:.1f}" text-anchor="middle" font-size="11" fill="#fff">'
        f"{symbol}</text>"
    )


def _bend(at: Mapping[str, Point], pair: Pair, many: int) -> tuple[Point, Point, Point]:
    """Return the ends of an arrow, outside of its clusters, and the point that it bends to."""
    (ax, ay), (bx, by) = at[pair[0]], at[pair[1]]
    far = math.hypot(bx - ax, by - ay)
    ux, uy = (bx - ax) / far, (by - ay) / far
    bow = 0.16 * far if many <= ROOMY else 0.06 * far
    middle = ((ax + bx) / 2 - uy * bow, (ay + by) / 2 + ux * bow)
    half = _BOX if many <= ROOMY else _DOT
    return _edge((ax, ay), middle, half), _edge((bx, by), middle, half), middle


def _apex(bent: tuple[Point, Point, Point]) -> Point:
    (x1, y1), (x2, y2), (x, y) = bent
    return (x1 + 2 * x + x2) / 4, (y1 + 2 * y + y2) / 4


def _edge(center: Point, toward: Point, half: Point) -> Point:
    """Return where the line from the center of a box toward a point leaves it, a little outside."""
    (x, y), (dx, dy) = center, (toward[0] - center[0], toward[1] - center[1])
    share = min((half[0] + 4) / abs(dx) if dx else math.inf, (half[1] + 4) / abs(dy) if dy else math.inf)
    return x + dx * share, y + dy * share


def _cluster(name: str, network: str, place: Point, height: float, many: int) -> str:
    (x, y), label = place, escape(_short(name))
    title = f"<title>{escape(f'{name}, network {network}')}</title>"
    if many <= ROOMY:
        w, h = _BOX
        return (
            f'<g>{title}<rect x="{x - w:.1f}" y="{y - h:.1f}" width="{2 * w:g}" height="{2 * h:g}" rx="8"/>'
            f'<text x="{x:.1f}" y="{y - 2:.1f}" text-anchor="middle" font-weight="600">{label}</text>'
            f'<text class="soft" x="{x:.1f}" y="{y + 15:.1f}" text-anchor="middle" font-size="12">'
            f"{escape(_short(network))}</text></g>"
        )
    angle = math.degrees(math.atan2(y - height / 2, x - WIDTH / 2))
    left = abs(angle) > 90.5
    turn, anchor, gap = (angle + 180, "end", -13) if left else (angle, "start", 13)
    return (
        f'<g>{title}<circle cx="{x:.1f}" cy="{y:.1f}" r="{_DOT[0]:g}"/>'
        f'<text transform="translate({x:.1f} {y:.1f}) rotate({turn:.1f})" x="{gap}" y="4" text-anchor="{anchor}"'
        f' font-size="14">{label}</text></g>'
    )


def _short(name: str) -> str:
    return name if len(name) <= LETTERS else f"{name[: LETTERS // 2 - 2]}…{name[-LETTERS // 2 - 1 :]}"


def _note(at: Mapping[str, Point], pair: Pair, words: str) -> str:
    x, y = _apex(_bend(at, pair, 2))
    above = y < at[pair[0]][1]
    return f'<text x="{x:.1f}" y="{y + (-7 if above else 18):.1f}" text-anchor="middle">{escape(words)}</text>'


def networks(clusters: Mapping[str, str]) -> Iterator[tuple[str, list[str]]]:
    """Yield each network with its clusters."""
    for network in dict.fromkeys(clusters.values()):
        yield network, [name for name, own in clusters.items() if own == network]
