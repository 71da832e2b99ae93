"""Which namespaces are of the mesh, and which of their pods."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from meshkit.checks import istio_config
from meshkit.checks.finding import Verdict
from meshkit.istio.proxies import injection
from tests.support.healthy import mesh


class Shop:
    """Two clusters with the same namespaces; `labels` are those of the one that is called shop."""

    def __init__(self, **labels: dict[str, str]) -> None:
        self.labels = labels

    def read(self) -> Any:
        """Return the table of both."""
        empty = cast("Any", SimpleNamespace(spec=mesh().spec, each=self.each))
        return injection.namespaces(empty)

    def each(self, question: Any) -> dict[str, Any]:
        """Ask both clusters."""

        def held(name: str) -> SimpleNamespace:
            return SimpleNamespace(get=lambda kind, *_, **__: self.get(kind, name), find=lambda *_: None)

        return {name: question(held(name)) for name in self.labels}

    def get(self, kind: str, name: str) -> list[dict[str, Any]]:
        """Return what a cluster has; a bare pod of shop is in each."""
        known = {"shop": self.labels[name], "sample": {"istio-injection": "enabled"}, "kube-system": {}}
        if kind == "namespaces":
            return [{"metadata": {"name": place, "labels": labels}} for place, labels in known.items()]
        if kind != "pods":
            return []
        return [{"metadata": {"name": "web-1", "namespace": "shop"}, "spec": {"containers": [{"name": "web"}]}}]


def test_a_namespace_without_a_label_is_seen_where_another_cluster_has_one() -> None:
    """Its pods are bare on purpose, or somebody forgot: whoever compares the clusters must see it."""
    found = Shop(east={"istio.io/rev": "1-31"}, west={}).read()
    rows = found[found["namespace"] == "shop"]
    assert [tuple(row) for row in rows[["cluster", "revision", "bare"]].to_numpy()] == [
        ("east", "1-31", 1),
        ("west", "", 0),
    ]
    [told] = istio_config.check_namespaces(mesh(), found)
    assert (told.id, told.subject) == ("MK214", "west: namespace shop")


def test_namespaces_that_nobody_asks_for_are_no_rows() -> None:
    """Also where injection was turned off by name."""
    found = Shop(east={"istio-injection": "disabled"}, west={}).read()
    assert set(found["namespace"]) == {"sample"}


def test_a_namespace_that_is_injected_by_default_needs_no_label() -> None:
    """One cluster injects all namespaces (enableNamespacesByDefault), the other by label: both are of the mesh."""
    shop = {"namespace": "shop", "injected": 1, "injected_by": "default"}
    rows = [{"cluster": "east", "istio_injection": "enabled", **shop}, {"cluster": "west", **shop}]
    [told] = istio_config.check_namespaces(mesh(), injection.INJECTION.frame(rows))
    assert told.verdict is Verdict.PASS
    rows = [{"cluster": "east", "namespace": "shop", "injected": 1}, {"cluster": "west", **shop}]
    [told] = istio_config.check_namespaces(mesh(), injection.INJECTION.frame(rows))
    assert (told.verdict, "label namespace shop istio-injection=enabled" in told.remedy) == (Verdict.WARN, True)
