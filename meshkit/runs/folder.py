"""The run folder: written once, hashed, and chained to the run before it."""

from __future__ import annotations

import hashlib
import json
import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from meshkit.errors import ChangeError, InputError

SUMS = "SHA256SUMS"
JOURNAL = "journal.jsonl"
RECORD = "record.json"
SIGNATURE = "signature.json"
"""The signature of the record, a DSSE envelope: it comes after the record, which does not list it."""
TIMESTAMP = "signature.tsr"
"""The time of that signature, as an authority signed it (RFC 3161)."""
APPROVALS = "approvals"
"""The folder of the approvals of a plan, which come after the run: each is a signed file of its own."""
_ALWAYS = ("events.jsonl", "junit.xml", "mesh.yaml", "report.html", "results.json")


class RunFolder:
    """A run folder while it is being written: `OUT/<mesh id>/<UTC time>-<mode>/`."""

    def __init__(self, out: Path, mesh_id: str, mode: str) -> None:
        self.path, self.started = _make(out / mesh_id, mode)
        self.previous = latest(self.path.parent, before=self.path.name)
        self._events = os.open(self.path / "events.jsonl", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)

    def write(self, name: str, content: str | bytes) -> Path:
        """Write a new file.

        Raises:
            ChangeError: it exists already; evidence is never overwritten.
        """
        path = self.path / name
        path.parent.mkdir(exist_ok=True)
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o444)
        except FileExistsError:
            raise ChangeError(f"{name} exists already; evidence is never overwritten", where=self.path.name) from None
        with os.fdopen(handle, "wb") as file:
            file.write(content if isinstance(content, bytes) else content.encode())
        return path

    def event(self, **event: Any) -> None:
        """Append one line to events.jsonl."""
        os.write(self._events, (json.dumps({"time": utc(), **event}) + "\n").encode())

    def files(self) -> dict[str, str]:
        """Return the SHA-256 of every file, by its name in the folder."""
        return {path: sha256(self.path / path) for path in _listing(self.path)}

    def close_events(self) -> None:
        """End events.jsonl, so that its hash can be taken."""
        os.fchmod(self._events, 0o444)
        os.close(self._events)

    def close(self) -> None:
        """Write SHA256SUMS, last and atomically: a folder with this file is complete."""
        lines = "".join(f"{digest}  {name}\n" for name, digest in self.files().items())
        draft = self.write(f".{SUMS}", lines)
        draft.rename(self.path / SUMS)


def utc(moment: datetime | None = None) -> str:
    """Return a moment, or now, as UTC in ISO 8601 with seconds."""
    return (moment or datetime.now(UTC)).strftime("%Y-%m-%dT%H:%M:%SZ")


def beginning(run: Path) -> dict[str, Any]:
    """Return the first event of a run, ended or killed: mesh, mode, stages, journal (of a run that applies).

    Raises:
        InputError: it is not a run folder.
    """
    try:
        with (run / "events.jsonl").open(encoding="utf-8") as events:
            event: dict[str, Any] = json.loads(events.readline())
        if event["event"] != "run started":
            raise ValueError  # noqa: TRY301
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(
            "not a run folder: it has no events.jsonl",
            where=str(run),
            remedy="name a folder such as runs/MESH/TIME-apply",
        ) from None
    return event


def latest(mesh_folder: Path, *, before: str = "~") -> Path | None:
    """Return the newest closed run of a mesh that is older than the one named `before`."""
    runs = sorted(sums.parent for sums in mesh_folder.glob(f"*/{SUMS}") if sums.parent.name < before)
    return runs[-1] if runs else None


def chain(previous: Path | None) -> dict[str, str] | None:
    """Return a record's link to the previous run: its folder's name and its record's SHA-256."""
    return {"run": previous.name, "record_sha256": sha256(previous / RECORD)} if previous else None


def verify(run: Path) -> list[str]:
    """Return the problems of a run folder; an empty list if its evidence is complete and unchanged.

    Every file is listed in SHA256SUMS and in record.json with its hash, nothing was added, removed or withheld, and
    each record has the hash of the previous one, back to the first run of the mesh.

    Raises:
        InputError: there is no such folder.
    """
    if not run.is_dir():
        raise InputError("no such run folder", where=str(run), remedy="name a folder such as runs/MESH/TIME-plan")
    if not (run / SUMS).is_file():
        return [f"no {SUMS}: the run was not finished, or the file was removed"]
    listed = dict(line.split("  ", 1)[::-1] for line in (run / SUMS).read_text().splitlines() if "  " in line)
    there = set(_listing(run)) - {SUMS}
    problems = [f"{name} is missing, though {SUMS} lists it" for name in sorted(listed.keys() - there)]
    problems += [f"{name} is not part of the run: {SUMS} does not list it" for name in sorted(there - listed.keys())]
    kept = sorted(there & listed.keys())
    problems += [
        f"{n} was changed since the run" for n in kept if (run / n).is_symlink() or sha256(run / n) != listed[n]
    ]
    record = record_of(run)
    if record is None:
        return [*problems, f"{RECORD} is missing or not a record of a run"]
    later = (RECORD, SIGNATURE, TIMESTAMP)
    if record["files"] != {name: digest for name, digest in listed.items() if name not in later}:
        problems.append(f"{RECORD} and {SUMS} do not list the same files and hashes")
    withheld = record.get("withheld", [])
    problems += [f"{hit['file']} was withheld: it held a {hit['kind']}" for hit in withheld]
    expected = {*_ALWAYS, *(file for stage in record["stages"] for file in stage.get("files", []))}
    missing = expected - listed.keys() - {hit["file"] for hit in withheld}
    problems += [f"{name} is missing: the evidence is not complete" for name in sorted(missing)]
    return problems + _broken_links(run, record)


def _broken_links(run: Path, record: dict[str, Any]) -> list[str]:
    while link := record["previous"]:
        before = run.parent / link["run"]
        earlier = record_of(before)
        if earlier is None:
            return [f"the chain ends at {run.name}: the run before it, {link['run']}, is missing"]
        if sha256(before / RECORD) != link["record_sha256"]:
            return [f"the chain is broken: the record of {link['run']} was changed after {run.name} followed it"]
        run, record = before, earlier
    return []


def record_of(run: Path) -> dict[str, Any] | None:
    """Return a run's record, or None if it has none that can be read."""
    try:
        record = json.loads((run / RECORD).read_bytes())
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) and {"files", "stages", "previous"} <= record.keys() else None


def _listing(folder: Path) -> list[str]:
    known = (p.relative_to(folder) for p in folder.rglob("*") if not p.is_dir() or p.is_symlink())
    return sorted(path.as_posix() for path in known if path.parts[0] != APPROVALS)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _make(parent: Path, mode: str) -> tuple[Path, datetime]:
    while True:
        now = datetime.now(UTC)
        path = parent / f"{now:%Y%m%dT%H%M%SZ}-{mode}"
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            time.sleep(0.1)  # another run began within this second; the next one is ours
        except OSError as error:
            raise InputError(f"cannot make the run folder: {error.strerror}", where=str(parent)) from None
        else:
            return path, now
