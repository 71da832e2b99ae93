"""report.html and the notebooks' HTML: each one file that opens without network."""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, Final

import pandas as pd

from meshkit.checks.finding import SEVERITY
from meshkit.display import DARK, cell_html, coloured, symbol_of
from meshkit.marks import MARKS, plain
from meshkit.notebook.terminal import number as short
from meshkit.notebook.topology import networks, topology
from meshkit.notebook.topology import summary as pairs_in_words
from meshkit.runs import grouped, summary
from meshkit.runs.compare import Comparison
from meshkit.runs.outcome import Outcome
from meshkit.runs.summary import stage_title
from meshkit.runs.traffic_report import TABLES, Story, payload
from meshkit.tables import table_html

TEMPLATES: Final = Path(__file__).parent / "templates"
COLUMNS: Final = 9
"""A table with more columns is printed as a block of lines for each row: no paper is wide enough."""
ROWS: Final = 20
"""Of a table with more rows, those with a state that is not good are shown, and others up to so many."""
FIRST: Final = 6
"""So many findings are named on the first screen."""


def notebook_html(nb: Any, outcome: Outcome, mesh: str) -> str:
    """Return a notebook as one HTML file: pictures inside, no scripts, nothing fetched.

    Its head names mesh, date and verdict, and links the report beside it.
    """
    from nbconvert import HTMLExporter

    exporter: Any = HTMLExporter(  # type: ignore[no-untyped-call]
        template_name="meshkit", extra_template_basedirs=[str(TEMPLATES)], filters=_filters()
    )
    title = stage_title(outcome.stage)
    about = {"outcome": outcome, "mesh": mesh, "title": title, "dark": DARK}
    html, _ = exporter.from_notebook_node(nb, resources={"metadata": {"name": f"{title} · {mesh}"}, "run": about})
    return str(html)


def report_html(
    record: Mapping[str, Any],
    outcomes: Sequence[Outcome],
    names: Mapping[int, str],
    comparison: Comparison | None,
    story: Story | None = None,
) -> str:
    """Return the report of a run; `names` gives each shown table (by `id`) its name in the folder.

    A `story` of requests and changes comes right after the verdict; the caller writes its tables beside the report
    (`traffic_report.TABLES`).
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES / "report"),
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= _filters()
    script = (TEMPLATES / "report" / "script.js").read_text(encoding="utf-8")
    clusters = {one["cluster"]: one["network"] for one in record["contexts"]}
    pairs = summary.pair_verdicts(outcomes, list(clusters))
    journal = story.changes.to_dict("records") if story else []
    return environment.get_template("page.html.j2").render(
        record=record,
        outcomes=outcomes,
        comparison=comparison,
        changed=summary.changed(record, outcomes, story),
        verdict=summary.verdict(outcomes, story if record.get("exit_code") else None),
        groups=grouped.findings(outcomes),
        first=FIRST,
        changes=grouped.changes(outcomes, journal, applied=record["mode"] == "apply"),
        picture=_safe(topology(clusters, pairs, summary.pair_latency(outcomes))),
        pairs_in_words=pairs_in_words(list(clusters), pairs),
        networks=list(networks(clusters)),
        story=story,
        story_table=_story_table,
        story_tables=[table.name for table in TABLES] if story else (),
        names=names,
        table=lambda item: _table(item, names[id(item)]),
        severity=[verdict.value for verdict in reversed(SEVERITY)],
        dark=DARK,
        style=_safe((TEMPLATES / "report" / "style.css").read_text(encoding="utf-8")),
        script=_safe(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def duration(seconds: float) -> str:
    """Return a duration in readable form: 4.2 s, 3 min 05 s."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s"


def _filters() -> dict[str, Any]:
    """Return what the templates say of values: HTML that is escaped, and words."""
    return {
        "state": lambda word: _safe(cell_html(str(word))),
        "symbol": lambda word: symbol_of(str(word)) or "?",
        "tone": lambda word: MARKS[plain(word)].tone if plain(word) in MARKS else "unknown",
        "stage_title": stage_title,
        "duration": duration,
        "diff": lambda text: _safe(coloured(text)),
        "lines": lambda text: _safe("<br>".join(escape(text).splitlines())),
        "counts": lambda counts: ", ".join(f"{n} {word}" for word, n in counts.items()) or "none",
        "short": short,
        "moment": lambda text: text.replace("T", " ").replace("Z", " UTC"),
    }


def _safe(html: str) -> Any:
    """Return HTML that a template does not escape again."""
    from markupsafe import Markup

    return Markup(html)  # noqa: S704  (each caller escapes what it quotes)


def _table(item: Mapping[str, Any], name: str) -> Any:
    """Return a table that an outcome shows: the rows in a bad state first, and all of them; of the others, some."""
    ordered, unwell = grouped.worst_rows_first(item)
    limit = max(ROWS, unwell)
    rest = Counter(value for row in ordered["rows"][limit:] for value in row if symbol_of(value))
    states = f" ({', '.join(f'{n:,} {cell_html(word)}' for word, n in sorted(rest.items()))})" if rest else ""
    link = f'<a href="tables/{name}.csv">tables/{name}.csv</a>{states}'
    html = table_html({**ordered, "caption": ""}, limit=limit, more=link)
    return _safe(f'<div class="many">{html}</div>' if len(item.get("show") or item["columns"]) > COLUMNS else html)


def _story_table(df: pd.DataFrame, name: str) -> Any:
    link = f'<a href="tables/{name}.csv">tables/{name}.csv</a>'
    schema = next(table for table in TABLES if table.name == name)
    return _safe(table_html(payload(df, schema), limit=schema.limit, more=link))
