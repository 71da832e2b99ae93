"""The lab before stage 07, for what is tried of that stage."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from meshkit.istio.multicluster import reader_tokens
from meshkit.istio.multicluster.remote_secrets import LABEL
from meshkit.kube.mesh import Mesh
from tests.support.lab import Lab, until

CONTEXTS = ("lab-east", "lab-west")
SYSTEM = ("-n", "istio-system")


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Journals go where the test ends."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def undiscovered(meshed_lab: Lab) -> Iterator[Lab]:
    """The lab as it is before stage 07; afterwards the clusters have discovered each other again."""
    part(meshed_lab)
    yield meshed_lab
    part(meshed_lab)
    for entry in Mesh.open(meshed_lab.mesh_file).spec.clusters:
        command = ("create-remote-secret", f"--name={entry.name}", f"--server={entry.api_server}")
        made = meshed_lab.istioctl(entry.context, *command)
        for reader in {*CONTEXTS} - {entry.context}:
            meshed_lab.kubectl(reader, "apply", "-f", "-", stdin=made)
    until(lambda: watched(meshed_lab) == 2 * len(CONTEXTS), "each istiod watches both clusters", 60)


def part(lab: Lab) -> None:
    """Delete every remote secret and every reader's token.

    Never while an istiod takes one in: a secret that goes during its first sync leaves its controller hanging.
    """
    for context in CONTEXTS:
        lab.kubectl(context, "delete", "secret", "-A", "-l", f"{LABEL}=true")
        for kind in (reader_tokens.TOKEN_TYPE, reader_tokens.EXPIRING_TYPE):
            lab.kubectl(context, "delete", "secret", *SYSTEM, f"--field-selector=type={kind}")
    until(lambda: watched(lab) == len(CONTEXTS), "each istiod watches its own cluster only", 60)


def watched(lab: Lab) -> int:
    """Return how many clusters the istiods have synced, their own included."""
    return sum(lab.istioctl(context, "remote-clusters").count("synced") for context in CONTEXTS)
