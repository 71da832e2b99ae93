"""Keep secrets out of the evidence: redact what is written, then scan the written files.

Private keys, JSON web tokens, bearer tokens and kubeconfig credentials are recognized by their form, also
base64-encoded in other data (a Secret). Certificates are public and stay. Paths of this machine become relative, since
home and working folders do not belong in a change record.
"""

from __future__ import annotations

import base64
import html
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meshkit.redaction import BASE64, PATTERNS, holds_secret


@dataclass(frozen=True)
class Hit:
    """A secret found in a written file: its kind, never its value."""

    file: str
    kind: str


class Redactor:
    """Removes secrets and this machine's paths from texts and notebooks."""

    def __init__(self, secrets: Iterable[str] = (), paths: Mapping[str, str] | None = None) -> None:
        variants = {variant for secret in secrets if len(secret) >= 6 for variant in _variants(secret)}
        self._secrets = sorted(variants, key=len, reverse=True)
        known = own_paths() if paths is None else paths
        self._paths = [
            (re.compile(rf"(?<![\w.~-]){re.escape(path)}(?![\w.-])"), short)
            for path, short in sorted(known.items(), key=lambda item: -len(item[0]))
        ]

    def text(self, text: str) -> str:
        """Return a text without its secrets and with relative paths."""
        text = self._without_secrets(text)
        for path, short in self._paths:
            text = path.sub(short, text)
        return text

    def _without_secrets(self, text: str) -> str:
        return self._scrub(text, lambda kind: f"[redacted {kind}]")

    def kinds(self, text: str) -> list[str]:
        """Return the kinds of secrets in a text."""
        found: list[str] = []
        self._scrub(text, lambda kind: found.append(kind) or "")  # type: ignore[func-returns-value]
        return sorted(set(found))

    def walk(self, node: Any, change: Callable[[str], str] | None = None) -> Any:
        """Return JSON-like data with every text in it redacted, pictures left alone.

        Paths in a `manifest` are those of containers: a shortened one would make it another object.
        """
        change = change or self.text
        if isinstance(node, str):
            return change(node)
        if isinstance(node, list):
            return [self.walk(item, change) for item in node]
        if isinstance(node, dict):
            inner = {"manifest": self._without_secrets}
            return {
                change(k): v if k.startswith("image/") else self.walk(v, inner.get(k, change)) for k, v in node.items()
            }
        return node

    def notebook(self, nb: Any) -> None:
        """Redact a notebook in place."""
        for cell in nb.cells:
            cell.source = self.text(cell.source)
            if cell.cell_type == "code":
                _join_streams(cell)
                for output in cell.outputs:
                    output.update({key: self.walk(value) for key, value in output.items() if key != "output_type"})
        for part in ("papermill", "widgets", "meshkit"):
            if part in nb.metadata:
                nb.metadata[part] = self.walk(nb.metadata[part])

    def _scrub(self, text: str, mark: Callable[[str], str]) -> str:
        for secret in self._secrets:
            if secret in text:
                text = text.replace(secret, mark("known secret"))
        for kind, pattern in PATTERNS.items():
            text = pattern.sub(lambda m, kind=kind: (m.groupdict().get("keep") or "") + mark(kind), text)  # type: ignore[misc]
        return BASE64.sub(lambda m: mark("encoded credential") if holds_secret(m[0], self._known) else m[0], text)

    def _known(self, text: str) -> bool:
        return any(secret in text for secret in self._secrets)


def redact(text: str) -> str:
    """Return a text without private keys, tokens and kubeconfig credentials; its paths stay."""
    return Redactor(paths={}).text(text)


def scan(folder: Path, secrets: Iterable[str] = ()) -> list[Hit]:
    """Scan every file of a folder for secrets."""
    redactor = Redactor(secrets, paths={})
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [
        Hit(file=path.relative_to(folder).as_posix(), kind=kind)
        for path in files
        for kind in redactor.kinds(path.read_bytes().decode("utf-8", "replace"))
    ]


def own_paths() -> dict[str, str]:
    """Return the folders of this machine and user that evidence must not name, with their replacements."""
    package = str(Path(__file__).parents[2])
    known = {sys.prefix: "<python>", sys.base_prefix: "<python>", package: "<meshkit>", str(Path.cwd()): "."}
    home = os.path.expanduser("~")  # noqa: PTH111  (Path.home raises where there is none)
    return {path: short for path, short in {home: "~", **known}.items() if path.startswith("/") and len(path) > 2}


def _variants(secret: str) -> set[str]:
    quoted = json.dumps(secret)[1:-1]
    return {secret, html.escape(secret), quoted, base64.b64encode(secret.encode()).decode()}


def _join_streams(cell: Any) -> None:
    # A key printed line by line arrives as many messages; only joined does it look like a key.
    joined: list[Any] = []
    for output in cell.outputs:
        same = next((o for o in joined if o.output_type == "stream" and o.name == output.get("name")), None)
        if output.output_type == "stream" and same:
            same.text += output.text
        else:
            joined.append(output)
    cell.outputs = joined
