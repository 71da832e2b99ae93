"""AuthorizationPolicies that name a trust domain: found in all the fields that can, and read as istiod reads them."""

from __future__ import annotations

from typing import Any

import pytest

from meshkit.checks import istio_config, trust_domains
from meshkit.checks.finding import Verdict
from meshkit.istio.ca import trust_store
from meshkit.istio.config import authorization_policies, config_lint
from meshkit.istio.control_plane import versions
from meshkit.kube.mesh import Mesh
from tests.support import healthy
from tests.support.held import Held, held

WHOLE = "td.test/ns/a/sa/b"


def policy(source: dict[str, Any] | None = None, when: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    """Return a policy of one rule."""
    rule = {"from": [{"source": source or {}}], "when": [when] if when else []}
    place = {"name": "p", "namespace": "default"}
    kind = {"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy"}
    return {**kind, "metadata": place, "spec": {"rules": [rule], **spec}}


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (policy({"principals": [WHOLE]}), [("ALLOW", "principals", "td.test", False)]),
        (policy({"notPrincipals": [WHOLE]}, action="DENY"), [("DENY", "notPrincipals", "td.test", False)]),
        (policy({"principals": ["td.test/*"]}), [("ALLOW", "principals", "td.test", True)]),
        (policy({"principals": ["*", "*/ns/a/sa/b", "*/sa/b"]}), []),
        (policy({"principals": ["*.test/ns/a/sa/b"]}), [("ALLOW", "principals", "*.test", False)]),
        (policy({"trustDomains": ["td.test", "*"]}), [("ALLOW", "trustDomains", "td.test", False)]),
        (policy({"namespaces": ["a"]}), []),
        (
            policy(when={"key": "source.principal", "values": [WHOLE], "notValues": ["*"]}),
            [("ALLOW", "source.principal values", "td.test", False)],
        ),
        (policy(when={"key": "source.ip", "values": ["10.0.0.0/8"]}), []),
        ({"metadata": {"name": "p", "namespace": "a"}, "spec": {}}, []),
        ({"metadata": {"name": "p", "namespace": "a"}}, []),
    ],
)
def test_what_a_policy_names(given: dict[str, Any], found: list[tuple[Any, ...]]) -> None:
    """In every field that can name one; what leaves it open is left out."""
    rows = authorization_policies.parse(given)
    assert [(row["action"], row["field"], row["trust_domain"], row["literal"]) for row in rows] == found


@pytest.mark.parametrize(
    ("source", "own", "aliases", "meant"),
    [
        ({"principals": ["old.test/ns/a/sa/b"]}, "new.test", ["old.test"], True),
        ({"principals": ["old.test/*"]}, "new.test", ["old.test"], False),
        ({"principals": ["new.test/*"]}, "new.test", ["old.test"], True),
        ({"principals": ["cluster.local/ns/a/sa/b"]}, "new.test", [], True),
        ({"principals": ["cluster.local/*"]}, "new.test", [], False),
        ({"principals": ["*.test/ns/a/sa/b"]}, "new.test", [], True),
        ({"principals": ["*old.test/ns/a/sa/b"]}, "new.test", ["old.test"], True),
        ({"principals": ["gone.test/ns/a/sa/b"]}, "new.test", ["old.test"], False),
        ({"trustDomains": ["old.test"]}, "new.test", ["old.test"], True),
        ({"trustDomains": ["cluster.local"]}, "new.test", [], False),
        ({"trustDomains": ["cluster.local"]}, "cluster.local", [], True),
        ({"notTrustDomains": ["gone.test"]}, "new.test", [], False),
    ],
)
def test_both_checks_read_a_policy_alike(source: dict[str, Any], own: str, aliases: list[str], meant: bool) -> None:
    """MK415 of a trust domain that is to come, MK723 of one that is: by istiod's own rule of translation."""
    given = policy(source)
    (row,) = authorization_policies.parse(given)
    one = versions.ControlPlane("east", "istiod", trust_domain=own, trust_domain_aliases=tuple(aliases))
    identity = versions.identity_reading([one])
    rows = authorization_policies.POLICY_TRUST_DOMAINS.frame([{"cluster": "east", **row}])
    of_mesh = healthy.mesh(mesh={"trustDomain": own})
    certificates = trust_store.certificate_reading()
    (before,) = trust_domains.check_policies(of_mesh, rows, identity, certificates, "east")
    settings = {"mesh": f"trustDomainAliases: {aliases}"}
    clusters: Any = {
        "east": Held(configmaps=[held("ConfigMap", "istio", data=settings)], authorizationpolicies=[given])
    }
    found = config_lint.rules(Mesh(of_mesh.spec, clusters))
    (after,) = istio_config.check_identities(of_mesh, found, "east")
    assert (before.id, before.verdict is Verdict.PASS) == ("MK415", meant)
    assert (after.id, after.verdict is Verdict.PASS) == ("MK723", meant)


def test_a_condition_names_a_trust_domain_as_a_source_does() -> None:
    """MK415 reads `source.trustDomain`, too."""
    (row,) = authorization_policies.parse(policy(when={"key": "source.trustDomain", "values": ["td.test"]}))
    assert (row["field"], row["trust_domain"], row["literal"]) == ("source.trustDomain values", "td.test", False)
