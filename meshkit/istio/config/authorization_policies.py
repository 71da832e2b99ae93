"""AuthorizationPolicies as istiod reads them: the trust domains that they name, and whether they let a caller in."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import pandas as pd

from meshkit.istio.control_plane.istiods_and_proxies import is_on
from meshkit.istio.control_plane.revisions import configured
from meshkit.kube.cluster import Cluster
from meshkit.kube.mesh import Mesh, Unknown
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
            "principals, notPrincipals, trustDomains, notTrustDomains, or values and notValues of source.principal "
            "or source.trustDomain"
        ),
        "value": text("as written"),
        "trust_domain": text("that it names"),
        "literal": flag("istiod takes it as written, without aliases"),
        "reason": text("why a cluster could not be read"),
    },
    key=("cluster", "namespace", "policy", "field", "value"),
)
KIND: Final = "authorizationpolicies.security.istio.io"
OWN = "cluster.local"
"""In a whole principal it means the mesh's own trust domain, and its aliases, whatever they are."""
DOMAINS = ("trustDomains", "notTrustDomains", "source.trustDomain values", "source.trustDomain notValues")
_CONDITIONS: Final = ("source.principal", "source.trustDomain")
_WHOLE = len(("trust domain", "ns", "namespace", "sa", "account"))
Manifest = dict[str, Any]
Answer = bool | None
"""None: it depends on what is not known of the call."""


@dataclass(frozen=True)
class NamedDomain:
    """A value of a policy that names a trust domain, and the part of the policy that it stands in (`rules[0].from`).

    `literal`: istiod takes the value as it stands, for no alias and no other domain.
    """

    at: str
    field: str
    value: str
    trust_domain: str
    literal: bool

    def means(self, own: str, aliases: Collection[str]) -> bool:
        """Return whether the value still means a caller whose trust domain is the mesh's own."""
        if self.literal:
            return _alike(self.trust_domain, own)
        if self.field in DOMAINS:
            return any(_alike(one, own) for one in expand_domains([self.trust_domain], [own, *aliases]))
        whole = expand_principals([f"{self.trust_domain}/ns/n/sa/a"], [own, *aliases])
        return any(_alike(one.partition("/")[0], own) for one in whole)


def trust_domains(mesh: Mesh) -> pd.DataFrame:
    """Return one row for each principal, or trust domain, that an AuthorizationPolicy names.

    What leaves the trust domain open (`*`, `*/ns/a/sa/b`) is left out.
    """
    rows: list[dict[str, Any]] = []
    for name, found in mesh.each(lambda cluster: _of_cluster(cluster, mesh.root_namespace)).items():
        known = [{"reason": found.reason}] if isinstance(found, Unknown) else found
        rows += [{"cluster": name, **row} for row in known]
    return POLICY_TRUST_DOMAINS.frame(rows)


def _of_cluster(cluster: Cluster, root_namespace: str) -> list[dict[str, Any]]:
    return [row for policy in configured(cluster, root_namespace, KIND) for row in parse(policy)]


def parse(policy: Manifest) -> Iterator[dict[str, Any]]:
    """Yield rows of `trust_domains`, without the cluster, of one policy."""
    spec, place = policy.get("spec") or {}, policy["metadata"]
    where = {"namespace": place["namespace"], "policy": place["name"], "action": spec.get("action", "ALLOW")}
    for one in named_domains(policy):
        words = {"field": one.field, "value": one.value, "trust_domain": one.trust_domain, "literal": one.literal}
        yield {**where, **words}


def named_domains(policy: Manifest) -> Iterator[NamedDomain]:
    """Yield each value of a policy that names a trust domain, in the policy's order.

    Source: isTrustDomainBeingEnforced (pilot/pkg/security/trustdomain/bundle.go): only whole principals are translated.
    """
    for at, field, value in _values(policy.get("spec") or {}):
        domain, *path = value.split("/")
        if domain.strip("*") and (path or field in DOMAINS):
            literal = field not in DOMAINS and len(value.split("/")) != _WHOLE
            yield NamedDomain(at, field, value, domain, literal)


def _values(spec: Manifest) -> Iterator[tuple[str, str, str]]:
    for number, rule in enumerate(spec.get("rules") or []):
        for source in (entry.get("source") or {} for entry in (rule or {}).get("from") or []):
            for field in ("principals", "notPrincipals", "trustDomains", "notTrustDomains"):
                yield from ((f"rules[{number}].from", field, value) for value in source.get(field) or [])
        for condition in (rule or {}).get("when") or []:
            if (key := condition.get("key")) in _CONDITIONS:
                for words in ("values", "notValues"):
                    yield from ((f"rules[{number}].when", f"{key} {words}", v) for v in condition.get(words) or [])


def expand_principals(principals: Iterable[str], domains: Collection[str]) -> list[str]:
    """Return principals as istiod gives them to Envoy: those of the mesh's trust domain stand for each of its aliases.

    Args:
        principals: of a policy.
        domains: the mesh's trust domain, then its aliases.

    Source: ReplaceTrustDomainAliases (pilot/pkg/security/trustdomain/bundle.go).
    """
    found: list[str] = []
    for principal in principals:
        domain, *path = principal.split("/")
        whole = len(path) + 1 == _WHOLE and domain != "*"
        if whole and (domain == OWN or any(_alike(domain, one) or _alike(one, domain) for one in domains)):
            pattern = domain.startswith("*")
            found += [principal if pattern and _alike(domain, one) else "/".join((one, *path)) for one in domains]
        else:
            found.append(principal)
    return list(dict.fromkeys(found))


def expand_domains(values: Iterable[str], domains: Collection[str]) -> list[str]:
    """Return values of `trustDomains` as istiod reads them: one of the mesh stands for all of them; `*` for any.

    Source: ExpandTrustDomainAliases (pilot/pkg/security/trustdomain/bundle.go).
    """
    return list(dict.fromkeys(one for value in values for one in (domains if value in domains else [value])))


def _alike(pattern: str, text: str) -> bool:
    """Return whether a text is what a pattern says, which may begin or end with `*`.

    Source: StringMatcherWithPrefix (pilot/pkg/security/authz/matcher/string.go).
    """
    if pattern == "*":
        return bool(text)
    if pattern.startswith("*"):
        return text.endswith(pattern[1:])
    return text.startswith(pattern[:-1]) if pattern.endswith("*") else text == pattern


@dataclass(frozen=True)
class Call:
    """A call as a server's sidecar sees it: a GET without a token, of a client with a certificate of the mesh.

    To a port that is not `http`, it is a connection: nothing of HTTP is known of it.
    """

    trust_domain: str
    namespace: str
    account: str
    port: int
    http: bool = True

    @property
    def principal(self) -> str:
        """The client's principal, as policies name it."""
        return f"{self.trust_domain}/ns/{self.namespace}/sa/{self.account}"


def selected(policies: Iterable[Manifest], namespace: str, labels: Mapping[str, str], root: str) -> list[Manifest]:
    """Return the policies that a sidecar with these labels enforces; those that only log (dry run) are left out.

    Source: ShouldAttachPolicy (pilot/pkg/model/policyattachment.go), isDryRun (pilot/pkg/security/authz/builder).
    """
    found = []
    for policy in policies:
        spec, metadata = policy.get("spec") or {}, policy["metadata"]
        wanted = (spec.get("selector") or {}).get("matchLabels") or {}
        aimed = spec.get("targetRef") or spec.get("targetRefs")
        dry = is_on(metadata.get("annotations") or {}, "istio.io/dry-run")
        if metadata["namespace"] in (namespace, root) and not aimed and not dry and wanted.items() <= labels.items():
            found.append(policy)
    return found


def matching_rule(policy: Manifest, call: Call, domains: Collection[str]) -> tuple[Answer, int]:
    """Return whether a rule of a policy matches a call, and which is the first that does, or may.

    Without rules it matches none. Source: Model (pilot/pkg/security/authz/model/model.go).
    """
    perhaps = -1
    for number, rule in enumerate((policy.get("spec") or {}).get("rules") or []):
        if rule is None:
            continue
        kept = rule if call.http else _of_connection(rule, str((policy.get("spec") or {}).get("action", "ALLOW")))
        answer = kept is not None and _rule(kept, policy["metadata"]["namespace"], call, domains)
        if answer:
            return True, number
        perhaps = number if answer is None and perhaps < 0 else perhaps
    return (False, -1) if perhaps < 0 else (None, perhaps)


def _of_connection(rule: Manifest, action: str) -> Manifest | None:
    """Return what istiod makes of a rule for a port that is not HTTP: an ALLOW goes, others lose what is of HTTP.

    Source: checkError (pilot/pkg/security/authz/model/model.go).
    """
    sources = [entry.get("source") or {} for entry in rule.get("from") or []]
    operations = [entry.get("operation") or {} for entry in rule.get("to") or []]
    conditions = rule.get("when") or []
    plain = {
        "from": [{"source": {k: v for k, v in one.items() if k not in _OF_HTTP}} for one in sources],
        "to": [{"operation": {k: v for k, v in one.items() if k not in _OF_HTTP}} for one in operations],
        "when": [one for one in conditions if not str(one.get("key", "")).startswith("request.")],
    }
    spoiled = any(key in _OF_HTTP for one in [*sources, *operations] for key in one)
    lost = action == "ALLOW" and (spoiled or len(plain["when"]) < len(conditions))
    return None if lost else plain


def _rule(rule: Manifest, home: str, call: Call, domains: Collection[str]) -> Answer:
    ask = _attributes(home, call, domains)
    sources = [_fields(one.get("source") or {}, _SOURCE, ask) for one in rule.get("from") or []]
    operations = [_fields(one.get("operation") or {}, _OPERATION, ask) for one in rule.get("to") or []]
    conditions = [
        _asked(ask.get(_attribute(one), _unknown), one.get("values"), one.get("notValues"))
        for one in rule.get("when") or []
    ]
    return _every([_some(sources) if sources else True, _some(operations) if operations else True, *conditions])


_SOURCE: Final = {
    "principals": "source.principal", "namespaces": "source.namespace", "trustDomains": "source.trustDomain",
    "serviceAccounts": "source.serviceAccount", "requestPrincipals": "request.auth.principal",
    "ipBlocks": "source.ip", "remoteIpBlocks": "remote.ip",
}  # fmt: skip
_OPERATION: Final = {"ports": "destination.port", "methods": "method", "hosts": "host", "paths": "path"}
_OF_HTTP: Final = frozenset(
    f"{negated}{name}"
    for field in ("requestPrincipals", "methods", "hosts", "paths")
    for negated, name in (("", field), ("not", f"{field[0].upper()}{field[1:]}"))
)
Asker = Callable[[list[str]], Answer]


def _attributes(home: str, call: Call, domains: Collection[str]) -> dict[str, Asker]:
    """Return what is known of a call, as functions of a policy's values. What is missing is unknown."""
    account = f"{call.namespace}/{call.account}"
    known: dict[str, Asker] = {
        "source.principal": lambda v: any(_alike(p, call.principal) for p in expand_principals(v, domains)),
        "source.trustDomain": lambda v: any(_like(d, call.trust_domain) for d in expand_domains(v, domains)),
        "source.namespace": lambda v: any(_like(one, call.namespace) for one in v),
        "source.serviceAccount": lambda v: account in [one if "/" in one else f"{home}/{one}" for one in v],
        "destination.port": lambda v: str(call.port) in map(str, v),
        "method": lambda v: any(_alike(one, "GET") for one in v),
    }
    # The call carries no token.
    none = ("principal", "audiences", "presenter", "claims")
    unsent = dict.fromkeys((f"request.auth.{one}" for one in none), lambda _: False)
    # A header may be missing: `*` asks whether it is there (HeaderMatcher in pilot/pkg/security/authz/matcher).
    return {**known, **unsent, "request.headers": lambda _: None}


def _attribute(condition: Manifest) -> str:
    """Return what a condition asks for: all claims of a token, or all headers, are one (`request.headers[x]`)."""
    key = str(condition.get("key", ""))
    return key.partition("[")[0] if key.startswith("request.") else key


def _unknown(values: list[str]) -> Answer:
    return True if "*" in values else None


def _like(pattern: str, text: str) -> bool:
    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), text) is not None


def _fields(given: Manifest, names: Mapping[str, str], ask: Mapping[str, Asker]) -> Answer:
    """Return whether all fields of a source or operation match (`principals`), and none of their opposites."""
    return _every(
        _asked(ask.get(attribute, _unknown), given.get(name), given.get(f"not{name[0].upper()}{name[1:]}"))
        for name, attribute in names.items()
    )


def _asked(ask: Asker, values: list[str] | None, others: list[str] | None) -> Answer:
    found: list[Answer] = [ask(values)] if values else []
    if others:
        answer = ask(others)
        found.append(None if answer is None else not answer)
    return _every(found)


def _every(answers: Iterable[Answer]) -> Answer:
    known = list(answers)
    return False if False in known else None if None in known else True


def _some(answers: Iterable[Answer]) -> Answer:
    known = list(answers)
    return True if True in known else None if None in known else False
