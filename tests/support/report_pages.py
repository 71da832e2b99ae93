"""Reports of made-up runs of two clusters and many, with every verdict, status and kind of output in them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Final

import nbformat
from matplotlib.figure import Figure
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from meshkit.changes.planned import PlannedChange
from meshkit.checks.finding import Conclusion, Finding, Verdict
from meshkit.notebook.pictures import Picture
from meshkit.notebook.style import chart
from meshkit.probing.request_log import Request, Tally, totals
from meshkit.probing.retries import Retried
from meshkit.runs.outcome import Outcome, Status, outcome_of
from meshkit.runs.report import notebook_html, report_html
from meshkit.runs.run import _tables
from meshkit.runs.traffic_report import Story, changes
from meshkit.tables import Table, integer, number, text

BEGIN: Final = 1_790_000_000
START: Final = datetime.fromtimestamp(BEGIN, UTC)
STATES: Final = ("SYNCED", "STALE", "ERROR", "NOT SENT", "UNKNOWN", "IGNORED")
IDENTITY = Table("identity", "Istiods and their identity", {"cluster": text(), "istiod": text()}, key=("cluster",))
SECRETS = Table("remote-secrets", "Remote secrets", {"cluster": text(), "key": text(), "credential": text()})
PAIRS = Table("pairs", "Pairs", {"client": text(), "server": text(), "sent": integer(), "answered": integer()})
LATENCY = Table("latency", "Latency", {"client": text(), "server": text(), "p50_ms": number()})
PROXIES = Table(
    "proxies", "Every proxy",
    {c: text() for c in ("cluster", "namespace", "proxy", "istiod", "version", "cds", "lds", "eds", "rds", "ecds")},
    key=("proxy",),
)  # fmt: skip


def names(many: int) -> list[str]:
    """Return the names of so many clusters, as people name them."""
    return ["east", "west"] if many == 2 else [f"{'prod' if n % 3 else 'staging-of'}-eu-{n:02}" for n in range(many)]


def record(clusters: list[str], mode: str = "apply") -> dict[str, Any]:
    """Return the record of a run; every third cluster shares a network with the one before it."""
    contexts = [
        {"cluster": name, "context": f"lab-{name}", "network": f"net-{n - (n % 3 == 2)}"}
        for n, name in enumerate(clusters)
    ]
    return {
        "mesh": "shop", "mode": mode, "started": "2026-11-24T00:00:00Z", "tool": {"meshkit": "1"}, "contexts": contexts,
        "seconds": 61.0, "operator": "me", "mesh_file": {"name": "shop.yaml"}, "git": None, "exit_code": 0,
    }  # fmt: skip


def finding(verdict: Verdict, subject: str, n: int = 0, **change: str) -> Finding:
    """Return a finding whose texts are long enough to be wrapped, and are not like another one's."""
    words = {
        "id": "MK811", "check": "every call is answered, by the target", "subject": subject,
        "expected": "all calls 200, from pods of the server's cluster", "observed": f"200×{n} <503>",
        "remedy": "" if verdict in (Verdict.PASS, Verdict.SKIPPED) else f"kubectl -n istio-system get pods # {n}",
    }  # fmt: skip
    return Finding(**{**words, **change}, verdict=verdict)


def story(clusters: list[str], *, slow: float = 3.0, failed: int = 0) -> Story:
    """Return a minute of requests; after changes of stage 07 half are answered elsewhere, all `slow` times as slow."""
    tally = Tally()
    for second in range(60):
        for n in range(20):
            away = second >= 31 and n % 2 == 0
            seconds = (0.005 + n / 10_000) * (slow if second >= 31 else 1)
            status = 503 if failed and second == 40 and n < failed else 200
            about = {"cluster": clusters[0], "pod": "load-1", "answered_by": "far" if away else "near"}
            tally.add(Request(time=BEGIN + second + n / 20, status=status, seconds=seconds, **about))
    table = tally.table(BEGIN - 0.5, BEGIN + 60, {"near": clusters[0], "far": clusters[-1]})
    rows = [
        {"time": START + timedelta(seconds=30), "stage": "07 discovery", "cluster": name, "action": "create",
         "object": f"Secret istio-system/istio-remote-secret-{n}", "status": "done", "seconds": 0.5}
        for n, name in enumerate(clusters)
    ]  # fmt: skip
    marks = [(START + timedelta(seconds=30), "07 discovery")]
    retries = [Retried(START + timedelta(seconds=32), 12)]
    return Story(table, tally.failed(), {**totals(table), "why": {}, "unreadable": 0}, changes(rows), marks, retries)


def outcomes(clusters: list[str]) -> list[Outcome]:
    """Return stages 01, 07, 08 and 09 of a migration, and a stage that was not run."""
    far = [(a, b) for a in clusters for b in clusters if a != b]
    cells = [(a, b) for a in clusters for b in clusters]
    odd = dict(zip(far[-4:], (Verdict.FAIL, Verdict.UNKNOWN, Verdict.WARN, Verdict.SKIPPED), strict=False))
    found = [
        finding(odd.get(pair, Verdict.PASS) if len(clusters) > 2 else Verdict.PASS, f"{pair[0]} → {pair[1]}", n)
        for n, pair in enumerate(far)
    ]
    proxies = [
        {"cluster": clusters[n % len(clusters)], "namespace": "sample", "proxy": f"httpbin-85948fd849-{n:05}",
         "istiod": "istiod-559b5b6845-v7gbx", "version": "1.31.0", "cds": STATES[n % 6] if n < 12 else "SYNCED",
         "lds": "SYNCED", "eds": "SYNCED", "rds": "SYNCED", "ecds": "IGNORED"}
        for n in range(20 * len(clusters))
    ]  # fmt: skip
    planned = [
        PlannedChange("07 discovery", name, "create", f"Secret istio-system/istio-remote-secret-{n}",
                      f"lets {name} discover <another>",
                      f"@@ -0,0 +1,2 @@\n+kind: Secret\n+  name: secret-{n}\n# {'x' * 300}", "")
        for n, name in enumerate(clusters)
    ]  # fmt: skip
    before = [
        finding(Verdict.WARN, "mesh", id="MK407", check="the root's key is in no cluster", observed="it is " * 90)
    ]
    return [
        outcome("01-assess", [finding(Verdict.PASS, clusters[0], id="MK101")],
                IDENTITY.view(IDENTITY.frame([{"cluster": clusters[0], "istiod": "istiod-1"}]))),
        outcome("07-discovery", before, SECRETS.view(SECRETS.frame([])), planned=planned),
        outcome("08-verify", found, PAIRS.view(PAIRS.frame(
            {"client": a, "server": b, "sent": 10, "answered": 10 * (odd.get((a, b)) is None or len(clusters) == 2)}
            for a, b in cells))),
        outcome("09-observe", [finding(Verdict.SKIPPED, name, 1, id="MK904") for name in clusters],
                Picture(drawing(), "states"), PROXIES.view(PROXIES.frame(proxies, in_order=True)),
                LATENCY.view(LATENCY.frame({"client": a, "server": b, "p50_ms": 40} for a, b in cells))),
        Outcome(stage="10-shift", status=Status.NOT_RUN, reason="an earlier stage ended the run"),
    ]  # fmt: skip


def drawing() -> Figure:
    """Return a picture with something in it."""
    figure = chart("xDS state of 9 proxies in 2 clusters", 8, 2)
    figure.add_subplot().barh([0, 1], [5, 4])
    return figure


def executed(stage: str, found: list[Finding], *shown: Any) -> Any:
    """Return the executed notebook of a stage that showed this, and concluded with these findings."""
    cells = [new_markdown_cell(f"# {stage.replace('-', ' ')}\n\nWhat this settles.\n\n## Look")]
    for one in (*shown, Conclusion(stage.replace("-", " "), found)):
        output = new_output("display_data", data=one.bundle(), metadata=one.metadata())
        cells.append(new_code_cell("stage.look()  # a comment", outputs=[output], execution_count=len(cells)))
    nb = new_notebook(
        cells=cells, metadata={"meshkit": {"ended": "finished", "reason": ""}, "language_info": {"name": "python"}}
    )
    nbformat.validate(nb)
    return nb


def outcome(stage: str, found: list[Finding], *shown: Any, planned: list[PlannedChange] | None = None) -> Outcome:
    """Return the outcome of such a notebook."""
    known = outcome_of(stage, executed(stage, found, *shown), started="2026-11-24T00:00:00Z", seconds=3.0)
    known.planned.extend(planned or [])
    return known


def report(clusters: list[str], mode: str = "apply", known: list[Outcome] | None = None, **about: Any) -> str:
    """Return report.html of such a run."""
    stages = outcomes(clusters) if known is None else known
    return report_html(record(clusters, mode), stages, _tables(stages)[1], None, story(clusters, **about))


def notebook(clusters: list[str]) -> str:
    """Return the HTML of the notebook of stage 09."""
    (stage,) = (one for one in outcomes(clusters) if one.stage == "09-observe")
    proxies = PROXIES.view(PROXIES.frame({"cluster": name, "proxy": "p", "cds": "ERROR"} for name in clusters))
    return notebook_html(
        executed(stage.stage, stage.findings, Picture(drawing(), "states"), proxies, proxies), stage, "shop"
    )
