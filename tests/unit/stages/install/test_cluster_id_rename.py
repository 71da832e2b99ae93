"""Former ids of a live mesh: who still claims them, and when a control plane may stop accepting them."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from meshkit.checks.finding import Verdict
from meshkit.errors import InputError
from meshkit.istio.control_plane import versions
from meshkit.istio.multicluster import remote_secrets
from meshkit.istio.multicluster.remote_secrets import RemoteCluster, SyncStatus
from meshkit.istio.proxies import proxy_status, workloads
from meshkit.kube.mesh import Unknown
from meshkit.stages.install import cluster_id_rename
from meshkit.stages.install import stage as install
from tests.support.healthy import OTHER, Row, judged, mesh

PASS, FAIL, UNKNOWN, WARN, SKIPPED = Verdict.PASS, Verdict.FAIL, Verdict.UNKNOWN, Verdict.WARN, Verdict.SKIPPED


def proxy(name: str, **change: str) -> Row:
    """Return a proxy of the right ids."""
    ids = {"cluster_id": name, "told": name, "network": f"net-{name}", "mesh_id": "mesh1"}
    return {"cluster": name, "namespace": "sample", "proxy": "app", "state": "Running", **ids, **change}


def identities(*more: Row) -> pd.DataFrame:
    """Return one right proxy of each cluster, and more."""
    return cluster_id_rename.IDENTITIES.frame([*(proxy(name) for name in OTHER), *more])


def planes(**change: str) -> pd.DataFrame:
    """Return two control planes, with a change in that of east."""
    rows = [{"cluster": n, "istiod": f"istiod-{n}", "cluster_id": n, "becomes": n} for n in OTHER]
    rows[0] |= change
    return install.PLANES.frame(rows)


RENAMED = {"accepts": "Kubernetes", "alias": "Kubernetes"}
OLD = proxy("east", proxy="loner", cluster_id="Kubernetes", told="Kubernetes", network="")
UNREAD = proxy("east", proxy="mute", told="", reason="no answer within 10 s")


@pytest.mark.parametrize(
    ("rows", "verdict", "said"),
    [
        ([], PASS, "none of 1 does"),
        ([OLD], FAIL, "1 of 2 claim Kubernetes: sample/loner"),
        ([{**OLD, "told": "", "state": "Pending"}], FAIL, "sample/loner"),
        ([{**OLD, "state": "Ending"}], FAIL, "sample/loner"),
        ([{**OLD, "cluster_id": "east"}], FAIL, "sample/loner"),
        ([{**OLD, "told": "", "reason": "no answer"}], FAIL, "sample/loner"),
        ([UNREAD], UNKNOWN, "sample/mute: no answer"),
        ([UNREAD, OLD], FAIL, "sample/loner"),
        ([{"cluster": "east", "reason": "403"}], UNKNOWN, "east: 403"),
        ([{**OLD, "cluster": "west"}], PASS, "none of 1 does"),
    ],
)
def test_an_alias_is_dropped_when_nobody_claims_it(rows: list[Row], verdict: Verdict, said: str) -> None:
    """By pod and by Envoy, also who starts or ends; who cannot be read holds it; another cluster's proxy does not."""
    findings = list(cluster_id_rename.check_former(planes(**RENAMED), identities(*rows), drop_alias=True))
    (finding,) = [f for f in findings if f.subject == "east"]
    assert (finding.id, finding.verdict) == ("MK507", verdict)
    assert said in finding.observed
    assert bool(finding.remedy) == (verdict is not PASS)


@pytest.mark.parametrize(
    ("plane", "asked", "verdicts", "dropped"),
    [
        ({}, False, [], ""),
        ({}, True, [PASS], ""),
        (RENAMED, False, [SKIPPED], ""),
        (RENAMED, True, [FAIL], "Kubernetes"),
        ({"cluster_id": "Kubernetes", "alias": "Kubernetes"}, True, [SKIPPED], ""),
        ({"cluster_id": "Kubernetes", "alias": "Kubernetes", "accepts": "east"}, False, [], ""),
        ({"cluster_id": "middle", "alias": "middle", "accepts": "Kubernetes"}, False, [FAIL], "Kubernetes"),
        ({"reason": "no answer"}, True, [UNKNOWN], ""),
    ],
)
def test_when_an_alias_goes(plane: Row, asked: bool, verdicts: list[Verdict], dropped: str) -> None:
    """When it is asked for; and unasked when the cluster is renamed again, for istiod takes one alias only."""
    rows = planes(**plane)
    assert judged(cluster_id_rename.check_former(rows, identities(OLD), drop_alias=asked), "MK507", "east") == verdicts
    assert cluster_id_rename.dropped(rows.to_dict("records")[0], drop_alias=asked) == dropped


def test_what_stays_accepted_is_counted() -> None:
    """And how it ends is reported."""
    (finding,) = cluster_id_rename.check_former(planes(**RENAMED), identities(OLD), drop_alias=False)
    assert finding.observed.startswith("Kubernetes stays accepted; 1 of 2 proxies claim it; `-p drop_alias true`")


def test_whether_to_drop_is_yes_or_no() -> None:
    """A text is a slip."""
    with pytest.raises(InputError, match="drop_alias"):
        list(cluster_id_rename.check_former(planes(), identities(), drop_alias="yes"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        ({}, PASS),
        ({"cluster_id": "Kubernetes"}, FAIL),
        ({"told": "Kubernetes"}, FAIL),
        ({"network": ""}, FAIL),
        ({"mesh_id": "cluster.local"}, FAIL),
        ({"cluster_id": "Kubernetes", "state": "Ending"}, PASS),
        ({"told": "", "state": "Pending"}, PASS),
        ({"told": "", "reason": "no answer"}, UNKNOWN),
    ],
)
def test_every_proxy_claims_what_the_mesh_file_says(change: Row, verdict: Verdict) -> None:
    """Cluster id, network, mesh id; the table of those that are left has the same rows."""
    rows = identities(proxy("east", proxy="other", **change))
    findings = list(cluster_id_rename.check_claims(mesh(), rows))
    assert judged(findings, "MK522", "east") == [verdict]
    assert judged(findings, "MK522", "west") == [PASS]
    assert list(cluster_id_rename.left(mesh(), rows)["proxy"]) == ([] if verdict is PASS else ["other"])


def workload(**change: Any) -> Row:
    """Return a workload of the right ids."""
    ids = {"cluster_ids": "east", "networks": "net-east", "mesh_ids": "mesh1"}
    return {"cluster": "east", "namespace": "sample", "kind": "Deployment", "workload": "app", **ids, **change}


@pytest.mark.parametrize(
    ("change", "stale"),
    [
        ({}, False),
        ({"cluster_ids": "Kubernetes"}, True),
        ({"cluster_ids": "Kubernetes,east"}, True),
        ({"networks": "-"}, True),
        ({"mesh_ids": "cluster.local"}, True),
        ({"cluster_ids": "", "reason": "no answer"}, True),
    ],
)
def test_who_must_be_restarted(change: Row, stale: bool) -> None:
    """Whoever claims another cluster id, network or mesh id."""
    assert len(workloads.stale(mesh(), workloads.WORKLOADS.frame([workload(**change)]))) == stale


def test_what_no_restart_recreates_is_named_with_the_remedy() -> None:
    """It is a warning: the alias holds for it."""
    rows = [workload(networks="-", stuck=True, risk="it is paused: …"), workload(workload="b", networks="-")]
    known = install.InstallFacts(planes(), planes(), workloads.WORKLOADS.frame(rows), identities(), "1.31.0")
    found = {f.subject: f for f in install.check_restarts(mesh(), known)}
    assert found["east: Deployment sample/b"].verdict is PASS
    paused = found["east: Deployment sample/app"]
    assert paused.verdict is WARN
    assert "left as it is" in paused.remedy


@pytest.mark.parametrize(
    ("network", "remote", "warned"),
    [("multi", "east", True), ("multi", "Kubernetes", True), ("multi", "north", False), ("flat", "east", False)],
)
def test_a_restart_of_a_server_that_other_networks_call_is_a_risk(network: str, remote: str, warned: bool) -> None:
    """Where another cluster's istiod reads this one, by its name or by its former id; in a flat mesh none is lost."""
    rows = [workload(networks="-", remote_risk="clients of other networks may lose requests")]
    watched = RemoteCluster("west", "istiod", remote, SyncStatus.SYNCED, "istio-system/istio-remote-secret-east")
    readers = remote_secrets.seen_reading([watched, replace(watched, cluster="east", remote="east", secret="")])
    former = planes(cluster_id="Kubernetes")
    frame = workloads.WORKLOADS.frame(rows)
    known = install.InstallFacts(former, planes(), frame, identities(), "1.31.0", readers=readers)
    asked = mesh()
    topology = asked.spec.topology.model_copy(update={"network": network})
    asked.spec = asked.spec.model_copy(update={"topology": topology})
    (found,) = install.check_restarts(asked, known)
    assert (found.verdict is WARN) == warned
    assert ("15020/drain" in found.remedy) == warned


def test_a_proxy_that_claims_an_alias_is_found_by_the_id_that_istiod_tells() -> None:
    """Else it would be connected and not connected at once."""
    pod: Any = SimpleNamespace(cluster=SimpleNamespace(name="east"), kind="sidecar", cluster_id="Kubernetes")
    pod.namespace, pod.name = "sample", "loner"
    row = {"namespace": "sample", "proxy": "loner", "kind": "", "cluster_id": "east", "istiod_cluster": "east"}
    assert proxy_status._place([row], [pod]) == {("east", "sample", "loner")}
    assert (row["cluster"], row["kind"]) == ("east", "sidecar")


class TestWhatIsRead:
    """Pods, Envoys and istiods together; what they claim is given, not read."""

    def read(self, monkeypatch: pytest.MonkeyPatch, answer: Any, *connected: str) -> list[Row]:
        """Return the rows of a mesh whose one running pod gives this answer, and whose istiods know these proxies."""
        known = mesh()
        pods = [{"namespace": "sample", "proxy": "app", "state": "Running", "cluster_id": "east"}]
        monkeypatch.setattr(type(known), "each", lambda *_: {"east": pods, "west": Unknown("no answer")})
        monkeypatch.setattr(
            cluster_id_rename, "_reported_ids", lambda _: {("east", "sample", "app"): answer} if answer else {}
        )
        row = {"cluster": "east", "istiod": "istiod", "istiod_cluster": "east", "namespace": "sample"}
        rows = [{**row, "proxy": name} for name in connected]
        monkeypatch.setattr(cluster_id_rename, "proxy_status", lambda _: proxy_status.PROXY_STATUS.frame(rows))
        monkeypatch.setattr(cluster_id_rename, "SETTLE", 0.0)
        found: list[Row] = cluster_id_rename.identities(known).to_dict("records")  # type: ignore[assignment]
        return found

    def test_pod_and_envoy_are_read(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """And a cluster that cannot be is a row."""
        east, west = self.read(monkeypatch, "Kubernetes", "app")
        assert (east["cluster_id"], east["told"], east["reason"]) == ("east", "Kubernetes", "")
        assert (west["cluster"], west["reason"]) == ("west", "no answer")

    @pytest.mark.parametrize("answer", [Unknown("no answer within 10 s"), None])
    def test_an_envoy_that_does_not_answer_is_unread(self, monkeypatch: pytest.MonkeyPatch, answer: Any) -> None:
        """Whatever its pod says."""
        assert self.read(monkeypatch, answer)[0]["reason"]

    def test_who_is_connected_and_no_pod_is_unread(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A virtual machine, say."""
        rows = self.read(monkeypatch, "east", "app", "machine")
        (row,) = [row for row in rows if row["proxy"] == "machine"]
        assert "no pod" in row["reason"]


@pytest.mark.parametrize(("takes", "verdict"), [("east", PASS), ("Kubernetes", FAIL), ("", UNKNOWN)])
def test_no_workload_is_restarted_before_istio_csr_takes_the_new_id(takes: str, verdict: Verdict) -> None:
    """MK421: its restarted pods would say the cluster's name, and get no certificate; MK505 does not apply then."""
    signer = {"signed_by_others": "istio-csr at x.cert-manager.svc:443 (ENABLE_CA_SERVER=false)"}
    rows = planes(cluster_id="Kubernetes", **signer, others_cluster_id=takes)
    frame = workloads.WORKLOADS.frame([])
    running = versions.VERSIONS.frame([])
    findings = install.check(mesh(), install.InstallFacts(rows, running, frame, identities(), "1.31.0"))
    assert judged(findings, "MK421", "east") == [verdict]
    assert judged(findings, "MK505", "east") == [SKIPPED]
