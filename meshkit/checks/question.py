"""The builder of findings."""

from __future__ import annotations

from dataclasses import replace

from meshkit.checks.finding import Finding, Verdict

ARROW = "→"


class Question:
    """A check of one subject, waiting for what was observed.

    ask = Question("MK801", "istiod is who the mesh file says", "east", "id east, network net-east")
    yield ask.judge(good, "id Kubernetes, no network", "reinstall with values.global")
    """

    def __init__(self, identifier: str, check: str, subject: str, expected: str) -> None:
        self.known = {"id": identifier, "check": check, "subject": subject, "expected": expected}

    def answer(self, verdict: Verdict, observed: str, remedy: str = "") -> Finding:
        """Return the finding."""
        return Finding(**self.known, observed=observed, verdict=verdict, remedy=remedy)

    def judge(self, good: object, observed: str, remedy: str, *, otherwise: Verdict = Verdict.FAIL) -> Finding:
        """Return a pass, or else what `otherwise` says, with the remedy."""
        return self.answer(Verdict.PASS, observed) if good else self.answer(otherwise, observed, remedy)

    def fail(self, observed: str, remedy: str) -> Finding:
        """Return a failure."""
        return self.answer(Verdict.FAIL, observed, remedy)

    def unknown(self, why: str, remedy: str = "") -> Finding:
        """Return an unknown, and why."""
        return self.answer(Verdict.UNKNOWN, why, remedy)


def planned(identifier: str, check: str, subject: str, expected: str) -> Finding:
    """Return a skipped finding: nothing could be proved, since the plan was not applied."""
    return Question(identifier, check, subject, expected).answer(Verdict.SKIPPED, "planned, not applied")


def awaits(finding: Finding, mode: str, stage: str) -> Finding:
    """Return a failure, in plan mode, as skipped: an earlier stage of the line ("05 install") is to change it."""
    if mode != "plan" or finding.verdict is not Verdict.FAIL:
        return finding
    told = f"{finding.observed}; stage {stage} is to change that"
    return replace(finding, verdict=Verdict.SKIPPED, observed=told, remedy="")


def arrow(client: str, server: str) -> str:
    """Return the subject of a finding about a pair."""
    return f"{client} {ARROW} {server}"
