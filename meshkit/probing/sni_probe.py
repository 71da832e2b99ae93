"""A TLS ClientHello to a gateway's port 15443, sent from a client's pod: which server answers for an SNI. Needs no key.

An AUTO_PASSTHROUGH gateway checks two fields of a ClientHello: its SNI, which must be `outbound_.PORT_._.HOST`, and its
ALPN, which must be one of Istio's. A connection without a matching filter chain is closed without a byte (in its access
log: `NR filter_chain_not_found`). A matching one is passed to the server's proxy, which sends its certificate. TLS 1.2
does not encrypt that, so a ClientHello is enough to see its identity. A close_notify alert then ends the handshake.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import ssl
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from cryptography.x509 import Certificate

from meshkit.errors import MeshkitError
from meshkit.kube.cluster import Cluster
from meshkit.kube.pods import PROXY_CONTAINER

ALPN: Final = ("istio-peer-exchange", "istio", "istio-http/1.1")
"""ALPN of Istio's sidecars for TCP and HTTP ports (pilot/pkg/networking/core/listener.go, allIstioMtlsALPNs)."""
OPEN, ALERT, CLOSED, REFUSED, SILENT, STRANGE, UNTRIED = (
    "open", "alert", "closed", "refused", "silent", "no TLS", "untried",
)  # fmt: skip
PATIENCE: Final = 4
_GOODBYE: Final = b"\x15\x03\x03\x00\x02\x01\x00"
_ALERTS: Final = {
    40: "handshake failure", 70: "it requires another version of TLS", 80: "internal error",
    112: "it does not know that name", 120: "it accepts none of Istio's protocols",
}  # fmt: skip
_NO_TOOL: Final = 97
BY_SIDECAR: Final = "by its own sidecar (outboundTrafficPolicy REGISTRY_ONLY), or by what is behind it"
# Either tool sends the bytes, prints what it receives until the other side closes, and then its exit code.
_SCRIPT: Final = r"""
if command -v bash >/dev/null && command -v timeout >/dev/null; then
  { timeout "$3" bash -c 'trap "" PIPE; exec 3<>"/dev/tcp/$1/$2" || exit 98; printf "$3" >&3 2>/dev/null; cat <&3' \
      bash "$1" "$2" "$4"
    echo "exit $?" >&2; } | base64
elif command -v nc >/dev/null; then
  { printf "$4" | nc -w "$3" "$1" "$2"; echo "exit $?" >&2; } | base64
else exit 97
fi
"""


@dataclass(frozen=True)
class HelloResult:
    """The result of a hello: a word, a detail, and the certificates that were received, the leaf first.

    open: a certificate was received; alert: TLS declined; closed: closed without a byte; refused: nothing listens, or
    there is no route; silent: nothing within some seconds; no TLS: something else answered; untried: no tool.
    """

    word: str
    detail: str = ""
    chain: list[Certificate] = field(default_factory=list)


def sni(host: str, port: int) -> str:
    """Return the SNI by which a gateway selects a port of a Service."""
    return f"outbound_.{port}_._.{host}"


def client_hello(name: str) -> bytes:
    """Return a TLS 1.2 client hello with that SNI and Istio's ALPN."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(ALPN)
    nothing, hello = ssl.MemoryBIO(), ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(nothing, hello, server_hostname=name).do_handshake()
    return hello.read()


def send_client_hello(
    cluster: Cluster,
    places: Sequence[tuple[str, str, str]],
    address: str,
    port: int,
    name: str,
) -> HelloResult:
    """Send a hello from the first of these containers (pod, namespace, container) that has bash or nc.

    Name the proxy's container first: its traffic is not intercepted, so a refused connection is seen as refused.
    """
    octal = "".join(f"\\{byte:03o}" for byte in client_hello(name) + _GOODBYE)
    command = ["sh", "-c", _SCRIPT, "sh", address, str(port), str(PATIENCE), octal]
    why = "no container to send from"
    for pod, namespace, container in places:
        try:
            done = cluster.exec(pod, namespace, container, command, 2.0 * PATIENCE + 4)
        except MeshkitError as error:
            why = f"{pod}/{container}: {error.message}"
            continue
        if done.not_run or done.exit_code == _NO_TOOL:
            why = f"{pod}/{container} has neither bash nor nc"
            continue
        try:
            result = parse(base64.b64decode(done.stdout), done.stderr)
        except binascii.Error:
            why = f"{pod}/{container} printed something other than base64"
            continue
        if result.word == CLOSED and container != PROXY_CONTAINER and PROXY_CONTAINER in [one for *_, one in places]:
            return HelloResult(UNTRIED, f"{why}; from {container} it was closed, {BY_SIDECAR}")
        return result
    return HelloResult(UNTRIED, why)


def parse(answer: bytes, stderr: str = "") -> HelloResult:
    """Return the result of a hello from the received bytes and the tool's stderr."""
    if not answer:
        words, _, ended = " ".join(stderr.split()).lower().rpartition("exit ")
        if ended == "124" or "timed out" in words:
            return HelloResult(SILENT, "no answer, as if a firewall drops it")
        if ended not in ("0", "1") or any(word in words for word in ("refused", "no route", "unreachable")):
            return HelloResult(REFUSED, "nothing listens there" if "refused" in words else words[-120:])
        return HelloResult(CLOSED, "closed without a byte")
    if answer[0] not in (21, 22):
        return HelloResult(STRANGE, f"the answer begins with {answer[:8]!r}")
    chain = _certificates(answer)
    if chain:
        return HelloResult(OPEN, "", chain)
    alert = next((body for kind, body in _records(answer) if kind == 21 and len(body) == 2), b"")
    return HelloResult(ALERT, _ALERTS.get(alert[1], f"alert {alert[1]}") if alert else "the handshake broke off")


def _records(answer: bytes) -> Iterator[tuple[int, bytes]]:
    while len(answer) >= 5:
        length = int.from_bytes(answer[3:5])
        yield answer[0], answer[5 : 5 + length]
        answer = answer[5 + length :]


def _certificates(answer: bytes) -> list[Certificate]:
    from cryptography.x509 import load_der_x509_certificate

    messages = b"".join(body for kind, body in _records(answer) if kind == 22)
    found: list[Certificate] = []
    while len(messages) >= 4:
        kind, body = messages[0], messages[4 : 4 + int.from_bytes(messages[1:4])]
        messages = messages[4 + len(body) :]
        body = body[3:] if kind == 11 else b""
        while len(body) > 3:
            length = int.from_bytes(body[:3])
            with contextlib.suppress(ValueError):
                found.append(load_der_x509_certificate(body[3 : 3 + length]))
            body = body[3 + length :]
    return found
