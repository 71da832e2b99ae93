"""Who we are to an API server: impersonation, token files, exec plugins; and that no credential is disclosed."""

from __future__ import annotations

import base64
import ipaddress
import json
import logging
import ssl
import stat
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from meshkit.errors import InputError, MeshkitError, UnreachableError
from meshkit.kube import identity
from meshkit.kube.cluster import Cluster
from meshkit.kube.transport import NotFoundError
from tests.support.between import Recorder, cluster_of, recorder, serving

V1, V1BETA1 = "client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1"


LATER = "2199-01-01T00:00:00Z"


@pytest.fixture
def kubernetes() -> Iterator[Recorder]:
    """A server that keeps what it is sent."""
    with recorder() as seen:
        yield seen


def known(folder: Path, kubernetes: Recorder, **user: Any) -> Cluster:
    """Return the recorder, seen as a user."""
    return cluster_of(folder / "kubeconfig", {"server": kubernetes.address}, user)


def everything(error: BaseException | None) -> str:
    """Return all that a traceback could show of an error and its causes."""
    text = ""
    while error is not None:
        text += f"{error} {error!r} {error.args!r} {getattr(error, 'object', '')} "
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return text


def test_every_request_and_every_stream_says_it(kubernetes: Recorder, tmp_path: Path) -> None:
    """Whatever is asked, with each group in a header of its own."""
    cluster = known(tmp_path, kubernetes, token="t", **{"as": "me", "as-groups": ["a", "b"]})
    cluster.version()
    assert kubernetes.last()["impersonate-group"] == ["a", "b"]
    with pytest.raises(NotFoundError):
        cluster.exec("pod", "default", "app", ["true"])
    assert "upgrade" in kubernetes.last()
    for _, headers in kubernetes.requests:
        assert (headers["authorization"], headers["impersonate-user"]) == (["Bearer t"], ["me"])


def test_a_token_of_another_does_not_impersonate(kubernetes: Recorder, tmp_path: Path) -> None:
    """A remote secret's token is tried as istiod will use it."""
    cluster = known(tmp_path, kubernetes, token="t", **{"as": "me"})
    cluster.with_token("other").version()
    assert kubernetes.last()["authorization"] == ["Bearer other"]
    assert "impersonate-user" not in kubernetes.last()


@pytest.mark.parametrize(
    "user",
    [
        {"as-groups": ["a"]},
        {"as-uid": "1"},
        {"as-user-extra": {"a": ["b"]}},
        {"as": "me", "as-groups": "a"},
        {"as": "me", "as-user-extra": {"a": "b"}},
        {"as": "me\nImpersonate-Group: system:masters"},
    ],
)
def test_half_an_impersonation_is_refused(kubernetes: Recorder, tmp_path: Path, user: dict[str, Any]) -> None:
    """As kubectl does; nothing is sent."""
    with pytest.raises(InputError, match=r"as-|Impersonate-"):
        known(tmp_path, kubernetes, token="t", **user).version()
    assert kubernetes.requests == []


def test_a_token_file_is_trimmed_and_read_again(kubernetes: Recorder, tmp_path: Path) -> None:
    """The kubelet replaces it; while it is empty or gone, the last one holds."""
    (tmp_path / "token").write_text("one\n")
    cluster = known(tmp_path, kubernetes, tokenFile="token")
    seen = []
    for text in ("one\n", " two\r\n", "", None):
        (tmp_path / "token").write_text(text) if text is not None else (tmp_path / "token").unlink()
        cluster.version()
        seen += kubernetes.last()["authorization"]
    assert seen == ["Bearer one", "Bearer two", "Bearer two", "Bearer two"]


@pytest.mark.parametrize("content", [None, b"", b"\n", b"\xff\xfe"])
def test_without_a_token_no_request_is_sent(kubernetes: Recorder, tmp_path: Path, content: bytes | None) -> None:
    """The file is named."""
    if content is not None:
        (tmp_path / "token").write_bytes(content)
    with pytest.raises(UnreachableError, match="token file holds no token") as caught:
        known(tmp_path, kubernetes, tokenFile=str(tmp_path / "token")).version()
    assert str(tmp_path / "token") in str(caught.value)
    assert kubernetes.requests == []


@pytest.mark.parametrize("token", ["canary\nX: y", "canary\x00", "canaryé", "canary…", "canary\ud83d\ude00"[:7]])
@pytest.mark.parametrize("kind", ["token", "tokenFile", "with_token", "line feed"])
def test_a_token_that_no_header_carries_is_not_quoted(
    kubernetes: Recorder, tmp_path: Path, token: str, kind: str
) -> None:
    """http.client's own error quotes it."""
    (tmp_path / "token").write_bytes(token.encode("utf-8", "surrogatepass"))
    # Neither kubectl nor istiod trims a token that stands in a kubeconfig itself: what they refuse must not pass here.
    users = {"token": token, "tokenFile": "", "with_token": "t", "line feed": "canary\n"}
    user = {"token": users[kind]} if users[kind] else {"tokenFile": str(tmp_path / "token")}
    cluster = known(tmp_path, kubernetes, **user)
    with pytest.raises(MeshkitError) as caught:
        (cluster.with_token(token) if kind == "with_token" else cluster).version()
    assert "canary" not in everything(caught.value)
    assert kubernetes.requests == []


def test_nothing_that_is_kept_shows_a_credential(
    kubernetes: Recorder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither the representation of what holds it, nor any log."""
    caplog.set_level(logging.DEBUG)
    for user in ({"token": "canary"}, {"username": "me", "password": "canary"}):
        cluster = known(tmp_path, kubernetes, **user)
        cluster.version()
        parts = [cluster, cluster.session, cluster.session.identity, cluster.session.identity.source]
        assert "canary" not in f"{parts!r} {[vars(part) for part in parts[:3]]!r} {caplog.text}"
    other = cluster.with_token("canary")
    other.version()
    assert "canary" not in f"{vars(other)!r} {caplog.text}"
    known(tmp_path, kubernetes, username="me", password="canary").version()
    assert kubernetes.last()["authorization"] == ["Basic " + base64.b64encode(b"me:canary").decode()]


def plugin(folder: Path, script: str, **fields: Any) -> dict[str, Any]:
    """Write a plugin in Python, and return the user who has it."""
    path = folder / "corp-login"
    path.write_text(f"#!{sys.executable}\nimport json, os, sys\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    told = {"command": "./corp-login", "apiVersion": V1, "interactiveMode": "IfAvailable", **fields}
    return {"exec": told}


def credential(version: str = V1, **status: Any) -> str:
    """Return the code that prints an ExecCredential."""
    document = {"apiVersion": version, "kind": "ExecCredential", "status": status}
    return f"print({json.dumps(json.dumps(document))})"


@pytest.mark.parametrize("version", [V1, V1BETA1])
def test_a_plugin_is_run_once_until_its_credential_ends(kubernetes: Recorder, tmp_path: Path, version: str) -> None:
    """Its token is sent; it gets its own description and, if it wants, the cluster's."""
    script = f"open('{tmp_path}/runs', 'a').write(os.environ['KUBERNETES_EXEC_INFO'] + '\\n'); "
    fields = {"apiVersion": version, "provideClusterInfo": True, "env": [{"name": "A", "value": "b"}], "args": ["x"]}
    user = plugin(tmp_path, script + credential(version, token="canary", expirationTimestamp=LATER), **fields)
    cluster = known(tmp_path, kubernetes, **user)
    for _ in range(3):
        cluster.version()
    assert kubernetes.last()["authorization"] == ["Bearer canary"]
    (told,) = [json.loads(line) for line in (tmp_path / "runs").read_text().splitlines()]
    assert (told["apiVersion"], told["spec"]["interactive"]) == (version, False)
    assert told["spec"]["cluster"]["server"] == kubernetes.address
    ended = plugin(
        tmp_path, script + credential(version, token="t", expirationTimestamp="2020-01-01T00:00:00Z"), **fields
    )
    cluster = known(tmp_path, kubernetes, **ended)
    cluster.version()
    assert len((tmp_path / "runs").read_text().splitlines()) > 2, "one that has ended is asked for again"


def test_a_refused_token_is_asked_for_again(tmp_path: Path) -> None:
    """After a 401 the plugin is run again."""
    with recorder(lambda _: (401, {})) as kubernetes:
        script = f"open('{tmp_path}/runs', 'a').write('.'); " + credential(token="t")
        cluster = known(tmp_path, kubernetes, **plugin(tmp_path, script))
        for _ in range(2):
            with pytest.raises(UnreachableError, match="401"):
                cluster.version()
    assert (tmp_path / "runs").read_text() == ".."


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("print('no session for canary', file=sys.stderr); sys.exit(255)", ["failed with exit code 255", "no session"]),
        ("print('<html>canary</html>')", ["printed a web page instead of an ExecCredential"]),
        ('print(\'{"token": "canary"}\')', ["printed something else"]),
        ("", ["printed nothing"]),
        (credential(), ["without a credential"]),
        (credential(clientCertificateData="canary"), ["certificate without its key"]),
        (credential(token=["canary"]), ["whose fields are not texts"]),
        (credential(V1BETA1, token="canary"), ["another apiVersion"]),
        (credential(token="canary", expirationTimestamp="soon"), ["not a time"]),
        (credential(token="canary\n2"), ["no header can carry"]),
        ("sys.exit(0 if input('code: ') else 3)", ["exit code 1", "EOFError"]),
        ("open('/dev/tty').readline()", ["exit code 1"]),
        ("print('token=canary password: canary', file=sys.stderr); sys.exit(2)", ["exit code 2", "token=[redacted]"]),
        (f"{credential(token='canary1')}; print('got canary1', file=sys.stderr); sys.exit(9)", ["got [redacted]"]),
    ],
)
def test_a_plugin_that_fails_is_named_and_nothing_is_sent(
    kubernetes: Recorder, tmp_path: Path, script: str, words: list[str]
) -> None:
    """With its exit code, the first lines that it said, and its hint; a stream says the same."""
    hint = {"installHint": "\x1b[1mask the platform team", "env": [{"name": "MY_TOKEN", "value": "for canary"}]}
    user = plugin(tmp_path, script, **hint)
    for act in (Cluster.version, lambda cluster: cluster.exec("pod", "default", "app", ["true"])):
        with pytest.raises(MeshkitError) as caught:
            act(known(tmp_path, kubernetes, **user))
        text = str(caught.value)
        assert "exec plugin corp-login" in text
        assert not [word for word in words if word not in text], text
        assert "canary" not in everything(caught.value).replace("carry", "")
        assert "ask the platform team" in text or "header" in text
    assert kubernetes.requests == []


def test_a_plugin_that_is_not_installed_gives_its_hint(kubernetes: Recorder, tmp_path: Path) -> None:
    """It is no 403 of the API server."""
    told = {"command": "no-such-plugin", "apiVersion": V1BETA1, "installHint": "brew install no-such-plugin"}
    with pytest.raises(UnreachableError, match="no-such-plugin is not installed") as caught:
        known(tmp_path, kubernetes, exec=told).version()
    assert "brew install no-such-plugin" in str(caught.value)
    assert kubernetes.requests == []


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"interactiveMode": "Always"}, "needs a terminal"),
        ({"interactiveMode": "Sometimes"}, "expected interactiveMode"),
        ({"interactiveMode": None}, "expected interactiveMode"),
        ({"apiVersion": "client.authentication.k8s.io/v1alpha1"}, "expected apiVersion"),
        ({"command": ""}, "no command"),
        ({"args": "x"}, "expected a list as args"),
        ({"env": ["A"]}, "each entry of env"),
        ({"env": [{"value": "b"}]}, "each entry of env"),
    ],
)
def test_a_plugin_that_cannot_serve_is_refused_in_words(
    kubernetes: Recorder, tmp_path: Path, fields: dict[str, Any], words: str
) -> None:
    """It is not run."""
    user = plugin(tmp_path, f"open('{tmp_path}/runs', 'a')", **fields)
    with pytest.raises(MeshkitError, match=words):
        known(tmp_path, kubernetes, **user).version()
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("told", [{}, [], "x", 3])
def test_half_a_plugin_is_no_user_without_a_credential(kubernetes: Recorder, tmp_path: Path, told: Any) -> None:
    """An entry `exec` says that a credential is wanted."""
    with pytest.raises(InputError):
        known(tmp_path, kubernetes, exec=told).version()
    assert kubernetes.requests == []


def test_a_plugin_that_hangs_is_ended_and_not_run_again_at_once(
    kubernetes: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what it started."""
    monkeypatch.setattr(identity, "PLUGIN_TIMEOUT", 1.0)
    script = f"open('{tmp_path}/runs', 'a').write('.'); import subprocess; subprocess.run(['sleep', '60'])"
    cluster, began = known(tmp_path, kubernetes, **plugin(tmp_path, script)), time.monotonic()
    for _ in range(3):
        with pytest.raises(UnreachableError, match="corp-login was not done within 1 s"):
            cluster.version()
    assert time.monotonic() - began < 5
    assert (tmp_path / "runs").read_text() == "."


def test_a_plugin_may_give_a_certificate(tmp_path: Path) -> None:
    """It is shown to the server, in streams too; one that ends is replaced by the next."""
    server_key, server = _pair("127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    (tmp_path / "server.pem").write_bytes(server_key + server)
    context.load_cert_chain(tmp_path / "server.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    statuses, known_clients = [], b""
    for name in ("one", "two"):
        key, certificate = _pair(name)
        known_clients += certificate
        told = {"clientCertificateData": certificate.decode(), "clientKeyData": key.decode()}
        # The second is what the plugin gives from its second run on.
        statuses.append({**told, "expirationTimestamp": LATER if name == "two" else "2020-01-01T00:00:00Z"})
    context.load_verify_locations(cadata=known_clients.decode())
    document = {"apiVersion": V1, "kind": "ExecCredential"}
    script = f"""
path = {str(tmp_path / "runs")!r}
open(path, 'a').write('.')
status = {statuses!r}[min(len(open(path).read()), 2) - 1]
print(json.dumps({{**{document!r}, 'status': status}}))"""
    names: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            shown: Any = self.connection.getpeercert()  # type: ignore[attr-defined]
            names.append(shown["subject"][0][0][1])
            body = b'{"gitVersion": "v1"}'
            self.send_response(404 if self.headers.get("Upgrade") else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            """Say nothing."""

    (tmp_path / "ca.crt").write_bytes(server)
    with serving(Handler, context) as port:
        told = {"server": f"https://127.0.0.1:{port}", "certificate-authority": "ca.crt"}
        cluster = cluster_of(tmp_path / "kubeconfig", told, plugin(tmp_path, script))
        assert cluster.version() == "v1"
        assert cluster.version() == "v1"
        with pytest.raises(NotFoundError):
            cluster.exec("pod", "default", "app", ["true"])
    assert set(names) <= {"one", "two"}
    assert names[1:] == ["two", "two"]


def _pair(name: str) -> tuple[bytes, bytes]:
    """Return a key and a certificate of it, good for clients and for an address of loopback."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC).replace(tzinfo=None)
    builder = x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number(), now)
    alternative = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    builder = builder.not_valid_after(now + timedelta(days=1)).add_extension(alternative, critical=False)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return private, builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
