"""Validation of notebook parameters before anything is changed: by `meshkit run` and in the notebook itself.

Papermill hands on whatever it is given: `-p samples many` is a text there, and `-p consent no` is true to Python.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Sequence
from typing import Any

from meshkit.errors import InputError
from meshkit.spec import DNS_LABEL, MeshSpec

LEAST = {"calls": 1, "samples": 1, "hold": 0.0}
"""The least that each parameter which is a number may be; an int where the least is one."""
MODES = ("plan", "apply")
SENDING = ("audit", "apply", "plan")
"""Modes of stages that change nothing, but send requests, except in mode plan."""
BUILT = ("multi-primary", "primary-remote")
"""The models of `topology.controlPlane` that stages bring about."""


def require_choice(name: str, value: Any, known: Sequence[str], *, option: str = "") -> None:
    """Let one of the words pass; it is the value of a notebook's parameter, or of an option of the command line.

    Raises:
        InputError: it is another one, or no text.
    """
    if value in known:
        return
    nearest = difflib.get_close_matches(str(value), known, n=1, cutoff=0.5)
    hint = f"did you mean {nearest[0]!r}?" if nearest else f"use {option or f'-p {name}'} {known[0]}"
    message = f"expected {' or '.join(known)}, got {value!r}"
    raise InputError(message, where=option or f"parameter {name}", remedy=hint)


def require_number(name: str, value: Any) -> None:
    """Require a finite number that is at least its minimum in `LEAST`.

    Raises:
        InputError: it is less, endless, or no such number.
    """
    least = LEAST[name]
    kinds = (int,) if isinstance(least, int) else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not math.isfinite(value) or value < least:
        what = "a whole number" if isinstance(least, int) else "a number"
        message = f"expected {what} from {least:g} up, got {value!r}"
        raise InputError(message, where=f"parameter {name}", remedy="the notebook's first cells explain the parameter")


def require_bool(name: str, value: Any) -> None:
    """Let True and False pass.

    Raises:
        InputError: it is anything else; a text such as "no" would be taken for yes.
    """
    if not isinstance(value, bool):
        message = f"expected True or False, got {value!r}"
        raise InputError(message, where=f"parameter {name}", remedy=f"use -p {name} True, or leave it out")


def require_supported_topology(spec: MeshSpec) -> None:
    """Let a topology pass that meshkit can bring about.

    Raises:
        InputError: it is one that is not built yet.
    """
    wanted = spec.topology.control_plane
    if wanted not in BUILT:
        remedy = f"use {BUILT[0]} if the facts allow it: `meshkit run --only 01` shows them; nothing was changed"
        raise InputError(f"{wanted} is not yet built", where="topology.controlPlane of the mesh file", remedy=remedy)


def secret_id(spec: MeshSpec, name: str) -> None:
    """Let a cluster id pass of which a remote secret can be made: a DNS label, as istioctl wants it.

    Source: istio/istio, istioctl/pkg/multicluster/remote_secret.go (RemoteSecretOptions.prepare).

    Raises:
        InputError: it is none; other clusters' meshes with such ids can be read, if their secrets are there.
    """
    if not re.fullmatch(DNS_LABEL, name):
        number = [entry.name for entry in spec.clusters].index(name)
        raise InputError(
            f"no remote secret can be made for cluster id {name!r}: istioctl create-remote-secret takes a DNS label "
            "only (a-z, 0-9 and -, a letter or digit at both ends, 63 at most)",
            where=f"clusters.{number}.name of the mesh file",
            remedy="give the cluster another id (values.global.multiCluster.clusterName; see docs/renames.md)",
        )
