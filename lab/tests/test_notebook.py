"""The notebooks to learn from: structured as meshkit's are, and none of a run's stages."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from meshlab.tour.stops import stops

from meshkit.checks.catalogue import STAGES
from meshkit.runs import parameters
from meshkit.runs.run import stages
from tests.unit import test_notebooks as rules

TRAINING, TOUR = (Path(__file__).parents[1] / f"{name}.ipynb" for name in ("training", "tour"))


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
@pytest.mark.parametrize("notebook", [TRAINING, TOUR], ids=lambda path: str(path.stem))
def test_it_keeps_the_rules_of_every_notebook(rule: Callable[[Path], None], notebook: Path) -> None:
    """Each rule is the test of the same name, in tests/unit/test_notebooks.py."""
    rule(notebook)


def headings(notebook: Path) -> list[str]:
    """Return the headings of a notebook's sections."""
    text = "\n".join(cell.source for cell in rules.cells(notebook, "markdown"))
    return re.findall(r"^## (.+)$", text, re.MULTILINE)


def test_training_is_no_stage() -> None:
    """It works on the lab only, has sections of its own, and no run takes it for one of its stages."""
    assert headings(TRAINING) == ["Round", "Score"]
    assert [p.name for p in parameters.read(TRAINING)] == ["seed", "number", "topic", "level", "hints", "answer"]
    assert rules.cells(TRAINING, "code")[-1].source == "rounds.conclude()"
    assert TRAINING not in stages().values()


def test_the_tour_stops_at_every_stage_of_a_migration() -> None:
    """In their order, each with a question; no run takes it for one of its stages."""
    asked = [cell.source.rpartition("\n")[2] for cell in rules.cells(TOUR, "code")[1:]]
    assert asked == [f'page.stop("{number}", apply=apply)' for number in stops()]
    assert headings(TOUR) == [STAGES[number].capitalize() for number in stops()]
    assert TOUR not in stages().values()
