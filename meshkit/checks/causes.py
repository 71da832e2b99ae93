"""Causes and consequences: which bad finding may be the reason for which other one, and findings in that order.

A fault of a mesh shows at once in many places: without its credential, an istiod does not watch the other cluster, its
clients lack endpoints, and no call gets there. Only the first of these is worth fixing. What leads to what directly is
`leads_to` in the catalogue.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Collection, Iterable
from typing import Final

from meshkit.checks.catalogue import checks, current
from meshkit.checks.finding import SEVERITY, Finding, Verdict
from meshkit.checks.question import ARROW

UNREADABLE: Final = ("MK101", "MK108")
"""A cluster, or an istiod, that cannot be read leaves what is asked of it unknown."""
SILENT: Final = "none from "
"""After this a finding names the clusters from which no answer came."""


@functools.cache
def consequences(identifier: str) -> tuple[str, ...]:
    """Return the ids of the checks that a bad answer of this one may make bad, at once or by way of others."""
    direct = {check.id: check.leads_to for check in checks().values()}
    found: set[str] = set()
    wave = {current(identifier)}
    while wave:
        wave = {effect for cause in wave for effect in direct.get(cause, ())} - found
        found |= wave
    return tuple(sorted(found, key=_number))


def reasons(identifier: str) -> tuple[str, ...]:
    """Return the ids of the checks whose bad answer may make this one bad."""
    return tuple(cause for cause in checks() if current(identifier) in consequences(cause))


def _number(identifier: str) -> int:
    return int(identifier.removeprefix("MK"))


def follows(effect: Finding, cause: Finding, clusters: Collection[str]) -> bool:
    """Tell whether a bad finding may be due to another one, by what both are about: the pair, or a cluster of it.

    A warning is no reason for a failure; what is unknown is none for anything, but for a cluster that cannot be read. A
    client's finding is about the clusters, too, that did not answer it. What names no cluster of the mesh is about all
    of them; of an object (`namespace/name`), it follows from what names that, too.
    """
    if SEVERITY.index(cause.verdict) < SEVERITY.index(effect.verdict):
        return False
    subjects = (f"{effect.subject} {effect.observed.partition(SILENT)[2]}", cause.subject)
    ours, theirs = (re.findall(_names(tuple(clusters)), subject) for subject in subjects)
    if cause.id in UNREADABLE and effect.id not in UNREADABLE:
        return effect.verdict is Verdict.UNKNOWN and (not ours or bool({*ours} & {*theirs}))
    if current(effect.id) not in consequences(cause.id) or cause.verdict is Verdict.UNKNOWN:
        return False
    if ARROW in effect.subject and ARROW in cause.subject:
        return bool(ours == theirs)
    if not ours and re.fullmatch(r"[\w.-]+/[\w.-]+", effect.subject):
        return bool(re.search(rf"(?<![\w./-]){re.escape(effect.subject)}(?![\w-])", cause.observed))
    return not ours or not theirs or bool({*ours} & {*theirs})


@functools.cache
def _names(clusters: tuple[str, ...]) -> str:
    any_of = "|".join(map(re.escape, sorted(clusters, key=len, reverse=True)))
    return rf"(?<![\w.-])(?:{any_of})(?![\w-])"


def in_order(findings: Iterable[Finding], clusters: Collection[str]) -> list[tuple[Finding, Finding | None]]:
    """Return findings, each with the one that it follows from: first what follows from nothing, the worst first.

    Then what follows from those, and last what is in order. Of several reasons it is the first of the list.
    """
    found = sorted(findings, key=_rank)
    bad = [one for one in found if one.verdict not in (Verdict.PASS, Verdict.SKIPPED)]
    due = {id(one): next((cause for cause in bad if follows(one, cause, clusters)), None) for one in bad}
    roots = [one for one in bad if due[id(one)] is None]
    # The first reason of all, so that everybody is sent to what needs the fix.
    first = {id(one): next((r for r in roots if follows(one, r, clusters)), due[id(one)]) for one in bad}
    ordered = [*roots, *(one for one in bad if due[id(one)] is not None)]
    good = [one for one in found if id(one) not in due]
    return [(one, first.get(id(one)) if due.get(id(one)) else None) for one in [*ordered, *good]]


def _rank(finding: Finding) -> tuple[int, int, int, str]:
    far = len(checks()) if finding.id in UNREADABLE else len(consequences(finding.id))
    return (-SEVERITY.index(finding.verdict), -far, _number(finding.id), finding.subject)
