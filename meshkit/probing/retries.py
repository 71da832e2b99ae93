"""How often sidecars tried again: a retry that succeeds hides the failed attempt before it from the client.

Envoy counts retries as `upstream_rq_retry` of each upstream cluster. Istio's bootstrap drops that counter unless
`proxyStatsMatcher` of the proxies names it, and then nobody knows: that is never 0.

Source: Istio, pkg/bootstrap (which stats are included), retries of HTTP requests (twice by default); Envoy, upstream
cluster statistics.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, NamedTuple

from meshkit.errors import UnreachableError
from meshkit.istio.control_plane.istiods_and_proxies import Proxy
from meshkit.istio.proxies import envoy_admin
from meshkit.kube.cluster import Cluster
from meshkit.kube.mesh import Unknown, gather
from meshkit.kube.transport import NotFoundError

READ_EVERY: Final = 5.0
COUNTER: Final = "upstream_rq_retry"
UNCOUNTED: Final = f"its Envoy keeps no {COUNTER}: name it in proxyStatsMatcher of meshConfig.defaultConfig"
_DEADLINE: Final = 12.0
_NOT_READ_YET: Final = "it ended before its sidecar could be asked"


class Retried(NamedTuple):
    """Retries that were new when a sidecar was read: at which moment, and how many."""

    time: datetime
    times: int


@dataclass
class _Sidecar:
    """A pod's sidecar: its counter when it was read last, and why it could not be read; `fresh` ones began at 0."""

    cluster: Cluster
    pod: str
    fresh: bool
    counted: int | None = None
    why: str = _NOT_READ_YET
    gone: bool = False


class Retries:
    """Adds up the retries of some pods' sidecars. What a pod retried after it was read last is not in it."""

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace
        self._lock = threading.Lock()
        self._reading = threading.Lock()
        self._sidecars: dict[tuple[str, str], _Sidecar] = {}
        self._clusters: set[str] = set()
        self._found: list[Retried] = []

    def watch(self, cluster: Cluster, pods: Iterable[str]) -> None:
        """Count the retries of these pods from now on; of those that come later, all."""
        with self._lock:
            for pod in pods:
                made = _Sidecar(cluster, pod, fresh=cluster.name in self._clusters)
                self._sidecars.setdefault((cluster.name, pod), made)
            self._clusters.add(cluster.name)

    def read(self) -> None:
        """Ask every sidecar that is there."""
        with self._reading:
            with self._lock:
                asked = [one for one in self._sidecars.values() if not one.gone]
            for one, answer in zip(asked, gather(self._ask, asked, deadline=_DEADLINE), strict=True):
                self._note(one, answer)

    def result(self) -> tuple[list[Retried] | None, dict[str, str]]:
        """Return the retries, oldest first, and why a sidecar could not be read, by pod; None if any could not."""
        why = {pod: one.why for (_, pod), one in self._sidecars.items() if one.why}
        return (None, why) if why or not self._sidecars else (list(self._found), {})

    def _ask(self, one: _Sidecar) -> int | None:
        """Return a sidecar's counter; None where its pod is gone.

        Raises:
            UnreachableError: it cannot be reached, or does not count.
        """
        proxy = Proxy(one.cluster, self._namespace, one.pod, "sidecar", cluster_id="", ready=True)
        try:
            found = envoy_admin.stats(proxy, f"^cluster.outbound.*{COUNTER}$")
        except NotFoundError:
            return None
        if not found:
            raise UnreachableError(UNCOUNTED)
        return sum(found.values())

    def _note(self, one: _Sidecar, answer: int | Unknown | None) -> None:
        if isinstance(answer, Unknown):
            one.why = answer.reason
        elif answer is None:
            one.gone = True
            one.why = one.why if one.counted is None else ""
        else:
            before = one.counted if one.counted is not None else 0 if one.fresh else answer
            # A container that was restarted counts from 0 again.
            new = answer - before if answer >= before else answer
            one.counted, one.why = answer, ""
            self._found += [Retried(datetime.now(UTC), new)] if new else []
