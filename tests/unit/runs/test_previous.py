"""An earlier run's proxies, read back as they were."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pytest

from meshkit.errors import InputError
from meshkit.notebook import terminal
from meshkit.notebook.terminal import Output
from meshkit.runs import previous
from tests.unit.istio.proxies.test_status_summary import NOW, fleet

STATUS = fleet(
    {"proxy": "p", "state": "STALE", "since": NOW, "age_s": 3.5, "nack": "a, b"}, {"proxy": "q", "cluster": "west"}
)


@pytest.mark.parametrize("output", ["csv", "json"])
def test_what_the_command_printed_comes_back(tmp_path: Path, output: Output) -> None:
    """Every column with its type, what was missing is missing."""
    source = tmp_path / "kept"
    source.write_text(terminal.render(STATUS, output))
    status, began = previous.proxy_status(source)
    pd.testing.assert_frame_equal(status, STATUS)
    assert began is None


def test_a_run_folder_tells_when_it_began(tmp_path: Path) -> None:
    """By its name."""
    run = tmp_path / "20260301T120000Z-audit"
    (run / "tables").mkdir(parents=True)
    (run / "tables" / "proxy-status.csv").write_text(terminal.render(STATUS, "csv"))
    status, began = previous.proxy_status(run)
    assert len(status) == 2
    assert began == datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "No such file"),
        ("a,b\r\n1,2\r\n", "has no cluster"),
        ('[{"a": ', "neither CSV nor JSON"),
        ("", "neither"),
    ],
)
def test_what_is_no_such_table_is_refused(tmp_path: Path, text: str | None, words: str) -> None:
    """With what would do."""
    source = tmp_path / "given"
    if text is not None:
        source.write_text(text)
    with pytest.raises(InputError, match=words) as refused:
        previous.proxy_status(source)
    assert "run folder" in refused.value.remedy
