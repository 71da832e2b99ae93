"""What may keep new pods from starting, reported before a stage restarts some."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime
from typing import Any

import pytest

from meshkit import clock
from meshkit.checks import restarts
from meshkit.checks.finding import Verdict
from meshkit.istio.control_plane import istioctl as control_plane_istioctl
from meshkit.istio.proxies import images, new_pods, quotas, workloads
from meshkit.kube.mesh import Mesh
from tests.support.healthy import mesh
from tests.support.held import Held, held

PASS, WARN, FAIL, UNKNOWN = Verdict.PASS, Verdict.WARN, Verdict.FAIL, Verdict.UNKNOWN
OLD, NEXT, NEW = "gcr.io/istio-release", "registry.istio.io/release", "docker.io/istio"


@pytest.fixture(autouse=True)
def before_the_end() -> Iterator[None]:
    """Judge as of a day on which every registry still gives images."""
    with clock.at(datetime(2026, 11, 30, tzinfo=UTC)):
        yield


def deployment(name: str, image: str = "web:1", namespace: str = "shop", **spec: Any) -> Any:
    """Return a Deployment of one container."""
    template = {"spec": {"containers": [{"name": "main", "image": image}]}}
    return held("Deployment", name, namespace, spec={"replicas": 2, "template": template, **spec})


def pod(owner: str, *containers: dict[str, Any], namespace: str = "shop", **spec: Any) -> Any:
    """Return a running pod of a Deployment, through its ReplicaSet."""
    made = held("Pod", f"{owner}-1-a", namespace, spec={"containers": list(containers), **spec})
    made["metadata"]["ownerReferences"] = [{"controller": True, "kind": "ReplicaSet", "name": f"{owner}-1"}]
    return {**made, "status": {"phase": "Running"}}


def replicas(owner: str, namespace: str = "shop") -> Any:
    """Return the ReplicaSet between."""
    made = held("ReplicaSet", f"{owner}-1", namespace)
    made["metadata"]["ownerReferences"] = [{"controller": True, "kind": "Deployment", "name": owner}]
    return made


def injector(values: str) -> Any:
    """Return the ConfigMap of a revision's injector."""
    return held("ConfigMap", "istio-sidecar-injector-1-30", "istio-system", data={"values": values})


def judged(**objects: list[Any]) -> tuple[Verdict, str, str]:
    """Return verdict, words and remedy of MK241 about a cluster of these objects."""
    both: Any = {"east": Held(**objects), "west": Held("west")}
    found = restarts.check_images(images.images(Mesh(mesh().spec, both)), "east")
    return found.verdict, found.observed, found.remedy


SIDECARS = "every new sidecar (ConfigMap istio-system/istio-sidecar-injector-1-30)"
RUNNING = {"pods": [pod("web", {"name": "istio-proxy", "image": f"{OLD}/proxyv2:1"})], "replicasets": [replicas("web")]}


@pytest.mark.parametrize(
    ("objects", "verdict", "words"),
    [
        ({"deployments": [deployment("istiod", f"{OLD}/pilot:1.29.2")]}, WARN, "Deployment shop/istiod"),
        ({"daemonsets": [deployment("ztunnel", f"{NEXT}/ztunnel:1.30.1")]}, WARN, "DaemonSet shop/ztunnel"),
        ({"deployments": [deployment("istiod", f"{OLD}/pilot@sha256:00")]}, WARN, "Deployment shop/istiod"),
        ({"configmaps": [injector(f'{{"global": {{"hub": "{OLD}"}}}}')]}, WARN, SIDECARS),
        ({"configmaps": [injector(f'{{"global": {{"hub": "{NEXT}", "tag": "1.30"}}}}')]}, WARN, SIDECARS),
        ({"configmaps": [injector(f'{{"global": {{"proxy": {{"image": "{OLD}/proxyv2:1"}}}}}}')]}, WARN, SIDECARS),
        (RUNNING, WARN, "Deployment shop/web"),
        ({"deployments": [deployment("istiod", f"{NEW}/pilot:1.31.0")]}, PASS, "1 images of Istio"),
        ({"deployments": [deployment("istiod", "registry.corp/gcr.io/istio-release/pilot:1.31.0")]}, PASS, "1 images"),
        ({"deployments": [deployment("istiod", "gcr.io/istio-releases-of-ours/pilot:1")]}, PASS, "1 images"),
        ({"configmaps": [injector('{"global": {"hub": "docker.io/istio"}}')]}, PASS, "1 images of Istio"),
        ({"deployments": [deployment("web")]}, PASS, "no image of Istio"),
    ],
)  # fmt: skip
def test_images_of_a_registry_that_ends_are_named_with_their_users(
    objects: dict[str, list[Any]], verdict: Verdict, words: str
) -> None:
    """MK241: before the pods are restarted, with the dates, and what to set."""
    found, observed, remedy = judged(**objects)
    assert found is verdict
    assert words in observed
    assert (verdict is WARN) == ("2026-12-08 15:00 UTC" in observed) == ("hub: docker.io/istio" in remedy)


@pytest.mark.parametrize(
    ("moment", "verdict"),
    [
        (datetime(2026, 12, 8, 14, 59, tzinfo=UTC), WARN),
        (datetime(2026, 12, 8, 15, tzinfo=UTC), FAIL),
        (datetime(2026, 12, 9, 15, tzinfo=UTC), WARN),
        (datetime(2026, 12, 31, 23, tzinfo=UTC), WARN),
        (datetime(2027, 1, 1, tzinfo=UTC), FAIL),
    ],
)
def test_a_registry_that_is_off_now_stops_restarts(moment: datetime, verdict: Verdict) -> None:
    """MK241: in the trial outage, and after the end, a new pod would get no image."""
    with clock.at(moment):
        assert judged(deployments=[deployment("istiod", f"{OLD}/pilot:1.29.2")])[0] is verdict


@pytest.mark.parametrize(
    ("overlay", "istioctl", "image"),
    [
        ("", "1.30.4", "registry.istio.io/release/pilot"),
        ("", "1.31.1", f"{NEW}/pilot"),
        ("spec: {hub: registry.corp/istio}", "1.30.4", "registry.corp/istio/pilot"),
        (f"spec: {{values: {{global: {{hub: {OLD}}}}}}}", "1.31.1", f"{OLD}/pilot"),
    ],
)
def test_what_stage_05_would_install_counts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any, overlay: str, istioctl: str, image: str
) -> None:
    """Istioctl 1.30 has a registry built in that ends; the mesh file's overlay may name another."""
    monkeypatch.setattr(control_plane_istioctl, "version", lambda: istioctl)
    path = tmp_path / "overlay.yaml"
    path.write_text(f"kind: IstioOperator\n{overlay}\n")
    both: Any = {"east": Held(), "west": Held("west")}
    spec = mesh(istio={"overlay": str(path)} if overlay else {}).spec
    facts = new_pods.look(Mesh(spec, both))
    assert set(facts.images["image"]) == {image}
    (found,) = [f for f in restarts.check(Mesh(spec, both), facts) if (f.id, f.subject) == ("MK241", "east")]
    assert found.verdict is (PASS if image.startswith((NEW, "registry.corp")) else WARN)


def test_every_registry_that_ends_has_its_source_and_date() -> None:
    """Whoever adds one learns what it needs."""
    for line in restarts.retired():
        assert line.source.startswith("https://"), line
        assert date.fromisoformat(line.looked_at), line
        assert line.instead, line


def test_a_cluster_that_could_not_be_read_is_unknown() -> None:
    """For images and for quotas."""
    lost = [{"cluster": "east", "reason": "no answer"}]
    facts = new_pods.NewPodFacts(images.IMAGES.frame(lost), quotas.REFUSALS.frame(lost))
    found = [f.verdict for f in restarts.check(mesh(), facts) if f.subject == "east"]
    assert found == [UNKNOWN, UNKNOWN]
    assert list(restarts.check(mesh(), None)) == []


MAIN = {"name": "main", "resources": {"requests": {"cpu": "500m", "memory": "64Mi"}}}
PROXY = {"name": "istio-proxy", "resources": {"requests": {"cpu": "100m"}, "limits": {"cpu": "2", "memory": "1Gi"}}}


def quota(hard: dict[str, str], used: dict[str, str], **spec: Any) -> Any:
    """Return a ResourceQuota of shop."""
    return held("ResourceQuota", "compute", spec={"hard": hard, **spec}, status={"hard": hard, "used": used})


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (quota({"pods": "3"}, {"pods": "3"}), ["pods: 3 of 3 used, one more pod needs 1"]),
        (quota({"pods": "4"}, {"pods": "3"}), []),
        (quota({"requests.cpu": "2"}, {"requests.cpu": "1500m"}),
         ["requests.cpu: 1500m of 2 used, one more pod needs 0.6"]),
        (quota({"requests.cpu": "2100m"}, {"requests.cpu": "1500m"}), []),
        (quota({"cpu": "2"}, {"cpu": "1900m"}), ["cpu: 1900m of 2 used, one more pod needs 0.6"]),
        # A limit stands for a request that is not said.
        (quota({"requests.memory": "2Gi"}, {"requests.memory": "1Gi"}),
         ["requests.memory: 1Gi of 2Gi used, one more pod needs 1140850688"]),
        (quota({"limits.memory": "8Gi"}, {"limits.memory": "1Gi"}),
         ["a container says no limits.memory, which the quota asks for"]),
        (quota({"count/configmaps": "1", "services": "1"}, {"count/configmaps": "1", "services": "1"}), []),
        (quota({"pods": "3"}, {"pods": "3"}, scopes=["Terminating"]), []),
        (quota({"pods": "3"}, {"pods": "3"}, scopes=["NotTerminating"]), ["pods: 3 of 3 used, one more pod needs 1"]),
        (quota({"pods": "3"}, {"pods": "3"}, scopes=["BestEffort"]), []),
        (quota({"pods": "0"}, {}, scopeSelector={"matchExpressions": [
            {"scopeName": "PriorityClass", "operator": "In", "values": ["high"]}]}), []),
    ],
)  # fmt: skip
def test_a_quota_without_room_for_one_more_pod_is_reported(given: Any, says: list[str]) -> None:
    """MK242: as the API server would count it, sidecar and all."""
    assert quotas.missing(given, {"containers": [MAIN, PROXY]}) == says


def test_native_sidecars_count_with_their_pod_and_init_containers_by_the_largest() -> None:
    """As the scheduler counts them."""
    native = {**PROXY, "restartPolicy": "Always"}
    given = quota({"requests.cpu": "1"}, {"requests.cpu": "500m"})
    assert quotas.missing(given, {"containers": [MAIN], "initContainers": [native]})
    big = {"name": "init", "resources": {"requests": {"cpu": "700m"}}}
    small = {"name": "main", "resources": {"requests": {"cpu": "100m"}}}
    assert "needs 0.7" in quotas.missing(given, {"containers": [small], "initContainers": [big]})[0]


@pytest.mark.parametrize(
    ("strategy", "verdict"),
    [({}, WARN), ({"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}}, PASS), ({"type": "Recreate"}, PASS)],
)
def test_only_a_rollout_that_starts_a_pod_beside_needs_room(strategy: dict[str, Any], verdict: Verdict) -> None:
    """Others end one first; a Deployment without a proxy is not restarted."""
    full = quota({"pods": "2"}, {"pods": "2"})
    objects = {
        "resourcequotas": [full],
        "deployments": [deployment("web", strategy=strategy), deployment("bare")],
        "replicasets": [replicas("web"), replicas("bare")],
        "pods": [pod("web", MAIN, PROXY), pod("bare", MAIN)],
    }
    both: Any = {"east": Held(**objects), "west": Held("west")}
    refused = quotas.refusals(Mesh(mesh().spec, both))
    found = list(restarts.check_admitted(refused, "east"))
    assert [f.verdict for f in found] == [verdict]
    before = restarts.check_admitted(refused, "east", {("east", "shop", "Deployment", "web")})
    assert [f.verdict for f in before] == [FAIL if verdict is WARN else verdict], "stage 05 would wait for it"
    assert verdict is PASS or "Deployment shop/web: ResourceQuota compute: pods: 2 of 2 used" in found[0].observed


def test_what_stage_05_restarts_must_be_admitted_before_it() -> None:
    """MK242 is a failure where stage 05 is to come, and a warning where it is not."""
    row = {"cluster": "east", "namespace": "shop", "kind": "Deployment", "workload": "web"}
    refusals = quotas.REFUSALS.frame([{**row, "by": "ResourceQuota pods", "says": "2 of 2 used"}])
    facts = new_pods.NewPodFacts(images.IMAGES.frame([]), refusals)
    claims = {"networks": "net-east", "mesh_ids": "mesh1"}
    verdicts = {}
    for ids in ("Kubernetes", "east"):
        stale = workloads.stale(mesh(), workloads.WORKLOADS.frame([{**row, **claims, "cluster_ids": ids}]))
        found = restarts.check(mesh(), facts, stale)
        verdicts[ids] = [f.verdict for f in found if (f.id, f.subject) == ("MK242", "east")]
    assert verdicts == {"Kubernetes": [FAIL], "east": [WARN]}
    assert [f.verdict for f in restarts.check(mesh(), facts) if (f.id, f.subject) == ("MK242", "east")] == [WARN]


INIT = {"name": "istio-init", "securityContext": {"capabilities": {"add": ["NET_ADMIN", "NET_RAW"], "drop": ["ALL"]}}}
VALIDATION = {"name": "istio-validation", "securityContext": {"capabilities": {"drop": ["ALL"]}}}


@pytest.mark.parametrize(
    ("level", "init", "verdict"),
    [
        ("baseline", INIT, WARN),
        ("restricted", INIT, WARN),
        ("privileged", INIT, PASS),
        ("", INIT, PASS),
        ("restricted", VALIDATION, PASS),
    ],
)
def test_pod_security_that_came_after_the_pods_is_reported(level: str, init: dict[str, Any], verdict: Verdict) -> None:
    """Those that run stay; the next one, of a StatefulSet too, is refused with its istio-init."""
    made = pod("web", MAIN, PROXY, initContainers=[init])
    made["metadata"]["ownerReferences"] = [{"controller": True, "kind": "StatefulSet", "name": "web"}]
    space = held("Namespace", "shop", labels={quotas.ENFORCE: level} if level else {})
    both: Any = {"east": Held(pods=[made], namespaces=[space]), "west": Held("west")}
    [found] = restarts.check_admitted(quotas.refusals(Mesh(mesh().spec, both)), "east")
    assert found.verdict is verdict
    assert verdict is PASS or "StatefulSet shop/web: PodSecurity: " in found.observed
    assert verdict is PASS or "istio-init adds NET_ADMIN, NET_RAW" in found.observed


def test_a_pod_that_may_not_be_tried_is_no_pass() -> None:
    """What webhooks or a LimitRange would say of it is no pass; what the level forbids is still seen."""
    limited = held("LimitRange", "some")
    both: Any = {"east": Held(may=False, limitranges=[limited]), "west": Held("west")}
    refused = quotas.refusals(Mesh(mesh().spec, both))
    [found] = restarts.check_admitted(refused, "east")
    assert found.verdict is Verdict.SKIPPED
    assert "we may not create pods" in found.observed
    [found] = restarts.check_admitted(refused, "west")
    assert found.verdict is PASS
