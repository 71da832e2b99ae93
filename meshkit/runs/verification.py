"""The verification of a run: whether its evidence is as it was, who signed and approved it, and when."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from meshkit.errors import UnreachableError
from meshkit.runs import approval, folder, signature, timestamp
from meshkit.runs.folder import SIGNATURE, TIMESTAMP
from meshkit.spec import MeshSpec


@dataclass
class Verification:
    """What is wrong with a run's evidence, what nobody vouches for, and what is known of it."""

    problems: list[str]
    unknown: list[str] = field(default_factory=list)
    known: list[str] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """1 where something is wrong, 3 where something is unknown."""
        return 1 if self.problems else 3 if self.unknown else 0


def verify(run: Path, spec: MeshSpec | None = None) -> Verification:
    """Verify a run's files, the signature of its record, its time, and the approvals of its plan.

    Where an apply differs from its plan, that is listed among what is known.

    With a mesh file, `approvals.keys` says who a key is, and `record.timestampRoots` whose time is trusted: others are
    unknown. Without, a good signature is enough.

    Raises:
        InputError: there is no such folder, or the roots cannot be read.
    """
    found = Verification(folder.verify(run))
    people = approval.people(spec.approvals) if spec else None
    if record := folder.record_of(run):
        try:
            _signature(found, run, record, people)
            _time(found, run, record, spec)
        except ValueError as error:
            found.problems.append(f"{SIGNATURE}: {error}")
        found.known += [f"{one['how']}: {one['change']}" for one in record.get("changes", {}).get("difference", ())]
    digest = folder.sha256(run / approval.PLAN) if (run / approval.PLAN).exists() else ""
    approvals, wrong = approval.signatures(run, spec.approvals if spec else None, digest)
    found.problems += wrong
    for one in approvals:
        who = one.listed or (one.name if people is None else f"{one.name} (a key that is not listed)")
        ticket = f", {one.ticket}" if one.ticket else ""
        found.known.append(f"approved by {who} at {one.time}, key {one.key}{ticket}")
    return found


def _signature(found: Verification, run: Path, record: Mapping[str, Any], people: Mapping[str, str] | None) -> None:
    if not (key := signature.signed_by(run, record)):
        why = record.get("signer", {}).get("lacking", "this version of meshkit did not sign")
        found.unknown.append(f"nobody signed the record: {why}")
        return
    name = record["operator"] if people is None else people.get(key)
    found.known.append(f"signed by {name or record['operator']}, key {key}")
    if name is None:
        found.unknown.append(f"the mesh file does not list key {key}, which signed the record")


def _time(found: Verification, run: Path, record: Mapping[str, Any], spec: MeshSpec | None) -> None:
    if not (run / TIMESTAMP).exists():
        if authority := record.get("authority"):
            found.unknown.append(f"no time of {authority}: it gave none, or {TIMESTAMP} was removed")
        return
    trusted = timestamp.roots(spec.record.timestamp_roots) if spec and spec.record.timestamp_roots else None
    try:
        moment = timestamp.read((run / TIMESTAMP).read_bytes(), (run / SIGNATURE).read_bytes(), trusted)
    except ValueError as error:
        found.problems.append(f"{TIMESTAMP}: {error}")
    except (OSError, UnreachableError) as error:
        found.unknown.append(f"{TIMESTAMP} cannot be verified: {error}")
    else:
        by = "a trusted authority" if trusted else "an authority that nobody verified"
        found.known.append(f"signed at {folder.utc(moment)}, says {by}")
