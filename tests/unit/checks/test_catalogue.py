"""The catalogue of checks against the code that makes them: each id once, and none more."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from meshkit.checks import catalogue, causes
from meshkit.errors import InputError

ROOT = Path(__file__).parents[3]
CHECKS = catalogue.checks()
ID = re.compile(r"MK\d{3,4}")
BANNED = re.compile(
    r"\b(?:anew|mend(?:s|ed|ing)?|cur(?:e|es|ed|ing)|told|hurts?|deaf|unheard|hand(?:s|ed|ing)? over"
    r"|st(?:ands?|ood) by|taken? back|the own|no more|ways?|somebody)\b",
    re.IGNORECASE,
)
# Of a wrong catalogue, for tests: one check that is in order.
ENTRY = "MK101:\n  title: it is\n  why: Is it?\n  worst: fail\n  asked: check\n  remedy: owner\n"


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
    stages = ROOT / "meshkit" / "stages"
    for room in stages.iterdir():
        files = [room] if room.suffix == ".py" else sorted(room.glob("*.py"))
        text = "\n".join(path.read_text(encoding="utf-8") for path in files)
        if "Plan(mesh, STAGE" in text and (stage := re.search(r'^STAGE\b.*?"(\d\d) ', text, re.MULTILINE)):
            found.add(f"MK{int(stage[1])}90")
    return found


def test_every_id_that_the_code_can_make_is_in_the_catalogue_and_none_more() -> None:
    """A new finding is registered, one that is gone is taken out."""
    known = [text for text in texts() if ID.fullmatch(text)]
    assert {*known} | plans() == {*CHECKS}, "register it in catalogue.yaml, or take it out there"


def test_every_id_that_a_text_names_is_in_the_catalogue() -> None:
    """A remedy that says `see MK803` sends nobody to nowhere."""
    named = {identifier for text in texts() for identifier in ID.findall(text)}
    assert named <= {*CHECKS}


def test_each_entry_is_one_of_a_known_stage() -> None:
    """The number says where it is asked."""
    assert {check.stage for check in CHECKS.values()} == {*catalogue.STAGES}


def test_titles_are_those_that_findings_have() -> None:
    """People find in the page what the table said."""
    said = [
        (node.args[0].value, node.args[1].value)  # type: ignore[attr-defined]
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
        ("MK1203", "the run is undone"),
    }


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_each_is_explained_and_stops_what_it_can(check: catalogue.Check) -> None:
    """What is asked, and what a bad answer costs, in one to four sentences; a warning stops nothing."""
    sentences = re.findall(r"[.?!](?= [A-Z`]| istio|$)", check.why)
    assert 1 <= len(sentences) <= 4
    assert check.why.endswith((".", "?"))
    assert check.title[0] not in "`.,"
    assert not check.title.endswith(".")
    assert not (check.worst == "warn" and check.stops)
    assert not check.stops or check.stops >= check.stage


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_what_a_stage_fixes_is_followed_and_what_follows_has_a_cause(check: catalogue.Check) -> None:
    """A remedy that no test follows says why: a stage's plan and a drill are commands, so they are followed."""
    assert not check.fixed_by or check.remedy in {"stage", "drill"}
    if check.remedy == "cause" and check.asked == "check":
        assert any(check.id in other.leads_to for other in CHECKS.values())


def test_no_two_questions_share_an_explanation() -> None:
    """What is asked of two things is said of each; only the findings of plans are one question in each stage."""
    known: dict[str, list[str]] = {}
    for check in CHECKS.values():
        known.setdefault(check.why, []).append(check.id)
    shared = [ids for ids in known.values() if len(ids) > 1]
    assert [ids for ids in shared if not {*ids} <= plans()] == []


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_its_prose_is_plain_english(check: catalogue.Check) -> None:
    """None of the words that this house once used in place of the usual ones."""
    assert BANNED.findall(f"{check.title} {check.why}") == []


def test_the_words_that_are_banned_are_found() -> None:
    """As they stand, and as they are inflected; not as parts of others."""
    assert len(BANNED.findall("It is told: mended ways, made anew. Somebody of the own cluster is heard no more.")) == 7
    assert BANNED.findall("always secure, amended, recommended, renewed") == []


def test_every_id_that_its_prose_names_is_in_it() -> None:
    """No link of docs/checks.md leads to nowhere."""
    assert {identifier for check in CHECKS.values() for identifier in ID.findall(check.why)} <= {*CHECKS}


def test_the_documentation_is_printed_from_it() -> None:
    """Nobody edits it by hand."""
    page = (ROOT / "docs" / "checks.md").read_text(encoding="utf-8")
    assert page == catalogue.page() + "\n", "make checks"


def test_what_follows_from_what_is_asked_and_no_check_follows_from_itself() -> None:
    """A cause that nothing asks would never be found."""
    for check in CHECKS.values():
        effects = causes.consequences(check.id)
        assert check.id not in effects
        assert [effect for effect in effects if CHECKS[effect].asked != "check"] == []
        assert not effects or check.asked == "check"


def test_an_unknown_id_is_reported_with_the_nearest() -> None:
    """A slip of the pen is no traceback."""
    with pytest.raises(InputError, match="such as MK8"):
        catalogue.find("MK8o2")
    assert catalogue.find(" mk802").id == "MK802"


def test_an_explanation_has_the_page_and_what_follows() -> None:
    """All that is known about a check, for a person."""
    text = catalogue.explain("MK802")
    assert text.startswith("MK802: remote secret is there\n\nDoes the reader cluster hold a remote secret")
    assert "https://istio.io/latest/docs/ops/diagnostic-tools/multicluster/" in text
    assert "may lead to:     MK803, MK809" in text
    assert "may follow from: MK102" in text
    assert max(map(len, text.splitlines())) <= 120


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("- MK101", "the catalogue: input should be a valid dictionary"),
        ("MK101: [", "not YAML"),
        (ENTRY + ENTRY, "MK101 occurs twice"),
        ("MK101: it is", "MK101: .*got 'it is'"),
        (ENTRY.replace("  why: Is it?\n", ""), "MK101.why: missing"),
        (ENTRY.replace("why: Is it?", "why: ''"), "MK101.why: .*got ''"),
        (ENTRY.replace("why: Is it?", "why: 7"), "MK101.why: .*valid string, got 7"),
        (ENTRY + "  lead_to: [MK101]\n", "MK101.lead_to: unknown field, did you mean leads_to?"),
        (ENTRY + "  blocks: '02'\n", "MK101.blocks: unknown field"),
        (ENTRY + "  stops: 2\n", "MK101.stops: .*got 2"),
        (ENTRY.replace("fail", "bad"), "MK101.worst: input should be 'fail', 'warn' or 'unknown', got 'bad'"),
        (ENTRY.replace("MK101", "mk101"), "mk101.id: .*got 'mk101'"),
        (ENTRY + "  issues: [istio#1]\n", r"MK101.issues.0: .*got 'istio#1'"),
        (ENTRY.replace("101", "102") + ENTRY, "MK101 stands after MK102"),
        (ENTRY + "  leads_to: [MK999]\n", "MK101.leads_to: there is no MK999"),
        (ENTRY + "  leads_to: [MK101]\n", "leads_to runs in a circle: MK101 → MK101"),
        (
            ENTRY + "  leads_to: [MK102]\n" + ENTRY.replace("101", "102") + "  leads_to: [MK101]\n",
            "leads_to runs in a circle: (MK101 → MK102 → MK101|MK102 → MK101 → MK102)",
        ),
        (ENTRY + "  aliases: [MK101]\n", "MK101.aliases: MK101 is the name of another check"),
    ],
)
def test_a_wrong_file_is_an_error_that_says_where(text: str, problem: str) -> None:
    """Not a traceback, and not a check that is half read."""
    with pytest.raises(InputError, match=problem) as caught:
        catalogue.load(text)
    assert caught.value.where == "catalogue.yaml"


def test_leads_to_takes_a_former_id() -> None:
    """The check that it is now is what follows; a circle by way of it is one, too."""
    other = ENTRY.replace("101", "102")
    now = catalogue.load(ENTRY + "  leads_to: [MK199]\n" + other + "  aliases: [MK199]\n")
    assert now["MK101"].leads_to == ("MK102",)
    with pytest.raises(InputError, match="circle"):
        catalogue.load(ENTRY + "  leads_to: [MK199]\n  aliases: [MK199]\n")


@pytest.mark.parametrize("former", [alias for check in CHECKS.values() for alias in check.aliases])
def test_a_former_id_is_found_and_listed_and_used_no_longer(former: str) -> None:
    """`--explain` and docs/checks.md have it; every other text names the check that it is now."""
    check = catalogue.find(former.lower())
    assert former in check.aliases
    assert catalogue.current(former.lower()) == check.id
    page = (ROOT / "docs" / "checks.md").read_text(encoding="utf-8")
    assert f"[{former}](#{check.id.lower()})" in page
    suffixes = {".py", ".md", ".csv", ".yaml"}
    tops = [path for top in ("lab", "docs", "notebooks", "parameters") for path in (ROOT / top).rglob("*")]
    named = [path for path in [*tops, ROOT / "README.md"] if path.suffix in suffixes and path.name != "checks.md"]
    assert [path for path in named if former in path.read_text(encoding="utf-8")] == []


def test_a_question_of_several_stages_names_them() -> None:
    """By the numbers of its ids."""
    assert "asked by:        meshkit check, and stage 05 install, 06 gateways, 08 verify" in catalogue.explain("MK601")


def test_a_former_id_finds_the_check_that_it_is_now(monkeypatch: pytest.MonkeyPatch) -> None:
    """An old report's id can still be explained, and docs/checks.md leads to it."""
    now = catalogue.load(ENTRY + "  aliases: [MK199]\n")
    monkeypatch.setattr(catalogue, "checks", lambda: now)
    assert catalogue.find("mk199").id == "MK101"
    assert "formerly:      MK199" in catalogue.explain("MK199")
