"""The commands that read a mesh and judge it, live or from a file: check, proxies, pairs, latency, gather."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from meshkit.cli.options import contexts, given_mesh_file, output, snapshot_file

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import pandas as pd

    from meshkit.checks.finding import Finding
    from meshkit.kube.mesh import Mesh
    from meshkit.notebook.terminal import Output
    from meshkit.runs.assessment import Format
    from meshkit.snapshot.snapshot import Snapshot

GIVEN = "the mesh file; its contexts, each with --context"
MANY = 100
"""Up to this many proxies are shown one by one, more are counted."""


@click.command()
@given_mesh_file
@contexts
@click.option(
    "-o", "--output", "path", metavar="FILE", required=True, type=click.Path(path_type=Path), help="To write."
)
@click.option(
    "--samples", default=0, show_default=True, type=click.IntRange(min=0), help="Requests per pair, as of `pairs`."
)
def gather(*, mesh_file: Path | None, contexts: Sequence[str], path: Path, samples: int) -> int:
    """Write all that is read of a mesh into one file, without secrets: for support, and to be judged later.

    Read-only, as `check`; with --samples, as `pairs`: it creates Services `meshkit-probe-…`, and removes them. A file
    whose name ends in .gz is compressed. `check`, `proxies` and `pairs` take it with --snapshot, on any machine. Exit
    code 3: a cluster could not be read; the file says so.

    \b
    Examples:
      meshkit gather mesh.yaml -o mesh1.json.gz
      meshkit gather --context east --context west -o mesh1.json.gz
      meshkit check --snapshot mesh1.json.gz
      meshkit record diff monday.json.gz tuesday.json.gz
    """  # noqa: D301
    from meshkit.notebook import terminal
    from meshkit.snapshot.snapshot import Snapshot

    with terminal.talk() as say:
        taken = Snapshot(_mesh(mesh_file, contexts))
        if samples:
            taken.try_pairs(samples, say)
        size = taken.read(tell=say).write(path)
    lost = taken.inventory[taken.inventory["reason"] != ""]
    for row in lost.to_dict("records"):
        click.echo(f"? {row['cluster']}: {row['reason']}", err=True)
    told = f"{size / 1000:,.0f} kB, {len(taken.known)} readings, {len(taken.left_out)} secrets replaced"
    click.echo(f"{path}: {told}", err=True)
    return 3 if len(lost) else 0


@click.command()
@given_mesh_file
@contexts
@snapshot_file
@click.option("--since", metavar="FILE", type=click.Path(path_type=Path), help="Show what changed since this snapshot.")
@click.option("--explain", metavar="ID", help="Print what one check is about, such as MK802, and end.")
@click.option("--all", "every", is_flag=True, help="Show what passed, too, and the remedy of each consequence.")
@output
def check(
    *,
    mesh_file: Path | None,
    contexts: Sequence[str],
    snapshot: Path | None,
    since: Path | None,
    explain: str | None,
    every: bool,
    output: Output,
) -> int:
    """Run all checks of all stages on a finished mesh: what is wrong, the causes first.

    Read-only: nothing is changed in any API server. The probe's client sends some requests, to test what cannot be
    read. A finding that may follow from another one stands below it (column follows_from of the other formats): fix
    the causes first. With --context, the mesh file is what is found there, as `meshkit init` writes it. With
    --snapshot, the same is said of a file that `meshkit gather` wrote. Exit code 1: a check failed. 3: something is
    unknown.

    \b
    Examples:
      meshkit check mesh.yaml
      meshkit check --context east --context west
      meshkit check mesh.yaml --all | less -R
      meshkit check mesh.yaml -o json | jq '.[] | select(.verdict == "fail" and .follows_from == "")'
      meshkit check --snapshot mesh1.json.gz
      meshkit check mesh.yaml --since mesh1.json.gz
      meshkit check --explain MK802
    """  # noqa: D301
    from meshkit.checks import catalogue

    if explain is not None:
        click.echo(catalogue.explain(explain))
        return 0
    from meshkit.checks import audit, causes, comparison
    from meshkit.notebook import blocks, terminal
    from meshkit.snapshot.snapshot import Snapshot

    before = Snapshot.load(since) if since else None
    with terminal.talk() as say:
        taken = _snapshot(mesh_file, contexts, snapshot)
        findings = audit.check(taken.read(tell=say) if taken.live else taken)
    if before:
        taken.require_same_mesh(before)
        _print(comparison.table(audit.check(before), findings), output, comparison.brief)
    elif output == "table":
        found = causes.in_order(findings, taken.mesh.clusters)
        _say(blocks.report(found, blocks.page(sys.stdout), every=every))
    else:
        table = audit.in_order(taken.mesh, findings)
        _print(table if every or output != "wide" else audit.for_people(table), output)
    return _exit_code(findings)


@click.command()
@given_mesh_file
@contexts
@snapshot_file
@click.option(
    "-o", "--output", "form", type=click.Choice(["md", "html"]), default="md", show_default=True, help="Format."
)
def assess(mesh_file: Path | None, contexts: Sequence[str], snapshot: Path | None, form: Format) -> int:
    """Print what a mesh needs for its migration, as a plan to sign: now, before, with and after it.

    Read-only, as `check`. Stage 01's findings, and all else that can be asked before anything is changed: where, what
    to do, effort, risk, and a box for who did it. The phases are the catalogue's: what a check stops, and which stage
    fixes it. Exit code 1: something fails that is to be fixed before the migration may go on. 3: it is unknown.

    \b
    Examples:
      meshkit assess mesh.yaml > assessment.md
      meshkit assess mesh.yaml -o html > assessment.html
      meshkit assess --context east --context west
      meshkit assess --snapshot mesh1.json.gz
    """  # noqa: D301
    from meshkit.notebook import terminal
    from meshkit.runs.assessment import assessment

    with terminal.talk() as say:
        taken = _snapshot(mesh_file, contexts, snapshot)
        found = assessment(taken.read(tell=say) if taken.live else taken)
    click.echo(found.render(form))
    return _exit_code(found.holding) if found.holding else 0


@click.command()
@given_mesh_file
@contexts
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
    contexts: Sequence[str],
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
      meshkit proxies mesh.yaml
      meshkit proxies --context east --context west
      meshkit proxies mesh.yaml -n sample --state stale --state error
      meshkit proxies mesh.yaml --since runs/mesh1/20260301T120000Z-audit
      meshkit proxies mesh.yaml -o json | jq '.[] | select(.state == "ERROR") | .nack'
    """  # noqa: D301
    from meshkit.checks import proxies
    from meshkit.istio.proxies import status_summary
    from meshkit.runs import previous

    before, read_at = previous.proxy_status(since) if since else (None, None)
    taken = _snapshot(mesh_file, contexts, snapshot)
    mesh = taken.mesh
    choose = status_summary.status_filter(mesh.clusters, namespace, clusters, states)
    facts = taken.proxies(namespace)
    if before is not None:
        changed = status_summary.status_diff(choose(before), choose(facts.status), read_at)
        _print(changed, output, status_summary.brief_diff)
    elif output in ("table", "wide"):
        _show_proxies(status_summary.summary(choose(facts.status)), output, every=every)
    else:
        _print(choose(facts.status), output)
    having = set(facts.status["cluster"]) if namespace and len(facts.status) else set(mesh.clusters)
    chosen = having & set(clusters or mesh.clusters)
    return _report([f for f in proxies.check_proxies(mesh, facts) if f.subject in chosen], mesh)


@click.command()
@given_mesh_file
@contexts
@snapshot_file
@click.option(
    "--samples", default=200, show_default=True, type=click.IntRange(min=0), help="Requests per pair; 0: none."
)
@output
def pairs(
    *, mesh_file: Path | None, contexts: Sequence[str], snapshot: Path | None, samples: int, output: Output
) -> int:
    """Show for every ordered pair of clusters the links that a request depends on, and which link is broken.

    One line for each pair, the worst first; JSON and CSV have a row for each istiod replica, with every link: secret,
    address, credential, sync, gateway, endpoints, TLS through the gateway, answers and their times. Creates Services
    `meshkit-probe-…` in the probe's namespace, and removes them at the end; with --samples 0 it only reads. With
    --snapshot, answers are those that `gather --samples` recorded. Exit code 1: a link is broken. 3: something could
    not be read.

    \b
    Examples:
      meshkit pairs mesh.yaml
      meshkit pairs --context east --context west
      meshkit pairs mesh.yaml --samples 0 -o json | jq '.[] | select(.verdict != "pass") | .why'
      meshkit pairs --snapshot mesh1.json.gz
    """  # noqa: D301
    from meshkit import clock
    from meshkit.checks import pair_table, pairs
    from meshkit.notebook import terminal
    from meshkit.snapshot.snapshot import PAIRS

    with terminal.talk() as say:
        facts = _snapshot(mesh_file, contexts, snapshot)
        if facts.live and samples:
            facts.try_pairs(samples, say)
        elif facts.live:
            facts.read(*PAIRS, tell=say)
    mesh, sent = facts.mesh, facts.sent
    with clock.at(facts.taken):
        findings = pairs.check_all(mesh, facts, sent)
    rows = pair_table.table(mesh, facts, findings, sent)
    _print(pair_table.wide(rows) if output == "wide" else rows, output, pair_table.brief)
    return _report(findings, mesh)


@click.command()
@given_mesh_file
@contexts
@click.option("--samples", default=400, show_default=True, type=click.IntRange(min=1), help="Warm requests per pair.")
@output
def latency(*, mesh_file: Path | None, contexts: Sequence[str], samples: int, output: Output) -> int:
    """Measure how long each cluster takes to answer each other one, each pair alone.

    Creates Services `meshkit-probe-…` in the probe's namespace, and removes them at the end. Times are in milliseconds,
    with 95 % intervals. Exit code 1: a pair fails its gates. 3: a pair could not be measured.

    \b
    Example:
      meshkit latency mesh.yaml --samples 100 -o csv > latency.csv
    """  # noqa: D301
    from meshkit.notebook import terminal
    from meshkit.probing import statistics
    from meshkit.stages import observe

    mesh = _mesh(mesh_file, contexts)
    pairs = len(mesh.clusters) ** 2
    with terminal.talk() as say:
        say(f"measuring {pairs} pairs, {samples} requests each, every pair alone …")
        measured = observe.measure(mesh, samples)
    _print(statistics.latency_table(measured), output, statistics.brief)
    return _report(observe.prove(mesh, measured), mesh)


def _snapshot(mesh_file: Path | None, contexts: Sequence[str], snapshot: Path | None) -> Snapshot:
    """Return the snapshot of a file, or one of a mesh that nothing was read of yet."""
    from meshkit.snapshot.snapshot import Snapshot

    if snapshot is None:
        return Snapshot(_mesh(mesh_file, contexts, f"{GIVEN}; a file of `meshkit gather` with --snapshot"))
    if mesh_file or contexts:
        raise click.UsageError("--snapshot stands alone: the mesh is that of its file")
    return Snapshot.load(snapshot)


def _mesh(mesh_file: Path | None, contexts: Sequence[str], given: str = GIVEN) -> Mesh:
    """Return the mesh of a file, or as it is found in contexts; what is taken for want of a reading is said."""
    from meshkit.istio.found import mesh_file as found
    from meshkit.kube.mesh import Mesh

    if bool(mesh_file) == bool(contexts):
        raise click.UsageError(f"name one of these: {given}")
    if mesh_file:
        return Mesh.open(mesh_file)
    known = found.of_contexts(contexts)
    for one in (one for one in known.undecided if one.value is not None):
        click.echo(f"? {'.'.join(map(str, one.path))} is taken as {one.value or 'unset'}: {one.why}", err=True)
    return Mesh.open(known.spec)


def _print(
    table: pd.DataFrame, output: Output, brief: Callable[[pd.DataFrame], pd.DataFrame] = lambda whole: whole
) -> None:
    """Print a table, of which a terminal has room for what `brief` leaves; other formats have it whole."""
    from meshkit.notebook import terminal

    terminal.show(brief(table) if output == "table" else table, output)


def _show_proxies(proxies: pd.DataFrame, output: Output, *, every: bool) -> None:
    """Print a line for each proxy; of many, for each that is not in order, after the counts of all."""
    from meshkit.istio.proxies import status_summary

    if every or len(proxies) <= MANY:
        _print(proxies, output, status_summary.brief)
        return
    _print(status_summary.groups(proxies), output, status_summary.brief_groups)
    unhealthy = proxies[~proxies["worst"].isin(status_summary.GOOD)]
    click.echo(f"{len(proxies):,} proxies, {len(unhealthy):,} not in order", err=True)
    if len(unhealthy):
        click.echo()
        _print(unhealthy.head(MANY), output, status_summary.brief)
    if len(unhealthy) > MANY:
        click.echo(f"the {MANY} worst are shown; --all shows every one, -n, --cluster and --state choose", err=True)


def _report(findings: Sequence[Finding], mesh: Mesh) -> int:
    """Print on stderr the findings that do not pass, and return the exit code."""
    from meshkit.checks import causes
    from meshkit.notebook import blocks

    if told := blocks.blocks(causes.in_order(findings, mesh.clusters), blocks.page(sys.stderr)):
        _say(f"\n{told}", err=True)
    return _exit_code(findings)


def _say(text: str, *, err: bool = False) -> None:
    # Colours are in the text where they are wanted: click would take those of FORCE_COLOR out of a pipe.
    click.echo(text, err=err, color=True)


def _exit_code(findings: Sequence[Finding]) -> int:
    from meshkit.checks.finding import Verdict, overall

    return {Verdict.FAIL: 1, Verdict.UNKNOWN: 3}.get(overall(findings), 0)
