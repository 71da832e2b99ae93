"""Approvals: a plan is what was signed, each kind of tampering is found, and two people are two."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from meshkit import attestation
from meshkit.changes.planned import PlannedChange, differences, digest
from meshkit.errors import InputError
from meshkit.runs import approval, folder
from meshkit.runs.folder import RunFolder, chain
from meshkit.spec import MeshSpec

ANN, BEN, EVE = (Ed25519PrivateKey.generate() for _ in range(3))
CHANGE = PlannedChange("06 gateways", "west", "apply", "Gateway a/b", "lets others in", "+ x", "d1")
Rewrite = Callable[[Path], None]


def line(key: Ed25519PrivateKey, name: str) -> str:
    """Return a key as the mesh file has it."""
    return attestation.line_of(key.public_key(), name)


def mesh_file(where: Path, **approvals: Any) -> Path:
    """Write a mesh file, with approvals by ann and ben, or without."""
    clusters = [{"name": "east", "context": "east", "network": "net-east"}]
    keys = {"keys": [line(ANN, "ann"), line(BEN, "ben")]}
    document = {"clusters": clusters, **({"approvals": {**keys, **approvals}} if approvals else {})}
    path = where / "mesh.yaml"
    path.write_text(json.dumps(document))
    return path


def planned(out: Path, file: Path, mode: str = "plan", exit_code: int = 0, operator: str = "otto") -> Path:
    """Write the folder of a run that planned one change, as `run` does."""
    import hashlib

    run = RunFolder(out, "mesh1", mode)
    about = {"name": file.name, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
    for name in ("mesh.yaml", "results.json", "junit.xml", "report.html"):
        run.write(name, name)
    run.write(approval.PLAN, approval.plan_file("mesh1", about, ["06-gateways"], [CHANGE]))
    run.close_events()
    known = {"stages": [], "withheld": [], "previous": chain(run.previous), "files": run.files()}
    run.write("record.json", json.dumps({**known, "mode": mode, "exit_code": exit_code, "operator": operator}))
    run.close()
    return run.path


def require(run: Path, file: Path) -> approval.ApprovedPlan:
    """Return the plan, if it may be applied."""
    return approval.require(run, MeshSpec.load(file), file)


def test_an_approved_plan_may_be_applied_and_says_who_approved_it(tmp_path: Path) -> None:
    """The evidence stays verified: approvals come after it."""
    file = mesh_file(tmp_path, needed=1)
    run = planned(tmp_path, file)
    approval.approve(run, ANN, "ann", ticket="CHG-1", comment="read it")
    plan = require(run, file)
    assert plan.changes == [CHANGE]
    (one,) = plan.approvals
    assert (one.name, one.listed, one.ticket, one.comment) == ("ann", "ann", "CHG-1", "read it")
    assert plan.about()["approvals"][0]["key"].startswith("SHA256:")
    assert folder.verify(run) == []


def test_where_two_are_needed_one_alone_is_not_enough_whatever_he_calls_himself(tmp_path: Path) -> None:
    """Keys tell people apart: another name is the same key, an unlisted key is nobody, and one key signs once."""
    file = mesh_file(tmp_path, needed=2)
    run = planned(tmp_path, file)
    with pytest.raises(InputError, match="2 approvals are needed, 0 count: none"):
        require(run, file)
    approval.approve(run, ANN, "ann")
    with pytest.raises(InputError, match="already"):
        approval.approve(run, ANN, "ben")
    approval.approve(run, EVE, "ben")
    with pytest.raises(InputError, match=r"1 count: ann, ben \(a key that is not listed\)"):
        require(run, file)
    approval.approve(run, BEN, "ben")
    assert {one.listed for one in require(run, file).approvals} == {"ann", "ben", ""}


def test_nobody_approves_what_he_planned_or_applies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless the mesh file says that he may."""
    file = mesh_file(tmp_path, needed=1)
    run = planned(tmp_path, file, operator="ann")
    approval.approve(run, ANN, "somebody")
    with pytest.raises(InputError, match=r"ann \(oneself\)"):
        require(run, file)
    other = planned(tmp_path, file)
    approval.approve(other, ANN, "ann")
    monkeypatch.setattr(approval.getpass, "getuser", lambda: "ann")
    with pytest.raises(InputError, match=r"ann \(oneself\)"):
        require(other, file)
    file = mesh_file(tmp_path, needed=1, notSelf=False)
    own = planned(tmp_path, file, operator="ann")
    approval.approve(own, ANN, "ann")
    assert require(own, file).changes == [CHANGE]


def test_without_approvals_a_plan_can_be_pinned_by_itself(tmp_path: Path) -> None:
    """`--approved` then means: this plan, and no other."""
    file = mesh_file(tmp_path)
    run = planned(tmp_path, file)
    assert require(run, file).approvals == []


def rewritten(change: Callable[[Any], Any]) -> Rewrite:
    """Return what changes the envelope of an approval."""

    def rewrite(run: Path) -> None:
        (path,) = (run / folder.APPROVALS).iterdir()
        path.write_text(json.dumps(change(json.loads(path.read_text()))))

    return rewrite


def other_statement(envelope: Any) -> Any:
    """Change what was signed."""
    statement = json.loads(base64.b64decode(envelope["payload"]))
    statement["predicate"]["approver"] = "ben"
    return {**envelope, "payload": base64.b64encode(json.dumps(statement).encode()).decode()}


def other_key(envelope: Any) -> Any:
    """Say that ben's key made the signature."""
    (signature,) = envelope["signatures"]
    return {**envelope, "signatures": [{**signature, "publicKey": line(BEN, "ben")}]}


def of_another_plan(run: Path) -> None:
    """Copy the approval of another plan."""
    (path,) = (run / folder.APPROVALS).iterdir()
    key = ANN
    statement = attestation.statement(approval.PREDICATE, {approval.PLAN: "0" * 64}, {"approver": "ann"})
    path.write_text(json.dumps(attestation.sign(statement, key)))


def changed(name: str, old: str = "Gateway", new: str = "Secret") -> Rewrite:
    """Return what changes a file of the evidence."""

    def rewrite(run: Path) -> None:
        path = run / name
        path.chmod(0o644)
        path.write_text(path.read_text().replace(old, new))

    return rewrite


TAMPERED: dict[str, tuple[Rewrite, str]] = {
    "plan": (changed(approval.PLAN), "plan.json was changed since the run"),
    "plan and its sums": (
        lambda run: (changed(approval.PLAN)(run), sums(run))[0],
        "do not list the same files and hashes",
    ),
    "plan removed": (lambda run: (run / approval.PLAN).unlink(), "plan.json is missing"),
    "record": (changed("record.json", "otto", "ann"), "record.json was changed since the run"),
    "statement": (rewritten(other_statement), "its signature is wrong"),
    "key": (rewritten(other_key), "its signature is wrong"),
    "no signature": (rewritten(lambda e: {**e, "signatures": []}), "no signed statement"),
    "another plan's": (of_another_plan, "it approves another plan"),
    "no JSON": (lambda run: next((run / folder.APPROVALS).iterdir()).write_text("{"), "no signed statement"),
    "a file beside": (lambda run: (run / folder.APPROVALS / "note.txt").write_text("yes"), "no signed statement"),
}


def sums(run: Path) -> None:
    """Write SHA256SUMS again, as who changed the evidence might."""
    path = run / folder.SUMS
    path.chmod(0o644)
    names = [text.split("  ", 1)[1] for text in path.read_text().splitlines()]
    path.write_text("".join(f"{folder.sha256(run / name)}  {name}\n" for name in names))


@pytest.mark.parametrize("how", TAMPERED)
def test_whatever_was_changed_after_the_approval_is_found(tmp_path: Path, how: str) -> None:
    """One test for each kind: nothing of it is applied."""
    tamper, words = TAMPERED[how]
    file = mesh_file(tmp_path, needed=1)
    run = planned(tmp_path, file)
    approval.approve(run, ANN, "ann")
    tamper(run)
    with pytest.raises(InputError, match=words):
        require(run, file)


def test_a_plan_is_of_its_mesh_file_and_its_mesh(tmp_path: Path) -> None:
    """Who changes the mesh file after the approval, its approvals too, plans again."""
    file = mesh_file(tmp_path, needed=1)
    run = planned(tmp_path, file)
    approval.approve(run, ANN, "ann")
    mesh_file(tmp_path)
    with pytest.raises(InputError, match="the mesh file was changed since it was planned"):
        require(run, file)


@pytest.mark.parametrize(
    ("run", "words"),
    [({"mode": "apply"}, "a run in mode apply is no plan"), ({"exit_code": 1}, "a plan that did not pass")],
)
def test_only_a_plan_that_passed_can_be_approved(tmp_path: Path, run: Any, words: str) -> None:
    """Nothing is written otherwise."""
    path = planned(tmp_path, mesh_file(tmp_path), **run)
    with pytest.raises(InputError, match=words):
        approval.approve(path, ANN, "ann")
    assert not (path / folder.APPROVALS).exists()


@pytest.mark.parametrize(
    ("now", "touched", "whole", "words"),
    [
        ([CHANGE], [], True, []),
        ([replace(CHANGE, why="other words")], [], True, []),
        ([replace(CHANGE, digest="d2")], [], False, ["its diff is not the one that was approved"]),
        ([replace(CHANGE, digest="d2")], [("west", "Gateway a/b")], False, []),
        ([replace(CHANGE, digest="d2", later="cannot be checked yet")], [], False, []),
        ([replace(CHANGE, cluster="east")], [], False, ["it was not approved"]),
        ([replace(CHANGE, action="delete")], [], False, ["it was not approved"]),
        ([CHANGE, CHANGE], [], False, ["it was not approved"]),
        ([], [], False, []),
        ([], [], True, ["there is nothing to change now"]),
    ],
)
def test_what_is_planned_now_is_held_against_what_was_approved(
    now: list[PlannedChange], touched: list[tuple[str, str]], whole: bool, words: list[str]
) -> None:
    """By object, and by the diff where both are known and this run has not moved it on."""
    found = differences([CHANGE], now, touched=touched, whole=whole)
    assert len(found) == len(words)
    assert all(word in text for word, text in zip(words, found, strict=True))


def test_a_change_whose_diff_was_not_known_yet_is_approved_by_its_object() -> None:
    """A token, or what an earlier stage makes."""
    assert differences([replace(CHANGE, later="no such kind yet")], [replace(CHANGE, digest="d2")]) == []


def test_values_of_secrets_are_no_part_of_what_is_approved() -> None:
    """They are made when they are applied, and each run masks them by another mark."""
    first, second = ([f"+  key: (secret, {n} characters, mark {n}ab)"] for n in (3, 4))
    assert digest(first) == digest(second) != digest(["+  other: (secret, 3 characters, mark 3ab)"])


@pytest.mark.parametrize("passphrase", ["", "open sesame"])
def test_keys_are_those_of_ssh_keygen(tmp_path: Path, passphrase: str) -> None:
    """Its file signs, its .pub line verifies, and its fingerprint is ours."""
    path = tmp_path / "id"
    try:
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", passphrase, "-C", "ann", "-f", path], check=True)
        told = subprocess.run(["ssh-keygen", "-lf", path], capture_output=True, text=True, check=True).stdout
    except FileNotFoundError:
        pytest.skip("ssh-keygen is not installed")
    key = attestation.private_key(path, lambda: passphrase)
    public = attestation.public_key(path.with_suffix(".pub").read_text())
    assert attestation.fingerprint(public) == attestation.fingerprint(key.public_key())
    assert attestation.fingerprint(public) in told
    if passphrase:
        with pytest.raises(InputError, match="another passphrase"):
            attestation.private_key(path, lambda: "wrong")


def test_a_key_of_ones_own_is_made_once_for_oneself(tmp_path: Path) -> None:
    """0600, and the same at the second time."""
    path = tmp_path / "state" / "approver.key"
    first, second = attestation.own_key(path), attestation.own_key(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert line(first, "") == line(second, "")


@pytest.mark.parametrize("content", [b"", b"nonsense", b"-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n"])
def test_a_file_that_is_no_key_is_an_input_error(tmp_path: Path, content: bytes) -> None:
    """It is not quoted."""
    (tmp_path / "id").write_bytes(content)
    with pytest.raises(InputError, match="expected an Ed25519 private key") as caught:
        attestation.private_key(tmp_path / "id", str)
    assert "AAAA" not in str(caught.value)
    with pytest.raises(InputError, match="cannot be read"):
        attestation.private_key(tmp_path / "none", str)


@pytest.mark.parametrize(
    ("approvals", "words"),
    [
        ({"keys": []}, "approvals.keys"),
        ({"keys": ["ssh-rsa AAAA ann"]}, "ssh-ed25519"),
        ({"keys": [line(ANN, "")]}, "a key without a name"),
        ({"keys": [line(ANN, "ann"), line(ANN, "ben")]}, "listed twice"),
        ({"keys": [line(ANN, "ann")], "needed": 2}, "2 approvals are needed, and there are 1 keys"),
        ({"keys": [line(ANN, "ann")], "needed": 0}, "needed"),
    ],
)
def test_wrong_approvals_of_a_mesh_file_are_named(tmp_path: Path, approvals: Any, words: str) -> None:
    """File and field."""
    with pytest.raises(InputError, match=words):
        MeshSpec.load(mesh_file(tmp_path, **approvals))
