"""The report and the notebooks' HTML in a browser: on paper, on a phone, for a screen reader, and with the script."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page
from pypdf import PdfReader

from tests.support import report_pages as made

MANY = (2, 5, 20)
WIDTHS = (390, 1280, 1920)
SMALLEST = 8.0
"""The smallest letters of a picture that people can still read, in CSS pixels."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a run of each size, `report-5.html`, and a notebook of it, `notebook-5.html`."""
    path = tmp_path_factory.mktemp("pages")
    for many in MANY:
        (path / f"report-{many}.html").write_text(made.report(made.names(many)), encoding="utf-8")
        (path / f"notebook-{many}.html").write_text(made.notebook(made.names(many)), encoding="utf-8")
    return path


def opened(browser: Browser, path: Path, width: int = 1280, scheme: str = "light", *, script: bool = True) -> Page:
    """Return a page of its own; whatever it complains about fails the test."""
    dark = "dark" if scheme == "dark" else "light"
    context = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=dark, java_script_enabled=script, offline=True
    )
    page = context.new_page()
    problems: list[str] = []
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(path.as_uri())
    assert problems == []
    return page


@pytest.fixture
def report(browser: Browser, folder: Path) -> Iterator[Page]:
    """The report of five clusters."""
    page = opened(browser, folder / "report-5.html")
    yield page
    page.context.close()


@pytest.mark.parametrize("many", MANY)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_pdf_holds_every_finding_and_every_state(browser: Browser, folder: Path, many: int, scheme: str) -> None:
    """Also when it is printed with a search in it, and folded as the script leaves it."""
    page = opened(browser, folder / f"report-{many}.html", scheme=scheme)
    page.fill("#search", "no such thing")
    pdf = PdfReader(io.BytesIO(page.pdf(prefer_css_page_size=True)))
    page.context.close()
    words = "".join("".join(sheet.extract_text().split()) for sheet in pdf.pages)
    for outcome in made.outcomes(made.names(many)):
        assert outcome.status.value.replace(" ", "") in words
        for found in outcome.findings:
            for text in (found.id, found.subject, found.observed, found.remedy):
                assert "".join(text.split()) in words
        for change in outcome.planned:
            assert "".join(change.diff.splitlines()[2].split()) in words
    for state in made.STATES:
        assert state.replace(" ", "") in words


@pytest.mark.parametrize("many", MANY)
def test_nothing_is_wider_than_the_paper(browser: Browser, folder: Path, many: int) -> None:
    """A4, landscape: no element ends beyond the right edge."""
    page = opened(browser, folder / f"report-{many}.html", width=1039)  # A4 less the margins
    page.emulate_media(media="print")
    page.evaluate("unfold(true)")
    beyond = page.evaluate(
        "[...document.querySelectorAll('main *:not(thead, thead *)')]"
        ".filter(e => e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 80))"
    )
    page.context.close()
    assert beyond == []


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", [f"{kind}-{many}" for kind in ("report", "notebook") for many in MANY])
def test_a_page_fits_the_screen_and_its_pictures_can_be_read(
    browser: Browser, folder: Path, name: str, width: int
) -> None:
    """What is wider scrolls by itself. Letters of pictures are 12 pixels high at their own width."""
    page = opened(browser, folder / f"{name}.html", width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    drawn = "s.getBoundingClientRect().width"
    scales = page.evaluate(f"[...document.querySelectorAll('main img')].map(s => {drawn} / s.getAttribute('width'))")
    scales += page.evaluate(f"[...document.querySelectorAll('.topology')].map(s => {drawn} / s.viewBox.baseVal.width)")
    page.context.close()
    assert min(12 * scale for scale in scales) >= SMALLEST


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["report-2", "report-5", "report-20", "notebook-5"])
@pytest.mark.parametrize("width", [390, 1280])
def test_axe_finds_nothing_serious(browser: Browser, folder: Path, name: str, scheme: str, width: int) -> None:
    """Contrast, names, focus: at both ends of the widths, light and dark, folded and unfolded."""
    page = opened(browser, folder / f"{name}.html", width, scheme)
    page.evaluate("document.querySelectorAll('details').forEach(fold => fold.open = true)")
    found = Axe().run(page).response["violations"]
    page.context.close()
    assert [(v["id"], v["nodes"][0]["html"]) for v in found if v["impact"] in ("serious", "critical")] == []


def test_search_shows_what_has_all_words_and_unfolds_it(report: Page) -> None:
    """By an id and a cluster; the number of hits is said aloud; without words everything is as before."""
    before = report.locator("tbody tr:visible, .entry:visible").count()
    report.fill("#search", "mk811 prod-eu-04")
    rows = report.locator("[data-verdict]:visible")
    assert rows.count() > 0
    assert all("MK811" in text and "prod-eu-04" in text for text in rows.all_inner_texts())
    assert "found" in report.inner_text("#hits")
    report.fill("#search", "")
    assert report.locator("tbody tr:visible, .entry:visible").count() == before


def test_findings_are_filtered_by_verdict(report: Page) -> None:
    """What is unticked goes, the rest stays."""
    report.uncheck("#verdicts input[value=warn]")
    assert report.locator("[data-verdict=warn]:visible").count() == 0
    assert report.locator("[data-verdict=fail]:visible").count() == 1


def test_a_link_unfolds_what_it_leads_to(report: Page) -> None:
    """Also a finding that passed."""
    last = report.locator("[data-verdict=pass]").last.get_attribute("id")
    assert not report.locator(f"#{last}").is_visible()
    report.evaluate(f"location.hash = '{last}'")
    report.locator(f"#{last}").wait_for(state="visible")


def test_the_page_is_whole_without_a_script(browser: Browser, folder: Path) -> None:
    """No search that does nothing, and nothing folded."""
    page = opened(browser, folder / "report-5.html", script=False)
    assert page.locator("#search").is_hidden()
    assert page.locator("details:not([open])").count() == 0
    assert page.locator("[data-verdict=pass]").last.is_visible()
    page.context.close()
