"""The context of a run in mode apply: its journal, and the users' requests that are followed during the run."""

from __future__ import annotations

import contextlib
import itertools
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path

from meshkit.changes import temporary
from meshkit.changes.journal import UNDONE, Entry, Journal, private_folder
from meshkit.changes.planned import Difference, Key, PlannedChange, compare
from meshkit.errors import CheckFailed
from meshkit.kube.mesh import Mesh
from meshkit.probing.load_log import Follower
from meshkit.runs import traffic_report
from meshkit.spec import MeshSpec
from meshkit.stages import Rollback


class Live:
    """The journal and the load of one run.

    Raises:
        InputError: a context of the mesh file is missing, or the private store cannot be written.
    """

    def __init__(self, spec: MeshSpec, mesh_file: Path) -> None:
        self._mesh = Mesh.open(spec)
        private_folder(spec.mesh.id)
        self._mesh_file = mesh_file.resolve()
        self._follower = Follower(self._mesh)
        self._approved: Sequence[PlannedChange] | None = None
        self.exit_code = 0
        self.name = ""

    def open(self, name: str, fresh: str, approved: Sequence[PlannedChange] | None = None) -> str:
        """Open the journal of a name, or a new one named after `fresh`; follow the load; return the journal's name.

        With `approved` changes, nothing else is applied by what uses this journal.

        Temporary changes that a killed run left are reverted first: no stage passes while a server is scaled down.

        Raises:
            UnreachableError: a cluster with leftovers does not answer.
            ChangeError: a leftover could not be reverted.
        """
        mesh_id = self._mesh.spec.mesh.id
        known = {book.name for book in Journal.all_of(mesh_id)}
        numbered = (f"{fresh}-{n}" if n > 1 else fresh for n in itertools.count(1))
        book = Journal.open(mesh_id, name or next(free for free in numbered if free not in known))
        book.about(mesh_file=str(self._mesh_file))
        if approved is not None:
            book.approve(approved)
        self._approved = approved
        self.name = book.name
        self._follower.start()
        with contextlib.redirect_stdout(sys.stderr):
            temporary.recover(self._mesh, "apply")
        return self.name

    def journal(self) -> str:
        """Return the journal's lines for the evidence, without the path of the mesh file on this machine."""
        lines = Journal.open(self._mesh.spec.mesh.id, self.name).lines().splitlines(keepends=True)
        return "".join(line for line in lines if '"mesh_file"' not in line)

    def differences(self, began: datetime, planned: Iterable[PlannedChange]) -> list[Difference]:
        """Return how what was done differs from the approved plan; without one, from what this run planned.

        A resumed run makes what is left of an approved plan, so that one is held against the whole journal.
        """
        entries = Journal.open(self._mesh.spec.mesh.id, self.name).entries
        if self._approved is not None:
            return compare(self._approved, [_made(entry) for entry in entries if entry.made])
        earlier = [entry for entry in entries if datetime.fromisoformat(entry.begun) < began]
        made = [_made(entry) for entry in entries[len(earlier) :] if entry.made]
        undone = [_undone(entry) for entry in earlier if _was_undone(entry, began)]
        # An undo of stage 04 distributes roots by patches that its next change reverts: no journal has them.
        steps = [one for one in planned if (one.stage, one.action) != (Rollback.name, "patch")]
        return compare(_once(steps), _once([*undone, *made]), [(entry.cluster, entry.object) for entry in earlier])

    def close(self, began: datetime) -> traffic_report.Story:
        """Stop following; return the requests and changes since the run began.

        More failed requests than the mesh file allows (`gates.maxErrorRate`) make the run's exit code 1.
        """
        seen = self._follower.stop()
        sent, failed = seen.totals.get("sent", 0), seen.totals.get("failed", 0)
        if sent and failed / sent > self._mesh.spec.gates.max_error_rate:
            self.exit_code = CheckFailed.exit_code
        entries = Journal.open(self._mesh.spec.mesh.id, self.name).entries
        rows = [
            {
                "time": entry.begun,
                "stage": entry.stage,
                "cluster": entry.cluster,
                "action": entry.action,
                "object": entry.object,
                "status": entry.event,
                "seconds": entry.seconds,
            }
            for entry in entries
            if datetime.fromisoformat(entry.ended or entry.begun) >= began
        ]
        changes = traffic_report.changes(rows)
        firsts = changes.drop_duplicates("stage")
        marks = [(time.to_pydatetime(), stage) for time, stage in zip(firsts["time"], firsts["stage"], strict=True)]
        return traffic_report.Story(seen.requests, seen.failed, seen.totals, changes, marks, seen.retries)


def _made(entry: Entry) -> PlannedChange:
    later = "" if entry.digest else "an earlier version of meshkit did not note the digest of its diff"
    return PlannedChange(entry.stage, entry.cluster, entry.action, entry.object, entry.why, "", entry.digest, later)


def _was_undone(entry: Entry, since: datetime) -> bool:
    return entry.event == UNDONE and not entry.temporary and datetime.fromisoformat(entry.ended) >= since


def _undone(entry: Entry) -> PlannedChange:
    later = "the journal has the former state"
    return PlannedChange(Rollback.name, entry.cluster, f"undo {entry.action}", entry.object, entry.why, "", "", later)


def _once(changes: Iterable[PlannedChange]) -> list[PlannedChange]:
    """Return changes, each undo once: to undo one change may take several steps, and several may be of one object."""
    known: set[Key] = set()
    kept = []
    for one in changes:
        if not one.action.startswith("undo ") or one.key not in known:
            kept.append(one)
        known.add(one.key)
    return kept
