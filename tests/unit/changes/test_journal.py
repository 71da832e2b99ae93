"""The journal: private, written before and after, readable after a kill, one writer for each cluster."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshkit.changes.journal import LINES, Entry, Journal, exclusively, private_folder, private_store
from meshkit.errors import ChangeError, InputError
from tests.support.objects import CANARY, core

pytestmark = pytest.mark.usefixtures("state")
FACTS: dict[str, Any] = {
    "stage": "06 gateways",
    "cluster": "east",
    "action": "create",
    "object": "Secret a/b",
    "why": "because → it must",
    "manager": "meshkit",
    "temporary": False,
}
SECRET = core("Secret", "b", "a", data={"key": CANARY})


def begun(book: Journal, **change: Any) -> Entry:
    """Note a change of a Secret."""
    return book.begin({"before": [None], "manifests": [SECRET]}, **{**FACTS, **change})


def again(book: Journal) -> Journal:
    """Return the journal as another process would read it."""
    return Journal.open("shop", book.name)


def modes(folder: Path) -> set[str]:
    """Return the permissions of every file and folder below a folder, and its own, each with its kind."""
    return {f"{'d' if p.is_dir() else 'f'}{p.stat().st_mode & 0o777:o}" for p in [folder, *folder.rglob("*")]}


class TestPrivacy:
    """Who may read what."""

    def test_it_belongs_to_the_user_alone(self, state: Path) -> None:
        """Whatever the umask; a folder that was opened to others is closed again."""
        book = Journal.open("shop", "one")
        book.done(begun(book), [SECRET])
        assert modes(state / "meshkit" / "changes") == {"d700", "f600"}
        book.folder.parent.chmod(0o755)
        again(book)
        assert modes(state / "meshkit" / "changes") == {"d700", "f600"}

    def test_its_lines_hold_no_secret_and_its_store_does(self) -> None:
        """Lines are evidence; what undo needs is not."""
        book = Journal.open("shop", "one")
        entry = begun(book)
        book.done(entry, [SECRET])
        assert CANARY not in book.lines()
        assert CANARY not in repr(book)
        assert again(book).private(entry) == {"before": [None], "manifests": [SECRET], "after": [SECRET]}

    @pytest.mark.parametrize("name", ["../x", "a/b", ".", "..", ".x"])
    def test_a_name_leads_nowhere_else(self, name: str) -> None:
        """It is one folder of the store."""
        with pytest.raises(InputError, match="expected a journal's name"):
            Journal.open("shop", name)

    def test_a_store_that_cannot_be_written_is_named(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """With what to set."""
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
        with pytest.raises(InputError, match=r"cannot create the private folder: Not a directory\n  → set XDG_STATE"):
            private_folder("shop")


class TestEvents:
    """What was noted is what is read."""

    def test_a_change_is_noted_before_and_after(self) -> None:
        """Begun, then done, failed or undone; the last word counts."""
        book = Journal.open("shop", "one")
        first, second, third = begun(book), begun(book), begun(book)
        assert [e.event for e in again(book).entries] == ["begun"] * 3
        book.done(first)
        book.failed(second, "no")
        book.undone(third)
        read = again(book)
        assert [(e.event, e.reason, e.stands) for e in read.entries] == [
            ("done", "", True), ("failed", "no", True), ("undone", "", False),
        ]  # fmt: skip
        assert read.entries == book.entries
        assert [json.loads(line)["event"] for line in book.lines().splitlines()] == [
            "opened", "begun", "begun", "begun", "done", "failed", "undone",
        ]  # fmt: skip

    @settings(max_examples=40)
    @given(st.text(max_size=20))
    def test_any_text_comes_back(self, text: str) -> None:
        """Line separators of all scripts, quotes, arrows."""
        book = Journal.open("shop")
        text = text.encode("utf-8", "replace").decode()
        book.failed(begun(book, why=text), text)
        [entry] = again(book).entries
        assert (entry.why, entry.reason, entry.event) == (text, text, "failed")

    def test_facts_are_noted_once(self) -> None:
        """And found again."""
        book = Journal.open("shop", "one")
        for _ in range(3):
            book.about(clusters={"east": "1"})
        assert book.lines().count("clusters") == 1
        assert again(book).header == {"mesh": "shop", "clusters": {"east": "1"}}

    def test_journals_of_a_mesh_are_listed_newest_first(self) -> None:
        """Those of other meshes are not; what is no journal is not."""
        for name in ("1", "3", "2"):
            Journal.open("shop", name)
        Journal.open("other", "4")
        (private_folder("shop") / "archives").mkdir()
        assert [book.name for book in Journal.all_of("shop")] == ["3", "2", "1"]


class TestKilled:
    """Half a line, half a file."""

    @pytest.mark.parametrize("cut", [1, 5, 60, -1, -2])
    def test_a_torn_line_is_no_event_and_the_next_one_is_whole(self, cut: int) -> None:
        """Wherever it was torn, and be it in the middle of a letter."""
        book = Journal.open("shop", "one")
        book.done(begun(book))
        path = book.folder / LINES
        whole = path.read_bytes()
        begun(book)
        last = path.read_bytes()[len(whole) :]
        path.write_bytes(whole + last[: last.index("→".encode()) + 1] if cut == 1 else whole + last[:cut])
        read = again(book)
        assert len(read.entries) == (2 if cut == -1 else 1)
        begun(read, object="Secret c/d")
        assert again(book).entries == read.entries
        assert [e.n for e in read.entries] == list(range(1, len(read.entries) + 1))

    def test_a_file_without_a_line_is_an_empty_journal(self) -> None:
        """It was killed before the first."""
        book = Journal.open("shop", "one")
        (book.folder / LINES).write_text("")
        assert again(book).entries == []
        begun(again(book))
        assert len(again(book).entries) == 1

    def test_a_lost_store_is_reported(self) -> None:
        """By its file's name; nothing of its content."""
        book = Journal.open("shop", "one")
        entry = begun(book)
        (book.folder / "0001.json").write_text(f'{{"before": "{CANARY}')
        with pytest.raises(ChangeError, match=r"0001\.json: the former state, .* cannot be read") as caught:
            book.private(entry)
        assert CANARY not in str(caught.value)
        assert caught.value.__suppress_context__


def test_a_full_disk_is_reported_and_the_next_line_is_whole() -> None:
    """The half line that it left is no event, and takes none with it."""
    book = Journal.open("shop", "one")
    first, second = begun(book), begun(book)
    size = (book.folder / LINES).stat().st_size
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, old[1]))
    try:
        with pytest.raises(
            ChangeError, match=r"journal.jsonl: the journal cannot be written: File too large\n  → free"
        ):
            book.undone(first)
        with pytest.raises(ChangeError, match=r"0001.json: the journal cannot be written"):
            book.done(first, [{"data": "x" * size}])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert (book.folder / LINES).stat().st_size == size + 10
    assert book.private(first) == {"before": [None], "manifests": [SECRET]}
    book.undone(second)
    assert [entry.event for entry in again(book).entries] == ["begun", "undone"]
    assert again(book).entries == book.entries


HOLDER = """
import sys, time
from meshkit.changes.journal import exclusively
with exclusively(["uid-1"]):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_two_processes_never_change_one_cluster_at_once() -> None:
    """Other clusters are free; a killed holder holds nothing."""
    holder = subprocess.Popen([sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdin
    assert holder.stdout
    with holder.stdin, holder.stdout:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(ChangeError, match="another meshkit process is changing"), exclusively(["a", "uid-1"]):
            pytest.fail("it was let in")
        with exclusively(["a", "uid-2"]):
            pass
        holder.kill()
        holder.wait()
    with exclusively(["uid-1", "uid-1"]):  # one cluster under two names
        pass


def test_a_lock_that_cannot_be_made_is_an_error_in_words() -> None:
    """A store that is full or read-only ends the change before it begins."""
    with exclusively(["uid-1"]):
        pass
    lock = private_store() / ".locks" / "uid-2"
    lock.mkdir()
    with pytest.raises(ChangeError, match="the journal cannot be written"), exclusively(["uid-2"]):
        pytest.fail("it was let in")
