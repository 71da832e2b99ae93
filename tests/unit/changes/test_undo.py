"""Undo's words: no secret, and each field manager by its name."""

from __future__ import annotations

import pytest

from meshkit.changes import undo
from meshkit.stages.trust import journal_steps
from tests.support.objects import (
    CANARY,
    core,
)


def test_no_step_tells_what_a_secret_holds() -> None:
    """A cell that ends in one shows it, and so does a traceback."""
    secret = core("Secret", "cacerts", data={"ca-key.pem": CANARY})
    told = repr(
        [undo.UndoStep("restore", secret, secret), journal_steps.JournalStep("east", None, now=secret, former=secret)]
    )
    assert CANARY not in told


class TestOthers:
    """What others changed or use is kept until they consent."""

    @pytest.mark.parametrize(
        ("manager", "known"),
        [
            *[(machine, True) for machine in (
                "kube-controller-manager", "kubelet", "k3s", "cloud-controller-manager", "aws-cloud-controller-manager",
                "openshift-controller-manager", "pilot-discovery", "istio.io/gateway-controller", "istioctl", "meshkit",
            )],
            *[(tool, False) for tool in (
                "node-fetch", "kapp-controller", "my-controller", "controller", "cloud-shell", "kube-deploy",
                "kubectl-edit", "helm-controller", "k3s-deploy", "pilot-tool", "kustomize-controller",
            )],
        ],
    )  # fmt: skip
    def test_who_is_no_known_machine_is_somebody(self, manager: str, known: bool) -> None:
        """Lens writes as node-fetch, and deployers are called controllers, too."""
        written = core("ConfigMap", "x")
        written["metadata"]["managedFields"] = [{"manager": manager, "operation": "Update"}]
        assert undo.foreign_managers(written) == (set() if known else {manager})
