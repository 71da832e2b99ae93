"""Stage 03: all Istio objects of each cluster, as files for `kubectl apply`, and proof that they can be restored.

No cluster is changed: the restore drill compares and lets the API servers try each object in dry runs. Secrets leave
the clusters only into the private folder (mode 0700) outside of the evidence.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final

import pandas as pd

from meshkit import parameters
from meshkit.changes import journal
from meshkit.checks.finding import Finding, Verdict, holding
from meshkit.checks.question import Question
from meshkit.display import Record, Shown, Text
from meshkit.errors import ChangeError, MeshkitError, UnreachableError
from meshkit.istio.control_plane import istio_objects
from meshkit.istio.control_plane.istio_objects import Found, Item, Key, Manifest
from meshkit.kube.cluster import Cluster
from meshkit.kube.mesh import Mesh, Unknown, gather
from meshkit.notebook import tables
from meshkit.spec import MeshSpec
from meshkit.stages.backup import archive
from meshkit.stages.backup.archive import Archive
from meshkit.stages.stage import Shows, Stage
from meshkit.tables import Table, integer, text

STAGE = "03 backup"
DEADLINE = 120.0
BACKUP: Final = Table(
    "backup",
    "What is Istio's in each cluster, and the file that it goes into",
    {
        "cluster": text("its cluster"),
        "file": text("of the archive"),
        "kind": text("of the objects"),
        "objects": integer("how many"),
        "bytes": integer("of all of them as YAML", "bytes"),
        "reason": text("why a cluster has nothing to archive"),
    },
    key=("cluster", "kind"),
)
BACKUP_SECRETS: Final = Table(
    "backup-secrets",
    "Secrets that matter, by name",
    {
        "cluster": text("its cluster"),
        "namespace": text("its namespace"),
        "name": text("of the Secret"),
        "type": text("of the Secret"),
        "role": text("what Istio uses it for"),
    },
    key=("cluster", "namespace", "name"),
)
ARCHIVE: Final = Table(
    "archive",
    "The archive, file by file",
    {
        "cluster": text("its cluster"),
        "file": text("its path in the archive"),
        "objects": integer("how many"),
        "bytes": integer("its size", "bytes"),
        "sha256": text("of the file"),
    },
    key=("cluster", "file"),
)
NO_ISTIO = "no Istio: nothing to back up"
_SHOWN = 3


@dataclass(frozen=True)
class BackupFacts:
    """What was looked at.

    `inventory` has a row for each cluster and kind: cluster, file (of the archive), kind, objects, bytes, and a reason
    where there is nothing to show. `secrets` names Secrets, and never has their content: cluster, namespace, name,
    type, role. `found` has the objects themselves, or why a cluster could not be read.
    """

    inventory: pd.DataFrame
    secrets: pd.DataFrame
    read: str
    found: dict[str, Found | Unknown] = field(repr=False)
    uids: dict[str, str | Unknown] = field(repr=False)


def look(mesh: Mesh) -> BackupFacts:
    """Read all that is Istio's or the Gateway API's in every cluster, and the labels of its namespaces."""
    read = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    uids = mesh.each(lambda cluster: cluster.uid())
    found = mesh.each(partial(istio_objects.collect, root_namespace=mesh.root_namespace), deadline=DEADLINE)
    held = {name: answer.items for name, answer in found.items() if isinstance(answer, Found) and not answer.empty}
    rows: list[dict[str, object]] = [
        {"cluster": name, "reason": _why(found[name])} for name in found if name not in held
    ]
    for name, items in held.items():
        sizes: dict[tuple[str, str], list[int]] = {}
        for item in items:
            sizes.setdefault((archive.FILES[item.part], item.key.kind), []).append(item.size)
        for (file, kind), several in sizes.items():
            row = {"cluster": name, "file": file, "kind": kind, "objects": len(several), "bytes": sum(several)}
            rows.append(row)
    secrets = [_secret(name, item) for name, items in held.items() for item in items if item.part == "secrets"]
    return BackupFacts(BACKUP.frame(rows), BACKUP_SECRETS.frame(secrets), read, found, uids)


def _why(answer: Found | Unknown) -> str:
    return f"UNKNOWN: {answer.reason}" if isinstance(answer, Unknown) else NO_ISTIO


def _secret(cluster: str, item: Item) -> dict[str, str]:
    role = istio_objects.secret_role(item.manifest) or "named as a credential"
    about = {"namespace": item.key.namespace, "name": item.key.name, "type": item.manifest.get("type", "")}
    return {"cluster": cluster, **about, "role": role}


def latest(mesh: Mesh) -> Archive | None:
    """Return the newest archive of this mesh on this machine, if there is one."""
    return archive.latest(_folder(mesh))


def _folder(mesh: Mesh) -> Path:
    return archive.folder_of(mesh.spec.mesh.id)


def check(mesh: Mesh, facts: BackupFacts) -> list[Finding]:
    """Judge whether everything could be read, and whether the archive has a safe place."""
    read = [finding for name in mesh.clusters for finding in check_readable(facts, name)]
    return [*read, check_private(mesh), check_disk(mesh, facts)]


def check_readable(facts: BackupFacts, name: str) -> Iterator[Finding]:
    """MK301 and MK302: every object could be read; the Secrets that Gateways name are there."""
    ask = Question("MK301", "everything of Istio can be read", name, "every kind, by our credential")
    found, uid = facts.found[name], facts.uids[name]
    if isinstance(found, Unknown) or isinstance(uid, Unknown):
        yield ask.unknown(next(answer.reason for answer in (found, uid) if isinstance(answer, Unknown)))
        return
    for kind, reason in found.unread.items():
        yield ask.unknown(f"{kind}: {reason}", f"allow get and list of {kind}; no archive is written without them")
    if found.unserved:
        observed = f"defined, but not served: {', '.join(found.unserved)}"
        yield ask.unknown(observed, "their objects cannot be read: serve a version of the CRD, or delete it")
    if found.empty:
        yield ask.answer(Verdict.SKIPPED, NO_ISTIO)
    elif not found.unread and not found.unserved:
        yield ask.answer(Verdict.PASS, f"{len(found.items)} objects of {len({i.key.kind for i in found.items})} kinds")
    if found.missing:
        ask = Question(
            "MK302", "referenced Secrets and ConfigMaps exist", name, "every Secret and ConfigMap that is named"
        )
        observed, remedy = (
            f"not found: {_some(found.missing)}",
            "not part of the archive: is it a leftover, or elsewhere?",
        )
        yield ask.answer(Verdict.WARN, observed, remedy)


def check_private(mesh: Mesh) -> Finding:
    """MK303: the folder that will hold private keys is closed to others, and is not passed on."""
    ask = Question("MK303", "the archive's folder is private", "this machine", "mode 0700, no checkout, no run folder")
    wrong = archive.problem(_folder(mesh))
    return ask.judge(not wrong, wrong or "nobody else reads it", "chmod 0700, or set XDG_STATE_HOME to another place")


def check_disk(mesh: Mesh, facts: BackupFacts) -> Finding:
    """MK304: there is room for the archive, thrice its size."""
    needed = 3 * int(facts.inventory["bytes"].sum()) + 2**20
    ask = Question("MK304", "there is room for the archive", "this machine", f"{_mebibytes(needed)} free")
    folder = _folder(mesh)
    free = shutil.disk_usage(next(place for place in (folder, *folder.parents) if place.exists())).free
    return ask.judge(free >= needed, f"{_mebibytes(free)} free", "make room, or set XDG_STATE_HOME to another place")


def _mebibytes(size: int) -> str:
    return f"{size / 2**20:,.0f} MiB"


def _some(names: Sequence[object]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(map(str, names[:_SHOWN])) + more


def write(mesh: Mesh, facts: BackupFacts, mode: str, *, gates: Iterable[Finding]) -> Archive | None:
    """Write the archive of all clusters that have Istio; in plan mode, or with a gate that failed, nothing.

    Raises:
        InputError: the mode is neither plan nor apply.
        ChangeError: it could not be written.
    """
    parameters.require_choice("mode", mode, parameters.MODES)
    closed = any(gate.verdict in (Verdict.FAIL, Verdict.UNKNOWN) for gate in gates)
    known = {name: found.items for name, found in facts.found.items() if isinstance(found, Found) and not found.empty}
    if mode == "plan" or closed or not known:
        return None
    journal.private_folder(mesh.spec.mesh.id)
    uids = {name: str(facts.uids[name]) for name in known}
    return archive.write(_folder(mesh), mesh.spec.mesh.id, known, uids, facts.read)


def contents(done: Archive | None) -> pd.DataFrame:
    """Return what an archive holds, file by file: cluster, file, objects, bytes, sha256 (of the file)."""
    rows = done.contents() if done else []
    return ARCHIVE.frame(rows)


def about(done: Archive | None) -> dict[str, str]:
    """Return where an archive lies, when its objects were read, and the SHA-256 of its index; of none, nothing."""
    return {"folder": done.where, "read": done.made, "sha256": done.sha256} if done else {}


@dataclass(frozen=True)
class Drill:
    """A cluster compared with its archive: its objects now, its counts by kind, and the result of each dry run."""

    now: Found
    counts: dict[str, int | Unknown]
    applied: dict[Key, str | Unknown]
    created: dict[Key, str | Unknown]


def prove(mesh: Mesh, facts: BackupFacts, done: Archive | None) -> list[Finding]:
    """Drill a restore: read the files back, compare with every cluster again, let the API servers try each object.

    MK305: the archive's files can be read back, have the hashes that were noted, and are open to nobody else.
    """
    ask = Question("MK305", "the archive is whole", done.path.name if done else "archive", "as written, mode 0700")
    if done is None:
        empty = all(isinstance(found, Found) and found.empty for found in facts.found.values())
        return [ask.answer(Verdict.SKIPPED, NO_ISTIO if empty else "planned, not applied")]
    try:
        read = {name: done.read(name) for name in done.clusters}
    except ChangeError as error:
        return [ask.fail(error.message, "back up again")]
    seen = done.open_to_others()
    observed = f"{len(done.contents())} files, {sum(map(len, read.values()))} objects, sha256 {done.sha256[:16]}…"
    findings = [ask.judge(not seen, f"open to others: {_some(seen)}" if seen else observed, "chmod 0700 and 0600")]

    def drill(cluster: Cluster) -> Drill | None:
        return _drill(cluster, mesh.root_namespace, read[cluster.name]) if cluster.name in read else None

    patience = 2 * DEADLINE + 2 * max(map(_patience, read.values()), default=0)
    for name, drilled in mesh.each(drill, deadline=patience).items():
        if isinstance(drilled, Unknown):
            findings.append(Question("MK306", _COMPLETE, name, _EQUAL).unknown(drilled.reason))
        elif drilled:
            findings += _judge(name, done, read[name], drilled)
    return findings


def _drill(cluster: Cluster, root_namespace: str, read: dict[Key, Manifest]) -> Drill:
    now = istio_objects.collect(cluster, root_namespace)
    whole = ["namespaces", *now.kinds]
    names = [_name(cluster, kind) for kind in whole]
    counts = dict(zip(names, gather(partial(istio_objects.count, cluster), whole, deadline=DEADLINE), strict=True))
    several = {key: one for key, one in read.items() if key.namespace}
    applied = gather(partial(_apply, cluster), read.values(), deadline=_patience(read))
    created = gather(partial(_create, cluster), several.values(), deadline=_patience(several))
    return Drill(now, counts, dict(zip(read, applied, strict=True)), dict(zip(several, created, strict=True)))


def _patience(several: Sized) -> float:
    return 60 + 0.25 * len(several)


def _name(cluster: Cluster, kind: str) -> str:
    served = cluster.resource(kind)
    return ".".join(filter(None, (served.kind, served.group)))


def _apply(cluster: Cluster, manifest: Manifest) -> str:
    """Return what is wrong with an object restored over the existing one, by a dry run."""
    try:
        answer = cluster.rehearse(manifest)
    except MeshkitError as error:
        return _refusal(error)
    same = istio_objects.digest(istio_objects.portable(answer)) == istio_objects.digest(manifest)
    return "" if same else "the server would change it"


def _create(cluster: Cluster, manifest: Manifest) -> str:
    """Return what is wrong with an object created again, by a dry run under another name."""
    try:
        cluster.rehearse(istio_objects.under_another_name(manifest), create=True)
    except MeshkitError as error:
        return _refusal(error)
    return ""


def _refusal(error: MeshkitError) -> str:
    # A webhook with side effects refuses every dry run, whatever the object is.
    if isinstance(error, UnreachableError) or "does not support dry run" in error.message:
        raise UnreachableError(error.message) from None
    return error.message


_COMPLETE, _EQUAL = "the archive is complete", "every object that the cluster has, with its content"


def _judge(name: str, done: Archive, read: dict[Key, Manifest], drill: Drill) -> Iterator[Finding]:
    listed = done.listed(name)
    now = {item.key: item for item in drill.now.items}
    gone, new = read.keys() - now.keys(), now.keys() - read.keys()
    differ = {key for key in read.keys() & now.keys() if istio_objects.digest(read[key]) != now[key].digest}
    early = {key for key in new if now[key].created < done.made}
    wrong = early | {key for key in differ if now[key].version == listed[key]["resourceVersion"]}
    wrong |= {key for key in read.keys() | listed.keys() if _altered(read.get(key), listed.get(key))}
    moved = (gone | new | differ) - wrong
    yield from check_complete(name, drill, len(read), wrong, moved)
    yield from check_counts(name, drill, read, bool(moved))
    ask = Question("MK308", "every object can be applied", name, "a dry run makes of each what it is")
    yield _tried(ask, drill.applied, moved)
    ask = Question("MK309", "every object can be created", name, "a dry run takes each under another name")
    if drill.created:
        yield _tried(ask, drill.created, moved)
    else:  # a cluster may have definitions only, such as those of the Gateway API
        yield ask.answer(Verdict.SKIPPED, "none of its objects has a namespace")


def _altered(manifest: Manifest | None, entry: dict[str, str] | None) -> bool:
    return manifest is None or entry is None or istio_objects.digest(manifest) != entry["sha256"]


def check_complete(name: str, drill: Drill, count: int, wrong: set[Key], moved: set[Key]) -> Iterator[Finding]:
    """MK306: listed again, each object has the digest that it has in the files; what changed meanwhile is named."""
    ask = Question("MK306", _COMPLETE, name, _EQUAL)
    unread = drill.now.unread
    for kind, reason in unread.items():
        yield ask.unknown(f"{kind}: {reason}")
    if wrong:
        yield ask.fail(f"missing or different: {_some(sorted(wrong))}", "back up again; report it if it stays so")
    elif moved:
        observed = f"changed since it was read: {_some(sorted(moved))}"
        yield ask.answer(Verdict.WARN, observed, "back up again when nobody changes Istio's objects")
    elif not unread:
        yield ask.answer(Verdict.PASS, f"{count} objects, each with the digest of the live one")


def check_counts(name: str, drill: Drill, read: Iterable[Key], moved: bool) -> Iterator[Finding]:
    """MK307: of every kind that is served, the files have as many objects as the API server counts."""
    ask = Question("MK307", "no kind is left out", name, "as many of each kind as the API server counts")
    have = Counter(key.kind for key in read)
    off = []
    for kind, counted in drill.counts.items():
        if isinstance(counted, Unknown):
            yield ask.unknown(f"{kind}: {counted.reason}")
        elif have[kind] != counted:
            off.append(f"{kind}: {have[kind]} of {counted}")
    off += [f"{crd}: defined, but not served" for crd in drill.now.unserved]
    verdict = Verdict.WARN if moved else Verdict.FAIL
    yield ask.judge(
        not off, _some(off) or f"{len(drill.counts)} kinds, all counts equal", "see MK306", otherwise=verdict
    )


def _tried(ask: Question, tried: dict[Key, str | Unknown], moved: set[Key]) -> Finding:
    """MK308 and MK309: the API server, asked for a dry run, accepts each object as the files have it."""
    answers = {key: answer for key, answer in tried.items() if key not in moved}
    refused = [f"{key}: {answer}" for key, answer in answers.items() if isinstance(answer, str) and answer]
    unknown = [f"{key}: {answer.reason}" for key, answer in answers.items() if isinstance(answer, Unknown)]
    observed = f"{len(answers) - len(refused) - len(unknown)} of {len(answers)}"
    if refused:
        return ask.fail(
            f"{observed}; {_some(refused)}", "fix the object in the cluster, or edit the file before a restore"
        )
    if unknown or not answers:
        return ask.unknown(f"{observed}; {_some(unknown)}", "grant the rights that a restore needs, and back up again")
    return ask.answer(Verdict.PASS, observed)


class Backup(Stage):
    """Stage 03. It changes no cluster; in mode apply it writes `archive` on this machine."""

    name = STAGE
    inventory = Shows["Backup"](tables.BACKUP, lambda stage: stage.facts.inventory)
    secrets = Shows["Backup"](tables.BACKUP_SECRETS, lambda stage: stage.facts.secrets)
    contents = Shows["Backup"](tables.ARCHIVE, lambda stage: contents(stage.archive))

    def __init__(self, mesh: str | Path | MeshSpec | Mesh, *, mode: str = "plan", journal: str = "") -> None:
        super().__init__(mesh, mode=mode, journal=journal)
        self.archive: Archive | None = None

    @property
    def location(self) -> Record:
        """Where the archive is, when its objects were read, and the SHA-256 of its index; empty without an archive."""
        return Record("backup", about(self.archive))

    def _look(self) -> BackupFacts:
        return look(self.mesh)

    def _check(self) -> Iterable[Finding]:
        return check(self.mesh, self.facts)

    def plan(self) -> Shown:
        """Say what `apply` writes; writes nothing."""
        rows = self.facts.inventory
        objects, size = int(rows["objects"].sum()), int(rows["bytes"].sum())
        return Text(f"to be archived: {objects} objects, {size:,} bytes; no cluster is changed")

    def apply(self) -> Shown:
        """Write the archive, in mode apply and where no gate holds it; return its contents."""
        self.archive = write(self.mesh, self.facts, self.mode, gates=self.findings)
        if self.mode == "plan":
            print("mode is plan: no archive is written")
        elif held := holding(self.findings):
            print(f"held: {', '.join(held)}; no archive is written")
        shown: Shown = self.contents
        return shown

    def _prove(self) -> Iterable[Finding]:
        return prove(self.mesh, self.facts, self.archive)
