"""All twelve stages: loaded one by one, and asked too early."""

from __future__ import annotations

import subprocess
import sys

import pytest

from meshkit import stages
from meshkit.errors import InputError
from tests.support.healthy import mesh


def test_a_stage_is_loaded_at_its_first_use() -> None:
    """The package alone loads none of them; every name of it is a stage."""
    code = "import sys, meshkit.stages; print(sorted(n for n in sys.modules if n.startswith('meshkit.stages.')))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout == "[]\n"
    assert dir(stages) == stages.__all__
    assert sorted(getattr(stages, name).name[:2] for name in dir(stages)) == [f"{n:02}" for n in range(1, 13)]


def test_what_is_no_stage_is_refused() -> None:
    """As of any module."""
    with pytest.raises(AttributeError, match=r"module 'meshkit\.stages' has no attribute 'Stage'"):
        _ = stages.Stage


@pytest.mark.parametrize(("stage", "attribute"), [("Trust", "strategy"), ("Rollback", "book"), ("Verify", "hellos")])
def test_facts_that_were_not_read_name_the_beat(stage: str, attribute: str) -> None:
    """Whatever asks for them: a property, a table, or a picture."""
    begun = getattr(stages, stage)(mesh())
    with pytest.raises(InputError, match=r"stage\.look\(\) must be run before there is something to show"):
        getattr(begun, attribute)
