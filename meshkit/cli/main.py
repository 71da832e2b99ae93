"""The command line: thin commands over the functions that the notebooks call.

Data goes to stdout, talk to stderr. Exit codes: 0 passed; 1 a check failed; 2 bad input or usage; 3 a cluster or tool
cannot be reached; 4 a change failed or the run is incomplete; 130 interrupted. Everything heavy is imported inside the
commands, so that `--help` is quick.
"""

from __future__ import annotations

import os
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from meshkit import __version__
from meshkit.cli.ca import ca
from meshkit.errors import ChangeError, InputError, MeshkitError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import pandas as pd

    from meshkit.changes.journal import Journal
    from meshkit.checks.finding import Finding
    from meshkit.notebook.terminal import Output
    from meshkit.runs.approval import ApprovedPlan
    from meshkit.snapshot.snapshot import Snapshot


INTERRUPTED = 130
AUDIT = ("08", "09")
LAST_STAGE = "10"
MANY = 100
"""Up to this many proxies are shown one by one, more are counted."""

mesh_file = click.argument("mesh_file", metavar="MESH.yaml", type=click.Path(path_type=Path))
out = click.option(
    "--out", default="runs", show_default=True, type=click.Path(path_type=Path), help="Folder for the run folders."
)
timeout = click.option(
    "--timeout", default=600, show_default=True, metavar="S", type=click.IntRange(min=1), help="Seconds for each cell."
)
settings = click.option(
    "-p", "--parameter", "settings", nargs=2, multiple=True, metavar="NAME VALUE", help="Set a notebook's parameter."
)
output = click.option(
    "-o", "--output", type=click.Choice(["table", "json", "csv"]), default="table", show_default=True, help="Format."
)
snapshot_file = click.option(
    "--snapshot",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Take this file of `gather`; no cluster is asked.",
)
given_mesh_file = click.argument("mesh_file", metavar="MESH.yaml", type=click.Path(path_type=Path), required=False)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="meshkit", message="%(prog)s %(version)s")
def cli() -> None:
    """Take a live Istio mesh from one cluster to many, and prove each step.

    \b
    Examples:
      meshkit demo                                a real two-cluster mesh on this machine, and its audit
      meshkit audit parameters/lab.yaml           is the mesh healthy? read-only, except for a probe
      meshkit check parameters/lab.yaml           what is wrong with the mesh, the cause first; read-only
      meshkit gather parameters/lab.yaml -o FILE  all of that in one file, without secrets; check --snapshot FILE
      meshkit proxies parameters/lab.yaml         every proxy of every cluster, and its true xDS states
      meshkit pairs parameters/lab.yaml           every ordered pair, link by link: what is broken between them
      meshkit latency parameters/lab.yaml         how long each cluster takes to answer each other one
      meshkit run parameters/lab.yaml             all stages, as a plan
      meshkit run parameters/lab.yaml --mode apply
      meshkit approve runs/mesh1/20260301T110000Z-plan --as ann
      meshkit undo runs/mesh1/20260301T120000Z-apply --mode apply
      meshkit record verify runs/mesh1/20260301T120000Z-audit
      meshkit ca root ca --passphrase-env CA_PASSPHRASE
    """  # noqa: D301  (\b is click's own mark for "keep these lines")


@cli.command()
@mesh_file
@click.option("--mode", type=click.Choice(["plan", "apply"]), default="plan", show_default=True, help="Show, or do.")
@click.option("--from", "first", metavar="NN", default="", help="Begin with this stage.")
@click.option("--until", "last", metavar="NN", default="", help="End with this stage.")
@click.option("--only", multiple=True, metavar="NN", help="Run just this stage; may be given again.")
@click.option("--resume", metavar="RUN", type=click.Path(path_type=Path), help="Go on with a run that did not end.")
@click.option("--approved", metavar="RUN", type=click.Path(path_type=Path), help="Apply this plan, and nothing else.")
@out
@settings
@timeout
def run(
    *,
    mesh_file: Path,
    mode: str,
    first: str,
    last: str,
    only: Sequence[str],
    resume: Path | None,
    approved: Path | None,
    out: Path,
    settings: Sequence[tuple[str, str]],
    timeout: int,
) -> int:
    """Run stages 01 to 10 on a mesh, each a notebook, and write the evidence.

    Mode plan, the default, shows every change of every stage and makes none. Mode apply stops at the first gate that
    does not hold. A run that was killed or stopped is resumed by its folder: its stages run again, skip what is done,
    do the rest, check all gates again, and continue the same journal, so that one `meshkit undo` reverts all of it.

    With --approved, the plan is made once more first: if it differs from the approved one, the difference is shown, and
    nothing is applied. The mesh file's `approvals` say how many must have approved it; see `meshkit approve`.

    \b
    Examples:
      meshkit run parameters/lab.yaml
      meshkit run parameters/lab.yaml --mode apply
      meshkit run parameters/lab.yaml --mode apply --from 04 --until 07 -p samples 500
      meshkit run parameters/lab.yaml --resume runs/mesh1/20260301T120000Z-apply
      meshkit run parameters/lab.yaml --mode apply --approved runs/mesh1/20260301T110000Z-plan
    """  # noqa: D301
    from meshkit.runs import approval, folder
    from meshkit.runs import run as runs
    from meshkit.spec import MeshSpec

    before = folder.beginning(resume) if resume else {}
    if resume and before["mesh"] != (given := MeshSpec.load(mesh_file).mesh.id):
        raise InputError(f"that run was of mesh {before['mesh']}, not of {given}", where=str(resume))
    if resume and "journal" in before:
        _journal(resume, before)
    how: runs.Mode = "apply" if "apply" in (mode, before.get("mode")) else "plan"
    if approved and how == "plan":
        raise click.UsageError("--approved goes with --mode apply, or --resume of a run that applies")
    spec = MeshSpec.load(mesh_file)
    plan = approval.require(approved, spec, mesh_file) if approved else None
    if how == "apply" and plan is None and spec.approvals:
        remedy = "plan (meshkit run), have it approved (meshkit approve), and name it: --approved RUN"
        raise InputError(
            "this mesh is changed by approved plans only", where=f"approvals of {mesh_file}", remedy=remedy
        )
    planned = [name[:2] for name in (plan.stages if plan else before.get("stages", []))]
    chosen = _choose(planned or list(runs.stages()), first, last, only)
    options = {"parameters": dict(settings), "cell_timeout": timeout}
    if plan and not resume and (code := _drifted(plan, mesh_file, chosen, out, options)):
        return code
    return _execute(
        mesh_file, chosen, how, out, **options, keep_going=how == "plan", journal=before.get("journal", ""),
        approved=plan,
    )  # fmt: skip


@cli.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--as", "name", metavar="NAME", default="", help="Who approves; by default the login name.")
@click.option("--key", metavar="FILE", type=click.Path(path_type=Path), help="Ed25519 private key, as of ssh-keygen.")
@click.option("--ticket", metavar="ID", default="", help="The change's ticket.")
@click.option("--comment", metavar="TEXT", default="", help="What the approver says.")
def approve(*, run: Path, name: str, key: Path | None, ticket: str, comment: str) -> int:
    """Approve the plan of a run: sign it, so that `meshkit run --approved RUN` may apply it, and nothing else.

    Read the run's report.html first. The signature is written into RUN/approvals, beside the evidence; plan.json has
    every change of every stage. Without --key a key of your own is used, made at the first time; its public line, which
    is printed, belongs into the mesh file's `approvals.keys`. Nothing is sent to any cluster.

    \b
    Examples:
      meshkit approve runs/mesh1/20260301T110000Z-plan --as ann --ticket CHG-1234
      meshkit approve runs/mesh1/20260301T110000Z-plan --as ann --key ~/.ssh/id_ed25519
    """  # noqa: D301
    import getpass

    from meshkit import attestation, paths
    from meshkit.runs import approval

    ask = lambda: str(click.prompt("passphrase of the key", hide_input=True, err=True))  # noqa: E731
    signer = attestation.private_key(key, ask) if key else attestation.own_key(paths.state() / "approver.key")
    name = name or getpass.getuser()
    said, path = approval.approve(run, signer, name, ticket=ticket, comment=comment)
    click.echo(f"{name} approved the plan of {run.name} with key {said.key}", err=True)
    click.echo(f"its line for approvals.keys: {attestation.line_of(signer.public_key(), name)}", err=True)
    click.echo(str(path))
    return 0


@cli.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--mode", type=click.Choice(["plan", "apply"]), default="plan", show_default=True, help="Show, or do.")
@click.option("--mesh", "mesh_file", type=click.Path(path_type=Path), help="The mesh file, if it was moved since.")
@click.option("--consent", is_flag=True, help="Remove, too, what others changed or use since.")
@out
@timeout
def undo(*, run: Path, mode: str, mesh_file: Path | None, consent: bool, out: Path, timeout: int) -> int:
    """Undo what a run changed, newest stage first: notebook 12.

    Former states are restored, and objects that the run created are removed. What other clients added since stays.
    Objects of the run that others changed or use are shown, and removed only with --consent.

    \b
    Examples:
      meshkit undo runs/mesh1/20260301T120000Z-apply
      meshkit undo runs/mesh1/20260301T120000Z-apply --mode apply
    """  # noqa: D301
    from meshkit.runs import folder
    from meshkit.runs import run as runs

    before = folder.beginning(run)
    if "journal" not in before:
        raise InputError(f"a run in mode {before.get('mode')} changed nothing", where=str(run))
    where = mesh_file or Path(_journal(run, before).header.get("mesh_file", ""))
    how: runs.Mode = "apply" if mode == "apply" else "plan"
    label = "undo" if how == "apply" else "undo-plan"
    return _execute(
        where,
        ["12"],
        how,
        out,
        parameters={"consent": str(consent)},
        cell_timeout=timeout,
        journal=before["journal"],
        label=label,
    )


@cli.command()
@mesh_file
@out
@settings
@timeout
@click.option("--snapshot", hidden=True, type=click.Path(path_type=Path))
def audit(
    *, mesh_file: Path, out: Path, settings: Sequence[tuple[str, str]], timeout: int, snapshot: Path | None
) -> int:
    """Verify and observe a mesh: stages 08 and 09, read-only except for the probe.

    The probe creates Services `meshkit-probe-…` in its namespace, and removes them at the end. Both stages run, even if
    the first one fails. A second audit's report shows what changed since the first.

    \b
    Example:
      meshkit audit parameters/lab.yaml
    """  # noqa: D301
    if snapshot:
        raise click.UsageError(
            "an audit sends requests, so no file can replay it; `meshkit check --snapshot FILE` judges what was read"
        )
    return _execute(mesh_file, AUDIT, "audit", out, parameters=dict(settings), cell_timeout=timeout, keep_going=True)


@cli.command()
@mesh_file
@click.option(
    "-o", "--output", "path", metavar="FILE", required=True, type=click.Path(path_type=Path), help="To write."
)
@click.option(
    "--samples", default=0, show_default=True, type=click.IntRange(min=0), help="Requests per pair, as of `pairs`."
)
def gather(mesh_file: Path, path: Path, samples: int) -> int:
    """Write all that is read of a mesh into one file, without secrets: for support, and to be judged later.

    Read-only, as `check`; with --samples, as `pairs`: it creates Services `meshkit-probe-…`, and removes them. A file
    whose name ends in .gz is compressed. `check`, `proxies` and `pairs` take it with --snapshot, on any machine. Exit
    code 3: a cluster could not be read; the file says so.

    \b
    Examples:
      meshkit gather parameters/lab.yaml -o mesh1.json.gz
      meshkit check --snapshot mesh1.json.gz
      meshkit record diff monday.json.gz tuesday.json.gz
    """  # noqa: D301
    from meshkit.notebook import terminal

    with terminal.talk() as say:
        taken = _snapshot(mesh_file, None)
        if samples:
            taken.try_pairs(samples, say)
        size = taken.read(tell=say).write(path)
    lost = taken.inventory[taken.inventory["reason"] != ""]
    for row in lost.to_dict("records"):
        click.echo(f"? {row['cluster']}: {row['reason']}", err=True)
    told = f"{size / 1000:,.0f} kB, {len(taken.known)} readings, {len(taken.left_out)} secrets replaced"
    click.echo(f"{path}: {told}", err=True)
    return 3 if len(lost) else 0


@cli.command()
@given_mesh_file
@snapshot_file
@click.option("--since", metavar="FILE", type=click.Path(path_type=Path), help="Show what changed since this snapshot.")
@click.option("--explain", metavar="ID", help="Print what one check is about, such as MK802, and end.")
@output
def check(
    *, mesh_file: Path | None, snapshot: Path | None, since: Path | None, explain: str | None, output: Output
) -> int:
    """Run all checks of all stages on a finished mesh: one list of findings, the causes first.

    Read-only: nothing is changed in any API server. The probe's client sends some requests, to test what cannot be
    read. A finding that may follow from another one names it in column follows_from, and comes after it: fix the
    causes first. With --snapshot, the same is said of a file that `meshkit gather` wrote. Exit code 1: a check failed.
    3: something is unknown.

    \b
    Examples:
      meshkit check parameters/lab.yaml
      meshkit check parameters/lab.yaml -o json | jq '.[] | select(.verdict == "fail" and .follows_from == "")'
      meshkit check --snapshot mesh1.json.gz
      meshkit check parameters/lab.yaml --since mesh1.json.gz
      meshkit check --explain MK802
    """  # noqa: D301
    from meshkit.checks import catalogue

    if explain is not None:
        click.echo(catalogue.explain(explain))
        return 0
    from meshkit.checks import audit, comparison
    from meshkit.notebook import terminal

    before = _snapshot(None, since) if since else None
    with terminal.talk() as say:
        taken = _snapshot(mesh_file, snapshot)
        findings = audit.check(taken.read(tell=say) if taken.live else taken)
    if before:
        taken.require_same_mesh(before)
        _print(comparison.table(audit.check(before), findings), output)
    else:
        table = audit.in_order(taken.mesh, findings)
        _print(audit.for_people(table) if output == "table" else table, output)
    click.echo(audit.summary_text(findings), err=True)
    return _exit_code(findings)


@cli.command()
@given_mesh_file
@snapshot_file
@click.option("-n", "--namespace", default="", metavar="NS", help="Only proxies of this namespace; no others are read.")
@click.option("--cluster", "clusters", multiple=True, metavar="NAME", help="Only proxies that run there.")
@click.option("--state", "states", multiple=True, metavar="STATE", help="Only proxies with a type in this state.")
@click.option(
    "--since",
    metavar="RUN",
    type=click.Path(path_type=Path),
    help="Show what changed since an earlier run, or snapshot.",
)
@click.option("--all", "every", is_flag=True, help="A line for each proxy, however many there are.")
@output
def proxies(
    *,
    mesh_file: Path | None,
    snapshot: Path | None,
    namespace: str,
    clusters: Sequence[str],
    states: Sequence[str],
    since: Path | None,
    every: bool,
    output: Output,
) -> int:
    """Show the xDS state of every proxy of every cluster, the worst first.

    Read-only: nothing is changed in any API server. One row for each proxy; of more than a hundred, those that are not
    in order, and the others counted by cluster, istiod, kind and version. JSON and CSV have one row for each proxy and
    xDS type, with the proxy's message where it refused a configuration. --since takes a run folder, a snapshot, or a
    file of that CSV or JSON, and shows only what changed. Exit code 1: a proxy is not in sync. 3: something could not
    be read.

    \b
    Examples:
      meshkit proxies parameters/lab.yaml
      meshkit proxies parameters/lab.yaml -n sample --state stale --state error
      meshkit proxies parameters/lab.yaml --since runs/mesh1/20260301T120000Z-audit
      meshkit proxies parameters/lab.yaml -o json | jq '.[] | select(.state == "ERROR") | .nack'
    """  # noqa: D301
    from meshkit.checks import proxies
    from meshkit.istio.proxies import status_summary
    from meshkit.runs import previous

    before, read_at = previous.proxy_status(since) if since else (None, None)
    taken = _snapshot(mesh_file, snapshot)
    mesh = taken.mesh
    choose = status_summary.status_filter(mesh.clusters, namespace, clusters, states)
    facts = taken.proxies(namespace)
    if before is not None:
        _print(status_summary.status_diff(choose(before), choose(facts.status), read_at), output)
    elif output == "table":
        _show_proxies(status_summary.summary(choose(facts.status)), every=every)
    else:
        _print(choose(facts.status), output)
    having = set(facts.status["cluster"]) if namespace and len(facts.status) else set(mesh.clusters)
    return _report(
        f for f in proxies.check_proxies(mesh, facts) if f.subject in having & set(clusters or mesh.clusters)
    )


@cli.command()
@given_mesh_file
@snapshot_file
@click.option(
    "--samples", default=200, show_default=True, type=click.IntRange(min=0), help="Requests per pair; 0: none."
)
@output
def pairs(mesh_file: Path | None, snapshot: Path | None, samples: int, output: Output) -> int:
    """Show for every ordered pair of clusters the links that a request depends on, and which link is broken.

    One line for each pair, the worst first; JSON and CSV have a row for each istiod replica, with every link: secret,
    address, credential, sync, gateway, endpoints, TLS through the gateway, answers and their times. Creates Services
    `meshkit-probe-…` in the probe's namespace, and removes them at the end; with --samples 0 it only reads. With
    --snapshot, answers are those that `gather --samples` recorded. Exit code 1: a link is broken. 3: something could
    not be read.

    \b
    Examples:
      meshkit pairs parameters/lab.yaml
      meshkit pairs parameters/lab.yaml --samples 0 -o json | jq '.[] | select(.verdict != "pass") | .why'
      meshkit pairs --snapshot mesh1.json.gz
    """  # noqa: D301
    from meshkit import clock
    from meshkit.checks import pair_table, pairs
    from meshkit.notebook import terminal
    from meshkit.snapshot.snapshot import PAIRS

    with terminal.talk() as say:
        facts = _snapshot(mesh_file, snapshot)
        if facts.live and samples:
            facts.try_pairs(samples, say)
        elif facts.live:
            facts.read(*PAIRS, tell=say)
    mesh, sent = facts.mesh, facts.sent
    with clock.at(facts.taken):
        findings = pairs.check_all(mesh, facts, sent)
    rows = pair_table.table(mesh, facts, findings, sent)
    _print(pair_table.brief(rows) if output == "table" else rows, output)
    return _report(findings)


@cli.command()
@mesh_file
@click.option("--samples", default=400, show_default=True, type=click.IntRange(min=1), help="Warm requests per pair.")
@output
def latency(mesh_file: Path, samples: int, output: Output) -> int:
    """Measure how long each cluster takes to answer each other one, each pair alone.

    Creates Services `meshkit-probe-…` in the probe's namespace, and removes them at the end. Times are in milliseconds,
    with 95 % intervals. Exit code 1: a pair fails its gates. 3: a pair could not be measured.

    \b
    Example:
      meshkit latency parameters/lab.yaml --samples 100 -o csv > latency.csv
    """  # noqa: D301
    from meshkit.kube.mesh import Mesh
    from meshkit.notebook import terminal
    from meshkit.probing import statistics
    from meshkit.stages import observe

    mesh = Mesh.open(mesh_file)
    pairs = len(mesh.clusters) ** 2
    with terminal.talk() as say:
        say(f"measuring {pairs} pairs, {samples} requests each, every pair alone …")
        measured = observe.measure(mesh, samples)
    _print(statistics.latency_table(measured), output)
    return _report(observe.prove(mesh, measured))


@cli.group()
def record() -> None:
    """Look after the evidence of runs."""


@record.command()
@click.argument("run", type=click.Path(path_type=Path))
def verify(run: Path) -> int:
    """Check that a run's evidence is complete and unchanged, and its chain holds.

    \b
    Example:
      meshkit record verify runs/mesh1/20260301T120000Z-audit
    """  # noqa: D301
    from meshkit.runs import approval, folder

    problems = folder.verify(run)
    approvals, wrong = approval.signatures(run, None)
    problems += wrong
    for problem in problems:
        click.echo(f"✖ {problem}")
    if not problems:
        click.echo(f"✔ {run}: the evidence is complete and unchanged, and the chain holds")
    for one in approvals:
        click.echo(f"  approved by {one.name} at {one.time}, key {one.key}" + f", {one.ticket}" * bool(one.ticket))
    return 1 if problems else 0


@record.command()
@click.argument("before", type=click.Path(path_type=Path))
@click.argument("after", type=click.Path(path_type=Path))
@output
def diff(before: Path, after: Path, output: Output) -> int:
    """Show the findings that changed between two snapshots, or between two runs: new, gone or changed.

    \b
    Examples:
      meshkit record diff monday.json.gz tuesday.json.gz
      meshkit record diff runs/mesh1/20260301T120000Z-audit runs/mesh1/20260302T120000Z-audit
    """  # noqa: D301
    from meshkit.runs import compare

    _print(compare.diff(before, after), output)
    return 0


cli.add_command(ca)
for plugin in entry_points(group="meshkit.commands"):
    cli.add_command(plugin.load())


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code; every error is printed in one line or two."""
    try:
        code = cli.main(args=list(argv) if argv is not None else None, prog_name="meshkit", standalone_mode=False)
    except MeshkitError as error:
        click.echo(f"Error: {error}", err=True)
        code = error.exit_code
    except click.ClickException as error:
        error.show()
        code = InputError.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("Error: interrupted", err=True)
        code = INTERRUPTED
    except Exception as error:
        if os.environ.get("MESHKIT_DEBUG"):
            raise
        click.echo(f"Error: {type(error).__name__}: {error}", err=True)
        click.echo("  → this is a bug of meshkit; MESHKIT_DEBUG=1 shows where it happened", err=True)
        code = ChangeError.exit_code
    sys.exit(code or 0)


def _journal(run: Path, before: Mapping[str, Any]) -> Journal:
    from meshkit.changes.journal import Journal

    known = {book.name: book for book in Journal.all_of(before["mesh"])}
    if before["journal"] not in known:
        raise InputError(
            f"its journal {before['journal']} is not here",
            where=str(run),
            remedy="run this as the user, and on the machine, that applied: the journal is in that private store",
        )
    return known[before["journal"]]


def _choose(known: Sequence[str], first: str, last: str, only: Sequence[str]) -> list[str]:
    if only and (first or last):
        raise click.UsageError("--only goes with neither --from nor --until")
    if only:
        return sorted({stage.zfill(2) for stage in only})
    first, last = first.zfill(2), (last or LAST_STAGE).zfill(2)
    chosen = [stage for stage in sorted(known) if first <= stage <= last]
    if not chosen:
        raise InputError(f"no stage from {first} until {last}; there are {', '.join(sorted(known)) or 'none'}")
    return chosen


def _snapshot(mesh_file: Path | None, snapshot: Path | None) -> Snapshot:
    """Return the snapshot of a file, or one of a mesh that nothing was read of yet."""
    if (mesh_file is None) == (snapshot is None):
        raise click.UsageError("name the mesh file, or a file of `meshkit gather` with --snapshot, and not both")
    from meshkit.kube.mesh import Mesh
    from meshkit.snapshot.snapshot import Snapshot

    if snapshot is not None:
        return Snapshot.load(snapshot)
    return Snapshot(Mesh.open(mesh_file or Path()))


def _print(table: pd.DataFrame, output: Output) -> None:
    from meshkit.notebook import terminal

    terminal.show(table, output)


def _show_proxies(proxies: pd.DataFrame, *, every: bool) -> None:
    """Print a line for each proxy; of many, for each that is not in order, after the counts of all."""
    from meshkit.istio.proxies import status_summary

    if every or len(proxies) <= MANY:
        _print(proxies, "table")
        return
    _print(status_summary.groups(proxies), "table")
    unhealthy = proxies[~proxies["worst"].isin(status_summary.GOOD)]
    click.echo(f"{len(proxies):,} proxies, {len(unhealthy):,} not in order", err=True)
    if len(unhealthy):
        click.echo()
        _print(unhealthy.head(MANY), "table")
    if len(unhealthy) > MANY:
        click.echo(f"the {MANY} worst are shown; --all shows every one, -n, --cluster and --state choose", err=True)


def _report(findings: Iterable[Finding]) -> int:
    """Print on stderr the findings that do not pass, and return the exit code."""
    from meshkit.checks.finding import Verdict

    found = list(findings)
    for finding in found:
        if finding.verdict not in (Verdict.PASS, Verdict.SKIPPED):
            line = f"{finding.verdict.symbol} {finding.id} {finding.subject}: {finding.observed}"
            click.echo(line + (f"\n    → {finding.remedy}" if finding.remedy else ""), err=True)
    return _exit_code(found)


def _exit_code(findings: Sequence[Finding]) -> int:
    from meshkit.checks.finding import Verdict, overall

    return {Verdict.FAIL: 1, Verdict.UNKNOWN: 3}.get(overall(findings), 0)


def _drifted(plan: ApprovedPlan, mesh_file: Path, chosen: Sequence[str], out: Path, options: Mapping[str, Any]) -> int:
    """Plan once more; show how that differs from the approved plan, and return the exit code: 0 where it does not."""
    from meshkit.changes.planned import differences
    from meshkit.notebook import terminal
    from meshkit.runs.run import execute

    with terminal.talk() as say:
        now = execute(mesh_file, chosen, "plan", out, keep_going=True, label="approved-plan", say=say, **options)
    if now.exit_code:
        click.echo(f"report: {now.folder / 'report.html'}", err=True)
        raise ChangeError("the plan does not pass any more; nothing was changed", where=str(now.folder))
    stages = {change.stage[:2] for change in plan.changes} & set(chosen)
    approved = [change for change in plan.changes if change.stage[:2] in stages]
    found = differences(approved, [c for o in now.outcomes for c in o.planned], whole=True)
    for line in found:
        click.echo(f"✖ {line}", err=True)
    if found:
        click.echo("nothing was changed: plan again, and have that approved", err=True)
        click.echo(str(now.folder))
    return 1 if found else 0


def _execute(*run: Any, **options: Any) -> int:
    from meshkit.notebook import terminal
    from meshkit.runs.run import execute

    with terminal.talk() as say:
        result = execute(*run, say=say, **options)
    for line in result.withheld:
        click.echo(f"✖ {line}", err=True)
    click.echo(f"report: {result.folder / 'report.html'}", err=True)
    click.echo(str(result.folder))
    return result.exit_code
