"""Whether discovery between clusters without a common root can be paused, and is resumed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pandas as pd

from meshkit.checks import remote_secrets
from meshkit.checks.finding import Finding
from meshkit.checks.question import Question, arrow
from meshkit.istio.ca.model import ClusterCaState
from meshkit.istio.multicluster.discovery_pause import pairs_without_common_root


def check(known: pd.DataFrame, states: Sequence[ClusterCaState]) -> Iterator[Finding]:
    """MK417: each remote secret holds one cluster, so discovery can be paused for clusters without a common root."""
    pairs, expected = pairs_without_common_root(states), "a secret of its own"
    for row in known.to_dict("records") if pairs else ():
        reader, targets = row["cluster"], row["targets"].split(",")
        apart = [target for target in targets if (reader, target) in pairs]
        if not apart and not row["reason"]:
            continue
        subject = arrow(reader, apart[0]) if apart else reader
        ask = Question("MK417", "discovery can be paused until clusters share a root", subject, expected)
        if row["reason"]:
            yield ask.unknown(row["reason"])
            continue
        more = sorted(set(targets) - set(apart))
        remedy = (
            "make one remote secret for each cluster (stage 07 does), or requests between them may be lost meanwhile"
        )
        yield ask.judge(not more, f"{row['secret']} also holds {', '.join(more)}" if more else row["secret"], remedy)


def check_together(known: pd.DataFrame, name: str) -> Finding:
    """MK420: no remote secret of a cluster is still paused."""
    rows = known[known["cluster"] == name]
    ask = Question("MK420", "discovery is resumed everywhere", name, "no remote secret is paused")
    if reason := next((r for r in rows["reason"] if r), ""):
        return ask.unknown(reason)
    left = list(rows[rows["paused"]]["secret"])
    observed = f"paused: {', '.join(left)}" if left else f"none of {len(rows)}"
    return ask.judge(not left, observed, remote_secrets.RESUMED_BY)
