"""The CAs of a lab's clusters, made by openssl as their users make them: one root, and what istiods sign with."""

from __future__ import annotations

import shutil
from pathlib import Path

from meshlab.layout import Site
from meshlab.tools import Tools

ROOT, ISSUING = "root", "issuing"
CONFIG = "[req]\ndistinguished_name=subject\n[subject]\n"
"""All that `openssl req` reads; what a CA needs is on its command line."""
DAYS = {None: 3650, 1: 1825, 0: 730}
"""How long a CA lives, by how many there may be below it: none outlives its issuer."""
CERT_MANAGER = {
    "cert-manager.io/certificate-name": "istio-ca",
    "cert-manager.io/common-name": "Intermediate CA",
    "cert-manager.io/issuer-kind": "ClusterIssuer",
    "cert-manager.io/issuer-name": "mesh-ca",
    "cert-manager.io/issuer-group": "cert-manager.io",
}
"""What cert-manager writes on the Secret of a Certificate."""


def make_root(tools: Tools) -> None:
    """Make the common root, and with three tiers the CA below it that issues the clusters' own."""
    folder = tools.home / "certs"
    folder.mkdir(mode=0o700)
    issue(tools, folder / ROOT, "/O=Istio/CN=Root CA")
    if tools.shape.certificates.tiers == 3:
        issue(tools, folder / ISSUING, "/O=Istio/CN=Issuing CA", issuer=folder / ROOT, below=1)


def plug(tools: Tools, site: Site) -> None:
    """Make a cluster's CA and plug it in as the Secret cacerts, in the namespace istio-system."""
    how, folder = tools.shape.certificates, tools.home / "certs" / site.name
    folder.mkdir(mode=0o700)
    above = [folder.parent / name for name in (ISSUING, ROOT)[3 - how.tiers :]]
    if above:
        issue(tools, folder / "ca", f"/O=Istio/CN=Intermediate CA/L={site.name}", issuer=above[0], below=0)
    else:  # the CA is the root itself
        for kind in ("cert", "key"):
            shutil.copy(pem(folder.parent / ROOT, kind), pem(folder / "ca", kind))
    chain = [pem(name, "cert").read_text() for name in (folder / "ca", *above)]
    root = pem(folder.parent / ROOT, "cert").read_text()
    if how.form == "cert-manager":
        files = {
            "tls.crt": "".join(chain[:-1] or chain),
            "tls.key": pem(folder / "ca", "key").read_text(),
            "ca.crt": root,
        }
    else:
        files = {"root-cert.pem": root, "cert-chain.pem": "".join(chain[:: -1 if how.order == "root-first" else 1])}
    for name, text in files.items():
        (folder / name).write_text(text)
    secret(tools, site, folder, [*files] if "tls.crt" in files else [*files, "ca-cert.pem", "ca-key.pem"])


def secret(tools: Tools, site: Site, folder: Path, files: list[str]) -> None:
    """Create the Secret cacerts of files, as kubectl's users or as cert-manager."""
    data = [f"--from-file={folder / name}" for name in files]
    create = ("create", "secret", "generic", "cacerts", "-n", "istio-system", *data)
    if "tls.crt" not in files:
        tools.kubectl(site, *create)
        return
    manager = "--field-manager=cert-manager-certificates-issuing"
    tools.kubectl(site, *create, "--type=kubernetes.io/tls", manager)
    notes = [f"{key}={value}" for key, value in CERT_MANAGER.items()]
    tools.kubectl(site, "annotate", "secret", "cacerts", "-n", "istio-system", manager, *notes)


def issue(tools: Tools, name: Path, subject: str, *, issuer: Path | None = None, below: int | None = None) -> None:
    """Make a CA: NAME-cert.pem and NAME-key.pem, signed by the issuer of that name, else by itself.

    Args:
        tools: the lab's.
        name: path of its files, without `-cert.pem`.
        subject: its name, as openssl writes it.
        issuer: the CA that signs it.
        below: how many CAs there may be below it (pathlen).
    """
    extensions = [
        f"basicConstraints=critical,CA:TRUE{'' if below is None else f',pathlen:{below}'}",
        "keyUsage=critical,digitalSignature,keyCertSign,cRLSign",
        "subjectKeyIdentifier=hash",
        *([] if issuer is None else ["authorityKeyIdentifier=keyid"]),
        *(["subjectAltName=DNS:istiod.istio-system.svc"] if below == 0 else []),
    ]
    signed = [] if issuer is None else ["-CA", str(pem(issuer, "cert")), "-CAkey", str(pem(issuer, "key"))]
    added = [word for extension in extensions for word in ("-addext", extension)]
    request = ("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-sha256", "-days", str(DAYS[below]), "-subj", subject)
    files = ("-keyout", str(pem(name, "key")), "-out", str(pem(name, "cert")))
    tools.run("openssl", *request, "-config", "/dev/stdin", *added, *signed, *files, stdin=CONFIG)


def pem(name: Path, kind: str) -> Path:
    """Return the file of a CA's certificate (`cert`) or key."""
    return name.with_name(f"{name.name}-{kind}.pem")
