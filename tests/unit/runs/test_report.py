"""The pages of a run: complete without script, on paper too; each id once; the worst first."""

from __future__ import annotations

import base64
import hashlib
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import nbformat
import pytest

from meshkit.checks.finding import Verdict
from meshkit.runs.outcome import Outcome, Status
from tests.support import report_pages as made

NOTEBOOKS = sorted((Path(__file__).parents[3] / "notebooks").glob("*.ipynb"))
MANY = (2, 5, 20)


class Page(HTMLParser):
    """What a page says, its elements, and the text of its scripts and styles."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words, self.code, self._open = "", {"script": "", "style": ""}, ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect."""
        self.elements.append((tag, dict(attrs)))
        self._open = tag

    def handle_endtag(self, tag: str) -> None:  # noqa: ARG002
        """Leave a script or a style."""
        self._open = ""

    def handle_data(self, data: str) -> None:
        """Collect."""
        if self._open in self.code:
            self.code[self._open] += data
        else:
            self.words += f" {data}"

    @property
    def text(self) -> str:
        """All that it says, without white space: where a line is broken means nothing."""
        return "".join(self.words.split())

    def all(self, key: str) -> list[str]:
        """Return the values of an attribute, in the order of the page."""
        return [attrs[key] or "" for _, attrs in self.elements if key in attrs]


@pytest.fixture(scope="module", params=MANY)
def report(request: pytest.FixtureRequest) -> tuple[list[Outcome], Page]:
    """The report of a run of two, five and twenty clusters."""
    clusters = made.names(request.param)
    return made.outcomes(clusters), Page(made.report(clusters))


@pytest.fixture(scope="module")
def two() -> str:
    """The HTML of the report of two clusters, of which two requests failed."""
    return made.report(made.names(2), failed=2)


def test_every_finding_and_every_state_is_on_the_page(report: tuple[list[Outcome], Page]) -> None:
    """Each with its verdict, subject and remedy; a bad state beyond the rows that fit, too."""
    outcomes, page = report
    for finding in (f for outcome in outcomes for f in outcome.findings):
        for words in (finding.id, finding.subject, finding.observed, finding.remedy):
            assert "".join(words.split()) in page.text
    for outcome in outcomes:
        assert f"{outcome.status.value}".replace(" ", "") in page.text
    for state in made.STATES:
        assert page.text.count(state.replace(" ", "")) >= 2 or state == "SYNCED"


def test_every_id_is_there_once_and_every_link_has_one(report: tuple[list[Outcome], Page]) -> None:
    """A link that leads to two places leads nowhere."""
    _, page = report
    assert [name for name, count in Counter(page.all("id")).items() if count > 1] == []
    assert {link[1:] for link in page.all("href") if link.startswith("#")} <= set(page.all("id"))
    labels = [name for labels in page.all("aria-labelledby") for name in labels.split()]
    assert {*labels, *page.all("for")} <= set(page.all("id"))


def test_nothing_is_folded_or_hidden_without_the_script(report: tuple[list[Outcome], Page]) -> None:
    """Only search and filters, which do nothing without it."""
    _, page = report
    assert all("open" in attrs for tag, attrs in page.elements if tag == "details")
    assert all("data-tool" in attrs for _, attrs in page.elements if "hidden" in attrs)


def test_on_paper_nothing_is_hidden_or_cut_off(two: str) -> None:
    """What the screen may hide, for a filter or a long text, is in rules of the screen."""
    css = Page(two).code["style"]
    paper = re.sub(r"@media screen[^{]*\{(?:[^{}]*\{[^{}]*\})*[^{}]*\}", "", css)
    assert "@media print" in paper
    assert not re.search(r"display: *none|visibility: *hidden|line-clamp|max-height|text-overflow", paper)
    assert "::details-content" in paper  # what a reader closed by hand


def test_the_page_may_load_nothing_and_run_nothing_but_its_script(two: str) -> None:
    """The page itself forbids it to the browser: what a cluster says can neither load nor run anything."""
    page = Page(two)
    digest = base64.b64encode(hashlib.sha256(page.code["script"].encode()).digest()).decode()
    (policy,) = [value for value in page.all("content") if "default-src" in value]
    assert policy == f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    assert all(source.startswith("data:image/png;base64,") for source in page.all("src"))


def test_what_matters_comes_first(report: tuple[list[Outcome], Page]) -> None:
    """The sections in their order; of the findings and of a table's rows, the worst."""
    _, page = report
    order = ["summary", "topology", "requests", "stages", "changes", "comparison", "findings", "01-assess", "evidence"]
    assert [name for name in page.all("id") if name in order] == order
    verdicts = [attrs["data-verdict"] for _, attrs in page.elements if "data-verdict" in attrs]
    assert verdicts == sorted(verdicts, key=["fail", "unknown", "warn", "skipped", "pass"].index)
    error, unknown, stale, synced = (page.words.index(f"httpbin-85948fd849-0000{n}") for n in (2, 4, 1, 0))
    assert error < unknown < stale < synced


def test_the_first_screen_says_what_changed_what_warns_and_what_users_noticed(two: str) -> None:
    """In sentences, with links to the findings."""
    page = Page(two)
    words = " ".join(page.words.split("The mesh")[1].split())
    for part in (
        "One cluster became two: east and west answer",
        "✖ 2 of 1,200",
        "p50 tripled",
        "MK407 the root's key is in no cluster",
    ):
        assert part in words
    assert "#finding-1" in page.all("href")


def test_each_change_has_its_diff_its_purpose_and_how_far_it_came(two: str) -> None:
    """Whole, and escaped; a change that only the journal knows is there as well."""
    assert "lets east discover &lt;another&gt;" in two
    assert "+kind: Secret" in two
    assert f"# {'x' * 300}" in two
    assert Page(two).text.count("✔done") == 2
    journal_only = Page(made.report(made.names(2), known=[made.outcome("07-discovery", [])]))
    assert journal_only.text.count("Thejournalhasnodiffofit.") == 2


def test_a_planned_change_was_not_made() -> None:
    """In mode apply a change without an entry in the journal was not run."""
    clusters = made.names(5)
    (stage,) = (one for one in made.outcomes(clusters) if one.stage == "07-discovery")
    unmade = Outcome(stage="07-discovery", status=Status.PASSED, planned=[*stage.planned, *stage.planned[:1]])
    assert "·notrun" in Page(made.report(clusters, known=[unmade])).text
    assert "·planned" in Page(made.report(clusters, "plan", known=[unmade])).text


def test_a_finding_that_is_not_well_says_why_it_is_asked_and_an_unknown_id_has_no_page() -> None:
    """From the catalogue; findings of another version may not be in it."""
    known = [made.outcome("04-trust", [made.finding(Verdict.WARN, "mesh", id=name) for name in ("MK407", "MK9999")])]
    page = Page(made.report(made.names(2), known=known))
    assert "common root's private key" in page.words
    assert [link for link in page.all("href") if link.startswith("https://istio.io/")]
    assert "MK9999" in page.text


def test_findings_that_differ_in_their_subject_only_are_one_entry() -> None:
    """380 pairs that pass in the same words are no 380 rows; each is named."""
    found = [made.finding(Verdict.PASS, f"{n} → {n + 1}") for n in range(380)]
    page = Page(made.report(made.names(2), known=[made.outcome("08-verify", found)]))
    assert len(page.all("data-verdict")) == 1
    assert "379→380" in page.text


def test_a_notebook_names_mesh_date_and_verdict_and_leads_back() -> None:
    """At its top, without a script; each id once."""
    page = Page(made.notebook(made.names(5)))
    assert page.elements[[tag for tag, _ in page.elements].index("header") + 1 :][1] == (
        "a",
        {"href": "report.html#09-observe"},
    )
    head = " ".join(page.words.split())[:300]
    for part in ("Mesh shop", "09 observe", "2026-11-24 00:00:00 UTC", "✔ passed", "5 skipped"):
        assert part in head
    assert "script" not in [tag for tag, _ in page.elements]
    assert [name for name, count in Counter(page.all("id")).items() if count > 1] == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_headings_of_a_notebook_differ(path: Path) -> None:
    """Their ids are made of them."""
    nb: Any = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    texts = [cell.source for cell in nb.cells if cell.cell_type == "markdown"]
    headings = re.findall(r"^#+ (.+)$", "\n".join(texts), re.MULTILINE)
    assert headings
    assert [name for name, count in Counter(headings).items() if count > 1] == []
