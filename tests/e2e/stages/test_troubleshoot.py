"""Notebook 11 on real faults: from what a person saw to the cause, with what follows from it and the remedy."""

from __future__ import annotations

from pathlib import Path

import pytest
from meshlab.faults.catalogue import find

from tests.e2e.runs.test_migration import Done, meshkit
from tests.support import drill
from tests.support.lab import Lab, broken, until

pytestmark = [pytest.mark.lab, pytest.mark.drill]
SEEN = {
    "revoked-credential": "401 in istiod's log",
    "exposure-missing": "2026-11-26T05:00:00Z - - 0 NR filter_chain_not_found - - 0 0 0 - 10.12.0.1:15443",
    "paused-proxy": "STALE proxies",
    "service-missing": "could not resolve host",
    "nacked-envoyfilter": "",
}


def looked_into(lab: Lab, state: Path, symptom: str) -> Done:
    """Run notebook 11 from a symptom."""
    return meshkit(state, "run", str(lab.mesh_file), "--only", "11", "-p", "symptom", symptom)


def bad_ids(lab: Lab) -> set[str]:
    """Return the ids of all findings of `meshkit check` that are not good."""
    return {f["id"] for f in drill.check(lab) if f["verdict"] not in drill.GOOD}


@pytest.mark.parametrize("name", SEEN)
def test_a_symptom_leads_to_the_cause_and_its_remedy(meshed_lab: Lab, tmp_path: Path, name: str) -> None:
    """The fault's own check is the cause, the steps begin with its remedy; once healed, nothing is amiss."""
    number = find(name).finding
    with broken(meshed_lab, name):
        until(lambda: number in bad_ids(meshed_lab), number, drill.NOTICED)
        done = looked_into(meshed_lab, tmp_path, SEEN[name])
    assert done.code == 1, done.said[-3000:]
    (cause,) = done.table("causes").query("place == 'cause'").to_dict("records")
    assert cause["id"] == number
    (finding,) = [f for f in done.findings if (f["id"], f["subject"]) == (number, cause["subject"])]
    assert done.table("cure")["do"][0] == finding["remedy"] != ""
    until(lambda: drill.bad(drill.check(meshed_lab)) == [], "nothing is amiss", drill.NOTICED)
    assert looked_into(meshed_lab, tmp_path, SEEN[name]).code == 0
