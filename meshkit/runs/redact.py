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

_QUOTE = r"""(?:\\*["']|&quot;|&\#x27;|&\#39;)"""
_GAP = r"(?:\s|\\+[nr])"
_LABEL = "[A-Z0-9 ]*PRIVATE KEY"
_PATTERNS = {
    "private key": re.compile(
        rf"-----BEGIN {_LABEL}-----(?:.*?-----END {_LABEL}-----|(?:[A-Za-z0-9+/=]|{_GAP})*)", re.DOTALL
    ),
    "JSON web token": re.compile(r"eyJ[\w-]{8,}\.eyJ[\w-]{8,}(?:\.[\w-]*)?"),
    "bearer token": re.compile(r"(?i)(?P<keep>\bbearer\s+)(?=[^\s\d]*\d)[\w.~+/=-]{20,}"),
    "kubeconfig credential": re.compile(
        rf"""(?imx)(?P<keep>(?:^|[{{,\[]|\\n|<t[dh][^>]*>)(?:[\s-]|{_QUOTE})*
        (?:client-key-data|client-secret|password|(?:id-|access-|refresh-)?token){_QUOTE}?
        (?:[ \t]*:[ \t]*{_QUOTE}?|[ \t]*=[ \t]*{_QUOTE}))(?!\[redacted)[^\s"',}}\\&<]{{6,}}(?=\s*(?:$|["',}}\\&<]))"""
    ),
}
_BASE64 = re.compile(rf"(?:[A-Za-z0-9+/]{{40,}}{_GAP}*)+[A-Za-z0-9+/]*={{0,2}}")


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
        text = self._scrub(text, lambda kind: f"[redacted {kind}]")
        for path, short in self._paths:
            text = path.sub(short, text)
        return text

    def kinds(self, text: str) -> list[str]:
        """Return the kinds of secrets in a text."""
        found: list[str] = []
        self._scrub(text, lambda kind: found.append(kind) or "")  # type: ignore[func-returns-value]
        return sorted(set(found))

    def walk(self, node: Any) -> Any:
        """Return JSON-like data with every text in it redacted, pictures left alone."""
        if isinstance(node, str):
            return self.text(node)
        if isinstance(node, list):
            return [self.walk(item) for item in node]
        if isinstance(node, dict):
            return {self.text(k): v if k.startswith("image/") else self.walk(v) for k, v in node.items()}
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
        for kind, pattern in _PATTERNS.items():
            text = pattern.sub(lambda m, kind=kind: (m.groupdict().get("keep") or "") + mark(kind), text)  # type: ignore[misc]
        return _BASE64.sub(lambda m: mark("encoded credential") if self._hides(m[0]) else m[0], text)

    def _hides(self, run: str) -> bool:
        packed = re.sub(_GAP, "", run)
        for shift in range(4):  # the run may begin with letters that are not part of it, as in `…/LS0t`
            piece = packed[shift:].rstrip("=")
            decoded = base64.b64decode(piece[: len(piece) // 4 * 4]).decode("latin-1")
            if any(p.search(decoded) for p in _PATTERNS.values()) or any(s in decoded for s in self._secrets):
                return True
        return False


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
