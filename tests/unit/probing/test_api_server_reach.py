"""Which istiods were asked, and what is said when only some of them could be: replicas whose pods cannot be entered.

They are fakes: no pod of the lab can be made to refuse it while its istiod serves.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from meshkit.errors import UnreachableError
from meshkit.kube.cluster import ExecResult
from meshkit.kube.mesh import Mesh
from meshkit.probing import api_server_reach
from meshkit.spec import MeshSpec

PAIR = ("east", "west")
ANSWERS = ExecResult(stdout="401", stderr="", exit_code=0)
SILENT = ExecResult(stdout="000", stderr="curl: (28) timed out", exit_code=28)
NO_CURL = ExecResult(stdout="", stderr="", exit_code=127)
CLOSED = UnreachableError("it cannot be entered")


@pytest.mark.parametrize(
    ("istiods", "answer", "asked_from"),
    [
        ([ANSWERS, ANSWERS], "401", "istiod-0"),
        ([ANSWERS, SILENT], "none", "istiod-1"),
        ([ANSWERS, CLOSED], "UNKNOWN", ""),
        ([CLOSED, ANSWERS], "UNKNOWN", ""),
        ([CLOSED, SILENT], "none", "istiod-1"),
        ([NO_CURL, NO_CURL], "401", "client"),
        ([CLOSED, CLOSED], "401", "client"),
    ],
)
def test_every_istiod_is_asked_and_where_only_some_can_be_it_is_unknown(
    istiods: list[Any], answer: str, asked_from: str
) -> None:
    """The client of the probe speaks for them only where none could be asked."""
    pods = {**{f"istiod-{n}": said for n, said in enumerate(istiods)}, "client": ANSWERS}

    def enter(pod: str, *_: Any) -> ExecResult:
        if isinstance(said := pods[pod], UnreachableError):
            raise said
        return said

    vantages = [(pod, "istio-system", "sleep" if pod == "client" else "discovery") for pod in pods]
    clusters: Any = {"east": SimpleNamespace(exec=enter)}
    spec = MeshSpec.parse({"clusters": [{"name": "east", "context": "east", "network": "n"}]}, where="test")
    row = api_server_reach._reach(Mesh(spec, clusters), PAIR, ("https://192.0.2.1", ""), vantages, "a CA")
    assert (row["answer"], row.get("asked_from", "")) == (answer, asked_from)


RESET = ExecResult(stdout="000", stderr="curl: (35) Recv failure: Connection reset by peer", exit_code=35)
UNTRUSTED = ExecResult(stdout="000", stderr="curl: (60) SSL certificate problem", exit_code=60)
MADE_UP = ExecResult(stdout="502", stderr="", exit_code=0)


@pytest.mark.parametrize(
    ("proxy", "client", "server", "answer"),
    [
        (NO_CURL, RESET, "https://192.0.2.1", "UNKNOWN"),
        (NO_CURL, MADE_UP, "http://192.0.2.1", "UNKNOWN"),
        (NO_CURL, ANSWERS, "https://192.0.2.1", "401"),
        (NO_CURL, SILENT, "https://192.0.2.1", "none"),
        (NO_CURL, UNTRUSTED, "https://192.0.2.1", "refused"),
        (CLOSED, RESET, "https://192.0.2.1", "UNKNOWN"),
        (ANSWERS, RESET, "https://192.0.2.1", "401"),
        (RESET, ANSWERS, "https://192.0.2.1", "none"),
    ],
)
def test_what_a_sidecar_refuses_is_no_silence_of_the_api_server(
    proxy: Any, client: Any, server: str, answer: str
) -> None:
    """Istiod is distroless: the sidecar's own container is asked before the client, whose calls the sidecar catches."""
    said = {"discovery": NO_CURL, "istio-proxy": proxy, "sleep": client}

    def enter(pod: str, namespace: str, container: str, *_: Any) -> ExecResult:
        if isinstance(said[container], UnreachableError):
            raise said[container]
        return said[container]

    vantages = [("istiod", "istio-system", "discovery"), ("c", "sample", "istio-proxy"), ("c", "sample", "sleep")]
    clusters: Any = {"east": SimpleNamespace(exec=enter)}
    spec = MeshSpec.parse({"clusters": [{"name": "east", "context": "east", "network": "n"}]}, where="test")
    row = api_server_reach._reach(Mesh(spec, clusters), PAIR, (server, ""), vantages, "a CA")
    assert row["answer"] == answer
    assert ("REGISTRY_ONLY" in row["detail"]) == (answer == "UNKNOWN")


def last(error: str) -> ExecResult:
    """Return what `pilot-agent wait` of Istio 1.31 prints at its end, on the lab."""
    return ExecResult("", f"timeout waiting for Envoy proxy to become ready. Last error: {error}\n", 255)


GET = 'Get "https://192.0.2.1/version": '
X509 = f"{GET}tls: failed to verify certificate: x509: certificate "


@pytest.mark.parametrize(
    ("said", "name", "answer"),
    [
        (last(f"{X509}signed by unknown authority"), "", "TLS"),
        (last(f"{X509}is valid for a, not 192.0.2.1"), "", "refused"),
        (last("HTTP status code 401"), "", "401"),
        (ExecResult("", "", 0), "", "200"),
        (last(f"{GET}dial tcp 192.0.2.1:443: connect: connection refused"), "", "none"),
        (last(f"{GET}context deadline exceeded (Client.Timeout exceeded while awaiting headers)"), "", "none"),
        (last(f"{X509}is valid for a, not b"), "a", "UNKNOWN"),
        (NO_CURL, "", "UNKNOWN"),
        (CLOSED, "", "UNKNOWN"),
    ],
)  # fmt: skip
def test_where_nothing_has_curl_the_agent_of_a_sidecar_asks(said: Any, name: str, answer: str) -> None:
    """6.8: all images are distroless; the agent knows no private CA, and cannot be given a TLS server name."""

    def enter(_pod: str, _namespace: str, _container: str, command: list[str], _seconds: float) -> ExecResult:
        if command[0] != "pilot-agent":
            return NO_CURL
        if isinstance(said, UnreachableError):
            raise said
        return said

    vantages = [("istiod", "istio-system", "discovery"), ("c", "sample", "istio-proxy"), ("c", "sample", "sleep")]
    clusters: Any = {"east": SimpleNamespace(exec=enter)}
    spec = MeshSpec.parse({"clusters": [{"name": "east", "context": "east", "network": "n"}]}, where="test")
    row = api_server_reach._reach(Mesh(spec, clusters), PAIR, ("https://192.0.2.1", name), vantages, "a CA")
    assert row["answer"] == answer
