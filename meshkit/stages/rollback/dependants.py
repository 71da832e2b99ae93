"""What an undo of a run must not break: credentials in use, CAs in use, and later runs."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from datetime import datetime
from typing import Any, Final

from meshkit.changes import undo
from meshkit.changes.journal import Entry, Journal
from meshkit.checks.finding import Finding, Verdict
from meshkit.checks.question import Question
from meshkit.errors import ChangeError
from meshkit.istio.ca import model
from meshkit.istio.multicluster import reader_tokens, remote_secrets
from meshkit.istio.multicluster.remote_secrets import RemoteSecret
from meshkit.kube.manifests import identify
from meshkit.kube.mesh import Mesh
from meshkit.stages.discovery import facts as discovery_facts

TRUST: Final = "04 trust"
"""`meshkit.stages.trust.stage.STAGE`, which imports this module."""


def is_final(mesh: Mesh, book: Journal, entry: Entry) -> bool:
    """Tell whether a change cannot be reverted: it replaced or removed a credential that expires."""
    if entry.stage != discovery_facts.STAGE or entry.action in undo.PATCHED:
        return False
    found = (before for before in book.private(entry)["before"] if before)
    return any(remote_secrets.replaced(before, undo.find(mesh.clusters[entry.cluster], before)) for before in found)


def needed(mesh: Mesh, book: Journal, kept: Collection[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """Return the credentials of a journal that istiods still use after its undo: (cluster, object).

    And who reads by them. Others hold a remote secret that the undo leaves as it is; `kept` ones are left, too.
    """
    made = {(entry.cluster, entry.object) for entry in book.entries if entry.stands and _is_token(book, entry)}
    found: dict[tuple[str, str], list[str]] = {}
    secrets = remote_secrets.remote_secrets(mesh) if made else remote_secrets.secret_reading()
    for one in secrets.unread:
        return dict.fromkeys(made, f"whether {one.cluster} reads by it is not known: {one.reason}")
    for secret in secrets:
        token = (secret.leads_to or secret.key, f"Secret {mesh.root_namespace}/{secret.token_secret}")
        if token in made and not _given_up(mesh, book, kept, secret):
            found.setdefault(token, []).append(secret.cluster)
    return {token: f"it is read by {', '.join(sorted(set(readers)))} with this" for token, readers in found.items()}


def authorities(mesh: Mesh, book: Journal) -> dict[tuple[str, str], str]:
    """Return the Secrets `cacerts` of a journal with which a control plane signs that was installed after them.

    By (cluster, object), with the reason. Before the run there was no CA to go back to, and none is missed: the cluster
    had no istiod. One that Helm, say, installed since has found the Secret when it started; without it, its next start
    would make a new root, which no proxy trusts. A control plane of the run itself goes with its Secret.
    """
    found: dict[tuple[str, str], str] = {}
    for entry in book.entries:
        if not entry.stands or entry.stage != TRUST or entry.action in (*undo.PATCHED, "restart"):
            continue
        private = book.private(entry)
        names = {manifest["metadata"]["name"] for manifest in private["manifests"]}
        if model.SECRET not in names or any(private["before"]) or undo.installed_control_plane(book, entry.cluster):
            continue
        istiods = mesh.clusters[entry.cluster].get("deployments.v1.apps", mesh.root_namespace, labels="app=istiod")
        ages = [_moment(istiod["metadata"]["creationTimestamp"]) for istiod in istiods if not _ends(istiod)]
        if ages and min(ages) > _moment(entry.begun):
            what = f"Secret {mesh.root_namespace}/{model.SECRET}"
            found[entry.cluster, what] = f"its istiod came after it ({min(ages):%Y-%m-%d %H:%M}) and signs with it"
    return found


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _ends(obj: dict[str, Any]) -> bool:
    return "deletionTimestamp" in obj["metadata"]


def _is_token(book: Journal, entry: Entry) -> bool:
    if entry.stage != discovery_facts.STAGE:
        return False
    kinds = {manifest.get("type") for manifest in book.private(entry)["manifests"]}
    return entry.action == "create" and bool(kinds & {reader_tokens.TOKEN_TYPE, reader_tokens.EXPIRING_TYPE})


def _given_up(mesh: Mesh, book: Journal, kept: Collection[tuple[str, str]], secret: RemoteSecret) -> bool:
    """Tell whether the undo removes a remote secret, or gives it another credential."""
    subject = (secret.cluster, f"Secret {secret.place}")
    for entry in book.entries:
        if not entry.stands or (entry.cluster, entry.object) != subject or entry.action in undo.PATCHED:
            continue
        (manifest,), (before,) = (book.private(entry)[key] for key in ("manifests", "before"))
        live = undo.find(mesh.clusters[secret.cluster], manifest)
        other = before and remote_secrets.stands_on(before) != remote_secrets.stands_on(live or {})
        if (subject not in kept) if before is None else (other and not remote_secrets.replaced(before, live)):
            return True
    return False


def check_later(mesh: Mesh, book: Journal) -> Finding:
    """MK1208: no later run changed the same objects since, or reads clusters by this run's credentials.

    What stood before a later change is what this run had made: the undo of that one would bring it back.
    """
    ask = Question("MK1208", "no later run depends on this one", "mesh", "the newest run is undone first")
    mine = _left(book)
    if not mine:
        return ask.answer(Verdict.PASS, "nothing of it is left")
    begun, places = min(entry.begun for entry in mine), {entry.cluster for entry in mine}
    remedy = "undo them first: `meshkit undo RUN`, the newest first"
    beside = []
    try:
        last = {what: entry.begun for entry in mine for what in _touched(book, entry)}
        for other in Journal.all_of(mesh.spec.mesh.id):
            since = [entry for entry in _left(other) if entry.begun > begun] if other.name != book.name else []
            for entry in since:
                met = [what for what in _touched(other, entry) if what in last and entry.begun > last[what]]
                if met:
                    return ask.fail(f"{other.name}: {met[0][0]}: {met[0][1]}", remedy)
            beside += [other.name] if places & {entry.cluster for entry in since} else []
    except ChangeError as error:
        return ask.unknown(f"{error.message}: {error.where}", error.remedy)
    observed = f"{', '.join(beside)}: other objects of the same clusters" if beside else "none"
    return ask.judge(not beside, observed, f"if they need what this one made, {remedy}", otherwise=Verdict.WARN)


def _left(book: Journal) -> Sequence[Entry]:
    """Return the changes that an undo would revert; restarts leave nothing."""
    return [e for e in book.entries if e.stands and not e.temporary and e.action != "restart"]


def _touched(book: Journal, entry: Entry) -> Iterator[tuple[str, str]]:
    """Yield the objects of a change, with their clusters, and the credentials in a remote secret."""
    for manifest in book.private(entry)["manifests"]:
        yield entry.cluster, identify(manifest)
        if manifest["metadata"]["name"].startswith(remote_secrets.PREFIX):
            for target, (secret, _) in remote_secrets.stands_on(manifest).items():
                yield target, f"Secret {manifest['metadata']['namespace']}/{secret}"
