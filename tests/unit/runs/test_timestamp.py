"""The signed time of a record, by a real authority: openssl's, behind a small server on loopback."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from meshkit.errors import InputError, UnreachableError
from meshkit.runs import post, signature, timestamp
from meshkit.runs.folder import RECORD, SIGNATURE, TIMESTAMP, RunFolder
from meshkit.runs.signature import Signer
from meshkit.runs.verification import Verification, _time
from meshkit.spec import MeshSpec
from tests.support.api_server import free_port
from tests.support.receiver import Receiver, receiver

CONFIG = """
[tsa]
serial = serial
signer_digest = sha256
default_policy = 1.2.3.4.1
digests = sha256
signer_cert = tsa.pem
signer_key = tsa.key
"""
EXTENSIONS = "extendedKeyUsage=critical,timeStamping\nbasicConstraints=critical,CA:FALSE\n"
ABOUT = {"mesh": "shop", "operator": "otto", "ticket": "", "ended": "2026-03-01T12:00:00Z"}


def openssl(home: Path, *words: str) -> None:
    """Run openssl in a folder."""
    subprocess.run(["openssl", *words], cwd=home, check=True, capture_output=True)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an authority: root, certificate, key."""
    home = tmp_path_factory.mktemp("tsa")
    (home / "tsa.cnf").write_text(CONFIG)
    (home / "extensions").write_text(EXTENSIONS)
    (home / "serial").write_text("01\n")
    root = ["-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=root", "-days", "2", "-keyout", "root.key"]
    openssl(home, "req", *root, "-out", "root.pem")
    openssl(home, "req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=tsa", "-keyout", "tsa.key", "-out", "tsa.csr")
    signed = ["-CA", "root.pem", "-CAkey", "root.key", "-CAcreateserial", "-days", "2", "-extfile", "extensions"]
    openssl(home, "x509", "-req", "-in", "tsa.csr", *signed, "-out", "tsa.pem")
    openssl(home, "req", *root[:-1], "other.key", "-out", "other.pem")
    return home


@pytest.fixture
def authority(home: Path) -> Iterator[Receiver]:
    """That authority as a server."""

    def answer(query: bytes) -> tuple[int, bytes]:
        (home / "query").write_bytes(query)
        openssl(home, "ts", "-reply", "-config", "tsa.cnf", "-section", "tsa", "-queryfile", "query", "-out", "reply")
        return 200, (home / "reply").read_bytes()

    with receiver(answer) as there:
        yield there


def signed_run(out: Path, url: str) -> tuple[Path, str]:
    """Sign the record of a run and its time; return the folder and what is lacking."""
    run = RunFolder(out, "shop", "plan")
    run.close_events()
    run.write(RECORD, "{}")
    lacking = signature.sign(run, Signer(Ed25519PrivateKey.generate()), ABOUT, url)
    run.close()
    return run.path, lacking


def mesh_of(roots: Path) -> MeshSpec:
    """Return a mesh file that trusts these roots."""
    clusters = [{"name": "east", "context": "east", "network": "net-east"}]
    record = {"timestamp": "https://tsa.example", "timestampRoots": str(roots)}
    return MeshSpec.parse({"clusters": clusters, "record": record}, where="test")


def verified(run: Path, spec: MeshSpec | None = None) -> Verification:
    """Return what `record verify` says of the time."""
    found = Verification([])
    _time(found, run, {"authority": "tsa.example"}, spec)
    return found


def test_an_authority_signs_when_the_record_was_signed(tmp_path: Path, home: Path, authority: Receiver) -> None:
    """Its answer is verified by us with its roots, and by openssl alike."""
    run, lacking = signed_run(tmp_path, authority.url)
    assert (lacking, len(authority.bodies)) == ("", 1)
    found = verified(run, mesh_of(home / "root.pem"))
    assert (found.problems, found.unknown) == ([], [])
    told = found.known[0].removeprefix("signed at ").removesuffix(", says a trusted authority")
    assert abs(datetime.fromisoformat(told) - datetime.now(UTC)) < timedelta(minutes=5)
    assert verified(run).known[0].endswith("says an authority that nobody verified")
    files = ["-data", str(run / SIGNATURE), "-in", str(run / TIMESTAMP)]
    openssl(home, "ts", "-verify", *files, "-CAfile", "root.pem")


def changed(path: Path) -> None:
    """Change the last byte of a file: of a signed time, one of its signature."""
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1] + bytes([path.read_bytes()[-1] ^ 1]))


def test_a_wrong_time_is_found(tmp_path: Path, home: Path, authority: Receiver) -> None:
    """Of another signature, changed, or by an authority that is not trusted."""
    run, _ = signed_run(tmp_path, authority.url)
    assert "not trusted" in verified(run, mesh_of(home / "other.pem")).problems[0]
    changed(run / TIMESTAMP)
    assert "its signature is wrong" in verified(run, mesh_of(home / "root.pem")).problems[0]
    changed(run / TIMESTAMP)
    assert verified(run, mesh_of(home / "root.pem")).problems == []
    changed(run / SIGNATURE)
    assert verified(run).problems == ["signature.tsr: it is the time of something else"]


def test_a_time_that_was_removed_is_unknown(tmp_path: Path, authority: Receiver) -> None:
    """The record says who was asked for it."""
    run, _ = signed_run(tmp_path, authority.url)
    (run / TIMESTAMP).unlink()
    assert verified(run).unknown == ["no time of tsa.example: it gave none, or signature.tsr was removed"]


UNREADABLE = "it is no signed time that rfc3161-client reads"


@pytest.mark.parametrize(
    ("status", "content", "words"),
    [(500, b"", "it answered 500"), (200, b"nonsense", UNREADABLE), (200, b"", UNREADABLE)],
)
def test_an_authority_that_gives_no_time_does_not_lose_the_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, content: bytes, words: str
) -> None:
    """It is signed all the same, and what is lacking is reported."""
    monkeypatch.setattr(post, "_RETRIES", post._RETRIES.new(backoff_factor=0))
    with receiver(lambda _: (status, content)) as there:
        run, lacking = signed_run(tmp_path, there.url)
    assert lacking == f"no authority signed the time: {words}"
    assert ((run / SIGNATURE).exists(), (run / TIMESTAMP).exists()) == (True, False)


def test_the_time_of_something_else_is_not_taken(tmp_path: Path, authority: Receiver) -> None:
    """Such as an answer to another request, by a mistaken or a lying server."""
    other = timestamp.stamped(authority.url, b"something else")
    with receiver(lambda _: (200, other)) as there:
        _, lacking = signed_run(tmp_path, there.url)
    assert lacking == "no authority signed the time: it is the time of something else"


def test_without_the_extra_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The record is signed, and nothing is sent."""
    monkeypatch.setitem(__import__("sys").modules, "rfc3161_client", None)
    run, lacking = signed_run(tmp_path, f"http://127.0.0.1:{free_port()}")
    assert "rfc3161-client is not installed\n  → pip install 'meshkit[timestamp]'" in lacking
    (run / TIMESTAMP).write_bytes(b"x")
    assert "rfc3161-client is not installed" in verified(run).unknown[0]
    with pytest.raises(UnreachableError, match="not installed"):
        timestamp.read(b"", b"")


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"timestamp": "tsa.example"}, "record.timestamp: expected an address"),
        ({"timestamp": "https://me:secret@tsa.example"}, "record.timestamp: expected an address without a user"),
    ],
)
def test_a_wrong_authority_is_named(record: dict[str, str], words: str) -> None:
    """Its address is part of the evidence, so it has no password."""
    clusters = [{"name": "east", "context": "east", "network": "net-east"}]
    with pytest.raises(InputError, match=words):
        MeshSpec.parse({"clusters": clusters, "record": record}, where="test")


@pytest.mark.parametrize("content", [None, "", "no certificate"])
def test_roots_that_are_none_are_an_input_error(tmp_path: Path, content: str | None) -> None:
    """File and field."""
    if content is not None:
        (tmp_path / "roots.pem").write_text(content)
    with pytest.raises(InputError, match=r"record\.timestampRoots"):
        timestamp.roots(str(tmp_path / "roots.pem"))
