"""Seven faults of a mesh, made and healed by hand with kubectl, istioctl and openssl."""

from __future__ import annotations

import base64
import contextlib
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.lab.support import Lab

SYSTEM = ("-n", "istio-system")
GATEWAY = "istio-eastwestgateway"
TOKEN = "istio-reader-service-account-istio-remote-secret-token"
REFUSED = """
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {name: refused, namespace: sample}
spec:
  workloadSelector: {labels: {app: sleep}}
  configPatches:
    - applyTo: CLUSTER
      match: {context: SIDECAR_OUTBOUND, cluster: {service: httpbin.sample.svc.cluster.local}}
      patch: {operation: MERGE, value: {connect_timeout: -1s}}
"""


@contextlib.contextmanager
def unlabelled_gateway(lab: Lab) -> Iterator[None]:
    """Take the network label off west's gateway Service."""
    label = ("label", "service", GATEWAY, *SYSTEM)
    lab.kubectl("lab-west", *label, "topology.istio.io/network-")
    try:
        yield
    finally:
        lab.kubectl("lab-west", *label, "topology.istio.io/network=net-west")


@contextlib.contextmanager
def unexposed_services(lab: Lab) -> Iterator[None]:
    """Delete the Gateway that exposes west's services."""
    with taken_away(lab, "lab-west", "gateways.networking.istio.io", "cross-network-gateway"):
        yield


@contextlib.contextmanager
def missing_remote_secret(lab: Lab) -> Iterator[None]:
    """Delete west's remote secret in east."""
    with taken_away(lab, "lab-east", "secret", "istio-remote-secret-west"):
        yield


@contextlib.contextmanager
def revoked_credential(lab: Lab) -> Iterator[None]:
    """Revoke the token that east reads west with; a new one, handed on, heals it."""
    secret = fetch(lab, "lab-east", "secret", "istio-remote-secret-west")
    kubeconfig = yaml.safe_load(base64.b64decode(secret["data"]["west"]))
    server = kubeconfig["clusters"][0]["cluster"]["server"]
    lab.kubectl("lab-west", "delete", "secret", *SYSTEM, TOKEN)
    try:
        yield
    finally:
        anew = lab.istioctl("lab-west", "create-remote-secret", "--name=west", f"--server={server}")
        lab.kubectl("lab-east", "apply", "-f", "-", stdin=anew)


@contextlib.contextmanager
def gateway_without_pods(lab: Lab) -> Iterator[None]:
    """Scale west's east-west gateway to nothing."""
    scale = ("scale", "deployment", GATEWAY, *SYSTEM)
    lab.kubectl("lab-west", *scale, "--replicas=0")
    try:
        yield
    finally:
        lab.kubectl("lab-west", *scale, "--replicas=1")
        lab.kubectl("lab-west", "rollout", "status", f"deployment/{GATEWAY}", *SYSTEM, "--timeout=60s")


@contextlib.contextmanager
def refused_configuration(lab: Lab) -> Iterator[None]:
    """Give east's sleep a configuration that its Envoy refuses."""
    lab.kubectl("lab-east", "apply", "-f", "-", stdin=REFUSED)
    try:
        yield
    finally:
        lab.kubectl("lab-east", "delete", "-f", "-", stdin=REFUSED)


@contextlib.contextmanager
def two_roots(lab: Lab) -> Iterator[None]:
    """Make west sign with another root, and restart all that holds the old one."""
    before = bare(fetch(lab, "lab-west", "secret", "cacerts"))
    new_identities(lab, {**before, "data": another_root(lab)})
    try:
        yield
    finally:
        new_identities(lab, before)


def another_root(lab: Lab) -> dict[str, str]:
    """Return the data of a Secret cacerts with a new root that signs workloads itself."""
    with tempfile.TemporaryDirectory() as folder:
        key, root = Path(folder, "key.pem"), Path(folder, "root.pem")
        subject = ("-subj", "/O=Istio/CN=Root CA", "-addext", "keyUsage=critical,keyCertSign,cRLSign")
        make = ("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "9", *subject)
        lab.must("openssl", *make, "-keyout", str(key), "-out", str(root))
        files = {"ca-key.pem": key, **dict.fromkeys(("root-cert.pem", "ca-cert.pem", "cert-chain.pem"), root)}
        return {name: base64.b64encode(path.read_bytes()).decode() for name, path in files.items()}


def new_identities(lab: Lab, cacerts: dict[str, Any]) -> None:
    """Replace west's cacerts, and restart istiod and then everything that it issued certificates to."""
    lab.kubectl("lab-west", "replace", "-f", "-", stdin=json.dumps(cacerts))
    restart(lab, "istio-system/istiod")
    restart(lab, f"istio-system/{GATEWAY}", "istio-system/istio-ingressgateway", "sample/httpbin", "sample/sleep")


def restart(lab: Lab, *deployments: str) -> None:
    """Restart deployments of west ("namespace/name") side by side, and wait for the new pods."""
    for verb, *flags in (["restart"], ["status", "--timeout=90s"]):
        for deployment in deployments:
            namespace, _, name = deployment.partition("/")
            lab.kubectl("lab-west", "rollout", verb, "-n", namespace, f"deployment/{name}", *flags)


@contextlib.contextmanager
def taken_away(lab: Lab, context: str, kind: str, name: str) -> Iterator[None]:
    """Delete an object of istio-system, and make it again."""
    before = bare(fetch(lab, context, kind, name))
    lab.kubectl(context, "delete", kind, name, *SYSTEM)
    try:
        yield
    finally:
        lab.kubectl(context, "create", "-f", "-", stdin=json.dumps(before))


def fetch(lab: Lab, context: str, kind: str, name: str) -> dict[str, Any]:
    """Return an object of istio-system."""
    found: dict[str, Any] = json.loads(lab.kubectl(context, "get", kind, name, *SYSTEM, "-o", "json"))
    return found


def bare(item: dict[str, Any]) -> dict[str, Any]:
    """Return an object as one would create it: without what the API server added."""
    kept = ("name", "namespace", "labels", "annotations")
    metadata = {key: value for key, value in item["metadata"].items() if key in kept}
    return {**{key: value for key, value in item.items() if key != "status"}, "metadata": metadata}
