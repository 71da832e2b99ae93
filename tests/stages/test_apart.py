"""Which clusters are kept apart while they do not trust each other, and how that is written."""

from __future__ import annotations

import pytest

from meshkit.changes.plan import Plan
from meshkit.istio.ca import istiod_ca
from meshkit.istio.ca.model import ClusterCaState
from meshkit.istio.multicluster import discovery_pause
from meshkit.istio.multicluster.remote_secrets import LABEL, PAUSED
from meshkit.kube.manifests import patched
from meshkit.kube.mesh import Mesh
from meshkit.spec import MeshSpec
from meshkit.stages.trust import discovery_pause as trust_discovery_pause
from tests.conftest import ApiServer
from tests.objects import core, mesh_of
from tests.stages.healthy import mesh

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


@pytest.mark.usefixtures("state")
def test_what_a_killed_run_left_paused_is_planned_to_be_read_again(api_server: ApiServer) -> None:
    """By whatever run comes next; what is read, or is none of ours, is left alone."""
    file = {"kubeconfig": str(api_server.kubeconfig)}
    clusters = [{"name": name, "context": name, "network": name, **file} for name in ("east", "west")]
    spec = MeshSpec.parse({"clusters": clusters, "mesh": {"rootNamespace": "apart"}}, where="test")
    east = mesh_of(api_server.kubeconfig).clusters["east"]
    found = Mesh(spec, {"east": east})
    east.apply(core("Namespace", "apart", ""))
    marks = {"left": {"annotations": {PAUSED: "true"}}, "read": {"labels": {LABEL: "true"}}, "other": {}}
    secrets = [core("Secret", name, "apart", stringData={"west": "kubeconfig"}) for name in marks]
    for secret in secrets:
        east.apply({**secret, "metadata": {**secret["metadata"], **marks[secret["metadata"]["name"]]}})
    wanted, known = Plan(found, "04 trust"), discovery_pause.readings(found)
    trust_discovery_pause.resume(wanted, known, istiod_ca.SIGNERS.frame([]))
    for secret in secrets:  # other tests look for remote secrets on this server, too
        east.delete(secret)
    assert [(r["secret"], r["targets"], r["paused"]) for r in known.to_dict("records")] == [
        ("left", "west", True), ("read", "west", False),
    ]  # fmt: skip
    (change,) = wanted.changes
    assert (change.object, change.why.partition(":")[0]) == ("Secret apart/left", "together")
    assert f'+    {LABEL}: "true"' in change.diff.replace("'", '"')


def test_a_merge_patch_takes_away_what_is_null_at_any_depth() -> None:
    """RFC 7386, as the API server does."""
    assert patched({"a": {"b": 1, "c": 2}, "d": [1]}, {"a": {"b": None}, "d": None, "e": {"f": None}}) == {
        "a": {"c": 2}, "e": {},
    }  # fmt: skip
