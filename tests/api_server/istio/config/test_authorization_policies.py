"""AuthorizationPolicies of a real API server, as tables."""

from __future__ import annotations

from meshkit.errors import MeshkitError
from meshkit.istio.config import authorization_policies
from meshkit.kube.cluster import Cluster
from meshkit.kube.mesh import Mesh
from tests.support.api_server import ApiServer
from tests.support.lab import until
from tests.support.objects import create, definition
from tests.unit.istio.config.test_authorization_policies import WHOLE, policy


def served(east: Cluster) -> bool:
    """Tell whether the API server answers for the kind yet."""
    try:
        east._request("GET", "/apis/security.istio.io/v1/authorizationpolicies")
    except MeshkitError:  # 404, then 429 while its storage is made
        return False
    return True


def test_policies_of_a_cluster(mesh: Mesh, east: Cluster, api_server: ApiServer) -> None:
    """None before their kind is there; each value is a row; a cluster that cannot be read is one with the reason."""
    kind = definition("authorizationpolicies", "security.istio.io")
    kind["spec"]["names"]["kind"] = "AuthorizationPolicy"
    assert authorization_policies.trust_domains(mesh).empty
    create(east, kind)
    try:
        until(lambda: served(east), "the new kind is served")
        create(east, policy({"principals": [WHOLE, "*"]}))
        assert list(authorization_policies.trust_domains(mesh)["value"]) == [WHOLE]
        mesh.clusters["east"] = api_server.connect("nobody")
        (row,) = authorization_policies.trust_domains(mesh).to_dict("records")
        assert "403" in row["reason"]
    finally:
        east.delete(kind)
