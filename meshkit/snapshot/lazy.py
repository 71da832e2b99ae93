"""A reading of a snapshot: a property that is asked at most once, however many threads want it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, get_type_hints, overload

from meshkit.tables import Table

if TYPE_CHECKING:
    from meshkit.snapshot.snapshot import Snapshot

T = TypeVar("T")


class Lazy(Generic[T]):
    """A value of a snapshot. With `kept` it is part of its file; `table` is the schema of a frame or a `Reading`."""

    def __init__(self, ask: Callable[[Any], T], table: Table | None, *, kept: bool, tried: bool) -> None:
        self.ask, self.table, self.kept, self.tried = ask, table, kept, tried
        self.name, self.__doc__ = ask.__name__, ask.__doc__

    @property
    def hint(self) -> Any:
        """The type of its value."""
        return get_type_hints(self.ask)["return"]

    @overload
    def __get__(self, snapshot: None, owner: type) -> Self: ...
    @overload
    def __get__(self, snapshot: Snapshot, owner: type) -> T: ...
    def __get__(self, snapshot: Snapshot | None, owner: type) -> T | Self:
        """Return the value; ask for it at the first time."""
        return self if snapshot is None else snapshot.answer(self)


def reading(table: Table | None = None, *, tried: bool = False) -> Callable[[Callable[[Any], T]], Lazy[T]]:
    """Declare a reading. One that is `tried` changes something for a while, and is made only on request."""
    return lambda ask: Lazy(ask, table, kept=True, tried=tried)


def derived(ask: Callable[[Any], T]) -> Lazy[T]:
    """Declare a value that several readings need, or that is made of readings: not part of the file."""
    return Lazy(ask, None, kept=False, tried=False)
