"""The training notebook: structured as meshkit's are, and none of a run's stages."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from meshkit.runs import parameters
from meshkit.runs.run import stages
from tests.unit import test_notebooks as rules

TRAINING = Path(__file__).parents[1] / "training.ipynb"


@pytest.mark.parametrize(
    "rule",
    [
        rules.test_a_notebook_is_valid_and_stripped,
        rules.test_a_notebook_says_what_it_does_to_a_cluster,
        rules.test_parameters_stand_in_one_cell_that_meshkit_and_papermill_read_alike,
        rules.test_code_cells_are_short_plain_and_introduced,
        rules.test_a_notebook_asks_modules_only_for_what_they_have,
        rules.test_every_link_leads_to_something,
    ],
    ids=lambda rule: str(rule.__name__).removeprefix("test_"),
)
def test_it_keeps_the_rules_of_every_notebook(rule: Callable[[Path], None]) -> None:
    """Each rule is the test of the same name, in tests/unit/test_notebooks.py."""
    rule(TRAINING)


def test_it_is_no_stage() -> None:
    """It works on the lab only, has sections of its own, and no run takes it for one of its stages."""
    text = "\n".join(cell.source for cell in rules.cells(TRAINING, "markdown"))
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == ["Break", "Look", "Hints", "Answer", "Score"]
    assert [p.name for p in parameters.read(TRAINING)] == ["seed", "number", "hints", "answer"]
    assert rules.cells(TRAINING, "code")[-1].source == "rounds.conclude()"
    assert TRAINING not in stages().values()
