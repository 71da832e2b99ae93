"""How a common root comes about: chosen from facts, with the reason, by a function that asks nobody.

choice = strategy.choose([State("east", live=True, root="aa…", holds_root_key=True), State("west")])
choice.outcome, choice.why      # Outcome.ADOPT, "east's self-signed root becomes the root of all"
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SHORT = 16
OWN_CA = "put `cacerts` made by your PKI in place, or name its files in trust.rootDirectory of the mesh file"


class Outcome(StrEnum):
    """What stage 04 has to do."""

    NOTHING = "nothing to do"
    ADOPT = "adopt"
    OVERLAP = "overlap is needed: not yet built"
    NO_ROOT = "there is no root yet"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class State:
    """What is known of one cluster.

    `live`: it has proxies, whose trust must not break. `root` and `signer` are SHA-256 fingerprints of the CA that its
    istiod takes (empty: it has none), `plugged` whether that is the Secret cacerts, `roots` how many roots it hands
    out, `problem` why istiod could not sign with it, `keys` the fingerprints of self-signed roots whose keys its
    Secrets hold, `reason` why all of this is unknown.
    """

    name: str
    live: bool = False
    root: str = ""
    signer: str = ""
    plugged: bool = False
    roots: int = 1
    problem: str = ""
    keys: frozenset[str] = frozenset()
    reason: str = ""


@dataclass(frozen=True)
class Offer:
    """The user's own CA: its root, and the intermediate of each cluster that has one (fingerprints)."""

    root: str
    signers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Choice:
    """What is to be done, why, and what the user can do where meshkit cannot.

    `root` is the common root's fingerprint, `key_in` the cluster whose Secrets hold its key (empty: the user's own
    files), `plug` the clusters that need `cacerts`.
    """

    outcome: Outcome
    why: str
    remedy: str = ""
    root: str = ""
    key_in: str = ""
    plug: tuple[str, ...] = ()


def choose(states: Sequence[State], offer: Offer | None = None, wanted: str = "auto") -> Choice:
    """Return how all clusters come to one root.

    Args:
        states: one for each cluster of the mesh.
        offer: the user's own CA, if trust.rootDirectory names one.
        wanted: trust.strategy of the mesh file: auto, adopt or overlap.
    """
    if dead := [f"{s.name}: {s.reason}" for s in states if s.reason]:
        return Choice(Outcome.UNKNOWN, "; ".join(dead), "the choice needs the roots of all clusters")
    if wanted == "overlap":
        return Choice(Outcome.OVERLAP, "trust.strategy is overlap", "say auto or adopt, or use your own CA: " + OWN_CA)
    trusted = {s.name: s.root for s in states if s.live}
    if bad := [f"{s.name}: {s.problem or 'no Secret to sign with'}" for s in states if s.live and not s.root]:
        return Choice(Outcome.UNKNOWN, f"the root of a live mesh cannot be told: {'; '.join(bad)}", OWN_CA)
    if several := [s.name for s in states if s.live and s.roots > 1]:
        told = f"{', '.join(several)} hands out several roots: a change of root is under way there"
        return Choice(Outcome.OVERLAP, told, "end it first: leave one root in root-cert.pem of every cacerts")
    if len(set(trusted.values())) > 1:
        told = ", ".join(f"{name} trusts {root[:SHORT]}" for name, root in trusted.items())
        return Choice(
            Outcome.OVERLAP, f"live meshes with different roots: {told}", "change one of them first: " + OWN_CA
        )
    return _under_one_root(states, offer, next(iter(trusted.values()), ""))


def _under_one_root(states: Sequence[State], offer: Offer | None, live: str) -> Choice:
    if offer and live not in ("", offer.root):
        told = f"the live mesh trusts {live[:SHORT]}, trust.rootDirectory holds {offer.root[:SHORT]}"
        return Choice(Outcome.OVERLAP, told, "make the intermediates of the root that is live, or leave the field out")
    # Without a live mesh nobody's trust can break, and the first root that there is will do.
    root = offer.root if offer else live or next((s.root for s in states if s.root and not s.problem), "")
    if not root:
        told = "no cluster has a CA, and trust.rootDirectory names none"
        remedy = "install Istio in one cluster first: its istiod makes a root; or make your own CA and name its folder"
        return Choice(Outcome.NO_ROOT, told, remedy)
    plug = tuple(s.name for s in states if not _good(s, root, offer))
    if not plug:
        return Choice(Outcome.NOTHING, f"every cluster has cacerts under {root[:SHORT]}", root=root)
    if offer:
        told = f"trust.rootDirectory holds {'the live root' if live else 'a root'}, {root[:SHORT]}"
        return Choice(Outcome.ADOPT, f"{told}; {', '.join(plug)} get intermediates of it", root=root, plug=plug)
    holder = next((s.name for s in states if root in s.keys), "")
    if not holder:
        told = f"{', '.join(plug)} need intermediates of {root[:SHORT]}, whose key is in no cluster"
        remedy = "whoever made that root must make their intermediates: name the files in trust.rootDirectory"
        return Choice(Outcome.OVERLAP, told, remedy, root=root)
    told = f"{holder}'s self-signed root {root[:SHORT]} becomes the root of all, so that no trust breaks"
    return Choice(Outcome.ADOPT, told, root=root, key_in=holder, plug=plug)


def _good(state: State, root: str, offer: Offer | None) -> bool:
    expected = offer.signers.get(state.name, state.signer) if offer else state.signer
    return state.plugged and not state.problem and state.root == root and state.signer == expected
