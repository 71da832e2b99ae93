"""The catalogue of checks: every finding that meshkit can make, as data.

`catalogue.yaml` is the one place for what a check is about: its title, why it is asked, and what may follow from a bad
answer. docs/checks.md is printed from it by `python -m meshkit.checks.catalogue`. A test holds its ids and titles
against the code.
"""

from __future__ import annotations

import difflib
import functools
import re
import textwrap
from collections.abc import Mapping
from dataclasses import replace
from enum import StrEnum
from graphlib import CycleError, TopologicalSorter
from importlib import resources
from itertools import groupby, pairwise
from operator import attrgetter
from typing import Annotated, Any, Final, Literal

import yaml
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from meshkit.errors import InputError
from meshkit.spec import read_yaml

FILE: Final = "catalogue.yaml"
ISTIO: Final = "https://istio.io/latest/docs/"
STAGES: Final = {
    "01": "assess", "02": "prepare", "03": "backup", "04": "trust", "05": "install", "06": "gateways",
    "07": "discovery", "08": "verify", "09": "observe", "10": "shift", "11": "troubleshoot", "12": "rollback",
}  # fmt: skip
FIRST_CHANGE: Final = "02"
"""The first stage that changes anything: what stops it stops the migration before it begins."""
REMEDIES: Final = {
    "drill": "a test breaks a mesh of the lab, follows it, and sees the check pass",
    "stage": "it is a stage's plan, which migrations of the lab apply",
    "cause": "it has none of its own: the finding says what it follows from, or where to look",
    "change": "a change was just made: look at what the finding names, run the stage again, or undo",
    "decision": "a decision, mostly a field of the mesh file: no test knows the right one",
    "owner": "whoever owns or installed the object changes it: no command knows what they mean",
    "outside": "it is outside of the clusters' objects: networks, clocks, DNS, this machine, another version",
}
"""How a test follows a remedy, or why none can."""
_WIDTH: Final = 100
Id = Annotated[str, Field(pattern=r"^MK\d{3,4}$")]
Text = Annotated[str, Field(min_length=1)]
Issue = Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+#\d+$")]
Stage = Literal["", "01", "02", "03", "04", "05", "06", "07", "08", "09", "10", "11", "12"]


class Phase(StrEnum):
    """When something is to be done, of a migration."""

    NOW = "now"
    BEFORE = "before"
    WITH = "with"
    AFTER = "after"


def _stage(identifier: str) -> str:
    return f"{int(identifier[2:]) // 100:02}"


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Check:
    """One entry of the catalogue; the head of `catalogue.yaml` says what each field means."""

    id: Id
    title: Text
    why: Text
    worst: Literal["fail", "warn", "unknown"]
    asked: Literal["check", "stage"]
    remedy: Literal["drill", "stage", "cause", "change", "decision", "owner", "outside"]
    stops: Stage = ""
    fixed_by: Stage = ""
    due: Phase | None = None
    leads_to: tuple[Id, ...] = ()
    page: str = ""
    issues: tuple[Issue, ...] = ()
    sources: tuple[Text, ...] = ()
    aliases: tuple[Id, ...] = ()

    @property
    def stage(self) -> str:
        """The number of its stage, as of the stage's notebook."""
        return _stage(self.id)

    @property
    def stages(self) -> list[str]:
        """The numbers of all stages that ask it: its own, and those of its former ids."""
        return sorted({_stage(name) for name in (self.id, *self.aliases)})

    @property
    def phase(self) -> Phase:
        """When a bad answer is to be dealt with, of a mesh that is to be migrated."""
        if self.due or self.fixed_by:
            return self.due or Phase.WITH
        return Phase.AFTER if not self.stops else Phase.NOW if self.stops == FIRST_CHANGE else Phase.BEFORE

    @property
    def url(self) -> str:
        """Istio's page about it; empty where there is none."""
        return ISTIO + self.page if self.page else ""

    @property
    def links(self) -> dict[str, str]:
        """The issues: name and address of each."""
        parts = ((issue, issue.partition("#")) for issue in self.issues)
        return {issue: f"https://github.com/{repository}/issues/{number}" for issue, (repository, _, number) in parts}


_ENTRIES: Final = TypeAdapter(dict[str, Check])


@functools.cache
def checks() -> Mapping[str, Check]:
    """Return every check by its id, in the order of the stages."""
    return load(resources.files("meshkit.checks").joinpath(FILE).read_text(encoding="utf-8"))


def load(text: str, where: str = FILE) -> Mapping[str, Check]:
    """Return the checks of a catalogue's text by their ids, in its order.

    Raises:
        InputError: it is no such catalogue: not YAML, a field that is unknown, missing or wrong, a name that is taken,
            or a `leads_to` that names no check or runs in a circle.
    """
    try:
        document = read_yaml(text)
        found = _ENTRIES.validate_python(_with_ids(document))
    except yaml.YAMLError as error:
        raise InputError(f"not YAML: {error}", where=where) from None
    except ValidationError as error:
        raise InputError("; ".join(_words(problem) for problem in error.errors()), where=where) from None
    if problems := [*_unordered(found), *_ambiguous(found)]:
        raise InputError("; ".join(problems), where=where)
    now = {alias: check.id for check in found.values() for alias in check.aliases}
    found = {
        check.id: replace(check, leads_to=tuple(now.get(effect, effect) for effect in check.leads_to))
        for check in found.values()
    }
    if problems := _astray(found):
        raise InputError("; ".join(problems), where=where)
    return found


def _with_ids(document: Any) -> Any:
    if not isinstance(document, dict):
        return document
    return {key: {"id": key, **entry} if isinstance(entry, dict) else entry for key, entry in document.items()}


def _words(problem: Mapping[str, Any]) -> str:
    """Return what pydantic objects to, with the path to it and what came."""
    *path, field = map(str, problem["loc"]) if problem["loc"] else ("the catalogue",)
    at = ".".join((*path, field))
    if problem["type"] == "unexpected_keyword_argument":
        near = difflib.get_close_matches(field, Check.__dataclass_fields__, n=1)
        return f"{at}: unknown field" + (f", did you mean {near[0]}?" if near else "")
    if problem["type"] in ("missing", "missing_argument"):
        return f"{at}: missing"
    return f"{at}: {problem['msg'].lower()}, got {problem['input']!r}"


def _unordered(found: Mapping[str, Check]) -> list[str]:
    numbers = [int(identifier[2:]) for identifier in found]
    return [
        f"MK{late} stands after MK{early}: the ids must be in order"
        for early, late in pairwise(numbers)
        if late <= early
    ]


def _ambiguous(found: Mapping[str, Check]) -> list[str]:
    former = [(alias, check.id) for check in found.values() for alias in check.aliases]
    names = [*found, *(alias for alias, _ in former)]
    return [
        f"{owner}.aliases: {alias} is the name of another check" for alias, owner in former if names.count(alias) > 1
    ]


def _astray(found: Mapping[str, Check]) -> list[str]:
    pairs = [(check.id, effect) for check in found.values() for effect in check.leads_to]
    if unknown := [f"{cause}.leads_to: there is no {effect}" for cause, effect in pairs if effect not in found]:
        return unknown
    try:
        TopologicalSorter({check.id: check.leads_to for check in found.values()}).prepare()
    except CycleError as error:
        return [f"leads_to runs in a circle: {' → '.join(reversed(error.args[1]))}"]
    return []


def find(identifier: str) -> Check:
    """Return the check of an id or a former id, in whatever case.

    Raises:
        InputError: there is none; the nearest are named.
    """
    known = _by_any_id()
    if check := known.get(identifier.strip().upper()):
        return check
    near = ", ".join(difflib.get_close_matches(identifier.strip().upper(), known, n=3, cutoff=0.5))
    raise InputError(
        f"there is no check {identifier!r}; expected an id such as {near or 'MK802'}",
        remedy="docs/checks.md has them all",
    )


def _by_any_id() -> dict[str, Check]:
    return {name: check for check in checks().values() for name in (check.id, *check.aliases)}


@functools.cache
def current(identifier: str) -> str:
    """Return the id that a former id is now, in upper case; any other text as it is."""
    check = _by_any_id().get(identifier.upper())
    return check.id if check else identifier


def explain(identifier: str) -> str:
    """Return what a check is about, as lines for a person.

    Raises:
        InputError: there is no such check.
    """
    check = find(identifier)
    stages = ", ".join(map(_name, check.stages))
    facts = {"asked by": f"{'meshkit check, and ' if check.asked == 'check' else ''}stage {stages}"} | _facts(check)
    facts |= {"Istio's page": check.url} if check.url else {}
    facts |= {"issues": ", ".join(check.links.values())} if check.issues else {}
    width = max(map(len, facts)) + 2
    lines = [
        textwrap.fill(text, _WIDTH, initial_indent=f"{name}:".ljust(width), subsequent_indent=" " * width, **_WHOLE)
        for name, text in facts.items()
    ]
    return "\n".join([f"{check.id}: {check.title}", "", textwrap.fill(check.why, _WIDTH, **_WHOLE), "", *lines])


_WHOLE: Final[dict[str, Any]] = {"break_long_words": False, "break_on_hyphens": False}


def _name(stage: str) -> str:
    return f"{stage} {STAGES[stage]}"


def _facts(check: Check) -> dict[str, str]:
    causes = [one.id for one in checks().values() if check.id in one.leads_to]
    known = {
        "worst verdict": check.worst + (f"; it stops stage {_name(check.stops)}" if check.stops else ""),
        "fixed by": f"stage {_name(check.fixed_by)}" if check.fixed_by else "",
        "its remedy": REMEDIES[check.remedy],
        "may lead to": ", ".join(check.leads_to),
        "may follow from": ", ".join(causes),
        "formerly": ", ".join(check.aliases),
        "in Istio's source": "; ".join(check.sources),
    }
    return {name: text for name, text in known.items() if text}


def page() -> str:
    """Return docs/checks.md."""
    lines = [
        "# Checks",
        "",
        "Every finding that meshkit can make; printed by `make checks` from `meshkit/checks/catalogue.yaml`.",
        "`meshkit check MESH.yaml` asks those marked ✔ of a finished mesh, and names the causes first;",
        "`meshkit check --explain MK802` prints one of them. The others are about a change that is to come, or was",
        "just made, and are asked by their stage alone.",
    ]
    for stage, group in groupby(checks().values(), attrgetter("stage")):
        lines += ["", f"## {_name(stage)}"]
        for check in group:
            mark = "✔ " if check.asked == "check" else ""
            lines += ["", f"### {check.id}", "", f"{mark}**{check.title}**", ""]
            lines += [*textwrap.wrap(_linked(check.why), 120, **_WHOLE), "", *_bullets(check)]
    return "\n".join(lines)


def _bullets(check: Check) -> list[str]:
    facts = {name: text if name == "in Istio's source" else _linked(text) for name, text in _facts(check).items()}
    facts |= {"Istio's page": f"[{check.page.strip('/')}]({check.url})"} if check.page else {}
    issues = ", ".join(f"[{name}]({address})" for name, address in check.links.items())
    facts |= {"issues": issues} if issues else {}
    return [f"- {name}: {text}" for name, text in facts.items()]


def _linked(text: str) -> str:
    """Return a text whose ids are links to their headings; a former id leads to the check that it is now."""
    return re.sub(r"\bMK\d{3,4}\b", lambda found: f"[{found[0]}](#{find(found[0]).id.lower()})", text)


if __name__ == "__main__":
    print(page())
