"""The path of an expert, on the lab: its lines tell while the fault is there, and not when it is healed.

$MESHKIT_TEST_FAULTS chooses the faults, as for test_drills.py; unset, all of them.
"""

from __future__ import annotations

import time

import pytest
from meshlab.faults.fault import Fault
from meshlab.layout import sites
from meshlab.training import expert
from meshlab.training.expert import Ran
from meshlab.training.lesson import lessons

from tests.support import drill
from tests.support.lab import Lab, broken, in_folder

pytestmark = [pytest.mark.lab, pytest.mark.drill]
WEST = sites(2)[1]


def walked(lab: Lab, fault: Fault) -> list[Ran]:
    """Run the path of a fault of west."""
    with in_folder(lab.home):
        return [expert.run(lab.home, look) for look in lessons(WEST)[fault.name].path]


def silent(path: list[Ran]) -> list[str]:
    """Return the commands that should tell, and do not, with what they showed."""
    return [f"$ {one.look.run}\n{one.output}" for one in path if one.look.telling and not one.telling]


@pytest.mark.parametrize("fault", drill.CHOSEN, ids=lambda fault: fault.name)
def test_a_path_tells_what_is_broken_and_only_then(meshed_lab: Lab, fault: Fault) -> None:
    """Every pattern is seen on the broken mesh, at the latest when istiod has noticed; none on the healed one."""
    with broken(meshed_lab, fault.name):
        deadline = time.monotonic() + drill.NOTICED
        while (unseen := silent(walked(meshed_lab, fault))) and time.monotonic() < deadline:
            time.sleep(2)
    assert unseen == [], "\n\n".join(unseen)
    told = [f"$ {one.look.run}\n{one.output}" for one in walked(meshed_lab, fault) if one.telling]
    assert told == [], "\n\n".join(told)
