"""report.html and the notebooks' HTML: each one file that opens without network."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd

from meshkit.checks.finding import SEVERITY, Verdict, findings_html, worst_first
from meshkit.display import COLOURS, cell_html, symbol_of
from meshkit.runs.compare import Comparison
from meshkit.runs.outcome import Outcome, Status
from meshkit.runs.traffic_report import BAD as FAILED
from meshkit.runs.traffic_report import TABLES, Story, payload
from meshkit.tables import table_html

HERE = Path(__file__).parent
ROWS = 20


def notebook_html(nb: Any, title: str) -> str:
    """Return a notebook as one HTML file: pictures inside, no scripts, nothing fetched."""
    from nbconvert import HTMLExporter

    exporter: Any = HTMLExporter(  # type: ignore[no-untyped-call]
        template_name="meshkit", extra_template_basedirs=[str(HERE / "templates")]
    )
    html, _ = exporter.from_notebook_node(nb, resources={"metadata": {"name": title}})
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
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )

    def table(payload: Mapping[str, Any]) -> Markup:
        name = names[id(payload)]
        link = f'<a href="tables/{name}.csv">tables/{name}.csv</a>'
        return Markup(table_html(payload, limit=ROWS, more=link))  # noqa: S704  (table_html escapes)

    def story_table(df: pd.DataFrame, name: str) -> Markup:
        link = f'<a href="tables/{name}.csv">tables/{name}.csv</a>'
        schema = next(table for table in TABLES if table.name == name)
        return Markup(table_html(payload(df, schema), limit=schema.limit, more=link))  # noqa: S704  (as above)

    return environment.get_template("report.html.j2").render(
        record=record,
        outcomes=outcomes,
        comparison=comparison,
        verdict=_headline(outcomes, story if record.get("exit_code") else None),
        colours=COLOURS,
        table=table,
        story=story,
        story_table=story_table,
        story_tables=[table.name for table in TABLES] if story else (),
        names=names,
        bad=lambda outcome: [f for f in outcome.findings if f.verdict not in (Verdict.PASS, Verdict.SKIPPED)],
        findings=lambda found: Markup(findings_html(f.to_dict() for f in worst_first(found))),  # noqa: S704  (findings_html escapes)
        state=lambda word: Markup(cell_html(str(word))),  # noqa: S704  (cell_html escapes)
        symbol=lambda word: symbol_of(str(word)),
        title=stage_title,
        duration=duration,
        multiline=lambda text: Markup("<br>".join(escape(text).splitlines())),  # noqa: S704
    )


def stage_title(stage: str) -> str:
    """Return `08-verify` as `08 verify`."""
    return re.sub(r"^(\d+)-", r"\1 ", stage)


def duration(seconds: float) -> str:
    """Return a duration in readable form: 4.2 s, 3 min 05 s."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s"


def _headline(outcomes: Sequence[Outcome], lost: Story | None) -> dict[str, str]:
    """The word, and the sentence below it, for the whole run; `lost` is the story of one that ended badly."""
    counts = {v: sum(o.counts.get(v.value, 0) for o in outcomes) for v in reversed(SEVERITY)}
    counted = ", ".join(f"{n} {v.value}" for v, n in counts.items() if n) or "nothing was checked"
    bad = [o for o in outcomes if o.status is not Status.PASSED]
    if not bad and lost and lost.state == FAILED:
        return {"word": "failed", "text": f"Every stage ran to its verdict ({counted}), but {lost.headline}"}
    if not bad:
        word = "warn" if counts[Verdict.WARN] else "passed"
        return {"word": word, "text": f"Every stage ran to its verdict: {counted}."}
    stopped = [o for o in bad if o.status is not Status.FAILED]
    word = "failed" if counts[Verdict.FAIL] else bad[0].status.value if stopped else "unknown"
    return {"word": word, "text": f"{', '.join(f'{stage_title(o.stage)} {o.status.value}' for o in bad)}: {counted}."}
