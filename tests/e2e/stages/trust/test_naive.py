"""The naive change of root, under load, does fail requests: the measure by which others lose none can see them."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from meshlab import certificates
from meshlab.layout import sites
from meshlab.tools import Tools

from tests.support.lab import Lab, started
from tests.support.loads import Loads, clock

pytestmark = [pytest.mark.lab, pytest.mark.drill, pytest.mark.timeout(600)]

QUIET = 10.0
AFTER = 15.0


@pytest.fixture(scope="module")
def lab(short_folder: Path) -> Iterator[Lab]:
    """Two clusters under one root, of a test's own: it breaks them."""
    with started(short_folder / "naive", "meshed") as made:
        yield made


def replace_root(lab: Lab) -> None:
    """Replace west's cacerts by one below a root that no proxy holds; restart its istiod, then its httpbin."""
    tools, (_, west) = Tools(lab.home), sites(2)
    shutil.rmtree(lab.home / "certs")
    certificates.make_root(tools)
    tools.kubectl(west, "delete", "secret", "cacerts", "-n", "istio-system")
    certificates.plug(tools, west)
    for namespace, name in (("istio-system", "istiod"), ("sample", "httpbin")):
        tools.kubectl(west, "rollout", "restart", f"deployment/{name}", "-n", namespace)
        tools.kubectl(west, "rollout", "status", f"deployment/{name}", "-n", namespace, "--timeout=120s")


def test_the_naive_way_loses_requests(lab: Lab) -> None:
    """Before it next to none; afterwards whoever calls what was restarted, at home and from the other cluster."""
    with Loads(lab) as loads:
        time.sleep(QUIET)
        begun = time.time()
        replace_root(lab)
        done = time.time()
        time.sleep(AFTER)
        ended = time.time()
        before = loads.counts(begun - QUIET, begun)
        after = loads.counts(begun, ended)
    print(
        f"\nbegun {clock(begun)}, done {clock(done)}, watched until {clock(ended)}", *before, "then", *after, sep="\n"
    )
    failed = {(count.cluster, count.kind): len(count.failed) for count in after}
    assert sum(len(count.failed) for count in before) < sum(count.sent for count in before) / 100
    assert failed["west", "local"] > 0
    assert failed["east", "across"] > 0
