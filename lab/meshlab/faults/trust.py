"""Faults of trust: roots that others do not know, clocks that disagree."""

from __future__ import annotations

import base64
import datetime as dt

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from meshlab.faults.bench import Bench
from meshlab.faults.fault import fault
from meshlab.faults.objects import Ref
from meshlab.faults.pods import ISTIOD, PROXIES

CACERTS = Ref("Secret", "cacerts")
SKEW = 600
HALF_SLOW = "calls to other clusters fail with CERTIFICATE_VERIFY_FAILED; with an endpoint at home they are only slower"


@fault(behind="P1 P3", users=HALF_SLOW, finding="MK807")
def different_roots(bench: Bench) -> None:
    """The cluster signs with a root of its own, and trusts no other."""
    key, root = new_root()
    sign_with(bench, key, root, root)


@fault(behind="P1 P2 F7", users=HALF_SLOW, finding="MK807")
def combined_root_missing(bench: Bench) -> None:
    """The cluster signs with a new root and trusts both; the others do not know the new one."""
    key, root = new_root()
    old = base64.b64decode(bench.get(bench.site, CACERTS)["data"]["root-cert.pem"]).decode()
    sign_with(bench, key, root, root + old)


@fault(
    behind="P25 F14",
    users="nothing, until proxies get their next certificates: they are valid in the others' future only",
    finding="MK203",
)
def skewed_clock(bench: Bench) -> None:
    """The clock of the cluster's machine is 10 minutes ahead, for all that runs on it now."""
    bench.clock(bench.site, SKEW)


def sign_with(bench: Bench, key: str, root: str, bundle: str) -> None:
    """Give istiod another signing certificate and bundle of roots, and restart all that holds the old ones."""
    files = {"ca-key.pem": key, "ca-cert.pem": root, "cert-chain.pem": root, "root-cert.pem": bundle}
    data = {name: base64.b64encode(text.encode()).decode() for name, text in files.items()}
    bench.edit(bench.site, CACERTS, lambda secret: secret.update(data=data))
    bench.restart(bench.site, ISTIOD, PROXIES)


def new_root() -> tuple[str, str]:
    """Return the key and the certificate, in PEM, of a root that signs workloads itself."""
    key = rsa.generate_private_key(65537, 2048)
    name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Istio"),
                      x509.NameAttribute(NameOID.COMMON_NAME, "Another Root CA")])  # fmt: skip
    now = dt.datetime.now(dt.UTC)
    usage = dict.fromkeys(("content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
                           "encipher_only", "decipher_only"), False)  # fmt: skip
    usage |= dict.fromkeys(("digital_signature", "key_cert_sign", "crl_sign"), True)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(minutes=5))
        .not_valid_after(now + dt.timedelta(days=3650))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(**usage), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    return pem.decode(), certificate.public_bytes(serialization.Encoding.PEM).decode()
