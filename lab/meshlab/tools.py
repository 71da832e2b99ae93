"""istioctl, kubectl and openssl for what makes a mesh in the lab, and how several clusters are made side by side."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import yaml

from meshkit.errors import ChangeError
from meshlab import meshfile
from meshlab.kubeconfig import ACTS_AS
from meshlab.layout import Say, Settings, Site, programs, tool_path
from meshlab.shapes.shape import combined

MANIFESTS = Path(__file__).parent / "manifests"
PATIENCE = 180
Thing = TypeVar("Thing")


def environment(home: Path) -> dict[str, str]:
    """Return the environment of a shell whose kubectl, istioctl and meshkit talk to a lab."""
    path = os.pathsep.join([tool_path(home), str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    return {**os.environ, "PATH": path, "KUBECONFIG": str(home / "kubeconfig")}


class Tools:
    """istioctl, kubectl and openssl against the lab's kubeconfig; and the shape that they are to make."""

    def __init__(self, home: Path) -> None:
        settings = Settings.load(home)
        self.home = home
        self.overlay = str(meshfile.overlay(home, settings))
        self.shape = combined(settings.shapes)

    def run(self, program: str, *argv: str, stdin: str = "") -> str:
        """Run a tool and return what it printed.

        Raises:
            ChangeError: it failed; the message holds the last lines it said.
        """
        env = environment(self.home)
        command = [shutil.which(program, path=env["PATH"]) or program, *argv]
        try:
            done = subprocess.run(
                command, input=stdin, text=True, capture_output=True, env=env, timeout=PATIENCE, check=False
            )
        except subprocess.TimeoutExpired:
            words = f"`{Path(program).name} {' '.join(argv[:4])}` was not done after {PATIENCE} s"
            raise ChangeError(words, where="lab", remedy="look at `kubectl get pods -A` and the lab's logs") from None
        if done.returncode:
            output = " | ".join((done.stderr or done.stdout).strip().splitlines()[-4:])
            raise ChangeError(f"`{Path(program).name} {' '.join(argv[:4])}` failed: {output}", where="lab")
        return done.stdout

    def kubectl(self, site: Site, *argv: str, stdin: str = "") -> str:
        """Run kubectl on a cluster."""
        return self.run("kubectl", "--context", site.context, *argv, stdin=stdin)

    def istioctl(self, site: Site, *argv: str, stdin: str = "") -> str:
        """Run istioctl on a cluster: that of the cluster's release.

        It does not read from a kubeconfig as whom to act: it takes that from its flags only.
        """
        acts = (f"--as={ACTS_AS}", f"--as-group={ACTS_AS}") if self.shape.kubeconfig == "impersonation" else ()
        program = str(programs(self.shape.release(site.name)) / "istioctl")
        return self.run(program, "--context", site.context, *argv, *acts, stdin=stdin)

    def install(self, site: Site, *argv: str, stdin: str = "") -> None:
        """Run `istioctl install` with the lab's overlay, of the shape's revision and of the cluster's release."""
        chosen = {"revision": self.shape.revision, "tag": self.shape.release(site.name)}
        flags = [f"--set={name}={value}" for name, value in chosen.items() if value]
        self.istioctl(site, "install", "-y", "-f", self.overlay, *argv, *flags, stdin=stdin)

    def apply(self, site: Site, manifest: str) -> None:
        """Apply one of the lab's manifests."""
        self.kubectl(site, "apply", "-f", str(MANIFESTS / manifest))

    def apply_all(self, site: Site, objects: Iterable[dict[str, Any]]) -> None:
        """Apply objects."""
        self.kubectl(site, "apply", "-f", "-", stdin=yaml.safe_dump_all(objects))


class Timed:
    """Prints each step with the seconds it took; thread-safe."""

    def __init__(self, say: Say) -> None:
        self.say, self.lock = say, threading.Lock()

    def __call__(self, words: str, step: Callable[[], object]) -> None:
        """Do a step, then say it."""
        begun = time.monotonic()
        step()
        with self.lock:
            self.say(f"{words} ({time.monotonic() - begun:.1f} s)")


def each(things: Iterable[Thing], work: Callable[[Thing], object]) -> None:
    """Do the same work for several things side by side; the first failure is raised."""
    with ThreadPoolExecutor() as pool:
        list(pool.map(work, things))
