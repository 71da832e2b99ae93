"""The picture of the mesh: every cluster, every pair, whatever they are called."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

import pytest

from meshkit.notebook.topology import WIDTH, networks, summary, topology

SVG = "{http://www.w3.org/2000/svg}"


def clusters(many: int) -> dict[str, str]:
    """Return so many clusters, two on each network."""
    return {f"prod-eu-west-{n:02}": f"net-{n // 2}" for n in range(many)}


def drawn(svg: str) -> ET.Element:
    """Return a picture's elements; it is well-formed."""
    return ET.fromstring(svg.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1))  # noqa: S314  (our own)


@pytest.mark.parametrize("many", [1, 2, 3, 5, 6, 7, 20])
def test_every_cluster_and_every_ordered_pair_is_drawn_inside_of_the_picture(many: int) -> None:
    """With its name whole in the title of its element."""
    known = clusters(many)
    root = drawn(topology(known, {}))
    titles = [title.text or "" for title in root.iter(f"{SVG}title")]
    assert sum("→" in title for title in titles) == many * (many - 1)
    assert all(any(title == f"{name}, network {network}" for title in titles) for name, network in known.items())
    height = float(root.attrib["viewBox"].split()[3])
    for path in root.iter(f"{SVG}path"):
        numbers = [float(n) for n in re.findall(r"-?[\d.]+", path.attrib["d"])]
        assert all(0 <= x <= WIDTH for x in numbers[::2])
        assert all(0 <= y <= height for y in numbers[1::2])


def test_what_is_not_well_has_a_symbol_and_is_drawn_last() -> None:
    """Colour never says it alone, and nothing covers it."""
    known = clusters(3)
    a, b, c = known
    pairs = {(x, y): "pass" for x in known for y in known if x != y} | {(a, b): "fail", (b, c): "unknown"}
    words = "".join(drawn(topology(known, pairs)).itertext())
    assert words.index(f"{a} → {b}: ✖ fail✖") > max(words.index(f"{x} → {y}:") for x, y in pairs if (x, y) != (a, b))
    assert f"{b} → {c}: ? unknown?" in words


def test_the_words_count_every_pair() -> None:
    """A pair that nobody tried is none that passes."""
    pairs = {("a", "b"): "pass", ("b", "a"): "fail", ("a", "c"): "warn", ("c", "a"): "unknown"}
    assert summary(["a", "b", "c"], pairs) == (
        "1 of 6 ordered pairs pass, 1 fail (b → a), 1 unknown (c → a), 1 warn (a → c), 2 not tried"
    )


def test_names_are_escaped_and_long_ones_keep_their_end() -> None:
    """Both of these are one cluster each."""
    known = {"the-first-of-our-clusters-1": "<net>", "the-first-of-our-clusters-2": "<net>"}
    words = "".join(drawn(topology(known, {})).itertext())
    assert "the-f…usters-1" in words
    assert "<net>" in words


def test_an_arrow_of_two_clusters_has_a_note() -> None:
    """Such as its latency."""
    assert "p50 40 ms" in topology(clusters(2), {}, {tuple(clusters(2)): "p50 40 ms"})  # type: ignore[dict-item]


def test_clusters_are_listed_by_network() -> None:
    """In the order of the mesh file."""
    assert dict(networks({"a": "1", "b": "2", "c": "1"})) == {"1": ["a", "c"], "2": ["b"]}
