"""Injection as the API server decides it: a real one is asked, and its webhooks answer from loopback."""

from __future__ import annotations

import base64
import ipaddress
import json
import ssl
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from meshkit.changes.plan import Plan
from meshkit.istio.control_plane import istioctl as reader
from meshkit.istio.control_plane import revisions
from meshkit.istio.multicluster import gateway_manifests
from meshkit.kube.answers import decoded
from meshkit.kube.cluster import Cluster
from meshkit.kube.mesh import Mesh
from tests.support import planes
from tests.support.api_server import ApiServer
from tests.support.objects import Object, core, create

REV, OLD, INJECT = "istio.io/rev", "istio-injection", "sidecar.istio.io/inject"
MARK = "test/called"
NAMESPACES: tuple[dict[str, str], ...] = (
    {},
    {OLD: "enabled"},
    {OLD: "disabled"},
    {OLD: "true"},
    {REV: "1-31-0"},
    {REV: "prod-stable"},
    {REV: "default"},
    {REV: "elsewhere"},
    {OLD: "enabled", REV: "prod-stable"},
    {OLD: "disabled", REV: "1-31-0"},
)
PODS: tuple[dict[str, str], ...] = (
    {},
    {INJECT: "true"},
    {INJECT: "false"},
    {INJECT: ""},
    {REV: "1-31-0"},
    {REV: "prod-stable"},
    {REV: "default", INJECT: "true"},
)


class Hook(BaseHTTPRequestHandler):
    """A webhook that writes the path by which it was called into the pod."""

    def do_POST(self) -> None:
        """Answer an AdmissionReview."""
        review = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        pod, name = review["request"]["object"], self.path.strip("/").partition("?")[0]
        known = (pod["metadata"].get("annotations") or {}).get(MARK, "")
        value = {**(pod["metadata"].get("annotations") or {}), MARK: f"{known} {name}".strip()}
        patch = json.dumps([{"op": "add", "path": "/metadata/annotations", "value": value}]).encode()
        answer = {
            "uid": review["request"]["uid"],
            "allowed": True,
            "patchType": "JSONPatch",
            "patch": base64.b64encode(patch).decode(),
        }
        body = json.dumps({**{key: review[key] for key in ("apiVersion", "kind")}, "response": answer}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def hook(tmp_path: Path) -> Iterator[tuple[str, bytes]]:
    """Return the address of a webhook on loopback, and its certificate."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "hook")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - timedelta(hours=1)).not_valid_after(now + timedelta(hours=1))
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    made = builder.add_extension(x509.SubjectAlternativeName([address]), critical=False).sign(key, hashes.SHA256())
    pem = made.public_bytes(serialization.Encoding.PEM)
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (tmp_path / "hook.pem").write_bytes(pem + secret)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "hook.pem")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hook)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"https://127.0.0.1:{server.server_port}", pem
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def hooks(east: Cluster, hook: tuple[str, bytes]) -> Iterator[list[Object]]:
    """Return the webhooks of both rendered files as they stand on the server, calling that address."""
    url, pem = hook
    found = [obj for name in ("revision", "unnamed") for obj in planes.webhooks(name)]
    for obj in found:
        for entry in obj["webhooks"]:
            called = {"url": f"{url}/{obj['metadata']['name']}", "caBundle": base64.b64encode(pem).decode()}
            entry["clientConfig"] = called
        create(east, obj)
    yield found
    for obj in found:
        east.delete(obj)


def called(east: Cluster, namespace: str, labels: dict[str, str]) -> set[str]:
    """Return the configurations that the API server calls for a new pod: it is a dry run."""
    containers = [{"name": "main", "image": "none"}]
    pod = core("Pod", f"p-{uuid.uuid4().hex[:6]}", namespace, spec={"containers": containers})
    pod["metadata"]["labels"] = labels
    path = f"/api/v1/namespaces/{namespace}/pods"
    answer = east._request("POST", path, query=[("dryRun", "All")], body=pod, content_type="application/json")
    made = cast("Object", decoded(answer.data, east.where))
    return set((made["metadata"].get("annotations") or {}).get(MARK, "").split())


def test_webhooks_are_evaluated_as_the_api_server_does_it(east: Cluster, hooks: list[Object]) -> None:
    """Every pair of a namespace's labels and a pod's: the same configurations are called."""
    found = revisions.read(east)
    assert {hook.configuration for hook in found.webhooks} == {obj["metadata"]["name"] for obj in hooks}
    spaces = [(f"inject-{uuid.uuid4().hex[:8]}", labels) for labels in NAMESPACES]
    for name, labels in spaces:
        create(east, {**core("Namespace", name, ""), "metadata": {"name": name, "labels": labels}})
    first = spaces[1][0]
    deadline = time.monotonic() + 20
    while not called(east, first, {}) and time.monotonic() < deadline:
        time.sleep(0.2)  # the API server learns of webhooks by a watch
    seen: dict[str, set[str]] = {}
    ours: dict[str, set[str]] = {}
    for name, labels in spaces:
        for pod in PODS:
            case = f"namespace {labels}, pod {pod}"
            seen[case] = called(east, name, pod)
            ours[case] = set(found.injection(name, labels, {"metadata": {"labels": pod}, "spec": {}}).configurations)
    assert ours == seen
    assert len({frozenset(value) for value in seen.values()}) > 3  # or all of this compares nothing


@pytest.fixture
def named(east: Cluster) -> Iterator[list[Object]]:
    """Return the webhooks of revision 1-31-0 with its tag, as they stand on the server."""
    found = planes.webhooks("revision")
    for obj in found:
        create(east, obj, manager=reader.MANAGER)
    yield found
    for obj in found:
        east.delete(obj)


def identities(objects: list[Object]) -> set[tuple[str, str, str]]:
    """Return kinds, names and revisions."""
    return {(o["kind"], o["metadata"]["name"], o["metadata"]["labels"][REV]) for o in objects}


def operator(revision: str = "", **told: Any) -> Object:
    """Return the IstioOperator of a control plane alone."""
    spec: Object = {"profile": "empty", "components": {"pilot": {"enabled": True}}, "values": {"global": told}}
    return reader.wrap({**spec, **({"revision": revision} if revision else {})})


def test_the_default_tag_is_the_one_that_istioctl_makes(
    api_server: ApiServer, east: Cluster, named: list[Object], istioctl: Path
) -> None:
    """The real istioctl says which objects those are: `tag generate` runs the code that `install` runs."""
    assert named
    flags = ["--context", "admin", "--kubeconfig", str(api_server.kubeconfig)]
    words = [str(istioctl), "tag", "generate", "default", "--revision", "1-31-0", *flags]
    told = subprocess.run(words, capture_output=True, text=True, check=True, timeout=60).stdout
    real = [obj for obj in yaml.safe_load_all(told) if obj]
    document = operator("1-31-0")
    tags = [obj for obj in named if "istio.io/tag" in obj["metadata"]["labels"]]
    ours = reader.default_tag(document, reader.render(document), tags)
    assert identities(ours) == identities(real)
    assert len(real) > 1


def test_no_default_tag_is_expected_where_istioctl_makes_none(istioctl: Path) -> None:
    """There is one already, webhooks are somebody else's, or no control plane is installed."""
    assert istioctl
    document = operator("1-31-0")
    rendered = reader.render(document)
    labels = {"istio.io/tag": "default", "app": "sidecar-injector", REV: "1-30-2"}
    there = {"kind": "MutatingWebhookConfiguration", "metadata": {"name": "x", "labels": labels}}
    assert reader.default_tag(document, rendered, [there]) == []
    assert reader.default_tag(operator("1-31-0", operatorManageWebhooks=True), rendered, []) == []
    moved = reader.default_tag(operator(), reader.render(operator()), [there])
    assert {revision for _, _, revision in identities(moved)} == {"default"}


def test_a_gateway_makes_no_tag(mesh: Mesh, istioctl: Path) -> None:
    """Stage 06 installs no control plane: istioctl made the default tag all the same, which no plan showed."""
    assert istioctl
    document = gateway_manifests.eastwest(mesh.spec, "east")
    assert document["spec"]["values"]["global"]["operatorManageWebhooks"] is True
    assert "Deployment" in {obj["kind"] for obj in reader.render(document)}


def test_stage_05_shows_and_notes_the_default_tag(mesh: Mesh, named: list[Object], istioctl: Path) -> None:
    """In a mesh whose only tag is prod-stable; so undo knows what was made."""
    assert named
    assert istioctl
    made = Plan(mesh, "05 install")
    made.install("east", operator("1-31-0"), "a test")
    [change] = made.changes
    assert "+ MutatingWebhookConfiguration istio-revision-tag-default" in change.diff
    names = [obj["metadata"]["name"] for obj in change.manifests]
    noted = dict(zip(names, change.before, strict=True))
    for name in ("istio-revision-tag-default", "istiod-revision-tag-default", "istiod-default-validator"):
        assert (names.count(name), noted[name]) == (1, None)
    assert noted["istio-revision-tag-prod-stable"]
