"""The choice of a common root: what it is for each state of the clusters, and why."""

from __future__ import annotations

from dataclasses import replace

import pytest

from meshkit.istio.ca.model import ClusterCaState, Offer, StrategyOutcome
from meshkit.istio.ca.strategy import choose_strategy

A, B = "a" * 64, "b" * 64
SHORT_A, SHORT_B = frozenset({A[:16]}), frozenset({B[:16]})
LIVE = ClusterCaState("east", live=True, root=A, signer=A, bundle=SHORT_A, anchors=SHORT_A, keys=frozenset({A}))
EMPTY = ClusterCaState("west")


def plugged(name: str, root: str = A, *, live: bool = False) -> ClusterCaState:
    """Return a cluster with an intermediate of its own."""
    bundle = frozenset({root[:16]})
    return ClusterCaState(name, live=live, root=root, signer=name, plugged=True, bundle=bundle, anchors=bundle)


OTHER = ClusterCaState("west", live=True, root=B, signer=B, bundle=SHORT_B, anchors=SHORT_B, keys=frozenset({B}))
CHOICES = {
    "live and empty": ((LIVE, EMPTY), None, StrategyOutcome.ADOPT, ("east", "west")),
    "live and idle of another root": (
        (LIVE, replace(OTHER, live=False)),
        None,
        StrategyOutcome.ADOPT,
        ("east", "west"),
    ),
    "all plugged": ((plugged("east", live=True), plugged("west")), None, StrategyOutcome.NOTHING, ()),
    "killed after the first": (
        (replace(plugged("east", live=True), keys=frozenset({A})), EMPTY),
        None,
        StrategyOutcome.ADOPT,
        ("west",),
    ),
    "two live roots": ((LIVE, OTHER), None, StrategyOutcome.OVERLAP, ("east", "west")),
    "two live roots, the first one's key is with a PKI": (
        (replace(LIVE, plugged=True, keys=frozenset()), OTHER),
        None,
        StrategyOutcome.OVERLAP,
        ("east", "west"),
    ),
    "two live roots, whose keys are with PKIs": (
        (plugged("east", live=True), plugged("west", B, live=True)),
        None,
        StrategyOutcome.NO_WAY,
        (),
    ),
    "the root's key is with a PKI": ((plugged("east", live=True), EMPTY), None, StrategyOutcome.NO_WAY, ()),
    "a spoiled cacerts": (
        (replace(LIVE, plugged=True, signer="x"), replace(plugged("west"), problem="expired")),
        None,
        StrategyOutcome.ADOPT,
        ("west",),
    ),
    "several roots in a live bundle": (
        (replace(plugged("east", live=True), bundle=SHORT_A | SHORT_B), plugged("west")),
        None,
        StrategyOutcome.OVERLAP,
        (),
    ),
    "a live certificate of another root": (
        (replace(plugged("east", live=True), anchors=SHORT_A | SHORT_B), plugged("west")),
        None,
        StrategyOutcome.OVERLAP,
        (),
    ),
    "an intermediate that ends": (
        (replace(plugged("east", live=True), keys=frozenset({A}), ends=True), plugged("west")),
        None,
        StrategyOutcome.ADOPT,
        ("east",),
    ),
    "nothing anywhere": ((ClusterCaState("east"), EMPTY), None, StrategyOutcome.NO_WAY, ()),
    "nobody live": ((replace(LIVE, live=False), EMPTY), None, StrategyOutcome.ADOPT, ("east", "west")),
    "a live mesh without a CA": ((replace(LIVE, root="", signer=""), EMPTY), None, StrategyOutcome.UNKNOWN, ()),
    "one is dead": ((LIVE, ClusterCaState("west", reason="no answer")), None, StrategyOutcome.UNKNOWN, ()),
    "own CA, nobody live": ((ClusterCaState("east"), EMPTY), Offer(B), StrategyOutcome.ADOPT, ("east", "west")),
    "own CA of the live root": ((plugged("east", live=True), EMPTY), Offer(A), StrategyOutcome.ADOPT, ("west",)),
    "own CA of another root": ((LIVE, EMPTY), Offer(B), StrategyOutcome.OVERLAP, ("east", "west")),
    "own CA, in place": ((plugged("east", live=True), plugged("west")), Offer(A), StrategyOutcome.NOTHING, ()),
    "own CA, another intermediate": (
        (plugged("east", live=True), plugged("west")),
        Offer(A, {"east": "east", "west": "other"}),
        StrategyOutcome.ADOPT,
        ("west",),
    ),
    "own CA, one is dead": ((LIVE, ClusterCaState("west", reason="no answer")), Offer(A), StrategyOutcome.UNKNOWN, ()),
}


@pytest.mark.parametrize(("states", "offer", "outcome", "plug"), CHOICES.values(), ids=list(CHOICES))
def test_a_choice(
    states: tuple[ClusterCaState, ...], offer: Offer | None, outcome: StrategyOutcome, plug: tuple[str, ...]
) -> None:
    """With the reason; and what cannot be done has a remedy."""
    choice = choose_strategy(states, offer)
    assert (choice.outcome, choice.plug) == (outcome, plug)
    assert choice.why
    assert bool(choice.remedy) == (outcome in (StrategyOutcome.NO_WAY, StrategyOutcome.UNKNOWN))


def test_the_live_root_is_adopted_from_where_its_key_is() -> None:
    """Whatever the order of the clusters."""
    choice = choose_strategy([EMPTY, LIVE])
    assert (choice.root, choice.key_in) == (A, "east")


def test_overlap_can_be_asked_for() -> None:
    """To a root that is named; else there is nothing to change to, and nothing else is done instead."""
    assert choose_strategy([LIVE, EMPTY], wanted="overlap").outcome is StrategyOutcome.NO_WAY
    assert choose_strategy([LIVE, EMPTY], Offer(B), wanted="overlap").outcome is StrategyOutcome.OVERLAP
    there = [plugged("east", B, live=True), plugged("west", B)]
    assert choose_strategy(there, Offer(B), wanted="overlap").outcome is StrategyOutcome.NOTHING


def test_overlap_can_be_refused() -> None:
    """Who says adopt wants no live proxy to trust anything else."""
    choice = choose_strategy([LIVE, OTHER], wanted="adopt")
    assert choice.outcome is StrategyOutcome.NO_WAY
    assert "auto or overlap" in choice.remedy


def test_why_names_clusters_and_roots() -> None:
    """So that people can tell which mesh must give way."""
    assert choose_strategy([LIVE, OTHER]).why.endswith(f"west trusts {B[:16]}")


class TestOwners:
    """What others keep is left alone: one answer names the owner and what it has to change."""

    OWNED = replace(
        plugged("west", B, live=True), owner="cert-manager (Certificate x/ca)", owner_source="Certificate x/ca"
    )
    ELSEWHERE = replace(
        OTHER, keys=frozenset(), owner="istio-csr at csr:443", owner_source="its issuer", signs_elsewhere=True
    )

    @pytest.mark.parametrize("west", [OWNED, replace(OWNED, live=False), replace(OWNED, root=A, problem="expired")])
    def test_a_secret_that_others_keep_is_never_planned(self, west: ClusterCaState) -> None:
        """Of another root, live or not, or unsound."""
        choice = choose_strategy([LIVE, west])
        assert (choice.outcome, choice.plug, choice.root) == (StrategyOutcome.NO_WAY, (), "")
        assert "cert-manager (Certificate x/ca)" in choice.why
        assert "change Certificate x/ca" in choice.remedy
        assert A[:16] in choice.remedy

    def test_a_second_look_says_the_same(self) -> None:
        """Nothing was changed."""
        assert choose_strategy([LIVE, self.OWNED]) == choose_strategy([LIVE, self.OWNED])

    def test_what_they_keep_under_the_common_root_is_good_also_when_it_ends(self) -> None:
        """Its owner renews it; the other cluster gets an intermediate."""
        west = replace(plugged("west", live=True), owner="cert-manager", owner_source="Certificate x/ca", ends=True)
        assert choose_strategy([LIVE, west]).plug == ("east",)
        done = choose_strategy([plugged("east", live=True), west])
        assert done.outcome is StrategyOutcome.NOTHING
        assert "cert-manager" in done.why

    def test_an_overlap_would_have_to_write_there(self) -> None:
        """All live clusters must trust both roots for a while, also the one that is under the new one already."""
        choice = choose_strategy([LIVE, self.OWNED], Offer(B))
        assert choice.outcome is StrategyOutcome.NO_WAY
        assert "until all proxies have moved" in choice.remedy

    def test_two_roots_whose_keys_are_nowhere(self) -> None:
        """The owner is named there, too."""
        choice = choose_strategy([replace(LIVE, keys=frozenset()), self.OWNED])
        assert "cert-manager" in choice.why
        assert choice.remedy.startswith("west: change Certificate x/ca")

    def test_an_unsound_one_without_a_root_is_its_owners(self) -> None:
        """Nobody else puts a sound one in its place."""
        choice = choose_strategy([LIVE, replace(self.OWNED, root="", problem="ca.crt missing")])
        assert choice.outcome is StrategyOutcome.NO_WAY
        assert "ca.crt missing" in choice.why

    def test_where_another_ca_signs_nothing_is_plugged_in(self) -> None:
        """Not under its root, nor under another."""
        for states in ([LIVE, self.ELSEWHERE], [LIVE, replace(self.ELSEWHERE, live=False, root="")]):
            choice = choose_strategy(states)
            assert (choice.outcome, choice.plug) == (StrategyOutcome.NO_WAY, ())
            assert "certificates come from istio-csr at csr:443" in choice.why
        same = replace(self.ELSEWHERE, root=A, signer="", bundle=SHORT_A, anchors=SHORT_A)
        assert choose_strategy([plugged("east", live=True), same]).outcome is StrategyOutcome.NOTHING
        assert choose_strategy([replace(plugged("east"), keys=frozenset({A}), problem="expired"), same]).plug == (
            "east",
        )
