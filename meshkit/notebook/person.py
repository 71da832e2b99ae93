"""Whether a person sits before the running cell, and can use a widget."""

from __future__ import annotations

import sys


def is_there() -> bool:
    """Return whether the running cell was sent by a frontend that can ask somebody, such as JupyterLab.

    nbclient and papermill say of each cell that nobody can be asked for input (`allow_stdin` of Jupyter's protocol). A
    plain Python, or IPython in a terminal, shows no widget either.
    """
    ipython = sys.modules.get("IPython")
    kernel = getattr(ipython and ipython.get_ipython(), "kernel", None)
    return bool(kernel and kernel.get_parent("shell").get("content", {}).get("allow_stdin"))
