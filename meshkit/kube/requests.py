"""A request as the API server's authorizer sees it: what a role must allow (`docs/access.md`).

With the environment variable MESHKIT_REQUESTS=FILE, every process of a run adds each request that it sends, once, as a
line of JSON. Programs that meshkit starts, such as istioctl, send theirs themselves.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final
from urllib.parse import unquote

VARIABLE: Final = "MESHKIT_REQUESTS"
_VERBS: Final = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
_STREAMED: Final = ("exec", "portforward")


@dataclass(frozen=True, order=True)
class Request:
    """One question to an authorizer: `resource` is `deployments.apps` or `pods/exec`; of a list `name` is empty.

    A dry run changes nothing, but needs the right to change.
    """

    verb: str
    resource: str
    namespace: str = ""
    name: str = ""
    dry_run: bool = False


def requests(
    method: str, path: str, query: Sequence[tuple[str, str]] = (), headers: Mapping[str, str] | None = None
) -> Iterator[Request]:
    """Yield what the authorizer is asked for a request; nothing for discovery and versions, which are free to all.

    Source: k8s.io/apiserver, pkg/endpoints/request/requestinfo.go; handlers/patch.go (an apply may create);
    pkg/registry/core/pod/rest (to open a stream is to get it, and since Kubernetes 1.35 also to create it).
    """
    root, *words = [unquote(word) for word in path.strip("/").split("/")]
    grouped = root == "apis"
    if root not in ("api", "apis") or len(words) < 2 + grouped:
        return
    group = words[0] if grouped else ""
    words = words[1 + grouped :]
    namespace = words[1] if words[0] == "namespaces" and len(words) > 1 else ""
    words = words[2:] if namespace and len(words) > 2 else words
    resource, name, subresource = (*words, "", "")[:3]
    kind = f"{resource}.{group}" if group else resource
    kind += f"/{subresource}" if subresource else ""
    dry_run = ("dryRun", "All") in query
    applies = (headers or {}).get("Content-Type", "").startswith("application/apply-patch")
    verb = _VERBS.get(method) or ("get" if name else "list")
    also = ("create",) if applies or subresource in _STREAMED else ()
    yield from (Request(one, kind, namespace, name, dry_run) for one in (verb, *also))


def record(
    method: str, path: str, query: Sequence[tuple[str, str]] = (), headers: Mapping[str, str] | None = None
) -> None:
    """Add a request to the file that the environment names, if it names one."""
    if file := os.environ.get(VARIABLE):
        for request in requests(method, path, query, headers):
            _write(file, request)


@functools.cache
def _write(file: str, request: Request) -> None:
    # One write in append mode is one line, whichever processes write beside it.
    with Path(file).open("a", encoding="utf-8") as out:
        out.write(json.dumps(asdict(request)) + "\n")


def recorded(file: Path) -> list[Request]:
    """Return what a file of `record` holds, each once, in order."""
    return sorted({Request(**json.loads(line)) for line in file.read_text(encoding="utf-8").splitlines()})
