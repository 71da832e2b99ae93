"""The catalogue of checks: every finding that meshkit can make, as data.

`checks.csv` has one line for each id; a test holds it against the code. What a check means stands once, in its
function's docstring; what follows from a bad answer, in `meshkit.stages.causes`. docs/checks.md is printed from all
three by `python -m meshkit.stages.catalogue`.
"""

from __future__ import annotations

import csv
import difflib
import functools
import importlib
import inspect
import re
from dataclasses import dataclass
from importlib import resources
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING, Final

from meshkit.errors import InputError
from meshkit.stages import causes

if TYPE_CHECKING:
    from collections.abc import Mapping

ISTIO: Final = "https://istio.io/latest/docs/"
STAGES: Final = {
    "01": "assess", "02": "prepare", "03": "backup", "04": "trust", "05": "install", "06": "gateways",
    "07": "discovery", "08": "verify", "09": "observe", "10": "shift", "11": "troubleshoot", "12": "rollback",
}  # fmt: skip
_OPENING: Final = re.compile(r"^MK\d[^:]*: ")
_SECTIONS: Final = re.compile(r"\n\s*(?:Args|Returns|Raises|Yields):\n")


@dataclass(frozen=True)
class Check:
    """One line of the catalogue.

    `function` is where it is made, below `meshkit`; `bad` the verdict of its worst answer; `blocks` the stage that does
    not go on after that, if any; `asked` is `check` where `meshkit check` asks it of a finished mesh, else `stage`: it
    is about a change that is to come, or was just made. `page` is a page of Istio's documentation, `issues` are what
    users told of it (`istio/istio#34210`, separated by blanks).
    """

    id: str
    title: str
    function: str
    bad: str
    blocks: str
    asked: str
    page: str
    issues: str

    @property
    def stage(self) -> str:
        """The number of its stage, as of the stage's notebook."""
        return f"{int(self.id[2:]) // 100:02}"

    @property
    def url(self) -> str:
        """Istio's page about it; empty where there is none."""
        return ISTIO + self.page if self.page else ""

    @property
    def links(self) -> dict[str, str]:
        """What users told of it: name and address of each issue."""
        told = ((issue, issue.partition("#")) for issue in self.issues.split())
        return {issue: f"https://github.com/{repository}/issues/{number}" for issue, (repository, _, number) in told}

    @property
    def explanation(self) -> str:
        """What it means: the part of its function's docstring that is about it."""
        told = _SECTIONS.split(docstring(self.function))[0]
        parts = re.split(r"\n(?=MK\d)", told)
        part = next((part for part in parts if self.id in part), parts[0])
        return _OPENING.sub("", part).strip()


def docstring(function: str) -> str:
    """Return the docstring of a function that is named as in the catalogue."""
    module, *path = function.split(".")
    found = importlib.import_module(f"meshkit.{module}")
    for name in path:
        found = getattr(found, name, None) or importlib.import_module(f"{found.__name__}.{name}")
    return inspect.getdoc(found) or ""


@functools.cache
def checks() -> Mapping[str, Check]:
    """Return every check by its id, in the order of the stages."""
    text = resources.files("meshkit.stages").joinpath("checks.csv").read_text(encoding="utf-8")
    return {row["id"]: Check(**row) for row in csv.DictReader(text.splitlines())}


def find(identifier: str) -> Check:
    """Return the check of an id, in whatever case.

    Raises:
        InputError: there is none; the nearest are named.
    """
    known = checks()
    if check := known.get(identifier.strip().upper()):
        return check
    near = ", ".join(difflib.get_close_matches(identifier.strip().upper(), known, n=3, cutoff=0.5))
    raise InputError(
        f"there is no check {identifier!r}; expected an id such as {near or 'MK802'}",
        remedy="docs/checks.md has them all",
    )


def explain(identifier: str) -> str:
    """Return what a check is about, as lines for a person.

    Raises:
        InputError: there is no such check.
    """
    check = find(identifier)
    lines = [f"{check.id}: {check.title}", "", check.explanation, "", *(f"{a}: {b}" for a, b in _facts(check).items())]
    return "\n".join(lines)


def _facts(check: Check) -> dict[str, str]:
    asked = "meshkit check, and stage" if check.asked == "check" else "stage"
    told = {
        "asked by": f"{asked} {check.stage} {STAGES[check.stage]}",
        "a bad answer": check.bad + (f"; it stops stage {check.blocks} {STAGES[check.blocks]}" if check.blocks else ""),
        "these may follow from it": ", ".join(causes.consequences(check.id)),
        "it may follow from": ", ".join(causes.reasons(check.id)),
        "Istio says": check.url,
        "users told": ", ".join(check.links.values()),
    }
    return {name: text for name, text in told.items() if text}


def page() -> str:
    """Return docs/checks.md."""
    lines = [
        "# Checks",
        "",
        "Every finding that meshkit can make; printed by `make checks` from the catalogue and the code.",
        "`meshkit check MESH.yaml` asks those marked ✔ of a finished mesh, and names the causes first;",
        "`meshkit check --explain MK802` prints one of them. The others are about a change that is to come, or was",
        "just made, and are asked by their stage alone.",
    ]
    for stage, group in groupby(checks().values(), attrgetter("stage")):
        lines += ["", f"## {stage} {STAGES[stage]}"]
        for check in group:
            mark = "✔ " if check.asked == "check" else ""
            told = " ".join(check.explanation.split())
            lines += ["", f"### {check.id}", "", f"{mark}**{check.title}**: {told}", "", *_bullets(check)]
    return "\n".join(lines)


def _bullets(check: Check) -> list[str]:
    facts = {name: re.sub(r"\bMK\d+", _link, text) for name, text in _facts(check).items()}
    facts |= {"Istio says": f"[{check.page.strip('/')}]({check.url})"} if check.page else {}
    issues = ", ".join(f"[{name}]({address})" for name, address in check.links.items())
    facts |= {"users told": issues} if issues else {}
    return [f"- {name}: {text}" for name, text in facts.items() if name != "asked by"]


def _link(found: re.Match[str]) -> str:
    return f"[{found[0]}](#{found[0].lower()})"


if __name__ == "__main__":
    print(page())
