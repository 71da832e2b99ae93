"""The ipywidget around a page: what it sends, what it takes, and what is saved with the notebook."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from meshkit import Findings
from meshkit.checks.finding import Finding, Verdict
from meshkit.errors import InputError
from meshkit.notebook import person, widgets
from meshkit.notebook.widgets import panel
from meshkit.notebook.widgets.findings import FindingsPage
from meshkit.notebook.widgets.page import Page

FINDING = Finding(
    id="MK802", check="a remote secret is there", subject="east → west", expected="one", observed="none in 172.31.0.1",
    verdict=Verdict.FAIL, remedy="meshkit run",
)  # fmt: skip


def sit(monkeypatch: pytest.MonkeyPatch, *, allow_stdin: bool | None) -> None:
    """Let this be a cell that a frontend sent, or with None a terminal."""
    asked = {"content": {"allow_stdin": allow_stdin}}
    kernel = None if allow_stdin is None else SimpleNamespace(get_parent=lambda _: asked)
    shell = SimpleNamespace(get_ipython=lambda: SimpleNamespace(kernel=kernel))
    monkeypatch.setitem(sys.modules, "IPython", shell)


@pytest.mark.parametrize(("allow_stdin", "there"), [(True, True), (False, False), (None, False)])
def test_a_person_is_there_if_the_frontend_can_ask_one(
    monkeypatch: pytest.MonkeyPatch, *, allow_stdin: bool | None, there: bool
) -> None:
    """JupyterLab can, nbclient cannot, and a terminal shows no widget."""
    sit(monkeypatch, allow_stdin=allow_stdin)
    assert person.is_there() is there


def test_what_is_chosen_comes_back_as_another_page() -> None:
    """The message of a button, as panel.js sends it."""
    shown = panel.Panel(FindingsPage([FINDING]))
    assert "a remote secret is there" in shown.html
    shown._chosen(None, {"do": "verdict", "value": "fail"}, None)
    assert "a remote secret is there" not in shown.html
    assert shown.status == "0 of 1 findings shown"


def test_an_error_of_a_choice_is_shown_and_the_page_stays() -> None:
    """The status has it, where a screen reader finds it."""

    class Refuses(Page):
        template = "consent.html.j2"
        label = "x"

        def html(self) -> str:
            return "<p>as before</p>"

        def choose(self, name: str, value: str) -> None:  # noqa: ARG002  (of a page)
            raise InputError("no such thing", remedy="choose another")

    shown = panel.Panel(Refuses())
    shown._chosen(None, {"do": "a", "value": "b"}, None)
    assert "no such thing" in shown.status
    assert shown.html == "<p>as before</p>"


def test_with_the_notebook_one_sentence_is_saved() -> None:
    """Ipywidgets' own text would begin with the page."""
    shown, _ = panel.Panel(FindingsPage([FINDING]))._repr_mimebundle_()
    assert shown["text/plain"] == "Findings, by what they stop: run this cell to explore"
    assert "172.31" not in str(shown)


def test_without_anywidget_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """No traceback of an import."""
    sit(monkeypatch, allow_stdin=True)
    monkeypatch.setitem(sys.modules, "anywidget", None)
    monkeypatch.delitem(sys.modules, "meshkit.notebook.widgets.panel")
    with pytest.raises(InputError, match="meshkit\\[notebook\\]"):
        Findings([FINDING]).explore()


def test_both_themes_have_every_tone() -> None:
    """Each state has a colour on a light and on a dark ground."""
    css: Any = panel.Panel._css
    for tone in ("good", "quiet", "warn", "unknown", "bad"):
        assert str(css).count(f"--mk-{tone}: #") == 2
    assert widgets.page_of(Findings([FINDING])).label
