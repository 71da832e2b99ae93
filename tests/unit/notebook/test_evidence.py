"""What notebooks show, for people and as data."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pandas as pd
import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import RichOutput, capture_output
from matplotlib import pyplot as plt
from traitlets.config import Config

from meshkit.checks.finding import Conclusion, Finding, Findings, Verdict
from meshkit.display import RECORD, TABLE, VERDICT, Record
from meshkit.errors import CheckFailed, UnreachableError
from meshkit.notebook.pictures import Picture
from meshkit.tables import Column, Table, View

FRAME = pd.DataFrame(
    {"proxy": ["a<b>", "c"], "state": ["SYNCED", "ERROR"], "p50_ms": [41.2345, None], "known": [True, False]}
)


def finding(verdict: Verdict, subject: str = "east → west", remedy: str = "") -> Finding:
    """Return a finding that says no more than its verdict."""
    return Finding(
        id="MK801", check="call", subject=subject, expected="200", observed="<503>", verdict=verdict, remedy=remedy
    )


def view(frame: pd.DataFrame, name: str, caption: str = "", **more: Any) -> View:
    """Return what shows a frame as a table of that name."""
    columns = {str(column): Column(str(dtype)) for column, dtype in frame.reset_index().dtypes.items()}
    return Table(name, caption, columns, **more).view(frame)


def conclude(findings: list[Finding]) -> None:
    """End stage 08 as `Stage.conclude` does."""
    conclusion = Conclusion("08 verify", findings)
    conclusion.show()
    conclusion.raise_if_bad()


@pytest.fixture
def shown() -> Iterator[Callable[..., RichOutput]]:
    """Call something in an IPython shell and return the one output that it displayed."""
    InteractiveShell.instance(config=Config({"HistoryManager": {"enabled": False}}))

    def run(call: Callable[..., None], *args: Any, **kwargs: Any) -> RichOutput:
        with capture_output() as captured:
            call(*args, **kwargs)
        (output,) = captured.outputs
        return output

    yield run
    InteractiveShell.clear_instance()


def test_a_table_carries_all_its_rows_and_shows_some(shown: Callable[..., RichOutput]) -> None:
    """The limit is for people; the data is whole."""
    output = shown(view(pd.DataFrame({"n": range(60)}), "numbers", limit=50).show)
    assert len(output.data[TABLE]["rows"]) == 60
    assert "10 more rows in tables/numbers.csv" in output.data["text/plain"]
    assert output.data["text/html"].count("<tr>") == 51


def test_a_table_is_escaped_and_its_states_have_symbol_and_word(shown: Callable[..., RichOutput]) -> None:
    """Colour never says it alone, and data is never markup."""
    data = shown(view(FRAME, "proxies", "All <proxies>").show).data
    assert "✖ ERROR" in data["text/html"]
    assert "✖ ERROR" in data["text/plain"]
    assert "a&lt;b&gt;" in data["text/html"]
    assert "All &lt;proxies&gt;" in data["text/html"]
    assert "<b>" not in data["text/html"]


def test_a_table_payload_is_plain_json_with_missing_values_as_null(shown: Callable[..., RichOutput]) -> None:
    """The runner needs no pandas to read it."""
    payload = shown(view(FRAME, "proxies", key=["proxy"]).show).data[TABLE]
    assert json.loads(json.dumps(payload))["rows"][1] == ["c", "ERROR", None, False]
    assert payload["key"] == ["proxy"]
    assert payload["dtypes"][2] == "float64"


def test_the_same_table_is_shown_the_same_twice(shown: Callable[..., RichOutput]) -> None:
    """Two runs of one notebook differ in nothing but what changed."""
    assert shown(view(FRAME, "proxies").show).data == shown(view(FRAME, "proxies").show).data


def test_a_named_index_becomes_columns(shown: Callable[..., RichOutput]) -> None:
    """A matrix keeps the names of its rows."""
    matrix = pd.DataFrame({"west": [1.5]}, index=pd.Index(["east"], name="from"))
    assert shown(view(matrix, "matrix").show).data[TABLE]["columns"] == ["from", "west"]


@pytest.mark.parametrize("name", ["", "../up", "Upper", "a b"])
def test_a_table_name_must_be_a_file_name(name: str) -> None:
    """It names a CSV."""
    with pytest.raises(ValueError, match="small letters"):
        view(FRAME, name)


def test_a_key_must_be_columns() -> None:
    """A misspelt key would silently compare nothing."""
    with pytest.raises(ValueError, match="no column pod"):
        view(FRAME, "proxies", key=["pod"])


def test_a_figure_is_shown_once_with_its_text_alternative_and_closed(shown: Callable[..., RichOutput]) -> None:
    """IPython's inline backend would show an open figure again."""
    fig, axes = plt.subplots(figsize=(4, 2))
    axes.plot([1, 2])
    output = shown(Picture(fig, "ecdf", "ECDF of latency").show)
    assert output.metadata["meshkit"] == {"figure": "ecdf", "alt": "ECDF of latency", "width": 384}
    assert output.metadata["image/png"]["alt"] == "ECDF of latency"
    assert output.data["text/plain"] == "[figure ecdf: ECDF of latency]"
    assert plt.get_fignums() == []


def test_of_a_figure_without_a_drawing_the_title_is_shown(shown: Callable[..., RichOutput]) -> None:
    """In plan mode nothing was measured."""
    fig = plt.figure()
    fig.suptitle("Latency: nothing was measured")
    assert shown(Picture(fig, "latency").show).data == {"text/plain": "Latency: nothing was measured"}
    assert plt.get_fignums() == []


def test_a_table_without_rows_is_one_line(shown: Callable[..., RichOutput]) -> None:
    """Its columns would say nothing; the CSV has them."""
    data = shown(view(FRAME.head(0), "proxies", "All proxies").show).data
    assert data["text/plain"] == "All proxies: none"
    assert "<table" not in data["text/html"]
    assert data[TABLE]["columns"] == list(FRAME.columns)


def test_a_long_record_is_shown_whole(shown: Callable[..., RichOutput]) -> None:
    """Anyone who is asked to keep a hash must see it."""
    digest = "ab" * 32
    text = shown(Record("backup", {"folder": "~/" + "x" * 60, "sha256": digest}).show).data["text/plain"]
    assert f"  sha256: {digest}" in text


@pytest.mark.parametrize(
    ("verdicts", "line"),
    [
        ([Verdict.PASS, Verdict.WARN], "! 1 warn, 1 pass"),
        ([Verdict.PASS, Verdict.FAIL], "✖ 1 fail, 1 pass; MK801 would hold an apply"),
        ([], "? nothing was checked"),
    ],
)
def test_findings_are_summed_up_in_one_line(
    shown: Callable[..., RichOutput], verdicts: list[Verdict], line: str
) -> None:
    """What is not in order stands below it, the rest can be unfolded."""
    data = shown(Findings(finding(verdict, f"subject {n}") for n, verdict in enumerate(verdicts)).show).data
    assert data["text/plain"].splitlines()[0] == line
    assert data["text/html"].count("subject ") == len(verdicts)


def test_what_passed_is_folded_under_the_verdict(shown: Callable[..., RichOutput]) -> None:
    """Each finding is in the notebook; those that need nothing are out of the way."""
    html = shown(conclude, [finding(Verdict.PASS, "sound"), finding(Verdict.WARN, "doubtful")]).data["text/html"]
    assert html.index("doubtful") < html.index("<details>") < html.index("sound")


def test_a_long_text_is_wrapped_and_whole(shown: Callable[..., RichOutput]) -> None:
    """A sentence that explains a choice ends where it ends."""
    why = "adopt: " + " ".join(["no trust breaks"] * 20)
    lines = shown(Record("strategy", why).show).data["text/plain"].splitlines()
    assert max(map(len, lines)) <= 110
    assert " ".join(line.strip() for line in lines) == f"strategy: {why}"


def test_a_record_is_a_line_and_a_fact(shown: Callable[..., RichOutput]) -> None:
    """Small facts go to record.json."""
    data = shown(Record("istio", {"east": "1.31.0"}).show).data
    assert data[RECORD] == {"name": "istio", "value": {"east": "1.31.0"}}
    assert data["text/plain"] == 'istio: {"east": "1.31.0"}'


@pytest.mark.parametrize("verdict", [Verdict.PASS, Verdict.WARN, Verdict.SKIPPED])
def test_a_good_verdict_concludes_quietly(shown: Callable[..., RichOutput], verdict: Verdict) -> None:
    """Pass, warn and skipped let the run go on."""
    payload = shown(conclude, [finding(verdict)]).data[VERDICT]
    assert (payload["verdict"], payload["exit_code"], payload["counts"]) == (verdict, 0, {verdict: 1})


@pytest.mark.parametrize(
    ("verdicts", "error", "code"),
    [
        ([Verdict.PASS, Verdict.FAIL, Verdict.UNKNOWN], CheckFailed, 1),
        ([Verdict.PASS, Verdict.UNKNOWN], UnreachableError, 3),
    ],
)
def test_a_bad_verdict_is_shown_and_then_raised(
    shown: Callable[..., RichOutput], verdicts: list[Verdict], error: type[Exception], code: int
) -> None:
    """The notebook is red under plain papermill and in JupyterLab too."""
    found = [finding(verdict, remedy="mend <it>") for verdict in verdicts]

    def conclude_and_catch() -> None:
        with pytest.raises(error, match="MK801 call"):
            conclude(found)

    data = shown(conclude_and_catch).data
    assert data[VERDICT]["exit_code"] == code
    assert len(data[VERDICT]["findings"]) == len(verdicts)
    assert "mend &lt;it&gt;" in data["text/html"]
    assert "→ mend <it>" in data["text/plain"]


def test_nothing_checked_is_unknown(capsys: pytest.CaptureFixture[str]) -> None:
    """A stage that proved nothing has not passed."""
    with pytest.raises(UnreachableError, match="nothing was checked"):
        conclude([])
    assert "? 08 verify: UNKNOWN" in capsys.readouterr().out


def test_the_worst_comes_first(capsys: pytest.CaptureFixture[str]) -> None:
    """And what passed is counted, not listed."""
    with pytest.raises(CheckFailed):
        conclude([finding(Verdict.PASS, "p"), finding(Verdict.WARN, "w"), finding(Verdict.FAIL, "f")])
    headline, *lines = capsys.readouterr().out.splitlines()
    assert headline == "✖ 08 verify: FAIL — 1 fail, 1 warn, 1 pass"
    assert [line.split("[")[1][0] for line in lines] == ["f", "w"]


def test_without_ipython_the_text_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """The same calls serve a plain script."""
    view(FRAME, "proxies", "All proxies").show()
    assert capsys.readouterr().out.splitlines() == [
        "All proxies",
        "proxy  state     p50_ms  known",
        "a<b>   ✔ SYNCED  41.23   yes",
        "c      ✖ ERROR   —       no",
    ]
