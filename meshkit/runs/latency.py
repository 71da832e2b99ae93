"""What the changes of a run did to the latency of the users' requests, in numbers and in words.

A second has its own p50 and p99 (`meshkit.probing.request_log`); of a longer time, this takes the median of each.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import pandas as pd

from meshkit.changes.journal import DONE
from meshkit.notebook.terminal import number as short
from meshkit.probing.request_log import NOT_OBSERVED, in_clusters
from meshkit.probing.retries import Retried
from meshkit.tables import Table, integer, moment, number, text

BEFORE: Final = "before"
SAME: Final = 1.25
"""Up to this factor, either way, a latency counts as unchanged: seconds differ by as much on their own."""
PHASES: Final = Table(
    "requests-by-stage",
    "Requests by stage: from its first change to the next stage's",
    {
        "stage": text("whose changes were made; `before`: before the first"),
        "begin": moment("its first second", resolution="ns"),
        "seconds": integer("observed", "s"),
        "sent": integer("requests"),
        "failed": integer("requests"),
        "p50_ms": number("median of the seconds' p50", "ms"),
        "p99_ms": number("median of the seconds' p99", "ms"),
        "elsewhere": number("share of the answers that came from another cluster than the client's", "%"),
        "retried": integer(
            "how often sidecars tried again, by their counters, which are read every 5 s; empty where"
            " that is not known",
            missing=True,
        ),
    },
    key=("stage",),
    compare=("failed",),
)


@dataclass(frozen=True)
class Latency:
    """Latency in some time: p50 and p99 in ms, and `elsewhere`, the share of answers from other clusters in %."""

    p50: float
    p99: float
    elsewhere: float


@dataclass(frozen=True)
class BeforeAfter:
    """Latency before the first change that lasts and after the last one; `stage` is where most of the difference began.

    Temporary changes, such as a failover that stage 10 tries, are not part of it.
    """

    before: Latency
    after: Latency
    stage: str

    @property
    def sentences(self) -> list[str]:
        """The difference in words, and where it comes from as far as the answers tell."""
        parts = [f"p50 {moved(self.before.p50, self.after.p50)}", f"p99 {moved(self.before.p99, self.after.p99)}"]
        words = [f"Latency of the users' requests: {'; '.join(parts)}."]
        if self.stage:
            words.append(f"Most of that came with {self.stage}.")
        if self.after.elsewhere - self.before.elsewhere >= 1:
            former = f"{self.before.elsewhere:.0f} %" if self.before.elsewhere else "none"
            words.append(
                f"{self.after.elsewhere:.0f} % of the answers come from another cluster now, {former} did before."
            )
        return words


def moved(before: float, after: float) -> str:
    """Return in words how a latency in ms moved: `tripled, from 5.2 to 15 ms`."""
    if not (before > 0 and after > 0):
        return "is not known for both times"
    factor, span = after / before, f"from {short(before)} to {short(after)} ms"
    if 1 / SAME < factor < SAME:
        return f"stayed about the same, {span}"
    if factor < 1:
        return f"fell by {100 * (1 - factor):.0f} %, {span}"
    names = {2: "doubled", 3: "tripled", 4: "quadrupled"}
    grown = f"grew {factor:.0f}-fold" if factor >= 4.5 else f"grew by {100 * (factor - 1):.0f} %"
    return f"{names.get(round(factor), grown) if factor >= 1.75 else grown}, {span}"


def phases(requests: pd.DataFrame, changes: pd.DataFrame, retries: Sequence[Retried] | None = None) -> pd.DataFrame:
    """Return the requests by stage, oldest first: the table `PHASES`."""
    firsts = changes.drop_duplicates("stage")
    begins = [(BEFORE, pd.Timestamp.min.tz_localize("UTC")), *zip(firsts["stage"], firsts["time"], strict=True)]
    ends = [begin for _, begin in begins[1:]] + [pd.Timestamp.max.tz_localize("UTC")]
    rows = [
        {
            "stage": stage,
            **_sums(requests[(requests["time"] >= begin) & (requests["time"] < end)]),
            "retried": None if retries is None else sum(one.times for one in retries if begin <= one.time < end),
        }
        for (stage, begin), end in zip(begins, ends, strict=True)
    ]
    return PHASES.frame((row for row in rows if row["seconds"]), in_order=True)


def before_after(requests: pd.DataFrame, changes: pd.DataFrame) -> BeforeAfter | None:
    """Return latency before and after the changes that last, or None where one of the two was not observed."""
    lasting = changes[changes["status"] == DONE]
    if requests.empty or lasting.empty:
        return None
    end = (lasting["time"] + pd.to_timedelta(lasting["seconds"].fillna(0), unit="s")).max()
    temporary = changes.loc[(changes["status"] != DONE) & (changes["time"] >= end), "time"]
    until = temporary.min() if len(temporary) else pd.Timestamp.max.tz_localize("UTC")
    before = _latency(requests[requests["time"] < lasting["time"].min()])
    after = _latency(requests[(requests["time"] >= end) & (requests["time"] < until)])
    if before is None or after is None:
        return None
    steps = phases(requests, changes)
    return BeforeAfter(before, after, _turn(steps[steps["stage"].isin([BEFORE, *lasting["stage"]])], before, after))


def _turn(steps: pd.DataFrame, before: Latency, after: Latency) -> str:
    """Return the stage with the largest step of the quantile that moved more, or nothing where neither moved."""
    factors = {"p50_ms": after.p50 / before.p50, "p99_ms": after.p99 / before.p99}
    column = max(factors, key=lambda name: abs(math.log(factors[name])))
    if abs(math.log(factors[column])) < math.log(SAME):
        return ""
    ratios = steps[column] / steps[column].shift()
    return str(steps["stage"].iloc[int((ratios if factors[column] > 1 else 1 / ratios).argmax())])


def _latency(requests: pd.DataFrame) -> Latency | None:
    sums = _sums(requests)
    known = sums["p50_ms"] > 0 and sums["p99_ms"] > 0
    return Latency(sums["p50_ms"], sums["p99_ms"], sums["elsewhere"]) if known else None


def _sums(requests: pd.DataFrame) -> dict[str, float]:
    seen = requests[requests["answered_in"] != NOT_OBSERVED]
    answers = list(_answers(seen))
    total = sum(count for _, count in answers)
    return {
        "begin": seen["time"].min(),
        "seconds": int(seen["time"].nunique()),
        "sent": int(seen["sent"].sum()),
        "failed": int(seen["failed"].sum()),
        "p50_ms": float(seen["p50_ms"].median()),
        "p99_ms": float(seen["p99_ms"].median()),
        "elsewhere": 100 * sum(count for away, count in answers if away) / total if total else math.nan,
    }


def _answers(requests: pd.DataFrame) -> Iterator[tuple[bool, int]]:
    """Yield for each second and cluster that answered whether it is another than the client's, and how often it did."""
    for client, answered_in in zip(requests["cluster"], requests["answered_in"], strict=True):
        yield from ((server != client, count) for server, count in in_clusters(answered_in).items() if server != "?")
