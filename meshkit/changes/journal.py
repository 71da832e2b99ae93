"""The journal: every change, recorded before and after it is made, with the former state of its objects.

Each journal is a folder of the private store, which only the user can read and which is not part of the evidence:

    <state>/meshkit/changes/<mesh id>/<name>/
      journal.jsonl       one line for each event; holds no secret, and is copied into the evidence
      approved.json       of a run that may apply an approved plan only: its changes
      0007.json           the objects of the seventh change before and after it, and its manifests; with Secret data

A change that has begun and not ended was interrupted. To see how far it came, resume and undo read the clusters, not
the journal.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import IO, Any, Self

from filelock import FileLock, Timeout

from meshkit import paths
from meshkit.changes.planned import PlannedChange, documents, parse
from meshkit.display import RECORD, Shown, grid, styled
from meshkit.errors import ChangeError, InputError

LINES = "journal.jsonl"
APPROVED = "approved.json"
BEGUN, DONE, FAILED, UNDONE = "begun", "done", "failed", "undone"


def private_store() -> Path:
    """Return the private store (0700): `$XDG_STATE_HOME/meshkit/changes`, or below ~/.local/state."""
    return _private(paths.state() / "changes")


def private_folder(mesh_id: str) -> Path:
    """Return the private folder of one mesh, created if it does not exist."""
    return _private(private_store() / mesh_id)


def _private(path: Path) -> Path:
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.chmod(0o700)
    except OSError as error:
        raise InputError(
            f"cannot create the private folder: {error.strerror}", where=str(path), remedy="set XDG_STATE_HOME"
        ) from None
    return path


@dataclass
class Entry:
    """One change of a journal. `event` is its latest: begun, done, failed or undone."""

    n: int
    event: str
    stage: str
    cluster: str
    action: str
    object: str
    why: str
    manager: str
    temporary: bool
    begun: str
    digest: str = ""
    """Of its diff, as in `meshkit.changes.planned`; empty in journals of earlier versions."""
    ended: str = ""
    seconds: float = 0.0
    reason: str = ""
    made: bool = False
    """Whether it was done, even if it was undone since."""

    @property
    def stands(self) -> bool:
        """Whether its effect may still be there: it began, and was not undone."""
        return self.event != UNDONE


@dataclass(repr=False)
class Journal(Shown):
    """An open journal. It shows its name, which goes to the record, too, and how many changes of each stage stand."""

    folder: Path
    entries: list[Entry] = field(default_factory=list)
    header: dict[str, Any] = field(default_factory=dict)
    torn: bool = False
    """Whether the last line could not be written completely."""

    @property
    def name(self) -> str:
        """Its name, which `meshkit undo` and `--resume` read from the run's folder."""
        return self.folder.name

    @classmethod
    def open(cls, mesh_id: str, name: str = "", about: Mapping[str, Any] | None = None) -> Self:
        """Open the journal of that name, or create it; without a name, create one named after the time.

        Raises:
            InputError: the name is not a plain file name, or the journal cannot be read.
        """
        name = name or f"{datetime.now(UTC):%Y%m%dT%H%M%S%fZ}"
        require_journal_name(name)
        journal = cls(_private(private_folder(mesh_id) / name))
        if (journal.folder / LINES).exists():
            journal._read()
        else:
            journal._write({"event": "opened", "mesh": mesh_id, **(about or {})})
        return journal

    @classmethod
    def all_of(cls, mesh_id: str) -> list[Self]:
        """Return every journal of a mesh, the newest first."""
        folders = [path.parent for path in private_folder(mesh_id).glob(f"*/{LINES}")]
        return [cls.open(mesh_id, folder.name) for folder in sorted(folders, reverse=True)]

    def about(self, **facts: Any) -> None:
        """Record facts about the journal itself in its header, each once."""
        fresh = {key: value for key, value in facts.items() if self.header.get(key) != value}
        if fresh:
            self._write({"event": "about", **fresh})

    def approve(self, changes: Iterable[PlannedChange]) -> None:
        """Let plans that use this journal apply these changes only."""
        path = self.folder / APPROVED
        with _writing(path), _open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as file:
            json.dump(documents(changes), file)

    def approved(self) -> list[PlannedChange] | None:
        """Return the changes that may be applied, or None where all may."""
        path = self.folder / APPROVED
        return parse(json.loads(path.read_bytes()), where=str(path)) if path.exists() else None

    def begin(self, private: Mapping[str, Any], **facts: Any) -> Entry:
        """Record a change before it is made, with the present state of its objects; returns its entry.

        Args:
            private: what undo needs: `before`, `manifests` and the like, with Secret data.
            facts: stage, cluster, action, object, why, manager, temporary, digest.

        Raises:
            ChangeError: the journal cannot be written; the same holds for `done`, `failed` and `undone`.
        """
        n = len(self.entries) + 1
        self._store(n, private)
        self._write({"event": BEGUN, "n": n, "time": _now(), **facts})
        return self.entries[-1]

    def done(self, entry: Entry, after: Iterable[Mapping[str, Any] | None] = ()) -> None:
        """Record that a change is made and its effect has been waited for."""
        self._store(entry.n, {**self.private(entry), "after": list(after)})
        self._write({"event": DONE, "n": entry.n, "time": _now()})

    def failed(self, entry: Entry, reason: str) -> None:
        """Record that a change failed."""
        self._write({"event": FAILED, "n": entry.n, "time": _now(), "reason": reason})

    def undone(self, entry: Entry, reason: str = "") -> None:
        """Record that a change was undone."""
        self._write({"event": UNDONE, "n": entry.n, "time": _now(), "reason": reason})

    def private(self, entry: Entry) -> dict[str, Any]:
        """Return the private data of a change. It may hold secrets."""
        path = self.folder / f"{entry.n:04}.json"
        try:
            document: dict[str, Any] = json.loads(path.read_bytes())
        except (OSError, ValueError):
            raise ChangeError(
                "the former state, which undo needs, cannot be read",
                where=str(path),
                remedy="undo as the user, and on the machine, that applied: the data is in that private store",
            ) from None
        return document

    def bundle(self) -> dict[str, Any]:
        """Return its name, and a row for each stage; never what the private store holds."""
        standing = sum(entry.stands for entry in self.entries)
        line = f"journal {self.name}: {len(self.entries)} changes, {standing} of them not undone"
        rows = [
            (stage, len(own), sum(entry.stands for entry in own), own[-1].ended or own[-1].begun)
            for stage in dict.fromkeys(entry.stage for entry in self.entries)
            if (own := [entry for entry in self.entries if entry.stage == stage])
        ]
        words, html = grid(("stage", "changes", "not undone", "last"), rows) if rows else ("", "")
        return {
            "text/plain": f"{line}\n{words}".rstrip(),
            "text/html": styled(f"<p>{escape(line)}</p>{html}"),
            RECORD: {"name": "journal", "value": self.name},
        }

    def lines(self) -> str:
        """Return its lines, as the evidence has them."""
        return (self.folder / LINES).read_text(encoding="utf-8", errors="replace")

    def _store(self, n: int, private: Mapping[str, Any]) -> None:
        path = self.folder / f"{n:04}.json"
        draft = path.with_suffix(".part")
        with _writing(path):
            with _open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as file:
                json.dump(private, file)
                file.flush()
                os.fsync(file.fileno())
            draft.rename(path)

    def _write(self, line: Mapping[str, Any]) -> None:
        path, torn, self.torn = self.folder / LINES, self.torn, True
        with _writing(path), _open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND) as file:
            file.write("\n" * torn + json.dumps(line, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.torn = False
        self._record(dict(line))

    def _read(self) -> None:
        if not self.lines().endswith("\n"):  # a writer that was killed left half a line
            path = self.folder / LINES
            with _writing(path), _open(path, os.O_WRONLY | os.O_APPEND) as file:
                file.write("\n")
        for text in self.lines().split("\n"):
            try:
                line = json.loads(text)
            except ValueError:
                continue  # half a line: its change had not begun
            self._record(line)

    def _record(self, line: dict[str, Any]) -> None:
        event = line.pop("event")
        if event in ("opened", "about"):
            self.header.update(line)
            return
        time = line.pop("time")
        if event == BEGUN:
            self.entries.append(Entry(event=event, begun=time, **line))
            return
        entry = self.entries[line["n"] - 1]
        entry.event, entry.ended, entry.reason = event, time, line.get("reason", "")
        if event == DONE:
            entry.made = True
            entry.seconds = (datetime.fromisoformat(time) - datetime.fromisoformat(entry.begun)).total_seconds()


def require_journal_name(name: Any) -> None:
    """Require a name that can be that of a journal's folder.

    Raises:
        InputError: it is a path, hidden, or not a text.
    """
    if not isinstance(name, str) or Path(name).name != name or name.startswith(".") or "\0" in name:
        message = f"expected a journal's name without a slash, got {name!r}"
        raise InputError(message, where="parameter journal", remedy="such as 20260301T120000Z-apply")


@contextlib.contextmanager
def exclusively(names: Iterable[str]) -> Iterator[None]:
    """Hold the locks of clusters (by UID), so that two runs never change the same cluster at once.

    Raises:
        ChangeError: another process holds one of them, or a lock cannot be created.
    """
    folder = _private(private_store() / ".locks")
    with contextlib.ExitStack() as stack:
        for name in sorted(set(names)):
            with _writing(folder / name):
                try:
                    stack.enter_context(FileLock(folder / name, mode=0o600, blocking=False))
                except Timeout:
                    raise ChangeError(
                        "another meshkit process is changing this mesh", remedy="wait for it to end, then run again"
                    ) from None
        yield


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        message = f"the journal cannot be written: {error.strerror}"
        raise ChangeError(message, where=str(path), remedy="free disk space there, then run again") from None


def _open(path: Path, flags: int) -> IO[str]:
    return os.fdopen(os.open(path, flags, 0o600), "w", encoding="utf-8")


def _now() -> str:
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%f}"[:-3] + "Z"
