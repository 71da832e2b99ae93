"""A live cluster called `Kubernetes` is renamed under load; its former id is dropped when nobody claims it any more."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from meshkit.istio.control_plane import istioctl
from tests.e2e.runs.test_migration import Done, meshkit
from tests.support.lab import Lab, Object, Space, sleeper, until
from tests.support.loads import Count, Loads

pytestmark = [pytest.mark.lab, pytest.mark.drill, pytest.mark.timeout(1200)]
EAST = "lab-east"
DROP = ("--only", "05", "-p", "drop_alias", "true")
REFUSED = 'client claims to be in cluster "Kubernetes", but we only know about local cluster "east"'


@dataclass
class Renaming:
    """A lab of one cluster under load, its mesh file, and what was run on it."""

    lab: Lab
    mesh_file: str
    state: Path
    begun: float
    loads: Loads
    runs: dict[str, Done] = field(default_factory=dict)

    @property
    def sample(self) -> Space:
        """The namespace of the probe and the load."""
        return Space(self.lab, EAST, "sample")

    def run(self, name: str, *argv: str) -> Done:
        """Run meshkit in mode apply, once for each name."""
        if name not in self.runs:
            self.runs[name] = meshkit(self.state, "run", self.mesh_file, "--mode", "apply", *argv)
        return self.runs[name]

    def failed(self) -> list[Count]:
        """Return what became of all requests until now, of those that lost any; there must be many."""
        counts = self.loads.counts(self.begun, time.time())
        print("", *counts, sep="\n")
        assert all(count.sent > 1000 for count in counts)
        return [count for count in counts if count.failed]

    def alias(self) -> str:
        """Return the id that istiod's Deployment accepts besides its own."""
        return istioctl.alias_of(json.loads(self.lab.kubectl(EAST, *ISTIOD)), "east")


ISTIOD = ("get", "deployment", "istiod", "-n", "istio-system", "-o", "json")


@pytest.fixture(scope="module")
def renaming(short_folder: Path) -> Iterator[Renaming]:
    """One live cluster; besides its workloads a bare pod, and a Deployment that is paused."""
    lab = Lab(short_folder / "renamed")
    try:
        lab.start("single", clusters=1)
        sample = Space(lab, EAST, "sample")
        sample.pod("loner", sleeper())
        sample.deployment("resting", sleeper())
        sample.ready("pod/loner")
        sample.ready("deployment/resting")
        sample.kubectl("rollout", "pause", "deployment/resting")
        with Loads(lab) as loads:
            time.sleep(5)
            yield Renaming(lab, loads.mesh_file("local"), lab.home / "state", time.time(), loads)
    finally:
        lab.stop()


def findings(done: Done, number: str) -> list[dict[str, str]]:
    """Return the findings of one check of stage 05."""
    return [f for f in done.findings if f["id"] == number]


def test_a_live_cluster_is_renamed_and_who_is_left_is_named(renaming: Renaming) -> None:
    """Both are warned of before, left as they are, and named afterwards; every request is answered."""
    done = renaming.run("rename", "--until", "05")
    assert done.code == 1, done.said[-4000:]
    risks = {f["subject"]: f["observed"] for f in findings(done, "MK506") if f["verdict"] == "warn"}
    assert "have its creator recreate it" in risks["east: Pod sample/loner"]
    assert "it is paused" in risks["east: Deployment sample/resting"]
    (claims,) = findings(done, "MK522")
    assert claims["verdict"] == "fail"
    assert claims["observed"].startswith("2 of ")
    assert "sample/loner (Kubernetes, no network, cluster.local)" in claims["observed"]
    assert {*done.table("proxies-left-after")["proxy"]} == {"loner", pod_of(renaming, "resting")}
    assert [f for f in findings(done, "MK901") if f["verdict"] != "pass"] == []
    assert renaming.alias() == "Kubernetes"
    assert renaming.failed() == []


def pod_of(renaming: Renaming, app: str) -> str:
    """Return the name of a workload's one pod."""
    (pod,) = renaming.sample.items("pods", "-l", f"app={app}")
    return str(pod["metadata"]["name"])


def test_the_alias_stays_while_a_proxy_claims_it(renaming: Renaming) -> None:
    """Those that do are named; nothing is changed, not even what no gate stands before."""
    renaming.run("rename", "--until", "05")
    before = renaming.lab.kubectl(EAST, *ISTIOD[:-2], "-o", "jsonpath={.metadata.generation}")
    done = renaming.run("held", *DROP)
    assert done.code == 1, done.said[-4000:]
    (gate,) = findings(done, "MK507")
    assert gate["verdict"] == "fail"
    assert gate["observed"].startswith("2 of ")
    assert "sample/loner" in gate["observed"]
    assert pod_of(renaming, "resting") in gate["observed"]
    assert set(done.table("changes")["status"]) == {"held"}
    assert renaming.lab.kubectl(EAST, *ISTIOD[:-2], "-o", "jsonpath={.metadata.generation}") == before
    assert renaming.alias() == "Kubernetes"


def test_the_alias_is_dropped_when_nobody_claims_it(renaming: Renaming) -> None:
    """Restarted, both claim the new id: the drop goes through, every request is answered; a second one has no plan."""
    renaming.run("rename", "--until", "05")
    sample = renaming.sample
    sample.kubectl("delete", "pod", "loner")
    sample.pod("loner", sleeper())
    sample.kubectl("rollout", "resume", "deployment/resting")
    sample.kubectl("rollout", "restart", "deployment/resting")
    sample.ready("deployment/resting")
    sample.ready("pod/loner")
    done = renaming.run("drop", *DROP)
    assert done.code == 0, done.said[-4000:]
    assert [f["verdict"] for n in ("MK507", "MK522", "MK527") for f in findings(done, n)] == ["pass"] * 3
    (change,) = done.table("changes").to_dict("records")
    assert (change["action"], change["status"]) == ("install", "done")
    assert renaming.alias() == ""
    assert renaming.run("again", "--only", "05").table("changes").empty
    assert renaming.failed() == []


def test_after_the_drop_istiod_refuses_the_former_id(renaming: Renaming) -> None:
    """The gate's reason: a proxy that claims it never becomes ready. Undone, the alias is back, and it does."""
    drop = renaming.runs["drop"]
    sample = renaming.sample
    sample.apply(as_before(sample.get("pod", "loner")))
    told = until(lambda: refusals(renaming), "istiod refuses it", 90)
    assert REFUSED in told
    assert "Ready" not in ready_conditions(sample.get("pod", "former"))
    undone = meshkit(renaming.state, "undo", str(drop.folder), "--mode", "apply")
    assert undone.code == 0, undone.said[-4000:]
    assert renaming.alias() == "Kubernetes"
    sample.ready("pod/former", 120)
    sample.kubectl("delete", "pod", "former")
    assert renaming.failed() == []


def as_before(pod: Object) -> Object:
    """Return a pod like another, whose proxy claims the former id, as if it had been injected before the rename."""
    labels = {**pod["metadata"]["labels"], "app": "former", "sidecar.istio.io/inject": "false"}
    spec = {key: value for key, value in pod["spec"].items() if key != "nodeName"}
    for container in [*spec["containers"], *spec.get("initContainers", [])]:
        for env in container.get("env", []):
            if env["name"] == "ISTIO_META_CLUSTER_ID":
                env["value"] = istioctl.DEFAULT_ID
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "former", "labels": labels}, "spec": spec}


def ready_conditions(pod: Object) -> list[str]:
    """Return which of a pod's conditions are true."""
    return [c["type"] for c in pod["status"].get("conditions", []) if c["status"] == "True"]


def refusals(renaming: Renaming) -> str:
    """Return what istiod says of those whom it does not authenticate."""
    log = renaming.lab.kubectl(EAST, "logs", "-n", "istio-system", "deploy/istiod")
    return "\n".join(line for line in log.splitlines() if "claims to be in cluster" in line)
