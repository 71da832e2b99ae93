"""What of the others' Services a cluster lacks, and what runs there in spite of it."""

from __future__ import annotations

from typing import Any

from meshkit.istio.config.missing_services import missing_services
from meshkit.kube.mesh import Mesh
from tests.support.healthy import mesh
from tests.support.held import Held, held

API, AT_HOME = (
    {"app": "api"},
    "serviceSettings: [{settings: {clusterLocal: true}, hosts: ['*.shop.svc.cluster.local']}]",
)


def service(name: str, selector: dict[str, str] | None = None) -> Any:
    """Return a Service of shop."""
    return held("Service", name, spec={"selector": selector or {}})


def pod(name: str, labels: dict[str, str], **captured: str) -> Any:
    """Return a pod of shop with a sidecar."""
    env = [{"name": key, "value": value} for key, value in captured.items()]
    return held("Pod", name, labels=labels, spec={"containers": [{"name": "istio-proxy", "env": env}]})


def lacking(east: list[Any], west: list[Any], *pods: Any, settings: str = "") -> list[dict[str, Any]]:
    """Return the rows about west, which has these pods; clusters with these Services; west's meshConfig."""
    maps = [held("ConfigMap", "istio", data={"mesh": settings})]
    clusters: Any = {
        "east": Held(services=east, configmaps=[held("ConfigMap", "istio", data={})]),
        "west": Held("west", services=west, pods=list(pods), configmaps=maps),
    }
    found = missing_services(Mesh(mesh().spec, clusters))
    return [{str(key): value for key, value in row.items()} for row in found.to_dict("records")]


def test_pods_that_no_service_selects_serve_nobody() -> None:
    """Another namespace's Services, and other selectors, do not help them."""
    (row,) = lacking([service("api", API)], [], pod("api-1", API), pod("web-1", {"app": "web"}))
    assert (row["cluster"], row["service"], row["pods"], row["instead"]) == ("west", "api", "api-1", "")


def test_pods_of_an_extra_service_serve_by_their_own() -> None:
    """A canary's or an alias of east selects them, too; one that stays at home serves as well."""
    for settings in ("", AT_HOME):
        west = [service("api", API)]
        (row,) = lacking([*west, service("api-canary", API)], west, pod("api-1", API), settings=settings)
        assert (row["service"], row["pods"], row["instead"]) == ("api-canary", "", "api")
    tier = {"tier": "web"}
    (row,) = lacking([*west, service("all", tier)], west, pod("api-1", {**API, **tier}), pod("b", tier))
    assert (row["service"], row["pods"], row["instead"]) == ("all", "b", "api")


def test_a_service_that_stays_at_home_is_not_lacking() -> None:
    """Though others share it."""
    assert lacking([service("api", API)], [service("api", API)], pod("api-1", API), settings=AT_HOME) == []


def test_names_resolve_where_every_sidecar_captures_them() -> None:
    """Where there is none, nobody answers for them."""
    captures, plain = pod("a", {}, ISTIO_META_DNS_CAPTURE="true"), pod("b", {})
    for pods, resolves in (([captures], True), ([captures, plain], False), ([held("Pod", "c")], False), ([], False)):
        (row,) = lacking([service("api", API)], [], *pods)
        assert row["resolves"] is resolves
