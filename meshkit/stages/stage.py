"""What all stages have in common: five beats in one order, each showing itself, and a conclusion.

stage = Discovery("mymesh.yaml", mode="plan")
stage.look()        # read facts from every cluster; never changes anything
stage.check()       # gates: expected, observed, verdict, remedy
stage.plan()        # each change as a server-side dry run shows it
stage.apply()       # make it, in mode "apply" and with no gate shut; journaled before and after
stage.prove()       # look again, with independent evidence
stage.conclude()    # the verdict; raises where the stage does not hold
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar, Final, Generic, TypeVar

import pandas as pd
from matplotlib.figure import Figure

from meshkit import parameters
from meshkit.changes.plan import CHANGES, Plan
from meshkit.checks.finding import Conclusion, Finding, Findings
from meshkit.display import Several, Shown, Text
from meshkit.kube.mesh import Mesh
from meshkit.notebook.evidence import Picture
from meshkit.spec import MeshSpec
from meshkit.tables import Table

BEATS: Final = ("look", "check", "plan", "apply", "prove", "conclude")
S = TypeVar("S", bound="Stage")


class Shows(Generic[S]):
    """A table of a stage, as an attribute of its class: `readers = Shows(READERS, lambda stage: stage.facts.readers)`.

    Evaluated at the end of a cell it shows itself; `stage.readers.frame` is the DataFrame.
    """

    def __init__(self, table: Table, frame: Callable[[S], pd.DataFrame]) -> None:
        self.table, self.frame = table, frame

    def __get__(self, stage: S | None, owner: type[S]) -> Any:
        if stage is None:
            return self
        return self.table.view(self.frame(stage))


class Draws(Generic[S]):
    """A picture of a stage, as an attribute of its class: its file's name, and what draws it."""

    def __init__(self, name: str, draw: Callable[[S], Figure]) -> None:
        self.name, self.draw = name, draw

    def __get__(self, stage: S | None, owner: type[S]) -> Any:
        return self if stage is None else Picture(self.draw(stage), self.name)


class Stage:
    """One stage of the line. A subclass says what is particular to it in the methods that begin with `_`.

    Args:
        mesh: the mesh file, or the mesh.
        mode: plan, which shows and changes nothing, or apply; stages that only send requests know audit, too.
        journal: name of the journal of changes; a new one unless given.
    """

    name: ClassVar[str]
    """Number and name, as journals and records have it: "07 discovery"."""
    modes: ClassVar[tuple[str, ...]] = parameters.MODES

    def __init__(self, mesh: str | Path | MeshSpec | Mesh, *, mode: str = "plan", journal: str = "") -> None:
        parameters.require_choice("mode", mode, self.modes)
        self.mesh = mesh if isinstance(mesh, Mesh) else Mesh.open(mesh)
        self.mode, self.journal = mode, journal
        self.facts: Any = None
        self.findings = Findings()
        self.plans: list[Plan] = []
        self._making: Iterator[Plan] = iter(())

    # --- what a subclass says ---

    def _look(self) -> Any:
        """Return what is read of the mesh; it becomes `facts`."""
        raise NotImplementedError

    def _check(self) -> Iterable[Finding]:
        """Judge the facts: what must hold before anything is changed."""
        raise NotImplementedError

    def _plans(self) -> Iterator[Plan]:
        """Make the plans, one after the other: the next is asked for when the one before was carried out."""
        yield from ()

    def _prove(self) -> Iterable[Finding]:
        """Judge what came of it, by looking again."""
        return ()

    # --- the beats ---

    def look(self) -> Shown:
        """Read facts from every cluster; changes nothing."""
        begun = time.monotonic()
        self.facts = self._look()
        return Text(f"read {', '.join(self.mesh.clusters)} in {time.monotonic() - begun:.1f} s")

    def check(self) -> Findings:
        """Judge the facts; what fails or is unknown holds an apply."""
        self.findings = Findings(self._check())
        return self.findings

    def plan(self) -> Shown:
        """Show what would be changed, as the servers' dry runs say it; changes nothing.

        In mode apply that is the first plan: those that build on it are made, and shown, when it was carried out.
        """
        self.plans, self._making = [], self._plans()
        for plan in self._making:
            self.plans.append(plan)
            if self.mode == "apply":
                break
            self._carry_out(plan)
        return Several(*self.plans) if self.plans else Text("this stage changes nothing")

    def apply(self) -> Shown:
        """Make what the plan showed, in mode apply and where nothing holds it; return what became of each change."""
        if self.mode == "apply" and self.plans:
            self._carry_out(self.plans[0])
            for plan in self._making:
                CHANGES.view(self.plans[-1].table()).show()
                plan.show()
                self.plans.append(plan)
                self._carry_out(plan)
            return CHANGES.view(self.plans[-1].table())
        return Several(*(CHANGES.view(plan.table()) for plan in self.plans))

    def _carry_out(self, plan: Plan) -> None:
        plan.carry_out(self.mode, gates=self.findings, journal=self.journal)

    def prove(self) -> Findings:
        """Look again and judge what came of it, by other evidence than the change's own answer."""
        proved = Findings(self._prove())
        self.findings = Findings([*self.findings, *proved])
        return proved

    def conclude(self) -> None:
        """Show the verdict.

        Raises:
            CheckFailed: a finding failed.
            UnreachableError: none failed, but something is unknown, or nothing was checked at all.
        """
        conclusion = Conclusion(self.name, self.findings)
        conclusion.show()
        conclusion.raise_if_bad()
