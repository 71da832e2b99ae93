"""One pod, from bound to gone, in a thread of its own: network, volumes, containers, probes, status, graceful end."""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Protocol

import urllib3

from meshlab import container as processes
from meshlab import images, launch, network, volumes
from meshlab.container import Container, Logs, now
from meshlab.kube import Kube, Object, Refused, Store
from meshlab.layout import Site
from meshlab.probes import Probe
from meshlab.state import State

TICK = 0.1
BACKOFF, LONGEST_BACKOFF = 10.0, 300.0
SHORTLY = 2.0
READINESS = ("startupProbe", "readinessProbe", "livenessProbe")


class Node(Protocol):
    """What a pod needs of its node."""

    kube: Kube
    secrets: Store
    config_maps: Store
    logs: Logs
    site: Site
    domain: str
    log_folder: Path
    state_folder: Path
    scratch: Path

    def event(self, pod: Object, reason: str, message: str, *, warning: bool = False) -> None:
        """Record an event on a pod."""

    def next_ip(self) -> str:
        """Return an address that no pod has."""


class Pod:
    """Runs one pod until it is deleted."""

    def __init__(self, node: Node, pod: Object) -> None:
        self.node, self.object = node, pod
        meta = pod["metadata"]
        self.namespace, self.name, self.uid = meta["namespace"], meta["name"], meta["uid"]
        self.path = f"/api/v1/namespaces/{self.namespace}/pods/{self.name}"
        self.folder: Path = node.scratch / self.uid
        self.state = State(node.state_folder / self.namespace / self.name, self.uid)
        self.log_folder = node.log_folder / f"{self.namespace}_{self.name}_{self.uid}"
        self.netns = f"p-{self.uid[:13]}"
        self.ip = node.next_ip()
        self.volumes = volumes.Volumes(node, pod, self.folder / "volumes")
        spec = pod["spec"]
        self.init = [Container(c, init=True) for c in spec.get("initContainers", [])]
        self.main = [Container(c) for c in spec["containers"]]
        self.sent: Object = {}
        self.joined = self.over = False
        self.refreshed = 0.0
        threading.Thread(target=self._run, daemon=True, name=f"{self.namespace}/{self.name}").start()

    # The life of a pod -------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while self.object["metadata"].get("deletionTimestamp") is None:
            try:
                self._join()
                self._step()
                self._report()
            except Exception as error:  # noqa: BLE001 - whatever it was: say it, and try again as a kubelet does
                what = f"{type(error).__name__}: {error}"
                print(f"{self.namespace}/{self.name}: {what}", flush=True)
                self.node.event(self.object, "FailedSync", what, warning=True)
                time.sleep(SHORTLY)
            time.sleep(TICK)
        self._end()

    def _join(self) -> None:
        if not self.joined:
            network.leave(self.netns)  # what an attempt that failed halfway left
            network.join(self.netns, self.ip, self.node.site, self._sysctls())
            self.state.claim(self.netns)
            self.joined = True

    def _sysctls(self) -> list[str]:
        given = self.object["spec"].get("securityContext", {}).get("sysctls", [])
        return ["net.ipv4.ip_unprivileged_port_start=0", *(f"{s['name']}={s['value']}" for s in given)]

    def _step(self) -> None:
        """Do what can be done now: refresh volumes, start what is due, restart what ended."""
        if not self._refresh_volumes():
            return
        for c in self.init:
            self._tend(c)
            if not (c.started if c.sidecar else c.ready):
                return
        for c in self.main:
            self._tend(c)
        if self._finished() and any(c.process for c in self.init):
            self.over = True
            self._stop_sidecars(time.monotonic() + self._grace())

    def _finished(self) -> bool:
        """Whether the pod ran to its end, good or bad."""
        failed = any(c.exited and c.exited["exitCode"] and not self._restarts(c) for c in self.init if not c.sidecar)
        return failed or all(c.exited and not c.process and not self._restarts(c) for c in self.main)

    def _refresh_volumes(self) -> bool:
        if time.monotonic() - self.refreshed < 1.0:
            return all(c.waiting[0] != "ContainerCreating" for c in self.main)
        self.refreshed = time.monotonic()
        try:
            self.volumes.refresh(self.object)
        except (volumes.NotYet, Refused, urllib3.exceptions.HTTPError) as error:
            if self.main[0].process is None:
                self._wait(self.main, "ContainerCreating", "")
                self.node.event(self.object, "FailedMount", str(error), warning=True)
            return False
        if self.main[0].waiting[0] == "ContainerCreating":
            self._wait(self.main, "PodInitializing", "")
        return True

    @staticmethod
    def _wait(containers: list[Container], reason: str, message: str) -> None:
        for c in containers:
            c.waiting = (reason, message)

    def _tend(self, c: Container) -> None:
        """Start, watch or restart one container."""
        if c.process is None:
            if self.over:
                return
            if c.exited and not self._restarts(c):
                return
            if time.monotonic() >= c.not_before:
                self._start(c)
            return
        code = c.process.end()
        if code is None:
            self._mind_probes(c)
            return
        self._ended(c, code)

    def _restarts(self, c: Container) -> bool:
        policy = "Always" if c.sidecar else self.object["spec"].get("restartPolicy", "Always")
        if self.over:
            return False
        if c.init and not c.sidecar and c.ready:
            return False
        failed = bool(c.exited and c.exited["exitCode"] != 0)
        return policy == "Always" or (policy == "OnFailure" and failed)

    def _ended(self, c: Container, code: int) -> None:
        assert c.process is not None  # noqa: S101 - for the type checker
        for probe in c.probes.values():
            probe.stop()
        c.probes.clear()
        c.process.kill()
        c.exited = {
            "exitCode": code,
            "reason": "Completed" if code == 0 else "Error",
            "startedAt": c.process.started,
            "finishedAt": now(),
        }
        c.process = None
        shutil.rmtree(self._scratch(c), ignore_errors=True)
        self._tell(c)
        if not self._restarts(c):
            return
        c.last = c.exited
        if c.restarts:
            delay = min(BACKOFF * 2 ** (c.restarts - 1), LONGEST_BACKOFF)
            c.not_before = time.monotonic() + delay
            c.waiting = (
                "CrashLoopBackOff",
                f"back-off {delay:.0f}s restarting failed container={c.name} pod={self.name}",
            )
            c.exited = None
            self.node.event(self.object, "BackOff", f"Back-off restarting failed container {c.name}", warning=True)

    def _mind_probes(self, c: Container) -> None:
        assert c.process is not None  # noqa: S101 - for the type checker
        for kind in READINESS:
            if kind in c.spec and kind not in c.probes and (kind == "startupProbe" or c.started):
                c.probes[kind] = self._probe(c, kind)
        for kind in ("startupProbe", "livenessProbe"):
            if kind in c.probes and c.probes[kind].ok is False:
                self.node.event(
                    self.object,
                    "Killing",
                    f"Container {c.name} failed {kind.removesuffix('Probe')} probe, will be restarted",
                )
                self._stop([c], self._grace())
                return

    def _probe(self, c: Container, kind: str) -> Probe:
        ports = {p["name"]: p["containerPort"] for p in c.spec.get("ports", []) if "name" in p}
        word = kind.removesuffix("Probe").capitalize()
        process = c.process

        def complain(problem: str) -> None:
            self.node.event(self.object, "Unhealthy", f"{word} probe failed: {problem}", warning=True)

        once = kind == "startupProbe"
        inside = lambda: launch.enter(process.pid if process else 0)  # noqa: E731
        return Probe(c.spec[kind], self.ip, ports, inside, complain, once=once)

    # Starting ----------------------------------------------------------------------------------------------------

    def _start(self, c: Container) -> None:
        try:
            image = images.find(c.spec["image"])
        except images.NotFoundError as error:
            self._no_image(c, str(error))
            return
        site = self.node.site
        try:
            env = launch.environment(self.object, c.spec, self.ip, site, self.volumes)
        except volumes.NotYet as error:
            c.waiting, c.not_before = ("CreateContainerConfigError", str(error)), time.monotonic() + SHORTLY
            self.node.event(self.object, "Failed", f"Error: {error}", warning=True)
            return
        user = launch.user(self.object, c.spec, image)
        if c.last or c.exited:
            c.restarts += 1
        c.exited = None
        try:
            c.process = processes.start(
                folder=self._scratch(c),
                netns=self.netns,
                hostname=self.object["spec"].get("hostname") or self.name,
                image=image,
                argv=launch.arguments(c.spec, image, env),
                env=env,
                cwd=c.spec.get("workingDir") or "/",
                user=user,
                mounts=launch.mounts(
                    self.object,
                    c.spec,
                    self.ip,
                    site,
                    sources=self.volumes,
                    folder=self.folder,
                    domain=self.node.domain,
                ),
                logs=self.node.logs,
                log=self._log(c, c.restarts),
            )
        except OSError as error:
            c.waiting = ("CreateContainerError", str(error))
            c.not_before = time.monotonic() + BACKOFF
            return
        self.node.event(self.object, "Started", f"Started container {c.name}")
        self._tell(c, env, *user)

    def _scratch(self, c: Container) -> Path:
        return self.folder / c.name / str(c.restarts)

    def _no_image(self, c: Container, reason: str) -> None:
        image = c.spec["image"]
        first = c.waiting[0] != "ErrImagePull"
        text = f'failed to pull and unpack image "{image}": {reason}'
        c.waiting = ("ErrImagePull", text) if first else ("ImagePullBackOff", f'Back-off pulling image "{image}"')
        c.not_before = time.monotonic() + (SHORTLY if first else BACKOFF)
        message = f'Failed to pull image "{image}": {text}' if first else c.waiting[1]
        self.node.event(self.object, "Failed" if first else "BackOff", message, warning=True)

    def _log(self, c: Container, restart: int) -> Path:
        return self.log_folder / c.name / f"{restart}.log"

    def _tell(self, c: Container, env: dict[str, str] | None = None, uid: int = 0, gid: int = 0) -> None:
        """Tell the node's API how to reach the container (its contract is in nodeapi)."""
        entry = {
            "pid": c.process.pid if c.process else 0,
            "running": c.process is not None,
            "env": [f"{k}={v}" for k, v in (env or {}).items()],
            "cwd": c.spec.get("workingDir") or "/",
            "uid": uid,
            "gid": gid,
            "log": str(self._log(c, c.restarts)),
            "previousLog": str(self._log(c, c.restarts - 1)) if c.restarts else "",
        }
        self.state.tell(c.name, entry)

    # Status ------------------------------------------------------------------------------------------------------

    def _report(self) -> None:
        """Patch the pod's status where it changed."""
        status = self._status()
        if status == self.sent:
            return
        with contextlib.suppress(Refused, urllib3.exceptions.HTTPError):  # tried again at the next tick
            self.node.kube.merge(f"{self.path}/status", {"status": status})
            self.sent = status

    def _status(self) -> Object:
        initialized = all(c.started if c.sidecar else c.ready for c in self.init)
        finished = self._finished()
        ready = initialized and not finished and all(c.ready for c in self.main)
        if finished:
            every = [*(c for c in self.init if not c.sidecar), *self.main]
            phase = "Failed" if any(c.exited and c.exited["exitCode"] for c in every) else "Succeeded"
        else:
            phase = "Running" if initialized and any(c.process or c.restarts for c in self.main) else "Pending"
        truths = {"PodScheduled": True, "Initialized": initialized, "ContainersReady": ready, "Ready": ready}
        return {
            "phase": phase,
            "podIP": self.ip,
            "podIPs": [{"ip": self.ip}],
            "hostIP": self.node.site.node_ip,
            "hostIPs": [{"ip": self.node.site.node_ip}],
            "startTime": self.object["metadata"]["creationTimestamp"],
            "conditions": [self._condition(kind, truth) for kind, truth in truths.items()],
            "initContainerStatuses": [c.status() for c in self.init],
            "containerStatuses": [c.status() for c in self.main],
        }

    def _condition(self, kind: str, truth: bool) -> Object:
        status = str(truth)
        before = next((c for c in self.sent.get("conditions", []) if c["type"] == kind and c["status"] == status), None)
        return before or {"type": kind, "status": status, "lastTransitionTime": now()}

    # The end -----------------------------------------------------------------------------------------------------

    def _grace(self) -> float:
        meta, spec = self.object["metadata"], self.object["spec"]
        return float(meta.get("deletionGracePeriodSeconds", spec.get("terminationGracePeriodSeconds", 30)))

    def _end(self) -> None:
        """End gracefully: main containers with preStop, then native sidecars; then forget the pod."""
        for c in [*self.init, *self.main]:
            for kind, probe in list(c.probes.items()):
                if kind != "readinessProbe":
                    probe.stop()
        self.over = True
        reporter = threading.Event()
        reports = threading.Thread(target=self._keep_reporting, args=(reporter,), daemon=True)
        reports.start()
        grace = time.monotonic() + self._grace()
        self._stop(self.main, grace - time.monotonic())
        self._stop_sidecars(grace)
        reporter.set()
        reports.join()
        for c in [*self.init, *self.main]:
            for probe in c.probes.values():
                probe.stop()
        # Before the API server forgets the pod: a successor of the same name may come at once.
        self._clean()
        while not self._forgotten():
            time.sleep(SHORTLY)

    def _stop_sidecars(self, grace: float) -> None:
        for c in reversed([c for c in self.init if c.process]):
            self._stop([c], max(grace - time.monotonic(), SHORTLY))

    def _forgotten(self) -> bool:
        """Report the last status and have the pod removed; returns whether the API server said so."""
        self._report()
        try:
            self.node.kube.call("DELETE", self.path, {"gracePeriodSeconds": 0, "preconditions": {"uid": self.uid}})
        except Refused as error:
            return error.status in (404, 409)  # another client removed it already; a new pod may have its name by now
        except urllib3.exceptions.HTTPError:
            return False
        return True

    def _keep_reporting(self, done: threading.Event) -> None:
        while not done.wait(TICK):
            self._report()

    def _stop(self, containers: list[Container], grace: float) -> None:
        """Run preStop hooks, then SIGTERM to each first process, then SIGKILL when the grace is over."""
        running = [c for c in containers if c.process]
        threads = [threading.Thread(target=self._stop_one, args=(c, time.monotonic() + grace)) for c in running]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _stop_one(self, c: Container, deadline: float) -> None:
        process = c.process
        assert process is not None  # noqa: S101 - for the type checker
        hook = c.spec.get("lifecycle", {}).get("preStop", {})
        if "sleep" in hook:
            time.sleep(min(hook["sleep"]["seconds"], max(deadline - time.monotonic(), 0)))
        elif "exec" in hook:
            with contextlib.suppress(subprocess.TimeoutExpired):
                subprocess.run([*launch.enter(process.pid), *hook["exec"]["command"]], capture_output=True, check=False,
                               timeout=max(deadline - time.monotonic(), 0.1))  # fmt: skip
        process.signal(signal.SIGTERM)
        while process.end() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        code = process.end()
        process.kill()
        self._ended(c, 137 if code is None else code)

    def _clean(self) -> None:
        for c in [*self.init, *self.main]:
            if c.process:
                c.process.kill()
        network.leave(self.netns)
        self.state.forget()
        shutil.rmtree(self.folder, ignore_errors=True)
