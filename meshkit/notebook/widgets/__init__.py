"""What a person explores in JupyterLab: `mesh.explore()`, `findings.explore()`, `plan.explore()`.

Each widget is a `Page`: plain functions that compute what a choice shows, and a template that lays it out. `Panel` is
the one ipywidget that shows any of them. Where nobody sits before the cell, `explore` returns the object itself, which
shows itself as ever: evidence never comes from a widget.

Belongs here: what can be chosen, and its layout. Does not: reading, judging, changing.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from meshkit.errors import InputError
from meshkit.notebook import person

if TYPE_CHECKING:
    from meshkit.display import Shown
    from meshkit.notebook.widgets.page import Page


def explore(thing: Shown) -> Any:
    """Return the widget of a mesh, a snapshot, findings, a plan or a table; the thing itself where nobody is there."""
    return shown(page_of(thing), thing) if person.is_there() else thing


def shown(page: Page, instead: Any) -> Any:
    """Return the widget of a page where a person is there, and otherwise what shows the same without one.

    Raises:
        InputError: ipywidgets or anywidget is not installed beside this kernel.
    """
    if not person.is_there():
        return instead
    try:
        from meshkit.notebook.widgets.panel import Panel
    except ImportError as error:
        raise InputError(f"widgets need {error.name}", remedy="pip install 'meshkit[notebook]'") from None
    return Panel(page)


def page_of(thing: Shown) -> Page:
    """Return the page of a mesh, a snapshot, findings, a plan or a table."""
    from meshkit.changes.plan import Plan, Plans
    from meshkit.checks.finding import Findings
    from meshkit.kube.mesh import Mesh
    from meshkit.notebook.start import Choice
    from meshkit.notebook.widgets.explorer import Explorer
    from meshkit.notebook.widgets.findings import FindingsPage
    from meshkit.notebook.widgets.latency import TIMED
    from meshkit.notebook.widgets.plan_tree import PlanPage
    from meshkit.notebook.widgets.start import StartPage
    from meshkit.notebook.widgets.tables import TablePage
    from meshkit.snapshot.snapshot import Snapshot
    from meshkit.tables import View

    if isinstance(thing, Mesh | Snapshot):
        return Explorer(thing)
    if isinstance(thing, Findings):
        return FindingsPage(thing)
    if isinstance(thing, Plan | Plans):
        return PlanPage(*thing.plans) if isinstance(thing, Plans) else PlanPage(thing)
    if isinstance(thing, Choice):
        return StartPage(thing)
    if isinstance(thing, View):
        return TIMED.get(thing.table.name, partial(TablePage, thing.table))(thing.frame)
    raise TypeError(f"nothing is known of how to explore a {type(thing).__name__}")
