"""PeerAuthentications: the mutual TLS that the pods of a cluster ask for, port by port."""

from __future__ import annotations

from meshkit.istio.config.configuration import PEER_AUTHENTICATION, Configuration, Manifest, Pod, age, home


def peer_mode(where: Configuration, namespace: str, pod: Pod, port: int) -> tuple[str, Manifest | None, str]:
    """Return the mutual TLS mode of a pod's port as a cluster's PeerAuthentications say, which one, and its field.

    The oldest that selects the pod wins over its namespace's, and that over the root namespace's; UNSET inherits.

    Source: ComposePeerAuthentication (pilot/pkg/security/authn/policy_applier.go).
    """
    oldest: dict[str, Manifest] = {}
    for policy in sorted(where.objects[PEER_AUTHENTICATION], key=age):
        space = home(policy)
        labels = ((policy.get("spec") or {}).get("selector") or {}).get("matchLabels") or {}
        if not labels and space in (namespace, where.mesh_wide):
            oldest.setdefault("mesh" if space == where.mesh_wide else "namespace", policy)
        elif labels and space == namespace != where.mesh_wide and labels.items() <= pod.labels.items():
            oldest.setdefault("workload", policy)
    mode, said, field = "PERMISSIVE", None, ""
    for scope in ("mesh", "namespace", "workload"):
        policy = oldest.get(scope, {})
        own = ((policy.get("spec") or {}).get("mtls") or {}).get("mode", "UNSET")
        if own != "UNSET":
            mode, said, field = str(own), policy, "spec.mtls.mode"
    policy = oldest.get("workload", {})
    ports = (policy.get("spec") or {}).get("portLevelMtls") or {}
    own = (ports.get(str(port)) or {}).get("mode", "UNSET")
    return (str(own), policy, f"spec.portLevelMtls.{port}.mode") if own != "UNSET" else (mode, said, field)
