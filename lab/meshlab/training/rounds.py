"""A round of training on the running lab.

What is decided is noted first and done then, so a round that was killed anywhere goes on with the next command.
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
from meshlab.layout import Say, Settings, programs
from meshlab.training import rules, sheet
from meshlab.training.rules import RoundOutcome
from meshlab.training.sheet import Round

SEEDS: Final = 10_000
SHOWN: Final = 5
GOOD: Final = (Verdict.PASS, Verdict.SKIPPED)
HINT, GIVE_UP = "hint", "give up"
PROMPT: Final = f"a fault's name, a check's id, `{HINT}`, `{GIVE_UP}`, or nothing to look further: "


def start(seed: int | None = None, number: int = 1, say: Say = print) -> None:
    """Break the mesh by what a seed draws, untold; a round that is open goes on.

    Args:
        seed: chooses fault and cluster; one is drawn unless given.
        number: which of the seed's order.
        say: is told how it goes.

    Raises:
        InputError: the lab is no whole mesh over several networks, another round is open, or there is no such number.
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
            break_untold(home, one, say)
        one = latest(home)
        say(f"number {one.number} of seed {one.seed}: since {one.since} something is wrong with this mesh; what?")
        say(taken(one) if one.hints else rules.TOLD)


def calls() -> View:
    """Return what users see now: calls to one Service from a pod of each cluster, and the clusters that answered.

    Raises:
        UnreachableError: no lab runs.
    """
    from meshkit.kube.mesh import Mesh
    from meshkit.notebook import tables
    from meshkit.probing import merged_service

    drills.running()
    return tables.view(tables.MERGED, merged_service.look(Mesh.open(meshfile.mesh_file())))


def hint(count: int | None = None, say: Say = print) -> str:
    """Return the hints that were taken, each with its cost.

    Args:
        count: so many are taken, if they were not before; None: one more.
        say: is told how it goes.

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
    told = rules.hints(*one.drawn, str(meshfile.mesh_file()))
    lines = [f"{words} (−{cost})" for words, cost in zip(told, rules.HINTS, strict=True)][: one.hints]
    return "\n".join(lines) or "no hint was taken"


def answer(name: str, say: Say = print) -> tuple[bool, str]:
    """Return whether an answer is right, and what is to be said of it; after a right one `finish` heals.

    Raises:
        InputError: no round is open, or there is neither a fault nor a check of that name.
        UnreachableError: no lab runs.
    """
    with answering(say) as (home, one):
        outcome, near = rules.judge(name, one.drawn[0])
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
        told = [f"✖ {outcome}: {revealed(latest(home))}", "what `meshkit check` says of it:", *evidence(one, say)]
    return "\n".join(told)


def finish(say: Say = print) -> None:
    """Heal what is decided, wait until the mesh is whole, and write the score.

    Raises:
        UnreachableError: no lab runs.
        ChangeError: the mesh does not become whole; the next command tries again.
    """
    home = drills.running()
    with sheet.held():
        settle(home, say)


def ask(given: str = "", say: Say = print) -> None:
    """Take a notebook's answer: the one given, then of whoever sits there, until it is right; and heal.

    Where nobody sits there, the round is given up after the answer given; without one it counts as not answered. Of
    somebody who answers nothing the round stays open.

    Raises:
        InputError: no round is open.
        UnreachableError: no lab runs.
        ChangeError: the mesh does not become whole.
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
        say(f"nobody is here to be asked, and {'the answer is wrong' if given else 'no answer was given: none counts'}")
        say(give_up(say, RoundOutcome.GIVEN_UP if given else RoundOutcome.UNANSWERED))
    finish(say)


def right(words: str, say: Say) -> bool:
    """Judge an answer of a talk; one that names nothing is told, and costs nothing."""
    try:
        good, told = answer(words, say)
    except InputError as error:
        good, told = False, str(error)
    say(told)
    return good


def typed(given: str) -> Iterator[str]:
    """Yield the answer given, and then what is typed, as long as somebody is there to type."""
    if given:
        yield given
    while True:
        try:
            yield input(PROMPT).strip()
        except (EOFError, NotImplementedError):  # a kernel that nobody sits before cannot ask
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
    told = f"number {one.number} of seed {one.seed}: {one.outcome}, {one.points or 0} of {rules.FULL} points"
    if not (one.outcome and one.outcome.right):
        raise CheckFailed(told, where="training", remedy="the same seed and number make the same fault again")
    say(f"✔ {told}")


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
    """Yield the lab's folder and its open round, which nobody else changes meanwhile.

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
    """Bring to its end what is decided, or what another hand healed; returns the round that is still open."""
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
        drills.await_whole(home, say)
    sheet.add(home, "ended", **latest(home).closing())
    return None


def require_mesh(home: Path, say: Say) -> int:
    """Let a whole mesh over several networks pass; returns its number of clusters.

    Raises:
        InputError: the lab is none.
    """
    settings, wrong = Settings.load(home), list[str]()
    if settings.clusters < 2 or settings.flat:
        wrong = ["one network"]
    elif broken := drills.broken(home):
        wrong = [f"{name} broken in {where}" for name, where in broken.items()]
    else:
        with drills.patiently(say, "looking whether the mesh is whole"):
            wrong = health.complaints(home)
    if wrong:
        raise InputError(f"expected a whole mesh over several networks, found {'; '.join(wrong[:3])}", where=str(home),
                         remedy="heal it: `meshkit lab heal --all`; or begin anew: `meshkit lab down`, then "
                                "`meshkit lab up --start meshed`")  # fmt: skip
    return settings.clusters


def break_untold(home: Path, one: Round, say: Say) -> None:
    """Break the mesh by what was drawn, once what a kill left of that is healed.

    Raises:
        ChangeError: a step failed; what was done is taken back, and the round is lost.
    """
    fault, site = one.drawn
    if fault.name in drills.broken(home):
        with drills.patiently(say, "taking back what a kill left"):
            drills.heal([fault.name], lambda _: None)
    try:
        drills.break_(fault.name, site.name, say, untold=True)
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
    """Return what `meshkit check` says now: its first causes, and whether the fault's own check answers ill."""
    from meshkit.checks import audit, causes
    from meshkit.kube.mesh import Mesh

    # The checks want istioctl, which a notebook's shell may lack.
    os.environ["PATH"] = os.pathsep.join([os.environ.get("PATH", ""), str(programs())])
    mesh = Mesh.open(meshfile.mesh_file())
    findings = audit.check(mesh, audit.look(mesh, say))
    bad = [pair for pair in causes.in_order(findings, mesh.clusters) if pair[0].verdict not in GOOD]
    roots = [finding for finding, cause in bad if cause is None]
    lines = [f"  {f.verdict.symbol} {f.id} [{f.subject}] {f.observed}" for f in roots[:SHOWN]]
    if more := len(bad) - len(lines):
        lines.append(f"  and {more} more bad answers, which follow from these or stand beside them")
    own = one.drawn[0].finding
    if own not in {finding.id for finding, _ in bad}:
        lines.append(f"  {own} is not among {len(bad)} bad answers now: some faults are noticed late")
    return lines
