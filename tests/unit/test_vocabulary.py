"""Prose is plain English: no word of the old idiom (docs/vocabulary.md), no sentence that needs a second reading.

`PROSE` says which files are read. Of Python files that is their string literals and docstrings; of tests, their
docstrings and the names of classes and functions.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROSE = (
    *("*.md", "docs/*.md", "notebooks/*.ipynb", "parameters/*.yaml"),
    *("meshkit/**/*.py", "lab/meshlab/**/*.py", "tests/**/*.py", "lab/tests/*.py"),
)
PRINTED = {"docs/checks.md", "docs/tables.md"}
"""Written by `make checks`: its words are the code's."""
LINE, SENTENCE, MEDIAN = 120, 40, 18
"""The longest line of a Markdown file in characters, the longest and the median sentence of a file in words."""
BANNED = {
    r"anew": "again, recreated, restarted, reissued",
    r"mend(s|ed|ing)?": "fix, repair",
    r"cur(e|es|ed|ing)": "remedy, fix",
    r"(re|un)?told": "reported, said, hidden",
    r"(un)?heard": "received, missed",
    r"deaf": "unreachable, unreadable",
    r"hand(s|ed|ing)? over": "issue, distribute, give",
    r"st(ands?|ood|anding) by": "trust",
    r"t(ake|akes|aken|aking|ook) (it |them |that )?back": "revert, undo",
    r"the own": "the local, its own",
    r"no more(?! than\b)": "no longer",
    r"hurts?": "affect, break",
}
"""Regular expressions of whole words, and what to say."""


def markdown(text: str) -> Iterator[tuple[int, str]]:
    """Yield number and text of each line of prose: no code block, no code span, no address of a link."""
    fenced = False
    for number, line in enumerate(text.splitlines(), 1):
        fence = line.lstrip().startswith("```")
        fenced ^= fence
        if fence or fenced or line.startswith("    "):
            yield number, ""
            continue
        yield number, re.sub(r"\]\([^)]*\)", "]", re.sub(r"(`+).+?\1", "CODE", line))


def changelog(text: str) -> Iterator[tuple[int, str]]:
    """Yield the lines of what is not released yet: what was released stays as it was printed."""
    released = [i for i, line in enumerate(text.splitlines(), 1) if re.match(r"## (?!Unreleased)", line)]
    yield from (pair for pair in markdown(text) if not released or pair[0] < released[0])


def notebook(text: str) -> Iterator[tuple[int, str]]:
    """Yield the lines of Markdown cells; the number is the cell's."""
    for number, cell in enumerate(json.loads(text)["cells"]):
        if cell["cell_type"] == "markdown":
            yield from ((number, line) for _, line in markdown("".join(cell["source"])))
            yield number, ""


def comments(text: str) -> Iterator[tuple[int, str]]:
    """Yield the comments of a YAML file."""
    for number, line in enumerate(text.splitlines(), 1):
        _, _, comment = f" {line}".partition(" #")
        yield number, re.sub(r"`.+?`", "CODE", comment)


def prose(text: str, first: int) -> Iterator[tuple[int, str]]:
    """Yield the lines of a string from its first line on, without code spans and options."""
    yield from enumerate(re.sub(r"`[^`\n]+`|--[\w-]+", "CODE", text).splitlines(), first)


def strings(text: str) -> Iterator[tuple[int, str]]:
    """Yield the string literals and docstrings of a Python file, parts of f-strings too.

    A literal of one word, such as a column or an option, is a name and may be a contract.
    """
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and not re.fullmatch(r"[\w-]+", node.value):
            yield from prose(node.value, node.lineno)


def docstrings(text: str) -> Iterator[tuple[int, str]]:
    """Yield the docstrings of a file of tests, and the names of its classes and functions as words."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            yield from prose(ast.get_docstring(node, clean=False) or "", node.body[0].lineno)
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            yield node.lineno, re.sub(r"_|(?<=[a-z])(?=[A-Z])", " ", node.name)


READERS: dict[str, Callable[[str], Iterator[tuple[int, str]]]] = {
    "CHANGELOG.md": changelog,
    ".md": markdown,
    ".ipynb": notebook,
    ".yaml": comments,
    ".py": strings,
}


def lines(path: Path) -> list[tuple[int, str]]:
    """Return what people read in a file, line by line."""
    read = docstrings if "tests" in path.parts else READERS.get(path.name) or READERS[path.suffix]
    return list(read(path.read_text()))


def found(path: Path) -> list[str]:
    """Return the places of a file that have a banned word, each with what to say in its place."""
    return [
        f"{path.name}:{number}: {hit[0]!r} (say: {better})"
        for number, line in lines(path)
        for banned, better in BANNED.items()
        for hit in re.finditer(rf"\b{banned}\b", line, re.IGNORECASE)
    ]


def sentences(path: Path) -> list[str]:
    """Return the sentences of paragraphs and of list items; headings and tables have none."""
    texts: list[str] = []
    for blank, group in groupby(lines(path), key=lambda pair: not pair[1].strip()):
        for _, line in () if blank else group:
            if re.match(r"[-#|]|\d+\. ", line.lstrip()) or not texts:
                texts.append(line)
            else:
                texts[-1] += f" {line}"
        texts.append("")
    prose = (text for text in texts if not re.match(r"[#|]", text.lstrip()))
    split = (re.split(r"(?<=[.!?])[*_\"')]*\s+(?=[\"'(*_\[]*[A-Z0-9])", text) for text in prose)
    return [sentence for text in split for sentence in text if re.search(r"\w", sentence)]


def length(sentence: str) -> int:
    """Return how many words a sentence has."""
    return len(re.findall(r"\w[\w'%-]*", sentence))


def files(*globs: str) -> list[Path]:
    """Return the files of some globs that people write."""
    paths = sorted(path for glob in globs for path in ROOT.glob(glob))
    return [path for path in paths if path.relative_to(ROOT).as_posix() not in PRINTED]


CELLS = """{"cells": [{"cell_type": "code", "source": ["told"]},
{"cell_type": "markdown", "source": ["fine\\n", "made anew"]}]}"""

TESTS = """class TestMending:
    def test_it_is_told(self):
        ""\"As `told`,
        and made anew.""\"
        assert told == "told it is"
"""

of_prose = pytest.mark.parametrize("path", files(*PROSE), ids=lambda path: path.name)


@of_prose
def test_a_text_has_no_word_of_the_old_idiom(path: Path) -> None:
    """docs/vocabulary.md has the words that we use."""
    assert lines(path) or not path.read_text()
    assert found(path) == []


@pytest.mark.parametrize("path", files("*.md", "docs/*.md", "notebooks/*.ipynb"), ids=lambda path: path.name)
def test_sentences_are_short(path: Path) -> None:
    """None needs a second reading, and most are shorter."""
    known = sentences(path)
    assert [sentence for sentence in known if length(sentence) > SENTENCE] == []
    assert sorted(map(length, known))[len(known) // 2] < MEDIAN


@pytest.mark.parametrize("path", files("*.md", "docs/*.md"), ids=lambda path: path.name)
def test_lines_fit_a_screen(path: Path) -> None:
    """Those of tables excepted: Markdown cannot break them."""
    long = [line for line in path.read_text().splitlines() if len(line) > LINE and not line.startswith("|")]
    assert long == []


@pytest.mark.parametrize(
    ("name", "text", "places"),
    [
        ("a.md", "Istiod is told.\n`told`\n\n    told\n", [1]),
        ("CHANGELOG.md", "## Unreleased\nIt hurts.\n## 1.0\nIt hurts.\n", [2]),
        ("a.ipynb", CELLS, [1]),
        ("a.yaml", "cure: x  # the own cluster, no more\nfine: 1  # no more than 3\n", [1, 1]),
        ("tests/a.py", TESTS, [1, 2, 4]),
        ("a.py", '"""It stands by it."""\n# told\ntold = f"taken back: {1}, mended, `told`", "told"\n', [1, 3, 3]),
    ],
)  # fmt: skip
def test_the_old_idiom_is_found_where_people_read(tmp_path: Path, name: str, text: str, places: list[int]) -> None:
    """In prose, cells, comments and strings; not in code, nor in what was released."""
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    assert sorted(int(place.split(":")[1]) for place in found(path)) == places


def test_sentences_are_those_of_paragraphs_and_items(tmp_path: Path) -> None:
    """Over lines; a table, a heading and a code block are none."""
    path = tmp_path / "a.md"
    path.write_text("# Of it\n\nOne that\ngoes on. Two: `x y`\n- Three a\n- Four b\n\n| a. B |\n\n    code\n")
    assert [length(sentence) for sentence in sentences(path)] == [4, 2, 2, 2]
