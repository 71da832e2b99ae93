"""How notebooks show the tables: name, caption, the columns that identify a row, those shown, those compared."""

from __future__ import annotations

from typing import Final, Required, TypedDict

import pandas as pd

from meshkit.istio.multicluster import gateways, remote_secrets
from meshkit.tables import Column, Table, View


class Shown(TypedDict, total=False):
    """Arguments of `evidence.table`."""

    name: Required[str]
    caption: Required[str]
    key: list[str]
    show: list[str]
    compare: list[str]
    limit: int


def view(shown: Shown, frame: pd.DataFrame) -> View:
    """Return what shows a frame."""
    columns = {str(column): Column(str(dtype)) for column, dtype in frame.dtypes.items()}
    return Table(**shown, columns=columns).view(frame)


def of(table: Table) -> Shown:
    """Return how a table is shown."""
    shown: Shown = {"name": table.name, "caption": table.caption, "key": [*table.key], "show": [*table.show]}
    return {**shown, "compare": [*table.compare], "limit": table.limit}


IDENTITY: Final[Shown] = {
    "name": "identity",
    "caption": "Istiods and their identity",
    "key": ["cluster", "istiod"],
}
REMOTE_SECRETS: Final = of(remote_secrets.REMOTE_SECRETS)
REMOTE_CLUSTERS: Final = of(remote_secrets.REMOTE_CLUSTERS)
GATEWAYS: Final = of(gateways.GATEWAYS)
GATEWAYS_SEEN: Final = of(gateways.GATEWAYS_SEEN)
ROOTS: Final[Shown] = {
    "name": "roots",
    "caption": "Root certificates and who holds them",
    "key": ["cluster", "source", "sha256"],
    "show": ["cluster", "source", "sha256", "subject", "not_after", "holders", "of", "reason"],
}
CERTIFICATES: Final[Shown] = {
    "name": "certificates",
    "caption": "Workload certificates",
    "key": ["cluster", "namespace", "proxy"],
    "show": ["cluster", "proxy", "identity", "not_after", "anchor", "reason"],
    "compare": ["identity", "issuer", "anchor", "roots", "reason"],
}
PAIRS: Final[Shown] = {
    "name": "pairs",
    "caption": "Every pair tried alone",
    "key": ["client", "server"],
    "show": ["client", "server", "statuses", "answered_by", "endpoints", "client_counted", "server_counted", "error"],
    "compare": ["statuses", "endpoints", "error"],
}
HELLOS: Final[Shown] = {
    "name": "hellos",
    "caption": "What answers a TLS hello at the other's gateway",
    "key": ["client", "server", "address"],
    "show": ["client", "server", "address", "port", "heard", "identity", "anchor", "detail", "reason"],
    "compare": ["heard", "identity", "anchor", "reason"],
}
LINKS: Final[Shown] = {
    "name": "links",
    "caption": "Every pair, link by link, the worst first",
    "key": ["client", "server", "istiod"],
    "show": [
        *("client", "server", "istiod", "verdict", "broken", "why", "secret", "api_server", "api_answer", "credential"),
        *("sync", "knows", "gateway_seen", "endpoints", "hello", "reason"),
    ],
    "compare": ["verdict", "why", "credential", "sync", "knows", "gateway_seen", "endpoints", "hello"],
}
PROXIES: Final[Shown] = {
    "name": "proxies",
    "caption": "Every proxy, the worst first",
    "key": ["cluster", "namespace", "proxy"],
}
PROXY_STATUS: Final[Shown] = {
    "name": "proxy-status",
    "caption": "States by xDS type",
    "key": ["cluster", "namespace", "proxy", "type"],
    "show": ["cluster", "proxy", "istiod", "type", "state", "nack", "since", "age_s"],
    "compare": ["state", "nack"],
    "limit": 20,
}
VERSIONS: Final[Shown] = {
    "name": "versions",
    "caption": "Versions",
    "key": ["cluster", "component", "name"],
}
LATENCY: Final[Shown] = {
    "name": "latency",
    "caption": "Latency in milliseconds, with 95 % intervals",
    "key": ["client", "server"],
    "show": [
        *(
            "client",
            "server",
            "n",
            "failed",
            "p50_ms",
            "p50_low",
            "p50_high",
            "p90_ms",
            "p99_ms",
            "p99_low",
            "p99_high",
        ),
        "first_p50_ms",
    ],
    "compare": ["p50_ms", "p99_ms", "failed"],
}
ANSWERS: Final[Shown] = {"name": "answers", "caption": "Answers by pod"}
CHANGES: Final[Shown] = {
    "name": "changes",
    "caption": "The changes, and how far they came",
    "key": ["cluster", "action", "object"],
    "show": ["n", "cluster", "action", "object", "status", "seconds", "detail"],
    "compare": ["status"],
}
AUTHORITIES: Final[Shown] = {
    "name": "authorities",
    "caption": "What each istiod could sign with",
    "key": ["cluster", "secret"],
    "show": [
        *("cluster", "secret", "used", "subject", "sha256", "not_after", "root", "root_key", "problem"),
        *("owner", "signed_by_others", "reason"),
    ],
}
SIGNERS: Final[Shown] = {
    "name": "signers",
    "caption": "What each istiod signs with now, by its own certificate",
    "key": ["cluster", "istiod"],
    "show": ["cluster", "istiod", "signs_with", "issuer", "signer", "not_before", "reason"],
    "compare": ["signs_with", "signer", "reason"],
}
SIGNERS_AFTER: Final[Shown] = {**SIGNERS, "name": "signers-after", "caption": "What each istiod signs with afterwards"}
CHAINS: Final[Shown] = {
    "name": "chains",
    "caption": "Every proxy's chain and root, before and after",
    "key": ["cluster", "namespace", "proxy"],
    "show": [
        *("cluster", "proxy", "certificate", "signed_by", "ends_at_before", "ends_at", "trusts", "reason"),
    ],
    "compare": ["signed_by", "ends_at", "trusts"],
}
WITNESSES: Final[Shown] = {
    "name": "witnesses",
    "caption": "The roots of each proxy, by its istiod's Secret, by istiod, and by itself",
    "key": ["cluster", "namespace", "proxy"],
    "show": ["cluster", "proxy", "secret", "served", "trusts", "ends_at", "agree", "reason"],
    "compare": ["agree", "trusts", "ends_at"],
}
READERS: Final[Shown] = {
    "name": "readers",
    "caption": "How each cluster is to be read by the others",
    "key": ["cluster"],
    "show": ["cluster", "server", "account", "service_account", "secret", "ends", "credential", "lacking", "detail"],
}
REACH: Final[Shown] = {
    "name": "reach",
    "caption": "API servers, asked from inside the other clusters",
    "key": ["cluster", "target"],
}
SYMPTOMS: Final[Shown] = {
    "name": "symptoms",
    "caption": "Symptoms that can be chosen",
    "key": ["name"],
    "compare": ["name"],
}
WALK: Final[Shown] = {
    "name": "walk",
    "caption": "The checks, the likeliest first",
    "key": ["id"],
    "show": ["step", "id", "verdict", "check", "subject", "observed", "follows_from"],
    "compare": ["verdict"],
    "limit": 20,
}
CAUSES: Final[Shown] = {
    "name": "causes",
    "caption": "What is not in order and follows from nothing",
    "key": ["id", "subject"],
    "show": ["place", "id", "subject", "check", "observed", "explains", "page"],
    "compare": ["observed"],
}
CURE: Final[Shown] = {"name": "cure", "caption": "What to do", "key": ["step"], "compare": ["do"]}
LOGS: Final[Shown] = {
    "name": "logs",
    "caption": "Known symptoms in the last lines of the logs",
    "key": ["cluster", "pod", "symptom"],
    "show": ["cluster", "pod", "symptom", "lines", "last", "reason"],
    "compare": ["symptom"],
}
CLAIMS: Final[Shown] = {
    "name": "claims",
    "caption": "What each proxy says that it is",
    "key": ["cluster", "namespace", "proxy"],
    "limit": 20,
}
MERGING: Final[Shown] = {
    "name": "merging",
    "caption": "Services that become one",
    "key": ["namespace", "service"],
    "show": ["namespace", "service", "endpoints", "type", "effect", "conflict"],
}
LOCAL: Final[Shown] = {
    "name": "local",
    "caption": "Services that could stay in each cluster, and why",
    "key": ["namespace", "service"],
}
MERGED: Final[Shown] = {
    "name": "merged",
    "caption": "The probe's Service as each cluster's client sees it",
    "key": ["cluster"],
    "show": [
        "cluster",
        "endpoints",
        "leads_to",
        "strange",
        "sent",
        "answered",
        "answered_in",
        "error",
        "reason",
    ],
    "compare": ["leads_to", "answered_in", "error", "reason"],
}
INVENTORY: Final[Shown] = {
    "name": "inventory",
    "caption": "What each cluster is made of",
    "key": ["cluster"],
    "show": [
        *("cluster", "kubernetes", "nodes", "namespaces", "services", "pods", "proxies", "control_plane", "installer"),
        *("profile", "reason"),
    ],
}
ADDRESSES: Final[Shown] = {
    "name": "addresses",
    "caption": "Address ranges and API servers",
    "key": ["cluster"],
    "show": [
        *("cluster", "pod_ranges", "pod_ranges_from", "service_ranges", "service_ranges_from", "api_server"),
        "api_scope",
    ],
}
LOAD_BALANCERS: Final[Shown] = {
    "name": "load-balancers",
    "caption": "Services of type LoadBalancer",
    "key": ["cluster", "namespace", "service"],
}
POD_TO_POD: Final[Shown] = {
    "name": "pod-to-pod",
    "caption": "Pods of other clusters, tried by their own addresses",
    "key": ["client", "server"],
    "show": ["client", "server", "address", "tried_from", "state", "detail"],
}
DECIDING: Final[Shown] = {
    "name": "deciding-facts",
    "caption": "The facts that decide the topology",
    "key": ["about", "fact", "subject"],
    "show": ["about", "fact", "subject", "value", "speaks_for", "why"],
}
ROOT_NAMESPACES: Final[Shown] = {
    "name": "root-namespaces",
    "caption": "Root namespaces and their network label",
    "key": ["cluster"],
}
CLOCKS: Final[Shown] = {
    "name": "clocks",
    "caption": "Clocks of the API servers, in seconds ahead of this machine's",
    "key": ["cluster"],
    "compare": ["reason"],
}
API_NAMES: Final[Shown] = {
    "name": "dns-names",
    "caption": "DNS names, resolved in pods",
    "key": ["cluster", "name"],
    "show": ["cluster", "name", "of", "tried_from", "state", "address", "detail"],
}
NETWORK_POLICIES: Final[Shown] = {
    "name": "network-policies",
    "caption": "Ways of the mesh that network policies do not leave open",
    "key": ["cluster", "namespace", "policies", "way", "direction", "port", "pods"],
}
INJECTION: Final[Shown] = {
    "name": "injection",
    "caption": "Namespaces and their sidecars",
    "key": ["cluster", "namespace"],
}
RULES: Final[Shown] = {
    "name": "rules",
    "caption": "DestinationRules for the server's host",
    "key": ["cluster", "namespace", "name"],
}
SERVERS: Final[Shown] = {
    "name": "servers",
    "caption": "The server's workload in each cluster",
    "key": ["cluster"],
    "show": [
        *("cluster", "kind", "workload", "replicas", "ready", "autoscaler", "gitops", "abrupt", "region", "zone"),
        "reason",
    ],
}
ENDPOINTS: Final[Shown] = {
    "name": "endpoints",
    "caption": "The server's endpoints, as the Envoy of each client has them",
    "key": ["client", "address"],
    "show": ["client", "where", "address", "health", "priority", "locality", "cx_connect_fail", "reason"],
    "compare": ["health", "priority"],
}
TRAFFIC: Final[Shown] = {
    "name": "traffic",
    "caption": "Requests by second",
    "key": ["time", "cluster"],
    "compare": ["failed"],
    "limit": 5,
}
BACKUP: Final[Shown] = {
    "name": "backup",
    "caption": "What is Istio's in each cluster, and the file that it goes into",
    "key": ["cluster", "kind"],
}
BACKUP_SECRETS: Final[Shown] = {
    "name": "backup-secrets",
    "caption": "Secrets that matter, by name",
    "key": ["cluster", "namespace", "name"],
}
ARCHIVE: Final[Shown] = {
    "name": "archive",
    "caption": "The archive, file by file",
    "key": ["cluster", "file"],
}
OFFERED: Final[Shown] = {
    "name": "gateways-before",
    "caption": "East-west gateways, and who made them",
    "key": ["cluster", "service"],
    "show": ["cluster", "service", "network", "type", "addresses", "port", "ready", "pods", "made_by", "reason"],
}
OPENED: Final[Shown] = {
    "name": "opened",
    "caption": "What each gateway lets other clusters reach, by its own Envoy",
    "key": ["cluster", "sni", "gateway"],
    "show": ["cluster", "namespace", "service", "port", "endpoints", "part_of", "reason"],
    "compare": ["endpoints", "part_of"],
    "limit": 20,
}
PLANES: Final[Shown] = {
    "name": "control-planes",
    "caption": "Control planes, and who they become",
    "key": ["cluster"],
}
WORKLOADS: Final[Shown] = {
    "name": "workloads",
    "caption": "Workloads with a proxy, and what their proxies claim",
    "key": ["cluster", "namespace", "kind", "workload"],
}
LEFT: Final[Shown] = {
    "name": "proxies-left",
    "caption": "Proxies that claim another id, network or mesh id, or cannot be read",
    "key": ["cluster", "namespace", "proxy"],
    "limit": 20,
}
LEFT_AFTER: Final[Shown] = {**LEFT, "name": "proxies-left-after", "caption": "Proxies that are left"}
JOURNAL: Final[Shown] = {
    "name": "journal-entries",
    "caption": "The journal",
    "key": ["n"],
    "show": ["n", "stage", "cluster", "action", "object", "event", "kept"],
    "limit": 200,
}
