"""The lab's starting points: what a user finds after `lab up --start single` and `--start meshed`."""

from __future__ import annotations

import base64
import json
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509

from meshkit.kube.cluster import Cluster
from meshkit.spec import MeshSpec
from tests.support.lab import Lab, Object, Space, started

pytestmark = pytest.mark.lab

GIB = 2**30
SIDES = (("lab-east", "west"), ("lab-west", "east"))


@pytest.fixture(scope="module")
def single_lab(short_folder: Path) -> Iterator[Lab]:
    """East runs Istio as people have it, west is bare."""
    with started(short_folder / "single", "single") as lab:
        yield lab


def istiod(space: Space) -> Object:
    """Return istiod's Deployment."""
    return space.get("deployment", "istiod")


def test_single_is_an_ordinary_installation(single_lab: Lab) -> None:
    """Default profile, cluster id Kubernetes, no network label, a self-signed root, istiod and ingress ready."""
    system = Space(single_lab, "lab-east", "istio-system")
    ready = {d["metadata"]["name"]: d["status"].get("readyReplicas") for d in system.items("deployments")}
    assert ready == {"istiod": 1, "istio-ingressgateway": 1}
    env = {e["name"]: e.get("value") for e in istiod(system)["spec"]["template"]["spec"]["containers"][0]["env"]}
    assert env["CLUSTER_ID"] == "Kubernetes"
    assert "topology.istio.io/network" not in system.get("namespace", "istio-system")["metadata"]["labels"]
    assert not system.get("secret", "cacerts")
    own = system.get("secret", "istio-ca-secret")["data"]["ca-cert.pem"]
    root = x509.load_pem_x509_certificate(base64.b64decode(own))
    assert root.issuer == root.subject


def test_single_leaves_the_other_cluster_empty(single_lab: Lab) -> None:
    """West has no Istio, no sample, no pod."""
    west = Space(single_lab, "lab-west", "default")
    assert "NotFound" in west.try_kubectl("get", "namespace", "istio-system").stderr
    assert not west.items("pods", "--all-namespaces")


def test_single_is_under_load(single_lab: Lab) -> None:
    """The load pod logs 20 answers a second, all of them 200, through injected sidecars."""
    sample = Space(single_lab, "lab-east", "sample")
    for pod in sample.items("pods"):
        assert "istio-proxy" in [c["name"] for c in pod["spec"]["initContainers"]]
    time.sleep(5)
    lines = sample.kubectl("logs", "deploy/load", "-c", "load", "--since=4s").splitlines()
    answers = [json.loads(line) for line in lines]
    assert 60 <= len(answers) <= 110
    assert Counter(a["status"] for a in answers) == {200: len(answers)}


def test_meshed_knows_every_remote(meshed_lab: Lab) -> None:
    """Each istiod says that both clusters are synced."""
    for context, _ in SIDES:
        rows = meshed_lab.istioctl(context, "remote-clusters").splitlines()[1:]
        assert {row.split()[0]: "synced" in row.split() for row in rows} == {"east": True, "west": True}


def test_meshed_answers_from_both_clusters(meshed_lab: Lab) -> None:
    """Of 40 calls from each cluster both clusters' httpbin answer some, and none fails."""
    for context, _ in SIDES:
        sample = Space(meshed_lab, context, "sample")
        answers = calls(sample, 40)
        assert {a["code"] for a in answers} == {200}
        assert len({a["hostname"] for a in answers}) == 2
        assert min(Counter(a["hostname"] for a in answers).values()) >= 5


def calls(sample: Space, count: int) -> list[Object]:
    """Call httpbin from sleep; returns code, milliseconds and the pod that answered."""
    form = r'\n{"code": %{http_code}, "ms": %{time_total}}\n'
    script = f"for i in $(seq 1 {count}); do curl -s -m 5 -w '{form}' http://httpbin:8000/hostname; done"
    said = sample.kubectl("exec", "deploy/sleep", "-c", "sleep", "--", "sh", "-c", script)
    decoder, answers, rest = json.JSONDecoder(), [], said.strip()
    while rest:
        answer, end = decoder.raw_decode(rest)
        answers.append(answer)
        rest = rest[end:].strip()
    return [{**a, **b, "ms": 1000 * b["ms"]} for a, b in zip(answers[::2], answers[1::2], strict=True)]


def test_meshed_pays_the_round_trip_between_clusters_only(meshed_lab: Lab) -> None:
    """Warm calls within a cluster take milliseconds, those to the other one round trip of 40 ms more."""
    for context, _ in SIDES:
        sample = Space(meshed_lab, context, "sample")
        here = {p["metadata"]["name"] for p in sample.items("pods", "-l", "app=httpbin")}
        calls(sample, 10)
        answers = calls(sample, 40)
        local = sorted(a["ms"] for a in answers if a["hostname"] in here)
        remote = sorted(a["ms"] for a in answers if a["hostname"] not in here)
        assert local[len(local) // 2] < 25
        assert 40 <= remote[len(remote) // 2] < 75


def test_meshed_shares_one_root(meshed_lab: Lab) -> None:
    """Both clusters' workloads trust the same root, each by its own intermediate."""
    roots, signers = set(), set()
    for context, _ in SIDES:
        data = Space(meshed_lab, context, "istio-system").get("secret", "cacerts")["data"]
        roots.add(data["root-cert.pem"])
        signers.add(data["ca-cert.pem"])
    assert len(roots) == 1
    assert len(signers) == 2


def test_status_states_the_memory_of_all(meshed_lab: Lab) -> None:
    """Every process of the lab is listed, and together they stay below 3 GiB."""
    table = meshed_lab.status()
    total = table["mib"].sum() / 1024
    print(f"\nmeshed lab: {len(table)} daemons and containers, {total:.2f} GiB")
    assert total < 3
    assert (table["state"] != "dead").all()
    found = Counter(table["component"])
    assert found["kube-apiserver"] == found["etcd"] == found["discovery"] == 2
    assert found["istio-proxy"] >= 6
    logs = [meshed_lab.home / log for log in table["log"]]
    assert [log for log in logs if not log.is_file()] == []


def test_the_mesh_file_names_this_lab(meshed_lab: Lab) -> None:
    """The copy of parameters/lab.yaml is a valid mesh file whose clusters answer."""
    for each in MeshSpec.load(meshed_lab.mesh_file).clusters:
        assert Cluster.connect(each.context, each.kubeconfig).find("Namespace", None, "sample")
