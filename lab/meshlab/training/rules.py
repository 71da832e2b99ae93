"""The rules of a round: the fault of a seed, its hints, how an answer is checked, its points."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from meshkit.checks import catalogue, causes
from meshkit.errors import InputError
from meshlab.faults.catalogue import KNOWN, find
from meshlab.faults.fault import Fault
from meshlab.layout import Site, sites

FULL: Final = 10
HINTS: Final = (1, 2, 3)
WRONG: Final = 2
BY_CHECK: Final = 2
LEAST: Final = 1
RULES: Final = (
    f"{FULL} points at most; the hints cost {HINTS[0]}, {HINTS[1]} and {HINTS[2]}, a wrong answer {WRONG}, "
    f"a check's id in place of the fault's name {BY_CHECK}; a right answer keeps {LEAST} at least"
)
LOOK: Final[Mapping[str, str]] = {
    "meshkit pairs {mesh} --samples 0": (
        "expired-credential revoked-credential unreachable-api-server loopback-server wrong-tls-server-name"
    ),
    "meshkit pairs {mesh} --samples 20": "firewall-15443",
    "meshkit proxies {mesh} --cluster {cluster}": "nacked-envoyfilter paused-proxy",
    "istioctl --context {peer} remote-clusters": "stale-istiod-replica",
    "istioctl --context {site} version": "version-skew",
    "kubectl --context {site} logs -n istio-system deploy/istiod --tail 20": "former-values",
    "istioctl --context {site} proxy-config secret deploy/sleep.sample": "different-roots combined-root-missing",
    "date -u; kubectl --context {site} get --raw /healthz -v 8 2>&1 | grep Date": "skewed-clock",
    "kubectl --context {peer} get secrets -A -l istio/multiCluster=true": (
        "wrong-cluster-id duplicate-id secret-in-wrong-namespace"
    ),
    "kubectl --context {site} get clusterrolebindings -o wide | grep istio": "reader-without-rbac",
    "kubectl --context {site} get namespaces --show-labels": "namespace-without-network-label injection-label-missing",
    "kubectl --context {site} get deploy,svc -n istio-system -L topology.istio.io/network": (
        "gateway-down gateway-without-address gateway-without-network-label wrong-gateway-port"
    ),
    "kubectl --context {site} get gateways.networking.istio.io -n istio-system -o yaml": (
        "exposure-missing exposure-selector-wrong"
    ),
    "kubectl --context {site} get deploy -n istio-system -o yaml": "gateway-of-all-networks",
    "kubectl --context {site} get services -n sample": "service-missing headless-over-networks",
    "kubectl --context {site} get services -n sample -o yaml": (
        "export-to-own-namespace port-named-otherwise selector-without-pods"
    ),
    "kubectl --context {site} get configmap istio -n istio-system -o yaml": "cluster-local-service discovery-selectors",
    "kubectl --context {site} get sidecars,serviceentries,destinationrules,authorizationpolicies -n sample -o yaml": (
        "sidecar-without-the-server service-entry-of-the-same-host locality-without-the-others denied-client"
    ),
    "kubectl --context {peer} get peerauthentications,destinationrules,virtualservices -n sample -o yaml": (
        "mtls-disabled subset-pinned-to-old-cluster-name"
    ),
    "kubectl --context {site} logs -n sample deploy/sleep -c istio-proxy --tail 20": "firewall-15012",
}
"""The command that shows a fault, by the names of the faults that it shows."""


class RoundOutcome(StrEnum):
    """How a round came out; only the first two are right."""

    NAME = "found"
    CHECK = "found by its check"
    GIVEN_UP = "given up"
    UNANSWERED = "not answered"
    LOST = "lost"

    @property
    def right(self) -> bool:
        """Whether the fault was found."""
        return self in (RoundOutcome.NAME, RoundOutcome.CHECK)


def draw(seed: int, number: int, clusters: int) -> tuple[Fault, Site]:
    """Return the fault and the cluster of one round of a seed: always the same, and no fault twice.

    Args:
        seed: chooses the order of all faults, and a cluster for each.
        number: which of that order, from 1 up.
        clusters: how many the lab has.

    Raises:
        InputError: there are not so many faults.
    """
    if not 1 <= number <= len(KNOWN):
        raise InputError(f"number: expected 1 to {len(KNOWN)}, the faults that there are, got {number}",
                         where="meshkit lab drill", remedy="take another seed for more")  # fmt: skip
    lottery = random.Random(seed)  # noqa: S311 - nothing is kept safe by it
    order = [(name, lottery.choice(sites(clusters))) for name in lottery.sample(sorted(KNOWN), len(KNOWN))]
    name, site = order[number - 1]
    return KNOWN[name], site


def hints(fault: Fault, site: Site, mesh_file: str) -> tuple[str, str, str]:
    """Return the three hints of a round, each more telling: what users see, the command that shows it, the check."""
    peer = next(other for other in sites(2) if other != site)
    look = next(command for command, names in LOOK.items() if fault.name in names.split())
    command = look.format(mesh=mesh_file, cluster=site.name, site=site.context, peer=peer.context)
    check = catalogue.find(fault.finding)
    named = f"the check that names it: {check.id}, {check.title}; `meshkit check --explain {check.id}`"
    return f"users see: {fault.users}", f"look: {command}", named


def check_answer(answer: str, fault: Fault) -> tuple[RoundOutcome | None, str]:
    """Check an answer: the name of a fault, or the id of a check.

    Returns:
        How the round came out, None for a wrong answer; and in what a wrong answer comes near, or nothing.

    Raises:
        InputError: it names neither a fault nor a check; the nearest is named.
    """
    given, near = answer.strip(), ""
    if re.fullmatch(r"(?i)mk\d+", given):
        identifier = catalogue.find(given.upper()).id
        if identifier == fault.finding:
            return RoundOutcome.CHECK, ""
        if identifier in causes.consequences(fault.finding):
            near = "what it finds follows from the fault: what is the reason for it?"
        elif fault.finding in causes.consequences(identifier):
            near = "what it finds may be a reason for what is asked"
        return None, near
    named = find(given.lower())
    if named is fault:
        return RoundOutcome.NAME, ""
    if named.finding == fault.finding:
        near = "the same check names both"
    elif family(named) == family(fault):
        near = f"it is of the same family, {family(fault)}"
    return None, near


def family(fault: Fault) -> str:
    """Return what a fault is about: credentials, gateways, trust, proxies, services or views."""
    return fault.make.__module__.rpartition(".")[2]


def points(outcome: RoundOutcome, hints_taken: int, wrong: int) -> int | None:
    """Return what a round is worth; None for one that nobody could finish."""
    if outcome is RoundOutcome.LOST:
        return None
    if not outcome.right:
        return 0
    spent = sum(HINTS[:hints_taken]) + WRONG * wrong + BY_CHECK * (outcome is RoundOutcome.CHECK)
    return max(FULL - spent, LEAST)
