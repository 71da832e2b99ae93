"""A reading: what all clusters were asked for at one moment, as typed items; DataFrames are made of them for people.

    secrets = remote_secrets.remote_secrets(mesh)
    secrets.of("east", "west")     # the items of one cluster, or of one cluster about another
    secrets.unknown("east")        # why a cluster, or one of its istiods, could not be read; empty if it could
    gateways.none_in("west")       # what says that a cluster was read, and has none
    secrets.frame()                # the DataFrame, with the columns of its table

Belongs here: what all readings have in common. Does not: any particular one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Generic, Protocol, Self, TypeVar

import pandas as pd

from meshkit.display import Shown
from meshkit.tables import Table, View


class OfCluster(Protocol):
    """What a reading consists of: items that say which cluster they were read in, and what they are about."""

    @property
    def cluster(self) -> str:
        """The cluster that it was read in."""

    @property
    def target(self) -> str:
        """The other cluster, or the network, that it is about, if any."""


T = TypeVar("T", bound=OfCluster)


@dataclass(frozen=True)
class Unread:
    """A cluster, or one of its istiods, proxies or sources, that could not be read, and why."""

    cluster: str
    reason: str
    istiod: str = ""
    revision: str = ""
    namespace: str = ""
    proxy: str = ""
    kind: str = ""
    source: str = ""


class Reading(Shown, Generic[T]):
    """Items in the order of their table, and what could not be read.

    In the frame that is a row with the reason in column `why`, and `UNKNOWN` in column `state` if there is one. The
    rows of `none` say that a cluster, or one of its istiods, was read and has no such item.
    """

    def __init__(
        self,
        table: Table,
        items: Iterable[T] = (),
        unread: Iterable[Unread] = (),
        none: Iterable[T] = (),
        *,
        state: str = "",
        why: str,
    ) -> None:
        texts = [name for name, dtype in table.dtypes.items() if dtype == "str"]
        self.table, self.state, self.why = table, state, why
        self.items = tuple(sorted(items, key=lambda item: [str(self._row(item).get(name, "")) for name in texts]))
        self.unread, self.none = tuple(unread), tuple(none)

    def __iter__(self) -> Iterator[T]:
        return iter(self.items)

    def of(self, cluster: str, target: str = "") -> list[T]:
        """Return the items of a cluster; with a target, those about that one."""
        return [item for item in self.items if item.cluster == cluster and target in ("", item.target)]

    def none_in(self, cluster: str) -> list[T]:
        """Return what says that a cluster, or one of its istiods, was read and has none."""
        return [one for one in self.none if one.cluster == cluster]

    def unread_in(self, cluster: str) -> list[Unread]:
        """Return what of a cluster could not be read: itself, or some of its istiods, proxies or sources."""
        return [one for one in self.unread if one.cluster == cluster]

    def unknown(self, cluster: str) -> str:
        """Return why a cluster, or one of its istiods, could not be read, or an empty text."""
        return next((one.reason or "it could not be read" for one in self.unread_in(cluster)), "")

    def lacks(self, cluster: str, target: str = "") -> bool:
        """Tell whether a cluster was read, and has none; with a target, none about that one."""
        return not self.of(cluster, target) and not self.unread_in(cluster)

    def with_items(self, items: Iterable[T]) -> Self:
        """Return a reading of the same table with other items."""
        return type(self)(self.table, items, self.unread, self.none, state=self.state, why=self.why)

    def frame(self) -> pd.DataFrame:
        """Return the items, and a row for each cluster or istiod that could not be read, as a DataFrame."""
        rows = [self._row(item) for item in (*self.items, *self.none)]
        state = {self.state: "UNKNOWN"} if self.state else {}
        unread = [{**vars(one), self.why: one.reason, **state} for one in self.unread]
        return self.table.frame([*rows, *unread])

    def _row(self, item: T) -> dict[str, Any]:
        # What could be read needs no reason.
        names = (name for name in self.table.columns if name != self.why or hasattr(item, name))
        return {name: cell(getattr(item, name)) for name in names}

    def view(self) -> View:
        """Return what shows it."""
        return self.table.view(self.frame())

    def bundle(self) -> dict[str, Any]:
        """Return its table for people, and as data."""
        return self.view().bundle()


def cell(value: Any) -> Any:
    """Return a field as its column has it: an enum by its value, several texts or labels with commas."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return ",".join(f"{key}={said}" for key, said in sorted(value.items()))
    return ",".join(map(str, value)) if isinstance(value, tuple) else value
