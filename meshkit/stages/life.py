"""How long the credentials in remote secrets last (stages 07 and 08)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from meshkit.checks import Finding, Verdict
from meshkit.stages.finding import Question, Row, arrow

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd

    from meshkit.mesh import Mesh


def usable(mesh: Mesh, secrets: pd.DataFrame) -> pd.Series[bool]:
    """Return which remote secrets istiod sees: those that are labelled, in its own namespace."""
    return secrets["labelled"] & (secrets["namespace"] == mesh.root_namespace)


def ends_soon(mesh: Mesh, row: Row) -> bool:
    """Tell whether the credential of a row of `remotes.remote_secrets` is to be replaced, or has ended.

    Within `remoteSecrets.renewBefore`, or half of its life where the API server granted less than that.
    """
    if row["ends"] in ("", "never"):
        return False
    margin = timedelta(seconds=mesh.spec.remote_secrets.renew_before)
    # Without the moment of issue the comparison is false, as of every moment that is not known.
    half = (row["expires"] - row["issued"]) / 2
    return bool(row["expires"] - datetime.now(UTC) <= min(margin, half))


def check_life(
    mesh: Mesh, secrets: pd.DataFrame, reader: str, target: str, *, renewed: bool = False
) -> Iterator[Finding]:
    """MK809: the credential in the reader's secret lasts: it never ends, or not soon.

    What this very run is to renew is a warning at most.
    """
    hours = mesh.spec.remote_secrets.renew_before / 3600
    ask = Question("MK809", "credential lasts", arrow(reader, target), f"no end, or more than {hours:g} h left")
    rows = secrets[(secrets["cluster"] == reader) & (secrets["key"] == target)]
    for row in rows[usable(mesh, rows)].to_dict("records"):
        if row["auth"] != "token":
            continue
        if not row["ends"]:
            yield ask.unknown("its token does not say when it ends", "it is none that Kubernetes issued")
            continue
        never = row["ends"] == "never"
        over = not never and row["expires"] < datetime.now(UTC)
        told = "it never ends" if never else f"it {'ended' if over else 'ends'} {row['ends']}"
        told += "; this run renews it" if renewed else ""
        cure = "run stage 07: it makes a new one, hands it over, and revokes the old one"
        worse = Verdict.FAIL if over and not renewed else Verdict.WARN
        yield ask.judge(not ends_soon(mesh, row), told, cure, otherwise=worse)
