"""AuthorizationPolicies that name a trust domain: found in all the fields that can, and read as istiod reads them."""

from __future__ import annotations

from typing import Any

import pytest

from meshkit.istio.config import authorization_policies

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
