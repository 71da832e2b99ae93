"""Temporary changes: taken back newest first, and so is what a killed run left of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from meshkit.changes import undo
from meshkit.changes.journal import Entry, Journal, exclusively
from meshkit.errors import InputError, MeshkitError, UnreachableError
from meshkit.kube.cluster import Cluster
from meshkit.kube.mesh import Mesh, Unknown

Made = tuple[Journal, Entry]


def recover(mesh: Mesh, mode: str) -> int:
    """Take back what killed runs left of temporary changes, in mode apply; else only say what that is.

    It comes before anything is looked at, since what was left would be taken for the mesh's usual state.

    Returns:
        How many changes were left.

    Raises:
        InputError: another mode than plan or apply.
        UnreachableError: something was left in a cluster that does not answer; the others' was taken back.
        ChangeError: something could not be taken back.
    """
    if mode not in ("plan", "apply"):
        raise InputError(f"mode: expected plan or apply, got {mode!r}", remedy="say -p mode plan")
    if not (noted := _noted(mesh)):
        return 0
    uids = mesh.each(Cluster.uid)
    left = [(book, entry) for book, entry in noted if uids[entry.cluster] == book.header["clusters"][entry.cluster]]
    for _, entry in left:
        later = "" if mode == "apply" else "; mode apply takes it back first"
        print(f"an earlier run left {entry.cluster}: {entry.action} {entry.object}{later}")
    if left and mode == "apply":
        with exclusively(str(uid) for uid in uids.values() if not isinstance(uid, Unknown)):
            take_back(mesh, left)
    for _, entry in noted:
        if mode == "apply" and isinstance(dead := uids[entry.cluster], Unknown):
            told = f"an earlier run may have left {entry.action} {entry.object}: {dead.reason}"
            raise UnreachableError(told, where=f"cluster {entry.cluster}", remedy="run again when it answers")
    return len(left)


def _noted(mesh: Mesh) -> list[Made]:
    books = reversed(Journal.all_of(mesh.spec.mesh.id))
    made = ((book, entry) for book in books for entry in book.entries if entry.temporary and entry.stands)
    return [(b, e) for b, e in made if e.cluster in mesh.clusters and e.cluster in b.header.get("clusters", {})]


def take_back(mesh: Mesh, made: Sequence[Made]) -> None:
    """Take changes back, newest first; what fails stays in the journal, and the others are taken back all the same.

    Raises:
        MeshkitError: the first failure.
    """
    failed: list[MeshkitError] = []
    for book, entry in reversed(made):
        target = mesh.clusters[entry.cluster]
        try:
            if steps := undo.steps(target, entry, book.private(entry)):
                print(f"takes back {entry.cluster}: {entry.action} {entry.object}")
                undo.undo(target, steps)
            book.undone(entry, "it was temporary")
        except MeshkitError as error:
            print(f"still there {entry.cluster}: {entry.action} {entry.object}: {error.message}")
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
            told = f"it does not answer, so nothing was changed: {uid.reason}"
            raise UnreachableError(told, where=f"cluster {name}")
    return {name: str(uid) for name, uid in found.items()}
