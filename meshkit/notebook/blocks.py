"""Findings as text for a person: a block for each cause, under it what follows from it, and a line for what passed."""

from __future__ import annotations

import sys
import textwrap
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple, TextIO

from meshkit.checks.finding import Finding, Verdict, overall
from meshkit.checks.remedy import steps
from meshkit.marks import Tone, mark
from meshkit.notebook.terminal import Paint, columns_of, escaped, painter, printable

Ordered = Sequence[tuple[Finding, Finding | None]]
"""Findings as `causes.in_order` has them: each with the one that it follows from."""
Effects = Mapping[int, Sequence[Finding]]
"""What follows from a finding, by its `id()`: two equal findings are not the same."""
_GOOD: Final = {Verdict.PASS: "passed", Verdict.SKIPPED: "skipped"}
_BAD: Final = {Verdict.FAIL: "failed", Verdict.UNKNOWN: "unknown", Verdict.WARN: "warned"}
_CHECKS: Final = 8
"""So many checks are named with their questions; of more, the ids are."""
_SUBJECTS: Final = 3


class Page(NamedTuple):
    """What is printed on: its colours, and its width, None where a line is as long as it is."""

    paint: Paint
    width: int | None = None
    indent: str = ""

    @property
    def inner(self) -> Page:
        """The same page, indented."""
        return self._replace(indent=f"{self.indent}    ")

    def line(self, text: str) -> str:
        """Return a text that stays one line."""
        return self.indent + printable(text)

    def lines(self, lead: str, text: str, tone: Tone, hang: int) -> list[str]:
        """Return a text in lines that fit: its lead has a colour, no word is broken, all but the first are indented."""
        whole = self.line("") + lead + printable(text)
        if self.width:
            more = self.indent + " " * hang
            whole = textwrap.fill(
                whole, self.width, subsequent_indent=more, break_long_words=False, break_on_hyphens=False
            )
        end = len(self.indent + lead)
        first, *rest = (self.indent + self.paint(lead, tone) + whole[end:]).split("\n")
        return [first, *rest]


def page(stream: TextIO) -> Page:
    """Return the page that a stream is: as wide as its terminal, and with its colours."""
    return Page(painter(stderr=stream is sys.stderr), columns_of(stream))


def report(found: Ordered, page: Page, *, every: bool = False) -> str:
    """Return what is wrong, and how much is not; `every` shows all of it: what follows as blocks too, and what passed.

    A command of a remedy is one line, however long: it can be copied as it stands.
    """
    good = [one for one, _ in found if one.verdict in _GOOD]
    passed = [line for one in good for line in _head(one, page, f": {one.observed}")] if every else []
    return "\n\n".join(
        filter(None, [blocks(found, page, every=every), "\n".join(passed), _summary(found, page, every=every)])
    )


def blocks(found: Ordered, page: Page, *, every: bool = False) -> str:
    """Return a block for each finding that is not in order and follows from no other; without one, an empty text."""
    effects: dict[int, list[Finding]] = defaultdict(list)
    for one, cause in found:
        if cause is not None:
            effects[id(cause)].append(one)
    causes = [one for one, cause in found if cause is None and one.verdict in _BAD]
    return "\n\n".join("\n".join(_block(one, effects, page, every=every)) for one in causes)


def _block(one: Finding, effects: Effects, page: Page, *, every: bool) -> Iterator[str]:
    yield from _head(one, page)
    yield from page.lines("  observed  ", one.observed, "quiet", 12)
    yield from page.lines("  expected  ", one.expected, "quiet", 12)
    yield from _remedy(one.remedy, page)
    if not (due := effects.get(id(one))):
        return
    yield page.indent + page.paint("  leads to", "quiet")
    for effect in due if every else ():
        yield from _block(effect, effects, page.inner, every=every)
    yield from () if every else _named([*_all(due, effects)], page.inner)


def _head(one: Finding, page: Page, more: str = "") -> list[str]:
    lead = f"{one.verdict.symbol} {one.verdict} {one.id} "
    return page.lines(lead, f"{one.check} [{one.subject}]{more}", mark(one.verdict).tone, 2)


def _remedy(remedy: str, page: Page) -> Iterator[str]:
    """Yield a remedy of words beside its label, one with commands below it."""
    known = steps(remedy)
    if not any(step.command for step in known):
        yield from page.lines("  remedy    ", remedy, "quiet", 12) if remedy else ()
        return
    yield page.indent + page.paint("  remedy", "quiet")
    for step in known:
        if step.command:
            yield f"{page.indent}    {page.paint(escaped(step.text), 'strong')}"
        else:
            yield from page.lines("    ", step.text, "quiet", 4)


def _all(due: Sequence[Finding], effects: Effects) -> Iterator[Finding]:
    for one in due:
        yield one
        yield from _all(effects.get(id(one), ()), effects)


def _named(due: Sequence[Finding], page: Page) -> Iterator[str]:
    """Yield a line for each check of some findings; of very many checks, one for each verdict."""
    alike: dict[tuple[Verdict, str, str], dict[str, None]] = defaultdict(dict)
    for one in due:
        alike[one.verdict, one.id, one.check][one.subject] = None
    if len(alike) > _CHECKS:
        yield from _counted(due, page)
        return
    for (verdict, identifier, check), named in alike.items():
        more = f" and {len(named) - _SUBJECTS} more" if len(named) > _SUBJECTS else ""
        subjects = f"{', '.join([*named][:_SUBJECTS])}{more}"
        lead = f"{verdict.symbol} {verdict} {identifier} "
        yield from page.lines(lead, f"{check} [{subjects}]", mark(verdict).tone, 2)


def _counted(due: Sequence[Finding], page: Page) -> Iterator[str]:
    for verdict in dict.fromkeys(one.verdict for one in due):
        ids = [one.id for one in due if one.verdict is verdict]
        lead = f"{verdict.symbol} {len(ids)} {_BAD[verdict]}: "
        yield from page.lines(lead, ", ".join(dict.fromkeys(ids)), mark(verdict).tone, 2)


def _summary(found: Ordered, page: Page, *, every: bool) -> str:
    """Return a line for what passed, and one for what did not."""
    verdicts = Counter(one.verdict for one, _ in found)
    good = [f"{verdicts[verdict]} {word}" for verdict, word in _GOOD.items() if verdicts[verdict]]
    bad = [f"{verdicts[verdict]} {word}" for verdict, word in _BAD.items() if verdicts[verdict]]
    lines = []
    if good:
        lines += page.lines("✔ ", ", ".join(good) + ("" if every else "; --all shows each"), "good", 2)
    if bad:
        worst = overall([one for one, _ in found])
        causes = sum(cause is None and one.verdict in _BAD for one, cause in found)
        lines += page.lines(
            f"{worst.symbol} ", f"{', '.join(bad)}, from {causes} cause{'s' * (causes > 1)}", mark(worst).tone, 2
        )
    return "\n".join(lines)
