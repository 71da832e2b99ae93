"""The commands that read: what check prints to a terminal, a pipe and a program, of a snapshot of a real mesh."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from meshkit.checks import audit
from meshkit.cli.main import cli

SNAPSHOTS = Path(__file__).parents[2] / "fixtures" / "snapshots"
FAULT, HEALTHY = (str(SNAPSHOTS / f"mesh-networks-{name}.json.gz") for name in ("secret-in-wrong-namespace", "healthy"))
CAUSE = "✖ fail MK832 remote secret lies where istiod reads it [east → west]"


def run(*words: str, **env: str | None) -> Result:
    """Run a command; `return_value` is its exit code."""
    clean = {"FORCE_COLOR": None, "NO_COLOR": None, "TERM": "xterm", **env}
    result = CliRunner().invoke(cli, words, env=clean, standalone_mode=False)
    assert result.exception is None, result.output
    return result


def test_check_prints_the_cause_and_a_line_for_what_passed() -> None:
    """On stdout, without colours, marks or line breaks that a script would trip over; exit code 1."""
    result = run("check", "--snapshot", FAULT)
    lines = result.stdout.splitlines()
    assert result.return_value == 1
    assert lines[0] == CAUSE
    assert lines[-2:] == ["✔ 133 passed, 7 skipped; --all shows each", "✖ 5 failed, 1 warned, from 1 cause"]
    assert "MK101" not in result.stdout
    assert result.stderr == ""


def test_a_healthy_mesh_is_one_line() -> None:
    """All passed."""
    result = run("check", "--snapshot", HEALTHY)
    assert (result.return_value, result.stdout) == (0, "✔ 146 passed, 6 skipped; --all shows each\n")


def test_all_and_wide_show_every_finding_and_its_page_whole() -> None:
    """As blocks and as a table; without --all, the table has what is not in order."""
    ids = {row["id"] for row in json.loads(run("check", "--snapshot", FAULT, "-o", "json").stdout)}
    blocks = run("check", "--snapshot", FAULT, "--all").stdout
    assert {one for one in ids if one not in blocks} == set()
    wide = run("check", "--snapshot", FAULT, "--all", "-o", "wide").stdout.splitlines()
    assert re.split(" {3,}", wide[0]) == [name.upper().replace("_", " ") for name in audit.FINDINGS.columns]
    assert len(wide) == 1 + 146
    short = run("check", "--snapshot", FAULT, "-o", "wide").stdout.splitlines()
    assert len(short) == 1 + 6
    assert "kubectl apply --context lab-east -n istio-system -f -" in short[1]


FORCED = {"FORCE_COLOR": "1"}


@pytest.mark.parametrize("env", [FORCED, {**FORCED, "TERM": "dumb"}, {**FORCED, "NO_COLOR": "1"}, {}])
@pytest.mark.parametrize("command", ["check", "proxies", "pairs"])
def test_colours_of_a_pipe_are_forced_or_not(command: str, env: dict[str, str]) -> None:
    """NO_COLOR is the stronger one; findings below a table have the colours of stderr."""
    result = run(command, "--snapshot", FAULT, **env)
    coloured = "FORCE_COLOR" in env and "NO_COLOR" not in env
    assert ("\x1b[" in result.stdout) is coloured
    assert ("\x1b[" in result.stderr) is (coloured and command == "pairs")


def test_pairs_print_the_links_and_below_them_the_cause() -> None:
    """The table on stdout, findings on stderr, so that a pipe gets the table alone."""
    result = run("pairs", "--snapshot", FAULT)
    assert result.return_value == 1
    assert [line.split() for line in result.stdout.splitlines()] == [
        ["CLIENT", "SERVER", "VERDICT", "BROKEN"],
        ["east", "west", "fail", "secret"],
        ["west", "east", "pass", "-"],
    ]
    assert result.stderr.split("\n")[:2] == ["", CAUSE]


def test_since_shows_what_changed_and_fits() -> None:
    """Six findings, with the verdict before and now; the remedies are in the other formats."""
    lines = run("check", "--snapshot", FAULT, "--since", HEALTHY).stdout.splitlines()
    assert lines[0].split() == ["CHANGE", "ID", "SUBJECT", "BEFORE", "NOW", "OBSERVED"]
    assert any(line.split()[:2] == ["changed", "MK832"] or line.split()[:2] == ["new", "MK832"] for line in lines)
