"""The path that an expert takes: its commands, run on the mesh as it is now, and what they show."""

from __future__ import annotations

import re
import subprocess
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from meshkit import redaction
from meshkit.checks import audit, causes
from meshkit.checks.finding import Verdict
from meshkit.kube.mesh import Mesh
from meshlab import meshfile
from meshlab.layout import Say
from meshlab.tools import environment
from meshlab.training.lesson import Look
from meshlab.training.sheet import Round

PATIENCE: Final = 30
MOST: Final = 12
"""Lines that are shown of a command; those that tell are always among them."""
TELLS: Final = "▶"
WIDTH: Final = 100
SHOWN: Final = 5
GOOD: Final = (Verdict.PASS, Verdict.SKIPPED)


def wrapped(words: str) -> str:
    """Return a text as lines for a terminal, set in."""
    indent = "  "
    return textwrap.fill(
        words, WIDTH, initial_indent=indent, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


@dataclass(frozen=True)
class Ran:
    """A command of a path, and its whole output, errors among it, without secrets."""

    look: Look
    output: str

    def tells(self, line: str) -> bool:
        """Return whether this is the line that tells."""
        return bool(self.look.telling and re.search(self.look.telling, line))

    @property
    def telling(self) -> bool:
        """Whether any line tells."""
        return any(map(self.tells, self.output.splitlines()))

    @property
    def lines(self) -> list[tuple[str, bool]]:
        """The lines that are shown, each with whether it tells; others are left out where there are too many."""
        lines = [(line, self.tells(line)) for line in self.output.splitlines()]
        room = MOST - sum(tells for _, tells in lines)
        plain = [place for place, (_, tells) in enumerate(lines) if not tells]
        left = set(plain[max(room, 1) :])
        shown = [line for place, line in enumerate(lines) if place not in left]
        return [*shown, (f"… {len(left)} more lines", False)] if left else shown or [("(nothing)", False)]


def run(home: Path, look: Look) -> Ran:
    """Run a command of a path in a lab, as in a shell after `eval "$(meshkit lab env)"`."""
    done = subprocess.run(
        ["timeout", str(PATIENCE), "sh", "-c", look.run], env=environment(home), check=False, text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, errors="replace",
    )  # fmt: skip
    late = f"\nno answer within {PATIENCE} s" if done.returncode == 124 else ""
    return Ran(look, redaction.text(done.stdout.strip() + late))


@dataclass(frozen=True)
class Debrief:
    """What is said after a round: how it came out, what was broken, an expert's path on it, and why it happens."""

    round: Round
    path: tuple[Ran, ...]
    checks: tuple[str, ...]
    """What `meshkit check` says of the broken mesh: its first causes."""

    def lines(self) -> Iterator[str]:
        """Yield it as lines for a terminal."""
        yield from ("", "the path of an expert, on the mesh as it is now:")
        for ran in self.path:
            yield from ("", f"$ {ran.look.run}")
            yield from (f"{TELLS if tells else ' '} {line}" for line, tells in ran.lines)
            yield wrapped(f"→ {ran.look.means}")
        lesson = self.round.lesson
        yield from ("", "why it happens:", wrapped(lesson.why), f"Istio's page: {lesson.url}", "")
        yield from ("what `meshkit check` says of it:", *self.checks)


def debrief(home: Path, one: Round, say: Say) -> Debrief:
    """Run the path of a round, and `meshkit check`, on the broken mesh.

    Raises:
        UnreachableError: no cluster of the mesh file can be asked.
    """
    ran = []
    for place, look in enumerate(one.lesson.path, 1):
        say(f"the path of an expert, {place} of {len(one.lesson.path)} …")
        ran.append(run(home, look))
    say("`meshkit check` …")
    return Debrief(one, tuple(ran), tuple(checked(one, say)))


def checked(one: Round, say: Say) -> list[str]:
    """Return the findings of `meshkit check` now: its first causes, and whether the fault's own check fails."""
    mesh = Mesh.open(meshfile.mesh_file())
    findings = audit.check(audit.look(mesh, say))
    bad = [pair for pair in causes.in_order(findings, mesh.clusters) if pair[0].verdict not in GOOD]
    roots = [finding for finding, cause in bad if cause is None]
    lines = [f"  {f.verdict.symbol} {f.id} [{f.subject}] {f.observed}" for f in roots[:SHOWN]]
    if more := len(bad) - len(lines):
        lines.append(f"  and {more} more bad answers, which follow from these or stand beside them")
    own = one.drawn[0].finding
    if own not in {finding.id for finding, _ in bad}:
        lines.append(f"  {own} is not among {len(bad)} bad answers now: some faults are noticed late")
    return lines
