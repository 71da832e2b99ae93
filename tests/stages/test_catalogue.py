"""The catalogue of checks against the code that makes them: each id once, and none more."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from meshkit.errors import InputError
from meshkit.stages import catalogue, causes

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
CHECKS = catalogue.checks()
ID = re.compile(r"MK\d{3,4}")


def trees() -> Iterator[ast.Module]:
    """Every module of meshkit, parsed."""
    for path in sorted((ROOT / "meshkit").rglob("*.py")):
        yield ast.parse(path.read_text(encoding="utf-8"))


def texts() -> list[str]:
    """Every text that stands in the code, docstrings too."""
    return [
        node.value
        for tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]


def plans() -> set[str]:
    """The ids of plans' findings, which `Plan.findings` makes of their stages' numbers."""
    found = set()
    for path in (ROOT / "meshkit" / "stages").glob("*.py"):
        text = path.read_text(encoding="utf-8")
        if "Plan(mesh, STAGE" in text and (stage := re.search(r'^STAGE\b.*?"(\d\d) ', text, re.MULTILINE)):
            found.add(f"MK{int(stage[1])}90")
    return found


def test_every_id_that_the_code_can_make_is_in_the_catalogue_and_none_more() -> None:
    """A new finding is registered, one that is gone is taken out."""
    known = [text for text in texts() if ID.fullmatch(text)]
    assert {*known} | plans() == {*CHECKS}, "register it in checks.csv, or take it out there"


def test_every_id_that_a_text_names_is_in_the_catalogue() -> None:
    """A remedy that says `see MK803` sends nobody to nowhere."""
    named = {identifier for text in texts() for identifier in ID.findall(text)}
    assert named <= {*CHECKS}


def test_each_id_has_one_line_and_they_stand_in_order() -> None:
    """Whoever adds one sees which numbers are taken."""
    lines = (ROOT / "meshkit" / "stages" / "checks.csv").read_text(encoding="utf-8").splitlines()[1:]
    numbers = [int(line.split(",")[0].removeprefix("MK")) for line in lines]
    assert numbers == sorted(set(numbers))


def test_titles_are_those_that_findings_have() -> None:
    """People find in the page what the table said."""
    said = [
        (node.args[0].value, node.args[1].value)
        for tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and len(node.args) > 1
        and all(isinstance(a, ast.Constant) for a in node.args[:2])
        and ID.fullmatch(str(node.args[0].value))  # type: ignore[attr-defined]
    ]
    assert len(said) > 80
    others = {(i, title) for i, title in said if CHECKS[i].title != title}
    # A whole stage that has nothing to do says so by an id of its own.
    assert others == {
        ("MK602", "east-west gateways are needed"),
        ("MK1203", "the run is taken back"),
    }


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_each_is_whole_and_explained(check: catalogue.Check) -> None:
    """Nothing is left out, and what is a choice is one of the known."""
    assert check.title
    assert check.bad in ("fail", "warn", "unknown")
    assert check.asked in ("check", "stage")
    assert check.blocks in ("", *catalogue.STAGES)
    assert not (check.bad == "warn" and check.blocks), "a warning stops nothing"
    assert not check.blocks or check.blocks >= check.stage
    assert len(check.explanation) > 20
    assert all(re.fullmatch(r"[\w.-]+/[\w.-]+#\d+", issue) for issue in check.issues.split())


def test_docstrings_name_what_they_explain() -> None:
    """So that the explanation is of this check and no other."""
    titles: dict[tuple[str, str], set[str]] = {}
    for check in CHECKS.values():
        titles.setdefault((check.function, check.title), set()).add(check.id)
    # A check that is asked again under another id, after a change, has one explanation.
    unnamed = [ids for (function, _), ids in titles.items() if not any(i in catalogue.docstring(function) for i in ids)]
    assert unnamed == [{f"MK{stage}90" for stage in (2, 4, 5, 6, 7, 10, 11, 12)}]


def test_the_documentation_is_printed_from_it() -> None:
    """Nobody edits it by hand."""
    page = (ROOT / "docs" / "checks.md").read_text(encoding="utf-8")
    assert page == catalogue.page() + "\n", "make checks"


def test_what_follows_from_what_is_known_and_asked_and_has_no_circle() -> None:
    """Causes come before what follows from them, so nothing may be its own cause."""
    for check in CHECKS.values():
        effects = causes.consequences(check.id)
        assert check.id not in effects
        assert [effect for effect in effects if CHECKS[effect].asked != "check"] == []
        assert not effects or check.asked == "check"


def test_an_unknown_id_is_told_with_the_nearest() -> None:
    """A slip of the pen is no traceback."""
    with pytest.raises(InputError, match="such as MK8"):
        catalogue.find("MK8o2")
    assert catalogue.find(" mk802").id == "MK802"


def test_an_explanation_has_the_page_and_what_follows() -> None:
    """All that is known about a check, for a person."""
    told = catalogue.explain("MK802")
    assert told.startswith("MK802: remote secret is there\n\nthe reader holds a remote secret of the target")
    assert "https://istio.io/latest/docs/ops/diagnostic-tools/multicluster/" in told
    assert "MK803" in told
