"""What all stages have in common: five beats in one order, each showing itself, and a conclusion.

stage = Discovery("mesh.yaml", mode="plan")
stage.look()        # read facts from every cluster; never changes anything
stage.check()       # gates: expected, observed, verdict, remedy
stage.plan()        # each change as a server-side dry run shows it
stage.apply()       # make it, in mode "apply" and with no gate shut; journaled before and after
stage.prove()       # look again, with independent evidence
stage.conclude()    # the verdict; raises where the stage does not hold
"""

from __future__ import annotations

import contextlib
import functools
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, ClassVar, Concatenate, Final, Generic, ParamSpec, TypeVar

import pandas as pd
from matplotlib.figure import Figure

from meshkit import parameters
from meshkit.changes.change import CHANGES
from meshkit.changes.journal import require_journal_name
from meshkit.changes.plan import Plan, Plans
from meshkit.checks.finding import Conclusion, Finding, Findings, holding
from meshkit.display import Several, Shown, Text
from meshkit.errors import InputError
from meshkit.kube.mesh import Mesh
from meshkit.notebook import person, widgets
from meshkit.notebook.pictures import Picture
from meshkit.notebook.widgets.consent import ConsentPage
from meshkit.spec import MeshSpec
from meshkit.tables import Table

BEATS: Final = ("look", "check", "plan", "apply", "prove", "conclude")
NAMED: Final = 20
"""How many tables `look` names; of more it gives the number."""
P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S", bound="Stage")


class Read:
    """What a beat of a stage reads, as an attribute of its class; before that, asking for it says which to run first.

    Raises:
        InputError: that beat was not run yet.
    """

    def __init__(self, beat: str) -> None:
        self.beat = beat

    def __get__(self, stage: Stage | None, owner: type[Stage]) -> Any:
        if stage is None:
            return self
        raise _too_early(stage, self.beat, "there is something to show")


class Shows(Generic[S]):
    """A table of a stage, as an attribute of its class: `readers = Shows(READERS, lambda stage: stage.facts.readers)`.

    Evaluated at the end of a cell it shows itself; `stage.readers.frame` is the DataFrame.
    """

    def __init__(self, table: Table, frame: Callable[[S], pd.DataFrame]) -> None:
        self.table, self.frame = table, frame

    def __get__(self, stage: S | None, owner: type[S]) -> Any:
        return self if stage is None else self.table.view(self.frame(stage))


class Draws(Generic[S]):
    """A picture of a stage, as an attribute of its class: its file's name, and what draws it."""

    def __init__(self, name: str, draw: Callable[[S], Figure]) -> None:
        self.name, self.draw = name, draw

    def __get__(self, stage: S | None, owner: type[S]) -> Any:
        return self if stage is None else Picture(self.draw(stage), self.name)


def _too_early(stage: Stage, needed: str, wanted: str) -> InputError:
    where, remedy = f"stage {stage.name}", "run the cells in their order, from the top"
    return InputError(f"stage.{needed}() must be run before {wanted}", where=where, remedy=remedy)


def _beat(method: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
    """Let a beat run in its turn only, and let it begin with the findings of the beats before it.

    So a cell that is run again replaces its findings, and never doubles them.
    """

    @functools.wraps(method)
    def run(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with self._turn(method.__name__):
            return method(self, *args, **kwargs)

    return run


def _with_consent(beat: Callable[[S], Shown]) -> Callable[[S], Shown]:
    """Let a person in JupyterLab consent to each disruptive step first; the beat runs when all are ticked.

    It changes nothing where nobody sits before the cell, and where a gate holds the plan anyway.
    """

    @functools.wraps(beat)
    def run(self: S) -> Shown:
        asked: Shown | None = self._ask_consent()
        return beat(self) if asked is None else asked

    return run


class Stage:
    """One stage of the line. A subclass says what is particular to it in the methods that begin with `_`.

    A beat that is called too early raises an InputError. Beats for which a stage has nothing may be left out.

    Args:
        mesh: the mesh file, or the mesh.
        mode: plan, which shows and changes nothing, or apply; stages that only send requests know audit, too.
        journal: name of the journal of changes; a new one unless given.
    """

    name: ClassVar[str]
    """Number and name, as journals and records have it: "07 discovery"."""
    modes: ClassVar[tuple[str, ...]] = parameters.MODES
    facts: Any = Read("look")
    """What `look` read."""
    after: Any = Read("prove")
    """What `prove` read again, in stages that show it."""

    def __init__(self, mesh: str | Path | MeshSpec | Mesh, *, mode: str = "plan", journal: str = "") -> None:
        parameters.require_choice("mode", mode, self.modes)
        if journal:
            require_journal_name(journal)
        self.mesh = mesh if isinstance(mesh, Mesh) else Mesh.open(mesh)
        self.mode, self.journal = mode, journal
        self.findings = Findings()
        self.plans: list[Plan] = []
        self._more: Iterator[Plan] = iter(())
        self._consent: ConsentPage | None = None
        self._beat = ""
        self._found: dict[str, Findings] = {}

    def __init_subclass__(cls) -> None:
        for beat in BEATS:
            if beat in cls.__dict__:
                setattr(cls, beat, _beat(cls.__dict__[beat]))

    def __repr__(self) -> str:
        return f"{self.name} of mesh {self.mesh.spec.mesh.id}, mode {self.mode}"

    # --- what a subclass says ---

    def _look(self) -> Any:
        """Return what is read of the mesh; it becomes `facts`."""
        raise NotImplementedError

    def _check(self) -> Iterable[Finding]:
        """Judge the facts: the gates of the changes."""
        raise NotImplementedError

    def _plans(self) -> Iterator[Plan]:
        """Make the plans, one after the other: the next is asked for when the one before was applied, or is empty."""
        yield from ()

    def _prove(self) -> Iterable[Finding]:
        """Judge the result, by reading again."""
        return ()

    # --- the beats ---

    @_beat
    def look(self) -> Shown:
        """Read facts from every cluster; changes nothing."""
        begun = time.monotonic()
        self.mesh.unanswered.clear()
        self.facts = self._read_once()
        names = list(dict.fromkeys(_tables(self.facts)))
        read = ", ".join(names) if 0 < len(names) <= NAMED else f"{len(names)} tables" if names else "facts"
        line = f"read {read} of {', '.join(self.mesh.clusters)} in {time.monotonic() - begun:.1f} s"
        unknown = [
            f"unknown: {name}: {reason}"
            for name in self.mesh.clusters
            for reason in dict.fromkeys(self.mesh.unanswered.get(name, ()))
        ]
        lines = [line, *(unknown or ["every cluster answered"])]
        return Text("\n".join(textwrap.fill(one, 110, subsequent_indent="  ") for one in lines))

    def _read_once(self) -> Any:
        """Return what `_look` returns; it sends the same read once. Other beats ask again: they are to see changes."""
        asked_again = self.mesh
        self.mesh = asked_again.remembering()
        try:
            return self._look()
        finally:
            self.mesh = asked_again

    @_beat
    def check(self) -> Findings:
        """Judge the facts; what fails or is unknown holds an apply."""
        self.findings = Findings(self._check())
        return self.findings

    @_beat
    def plan(self) -> Shown:
        """Show what would be changed, as the servers' dry runs say it; changes nothing.

        In mode apply a plan that builds on the changes of another is made, and shown, once those were applied.
        """
        self.plans, self._more = [], self._plans()
        for plan in self._more:
            self.plans.append(plan)
            plan.pending = not plan.empty
            if self.mode == "apply" and (plan.pending or plan.temporary):
                break
        if not self.plans:
            return Text("this stage changes nothing")
        return Plans(*self.plans) if len(self.plans) > 1 else self.plans[0]

    def _ask_consent(self) -> Any:
        """Return the widget that asks for consent; None where it is not needed, or was given to these plans."""
        refused = [finding for plan in self.plans for finding in plan.findings()]
        if self.mode != "apply" or holding([*self.findings, *refused]) or not person.is_there():
            return None
        if self._consent is None or self._consent.plans is not self.plans:
            self._consent = ConsentPage(self.plans)
        return None if self._consent.given else widgets.shown(self._consent, None)

    @_with_consent
    @_beat
    def apply(self) -> Shown:
        """Apply what the plan showed, in mode apply and where no gate holds it; return the status of each change."""
        if not self.plans:
            return Text("this stage changes nothing")
        for plan in self.plans:
            self._carry_out(plan)
        done = [CHANGES.view(plan.table()) for plan in self.plans]
        for plan in self._more:
            _together(done).show()
            plan.show()
            self.plans.append(plan)
            self._carry_out(plan)
            done = [CHANGES.view(plan.table())]
        return _together(done)

    def _carry_out(self, plan: Plan) -> None:
        plan.carry_out(self.mode, gates=self.findings, journal=self.journal)

    @_beat
    def prove(self) -> Findings:
        """Read again and judge the result, by other evidence than the answer to the change."""
        proved = Findings(self._prove())
        proved.gates = False
        self.findings = Findings([*self.findings, *proved])
        return proved

    @_beat
    def conclude(self) -> None:
        """Show the verdict.

        Raises:
            CheckFailed: a finding failed.
            UnreachableError: none failed, but something is unknown, or nothing was checked at all.
        """
        conclusion = Conclusion(self.name, self.findings)
        conclusion.show()
        conclusion.raise_if_bad()

    # --- their order ---

    @contextlib.contextmanager
    def _turn(self, beat: str) -> Iterator[None]:
        """Run a beat: what it and those after it found before is forgotten.

        Raises:
            InputError: another beat must be run before it; or its plan was applied already, or in part.
        """
        if self._beat == beat:  # an override calls the method that it overrides
            yield
            return
        needed = self._needs(beat)
        if needed and needed not in self._found:
            raise _too_early(self, needed, f"stage.{beat}()")
        at = BEATS.index(beat)
        before = [earlier for earlier in BEATS[:at] if earlier in self._found]
        self.findings = Findings(self._found[before[-1]] if before else ())
        for later in BEATS[at:]:
            self._found.pop(later, None)
        if beat == "apply" and self.mode == "apply":
            self._found.pop("plan", None)  # a plan is applied once: after a failure the rest must be planned again
        outer, self._beat = self._beat, beat
        try:
            yield
        finally:
            self._beat = outer
        self._found[beat] = Findings(self.findings)

    def _needs(self, beat: str) -> str:
        """Return the beat that must be run before one."""
        if beat == "prove":
            return "apply" if self._says("_plans") or self._says("apply") else "check"
        if beat == "conclude":
            return "prove" if self._says("_prove") or self._says("prove") else "check"
        return {"check": "look", "plan": "check", "apply": "plan"}.get(beat, "")

    def _says(self, name: str) -> bool:
        return getattr(type(self), name) is not getattr(Stage, name)


def _tables(facts: Any) -> Iterator[str]:
    """Yield the names of the tables that facts have."""
    for one in fields(facts) if is_dataclass(facts) else ():
        value = getattr(facts, one.name)
        if isinstance(value, pd.DataFrame):
            yield one.name.replace("_", " ")
        else:
            yield from _tables(value)


def _together(parts: Iterable[Shown]) -> Shown:
    several = list(parts)
    return several[0] if len(several) == 1 else Several(*several)
