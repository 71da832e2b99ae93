"""Tables as text: what a person, a pipe and a program each get."""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import sys
from datetime import date, timedelta

import numpy as np
import pandas as pd
import pytest
from rich.cells import cell_len

from meshkit.checks.finding import Verdict
from meshkit.errors import InputError
from meshkit.notebook.terminal import render, show, talk

PROXIES = pd.DataFrame(
    {
        "cluster": ["east", "west"],
        "proxy": ["sleep-5f9c7d9d8b-abcde.sample", "httpbin-0.sample"],
        "xds_state": ["SYNCED", "STALE"],
        "p50_ms": [3.14159, float("nan")],
        "since": pd.to_datetime(["2026-01-02T03:04:05.678Z", None], utc=True),
    }
)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A terminal of 80 columns that shows colour."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    return monkeypatch


def test_a_pipe_gets_kubectls_shape_whole_and_bare() -> None:
    """Uppercase headings, three spaces, no mark, no colour, no cut, no trailing blanks."""
    assert render(PROXIES).split("\n") == [
        "CLUSTER   PROXY                           XDS STATE   P50 MS   SINCE",
        "east      sleep-5f9c7d9d8b-abcde.sample   SYNCED      3.14     2026-01-02T03:04:05Z",
        "west      httpbin-0.sample                STALE       -        -",
    ]


def test_a_terminal_gets_colour_with_a_symbol_beside_the_word(terminal: pytest.MonkeyPatch) -> None:
    """Colour wraps the word and its mark, not the blanks after it."""
    text = render(PROXIES, width=200)
    assert "\x1b[32m✔ SYNCED\x1b[0m" in text
    assert "\x1b[33m! STALE\x1b[0m" in text


@pytest.mark.parametrize(("variable", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_no_color_and_a_dumb_terminal_keep_the_symbols_only(
    terminal: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    """The word and its mark say it without colour."""
    terminal.setenv(variable, value)
    text = render(PROXIES)
    assert "\x1b" not in text
    assert "! STALE" in text


def test_an_empty_no_color_means_colour(terminal: pytest.MonkeyPatch) -> None:
    """no-color.org: only a value that is not empty counts."""
    terminal.setenv("NO_COLOR", "")
    assert "\x1b[" in render(PROXIES)


def test_colour_can_be_forced_into_a_pipe() -> None:
    """`--color always | less -R`."""
    assert "\x1b[32m✔ SYNCED" in render(PROXIES, color=True)


def test_force_color_colours_a_pipe_and_cuts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the log of a CI that shows colours; NO_COLOR is the stronger one."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[32m✔ SYNCED\x1b[0m" in render(PROXIES)
    assert "sleep-5f9c7d9d8b-abcde.sample " in render(PROXIES)
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in render(PROXIES)


def test_show_leaves_the_colours_that_render_gives(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a pipe, too; JSON never has any."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    show(PROXIES, "table")
    assert "\x1b[32m✔ SYNCED\x1b[0m" in capsys.readouterr().out
    show(PROXIES, "json")
    assert json.loads(capsys.readouterr().out)[0]["xds_state"] == "SYNCED"


@pytest.mark.parametrize("word", ["skipped", "FAIL"])
def test_no_color_takes_every_escape_sequence(terminal: pytest.MonkeyPatch, word: str) -> None:
    """Of dim and bold words, too."""
    assert "\x1b[" in render(pd.DataFrame({"verdict": [word]}))
    terminal.setenv("NO_COLOR", "1")
    assert "\x1b" not in render(pd.DataFrame({"verdict": [word]}))


def test_what_looks_like_markup_is_shown_as_it_is(terminal: pytest.MonkeyPatch) -> None:
    """A name such as [red] is a cluster's, not ours, and nothing else is an emoji or a link."""
    text = "[red]x[/red] [/] :smile: http://a.b 'quoted' 12"
    assert render(pd.DataFrame({"error": [text]})).split("\n")[1] == text


def test_numbers_are_never_cut(terminal: pytest.MonkeyPatch) -> None:
    """Not even where the terminal is too narrow for all columns: half a number is another number."""
    columns = {f"n{i}": [123456789 + i] for i in range(12)}
    line = render(pd.DataFrame({"name": ["a-long-name-of-a-proxy"], **columns})).split("\n")[1]
    assert line.split()[1:] == [str(123456789 + i) for i in range(12)]


def test_talk_is_plain_lines_on_stderr_without_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing moves in a log, even where colour is forced."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    with talk() as say:
        say("reading [east]")
        say("done")
    assert capsys.readouterr() == ("", "reading [east]\ndone\n")


END = "\x04"


@pytest.mark.parametrize("term", ["xterm", "dumb"])
def test_talk_on_a_terminal_has_a_clock_unless_it_is_dumb(monkeypatch: pytest.MonkeyPatch, term: str) -> None:
    """The clock is gone at the end, the lines stay, and the cursor is shown again."""
    ours, theirs = pty.openpty()
    monkeypatch.setenv("TERM", term)
    monkeypatch.delenv("NO_COLOR", raising=False)
    with os.fdopen(theirs, "w") as stream, monkeypatch.context() as patched:
        patched.setattr(sys, "stderr", stream)
        with talk() as say:
            say("reading [east]" + " and what it says of others" * 5)
        stream.write(END)
        stream.flush()
        read = b""
        while not read.endswith(END.encode()):  # one read may bring less than was written
            read += os.read(ours, 65536)
    os.close(ours)
    printed = read.decode()
    assert "reading [east]" in printed
    assert ("0:00:00" in printed) is (term == "xterm")
    assert printed.count("\x1b[?25l") == printed.count("\x1b[?25h")


def test_a_narrow_terminal_cuts_the_widest_text_and_nothing_else(terminal: pytest.MonkeyPatch) -> None:
    """Numbers and times stay whole; every line fits."""
    lines = render(PROXIES, color=False, width=70).split("\n")
    assert max(map(cell_len, lines)) <= 70
    assert "sleep-5f9…cde.sample" in lines[1]
    assert lines[1].endswith("2026-01-02T03:04:05Z")
    assert "httpbin-0.sample" in lines[2]


def test_names_that_differ_look_different_when_they_are_cut(terminal: pytest.MonkeyPatch) -> None:
    """In the middle, unless that is where they differ; a sentence loses its end."""
    names = [f"prod-eu-west-{zone}-payments-and-orders-blue" for zone in (1, 2)]
    lines = render(pd.DataFrame({"client": names, "server": names[::-1], "why": "it is so " * 20}), width=60).split(
        "\n"
    )
    assert max(map(cell_len, lines)) <= 60
    first, second = (line.split()[:2] for line in lines[1:])
    assert first == second[::-1]
    assert first[0] != first[1]
    assert lines[1].endswith("…")


def test_wide_cuts_nothing(terminal: pytest.MonkeyPatch) -> None:
    """However narrow the terminal is."""
    terminal.setenv("COLUMNS", "40")
    assert "sleep-5f9c7d9d8b-abcde.sample" in render(PROXIES, "wide")


def test_force_color_colours_a_dumb_terminals_pipe_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """As force-color.org has it; many CI systems say TERM=dumb."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[32m✔ SYNCED" in render(PROXIES)


def test_columns_line_up_by_cells_where_characters_are_wide() -> None:
    """A Chinese name takes two cells a character; a combining accent none."""
    lines = render(pd.DataFrame({"name": ["网格", "cafe\u0301"], "n": [1, 2]})).split("\n")
    assert {cell_len(line) for line in lines[1:]} == {8}


def test_what_a_cluster_says_can_neither_break_the_table_nor_the_terminal() -> None:
    """Line breaks become blanks and escape sequences are shown, not sent."""
    text = render(pd.DataFrame({"error": ["rejected:\n  line two\x1b[2J"]}))
    assert text.split("\n")[1] == "rejected: line two\\x1b[2J"


def test_numbers_show_the_digits_that_say_something() -> None:
    """Three digits, no exponent for what a person measures, counts whole."""
    numbers = [0.0, 0.000123, 0.5, 1.2345, 12.345, 123.45, 12345.6, 7.0]
    assert render(pd.DataFrame({"x": numbers})).split("\n")[1:] == (
        ["0", "0.000123", "0.5", "1.23", "12.3", "123", "12346", "7"]
    )


def test_json_is_valid_and_says_null_where_nothing_is_known() -> None:
    """NaN, NaT, NA and infinities are null; times are RFC 3339; numbers keep their digits."""
    first, second = json.loads(render(PROXIES, "json"), parse_constant=pytest.fail)
    assert first["since"] == "2026-01-02T03:04:05.678000Z"
    assert first["p50_ms"] == 3.14159
    assert (second["since"], second["p50_ms"]) == (None, None)


def test_json_keeps_numbers_booleans_lists_and_verdicts() -> None:
    """Values of numpy, pandas and our enumerations become JSON's own."""
    frame = pd.DataFrame(
        {
            "n": pd.array([1, None], dtype="Int64"),
            "up": np.array([True, False]),
            "ids": [["a", np.int64(2)], {"k": float("inf")}],
            "verdict": [Verdict.FAIL, Verdict.PASS],
            "took": [timedelta(seconds=1.5), pd.NaT],
            "day": [date(2026, 1, 2), None],
        }
    )
    assert json.loads(render(frame, "json")) == [
        {"n": 1, "up": True, "ids": ["a", 2], "verdict": "fail", "took": 1.5, "day": "2026-01-02"},
        {"n": None, "up": False, "ids": {"k": None}, "verdict": "pass", "took": None, "day": None},
    ]
    assert "a, 2" in render(frame)


def test_csv_is_rfc_4180() -> None:
    """CRLF, quotes where needed, doubled quotes, the column names as they are."""
    frame = pd.DataFrame({"name": ['say "hi", all', "two\nlines"], "p50_ms": [1.5, float("nan")]})
    text = render(frame, "csv")
    assert text == 'name,p50_ms\r\n"say ""hi"", all",1.5\r\n"two\nlines",\r\n'
    assert list(csv.reader(io.StringIO(text, newline="")))[2] == ["two\nlines", ""]


def test_an_empty_table_keeps_its_headings() -> None:
    """No rows: headings alone, `[]`, or one CSV line."""
    empty = PROXIES.head(0)
    assert render(empty) == "CLUSTER   PROXY   XDS STATE   P50 MS   SINCE"
    assert render(empty, "json") == "[]"
    assert render(empty, "csv") == "cluster,proxy,xds_state,p50_ms,since\r\n"
    assert render(pd.DataFrame()) == ""


def test_an_unknown_format_is_an_input_error_that_lists_the_known_ones() -> None:
    """Exit code 2, not a traceback."""
    with pytest.raises(InputError, match="table, wide, json or csv"):
        render(PROXIES, "yaml")  # type: ignore[arg-type]
