"""The rules of a round: the fault of a seed, its hints, how an answer is checked, its points."""

from __future__ import annotations

import difflib
import random
import re
from collections.abc import Sequence
from enum import StrEnum
from typing import Final

from meshkit.checks import catalogue, causes
from meshkit.errors import InputError
from meshlab.faults.catalogue import find, of_shapes
from meshlab.faults.fault import Fault
from meshlab.layout import Site, sites
from meshlab.training import TOPICS
from meshlab.training.lesson import LEVELS, answers, lessons

KNOWN: Final = of_shapes()
"""The faults of rounds: those of the mesh of several primaries, which training is about."""
FULL: Final = 10
HINTS: Final = (1, 2, 3)
WRONG: Final = 2
LEAST: Final = 1
RULES: Final = (
    f"{FULL} points at most; the hints cost {HINTS[0]}, {HINTS[1]} and {HINTS[2]}, a wrong answer {WRONG}, "
    f"and so does a check's id: it is no cause yet; a right answer keeps {LEAST} at least"
)


class RoundOutcome(StrEnum):
    """How a round came out; only the first two are right, and the second is of former rounds, which took an id."""

    NAME = "found"
    CHECK = "found by its check"
    GIVEN_UP = "given up"
    UNANSWERED = "not answered"
    LOST = "lost"

    @property
    def right(self) -> bool:
        """Whether the fault was found."""
        return self in (RoundOutcome.NAME, RoundOutcome.CHECK)


def draw(seed: int, number: int, clusters: int, topic: str = "", level: int = 0) -> tuple[Fault, Site]:
    """Return the fault and the cluster of one round of a seed: always the same, and no fault twice.

    Args:
        seed: chooses the order of all faults, and a cluster for each.
        number: which of that order, from 1 up, of those of the topic and the level.
        clusters: how many the lab has.
        topic: one of `TOPICS`; empty for all.
        level: one of `LEVELS`; 0 for all.

    Raises:
        InputError: there are not so many faults, or there is no such topic or level.
    """
    if topic not in ("", *TOPICS) or level not in (0, *LEVELS):
        raise InputError(f"expected a topic of {', '.join(TOPICS)} and a level of {', '.join(map(str, LEVELS))}, got "
                         f"topic {topic!r} and level {level}", where="meshkit lab drill")  # fmt: skip
    lottery = random.Random(seed)  # noqa: S311 - nothing is kept safe by it
    order = [(KNOWN[name], lottery.choice(sites(clusters))) for name in lottery.sample(sorted(KNOWN), len(KNOWN))]
    of = {name: one for name, one in lessons(Site(1)).items() if topic in ("", one.topic) and level in (0, one.level)}
    chosen = [(fault, site) for fault, site in order if fault.name in of]
    if not 1 <= number <= len(chosen):
        raise InputError(f"number: expected 1 to {len(chosen)}, the faults that there are, got {number}",
                         where="meshkit lab drill", remedy="take another seed for more")  # fmt: skip
    return chosen[number - 1]


def hints(fault: Fault, site: Site, mesh_file: str) -> tuple[str, str, str]:
    """Return the three hints of a round: two lead to the next look, the last one is what asks every check."""
    check = catalogue.find(fault.finding)
    last = (
        f"`meshkit check {mesh_file}` finds it: {check.id}, {check.title}. Which object is the cause, and which field?"
    )
    return (*lessons(site)[fault.name].hints, last)


def check_answer(answer: str, fault: Fault, site: Site, clusters: int = 2) -> tuple[RoundOutcome | None, str]:
    """Check an answer: the cause as object and field (`Service/httpbin spec.selector`), or a fault's name.

    Returns:
        How the round came out, None for a wrong answer; and in what a wrong answer comes near, or nothing. The id of a
        check is wrong, too: it says where to look, and not what is the cause.

    Raises:
        InputError: it names nothing that there is; the nearest is named.
    """
    given = answer.strip()
    if re.fullmatch(r"(?i)mk\d+", given):
        return None, _near_check(catalogue.find(given).id, fault.finding)
    objects, fields = answers(clusters)
    found, _, field = given.partition(" ")
    if "/" in found or found in objects:
        cause = lessons(site)[fault.name].cause
        named = _known(found, objects, "object"), _known(field.strip(), fields, "field")
        if named[0] != cause[0]:
            return None, ""
        return (RoundOutcome.NAME, "") if named[1] in cause else (None, "the object is right: which field of it?")
    return _by_name(find(given.lower(), KNOWN), fault)


def _near_check(identifier: str, finding: str) -> str:
    if identifier == finding:
        return "this check finds it: which object is the cause, and which field of it?"
    if identifier in causes.consequences(finding):
        return "what it finds follows from the fault: what is the reason for it?"
    return "what it finds may be a reason for what is asked" if finding in causes.consequences(identifier) else ""


def _known(given: str, known: Sequence[str], what: str) -> str:
    """Return how something is written that was given in any case.

    Raises:
        InputError: it is not known; the nearest is named.
    """
    written = {one.lower(): one for one in known}
    if given.lower() in written:
        return written[given.lower()]
    (near,) = difflib.get_close_matches(given.lower(), written, n=1, cutoff=0.0)
    raise InputError(f"no cause has the {what} {given!r}; the nearest is {written[near]}", where="meshkit lab drill",
                     remedy="`meshkit lab drill answer` without words lists objects and fields")  # fmt: skip


def _by_name(named: Fault, fault: Fault) -> tuple[RoundOutcome | None, str]:
    if named is fault:
        return RoundOutcome.NAME, ""
    if named.finding == fault.finding:
        return None, "the same check names both"
    topic = lessons(Site(1))[fault.name].topic
    return None, f"it is of the same topic, {topic}" if lessons(Site(1))[named.name].topic == topic else ""


def points(outcome: RoundOutcome, hints_taken: int, wrong: int) -> int | None:
    """Return what a round is worth; None for one that nobody could finish."""
    if outcome is RoundOutcome.LOST:
        return None
    if not outcome.right:
        return 0
    return max(FULL - sum(HINTS[:hints_taken]) - WRONG * wrong, LEAST)
