"""Secrets in texts and objects, recognized by their form or by the name of the field that holds them.

    text("curl https://me:hunter2@host")           # "curl https://[password]@host"
    strip(document)                                # an object without secrets, and what was left out

Keys and tokens are replaced by `[kind sha256:12 digits]`, so that two readings can tell whether they are the same.
Passwords are replaced by `[kind]` alone: they are short, and could be guessed from a fingerprint.

Belongs here: what a secret looks like. Does not: where texts come from, and paths of this machine.
"""

from __future__ import annotations

import base64
import functools
import gzip
import hashlib
import json
import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import yaml

_QUOTE = r"""(?:\\*["']|&quot;|&\#x27;|&\#39;)"""
GAP: Final = r"(?:\s|\\+[nr])"
_LABEL = "[A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?"
PATTERNS: Final = {
    "private key": re.compile(
        rf"-----BEGIN {_LABEL}-----(?:.*?-----END {_LABEL}-----|(?:[A-Za-z0-9+/=]|{GAP})*)", re.DOTALL
    ),
    "JSON web token": re.compile(r"eyJ[\w-]{8,}\.eyJ[\w-]{8,}(?:\.[\w-]*)?"),
    "bearer token": re.compile(r"(?i)(?P<keep>\bbearer\s+)(?=[^\s\d]*\d)[\w.~+/=-]{20,}"),
    "kubeconfig credential": re.compile(
        rf"""(?imx)(?P<keep>(?:^|[{{,\[]|\\n|<t[dh][^>]*>)(?:[\s-]|{_QUOTE})*
        (?:client-key-data|client-secret|password|(?:id-|access-|refresh-)?token){_QUOTE}?
        (?:[ \t]*:[ \t]*{_QUOTE}?|[ \t]*=[ \t]*{_QUOTE}))(?!\[redacted)[^\s"',}}\\&<]{{6,}}(?=\s*(?:$|["',}}\\&<]))"""
    ),
}
"""Secrets by their form; `keep` stays. Evidence is written, and scanned, by these alone."""
BASE64: Final = re.compile(rf"(?:[A-Za-z0-9+/]{{40,}}{GAP}*)+[A-Za-z0-9+/]*={{0,2}}")

_NAME = (
    r"(?:pass(?:word|wd|phrase|code)|(?<![a-z])pass|pwd|secrets?|token|api[-_.]?key|access[-_.]?key(?:[-_.]?id)?|"
    r"private[-_.]?key|secret[-_.]?key|client[-_.]?key|key-data|credentials?|authorization|cookie|"
    r"(?<![a-z])auth)"
)
_VALUE = r"""(?!\[)(?:"[^"\n]+"|'[^'\n]+'|[^\s"',;&}\]]+)"""
_END = r"(?![\w.-]*(?:name|file|path|dir|ref|env|namespace)s?\b)"
STRICT: Final = {
    "access key": re.compile(
        r"\b(?:(?:AKIA|ASIA)[A-Z0-9]{16}|gh[pousr]_\w{20,}|github_pat_\w{20,}|glpat-[\w-]{20,}|xox[abprs]-[\w-]{10,}|"
        r"AIza[\w-]{35}|[sr]k_live_\w{16,}|npm_\w{36})"
    ),
    "password in a URL": re.compile(
        r"""(?P<keep>\b[A-Za-z][\w+.-]*://)(?!\[)(?:(?![^\s/@:"'<>]*:\d{1,5}/)[^\s/@:"'<>]*:[^\s"'<>]*|"""
        r"""[^\s/@"'<>]+)(?=@)"""
    ),
    "authorization": re.compile(
        r"""(?i)(?P<keep>(?:proxy-)?authorization\\*["']?\s*[:=]\s*\\*["']?)(?!\[)[^"'\n\r\\\[]{4,}"""
    ),
    "basic credential": re.compile(
        r"(?P<keep>\b[Bb](?:asic|ASIC)\s+)(?=[A-Za-z0-9+/_-]*(?:=|\d|[A-Z]))[A-Za-z0-9+/_-]{8,}={0,2}"
    ),
    "credential in the environment": re.compile(
        rf"""(?imx)(?P<keep>name\\*["']?\s*[:=]\s*\\*["']?[\w.-]*{_NAME}[\w.-]*\\*["']?\s*[,\n]\s*(?:-\s*)?\\*["']?
        value\\*["']?\s*[:=]\s*\\*)(?!\[){_VALUE}"""
    ),
    "flag": re.compile(rf"""(?i)(?P<keep>(?<![\w-])--?[\w.-]*{_NAME}(?:\s+|=))(?!-){_VALUE}"""),
    "user and password": re.compile(r"""(?P<keep>(?<![\w-])(?:-u|--user|--proxy-user)[ =]["']?)[^\s:"']+:[^\s"']+"""),
    "assignment": re.compile(rf"""(?i)(?P<keep>[\w.-]*{_NAME}{_END}[\w.-]*\\*["']?\s*:?=>?\s*\\*){_VALUE}"""),
    "field": re.compile(
        rf"""(?imx)(?P<keep>(?:^|[{{\[,"'\\]|\\n)[\s-]*\\*["']?[\w./-]*{_NAME}\\*["']?[ \t]*:[ \t]*\\*){_VALUE}
        (?=[ \t]*(?:$|[\\"',}}\]&;]))"""
    ),
}
"""What a reading must not keep besides: secrets by the word before them; rather too much than too little."""
_DIGEST: Final = ("private key", "JSON web token", "bearer token", "access key", "encoded credential", "Secret")
_SUSPECT: Final = re.compile(
    r"(?i)pass|pwd|secret|token|key|cred|auth|cookie|basic|bearer|://|eyJ|AKIA|ASIA|AIza|gh[pousr]_|glpat|xox|_live_|"
    r"npm_|-u\b|-user\b|[A-Za-z0-9+/_-]{40}"
)
_SECRET_KEY: Final = re.compile(rf"(?i)^[\w./-]*{_NAME}$")
_SECRET_NAME: Final = re.compile(rf"(?i)^[\w./-]*{_NAME}{_END}[\w.-]*$")
_FLAG: Final = re.compile(rf"(?i)^--?[\w.-]*(?:{_NAME}|user)$")
_GZIP: Final = re.compile(r"H4sI[A-Za-z0-9+/=_-]{20,}")
_RUN: Final = re.compile(r"[A-Za-z0-9+/_-]{24,}={0,2}")
_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_DEEPEST, _LONGEST = 12, 1 << 20


@dataclass
class Found:
    """What was left out: the kind of each secret, its replacement, and the path of its field."""

    items: list[tuple[str, str, str]] = field(default_factory=list)

    def mark(self, kind: str, secret: str, path: str = "") -> str:
        """Return what stands in a secret's place, and note it."""
        digest = f" sha256:{hashlib.sha256(secret.encode()).hexdigest()[:12]}" if kind in _DIGEST else ""
        stand_in = f"[{kind if digest else _word(kind)}{digest}]"
        self.items.append((kind, stand_in, path))
        return stand_in


def _word(kind: str) -> str:
    return "password" if kind in ("password in a URL", "user and password") else "credential"


def strip(node: Any, found: Found | None = None, path: str = "") -> Any:
    """Return JSON-like data without secrets; what was left out is added to `found`.

    Left out are the data of Secrets, values of fields, variables and flags that are named like a secret, and what looks
    like one in any text, also in JSON, YAML and base64 inside of it.
    """
    return _strip(node, Found() if found is None else found, path, 0)


def text(value: str, found: Found | None = None, path: str = "") -> str:
    """Return a text without secrets."""
    return _text(value, Found() if found is None else found, path, 0)


def _strip(node: Any, found: Found, path: str, depth: int) -> Any:
    if depth > _DEEPEST:
        return "[left out: nested too deeply]"
    if isinstance(node, str):
        return _text(node, found, path, depth)
    if isinstance(node, bytes):
        return _text(node.decode("latin-1"), found, path, depth)
    if isinstance(node, Mapping):
        return _object(node, found, path, depth)
    if isinstance(node, list | tuple | set | frozenset):
        return _list([*node], found, path, depth)
    return node


def _object(node: Mapping[Any, Any], found: Found, path: str, depth: int) -> dict[Any, Any]:
    hidden = {"data", "stringData"} if node.get("kind") == "Secret" else set()
    if isinstance(node.get("name"), str) and _SECRET_NAME.match(node["name"]):
        hidden.add("value")
    stripped = {}
    for key, value in node.items():
        at = f"{path}.{key}" if path else str(key)
        name = _text(key, found, path, depth) if isinstance(key, str) else key
        secret = key in hidden or (isinstance(key, str) and _SECRET_KEY.match(key))
        stripped[name] = _hide(value, found, at) if secret else _strip(value, found, at, depth + 1)
    return stripped


def _hide(node: Any, found: Found, path: str) -> Any:
    """Return a value of a secret field: texts are replaced, names of objects that hold the secret stay."""
    if isinstance(node, Mapping):
        names = node.keys() <= {"name", "key", "optional", "secretKeyRef", "configMapKeyRef", "valueFrom"}
        return {k: v if names else _hide(v, found, f"{path}.{k}") for k, v in node.items()}
    if isinstance(node, list | tuple):
        return [_hide(item, found, path) for item in node]
    if isinstance(node, bool) or node in (None, "", [], {}):
        return node
    return found.mark("Secret" if len(str(node)) >= 32 else "field", str(node), path)


def _list(node: list[Any], found: Found, path: str, depth: int) -> list[Any]:
    stripped, secret = [], False
    for number, item in enumerate(node):
        at = f"{path}[{number}]"
        stripped.append(_hide(item, found, at) if secret else _strip(item, found, at, depth + 1))
        secret = isinstance(item, str) and bool(_FLAG.match(item))
    return stripped


def _text(value: str, found: Found, path: str, depth: int) -> str:
    if not _SUSPECT.search(value):
        return value
    document = _document(value) if depth <= _DEEPEST else None
    if document is not None:
        inner = Found()
        stripped = _strip(document, inner, path, depth + 1)
        if inner.items:
            found.items += inner.items
            if value.lstrip()[:1] in ("{", "["):
                return json.dumps(stripped, default=str)
            return yaml.safe_dump(stripped, sort_keys=False, allow_unicode=True, width=1 << 20)
    for kind, pattern in [*PATTERNS.items(), *STRICT.items()]:
        value = pattern.sub(lambda m, kind=kind: _marked(m, kind, found, path), value)  # type: ignore[misc]
    value = BASE64.sub(lambda m: _run(m[0], found, path, depth), value)
    return _RUN.sub(lambda m: _packed(m[0], found, path, depth), value)


def _marked(match: re.Match[str], kind: str, found: Found, path: str) -> str:
    keep = match.groupdict().get("keep") or ""
    secret = match[0][len(keep) :]
    if secret.startswith("["):  # it was found already, by another form
        return match[0]
    return keep + found.mark(kind, secret.strip("\"'"), path)


def _run(run: str, found: Found, path: str, depth: int) -> str:
    hidden = holds_secret(run) or _hides(re.sub(GAP, "", run), depth)
    return found.mark("encoded credential", run, path) if hidden else run


def _packed(run: str, found: Found, path: str, depth: int) -> str:
    return found.mark("encoded credential", run, path) if _GZIP.match(run) or _hides(run, depth) else run


def holds_secret(run: str, known: Callable[[str], bool] = lambda _: False) -> bool:
    """Return whether a run of base64 hides what `PATTERNS`, or `known`, recognize."""
    packed = re.sub(GAP, "", run)
    for shift in range(4):  # the run may begin with letters that are not part of it, as in `…/LS0t`
        piece = packed[shift:].rstrip("=")
        decoded = base64.b64decode(piece[: len(piece) // 4 * 4]).decode("latin-1")
        if any(pattern.search(decoded) for pattern in PATTERNS.values()) or known(decoded):
            return True
    return False


def _hides(run: str, depth: int) -> bool:
    """Return whether base64, of either alphabet, decodes to a text that has secrets."""
    packed = run.rstrip("=").replace("-", "+").replace("_", "/")
    try:
        raw = base64.b64decode(packed[: -1 if len(packed) % 4 == 1 else None] + "=" * (-len(packed) % 4 % 3))
        raw = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
        decoded = raw.decode()
    except (ValueError, OSError, EOFError, zlib.error):
        return False
    return _text(decoded, Found(), "", depth + 4) != decoded


@functools.lru_cache(maxsize=256)
def _parsed(value: str) -> str | None:
    """Return the JSON of a text that is JSON or YAML with more than one line; None if it is neither."""
    try:
        if value.lstrip()[:1] in ("{", "["):
            return json.dumps(json.loads(value))
        if "\n" not in value.strip():
            return None
        return json.dumps(yaml.load(value, _LOADER), default=str)  # noqa: S506  (it is a SafeLoader)
    except (ValueError, yaml.YAMLError, RecursionError, TypeError):
        return None


def _document(value: str) -> Any:
    if len(value) > _LONGEST or not re.search(r"[:{\[]", value):
        return None
    packed = _parsed(value)
    document = json.loads(packed) if packed else None
    return document if isinstance(document, dict | list) else None
