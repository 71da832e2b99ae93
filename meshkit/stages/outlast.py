"""What outlasts the undo of a run: the credentials by which clusters are read after it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from meshkit import restore
from meshkit.istio import accounts, remotes
from meshkit.stages import discovery

if TYPE_CHECKING:
    from collections.abc import Collection

    from meshkit.journal import Entry, Journal
    from meshkit.mesh import Mesh


def is_final(mesh: Mesh, book: Journal, entry: Entry) -> bool:
    """Tell whether a change cannot be taken back: it replaced or removed a credential that ends."""
    if entry.stage != discovery.STAGE or entry.action in restore.PATCHED:
        return False
    found = (before for before in book.private(entry)["before"] if before)
    return any(remotes.replaced(before, restore.find(mesh.clusters[entry.cluster], before)) for before in found)


def needed(mesh: Mesh, book: Journal, kept: Collection[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """Return the credentials which a journal made and by which clusters are read after its undo: (cluster, object).

    And who reads by them. Others hold a remote secret that the undo leaves as it is; `kept` ones are left, too.
    """
    made = {(entry.cluster, entry.object) for entry in book.entries if entry.stands and _is_token(book, entry)}
    found: dict[tuple[str, str], list[str]] = {}
    for row in remotes.remote_secrets(mesh).to_dict("records") if made else ():
        if row["credential"] == "UNKNOWN":
            return dict.fromkeys(made, f"whether {row['cluster']} reads by it is not known: {row['detail']}")
        token = (row["leads_to"] or row["key"], f"Secret {mesh.root_namespace}/{row['token_secret']}")
        if token in made and not _given_up(mesh, book, kept, row):
            found.setdefault(token, []).append(row["cluster"])
    return {token: f"it is read by {', '.join(sorted(set(readers)))} with this" for token, readers in found.items()}


def _is_token(book: Journal, entry: Entry) -> bool:
    if entry.stage != discovery.STAGE:
        return False
    kinds = {manifest.get("type") for manifest in book.private(entry)["manifests"]}
    return entry.action == "create" and bool(kinds & {accounts.TOKEN_TYPE, accounts.EXPIRING_TYPE})


def _given_up(mesh: Mesh, book: Journal, kept: Collection[tuple[str, str]], row: dict[Any, Any]) -> bool:
    """Tell whether the undo takes a remote secret away, or gives it another credential."""
    subject = (row["cluster"], f"Secret {row['namespace']}/{row['name']}")
    for entry in book.entries:
        if not entry.stands or (entry.cluster, entry.object) != subject or entry.action in restore.PATCHED:
            continue
        (manifest,), (before,) = (book.private(entry)[key] for key in ("manifests", "before"))
        live = restore.find(mesh.clusters[row["cluster"]], manifest)
        other = before and remotes.stands_on(before) != remotes.stands_on(live or {})
        if (subject not in kept) if before is None else (other and not remotes.replaced(before, live)):
            return True
    return False
