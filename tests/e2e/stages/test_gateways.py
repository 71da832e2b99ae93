"""Stage 06 on real clusters that have istiods and no gateways: made, proved, looked into, narrowed, kept."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from meshlab import certificates, scenarios
from meshlab.layout import programs, sites
from meshlab.tools import Timed, Tools, each

from meshkit.checks.finding import Verdict, overall
from meshkit.istio.control_plane import istioctl
from meshkit.istio.multicluster import gateway_exposure
from meshkit.kube.mesh import Mesh
from meshkit.spec import MeshSpec
from meshkit.stages import gateways
from tests.support.healthy import judged
from tests.support.lab import HTTPBIN, Lab, until

pytestmark = pytest.mark.lab

PASS, SKIPPED, WARN = Verdict.PASS, Verdict.SKIPPED, Verdict.WARN
SYSTEM = "istio-system"
MADE = ("deployments", "services", "serviceaccounts", "roles", "rolebindings", "gateways.networking.istio.io")
TAKES_MTLS = [
    {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "mutual", "labels": {"app": "mutual", "security.istio.io/tlsMode": "istio"}},
        "spec": {"containers": [{"name": "main", "image": HTTPBIN}]},
    },
    {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "mutual"},
        "spec": {"selector": {"app": "mutual"}, "ports": [{"name": "https", "port": 443, "targetPort": 8080}]},
    },
]


@pytest.fixture(scope="module")
def lab(short_folder: Path) -> Iterator[Lab]:
    """Two clusters as stage 05 leaves them; $MESHKIT_TEST_INSTALLED may name the folder of a lab that runs already."""
    made = Lab(short_folder / "installed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", os.pathsep.join([str(programs()), os.environ["PATH"]]))
        patch.setenv("XDG_STATE_HOME", str(short_folder / "state"))
        if running := os.environ.get("MESHKIT_TEST_INSTALLED"):
            yield Lab(type(short_folder)(running))
            return
        try:
            made.start("empty")
            install(made)
            yield made
        finally:
            made.stop()


def install(lab: Lab) -> None:
    """Install istiods below one root, and the sample."""
    tools, timed = Tools(lab.home), Timed(print)
    certificates.make_root(tools)

    def one(site: Any) -> None:
        scenarios.control_plane(tools, site, timed, network=site.network)
        scenarios.sample(tools, site, load=False)

    each(sites(2), one)


def mesh_of(lab: Lab, **west: Any) -> Mesh:
    """Return the mesh, with what a test says of west's gateway."""
    document = yaml.safe_load(lab.mesh_file.read_text())
    document["clusters"][1]["gateway"] = west
    return Mesh.open(MeshSpec.parse(document, where="test"))


def applied(mesh: Mesh) -> list[Any]:
    """Carry the stage out, and return its findings."""
    facts = gateways.look(mesh)
    findings = gateways.check(mesh, facts)
    plan = gateways.plan(mesh, facts)
    done = plan.carry_out("apply", gates=findings)
    assert set(done["status"]) <= {"done"}, done.to_string()
    return [*findings, *gateways.prove(mesh, gateways.arrived(mesh, plan), plan)]


def versions(lab: Lab) -> dict[str, str]:
    """Return the resourceVersion of all that the stage could touch."""
    found: dict[str, str] = {}
    for context in ("lab-east", "lab-west"):
        items = json.loads(lab.kubectl(context, "get", ",".join(MADE), "-n", SYSTEM, "-o", "json"))["items"]
        found |= {f"{context} {i['kind']} {i['metadata']['name']}": i["metadata"]["resourceVersion"] for i in items}
    return found


def handshake(lab: Lab, host: str) -> str:
    """Return what openssl says of a handshake from a pod of east with a Service of west, by its name in the SNI."""
    address = lab.kubectl(
        "lab-west", "get", "service", "istio-eastwestgateway", "-n", SYSTEM, "-o",
        "jsonpath={.status.loadBalancer.ingress[0].ip}",
    )  # fmt: skip
    ask = f"echo | timeout 5 openssl s_client -connect {address}:15443 -servername {host} -alpn istio 2>&1"
    client = ("exec", "-n", "sample", "deployment/sleep", "-c", "istio-proxy", "--", "sh", "-c", ask)
    return lab.tool("kubectl", "--context", "lab-east", *client).stdout


def sni(service: str, port: int) -> str:
    """Return the name by which a sidecar asks a gateway for a Service."""
    return f"outbound_.{port}_._.{service}.svc.cluster.local"


def named(mesh: Mesh, cluster: str) -> set[str]:
    """Return what a cluster's gateway lets in."""
    found = gateway_exposure.opened(mesh)
    return set(found[found["cluster"] == cluster]["sni"]) - {""}


def test_plan_mode_shows_everything_and_changes_nothing(lab: Lab) -> None:
    """A gateway and its exposure for each cluster."""
    mesh, before = mesh_of(lab), versions(lab)
    facts = gateways.look(mesh)
    plan = gateways.plan(mesh, facts)
    assert [(c.cluster, c.action) for c in plan.changes] == [
        ("east", "install"), ("east", "create"), ("west", "install"), ("west", "create"),
    ]  # fmt: skip
    assert [c.problem for c in plan.changes] == [""] * 4
    assert f"Deployment {SYSTEM}/istio-eastwestgateway" in plan.changes[0].diff
    plan.carry_out("plan", gates=gateways.check(mesh, facts, "plan"))
    assert {f.verdict for f in gateways.prove(mesh, gateways.arrived(mesh, plan), plan)} == {SKIPPED}
    assert versions(lab) == before


@pytest.fixture(scope="module")
def made(lab: Lab) -> Mesh:
    """The mesh with its gateways."""
    mesh = mesh_of(lab)
    findings = applied(mesh)
    assert overall(findings) is PASS, findings
    for name in ("east", "west"):
        for number in ("MK613", "MK614", "MK616", "MK805", "MK806"):
            assert judged(findings, number, name) == [PASS], (number, name)
    assert judged(findings, "MK806", "east → west") == [SKIPPED]
    return mesh


def test_a_second_plan_is_empty_and_changes_nothing(lab: Lab, made: Mesh) -> None:
    """As after a resumed run."""
    before = versions(lab)
    plan = gateways.plan(made, gateways.look(made))
    assert plan.empty, [(c.cluster, c.object, c.diff) for c in plan.changes]
    plan.carry_out("apply")
    assert versions(lab) == before


def test_what_is_let_in_is_what_istioctl_reads_from_the_gateway(lab: Lab, made: Mesh) -> None:
    """Name by name."""
    gateway = ("deployment/istio-eastwestgateway", "-n", SYSTEM, "--port", "15443")
    listing = lab.istioctl("lab-west", "proxy-config", "listeners", *gateway)
    assert named(made, "west") == set(re.findall(r"SNI: ([^;]+);", listing))
    assert sni("kubernetes.default", 443) in named(made, "west")


def test_the_control_plane_is_named_and_does_not_answer_but_what_takes_mutual_tls_does(lab: Lab, made: Mesh) -> None:
    """The API server is refused by the gateway itself; a Service of kube-system with mutual TLS is a warning."""
    west = ("--context", "lab-west", "-n", "kube-system")
    objects = json.dumps({"apiVersion": "v1", "kind": "List", "items": TAKES_MTLS})
    assert "read 0 bytes" in handshake(lab, sni("kubernetes.default", 443))
    assert "read 0 bytes" in handshake(lab, sni("istiod.istio-system", 443))
    lab.must("kubectl", *west, "apply", "-f", "-", stdin=objects)
    try:
        lab.must("kubectl", *west, "wait", "pod/mutual", "--for=condition=Ready", "--timeout=60s")
        until(lambda: "read 0 bytes" not in handshake(lab, sni("mutual.kube-system", 443)), "an answer")
        plan = gateways.plan(made, facts := gateways.look(made))
        assert judged(gateways.prove(made, facts, plan), "MK614", "west") == [WARN]
        narrow = mesh_of(lab, hosts=["*.sample.svc.cluster.local"])
        assert judged(applied(narrow), "MK614", "west") == [PASS]
        # Envoy goes on serving by the old listener for a moment.
        until(lambda: "read 0 bytes" in handshake(lab, sni("mutual.kube-system", 443)), "that it is closed")
        assert named(narrow, "west") == {sni("httpbin.sample", 8000), sni("sleep.sample", 80)}
        assert "SSL handshake has read" in (shaken := handshake(lab, sni("httpbin.sample", 8000)))
        assert "Certificate chain" in shaken
    finally:
        lab.must("kubectl", *west, "delete", "--wait=false", "-f", "-", stdin=objects)
        applied(made)
    assert sni("kubernetes.default", 443) in named(made, "west")


def test_installing_the_control_plane_again_leaves_the_gateway(lab: Lab, made: Mesh) -> None:
    """An IstioOperator without a name would remove it."""
    before = {name: at for name, at in versions(lab).items() if "eastwest" in name}
    istioctl.install(made.spec.cluster("west"), istioctl.operator(made.spec, "west"), print)
    assert {name: at for name, at in versions(lab).items() if "eastwest" in name} == before


def test_mesh_networks_are_configured_in_every_istiod_where_the_file_asks(lab: Lab, made: Mesh) -> None:
    """And the gateway is still known by its address."""
    document = made.spec.model_dump(by_alias=True)
    document["topology"]["meshNetworks"] = True
    mesh = Mesh.open(MeshSpec.parse(document, where="test"))
    findings = applied(mesh)
    assert overall(findings) is PASS, findings
    assert judged(findings, "MK615", "east") == judged(findings, "MK615", "west") == [PASS]
    assert gateways.plan(mesh, gateways.look(mesh)).empty
    assert overall([f for f in findings if f.id == "MK806"]) is PASS
