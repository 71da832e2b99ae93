"""Readings as JSON, and back by the types that `Snapshot` declares: nothing else is ever created from a file.

A frame is its columns, by the `Table` of its reading; a `Reading` its items. A dataclass has its name, which decides
between the types of a union: `{"$": "Unknown", "reason": "no answer"}`.
"""

from __future__ import annotations

import functools
import math
import types
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from datetime import datetime
from enum import Enum
from typing import Any, Final, Union, get_args, get_origin, get_type_hints

import pandas as pd

from meshkit.istio.reading import Reading, Unread
from meshkit.tables import Table

NAME: Final = "$"
_OBJECT: Final = "object"
_PARTS: Final = ("items", "unread", "none")
_KINDS: Final[dict[str, Any]] = {"str": str, "int64": int, "Int64": int, "float64": int | float, "bool": bool}


class WrongDocument(Exception):  # noqa: N818  (it is about a document, and becomes an InputError)
    """A document that is no reading of its type: the path of the field, and what is wrong there."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path}: {problem}")
        self.path, self.problem = path, problem


@functools.singledispatch
def encode(value: Any) -> Any:
    """Return a value as JSON-like data.

    Raises:
        TypeError: no document has such a value.
    """
    if value is None or isinstance(value, str | int):
        return value
    if not is_dataclass(value) or isinstance(value, type):
        raise TypeError(f"a snapshot cannot keep a {type(value).__name__}")
    return {NAME: type(value).__name__, **{f.name: encode(getattr(value, f.name)) for f in fields(value) if f.init}}


@encode.register
def _(value: pd.DataFrame) -> Any:
    return {"columns": {str(name): _column(value[name]) for name in value.columns}}


@encode.register(Reading)
def _(value: Reading[Any]) -> Any:
    return {**{part: encode(getattr(value, part)) for part in _PARTS}, "state": value.state, "why": value.why}


@encode.register
def _(value: Enum) -> Any:
    return value.value


@encode.register
def _(value: datetime) -> Any:
    return value.isoformat()


@encode.register
def _(value: float) -> Any:
    return None if math.isnan(value) else value


@encode.register(Mapping)
def _(value: Mapping[Any, Any]) -> Any:
    plain = {str(key): encode(one) for key, one in value.items()}
    return {NAME: _OBJECT, "fields": plain} if NAME in plain else plain


@encode.register(tuple)
@encode.register(list)
def _(value: Sequence[Any]) -> Any:
    return [encode(one) for one in value]


@encode.register(frozenset)
def _(value: frozenset[Any]) -> Any:
    return sorted(encode(one) for one in value)


def _column(column: pd.Series[Any]) -> list[Any]:
    if str(column.dtype).startswith("datetime64"):
        return [None if pd.isna(one) else one.isoformat() for one in column]
    return [None if pd.isna(one) else one for one in column.astype("object")]


def decode(document: Any, hint: Any, table: Table | None, path: str) -> Any:
    """Return the value of a type that a document stands for.

    Args:
        document: JSON-like data.
        hint: the type.
        table: the schema of a frame or a `Reading`.
        path: names the document in errors.

    Raises:
        WrongDocument: it is of another type.
    """
    if hint is pd.DataFrame and table:
        return _frame(document, table, path)
    if get_origin(hint) is Reading and table:
        return _reading(document, get_args(hint)[0], table, path)
    return _value(document, hint, path)


def _frame(document: Any, table: Table, path: str) -> pd.DataFrame:
    held = _typed(_fields(document, {"columns"}, path)["columns"], dict, f"{path}.columns")
    later = {name for name in table.dtypes if _may_be_later(table, name) and name not in held}
    known = _fields(held, {*table.columns} - later, f"{path}.columns")
    dtypes = {name: dtype for name, dtype in table.dtypes.items() if name not in later}
    columns = {name: _cells(known[name], dtype, f"{path}.columns.{name}") for name, dtype in dtypes.items()}
    columns |= dict.fromkeys(later, [""] * len(next(iter(columns.values()), [])))
    if len({len(values) for values in columns.values()}) > 1:
        raise WrongDocument(f"{path}.columns", "the columns have different lengths")
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    try:
        return table.frame(rows, in_order=True)
    except (TypeError, ValueError, OverflowError) as error:
        raise WrongDocument(path, f"no table {table.name}: {error}") from None


def _may_be_later(table: Table, name: str) -> bool:
    """Return whether a file of an older meshkit may lack a column: a text that was added, and decides nothing alone."""
    return table.dtypes[name] == "str" and name not in (*table.key, "reason")


def _cells(document: Any, dtype: str, path: str) -> list[Any]:
    cells = []
    for number, value in enumerate(_typed(document, list, path)):
        try:
            cells.append(_cell(value, dtype))
        except (TypeError, ValueError):
            raise WrongDocument(f"{path}[{number}]", f"expected {dtype}, got {value!r}") from None
    return cells


def _cell(value: Any, dtype: str) -> Any:
    """Return a cell of a column; nothing is converted but moments, which JSON does not have.

    Raises:
        TypeError: it is of another type.
        ValueError: it is no moment.
    """
    moment = dtype.startswith("datetime64")
    kind = str if moment else _KINDS[dtype]
    missing = value is None and (moment or dtype in ("Int64", "float64"))
    if not missing and (not isinstance(value, kind) or isinstance(value, bool) != (dtype == "bool")):
        raise TypeError
    # Not by pandas: it would take "soon" to a parser that guesses, and refuse moments of different precision.
    return pd.Timestamp(datetime.fromisoformat(value) and value) if moment and not missing else value


def _reading(document: Any, item: Any, table: Table, path: str) -> Reading[Any]:
    known = _fields(document, {*_PARTS, "state", "why"}, path)
    for name in ("state", "why"):
        if known[name] not in ("", *table.columns):
            raise WrongDocument(f"{path}.{name}", f"no column {known[name]!r} in table {table.name}")
    hints = (tuple[item, ...], tuple[Unread, ...], tuple[item, ...])
    parts = (_value(known[part], hint, f"{path}.{part}") for part, hint in zip(_PARTS, hints, strict=True))
    try:
        return Reading(table, *parts, state=known["state"], why=known["why"])
    except AttributeError as error:
        raise WrongDocument(path, str(error)) from None


def _value(document: Any, hint: Any, path: str) -> Any:
    if hint is Any:
        return _plain(document)
    if (origin := get_origin(hint)) is not None:
        return _generic(document, origin, get_args(hint), path)
    if is_dataclass(hint):
        return _dataclass(document, hint, path)
    if issubclass(hint, Enum | datetime):
        return _named(document, hint, path)
    if hint is float and document is None:
        return math.nan
    return _typed(document, int | float if hint is float else hint, path)


def _generic(document: Any, origin: Any, arguments: tuple[Any, ...], path: str) -> Any:
    if origin in (Union, types.UnionType):
        return _union(document, arguments, path)
    if not issubclass(origin, Mapping):
        return _several(document, origin, arguments, path)
    known = _unwrapped(document, path)
    return {_value(k, arguments[0], path): _value(v, arguments[1], f"{path}.{k}") for k, v in known.items()}


def _named(document: Any, kind: Any, path: str) -> Any:
    try:
        return kind(document) if issubclass(kind, Enum) else datetime.fromisoformat(_typed(document, str, path))
    except ValueError:
        raise WrongDocument(path, f"expected a {kind.__name__}, got {document!r}") from None


def _union(document: Any, hints: tuple[Any, ...], path: str) -> Any:
    if isinstance(document, dict) and NAME in document:
        named = [hint for hint in hints if getattr(hint, "__name__", "") == document[NAME]]
        if named:
            return _value(document, named[0], path)
    for hint in hints:
        try:
            return _value(document, hint, path)
        except WrongDocument:
            continue
    names = " or ".join(getattr(hint, "__name__", str(hint)) for hint in hints)
    raise WrongDocument(path, f"expected {names}")


def _several(document: Any, origin: Any, hints: tuple[Any, ...], path: str) -> Any:
    values = _typed(document, list, path)
    if origin is tuple and hints[-1] is not Ellipsis:
        if len(values) != len(hints):
            raise WrongDocument(path, f"expected {len(hints)} values, got {len(values)}")
        return tuple(_value(v, h, f"{path}[{n}]") for n, (v, h) in enumerate(zip(values, hints, strict=True)))
    return origin(_value(value, hints[0], f"{path}[{number}]") for number, value in enumerate(values))


def _dataclass(document: Any, kind: Any, path: str) -> Any:
    known = _typed(document, dict, path)
    if known.get(NAME) != kind.__name__:
        raise WrongDocument(path, f"expected a {kind.__name__}, got {known.get(NAME)!r}")
    own = {f.name: f for f in fields(kind) if f.init}
    lacking = {n for n, f in own.items() if n not in known and f.default is MISSING and f.default_factory is MISSING}
    if wrong := sorted(lacking | (known.keys() - own.keys() - {NAME})):
        raise WrongDocument(f"{path}.{wrong[0]}", "missing" if wrong[0] in lacking else f"no field of {kind.__name__}")
    hints = _hints(kind)
    return kind(**{n: _value(v, hints[n], f"{path}.{n}") for n, v in known.items() if n != NAME})


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def _plain(document: Any) -> Any:
    if isinstance(document, dict):
        return {key: _plain(value) for key, value in _unwrapped(document, "").items()}
    return [_plain(value) for value in document] if isinstance(document, list) else document


def _unwrapped(document: Any, path: str) -> dict[str, Any]:
    known: dict[str, Any] = _typed(document, dict, path)
    if NAME not in known:
        return known
    if known[NAME] != _OBJECT:
        raise WrongDocument(path, f"expected an object, got a {known[NAME]!r}")
    inner: dict[str, Any] = _typed(known.get("fields"), dict, f"{path}.fields")
    return inner


def _fields(document: Any, names: set[str], path: str) -> dict[str, Any]:
    known: dict[str, Any] = _typed(document, dict, path)
    if wrong := sorted(names ^ known.keys()):
        raise WrongDocument(f"{path}.{wrong[0]}", "missing" if wrong[0] in names else "no such field")
    return known


def _typed(document: Any, kind: Any, path: str) -> Any:
    if not isinstance(document, kind) or (isinstance(document, bool) and kind is not bool):
        name = getattr(kind, "__name__", str(kind))
        raise WrongDocument(path, f"expected a {name}, got a {type(document).__name__}")
    return document
