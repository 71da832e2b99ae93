"""What meshkit's tables say, against what istioctl, kubectl and openssl say of the same real mesh."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from meshkit.errors import ChangeError, UnreachableError
from meshkit.istio.ca import certificates, trust_store
from meshkit.istio.control_plane import istiods_and_proxies as istio_fleet
from meshkit.istio.control_plane import versions
from meshkit.istio.control_plane.istiods_and_proxies import Proxy
from meshkit.istio.multicluster import gateways, remote_secrets
from meshkit.istio.proxies import envoy_admin, proxy_status, reading, status_summary
from meshkit.kube.cluster import Cluster
from meshkit.kube.mesh import Mesh, Unknown, gather
from meshkit.kube.transport import NotFoundError
from meshkit.spec import MeshSpec
from tests.support.api_server import free_port, write_kubeconfig
from tests.support.lab import Lab

pytestmark = pytest.mark.lab

Say = Callable[..., str]


@pytest.fixture(scope="session")
def mesh(meshed_lab: Lab) -> Mesh:
    """The lab's mesh: east and west, on two networks."""
    return Mesh.open(meshed_lab.mesh_file)


@pytest.fixture(scope="session")
def istioctl(meshed_lab: Lab) -> Say:
    """Run istioctl on a context, and return what it prints."""
    return meshed_lab.istioctl


@pytest.fixture(scope="session")
def kubectl(meshed_lab: Lab) -> Say:
    """Run kubectl on a context, and return what it prints."""
    return meshed_lab.kubectl


@pytest.fixture(scope="session")
def east(mesh: Mesh) -> Cluster:
    """The first cluster."""
    return mesh.clusters["east"]


@pytest.fixture(scope="session")
def sleep(east: Cluster) -> Proxy:
    """The sidecar of east's sleep pod."""
    return next(proxy for proxy in istio_fleet.proxies(east) if proxy.name.startswith("sleep-"))


class TestProxyStatus:
    """`proxy_status` against `istioctl proxy-status`."""

    def test_every_state_is_that_of_istioctls_json(self, mesh: Mesh, istioctl: Say) -> None:
        """Proxy by proxy, type by type, in both clusters, nothing more and nothing less."""

        def ours() -> set[tuple[str, ...]]:
            table = proxy_status.proxy_status(mesh)
            columns = ["cluster_id", "proxy", "namespace", "version", "type", "state"]
            return set(table[columns].itertuples(index=False, name=None))

        def theirs() -> set[tuple[str, ...]]:
            return {
                row for name in mesh.clusters for row in _istioctl_states(istioctl(f"lab-{name}", "ps", "-o", "json"))
            }

        _agree(ours, theirs)

    def test_the_summary_is_istioctls_verbose_table(self, mesh: Mesh, istioctl: Say) -> None:
        """Name, cluster, istiod, version and the state under each type's name, as with `-v 1`."""

        def ours() -> set[tuple[str, ...]]:
            table = status_summary.summary(proxy_status.proxy_status(mesh))
            return {
                (f"{row['proxy']}.{row['namespace']}", row["cluster"], row["istiod"], row["version"], kind, row[kind])
                for row in table.to_dict("records")
                for kind in table.columns[7:]
            }

        def theirs() -> set[tuple[str, ...]]:
            return {row for name in mesh.clusters for row in _verbose_states(istioctl(f"lab-{name}", "ps", "-v", "1"))}

        shown = {row[4] for row in ours()}
        _agree(ours, lambda: {row for row in theirs() if row[4] in shown})

    def test_a_refused_configuration_is_an_error_with_its_text(self, mesh: Mesh, east: Cluster, istioctl: Say) -> None:
        """A filter that Envoy cannot load: ERROR and the NACK, as istioctl's JSON has it; SYNCED again without it."""
        manifest = _broken_filter()
        east.apply(manifest)
        try:
            status = _until(lambda: proxy_status.proxy_status(mesh).query("state == 'ERROR'"), lambda t: not t.empty)
            row = status.iloc[0]
            assert (row["cluster"], row["type"], row["proxy"].startswith("sleep-")) == ("east", "LDS", True)
            assert row["nack"]
            assert row["nack"] in {
                config["errorState"]["details"]
                for document in _documents(istioctl("lab-east", "ps", "-o", "json"))
                for resource in document["resources"]
                for config in resource["genericXdsConfigs"]
                if "errorState" in config
            }
            assert status_summary.summary(proxy_status.proxy_status(mesh)).iloc[0]["worst"] == "ERROR"
        finally:
            east.delete(manifest)
        _until(lambda: proxy_status.proxy_status(mesh), lambda t: set(t["state"]) == {"SYNCED"})


class TestRemotes:
    """Remote clusters, remote secrets and gateways."""

    def test_remote_clusters_are_istioctls(self, mesh: Mesh, istioctl: Say) -> None:
        """`istioctl remote-clusters` of both contexts, in any order."""

        def theirs() -> set[tuple[str, ...]]:
            found: set[tuple[str, ...]] = set()
            for name in mesh.clusters:
                for line in istioctl(f"lab-{name}", "remote-clusters").splitlines()[1:]:
                    remote, secret, status, istiod = re.match(r"(\S+)\s+(\S+/\S+)?\s+(\S+)\s+(\S+)", line).groups("")  # type: ignore[union-attr]
                    found.add((remote, secret, status, istiod))
            return found

        columns = ["remote", "secret", "status", "istiod"]
        _agree(
            lambda: set(remote_secrets.remote_clusters(mesh).frame()[columns].itertuples(index=False, name=None)),
            theirs,
        )

    def test_each_credential_works_and_leads_where_its_key_says(self, mesh: Mesh) -> None:
        """Every ordered pair has one; tokens and certificates are nowhere in the table."""
        table = remote_secrets.remote_secrets(mesh).frame()
        assert set(table[["cluster", "key"]].itertuples(index=False, name=None)) == set(mesh.ordered_pairs)
        assert set(table["credential"]) == {"ok"}
        assert list(table["leads_to"]) == list(table["key"]) == list(table["annotation"])
        assert "eyJ" not in table.to_csv()

    def test_gateways_are_those_of_kubectl(self, mesh: Mesh, kubectl: Say) -> None:
        """The labelled Service's address, port and network, exposed by the Gateway, with a ready pod."""
        offered = gateways.gateways(mesh)
        assert {one.cluster for one in offered} == set(mesh.clusters)
        for one in offered:
            path = "jsonpath={.metadata.labels.topology\\.istio\\.io/network} {.status.loadBalancer.ingress[*].ip}"
            said = kubectl(f"lab-{one.cluster}", "-n", one.namespace, "get", "service", one.service, "-o", path)
            assert said.split() == [one.network, *one.addresses]
            assert (one.port, one.ready) == (15443, one.pods)
            assert one.exposed_by == ("istio-system/cross-network-gateway",)

    def test_each_istiod_sees_the_gateways_that_it_tells_istioctl(self, mesh: Mesh, istioctl: Say) -> None:
        """`istioctl x internal-debug networkz`."""
        theirs = {
            (name, gateway["Network"], gateway["Cluster"], gateway["Addr"], gateway["Port"])
            for name in mesh.clusters
            for gateway in json.loads(istioctl(f"lab-{name}", "x", "internal-debug", "networkz"))
        }
        seen = gateways.gateways_seen(mesh)
        assert {(one.cluster, one.network, one.gateway_cluster, one.address, one.port) for one in seen} == theirs


class TestTrust:
    """Certificates against openssl and istioctl."""

    def test_each_leaf_is_what_openssl_reads(self, mesh: Mesh, istioctl: Say) -> None:
        """Fingerprint, serial, dates and SPIFFE identity of every proxy."""
        known = trust_store.certificates(mesh)
        assert known.unread == ()
        for one in known:
            name = f"{one.proxy}.{one.namespace}"
            held = json.loads(istioctl(f"lab-{one.cluster}", "pc", "secret", name, "-o", "json"))
            chain = {s["name"]: s["secret"] for s in held["dynamicActiveSecrets"]}["default"]["tlsCertificate"]
            pem = base64.b64decode(chain["certificateChain"]["inlineBytes"])
            said = _openssl(pem, "-fingerprint", "-sha256", "-serial", "-dates", "-ext", "subjectAltName")
            assert one.sha256 == said["sha256 Fingerprint"].replace(":", "").lower()
            assert int(one.serial, 16) == int(said["serial"], 16)
            assert f"{one.not_after:%b %d %H:%M:%S %Y GMT}" == re.sub(r"  ", " 0", said["notAfter"])
            assert f"{one.not_before:%b %d %H:%M:%S %Y GMT}" == re.sub(r"  ", " 0", said["notBefore"])
            assert one.identity in said["text"]
            assert one.chain == pem.count(b"BEGIN CERTIFICATE")
            assert one.reason == ""

    def test_one_root_stands_in_every_place(self, mesh: Mesh, kubectl: Say) -> None:
        """Secret, ConfigMaps and all proxies of both clusters hold the root that openssl reads from the ConfigMap."""
        path = "jsonpath={.data.root-cert\\.pem}"
        pem = kubectl("lab-west", "-n", "sample", "get", "cm", "istio-ca-root-cert", "-o", path).encode()
        digest = _openssl(pem, "-fingerprint", "-sha256")["sha256 Fingerprint"].replace(":", "").lower()
        found = trust_store.roots(mesh)
        assert {one.sha256 for one in found} == {digest}
        assert [one.holders for one in found] == [one.of for one in found]
        assert {(one.cluster, one.source) for one in found} == {
            (cluster, source)
            for cluster in mesh.clusters
            for source in ("secret cacerts", "configmap istio-ca-root-cert", "proxies")
        }
        held = trust_store.certificates(mesh)
        assert {one.roots for one in held} == {(digest[: certificates.SHORT],)}
        assert {one.anchor for one in held} == {digest[: certificates.SHORT]}


class TestVersions:
    """Versions and identities."""

    def test_versions_are_istioctls(self, mesh: Mesh, istioctl: Say, kubectl: Say) -> None:
        """istiod, proxies and gateways of `istioctl version`, Kubernetes of `kubectl version`."""
        table = reading.read_versions(mesh)
        for name in mesh.clusters:
            said = json.loads(istioctl(f"lab-{name}", "version", "-o", "json"))
            rows = table[table["cluster"] == name]
            of = {kind: set(rows[rows["component"] == kind]["version"]) for kind in set(rows["component"])}
            assert of["istiod"] == {entry["Info"]["version"] for entry in said["meshVersion"]}
            for kind, theirs in (("proxy", "sidecar"), ("gateway", "gateway")):
                same = [p["IstioVersion"] for p in said["dataPlaneVersion"] if p["Type"] == theirs]
                assert of[kind] == set(same)
                assert rows[rows["component"] == kind]["count"].sum() == len(same)
            kubernetes = json.loads(kubectl(f"lab-{name}", "version", "-o", "json"))["serverVersion"]["gitVersion"]
            assert of["kubernetes"] == {kubernetes}

    def test_each_istiod_knows_who_it_is(self, mesh: Mesh) -> None:
        """Cluster id, network and mesh id agree with the mesh file, and so does what is injected."""
        identity = versions.identity(mesh)
        assert {one.cluster for one in identity} == set(mesh.clusters)
        for one in identity:
            name = one.cluster
            assert (one.cluster_id, one.injected_cluster_id) == (name, name)
            assert (one.network, one.injected_network) == (f"net-{name}", f"net-{name}")
            assert (one.mesh_id, one.trust_domain) == ("mesh1", "cluster.local")


class TestEnvoy:
    """A proxy's admin interface."""

    def test_hosts_are_those_of_istioctls_endpoints(self, sleep: Proxy, istioctl: Say) -> None:
        """Address, health and cluster of `istioctl proxy-config endpoints`, all of them."""

        def theirs() -> set[tuple[str, ...]]:
            lines = istioctl("lab-east", "pc", "endpoints", f"{sleep.name}.{sleep.namespace}").splitlines()[1:]
            return {(line.split()[0], line.split()[1], line.split()[-1]) for line in lines}

        def ours() -> set[tuple[str, ...]]:
            rows = envoy_admin.clusters(sleep)[["address", "health", "name"]].itertuples(index=False, name=None)
            return {(f"unix://{a}" if a.startswith(("/", "./")) else a, health, name) for a, health, name in rows}

        _agree(ours, theirs)

    def test_a_dump_of_any_size_comes_whole(self, sleep: Proxy) -> None:
        """Chunked, and larger than any buffer."""
        dump = envoy_admin.config_dump(sleep)
        assert any("dynamic_listeners" in part for part in dump)
        assert envoy_admin.server_info(sleep)["state"] == "LIVE"
        assert envoy_admin.stats(sleep, "^server\\.live$") == {"server.live": 1}

    def test_no_private_key_is_in_what_is_read(self, sleep: Proxy) -> None:
        """Envoy redacts it, and we do not even take the field."""
        assert {(s.name, s.kind) for s in envoy_admin.secrets(sleep)} == {("default", "chain"), ("ROOTCA", "roots")}
        assert all(b"PRIVATE" not in s.pem for s in envoy_admin.secrets(sleep))


class TestIntoPods:
    """exec and http_get through a real API server and node."""

    def test_a_command_is_what_kubectl_exec_makes_of_it(self, east: Cluster, sleep: Proxy, kubectl: Say) -> None:
        """The same output; both streams apart; the exit code."""
        script = "echo out; echo err >&2; exit 3"
        result = east.exec(sleep.name, sleep.namespace, "sleep", ["sh", "-c", script])
        assert (result.stdout, result.stderr, result.exit_code) == ("out\n", "err\n", 3)
        words = ["echo", "two  words", "$HOME", "ünï"]
        said = kubectl("lab-east", "-n", sleep.namespace, "exec", sleep.name, "-c", "sleep", "--", *words)
        assert east.exec(sleep.name, sleep.namespace, "sleep", words).stdout == said

    def test_a_long_output_comes_whole(self, east: Cluster, sleep: Proxy) -> None:
        """Three million bytes and not one less."""
        result = east.exec(sleep.name, sleep.namespace, "sleep", ["sh", "-c", "head -c 3000000 /dev/zero | tr '\\0' x"])
        assert result.stdout == "x" * 3_000_000

    def test_a_command_that_does_not_end_is_given_up(self, east: Cluster, sleep: Proxy) -> None:
        """At the timeout, not later."""
        started = time.monotonic()
        with pytest.raises(UnreachableError, match="no answer within 1 s"):
            east.exec(sleep.name, sleep.namespace, "sleep", ["sleep", "30"], timeout=1)
        assert time.monotonic() - started < 3

    def test_a_command_that_does_not_exist_is_no_success(self, east: Cluster, sleep: Proxy) -> None:
        """Some container runtimes answer with an error, some with exit code 127."""
        (tried,) = gather(
            lambda command: east.exec(sleep.name, sleep.namespace, "sleep", [command]), ["no-such-program"], deadline=10
        )
        assert isinstance(tried, Unknown) or tried.exit_code != 0

    def test_a_missing_container_or_port_says_so(self, east: Cluster, sleep: Proxy) -> None:
        """A pod that is not there, a port where nothing listens, a path that does not exist."""
        with pytest.raises(NotFoundError):
            east.http_get("ghost", sleep.namespace, 15000, "/")
        with pytest.raises(UnreachableError, match="nothing answers there"):
            east.http_get(sleep.name, sleep.namespace, 1, "/")
        with pytest.raises(NotFoundError, match="answered 404"):
            east.http_get(sleep.name, sleep.namespace, 15000, "/no-such-page")

    def test_many_questions_at_once_do_not_mix(self, east: Cluster, sleep: Proxy) -> None:
        """Exec beside exec beside port-forward: each gets its own answer."""

        def ask(number: int) -> str:
            if number % 2:
                return str(envoy_admin.server_info(sleep)["state"])
            return east.exec(sleep.name, sleep.namespace, "sleep", ["echo", str(number)]).stdout.strip()

        assert gather(ask, range(12), deadline=30) == [str(n) if n % 2 == 0 else "LIVE" for n in range(12)]

    def test_a_webhooks_no_is_handed_on(self, east: Cluster) -> None:
        """Istiod refuses a wrong object, and its words are there; a good one passes the same dry run."""
        good = {
            "apiVersion": "networking.istio.io/v1",
            "kind": "VirtualService",
            "metadata": {"name": "dry", "namespace": "sample"},
            "spec": {"hosts": ["httpbin"], "http": [{"route": [{"destination": {"host": "httpbin"}}]}]},
        }
        assert east.apply(good, dry_run=True)["spec"]["hosts"] == ["httpbin"]
        with pytest.raises(ChangeError, match="is required"):
            east.apply({**good, "spec": {"hosts": ["httpbin"], "http": [{}]}}, dry_run=True)
        assert east.find("virtualservices", "sample", "dry") is None


def test_a_dead_cluster_leaves_the_others_rows_right(mesh: Mesh, tmp_path: Path) -> None:
    """West's API server is gone: its rows say unknown, east's are as before."""
    dead = write_kubeconfig(tmp_path / "dead", f"https://127.0.0.1:{free_port()}", None, {"lab-west": "t"})
    spec = mesh.spec.model_dump(by_alias=True)
    spec["clusters"][1]["kubeconfig"] = str(dead)
    broken = Mesh.open(MeshSpec.parse(spec, where="test"))
    status = proxy_status.proxy_status(broken)
    assert set(status[status["cluster"] == "west"]["state"]) == {"UNKNOWN"}
    assert "refuses the connection" in status[status["cluster"] == "west"].iloc[0]["nack"]
    whole = proxy_status.proxy_status(mesh)
    ours, theirs = (set(table[table["cluster"] == "east"]["proxy"]) for table in (status, whole))
    assert ours == theirs
    assert isinstance(broken.each(Cluster.version)["west"], Unknown)
    secrets = remote_secrets.remote_secrets(broken).frame().set_index("cluster")["credential"]
    assert secrets["west"] == "UNKNOWN"
    held = trust_store.certificates(broken)
    assert {one.reason for one in held.of("east")} == {""}
    assert (held.unknown("east"), "refuses the connection" in held.unknown("west")) == ("", True)
    assert set(reading.read_versions(broken).query("cluster == 'west'")["version"]) == {""}


def _agree(ours: Callable[[], set[Any]], theirs: Callable[[], set[Any]]) -> None:
    """Compare two looks at a living mesh; a push between them may differ for a moment, not for long."""
    for _ in range(4):
        mine, other = ours(), theirs()
        if mine == other:
            break
        time.sleep(1)
    assert mine == other
    assert mine


def _until(look: Callable[[], Any], good: Callable[[Any], bool], timeout: float = 30) -> Any:
    deadline = time.monotonic() + timeout
    while True:
        seen = look()
        if good(seen):
            return seen
        assert time.monotonic() < deadline, seen
        time.sleep(0.3)


def _documents(text: str) -> Iterator[dict[str, Any]]:
    # istioctl prints one JSON document after another, one for each istiod.
    decoder = json.JSONDecoder()
    while text := text.lstrip():
        document, end = decoder.raw_decode(text)
        text = text[end:]
        yield document


def _istioctl_states(text: str) -> Iterator[tuple[str, ...]]:
    short = {"Cluster": "CDS", "Listener": "LDS", "RouteConfiguration": "RDS", "ClusterLoadAssignment": "EDS"}
    short |= {"NameTable": "NDS", "ProxyConfig": "PCDS", "TypedExtensionConfig": "ECDS"}
    for document in _documents(text):
        for resource in document["resources"]:
            name, namespace = resource["node"]["id"].rsplit(".", 1)
            metadata = resource["node"]["metadata"]
            for config in resource["genericXdsConfigs"]:
                kind = short[config["typeUrl"].rsplit(".", 1)[1]]
                state = config["configStatus"].replace("_", " ")
                yield metadata["CLUSTER_ID"], name, namespace, metadata["ISTIO_VERSION"], kind, state


def _verbose_states(text: str) -> Iterator[tuple[str, ...]]:
    header, *lines = [re.split(r"\s{2,}", line.strip()) for line in text.splitlines()]
    for line in lines:
        row = dict(zip(header, line, strict=True))
        for kind in header[2:-2]:
            state = re.sub(r" \(.*", "", row[kind])
            yield row["NAME"], row["CLUSTER"], row["ISTIOD"], row["VERSION"], kind, state


def _openssl(pem: bytes, *fields: str) -> dict[str, str]:
    said = subprocess.run(["openssl", "x509", "-noout", *fields], input=pem, capture_output=True, check=True).stdout
    pairs = (line.split("=", 1) for line in said.decode().splitlines() if "=" in line)
    return {**dict(pairs), "text": said.decode()}


def _broken_filter() -> dict[str, Any]:
    lua = {
        "name": "meshkit-test",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua",
            "default_source_code": {"inline_string": "this is not lua ("},
        },
    }
    match = {"context": "SIDECAR_OUTBOUND", "listener": {"filterChain": {"filter": {"name": _MANAGER}}}}
    patch = {"applyTo": "HTTP_FILTER", "match": match, "patch": {"operation": "INSERT_BEFORE", "value": lua}}
    return {
        "apiVersion": "networking.istio.io/v1alpha3",
        "kind": "EnvoyFilter",
        "metadata": {"name": "meshkit-test-nack", "namespace": "sample"},
        "spec": {"workloadSelector": {"labels": {"app": "sleep"}}, "configPatches": [patch]},
    }


_MANAGER = "envoy.filters.network.http_connection_manager"
