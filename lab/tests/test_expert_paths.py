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


def wrong(lab: Lab, fault: Fault, *, there: bool) -> list[str]:
    """Return the commands that should tell and do not, or that tell of what is not there, with what they showed.

    They are asked again until istiod has noticed.
    """
    deadline = time.monotonic() + drill.NOTICED
    while True:
        path = [one for one in walked(lab, fault) if one.look.telling and one.telling != there]
        if not path or time.monotonic() > deadline:
            return [f"$ {one.look.run}\n{one.output}" for one in path]
        time.sleep(2)


@pytest.mark.parametrize("fault", [one for one in drill.CHOSEN if not one.shape], ids=lambda fault: fault.name)
def test_a_path_tells_what_is_broken_and_only_then(meshed_lab: Lab, fault: Fault) -> None:
    """Every pattern is seen on the broken mesh, and none on the healed one."""
    with broken(meshed_lab, fault.name):
        found = wrong(meshed_lab, fault, there=True)
    assert found == [], "\n\n".join(found)
    found = wrong(meshed_lab, fault, there=False)
    assert found == [], "\n\n".join(found)
