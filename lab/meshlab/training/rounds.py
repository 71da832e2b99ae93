"""A round of training on the running lab.

Each decision is recorded before it is carried out, so the next command continues a round that was killed anywhere.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from meshkit.errors import ChangeError, CheckFailed, InputError, UnreachableError
from meshkit.notebook import person
from meshkit.tables import View
from meshlab import meshfile
from meshlab.faults import drills, health
from meshlab.layout import Say, Settings, folder, sites
from meshlab.training import expert, lesson, rules, sheet
from meshlab.training.expert import Debrief
from meshlab.training.rules import RoundOutcome
from meshlab.training.sheet import Round

SEEDS: Final = 10_000


def start(seed: int | None = None, number: int = 1, topic: str = "", level: int = 0, say: Say = print) -> None:
    """Break the mesh by the fault of a seed, hidden; an open round continues.

    Args:
        seed: chooses fault and cluster; one is drawn unless given.
        number: which of the seed's order, of those of the topic and the level.
        topic: discovery, gateways, trust, policy or proxies; empty for any.
        level: 1 to 3; 0 for any.
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
            rules.draw(seed, number, clusters, topic, level)
            sheet.add(home, "begun", seed=seed, number=number, clusters=clusters, topic=topic, level=level)
            one = latest(home)
        elif seed is not None and (seed, number) != (one.seed, one.number):
            raise InputError(f"number {one.number} of seed {one.seed} is still open", where="meshkit lab drill",
                             remedy="`meshkit lab drill answer NAME` or `give-up` ends it")  # fmt: skip
        if not one.since:
            break_hidden(home, one, say)


def prompt() -> str:
    """Return what an SRE knows when a round begins: that something is wrong, since when, and the tools for it.

    Raises:
        InputError: there is no round.
        UnreachableError: no lab runs.
    """
    one = latest(drills.running())
    tools = [line for tool, shows in lesson.tools(one.topic).items() for line in (f"  {tool}", f"      {shows}")]
    lines = [
        f"number {one.number} of seed {one.seed}: since {one.since} something is wrong with this mesh; what?",
        "", f"tools, of contexts {', '.join(site.context for site in sites(one.clusters))}:", *tools,
        "", "answer with the object that is the cause, and the field of it that is wrong",
        taken(one) or expert.wrapped(rules.RULES),
    ]  # fmt: skip
    return "\n".join(lines)


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
    """Return the hints of a round that were taken, one a line; nothing where none was."""
    texts = rules.hints(*one.drawn, str(meshfile.mesh_file()))
    lines = [f"{words} (−{cost})" for words, cost in zip(texts, rules.HINTS, strict=True)][: one.hints]
    return "\n".join(lines)


def choices() -> str:
    """Return what can be answered, for a terminal: objects and fields; which belong together is the question.

    Raises:
        UnreachableError: no lab runs.
    """
    objects, fields = lesson.answers(Settings.load(drills.running()).clusters)
    return f"objects:\n{expert.wrapped(', '.join(objects))}\nfields:\n{expert.wrapped(', '.join(fields))}"


def answer(words: str, say: Say = print) -> tuple[bool, str]:
    """Return whether an answer is right, and the reply to it; then `debrief` shows the path, and `finish` heals.

    Args:
        words: object and field of the cause, such as `Service/httpbin spec.selector`, or the name of a fault.
        say: gets progress messages.

    Raises:
        InputError: no round is open, or the answer names nothing that there is.
        UnreachableError: no lab runs.
    """
    with answering(say) as (home, one):
        outcome, near = rules.check_answer(words, *one.drawn, one.clusters)
        if outcome is None:
            sheet.add(home, "wrong", answer=words.strip())
            return False, f"✖ not {words.strip()}{f'; near: {near}' if near else ''} (−{rules.WRONG})"
        sheet.add(home, "decided", outcome=outcome, answer=words.strip())
        return True, f"✔ {outcome}: {revealed(latest(home))}"


def give_up(say: Say = print, outcome: RoundOutcome = RoundOutcome.GIVEN_UP) -> str:
    """Return what is broken; then `debrief` shows the path, and `finish` heals.

    Raises:
        InputError: no round is open.
        UnreachableError: no lab runs.
    """
    with answering(say) as (home, _):
        sheet.add(home, "decided", outcome=outcome)
        return f"{outcome}: {revealed(latest(home))}"


def debrief(say: Say = print) -> Debrief:
    """Run the path of an expert on the mesh while it is still broken: after the answer, and before `finish`.

    Raises:
        InputError: the latest round is not decided, or is healed already.
        UnreachableError: no lab runs.
    """
    home = drills.running()
    with sheet.held():
        one = latest(home)
        if one.outcome is None or one.score:
            raise InputError("the path of an expert is shown between answer and healing", where="meshkit lab drill")
        return expert.debrief(home, one, say)


def finish(say: Say = print) -> None:
    """Heal a decided round, wait until the mesh is healthy, and write the score.

    Raises:
        UnreachableError: no lab runs.
        ChangeError: the mesh does not become healthy; the next command tries again.
    """
    home = drills.running()
    with sheet.held():
        settle(home, say)


def play(
    seed: int | None, number: int = 1, *, topic: str = "", level: int = 0, hints: int = 0, words: str = ""
) -> None:
    """Play one round without anybody there, and print it: start, take hints, answer or give up, show the path, heal.

    Without words for an answer the round counts as not answered. For the arguments see `start`, `hint` and `answer`.

    Raises:
        InputError: of each of these.
        UnreachableError: no lab runs.
        ChangeError: the mesh does not become healthy.
    """
    start(seed, number, topic, level)
    print(prompt())
    if hints:
        print(hint(hints))
    right, reply = answer(words) if words else (False, "no answer was given: none counts")
    print(reply)
    if not right:
        print(give_up(outcome=RoundOutcome.GIVEN_UP if words else RoundOutcome.UNANSWERED))
    print(*debrief().lines(), sep="\n")
    finish()


def conclude(say: Say = print) -> None:
    """Say how the latest round of this lab came out; a script, which nobody watches, also sees it by the error.

    Raises:
        CheckFailed: nobody is there, and its fault was not found.
    """
    one = sheet.latest(folder())
    if one is None or not one.score:
        say("no round has ended yet")
        return
    result = f"number {one.number} of seed {one.seed}: {one.outcome}, {one.points or 0} of {rules.FULL} points"
    if not (one.outcome and one.outcome.right) and not person.is_there():
        raise CheckFailed(result, where="training", remedy="the same seed and number make the same fault again")
    say(result)


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
    found, field, *_ = one.lesson.cause
    spent = f"{one.hints} hint{'s' * (one.hints != 1)}, {one.wrong} wrong, {one.seconds} s"
    return (
        f"{fault.name} in {site.name}.\n{fault.breaks}.\nthe cause: {found}, {field}\n"
        f"users see: {fault.users}\n{one.points} of {rules.FULL} points: {spent}"
    )
