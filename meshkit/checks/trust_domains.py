"""Checks of trust domains (stage 04): which clusters accept them, and which policies name another one.

A common root is not enough: a server takes callers of its own trust domain and its aliases only, a client likewise
servers, and an AuthorizationPolicy may name a domain that nobody is of any more.
"""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from meshkit.checks.finding import Finding, Verdict
from meshkit.checks.question import Question
from meshkit.istio.ca.trust_store import Certificates, unproved
from meshkit.istio.config import authorization_policies
from meshkit.istio.control_plane.versions import Identity
from meshkit.kube.mesh import Mesh
from meshkit.tables import Row

ALIASES = "name it under meshConfig.trustDomainAliases of istio.overlay in every cluster"
LOSES = {
    ("ALLOW", False): "no longer lets them in",
    ("ALLOW", True): "no longer keeps them out",
    ("DENY", False): "no longer keeps them out",
    ("DENY", True): "no longer lets them in",
}
"""What a policy does to callers that its positive, or its negative (True), field no longer matches."""


def of(identity: str) -> str:
    """Return the trust domain of a SPIFFE identity, or an empty text."""
    return identity.removeprefix("spiffe://").partition("/")[0] if identity.startswith("spiffe://") else ""


def in_use(certificates: Certificates) -> dict[str, set[str]]:
    """Return the clusters whose proxies are of each trust domain, by the certificates that they show."""
    found: dict[str, set[str]] = {}
    for one in certificates:
        for identity in filter(None, one.identity.split(",")):
            found.setdefault(of(identity), set()).add(one.cluster)
    return found


def accepted(identity: Identity, name: str) -> frozenset[str]:
    """Return the trust domains that all istiods of a cluster make its proxies accept; none if one cannot be read."""
    known = [one.trust_domains for one in identity.of(name)]
    return frozenset.intersection(*known) if known and not identity.unknown(name) else frozenset()


def check_domains(identity: Identity, certificates: Certificates, name: str) -> Finding:
    """MK414: a cluster accepts the trust domains of all proxies of the mesh."""
    ask = Question("MK414", "the mesh's identities are accepted", name, "own trust domain or alias, of all proxies")
    if reason := identity.unknown(name):
        return ask.unknown(reason, "the ConfigMap of meshConfig must be read")
    if identity.lacks(name):
        return ask.answer(Verdict.SKIPPED, "it has no istiod yet")
    known, used = accepted(identity, name), in_use(certificates)
    foreign = [f"{domain} (of {', '.join(sorted(used[domain]))})" for domain in sorted(used) if domain not in known]
    takes = f"it takes {', '.join(sorted(known)) or 'none that all its istiods agree on'}"
    if foreign:
        observed = (
            f"proxies are of {'; '.join(foreign)}, and {takes}: calls between them are refused, whatever the root"
        )
        return ask.fail(observed, f"{ALIASES}, or give all one trust domain")
    if unread := [f"{one.proxy or one.cluster}: {one.reason}" for one in unproved(certificates)]:
        return ask.unknown("; ".join(unread[:3]), "can the proxies be asked? `istioctl proxy-config secret`")
    return ask.answer(Verdict.PASS, takes)


def check_policies(
    mesh: Mesh, policies: pd.DataFrame, identity: Identity, certificates: Certificates, name: str
) -> Iterator[Finding]:
    """MK415: no AuthorizationPolicy names identities of a trust domain that is not the mesh's, and no alias.

    Fails where proxies are of that domain now: what works for them will not. Else it is a warning.
    """
    own, used = mesh.spec.mesh.trust_domain, in_use(certificates)
    expected = f"{own}, an alias of it, or {authorization_policies.OWN}"
    rows = policies[policies["cluster"] == name]
    if reason := next(filter(None, rows["reason"]), ""):
        yield Question("MK415", "policies name the mesh's identities", name, expected).unknown(reason)
        return
    aliases = accepted(identity, name)
    strange = [row for row in rows.to_dict("records") if not _means(row, own, aliases)]
    for row in strange:
        subject = f"{name}: {row['namespace']}/{row['policy']}"
        ask = Question("MK415", "policies name the mesh's identities", subject, expected)
        users = ", ".join(sorted({c for domain, where in used.items() if domain == row["trust_domain"] for c in where}))
        observed = f"{row['action']} {row['field']} {row['value']}: {_breaks(row, own, users)}"
        remedy = "write a whole principal, with" if row["literal"] else f"{ALIASES}, or write"
        remedy += (
            f" {own if row['field'] in authorization_policies.DOMAINS else authorization_policies.OWN} in the policy"
        )
        yield ask.answer(Verdict.FAIL if users else Verdict.WARN, observed, remedy)
    if not strange:
        ask = Question("MK415", "policies name the mesh's identities", name, expected)
        if rows.empty and identity.lacks(name):
            yield ask.answer(Verdict.SKIPPED, "it has no istiod yet")
            return
        observed = f"all {len(rows)} values that name a trust domain" if len(rows) else "no policy names a trust domain"
        yield ask.answer(Verdict.PASS, observed)


def _means(row: Row, own: str, aliases: frozenset[str]) -> bool:
    words = (row[name] for name in ("field", "value", "trust_domain", "literal"))
    return authorization_policies.NamedDomain("", *words).means(own, aliases)


def _breaks(row: Row, own: str, users: str) -> str:
    if not users:
        return "no proxy of this mesh is of that trust domain"
    loses = LOSES.get((row["action"], "not" in row["field"]), "no longer applies to them")
    return f"proxies of {users} are of that trust domain; once they are of {own} it {loses}"
