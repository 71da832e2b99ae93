"""AuthorizationPolicies that name a trust domain: what they say of callers depends on which one these are of."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, Final

import pandas as pd

from meshkit.kube.cluster import Cluster
from meshkit.kube.mesh import Mesh, Unknown
from meshkit.kube.transport import NotFoundError
from meshkit.tables import Table, flag, text

POLICY_TRUST_DOMAINS: Final = Table(
    "policy-trust-domains",
    "Trust domains that AuthorizationPolicies name",
    {
        "cluster": text("its cluster"),
        "namespace": text("its namespace"),
        "policy": text("its name"),
        "action": text("ALLOW, DENY, AUDIT or CUSTOM"),
        "field": text(
            "principals, notPrincipals, trustDomains, notTrustDomains, or values and notValues of source.principal"
        ),
        "value": text("as written"),
        "trust_domain": text("that it names"),
        "literal": flag("istiod takes it as written, without aliases"),
        "reason": text("why a cluster could not be read"),
    },
    key=("cluster", "namespace", "policy", "field", "value"),
)
OWN = "cluster.local"
"""In a whole principal it means the mesh's own trust domain, and its aliases, whatever they are."""
DOMAINS = ("trustDomains", "notTrustDomains")
_WHOLE = len(("ns", "namespace", "sa", "account"))


def trust_domains(mesh: Mesh) -> pd.DataFrame:
    """Return one row for each principal, or trust domain, that an AuthorizationPolicy names.

    What leaves the trust domain open (`*`, `*/ns/a/sa/b`) is left out.
    """
    rows: list[dict[str, Any]] = []
    for name, found in mesh.each(_of_cluster).items():
        known = [{"reason": found.reason}] if isinstance(found, Unknown) else found
        rows += [{"cluster": name, **row} for row in known]
    return POLICY_TRUST_DOMAINS.frame(rows)


def _of_cluster(cluster: Cluster) -> list[dict[str, Any]]:
    try:
        policies = cluster.get("authorizationpolicies.security.istio.io")
    except NotFoundError:  # no Istio yet
        return []
    return [row for policy in policies for row in parse(policy)]


def parse(policy: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield rows of `trust_domains`, without the cluster, of one policy."""
    spec, place = policy.get("spec") or {}, policy["metadata"]
    where = {"namespace": place["namespace"], "policy": place["name"], "action": spec.get("action", "ALLOW")}
    for field, value in _values(spec):
        domain, *path = value.split("/")
        if domain.strip("*") and (path or field in DOMAINS):
            # istio/istio, pilot/pkg/security/trustdomain/bundle.go: only whole principals are translated.
            literal = field not in DOMAINS and len(path) != _WHOLE
            yield {**where, "field": field, "value": value, "trust_domain": domain, "literal": literal}


def _values(spec: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for rule in spec.get("rules") or []:
        for source in (entry.get("source") or {} for entry in rule.get("from") or []):
            for field in ("principals", "notPrincipals", *DOMAINS):
                yield from ((field, value) for value in source.get(field) or [])
        for condition in rule.get("when") or []:
            if condition.get("key") == "source.principal":
                for field in ("values", "notValues"):
                    yield from ((f"source.principal {field}", value) for value in condition.get(field) or [])


def translated(row: dict[Any, Any], own: str, aliases: Collection[str]) -> bool:
    """Tell whether a row still means a caller once he is of the mesh's own trust domain.

    istiod reads a whole principal of the own domain, of an alias, or of `cluster.local` as one of each; a value
    of `trustDomains` likewise, but for `cluster.local`; and any part of a principal as it stands.
    """
    domain = str(row["trust_domain"])
    if row["literal"]:
        return _alike(domain, own)
    known = {own, *aliases} | ({OWN} if row["field"] not in DOMAINS else set())
    return any(_alike(domain, one) for one in known)


def _alike(pattern: str, domain: str) -> bool:
    if pattern.startswith("*"):
        return domain.endswith(pattern[1:])
    return domain.startswith(pattern[:-1]) if pattern.endswith("*") else domain == pattern
