"""The assessment of a mesh before its migration: what is to be done now, before it, with it and after it.

The phases are the catalogue's: what a check stops, and which stage fixes it.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from typing import Any, Final, Literal

from meshkit import clock
from meshkit.checks import audit, catalogue, causes, topologies
from meshkit.checks.catalogue import STAGES, Check, Phase
from meshkit.checks.finding import SEVERITY, Finding, Findings, Verdict
from meshkit.checks.remedy import Step, steps
from meshkit.checks.topology import AssessFacts, Recommendation, recommend
from meshkit.istio.control_plane.managed import MANAGERS
from meshkit.kube.mesh import Unknown
from meshkit.snapshot.snapshot import Snapshot
from meshkit.stages import assess

HERE: Final = Path(__file__).parent
Format = Literal["md", "html"]
MISSING: Final = "the snapshot's file does not have it: take another with `meshkit gather`"
RISKS: Final = {Verdict.FAIL: "high", Verdict.UNKNOWN: "not known", Verdict.WARN: "low"}
"""The risk of leaving something as it is, by its verdict."""


@dataclass(frozen=True)
class Task:
    """What is to be done about one check: in every place where its answer is bad, and nothing else is the cause."""

    check: Check
    findings: Sequence[Finding]
    effects: Sequence[Finding]

    @property
    def verdict(self) -> Verdict:
        """The worst of its findings."""
        return max((one.verdict for one in self.findings), key=SEVERITY.index)

    @property
    def steps(self) -> list[Step]:
        """What to do, each remedy once."""
        remedies = dict.fromkeys(one.remedy for one in self.findings)
        return [step for remedy in remedies for step in steps(remedy)]

    @property
    def parts(self) -> list[tuple[bool, list[str]]]:
        """The steps as parts: whether it is commands, and their texts."""
        return [(command, [step.text for step in same]) for command, same in groupby(self.steps, lambda s: s.command)]

    @property
    def effort(self) -> str:
        """Who does it: a stage, commands, or people."""
        if self.check.fixed_by:
            return f"stage {_stage(self.check.fixed_by)} does it"
        commands = sum(step.command for step in self.steps)
        return f"{commands} command{'s' * (commands > 1)}" if commands else "by hand"

    @property
    def risk(self) -> str:
        """What it costs to leave it."""
        stops = f"stops stage {_stage(self.check.stops)}" if self.check.stops and self.verdict != Verdict.WARN else ""
        more = len(causes.consequences(self.check.id))
        leads = f"may lead to {more} other check{'s' * (more > 1)} failing" if more else ""
        return ", ".join(filter(None, [RISKS[self.verdict], stops, leads]))


@dataclass(frozen=True)
class Assessment:
    """What a mesh needs for its migration, as of one snapshot."""

    facts: Snapshot
    advice: Recommendation
    findings: Findings

    @cached_property
    def tasks(self) -> Mapping[Phase, Sequence[Task]]:
        """The tasks of each phase, in the order in which to do them; what follows from another one is none."""
        roots: dict[Check, list[Finding]] = defaultdict(list)
        effects: dict[Check, list[Finding]] = defaultdict(list)
        for one, cause in causes.in_order(self.findings, self.facts.mesh.clusters):
            if one.verdict in RISKS:
                (effects if cause else roots)[catalogue.find((cause or one).id)].append(one)
        found = [Task(check, own, effects[check]) for check, own in roots.items()]
        return {phase: [task for task in found if task.check.phase is phase] for phase in Phase}

    @property
    def holding(self) -> Findings:
        """The findings of what is to be done before the migration may go on."""
        return Findings(
            one for phase in (Phase.NOW, Phase.BEFORE) for task in self.tasks[phase] for one in task.findings
        )

    def render(self, form: Format) -> str:
        """Return it as a document: Markdown, or one HTML file that needs nothing else."""
        from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

        environment = Environment(
            loader=FileSystemLoader(HERE), autoescape=select_autoescape(["html.j2"]), undefined=StrictUndefined,
            trim_blocks=True, lstrip_blocks=True,
        )  # fmt: skip
        environment.filters["md"] = markdown
        return environment.get_template(f"assessment.{form}.j2").render(self._content())

    def _content(self) -> dict[str, Any]:
        return {
            "spec": self.facts.spec,
            "taken": f"{self.facts.taken:%Y-%m-%d %H:%M} UTC",
            "meshkit": version("meshkit"),
            "clusters": self.facts.inventory.to_dict("records"),
            "versions": _istio_versions(self.facts),
            "advice": self.advice,
            "topologies": topologies.compare(self.advice).to_dict("records"),
            "phases": PHASES,
            "tasks": self.tasks,
            "counts": self.findings.counts,
            "stage": _stage,
        }


PHASES: Final = {
    Phase.NOW: "The migration does not begin before this is done.",
    Phase.BEFORE: "To be done before the stage that it stops, or that would make it matter.",
    Phase.WITH: "The stages of the migration do this, each after its plan was shown.",
    Phase.AFTER: "Stops no stage; better done once the mesh is one.",
}


def assessment(facts: Snapshot) -> Assessment:
    """Return the assessment of a snapshot: what stage 01 asks, and all else that can be asked without a change."""
    seen = _assess_facts(facts)
    with clock.at(facts.taken):
        first = assess.check(facts.mesh, seen)
    asked = {(one.id, one.subject) for one in first}
    rest = [one for one in audit.check(facts) if (one.id, one.subject) not in asked]
    return Assessment(facts, recommend(seen), Findings([*first, *rest]))


def _assess_facts(facts: Snapshot) -> AssessFacts:
    """Return what stage 01 looks at; what an older file lacks is unknown."""
    known = facts.live or "managers" in facts.known
    lacking = MANAGERS.frame([{"cluster": name, "reason": MISSING} for name in facts.mesh.clusters])
    return replace(
        audit.assess_facts(facts),
        managers=facts.managers if known else lacking,
        installers=facts.installers if known else dict.fromkeys(facts.mesh.clusters, Unknown(MISSING)),
    )


def markdown(text: str) -> str:
    """Return a text as Markdown shows it letter for letter; it comes from clusters."""
    return re.sub(r"([\\`*_{}\[\]<>#|~])", r"\\\1", " ".join(text.split()))


def _stage(number: str) -> str:
    return f"{number} {STAGES[number]}"


def _istio_versions(facts: Snapshot) -> Mapping[str, str]:
    istiods = facts.versions[facts.versions["component"] == "istiod"]
    return {str(name): ", ".join(sorted(set(rows["version"]))) for name, rows in istiods.groupby("cluster")}
