"""What the report, the record and JUnit say; and what changed since the run before."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from meshkit.checks.finding import Finding, Verdict
from meshkit.runs.compare import compare
from meshkit.runs.outcome import Outcome, Status
from meshkit.runs.record import junit, results, to_csv
from meshkit.runs.run import execute
from tests.support.notebooks import MESH, write_notebook

CELLS = (
    (
        "table(pd.DataFrame({'pair': ['east → west', 'gone'], 'p50_ms': [40.0, 1.0]}), 'latency', 'Latency',"
        " key=['pair'], compare=['p50_ms'])"
    ),
    "table(pd.DataFrame({'proxy': range(30), 'state': ['SYNCED'] * 30}), 'proxies', key=['proxy'])",
    "import matplotlib.pyplot as plt",
    "figure(plt.subplots(figsize=(3, 2))[0], 'ecdf', 'ECDF \"of\" <latency>')",
    "print('<script>alert(1)</script>')",
    "conclude('08 verify', [finding(Verdict.PASS), finding(Verdict.WARN, 'west → east', 'restart <it>')])",
)
NOW = (
    CELLS[0].replace("gone", "new").replace("40.0", "41.0"),
    CELLS[1].replace("* 30", "* 29 + ['STALE']"),
    *CELLS[2:5],
    CELLS[5].replace("PASS", "FAIL"),
)


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two runs of one mesh, the second with another outcome."""
    tmp = tmp_path_factory.mktemp("report")
    (tmp / "shop.yaml").write_text(MESH)
    first, second = (
        execute(
            tmp / "shop.yaml", ["08"], "audit", tmp / "runs",
            notebooks=write_notebook(tmp, *cells), say=lambda _: None,
        ).folder
        for cells in (CELLS, NOW)
    )  # fmt: skip
    return first, second


class Page(HTMLParser):
    """The addresses, pictures, ids and text of a page; `fetched` are the addresses that a browser would load."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.fetched: list[str] = []
        self.alts: list[str | None] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.words = ""
        self.source = path.read_text()
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect."""
        known = dict(attrs)
        self.tags.append(tag)
        self.words += " "
        self.addresses += [known[key] or "" for key in ("src", "href") if key in known]
        self.fetched += [known["src"] or ""] if "src" in known else []
        self.fetched += [known["href"] or ""] if tag == "link" and "href" in known else []
        self.ids += [known["id"] or ""] if "id" in known else []
        if tag == "img":
            self.alts.append(known.get("alt"))

    def handle_data(self, data: str) -> None:
        """Collect."""
        self.words += data


@pytest.mark.parametrize(("page", "scripts"), [("report.html", 1), ("08-verify.html", 0)])
def test_a_page_fetches_nothing(two_runs: tuple[Path, Path], page: str, scripts: int) -> None:
    """It opens where there is no network; its pictures say what they show. The report has its own script, no other."""
    seen = Page(two_runs[1] / page)
    assert not [address for address in seen.fetched if not address.startswith("data:")]
    assert not re.search(r"url\(['\"]?http|@import", seen.source)
    assert seen.tags.count("script") == scripts
    assert seen.alts == ['ECDF "of" <latency>']


def test_every_link_of_the_report_leads_somewhere(two_runs: tuple[Path, Path]) -> None:
    """To a file of the run, the run before, or a place on the page."""
    seen = Page(two_runs[1] / "report.html")
    for address in seen.addresses:
        if address.startswith("#"):
            assert address[1:] in seen.ids
        elif not address.startswith(("data:", "https://istio.io/")):
            assert (two_runs[1] / address).exists(), address


def test_the_report_says_what_happened(two_runs: tuple[Path, Path]) -> None:
    """Mesh, verdict, findings with remedies, tables with the way to the rest of them."""
    words = re.sub(r"\s+", " ", Page(two_runs[1] / "report.html").words)
    assert "Mesh shop" in words
    assert "✖ failed" in words
    assert "08 verify failed: 1 fail, 1 warn." in words
    assert "remedy restart <it>" in words
    assert "10 more rows in tables/proxies.csv" in words


def test_the_report_says_what_changed(two_runs: tuple[Path, Path]) -> None:
    """Verdicts, and rows by their key."""
    first, second = (re.sub(r"\s+", " ", Page(run / "report.html").words) for run in two_runs)
    assert "This is the first run of this mesh here" in first
    assert f"Compared with {two_runs[0].name}, in 08 verify." in second
    assert "MK801 call [east → west] ✔ pass ✖ fail" in second
    assert "east → west p50_ms 40 p50_ms 41" in second
    assert "new appeared" in second
    assert "gone was there gone" in second
    assert "29 state SYNCED state STALE" in second


def test_results_are_an_in_toto_statement_over_the_files(two_runs: tuple[Path, Path]) -> None:
    """Subjects with their hashes, the mesh file as configuration."""
    data = json.loads((two_runs[1] / "results.json").read_text())
    statement = data["statement"]
    sums = dict(line.split("  ")[::-1] for line in (two_runs[1] / "SHA256SUMS").read_text().splitlines())
    assert statement["predicateType"] == "https://in-toto.io/attestation/test-result/v0.1"
    assert statement["predicate"]["result"] == "FAILED"
    assert statement["predicate"]["failedTests"] == ["08-verify MK801 call [east → west]"]
    subjects = {s["name"]: s["digest"]["sha256"] for s in statement["subject"]}
    assert subjects["tables/latency.csv"] == sums["tables/latency.csv"]
    assert all(sums[name] == digest for name, digest in subjects.items())
    assert [f["verdict"] for f in data["findings"]] == ["fail", "warn"]


def outcome(verdict: Verdict | None = None, status: Status = Status.PASSED, observed: str = "200") -> Outcome:
    """Return an outcome with one finding or none."""
    found = (
        [Finding(id="MK1", check="c", subject="s", expected="e", observed=observed, verdict=verdict)] if verdict else []
    )
    return Outcome(stage="08-verify", status=status, findings=found, reason="why\x1b")


@pytest.mark.parametrize(
    ("given", "tag"),
    [
        (outcome(Verdict.FAIL, observed="\x00<b>"), "failure"),
        (outcome(Verdict.UNKNOWN), "error"),
        (outcome(Verdict.SKIPPED), "skipped"),
        (outcome(Verdict.WARN), "system-out"),
        (outcome(status=Status.ABORTED), "error"),
        (outcome(status=Status.NOT_RUN), "skipped"),
    ],
)
def test_junit_has_a_word_for_each_verdict(given: Outcome, tag: str) -> None:
    """And stays XML whatever a server answers."""
    (case,) = ET.fromstring(junit([given])).iter("testcase")  # noqa: S314  (our own)
    assert [child.tag for child in case] == [tag]


def test_unknown_and_aborted_are_no_passed_tests() -> None:
    """The predicate has no fourth group."""
    given = [outcome(Verdict.UNKNOWN, Status.FAILED), outcome(status=Status.ABORTED)]
    predicate = results(given, {}, {"mesh.yaml": "0"})["statement"]["predicate"]
    assert (predicate["result"], predicate["passedTests"], len(predicate["failedTests"])) == ("FAILED", [], 2)


def table(name: str, rows: list[list[Any]]) -> dict[str, Any]:
    """Return a table payload keyed by its first column."""
    return {
        "name": name, "caption": "", "columns": ["k", "v"], "dtypes": ["str", "float64"], "key": ["k"], "rows": rows,
        "compare": ["v"] if name == "latency" else [], "stage": "08-verify",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "now", "changes"),
    [("n", 104.0, 0), ("n", 120.0, 1), ("latency", 104.0, 1), ("n", None, 1), ("n", "text", 1), ("n", 100.0, 0)],
)
def test_small_moves_of_numbers_are_noise_but_in_columns_named_to_be_compared(
    tmp_path: Path, name: str, now: Any, changes: int
) -> None:
    """A tenth, unless the notebook named the column."""
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / f"{name}.csv").write_text(to_csv(table(name, [["a", 100.0]])))
    (tmp_path / "results.json").write_text(json.dumps({"findings": [], "tables": {name: {}}}))
    (tmp_path / "record.json").write_text(json.dumps({"stages": [{"stage": "08-verify", "files": ["x"]}]}))
    found = compare(tmp_path, [outcome(Verdict.PASS)], {name: table(name, [["a", now]])})
    assert len(found.tables.get(name, [])) == changes
    assert found.findings[0].before == ""


def test_csv_quotes_what_needs_it() -> None:
    """Commas, quotes, lists and what is not there."""
    assert to_csv(table("t", [['a,"b"', None], ["x", [1]]])) == 'k,v\n"a,""b""",\nx,[1]\n'
