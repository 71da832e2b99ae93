"""How `meshkit proxies` takes a large fleet: python tests/bench_proxies.py [PROXIES]. No cluster is needed.

Three clusters' istiods answer for so many proxies of five types; what meshkit makes of that is timed beside the mere
decoding of the same JSON in the same run, so that the ratio says something on any machine.
"""

from __future__ import annotations

import json
import sys
import time
import uuid
from collections.abc import Callable
from typing import TypeVar

from meshkit.istio.proxies import proxy_status, status_summary, syncz
from meshkit.notebook import terminal

T = TypeVar("T")

TYPES = [f"type.googleapis.com/envoy.config.{name}" for name in ("cluster.v3.Cluster", "listener.v3.Listener")]
TYPES += ["type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"]
TYPES += ["type.googleapis.com/envoy.config.route.v3.RouteConfiguration"]
TYPES += ["type.googleapis.com/istio.networking.nds.v1.NameTable"]


def answer(cluster: str, count: int) -> bytes:
    """Return what a cluster's istiod answers for so many proxies; each thousandth is stale."""
    entries = []
    for number in range(count):
        nonce = f"2026-11-23T11:59:00Z/{uuid.uuid4()}"
        taken = {"sent": nonce, "acked": nonce, "sentTime": "2026-11-23T11:59:00.123456789Z"}
        late = {**taken, "acked": "2026-11-23T11:58:00Z/1"} if number % 1000 == 0 else taken
        who = {"cluster_id": cluster, "proxy": f"app-{number}-7b9c.ns-{number % 400}", "proxy_type": "sidecar"}
        resources = dict.fromkeys(TYPES, taken) | {TYPES[2]: late}
        entries.append({**who, "istio_version": "1.31.0", "resources": resources})
    return json.dumps(entries).encode()


def timed(what: str, function: Callable[[], T]) -> tuple[T, float]:
    """Run something, say how long it took, and return both."""
    began = time.process_time()
    made = function()
    took = time.process_time() - began
    print(f"{what:44s} {took:6.2f} s")
    return made, took


def main() -> None:
    """Time each step."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    answers = {name: answer(name, count // 3) for name in ("east", "west", "north")}
    print(f"{count:,} proxies, {sum(map(len, answers.values())) / 1e6:.0f} MB of JSON; seconds of processor time")
    documents, decoded = timed("decode the JSON", lambda: {name: json.loads(text) for name, text in answers.items()})
    rows, parsed = timed(
        "read states (syncz.parse_syncz)",
        lambda: [
            {**row, "cluster": name, "istiod": "istiod-1", "istiod_cluster": name}
            for name, document in documents.items()
            for row in syncz.parse_syncz(document)
        ],
    )
    status, framed = timed("make the table (fleet.table)", lambda: proxy_status.PROXY_STATUS.frame(rows))
    summed, folded = timed("one row each (rollup.summary)", lambda: status_summary.summary(status))
    counted, grouped = timed("count alike ones (rollup.groups)", lambda: status_summary.groups(summed))
    text, shown = timed("show them", lambda: terminal.render(counted, "table"))
    _, compared = timed("compare with itself (rollup.trend)", lambda: status_summary.status_diff(status, status))
    print(text)
    whole = parsed + framed + folded + grouped + shown
    print(
        f"all but the comparison: {whole:.1f} s, {whole / decoded:.1f} times the decoding; it: {compared / decoded:.1f}"
    )


if __name__ == "__main__":
    main()
