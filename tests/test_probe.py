"""The probe where there is nothing to probe."""

from __future__ import annotations

from typing import Any, cast

from meshkit.mesh import Mesh, Unknown
from meshkit.probe import CALL_COLUMNS, Probing
from meshkit.spec import MeshSpec


def test_a_mesh_of_which_no_pair_can_be_tried_is_rows_that_say_why() -> None:
    """Columns that no pair fills keep their types, and nothing was sent."""
    entries = [{"name": name, "context": name, "network": name} for name in ("east", "west")]
    spec = MeshSpec.parse({"clusters": entries}, where="here")
    nowhere = cast("dict[str, Any]", dict.fromkeys(("east", "west")))
    probing = Probing(Mesh(spec, nowhere), "abc", dict.fromkeys(nowhere, Unknown("it is gone")))
    calls = probing.calls()
    assert {name: str(dtype) for name, dtype in calls.dtypes.items()} == CALL_COLUMNS
    assert list(calls["sent"]) == [0] * 4
    assert list(calls["error"]) == [f"cluster {server}: it is gone" for server in calls["server"]]
