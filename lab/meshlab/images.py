"""Which local program stands for which container image: by the last part of the image's name, whatever the registry."""

from __future__ import annotations

import functools
import importlib.util
import mmap
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from meshlab.layout import PROXY_UID, programs
from meshlab.programs import BOOTSTRAP, releases, share

# The version that Istio's linker sets, alone between zeros.
STAMP = re.compile(rb"\0(\d+\.\d+)-[0-9a-f]{12}\0")
TAG = re.compile(r"\d\.\d\d")
DISTROLESS = "-distroless"
SHELL = ("sh", "bash", "curl")
"""What an image with this ending of its tag does not have, of what meshkit might run in it."""


@dataclass(frozen=True)
class Image:
    """What an image brings: its entrypoint, its user, and files laid over the machine's root."""

    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    uid: int = 0
    files: dict[str, Path] = field(default_factory=dict)


class NotFoundError(Exception):
    """This node has nothing for an image; the text says why."""


def find(reference: str) -> Image:
    """Return what stands for an image reference.

    Raises:
        NotFoundError: this node does not know it, or that release of Istio is not built.
    """
    name, _, tag = reference.partition("@")[0].rpartition("/")[2].partition(":")
    if tag.endswith(DISTROLESS):
        full = find(reference.removesuffix(DISTROLESS))
        return replace(full, files=full.files | sealed())
    local = programs()

    def program(file: str, **more: Path) -> dict[str, Path]:
        return {f"/usr/local/bin/{file}": local / file, **more}

    def istio(file: str) -> dict[str, Path]:
        return {f"/usr/local/bin/{file}": of_version(local / file, tag)}

    known: dict[str, Callable[[], Image]] = {
        r"pilot": lambda: Image(("/usr/local/bin/pilot-discovery",), uid=PROXY_UID, files=istio("pilot-discovery")),
        r"proxyv2": lambda: Image(
            ("/usr/local/bin/pilot-agent",),
            files={
                **istio("pilot-agent"),
                "/usr/local/bin/envoy": envoy(),
                "/var/lib/istio/envoy/envoy_bootstrap_tmpl.json": share(release_folder(tag)) / BOOTSTRAP,
            },
        ),
        r"(go-)?httpbin": lambda: Image(("/usr/local/bin/go-httpbin",), uid=1000, files=program("go-httpbin")),
        r"curl|sleep": lambda: Image(command=("/usr/bin/sleep", "infinity")),
        r"load": lambda: Image(("/usr/local/bin/load",), files=program("load")),
    }
    for pattern, image in known.items():
        if re.fullmatch(pattern, name):
            return image()
    raise NotFoundError("not found: this node has programs for known images only")


def sealed() -> dict[str, Path]:
    """Return files that hide the machine's shells and curl: who runs one gets no program."""
    found = {Path(path).resolve() for path in map(shutil.which, SHELL) if path}
    return {str(path): Path("/dev/null") for path in found}


def release_folder(tag: str) -> Path:
    """Return the folder of the Istio that an image's tag stands for: a release that can be built, or the lab's own.

    Raises:
        NotFoundError: that release is not built.
    """
    if tag not in releases.RELEASES:
        return programs()
    if releases.missing(tag):
        raise NotFoundError(f"not found: Istio {tag} is not built here; `{releases.command(tag)}` builds it")
    return programs(tag)


def of_version(program: Path, tag: str) -> Path:
    """Return a program of Istio in the version of an image's tag.

    That is the program of the release, where that can be built. Of any other version it is a copy of the lab's own with
    another stamp: the code is not of that version, but what istiod, istioctl and meshkit see of it is what it says.
    """
    if (folder := release_folder(tag)) != program.parent:
        return folder / program.name
    if not TAG.fullmatch(tag) or not program.exists():
        return program
    own, at = stamp(program)
    if own in ("", tag):
        return program
    copy = programs(tag) / program.name
    if not copy.exists() or copy.stat().st_mtime < program.stat().st_mtime:
        copy.parent.mkdir(parents=True, exist_ok=True)
        new = copy.with_name(f"{copy.name}.{os.getpid()}")
        shutil.copyfile(program, new)
        with new.open("r+b") as file:
            file.seek(at)
            file.write(tag.encode())
        new.chmod(0o755)
        new.replace(copy)
    return copy


@functools.cache
def stamp(program: Path) -> tuple[str, int]:
    """Return the version (`1.31`) that a program of Istio was stamped with, and where; ("", 0) where it has none."""
    with program.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as content:
        found = STAMP.search(content)
        return (found[1].decode(), found.start(1)) if found else ("", 0)


def envoy() -> Path:
    """Return PyPI's Envoy itself, not the wrapper script beside Python."""
    spec = importlib.util.find_spec("envoy")
    installed = Path(spec.origin).parent / "_bin/envoy" if spec and spec.origin else None
    if installed and installed.exists():
        return installed
    return Path(shutil.which("envoy") or "/usr/local/bin/envoy")
