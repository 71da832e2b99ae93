"""No key, token or password is kept: readings are searched, and what is found is replaced before they are kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from enum import Enum
from typing import Any, Final, TypeVar, cast

import pandas as pd

from meshkit import redaction
from meshkit.istio.reading import Reading
from meshkit.spec import MeshSpec

T = TypeVar("T")


@dataclass(frozen=True)
class LeftOut:
    """What a snapshot does not have: in which reading, cluster and field, what stands there instead, and why."""

    reading: str
    cluster: str
    field: str
    instead: str
    why: str


NEVER_KEPT: Final = (
    LeftOut("authorities", "", "cacerts, istio-ca-secret: keys", "SHA-256 of certificates", "private keys"),
    LeftOut("remote_secrets", "", "kubeconfigs: tokens, client keys", "what came of trying them", "credentials"),
    LeftOut("readers", "", "tokens of reader accounts", "name of the Secret, and when it ends", "credentials"),
    LeftOut("certificates", "", "certificates of proxies", "SHA-256, issuer and dates", "not needed whole"),
)
"""What readings see and never return."""


def without_secrets(reading: str, value: T, spec: MeshSpec) -> tuple[T, list[LeftOut]]:
    """Return a reading without secrets, and what was left out of it."""
    walk = _Walk(reading, [entry.name for entry in spec.clusters])
    return cast("T", walk.value(value, "", "")), walk.left_out


class _Walk:
    def __init__(self, reading: str, clusters: list[str]) -> None:
        self.reading, self.clusters = reading, clusters
        self.left_out: list[LeftOut] = []

    def value(self, value: Any, cluster: str, at: str) -> Any:
        if isinstance(value, pd.DataFrame):
            return self._frame(value)
        if isinstance(value, Reading):
            parts = ([self.value(one, "", "") for one in part] for part in (value.items, value.unread, value.none))
            return Reading(value.table, *parts, state=value.state, why=value.why)
        if is_dataclass(value) and not isinstance(value, type):
            own = str(getattr(value, "cluster", "") or cluster)
            return replace(value, **{f.name: self.value(getattr(value, f.name), own, f.name) for f in fields(value)})
        if isinstance(value, tuple):
            return tuple(self.value(one, cluster, at) for one in value)
        if isinstance(value, Mapping) and value.keys() <= {*self.clusters}:
            return {name: self.value(one, name, at) for name, one in value.items()}
        return value if isinstance(value, Enum) else self._plain(value, cluster, at)

    def _plain(self, value: Any, cluster: str, at: str) -> Any:
        found = redaction.Found()
        stripped = redaction.text(value, found, at) if isinstance(value, str) else redaction.strip(value, found, at)
        self.left_out += [
            LeftOut(self.reading, cluster, path or at, instead, kind) for kind, instead, path in found.items
        ]
        return type(value)(stripped) if isinstance(value, frozenset) else stripped

    def _frame(self, frame: pd.DataFrame) -> pd.DataFrame:
        own = next((column for column in ("cluster", "client") if column in frame), "")
        for column in frame.columns[frame.dtypes == "str"]:
            texts = set(frame[column])
            stripped = {text: redaction.text(text) for text in texts}
            if changed := {text: new for text, new in stripped.items() if text != new}:
                for row in frame[frame[column].isin(list(changed))].to_dict("records"):
                    self._plain(row[column], str(row[own]) if own else "", str(column))
                frame = frame.assign(**{str(column): frame[column].replace(changed).astype("str")})
        return frame
