"""A whole mesh, live or of a snapshot: at a glance, its findings, pairs, proxies and latency, each a page of its own.

A live mesh is read in a thread, so that the kernel is free for other cells. The pages of the last reading stay
meanwhile.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from meshkit.checks import audit
from meshkit.errors import MeshkitError
from meshkit.istio.proxies.status_summary import PROXIES
from meshkit.kube.mesh import Mesh
from meshkit.notebook.widgets.findings import FindingsPage
from meshkit.notebook.widgets.glance import GlancePage
from meshkit.notebook.widgets.latency import LatencyPage
from meshkit.notebook.widgets.page import Page, in_background
from meshkit.notebook.widgets.pair_matrix import PairPage
from meshkit.notebook.widgets.tables import TablePage
from meshkit.snapshot.snapshot import Snapshot

EVERY: Final = {"30 seconds": 30, "minute": 60, "5 minutes": 300}
"""How often a live mesh can be read again: as long as its widget is shown."""


def pages(taken: Snapshot) -> dict[str, Page]:
    """Return the pages of a snapshot, by name."""
    findings = audit.check(taken)
    made: dict[str, Page] = {
        "Overview": GlancePage(taken, findings),
        "Findings": FindingsPage(findings, list(taken.mesh.clusters)),
        "Pairs": PairPage(taken, findings),
        "Proxies": TablePage(PROXIES, taken.proxies().proxies),
    }
    return made if taken.sent is None else made | {"Latency": LatencyPage(taken.sent)}


class Explorer(Page):
    """The pages of a mesh, and how to read it again."""

    template = "explorer.html.j2"

    def __init__(self, thing: Mesh | Snapshot) -> None:
        super().__init__(view="Overview", every="")
        self.taken = thing if isinstance(thing, Snapshot) else Snapshot(thing)
        self.live = self.taken.live
        self.label = f"Mesh {self.taken.spec.mesh.id}"
        self.pages: dict[str, Page] = {}
        self.reading: str | None = None
        """What is being read now; None while nothing is."""
        self.trouble = ""
        if self.live:
            self._start(self.taken)
        else:
            self.pages = pages(self.taken)

    @property
    def page(self) -> Page | None:
        """The page that is shown; none before the first reading."""
        return self.pages.get(self.chosen["view"])

    def choose(self, name: str, value: str) -> None:
        """Read again, show another page, or choose something on the page that is shown."""
        if name == "refresh":
            if self.live and self.reading is None:
                self._start(Snapshot(self.taken.mesh.fresh))
        elif name in self.chosen:
            super().choose(name, value)
        elif self.page:
            self.page.changed = self.changed
            self.page.choose(name, value)

    def _start(self, taken: Snapshot) -> None:
        self.reading = "reading every cluster …"
        in_background(self._read, taken)

    def _read(self, taken: Snapshot) -> None:
        try:
            made = pages(taken.read(tell=self._tell))
            for name, page in made.items():
                page.go_on_from(self.pages.get(name, page))
            self.taken, self.pages, self.trouble = taken, made, ""
        except MeshkitError as error:
            self.trouble = str(error)
        finally:
            self.reading = None
            self.changed()

    def _tell(self, words: str) -> None:
        self.reading = words
        self.changed()

    def status(self) -> str:
        """Return what is being read, what went wrong, or what the page says."""
        return self.reading or self.trouble or (self.page.status() if self.page else "")

    def content(self) -> Mapping[str, Any]:
        """Return the shown page, and the names of all."""
        return {"views": list(self.pages), "shown": self.page, "taken": self.taken, "every": EVERY}
