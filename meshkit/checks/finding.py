"""Check and Finding: what was expected, what was observed, the verdict, and the remedy.

A verdict is data. *Unknown* is never *pass*: it ranks above a warning, and a stage without a single finding is
unknown too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from html import escape
from typing import Any, SupportsIndex, overload

from meshkit.checks.catalogue import current
from meshkit.display import LEFT, VERDICT, Explorable, Shown, cell_html, folded, headline, styled
from meshkit.errors import CheckFailed, UnreachableError
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
        """A mark beside the word, so that colour is never the only sign."""
        return mark(self.value).symbol


SEVERITY = (Verdict.PASS, Verdict.SKIPPED, Verdict.WARN, Verdict.UNKNOWN, Verdict.FAIL)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The answer of one check for one subject.

    `id` is stable (`MK801`), `subject` names the cluster, pair or proxy ("east → west"), `expected` and `observed` are
    short texts that a person can compare, `remedy` is the command or step that fixes it (empty when it passed).
    """

    id: str
    check: str
    subject: str
    expected: str
    observed: str
    verdict: Verdict
    remedy: str = ""

    def __str__(self) -> str:
        """Return it as one line."""
        told = f"expected {self.expected}, observed {self.observed}"
        return f"{self.verdict.symbol} {self.id} {self.check} [{self.subject}]: {told}"

    def to_dict(self) -> dict[str, str]:
        """Return the finding as plain strings, for JSON and JUnit."""
        return {key: str(value) for key, value in asdict(self).items()}


class Findings(Explorable, list[Finding]):
    """What checks found: shown as a line of counts, what is not in order whole, and all that passed folded away.

    `findings["MK803"]` are those of one check, `findings.failed` those that failed.
    """

    gates: bool = True
    """Whether the line of counts names what would hold an apply; after an apply it does not."""

    @overload
    def __getitem__(self, key: SupportsIndex, /) -> Finding: ...
    @overload
    def __getitem__(self, key: slice | str, /) -> Findings: ...
    def __getitem__(self, key: SupportsIndex | slice | str, /) -> Finding | Findings:
        """Return a finding by its place, or all of a check by its id or a former id."""
        if isinstance(key, str):
            return Findings(f for f in self if current(f.id) == current(key))
        found = super().__getitem__(key)
        return Findings(found) if isinstance(found, list) else found

    def of(self, *verdicts: Verdict) -> Findings:
        """Return those of some verdicts, the worst first."""
        return Findings(worst_first(f for f in self if f.verdict in verdicts))

    @property
    def failed(self) -> Findings:
        """Those that failed."""
        return self.of(Verdict.FAIL)

    @property
    def unknown(self) -> Findings:
        """Those that could not be decided: never a pass."""
        return self.of(Verdict.UNKNOWN)

    @property
    def warned(self) -> Findings:
        """Those that warn."""
        return self.of(Verdict.WARN)

    @property
    def passed(self) -> Findings:
        """Those that passed."""
        return self.of(Verdict.PASS)

    @property
    def verdict(self) -> Verdict:
        """The worst of them; of none, unknown."""
        return overall(self)

    @property
    def counts(self) -> dict[str, int]:
        """How many there are of each verdict, the worst first."""
        return {v.value: n for v in reversed(SEVERITY) if (n := sum(f.verdict is v for f in self))}

    @property
    def summary(self) -> str:
        """The counts as a text."""
        return ", ".join(f"{n} {word}" for word, n in self.counts.items()) or "nothing was checked"

    def bundle(self) -> dict[str, Any]:
        """Return the counts, what would hold an apply, and the findings."""
        held = f"; {', '.join(holding(self))} would hold an apply" if self.gates and holding(self) else ""
        line = f"{self.verdict.symbol} {self.summary}{held}"
        bad = self.of(Verdict.FAIL, Verdict.UNKNOWN, Verdict.WARN)
        rest = self.of(Verdict.PASS, Verdict.SKIPPED)
        html = (
            headline(line, self.verdict.symbol)
            + findings_html(f.to_dict() for f in bad)
            + folded("what passed, and what was skipped", findings_html(f.to_dict() for f in rest))
        )
        return {"text/plain": "\n".join([line, *map(block, bad)]), "text/html": styled(html)}


class Conclusion(Shown):
    """The verdict of a stage, the worst findings first, all others folded: what the runner judges the stage by."""

    def __init__(self, stage: str, findings: Iterable[Finding]) -> None:
        self.stage, self.findings = stage, Findings(worst_first(findings))

    @property
    def exit_code(self) -> int:
        """The exit code of the stage."""
        return {Verdict.FAIL: CheckFailed.exit_code, Verdict.UNKNOWN: UnreachableError.exit_code}.get(
            self.findings.verdict, 0
        )

    def bundle(self) -> dict[str, Any]:
        """Return the verdict for people, and as data."""
        verdict = self.findings.verdict
        line = f"{verdict.symbol} {self.stage}: {verdict.value.upper()} — {self.findings.summary}"
        bad = self.findings.of(Verdict.FAIL, Verdict.UNKNOWN, Verdict.WARN)
        rest = self.findings.of(Verdict.PASS, Verdict.SKIPPED)
        html = (
            headline(line, verdict.symbol, large=True)
            + findings_html(f.to_dict() for f in bad)
            + folded("what passed, and what was skipped", findings_html(f.to_dict() for f in rest))
        )
        payload = {
            "stage": self.stage,
            "verdict": verdict.value,
            "counts": self.findings.counts,
            "findings": [f.to_dict() for f in self.findings],
            "exit_code": self.exit_code,
        }
        return {"text/plain": "\n".join([line, *map(block, bad)]), "text/html": styled(html), VERDICT: payload}

    def raise_if_bad(self) -> None:
        """Raise where the stage does not hold.

        Raises:
            CheckFailed: a finding failed.
            UnreachableError: none failed, but something is unknown, or nothing was checked at all.
        """
        verdict = self.findings.verdict
        if verdict in (Verdict.FAIL, Verdict.UNKNOWN):
            error = CheckFailed if verdict is Verdict.FAIL else UnreachableError
            worst = "".join(f"\n  {finding}" for finding in self.findings[:3])
            remedy = self.findings[0].remedy if self.findings else ""
            raise error(f"{self.stage}: {self.findings.summary}{worst}", remedy=remedy)


def block(finding: Finding) -> str:
    """Return a finding as an indented line, with its remedy below it."""
    return f"  {finding}" + (f"\n      → {finding.remedy}" if finding.remedy else "")


def findings_html(findings: Iterable[Mapping[str, str]]) -> str:
    """Return findings as an HTML table with their remedies; of none, an empty text."""
    rows = [
        "<tr>"
        + "".join(f"<td{LEFT}>{cell_html(f[key])}</td>" for key in ("verdict", "id", "check", "subject", "expected"))
        # The remedy stands under what was observed: a column of its own would leave every column too narrow to read.
        + f"<td{LEFT}>{cell_html(f['observed'])}"
        + (f"<br><b>→</b> {escape(f['remedy'])}" if f["remedy"] else "")
        + "</td></tr>"
        for f in findings
    ]
    heads = "".join(f"<th{LEFT}>{head}</th>" for head in ("verdict", "id", "check", "subject", "expected", "observed"))
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table>" if rows else ""


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
