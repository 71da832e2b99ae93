"""Tables of an earlier run, for comparison with the present."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd

from meshkit.errors import InputError
from meshkit.istio.proxies.proxy_status import PROXY_STATUS
from meshkit.snapshot.file import is_snapshot
from meshkit.snapshot.snapshot import Snapshot

REMEDY = "name a run folder with stage 09, a snapshot, or what `meshkit proxies -o csv` or `-o json` printed"


def proxy_status(source: Path) -> tuple[pd.DataFrame, datetime | None]:
    """Return the `proxy_status` of an earlier run and when that run began, where its folder tells.

    Args:
        source: a run folder in which stage 09 ran, a snapshot, or a file that `meshkit proxies -o csv` or `-o json` was
            written to.

    Raises:
        InputError: there is no such thing, or it is no table of proxies.
    """
    if source.is_file() and is_snapshot(source):
        snapshot = Snapshot.load(source)
        return snapshot.proxy_status, snapshot.taken
    path = source / "tables" / "proxy-status.csv" if source.is_dir() else source
    try:
        text = path.read_text()
        raw = (
            pd.DataFrame(json.loads(text))
            if text.lstrip().startswith("[")
            else pd.read_csv(path, dtype=str, na_filter=False)
        )
    except OSError as error:
        raise InputError(f"no earlier proxy status: {error.strerror}", where=str(path), remedy=REMEDY) from None
    except ValueError:
        raise InputError("this is neither CSV nor JSON of proxies", where=str(path), remedy=REMEDY) from None
    lacking = [name for name in PROXY_STATUS.columns if name not in raw]
    if lacking and len(raw.columns):
        raise InputError(f"this table has no {', '.join(lacking)}", where=str(path), remedy=REMEDY)
    raw["age_s"] = pd.to_numeric(raw["age_s"])
    moment = re.match(r"\d{8}T\d{6}Z", source.resolve().name)
    began = datetime.strptime(moment[0], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC) if moment else None
    return PROXY_STATUS.frame({str(k): v for k, v in row.items()} for row in raw.to_dict("records")), began
