"""The commands `meshkit ca …`: create a root offline, or requests for the user's PKI."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from meshkit.cli.group import Group
from meshkit.cli.options import mesh_file, output
from meshkit.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from meshkit.istio.ca.issuing import Kind
    from meshkit.notebook.terminal import Output


folder = click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
kind = click.option(
    "--key", "kind", type=click.Choice(["ec-p256", "rsa-4096"]), default="ec-p256", show_default=True, help="Its kind."
)


def passphrase(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that name a passphrase. It is never an argument itself: other users can see a command line."""
    from_env = click.option("--passphrase-env", "env", metavar="NAME", help="Environment variable with the passphrase.")
    from_file = click.option("--passphrase-file", "file", metavar="PATH", help="File with the passphrase.")
    return from_env(from_file(command))


unprotected = click.option("--no-passphrase", "bare", is_flag=True, help="Leave keys unencrypted.")


@click.group(cls=Group)
def ca() -> None:
    """Make the mesh's CA offline, or have your own PKI sign the clusters' intermediates.

    Name the resulting folder in trust.rootDirectory of the mesh file: stage 04 installs the intermediates from it.

    \b
    Examples:
      meshkit ca root ca --passphrase-env CA_PASSPHRASE              a root of your own; stage 04 signs with it
      meshkit ca request mesh.yaml ca --passphrase-env CA_PASSPHRASE what your PKI is to sign, for each cluster
      meshkit ca take mesh.yaml ca --chain issuing-ca.pem            import what it signed
      meshkit ca show ca                                             the folder's content, and its problems
    """  # noqa: D301  (\b is click's own mark for "keep these lines")


@ca.command()
@folder
@kind
@click.option("--days", default=3650, show_default=True, type=click.IntRange(1, 36500), help="Its life.")
@click.option("--name", default="Root CA", show_default=True, help="Common name.")
@click.option("--organization", default="Istio", show_default=True, help="Organization.")
@passphrase
@unprotected
def root(*, folder: Path, kind: Kind, days: int, name: str, organization: str, env: str, file: str, bare: bool) -> None:
    """Make a root: DIR/root-cert.pem, and DIR/root-key.pem encrypted by a passphrase.

    Nothing is overwritten. Do it on a machine outside the mesh; the key is needed again only for another
    cluster, and to renew intermediates.

    \b
    Examples:
      export CA_PASSPHRASE="$(openssl rand -base64 24)"             keep it in your password manager
      meshkit ca root ca --passphrase-env CA_PASSPHRASE
      meshkit ca root ca --key rsa-4096 --days 7300 --organization Example --passphrase-file ca-passphrase
    """  # noqa: D301
    from meshkit.istio.ca import ca_folder
    from meshkit.istio.ca.certificates import fingerprint

    secret = _passphrase(env, file, bare=bare)
    made = ca_folder.make_root(folder, kind=kind, name=name, organization=organization, days=days, passphrase=secret)
    click.echo(f"sha256    {fingerprint(made)}")
    click.echo(f"subject   {made.subject.rfc4514_string()}")
    click.echo(f"valid     {made.not_valid_before_utc:%Y-%m-%dT%H:%MZ} to {made.not_valid_after_utc:%Y-%m-%dT%H:%MZ}")
    _print_next_steps(folder, env, file)


@ca.command()
@mesh_file
@folder
@kind
@passphrase
@unprotected
def request(*, mesh_file: Path, folder: Path, kind: Kind, env: str, file: str, bare: bool) -> None:
    """Make a key and a request for each cluster's intermediate, for your own PKI to sign: DIR/CLUSTER/ca.csr.

    Keys are encrypted by the passphrase that the options or trust.passphraseFrom of the mesh file name. A cluster that
    has a key keeps it. The requests ask for the same as Istio's tools/certs: CA:TRUE with path length 0, keyCertSign,
    cRLSign and digitalSignature, and the SAN istiod.<root namespace>.svc.

    \b
    Example:
      meshkit ca request mesh.yaml ca --passphrase-env CA_PASSPHRASE
      openssl req -in ca/east/ca.csr -noout -verify -text
    """  # noqa: D301
    from meshkit.istio.ca import ca_folder
    from meshkit.spec import MeshSpec

    spec = MeshSpec.load(mesh_file)
    names = [cluster.name for cluster in spec.clusters]
    secret = _passphrase(env, file, bare=bare, otherwise=spec.trust.passphrase_from)
    made = ca_folder.make_requests(folder, names, spec.mesh.root_namespace, kind, secret)
    for name in made:
        click.echo(str(folder / name / "ca.csr"))
    if kept := [name for name in names if name not in made]:
        _say(f"{', '.join(kept)} had a key already, and keeps it")
    _say("next: let your PKI sign each ca.csr as a CA with path length 0, for a life of a year or two;")
    _say("put the certificate beside it as ca-cert.pem (or Vault's JSON answer as vault.json), then:")
    _say(f"  meshkit ca take {mesh_file} {folder} --chain FILE     FILE: the PKI's certificates up to its root")


@ca.command()
@mesh_file
@folder
@click.option("--chain", multiple=True, metavar="FILE", help="PEM of the PKI's certificates up to its root; again.")
@passphrase
def take(*, mesh_file: Path, folder: Path, chain: Sequence[str], env: str, file: str) -> None:
    """Import what your PKI signed: check each DIR/CLUSTER/ca-cert.pem, then write root-cert.pem and cert-chain.pem.

    Each certificate must match its key and be a CA; every certificate up to the root must be valid and allow those
    below it; and all clusters must have one root. Otherwise nothing is written. Harmless deviations from the request
    are shown.

    \b
    Example:
      meshkit ca take mesh.yaml ca --chain issuing-ca.pem --chain root-ca.pem
    """  # noqa: D301
    from meshkit.istio.ca import ca_folder
    from meshkit.istio.ca.certificates import fingerprint
    from meshkit.spec import MeshSpec

    spec = MeshSpec.load(mesh_file)
    names = [cluster.name for cluster in spec.clusters]
    secret = _passphrase(env, file, otherwise=spec.trust.passphrase_from, needed=False)
    above = b"\n".join(_read(Path(path)) for path in chain)
    for one in ca_folder.import_signed(folder, names, spec.mesh.root_namespace, passphrase=secret, more=above):
        own, root = one.plugged.certificate, one.plugged.root
        until = f"{own.not_valid_after_utc:%Y-%m-%d}"
        click.echo(f"{one.cluster}   {fingerprint(own)}   until {until}   root {fingerprint(root)}")
        for remark in one.remarks:
            _say(f"  ! {one.cluster}: {remark}")
    _print_next_steps(folder, env, file)


@ca.command()
@folder
@passphrase
@output
def show(*, folder: Path, env: str, file: str, output: Output) -> int:
    """Show the root and the intermediates of a folder: fingerprints, validity, keys, and problems.

    Files may have the names of Istio's tools/certs, of cert-manager (tls.crt, tls.key, ca.crt), or be Vault's answer
    (vault.json). Encrypted keys are compared with their certificates only with a passphrase. Exit code 1: something is
    wrong.

    \b
    Examples:
      meshkit ca show ca
      meshkit ca show ca -o json | jq '.[] | select(.days < 90) | .name'
    """  # noqa: D301
    from meshkit.istio.ca import ca_inventory
    from meshkit.notebook.terminal import show

    found = ca_inventory.overview(folder, _passphrase(env, file, needed=False))
    wrong = found[found["problem"] != ""]
    shown = ca_inventory.CA_FILES.shown(found).assign(sha256=found["sha256"].str[:16])
    show(shown if output == "table" else found, output)
    for row in wrong.to_dict("records"):
        _say(f"✖ {row['name']}: {row['problem']}")
    return 1 if len(wrong) else 0


def _passphrase(
    env: str, file: str, *, bare: bool = False, otherwise: Mapping[Any, str] | None = None, needed: bool = True
) -> bytes:
    """Return the passphrase that the options name, or else the mesh file; without one, nothing."""
    from meshkit.istio.ca.ca_files import read_passphrase

    if sum(map(bool, (env, file, bare))) > 1:
        raise click.UsageError("--passphrase-env, --passphrase-file and --no-passphrase exclude each other")
    if env or file:
        return read_passphrase({"env": env or "", "file": file or ""}, "--passphrase-")
    if otherwise and not bare:
        return read_passphrase(otherwise)
    if needed and not bare:
        raise click.UsageError("name a passphrase by --passphrase-env or --passphrase-file, or use --no-passphrase")
    return b""


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", where=f"--chain {path}") from None


def _say(words: str) -> None:
    click.echo(words, err=True)


def _print_next_steps(folder: Path, env: str, file: str) -> None:
    """Print the lines for the mesh file, with absolute paths."""
    source = f"{{env: {env}}}" if env else f"{{file: {Path(file).expanduser().resolve()}}}" if file else ""
    _say("next: in the mesh file, then `meshkit run MESH.yaml --only 04`:")
    _say("trust:")
    _say(f"  rootDirectory: {folder.resolve()}")
    if source:
        _say(f"  passphraseFrom: {source}")
