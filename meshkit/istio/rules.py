"""Objects of Istio that are right in one cluster and wrong in a mesh of many.

Each cluster's clients go by the objects of their own cluster: a rule that was written when there was one cluster goes
on as it is, and nothing refuses it.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatch
from typing import TYPE_CHECKING, Any, Final

from meshkit.cluster import NotFoundError
from meshkit.istio.fleet import table
from meshkit.istio.services import DOMAIN, mesh_config
from meshkit.mesh import Mesh, Unknown

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    import pandas as pd

    from meshkit.cluster import Cluster

COLUMNS: Final = {
    "cluster": "str", "trouble": "str", "kind": "str", "namespace": "str", "name": "str", "says": "str",
    "field": "str", "reason": "str",
}  # fmt: skip
PINNED, PLAIN, FOREIGN, BY_ADDRESS, KEPT = "pinned", "plain", "foreign", "by address", "kept"
PLACES: Final = {"topology.istio.io/cluster": "cluster", "topology.istio.io/network": "network"}
CONDITIONS: Final = {"source.principal": "principals", "source.trustDomain": "trustDomains", "source.ip": "ipBlocks"}
_MUTUAL: Final = "ISTIO_MUTUAL"
Manifest = dict[str, Any]
Row = dict[str, Any]


@dataclass(frozen=True)
class Known:
    """What a mesh has, that objects may name: clusters, networks, Services (`name.namespace`), trust domains."""

    places: dict[str, Collection[str]]
    hosts: frozenset[str]
    domains: frozenset[str]


def rules(mesh: Mesh) -> pd.DataFrame:
    """Return one row for each thing that an object of Istio says and that does no good between clusters.

    Columns: cluster, trouble (pinned: a subset of a cluster or network that the mesh does not have, so it is empty;
    plain: mutual TLS is off, and istiod leaves out the endpoints of other networks; foreign: a policy names identities
    of a trust domain that nobody has; by address: a policy goes by the caller's address, which is a gateway's when
    the caller is elsewhere; kept: locality rules without outlierDetection, so nothing ever fails over), kind,
    namespace, name, says (in its own words), field, reason (why a cluster could not be read).

    Source: pilot/pkg/xds/endpoints (ep_filters.go, mtls_checker.go), pilot/pkg/networking/core/loadbalancer.
    """
    rows: list[Row] = []
    for name, found in mesh.each(lambda cluster: list(_of_cluster(cluster, mesh))).items():
        rows += [{"cluster": name, "reason": found.reason}] if isinstance(found, Unknown) else found
    return table(rows, COLUMNS)


def _of_cluster(cluster: Cluster, mesh: Mesh) -> Iterator[Row]:
    services = cluster.get("services")
    settings = mesh_config(cluster, mesh)
    known = Known(
        places={"cluster": set(mesh.clusters), "network": {entry.network for entry in mesh.spec.clusters}},
        hosts=frozenset(f"{s['metadata']['name']}.{s['metadata']['namespace']}" for s in services),
        domains=frozenset({mesh.spec.mesh.trust_domain, DOMAIN, *(settings.get("trustDomainAliases") or [])}),
    )
    judges = {
        "destinationrules.networking.istio.io": _destination_rule,
        "peerauthentications.security.istio.io": _peer_authentication,
        "authorizationpolicies.security.istio.io": _authorization_policy,
    }
    for kind, judge in judges.items():
        for obj in _get(cluster, kind):
            where = {"kind": obj["kind"], "namespace": obj["metadata"]["namespace"], "name": obj["metadata"]["name"]}
            yield from ({"cluster": cluster.name, **where, **row} for row in judge(obj, known))


def _get(cluster: Cluster, kind: str) -> list[Manifest]:
    try:
        return cluster.get(kind)
    except NotFoundError:  # Istio's definitions are not installed
        return []


def _destination_rule(obj: Manifest, known: Known) -> Iterator[Row]:
    spec = obj.get("spec") or {}
    for subset in spec.get("subsets") or []:
        for label, place in PLACES.items():
            value = (subset.get("labels") or {}).get(label)
            if value and value not in known.places[place]:
                yield {"trouble": PINNED, "says": f"{label}: {value}", "field": f"subset {subset['name']}"}
    if not is_of_mesh(str(spec.get("host", "")), obj["metadata"]["namespace"], known.hosts):
        return
    policies = {"trafficPolicy": spec.get("trafficPolicy") or {}}
    policies |= {f"subset {s['name']}": s.get("trafficPolicy") or {} for s in spec.get("subsets") or []}
    for field, policy in policies.items():
        tls = [policy.get("tls"), *(port.get("tls") for port in policy.get("portLevelSettings") or [])]
        for mode in sorted({str(t.get("mode", "DISABLE")) for t in tls if t} - {_MUTUAL}):
            yield {"trouble": PLAIN, "says": f"tls mode {mode} to {spec['host']}", "field": field}
        locality = (policy.get("loadBalancer") or {}).get("localityLbSetting") or {}
        asked = sorted(set(locality) & {"failover", "failoverPriority"})
        if asked and locality.get("enabled") is not False and not policy.get("outlierDetection"):
            yield {"trouble": KEPT, "says": f"{', '.join(asked)} without outlierDetection", "field": field}


def is_of_mesh(host: str, namespace: str, hosts: Collection[str]) -> bool:
    """Return whether a rule's host, in the rule's namespace, means a Service of Kubernetes, or some of them."""
    if not host or host == "*":
        return bool(host)
    full = host if "." in host or "*" in host else f"{host}.{namespace}"
    wanted = full if full.endswith(f".svc.{DOMAIN}") or "*" in full else f"{full.removesuffix('.svc')}.svc.{DOMAIN}"
    return any(fnmatch(f"{known}.svc.{DOMAIN}", wanted) for known in hosts)


def _peer_authentication(obj: Manifest, known: Known) -> Iterator[Row]:
    del known
    spec = obj.get("spec") or {}
    if (spec.get("mtls") or {}).get("mode") == "DISABLE":
        yield {"trouble": PLAIN, "says": "mtls mode DISABLE", "field": "mtls"}
    for port, mtls in (spec.get("portLevelMtls") or {}).items():
        if (mtls or {}).get("mode") == "DISABLE":
            yield {"trouble": PLAIN, "says": f"mtls mode DISABLE for port {port}", "field": f"portLevelMtls {port}"}


def _authorization_policy(obj: Manifest, known: Known) -> Iterator[Row]:
    action = str((obj.get("spec") or {}).get("action", "ALLOW"))
    for number, rule in enumerate((obj.get("spec") or {}).get("rules") or []):
        for part, source in _sources(rule or {}):
            field = f"rules[{number}].{part}"
            named = {p.partition("/")[0] for key in ("principals", "notPrincipals") for p in source.get(key) or []}
            named |= {d for key in ("trustDomains", "notTrustDomains") for d in source.get(key) or []}
            strange = sorted(domain for domain in named if "*" not in domain and domain not in known.domains)
            if strange:
                yield {"trouble": FOREIGN, "says": f"{action} of {', '.join(strange)}", "field": field}
            if blocks := [b for key in ("ipBlocks", "notIpBlocks") for b in source.get(key) or []]:
                yield {"trouble": BY_ADDRESS, "says": f"{action} of {', '.join(blocks)}", "field": field}


def _sources(rule: Manifest) -> Iterator[tuple[str, dict[str, list[str]]]]:
    """Yield what a policy's rule says of its callers, by the part that says it, and all of it in the words of `from`."""
    for one in rule.get("from") or []:
        yield "from", one.get("source") or {}
    for condition in rule.get("when") or []:
        if word := CONDITIONS.get(condition.get("key")):
            yield "when", {word: [*(condition.get("values") or []), *(condition.get("notValues") or [])]}
