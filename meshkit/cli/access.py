"""The commands about rights: `access` prints the roles that meshkit needs, `doctor` says what is missing of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from meshkit.cli.options import contexts, given_mesh_file, output

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meshkit.access.roles import Places, Role
    from meshkit.kube.cluster import Cluster
    from meshkit.notebook.terminal import Output

ROLES: tuple[Role, ...] = ("read", "apply")
gateways = click.option(
    "-n", "--namespace", "gateways", multiple=True, metavar="NS", help="A further namespace with a gateway of Istio."
)


@click.command()
@click.argument("role", type=click.Choice(ROLES))
@given_mesh_file
@gateways
@click.option("--user", metavar="NAME", help="Bind it to this user, too.")
@click.option("--group", metavar="NAME", help="Bind it to this group, too.")
@click.option("--serviceaccount", metavar="NS:NAME", help="Bind it to this service account, too.")
def access(
    *,
    role: Role,
    mesh_file: Path | None,
    gateways: Sequence[str],
    user: str | None,
    group: str | None,
    serviceaccount: str | None,
) -> int:
    """Print the rights that meshkit needs, as roles for kubectl: to read a mesh, or besides that to change it.

    `read` is all that the reading commands ask for, and run in mode plan; `apply` is what run and undo in mode apply
    ask for besides. Comments in the YAML give the reasons. Namespaces and revision are those of the mesh file, or
    istio-system and sample. Nobody is bound to the roles unless you name one.

    \b
    Examples:
      meshkit access read --group sre | kubectl --context east apply -f -
      meshkit access apply mesh.yaml --user ann > meshkit-apply.yaml
      meshkit doctor --context east
    """  # noqa: D301
    from meshkit.access import roles

    named = {"User": user, "Group": group, "ServiceAccount": serviceaccount}
    chosen = [(kind, name) for kind, name in named.items() if name]
    if len(chosen) > 1:
        raise click.UsageError("name one of these: --user, --group, --serviceaccount")
    subject = roles.subject(*chosen[0]) if chosen else None
    click.echo(roles.published(role, _places(mesh_file, gateways), subject), nl=False)
    return 0


@click.command()
@given_mesh_file
@contexts
@gateways
@click.option("--role", type=click.Choice(ROLES), help="Ask for the rights of this role only; what is missing fails.")
@output
def doctor(
    *, mesh_file: Path | None, contexts: Sequence[str], gateways: Sequence[str], role: Role | None, output: Output
) -> int:
    """Show which rights you lack in clusters, of those that meshkit needs to read and to apply.

    Read-only: each API server is asked what your credential may do (SelfSubjectAccessReview). Namespaces and revision
    are those of the mesh file, or istio-system and sample. Exit code 1: a right of the role read is missing, or of the
    role that you named. 3: a cluster does not answer.

    \b
    Examples:
      meshkit doctor --context east --context west
      meshkit doctor mesh.yaml --role apply -o json
      meshkit access read --user ann | kubectl --context east apply -f -
    """  # noqa: D301
    from meshkit.access import lacking
    from meshkit.notebook import terminal

    found = lacking.lacking(_clusters(mesh_file, contexts), _places(mesh_file, gateways), [role] if role else ROLES)
    if role:
        found["verdict"] = found["verdict"].replace("warn", "fail")
    terminal.show(lacking.brief(found) if output == "table" else found, output)
    for name in found.loc[found["resource"] != "", "role"].unique():
        click.echo(f"→ an administrator grants it: meshkit access {name} --user NAME | kubectl apply -f -", err=True)
    verdicts = set(found["verdict"])
    return 1 if "fail" in verdicts else 3 if "unknown" in verdicts else 0


def _clusters(mesh_file: Path | None, contexts: Sequence[str]) -> dict[str, Cluster]:
    from meshkit.kube.cluster import Cluster
    from meshkit.kube.mesh import Mesh

    if bool(mesh_file) == bool(contexts):
        raise click.UsageError("name one of these: the mesh file; its contexts, each with --context")
    return Mesh.open(mesh_file).clusters if mesh_file else {name: Cluster.connect(name) for name in contexts}


def _places(mesh_file: Path | None, gateways: Sequence[str]) -> Places:
    from meshkit.access.roles import Places
    from meshkit.spec import MeshSpec

    return Places.of(MeshSpec.load(mesh_file), gateways) if mesh_file else Places(gateways=tuple(gateways))
