"""The content of the user's CA folder as a table: certificates, validity, key types, and problems."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pandas as pd
from cryptography.x509 import Certificate

from meshkit.errors import InputError
from meshkit.istio.ca import ca_files, model
from meshkit.istio.ca.certificates import SHORT, fingerprint, parse_chain
from meshkit.istio.ca.x509_rules import defects, extension, key_kind, key_matches, self_signed
from meshkit.tables import Table, integer, moment, text

OPEN_TO_OTHERS = 0o077
KEYS = ("root-key.pem", "ca-key.pem", "tls.key")
OWN = ("root-cert.pem", "ca-cert.pem", "tls.crt", ca_files.VAULT, "ca.csr")
CA_FILES: Final = Table(
    "ca",
    "The root and intermediates in a folder",
    {
        "name": text("root, or the folder's"),
        "kind": text("root, intermediate or request (not signed yet)"),
        "subject": text("RFC 4514"),
        "key": text("its kind and bits"),
        "private_key": text("open, encrypted or none"),
        "path_length": integer("how many intermediates may follow it; empty: no limit", missing=True),
        "sha256": text("of the certificate"),
        "root": text("that its chain ends at, verified by signature; the first 16 digits of its SHA-256"),
        "not_before": moment("start of validity"),
        "not_after": moment("end of validity"),
        "days": integer("of life left", "days", missing=True),
        "problem": text("why stage 04 would refuse it, or that other users can read its key; empty: nothing is wrong"),
    },
    key=("name", "kind"),
    show=("name", "kind", "subject", "key", "private_key", "path_length", "sha256", "root", "not_after", "days"),
)


def overview(folder: Path, passphrase: bytes = b"") -> pd.DataFrame:
    """Return one row for the root in a folder, then one for each cluster's folder in it.

    Private keys are compared with their certificates, encrypted ones only if a passphrase is given.

    Raises:
        InputError: there is no such folder, nothing of a CA in it, or a file cannot be read.
    """
    if not folder.is_dir():
        raise InputError("no such folder", where=str(folder), remedy=model.MAKE)
    places = [folder, *sorted(path for path in folder.iterdir() if path.is_dir())]
    rows = [_row(place, passphrase, top=place == folder) for place in places if any(ca_files.read(place, OWN))]
    if not rows:
        raise InputError("it has no CA files", where=str(folder), remedy=model.MAKE)
    roots = {row["root"] for row in rows if row.get("root")}
    if len(roots) > 1:
        several = f"{len(roots)} different roots are here"
        rows = [{**row, "problem": "; ".join(filter(None, (row["problem"], several)))} for row in rows]
    return CA_FILES.frame(rows).sort_values("kind", key=lambda kind: kind != "root", kind="stable", ignore_index=True)


def _row(folder: Path, passphrase: bytes, *, top: bool) -> dict[str, Any]:
    found, name = ca_files.read(folder, OWN), next((n for n in KEYS if (folder / n).exists()), "")
    key = ca_files.read(folder, [name]).get(name, b"")
    row: dict[str, Any] = {"name": folder.resolve().name, "kind": "intermediate", "problem": _exposed(folder, name)}
    row["private_key"] = "encrypted" if b"ENCRYPTED" in key else "open" if key else "none"
    try:
        own = _own(folder, found)
        if own is None:
            return {**row, "kind": "request", **_requested(found["ca.csr"])}
        row |= _described(own)
        if top and "ca-cert.pem" not in found and self_signed(own):
            row |= {"name": "root", "kind": "root", "root": fingerprint(own, SHORT)}
        problem = _problem(folder, own, row)
        if not problem and key and (passphrase or row["private_key"] == "open"):
            same = key_matches(own, ca_files.load_key(key, passphrase, str(folder / name)))
            problem = "" if same else f"{name} is not the certificate's"
    except InputError as error:
        problem = error.message
    return {**row, "problem": "; ".join(filter(None, (problem, row["problem"])))}


def _problem(folder: Path, own: Certificate, row: dict[str, Any]) -> str:
    """Return why a certificate cannot be the root or intermediate here; adds an intermediate's root to the row."""
    if row["kind"] == "root":
        wrong = defects(own, below=1)
        return f"the certificate {'; '.join(wrong)}" if wrong else ""
    files = dict.fromkeys(model.FILES, b"") | ca_files.cluster_files(folder)
    if not files["root-cert.pem"]:
        return "root-cert.pem is missing: `meshkit ca take` writes it"
    row["root"] = fingerprint(ca_files.verify_chain(files, where=str(folder)), SHORT)
    return ""


def _own(folder: Path, found: dict[str, bytes]) -> Certificate | None:
    """Return the folder's own certificate; None if there is only a request."""
    names = ("ca-cert.pem", "tls.crt", ca_files.VAULT, "root-cert.pem")
    name = next((name for name in names if name in found), "")
    if not name or (name == "root-cert.pem" and "ca.csr" in found):
        return None
    text = found[name]
    if name == ca_files.VAULT:
        text = ca_files.vault_answer(text, str(folder / name))[0]
    try:
        return parse_chain(text)[0]
    except (ValueError, IndexError):
        raise InputError(f"no certificate in PEM in {name}") from None


def _exposed(folder: Path, key_file: str) -> str:
    places = [folder / key_file, folder] if key_file else []
    # Files in a folder that other users cannot enter are protected by it.
    if places and all(path.stat().st_mode & OPEN_TO_OTHERS for path in places):
        return f"others may read {key_file}: chmod 600 it"
    return ""


def _described(certificate: Certificate) -> dict[str, Any]:
    from cryptography.x509 import BasicConstraints

    constraints = extension(certificate, BasicConstraints)
    return {
        "subject": certificate.subject.rfc4514_string(),
        "key": key_kind(certificate),
        "path_length": constraints.path_length if constraints else None,
        "sha256": fingerprint(certificate),
        "not_before": certificate.not_valid_before_utc,
        "not_after": certificate.not_valid_after_utc,
        "days": (certificate.not_valid_after_utc - datetime.now(UTC)).days,
    }


def _requested(csr: bytes) -> dict[str, str]:
    from cryptography.x509 import load_pem_x509_csr

    try:
        request = load_pem_x509_csr(csr)
    except ValueError:
        raise InputError("ca.csr is no request in PEM") from None
    return {"subject": request.subject.rfc4514_string(), "key": key_kind(request)}
