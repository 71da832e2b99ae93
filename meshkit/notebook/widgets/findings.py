"""The findings by what they stop: each with remedy and *why*, what it follows from, and what follows from it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from meshkit.checks import catalogue, causes
from meshkit.checks.catalogue import Check
from meshkit.checks.finding import SEVERITY, Finding, Verdict
from meshkit.checks.question import ARROW
from meshkit.notebook.widgets.page import Page

NOT_IN_ORDER: Final = (Verdict.FAIL, Verdict.UNKNOWN, Verdict.WARN)
NOTHING: Final = "stops nothing"


@dataclass(frozen=True)
class Explained:
    """A finding, its entry in the catalogue, the finding that may be its cause, and how many may follow from it."""

    finding: Finding
    check: Check
    cause: Finding | None
    effects: tuple[Finding, ...]

    @property
    def consequences(self) -> list[str]:
        """What may follow from it, in words; replicas of one istiod say the same, once."""
        return list(dict.fromkeys(f"{one.id} {one.check} ({one.subject})" for one in self.effects))

    @property
    def stops(self) -> str:
        """What does not go on because of it, such as "stops 07 discovery"."""
        stage = self.check.stops
        held = stage and self.finding.verdict in (Verdict.FAIL, Verdict.UNKNOWN)
        return f"stops {stage} {catalogue.STAGES[stage]}" if held else NOTHING


def explained(findings: Iterable[Finding], clusters: Collection[str]) -> list[Explained]:
    """Return findings in the order in which to fix them, each with what explains it."""
    ordered = causes.in_order(findings, clusters)
    return [
        Explained(one, catalogue.find(one.id), cause, tuple(effect for effect, due in ordered if due is one))
        for one, cause in ordered
    ]


def by_stop(
    known: Iterable[Explained], *, verdicts: Collection[str], cluster: str = "", words: str = ""
) -> dict[str, list[Explained]]:
    """Return findings by what they stop, the first stage first: of these verdicts, a cluster, with all of these words.

    A pair is of both of its clusters. Words are looked for in everything but the *why*.
    """
    found: dict[str, list[Explained]] = {}
    for one in known:
        text = " ".join(one.finding.to_dict().values()).lower()
        of_cluster = not cluster or cluster in one.finding.subject.replace(ARROW, " ").replace(":", " ").split()
        if one.finding.verdict in verdicts and of_cluster and all(word in text for word in words.lower().split()):
            found.setdefault(one.stops, []).append(one)
    return {stop: found[stop] for stop in sorted(found, key=lambda stop: (stop == NOTHING, stop))}


def clusters_of(findings: Iterable[Finding]) -> list[str]:
    """Return the clusters that findings about pairs name."""
    named = (name.strip() for one in findings if ARROW in one.subject for name in one.subject.split(ARROW))
    return list(dict.fromkeys(named))


class FindingsPage(Page):
    """The findings: which verdicts, of which cluster, with which words. `findings` itself is the plain display."""

    template = "findings.html.j2"
    label = "Findings, by what they stop"

    def __init__(self, findings: Sequence[Finding], clusters: Sequence[str] = ()) -> None:
        super().__init__(cluster="", words="")
        self.clusters = list(clusters) or clusters_of(findings)
        self.known = explained(findings, self.clusters)
        self.verdicts = {verdict.value for verdict in NOT_IN_ORDER}

    def choose(self, name: str, value: str) -> None:
        """Show or hide a verdict; or take a cluster, or words."""
        if name == "verdict":
            self.verdicts ^= {Verdict(value).value}
        else:
            super().choose(name, value)

    def go_on_from(self, former: Page) -> None:
        """Take the verdicts, too."""
        super().go_on_from(former)
        self.verdicts = former.verdicts if isinstance(former, FindingsPage) else self.verdicts

    def groups(self) -> dict[str, list[Explained]]:
        """Return what is shown, by what it stops."""
        return by_stop(self.known, verdicts=self.verdicts, **self.chosen)

    def status(self) -> str:
        """Return how many are shown."""
        return f"{sum(map(len, self.groups().values()))} of {len(self.known)} findings shown"

    def content(self) -> Mapping[str, Any]:
        """Return the groups, and how many findings there are of each verdict."""
        counts = {v.value: sum(one.finding.verdict is v for one in self.known) for v in reversed(SEVERITY)}
        return {"groups": self.groups(), "counts": counts, "verdicts": self.verdicts, "clusters": self.clusters}
