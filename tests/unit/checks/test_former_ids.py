"""Whatever takes the id of a check takes a former one, too."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from meshkit.checks import audit
from meshkit.checks.finding import Finding, Findings, Verdict
from meshkit.errors import InputError
from meshkit.runs.compare import compare
from meshkit.runs.outcome import Outcome, Status
from tests.support.healthy import mesh

ADDRESS = Finding(
    id="MK701", check="API server has an address", subject="east", expected="", observed="", verdict=Verdict.WARN
)
EARLIER = replace(ADDRESS, id="MK204")


@pytest.mark.parametrize("name", ["MK204", "mk204", "MK701"])
def test_findings_are_had_by_a_former_id(name: str) -> None:
    """Those of this run, and those of an earlier one."""
    assert Findings([ADDRESS, EARLIER, replace(ADDRESS, id="MK702")])[name] == [ADDRESS, EARLIER]


def test_what_is_no_id_finds_nothing() -> None:
    """And is no error, as before."""
    assert Findings([ADDRESS])["MK999"] == []


def test_a_mesh_file_accepts_a_warning_by_a_former_id() -> None:
    """`gates.accept` of before still holds; what was never an id is refused."""
    assert audit._accepted(mesh(gates={"accept": {"MK212": "two applications"}})) == {"MK709": "two applications"}
    with pytest.raises(InputError, match="there is no check 'MK298'"):
        audit._accepted(mesh(gates={"accept": {"MK298": "why"}}))


@pytest.mark.parametrize(("verdict", "changes"), [(Verdict.WARN, []), (Verdict.FAIL, [("fail", "warn")])])
def test_an_earlier_run_is_compared_by_its_former_ids(
    tmp_path: Path, verdict: Verdict, changes: list[tuple[str, str]]
) -> None:
    """One finding that has the same verdict, or another; not one that is gone and one that is new."""
    earlier = {"stage": "02-prepare", **replace(EARLIER, verdict=verdict).to_dict()}
    (tmp_path / "results.json").write_text(json.dumps({"findings": [earlier], "tables": {}}))
    (tmp_path / "record.json").write_text(json.dumps({"stages": [{"stage": "02-prepare", "files": ["x"]}]}))
    found = compare(tmp_path, [Outcome(stage="02-prepare", status=Status.PASSED, findings=[ADDRESS])], {})
    assert [(change.before, change.now) for change in found.findings] == changes
