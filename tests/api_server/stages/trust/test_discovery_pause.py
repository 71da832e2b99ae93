"""A pause of discovery that a killed run left on a real API server."""

from __future__ import annotations

import pytest

from meshkit.changes.plan import Plan
from meshkit.istio.ca import istiod_ca
from meshkit.istio.multicluster import discovery_pause
from meshkit.istio.multicluster.remote_secrets import LABEL, PAUSED
from meshkit.kube.mesh import Mesh
from meshkit.spec import MeshSpec
from meshkit.stages.trust import discovery_pause as trust_discovery_pause
from tests.support.api_server import ApiServer
from tests.support.objects import core, mesh_of


@pytest.mark.usefixtures("state")
def test_what_a_killed_run_left_paused_is_planned_to_be_read_again(api_server: ApiServer) -> None:
    """By whatever run comes next; what is read, or is none of ours, is left alone."""
    file = {"kubeconfig": str(api_server.kubeconfig)}
    clusters = [{"name": name, "context": name, "network": name, **file} for name in ("east", "west")]
    spec = MeshSpec.parse({"clusters": clusters, "mesh": {"rootNamespace": "apart"}}, where="test")
    east = mesh_of(api_server.kubeconfig).clusters["east"]
    found = Mesh(spec, {"east": east})
    east.apply(core("Namespace", "apart", ""))
    marks = {"left": {"annotations": {PAUSED: "true"}}, "read": {"labels": {LABEL: "true"}}, "other": {}}
    secrets = [core("Secret", name, "apart", stringData={"west": "kubeconfig"}) for name in marks]
    for secret in secrets:
        east.apply({**secret, "metadata": {**secret["metadata"], **marks[secret["metadata"]["name"]]}})
    wanted, known = Plan(found, "04 trust"), discovery_pause.readings(found)
    trust_discovery_pause.resume(wanted, known, istiod_ca.SIGNERS.frame([]))
    for secret in secrets:  # other tests look for remote secrets on this server, too
        east.delete(secret)
    assert [(r["secret"], r["targets"], r["paused"]) for r in known.to_dict("records")] == [
        ("left", "west", True), ("read", "west", False),
    ]  # fmt: skip
    (change,) = wanted.changes
    assert (change.object, change.why.partition(":")[0]) == ("Secret apart/left", "together")
    assert f'+    {LABEL}: "true"' in change.diff.replace("'", '"')
