"""No private key, token or credential survives, in whatever wrapping."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given
from hypothesis import strategies as st
from nbformat.v4 import new_code_cell, new_notebook, new_output

from meshkit.runs.redact import Redactor, redact, scan


def pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, shape: str = "PKCS8") -> str:
    """Return a private key as PEM."""
    how = getattr(serialization.PrivateFormat, shape)
    return key.private_bytes(serialization.Encoding.PEM, how, serialization.NoEncryption()).decode()


EC_KEY = pem(ec.generate_private_key(ec.SECP256R1()))
RSA_KEY = pem(rsa.generate_private_key(65537, 2048), "TraditionalOpenSSL")
PACKED_KEY = base64.b64encode(RSA_KEY.encode()).decode()
JWT = "eyJhbGciOiJSUzI1NiIsImtpZCI6IjEifQ.eyJpc3MiOiJrdWJlcm5ldGVzL3NlcnZpY2VhY2NvdW50In0.c2lnbmF0dXJlLW9mLWl0"
KUBECONFIG = f"""apiVersion: v1
users:
- name: admin
  user:
    client-certificate-data: LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0t
    client-key-data: {PACKED_KEY}
    token:   opaque-token-of-admin
- name: other
  user: {{username: u, password: hunter2}}
"""
SECRETS = {
    "ec": (EC_KEY, EC_KEY.splitlines()[1]),
    "rsa": (RSA_KEY, RSA_KEY.splitlines()[5]),
    "cut key": (RSA_KEY[:300], RSA_KEY.splitlines()[2]),
    "packed key": (f"data/{PACKED_KEY}", PACKED_KEY[100:140]),
    "jwt": (f"token is {JWT}.", JWT[40:]),
    "packed jwt": (base64.b64encode(JWT.encode()).decode(), base64.b64encode(JWT.encode()).decode()[20:60]),
    "bearer": ("Authorization: Bearer abcdefghij0123456789xyz", "abcdefghij0123456789xyz"),
    "kubeconfig token": (KUBECONFIG, "opaque-token-of-admin"),
    "kubeconfig password": (KUBECONFIG, "hunter2"),
    "kubeconfig key": (KUBECONFIG, PACKED_KEY[50:90]),
    "remote secret": (
        base64.b64encode(KUBECONFIG.encode()).decode(),
        base64.b64encode(KUBECONFIG.encode()).decode()[40:90],
    ),
    "wrapped": (
        base64.encodebytes(KUBECONFIG.encode()).decode(),
        base64.encodebytes(KUBECONFIG.encode()).decode()[80:140],
    ),
}
WRAPPINGS: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "repr": repr,
    "json": lambda text: json.dumps({"value": text}),
    "json in json": lambda text: json.dumps(json.dumps({"value": text})),
    "html": html.escape,
}


@pytest.mark.parametrize("wrap", WRAPPINGS.values(), ids=list(WRAPPINGS))
@pytest.mark.parametrize(("text", "core"), SECRETS.values(), ids=list(SECRETS))
def test_a_secret_is_gone_and_stays_gone(text: str, core: str, wrap: Callable[[str], str]) -> None:
    """And what stands in its place is not taken for a secret again."""
    clean = redact(f"before {wrap(text)} after" if wrap is str and "\n" not in text else wrap(text))
    assert core not in clean
    assert "[redacted " in clean
    assert Redactor(paths={}).kinds(clean) == []


@pytest.mark.parametrize(
    "text",
    [
        "token: expired 3 h ago",
        "the bearer authentication-of-something-long failed",
        "token = get_token(cluster)",
        "serviceAccountToken: {audience: istio-ca}",
        "tokenFile: /var/run/secrets/tokens/istio-token",
        "passphraseFrom: {env: ROOT_PASSPHRASE}",
        base64.b64encode(b"-----BEGIN CERTIFICATE-----\nMIIB" + b"A" * 400).decode(),
        "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----",
        "-----BEGIN PUBLIC KEY-----\nMIIB\n-----END PUBLIC KEY-----",
        "sha256:" + "ab" * 32,
    ],
)
def test_what_is_public_stays(text: str) -> None:
    """Certificates, digests, references to secrets and prose about them."""
    assert redact(text) == text


@given(st.text())
def test_redaction_is_idempotent(text: str) -> None:
    """Whatever comes."""
    assert redact(redact(text)) == redact(text)


def test_a_known_secret_is_found_in_every_spelling() -> None:
    """Also where nothing in its shape gives it away."""
    secret = 'corr&ct "horse"'
    redactor = Redactor([secret], paths={})
    for wrap in WRAPPINGS.values():
        if wrap is not WRAPPINGS["json in json"]:
            assert "horse" not in redactor.text(wrap(secret))
    assert "Y29ycm" not in redactor.text(base64.b64encode(secret.encode()).decode())


def test_paths_of_this_machine_are_printed_relative() -> None:
    """A change record does not name the operator's home."""
    redactor = Redactor(paths={"/home/ann": "~", "/home/ann/mesh": ".", "/root": "~"})
    text = redactor.text("/home/ann/mesh/a.yaml, /home/ann/.kube/config, /home/anna/x, /rootfs, '/root'")
    assert text == "./a.yaml, ~/.kube/config, /home/anna/x, /rootfs, '~'"


def test_a_key_printed_in_pieces_is_joined_first() -> None:
    """Each line of it is a stream output of its own."""
    lines = [new_output("stream", name="stdout", text=line) for line in EC_KEY.splitlines(keepends=True)]
    nb = new_notebook(cells=[new_code_cell("show()", outputs=lines)])
    Redactor(paths={}).notebook(nb)
    assert nb.cells[0].outputs[0].text == "[redacted private key]\n"


def test_a_notebook_is_redacted_everywhere_but_in_its_pictures() -> None:
    """Source, streams, data of all kinds, errors and metadata."""
    data = {"text/html": html.escape(KUBECONFIG), "application/vnd.x+json": {"rows": [[JWT]]}, "image/png": PACKED_KEY}
    outputs = [
        new_output("display_data", data=data),
        new_output("error", ename="E", evalue=JWT, traceback=[EC_KEY]),
    ]
    nb = new_notebook(
        cells=[new_code_cell(f"x = '{JWT}'", outputs=outputs)], metadata={"papermill": {"parameters": JWT}}
    )
    Redactor(paths={}).notebook(nb)
    text = json.dumps(nb)
    assert not any(core in text for core in (JWT, "hunter2", EC_KEY.splitlines()[1]))
    assert PACKED_KEY in text


def test_the_scan_names_the_file_and_the_kind_but_not_the_secret(tmp_path: Path) -> None:
    """What it finds must not leak through its own report."""
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "x.csv").write_text(f"a,{JWT}\n")
    (tmp_path / "fine.txt").write_text("nothing here")
    (tmp_path / "key.json").write_text(json.dumps({"lines": EC_KEY.splitlines()}))
    hits = scan(tmp_path)
    assert [(hit.file, hit.kind) for hit in hits] == [("key.json", "private key"), ("tables/x.csv", "JSON web token")]
    assert JWT not in repr(hits)


def test_a_certificate_request_passes_the_scan(tmp_path: Path) -> None:
    """What is public and looks like a key is no hit."""
    key = ec.generate_private_key(ec.SECP256R1())
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    (tmp_path / "request.pem").write_bytes(request.public_bytes(serialization.Encoding.PEM))
    assert scan(tmp_path) == []
