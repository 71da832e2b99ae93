"""Which remedies are followed on the lab, after what was broken, and which are for other hands than ours."""

from __future__ import annotations

BY_HAND: dict[str, str] = {
    "unreachable-api-server": "who owns the firewall opens the port",
    "firewall-15443": "who owns the firewall opens the port",
    "firewall-15012": "who owns the firewall opens the port",
    "gateway-without-address": "who owns the load balancers lets its controller serve that Service",
    "exposure-selector-wrong": "its owner corrects the selector: stage 06 names him, and forces nobody",
    "different-roots": "stage 04, whose own drills change roots under load (tests/e2e/stages/trust)",
    "combined-root-missing": "stage 04, likewise",
    "nacked-envoyfilter": "who wrote the EnvoyFilter that the message names corrects it",
    "version-skew": "an upgrade",
    "former-values": "what installs istiod gets the values that the finding lists",
    "stale-istiod-replica": "who owns the firewall opens the port; the replica is restarted after",
    "mtls-disabled": "who wrote the objects that the finding names decides what they should say",
    "subset-pinned-to-old-cluster-name": "likewise",
    "headless-over-networks": "who owns the Service gives it a ClusterIP, or declares it clusterLocal",
    "sidecar-without-the-server": "who wrote the object that the finding names decides what it should say",
    "locality-without-the-others": "likewise",
    "cluster-local-service": "likewise",
    "denied-client": "likewise",
    "service-entry-of-the-same-host": "likewise",
    "own-istiod": "whoever installed it removes it by what installed it, or the mesh file says multi-primary",
    "skewed-clock": "who owns the nodes sets their clocks",
}
"""Faults whose remedy no command of ours can be, and what it is."""
BROKEN: dict[str, tuple[str, ...]] = {
    "MK802": ("kubectl --context lab-east -n istio-system delete secret istio-remote-secret-west",),
    "MK832": ("kubectl --context lab-east -n istio-system label secret istio-remote-secret-west istio/multiCluster-",),
    "MK214": (
        "kubectl --context lab-east create namespace shop",
        "kubectl --context lab-west create namespace shop",
        "kubectl --context lab-east label namespace shop istio-injection=enabled",
    ),
    "MK215": (
        "kubectl --context lab-west create namespace store",
        "kubectl --context lab-west label namespace store istio-injection=enabled",
        "kubectl --context lab-west -n store create deployment web --image=sleep",
        "kubectl --context lab-west -n store rollout status deployment web --timeout=60s",
        "kubectl --context lab-west label namespace store istio-injection- istio.io/rev=prod",
    ),
    "MK211": ("kubectl --context lab-west label namespace sample istio.io/rev=other",),
}
"""Of checks that no fault of the lab is about, or of another remedy: the commands that make them fail."""
ELSEWHERE = {"MK105"}
"""Followed word by word by the shape `helm` (test_shapes)."""
