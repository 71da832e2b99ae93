"""What a real Prometheus answers, and what no Prometheus answers."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest

from meshkit.errors import UnreachableError
from meshkit.istio.control_plane.prometheus import ENVOY, ISTIO, Counted, requests_counted
from tests.support.api_server import free_port
from tests.support.prometheus import prometheus, serving

CANARY = "canary-payload"


def istio(service: str, value: str, *, reporter: str = "source", cluster: str = "east", namespace: str = "ns") -> str:
    """Return a line of Istio's metric."""
    place = f'destination_service_name="{service}",destination_service_namespace="{namespace}"'
    return f'{ISTIO}{{reporter="{reporter}",{place},source_cluster="{cluster}"}} {value}'


def own(metric: str, host: str, value: int, more: str = "") -> str:
    """Return a line of a metric of Envoy's own."""
    return f'{metric}{{cluster_name="outbound|8000||{host}"{more}}} {value}'


LINES = [
    istio("both", "5"),
    istio("both", "2", cluster="west"),
    istio("both", "100", reporter="destination"),
    istio("both", "1000", namespace="other"),
    own(ENVOY[0], "both.ns.svc.cluster.local", 50),
    own(ENVOY[0], "plain.ns.svc.cluster.local", 6),
    own(ENVOY[0], "plain.ns2.svc.cluster.local", 600),
    own(ENVOY[0], "not-plain.ns.svc.cluster.local", 6000),
    own(ENVOY[1], "codes.ns.svc.example", 3, ',response_code="200"'),
    own(ENVOY[1], "codes.ns.svc.example", 1, ',response_code="503"'),
    own(ENVOY[1], "codes.ns.svc.example", 3, ',response_code_class="2xx"'),
    istio("idle", "0"),
    istio("broken", "NaN"),
]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Prometheus that has scraped `LINES`."""
    metrics = "\n".join([*LINES, ""])
    with serving(metrics) as target, prometheus(tmp_path_factory.mktemp("prometheus"), [target]) as running:
        deadline = time.monotonic() + 20
        while requests_counted(running, "both", "ns").value is None:
            assert time.monotonic() < deadline, "it scraped nothing"
            time.sleep(0.2)
        yield running


def test_istios_metric_counts_at_the_source_only(url: str) -> None:
    """The destination's view of the same requests is not added, nor another namespace's Service of that name."""
    assert requests_counted(url, "both", "ns") == Counted(7, ISTIO)
    assert requests_counted(f"{url}/", "both", "ns") == Counted(7, ISTIO)


def test_a_shared_prometheus_is_asked_for_one_clusters_clients(url: str) -> None:
    """Only Istio's metric says whose they are: Envoy's is not taken for it."""
    assert requests_counted(url, "both", "ns", source="east") == Counted(5, ISTIO)
    assert requests_counted(url, "plain", "ns", source="east") == Counted(None, "")


def test_envoys_own_metric_is_read_where_istios_is_missing(url: str) -> None:
    """Its cluster's name is that of the Service, whole; of codes and classes of codes only one is summed."""
    assert requests_counted(url, "plain", "ns") == Counted(6, ENVOY[0])
    assert requests_counted(url, "codes", "ns") == Counted(4, ENVOY[1])


def test_no_series_is_not_zero(url: str) -> None:
    """A counter that stands at zero was scraped."""
    assert requests_counted(url, "idle", "ns") == Counted(0, ISTIO)
    assert requests_counted(url, "nobody", "ns") == Counted(None, "")


@pytest.mark.parametrize(
    ("service", "expected"), [("broken", "not a finite number"), (f'{CANARY}"', "it answers HTTP 400")]
)
def test_what_is_no_number_is_an_error_without_the_answer(url: str, service: str, expected: str) -> None:
    """A NaN is not taken for a count, and an error's text, which quotes the question, is not handed on."""
    with pytest.raises(UnreachableError) as caught:
        requests_counted(url, service, "ns")
    assert expected in caught.value.message
    assert CANARY not in str(caught.value)


def test_an_answer_with_warnings_is_no_certain_number(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A remote store that does not answer leaves a sum short, with status success."""
    remote = [{"url": f"http://127.0.0.1:{free_port()}/", "read_recent": True}]
    home = tmp_path_factory.mktemp("prometheus")
    with prometheus(home, remote_read=remote) as running, pytest.raises(UnreachableError, match="has a warning"):
        requests_counted(running, "both", "ns")


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (302, CANARY, "it answers HTTP 302"),
        (401, CANARY, "it answers HTTP 401"),
        (200, f"<html>{CANARY}</html>", "no vector"),
        (200, f'{{"status":"success","data":"{CANARY}"}}', "no vector"),
        (200, f'["{CANARY}"]', "no vector"),
    ],
)
def test_a_server_that_is_no_prometheus_is_distinguished_from_one(status: int, body: str, expected: str) -> None:
    """A login page or another API behind the URL is named as such, and never quoted."""
    with serving(body, status) as target, pytest.raises(UnreachableError) as caught:
        requests_counted(f"http://user:{CANARY}@{target}", "both", "ns")
    assert expected in caught.value.message
    assert caught.value.where == f"Prometheus at {target}"
    assert CANARY not in str(caught.value)


def test_a_name_that_does_not_exist_and_a_closed_port_are_distinguished() -> None:
    """Each is unreachable, in its own words."""
    with pytest.raises(UnreachableError, match="does not resolve"):
        requests_counted("http://prometheus.invalid:9090", "both", "ns")
    with pytest.raises(UnreachableError, match="refuses the connection"):
        requests_counted(f"http://127.0.0.1:{free_port()}", "both", "ns")


def test_a_server_that_hangs_costs_the_timeout_only() -> None:
    """It takes the connection, and never answers."""
    began = time.monotonic()
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(UnreachableError, match="no answer within"):
        requests_counted(f"http://127.0.0.1:{silent.getsockname()[1]}", "both", "ns", timeout=1)
    assert time.monotonic() - began < 3
