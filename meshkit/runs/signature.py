"""The signature of a run's record: by a key, who ran it; where the mesh file names an authority, when.

record.json has the hash of every other file, so its signature is one of the whole run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from meshkit import attestation, paths
from meshkit.errors import InputError, UnreachableError
from meshkit.runs import timestamp
from meshkit.runs.folder import RECORD, SIGNATURE, TIMESTAMP, RunFolder, sha256

PREDICATE: Final = "urn:meshkit:record:v1"


@dataclass(frozen=True)
class Signer:
    """The key that signs a run's record, or why there is none."""

    key: Ed25519PrivateKey | None = None
    lacking: str = ""

    @classmethod
    def own(cls) -> Signer:
        """Return the user's own key as a signer, made at its first use; a run without it is made all the same."""
        try:
            return cls(attestation.own_key(paths.own_key()))
        except InputError as error:
            return cls(lacking=error.message)

    def about(self) -> dict[str, str]:
        """Return what the record says of it."""
        return {"key": attestation.fingerprint(self.key.public_key())} if self.key else {"lacking": self.lacking}


def sign(folder: RunFolder, signer: Signer, about: Mapping[str, Any], authority: str) -> str:
    """Sign a record that was written, and have the time of that signed by an authority; return what is lacking."""
    if signer.key is None:
        return f"the record is not signed: {signer.lacking}"
    said = {"run": folder.path.name, **{name: about[name] for name in ("mesh", "operator", "ticket", "ended")}}
    statement = attestation.statement(PREDICATE, {RECORD: sha256(folder.path / RECORD)}, said)
    text = json.dumps(attestation.sign(statement, signer.key), indent=1) + "\n"
    folder.write(SIGNATURE, text)
    if authority:
        try:
            folder.write(TIMESTAMP, timestamp.stamped(authority, text.encode()))
        except UnreachableError as error:
            return f"no authority signed the time: {error}"
    return ""


def signed_by(run: Path, record: Mapping[str, Any]) -> str:
    """Return the key that signed a run's record, as a fingerprint; empty where the record says that none did.

    Raises:
        ValueError: the signature is missing, wrong, or of another key or record.
    """
    claimed = record.get("signer", {}).get("key", "")
    if not (run / SIGNATURE).exists():
        if claimed:
            raise ValueError(f"it is missing: key {claimed} signed the record")
        return ""
    try:
        envelope = json.loads((run / SIGNATURE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise ValueError("it is no signed statement") from None
    signed = attestation.opened(envelope)
    if not signed.is_about(RECORD, sha256(run / RECORD)) or signed.statement.get("predicateType") != PREDICATE:
        raise ValueError("it signs another record")
    if signed.key != claimed:
        raise ValueError("another key signed it than the record says")
    return signed.key
