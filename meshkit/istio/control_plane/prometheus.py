"""What a Prometheus has counted of a Service's requests: by Istio's metric, or where there is none, by Envoy's own."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from meshkit.errors import UnreachableError
from meshkit.kube.transport import translated

ISTIO: Final = "istio_requests_total"
# Envoy's names for one counter: the second is what scrapes keep that drop the first, once for each status code.
ENVOY: Final = ("envoy_cluster_upstream_rq_total", "envoy_cluster_upstream_rq")
REMEDY: Final = "does `prometheus` in the mesh file name it, and may it be asked from here without credentials?"


@dataclass(frozen=True)
class Counted:
    """How many requests, and by which metric; None and an empty name where no series is there, which is not zero."""

    value: int | None
    metric: str


def requests_counted(url: str, service: str, namespace: str, *, source: str = "", timeout: float = 5.0) -> Counted:
    """Return how many requests to a Service its clients' proxies have counted, as a Prometheus has scraped them.

    The raw counters are summed: of series that are new, as those of a fresh Service are, `increase()` would miss what
    was counted before their first scrape.

    Args:
        url: the Prometheus; `/api/v1/query` follows it.
        service: the Service's name.
        namespace: its namespace.
        source: only clients in the cluster of this id; Envoy's own metric does not tell them apart, and is not read.
        timeout: seconds for each question.

    Raises:
        UnreachableError: it cannot be reached, or its answer is not a whole and certain number.
    """
    labels = f'reporter="source",destination_service_name="{service}",destination_service_namespace="{namespace}"'
    name = f'cluster_name=~"outbound[|][0-9]+[|][^|]*[|]{service}[.]{namespace}[.].*"'
    questions = {ISTIO: labels, ENVOY[0]: name, ENVOY[1]: f'{name},response_code!=""'}
    if source:
        questions = {ISTIO: f'{labels},source_cluster="{source}"'}
    for metric, selector in questions.items():
        value = _ask(url, f"sum({metric}{{{selector}}})", timeout)
        if value is not None:
            return Counted(value, metric)
    return Counted(None, "")


def _ask(url: str, query: str, timeout: float) -> int | None:
    import urllib3

    where = f"Prometheus at {urlsplit(url).netloc.rpartition('@')[2]}"
    try:
        with translated(where, timeout), urllib3.PoolManager(retries=False, timeout=timeout) as pool:
            endpoint = f"{url.rstrip('/')}/api/v1/query"
            answer = pool.request("GET", endpoint, fields={"query": query}, redirect=False)
    except UnreachableError as error:
        raise UnreachableError(error.message, where=where, remedy=REMEDY) from error
    try:
        return parse_sum(answer.status, answer.data)
    except ValueError as error:
        raise UnreachableError(str(error), where=where, remedy=REMEDY) from None


def parse_sum(status: int, body: bytes) -> int | None:
    """Return the number in the answer to an instant query of a sum; None where no series matched.

    Raises:
        ValueError: it is an error, has warnings (of a part that did not answer, say), or is no number. The message
            never quotes the answer.
    """
    if status != 200:
        raise ValueError(f"it answers HTTP {status}")
    try:
        document: Any = json.loads(body)
        outcome, kind, result = document["status"], document["data"]["resultType"], document["data"]["result"]
        values = [float(series["value"][1]) for series in result]
    except (ValueError, KeyError, TypeError, IndexError):
        raise ValueError("its answer is no vector in Prometheus's JSON") from None
    if outcome != "success" or kind != "vector" or len(values) > 1:
        raise ValueError("its answer is not one number")
    if document.get("warnings") or document.get("infos"):
        raise ValueError("its answer has a warning, so the number may be incomplete")
    if not all(math.isfinite(value) for value in values):
        raise ValueError("its answer is not a finite number")
    return int(values[0]) if values else None
