"""Approvals of a plan: who signed it, whether these are enough, and the plan that an apply is held against."""

from __future__ import annotations

import getpass
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from meshkit import attestation
from meshkit.changes.planned import PlannedChange, documents, parse
from meshkit.errors import InputError
from meshkit.run_spec import Approvals
from meshkit.runs import signature
from meshkit.runs.folder import APPROVALS, SIGNATURE, record_of, sha256, utc, verify
from meshkit.spec import MeshSpec

PLAN: Final = "plan.json"
APPROVED: Final = f"approved-{PLAN}"
"""The plan that was approved, in the evidence of the run that applied it."""
SCHEMA: Final = "meshkit.plan/1"
PREDICATE: Final = "urn:meshkit:approval:v1"
_SHORT: Final = 12


@dataclass(frozen=True)
class Approval:
    """One good signature of a plan: who, when, why; `key` is the fingerprint of the key, `listed` its name in the file.

    `name` is what the signer calls himself; only a key that the mesh file lists says who that is.
    """

    name: str
    key: str
    time: str
    ticket: str = ""
    comment: str = ""
    listed: str = ""


@dataclass(frozen=True)
class ApprovedPlan:
    """A plan that may be applied: its run, its file's digest, its changes, and who approved it."""

    run: Path
    sha256: str
    stages: list[str]
    changes: list[PlannedChange]
    approvals: list[Approval]

    @property
    def ticket(self) -> str:
        """The tickets of its approvals."""
        return ", ".join(dict.fromkeys(one.ticket for one in self.approvals if one.ticket))

    def about(self) -> dict[str, Any]:
        """Return what the record says of it."""
        return {"run": self.run.name, "plan_sha256": self.sha256, "approvals": [vars(one) for one in self.approvals]}


def plan_file(mesh: str, mesh_file: Mapping[str, str], stages: Sequence[str], changes: Sequence[PlannedChange]) -> str:
    """Return plan.json of a run, in its canonical form: keys in order, no spaces, one line feed at the end."""
    document = {
        "schema": SCHEMA, "mesh": mesh, "mesh_file": dict(mesh_file), "stages": list(stages),
        "changes": documents(changes),
    }  # fmt: skip
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False) + "\n"


def approve(
    run: Path, key: Ed25519PrivateKey, name: str, *, ticket: str = "", comment: str = ""
) -> tuple[Approval, Path]:
    """Sign the plan of a run; returns the approval, and the file beside the run's evidence that holds it.

    Raises:
        InputError: it is no complete run in mode plan, its evidence was changed, its plan did not pass, or this key has
            signed it already.
    """
    record, document, digest = _plan_of(run)
    if record["exit_code"]:
        raise InputError(f"a plan that did not pass cannot be approved: exit code {record['exit_code']}",
                         where=str(run), remedy="its report.html says what to correct; then plan again")  # fmt: skip
    said = {"approver": name, "time": utc(), "run": run.name, "mesh": document["mesh"], "ticket": ticket,
            "comment": comment}  # fmt: skip
    envelope = attestation.sign(attestation.statement(PREDICATE, {PLAN: digest}, said), key)
    fingerprint = attestation.fingerprint(key.public_key())
    path = run / APPROVALS / f"{hashlib.sha256(fingerprint.encode()).hexdigest()[:_SHORT]}.json"
    try:
        path.parent.mkdir(exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(json.dumps(envelope, indent=1) + "\n")
    except FileExistsError:
        raise InputError("this key has approved it already", where=str(path)) from None
    except OSError as error:
        raise InputError(f"the approval cannot be written: {error.strerror}", where=str(path)) from None
    return Approval(name, fingerprint, said["time"], ticket, comment), path


def require(run: Path, spec: MeshSpec, mesh_file: Path) -> ApprovedPlan:
    """Return the approved plan of a run, as far as the mesh file's `approvals` are met.

    Raises:
        InputError: it is no plan of this mesh and mesh file, something of it was changed, or approvals are lacking.
    """
    record, document, digest = _plan_of(run)
    if document["mesh"] != spec.mesh.id:
        raise InputError(f"that plan is of mesh {document['mesh']}, not of {spec.mesh.id}", where=str(run))
    if document["mesh_file"]["sha256"] != sha256(mesh_file):
        raise InputError("the mesh file was changed since it was planned", where=str(mesh_file),
                         remedy="plan again, and have that approved")  # fmt: skip
    approvals, problems = signatures(run, spec.approvals, digest)
    if problems:
        raise InputError("; ".join(problems), where=str(run / APPROVALS), remedy="remove what is no approval")
    _enough(approvals, spec.approvals, run, record["operator"])
    changes = parse(document["changes"], where=str(run / PLAN))
    return ApprovedPlan(run, digest, document["stages"], changes, approvals)


def _enough(approvals: Sequence[Approval], wanted: Approvals | None, run: Path, planner: str) -> None:
    if wanted is None:
        return
    own = {planner, getpass.getuser()} if wanted.not_self else set()
    good = {one.key: one.listed for one in approvals if one.listed and one.listed not in own}
    if len(good) < wanted.needed:
        others = [f"{one.listed or one.name} ({'oneself' if one.listed else 'a key that is not listed'})"
                  for one in approvals if one.key not in good]  # fmt: skip
        there = ", ".join([*good.values(), *others]) or "none"
        raise InputError(f"{wanted.needed} approvals are needed, {len(good)} count: {there}", where=str(run),
                         remedy=f"meshkit approve {run}, by somebody whose key is in approvals.keys")  # fmt: skip


def people(wanted: Approvals | None) -> dict[str, str]:
    """Return the names that a mesh file gives to keys, by fingerprint."""
    lines = wanted.people if wanted else {}
    return {attestation.fingerprint(attestation.public_key(line)): name for name, line in lines.items()}


def signatures(run: Path, wanted: Approvals | None, digest: str) -> tuple[list[Approval], list[str]]:
    """Return the good approvals of the plan with this digest, and what is wrong with other files among them."""
    listed = people(wanted)
    approvals, problems = [], []
    for path in sorted((run / APPROVALS).glob("*")):
        try:
            signed = attestation.opened(json.loads(path.read_text(encoding="utf-8")))
            if not signed.is_about(PLAN, digest) or signed.statement.get("predicateType") != PREDICATE:
                raise ValueError("it approves another plan")  # noqa: TRY301
        except (OSError, ValueError) as error:
            known = str(error) if not isinstance(error, json.JSONDecodeError | OSError) else "it is no signed statement"
            problems.append(f"{APPROVALS}/{path.name}: {known}")
            continue
        said = signed.statement["predicate"]
        words = {name: str(said.get(name, "")) for name in ("time", "ticket", "comment")}
        approvals.append(
            Approval(str(said.get("approver", "")), signed.key, **words, listed=listed.get(signed.key, ""))
        )
    return approvals, problems


def _plan_of(run: Path) -> tuple[dict[str, Any], dict[str, Any], str]:
    """Return the record of a plan's run, the plan, and its digest."""
    problems, record = verify(run), record_of(run)
    if problems or record is None:
        raise InputError(f"its evidence is not complete and unchanged: {problems[0]}", where=str(run))
    try:
        signature.signed_by(run, record)
    except ValueError as error:
        raise InputError(f"the signature of its record is not good: {error}", where=str(run / SIGNATURE)) from None
    if PLAN not in record["files"]:
        raise InputError(f"it has no {PLAN}", where=str(run), remedy="plan with this version of meshkit: meshkit run")
    content = (run / PLAN).read_bytes()
    document = json.loads(content)
    if record.get("mode") != "plan":
        raise InputError(f"a run in mode {record.get('mode')} is no plan", where=str(run),
                         remedy="approve a run of `meshkit run MESH.yaml`, in mode plan")  # fmt: skip
    if document.get("schema") != SCHEMA:
        raise InputError(f"expected {SCHEMA}, got {document.get('schema')!r}", where=str(run / PLAN))
    return record, document, hashlib.sha256(content).hexdigest()
