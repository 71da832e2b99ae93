"""CAs in files and Secrets: read, checked, and converted to the form that istiod loads.

Keys are generated in meshkit.istio.ca.issuing. They are in memory only, until they are written into the Secret. No key
and no passphrase is in any message, repr or traceback of ours.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.x509 import Certificate

from meshkit.errors import InputError
from meshkit.istio.ca import cacerts, revocation
from meshkit.istio.ca.certificates import (
    CertificateError,
    fingerprint,
    kinds,
    parse_bundle,
    parse_chain,
    paths,
    signed_by,
)
from meshkit.istio.ca.model import FILES, MAKE, Authority, CaCerts
from meshkit.istio.ca.x509_rules import PrivateKey, defects, key_matches, self_signed
from meshkit.kube.pem import blocks
from meshkit.spec import expanded

VAULT = "vault.json"
CERTIFICATE = "CERTIFICATE"
CURVES = ("secp256r1", "secp384r1", "secp521r1")

HOW_TO_OPEN = "name its passphrase: trust.passphraseFrom in the mesh file, or --passphrase-env, --passphrase-file"


@dataclass(frozen=True)
class ProvidedCA:
    """The user's own CA, as files: the root, its key if it is there, and the clusters' intermediates if they are."""

    root: Certificate
    signer: Authority | None = field(repr=False)
    plugged: dict[str, CaCerts]

    def of(self, cluster: str, namespace: str) -> CaCerts:
        """Return a cluster's `cacerts`: with the provided intermediate, or else with a new one."""
        if cluster in self.plugged:
            return self.plugged[cluster]
        from meshkit.istio.ca.issuing import intermediate

        if self.signer is None:
            raise InputError(f"no intermediate for cluster {cluster}, and no root key to sign one", remedy=MAKE)
        return intermediate(self.signer, cluster, namespace)


def load(certificate: bytes, key: bytes, *, passphrase: bytes = b"", where: str, signs_authorities: bool) -> Authority:
    """Return an authority of PEM texts.

    Args:
        certificate: the first certificate counts.
        key: PKCS#1, PKCS#8 or SEC1, RSA or ECDSA, encrypted or not.
        passphrase: of the key; empty if it has none.
        where: names the pair in errors.
        signs_authorities: whether it must be able to sign intermediates (a root), or workloads only.

    Raises:
        InputError: it is not a CA, is expired, may not sign what it must, or the key is that of another certificate.
    """
    chain = _certificates(certificate, where)
    private = load_key(key, passphrase, where)
    if wrong := defects(chain[0], below=int(signs_authorities)):
        raise InputError(f"the certificate {'; '.join(wrong)}", where=where, remedy=MAKE)
    if not key_matches(chain[0], private):
        raise InputError("the key is not the certificate's", where=where, remedy="name the certificate and its own key")
    return Authority(chain[0], private)


def _certificates(pem: bytes, where: str) -> list[Certificate]:
    try:
        chain, why = parse_chain(pem), "no certificate in PEM"
    except CertificateError as error:
        chain, why = [], error.message
    if not chain:
        raise InputError(why, where=where, remedy=MAKE) from None
    return chain


def load_key(pem: bytes, passphrase: bytes, where: str) -> PrivateKey:
    """Return a private key of PEM text.

    Raises:
        InputError: Istio does not support it, or the passphrase is missing or wrong. Neither is quoted.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    encrypted = b"ENCRYPTED" in pem
    if encrypted and not passphrase:
        raise InputError("the key is encrypted, and no passphrase is named", where=where, remedy=HOW_TO_OPEN)
    try:
        key = load_pem_private_key(pem, passphrase if encrypted else None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        message = "the passphrase does not decrypt the key" if encrypted else "no private key in PEM"
        raise InputError(message, where=where, remedy=HOW_TO_OPEN if encrypted else MAKE) from None
    if not isinstance(key, RSAPrivateKey | EllipticCurvePrivateKey):
        raise InputError("the key is neither RSA nor ECDSA; Istio takes no other", where=where, remedy=MAKE)
    if isinstance(key, EllipticCurvePrivateKey) and key.curve.name not in CURVES:
        raise InputError(f"the key's curve is {key.curve.name}; Istio takes {', '.join(CURVES)}", where=where)
    return key


def _unseen(pem: bytes, *, first: bool) -> str:
    """Return what istiod does not see of a file's certificates, or of a file whose `first` block counts alone."""
    seen, there = kinds(pem), len(blocks(pem))
    if first and seen and seen[0] != CERTIFICATE:
        return f"begins with {seen[0]}: istiod takes its first block for the certificate"
    lost = there - seen.count(CERTIFICATE)
    where = "on lines of their own: is there a byte order mark, or no line end before it?"
    return f"has {lost} of {there} certificates that do not begin and end {where}" if lost else ""


def key_problem(pem: bytes) -> str:
    """Return why istiod does not take a sound key as it stands in ca-key.pem, or an empty text.

    Source: ParsePemEncodedKey, security/pkg/pki/util/crypto.go: the first block counts. `openssl ecparam -genkey` puts
    another before it.
    """
    kind = next(iter(kinds(pem)), "")
    good = kind in ("RSA PRIVATE KEY", "EC PRIVATE KEY", "PRIVATE KEY")
    told = kind or "something before its first line (a byte order mark?)"
    return "" if good else f"ca-key.pem begins with {told}: istiod takes its first block for the key"


def load_plugged(files: Mapping[str, bytes], *, passphrase: bytes = b"", where: str) -> CaCerts:
    """Return the `cacerts` of a cluster's four files, after checking that istiod would load them.

    Raises:
        InputError: one is missing, the chain does not end at the root, or one of it is no authority for what is below.
    """
    if missing := cacerts.missing(files):
        raise InputError(f"{', '.join(missing)} missing", where=where, remedy=MAKE)
    signer = load(
        files["ca-cert.pem"], files["ca-key.pem"], passphrase=passphrase, where=where, signs_authorities=False
    )
    for name in ("ca-cert.pem", "cert-chain.pem", "root-cert.pem"):
        if unseen := _unseen(files[name], first=name == "ca-cert.pem"):
            raise InputError(f"{name} {unseen}", where=where, remedy=MAKE)
    root = verify_chain(files, where=where)
    _require_lists(files, where)
    # istiod cannot open an encrypted key.
    from meshkit.istio.ca.issuing import key_pem

    return CaCerts(signer.certificate, root, {**{n: files[n] for n in FILES}, "ca-key.pem": key_pem(signer.key)})


def _require_lists(files: Mapping[str, bytes], where: str) -> None:
    """Require a revocation list by each certificate of the chain, if there are lists at all."""
    if not (text := files.get(cacerts.REVOKED)):
        return
    try:
        lists = revocation.lists(text)
    except ValueError:
        raise InputError(f"{cacerts.REVOKED} cannot be read", where=where, remedy="was it copied completely?") from None
    for one in parse_chain(files["cert-chain.pem"]):
        if not revocation.by(one, lists):
            message = f"{cacerts.REVOKED} has no list by {one.subject.rfc4514_string()}, which is in cert-chain.pem"
            raise InputError(message, where=where, remedy="put a list by each of these certificates there, or none")


def verify_chain(files: Mapping[str, bytes], *, where: str) -> Certificate:
    """Return the root that the certificates of a cluster's four files end at, in whatever order they stand there.

    istiod verifies ca-cert.pem by cert-chain.pem up to root-cert.pem (security/pkg/pki/util, `Verify`). Its proxies
    show their own certificate and cert-chain.pem, which must lead there, too.

    Raises:
        InputError: they do not, or one of them is no authority for what is below it.
    """
    own = _certificates(files["ca-cert.pem"], f"{where}, ca-cert.pem")[0]
    roots = _certificates(files["root-cert.pem"], f"{where}, root-cert.pem")
    text = files["cert-chain.pem"]
    chain = _certificates(text, f"{where}, cert-chain.pem") if text.strip() else []
    found = list(paths(own, chain, roots))
    if not found:
        message = "the chain from ca-cert.pem by cert-chain.pem does not end at root-cert.pem"
        raise InputError(message, where=where, remedy=MAKE)
    if not any(_same_authority(own, one) for one in [*chain, *roots]):
        message = "ca-cert.pem is not in cert-chain.pem, so the chains that proxies present would be incomplete"
        raise InputError(message, where=where, remedy="cert-chain.pem begins with ca-cert.pem")
    wrong = [_wrong(path) for path in found]
    if all(wrong):
        raise InputError(wrong[0], where=where, remedy=MAKE)
    return found[wrong.index("")][-1]


def _same_authority(one: Certificate, other: Certificate) -> bool:
    return one.subject == other.subject and one.public_key() == other.public_key()


def _wrong(path: list[Certificate]) -> str:
    """Return what is wrong with the first certificate of a path that is no authority for what is below it."""
    for below, one in enumerate(path):
        if wrong := defects(one, below=below):
            name = "the certificate" if not below else "the root" if one == path[-1] else one.subject.rfc4514_string()
            return f"{name} {'; '.join(wrong)}"
    return ""


def build_cacerts(own: bytes, key: bytes, pool: bytes, *, where: str) -> dict[str, bytes]:
    """Return a cluster's four files, from an intermediate, its key as it is, and certificates in any order.

    Args:
        own: PEM; the first certificate is the intermediate, the others may be of its chain.
        key: PEM.
        pool: PEM; other certificates that may be of its chain, the root among them.
        where: names it in errors.

    Raises:
        InputError: the certificates up to a self-signed root are not all there.
    """
    from cryptography.hazmat.primitives.serialization import Encoding

    path = _certificates(own, where)[:1]
    # A root may also be there as another root's subordinate: the shortest way up ends at a root.
    known = sorted(parse_bundle(own + b"\n" + pool), key=lambda one: not self_signed(one))
    while not self_signed(path[-1]):
        upper = next((one for one in known if one not in path and signed_by(path[-1], one)), None)
        if upper is None:
            top = path[-1]
            message = f"the issuer of {top.subject.rfc4514_string()} is missing: {top.issuer.rfc4514_string()}"
            raise InputError(message, where=where, remedy="all certificates up to the self-signed root are needed")
        path.append(upper)
    pems = [certificate.public_bytes(Encoding.PEM) for certificate in path]
    return dict(zip(FILES, (pems[0], key, pems[-1], b"".join(pems)), strict=True))


def read_directory(folder: str, clusters: Iterable[str], passphrase_from: Mapping[Any, str]) -> ProvidedCA:
    """Return the user's own CA from a folder as `meshkit ca` or Istio's tools/certs leaves it.

    Args:
        folder: holds root-cert.pem and root-key.pem, or for each cluster a folder of its name with the four files of
            `cacerts`, or both; where a cluster has its folder, that is taken. Instead of these names, each may have
            those of cert-manager (tls.crt, tls.key, ca.crt), or vault.json, an answer of Vault's PKI engine.
        clusters: the clusters of the mesh.
        passphrase_from: `{env: NAME}` or `{file: PATH}` of the keys' passphrase; empty if they have none.

    Raises:
        InputError: a file is missing or wrong, or not all are of one root.
    """
    place = Path(folder)
    if not place.is_dir():
        raise InputError("no such folder", where=folder, remedy="name it in trust.rootDirectory")
    passphrase = read_passphrase(passphrase_from)
    plugged = {
        name: load_plugged(cluster_files(place / name), passphrase=passphrase, where=str(place / name))
        for name in clusters
        if (place / name).is_dir()
    }
    signer = read_signer(place, passphrase)
    lacking = [] if signer else [name for name in clusters if name not in plugged]
    if lacking:
        message = f"neither root-key.pem nor a folder for {', '.join(lacking)} with {', '.join(FILES)}"
        raise InputError(message, where=folder, remedy=MAKE)
    return ProvidedCA(require_single_root([*plugged.values(), *([signer] if signer else [])], folder), signer, plugged)


def read_signer(folder: Path, passphrase: bytes) -> Authority | None:
    """Return the root of a folder with its key; without a key, None.

    Raises:
        InputError: a file is wrong, the key is that of another certificate, or it is not a root.
    """
    files = read(folder, ("root-cert.pem", "root-key.pem"))
    own = ("root-key.pem", files.get("root-cert.pem", b""), files.get("root-key.pem", b""), b"")
    found = own if "root-key.pem" in files else _foreign(folder)
    if not found or (found is not own and not found[2]):
        return None
    name, certificate, key, _ = found
    signer = load(certificate, key, passphrase=passphrase, where=str(folder / name), signs_authorities=True)
    if not self_signed(signer.certificate):
        message = f"it is no root, but signed by {signer.certificate.issuer.rfc4514_string()}"
        raise InputError(message, where=str(folder / name), remedy="let it sign requests: `meshkit ca request`")
    return signer


def require_single_root(of: Iterable[CaCerts | Authority], where: str) -> Certificate:
    """Require one self-signed root in common, and return it.

    Raises:
        InputError: there are several, or the common one is not self-signed.
    """
    found = [one.root if isinstance(one, CaCerts) else one.certificate for one in of]
    roots = {fingerprint(root): root for root in found}
    if len(roots) != 1:
        message = f"{len(roots)} different roots: {', '.join(sorted(digest[:16] for digest in roots))}"
        raise InputError(message, where=where, remedy="all intermediates must be of the one root-cert.pem")
    root = next(iter(roots.values()))
    if not self_signed(root):
        message = (
            f"root-cert.pem is no root: {root.subject.rfc4514_string()} is signed by {root.issuer.rfc4514_string()}"
        )
        raise InputError(
            message, where=where, remedy="put the self-signed root there, and the rest into cert-chain.pem"
        )
    return root


def cluster_files(folder: Path) -> dict[str, bytes]:
    """Return those of a cluster's four files that a folder has; those of cert-manager and Vault are made into them.

    Raises:
        InputError: one cannot be read, or the certificates up to the root are not all there.
    """
    found = read(folder, FILES)
    if "ca-cert.pem" in found or not (foreign := _foreign(folder)):
        return found
    file, own, key, above = foreign
    beside = read(folder.parent, ("root-cert.pem",)).get("root-cert.pem", b"")
    pool = above + b"\n" + found.get("root-cert.pem", b"") + b"\n" + beside
    return build_cacerts(own, key or found.get("ca-key.pem", b""), pool, where=str(folder / file))


def _foreign(folder: Path) -> tuple[str, bytes, bytes, bytes] | None:
    """Return a file's name, certificates, key, and the certificates above, as cert-manager or Vault name them."""
    found = read(folder, ("tls.crt", "tls.key", "ca.crt", VAULT))
    if VAULT in found:
        return VAULT, *vault_answer(found[VAULT], str(folder / VAULT)), b""
    if "tls.crt" not in found:
        return None
    return "tls.crt", found["tls.crt"], found.get("tls.key", b""), found.get("ca.crt", b"")


def vault_answer(text: bytes, where: str) -> tuple[bytes, bytes]:
    """Return the certificates, and the key if it is there, of what `vault write -format=json pki/…` printed.

    Raises:
        InputError: it is no such answer. Nothing of it is quoted.
    """
    try:
        answer = json.loads(text)
        data = answer.get("data", answer)
        chain = [data["certificate"], *(data.get("ca_chain") or []), data.get("issuing_ca") or ""]
        return "\n".join(chain).encode(), str(data.get("private_key") or "").encode()
    except (ValueError, TypeError, KeyError, AttributeError):
        message = "no answer of Vault's PKI engine: expected JSON with data.certificate"
        raise InputError(message, where=where, remedy="`vault write -format=json …/sign-intermediate …`") from None


def read(folder: Path, names: Iterable[str]) -> dict[str, bytes]:
    """Return what those of the named files hold that a folder has.

    Raises:
        InputError: one cannot be read.
    """
    try:
        return {name: (folder / name).read_bytes() for name in names if (folder / name).exists()}
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", where=str(folder)) from None


def read_passphrase(source: Mapping[Any, str], where: str = "trust.passphraseFrom.") -> bytes:
    """Return the passphrase that `{env: NAME}` or `{file: PATH}` names; of neither, nothing. A last line end is cut.

    Raises:
        InputError: there is no such variable or file; `where` begins its place.
    """
    if name := source.get("env", ""):
        if not os.environ.get(name):
            message = f"{name} is {'empty' if name in os.environ else 'not set'}"
            raise InputError(message, where=f"{where}env", remedy=f"export {name}=…")
        return os.fsencode(os.environ[name])
    if not source.get("file"):
        return b""
    try:
        path = expanded(source["file"])
    except ValueError as error:
        raise InputError(f"{error}, got {source['file']!r}", where=f"{where}file") from None
    try:
        passphrase = path.read_bytes().rstrip(b"\r\n")
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", where=f"{where}file {path}") from None
    if not passphrase:
        raise InputError("it is empty", where=f"{where}file {path}", remedy="the passphrase is its one line")
    return passphrase
