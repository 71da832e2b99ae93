"""What the lab's tests share: a running lab with its tools, a namespace to work in, and waiting for facts."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
from meshlab import lifecycle, meshfile, scenarios
from meshlab import status as meshlab_status
from meshlab.faults import drills
from meshlab.layout import Settings, tool_path

Object = dict[str, Any]
Fact = TypeVar("Fact")
CURL = "curlimages/curl:8.16.0"
HTTPBIN = "mccutchen/go-httpbin:2.26.0"


@contextlib.contextmanager
def in_folder(home: Path) -> Iterator[None]:
    """Make `home` the folder of the lab that meshlab speaks of."""
    before = os.environ.get("MESHKIT_LAB_DIR")
    os.environ["MESHKIT_LAB_DIR"] = str(home)
    try:
        yield
    finally:
        if before is None:
            del os.environ["MESHKIT_LAB_DIR"]
        else:
            os.environ["MESHKIT_LAB_DIR"] = before


def until(ask: Callable[[], Fact | None], what: str, seconds: float = 30.0) -> Fact:
    """Ask until the answer is true, and return it; fail with `what` and the last answer when time is up."""
    deadline = time.monotonic() + seconds
    while True:
        answer = ask()
        if answer:
            return answer
        assert time.monotonic() < deadline, f"after {seconds:.0f} s still not: {what}; last seen: {answer!r}"
        time.sleep(0.1)


@dataclass(frozen=True)
class Lab:
    """A running lab: its folder, and Istio's and Kubernetes's own tools on it."""

    home: Path

    @property
    def kubeconfig(self) -> Path:
        """The kubeconfig of contexts lab-east, lab-west."""
        return self.home / "kubeconfig"

    @property
    def mesh_file(self) -> Path:
        """The mesh file of this lab, with the clusters that it has."""
        return meshfile.write(self.home, Settings.load(self.home))

    def command(self, program: str, *argv: str) -> tuple[list[str], dict[str, str]]:
        """Return the command line and the environment of a tool on this lab."""
        path = os.pathsep.join([tool_path(self.home), str(Path(sys.executable).parent), os.environ["PATH"]])
        found = shutil.which(program, path=path)
        assert found, f"{program} is not installed"
        return [found, *argv], {**os.environ, "KUBECONFIG": str(self.kubeconfig)}

    def tool(self, program: str, *argv: str, stdin: str = "", timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """Run a tool and return what it printed and its exit code."""
        command, env = self.command(program, *argv)
        return subprocess.run(
            command, input=stdin, text=True, capture_output=True, env=env, timeout=timeout, check=False
        )

    def must(self, program: str, *argv: str, stdin: str = "") -> str:
        """Run a tool that must succeed, and return what it printed."""
        done = self.tool(program, *argv, stdin=stdin)
        assert done.returncode == 0, f"{program} {' '.join(argv)}: {done.stderr or done.stdout}"
        return done.stdout

    def kubectl(self, context: str, *argv: str, stdin: str = "") -> str:
        """Run kubectl on a context; it must succeed."""
        return self.must("kubectl", "--context", context, *argv, stdin=stdin)

    def istioctl(self, context: str, *argv: str, stdin: str = "") -> str:
        """Run istioctl on a context; it must succeed."""
        return self.must("istioctl", "--context", context, *argv, stdin=stdin)

    def start(
        self,
        scenario: str,
        clusters: int = 2,
        rtt_ms: int = 40,
        *,
        flat: bool = False,
        live_roots: bool = False,
        shapes: Sequence[str] = (),
    ) -> float:
        """Start the lab and bring it to a scenario; returns the seconds that the bare clusters took."""
        with in_folder(self.home):
            begun = time.monotonic()
            settings = lifecycle.start(clusters, rtt_ms, flat, print, live_roots=live_roots, shapes=shapes)
            took = time.monotonic() - begun
            scenarios.make(scenario, self.home, settings, print)
        return took

    def stop(self) -> None:
        """End the lab; one that does not run is no error."""
        with in_folder(self.home):
            lifecycle.stop(print)

    def status(self) -> pd.DataFrame:
        """Return the lab's daemons and containers as `meshkit lab status` shows them."""
        with in_folder(self.home):
            return meshlab_status.table()


@contextlib.contextmanager
def started(home: Path, scenario: str, *, shapes: Sequence[str] = ()) -> Iterator[Lab]:
    """Start a lab of two clusters in a folder, and end it."""
    lab = Lab(home)
    try:
        lab.start(scenario, shapes=shapes)
        yield lab
    finally:
        lab.stop()


@contextlib.contextmanager
def broken(lab: Lab, name: str, cluster: str = "west") -> Iterator[None]:
    """Break a lab by a fault, and heal it where that was not done meanwhile."""
    with in_folder(lab.home):
        drills.break_(name, cluster, print)
    try:
        yield
    finally:
        with in_folder(lab.home):
            drills.heal([each for each in drills.broken(lab.home) if each == name], print)


@dataclass(frozen=True)
class Space:
    """A namespace of one cluster, for one test."""

    lab: Lab
    context: str
    name: str

    def kubectl(self, *argv: str, stdin: str = "") -> str:
        """Run kubectl in the namespace; it must succeed."""
        return self.lab.kubectl(self.context, "-n", self.name, *argv, stdin=stdin)

    def try_kubectl(self, *argv: str, stdin: str = "", timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """Run kubectl in the namespace, and return whatever comes of it."""
        return self.lab.tool("kubectl", "--context", self.context, "-n", self.name, *argv, stdin=stdin, timeout=timeout)

    def apply(self, *objects: Object) -> None:
        """Apply objects."""
        self.kubectl("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))

    def get(self, kind: str, *argv: str) -> Object:
        """Return an object, or a list of them, as kubectl has it; nothing where it does not exist."""
        text = self.kubectl("get", kind, *argv, "-o", "json", "--ignore-not-found")
        return json.loads(text) if text else {}

    def items(self, kind: str, *argv: str) -> list[Object]:
        """Return all objects of a kind, as far as flags choose them."""
        return list(self.get(kind, *argv).get("items", []))

    def pod(self, name: str, *containers: Object, **spec: Any) -> None:
        """Create a pod; a container without a name is called `main`, one without an image gets curl's."""
        given = [{"name": "main", "image": CURL, **c} for c in containers]
        soon = {"terminationGracePeriodSeconds": 1}
        body = {"metadata": {"name": name, "labels": {"app": name}}, "spec": {**soon, **spec, "containers": given}}
        self.apply({"apiVersion": "v1", "kind": "Pod", **body})

    def deployment(self, name: str, *containers: Object, replicas: int = 1, **spec: Any) -> None:
        """Create a Deployment with the label app."""
        given = [{"name": "main", "image": CURL, **c} for c in containers]
        labels = {"app": name}
        template = {
            "metadata": {"labels": labels},
            "spec": {"terminationGracePeriodSeconds": 2, **spec, "containers": given},
        }
        body = {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template}
        self.apply({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": body})

    def service(self, name: str, port: int = 80, target: int = 8080, app: str = "", **spec: Any) -> None:
        """Create a Service for the pods of an app (its own name by default)."""
        body = {"selector": {"app": app or name}, "ports": [{"port": port, "targetPort": target}], **spec}
        self.apply({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": body})

    def state(self, pod: str, container: str = "main") -> Object:
        """Return the containerStatus of a pod's container, main or init."""
        status = self.get("pod", pod).get("status", {})
        all_of_them = [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]
        return next((c for c in all_of_them if c["name"] == container), {})

    def waiting(self, pod: str, container: str = "main") -> str:
        """Return why a container waits, or nothing."""
        return str(self.state(pod, container).get("state", {}).get("waiting", {}).get("reason", ""))

    def ready(self, what: str, seconds: int = 40) -> None:
        """Wait until `pod/NAME` is Ready or `deployment/NAME` is rolled out."""
        if what.startswith("pod/"):
            self.kubectl("wait", what, "--for=condition=Ready", f"--timeout={seconds}s")
        else:
            self.kubectl("rollout", "status", what, f"--timeout={seconds}s")

    def phase(self, pod: str) -> str:
        """Return a pod's phase."""
        return str(self.get("pod", pod).get("status", {}).get("phase", ""))

    def event(self, pod: str, reason: str) -> str:
        """Return the message of a pod's latest event of a reason, or nothing."""
        chosen = f"involvedObject.name={pod},reason={reason}"
        items = self.items("events", f"--field-selector={chosen}")
        return str(items[-1]["message"]) if items else ""

    def ask(self, client: str, url: str, *flags: str) -> subprocess.CompletedProcess[str]:
        """Call a URL from a pod with curl, within five seconds."""
        return self.try_kubectl("exec", client, "--", "curl", "-sS", "-m", "5", *flags, url)


def space(lab: Lab, context: str) -> Iterator[Space]:
    """Make a namespace for one test, and let it go afterwards."""
    made = Space(lab, context, f"t-{uuid.uuid4().hex[:8]}")
    lab.kubectl(context, "create", "namespace", made.name)
    yield made
    lab.kubectl(context, "delete", "namespace", made.name, "--wait=false")


def sleeper(**more: Any) -> Object:
    """Return a container that waits, and ends at once on SIGTERM."""
    return {"command": ["/bin/sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.1; done"], **more}


def shell(script: str, **more: Any) -> Object:
    """Return a container that runs a script."""
    return {"command": ["/bin/sh", "-c", script], **more}


def httpbin(**more: Any) -> Object:
    """Return a container that serves httpbin on port 8080, ready by its own probe."""
    probe = {"httpGet": {"path": "/status/200", "port": 8080}, "periodSeconds": 1}
    env = [{"name": "USE_REAL_HOSTNAME", "value": "true"}]
    return {"image": HTTPBIN, "ports": [{"containerPort": 8080}], "readinessProbe": probe, "env": env, **more}
