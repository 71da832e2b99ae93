"""Prints the table of docs/lab-shapes.md from what lab/tests/test_shapes.py saw."""

from __future__ import annotations

import json
import sys
from pathlib import Path

COLUMNS = ("shape", "healthy", "plan", "apply", "second plan", "undo")


def markdown(seen: dict[str, dict[str, str]]) -> str:
    """Return the table in markdown, a row for each shape."""
    rows = []
    for name, row in seen.items():
        shapes = " + ".join(f"`{one}`" for one in name.split("+"))
        rows.append([shapes, *(row.get(column, "").replace("|", "\\|") for column in COLUMNS[1:])])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (COLUMNS, ["---"] * len(COLUMNS), *rows))


if __name__ == "__main__":
    print(markdown(json.loads(Path(sys.argv[1]).read_text())))
