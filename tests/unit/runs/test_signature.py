"""The signature of a run's record: who ran it; and each kind of tampering is found."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from meshkit import attestation
from meshkit.errors import InputError
from meshkit.runs import approval, folder, signature
from meshkit.runs.folder import RECORD, SIGNATURE, TIMESTAMP, RunFolder, chain, sha256
from meshkit.runs.signature import Signer
from meshkit.runs.verification import Verification, verify
from meshkit.spec import MeshSpec

ANN, BEN = (Ed25519PrivateKey.generate() for _ in range(2))
FILES = ("mesh.yaml", "results.json", "junit.xml", "report.html", "tables/t.csv")
Rewrite = Callable[[Path], None]


def signed_run(out: Path, signer: Signer, **more: Any) -> Path:
    """Write the folder of a plan, and sign its record, as `run` does."""
    run = RunFolder(out, "shop", "plan")
    for name in FILES:
        run.write(name, name)
    run.write(approval.PLAN, approval.plan_file("shop", {"name": "mesh.yaml", "sha256": ""}, [], []))
    run.close_events()
    about = {
        "mesh": "shop", "operator": "otto", "ticket": "CHG-1", "ended": "2026-03-01T12:00:00Z", "mode": "plan",
        "exit_code": 0, "stages": [], "withheld": [], "previous": chain(run.previous), "signer": signer.about(), **more,
        "files": run.files(),
    }  # fmt: skip
    run.write(RECORD, json.dumps(about))
    assert bool(signature.sign(run, signer, about, "")) == (signer.key is None)
    run.close()
    return run.path


def mesh_of(key: Ed25519PrivateKey) -> MeshSpec:
    """Return a mesh file that lists a key as ann's."""
    clusters = [{"name": "east", "context": "east", "network": "net-east"}]
    keys = {"keys": [attestation.line_of(key.public_key(), "ann")]}
    return MeshSpec.parse({"clusters": clusters, "approvals": keys}, where="test")


def test_a_signed_run_says_who_ran_it(tmp_path: Path) -> None:
    """By the operator's login name; with a mesh file, by the name that it gives to the key."""
    run = signed_run(tmp_path, Signer(ANN))
    found = verify(run)
    assert (found.problems, found.unknown, found.exit_code) == ([], [], 0)
    assert found.known == [f"signed by otto, key {attestation.fingerprint(ANN.public_key())}"]
    assert verify(run, mesh_of(ANN)).known[0].startswith("signed by ann, key SHA256:")


def test_how_an_apply_differs_from_its_plan_is_listed(tmp_path: Path) -> None:
    """It is no problem of the evidence, which says so itself."""
    difference = [{"change": "06 gateways: west: create Gateway a/b", "how": "planned, not done"}]
    found = verify(signed_run(tmp_path, Signer(ANN), changes={"difference": difference}))
    assert (found.exit_code, found.known[1]) == (0, "planned, not done: 06 gateways: west: create Gateway a/b")


def test_a_key_that_the_mesh_file_does_not_list_is_unknown(tmp_path: Path) -> None:
    """Anyone can make a key, and call himself what he likes."""
    found = verify(signed_run(tmp_path, Signer(BEN)), mesh_of(ANN))
    assert (found.problems, found.exit_code) == ([], 3)
    assert "the mesh file does not list key SHA256:" in found.unknown[0]


def test_a_record_that_nobody_signed_says_why_and_is_no_pass(tmp_path: Path) -> None:
    """Its hashes hold, but who could write one file could write all."""
    found = verify(signed_run(tmp_path, Signer(lacking="the key cannot be written: Read-only file system")))
    assert (found.problems, found.exit_code) == ([], 3)
    assert found.unknown == ["nobody signed the record: the key cannot be written: Read-only file system"]
    with pytest.raises(KeyError, match="signer"):
        json.loads((old(tmp_path) / RECORD).read_bytes())["signer"]
    assert verify(old(tmp_path)).unknown == ["nobody signed the record: this version of meshkit did not sign"]


def old(where: Path) -> Path:
    """Write the folder of a run as earlier versions did."""
    run = RunFolder(where / "old", "shop", "plan")
    for name in FILES:
        run.write(name, name)
    run.close_events()
    run.write(RECORD, json.dumps({"stages": [], "withheld": [], "previous": None, "files": run.files()}))
    run.close()
    return run.path


def test_a_run_is_signed_by_a_key_of_ones_own_if_one_can_be_written(tmp_path: Path, state: Path) -> None:
    """Made at its first use; without it the run goes on, and its record says why it is not signed."""
    assert Signer.own().about() == Signer.own().about()
    (state / "meshkit" / "approver.key").write_text("no key")
    assert Signer.own().about() == {"lacking": "expected an Ed25519 private key"}


def rewritten(name: str, change: Callable[[Any], Any]) -> Rewrite:
    """Return what changes a JSON file of a run."""

    def rewrite(run: Path) -> None:
        (run / name).chmod(0o644)
        (run / name).write_text(json.dumps(change(json.loads((run / name).read_text()))))

    return rewrite


def both(*rewrites: Rewrite) -> Rewrite:
    """Return what does one after the other."""

    def rewrite(run: Path) -> None:
        for one in rewrites:
            one(run)

    return rewrite


def sums(run: Path) -> None:
    """Write SHA256SUMS again, as who changed the evidence might."""
    path = run / folder.SUMS
    path.chmod(0o644)
    names = sorted(p.relative_to(run).as_posix() for p in run.rglob("*") if p.is_file() and p != path)
    path.write_text("".join(f"{sha256(run / name)}  {name}\n" for name in names))


def written(name: str, text: str = "x") -> Rewrite:
    """Return what writes a file."""

    def rewrite(run: Path) -> None:
        (run / name).unlink(missing_ok=True)
        (run / name).write_text(text)

    return rewrite


def with_hash(name: str) -> Rewrite:
    """Return what changes a file, and its hash in the record."""

    def rewrite(run: Path) -> None:
        written(name)(run)
        rewritten(RECORD, lambda r: {**r, "files": {**r["files"], name: sha256(run / name)}})(run)

    return rewrite


def resigned(run: Path) -> None:
    """Sign a changed record by another key."""
    (run / SIGNATURE).unlink()
    statement = attestation.statement(signature.PREDICATE, {RECORD: sha256(run / RECORD)}, {"operator": "ben"})
    (run / SIGNATURE).write_text(json.dumps(attestation.sign(statement, BEN)))


def other_statement(envelope: Any) -> Any:
    """Change what was signed."""
    statement = json.loads(base64.b64decode(envelope["payload"]))
    statement["predicate"]["operator"] = "ben"
    return {**envelope, "payload": base64.b64encode(json.dumps(statement).encode()).decode()}


def approval_in_its_place(run: Path) -> None:
    """Put another signed statement about the record there."""
    statement = attestation.statement(approval.PREDICATE, {RECORD: sha256(run / RECORD)}, {})
    written(SIGNATURE, json.dumps(attestation.sign(statement, ANN)))(run)


OTHER = rewritten(RECORD, lambda record: {**record, "operator": "ben"})
TAMPERED: dict[str, tuple[Rewrite, str]] = {
    "a byte of a file": (written("tables/t.csv"), "tables/t.csv was changed since the run"),
    "a byte of a file, and the sums": (both(written("report.html"), sums), "do not list the same files and hashes"),
    "a file, its hash in the record, and the sums": (both(with_hash("report.html"), sums), "it signs another record"),
    "a byte of the record": (OTHER, "record.json was changed since the run"),
    "the record, and the sums": (both(OTHER, sums), "signature.json: it signs another record"),
    "a file removed": (lambda run: (run / "tables/t.csv").unlink(), "tables/t.csv is missing"),
    "a file removed, and the sums": (
        both(lambda run: (run / "tables/t.csv").unlink(), sums), "do not list the same files and hashes"),
    "a file added": (written("more.txt"), "more.txt is not part of the run"),
    "a file added, and the sums": (both(written("more.txt"), sums), "do not list the same files and hashes"),
    "the record removed": (lambda run: (run / RECORD).unlink(), "record.json is missing"),
    "the sums removed": (lambda run: (run / folder.SUMS).unlink(), "no SHA256SUMS"),
    "the signature removed": (lambda run: (run / SIGNATURE).unlink(), "signature.json: it is missing"),
    "the signature removed, and the sums": (both(lambda run: (run / SIGNATURE).unlink(), sums), "it is missing: key"),
    "the statement": (both(rewritten(SIGNATURE, other_statement), sums), "its signature is wrong"),
    "no signature in it": (
        both(rewritten(SIGNATURE, lambda e: {**e, "signatures": []}), sums), "it is no signed statement"),
    "no JSON": (both(written(SIGNATURE), sums), "it is no signed statement"),
    "signed by another key": (both(OTHER, resigned, sums), "another key signed it than the record says"),
    "a signature of another kind": (both(approval_in_its_place, sums), "it signs another record"),
    "a time added": (both(written(TIMESTAMP), sums), "signature.tsr: it is no signed time that"),
}  # fmt: skip


@pytest.mark.parametrize("how", TAMPERED)
def test_each_kind_of_tampering_is_found(tmp_path: Path, how: str) -> None:
    """And a plan that was tampered with is neither approved nor applied."""
    tamper, words = TAMPERED[how]
    run = signed_run(tmp_path, Signer(ANN))
    tamper(run)
    found = verify(run)
    assert found.exit_code == 1
    assert any(words in line for line in found.problems), found.problems
    if how != "a time added":
        with pytest.raises(InputError):
            approval.approve(run, BEN, "ben")


def test_a_run_that_another_signs_as_a_whole_is_found_by_the_keys_of_the_mesh_file(tmp_path: Path) -> None:
    """Its hashes and signature hold; the key is nobody's, and the run after it no longer follows."""
    run, after = signed_run(tmp_path, Signer(ANN)), signed_run(tmp_path, Signer(ANN))
    other = Signer(BEN)
    both(rewritten(RECORD, lambda record: {**record, "operator": "ben", "signer": other.about()}), resigned, sums)(run)
    assert (verify(run).exit_code, verify(run, mesh_of(ANN)).exit_code) == (0, 3)
    assert "the chain is broken" in verify(after).problems[0]


def test_what_is_wrong_counts_more_than_what_is_unknown() -> None:
    """As of checks."""
    assert [Verification(*lists).exit_code for lists in (([], []), ([], ["x"]), (["x"], ["x"]))] == [0, 3, 1]
