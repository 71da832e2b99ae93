"""Which local program stands for which container image: by the last part of the image's name, whatever the registry."""

from __future__ import annotations

import importlib.util
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from meshkit.lab.layout import PROXY_UID, programs

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True)
class Image:
    """What an image brings: its entrypoint, its user, and files laid over the machine's root."""

    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    uid: int = 0
    files: dict[str, Path] = field(default_factory=dict)


def find(reference: str) -> Image | None:
    """Return what stands for an image reference, or None for one that this node does not know."""
    name = reference.partition("@")[0].rpartition("/")[2].partition(":")[0]
    local, share = programs(), programs().parent / "share"

    def program(file: str, **more: Path) -> dict[str, Path]:
        return {f"/usr/local/bin/{file}": local / file, **more}

    known: dict[str, Callable[[], Image]] = {
        r"pilot": lambda: Image(("/usr/local/bin/pilot-discovery",), uid=PROXY_UID, files=program("pilot-discovery")),
        r"proxyv2": lambda: Image(
            ("/usr/local/bin/pilot-agent",),
            files={
                **program("pilot-agent"),
                "/usr/local/bin/envoy": envoy(),
                "/var/lib/istio/envoy/envoy_bootstrap_tmpl.json": share / "envoy_bootstrap.json",
            },
        ),
        r"(go-)?httpbin": lambda: Image(("/usr/local/bin/go-httpbin",), uid=1000, files=program("go-httpbin")),
        r"curl|sleep": lambda: Image(command=("/usr/bin/sleep", "infinity")),
        r"load": lambda: Image(("/usr/local/bin/load",), files=program("load")),
    }
    for pattern, image in known.items():
        if re.fullmatch(pattern, name):
            return image()
    return None


def envoy() -> Path:
    """Return PyPI's Envoy itself, not the wrapper script beside Python."""
    spec = importlib.util.find_spec("envoy")
    installed = Path(spec.origin).parent / "_bin/envoy" if spec and spec.origin else None
    if installed and installed.exists():
        return installed
    return Path(shutil.which("envoy") or "/usr/local/bin/envoy")
