"""What istiods of each version answer to `/debug/syncz`, read without a cluster."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from meshkit.errors import UnreachableError
from meshkit.istio.proxies import syncz

NOW = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)
TYPE = "type.googleapis.com/envoy.config."
CLUSTER, LISTENER, ROUTE = (
    f"{TYPE}cluster.v3.Cluster",
    f"{TYPE}listener.v3.Listener",
    f"{TYPE}route.v3.RouteConfiguration",
)
ADDRESS, AUTHORIZATION = (
    "type.googleapis.com/istio.workload.Address",
    "type.googleapis.com/istio.security.Authorization",
)
OLD, NEW = "2026-11-23T11:58:00Z/4aa", "2026-11-23T11:59:00Z/4bb"
TAKEN = {"sent": NEW, "acked": NEW, "sentTime": "2026-11-23T11:59:00.25Z"}
NONCES = {"cluster_sent": "8I=1", "cluster_acked": "8I=1", "listener_sent": "8I=2", "listener_acked": "8I=1"}
NONCES |= {"route_sent": "8I=3", "endpoint_sent": "8I=4", "endpoint_acked": "8I=4"}
BEHIND = f"it still runs on the configuration of {OLD[:20]}"
State = tuple[str, str]

# Each with the version whose pilot/pkg/xds/debug.go (the last one: statusgen.go) makes this form.
FORMS: list[tuple[str, Any, dict[str, str], dict[str, State]]] = [
    (
        "1.10: no cluster id",
        [{"proxy": "a-1.sample", "istio_version": "1.10.0", "cluster_sent": "C=1", "cluster_acked": "C=1"}],
        {"version": "1.10.0", "cluster_id": "", "kind": ""},
        {"CDS": ("SYNCED", ""), "LDS": ("NOT SENT", ""), "EDS": ("NOT SENT", ""), "RDS": ("NOT SENT", "")},
    ),
    (
        "1.14: pairs of nonces",
        [{"cluster_id": "east", "proxy": "a-1.sample", "istio_version": "1.14.1", **NONCES}],
        {"version": "1.14.1", "cluster_id": "east", "kind": ""},
        {
            "CDS": ("SYNCED", ""),
            "LDS": ("STALE", ""),
            "EDS": ("SYNCED", ""),
            "RDS": ("STALE", "it never acknowledged any"),
        },
    ),
    (
        "1.18: and of extensions",
        [{"cluster_id": "east", "proxy": "a-1.sample", **NONCES, "extensionconfig_sent": "8I=5"}],
        {"version": "", "cluster_id": "east", "kind": ""},
        {
            "CDS": ("SYNCED", ""),
            "LDS": ("STALE", ""),
            "EDS": ("SYNCED", ""),
            "RDS": ("STALE", "it never acknowledged any"),
            "ECDS": ("STALE", "it never acknowledged any"),
        },
    ),
    (
        "1.21: the kind beside them",
        [{"cluster_id": "east", "proxy": "w-1.sample", "proxy_type": "waypoint", "istio_version": "1.21.0", **NONCES}],
        {"version": "1.21.0", "cluster_id": "east", "kind": "waypoint"},
        {
            "CDS": ("SYNCED", ""),
            "LDS": ("STALE", ""),
            "EDS": ("SYNCED", ""),
            "RDS": ("STALE", "it never acknowledged any"),
        },
    ),
    (
        "1.21: nothing of what a ztunnel subscribes to",
        [{"cluster_id": "east", "proxy": "ztunnel-x.istio-system", "proxy_type": "ztunnel", "istio_version": "1.21.0"}],
        {"version": "1.21.0", "cluster_id": "east", "kind": "ztunnel"},
        {"WDS": ("UNKNOWN", "an istiod of this version does not report ztunnels' types")},
    ),
    (
        "1.27 to 1.32: every type, with times and errors",
        [
            {
                "cluster_id": "east",
                "proxy": "a-1.sample",
                "proxy_type": "sidecar",
                "istio_version": "1.31.0",
                **NONCES,
                "resources": {
                    CLUSTER: TAKEN,
                    LISTENER: {**TAKEN, "acked": OLD, "lastError": "no such filter"},
                    ROUTE: {**TAKEN, "acked": OLD},
                    "type.googleapis.com/istio.networking.nds.v1.NameTable": {"sentTime": "0001-01-01T00:00:00Z"},
                    "type.googleapis.com/of.Tomorrow": TAKEN,
                },
            }
        ],
        {"version": "1.31.0", "cluster_id": "east", "kind": "sidecar"},
        {
            "CDS": ("SYNCED", ""),
            "LDS": ("ERROR", "no such filter"),
            "RDS": ("STALE", BEHIND),
            "NDS": ("NOT SENT", ""),
            "type.googleapis.com/of.Tomorrow": ("SYNCED", ""),
        },
    ),
    (
        "1.27 to 1.32: a ztunnel",
        [
            {
                "cluster_id": "east",
                "proxy": "ztunnel-x.istio-system",
                "proxy_type": "ztunnel",
                "resources": {ADDRESS: TAKEN, AUTHORIZATION: TAKEN},
            }
        ],
        {"version": "", "cluster_id": "east", "kind": "ztunnel"},
        {"WDS": ("SYNCED", ""), "WADS": ("SYNCED", "")},
    ),
    (
        "1.30 on: what istioctl proxy-status -o json prints",
        {
            "resources": [
                {
                    "node": {"id": "a-1.sample", "metadata": {"CLUSTER_ID": "east", "ISTIO_VERSION": "1.31.0"}},
                    "genericXdsConfigs": [
                        {"typeUrl": CLUSTER, "configStatus": "SYNCED", "lastUpdated": "2026-11-23T11:59:00Z"},
                        {"typeUrl": LISTENER, "configStatus": "ERROR", "errorState": {"details": "no such filter"}},
                        {"typeUrl": ROUTE, "configStatus": "NOT_SENT"},
                        {"typeUrl": "y"},
                    ],
                }
            ]
        },
        {"version": "1.31.0", "cluster_id": "east", "kind": ""},
        {"CDS": ("SYNCED", ""), "LDS": ("ERROR", "no such filter"), "RDS": ("NOT SENT", ""), "y": ("IGNORED", "")},
    ),
]


@pytest.mark.parametrize(("document", "proxy", "states"), [form[1:] for form in FORMS], ids=[form[0] for form in FORMS])
def test_each_form_is_read(document: Any, proxy: dict[str, str], states: dict[str, State]) -> None:
    """The proxy, and each type with its state and the reason for it."""
    rows = syncz.parse_syncz(document, NOW)
    assert {row["type"]: (row["state"], row["nack"]) for row in rows} == states
    assert all({key: row[key] for key in proxy} == proxy for row in rows)


def test_age_counts_from_the_last_sending() -> None:
    """A time with nine digits, and one that never was."""
    resources = {
        CLUSTER: {**TAKEN, "sentTime": "2026-11-23T11:59:30.123456789Z"},
        LISTENER: {"sentTime": "0001-01-01T00:00:00Z"},
    }
    known, never = syncz.parse_syncz([{"proxy": "a-1.sample", "resources": resources}], NOW)
    assert known["age_s"] == pytest.approx(29.877, abs=0.001)
    assert never["since"] is None
    assert never["age_s"] != never["age_s"]


def test_istioctls_own_connection_is_no_proxy() -> None:
    """It subscribes to debug types while it asks."""
    assert syncz.parse_syncz([{"proxy": "x.y", "resources": {"istio.io/debug/syncz": {"sent": "1"}}}], NOW) == []


@pytest.mark.parametrize("nothing", [[], None, {}])
def test_no_proxies_are_no_rows(nothing: Any) -> None:
    """An istiod that nobody is connected to is not an error."""
    assert syncz.parse_syncz(nothing, NOW) == []


@pytest.mark.parametrize("document", ["no", 3, ["a"], [{"id": "a"}], {"proxies": []}, {"resources": {"a": 1}}])
def test_another_form_is_an_error_and_not_an_empty_fleet(document: Any) -> None:
    """Or every proxy would be reported as not connected."""
    with pytest.raises(UnreachableError, match="a form that meshkit does not know"):
        syncz.parse_syncz(document, NOW)
