"""What people do with pods: each does on the lab what it does on a real cluster."""

from __future__ import annotations

import contextlib
import json
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from meshkit.paths import folder
from tests.support.api_server import free_port
from tests.support.lab import CURL, HTTPBIN, Lab, Object, Space, httpbin, shell, sleeper, until

pytestmark = pytest.mark.lab


def test_istioctl_install_of_the_default_profile_succeeds(empty_lab: Lab) -> None:
    """`istioctl install --set profile=default` ends with its own success, and its deployments are ready."""
    overlay = str(folder("parameters") / "lab-overlay.yaml")
    argv = ("--context", "lab-west", "install", "-y", "--set", "profile=default", "-f", overlay)
    done = empty_lab.tool("istioctl", *argv)
    assert done.returncode == 0, done.stderr
    assert "Installation complete" in done.stdout + done.stderr
    system = Space(empty_lab, "lab-west", "istio-system")
    ready = {d["metadata"]["name"]: d["status"].get("readyReplicas") for d in system.items("deployments")}
    assert ready == {"istiod": 1, "istio-ingressgateway": 1}


def test_rollout_restart_replaces_pods_without_a_gap(east: Space) -> None:
    """During `kubectl rollout restart` the Service always has a ready endpoint, and no call through it fails."""
    quit_late = {"preStop": {"sleep": {"seconds": 1}}}
    east.deployment("web", httpbin(lifecycle=quit_late), replicas=2, terminationGracePeriodSeconds=5)
    east.service("web")
    east.pod("client", sleeper())
    east.ready("deployment/web")
    east.ready("pod/client")
    before = names(east, "web")
    call = "curl -s -o /dev/null -m 2 -w '%{http_code}\\n' http://web/status/200"
    script = f"for i in $(seq 1 70); do {call}; sleep 0.05; done"
    calls: list[str] = []
    caller = threading.Thread(
        target=lambda: calls.extend(east.kubectl("exec", "client", "--", "sh", "-c", script).split())
    )
    caller.start()
    east.kubectl("rollout", "restart", "deployment/web")
    counts = []
    while caller.is_alive():
        counts.append(ready_endpoints(east, "web"))
        time.sleep(0.1)
    caller.join()
    east.ready("deployment/web")
    assert min(counts) >= 1
    assert set(calls) == {"200"}
    until(lambda: not before & names(east, "web"), "the old pods are gone")


def names(space: Space, app: str) -> set[str]:
    """Return the names of an app's pods."""
    return {p["metadata"]["name"] for p in space.items("pods", "-l", f"app={app}")}


def ready_endpoints(space: Space, service: str) -> int:
    """Return how many ready endpoints a Service has."""
    slices = space.items("endpointslices", "-l", f"kubernetes.io/service-name={service}")
    return sum(bool(e["conditions"].get("ready")) for s in slices for e in s.get("endpoints") or [])


def test_exec_gives_output_exit_code_and_stdin(east: Space) -> None:
    """`kubectl exec` brings back output and exit code, and carries stdin."""
    east.pod("p", sleeper(env=[{"name": "COLOUR", "value": "blue"}]))
    east.ready("pod/p")
    assert east.kubectl("exec", "p", "--", "sh", "-c", "echo $COLOUR; hostname").split() == ["blue", "p"]
    assert east.try_kubectl("exec", "p", "--", "sh", "-c", "exit 7").returncode == 7
    assert east.kubectl("exec", "-i", "p", "--", "wc", "-c", stdin="12345").strip() == "5"
    assert "main" in east.try_kubectl("exec", "p", "-c", "nobody", "--", "true").stderr


def test_port_forward_carries_an_http_answer(east: Space) -> None:
    """An HTTP answer comes through `kubectl port-forward`, to a pod and to a Service."""
    east.deployment("web", httpbin())
    east.service("web")
    east.ready("deployment/web")
    port = free_port()
    with background(east, "port-forward", "service/web", f"{port}:80") as forward:
        assert forward.stdout is not None
        assert "Forwarding from" in forward.stdout.readline()
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/hostname", timeout=5) as answer:
            assert json.load(answer)["hostname"] in names(east, "web")


@contextlib.contextmanager
def background(space: Space, *argv: str) -> Iterator[subprocess.Popen[str]]:
    """Run kubectl beside the test."""
    command, env = space.lab.command("kubectl", "--context", space.context, "-n", space.name, *argv)
    with subprocess.Popen(command, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        try:
            yield process
        finally:
            process.terminate()


def test_logs_follow_until_the_container_ends(east: Space) -> None:
    """`kubectl logs -f` gives each line, stdout's and stderr's, and ends with the container."""
    script = "for i in 1 2 3 4; do echo line $i; sleep 0.3; done; echo last >&2; printf unfinished"
    east.pod("p", shell(script), restartPolicy="Never")
    until(lambda: east.phase("p") in ("Running", "Succeeded"), "it runs")
    lines = ["line 1", "line 2", "line 3", "line 4", "last", "unfinished"]
    assert sorted(east.kubectl("logs", "-f", "p").splitlines()) == sorted(lines)
    assert len(east.kubectl("logs", "--tail=2", "p").splitlines()) == 2


def test_logs_of_a_thousand_lines_a_second_are_whole(east: Space) -> None:
    """A busy container loses no line and no order, while others write beside it."""
    script = "i=0; while [ $i -lt 3000 ]; do i=$((i+1)); echo $i; [ $((i % 100)) = 0 ] && sleep 0.05; done"
    for name in ("one", "two"):
        east.pod(name, shell(script), restartPolicy="Never")
    for name in ("one", "two"):
        until(lambda name=name: east.phase(name) == "Succeeded", "it ended")
        assert east.kubectl("logs", name).split() == [str(n + 1) for n in range(3000)]


def test_a_crashed_container_backs_off_and_its_last_logs_stay(east: Space) -> None:
    """CrashLoopBackOff, restartCount, lastState and `logs --previous` are those of a real cluster."""
    east.pod("p", shell("echo run of $(date +%N); exit 3"))
    until(lambda: east.waiting("p") == "CrashLoopBackOff", "CrashLoopBackOff")
    state = east.state("p")
    assert state["restartCount"] >= 1
    assert state["lastState"]["terminated"]["exitCode"] == 3
    assert state["lastState"]["terminated"]["reason"] == "Error"
    assert "Back-off restarting" in east.event("p", "BackOff")
    last, previous = east.kubectl("logs", "p"), east.kubectl("logs", "--previous", "p")
    assert last.startswith("run of ")
    assert previous.startswith("run of ")
    assert last != previous
    assert "CrashLoopBackOff" in east.kubectl("get", "pod", "p")


def test_delete_is_graceful_and_a_replacement_comes(east: Space) -> None:
    """PreStop runs first, then SIGTERM reaches the first process only, within the grace; a new pod takes its place."""
    # The witness is a folder of the node: what the ended pod did is seen from another one.
    script = (
        "trap 'echo first got TERM >> /witness/log; exit 0' TERM; "
        "(trap 'echo child got TERM >> /witness/log' TERM; while :; do sleep 0.1; done) & while :; do sleep 0.1; done"
    )
    hook = {"preStop": {"exec": {"command": ["/bin/sh", "-c", "sleep 0.5; echo preStop >> /witness/log"]}}}
    mount = {"volumeMounts": [{"name": "witness", "mountPath": "/witness"}]}
    node_folder: Object = {"name": "witness", "hostPath": {"path": f"/run/{east.name}", "type": "DirectoryOrCreate"}}
    east.deployment(
        "d", shell(script, lifecycle=hook, **mount), volumes=[node_folder], terminationGracePeriodSeconds=10
    )
    east.ready("deployment/d")
    (old,) = names(east, "d")
    east.kubectl("delete", "pod", old)
    east.ready("deployment/d")
    (new,) = names(east, "d")
    assert new != old
    assert east.kubectl("exec", new, "--", "cat", "/witness/log").splitlines() == ["preStop", "first got TERM"]


def test_a_process_that_ignores_sigterm_is_killed_after_the_grace(east: Space) -> None:
    """The grace period is given in full, and not longer."""
    east.pod("p", shell("trap '' TERM; while :; do sleep 0.1; done"), terminationGracePeriodSeconds=2)
    east.ready("pod/p")
    begun = time.monotonic()
    east.kubectl("delete", "pod", "p")
    assert 1.9 < time.monotonic() - begun < 5


def test_a_pod_deleted_while_it_starts_goes_away(east: Space) -> None:
    """Pods deleted at once, and by force, leave nothing, and their names can be used again."""
    for extra in ([], ["--force", "--grace-period=0"]):
        for _ in range(3):
            east.pod("p", shell("echo mine; sleep 100"), initContainers=[{"name": "i", "image": CURL, **shell("true")}])
            east.kubectl("delete", "pod", "p", *extra)
    east.pod("p", shell("echo mine; sleep 100"))
    east.ready("pod/p")
    assert east.kubectl("exec", "p", "--", "hostname").strip() == "p"
    until(lambda: east.kubectl("logs", "p") == "mine\n", "only its own log")


def test_an_image_that_does_not_exist(east: Space) -> None:
    """ErrImagePull, then ImagePullBackOff, with the events, as a real cluster says it; `set image` fixes it."""
    east.deployment("d", {"image": "registry.example/nothing:1"})
    (name,) = until(lambda: names(east, "d"), "a pod")
    seen = set()
    until(lambda: seen.add(east.waiting(name)) or "ImagePullBackOff" in seen, "ImagePullBackOff", 40)
    assert "ErrImagePull" in seen
    assert "registry.example/nothing:1" in east.event(name, "Failed")
    assert "Back-off pulling image" in east.event(name, "BackOff")
    assert east.phase(name) == "Pending"
    east.kubectl("patch", "deployment", "d", "-p", json.dumps(containers({"name": "main", "image": HTTPBIN})))
    east.ready("deployment/d")


def containers(*given: Object) -> Object:
    """Return a patch of a Deployment's containers."""
    return {"spec": {"template": {"spec": {"containers": list(given)}}}}


def test_a_failing_readiness_probe_keeps_a_pod_out_of_its_service(east: Space) -> None:
    """It runs, is never Ready, is no endpoint, and says Unhealthy; when the probe is answered, it is Ready."""
    probe = {"exec": {"command": ["test", "-e", "/var/ready"]}, "periodSeconds": 1}
    east.pod("p", sleeper(readinessProbe=probe))
    east.service("p")
    until(lambda: "Readiness probe failed" in east.event("p", "Unhealthy"), "Unhealthy")
    assert east.phase("p") == "Running"
    assert east.state("p")["ready"] is False
    assert ready_endpoints(east, "p") == 0
    east.kubectl("exec", "p", "--", "touch", "/var/ready")
    east.ready("pod/p", 10)
    until(lambda: ready_endpoints(east, "p") == 1, "an endpoint")


def test_a_failing_liveness_probe_restarts_the_container(east: Space) -> None:
    """The container is ended and started again, with the events Unhealthy and Killing."""
    probe = {"exec": {"command": ["test", "!", "-e", "/var/ill"]}, "periodSeconds": 1, "failureThreshold": 2}
    east.pod("p", sleeper(livenessProbe=probe))
    east.ready("pod/p")
    east.kubectl("exec", "p", "--", "touch", "/var/ill")
    until(lambda: east.state("p").get("restartCount") == 1, "a restart")
    assert "Liveness probe failed" in east.event("p", "Unhealthy")
    assert "failed liveness probe" in east.event("p", "Killing")
    east.ready("pod/p", 10)


def test_a_startup_probe_is_asked_only_until_it_is_answered(east: Space) -> None:
    """What fails a startup probe later does not end the container."""
    probe = {"exec": {"command": ["test", "!", "-e", "/var/ill"]}, "periodSeconds": 1, "failureThreshold": 1}
    east.pod("p", sleeper(startupProbe=probe))
    east.ready("pod/p")
    east.kubectl("exec", "p", "--", "touch", "/var/ill")
    time.sleep(2.5)
    assert east.state("p")["restartCount"] == 0


def test_a_missing_secret_holds_a_pod_until_it_appears(east: Space) -> None:
    """ContainerCreating and FailedMount, then it starts, and an update of the secret reaches its volume."""
    volume = {"name": "s", "secret": {"secretName": "late"}}
    east.pod("p", sleeper(volumeMounts=[{"name": "s", "mountPath": "/etc/late"}]), volumes=[volume])
    until(lambda: 'secret "late" not found' in east.event("p", "FailedMount"), "FailedMount")
    assert east.waiting("p") == "ContainerCreating"
    east.kubectl("create", "secret", "generic", "late", "--from-literal=key=one")
    east.ready("pod/p", 10)
    read = ("exec", "p", "--", "cat", "/etc/late/key")
    assert east.kubectl(*read) == "one"
    east.kubectl("patch", "secret", "late", "-p", '{"stringData": {"key": "two"}}')
    until(lambda: east.kubectl(*read) == "two", "the new secret in the volume", 10)


def test_a_missing_config_map_of_a_variable_holds_the_container(east: Space) -> None:
    """CreateContainerConfigError until the config map is there, then its values are in the environment."""
    ref = {"configMapKeyRef": {"name": "late", "key": "colour"}}
    east.pod("p", sleeper(env=[{"name": "COLOUR", "valueFrom": ref}], envFrom=[{"configMapRef": {"name": "late"}}]))
    until(lambda: east.waiting("p") == "CreateContainerConfigError", "CreateContainerConfigError")
    east.kubectl("create", "configmap", "late", "--from-literal=colour=green", "--from-literal=size=big")
    east.ready("pod/p", 20)
    assert east.kubectl("exec", "p", "--", "sh", "-c", "echo $COLOUR $size").split() == ["green", "big"]


def test_downward_api_tells_a_pod_of_itself(east: Space) -> None:
    """Fields and resources come as variables and as files, and a changed label reaches the file."""
    env = [
        {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
        {"name": "LIMIT", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}}},
        {"name": "SUM", "value": "$(NODE)-$(LIMIT)-$$(NODE)-$(NONE)"},
    ]
    items = [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]
    east.pod("p", sleeper(env=env, resources={"limits": {"memory": "64Mi"}},
                          volumeMounts=[{"name": "me", "mountPath": "/me"}]),
             volumes=[{"name": "me", "downwardAPI": {"items": items}}])  # fmt: skip
    east.ready("pod/p")
    said = east.kubectl("exec", "p", "--", "sh", "-c", "echo $IP; echo $SUM").split()
    assert said == [east.get("pod", "p")["status"]["podIP"], "east-64-$(NODE)-$(NONE)"]
    east.kubectl("label", "pod", "p", "mood=good")
    until(lambda: 'mood="good"' in east.kubectl("exec", "p", "--", "cat", "/me/labels"), "the label", 10)


def test_a_failing_init_container_keeps_the_pod_from_starting(east: Space) -> None:
    """Init:CrashLoopBackOff, and the main container never runs; with restartPolicy Never the pod fails."""
    init = {"name": "first", "image": CURL, **shell("exit 1")}
    east.pod("always", sleeper(), initContainers=[init])
    east.pod("never", sleeper(), initContainers=[init], restartPolicy="Never")
    until(lambda: east.waiting("always", "first") == "CrashLoopBackOff", "CrashLoopBackOff")
    assert east.waiting("always") == "PodInitializing"
    assert "Init:CrashLoopBackOff" in east.kubectl("get", "pod", "always")
    until(lambda: east.phase("never") == "Failed", "Failed")


def test_native_sidecars_start_first_and_end_last(east: Space) -> None:
    """A native sidecar is started before the main container begins and outlives it."""
    mount: Any = {"volumeMounts": [{"name": "shared", "mountPath": "/shared"}]}
    side = (
        "echo side starts >> /shared/log; sleep 1; touch /var/started; "
        "trap 'echo side ends >> /shared/log; exit 0' TERM; while :; do sleep 0.05; done"
    )
    main = (
        "echo main starts >> /shared/log; "
        "trap 'sleep 0.5; echo main ends >> /shared/log; exit 0' TERM; while :; do sleep 0.05; done"
    )
    probe = {"exec": {"command": ["test", "-e", "/var/started"]}, "periodSeconds": 1}
    sidecar = {"name": "side", "image": CURL, "restartPolicy": "Always", "startupProbe": probe, **shell(side, **mount)}
    node_folder: Object = {"name": "shared", "hostPath": {"path": f"/run/{east.name}", "type": "DirectoryOrCreate"}}
    rest: Any = {"volumes": [node_folder], "terminationGracePeriodSeconds": 10}
    east.pod("p", shell(main, **mount), initContainers=[sidecar], **rest)
    east.ready("pod/p")
    east.kubectl("delete", "pod", "p")
    east.pod("reader", sleeper(**mount), **rest)
    east.ready("pod/reader")
    log = east.kubectl("exec", "reader", "--", "cat", "/shared/log").splitlines()
    assert log == ["side starts", "main starts", "main ends", "side ends"]


def test_a_job_with_a_native_sidecar_completes(east: Space) -> None:
    """When the main container is done the sidecar is ended, the pod has Succeeded and the Job is complete."""
    sidecar = {"name": "side", "image": CURL, "restartPolicy": "Always", **sleeper()}
    main = {"name": "main", "image": CURL, **shell("echo done")}
    spec = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 3,
        "initContainers": [sidecar],
        "containers": [main],
    }
    east.apply(
        {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "j"}, "spec": {"template": {"spec": spec}}}
    )
    east.kubectl("wait", "job/j", "--for=condition=complete", "--timeout=30s")
    assert east.kubectl("logs", "job/j", "-c", "main") == "done\n"
    (pod,) = east.items("pods", "-l", "job-name=j")
    assert pod["status"]["phase"] == "Succeeded"


def test_a_failing_job_is_tried_again_and_then_fails(east: Space) -> None:
    """Pods of a Job that fail have phase Failed, and the Job ends as Failed at its limit."""
    template = {"spec": {"restartPolicy": "Never", "containers": [{"name": "main", "image": CURL, **shell("exit 4")}]}}
    job: Object = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "j"}}
    east.apply({**job, "spec": {"backoffLimit": 0, "template": template}})
    east.kubectl("wait", "job/j", "--for=condition=failed", "--timeout=30s")
    (pod,) = east.items("pods", "-l", "job-name=j")
    assert pod["status"]["phase"] == "Failed"
    assert pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 4


def test_a_stateful_set_has_ordinal_names_and_dns(east: Space) -> None:
    """Pods are NAME-0, NAME-1 in this order, each with a DNS name; a deleted one comes back under its name."""
    east.service("db", clusterIP="None")
    template = {"metadata": {"labels": {"app": "db"}}, "spec": {"containers": [{"name": "main", **httpbin()}]}}
    spec = {"serviceName": "db", "replicas": 2, "selector": {"matchLabels": {"app": "db"}}, "template": template}
    east.apply({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "db"}, "spec": spec})
    east.ready("statefulset/db")
    assert names(east, "db") == {"db-0", "db-1"}
    answer = east.ask("db-0", f"http://db-1.db.{east.name}.svc.cluster.local:8080/hostname")
    assert json.loads(answer.stdout)["hostname"] == "db-1"
    east.kubectl("delete", "pod", "db-1")
    east.ready("statefulset/db")
    until(lambda: "db-1" in east.ask("db-0", "http://db-1.db:8080/hostname").stdout, "db-1 by its new address", 15)
    assert east.kubectl("exec", "db-1", "--", "hostname").strip() == "db-1"


def test_an_empty_dir_is_shared_by_the_containers_of_a_pod(east: Space) -> None:
    """One container reads what another, of another user, writes; other pods have their own."""
    mount: Any = {"volumeMounts": [{"name": "shared", "mountPath": "/shared"}]}
    writer = shell("echo hello > /shared/a; sleep 100", securityContext={"runAsUser": 1234}, **mount)
    reader = sleeper(**mount)
    for pod in ("p", "q"):
        volume = {"name": "shared", "emptyDir": {}}
        east.pod(pod, reader, *([{**writer, "name": "writer"}] if pod == "p" else []), volumes=[volume])
        east.ready(f"pod/{pod}")
    assert east.kubectl("exec", "p", "-c", "main", "--", "stat", "-c", "%u", "/shared/a").strip() == "1234"
    assert east.kubectl("exec", "q", "--", "ls", "/shared") == ""
