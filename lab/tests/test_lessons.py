"""Every fault teaches something: topic, level, hints that keep the answer, a path that tells it, why, and a page."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
from meshlab.faults.catalogue import find
from meshlab.layout import sites
from meshlab.training import TOPICS, expert, lesson
from meshlab.training.expert import Ran
from meshlab.training.lesson import Lesson, Look
from meshlab.training.rules import KNOWN

EAST, WEST = sites(2)
LESSONS = lesson.lessons(WEST)
every = pytest.mark.parametrize("name", sorted(KNOWN))


def test_every_fault_has_one_lesson() -> None:
    """Of those that a round can have, and no lesson is of another; every topic has all levels."""
    assert Counter(fault for topic in lesson.topics(WEST).values() for fault in topic.faults) == Counter(KNOWN.keys())
    for topic in TOPICS:
        assert {one.level for one in LESSONS.values() if one.topic == topic} == set(lesson.LEVELS)
        assert len(lesson.tools(topic)) >= 4


@every
def test_hints_lead_to_the_next_look_and_keep_the_answer(name: str) -> None:
    """Neither id nor name, nor the field that is to be found; each is a sentence of its own."""
    fault, one = find(name), LESSONS[name]
    text = "\n".join(one.hints)
    assert len(set(one.hints)) == 2
    assert all(len(hint.split()) >= 10 for hint in one.hints)
    secrets = [fault.finding, name, fault.breaks, one.cause[0], *(field for field in one.cause[1:] if "." in field)]
    assert [word for word in secrets if word.lower() in text.lower()] == []
    assert "meshkit check" not in text


@every
def test_a_path_has_commands_of_the_lab_and_a_line_that_tells(name: str) -> None:
    """At least two, none of them `meshkit check`; patterns are regular expressions; every word has its meaning."""
    one = LESSONS[name]
    assert len(one.path) >= 2
    assert any(look.telling for look in one.path)
    for look in one.path:
        assert re.search(r"(kubectl|istioctl) --context (lab-|\$c)", look.run)
        assert "meshkit" not in look.run
        re.compile(look.telling)
    texts = [text for look in one.path for text in (look.run, look.means, look.telling)]
    assert not re.search(r"\b[A-Z]+_(PODS|API|GATEWAYS)|\bSITE\b|\bPEER\b|\bHTTPBIN\b", "\n".join([*texts, one.why]))
    assert [look.run for look in one.path] != [look.run for look in lesson.lessons(EAST)[name].path]


@every
def test_why_it_happens_is_said_with_a_page_of_istio(name: str) -> None:
    """A mechanism in at least two sentences, and not what the fault breaks, again."""
    one = LESSONS[name]
    assert one.why.count(". ") >= 1
    assert one.why != find(name).breaks
    assert re.fullmatch(r"https://istio\.io/latest/docs/([a-z0-9._-]+/)+", one.url)


def test_the_causes_are_those_that_can_be_answered() -> None:
    """Of every cluster of the lab; a field alone never says which object."""
    objects, fields = lesson.answers(2)
    for site in (EAST, WEST):
        for one in lesson.lessons(site).values():
            assert one.cause[0] in objects
            assert set(one.cause[1:]) <= set(fields)
    assert {"Secret/istio-remote-secret-east", "Secret/istio-remote-secret-west"} <= set(objects)


def ran(output: str, telling: str = "") -> Ran:
    """Return a command that printed this."""
    return Ran(Look(run="kubectl", means="it tells", telling=telling), output)


def test_of_a_long_output_the_lines_that_tell_are_kept() -> None:
    """With the first of the others, and how many are left out."""
    lines = ran("\n".join(f"pod-{n} Running" for n in range(100)), "^pod-77 ").lines
    assert lines[0] == ("pod-0 Running", False)
    assert ("pod-77 Running", True) in lines
    assert lines[-1] == (f"… {100 - expert.MOST} more lines", False)
    assert ran("").lines == [("(nothing)", False)]


def test_a_command_is_run_in_a_shell_of_the_lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the lab's kubeconfig and programs; errors are part of what it shows; a secret is not."""
    token = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJzeXN0ZW0ifQ.c2lnbmF0dXJl"
    look = Look(run=f"echo $KUBECONFIG; echo token: {token}; nonsense-program", means="it runs", telling="not found")
    done = expert.run(tmp_path, look)
    assert done.output.splitlines()[0] == str(tmp_path / "kubeconfig")
    assert token not in done.output
    assert done.telling
    monkeypatch.setattr(expert, "PATIENCE", 1)
    late = expert.run(tmp_path, Look(run="echo begun; sleep 5 | cat", means="it hangs", telling="no answer"))
    assert late.output == "begun\nno answer within 1 s"


def test_a_lesson_with_a_field_that_there_is_not_is_refused() -> None:
    """So a slip in the YAML is found where it is made."""
    with pytest.raises(ValueError, match="hint"):
        Lesson(**{**vars(LESSONS["gateway-down"]), "hint": "look"})
