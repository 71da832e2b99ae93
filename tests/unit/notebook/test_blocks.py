"""Findings as blocks: what a person reads of a mesh, and copies."""

from __future__ import annotations

from pathlib import Path

import pytest

from meshkit.checks import audit, causes
from meshkit.checks.finding import Finding, Verdict
from meshkit.notebook.blocks import Ordered, Page, blocks, report
from meshkit.notebook.terminal import painter
from meshkit.snapshot.snapshot import Snapshot

FAULT = Path(__file__).parents[2] / "fixtures" / "snapshots" / "mesh-networks-secret-in-wrong-namespace.json.gz"
CREATE = (
    "istioctl create-remote-secret --context lab-west -n istio-system --name west --server https://172.31.200.2:6443"
    " | kubectl apply --context lab-east -n istio-system -f -"
)
NARROW = Page(painter(color=False), 80)


def finding(identifier: str, verdict: Verdict, subject: str = "east", remedy: str = "") -> Finding:
    """Return a finding whose texts are long."""
    told = " ".join(f"word{n}" for n in range(40))
    return Finding(
        id=identifier, check="it is as it should be", subject=subject, expected=told, observed=told, verdict=verdict,
        remedy=remedy,
    )  # fmt: skip


@pytest.fixture(scope="module")
def fault() -> Ordered:
    """The findings of a real mesh whose remote secret lies in the wrong namespace."""
    facts = Snapshot.load(FAULT)
    return causes.in_order(audit.check(facts), facts.mesh.clusters)


def test_the_cause_is_a_block_and_names_what_follows_from_it(fault: Ordered) -> None:
    """Then a line for each consequence, and one for what passed."""
    assert report(fault, NARROW).split("\n") == [
        "✖ fail MK832 remote secret lies where istiod reads it [east → west]",
        "  observed  istio-remote-secret-west is in namespace default: istiod ignores it",
        "  expected  namespace istio-system, label istio/multiCluster=true",
        "  remedy",
        "    kubectl --context lab-east -n default delete secret istio-remote-secret-west",
        f"    {CREATE}",
        "  leads to",
        "    ✖ fail MK804 istiod watches the other cluster [east → west]",
        "    ✖ fail MK842 istiod follows the other cluster [east → west]",
        "    ✖ fail MK839 client has the server's endpoints [east → west]",
        "    ✖ fail MK711 clients have the other cluster's endpoints [east → west]",
        "    ! warn MK712 every serving cluster answers calls [east]",
        "",
        "✔ 133 passed, 7 skipped; --all shows each",
        "✖ 5 failed, 1 warned, from 1 cause",
    ]


def test_all_shows_each_finding_once_and_each_command_in_one_line(fault: Ordered) -> None:
    """What follows has its own remedy then, and what passed a line; only commands are longer than the terminal."""
    text = report(fault, NARROW, every=True)
    lines = text.split("\n")
    assert text.count("MK101 the cluster can be read [") == 2
    assert "    kubectl --context lab-east -n istio-system delete pod istiod-c87b65b46-wtcg8" in text
    assert all(line.lstrip().startswith(("kubectl ", "istioctl ")) for line in lines if len(line) > 80)
    assert {one.id for one, _ in fault} == {word for word in text.split() if word.startswith("MK") and word.isalnum()}


def test_a_narrow_page_breaks_words_nowhere_and_a_pipe_breaks_no_line() -> None:
    """A pipe is for grep; a terminal of 40 columns for reading."""
    found = [(finding("MK801", Verdict.FAIL, remedy="look at what it says of itself, and " * 5), None)]
    for width in (40, 80, 120):
        text = report(found, Page(painter(color=False), width))
        assert max(map(len, text.split("\n"))) <= width
        assert text.count("word39") == 2
    assert len(report(found, Page(painter(color=False))).split("\n")) == 6


def test_very_many_consequences_are_counted_and_each_check_is_named() -> None:
    """As of a cluster that cannot be read: nothing is left out in silence."""
    cause = finding("MK101", Verdict.UNKNOWN)
    ids = [f"MK{number}" for number in range(801, 821)]
    effects = [(finding(one, Verdict.UNKNOWN, subject), cause) for one in ids for subject in ("east", "west")]
    text = blocks([(cause, None), *effects], NARROW)
    assert "    ? 40 unknown: MK801, MK802" in text
    assert all(one in text for one in ids)
    assert max(map(len, text.split("\n"))) <= 80


def test_equal_consequences_of_many_pairs_are_one_line_with_their_number() -> None:
    """And the same finding of two replicas is named once."""
    cause = finding("MK802", Verdict.FAIL)
    effects = [(finding("MK804", Verdict.FAIL, f"c{n} → east"), cause) for n in (1, 1, 2, 3, 4, 5)]
    line = blocks([(cause, None), *effects], NARROW._replace(width=100)).split("\n")[-1]
    assert line == "    ✖ fail MK804 it is as it should be [c1 → east, c2 → east, c3 → east and 2 more]"


def test_colours_change_no_letter(fault: Ordered) -> None:
    """And no line break."""
    coloured = report(fault, Page(painter(color=True), 80))
    assert "\x1b[1;31m✖ fail MK832 \x1b[0m" in coloured
    for code in ("\x1b[1;31m", "\x1b[32m", "\x1b[33m", "\x1b[2m", "\x1b[1m", "\x1b[0m"):
        coloured = coloured.replace(code, "")
    assert coloured == report(fault, NARROW)


def test_what_a_cluster_says_cannot_leave_its_line() -> None:
    """An escape sequence is shown, not sent, in commands too."""
    text = report([(finding("MK801", Verdict.FAIL, "a\x1b[2J\nb", "kubectl get pods -n x\x1b[2J"), None)], NARROW)
    assert "\x1b" not in text
    assert "[a\\x1b[2J b]" in text


def test_nothing_checked_is_nothing_shown() -> None:
    """Not even a pass."""
    assert report([], NARROW) == ""
