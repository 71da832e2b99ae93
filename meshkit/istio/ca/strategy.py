"""The strategy for a common root, chosen from facts by a pure function.

east = ClusterCaState("east", live=True, root="aa…", keys=frozenset({"aa…"}))
choice = strategy.choose_strategy([east, ClusterCaState("west")])
choice.outcome, choice.why      # StrategyOutcome.ADOPT, "east's root aa… becomes the root of all, …"
"""

from __future__ import annotations

from collections.abc import Sequence

from meshkit.istio.ca.model import NEW_ROOT, SHORT, Choice, ClusterCaState, Offer, StrategyOutcome


def choose_strategy(states: Sequence[ClusterCaState], offer: Offer | None = None, wanted: str = "auto") -> Choice:
    """Return the strategy by which all clusters get one root.

    Args:
        states: one for each cluster of the mesh.
        offer: the user's own CA, if trust.rootDirectory names one.
        wanted: trust.strategy of the mesh file: auto, adopt (never change what live proxies trust) or overlap (to the
            root of trust.rootDirectory, whatever there is now).
    """
    if unread := [f"{s.name}: {s.reason}" for s in states if s.reason]:
        return Choice(StrategyOutcome.UNKNOWN, "; ".join(unread), "the choice needs the roots of all clusters")
    live = [s for s in states if s.live]
    if unusable := [s for s in live if s.owner and not s.root]:
        return _owners(unusable, "the root of all")
    if rootless := [f"{s.name}: {s.problem or 'no Secret to sign with'}" for s in live if not s.root]:
        reason = f"the root of a live mesh is unknown: {'; '.join(rootless)}"
        return Choice(StrategyOutcome.UNKNOWN, reason, "create a valid `cacerts`, or start its istiod")
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
    """Return the common root where the user provides none, or an empty text."""
    live = list(dict.fromkeys(s.root for s in states if s.live))
    if len(live) > 1:
        return next((root for root in live if _holder(states, root)), "")
    # Without a live mesh no trust can break, so the first root found will do.
    return next(iter(live), "") or next((s.root for s in states if s.root and not s.problem), "")


def _holder(states: Sequence[ClusterCaState], root: str) -> str:
    return next((s.name for s in states if root in s.keys), "")


def _rootless(live: Sequence[ClusterCaState]) -> Choice:
    if not live:
        reason = "no cluster has a CA, and trust.rootDirectory names none"
        remedy = f"install Istio in one cluster first: its istiod makes a root; or {NEW_ROOT}"
        return Choice(StrategyOutcome.NO_WAY, reason, remedy)
    if owned := [s for s in live if s.owner]:
        return _owners(owned, "one root for all")
    reason = ", ".join(f"{s.name} trusts {s.root[:SHORT]}" for s in live)
    return Choice(
        StrategyOutcome.NO_WAY, f"live meshes with different roots, whose keys are in no cluster: {reason}", NEW_ROOT
    )


def _under(root: str, states: Sequence[ClusterCaState], offer: Offer | None, wanted: str) -> Choice:
    late = [s for s in states if s.live and not s.settled(root)]
    plug = tuple(s.name for s in states if not _good(s, root, offer))
    if not plug and not late:
        return Choice(StrategyOutcome.NOTHING, f"{_all_signed(states)} under {root[:SHORT]}", root=root)
    # During a root rotation every live cluster's bundle must hold both roots, also one that already uses the new one.
    if owned := [s for s in states if s.owner and (s.name in plug or (late and s.live))]:
        return _owners(owned, f"root {root[:SHORT]}", both=bool(late))
    key_in = "" if offer else _holder(states, root)
    if plug and not offer and not key_in:
        reason = f"{', '.join(plug)} need intermediates of {root[:SHORT]}, whose key is in no cluster"
        remedy = "issue their intermediates with that root's key, and name the files in trust.rootDirectory"
        return Choice(StrategyOutcome.NO_WAY, reason, remedy, root=root)
    whose = "trust.rootDirectory's root" if offer else f"{key_in or states[0].name}'s root"
    if late:
        reason = "; ".join(f"{s.name} {_trusted(s)}" for s in late)
        if wanted == "adopt":
            reason = f"trust.strategy is adopt, but {reason}, and not only {root[:SHORT]}"
            return Choice(
                StrategyOutcome.NO_WAY,
                reason,
                "set trust.strategy to auto or overlap: all clusters will then trust both roots for a while",
                root=root,
            )
        reason = f"{whose} {root[:SHORT]} becomes the root of all, and all trust the old roots meanwhile: {reason}"
        return Choice(StrategyOutcome.OVERLAP, reason, root=root, key_in=key_in, plug=plug)
    reason = f"{whose} {root[:SHORT]} {'becomes' if not offer else 'is'} the root of all, so that no trust breaks"
    return Choice(
        StrategyOutcome.ADOPT, f"{reason}; {', '.join(plug)} get intermediates", root=root, key_in=key_in, plug=plug
    )


def _all_signed(states: Sequence[ClusterCaState]) -> str:
    others = [f"{s.name}'s certificates come from {s.owner}" for s in states if s.signs_elsewhere]
    others += [f"{s.name}'s cacerts is kept by {s.owner}" for s in states if s.owner and not s.signs_elsewhere]
    all_plugged = all(s.plugged for s in states)
    reason = "every cluster has cacerts" if all_plugged else "every cluster has a CA"
    return f"{reason} ({'; '.join(others)})" if others else reason


def _owners(owned: Sequence[ClusterCaState], root: str, *, both: bool = False) -> Choice:
    """Return that the owners of CAs have to change them: the state of each, and what its owner has to do."""
    why, remedies = [], []
    for s in owned:
        now = s.problem or (f"under {s.root[:SHORT]}" if s.root else "under an unknown root")
        if s.signs_elsewhere:
            why.append(f"{s.name}'s certificates come from {s.owner}, {now}")
            want = f"let it sign under {root}"
        else:
            why.append(f"{s.name}'s cacerts is kept by {s.owner}, {now}")
            want = f"so that cacerts holds an intermediate under {root}"
        trusts = sorted({s.root[:SHORT], *s.bundle} - {""})
        keep = f", and keep {', '.join(trusts)} among the roots until all proxies have moved" if both and s.live else ""
        remedies.append(f"{s.name}: change {s.owner_source}, {want}{keep}")
    alone = "meshkit does not change a CA that another tool manages"
    return Choice(
        StrategyOutcome.NO_WAY, f"{'; '.join(why)}: {alone}", f"{'; '.join(remedies)}; then run this stage again"
    )


def _trusted(state: ClusterCaState) -> str:
    others = sorted({state.root[:SHORT], *state.bundle, *state.anchors} - {""})
    return f"trusts {', '.join(others)}"


def _good(state: ClusterCaState, root: str, offer: Offer | None) -> bool:
    if state.signs_elsewhere:
        return state.root == root
    expected = offer.signers.get(state.name, state.signer) if offer else state.signer
    given = offer is not None and state.name in offer.signers  # meshkit cannot issue another one
    renewed = given or bool(state.owner) or not state.ends
    sound = state.plugged and not state.problem and renewed
    one = state.live or state.bundle == {root[:SHORT]}  # a live bundle is narrowed by the overlap, in its time
    return sound and one and state.root == root and state.signer == expected
