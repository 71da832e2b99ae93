"""Help and completion: whole sentences, and scripts that shells take."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from meshkit.cli.main import cli


def groups(command: click.Command, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the words of each group of commands, of the whole command line."""
    if isinstance(command, click.Group):
        yield words
        for name, one in command.commands.items():
            yield from groups(one, (*words, name))


def shown(*words: str) -> str:
    """Return what `meshkit WORDS --help` prints on a terminal of 80 columns."""
    result = CliRunner().invoke(cli, [*words, "--help"], terminal_width=80)
    assert result.exit_code == 0
    return result.output


@pytest.mark.parametrize("words", list(groups(cli)), ids=" ".join)
def test_each_group_lists_its_commands_with_whole_sentences(words: tuple[str, ...]) -> None:
    """Wrapped, not cut short."""
    listed = shown(*words).split("Commands:")[1]
    assert "..." not in listed
    assert max(map(len, listed.splitlines())) <= 80
    found = re.split(r"\n  (?=\S)", listed.rstrip())[1:]
    assert found
    assert all(sentence.endswith(".") for sentence in found)


def test_meshkits_own_help_fits_80_columns() -> None:
    """With its examples."""
    assert max(map(len, shown().splitlines())) <= 80


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script_that_its_shell_reads(shell: str) -> None:
    """Where that shell is here, it checks the syntax; the script asks meshkit itself."""
    script = CliRunner().invoke(cli, ["completion", shell]).output
    assert f"_MESHKIT_COMPLETE={shell}_complete" in script
    if program := shutil.which(shell):
        subprocess.run([program, "-n"], input=script, text=True, check=True)


def test_what_the_script_asks_is_answered() -> None:
    """Commands that begin so; of an option, its values."""
    asks = {"ch": ["check"], "check --ex": ["--explain"], "check -o ": ["table", "wide", "json", "csv"]}
    for typed, expected in asks.items():
        words = f"meshkit {typed}"
        asked = {"COMP_WORDS": words, "COMP_CWORD": str(words.count(" ")), "_MESHKIT_COMPLETE": "bash_complete"}
        told = subprocess.check_output([sys.executable, "-m", "meshkit"], env={**os.environ, **asked}, text=True)
        assert [line.partition(",")[2] for line in told.split()] == expected
