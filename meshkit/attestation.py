"""Who says what of a file: in-toto statements in DSSE envelopes, signed by Ed25519 keys as ssh-keygen makes them.

https://github.com/secure-systems-lab/dsse, https://github.com/in-toto/attestation (Statement v1).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from meshkit.errors import InputError

PAYLOAD: Final = "application/vnd.in-toto+json"
STATEMENT: Final = "https://in-toto.io/Statement/v1"
ALGORITHM: Final = "ssh-ed25519"
Document = dict[str, Any]


@dataclass(frozen=True)
class Signed:
    """A statement whose signature is good, with the key that made it: its fingerprint, as `ssh-keygen -l` prints it."""

    statement: Document
    key: str

    def is_about(self, name: str, sha256: str) -> bool:
        """Return whether a subject of it is that file."""
        subjects = self.statement.get("subject")
        wanted = {"name": name, "digest": {"sha256": sha256}}
        return isinstance(subjects, list) and wanted in subjects


def public_key(line: str) -> Ed25519PublicKey:
    """Return the public key of a line such as `ssh-ed25519 AAAA… ann`.

    Raises:
        ValueError: it is none.
    """
    wanted = f"expected a line such as `{ALGORITHM} AAAA… NAME`, as in a file of `ssh-keygen -t ed25519`"
    if not line.startswith(f"{ALGORITHM} "):
        raise ValueError(wanted)
    try:
        key = serialization.load_ssh_public_key(line.encode())
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError(wanted) from None
    return cast("Ed25519PublicKey", key)


def line_of(key: Ed25519PublicKey, name: str = "") -> str:
    """Return a public key as a line for the mesh file."""
    coded = key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()
    return f"{coded} {name}".rstrip()


def fingerprint(key: Ed25519PublicKey) -> str:
    """Return a key's fingerprint, `SHA256:…`, as `ssh-keygen -l` prints it."""
    blob = base64.b64decode(line_of(key).split(" ")[1])
    return f"SHA256:{base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip('=')}"


def private_key(path: Path, passphrase: Callable[[], str]) -> Ed25519PrivateKey:
    """Return the private key of a file, of ssh-keygen or in PEM (PKCS 8); the passphrase is asked where it has one.

    Raises:
        InputError: the file cannot be read, is no such key, or has another passphrase. It is not quoted.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"the key cannot be read: {error.strerror}", where=str(path)) from None
    load = serialization.load_ssh_private_key if b"OPENSSH" in content else serialization.load_pem_private_key
    key: Any = None
    try:
        key = load(content, None)
    except TypeError:  # it has a passphrase
        try:
            key = load(content, passphrase().encode())
        except ValueError:
            raise InputError("the key has another passphrase", where=str(path)) from None
    except (ValueError, UnsupportedAlgorithm):
        pass
    if not isinstance(key, Ed25519PrivateKey):
        raise InputError("expected an Ed25519 private key", where=str(path),
                         remedy=f"make one: ssh-keygen -t ed25519 -f {path.name}")  # fmt: skip
    return key


def own_key(path: Path) -> Ed25519PrivateKey:
    """Return the user's own key, made at its first use (0600).

    Raises:
        InputError: it cannot be written, or read.
    """
    if not path.exists():
        key = Ed25519PrivateKey.generate()
        text = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
        )
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(text)
        except OSError as error:
            raise InputError(f"the key cannot be written: {error.strerror}", where=str(path)) from None
    return private_key(path, str)


def statement(predicate_type: str, subjects: dict[str, str], predicate: Document) -> Document:
    """Return an in-toto statement about files, by name and SHA-256."""
    named = [{"name": name, "digest": {"sha256": digest}} for name, digest in sorted(subjects.items())]
    return {"_type": STATEMENT, "subject": named, "predicateType": predicate_type, "predicate": predicate}


def sign(statement: Document, key: Ed25519PrivateKey) -> Document:
    """Return the DSSE envelope of a statement; the key's public half is part of it, so that all can see whose it is."""
    body = json.dumps(statement, sort_keys=True, ensure_ascii=False).encode()
    signature = base64.b64encode(key.sign(_encoded(body))).decode()
    public = key.public_key()
    return {
        "payloadType": PAYLOAD,
        "payload": base64.b64encode(body).decode(),
        "signatures": [{"keyid": fingerprint(public), "sig": signature, "publicKey": line_of(public)}],
    }


def opened(envelope: Any) -> Signed:
    """Return what is signed in an envelope, with the one key that signed it.

    Raises:
        ValueError: it is no envelope of ours, or the signature is not good.
    """
    try:
        (signature,) = envelope["signatures"]
        body = base64.b64decode(envelope["payload"], validate=True)
        key = public_key(str(signature["publicKey"]))
        key.verify(base64.b64decode(signature["sig"], validate=True), _encoded(body))
        known = json.loads(body)
    except InvalidSignature:
        raise ValueError("its signature is wrong: it was changed after it was signed") from None
    except (KeyError, TypeError, ValueError, binascii.Error):
        raise ValueError("it is no signed statement") from None
    if envelope.get("payloadType") != PAYLOAD or not isinstance(known, dict) or known.get("_type") != STATEMENT:
        raise ValueError("it is no in-toto statement")
    return Signed(known, fingerprint(key))


def _encoded(body: bytes) -> bytes:
    """Return what is signed: DSSE's pre-authentication encoding."""
    kind = PAYLOAD.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(body), body)
