"""What a notebook shows and hands on: tables, figures, facts and the verdict.

Each is shown for people (HTML, and text that reads well in a log) and carried as data beside it, in MIME types of
our own: the runner writes CSVs, the record and the report from those, and judges the stage by its verdict.
"""

from __future__ import annotations

import json
import math
import re
import sys
import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any, Final

import pandas as pd
from matplotlib.figure import Figure

from meshkit.changes.plan import Plan
from meshkit.checks.finding import SEVERITY, Finding, Verdict, holding, overall, worst_first
from meshkit.errors import CheckFailed, UnreachableError
from meshkit.marks import MARKS, plain

TABLE = "application/vnd.meshkit.table+json"
RECORD = "application/vnd.meshkit.record+json"
VERDICT = "application/vnd.meshkit.verdict+json"

COLOURS = {"✔": "#1a7f37", "!": "#8a5a00", "✖": "#c5221f", "?": "#7a3ec8", "·": "#5b6470"}
PLAN_SHOWN: Final[dict[str, Any]] = {
    "name": "plan",
    "caption": "What would change",
    "key": ["cluster", "action", "object"],
    "show": ["n", "cluster", "action", "object", "why", "detail"],
    "compare": [],
}
REHEARSAL_SHOWN: Final[dict[str, Any]] = {
    **PLAN_SHOWN,
    "name": "rehearsal",
    "caption": "What changes for a while, and is taken back",
}
CSS_DPI = 96
_EXIT = {Verdict.FAIL: CheckFailed.exit_code, Verdict.UNKNOWN: UnreachableError.exit_code}
LEFT = ' style="text-align:left"'
"""JupyterLab drops our rules from a notebook that was executed elsewhere, and sets texts to the right then."""
# The class is thrice in the selectors to outweigh JupyterLab's own rules for tables.
_STYLE = """<style>
.mk table { border-collapse: collapse; font-size: 13px; margin: .3em 0 }
.mk .c { font-weight: 600; margin: .6em 0 .2em }
.mk.mk.mk th, .mk.mk.mk td { text-align: left; vertical-align: top; padding: .3em 1.2em .3em 0 }
.mk tr { border-bottom: 1px solid #8884 } .mk th { white-space: nowrap }
.mk.mk.mk td { overflow-wrap: break-word; max-width: 36em }
.mk.mk.mk .w { white-space: nowrap }
.mk.mk.mk .n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
.mk .s { white-space: nowrap; font-weight: 600 } .mk p { margin: .4em 0 }
.mk summary { cursor: pointer; margin: .2em 0 } .mk pre { font-size: 12px; overflow-x: auto; margin: .2em 0 .8em 1em }
</style>"""


def table(
    df: pd.DataFrame,
    name: str,
    caption: str = "",
    *,
    limit: int = 50,
    key: Sequence[str] = (),
    show: Sequence[str] = (),
    compare: Sequence[str] = (),
) -> None:
    """Show a table, and hand all of its rows on as data.

    Words for states and verdicts get a symbol and a colour. At most `limit` rows are shown, of the columns in `show`
    (all unless given), without those that are empty; the run folder's `tables/NAME.csv` has everything. An index that
    is not a plain count is shown as columns. `key` names the columns that identify a row, so that the report can tell
    which rows changed since the run before, in the columns `compare` (all but times unless given).

    Raises:
        ValueError: the name is no file name of small letters, digits, `-` and `_`, or `key` names no column.
    """
    frame = df if isinstance(df.index, pd.RangeIndex) else df.reset_index()
    columns = [str(column) for column in frame.columns]
    if unknown := {*key, *show, *compare} - set(columns):
        raise ValueError(f"table {name}: no column {', '.join(sorted(unknown))}; it has {columns}")
    rows = frame.to_json(orient="values", date_format="iso", double_precision=15, default_handler=str)
    payload = {
        "name": _file_name(name),
        "caption": caption,
        "columns": columns,
        "dtypes": [str(dtype) for dtype in frame.dtypes],
        "key": list(key),
        "show": list(show),
        "compare": list(compare),
        "rows": json.loads(rows),
    }
    html = f'<div class="mk">{_STYLE}{table_html(payload, limit=limit)}</div>'
    _show({"text/plain": table_text(payload, limit=limit), "text/html": html, TABLE: payload})


def plan(plan: Plan) -> None:
    """Show what a plan would change: one row for each change, and below it each change's diff. Secrets are masked."""
    table(plan.table(), **(REHEARSAL_SHOWN if plan.temporary else PLAN_SHOWN))
    blocks = [(f"{c.cluster}: {c.action} {c.object}", c.diff) for c in plan.changes if c.diff]
    html = "".join(
        f"<details><summary>{escape(title)} ({_lines_changed(diff)})</summary><pre>{_coloured(diff)}</pre></details>"
        for title, diff in blocks
    )
    text = "\n\n".join(f"{title}\n{diff}" for title, diff in blocks)
    if blocks:
        _show({"text/plain": text, "text/html": f'<div class="mk">{_STYLE}{html}</div>'})


def text(words: str, title: str) -> None:
    """Show a text as it is, such as a file to write, folded under a title; nothing where there is none."""
    if words:
        html = f"<details><summary>{escape(title)}</summary><pre>{escape(words)}</pre></details>"
        _show({"text/plain": f"{title}:\n{words}", "text/html": f'<div class="mk">{_STYLE}{html}</div>'})


def _lines_changed(diff: str) -> str:
    signs = Counter(line[:1] for line in diff.splitlines())
    return f"+{signs['+']} −{signs['-']} lines"


def _coloured(diff: str) -> str:
    colours = {"+": COLOURS["✔"], "-": COLOURS["✖"], "@": COLOURS["·"], "#": COLOURS["?"]}
    return "\n".join(
        f'<span style="color:{colours[line[0]]}">{escape(line)}</span>' if line[:1] in colours else escape(line)
        for line in diff.splitlines()
    )


def figure(fig: Figure, name: str, alt: str = "") -> None:
    """Show a matplotlib figure once, as a PNG with a text alternative (its title unless given), and close it.

    Of a figure in which nothing is drawn only the title is shown.

    Raises:
        ValueError: the name is no file name of small letters, digits, `-` and `_`.
    """
    import base64
    from io import BytesIO

    from matplotlib import pyplot as plt

    png = BytesIO()
    alt = alt or " ".join(fig.get_suptitle().split()) or name
    if not fig.get_axes():
        plt.close(fig)
        _show({"text/plain": alt})
        return
    fig.savefig(png, format="png", dpi=1.5 * CSS_DPI)
    plt.close(fig)
    about = {"figure": _file_name(name), "alt": alt, "width": round(fig.get_figwidth() * CSS_DPI)}
    _show(
        {"text/plain": f"[figure {name}: {alt}]", "image/png": base64.b64encode(png.getvalue()).decode()},
        {"meshkit": about, "image/png": {"width": about["width"], "alt": alt}},
    )


def record(name: str, value: Any) -> None:
    """Hand a small fact on to `record.json`, and show it: a text whole, a long mapping as one line for each key.

    Raises:
        TypeError: the value is not JSON.
    """
    shown = json.dumps(value, ensure_ascii=False)
    line = f"{name}: {shown if len(shown) <= 120 else shown[:117] + '…'}"
    if isinstance(value, str):
        line = textwrap.fill(f"{name}: {value}", 110, subsequent_indent="  ")
    elif len(shown) > 120 and isinstance(value, dict):
        line = "\n".join([f"{name}:", *(f"  {key}: {entry}" for key, entry in value.items())])
    _show({"text/plain": line, RECORD: {"name": name, "value": json.loads(shown)}})


def gates(findings: Sequence[Finding]) -> None:
    """Show in one line what the checks came to, whether it holds the stage, and each finding when unfolded."""
    held_by = holding(findings)
    verdict = overall(findings)
    held = f"; {', '.join(held_by)} would hold an apply" if held_by else ""
    line = f"{verdict.symbol} {_counted(findings)[1]}{held}"
    colour = COLOURS[verdict.symbol]
    html = f'<p><b style="color:{colour}">{escape(line)}</b></p>{_folded(worst_first(findings), "each finding")}'
    _show({"text/plain": line, "text/html": f'<div class="mk">{_STYLE}{html}</div>'})


def _counted(findings: Sequence[Finding]) -> tuple[dict[str, int], str]:
    counts = {v.value: n for v in reversed(SEVERITY) if (n := Counter(f.verdict for f in findings)[v])}
    return counts, ", ".join(f"{n} {word}" for word, n in counts.items()) or "nothing was checked"


def _folded(findings: Sequence[Finding], title: str = "what passed, and what was skipped") -> str:
    rows = findings_html([f.to_dict() for f in findings])
    return f"<details><summary>{title}</summary>{rows}</details>" if rows else ""


def conclude(stage: str, findings: Sequence[Finding]) -> None:
    """Show the verdict of a stage, the worst findings first, all others folded; the last code cell of every notebook.

    Raises:
        CheckFailed: a finding failed.
        UnreachableError: none failed, but something is unknown, or nothing was checked at all.
    """
    verdict = overall(findings)
    ranked = worst_first(findings)
    counts, told = _counted(findings)
    bad = [f for f in ranked if f.verdict not in (Verdict.PASS, Verdict.SKIPPED)]
    payload = {
        "stage": stage,
        "verdict": verdict.value,
        "counts": counts,
        "findings": [f.to_dict() for f in ranked],
        "exit_code": _EXIT.get(verdict, 0),
    }
    headline = f"{verdict.symbol} {stage}: {verdict.value.upper()} — {told}"
    text = "\n".join([headline, *(f"  {_line(f)}" + (f"\n      → {f.remedy}" if f.remedy else "") for f in bad)])
    colour = COLOURS[verdict.symbol]
    html = (
        f'<div class="mk">{_STYLE}<p style="border-left:5px solid {colour};padding:.5em .8em;font-size:16px">'
        f'<b style="color:{colour}">{escape(headline)}</b></p>{findings_html([f.to_dict() for f in bad])}'
        f"{_folded([f for f in ranked if f not in bad])}</div>"
    )
    _show({"text/plain": text, "text/html": html, VERDICT: payload})
    if verdict in (Verdict.FAIL, Verdict.UNKNOWN):
        error = CheckFailed if verdict is Verdict.FAIL else UnreachableError
        worst = "".join(f"\n  {_line(f)}" for f in bad[:3])
        raise error(f"{stage}: {told}{worst}", remedy=bad[0].remedy if bad else "")


def table_html(payload: Mapping[str, Any], *, limit: int, more: str = "") -> str:
    """Return a table payload as HTML, always the same for the same data; `more` is a link to the rest of the rows."""
    columns, dtypes, rows = _shown(payload)
    if not rows:
        return f'<p class="c">{escape(payload["caption"] or payload["name"])}: none</p>'
    name = escape(payload["name"])
    numeric = [re.match(r"u?int|float", dtype, re.IGNORECASE) is not None for dtype in dtypes]
    marks = [' class="n"' if number else "" for number in numeric]
    head = "".join(f"<th{mark or LEFT}>{escape(column)}</th>" for column, mark in zip(columns, marks, strict=True))
    body = "".join(
        "<tr>"
        + "".join(f"<td{mark or _whole(v)}>{cell_html(v)}</td>" for v, mark in zip(row, marks, strict=True))
        + "</tr>\n"
        for row in rows[:limit]
    )
    rest = len(rows) - limit
    note = f"<p>{rest} more rows in {more or f'tables/{name}.csv'}</p>" if rest > 0 else ""
    # Not a <caption>: browsers wrap that to the table's width, and most tables are narrow.
    caption = f'<p class="c" id="mk-{name}-caption">{escape(payload["caption"])}</p>' if payload["caption"] else ""
    labelled = f' aria-labelledby="mk-{name}-caption"' if caption else ""
    return (
        f'{caption}<div style="overflow-x:auto"><table id="mk-{name}"{labelled}><thead><tr>{head}</tr></thead>\n'
        f"<tbody>{body}</tbody></table></div>{note}"
    )


def _whole(value: Any) -> str:
    # Pod names and addresses break at their hyphens otherwise, over three lines each.
    return f' class="w"{LEFT}' if isinstance(value, str) and len(value) <= 44 else LEFT


def table_text(payload: Mapping[str, Any], *, limit: int) -> str:
    """Return a table payload as aligned text."""
    columns, _, rows = _shown(payload)
    if not rows:
        return f"{payload['caption'] or payload['name']}: none"
    grid = [columns, *([_with_symbol(v) for v in row] for row in rows[:limit])]
    widths = [max(map(len, column)) for column in zip(*grid, strict=True)]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in grid]
    rest = len(rows) - limit
    note = [f"{rest} more rows in tables/{payload['name']}.csv"] if rest > 0 else []
    return "\n".join([payload["caption"]] * bool(payload["caption"]) + lines + note)


def _shown(payload: Mapping[str, Any]) -> tuple[list[str], list[str], list[list[Any]]]:
    """Return the columns that are shown, their dtypes, and the rows cut to them: an empty column says nothing."""
    wanted = payload.get("show") or payload["columns"]
    rows = payload["rows"]
    places = [payload["columns"].index(column) for column in wanted]
    full = [p for p in places if not rows or any(row[p] not in (None, "") for row in rows)]
    return (
        [payload["columns"][p] for p in full],
        [payload["dtypes"][p] for p in full],
        [[row[p] for p in full] for row in rows],
    )


def findings_html(findings: Iterable[Mapping[str, str]]) -> str:
    """Return findings as an HTML table with their remedies; of none, an empty text."""
    rows = [
        "<tr>"
        + "".join(f"<td{LEFT}>{cell_html(f[key])}</td>" for key in ("verdict", "id", "check", "subject", "expected"))
        # The remedy stands under what was observed: a column of its own would leave every column too narrow to read.
        + f"<td{LEFT}>{cell_html(f['observed'])}"
        + (f"<br><b>→</b> {escape(f['remedy'])}" if f["remedy"] else "")
        + "</td></tr>"
        for f in findings
    ]
    heads = "".join(f"<th{LEFT}>{head}</th>" for head in ("verdict", "id", "check", "subject", "expected", "observed"))
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table>" if rows else ""


def cell_html(value: Any) -> str:
    """Return one value as HTML: escaped, a state with its symbol and colour."""
    text = _with_symbol(value)
    symbol = symbol_of(value)
    return f'<span class="s" style="color:{COLOURS[symbol]}">{escape(text)}</span>' if symbol else escape(text)


def symbol_of(value: Any) -> str:
    """Return the symbol of a word for a state or verdict, or nothing for any other value."""
    return MARKS[plain(value)].symbol if isinstance(value, str) and plain(value) in MARKS else ""


def _with_symbol(value: Any) -> str:
    symbol = symbol_of(value)
    return f"{symbol} {value}" if symbol else _text(value)


def _text(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "—"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    if isinstance(value, str):
        if re.fullmatch(r"[0-9a-f]{64}", value):  # a SHA-256: its beginning tells it apart, the CSV has it whole
            return f"{value[:16]}…"
        return re.sub(r"^(\d{4}-\d\d-\d\d)T(\d\d:\d\d:\d\d)(\.\d+)?(Z|\+00:00)$", r"\1 \2 UTC", value)
    return json.dumps(value, ensure_ascii=False)


def _line(finding: Finding) -> str:
    told = f"expected {finding.expected}, observed {finding.observed}"
    return f"{finding.verdict.symbol} {finding.id} {finding.check} [{finding.subject}]: {told}"


def _file_name(name: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", name):
        raise ValueError(f"a name of small letters, digits, - and _ is expected, got {name!r}")
    return name


def _show(data: dict[str, Any], metadata: dict[str, Any] | None = None) -> None:
    ipython = sys.modules.get("IPython")
    if ipython is None or ipython.get_ipython() is None:
        print(data["text/plain"])
        return
    from IPython.display import display

    display(data, metadata=metadata or {}, raw=True)  # type: ignore[no-untyped-call]
