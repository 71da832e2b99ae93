"""Every fault, by its name."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping

from meshkit.errors import InputError
from meshlab.faults import credentials, gateways, proxies, remotes, services, trust, views
from meshlab.faults.fault import Fault

MODULES = (credentials, gateways, trust, proxies, services, views, remotes)
KNOWN = {each.name: each for module in MODULES for each in vars(module).values() if isinstance(each, Fault)}


def of_shapes(shapes: Collection[str] = ()) -> dict[str, Fault]:
    """Return the faults that a lab of these shapes can have."""
    return {name: each for name, each in KNOWN.items() if each.shape in ("", *shapes)}


def find(name: str, among: Mapping[str, Fault] = KNOWN) -> Fault:
    """Return the fault of a name.

    Raises:
        InputError: there is none; the message names the nearest.
    """
    if name in among:
        return among[name]
    (near,) = difflib.get_close_matches(name, among, n=1, cutoff=0.0)
    raise InputError(f"no fault is called {name!r}; the nearest is {near}", where="meshkit lab",
                     remedy="`meshkit lab faults` lists them")  # fmt: skip
