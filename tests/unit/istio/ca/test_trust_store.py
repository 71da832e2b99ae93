"""The tables of what proxies show and trust, and of who holds which root."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from meshkit.errors import UnreachableError
from meshkit.istio.ca import trust_store
from meshkit.istio.ca.certificates import SHORT, fingerprint, parse_chain
from meshkit.istio.proxies.envoy_admin import Secret
from meshkit.kube.mesh import Mesh, Unknown
from tests.support import healthy
from tests.support.api_server import certificate_pem
from tests.support.held import Held, held

ROOTS = sorted((certificate_pem("one"), certificate_pem("two")), key=lambda pem: fingerprint(*parse_chain(pem)))
FIRST, SECOND = ROOTS
LEAF = certificate_pem("leaf", "spiffe://td/ns/a/sa/b")
HOLDS = {
    "web": [Secret("default", "chain", LEAF + FIRST, None), Secret("ROOTCA", "roots", SECOND + FIRST, None)],
    "bare": [Secret("ROOTCA", "roots", FIRST, None)],
}


class Gone(Held):
    """A cluster that does not answer."""

    def find(self, *_: Any) -> None:
        """Refuse."""
        raise UnreachableError("gone")


@pytest.fixture(autouse=True)
def proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """East has a proxy with a certificate, one without, and one that does not answer; west does not answer."""
    pods = {name: SimpleNamespace(namespace="shop", name=name, kind="sidecar") for name in (*HOLDS, "lost")}

    def ask(_: object, question: Callable[[Any], Any], **__: str) -> list[tuple[str, Any, Any]]:
        answers = [("east", pods[name], question(pods[name])) for name in HOLDS]
        return [*answers, ("east", pods["lost"], Unknown("timeout")), ("west", None, Unknown("no answer"))]

    monkeypatch.setattr(trust_store, "ask_proxies", ask)
    monkeypatch.setattr(trust_store.envoy_admin, "secrets", lambda proxy: HOLDS[proxy.name])


def test_certificates_have_roots_with_commas_and_a_row_for_each_proxy_that_was_not_read() -> None:
    """Columns, order and texts are a contract; what is not known has a row."""
    first, second = (fingerprint(parse_chain(pem)[0], SHORT) for pem in ROOTS)
    (leaf,) = parse_chain(LEAF)
    found = trust_store.certificates(healthy.mesh())
    assert found.frame().to_csv(index=False) == (
        "cluster,namespace,proxy,kind,identity,issuer,serial,sha256,not_before,not_after,chain,anchor,roots,reason\n"
        f"east,shop,bare,sidecar,,,,,,,0,,{first},the proxy holds no workload certificate\n"
        "east,shop,lost,sidecar,,,,,,,0,,,timeout\n"
        f"east,shop,web,sidecar,spiffe://td/ns/a/sa/b,CN=leaf,{leaf.serial_number:x},{fingerprint(leaf)},"
        f'{leaf.not_valid_before_utc},{leaf.not_valid_after_utc},2,,"{first},{second}",\n'
        "west,,,,,,,,,,0,,,no answer\n"
    )
    assert [(one.cluster, one.proxy) for one in trust_store.unproved(found)] == [
        ("east", "lost"),
        ("west", ""),
        ("east", "bare"),
    ]
    assert (found.unknown("west"), found.lacks("west")) == ("no answer", False)


def test_roots_have_a_row_for_each_source_that_was_not_read() -> None:
    """Columns, order and texts are a contract."""
    bundles = {"a": FIRST, "b": FIRST + SECOND}
    maps = [held("ConfigMap", "istio-ca-root-cert", n, data={"root-cert.pem": p.decode()}) for n, p in bundles.items()]
    clusters: Any = {"east": Held(configmaps=maps), "west": Gone("west")}
    found = trust_store.roots(Mesh(healthy.mesh().spec, clusters))
    assert found.frame().to_csv(index=False) == (
        "cluster,source,sha256,subject,not_before,not_after,holders,of,reason\n"
        f"{rows('configmap istio-ca-root-cert', 2, 1)}"
        "east,proxies,,,,,0,2,lost.shop: timeout\n"
        f"{rows('proxies', 2, 1)}"
        "east,secret,,,,,0,0,neither cacerts nor istio-ca-secret in istio-system\n"
        "west,proxies,,,,,0,0,no answer\n"
        "west,secret,,,,,0,0,gone\n"
    )
    assert (found.unknown("east"), found.unknown("west")) == ("", "gone")


def rows(source: str, *holders: int) -> str:
    """Return the rows of both roots in a source of two."""
    found = [(parse_chain(pem)[0], count) for pem, count in zip(ROOTS, holders, strict=True)]
    return "".join(
        f"east,{source},{fingerprint(root)},{root.subject.rfc4514_string()},{root.not_valid_before_utc},"
        f"{root.not_valid_after_utc},{count},2,\n"
        for root, count in found
    )
