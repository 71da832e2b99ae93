"""The lab's commands: `meshkit lab …`, `meshkit doctor` and `meshkit demo`. Data goes to stdout, talk to stderr."""

from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from meshkit.cli.access import doctor as of_clusters
from meshkit.cli.group import Group
from meshkit.cli.options import output
from meshkit.errors import ChangeError, UnreachableError
from meshlab.training import TOPICS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meshkit.access.roles import Role
    from meshkit.notebook.terminal import Output


def say(words: str) -> None:
    """Talk to the user, on stderr."""
    click.echo(words, err=True)


@click.group(cls=Group)
def lab() -> None:
    """A real Istio mesh on this machine, of plain processes: no Docker, no root needed.

    \b
    Examples:
      meshkit lab up                              two clusters, east with Istio as people really have it
      meshkit lab up --start meshed --clusters 3  three clusters, one mesh
      eval "$(meshkit lab env)"                   kubectl and istioctl of this shell talk to it
      meshkit lab down
    """  # noqa: D301  (\b is click's own mark for "keep these lines")


@lab.command()
@click.option("--helm", is_flag=True, help="Also Helm, which shape helm needs.")
@click.option("--istio", "release", metavar="VERSION", help="Also another Istio: 1.30, for shapes older and skew.")
def build(*, helm: bool, release: str | None) -> None:
    """Build the lab's programs: about 10 min once on 2 cores; afterwards only what changed.

    Another Istio takes about 12 min of one core more. Images with its tag are its code then.

    \b
    Examples:
      meshkit lab build
      meshkit lab build --istio 1.30
    """  # noqa: D301
    from meshlab import programs
    from meshlab.programs import releases

    if release:
        releases.wanted(release)  # refused before minutes of other work
    programs.build(say, programs.OPTIONAL if helm else ())
    if release:
        releases.build(release, say)


@lab.command()
@click.option("--clusters", default=2, show_default=True, metavar="N", help="How many clusters, 1 to 9.")
@click.option("--rtt", default=40, show_default=True, metavar="MS", help="Round trip between clusters.")
@click.option(
    "--start",
    "scenario",
    type=click.Choice(["single", "empty", "meshed", "strangers"]),
    default="single",
    show_default=True,
    help="Istio in east only, bare clusters, a finished mesh, or one whose clusters have a root each.",
)
@click.option("--flat", is_flag=True, help="Join the pod networks: pods reach each other without gateways.")
@click.option("--live-roots", is_flag=True, help="Let istiod and proxies hot-reload a changed root bundle.")
@click.option(
    "--shape",
    "shapes",
    multiple=True,
    metavar="NAME",
    help="A mesh as people have it: see `meshkit lab shapes`. May be repeated. Without --start, a finished mesh.",
)
@click.pass_context
def up(
    context: click.Context,
    *,
    clusters: int,
    rtt: int,
    scenario: str,
    flat: bool,
    live_roots: bool,
    shapes: tuple[str, ...],
) -> None:
    """Start the lab; it stays until `meshkit lab down`.

    \b
    Examples:
      meshkit lab up --shape revisioned                  a finished mesh of two clusters
      meshkit lab up --shape revisioned --start single   east only, to migrate from
    """  # noqa: D301
    if shapes and context.get_parameter_source("scenario") is click.core.ParameterSource.DEFAULT:
        scenario = "meshed"
    start(clusters, rtt, scenario, flat=flat, live_roots=live_roots, shapes=shapes)


@lab.command()
@output
def shapes(output: Output) -> None:
    """Show each shape that `up --shape` can make: how people have their meshes."""
    from meshkit.notebook.terminal import show
    from meshlab.shapes import shape

    show(shape.table(), output)


@lab.command()
@output
def status(output: Output) -> int:
    """Show each daemon and container of the lab: health, memory, CPU, log. Exit code 1 when one is dead."""
    from meshkit.notebook.terminal import show
    from meshlab import status
    from meshlab.layout import folder

    table = status.table()
    show(table, output)
    dead = int((table["state"] == "dead").sum())
    say(f"{len(table) - dead} run, {dead} dead; {table['mib'].sum() / 1024:.2f} GiB; logs under {folder()}")
    return 1 if dead else 0


@lab.command()
def kubeconfig() -> None:
    """Print the path of the lab's kubeconfig."""
    click.echo(str(existing_kubeconfig()))


@lab.command()
def env() -> None:
    """Print shell lines that point kubectl and istioctl at the lab: eval "$(meshkit lab env)"."""
    from meshlab.layout import tool_path

    folders = f"{shlex.quote(tool_path())}:{shlex.quote(str(Path(sys.executable).parent))}"
    click.echo(f"export KUBECONFIG={shlex.quote(str(existing_kubeconfig()))}")
    click.echo(f"export PATH={folders}:$PATH")


@lab.command()
def down() -> None:
    """End the lab and remove its folder; without a lab, nothing."""
    from meshlab import lifecycle

    lifecycle.stop(say)


@lab.command()
@output
def faults(output: Output) -> None:
    """Show each fault that `break` can make: what it breaks, what users see, which check names it, where it is now.

    While a round of `meshkit lab drill` is open, column broken is `untold`, so hidden, for every fault.
    """
    from meshkit.notebook.terminal import show
    from meshlab.faults import drills

    show(drills.table(), output)


@lab.command(name="break")
@click.argument("name")
@click.option("--cluster", default="west", show_default=True, help="The cluster that breaks.")
def break_(*, name: str, cluster: str) -> None:
    """Break the running mesh by a real fault; `heal` reverts it.

    \b
    Examples:
      meshkit lab break gateway-down
      meshkit lab heal gateway-down
    """  # noqa: D301
    from meshlab.faults import drills

    drills.break_(name, cluster, say)


@lab.command()
@click.argument("names", metavar="[NAME]...", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All that is broken now, the latest first.")
def heal(*, names: tuple[str, ...], everything: bool) -> None:
    """Revert faults: restore every object and process; waits until the mesh is healthy.

    While a round of `meshkit lab drill` is open names are refused; --all heals that, too, and the round is lost.
    """
    from meshlab.faults import drills

    if bool(names) == everything:
        raise click.UsageError("give the names of faults, or --all")
    if names:
        drills.refuse_in_training(drills.running())
    drills.heal(list(drills.broken(drills.running())) if everything else list(names), say)


@lab.group(cls=Group)
def drill() -> None:
    """Train: find out what broke the mesh. Each round has a fault drawn by a seed, three hints, and a score.

    After each round an expert's path is run on the broken mesh and shown, and then the mesh is healed. A round outlives
    kills: the next of these commands goes on where it was. The score is kept when the lab is taken down.

    \b
    Examples:
      meshkit lab drill start --topic gateways    a seed is drawn and printed
      meshkit lab drill start --seed 7 --number 3 the same fault in the same cluster, each time
      meshkit lab drill hint                      where to look next; the last one is the check
      meshkit lab drill answer Service/httpbin spec.selector
      meshkit lab drill give-up                   shows the path and heals
      meshkit lab drill score -o json
    """  # noqa: D301


@drill.command(name="start")
@click.option("--seed", type=click.IntRange(min=1), metavar="N", help="Chooses fault and cluster; drawn unless given.")
@click.option(
    "--number", default=1, show_default=True, metavar="K", type=click.IntRange(min=1), help="Which of the seed's order."
)
@click.option("--topic", type=click.Choice(TOPICS), help="What the fault is about; any unless given.")
@click.option("--level", type=click.IntRange(1, 3), help="1: one look shows it, 2: two are compared, 3: tools mislead.")
def start_(*, seed: int | None, number: int, topic: str | None, level: int | None) -> None:
    """Break the running mesh by a fault drawn from the seed, hidden; an open round continues.

    The lab must be a healthy mesh over several networks: `meshkit lab up --start meshed`. No fault comes twice in the
    numbers of one seed.

    \b
    Examples:
      meshkit lab drill start --topic trust --level 2
      meshkit lab drill start --seed 7 --number 3
    """  # noqa: D301
    from meshlab.training import rounds

    rounds.start(seed, number, topic or "", level or 0, say)
    say(rounds.prompt())
    say('the tools work after `eval "$(meshkit lab env)"`; then: `meshkit lab drill hint`, `answer` or `give-up`')


@drill.command()
def hint() -> None:
    """Take the next of three hints: two lead to the next look, the last one is the check; each costs points.

    `meshkit lab drill start` tells again, for nothing, what was taken.

    \b
    Example:
      meshkit lab drill hint
    """  # noqa: D301
    from meshlab.training import rounds

    click.echo(rounds.hint(say=say))


@drill.command()
@click.argument("words", metavar="[OBJECT FIELD | NAME]", nargs=-1)
def answer(words: tuple[str, ...]) -> int:
    """Answer with the object that is the cause and its field, or with a fault's name. A right answer heals the mesh.

    Without words, the objects and fields that can be answered. Exit code 1: the answer is wrong; a check's id is, too,
    and costs the same: it is where to look, and not the cause. 2: it names nothing, and costs nothing.

    \b
    Examples:
      meshkit lab drill answer Service/httpbin spec.selector
      meshkit lab drill answer gateway-down
    """  # noqa: D301
    from meshlab.training import rounds

    if not words:
        click.echo(rounds.choices())
        return 0
    right, reply = rounds.answer(" ".join(words), say)
    click.echo(reply)
    if right:
        debrief()
    return 0 if right else 1


@drill.command(name="give-up")
def give_up() -> None:
    """Show what is broken, the path of an expert, and the findings of `meshkit check` now; then heal the mesh.

    \b
    Example:
      meshkit lab drill give-up
    """  # noqa: D301
    from meshlab.training import rounds

    click.echo(rounds.give_up(say))
    debrief()


def debrief() -> None:
    """Print the path of an expert on the broken mesh, and heal it."""
    from meshlab.training import rounds

    for line in rounds.debrief(say).lines():
        click.echo(line)
    rounds.finish(say)


@drill.command()
@output
def score(output: Output) -> None:
    """Show every round with its points, the oldest first; the fault of an open round stays hidden.

    \b
    Examples:
      meshkit lab drill score
      meshkit lab drill score -o json | jq 'map(.points // 0) | add'
    """  # noqa: D301
    from meshkit.notebook.terminal import show
    from meshlab.training import rules, sheet

    table = sheet.table()
    show(table, output)
    counted = table["points"].dropna()
    say(f"{counted.sum()} of {rules.FULL * len(counted)} points; {sheet.path()}; {rules.RULES}")


@click.command(params=[*of_clusters.params])
@click.option("--mend", is_flag=True, help="Run the commands that fix it, as root; each is printed first.")
@click.pass_context
def doctor(
    context: click.Context,
    *,
    mesh_file: Path | None,
    contexts: Sequence[str],
    gateways: Sequence[str],
    role: Role | None,
    output: Output,
    mend: bool,
) -> int:
    """Show which rights you lack in clusters; without a cluster, what this machine lacks for the lab.

    Of a mesh file or of contexts: each API server is asked what your credential may do. Exit code 1: a right of the
    role read is missing, or of the role that you named. 3: a cluster does not answer. Of the machine: each need with
    the command that fixes it. Exit code 3 when something is lacking.

    \b
    Examples:
      meshkit doctor
      meshkit doctor --context east --context west
      meshkit doctor mesh.yaml --role apply -o json
    """  # noqa: D301
    if mesh_file or contexts:
        if mend:
            raise click.UsageError("--mend is for this machine; rights are granted by an administrator")
        asked = {"mesh_file": mesh_file, "contexts": contexts, "gateways": gateways, "role": role, "output": output}
        code: int = context.invoke(of_clusters, **asked)
        return code
    from meshkit.notebook.terminal import show
    from meshlab import doctor

    needs = doctor.examine()
    if mend:
        doctor.fix(needs, say)
        needs = doctor.examine()
    show(doctor.table(needs), output)
    return UnreachableError.exit_code if any(n.verdict == "fail" for n in needs) else 0


@click.command()
@click.option("--clusters", default=2, show_default=True, type=click.IntRange(2, 6), help="Of a lab that is started.")
@click.option("--down", is_flag=True, help="End the lab afterwards.")
def demo(*, clusters: int, down: bool) -> int:
    """Build what is missing, start a live mesh of one cluster, take it to many, and say where the report is.

    East runs Istio under load; stages 01 to 10 are applied. A lab that runs already is used as it is: what is done is
    found, and proved again.

    \b
    Examples:
      meshkit demo
      meshkit demo --clusters 3 --down
    """  # noqa: D301
    from meshkit.cli.runs import run
    from meshlab import lifecycle, meshfile
    from meshlab.layout import folder

    begun = time.monotonic()
    if lifecycle.keeper(folder()) is not None:
        say("using the lab that runs")
    else:
        start(clusters, 40, "single")
    ready = time.monotonic()
    code: int = click.get_current_context().invoke(run, mesh_file=meshfile.mesh_file(), mode="apply")
    say(f"lab {ready - begun:.0f} s, migration {time.monotonic() - ready:.0f} s")
    if down:
        lifecycle.stop(say)
    else:
        say("the lab is left up: `meshkit lab status` shows it, `meshkit lab down` ends it")
    return code


def start(
    clusters: int,
    rtt: int,
    scenario: str,
    *,
    flat: bool = False,
    live_roots: bool = False,
    shapes: tuple[str, ...] = (),
) -> None:
    """Build what is missing, see what the machine lacks, start bare clusters and bring them to a scenario.

    Raises:
        MeshkitError: of each of these steps; a lab that only half came up is ended, one that is up but whose scenario
            failed is left for looking.
    """
    from meshlab import doctor, lifecycle, meshfile, programs, scenarios
    from meshlab.layout import folder
    from meshlab.programs import releases
    from meshlab.shapes.shape import combined

    begun = time.monotonic()
    shape = combined(shapes)
    also = [shape.installer]
    doctor.require()
    if programs.missing(also):
        programs.build(say, also)
    for release in filter(releases.missing, shape.releases):
        releases.build(release, say)
    running = lifecycle.keeper(folder()) is not None
    try:
        settings = lifecycle.start(clusters, rtt, flat, say, live_roots=live_roots, shapes=shapes)
        scenarios.make(scenario, folder(), settings, say)
    except KeyboardInterrupt:
        if not running:
            lifecycle.stop(say)
        raise
    except ChangeError as error:
        say("the lab is left as it is, for looking: `meshkit lab status`, `meshkit lab down`")
        raise ChangeError(f"--start {scenario}: {error.message}", where=error.where, remedy=error.remedy) from None
    what = ", ".join((scenario, *shapes))
    say(f"the lab is up ({what}) after {time.monotonic() - begun:.0f} s")
    say(f"kubeconfig {folder() / 'kubeconfig'}; mesh file {meshfile.mesh_file()}")


def existing_kubeconfig() -> Path:
    """Return the lab's kubeconfig.

    Raises:
        UnreachableError: there is no lab.
    """
    from meshlab.layout import folder

    path = folder() / "kubeconfig"
    if not path.exists():
        raise UnreachableError("no lab runs", where=str(folder()), remedy="start one: `meshkit lab up`")
    return path
