"""Every fault, by its name."""

from __future__ import annotations

import difflib

from meshkit.errors import InputError
from meshlab.faults import credentials, gateways, proxies, services, trust, views
from meshlab.faults.fault import Fault

MODULES = (credentials, gateways, trust, proxies, services, views)
KNOWN = {each.name: each for module in MODULES for each in vars(module).values() if isinstance(each, Fault)}


def find(name: str) -> Fault:
    """Return the fault of a name.

    Raises:
        InputError: there is none; the message names the nearest.
    """
    if name in KNOWN:
        return KNOWN[name]
    (near,) = difflib.get_close_matches(name, KNOWN, n=1, cutoff=0.0)
    raise InputError(f"no fault is called {name!r}; the nearest is {near}", where="meshkit lab",
                     remedy="`meshkit lab faults` lists them")  # fmt: skip
