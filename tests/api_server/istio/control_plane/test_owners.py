"""The field managers that a real API server notes of a Secret."""

from __future__ import annotations

from meshkit.istio.ca import istiod_ca
from meshkit.kube.mesh import Mesh
from meshkit.spec import MeshSpec
from tests.support import objects
from tests.support.api_server import ApiServer
from tests.unit.istio.ca.test_cacerts import ISSUING, OWN, ROOT, four_files, secret, tls_form


def test_a_real_server_tells_who_wrote_it(api_server: ApiServer) -> None:
    """By field managers as it keeps them: cert-manager applies, a person creates."""
    east = api_server.connect()
    place = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "kept"}}
    objects.create(east, place)
    spec = {"clusters": [{"name": "east", "context": "x", "network": "n"}], "mesh": {"rootNamespace": "kept"}}
    of_east = Mesh(MeshSpec.parse(spec, where="test"), {"east": east})
    made = {"apiVersion": "v1", **secret(tls_form()), "type": "kubernetes.io/tls"}
    made["metadata"] = {"name": "cacerts", "namespace": "kept"}
    objects.create(east, made, "cert-manager-certificates-issuing")
    assert istiod_ca.authorities(of_east)["owner"].item().startswith("cert-manager (Certificate kept/cacerts")
    east.delete(made)
    plain = {"apiVersion": "v1", **secret(four_files((OWN, ISSUING, ROOT)))}
    plain["metadata"] = {"name": "cacerts", "namespace": "kept"}
    objects.create(east, plain)
    assert istiod_ca.authorities(of_east)["owner"].item() == ""
