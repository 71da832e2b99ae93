"""The commands that run notebooks, and what belongs to such runs: run, audit, approve, undo."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from meshkit.cli.options import key, mesh_file, out, settings, ticket, timeout
from meshkit.errors import ChangeError, InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from meshkit.changes.journal import Journal
    from meshkit.runs.approval import ApprovedPlan
    from meshkit.runs.signature import Signer

AUDIT = ("08", "09")
LAST_STAGE = "10"


@click.command()
@mesh_file
@click.option("--mode", type=click.Choice(["plan", "apply"]), default="plan", show_default=True, help="Show, or do.")
@click.option("--from", "first", metavar="NN", default="", help="Begin with this stage.")
@click.option("--until", "last", metavar="NN", default="", help="End with this stage.")
@click.option("--only", multiple=True, metavar="NN", help="Run just this stage; may be given again.")
@click.option("--resume", metavar="RUN", type=click.Path(path_type=Path), help="Go on with a run that did not end.")
@click.option("--approved", metavar="RUN", type=click.Path(path_type=Path), help="Apply this plan, and nothing else.")
@click.option("--write", "files", metavar="DIR", type=click.Path(path_type=Path), help="Write a plan as files, too.")
@ticket
@key
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
    files: Path | None,
    ticket: str,
    key: Path | None,
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

    With --write, for GitOps, the changes are files, too: DIR/CLUSTER/STAGE/NNN-KIND-NAME.yaml. DIR/ORDER.md has their
    order, and what no file can say. Each run's record is signed, with --key or a key of your own.

    \b
    Examples:
      meshkit run mesh.yaml
      meshkit run mesh.yaml --mode apply
      meshkit run mesh.yaml --mode apply --from 04 --until 07 -p samples 500
      meshkit run mesh.yaml --resume runs/mesh1/20260301T120000Z-apply
      meshkit run mesh.yaml --mode apply --approved runs/mesh1/20260301T110000Z-plan
      meshkit run mesh.yaml --write gitops
    """  # noqa: D301
    from meshkit.runs import approval, folder, gitops
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
    if files and how == "apply":
        raise click.UsageError("--write goes with --mode plan")
    if files:
        gitops.require_free(files)
    spec = MeshSpec.load(mesh_file)
    plan = approval.require(approved, spec, mesh_file) if approved else None
    if how == "apply" and plan is None and spec.approvals:
        remedy = "plan (meshkit run), have it approved (meshkit approve), and name it: --approved RUN"
        raise InputError(
            "this mesh is changed by approved plans only", where=f"approvals of {mesh_file}", remedy=remedy
        )
    planned = [name[:2] for name in (plan.stages if plan else before.get("stages", []))]
    chosen = _choose(planned or list(runs.stages()), first, last, only)
    options = {"parameters": dict(settings), "cell_timeout": timeout, "signer": _signer(key), "ticket": ticket}
    if plan and not resume and (code := _drifted(plan, mesh_file, chosen, out, options)):
        return code
    return _execute(
        mesh_file, chosen, how, out, **options, keep_going=how == "plan", journal=before.get("journal", ""),
        approved=plan, files=files,
    )  # fmt: skip


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--as", "name", metavar="NAME", default="", help="Who approves; by default the login name.")
@key
@ticket
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

    signer = _private_key(key) if key else attestation.own_key(paths.own_key())
    name = name or getpass.getuser()
    said, path = approval.approve(run, signer, name, ticket=ticket, comment=comment)
    click.echo(f"{name} approved the plan of {run.name} with key {said.key}", err=True)
    click.echo(f"its line for approvals.keys: {attestation.line_of(signer.public_key(), name)}", err=True)
    click.echo(str(path))
    return 0


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--mode", type=click.Choice(["plan", "apply"]), default="plan", show_default=True, help="Show, or do.")
@click.option("--mesh", "mesh_file", type=click.Path(path_type=Path), help="The mesh file, if it was moved since.")
@click.option("--consent", is_flag=True, help="Remove, too, what others changed or use since.")
@ticket
@key
@out
@timeout
def undo(
    *,
    run: Path,
    mode: str,
    mesh_file: Path | None,
    consent: bool,
    ticket: str,
    key: Path | None,
    out: Path,
    timeout: int,
) -> int:
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
        signer=_signer(key),
        ticket=ticket,
    )


@click.command()
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
      meshkit audit mesh.yaml
    """  # noqa: D301
    if snapshot:
        raise click.UsageError(
            "an audit sends requests, so no file can replay it; `meshkit check --snapshot FILE` judges what was read"
        )
    return _execute(mesh_file, AUDIT, "audit", out, parameters=dict(settings), cell_timeout=timeout, keep_going=True)


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


def _private_key(file: Path) -> Ed25519PrivateKey:
    from meshkit import attestation

    return attestation.private_key(file, lambda: str(click.prompt("passphrase of the key", hide_input=True, err=True)))


def _signer(key: Path | None) -> Signer | None:
    from meshkit.runs.signature import Signer

    return Signer(_private_key(key)) if key else None  # the user's own key is made once nothing is refused any more


def _execute(mesh_file: Path, *run: Any, files: Path | None = None, **options: Any) -> int:
    from meshkit.kube.mesh import Mesh
    from meshkit.notebook import terminal
    from meshkit.runs import gitops
    from meshkit.runs.run import execute

    with terminal.talk() as say:
        result = execute(mesh_file, *run, say=say, **options)
    for line in result.withheld:
        click.echo(f"✖ {line}", err=True)
    click.echo(f"report: {result.folder / 'report.html'}", err=True)
    click.echo(str(result.folder))
    if files:
        changes = [change for outcome in result.outcomes for change in outcome.planned]
        *_, order = gitops.write(files, Mesh.open(mesh_file), result.folder.name, result.exit_code, changes)
        click.echo(f"files, and their order: {order}", err=True)
    return result.exit_code
