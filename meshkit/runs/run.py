"""Run stage notebooks one after the other, each in its own process, and write the evidence."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Literal

from meshkit import paths as meshkit_paths
from meshkit.errors import ChangeError, InputError
from meshkit.runs import notify, preflight, record, report, signature
from meshkit.runs import parameters as runs_parameters
from meshkit.runs.apply_context import Live
from meshkit.runs.approval import PLAN, ApprovedPlan, plan_file
from meshkit.runs.compare import compare
from meshkit.runs.folder import APPROVALS, JOURNAL, RECORD, RunFolder, chain, utc
from meshkit.runs.outcome import Outcome, Status, outcome_of
from meshkit.runs.redact import Redactor, own_paths, scan
from meshkit.runs.signature import Signer
from meshkit.runs.summary import stage_title
from meshkit.spec import MeshSpec

Mode = Literal["plan", "apply", "audit"]
CELL_TIMEOUT = 600
_OURS = ("mesh_file", "mode", "journal")


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """A finished run: its folder, each stage's outcome, and the exit code for the command line."""

    folder: Path
    outcomes: list[Outcome]
    withheld: list[str]
    exit_code: int


def stages(folder: Path | None = None) -> dict[str, Path]:
    """Return the stage notebooks by number ("08"), from a folder, or else where meshkit keeps them; 00 is no stage."""
    found = sorted((folder or meshkit_paths.folder("notebooks")).glob("[0-9][0-9]-*.ipynb"))
    return {path.name[:2]: path for path in found if path.name[:2] != "00"}


def execute(
    mesh_file: Path,
    chosen: Sequence[str],
    mode: Mode,
    out: Path,
    *,
    parameters: Mapping[str, str] | None = None,
    cell_timeout: int = CELL_TIMEOUT,
    keep_going: bool = False,
    journal: str = "",
    label: str = "",
    approved: ApprovedPlan | None = None,
    notebooks: Path | None = None,
    secrets: Sequence[str] = (),
    signer: Signer | None = None,
    ticket: str = "",
    say: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True),
) -> RunResult:
    """Run the chosen stages ("08") in order and write the run folder below `out`.

    The first stage that does not pass ends the run, unless `keep_going`. `parameters` are texts as from `-p`; `secrets`
    are known texts to redact from the evidence, in addition to all texts that look like one. `journal` is a journal to
    continue or to undo; by default a run in mode apply gets one with the name of its folder. `label` is the end of the
    folder's name; by default the mode. Of an `approved` plan nothing but its changes is applied. The record is signed
    by `signer`, or else by the user's own key; `ticket` is part of it, by default that of the approvals.

    Raises:
        InputError: the mesh file, a file that it names, a stage, a parameter or, for a run that applies, a context is
            wrong; nothing was run or written.
    """
    spec = MeshSpec.load(mesh_file)
    text = mesh_file.read_text(encoding="utf-8")
    secrets = [*secrets, *notify.secrets(spec.notify, text)]
    known = stages(notebooks)
    paths = [_find(number, known) for number in chosen]
    given = _parameters(paths, parameters or {}, mesh_file, mode)
    preflight.require_valid(spec, given)
    changes = mode == "apply" and any("journal" in own for own in given.values())
    live = Live(spec, mesh_file) if changes else None
    about = record.circumstances(spec, mesh_file, paths[0].parent)
    about |= {"approved": approved.about()} if approved else {}
    signer = signer or Signer.own()
    about |= {"signer": signer.about(), "ticket": ticket or (approved.ticket if approved else "")}
    folder = RunFolder(out, spec.mesh.id, label or mode)
    journal = live.open(journal, folder.path.name, approved.changes if approved else None) if live else journal
    given = {path: {n: journal if n == "journal" else v for n, v in own.items()} for path, own in given.items()}
    redactor = Redactor(secrets, {**own_paths(), str(folder.path.resolve()): ".", str(paths[0].parent): "notebooks"})
    run = _Run(folder, redactor, say, cell_timeout, list(secrets), spec, signer, live=live)
    say(f"{spec.mesh.id} · {mode} · {', '.join(p.stem for p in paths)} · {folder.path}")
    noted = {"journal": journal} if live else {}
    folder.event(event="run started", mesh=spec.mesh.id, mode=mode, stages=[p.stem for p in paths], **noted)
    folder.write("mesh.yaml", redactor.text(text))
    if approved:
        for name in (PLAN, *(f"{APPROVALS}/{path.name}" for path in sorted((approved.run / APPROVALS).glob("*")))):
            folder.write(f"approved-{name.replace('/', '-')}", (approved.run / name).read_bytes())
    with _forwarding(run):
        for path in paths:
            if run.interrupted or (run.outcomes and not keep_going and run.outcomes[-1].status is not Status.PASSED):
                run.outcomes.append(
                    Outcome(stage=path.stem, status=Status.NOT_RUN, reason="an earlier stage ended the run")
                )
            else:
                run.outcomes.append(run.stage(path, given[path]))
        return _close(run, about, mode)


@dataclass
class _Run:
    folder: RunFolder
    redactor: Redactor
    say: Callable[[str], None]
    cell_timeout: int
    secrets: list[str]
    spec: MeshSpec
    signer: Signer
    live: Live | None = None
    outcomes: list[Outcome] = field(default_factory=list)
    files: dict[str, list[str]] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None
    interrupted: bool = False

    def stage(self, notebook: Path, parameters: Mapping[str, Any]) -> Outcome:
        """Run one notebook, keep its executed copy and HTML, and return its outcome."""
        name, began, started = notebook.stem, time.monotonic(), utc()
        source = record.source_digest(runs_parameters.open_notebook(notebook))
        self.say(f"{stage_title(name)}: started")
        self.folder.event(event="stage started", stage=name)
        draft = self.folder.path / f".{name}.ipynb.part"
        noise = self._work(notebook, draft, parameters)
        about = {"started": started, "seconds": time.monotonic() - began, "source": source}
        outcome = self._outcome(name, draft, noise, about)
        counts = ", ".join(f"{n} {word}" for word, n in outcome.counts.items())
        self.say(
            f"{stage_title(name)}: {outcome.status} in {report.duration(outcome.seconds)}"
            + (f" ({counts})" if counts else "")
            + (f"\n  {outcome.reason}" if outcome.reason else "")
        )
        self.folder.event(event="stage ended", stage=name, status=outcome.status, reason=outcome.reason)
        return outcome

    def _outcome(self, name: str, draft: Path, noise: str, about: dict[str, Any]) -> Outcome:
        import nbformat

        try:
            nb = runs_parameters.open_notebook(draft)
        except InputError:
            status = Status.INTERRUPTED if self.interrupted else Status.ABORTED
            last_line = self.redactor.text(noise.strip().splitlines()[-1] if noise.strip() else "its process died")
            code = 130 if self.interrupted else 4
            return Outcome(
                stage=name, status=status, reason=f"no notebook was written: {last_line}", exit_code=code, **about
            )
        finally:
            draft.unlink(missing_ok=True)
        self.redactor.notebook(nb)
        self.folder.write(f"{name}.ipynb", nbformat.writes(nb))  # type: ignore[no-untyped-call]
        outcome = outcome_of(name, nb, **about)
        self.folder.write(f"{name}.html", report.notebook_html(nb, outcome, self.spec.mesh.id))
        self.files[name] = [f"{name}.ipynb", f"{name}.html"]
        return outcome

    def _work(self, notebook: Path, draft: Path, parameters: Mapping[str, Any]) -> str:
        events, events_in = os.pipe()
        job = {
            "notebook": str(notebook),
            "output": str(draft.resolve()),
            "parameters": dict(parameters),
            "timeout": self.cell_timeout,
            "secrets": self.secrets,
            "events": events_in,
        }
        # The user's `python3` kernel may be another Python without meshkit: prefer the one of this environment.
        environment = {**os.environ, "JUPYTER_PREFER_ENV_PATH": "1"}
        with tempfile.TemporaryFile() as noise, os.fdopen(events, encoding="utf-8") as lines:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "meshkit.runs.worker"],
                stdin=subprocess.PIPE, stdout=noise, stderr=noise, pass_fds=[events_in],
                start_new_session=True, env=environment,
            )  # fmt: skip
            os.close(events_in)
            self._feed(self.process.stdin, job)
            self._follow(notebook.stem, lines)
            self.process.wait()
            noise.seek(0)
            return noise.read().decode("utf-8", "replace")

    def _feed(self, stdin: IO[bytes] | None, job: dict[str, Any]) -> None:
        if stdin is None:
            raise ChangeError("the notebook's process has no input")
        with stdin:
            stdin.write(json.dumps(job).encode())

    def _follow(self, stage: str, lines: Iterator[str]) -> None:
        began, heading = time.monotonic(), None
        for line in lines:
            event = json.loads(line)
            if event["event"] == "said":
                self.say(f"        {event['text']}")
                continue
            self.folder.event(stage=stage, **event)
            if event["event"] == "cell started" and event["heading"] != heading:
                heading = event["heading"]
                at = f"{event['cell']:>2}/{event['of']}"
                self.say(f"  {stage[:2]} {at} {time.monotonic() - began:6.1f} s  {heading}")


def _close(run: _Run, about: dict[str, Any], mode: str) -> RunResult:
    folder, outcomes = run.folder, run.outcomes
    traffic = run.live.close(folder.started) if run.live else None
    tables, names = _tables(outcomes)
    for name, table in tables.items():
        folder.write(f"tables/{name}.csv", record.to_csv(table))
    if run.live and traffic:
        folder.write(JOURNAL, run.redactor.text(run.live.journal()))
        for name, text in traffic.files():
            folder.write(f"tables/{name}.csv", run.redactor.text(text))
        about["requests"] = dict(traffic.totals)
    ended = datetime.now(UTC)
    about = {
        **about,
        "mode": mode,
        "started": utc(folder.started),
        "ended": utc(ended),
        "seconds": round((ended - folder.started).total_seconds(), 3),
        "exit_code": _exit_code(outcomes, interrupted=run.interrupted) or (run.live.exit_code if run.live else 0),
    }
    comparison = compare(folder.previous, outcomes, tables) if folder.previous else None
    folder.write("results.json", _json(record.results(outcomes, tables, folder.files())))
    folder.write("junit.xml", record.junit(outcomes))
    changes = [change for outcome in outcomes for change in outcome.planned]
    folder.write(PLAN, plan_file(about["mesh"], about["mesh_file"], [o.stage for o in outcomes], changes))
    if run.live:
        about["changes"] = record.changes_record(folder.files(), run.live.differences(folder.started, changes))
    folder.write("report.html", report.report_html(about, outcomes, names, comparison, traffic))
    hits = scan(folder.path, run.secrets)
    for file in {hit.file for hit in hits}:
        (folder.path / file).unlink()
    if hits:
        about["exit_code"] = about["exit_code"] or ChangeError.exit_code
    _announce(run, about["exit_code"])
    folder.event(event="run ended", exit_code=about["exit_code"])
    folder.close_events()
    about |= {
        "withheld": [{"file": hit.file, "kind": hit.kind} for hit in hits],
        "stages": [record.stage_record(o, run.files.get(o.stage, [])) for o in outcomes],
        "previous": chain(folder.previous),
        "files": folder.files(),
    }
    folder.write(RECORD, _json(run.redactor.walk(about)))
    if lacking := signature.sign(folder, run.signer, about, run.spec.record.timestamp):
        run.say(lacking)
    folder.close()
    withheld = [f"{hit.file} was withheld: it held a {hit.kind}" for hit in hits]
    return RunResult(folder=folder.path, outcomes=outcomes, withheld=withheld, exit_code=about["exit_code"])


def _announce(run: _Run, exit_code: int) -> None:
    """Call the webhook of the mesh file, if it has one; a failure is reported, and no failure of the run."""
    if not (wanted := run.spec.notify):
        return
    path = Redactor().text(str(run.folder.path))
    how = notify.announce(wanted, notify.payload(run.spec.mesh.id, path, run.outcomes, exit_code))
    run.folder.event(event="webhook", status=how)
    if how.startswith("failed"):
        run.say(f"the webhook was not reached: {how}")


def _find(number: str, known: Mapping[str, Path]) -> Path:
    match = [path for key, path in known.items() if number.zfill(2) == key or number in (path.stem, path.stem[3:])]
    if not match:
        there = ", ".join(path.stem for _, path in sorted(known.items())) or "none at all"
        raise InputError(f"no stage {number!r}; there are {there}")
    return match[0]


def _parameters(
    paths: Sequence[Path], given: Mapping[str, str], mesh_file: Path, mode: Mode
) -> dict[Path, dict[str, Any]]:
    if taken := [name for name in given if name in _OURS]:
        raise InputError(f"parameter {taken[0]} is set by meshkit itself", remedy="name the mesh file, and use --mode")
    values = runs_parameters.assign(paths, given)
    ours = {"mesh_file": os.path.relpath(mesh_file), "mode": mode, "journal": ""}
    for path, own in values.items():
        declared = {p.name for p in runs_parameters.read(path)}
        own.update({name: value for name, value in ours.items() if name in declared})
    return values


def _tables(outcomes: Sequence[Outcome]) -> tuple[dict[str, dict[str, Any]], dict[int, str]]:
    tables: dict[str, dict[str, Any]] = {}
    names: dict[int, str] = {}
    for outcome in outcomes:
        for table in outcome.tables:
            again = sum(1 for name in tables if re.fullmatch(rf"{re.escape(table['name'])}(\.\d+)?", name))
            name = f"{table['name']}.{again + 1}" if again else table["name"]
            tables[name] = {**table, "stage": outcome.stage}
            names[id(table)] = name
    return tables, names


def _exit_code(outcomes: Sequence[Outcome], *, interrupted: bool) -> int:
    if interrupted:
        return 130
    codes = {o.exit_code for o in outcomes if o.status is not Status.NOT_RUN}
    return next((code for code in (130, 1, 2, 4, 3) if code in codes), 0)


def _json(data: Any) -> str:
    return json.dumps(data, indent=2, ensure_ascii=False) + "\n"


@contextmanager
def _forwarding(run: _Run) -> Iterator[None]:
    """Forward SIGINT and SIGTERM to the notebook; the evidence is still written."""

    def on_signal(signum: int, _frame: Any) -> None:
        run.say("interrupted: the cell gets ten seconds to clean up" if not run.interrupted else "ending the kernel")
        run.interrupted = True
        if run.process and run.process.poll() is None:
            run.process.send_signal(signum)

    ours = threading.current_thread() is threading.main_thread()
    before = {s: signal.signal(s, on_signal) for s in (signal.SIGINT, signal.SIGTERM)} if ours else {}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
