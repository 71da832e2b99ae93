"""Start: the mesh that is worked with, of a mesh file or of a snapshot; what `00-start.ipynb` shows."""

from __future__ import annotations

from pathlib import Path

from meshkit.checks import audit
from meshkit.mesh import Mesh
from meshkit.notebook.start import Choice, Standing
from meshkit.snapshot.file import is_snapshot
from meshkit.snapshot.snapshot import Snapshot


class Start(Choice):
    """The mesh of a mesh file, or of a snapshot, which needs no cluster.

    `explore` offers what lies beside the notebooks; `mesh` and `stages` follow what is chosen there.
    """

    @property
    def mesh(self) -> Mesh | Snapshot:
        """The chosen mesh: `start.mesh.explore()`.

        Raises:
            InputError: the file is missing or wrong, or a context is missing from kubeconfig.
        """
        path = Path(self.chosen)
        return Snapshot.load(path) if is_snapshot(path) else Mesh.open(path)

    @property
    def stages(self) -> Standing:
        """Where the mesh stands in the line of stages; a live mesh is read for that, which takes some seconds."""
        mesh = self.mesh
        return Standing(audit.check(mesh if isinstance(mesh, Snapshot) else audit.look(mesh)))
