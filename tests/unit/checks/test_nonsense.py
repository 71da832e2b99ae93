"""One cluster that answers nonsense leaves every other cluster's findings as they were, and ends nothing.

`MESHKIT_TEST_NONSENSE=5000` tries as many answers; the default is for everyday.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, Future
from random import Random
from typing import Any

import pytest
import urllib3
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from meshkit.checks import audit
from meshkit.istio.multicluster import endpoint_shards
from meshkit.istio.proxies import reading
from meshkit.kube import mesh as kube_mesh
from meshkit.kube.mesh import Mesh
from meshkit.snapshot import snapshot
from meshkit.snapshot.snapshot import Snapshot
from tests.support.furnished import furnished
from tests.support.healthy import mesh as spec_of
from tests.support.memory_api import CUT, Answer, Answerer, MemoryCluster
from tests.support.nonsense import BROKEN, spoiled

EXAMPLES = int(os.environ.get("MESHKIT_TEST_NONSENSE", "25"))
WAYS = ("whole", "nodes", "status", "closes", "half", "hangs")


def mad(answer: Answerer, seed: int, ways: list[str]) -> Answerer:
    """Return a server that answers as a healthy one, but for some nonsense in each answer."""

    def asked(method: str, path: str, query: Mapping[str, str]) -> Answer:
        chance = Random(f"{seed} {path}")  # noqa: S311
        way = chance.choice([*ways, "sane"])
        if way == "closes":
            raise urllib3.exceptions.ProtocolError("closed")
        if way == "hangs":
            raise urllib3.exceptions.ReadTimeoutError(None, path, "late")  # type: ignore[arg-type]
        status, body = answer(method, path, query)
        if way == "whole":
            return 200, chance.choice(BROKEN)
        if way == "nodes":
            return status, spoiled(body, chance)
        if way == "status":
            return chance.choice((201, 204, 301, 400, 401, 403, 404, 410, 429, 500, 503)), body
        return (status, body[: len(body) // 2] + CUT) if way == "half" else (status, body)

    return asked


def _dead(*_: Any) -> Answer:
    raise ConnectionRefusedError


def of_east(west: Answerer) -> list[tuple[str, str, str]]:
    """Return what `meshkit check` finds of east beside such a west, after making the tables of all that it finds."""
    clusters: Any = {"east": MemoryCluster.of("east", EAST), "west": MemoryCluster.of("west", west)}
    mesh = Mesh(spec_of().spec, clusters)
    findings = audit.check(Snapshot(mesh).read())
    audit.for_people(audit.in_order(mesh, findings))
    assert not [one for one in findings if "canary" in f"{one.observed} {one.remedy}"]
    return [(one.id, str(one.verdict), one.observed) for one in findings if one.subject == "east"]


EAST, WEST = furnished("east"), furnished("west")


class InTurn(Executor):
    """Calls one after the other: in memory nothing is gained by threads, and a third of the time is lost."""

    def __init__(self, *_: Any) -> None:
        """Take what a pool takes."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Call, and return what came of it."""
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001  (the future passes it on)
            future.set_exception(error)
        return future


@pytest.fixture(scope="module", autouse=True)
def hasty() -> Iterator[None]:
    """As in production, mistakes in reading are unknown; and nothing is waited for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kube_mesh, "DaemonThreads", InTurn)
        patch.setattr(snapshot, "ThreadPoolExecutor", InTurn)
        patch.setattr(kube_mesh, "mistakes_are_raised", False)
        patch.setattr(endpoint_shards, "AGAIN_AFTER", 0.0)
        patch.setattr(reading, "SETTLE", 0.0)
        yield


@pytest.fixture(scope="module")
def alone() -> list[tuple[str, str, str]]:
    """Return what is found of east beside a west that refuses connections."""
    return of_east(_dead)


@settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
@example(seed=0, ways=[])
@example(seed=10000001, ways=["status", "nodes", "whole"])  # a truth value among a node's podCIDRs
@given(seed=st.integers(0, 2**32), ways=st.lists(st.sampled_from(WAYS), min_size=1, max_size=3, unique=True))
def test_nonsense_of_one_cluster_leaves_what_is_found_of_the_other(
    alone: list[tuple[str, str, str]], seed: int, ways: list[str]
) -> None:
    """Nothing is raised, no credential is shown, and east is judged as beside a dead cluster."""
    assert of_east(mad(WEST, seed, ways)) == alone


SHARDS = {"Shards": {"Kubernetes/east": [{"Addresses": [None]}]}}


@pytest.mark.parametrize(
    ("path", "document"),
    [
        ("pod/istiod-1:15014/debug/clusterz", ["x"]),
        ("pod/istiod-1:15014/debug/clusterz", [{"id": "east", "secretName": []}]),
        ("pod/istiod-1:15014/debug/networkz", {"x": None}),
        ("pod/istiod-1:15014/debug/endpointShardz", {"httpbin.sample.svc.cluster.local": {"sample": SHARDS}}),
        ("/apis/networking.istio.io/v1/destinationrules", {"items": [{"kind": "x", "metadata": {"name": "some"}}]}),
        ("/apis/networking.istio.io/v1/virtualservices", {"items": [{"spec": 3, "metadata": {"name": "some"}}]}),
        ("/api/v1/namespaces/istio-system/secrets", {"items": [{"data": "x", "metadata": {"name": "some"}}]}),
    ],
)
def test_what_ended_all_commands_once_is_unknown(alone: list[tuple[str, str, str]], path: str, document: Any) -> None:
    """Answers of the right outline with wrong fields, which were read after their cluster's own reading."""
    whole = {"kind": "List", "metadata": {}, **document} if path.startswith("/") else document

    def answer(method: str, asked: str, query: Mapping[str, str]) -> Answer:
        return (200, json.dumps(whole).encode()) if asked == path else WEST(method, asked, query)

    assert of_east(answer) == alone


def test_of_a_healthy_cluster_most_is_known(alone: list[tuple[str, str, str]]) -> None:
    """So that the property is one of findings, not of unknowns."""
    known = [one for one in alone if one[1] in ("pass", "warn", "fail")]
    assert len(known) > len(alone) / 2
