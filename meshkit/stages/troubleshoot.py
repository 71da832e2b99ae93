"""Stage 11: from a symptom to its cause and remedy; read-only.

The symptom decides the order, but everything is read that `meshkit check` reads. Which finding follows from which
decides what is the cause and what its consequences are.
"""

from __future__ import annotations

import csv
import difflib
import functools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any, ClassVar, Final

import pandas as pd

from meshkit import parameters
from meshkit.changes.plan import Plan
from meshkit.checks import audit, catalogue, causes
from meshkit.checks.finding import SEVERITY, Finding, Findings, Verdict, findings_html, overall
from meshkit.display import Record, Shown, Text, headline, styled
from meshkit.errors import InputError
from meshkit.istio.control_plane import logs as control_plane_logs
from meshkit.kube.cluster import Cluster
from meshkit.kube.mesh import Mesh, Unknown
from meshkit.notebook import tables
from meshkit.probing import pod_reach
from meshkit.snapshot.snapshot import Snapshot
from meshkit.spec import MeshSpec
from meshkit.stages import gateways, prepare
from meshkit.stages.discovery import stage as discovery
from meshkit.stages.stage import Shows, Stage
from meshkit.tables import Table, integer, text

STAGE = "11 troubleshoot"
SHOWN: Final = 6
OURS: Final = re.compile(rf" PassthroughCluster .*:{pod_reach.DISCARD}\b")
"""Access log lines of the checks' own tries."""
WALK: Final = Table(
    "walk",
    "The checks, the likeliest first",
    {
        "step": integer("its place in the order"),
        "id": text("of the check"),
        "check": text("its question"),
        "verdict": text("the worst answer"),
        "subject": text("of that answer"),
        "observed": text("of that answer, and how many more there are like it"),
        "follows_from": text("the finding that may be its cause"),
    },
    key=("id",),
    show=("step", "id", "verdict", "check", "subject", "observed", "follows_from"),
    compare=("verdict",),
    limit=20,
)
CAUSES: Final = Table(
    "causes",
    "What is not in order and follows from nothing",
    {
        "place": text("cause, likely too, or not usual for the symptom"),
        "id": text("of the check"),
        "subject": text("what it was asked of"),
        "check": text("its question"),
        "observed": text("what was found"),
        "expected": text("what should be"),
        "explains": text("ids of the findings that follow from it"),
        "page": text("of Istio's documentation"),
    },
    key=("id", "subject"),
    show=("place", "id", "subject", "check", "observed", "explains", "page"),
    compare=("observed",),
)
CURE: Final = Table(
    "cure",
    "What to do",
    {
        "step": integer("its place in the order"),
        "do": text("a command, or words"),
        "why": text("the finding that it fixes"),
    },
    key=("step",),
    compare=("do",),
)
LOGS: Final = Table(
    "logs",
    "Known symptoms in the last lines of the logs",
    {
        "cluster": text("its cluster"),
        "pod": text("whose log"),
        "symptom": text("that the lines show"),
        "lines": integer("how many of them"),
        "last": text("the last of these lines"),
        "reason": text("why a log could not be read"),
    },
    key=("cluster", "pod", "symptom"),
    show=("cluster", "pod", "symptom", "lines", "last", "reason"),
    compare=("symptom",),
)
SYMPTOMS: Final = Table(
    "symptoms",
    "Symptoms that can be chosen",
    {
        "name": text("for the parameter `symptom`"),
        "seen": text("what it is"),
        "where": text("it is seen"),
        "first_suspects": text("the checks to run first"),
        "means": text("what the line means by itself"),
    },
    key=("name",),
    compare=("name",),
)
_FLAG: Final = (
    "DC DF DI DO DPE DR DT FI IH LH LR NC NFCF NR OM RL RLSE SI UAEX UC UF UH UMSDR UO UPE UR URX UT"
).replace(" ", "|")
_FLAGS: Final = re.compile(
    rf"(?:^|\b(?:0|[1-5]\d\d)\s+|(?i:response_?flags)\W+)((?:{_FLAG})(?:,(?:{_FLAG}))*)(?=$|[\s\"',;.])"
)
"""Envoy's response flags where an access log has them: after the status, as a JSON field, or alone.

Source: envoy/stream_info (`CORE_RESPONSE_FLAGS`), and EnvoyTextLogFormat of pilot/pkg/model/telemetry_logging.go.
"""


@dataclass(frozen=True)
class Symptom:
    """What users see of a fault.

    `pattern` finds it in a log line, and so do Envoy's response `flags`; `checks` are the ids of those that it makes
    likely, the likeliest first; `means` is what the line says by itself, where that is more than a check can find.
    """

    name: str
    seen: str
    where: str
    pattern: str
    flags: tuple[str, ...]
    checks: tuple[str, ...]
    means: str = ""


@dataclass(frozen=True, repr=False)
class Diagnosis(Shown):
    """The cause (none where all is in order), what else is not in order and what of it follows from what.

    `others` are findings that follow from nothing either: first those that the symptom makes likely.
    """

    symptom: Symptom | None
    cause: Finding | None
    others: list[Finding]
    follow: list[tuple[Finding, Finding]]
    well: list[Finding]

    def bundle(self) -> dict[str, Any]:
        """Return the diagnosis as a sentence or two, and the findings that follow from nothing."""
        roots = [*filter(None, [self.cause]), *self.others]
        symbol = overall([*roots, *self.well]).symbol
        html = headline(f"{symbol} {conclusion(self)}", symbol) + findings_html(one.to_dict() for one in roots)
        return {"text/plain": f"{symbol} {conclusion(self)}", "text/html": styled(html)}


@functools.cache
def known() -> dict[str, Symptom]:
    """Return every symptom by its name: the lines of symptoms.csv, the most specific first."""
    text = resources.files("meshkit.stages").joinpath("symptoms.csv").read_text()
    rows = csv.DictReader(text.splitlines())
    lists = ("flags", "checks")
    return {row["name"]: Symptom(**{**row, **{key: tuple(row[key].split()) for key in lists}}) for row in rows}  # type: ignore[arg-type]


def symptoms() -> pd.DataFrame:
    """Return what can be chosen."""
    rows = [
        {
            "name": one.name,
            "seen": one.seen,
            "where": one.where,
            "means": one.means,
            "first_suspects": ", ".join(catalogue.find(i).title for i in one.checks[:2]),
        }
        for one in known().values()
    ]
    return SYMPTOMS.frame(rows, in_order=True)


def recognise(text: str | float) -> Symptom | None:
    """Return the symptom of a name or of a log line; of an empty text none.

    Papermill gives `-p symptom 503` as a number.

    Raises:
        InputError: nothing is known by it; the nearest is named.
    """
    asked = re.sub(r"^(\d+)\.0$", r"\1", str(text).strip())
    if not asked:
        return None
    names = {name.casefold(): one for name, one in known().items()}
    if asked.casefold() in names:
        return names[asked.casefold()]
    found = classify(asked) or classify(asked.upper())
    if found:
        return found
    (near,) = difflib.get_close_matches(asked.casefold(), names, n=1, cutoff=0.0)
    raise InputError(
        f"no symptom is known by {asked[:80]!r}; the nearest is {names[near].name!r}",
        where="parameter symptom",
        remedy="give a name of the notebook's first table, or a line of a log; or nothing, to check everything",
    )


def classify(line: str) -> Symptom | None:
    """Return the symptom of a log line, or None; of several the most specific."""
    line = " ".join(line.split())
    flags = {flag for found in _FLAGS.finditer(line) for flag in found[1].split(",")}
    symptoms = (one for one in known().values() if flags & {*one.flags} or re.search(one.pattern, line, re.IGNORECASE))
    return next(symptoms, None)


def look(mesh: Mesh, mode: str = "audit") -> Snapshot:
    """Read everything that `meshkit check` reads.

    Raises:
        InputError: no such mode.
    """
    parameters.require_choice("mode", mode, parameters.SENDING)
    return audit.look(mesh)


def check(facts: Snapshot) -> list[Finding]:
    """Ask all checks of all stages."""
    return audit.check(facts)


def diagnose(mesh: Mesh, findings: Sequence[Finding], symptom: Symptom | None) -> Diagnosis:
    """Separate the cause from its consequences.

    A cause follows from nothing. Of several it is one that the symptom makes likely, or that leads to such a one; of
    those, what failed before what is unknown, and what has the most consequences.
    """
    explained = causes.in_order(findings, list(mesh.clusters))
    bad = [(one, due) for one, due in explained if not _well(one)]
    roots = [one for one, due in bad if due is None]
    follow = [(one, due) for one, due in bad if due]
    likely = [one for one in roots if leads_to(one, symptom, follow)]
    ordered = sorted(roots, key=lambda one: (one not in likely, -SEVERITY.index(one.verdict)))
    cause = ordered[0] if ordered and (symptom is None or likely) else None
    others = [one for one in ordered if one is not cause]
    return Diagnosis(symptom, cause, others, follow, [one for one, _ in explained if _well(one)])


def _well(finding: Finding) -> bool:
    return finding.verdict in (Verdict.PASS, Verdict.SKIPPED)


def leads_to(finding: Finding, symptom: Symptom | None, follow: Sequence[tuple[Finding, Finding]]) -> bool:
    """Return whether a finding is one that the symptom makes likely, or may be the reason for such a one.

    A cluster that cannot be read leaves unknown what the symptom makes likely: it follows from that.
    """
    if symptom is None:
        return True
    ids = {finding.id, *causes.consequences(finding.id), *(one.id for one, due in follow if due is finding)}
    return bool(ids & {*symptom.checks})


def walk(mesh: Mesh, findings: Sequence[Finding], symptom: Symptom | None) -> pd.DataFrame:
    """Return the checks, the likeliest of the symptom first; without one, the farthest-reaching first."""
    due = {id(one): reason for one, reason in causes.in_order(findings, list(mesh.clusters))}
    ids = list(symptom.checks) if symptom else _far_reaching(findings)
    rows: list[dict[str, Any]] = []
    for identifier in ids:
        answers = [one for one in findings if one.id == identifier]
        if not answers:
            continue
        worst = max(answers, key=lambda one: SEVERITY.index(one.verdict))
        alike = sum(one.verdict is worst.verdict for one in answers) - 1
        reason = due.get(id(worst))
        rows.append(
            {
                "step": len(rows) + 1,
                **{key: str(getattr(worst, key)) for key in ("id", "check", "verdict", "observed")},
                "subject": worst.subject + (f" and {alike} more" if alike else ""),
                "follows_from": f"{reason.id} {reason.subject}" if reason else "",
            }
        )
    return WALK.frame(rows, in_order=True)


def _far_reaching(findings: Sequence[Finding]) -> list[str]:
    ids = dict.fromkeys(one.id for one in findings)
    return sorted(ids, key=lambda identifier: -len(causes.consequences(identifier)))


def named(diagnosis: Diagnosis) -> pd.DataFrame:
    """Return the cause, and what else is not in order and follows from nothing."""
    rows = []
    for one in [*filter(None, [diagnosis.cause]), *diagnosis.others]:
        place = "likely too" if leads_to(one, diagnosis.symptom, diagnosis.follow) else "not usual for the symptom"
        effects = list(dict.fromkeys(effect.id for effect, reason in diagnosis.follow if reason is one))
        more = f" and {len(effects) - SHOWN} more" if len(effects) > SHOWN else ""
        rows.append(
            {
                **{key: str(getattr(one, key)) for key in ("id", "subject", "check", "observed", "expected")},
                "place": "cause" if one is diagnosis.cause else place,
                "explains": ", ".join(effects[:SHOWN]) + more,
                "page": catalogue.find(one.id).url,
            }
        )
    return CAUSES.frame(rows, in_order=True)


def conclusion(diagnosis: Diagnosis) -> str:
    """Return the diagnosis as a sentence or two; where no check found the reason, with what the symptom means."""
    means = diagnosis.symptom.means if diagnosis.symptom else ""
    sentence = _conclusion(diagnosis)
    return f"{sentence} It means: {means}." if means and diagnosis.cause is None else sentence


def _conclusion(diagnosis: Diagnosis) -> str:
    seen = f"“{diagnosis.symptom.name}”" if diagnosis.symptom else "what is wrong"
    one = diagnosis.cause
    if one is None and not diagnosis.others:
        if not diagnosis.well:
            return "Nothing was checked yet."
        return (
            f"No check found a reason for {seen}: all {len(diagnosis.well)} answers are in order. The logs below may."
        )
    if one is None:
        return f"Nothing that usually lies behind {seen} is amiss, but other things are: the table has them."
    count = sum(reason is one for _, reason in diagnosis.follow)
    tail = f" {count} other bad answers follow from it." if count else ""
    finding = f"{one.check} [{one.subject}] ({one.id}): {one.observed}.{tail}"
    if one.verdict is Verdict.UNKNOWN:
        return f"Before the reason for {seen} can be named this must be known: {finding}"
    return f"The reason for {seen}: {finding}"


def judged(diagnosis: Diagnosis) -> list[Finding]:
    """Return findings for the verdict: causes as they are, what follows from one as skipped."""
    follow = [
        replace(
            one, verdict=Verdict.SKIPPED, observed=f"follows from {due.id} [{due.subject}]: {one.observed}", remedy=""
        )
        for one, due in diagnosis.follow
    ]
    return [*filter(None, [diagnosis.cause]), *diagnosis.others, *follow, *diagnosis.well]


def fixing_stage(finding: Finding | None) -> str:
    """Return the stage whose plan fixes a finding, or nothing where no stage does: what is unknown it cannot fix."""
    if finding is None or finding.verdict is Verdict.UNKNOWN:
        return ""
    return catalogue.find(finding.id).fixed_by


def remedy_steps(diagnosis: Diagnosis, mesh_file: str) -> pd.DataFrame:
    """Return what to do, step by step; nothing of it was done."""
    one, rows = diagnosis.cause, []
    if one is None:
        return CURE.frame([])
    if one.remedy:
        rows.append((one.remedy, f"fixes {one.id}: {one.check} [{one.subject}]"))
    if stage := fixing_stage(one):
        rows.append(
            (f"meshkit run {mesh_file} --only {stage}", f"shows how stage {stage} would fix it; changes nothing")
        )
        rows.append((f"meshkit run {mesh_file} --only {stage} --mode apply", "applies what was shown, and proves it"))
    rows.append((f"meshkit check --explain {one.id}", "what the check means, and what users reported"))
    rows.append((f"meshkit check {mesh_file}", f"{one.id} must be gone, and with it what follows from it"))
    steps = [{"step": n, "do": do, "why": why} for n, (do, why) in enumerate(rows, 1)]
    return CURE.frame(steps, in_order=True)


def plan(mesh: Mesh, facts: Snapshot, diagnosis: Diagnosis) -> Plan:
    """Plan the remedy where it is a matter of labels, gateways or remote secrets: shown by dry run, never applied here.

    Empty where meshkit cannot show it directly: the steps of `remedy_steps` say how it is done.
    """
    stage = fixing_stage(diagnosis.cause)
    if stage == "02":
        return prepare.plan(mesh, audit.prepare_facts(facts))
    if stage == "06":
        return gateways.plan(mesh, audit.gateway_facts(facts))
    if stage == "07":
        found = audit.discovery_facts(facts)
        tokens = discovery.plan_tokens(mesh, found)
        return tokens if tokens.changes else discovery.plan(mesh, found)
    return Plan(mesh, STAGE)


def logs(mesh: Mesh) -> pd.DataFrame:
    """Return what the last lines of the logs say of known symptoms.

    Read are istiods, gateways and the sidecars of the probe's client, 400 lines each. What the checks themselves tried
    there is left out.
    """
    rows: list[dict[str, Any]] = []
    for name, lines in mesh.each(lambda cluster: _logs(mesh, cluster)).items():
        rows += [{"cluster": name, "reason": lines.reason}] if isinstance(lines, Unknown) else lines
    return LOGS.frame(rows)


def _logs(mesh: Mesh, cluster: Cluster) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for pod, lines in control_plane_logs.last_lines(mesh, cluster):
        where = {"cluster": cluster.name, "pod": pod.name}
        if isinstance(lines, Unknown):
            rows.append({**where, "reason": lines.reason})
            continue
        seen: dict[str, list[str]] = {}
        for line in lines:
            if (found := classify(line)) and not OURS.search(line):
                seen.setdefault(found.name, []).append(line)
        rows += [
            {**where, "symptom": name, "lines": len(same), "last": " ".join(same[-1].split())[:300]}
            for name, same in seen.items()
        ]
    return rows


class Troubleshoot(Stage):
    """Stage 11. `symptom` is a name of `symptoms`, or a line of a log; without one everything is looked at.

    It changes nothing in any mode: `plan` shows the remedy, `apply` says so, and `prove` has nothing to prove.

    Raises:
        InputError: nothing is known by that symptom.
    """

    name = STAGE
    modes: ClassVar[tuple[str, ...]] = parameters.SENDING
    symptoms = Shows["Troubleshoot"](tables.SYMPTOMS, lambda _: symptoms())
    logs = Shows["Troubleshoot"](tables.LOGS, lambda stage: stage.lines)
    walk = Shows["Troubleshoot"](tables.WALK, lambda stage: walk(stage.mesh, stage.findings, stage.recognised))
    causes = Shows["Troubleshoot"](tables.CAUSES, lambda stage: named(stage.diagnosis))
    remedy = Shows["Troubleshoot"](tables.CURE, lambda stage: remedy_steps(stage.diagnosis, stage.mesh_file))

    facts: Snapshot

    def __init__(
        self, mesh: str | Path | MeshSpec | Mesh, *, mode: str = "audit", journal: str = "", symptom: str | int = ""
    ) -> None:
        self.recognised: Symptom | None = recognise(symptom)
        super().__init__(mesh, mode=mode, journal=journal)
        self.mesh_file: str = str(mesh) if isinstance(mesh, str | Path) else "MESH.yaml"
        self.lines: pd.DataFrame = LOGS.frame([])
        self._diagnosis: Diagnosis = Diagnosis(self.recognised, None, [], [], [])

    @property
    def diagnosis(self) -> Diagnosis:
        """What of the findings is the cause, and what follows from what."""
        return self._diagnosis

    @property
    def symptom(self) -> Record:
        """The symptom that was recognised."""
        return Record("symptom", self.recognised.name if self.recognised else "none named: everything is checked")

    def _look(self) -> Snapshot:
        facts = look(self.mesh, self.mode)
        self.lines = logs(self.mesh)
        return facts

    def _check(self) -> Iterable[Finding]:
        return check(self.facts)

    def check(self) -> Findings:
        """Judge everything, and separate the cause from its consequences: see `walk` and `diagnosis`."""
        findings = super().check()
        findings.gates = False
        self._diagnosis = diagnose(self.mesh, findings, self.recognised)
        return findings

    def plan(self) -> Shown:
        """Show what the stage that fixes the cause would change, as a dry run; empty where `remedy` says how."""
        self.plans = [plan(self.mesh, self.facts, self.diagnosis)]
        return self.plans[0]

    def apply(self) -> Shown:
        """Apply nothing, in any mode."""
        return Text("this stage applies nothing: `remedy` says how the cause is fixed")

    def conclude(self) -> None:
        """Show the verdict. Consequences count as skipped, so only causes fail.

        Raises:
            CheckFailed: a finding failed.
            UnreachableError: none failed, but something is unknown.
        """
        self.findings = Findings(judged(self.diagnosis))
        super().conclude()
