"""The tables against a real API server that holds what a mesh would, without istiod: secrets, gateways, pods."""

from __future__ import annotations

import base64
import io
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from meshkit.istio.ca import certificates, trust_store
from meshkit.istio.multicluster import gateways, remote_secrets
from meshkit.istio.proxies import proxy_status, reading, status_summary
from meshkit.kube.cluster import Cluster
from meshkit.kube.mesh import Mesh
from meshkit.spec import MeshSpec
from tests.support.api_server import TOKENS, ApiServer, certificate_pem, free_port, write_kubeconfig

SYSTEM = "istio-system"


@pytest.fixture(scope="module")
def cluster(api_server: ApiServer) -> Cluster:
    """The API server with Istio's namespace."""
    admin = api_server.connect()
    admin.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SYSTEM, "labels": {NETWORK: "net-a"}}})
    return admin


@pytest.fixture
def mesh(api_server: ApiServer, cluster: Cluster, tmp_path: Path) -> Mesh:
    """A mesh of that API server, called here, and of a dead one, called gone."""
    dead = write_kubeconfig(tmp_path / "dead", f"https://127.0.0.1:{free_port()}", None, {"gone": "t"})
    entries = [
        {"name": "here", "context": "admin", "kubeconfig": str(api_server.kubeconfig), "network": "net-a"},
        {"name": "gone", "context": "gone", "kubeconfig": str(dead), "network": "net-b"},
    ]
    return Mesh.open(MeshSpec.parse({"clusters": entries}, where="test"))


@pytest.fixture
def put(cluster: Cluster) -> Iterator[Any]:
    """Apply objects for the length of a test."""
    there: list[dict[str, Any]] = []

    def apply(manifest: dict[str, Any]) -> dict[str, Any]:
        there.append(manifest)
        return cluster.apply(manifest)

    yield apply
    for manifest in reversed(there):
        cluster.delete(manifest)


NETWORK = "topology.istio.io/network"


class TestRemoteSecrets:
    """Each way in which a remote secret can be wrong."""

    def test_a_good_credential_leads_to_its_cluster(self, mesh: Mesh, api_server: ApiServer, put: Any) -> None:
        """It is tried at our own address of the cluster that its key names."""
        put(remote_secret("here", api_server, server="https://10.255.255.1"))
        row = the_secret(mesh)
        assert (row["credential"], row["leads_to"], row["detail"]) == ("ok", "here", "")
        assert (row["key"], row["annotation"], row["labelled"], row["auth"]) == ("here", "here", True, "token")
        assert (row["server"], row["tried_at"]) == ("https://10.255.255.1", api_server.server)

    def test_an_address_in_a_secret_is_never_shown_the_token(self, mesh: Mesh, api_server: ApiServer, put: Any) -> None:
        """From here it may lead to a stranger."""
        with socket.create_server(("127.0.0.1", 0)) as stranger:
            stranger.settimeout(0.1)
            put(remote_secret("here", api_server, server=f"http://127.0.0.1:{stranger.getsockname()[1]}"))
            assert the_secret(mesh)["credential"] == "ok"
            with pytest.raises(TimeoutError):
                stranger.accept()

    def test_a_key_that_is_not_the_clusters_name_shows(self, mesh: Mesh, api_server: ApiServer, put: Any) -> None:
        """The credential works, but at another cluster than its key says."""
        put(remote_secret("there", api_server))
        row = the_secret(mesh)
        assert (row["credential"], row["leads_to"], row["detail"]) == ("mismatch", "here", "it is a credential of here")

    @pytest.mark.parametrize(("token", "credential"), [("revoked", "401"), ("nobody-token", "403")])
    def test_a_refused_credential_is_reported_with_its_code(
        self, mesh: Mesh, api_server: ApiServer, put: Any, token: str, credential: str
    ) -> None:
        """A revoked token and one without rights differ in their remedy."""
        put(remote_secret("here", api_server, token=token))
        assert the_secret(mesh)["credential"] == credential

    def test_a_wrong_ca_shows(self, mesh: Mesh, api_server: ApiServer, put: Any) -> None:
        """The token is good, but the secret's CA did not sign what answers."""
        put(remote_secret("here", api_server, ca=certificate_pem("another")))
        row = the_secret(mesh)
        assert "its certificate is not trusted" in row["detail"]
        assert row["credential"] == "ok"  # nobody says here which CA is the cluster's
        root = {"name": "kube-root-ca.crt", "namespace": "default"}
        put({"apiVersion": "v1", "kind": "ConfigMap", "metadata": root, "data": {"ca.crt": api_server.ca.decode()}})
        assert the_secret(mesh)["credential"] == "other CA"

    def test_a_credential_of_a_dead_cluster_is_unreachable(self, mesh: Mesh, api_server: ApiServer, put: Any) -> None:
        """Nothing can be said of it, and the other clusters are not tried."""
        put(remote_secret("gone", api_server))
        row = the_secret(mesh)
        assert (row["credential"], row["detail"]) == ("unreachable", "it refuses the connection")

    def test_a_credential_that_nobody_takes_is_untested(self, mesh: Mesh, api_server: ApiServer, put: Any) -> None:
        """Its key names no cluster of the mesh file, and no cluster of the mesh knows it."""
        put(remote_secret("stranger", api_server, token="of-a-stranger"))
        assert the_secret(mesh)["credential"] == "untested"

    def test_a_program_in_a_secret_is_never_run(self, mesh: Mesh, api_server: ApiServer, put: Any) -> None:
        """Neither does istiod, unless configured so."""
        put(remote_secret("here", api_server, user={"exec": {"command": "/bin/false", "args": []}}))
        row = the_secret(mesh)
        assert (row["auth"], row["credential"]) == ("exec", "untested")

    def test_what_is_no_kubeconfig_is_unreadable(self, mesh: Mesh, api_server: ApiServer, put: Any) -> None:
        """Istiod drops it with a log line, and does not try again."""
        secret = remote_secret("here", api_server)
        secret["data"] = {"here": base64.b64encode(b"canary: [").decode()}
        put(secret)
        row = the_secret(mesh)
        assert (row["auth"], row["credential"]) == ("unreadable", "untested")
        assert "canary" not in row["detail"]

    def test_a_secret_without_label_or_in_the_wrong_namespace_is_found(
        self, mesh: Mesh, api_server: ApiServer, put: Any
    ) -> None:
        """Istiod ignores both in silence."""
        lost = remote_secret("here", api_server)
        del lost["metadata"]["labels"]
        put(lost)
        strayed = remote_secret("other", api_server)
        strayed["metadata"]["namespace"] = "default"
        put(strayed)
        table = remote_secrets.remote_secrets(mesh).frame().query("cluster == 'here'")
        assert sorted(table[["namespace", "labelled"]].itertuples(index=False, name=None)) == [
            ("default", True),
            (SYSTEM, False),
        ]

    def test_a_paused_secret_is_found_whatever_its_name(self, mesh: Mesh, api_server: ApiServer, put: Any) -> None:
        """Its label was taken off by stage 04, which left an annotation."""
        secret = remote_secret("here", api_server)
        del secret["metadata"]["labels"]
        secret["metadata"] |= {"name": "of-another-making", "annotations": {remote_secrets.PAUSED: "true"}}
        put(secret)
        row = the_secret(mesh)
        assert (row["name"], row["labelled"], row["paused"]) == ("of-another-making", False, True)

    def test_an_unreadable_cluster_is_a_row(self, mesh: Mesh) -> None:
        """It says that nothing is known, and why."""
        row = remote_secrets.remote_secrets(mesh).frame().query("cluster == 'gone'").iloc[0]
        assert (row["credential"], row["detail"]) == ("UNKNOWN", "it refuses the connection")

    def test_no_token_is_in_the_table(self, mesh: Mesh, api_server: ApiServer, put: Any) -> None:
        """Whatever the outcome."""
        put(remote_secret("here", api_server))
        put(remote_secret("a", api_server, token="canary-token"))
        put(remote_secret("b", api_server, token="canary-token", server="https://127.0.0.1:1"))
        text = remote_secrets.remote_secrets(mesh).frame().to_csv()
        assert "canary" not in text
        assert "admin-token" not in text


class TestGateways:
    """East-west gateways as a cluster offers them."""

    def test_a_gateway_is_read_from_its_service(self, mesh: Mesh, put: Any) -> None:
        """Network, port, address, pods; what nothing exposes says so by an empty column."""
        put(gateway_service({NETWORK: "net-a"}))
        (one,) = gateways.gateways(mesh).of("here")
        assert (one.network, one.namespace_network, one.port) == ("net-a", "net-a", 15443)
        assert (one.addresses, one.pods, one.ready, one.exposed_by) == (("10.0.0.9",), 0, 0, ())

    def test_a_gateway_without_its_label_is_found_by_its_port(self, mesh: Mesh, put: Any) -> None:
        """Istiod would not take it for one: the network is empty."""
        put(gateway_service({}))
        (one,) = gateways.gateways(mesh).of("here")
        assert one.network == ""

    def test_a_cluster_without_a_gateway_and_a_dead_one_are_rows(self, mesh: Mesh) -> None:
        """Each says why there is nothing."""
        reasons = gateways.gateways(mesh).frame().set_index("cluster")["reason"]
        assert reasons["gone"] == "it refuses the connection"
        assert "15443" in reasons["here"]


class TestPods:
    """Proxies that no istiod knows."""

    def test_a_proxy_without_istiod_is_not_connected(self, mesh: Mesh, cluster: Cluster, put: Any) -> None:
        """A running pod with a sidecar, classic or native, and nobody who knows it; other pods do not count."""
        for name, spec in (
            ("classic", {"containers": [container("app"), container("istio-proxy", "proxy", "sidecar")]}),
            ("native", {"containers": [container("app")], "initContainers": [container("istio-proxy", "proxy", "x")]}),
            ("plain", {"containers": [container("app")]}),
        ):
            run(cluster, put, name, spec)
        gone = proxy_status.proxy_status(mesh).query("cluster == 'gone'")
        assert set(gone["state"]) == {"UNKNOWN"}
        alone = Mesh(mesh.spec, {"here": cluster})
        table = proxy_status.proxy_status(alone)
        assert dict(zip(table["proxy"], table["state"], strict=True)) == {
            "classic": "NOT CONNECTED",
            "native": "NOT CONNECTED",
        }
        assert list(status_summary.summary(table)["worst"]) == ["NOT CONNECTED"] * 2

    def test_a_pod_that_waits_for_its_proxy_is_not_connected(self, mesh: Mesh, cluster: Cluster, put: Any) -> None:
        """A native sidecar that restarts keeps its pod pending; one that is only just coming up does not count."""
        spec = {"containers": [container("app")], "initContainers": [container("istio-proxy", "proxy", "sidecar")]}
        told = {"name": "istio-proxy", "image": "none", "imageID": "", "ready": False, "restartCount": 4}
        told["state"] = {"waiting": {"reason": "CrashLoopBackOff"}}
        run(cluster, put, "failing", spec, phase="Pending", initContainerStatuses=[told])
        run(cluster, put, "coming", spec, phase="Pending")
        run(cluster, put, "over", spec, phase="Succeeded", initContainerStatuses=[told])
        (row,) = proxy_status.proxy_status(Mesh(mesh.spec, {"here": cluster})).to_dict("records")
        assert (row["proxy"], row["state"]) == ("failing", "NOT CONNECTED")
        assert row["nack"] == "CrashLoopBackOff, restarted 4 times, its proxy is not ready"
        assert 0 <= row["age_s"] < 60

    def test_pods_in_ambient_mode_need_a_ztunnel_on_their_node(self, mesh: Mesh, cluster: Cluster, put: Any) -> None:
        """Each node without one is reported, with the number of its pods; ztunnel and waypoint have their kinds."""
        captured = {proxy_status.REDIRECTED: "enabled"}
        plain = {"containers": [container("app")]}
        for name, node in (("a", "bare"), ("b", "bare"), ("c", "covered")):
            run(cluster, put, name, plain, node=node, annotations=captured)
        ztunnel = {"containers": [container("istio-proxy", "proxy", "ztunnel")]}
        run(cluster, put, "ztunnel-1", ztunnel, node="covered", namespace=SYSTEM)
        run(cluster, put, "waypoint-1", {"containers": [container("istio-proxy", "proxy", "waypoint")]})
        alone = Mesh(mesh.spec, {"here": cluster})
        rows = proxy_status.proxy_status(alone).set_index("proxy")
        assert dict(rows["kind"]) == {"node/bare": "ztunnel", "waypoint-1": "waypoint", "ztunnel-1": "ztunnel"}
        assert rows.loc["node/bare", "nack"] == "2 pods in ambient mode there, and no ztunnel"
        assert set(proxy_status.proxy_status(alone, SYSTEM)["proxy"]) == {"ztunnel-1"}

    def test_what_an_unread_istiod_may_know_is_unknown(self, mesh: Mesh, cluster: Cluster, put: Any) -> None:
        """With an istiod that cannot be asked, nobody can say that a proxy is not connected."""
        run(cluster, put, "lonely", {"containers": [container("istio-proxy", "proxy", "sidecar")]})
        run(
            cluster,
            put,
            "istiod-1",
            {"containers": [container("discovery")]},
            namespace=SYSTEM,
            labels={"app": "istiod"},
        )
        table = proxy_status.proxy_status(mesh).query("cluster == 'here'")
        assert set(table["state"]) == {"UNKNOWN"}
        lonely = table[table["proxy"] == "lonely"].iloc[0]
        assert "istiod-1" in lonely["nack"]
        told = remote_secrets.remote_clusters(mesh).frame().query("istiod == 'istiod-1'").iloc[0]
        assert told["status"] == "UNKNOWN"
        assert told["reason"]
        assert reading.read_versions(mesh).query("name == 'istiod-1'").iloc[0]["reason"]


class TestRoots:
    """Roots as a cluster hands them out."""

    def test_roots_are_read_and_keys_are_not(self, mesh: Mesh, put: Any) -> None:
        """The Secret's root, not its key; the ConfigMap of each namespace; a dead cluster says why."""
        root, other = certificate_pem("root"), certificate_pem("other")
        data = {"root-cert.pem": _b64(root), "ca-cert.pem": _b64(other), "ca-key.pem": _b64(b"canary")}
        put({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "cacerts", "namespace": SYSTEM}, "data": data})
        for namespace, pem in ((SYSTEM, root), ("default", root + other)):
            put(
                {
                    "apiVersion": "v1",
                    "kind": "ConfigMap",
                    "metadata": {"name": "istio-ca-root-cert", "namespace": namespace},
                    "data": {"root-cert.pem": pem.decode()},
                }
            )
        found = trust_store.roots(mesh)
        digests = [certificates.fingerprint(c) for c in certificates.parse_bundle(root + other)]
        counted = {(one.source, one.sha256): (one.holders, one.of) for one in found.of("here")}
        assert counted["secret cacerts", digests[0]] == (1, 1)
        assert ("secret cacerts", digests[1]) not in counted
        # Other tests share this API server, and may have left the ConfigMap in their namespaces.
        maps = [m for m in mesh.clusters["here"].get("configmaps") if m["metadata"]["name"] == "istio-ca-root-cert"]
        assert counted["configmap istio-ca-root-cert", digests[0]] == (2, len(maps))
        assert counted["configmap istio-ca-root-cert", digests[1]] == (1, len(maps))
        text, table = io.StringIO(), found.frame()
        assert set(table[table["cluster"] == "gone"]["reason"]) == {"it refuses the connection"}
        table.to_csv(text)
        assert "canary" not in text.getvalue()
        assert _b64(b"canary") not in text.getvalue()


def remote_secret(
    key: str,
    api_server: ApiServer,
    *,
    token: str = TOKENS["admin"],
    server: str = "",
    ca: bytes = b"",
    user: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Return a remote secret as `istioctl create-remote-secret` makes it."""
    kubeconfig = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": key,
        "clusters": [
            {
                "name": key,
                "cluster": {
                    "server": server or api_server.server,
                    "certificate-authority-data": _b64(ca or api_server.ca),
                },
            }
        ],
        "contexts": [{"name": key, "context": {"cluster": key, "user": key}}],
        "users": [{"name": key, "user": user or {"token": token}}],
    }
    metadata = {
        "name": f"istio-remote-secret-{key}",
        "namespace": SYSTEM,
        "labels": {"istio/multiCluster": "true"},
        "annotations": {"networking.istio.io/cluster": key},
    }
    data = {key: _b64(yaml.safe_dump(kubeconfig).encode())}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": data}


def the_secret(mesh: Mesh) -> dict[str, Any]:
    """Return the row of the one remote secret here."""
    (row,) = remote_secrets.remote_secrets(mesh).frame().query("cluster == 'here'").to_dict("records")
    return {str(key): value for key, value in row.items()}


def gateway_service(labels: dict[str, str]) -> dict[str, Any]:
    """Return an east-west gateway's Service with an address."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "eastwest", "namespace": SYSTEM, "labels": labels},
        "spec": {
            "selector": {"istio": "eastwestgateway"},
            "externalIPs": ["10.0.0.9"],
            "ports": [{"name": "tls", "port": 15443}],
        },
    }


def container(name: str, *arguments: str) -> dict[str, Any]:
    """Return a container."""
    return {"name": name, "image": "none", "args": list(arguments)}


def run(
    cluster: Cluster,
    put: Any,
    name: str,
    spec: dict[str, Any],
    *,
    namespace: str = "default",
    labels: dict[str, str] | None = None,
    annotations: dict[str, str] | None = None,
    node: str = "nowhere",
    **status: Any,
) -> None:
    """Create a pod and say that it runs, as a kubelet would."""
    metadata = {"name": name, "namespace": namespace, "labels": labels or {}, "annotations": annotations or {}}
    # Without a kubelet nobody would confirm the end of a pod: it gets no grace.
    placed = {**spec, "nodeName": node, "terminationGracePeriodSeconds": 0}
    put({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": placed})
    cluster._request(
        "PATCH",
        f"/api/v1/namespaces/{namespace}/pods/{name}/status",
        body={"status": {"phase": "Running", **status}},
        content_type="application/merge-patch+json",
    )


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()
