"""What the stages have in common that change nothing, and send requests: Verify and Observe."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from meshkit import parameters
from meshkit.display import Shown, Text
from meshkit.kube.mesh import Mesh
from meshkit.spec import MeshSpec
from meshkit.stages.stage import Stage


class Sending(Stage):
    """A stage that changes nothing. In modes audit and apply it sends requests; in mode plan it only reads."""

    modes: ClassVar[tuple[str, ...]] = parameters.SENDING

    def __init__(self, mesh: str | Path | MeshSpec | Mesh, *, mode: str = "audit", journal: str = "") -> None:
        super().__init__(mesh, mode=mode, journal=journal)

    def _requests(self) -> str:
        """Say what is sent for each pair: "10 requests"."""
        raise NotImplementedError

    def _send(self) -> Shown:
        """Send, except in mode plan, and return the table of the results; it has no rows in mode plan."""
        raise NotImplementedError

    def plan(self) -> Shown:
        """Say what `apply` sends; sends nothing."""
        count = len(self.mesh.clusters)
        begin = "mode is plan: nothing is sent; mode audit sends" if self.mode == "plan" else "apply sends"
        return Text(
            f"{begin} {self._requests()} for each of the {count}x{count} ordered pairs of clusters, each cluster with "
            "itself, too.\nMeanwhile every cluster has a temporary Service meshkit-probe-… for each cluster."
        )

    def apply(self) -> Shown:
        """Send the requests, except in mode plan; return what came back."""
        return self._send()
