"""The command line: exit codes, one clear error, and quick help."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

import meshkit
from meshkit import __version__
from meshkit.cli.main import cli, main
from meshkit.errors import ChangeError, CheckFailed, InputError, UnreachableError
from meshkit.runs.folder import RunFolder


def call(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Run the command line in this process; return its exit code, stdout and stderr."""
    with pytest.raises(SystemExit) as ended:
        main(words)
    told = capsys.readouterr()
    return int(str(ended.value.code)), told.out, told.err


def test_help_shows_examples_and_each_command(capsys: pytest.CaptureFixture[str]) -> None:
    """And ends well."""
    code, out, _ = call(capsys, "--help")
    assert code == 0
    assert "meshkit audit mesh.yaml" in out
    assert all(name in out for name in cli.commands)


def test_without_the_lab_its_commands_say_what_brings_them(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wheel's user who copies `meshkit demo` from README."""
    monkeypatch.delitem(cli.commands, "demo", raising=False)
    code, _, err = call(capsys, "demo")
    assert (code, "make setup" in err) == (2, True), err


@pytest.mark.parametrize(
    "command",
    [
        ["run"],
        ["audit"],
        ["record", "verify"],
        *(["ca", word] for word in ("root", "take", "show")),
        *(["lab", "drill", word] for word in ("start", "hint", "answer", "give-up", "score")),
    ],
)
def test_every_command_helps_with_an_example(capsys: pytest.CaptureFixture[str], command: list[str]) -> None:
    """Copy, paste, done."""
    code, out, _ = call(capsys, *command, "--help")
    assert code == 0
    assert f"meshkit {' '.join(command)}" in out.split("Example")[1]


UNIX_ONLY = ("fcntl", "grp", "pwd", "resource", "termios")


def test_help_needs_nothing_that_windows_lacks() -> None:
    """Modules of Python's that only Unix has cannot be imported, and `meshkit --help` does not notice."""
    code = f"import sys; sys.modules |= dict.fromkeys({UNIX_ONLY}); from meshkit.cli.main import main; main(['--help'])"
    assert "Usage: meshkit" in subprocess.check_output([sys.executable, "-c", code], text=True)


def test_only_the_lab_imports_what_windows_lacks() -> None:
    """No module of the package, but for the lab's, which is Linux's."""
    package = Path(meshkit.__file__).parent
    modules = [path for path in package.rglob("*.py") if "lab" not in path.relative_to(package).parts]
    pattern = re.compile(rf"^\s*(?:import|from) ({'|'.join(UNIX_ONLY)})\b", re.MULTILINE)
    assert len(modules) > 100
    assert {path.name: found for path in modules if (found := pattern.findall(path.read_text()))} == {}


def test_help_imports_nothing_heavy() -> None:
    """`--help` takes a tenth of a second, not two."""
    heavy = {"pandas", "kubernetes", "papermill", "pydantic", "matplotlib"}
    code = f"import sys, meshkit.cli.main; print({heavy} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "set()\n"


def test_python_dash_m_tells_the_version() -> None:
    """The same program."""
    told = subprocess.check_output([sys.executable, "-m", "meshkit", "--version"], text=True)
    assert told == f"meshkit {__version__}\n"


@pytest.mark.parametrize(
    "words",
    [
        ["nope"],
        ["run"],
        ["run", "x.yaml", "--mode", "go"],
        ["run", "x.yaml", "--only", "08", "--from", "07"],
        ["audit", "x", "--timeout", "0"],
    ],
)
def test_wrong_usage_is_2(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    """As click tells it."""
    code, _, err = call(capsys, *words)
    assert code == 2
    assert "Error: " in err


@pytest.mark.parametrize("content", [None, "", "a: [", "\x80", "clusters: []", "clusterz: 1"])
def test_a_wrong_mesh_file_is_one_error(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, content: str | None
) -> None:
    """Missing, empty, no YAML, no text, no clusters, an unknown field."""
    path = tmp_path / "mesh.yaml"
    if content is not None:
        path.write_text(content, encoding="latin-1")
    code, out, err = call(capsys, "audit", str(path), "--out", str(tmp_path / "runs"))
    assert (code, out) == (2, "")
    assert err.startswith(f"Error: {path}: ")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InputError("x"), 2),
        (UnreachableError("x"), 3),
        (ChangeError("x"), 4),
        (CheckFailed("x"), 1),
        (KeyboardInterrupt(), 130),
    ],
)
def test_each_error_has_its_exit_code(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int
) -> None:
    """Scripts rely on them."""
    monkeypatch.setitem(cli.commands, "boom", _raising(error))
    assert call(capsys, "boom")[0] == code


def test_a_bug_is_reported_in_two_lines_and_shown_on_request(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No traceback, unless MESHKIT_DEBUG asks."""
    monkeypatch.setitem(cli.commands, "boom", _raising(RuntimeError("odd")))
    code, _, err = call(capsys, "boom")
    assert code == 4
    assert err.splitlines()[0] == "Error: RuntimeError: odd"
    assert "MESHKIT_DEBUG=1" in err
    monkeypatch.setenv("MESHKIT_DEBUG", "1")
    with pytest.raises(RuntimeError, match="odd"):
        main(["boom"])


def test_record_verify_tells_each_problem(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """0 where the evidence is whole, 1 where not, 2 where there is none, 3 where nobody signed it."""
    folder = RunFolder(tmp_path, "shop", "plan")
    for name in ("mesh.yaml", "results.json", "junit.xml", "report.html"):
        folder.write(name, "")
    folder.close_events()
    folder.write("record.json", json.dumps({"stages": [], "previous": None, "files": folder.files()}))
    folder.close()
    code, out, _ = call(capsys, "record", "verify", str(folder.path))
    assert (code, out.splitlines()[1]) == (3, "? nobody signed the record: this version of meshkit did not sign")
    (folder.path / "report.html").unlink()
    code, out, _ = call(capsys, "record", "verify", str(folder.path))
    assert (code, out.splitlines()[0]) == (1, "✖ report.html is missing, though SHA256SUMS lists it")
    assert call(capsys, "record", "verify", str(tmp_path / "none"))[0] == 2


def _raising(error: BaseException) -> click.Command:
    @click.command()
    def boom() -> None:
        raise error

    return boom
