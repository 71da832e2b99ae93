"""The data class of a fault, and the decorator that makes a function one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from meshlab.faults.bench import Bench

Make = Callable[[Bench], None]


@dataclass(frozen=True)
class Fault:
    """One way to break a mesh: what it breaks, the facts that it shows, what users see, and its function.

    Only a lab of its `shape` can have it; any lab, if that is empty.
    """

    name: str
    breaks: str
    behind: str
    users: str
    finding: str
    make: Make
    shape: str = ""


def fault(*, behind: str, users: str, finding: str, shape: str = "") -> Callable[[Make], Fault]:
    """Turn a function into a fault with the function's name; the first line of its docstring is what it breaks.

    Args:
        behind: pains and facts of Istio that it shows (P1 to P29, F1 to F21, S1 for the version policy).
        users: what users of the mesh see.
        finding: id of the check that names it before all others.
        shape: of the only labs that can have it; empty for any.
    """

    def become(make: Make) -> Fault:
        breaks = (make.__doc__ or "").strip().splitlines()[0].rstrip(".")
        return Fault(make.__name__.replace("_", "-"), breaks, behind, users, finding, make, shape)

    return become
