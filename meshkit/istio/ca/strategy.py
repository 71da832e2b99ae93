"""How a common root comes about: chosen from facts, with the reason, by a function that asks nobody.

choice = strategy.choose([State("east", live=True, root="aa…", keys=frozenset({"aa…"})), State("west")])
choice.outcome, choice.why      # Outcome.ADOPT, "east's self-signed root becomes the root of all"
"""

from __future__ import annotations

from collections.abc import Sequence

from meshkit.istio.ca.model import NEW_ROOT, SHORT, Choice, ClusterCaState, Offer, StrategyOutcome


def choose_strategy(states: Sequence[ClusterCaState], offer: Offer | None = None, wanted: str = "auto") -> Choice:
    """Return how all clusters come to one root.

    Args:
        states: one for each cluster of the mesh.
        offer: the user's own CA, if trust.rootDirectory names one.
        wanted: trust.strategy of the mesh file: auto, adopt (never change what live proxies trust) or overlap (to the
            root of trust.rootDirectory, whatever there is now).
    """
    if dead := [f"{s.name}: {s.reason}" for s in states if s.reason]:
        return Choice(StrategyOutcome.UNKNOWN, "; ".join(dead), "the choice needs the roots of all clusters")
    live = [s for s in states if s.live]
    if unsound := [s for s in live if s.owner and not s.root]:
        return _owners(unsound, "the root of all")
    if bad := [f"{s.name}: {s.problem or 'no Secret to sign with'}" for s in live if not s.root]:
        told = f"the root of a live mesh cannot be told: {'; '.join(bad)}"
        return Choice(StrategyOutcome.UNKNOWN, told, "put a sound `cacerts` in place, or bring its istiod back")
    if wanted == "overlap" and offer is None:
        return Choice(
            StrategyOutcome.NO_WAY,
            "trust.strategy is overlap, and trust.rootDirectory names no root to change to",
            NEW_ROOT,
        )
    root = offer.root if offer else _root(states)
    if not root:
        return _rootless(live)
    return _under(root, states, offer, wanted)


def _root(states: Sequence[ClusterCaState]) -> str:
    """Return the root to have in common where none is offered, or an empty text."""
    live = list(dict.fromkeys(s.root for s in states if s.live))
    if len(live) > 1:
        return next((root for root in live if _holder(states, root)), "")
    # Without a live mesh nobody's trust can break, and the first root that there is will do.
    return next(iter(live), "") or next((s.root for s in states if s.root and not s.problem), "")


def _holder(states: Sequence[ClusterCaState], root: str) -> str:
    return next((s.name for s in states if root in s.keys), "")


def _rootless(live: Sequence[ClusterCaState]) -> Choice:
    if not live:
        told = "no cluster has a CA, and trust.rootDirectory names none"
        remedy = f"install Istio in one cluster first: its istiod makes a root; or {NEW_ROOT}"
        return Choice(StrategyOutcome.NO_WAY, told, remedy)
    if owned := [s for s in live if s.owner]:
        return _owners(owned, "one root for all")
    told = ", ".join(f"{s.name} trusts {s.root[:SHORT]}" for s in live)
    return Choice(
        StrategyOutcome.NO_WAY, f"live meshes with different roots, whose keys are in no cluster: {told}", NEW_ROOT
    )


def _under(root: str, states: Sequence[ClusterCaState], offer: Offer | None, wanted: str) -> Choice:
    late = [s for s in states if s.live and not s.settled(root)]
    plug = tuple(s.name for s in states if not _good(s, root, offer))
    if not plug and not late:
        return Choice(StrategyOutcome.NOTHING, f"{_all_signed(states)} under {root[:SHORT]}", root=root)
    # While two roots are trusted, every live cluster's bundle has to hold both, also one that is under the new one.
    if owned := [s for s in states if s.owner and (s.name in plug or (late and s.live))]:
        return _owners(owned, f"root {root[:SHORT]}", both=bool(late))
    key_in = "" if offer else _holder(states, root)
    if plug and not offer and not key_in:
        told = f"{', '.join(plug)} need intermediates of {root[:SHORT]}, whose key is in no cluster"
        remedy = "whoever made that root must make their intermediates: name the files in trust.rootDirectory"
        return Choice(StrategyOutcome.NO_WAY, told, remedy, root=root)
    whose = "trust.rootDirectory's root" if offer else f"{key_in or states[0].name}'s root"
    if late:
        told = "; ".join(f"{s.name} {_stands(s)}" for s in late)
        if wanted == "adopt":
            told = f"trust.strategy is adopt, but {told}, and not by {root[:SHORT]} alone"
            return Choice(
                StrategyOutcome.NO_WAY, told, "say auto or overlap: all will trust both roots for a while", root=root
            )
        told = f"{whose} {root[:SHORT]} becomes the root of all, while all trust the old ones, too: {told}"
        return Choice(StrategyOutcome.OVERLAP, told, root=root, key_in=key_in, plug=plug)
    told = f"{whose} {root[:SHORT]} {'becomes' if not offer else 'is'} the root of all, so that no trust breaks"
    return Choice(
        StrategyOutcome.ADOPT, f"{told}; {', '.join(plug)} get intermediates", root=root, key_in=key_in, plug=plug
    )


def _all_signed(states: Sequence[ClusterCaState]) -> str:
    others = [f"{s.name}'s certificates come from {s.owner}" for s in states if s.signs_elsewhere]
    others += [f"{s.name}'s cacerts is kept by {s.owner}" for s in states if s.owner and not s.signs_elsewhere]
    all_plugged = all(s.plugged for s in states)
    told = "every cluster has cacerts" if all_plugged else "every cluster has a CA"
    return f"{told} ({'; '.join(others)})" if others else told


def _owners(owned: Sequence[ClusterCaState], root: str, *, both: bool = False) -> Choice:
    """Return that others have to change CAs which they keep: what each is, and what its owner has to do."""
    why, cures = [], []
    for s in owned:
        now = s.problem or (f"under {s.root[:SHORT]}" if s.root else "under no root that can be told")
        if s.signs_elsewhere:
            why.append(f"{s.name}'s certificates come from {s.owner}, {now}")
            want = f"let it sign under {root}"
        else:
            why.append(f"{s.name}'s cacerts is kept by {s.owner}, {now}")
            want = f"so that cacerts holds an intermediate under {root}"
        trusts = sorted({s.root[:SHORT], *s.bundle} - {""})
        keep = f", and keep {', '.join(trusts)} among the roots until all proxies have moved" if both and s.live else ""
        cures.append(f"{s.name}: change {s.owner_source}, {want}{keep}")
    alone = "meshkit does not change what others keep"
    return Choice(
        StrategyOutcome.NO_WAY, f"{'; '.join(why)}: {alone}", f"{'; '.join(cures)}; then run this stage again"
    )


def _stands(state: ClusterCaState) -> str:
    others = sorted({state.root[:SHORT], *state.bundle, *state.anchors} - {""})
    return f"stands by {', '.join(others)}"


def _good(state: ClusterCaState, root: str, offer: Offer | None) -> bool:
    if state.signs_elsewhere:
        return state.root == root
    expected = offer.signers.get(state.name, state.signer) if offer else state.signer
    given = offer is not None and state.name in offer.signers  # another one is not ours to make
    renewed = given or bool(state.owner) or not state.ends
    sound = state.plugged and not state.problem and renewed
    one = state.live or state.bundle == {root[:SHORT]}  # a live bundle is narrowed by the overlap, in its time
    return sound and one and state.root == root and state.signer == expected
