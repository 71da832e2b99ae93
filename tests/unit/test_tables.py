"""The schemas of tables: what docs/tables.md, the frames and the cells come from."""

from __future__ import annotations

import json
import pkgutil
from importlib import import_module
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import meshkit
from meshkit.notebook import tables
from meshkit.tables import Table, flag, integer, moment, number, text

ROOT = Path(__file__).parents[2]
GOLDEN_FILE = ROOT / "tests" / "api_server" / "golden" / "tables.json"
GOLDEN: dict[str, dict[str, Any]] = json.loads(GOLDEN_FILE.read_text(encoding="utf-8"))
NAMES = [name for names in tables.MODULES.values() for name in names]
INDEX = {table.name: table for table in (getattr(tables, name) for name in NAMES)}
SCHEMA = Table(
    "things",
    "Things",
    {
        "name": text("its name"),
        "count": integer("how many"),
        "days": integer("of life left", "days", missing=True),
        "seconds": number("how long", "s"),
        "good": flag("it is"),
        "time": moment("when"),
    },
    key=("name",),
    show=("name", "seconds"),
)


def test_the_documentation_is_printed_from_the_schemas() -> None:
    """Nobody edits it by hand."""
    assert (ROOT / "docs" / "tables.md").read_text(encoding="utf-8") == tables.page() + "\n", "make checks"


def test_every_name_of_the_index_is_one_table() -> None:
    """No module's table hides another one's, and no two write one CSV."""
    assert len(set(NAMES)) == len(NAMES) == len(INDEX)
    with pytest.raises(AttributeError, match="no table NOTHING; there are ACCESS, ADDRESSES"):
        tables.NOTHING  # noqa: B018


@pytest.mark.parametrize("name", GOLDEN)
def test_the_schema_is_what_runs_have(name: str) -> None:
    """The contract of a run's tables, without a run: columns, their order and dtypes, key, caption."""
    table, golden = INDEX[name], GOLDEN[name]
    kept = {column: dtype for column, dtype in table.dtypes.items() if column in golden["columns"]}
    assert [*kept.items()] == [*golden["columns"].items()]
    assert {field: [*getattr(table, field)] for field in ("key", "compare")} == {
        field: golden[field] for field in ("key", "compare")
    }
    assert [column for column in table.show if column in golden["columns"]] == golden["show"]


def test_every_column_says_what_it_means() -> None:
    """Of each table of each module, those that are only read by checks too."""
    names = [found.name for found in pkgutil.walk_packages(meshkit.__path__, "meshkit.")]
    modules = [import_module(name) for name in names if not name.startswith(("meshkit.runs", "meshkit.__main__"))]
    schemas = {id(one): one for module in modules for one in vars(module).values() if isinstance(one, Table)}
    assert len(schemas) > 70
    silent = [f"{one.name}.{c}" for one in schemas.values() for c, about in one.columns.items() if not about.meaning]
    assert silent == []


def test_a_frame_has_the_columns_and_dtypes_of_its_schema() -> None:
    """What a row leaves out is empty, 0, missing, NaN, False or NaT; what it has too much is left out."""
    frame = SCHEMA.frame([{"name": "b", "more": 1}, {"name": "a", "count": 2, "days": 3, "time": "2026-01-02T03:04Z"}])
    assert {name: str(dtype) for name, dtype in frame.dtypes.items()} == SCHEMA.dtypes
    assert [*frame["name"]] == ["a", "b"]
    assert frame.iloc[0].to_dict()["time"] == pd.Timestamp("2026-01-02T03:04Z")
    bare = frame.iloc[1].to_dict()
    assert (bare["count"], bare["good"]) == (0, False)
    assert pd.isna([bare["days"], bare["seconds"], bare["time"]]).all()


def test_rows_are_sorted_unless_they_are_in_order() -> None:
    """The worst first must stay the worst first."""
    rows = [{"name": "b"}, {"name": "a"}]
    assert [*SCHEMA.frame(rows)["name"]] == ["a", "b"]
    assert [*SCHEMA.frame(rows, in_order=True)["name"]] == ["b", "a"]


def test_people_see_the_columns_that_are_shown() -> None:
    """In a terminal, too."""
    assert [*SCHEMA.shown(SCHEMA.frame([])).columns] == ["name", "seconds"]


def test_a_key_that_is_no_column_is_an_error() -> None:
    """A typing error would make rows of two runs one."""
    with pytest.raises(ValueError, match="table things: no column nam; it has"):
        Table("things", "", {"name": text()}, key=("nam",))


def test_the_documentation_has_meaning_and_unit() -> None:
    """One line for each column."""
    assert "| `seconds` | how long, s |" in SCHEMA.markdown().splitlines()
