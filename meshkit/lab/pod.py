"""One pod, from bound to gone, in a thread of its own: network, volumes, containers, probes, status, graceful end."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import signal
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import urllib3

from meshkit.lab import container as processes
from meshkit.lab import images, network, volumes
from meshkit.lab.container import Logs, Process, now
from meshkit.lab.kube import Kube, Object, Refused, Store
from meshkit.lab.layout import Site, replace
from meshkit.lab.probes import Probe

TICK = 0.1
BACKOFF, LONGEST_BACKOFF = 10.0, 300.0
READINESS = ("startupProbe", "readinessProbe", "livenessProbe")


class Node(Protocol):
    """What a pod needs of its node."""

    kube: Kube
    secrets: Store
    config_maps: Store
    logs: Logs
    site: Site
    log_folder: Path
    state_folder: Path
    scratch: Path

    def event(self, pod: Object, reason: str, message: str, *, warning: bool = False) -> None:
        """Record an event on a pod."""

    def next_ip(self) -> str:
        """Return an address that no pod has."""


@dataclass
class Container:
    """A container's spec, and what became of it so far."""

    spec: Object
    init: bool = False
    process: Process | None = None
    restarts: int = 0
    waiting: tuple[str, str] = ("PodInitializing", "")
    exited: Object | None = None
    last: Object | None = None
    not_before: float = 0.0
    probes: dict[str, Probe] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The container's name in its pod."""
        return str(self.spec["name"])

    @property
    def sidecar(self) -> bool:
        """Whether it is a native sidecar: an init container that keeps running."""
        return self.init and self.spec.get("restartPolicy") == "Always"

    @property
    def started(self) -> bool:
        """Whether it runs and its startup probe, if any, was answered."""
        return self.process is not None and ("startupProbe" not in self.spec or self._ok("startupProbe"))

    @property
    def ready(self) -> bool:
        """Whether it is started and its readiness probe, if any, is answered."""
        if self.init and not self.sidecar:
            return self.exited is not None and self.exited["exitCode"] == 0
        return self.started and ("readinessProbe" not in self.spec or self._ok("readinessProbe"))

    def _ok(self, kind: str) -> bool:
        return kind in self.probes and self.probes[kind].ok is True

    def status(self) -> Object:
        """Return the containerStatus as the kubelet writes it."""
        if self.process:
            state: Object = {"running": {"startedAt": self.process.started}}
        elif self.exited:
            state = {"terminated": self.exited}
        else:
            reason, message = self.waiting
            state = {"waiting": {"reason": reason, **({"message": message} if message else {})}}
        return {
            "name": self.name,
            "image": self.spec["image"],
            "imageID": "",
            "restartCount": self.restarts,
            "ready": self.ready,
            "started": self.started,
            "state": state,
            "lastState": {"terminated": self.last} if self.last else {},
        }


class Pod:
    """Runs one pod until it is deleted."""

    def __init__(self, node: Node, pod: Object) -> None:
        self.node, self.object = node, pod
        meta = pod["metadata"]
        self.namespace, self.name, self.uid = meta["namespace"], meta["name"], meta["uid"]
        self.path = f"/api/v1/namespaces/{self.namespace}/pods/{self.name}"
        self.folder = node.scratch / self.uid
        self.state = node.state_folder / self.namespace / self.name
        self.log_folder = node.log_folder / f"{self.namespace}_{self.name}"
        self.netns = f"p-{self.uid[:13]}"
        self.ip = node.next_ip()
        self.volumes = volumes.Volumes(node, pod, self.folder / "volumes")
        spec = pod["spec"]
        self.init = [Container(c, init=True) for c in spec.get("initContainers", [])]
        self.main = [Container(c) for c in spec["containers"]]
        self.sent: Object = {}
        self.deadline: float | None = None
        self.refreshed = 0.0
        threading.Thread(target=self._run, daemon=True, name=f"{self.namespace}/{self.name}").start()

    # The life of a pod -------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            network.join(self.netns, self.ip, self.node.site, self._sysctls())
            replace_pod_state(self.state, {"netns": f"/run/netns/{self.netns}", "uid": self.uid})
            while self.object["metadata"].get("deletionTimestamp") is None:
                self._step()
                self._report()
                time.sleep(TICK)
            self._end()
        except Exception as error:  # a thread has nobody above it: say it in the pod's events, then fail aloud
            self.node.event(self.object, "FailedToRun", f"{type(error).__name__}: {error}", warning=True)
            raise
        finally:
            self._clean()

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
        (self.state / f"{c.name}.json").unlink(missing_ok=True)
        self._write_state(c)
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

        return Probe(c.spec[kind], self.ip, ports, lambda: enter(process.pid if process else 0), complain)

    # Starting ----------------------------------------------------------------------------------------------------

    def _start(self, c: Container) -> None:
        image = images.find(c.spec["image"])
        if image is None:
            self._no_image(c)
            return
        context = {**self.object["spec"].get("securityContext", {}), **c.spec.get("securityContext", {})}
        uid = context.get("runAsUser", image.uid)
        env = self._env(c)
        argv = [expand(a, env) for a in (c.spec.get("command") or [*image.entrypoint])]
        argv += [expand(a, env) for a in (c.spec.get("args") or ([] if c.spec.get("command") else image.command))]
        if c.last or c.exited:
            c.restarts += 1
        c.exited = None
        try:
            c.process = processes.start(
                folder=self.folder / c.name / str(c.restarts),
                netns=self.netns,
                hostname=self.object["spec"].get("hostname") or self.name,
                image=image,
                argv=argv,
                env=env,
                cwd=c.spec.get("workingDir") or "/",
                user=(uid, context.get("runAsGroup", uid)),
                mounts=self._mounts(c),
                logs=self.node.logs,
                log=self._log(c, c.restarts),
            )
        except OSError as error:
            c.waiting = ("CreateContainerError", str(error))
            c.not_before = time.monotonic() + BACKOFF
            return
        self.node.event(self.object, "Started", f"Started container {c.name}")
        self._write_state(c, env, uid, context.get("runAsGroup", uid))

    def _no_image(self, c: Container) -> None:
        image = c.spec["image"]
        first = c.waiting[0] != "ErrImagePull"
        text = f'failed to pull and unpack image "{image}": not found: this node has programs for known images only'
        c.waiting = ("ErrImagePull", text) if first else ("ImagePullBackOff", f'Back-off pulling image "{image}"')
        c.not_before = time.monotonic() + BACKOFF
        self.node.event(self.object, "Failed" if first else "BackOff", text if first else c.waiting[1], warning=True)

    def _env(self, c: Container) -> dict[str, str]:
        env = {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOSTNAME": self.name,
            "KUBERNETES_SERVICE_HOST": f"{self.node.site.services}.0.1",
            "KUBERNETES_SERVICE_PORT": "443",
        }
        for source in c.spec.get("envFrom", []):
            kind = "secret" if "secretRef" in source else "configMap"
            data = self.volumes._keys(kind, source[f"{kind}Ref"])  # noqa: SLF001 - the same keys, as variables
            env |= {source.get("prefix", "") + k: v.decode() for k, v in data.items()}
        located = {
            **self.object,
            "status": {**self.object.get("status", {}), "podIP": self.ip, "hostIP": self.node.site.node_ip},
        }
        for entry in c.spec.get("env", []):
            source = entry.get("valueFrom")
            if source is None:
                env[entry["name"]] = expand(entry.get("value", ""), env)
            elif "fieldRef" in source or "resourceFieldRef" in source:
                env[entry["name"]] = str(volumes.field(located, source, c.spec))
            else:
                kind = "secret" if "secretKeyRef" in source else "configMap"
                ref = source[f"{kind}KeyRef"]
                value = self.volumes._keys(kind, ref).get(ref["key"])  # noqa: SLF001 - as above
                if value is not None:
                    env[entry["name"]] = value.decode()
        return env

    def _mounts(self, c: Container) -> dict[str, Path]:
        mounts = {}
        for m in c.spec.get("volumeMounts", []):
            outside = self.volumes.path(m["name"])
            mounts[m["mountPath"]] = outside / m["subPath"] if m.get("subPath") else outside
        self.folder.mkdir(parents=True, exist_ok=True)
        dns = self.node.site.dns_ip
        files = {
            "/etc/resolv.conf": f"search {self.namespace}.svc.cluster.local svc.cluster.local cluster.local\nnameserver {dns}\noptions ndots:5\n",
            "/etc/hosts": f"127.0.0.1 localhost\n{self.ip} {self.name}\n",
            "/etc/hostname": f"{self.name}\n",
        }
        for path, text in files.items():
            outside = self.folder / Path(path).name
            outside.write_text(text)
            mounts.setdefault(path, outside)
        return mounts

    def _log(self, c: Container, restart: int) -> Path:
        return self.log_folder / c.name / f"{restart}.log"

    def _write_state(self, c: Container, env: dict[str, str] | None = None, uid: int = 0, gid: int = 0) -> None:
        """Tell the node's API how to reach the container (its contract is in nodeapi)."""
        previous = str(self._log(c, c.restarts - 1)) if c.restarts else ""
        entry = {
            "pid": c.process.pid if c.process else 0,
            "running": c.process is not None,
            "env": [f"{k}={v}" for k, v in (env or {}).items()],
            "cwd": c.spec.get("workingDir") or "/",
            "uid": uid,
            "gid": gid,
            "log": str(self._log(c, c.restarts)),
            "previousLog": previous,
        }
        self.state.mkdir(parents=True, exist_ok=True)
        replace(self.state / f"{c.name}.json", json.dumps(entry), 0o600)

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
        ended = [c for c in self.main if c.exited and not c.process and not self._restarts(c)]
        finished = len(ended) == len(self.main)
        ready = initialized and not finished and all(c.ready for c in self.main)
        if finished:
            phase = "Failed" if any(c.exited and c.exited["exitCode"] for c in ended) else "Succeeded"
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
        """End gracefully: main containers with preStop, then native sidecars; then let the API server forget the pod."""
        for c in [*self.init, *self.main]:
            for kind, probe in list(c.probes.items()):
                if kind != "readinessProbe":
                    probe.stop()
        reporter = threading.Event()
        threading.Thread(target=self._keep_reporting, args=(reporter,), daemon=True).start()
        grace = time.monotonic() + self._grace()
        self._stop(self.main, grace - time.monotonic())
        for c in reversed([c for c in self.init if c.process]):
            self._stop([c], max(grace - time.monotonic(), 2.0))
        reporter.set()
        for c in [*self.init, *self.main]:
            for probe in c.probes.values():
                probe.stop()
        with contextlib.suppress(Refused):  # somebody else removed it already
            self.node.kube.call("DELETE", self.path, {"gracePeriodSeconds": 0, "preconditions": {"uid": self.uid}})

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
            import subprocess

            with contextlib.suppress(subprocess.TimeoutExpired):
                subprocess.run([*enter(process.pid), *hook["exec"]["command"]], capture_output=True, check=False,
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
        shutil.rmtree(self.state, ignore_errors=True)
        shutil.rmtree(self.folder, ignore_errors=True)


def replace_pod_state(folder: Path, entry: Object) -> None:
    """Write pod.json of the node API's contract."""
    folder.mkdir(parents=True, exist_ok=True)
    replace(folder / "pod.json", json.dumps(entry), 0o600)


def enter(pid: int) -> list[str]:
    """Return the command prefix that enters a container."""
    return ["nsenter", f"--target={pid}", "--mount", "--uts", "--pid", "--net", "--root", "--"]


def expand(text: Any, env: dict[str, str]) -> str:
    """Replace $(NAME) by variables as the kubelet does: unknown ones stay, $$(NAME) is an escape."""
    return re.sub(
        r"\$(\$\([A-Za-z_][\w.-]*\))|\$\(([A-Za-z_][\w.-]*)\)",
        lambda m: m[1] if m[1] else env.get(m[2], m[0]),
        str(text),
    )
