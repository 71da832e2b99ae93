"""Why a row of a gateway table could not be read."""

from __future__ import annotations

import pandas as pd

from meshkit.tables import Row


def read_error(gateways: pd.DataFrame, name: str) -> str:
    """Return why a cluster could not be read for `gateways.gateways`, or nothing if it was."""
    rows = gateways[(gateways["cluster"] == name) & (gateways["service"] == "")]
    return next((str(reason) for reason in rows["reason"] if not reason.startswith("no Service")), "")


def istiod_error(row: Row) -> str:
    """Return why an istiod could not be asked for a row of `gateways.gateways_seen`, or nothing if it was."""
    return "" if row["reason"].startswith("it knows") else str(row["reason"])
