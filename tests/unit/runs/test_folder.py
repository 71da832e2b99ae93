"""The run folder holds what was written, and tells what was done to it since."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from meshkit.errors import ChangeError, InputError
from meshkit.runs.folder import RunFolder, chain, verify


def make(out: Path) -> Path:
    """Write a run folder as `run` does, with little in it."""
    folder = RunFolder(out, "shop", "plan")
    for name in (
        "mesh.yaml",
        "results.json",
        "junit.xml",
        "report.html",
        "08-verify.ipynb",
        "08-verify.html",
        "tables/t.csv",
    ):
        folder.write(name, name)
    folder.close_events()
    stages = [{"stage": "08-verify", "files": ["08-verify.ipynb", "08-verify.html"]}]
    record = {"stages": stages, "withheld": [], "previous": chain(folder.previous), "files": folder.files()}
    folder.write("record.json", json.dumps(record))
    folder.close()
    return folder.path


def rewrite(path: Path, text: str) -> None:
    """Change a file that is there to be read only."""
    path.chmod(0o644)
    path.write_text(text)


def test_evidence_is_never_written_over(tmp_path: Path) -> None:
    """A second write is an error, and the first stays."""
    folder = RunFolder(tmp_path, "shop", "plan")
    folder.write("a.txt", "first")
    with pytest.raises(ChangeError, match="never overwritten"):
        folder.write("a.txt", "second")
    folder.close_events()
    assert (folder.path / "a.txt").read_text() == "first"


def test_two_runs_within_a_second_get_folders_of_their_own(tmp_path: Path) -> None:
    """The second waits for the next second."""
    assert make(tmp_path) != make(tmp_path)


def test_a_fresh_chain_of_runs_verifies(tmp_path: Path) -> None:
    """Each names the one before."""
    first, second = make(tmp_path), make(tmp_path)
    assert json.loads((second / "record.json").read_text())["previous"]["run"] == first.name
    assert verify(second) == verify(first) == []


@pytest.mark.parametrize(
    ("tamper", "told"),
    [
        (lambda run: rewrite(run / "tables/t.csv", "x"), "tables/t.csv was changed since the run"),
        (lambda run: (run / "08-verify.html").unlink(), "08-verify.html is missing, though SHA256SUMS lists it"),
        (lambda run: (run / "extra.txt").write_text(""), "extra.txt is not part of the run"),
        (lambda run: (run / "record.json").unlink(), "record.json is missing or not a record of a run"),
        (lambda run: rewrite(run / "record.json", "[]"), "record.json is missing or not a record of a run"),
        (lambda run: (run / "SHA256SUMS").unlink(), "the run was not finished"),
        (lambda run: rewrite(run / "SHA256SUMS", ""), "08-verify.html is missing: the evidence is not complete"),
    ],
)
def test_tampering_is_reported(tmp_path: Path, tamper: Callable[[Path], object], told: str) -> None:
    """Changed, removed, added."""
    run = make(tmp_path)
    tamper(run)
    assert any(told in problem for problem in verify(run))


def test_forged_sums_do_not_agree_with_the_record(tmp_path: Path) -> None:
    """Changing a file and its line in SHA256SUMS is not enough."""
    import hashlib

    run = make(tmp_path)
    old, new = (hashlib.sha256(text).hexdigest() for text in (b"tables/t.csv", b"forged"))
    rewrite(run / "tables/t.csv", "forged")
    rewrite(run / "SHA256SUMS", (run / "SHA256SUMS").read_text().replace(old, new))
    assert verify(run) == ["record.json and SHA256SUMS do not list the same files and hashes"]


def test_a_changed_earlier_record_breaks_the_chain(tmp_path: Path) -> None:
    """Also two runs back, and when it is gone."""
    first, second, third = make(tmp_path), make(tmp_path), make(tmp_path)
    record = json.loads((first / "record.json").read_text())
    rewrite(first / "record.json", json.dumps({**record, "stages": []}))
    assert verify(third) == [
        f"the chain is broken: the record of {first.name} was changed after {second.name} followed it"
    ]
    (first / "record.json").unlink()
    assert verify(third) == [f"the chain ends at {second.name}: the run before it, {first.name}, is missing"]


def test_an_unfinished_run_is_not_followed(tmp_path: Path) -> None:
    """The chain goes over closed runs."""
    first = make(tmp_path)
    RunFolder(tmp_path, "shop", "plan").close_events()
    assert json.loads((make(tmp_path) / "record.json").read_text())["previous"]["run"] == first.name


def test_no_folder_is_bad_input(tmp_path: Path) -> None:
    """Not a problem of the evidence."""
    with pytest.raises(InputError, match="no such run folder"):
        verify(tmp_path / "none")


def test_a_folder_that_cannot_be_made_is_bad_input(tmp_path: Path) -> None:
    """One clear error."""
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot make the run folder"):
        RunFolder(tmp_path / "file", "shop", "plan")
