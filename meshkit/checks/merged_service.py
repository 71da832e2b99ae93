"""The probe's Service as each cluster's client sees it once clusters have found each other: endpoints, and calls."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from meshkit.checks.causes import SILENT
from meshkit.checks.finding import Finding, Verdict
from meshkit.checks.question import Question, arrow
from meshkit.kube.mesh import Mesh
from meshkit.tables import Row


def check(mesh: Mesh, table: pd.DataFrame) -> Iterator[Finding]:
    """Judge what `look` read, and name the objects at fault: MK711 for each pair, MK712 for each cluster."""
    for row in table.to_dict("records"):
        for target in mesh.clusters:
            if target != row["cluster"]:
                yield check_endpoints(mesh, row, target)
        yield check_calls(row)


def questions(mesh: Mesh) -> list[Question]:
    """Return the findings of `check` for a plan that was not applied."""
    return [_of_endpoints(mesh, reader, target) for reader, target in mesh.ordered_pairs] + [
        _of_calls(n) for n in mesh.clusters
    ]


def _of_endpoints(mesh: Mesh, reader: str, target: str) -> Question:
    apart = mesh.spec.crosses(reader, target)
    expected = f"the gateway of {target}, and no pod of another network" if apart else f"pods of {target}"
    return Question("MK711", "clients have the other cluster's endpoints", arrow(reader, target), expected)


def check_endpoints(mesh: Mesh, row: Row, target: str) -> Finding:
    """MK711: the client's Envoy has the target's gateway (or pods, in a flat network) for the probe's Service."""
    ask = _of_endpoints(mesh, row["cluster"], target)
    if row["reason"]:
        return ask.unknown(row["reason"], "stage 08 needs the probe's client and server in every cluster too")
    if unread := next((told for told in row["unread"].split("; ") if told.startswith(f"{target}: ")), ""):
        return ask.unknown(unread)
    if target not in row["serving"].split(","):
        return ask.unknown(
            f"{target} has no ready pod of {row['service']}", "deploy it there, or name yours in `probe:`"
        )
    if row["strange"]:
        return ask.fail(row["endpoints"], _stranger(row, target))
    there = target in row["leads_to"].split(",")
    remedy = _cause(row["hidden_by"], target) or "no object hides them: see MK804, MK806"
    return ask.judge(there, row["endpoints"] or "no endpoint", remedy)


def _stranger(row: Row, target: str) -> str:
    """Return what put addresses of no cluster and no gateway there: a ServiceEntry that names one, else networks."""
    addresses = [address.rpartition(":")[0] for address in row["strange"].split(",")]
    entries = [one for one in row["refused_by"].split("; ") if any(address in one for address in addresses)]
    return _cause("; ".join(entries), target) or (
        f"{row['strange']}: an address of another network's pod? which proxy, pod or gateway lacks its network? see "
        "MK703, MK806"
    )


def _cause(objects: str, *targets: str, command: bool = True) -> str:
    """Return those of a row's objects (`west: …; …`) that are about one of some clusters, as a remedy."""
    found = [one for one in objects.split("; ") if one.partition(": ")[0] in targets]
    more = "`meshkit check` has the command (MK728)" if command else "stage 08 tries each pair alone"
    return f"{'; '.join(found)}. {more}" if found else ""


def _of_calls(name: str) -> Question:
    return Question("MK712", "every serving cluster answers calls", name, "all 200, from every cluster that serves")


def check_calls(row: Row) -> Finding:
    """MK712: calls to the merged Service succeed, and each cluster that serves it answered some."""
    ask = _of_calls(row["cluster"])
    if row["reason"]:
        return ask.unknown(row["reason"])
    observed = f"{row['answered']} of {row['sent']} from {row['answered_in'] or 'nobody'}"
    if row["answered"] != row["sent"]:
        cause = _cause(row["refused_by"], *row["serving"].split(",")) or _cause(
            row["hidden_by"], *row["serving"].split(",")
        )
        return ask.fail(f"{observed}: {row['error'] or 'curl could not send'}", cause or "which pair? run stage 08")
    if row["unread"]:
        return ask.unknown(f"{observed}; who serves is not known, {row['unread']}")
    missing = sorted(set(row["serving"].split(",")) - set(row["answered_in"].split(",")))
    remedy = _cause(row["hidden_by"], *missing) or _cause(row["refused_by"], *missing)
    remedy = remedy or _cause(row["preferred_by"], *missing, command=False)
    remedy = remedy or "no object that was read keeps calls at home; stage 08 tries each pair alone"
    observed += f", {SILENT}{', '.join(missing)}" if missing else ""
    return ask.judge(not missing, observed, remedy, otherwise=Verdict.WARN)
