"""Every topology beside what was found: what it lacks here, what it needs besides, and what fails with a cluster.

The facts are those that decide the recommendation (`topology.recommend`).

Source: https://istio.io/latest/docs/ops/deployment/deployment-models/
"""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Iterator, Mapping
from typing import Any, Final

import pandas as pd

from meshkit.checks.topology import CONTROL, NETWORK, Recommendation
from meshkit.parameters import BUILT
from meshkit.tables import Row, Table, text

TOPOLOGIES: Final = Table(
    "topologies",
    "Every topology, beside what was found",
    {
        "network": text("flat: pods reach pods by address; multi: through gateways"),
        "control_plane": text("multi-primary, primary-remote or external"),
        "recommended": text("yes: the facts call for it"),
        "lacks": text("facts that speak against it; empty: none was found"),
        "needs": text("what it needs besides, in any case"),
        "when_lost": text("what fails with a cluster that is lost, beyond its own workloads"),
        "made_by": text("meshkit, or by hand, along Istio's pages"),
    },
    key=("network", "control_plane"),
)
_NEEDS: Final = {
    "flat": "distinct pod ranges, routed between the clusters",
    "multi": "an east-west gateway with an address in each network",
    "multi-primary": "an istiod in each cluster, a common root, each API server open to the other istiods",
    "primary-remote": "the primary's istiod at an address (15012, 15017), each remote's API server open to it",
    "external": "a cluster that hosts istiod, at an address (15012, 15017), each API server open to it",
}
_LOST: Final = {
    "multi-primary": "nothing: each has its own istiod",
    "primary-remote": "the primary's: no pod, configuration or certificate for its remotes; theirs end in a day",
    "external": "the host's: no pod, configuration or certificate for any cluster; theirs end in a day",
}
_AGAINST: Final = {
    "flat": {"multi"},
    "multi": set[str](),  # gateways work on a flat network, too
    "multi-primary": {"primary-remote", "external"},
    "primary-remote": {"external"},
    "external": set[str](),
}
"""The choices for which a fact speaks that is against another one."""


def compare(advice: Recommendation) -> pd.DataFrame:
    """Return a row for each topology."""
    return TOPOLOGIES.frame([_row(advice, *choice) for choice in itertools.product(("flat", "multi"), _LOST)])


def _row(advice: Recommendation, network: str, plane: str) -> Row:
    return {
        "network": network,
        "control_plane": plane,
        "recommended": "yes" if (network, plane) == (advice.network, advice.control_plane) else "",
        "lacks": "; ".join([*_lacks(advice, NETWORK, network), *_lacks(advice, CONTROL, plane)]),
        "needs": f"{_NEEDS[network]}; {_NEEDS[plane]}",
        "when_lost": _LOST[plane],
        "made_by": "meshkit" if plane in BUILT else "by hand",
    }


def _lacks(advice: Recommendation, about: str, choice: str) -> Iterator[str]:
    facts = [fact for fact in advice.facts.to_dict("records") if fact["about"] == about]
    for fact in facts:
        if fact["speaks_for"] in _AGAINST[choice] or _open(fact, choice):
            yield f"{fact['fact']} {fact['subject']}: {fact['value']}"
    if choice == "flat" and "pod to pod" not in {fact["fact"] for fact in facts}:
        yield "no request between pods was tried"


def _open(fact: Mapping[Hashable, Any], choice: str) -> bool:
    """Return whether a fact that decides nothing leaves open something that a choice needs."""
    if fact["fact"] == "load balancer":
        return choice == "multi" and str(fact["value"]).endswith("is pending")
    return fact["fact"] == "API server" and not fact["speaks_for"]
