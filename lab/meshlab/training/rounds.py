"""A round of training on the running lab.

Each decision is recorded before it is carried out, so the next command continues a round that was killed anywhere.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from meshkit.checks.finding import Verdict
from meshkit.errors import ChangeError, CheckFailed, InputError, UnreachableError
from meshkit.tables import View
from meshlab import meshfile
from meshlab.faults import drills, health
from meshlab.layout import Say, Settings, tool_path
from meshlab.training import rules, sheet
from meshlab.training.rules import RoundOutcome
from meshlab.training.sheet import Round

SEEDS: Final = 10_000
SHOWN: Final = 5
GOOD: Final = (Verdict.PASS, Verdict.SKIPPED)
HINT, GIVE_UP = "hint", "give up"
PROMPT: Final = f"a fault's name, a check's id, `{HINT}`, `{GIVE_UP}`, or nothing to look further: "


def start(seed: int | None = None, number: int = 1, say: Say = print) -> None:
    """Break the mesh by the fault of a seed, hidden; an open round continues.

    Args:
        seed: chooses fault and cluster; one is drawn unless given.
        number: which of the seed's order.
        say: gets progress messages.

    Raises:
        InputError: the lab is not a healthy mesh over several networks, another round is open, or no such number.
        UnreachableError: no lab runs.
        ChangeError: the fault could not be made; the round is lost.
    """
    home = drills.running()
    with sheet.held():
        one = settle(home, say)
        if one is None:
            clusters = require_mesh(home, say)
            seed = 1 + secrets.randbelow(SEEDS) if seed is None else seed
            rules.draw(seed, number, clusters)
            sheet.add(home, "begun", seed=seed, number=number, clusters=clusters)
            one = latest(home)
        elif seed is not None and (seed, number) != (one.seed, one.number):
            raise InputError(f"number {one.number} of seed {one.seed} is still open", where="meshkit lab drill",
                             remedy="`meshkit lab drill answer NAME` or `give-up` ends it")  # fmt: skip
        if not one.since:
            break_hidden(home, one, say)
        one = latest(home)
        say(f"number {one.number} of seed {one.seed}: since {one.since} something is wrong with this mesh; what?")
        say(taken(one) if one.hints else rules.RULES)


def calls() -> View:
    """Return what users see now: calls to one Service from a pod of each cluster, and the clusters that answered.

    Raises:
        UnreachableError: no lab runs.
    """
    from meshkit.kube.mesh import Mesh
    from meshkit.probing import merged_service

    drills.running()
    return merged_service.MERGED.view(merged_service.look(Mesh.open(meshfile.mesh_file())))


def hint(count: int | None = None, say: Say = print) -> str:
    """Return the hints that were taken, each with its cost.

    Args:
        count: so many are taken, if they were not before; None: one more.
        say: gets progress messages.

    Raises:
        InputError: no round is open.
        UnreachableError: no lab runs.
    """
    with answering(say) as (home, one):
        wanted = min(one.hints + 1 if count is None else count, len(rules.HINTS))
        for _ in range(one.hints, wanted):
            sheet.add(home, "hint")
        return taken(latest(home))


def taken(one: Round) -> str:
    """Return the hints of a round that were taken."""
    texts = rules.hints(*one.drawn, str(meshfile.mesh_file()))
    lines = [f"{words} (−{cost})" for words, cost in zip(texts, rules.HINTS, strict=True)][: one.hints]
    return "\n".join(lines) or "no hint was taken"


def answer(name: str, say: Say = print) -> tuple[bool, str]:
    """Return whether an answer is right, and the reply to it; after a right one `finish` heals.

    Raises:
        InputError: no round is open, or there is neither a fault nor a check of that name.
        UnreachableError: no lab runs.
    """
    with answering(say) as (home, one):
        outcome, near = rules.check_answer(name, one.drawn[0])
        if outcome is None:
            sheet.add(home, "wrong", answer=name.strip())
            return False, f"✖ not {name.strip()}{f'; near: {near}' if near else ''} (−{rules.WRONG})"
        sheet.add(home, "decided", outcome=outcome, answer=name.strip())
        return True, f"✔ {outcome}: {revealed(latest(home))}"


def give_up(say: Say = print, outcome: RoundOutcome = RoundOutcome.GIVEN_UP) -> str:
    """Return what is broken, and what `meshkit check` says of it now; then `finish` heals.

    Raises:
        InputError: no round is open.
        UnreachableError: no lab runs.
    """
    with answering(say) as (home, one):
        sheet.add(home, "decided", outcome=outcome)
        lines = [f"✖ {outcome}: {revealed(latest(home))}", "what `meshkit check` says of it:", *evidence(one, say)]
    return "\n".join(lines)


def finish(say: Say = print) -> None:
    """Heal a decided round, wait until the mesh is healthy, and write the score.

    Raises:
        UnreachableError: no lab runs.
        ChangeError: the mesh does not become healthy; the next command tries again.
    """
    home = drills.running()
    with sheet.held():
        settle(home, say)


def ask(given: str = "", say: Say = print) -> None:
    """Check a notebook's answers, first the given one, then typed ones, until one is right; then heal.

    Without a user at the keyboard the round is given up after the given answer; without one it counts as not answered.
    After an empty answer the round stays open.

    Raises:
        InputError: no round is open.
        UnreachableError: no lab runs.
        ChangeError: the mesh does not become healthy.
    """
    with answering(say):
        pass  # there is one
    for words in typed(given.strip()):
        if not words:
            say("the round stays open: look further, and run this cell again")
            return
        if words == HINT:
            say(hint(say=say))
        elif words == GIVE_UP:
            say(give_up(say))
            break
        elif right(words, say):
            break
    else:
        say(f"no input is possible here, and {'the answer is wrong' if given else 'no answer was given: none counts'}")
        say(give_up(say, RoundOutcome.GIVEN_UP if given else RoundOutcome.UNANSWERED))
    finish(say)


def right(words: str, say: Say) -> bool:
    """Check a typed answer; an unknown name is reported, and costs nothing."""
    try:
        good, reply = answer(words, say)
    except InputError as error:
        good, reply = False, str(error)
    say(reply)
    return good


def typed(given: str) -> Iterator[str]:
    """Yield the given answer, and then typed ones, as long as input is possible."""
    if given:
        yield given
    while True:
        try:
            yield input(PROMPT).strip()
        except (EOFError, NotImplementedError):  # a headless kernel has no input
            return


def conclude(say: Say = print) -> None:
    """Say how the latest round of this lab came out.

    Raises:
        CheckFailed: its fault was not found.
    """
    one = latest(drills.running())
    if not one.score:
        say("the round is open")
        return
    result = f"number {one.number} of seed {one.seed}: {one.outcome}, {one.points or 0} of {rules.FULL} points"
    if not (one.outcome and one.outcome.right):
        raise CheckFailed(result, where="training", remedy="the same seed and number make the same fault again")
    say(f"✔ {result}")


def latest(home: Path) -> Round:
    """Return the latest round of a lab.

    Raises:
        InputError: there is none.
    """
    one = sheet.latest(home)
    if one is None:
        raise none_open()
    return one


def opened(home: Path, say: Say) -> Round:
    """Return the round that is open and can be answered.

    Raises:
        InputError: none is.
    """
    one = settle(home, say)
    if one is None or not one.since:
        raise none_open()
    return one


@contextlib.contextmanager
def answering(say: Say) -> Iterator[tuple[Path, Round]]:
    """Yield the lab's folder and its open round, locked against other processes.

    Raises:
        InputError: no round is open.
        UnreachableError: no lab runs.
    """
    home = drills.running()
    with sheet.held():
        yield home, opened(home, say)


def none_open() -> InputError:
    """Return the error that no round is open."""
    return InputError("no round is open", where="meshkit lab drill", remedy="begin one: `meshkit lab drill start`")


def settle(home: Path, say: Say) -> Round | None:
    """End a round that is decided, or was healed by other means; return the round that is still open."""
    one = sheet.latest(home)
    if one is None or one.score:
        return None
    name = one.drawn[0].name
    there = name in drills.broken(home)
    if one.outcome is None and (there or not one.since):
        return one
    if there:
        drills.heal([name], say)
    elif one.outcome is None:
        say("the round is lost: what was broken was healed by other means")
        sheet.add(home, "decided", outcome=RoundOutcome.LOST)
    else:
        drills.await_healthy(home, say)
    sheet.add(home, "ended", **latest(home).closing())
    return None


def require_mesh(home: Path, say: Say) -> int:
    """Require a healthy mesh over several networks; returns its number of clusters.

    Raises:
        InputError: the lab is not.
    """
    settings, wrong = Settings.load(home), list[str]()
    if settings.clusters < 2 or settings.flat:
        wrong = ["one network"]
    elif broken := drills.broken(home):
        wrong = [f"{name} broken in {where}" for name, where in broken.items()]
    else:
        with drills.patiently(say, "checking whether the mesh is healthy"):
            wrong = health.complaints(home)
    if wrong:
        found = "; ".join(wrong[:3])
        raise InputError(f"expected a healthy mesh over several networks, found {found}", where=str(home),
                         remedy="heal it: `meshkit lab heal --all`; or start again: `meshkit lab down`, then "
                                "`meshkit lab up --start meshed`")  # fmt: skip
    return settings.clusters


def break_hidden(home: Path, one: Round, say: Say) -> None:
    """Break the mesh by the drawn fault, after healing what a killed attempt left of it.

    Raises:
        ChangeError: a step failed; it is reverted, and the round is lost.
    """
    fault, site = one.drawn
    if fault.name in drills.broken(home):
        with drills.patiently(say, "healing what a killed attempt left"):
            drills.heal([fault.name], lambda _: None)
    try:
        drills.break_(fault.name, site.name, say, hidden=True)
    except (ChangeError, UnreachableError):
        sheet.add(home, "decided", outcome=RoundOutcome.LOST)
        sheet.add(home, "ended", **latest(home).closing())
        raise
    sheet.add(home, "broken")


def revealed(one: Round) -> str:
    """Return what was broken, and what its round is worth."""
    fault, site = one.drawn
    spent = f"{one.hints} hints, {one.wrong} wrong, {one.seconds} s"
    return (
        f"{fault.name} in {site.name}. {fault.breaks}. {fault.finding} names it (`meshkit check --explain "
        f"{fault.finding}`).\n{one.points} of {rules.FULL} points: {spent}"
    )


def evidence(one: Round, say: Say) -> list[str]:
    """Return the findings of `meshkit check` now: its first causes, and whether the fault's own check fails."""
    from meshkit.checks import audit, causes
    from meshkit.kube.mesh import Mesh

    # The checks need istioctl, which may not be on a notebook's PATH.
    os.environ["PATH"] = os.pathsep.join([os.environ.get("PATH", ""), tool_path()])
    mesh = Mesh.open(meshfile.mesh_file())
    findings = audit.check(audit.look(mesh, say))
    bad = [pair for pair in causes.in_order(findings, mesh.clusters) if pair[0].verdict not in GOOD]
    roots = [finding for finding, cause in bad if cause is None]
    lines = [f"  {f.verdict.symbol} {f.id} [{f.subject}] {f.observed}" for f in roots[:SHOWN]]
    if more := len(bad) - len(lines):
        lines.append(f"  and {more} more bad answers, which follow from these or stand beside them")
    own = one.drawn[0].finding
    if own not in {finding.id for finding, _ in bad}:
        lines.append(f"  {own} is not among {len(bad)} bad answers now: some faults are noticed late")
    return lines
