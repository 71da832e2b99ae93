"""Which clusters are kept apart while they do not trust each other, and how that is written."""

from __future__ import annotations

import pytest

from meshkit.istio.ca.model import ClusterCaState
from meshkit.istio.multicluster import discovery_pause
from meshkit.istio.multicluster.remote_secrets import LABEL
from meshkit.kube.manifests import patched
from meshkit.stages.trust import discovery_pause as trust_discovery_pause
from tests.support.healthy import mesh

A, B, C = ("a" * 64, "b" * 64, "c" * 64)


def state(name: str, root: str, *bundle: str, anchors: tuple[str, ...] = (), live: bool = True) -> ClusterCaState:
    """Return a cluster that signs under a root and hands out a bundle."""
    cut = [frozenset(digest[:16] for digest in some) for some in (bundle or (root,), anchors or (root,))]
    return ClusterCaState(name, live=live, root=root, plugged=True, bundle=cut[0], anchors=cut[1])


BOTH = {("east", "west"), ("west", "east")}


@pytest.mark.parametrize(
    ("states", "pairs"),
    [
        ((state("east", A), state("west", B)), BOTH),
        ((state("east", A, A, B), state("west", B)), BOTH),
        ((state("east", A, A, B), state("west", B, A, B)), set()),
        ((state("east", A, A, B), state("west", B, A, B, anchors=(C,))), BOTH),
        ((state("east", A), state("west", A)), set()),
        ((state("east", A), state("west", B, live=False)), set()),
        ((state("east", A), state("west", A), state("north", B)), {
            ("east", "north"), ("north", "east"), ("west", "north"), ("north", "west"),
        }),
    ],
    ids=["none", "one way", "both ways", "old leaves", "one root", "not live", "one of three"],
)  # fmt: skip
def test_who_does_not_trust_whom(states: tuple[ClusterCaState, ...], pairs: set[tuple[str, str]]) -> None:
    """Both ways round, since a server that refuses a client is what loses requests."""
    assert discovery_pause.pairs_without_common_root(states) == pairs


def test_a_secret_that_was_paused_and_resumed_is_as_it_was() -> None:
    """Nothing of ours is left on it."""
    secret = {"metadata": {"name": "s", "labels": {LABEL: "true", "own": "x"}, "annotations": {"a": "b"}}}
    paused = patched(secret, trust_discovery_pause.manifest(mesh(), "s", paused=True))
    assert paused["metadata"]["labels"] == {"own": "x"}
    assert trust_discovery_pause.is_pause([trust_discovery_pause.manifest(mesh(), "s", paused=False)])
    again = patched(paused, trust_discovery_pause.manifest(mesh(), "s", paused=False))
    assert {key: again["metadata"][key] for key in ("labels", "annotations")} == {
        key: secret["metadata"][key] for key in ("labels", "annotations")
    }


def test_a_merge_patch_takes_away_what_is_null_at_any_depth() -> None:
    """RFC 7386, as the API server does."""
    assert patched({"a": {"b": 1, "c": 2}, "d": [1]}, {"a": {"b": None}, "d": None, "e": {"f": None}}) == {
        "a": {"c": 2}, "e": {},
    }  # fmt: skip
