"""Temporary changes: reverted newest first at the end of a stage, or later if the run was killed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from meshkit.changes import undo
from meshkit.changes.journal import Entry, Journal, exclusively
from meshkit.errors import InputError, MeshkitError, UnreachableError
from meshkit.kube.cluster import Cluster
from meshkit.kube.mesh import Mesh, Unknown

Made = tuple[Journal, Entry]


def recover(mesh: Mesh, mode: str) -> int:
    """Revert temporary changes that killed runs left, in mode apply; in mode plan only print them.

    This comes before any reading: otherwise the leftovers would be taken for the mesh's normal state.

    Returns:
        The number of leftover changes.

    Raises:
        InputError: another mode than plan or apply.
        UnreachableError: a cluster with leftovers does not answer; those in other clusters were reverted.
        ChangeError: a change could not be reverted.
    """
    if mode not in ("plan", "apply"):
        raise InputError(f"mode: expected plan or apply, got {mode!r}", remedy="say -p mode plan")
    if not (recorded := _recorded(mesh)):
        return 0
    uids = mesh.each(Cluster.uid)
    left = [(book, entry) for book, entry in recorded if uids[entry.cluster] == book.header["clusters"][entry.cluster]]
    for _, entry in left:
        later = "" if mode == "apply" else "; mode apply reverts it first"
        print(f"an earlier run left {entry.cluster}: {entry.action} {entry.object}{later}")
    if left and mode == "apply":
        with exclusively(str(uid) for uid in uids.values() if not isinstance(uid, Unknown)):
            revert(mesh, left)
    for _, entry in recorded:
        if mode == "apply" and isinstance(silent := uids[entry.cluster], Unknown):
            message = f"an earlier run may have left {entry.action} {entry.object}: {silent.reason}"
            raise UnreachableError(message, where=f"cluster {entry.cluster}", remedy="run again when it answers")
    return len(left)


def _recorded(mesh: Mesh) -> list[Made]:
    books = reversed(Journal.all_of(mesh.spec.mesh.id))
    made = ((book, entry) for book in books for entry in book.entries if entry.temporary and entry.stands)
    return [(b, e) for b, e in made if e.cluster in mesh.clusters and e.cluster in b.header.get("clusters", {})]


def revert(mesh: Mesh, made: Sequence[Made]) -> None:
    """Revert changes, newest first. One that fails stays in the journal, and does not keep the others from reverting.

    Raises:
        MeshkitError: the first failure.
    """
    failed: list[MeshkitError] = []
    for book, entry in reversed(made):
        target = mesh.clusters[entry.cluster]
        try:
            if steps := undo.steps(target, entry, book.private(entry)):
                print(f"reverting {entry.cluster}: {entry.action} {entry.object}")
                undo.undo(target, steps)
            book.undone(entry, "it was temporary")
        except MeshkitError as error:
            print(f"not reverted {entry.cluster}: {entry.action} {entry.object}: {error.message}")
            failed.append(error)
    if failed:
        raise failed[0]


def uids(mesh: Mesh) -> Mapping[str, str]:
    """Return the identity of each cluster, the UID of its kube-system.

    Raises:
        UnreachableError: one does not answer.
    """
    found = mesh.each(Cluster.uid)
    for name, uid in found.items():
        if isinstance(uid, Unknown):
            message = f"it does not answer, so nothing was changed: {uid.reason}"
            raise UnreachableError(message, where=f"cluster {name}")
    return {name: str(uid) for name, uid in found.items()}
