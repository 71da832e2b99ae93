"""The choice of a common root: what it is for each state of the clusters, and why."""

from __future__ import annotations

from dataclasses import replace

import pytest

from meshkit.stages.strategy import Offer, Outcome, State, choose

A, B = "a" * 64, "b" * 64
SHORT_A, SHORT_B = frozenset({A[:16]}), frozenset({B[:16]})
LIVE = State("east", live=True, root=A, signer=A, bundle=SHORT_A, anchors=SHORT_A, keys=frozenset({A}))
EMPTY = State("west")


def plugged(name: str, root: str = A, *, live: bool = False) -> State:
    """Return a cluster with an intermediate of its own."""
    bundle = frozenset({root[:16]})
    return State(name, live=live, root=root, signer=name, plugged=True, bundle=bundle, anchors=bundle)


OTHER = State("west", live=True, root=B, signer=B, bundle=SHORT_B, anchors=SHORT_B, keys=frozenset({B}))
CHOICES = {
    "live and empty": ((LIVE, EMPTY), None, Outcome.ADOPT, ("east", "west")),
    "live and idle of another root": ((LIVE, replace(OTHER, live=False)), None, Outcome.ADOPT, ("east", "west")),
    "all plugged": ((plugged("east", live=True), plugged("west")), None, Outcome.NOTHING, ()),
    "killed after the first": (
        (replace(plugged("east", live=True), keys=frozenset({A})), EMPTY),
        None,
        Outcome.ADOPT,
        ("west",),
    ),
    "two live roots": ((LIVE, OTHER), None, Outcome.OVERLAP, ("east", "west")),
    "two live roots, the first one's key is with a PKI": (
        (replace(LIVE, plugged=True, keys=frozenset()), OTHER),
        None,
        Outcome.OVERLAP,
        ("east", "west"),
    ),
    "two live roots, whose keys are with PKIs": (
        (plugged("east", live=True), plugged("west", B, live=True)),
        None,
        Outcome.NO_WAY,
        (),
    ),
    "the root's key is with a PKI": ((plugged("east", live=True), EMPTY), None, Outcome.NO_WAY, ()),
    "a spoiled cacerts": (
        (replace(LIVE, plugged=True, signer="x"), replace(plugged("west"), problem="expired")),
        None,
        Outcome.ADOPT,
        ("west",),
    ),
    "several roots in a live bundle": (
        (replace(plugged("east", live=True), bundle=SHORT_A | SHORT_B), plugged("west")),
        None,
        Outcome.OVERLAP,
        (),
    ),
    "a live certificate of another root": (
        (replace(plugged("east", live=True), anchors=SHORT_A | SHORT_B), plugged("west")),
        None,
        Outcome.OVERLAP,
        (),
    ),
    "an intermediate that ends": (
        (replace(plugged("east", live=True), keys=frozenset({A}), ends=True), plugged("west")),
        None,
        Outcome.ADOPT,
        ("east",),
    ),
    "nothing anywhere": ((State("east"), EMPTY), None, Outcome.NO_WAY, ()),
    "nobody live": ((replace(LIVE, live=False), EMPTY), None, Outcome.ADOPT, ("east", "west")),
    "a live mesh without a CA": ((replace(LIVE, root="", signer=""), EMPTY), None, Outcome.UNKNOWN, ()),
    "one is dead": ((LIVE, State("west", reason="no answer")), None, Outcome.UNKNOWN, ()),
    "own CA, nobody live": ((State("east"), EMPTY), Offer(B), Outcome.ADOPT, ("east", "west")),
    "own CA of the live root": ((plugged("east", live=True), EMPTY), Offer(A), Outcome.ADOPT, ("west",)),
    "own CA of another root": ((LIVE, EMPTY), Offer(B), Outcome.OVERLAP, ("east", "west")),
    "own CA, in place": ((plugged("east", live=True), plugged("west")), Offer(A), Outcome.NOTHING, ()),
    "own CA, another intermediate": (
        (plugged("east", live=True), plugged("west")),
        Offer(A, {"east": "east", "west": "other"}),
        Outcome.ADOPT,
        ("west",),
    ),
    "own CA, one is dead": ((LIVE, State("west", reason="no answer")), Offer(A), Outcome.UNKNOWN, ()),
}


@pytest.mark.parametrize(("states", "offer", "outcome", "plug"), CHOICES.values(), ids=list(CHOICES))
def test_a_choice(states: tuple[State, ...], offer: Offer | None, outcome: Outcome, plug: tuple[str, ...]) -> None:
    """With the reason; and what cannot be done has a remedy."""
    choice = choose(states, offer)
    assert (choice.outcome, choice.plug) == (outcome, plug)
    assert choice.why
    assert bool(choice.remedy) == (outcome in (Outcome.NO_WAY, Outcome.UNKNOWN))


def test_the_live_root_is_adopted_from_where_its_key_is() -> None:
    """Whatever the order of the clusters."""
    choice = choose([EMPTY, LIVE])
    assert (choice.root, choice.key_in) == (A, "east")


def test_overlap_can_be_asked_for() -> None:
    """To a root that is named; else there is nothing to change to, and nothing else is done instead."""
    assert choose([LIVE, EMPTY], wanted="overlap").outcome is Outcome.NO_WAY
    assert choose([LIVE, EMPTY], Offer(B), wanted="overlap").outcome is Outcome.OVERLAP
    there = [plugged("east", B, live=True), plugged("west", B)]
    assert choose(there, Offer(B), wanted="overlap").outcome is Outcome.NOTHING


def test_overlap_can_be_refused() -> None:
    """Who says adopt wants no live proxy to trust anything else."""
    choice = choose([LIVE, OTHER], wanted="adopt")
    assert choice.outcome is Outcome.NO_WAY
    assert "auto or overlap" in choice.remedy


def test_why_names_clusters_and_roots() -> None:
    """So that people can tell which mesh must give way."""
    assert choose([LIVE, OTHER]).why.endswith(f"west stands by {B[:16]}")
