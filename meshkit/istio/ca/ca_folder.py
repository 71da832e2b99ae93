"""The folder of the user's own CA: a root created offline, requests for the user's PKI, and the signed certificates.

Folders are 0700 and files 0600. Nothing is written before all of it is created and checked; a key is never overwritten.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cryptography.x509 import Certificate

from meshkit.errors import InputError
from meshkit.istio.ca import ca_files, issuing, model
from meshkit.istio.ca.issuing import Kind
from meshkit.istio.ca.model import CaCerts
from meshkit.istio.ca.x509_rules import extension

OPEN_TO_OTHERS = 0o077


def make_root(folder: Path, *, kind: Kind, name: str, organization: str, days: int, passphrase: bytes) -> Certificate:
    """Make a root and write root-cert.pem and root-key.pem; the key is encrypted unless the passphrase is empty.

    Raises:
        InputError: one of them is there, the folder is open to others, or a name, life or passphrase will not do.
    """
    from cryptography.hazmat.primitives.serialization import Encoding

    made = issuing.root(kind, name, organization, days)
    certificate = made.certificate.public_bytes(Encoding.PEM)
    write_new(folder, {"root-key.pem": issuing.key_pem(made.key, passphrase), "root-cert.pem": certificate})
    return made.certificate


def make_requests(folder: Path, clusters: Iterable[str], namespace: str, kind: Kind, passphrase: bytes) -> list[str]:
    """Write ca.csr and ca-key.pem into a folder for each cluster that has no key yet; return those clusters.

    Raises:
        InputError: all have their keys, the folder is open to others, or the passphrase will not do.
    """
    lacking = [
        name for name in clusters if not any((folder / name / key).exists() for key in ("ca-key.pem", "tls.key"))
    ]
    if not lacking:
        message = "every cluster has its key already, and keys are never overwritten"
        raise InputError(message, where=str(folder), remedy="name a new folder for new keys")
    files: dict[str, bytes] = {}
    for name in lacking:
        key, csr = issuing.request(kind, name, namespace)
        files |= {f"{name}/ca-key.pem": issuing.key_pem(key, passphrase), f"{name}/ca.csr": csr}
    write_new(folder, files)
    return lacking


@dataclass(frozen=True)
class ImportedIntermediate:
    """A cluster's intermediate that the PKI signed, and its deviations from the request."""

    cluster: str
    plugged: CaCerts
    remarks: list[str]


def import_signed(
    folder: Path, clusters: Iterable[str], namespace: str, passphrase: bytes, more: bytes = b""
) -> list[ImportedIntermediate]:
    """Check every cluster's signed intermediate, then write its root-cert.pem and cert-chain.pem.

    Args:
        folder: has for each cluster a folder with ca-key.pem and the certificate: ca-cert.pem, or vault.json.
        clusters: the clusters of the mesh.
        namespace: the mesh's root namespace, for the SAN that was requested.
        passphrase: of the keys.
        more: PEM of certificates above the intermediates, where neither their files nor the folder's root-cert.pem
            have them.

    Raises:
        InputError: a certificate is missing, or is not what a cluster can sign with; then nothing is written.
    """
    names = list(clusters)
    signed = {name: ca_files.read(folder / name, (*model.FILES, ca_files.VAULT)) for name in names}
    if unsigned := [name for name, files in signed.items() if not {"ca-cert.pem", ca_files.VAULT} & set(files)]:
        message = f"no ca-cert.pem yet for {', '.join(unsigned)}"
        remedy = "let the PKI sign ca.csr of each, and put the certificate next to it, as ca-cert.pem"
        raise InputError(message, where=str(folder), remedy=remedy)
    beside = ca_files.read(folder, ("root-cert.pem",)).get("root-cert.pem", b"")
    taken = []
    for name, files in signed.items():
        where = str(folder / name)
        own, chain = files.get("ca-cert.pem", b""), files.get("cert-chain.pem", b"")
        if ca_files.VAULT in files:
            own = ca_files.vault_answer(files[ca_files.VAULT], f"{where}/{ca_files.VAULT}")[0]
        pool = b"\n".join((more, files.get("root-cert.pem", b""), beside, chain))
        built = ca_files.build_cacerts(own, files.get("ca-key.pem", b""), pool, where=where)
        plugged = ca_files.load_plugged(built, passphrase=passphrase, where=where)
        taken.append(ImportedIntermediate(name, plugged, deviations(plugged.certificate, plugged.root, namespace)))
    ca_files.require_single_root([one.plugged for one in taken], str(folder))
    for one in taken:
        for file in ("ca-cert.pem", "root-cert.pem", "cert-chain.pem"):
            try:
                replace(folder / one.cluster / file, one.plugged.files[file])
            except OSError as error:
                where = str(folder / one.cluster / file)
                raise InputError(f"cannot be written ({error.strerror})", where=where) from None
    return taken


def deviations(certificate: Certificate, root: Certificate, namespace: str) -> list[str]:
    """Return how an intermediate differs from one of Istio's tools/certs, though istiod accepts it."""
    from cryptography.x509 import BasicConstraints, DNSName, NameConstraints, SubjectAlternativeName

    found = []
    if extension(certificate, BasicConstraints).path_length != 0:
        found.append("its path length is not 0: it may sign further authorities")
    names, wanted = extension(certificate, SubjectAlternativeName), issuing.istiod_name(namespace)
    if names is None or wanted not in names.get_values_for_type(DNSName):
        found.append(f"its SAN lacks {wanted}")
    if extension(certificate, NameConstraints) is not None:
        found.append("it has name constraints: they must permit spiffe:// URIs of the trust domain")
    if certificate.not_valid_after_utc > root.not_valid_after_utc:
        found.append("it lives longer than its root")
    return found


def write_new(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files that do not exist yet into a private folder, all or none.

    Raises:
        InputError: one is there, the folder is open to others, or it cannot be written.
    """
    places = {folder / name: content for name, content in files.items()}
    folders = sorted({folder, *(path.parent for path in places)})
    for path in folders:
        if path.exists() and not path.is_dir():
            raise InputError("it is no folder", where=str(path))
        if path.exists() and path.stat().st_mode & OPEN_TO_OTHERS:
            message = "other users can read the folder, and it will hold keys"
            raise InputError(message, where=str(path), remedy=f"chmod 700 {path}, or name a new folder")
    if there := [str(path) for path in places if os.path.lexists(path)]:
        raise InputError("it exists already, and is not overwritten", where=", ".join(there))
    made = []
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        for path in folders:
            path.mkdir(mode=0o700, exist_ok=True)
        for path, content in places.items():
            # O_EXCL first, so that of two concurrent writers one fails; the file is complete or empty.
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            made.append(path)
            replace(path, content)
    except BaseException as error:
        for path in made:
            path.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise InputError(f"cannot be written ({error.strerror})", where=str(folder)) from None
        raise


def replace(path: Path, content: bytes) -> None:
    """Replace a file (0600) atomically."""
    handle, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(draft).replace(path)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise
