"""Arguments and options that several commands have, each with one name and one help text."""

from __future__ import annotations

from pathlib import Path

import click

mesh_file = click.argument("mesh_file", metavar="MESH.yaml", type=click.Path(path_type=Path))
given_mesh_file = click.argument("mesh_file", metavar="MESH.yaml", type=click.Path(path_type=Path), required=False)
snapshot_file = click.option(
    "--snapshot",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Take this file of `gather`; no cluster is asked.",
)
contexts = click.option(
    "--context", "contexts", multiple=True, metavar="NAME", help="A context to read; once for each, in place of a file."
)
output = click.option(
    "-o",
    "--output",
    type=click.Choice(["table", "wide", "json", "csv"]),
    default="table",
    show_default=True,
    help="Format; wide cuts nothing, however narrow the terminal is.",
)
out = click.option(
    "--out", default="runs", show_default=True, type=click.Path(path_type=Path), help="Folder for the run folders."
)
timeout = click.option(
    "--timeout", default=600, show_default=True, metavar="S", type=click.IntRange(min=1), help="Seconds for each cell."
)
settings = click.option(
    "-p", "--parameter", "settings", nargs=2, multiple=True, metavar="NAME VALUE", help="Set a notebook's parameter."
)
ticket = click.option("--ticket", metavar="ID", default="", help="The change's ticket, for the record.")
key = click.option(
    "--key",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Ed25519 private key, as of ssh-keygen, to sign with; by default one of your own.",
)
