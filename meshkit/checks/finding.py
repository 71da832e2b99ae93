"""Check and Finding: what was expected, what was observed, the verdict, and the remedy.

A verdict is data. *Unknown* is never *pass*: it ranks above a warning, and a stage without a single finding is
unknown too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum

from meshkit.marks import mark


class Verdict(StrEnum):
    """The five verdicts of a finding, from best to worst in the order of `SEVERITY`."""

    PASS = "pass"  # noqa: S105 - a verdict, no password
    SKIPPED = "skipped"
    WARN = "warn"
    UNKNOWN = "unknown"
    FAIL = "fail"

    @property
    def symbol(self) -> str:
        """A mark that stands beside the word, so that colour never says it alone."""
        return mark(self.value).symbol


SEVERITY = (Verdict.PASS, Verdict.SKIPPED, Verdict.WARN, Verdict.UNKNOWN, Verdict.FAIL)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One answer of one check about one subject.

    `id` is stable (`MK801`), `subject` names the cluster, pair or proxy ("east → west"), `expected` and `observed` are
    short texts that a person can compare, `remedy` is the command or step that mends it (empty when it passed).
    """

    id: str
    check: str
    subject: str
    expected: str
    observed: str
    verdict: Verdict
    remedy: str = ""

    def to_dict(self) -> dict[str, str]:
        """Return the finding as plain strings, for JSON and JUnit."""
        return {key: str(value) for key, value in asdict(self).items()}


def worst_first(findings: Iterable[Finding]) -> list[Finding]:
    """Return findings in the order in which people should read them: by verdict, then id, then subject."""
    return sorted(findings, key=lambda f: (-SEVERITY.index(f.verdict), f.id, f.subject))


def holding(findings: Iterable[Finding]) -> list[str]:
    """Return the ids of the checks that hold an apply: what failed, and what is unknown."""
    return sorted({f.id for f in findings if f.verdict in (Verdict.FAIL, Verdict.UNKNOWN)})


def overall(findings: Sequence[Finding]) -> Verdict:
    """Return the worst verdict; of no findings at all, *unknown*. All skipped is *skipped*."""
    if not findings:
        return Verdict.UNKNOWN
    verdicts = {f.verdict for f in findings}
    if verdicts <= {Verdict.PASS, Verdict.SKIPPED}:
        return Verdict.PASS if Verdict.PASS in verdicts else Verdict.SKIPPED
    return max(verdicts, key=SEVERITY.index)
