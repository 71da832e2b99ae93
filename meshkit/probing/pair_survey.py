"""Facts about every ordered pair of clusters: all links that a request between them depends on.

A request from client to server depends on a chain of links: the remote secret, its address, its credential, the sync,
the gateway, the endpoints, TLS through the gateway, the answer. Only `measure` changes anything: it creates the probe's
Services, and removes them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import pandas as pd

from meshkit.istio.control_plane.versions import Identity, home
from meshkit.istio.multicluster import gateway_choice, remote_secrets
from meshkit.istio.multicluster import gateways as multicluster_gateways
from meshkit.istio.multicluster.gateways import Gateways, GatewaysSeen
from meshkit.istio.multicluster.remote_secrets import RemoteClusters, RemoteSecrets
from meshkit.kube.api_server import address_kind
from meshkit.kube.mesh import DaemonThreads, Mesh, Unknown, gather
from meshkit.probing import client_view, pair_probe
from meshkit.probing.curl import Answer, failure_text, hostname
from meshkit.probing.statistics import quantile
from meshkit.tables import Table, integer, number, text

PAIR_TRAFFIC: Final = Table(
    "pair-traffic",
    "Requests between every ordered pair",
    {
        "client": text("cluster of the client"),
        "server": text("cluster of the server"),
        "sent": integer("requests; 0 if the pair could not be tried"),
        "answered": integer("requests with status 200"),
        "statuses": text("how often each, such as `200×10`"),
        "answered_by": text("pods, comma-joined"),
        "answered_in": text("their clusters; `?` for a pod of none"),
        "p50_ms": number("median latency of answers, on warm connections", "ms"),
        "p95_ms": number("95th percentile", "ms"),
        "p99_ms": number("99th percentile", "ms"),
        "error": text("why requests failed, or the pair could not be tried"),
    },
    key=("client", "server"),
)


AT_ONCE: Final = 4


DEADLINE: Final = 60.0
_QUANTILES: Final = {"p50_ms": 0.5, "p95_ms": 0.95, "p99_ms": 0.99}


def written(mesh: Mesh, secrets: RemoteSecrets, remotes: RemoteClusters) -> dict[tuple[str, str], tuple[str, str]]:
    """Return address and TLS name in the active remote secret of each pair that has one."""
    found = {}
    for pair in mesh.ordered_pairs:
        secret = next(iter(remote_secrets.active_secrets(mesh, secrets, *pair, remotes)), None)
        if secret and address_kind(secret.server) not in ("loopback", "nothing"):
            found[pair] = (secret.server, secret.tls_server_name)
    return found


def gateway_addresses(
    mesh: Mesh, identity: Identity, offered: Gateways, seen: GatewaysSeen
) -> dict[tuple[str, str], list[client_view.Address]]:
    """Return `addresses` of each ordered pair whose clusters are on different networks."""
    apart = [pair for pair in mesh.ordered_pairs if mesh.spec.crosses(*pair)]
    return {(a, b): addresses(mesh, offered, seen, home(identity, a), b) for a, b in apart}


def addresses(mesh: Mesh, offered: Gateways, seen: GatewaysSeen, reader: str, server: str) -> list[client_view.Address]:
    """Return the addresses of a server's gateway as the client's istiods know them, else as they are published.

    Args:
        mesh: the mesh.
        offered: of `gateways.gateways`.
        seen: of `gateways.gateways_seen`.
        reader: cluster of the istiods that serve the client.
        server: cluster of the server.
    """
    known = sorted({(one.address, one.port) for one in gateway_choice.seen(mesh, seen, reader, server)})
    near = gateway_choice.offered(mesh, offered, server)
    found = known or [(address, one.port) for one in near for address in one.addresses]
    return [(address, port or multicluster_gateways.PASSTHROUGH_PORT) for address, port in found]


def measure(mesh: Mesh, samples: int, *, meanwhile: Callable[[], object] = lambda: None) -> pd.DataFrame:
    """Create the probe's Services, and return `traffic`; `meanwhile` is awaited before the first request."""
    with pair_probe.open(mesh) as probing:
        probing.wait()
        meanwhile()
        return traffic(probing, samples)


def traffic(probing: pair_probe.ProbeSession, samples: int) -> pd.DataFrame:
    """Send requests between every ordered pair alone, four at a time: one row for each.

    A pair that could not be tried has sent = 0 and says why in error.
    """
    lanes = [n for n in (samples // AT_ONCE + (k < samples % AT_ONCE) for k in range(AT_ONCE)) if n]

    def row(pair: tuple[str, str]) -> dict[str, Any]:
        first = probing.arrived[pair]
        if isinstance(first, Unknown):
            return {"error": first.reason}
        if first.status != 200:
            return {"sent": 1, "statuses": f"{first.status}×1", "error": failure_text(first)}
        sent = gather(lambda n: probing.call(*pair, "/hostname", count=n), lanes, deadline=DEADLINE)
        lost = [lane for lane in sent if isinstance(lane, Unknown)]
        answers = [answer for lane in sent if not isinstance(lane, Unknown) for answer in lane]
        if not answers:
            return {"error": lost[0].reason}
        return {**_summary(probing, answers), **({"error": lost[0].reason} if lost else {})}

    pairs = probing.mesh.ordered_pairs
    rows = gather(row, pairs, deadline=2 * DEADLINE, executor=DaemonThreads(2 * len(probing.mesh.clusters)))
    return PAIR_TRAFFIC.frame(
        (
            {"client": a, "server": b, **({"error": r.reason} if isinstance(r, Unknown) else r)}
            for (a, b), r in zip(pairs, rows, strict=True)
        )
    )


def _summary(probing: pair_probe.ProbeSession, answers: list[Answer]) -> dict[str, Any]:
    import numpy as np

    good = [a for a in answers if a.status == 200]
    names = {hostname(a.body) for a in good} - {""}
    bad = next((a for a in answers if a.status != 200), None)
    times = 1000 * np.array([a.seconds for a in good], dtype="float64")
    counted = ((s, sum(a.status == s for a in answers)) for s in sorted({a.status for a in answers}))
    return {
        "sent": len(answers),
        "answered": len(good),
        "statuses": ", ".join(f"{status}×{count}" for status, count in counted),
        "answered_by": ",".join(sorted(names)),
        "answered_in": ",".join(sorted({probing.home(name) for name in names})),
        "error": failure_text(bad) if bad else "",
        **{name: quantile(times, q) for name, q in _QUANTILES.items()},
    }
