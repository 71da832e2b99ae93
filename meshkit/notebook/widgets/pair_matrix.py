"""The N x N matrix of pairs; behind each cell its links, the objects of Kubernetes and the log lines.

A row is the cluster of the client, a column that of the server; a cell has the worst verdict and the first broken link.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from meshkit.checks import pair_table
from meshkit.checks.finding import Finding
from meshkit.checks.question import ARROW, arrow
from meshkit.errors import InputError
from meshkit.istio.control_plane import logs
from meshkit.istio.multicluster.remote_secrets import RemoteSecrets, decisive_secrets
from meshkit.kube.mesh import Mesh
from meshkit.notebook.widgets.page import Page, in_background
from meshkit.snapshot.snapshot import Snapshot
from meshkit.tables import Row


@dataclass(frozen=True)
class Link:
    """One link of a pair: what was observed where it is not in order, and the remedy."""

    name: str
    verdict: str
    id: str
    told: str
    remedy: str


@dataclass(frozen=True)
class Behind:
    """An object of Kubernetes that a pair depends on: what is known of it, and the command that shows it."""

    what: str
    cluster: str
    name: str
    known: str
    command: str


def matrix(mesh: Mesh, table: pd.DataFrame) -> list[tuple[str, list[tuple[str, Row]]]]:
    """Return the rows of the matrix: a client, and for each server the pair's row of `LINKS`; empty on the diagonal."""
    first = table.drop_duplicates(["client", "server"]).to_dict("records")
    rows: dict[tuple[str, str], Row] = {(row["client"], row["server"]): row for row in first}
    names = list(mesh.clusters)
    return [(client, [(server, rows.get((client, server), {})) for server in names]) for client in names]


def links(cells: pd.DataFrame, findings: Iterable[Finding], client: str, server: str) -> list[Link]:
    """Return the links of a pair in the order in which one depends on the other, from `pair_table.cells`."""
    remedies = {(one.id, one.subject): one.remedy for one in findings if one.remedy}
    own = cells[(cells["client"] == client) & (cells["server"] == server)].to_dict("records")
    found = [(row, (row["id"], arrow(client, server))) for row in own]
    return [
        Link(
            row["cell"], row["verdict"], row["id"], row["told"], remedies.get(key) or remedies.get((key[0], server), "")
        )
        for row, key in found
    ]


def objects(mesh: Mesh, table: pd.DataFrame, secrets: RemoteSecrets, client: str, server: str) -> list[Behind]:
    """Return the objects that a pair depends on.

    Remote secrets are those that its row names, each with what is known of it alone: the row has but the first one's.
    The rest is from its rows of `LINKS`, one for each istiod replica.
    """
    rows = table[(table["client"] == client) & (table["server"] == server)].to_dict("records")
    here, there = (f"kubectl --context {mesh.spec.cluster(name).context}" for name in (client, server))
    row, found = rows[0], []
    for secret in decisive_secrets(mesh, secrets, client, server) if row["secret"] else ():
        known = f"cluster id {secret.key}, {secret.server or 'no address'}; credential {secret.credential.value}"
        command = f"{here} -n {secret.namespace} describe secret {secret.name}"
        found.append(Behind("remote secret", client, secret.place, known, command))
    if row["account"]:
        namespace, _, name = row["account"].partition("/")
        known = f"rights {row['rights']}; token ends: {row['ends']}"
        found.append(
            Behind("reader account", server, row["account"], known, f"{there} -n {namespace} get sa {name} -o yaml")
        )
    for one in rows:
        known = f"sync {one['sync']}; holds {one['knows']} of {one['ready']} endpoints; {one['reason']}".rstrip("; ")
        command = f"{here} -n {mesh.root_namespace} logs {one['istiod']}"
        found += [Behind("istiod", client, one["istiod"], known, command)] if one["istiod"] else []
    if row["gateway"] or mesh.spec.crosses(client, server):
        known = f"offered {row['gateway'] or 'none'}; istiod of {client} sees {row['gateway_seen'] or 'none'}"
        command = f"{there} -n {mesh.root_namespace} get gateways.networking.istio.io,service,pods"
        found.append(Behind("east-west gateway", server, mesh.spec.cluster(server).network, known, command))
    probe = mesh.spec.probe
    known = f"has {row['endpoints'] or 'no endpoint'} of {server}, by way of {row['way'] or 'UNKNOWN'}"
    command = f"{here} -n {probe.namespace} get pods --selector app={probe.client}"
    return [*found, Behind("client", client, f"{probe.namespace}/{probe.client}", known, command)]


class PairPage(Page):
    """The matrix of a snapshot; a click on a cell opens the pair. `mesh.pairs()` is the plain display."""

    template = "pair_matrix.html.j2"
    label = "Pairs of clusters, link by link"

    def __init__(self, taken: Snapshot, findings: Sequence[Finding]) -> None:
        super().__init__(pair="")
        self.mesh, self.live, self.findings = taken.mesh, taken.live, findings
        self.table = pair_table.table(taken.mesh, taken, findings, taken.sent)
        self.secrets = taken.remote_secrets
        self.cells = pair_table.cells(taken.mesh, findings)
        self.lines: dict[str, list[logs.Line] | None] = {}
        """Log lines by pair, once somebody asked for them; None while they are being read."""

    def choose(self, name: str, value: str) -> None:
        """Open a pair, or close it; or read its log lines, which takes some seconds, in a thread.

        Raises:
            InputError: no such pair.
        """
        if value and tuple(value.split(f" {ARROW} ")) not in self.mesh.ordered_pairs:
            raise InputError(f"no pair {value!r}")
        if name == "logs":
            self.lines[value] = None
            in_background(self._read, value)
        else:
            super().choose(name, "" if value == self.chosen["pair"] else value)

    def _read(self, pair: str) -> None:
        row = next(row for row in self.table.to_dict("records") if arrow(row["client"], row["server"]) == pair)
        probe = self.mesh.spec.probe
        texts = [*about(row), f"{probe.server}.{probe.namespace}"]
        self.lines[pair] = logs.naming(self.mesh, (row["client"], row["server"]), texts)
        self.changed()

    def status(self) -> str:
        """Return what is open."""
        pair = self.chosen["pair"]
        if pair and self.lines.get(pair, []) is None:
            return f"reading the logs of {pair} …"
        return f"{pair} is open" if pair else "no pair is open"

    def content(self) -> Mapping[str, Any]:
        """Return the matrix, and what is behind the open pair."""
        rows = matrix(self.mesh, self.table)
        pairs = [row for _, cells in rows for _, row in cells if row]
        whole = sum(row["verdict"] in ("pass", "skipped") for row in pairs)
        known = {"rows": rows, "servers": list(self.mesh.clusters), "pairs": len(pairs), "whole": whole, "arrow": arrow}
        pair = self.chosen["pair"]
        if not pair:
            return known
        client, server = pair.split(f" {ARROW} ")
        return known | {
            "links": links(self.cells, self.findings, client, server),
            "objects": objects(self.mesh, self.table, self.secrets, client, server),
            "lines": self.lines.get(pair, ()),
        }


def about(row: Row) -> list[str]:
    """Return the texts by which a log line is about a pair: the server's cluster id, its API server, its gateways."""
    texts = [row["server"], row["api_server"].removeprefix("https://"), *row["gateway"].split(",")]
    return [text for text in texts if text]
