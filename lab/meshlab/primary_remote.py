"""A mesh in which one cluster's istiod serves the others', as Istio's primary-remote pages make it.

The first cluster is the primary; what differs from multi-primary is here. istiod is offered to the remotes by a Service
of its own, not through the east-west gateway, so that it works in a flat network, too.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any, Final

from meshkit.errors import ChangeError
from meshlab.layout import Site
from meshlab.tools import Tools

OFFER: Final = "istiod-for-remotes"
CONTROL_PLANE_CLUSTERS: Final = "topology.istio.io/controlPlaneClusters"
PATIENCE = 90.0
INJECTION_PATH, ADDRESS = "values.istiodRemote.injectionPath", "values.global.remotePilotAddress"
PRIMARY: Final = {"values.global.externalIstiod": "true"}
"""What a primary has beside its ids: without it, its istiod gives no CA to the remotes' webhooks."""
PORTS = {"tls-istiod": 15012, "tls-webhook": 15017}


def offer(tools: Tools, site: Site) -> str:
    """Offer a primary's istiod to remotes by a LoadBalancer Service, and return its address."""
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": OFFER, "namespace": "istio-system"},
        "spec": {
            "type": "LoadBalancer",
            "selector": {"app": "istiod"},
            "ports": [{"name": name, "port": port, "targetPort": port} for name, port in PORTS.items()],
        },
    }
    tools.apply_all(site, [service])
    path = "{.status.loadBalancer.ingress[0].ip}"
    return _once(lambda: tools.kubectl(site, "-n", "istio-system", "get", "service", OFFER, f"-o=jsonpath={path}"),
                 f"{site.name}: Service {OFFER} has an address")  # fmt: skip


def remote_settings(site: Site, address: str, network: str) -> dict[str, str]:
    """Return what a remote's installation has beside its ids."""
    return {"profile": "remote", ADDRESS: address, INJECTION_PATH: f"/inject/cluster/{site.name}/net/{network}"}


def served_by(tools: Tools, site: Site, primary: Site) -> None:
    """Say in a remote which cluster's istiod may serve it; istiod reads it when it learns of the cluster."""
    annotation = f"{CONTROL_PLANE_CLUSTERS}={primary.name}"
    tools.kubectl(site, "annotate", "namespace", "istio-system", annotation)


def wait_for_webhooks(tools: Tools, site: Site) -> None:
    """Wait until the primary's istiod has given its CA to a remote's webhooks: no pod can start before."""

    def bundles() -> str:
        found: dict[str, Any] = json.loads(tools.kubectl(site, "get", "mutatingwebhookconfigurations", "-o=json"))
        hooks = [hook for one in found["items"] for hook in one.get("webhooks", [])]
        return "all" if hooks and all(hook["clientConfig"].get("caBundle") for hook in hooks) else ""

    _once(bundles, f"{site.name}: the webhooks have a CA bundle")


def _once(read: Callable[[], str], words: str) -> str:
    """Return what is read, as soon as it is not empty."""
    deadline = time.monotonic() + PATIENCE
    while not (found := read()):
        if time.monotonic() > deadline:
            raise ChangeError(f"{words}: not after {PATIENCE:.0f} s", where="lab", remedy="`kubectl logs` of istiod")
        time.sleep(0.2)
    return found
