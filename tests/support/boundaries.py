"""A run of meshkit that stops at what its journal notes of a change, is killed there or goes on; and what stands then.

going = Going(state, "run", mesh_file, "--only", "04", "--mode", "apply")
going.stop_when(lambda noted: noted[-1].event == "begun")     # its kernel stands still: nothing more can happen
going.go_on(); time.sleep(0.8)                                # halfway of it
going.kill()                                                  # with -9, all of its family at once
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import psutil
import pytest

from meshkit.changes.journal import Entry, Journal
from meshkit.istio.ca import certificates, istiod_ca, trust_store
from meshkit.kube.mesh import Mesh
from tests.e2e.runs.test_kills import slain

LOOK_EVERY = 0.002
ARRIVES = 300.0
MESH_ID = "mesh1"


@dataclass(frozen=True)
class Noted:
    """A change of a journal: its number, the last that was noted of it, and what it is in a few words."""

    n: int
    event: str
    words: str


def words(change: Mapping[str, Any]) -> str:
    """Return what a change of stage 04 is, in a few words."""
    phase, colon, _ = change["why"].partition(":")
    what = change["object"].rpartition("/")[2]
    return f"{change['cluster']}: {phase if colon and ' ' not in phase else change['action'] + ' ' + what}"


class Going:
    """A run that goes on, with the private store and the run folders in `state`; what it says goes to `said.log`."""

    def __init__(self, state: Path, *argv: str) -> None:
        self.state = state
        self._known = set(_folders(state))
        command = [sys.executable, "-m", "meshkit", *argv, "--out", str(state / "runs")]
        self._log = state / "said.log"
        with self._log.open("ab") as said:
            env = {**os.environ, "XDG_STATE_HOME": str(state)}
            self.process = psutil.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=said, stderr=said)
        self._kernel: psutil.Process | None = None

    @property
    def folder(self) -> Path:
        """The folder of this run."""
        (folder,) = set(_folders(self.state)) - self._known
        return folder

    def said(self) -> str:
        """Return the last lines of what was said."""
        return "\n".join(self._log.read_text().splitlines()[-40:])

    def stop_when(self, wanted: Callable[[list[Noted]], bool]) -> None:
        """Let the kernel stand still as soon as the newest journal notes what is wanted of its changes."""
        deadline, size = time.monotonic() + ARRIVES, -1
        while True:
            assert self.process.poll() is None, f"it ended before that: {self.said()}"
            assert time.monotonic() < deadline, f"not within {ARRIVES:.0f} s: {self.said()}"
            self._kernel = self._kernel or _kernel_of(self.process)
            journal = _journal(self.state)
            if self._kernel and journal and journal.stat().st_size != size:
                text = journal.read_text()
                size = len(text.encode())
                if wanted(_noted(text)):
                    self._kernel.suspend()
                    return
            time.sleep(LOOK_EVERY)

    def go_on(self) -> None:
        """Let the kernel run again."""
        assert self._kernel
        self._kernel.resume()

    def __enter__(self) -> Self:
        """Do nothing: it goes on already."""
        return self

    def __exit__(self, *_: object) -> None:
        """Kill with -9 whatever still runs of it."""
        slain(self.process)

    def end(self, timeout: float = 900) -> int:
        """Wait until it ends; return its exit code."""
        return int(self.process.wait(timeout))


def _folders(state: Path) -> list[Path]:
    return [path.parent for path in (state / "runs").glob("*/*/events.jsonl")]


def _journal(state: Path) -> Path | None:
    return max((state / "meshkit" / "changes" / MESH_ID).glob("*/journal.jsonl"), default=None)


def _noted(text: str) -> list[Noted]:
    found: list[Noted] = []
    for line in text.splitlines(keepends=True):
        event = json.loads(line) if line.endswith("\n") else {}  # half a line is not noted yet
        if event.get("event") == "begun":
            found.append(Noted(event["n"], "begun", words(event)))
        elif "n" in event:
            found[event["n"] - 1] = replace(found[event["n"] - 1], event=event["event"])
    return found


def _kernel_of(process: psutil.Process) -> psutil.Process | None:
    for child in process.children(recursive=True):
        try:
            if any("ipykernel" in word for word in child.cmdline()):
                return child
        except psutil.NoSuchProcess:
            continue
    return None


def entries(state: Path) -> list[Entry]:
    """Return the changes of the only journal that there may be."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(state))
        books = Journal.all_of(MESH_ID)
        assert len(books) <= 1, "a resumed run goes on in the journal of the first"
        return books[0].entries if books else []


@dataclass(frozen=True)
class Trust:
    """What a cluster is expected to trust: one root (its fingerprint), and the Secret that its istiod signs with."""

    root: str
    secret: str


def astray(mesh: Mesh, expected: Mapping[str, Trust]) -> list[str]:
    """Return whatever of a mesh differs from the expected trust: Secrets, istiods, distributed roots, proxies."""
    told = []
    held, signers = trust_store.certificates(mesh), istiod_ca.signers(mesh)
    places, secrets = trust_store.roots(mesh), istiod_ca.authorities(mesh)
    for name, want in expected.items():
        short = want.root[: certificates.SHORT]
        used = secrets[(secrets["cluster"] == name) & secrets["used"]].to_dict("records")
        told += [f"{name}: Secret {r['secret']} hands out {r['roots']}" for r in used if r["roots"] != short]
        told += [f"{name}: Secret {r['secret']} is there" for r in used if r["secret"] != want.secret]
        told += [f"{name}: {r['secret']} ends at {r['root']}" for r in used if r["root"] != want.root]
        own = signers[signers["cluster"] == name].to_dict("records")
        told += [f"{name}: {r['istiod']} signs with {r['signs_with'] or r['reason']}" for r in own
                 if r["signs_with"] != want.secret]  # fmt: skip
        proxies, handed = held.of(name), places.of(name, trust_store.RootSource.CONFIG_MAPS)
        told += [f"{name}: {one.proxy} {one.reason}" for one in held.unread_in(name)]
        told += [f"{name}: {one.proxy} trusts {one.roots}, ends at {one.anchor} {one.reason}" for one in proxies
                 if (one.roots, one.anchor) != ((short,), short)]  # fmt: skip
        told += [f"{name}: {one.holders} of {one.of} namespaces hand out {one.sha256[:16]}" for one in handed
                 if one.sha256 != want.root or one.holders != one.of]  # fmt: skip
        if not (used and own and proxies and handed):
            told.append(f"{name}: nothing to be read")
    return told


def roots_of(mesh: Mesh) -> dict[str, Trust]:
    """Return what each cluster trusts now, by the Secret that its istiod signs with."""
    rows: list[dict[Any, Any]] = istiod_ca.authorities(mesh).to_dict("records")
    return {row["cluster"]: Trust(row["root"], row["secret"]) for row in rows if row["used"]}
