"""Break the running lab by a fault's name, heal it, and list what is broken now."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pandas as pd
import urllib3

from meshkit.errors import ChangeError, InputError, UnreachableError
from meshkit.tables import Table, View, text
from meshlab import lifecycle
from meshlab.container import now
from meshlab.faults import health
from meshlab.faults.bench import Bench, Note, notes
from meshlab.faults.catalogue import KNOWN, find, of_shapes
from meshlab.faults.fault import Fault
from meshlab.kube import Refused
from meshlab.layout import Say, Settings, folder

COLUMNS = ["name", "breaks", "behind", "users", "finding", "shape", "broken"]
UNTOLD = "untold"
SPEAKS_AFTER = 5.0


FAULTS: Final = Table(
    "faults",
    "What may be broken",
    {name: text() for name in COLUMNS},
    show=("name", "breaks", "users", "finding", "shape"),
)


def faults() -> View:
    """Return what a cell shows of the faults: see `table`."""
    return FAULTS.view(table())


def table() -> pd.DataFrame:
    """Return every fault that the lab that is there can have; where there is none, every fault.

    Columns: name, breaks (what, in a sentence), behind (pains P and facts F of Istio), users (what they see), finding
    (id of the check that names it first), shape (of the only labs that can have it; empty: any), broken (the cluster
    where it is now, since when; empty where it is not; `untold`, so hidden, for all of them during a training round).
    """
    now_broken = dict.fromkeys(KNOWN, UNTOLD) if in_training(folder()) else broken(folder())
    rows = [
        [f.name, f.breaks, f.behind, f.users, f.finding, f.shape, now_broken.get(f.name, "")]
        for f in offered(folder()).values()
    ]
    return pd.DataFrame(rows, columns=COLUMNS).astype("str")


def offered(home: Path) -> dict[str, Fault]:
    """Return the faults that the lab of a folder can have; all of them where there is none."""
    there = (home / "settings.json").exists()
    return of_shapes(Settings.load(home).shapes) if there else KNOWN


def broken(home: Path) -> dict[str, str]:
    """Return which faults are in the lab now, each with its cluster and since when; the latest comes first."""
    latest = sorted(notes(home).items(), key=lambda item: item[1]["since"], reverse=True)
    return {name: f"{note['cluster']}, since {note['since']}" for name, note in latest}


def in_training(home: Path) -> bool:
    """Return whether the lab is broken for a training round, so that the fault stays hidden."""
    return any(note.get("untold") for note in notes(home).values())


def refuse_in_training(home: Path) -> None:
    """Refuse during a training round, since a refused name would reveal what is broken.

    Raises:
        InputError: a round is open.
    """
    if in_training(home):
        raise InputError("a training round is open, and what is broken stays hidden", where="meshkit lab",
                         remedy="`meshkit lab drill answer NAME` or `give-up` ends it")  # fmt: skip


def break_(name: str, cluster: str, say: Say, *, hidden: bool = False) -> None:
    """Break the running lab by a fault; one that fails halfway is reverted.

    Args:
        name: of the fault.
        cluster: that breaks.
        say: gets progress messages.
        hidden: keep secret what is broken.

    Raises:
        InputError: there is no such fault, or none of this lab's shape, it is broken already, a training round is open,
            or no such cluster.
        UnreachableError: no lab runs.
        ChangeError: the lab is not a healthy mesh, or a step failed.
    """
    chosen, home = find(name), running()
    refuse_in_training(home)
    if name not in offered(home):
        raise InputError(f"{name} is a fault of the shape {chosen.shape}, and this lab is of another",
                         where="meshkit lab break",
                         remedy=f"`meshkit lab up --start meshed --shape {chosen.shape}`")  # fmt: skip
    note = Note(home, name)
    bench = Bench(home, note, cluster)
    note.begin(cluster, now(), hidden=hidden)
    with plainly(), patiently(say, "breaking the mesh"):
        try:
            chosen.make(bench)
        except BaseException:
            bench.revert()
            note.end()
            raise
    if not hidden:
        say(f"{cluster}: {chosen.breaks}; heal it: `meshkit lab heal {name}`")


def heal(names: list[str], say: Say) -> None:
    """Heal faults, and wait until the mesh is healthy.

    Raises:
        InputError: there is no such fault, or it is not broken.
        UnreachableError: no lab runs.
        ChangeError: a step failed, or the mesh does not become healthy.
    """
    home = running()
    for name in names:
        find(name)
        note = Note(home, name)
        if not note.path.exists():
            raise InputError(f"{name} is not broken", where="meshkit lab heal",
                             remedy="`meshkit lab faults` shows what is")  # fmt: skip
        with plainly(), patiently(say, f"healing {name}"):
            Bench(home, note, note.read()["cluster"]).revert()
        note.end()
        say(f"{name} is healed")
    if names and not broken(home):
        await_healthy(home, say)


def await_healthy(home: Path, say: Say) -> None:
    """Wait until the mesh is healthy.

    Raises:
        ChangeError: it does not become healthy.
    """
    with patiently(say, "waiting for the mesh to be healthy"):
        took = health.wait(home)
    say(f"the mesh is healthy after {took:.1f} s")


@contextlib.contextmanager
def patiently(say: Say, doing: str) -> Iterator[None]:
    """Print every five seconds what is being done, and for how long."""
    begun, done = time.monotonic(), threading.Event()

    def speak() -> None:
        while not done.wait(SPEAKS_AFTER):
            say(f"{doing} for {time.monotonic() - begun:.0f} s …")

    speaker = threading.Thread(target=speak, daemon=True)
    speaker.start()
    try:
        yield
    finally:
        done.set()
        speaker.join()


@contextlib.contextmanager
def plainly() -> Iterator[None]:
    """Turn errors of an API server into ours, without its message, which may quote Secrets.

    Raises:
        ChangeError: it refused a step.
        UnreachableError: it did not answer.
    """
    again = "`meshkit lab heal --all` reverts the recorded steps"
    try:
        yield
    except Refused as error:
        raise ChangeError(f"an API server refused a step with {error.status}", where="lab", remedy=again) from None
    except urllib3.exceptions.HTTPError as error:
        raise UnreachableError(f"an API server did not answer ({type(error).__name__})", where="lab",
                               remedy=again) from None  # fmt: skip


def running() -> Path:
    """Return the folder of the lab that runs.

    Raises:
        UnreachableError: none does.
    """
    home = folder()
    if lifecycle.keeper(home) is None:
        raise UnreachableError("no lab runs", where=str(home), remedy="start one: `meshkit lab up --start meshed`")
    return home
