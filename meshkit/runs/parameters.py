"""The parameters of a notebook, read from its `parameters` cell without running it.

Papermill only warns about an unknown name and injects a wrong type; here both are errors before a kernel starts. Its
own `inspect_notebook` reads lines by a pattern and leaves out, without an error, what that does not match: a union, a
Literal, an `=` in the help.
"""

from __future__ import annotations

import ast
import difflib
import io
import tokenize
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meshkit.errors import InputError

_WORDS = {"True": True, "true": True, "False": False, "false": False, "None": None}


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One line of a parameters cell: `name: type = default  # help`."""

    name: str
    type: str
    default: Any
    help: str

    def accepts(self, value: Any) -> bool:
        """Return whether a value is of the declared type; without one, of the default's."""
        if not self.type:
            return self.default is None or _is(type(self.default).__name__, value)
        return _matches(ast.parse(self.type, mode="eval").body, value)

    def coerce(self, text: str) -> Any:
        """Return a command line's text as papermill's `-p` reads it, but keep it a text where one is declared.

        Raises:
            ValueError: it is not of the declared type.
        """
        for candidate in (_resolve(text), text, _literal(text)):
            if self.accepts(candidate):
                return candidate
        raise ValueError(f"expected {self.type or type(self.default).__name__}, got {text!r}")


def read(notebook: Path) -> list[Parameter]:
    """Return the parameters that a notebook declares; none if it has no such cell.

    Raises:
        InputError: the notebook cannot be read, or a line of the cell is not `name: type = literal`.
    """
    cells = open_notebook(notebook).cells
    source = next((c.source for c in cells if "parameters" in c.metadata.get("tags", [])), "")
    where = f"parameters cell of {notebook.name}"
    try:
        body = ast.parse(source).body
    except SyntaxError as error:
        raise InputError(f"line {error.lineno} is not Python", where=where) from None
    helps = {
        token.start[0]: token.string.lstrip("# ")
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    return [_parameter(node, helps, where) for node in body if not _is_docstring(node)]


def open_notebook(path: Path) -> Any:
    """Return a notebook in the newest format.

    Raises:
        InputError: there is none, or it is no notebook.
    """
    import nbformat

    try:
        return nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    except FileNotFoundError:
        raise InputError("no such notebook", where=path.name) from None
    except (nbformat.reader.NotJSONError, nbformat.ValidationError, UnicodeDecodeError, AttributeError):
        raise InputError("not a Jupyter notebook", where=path.name) from None


def assign(notebooks: Iterable[Path], given: Mapping[str, str]) -> dict[Path, dict[str, Any]]:
    """Return for each notebook those of the given `-p` texts that it declares, as values.

    Raises:
        InputError: no notebook knows a name (the message names the nearest and its notebook), or a type is wrong.
    """
    declared = {notebook: {p.name: p for p in read(notebook)} for notebook in notebooks}
    for name in given:
        if not any(name in known for known in declared.values()):
            raise InputError(f"no notebook of this run has a parameter {name!r}; {_nearest(name, declared)}")
    return {
        notebook: {name: _value(known[name], text, notebook) for name, text in given.items() if name in known}
        for notebook, known in declared.items()
    }


def _value(parameter: Parameter, text: str, notebook: Path) -> Any:
    try:
        return parameter.coerce(text)
    except ValueError as error:
        raise InputError(f"parameter {parameter.name} of {notebook.name}: {error}", remedy=parameter.help) from None


def _nearest(name: str, declared: Mapping[Path, Mapping[str, Parameter]]) -> str:
    owners = {known: notebook.name for notebook, names in declared.items() for known in names}
    nearest = difflib.get_close_matches(name, owners, n=1, cutoff=0.5)
    if nearest:
        return f"did you mean {nearest[0]!r} of {owners[nearest[0]]}?"
    return (
        "known are " + ", ".join(f"{known} ({owner})" for known, owner in owners.items())
        if owners
        else "there are none"
    )


def _parameter(node: ast.stmt, helps: Mapping[int, str], where: str) -> Parameter:
    match node:
        case ast.AnnAssign(target=ast.Name(id=name), annotation=annotation, value=ast.expr() as value):
            declared = str(annotation.value) if isinstance(annotation, ast.Constant) else ast.unparse(annotation)
        case ast.Assign(targets=[ast.Name(id=name)], value=value):
            declared = ""
        case _:
            raise InputError(f"line {node.lineno} is not `name: type = literal  # help`", where=where)
    try:
        default = ast.literal_eval(value)
    except ValueError:
        raise InputError(f"the default of {name} is not a literal", where=where) from None
    return Parameter(name=name, type=declared, default=default, help=helps.get(node.end_lineno or 0, ""))


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _matches(node: ast.expr, value: Any) -> bool:
    answer = True
    match node:
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            answer = _matches(left, value) or _matches(right, value)
        case ast.Constant(value=None):
            answer = value is None
        case ast.Subscript(value=ast.Name(id="Optional"), slice=inner):
            answer = value is None or _matches(inner, value)
        case ast.Subscript(value=ast.Name(id="Literal"), slice=inner):
            choices = inner.elts if isinstance(inner, ast.Tuple) else [inner]
            answer = any(value == ast.literal_eval(choice) for choice in choices)
        case ast.Subscript(value=ast.Name(id="list"), slice=inner):
            answer = isinstance(value, list) and all(_matches(inner, item) for item in value)
        case ast.Subscript(value=ast.Name(id=name)) | ast.Name(id=name):
            answer = _is(name, value)
    return answer


def _is(name: str, value: Any) -> bool:
    # A bool is an int to Python, but `-p samples True` is a slip; an int where a float is asked for is none.
    return name == type(value).__name__ or (name == "float" and type(value) is int) or name == "Any"


def _resolve(text: str) -> Any:
    if text in _WORDS:
        return _WORDS[text]
    readers: tuple[Callable[[str], Any], ...] = (int, float)
    for reader in readers:
        try:
            return reader(text)
        except ValueError:
            continue
    return text


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
