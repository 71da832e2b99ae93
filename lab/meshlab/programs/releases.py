"""Other releases of Istio, each built from its own module by that module's own go.mod, into a folder of its own.

In the lab's go.mod another Istio would recompile all of Kubernetes, and there can be only one of a path.
"""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from meshkit.errors import ChangeError, InputError, UnreachableError
from meshlab import layout, programs
from meshlab.layout import Say
from meshlab.programs import ISTIO, Program
from meshlab.programs.toolchain import Toolchain

PACKAGES = ("istioctl/cmd/istioctl", "pilot/cmd/pilot-agent", "pilot/cmd/pilot-discovery")
MODULES_GIB, CACHE_GIB, PROGRAMS_GIB = 0.5, 2.5, 0.6


@dataclass(frozen=True)
class Release:
    """A version of Istio's module, and the checksum of its archive as go.sum has it; that has those of all others."""

    module: str
    checksum: str


RELEASES = {
    # Of the main branch, 25 days before 1.30.0: its file VERSION says 1.31 already, its code is that of 1.30. Of the
    # branch of the release itself no version of the module is served.
    "1.30": Release("v0.0.0-20260423205519-b01690e6db7d", "h1:A+Us0Ium1V2WFsOJYZAfeNfWmPQULLUVdgwNm7KjLF8="),
}


def command(release: str) -> str:
    """Return the command that builds a release."""
    return f"meshkit lab build --istio {release}"


def wanted(release: str) -> list[Program]:
    """Return the programs of a release.

    Raises:
        InputError: that one cannot be built.
    """
    if release not in RELEASES:
        raise InputError(f"Istio {release!r} cannot be built here, only {', '.join(RELEASES)}", where="meshkit lab",
                         remedy="the lab's own Istio needs no --istio")  # fmt: skip
    made_of = repr((RELEASES[release], release, programs.FLAGS, programs.STAMPS))
    fingerprint = hashlib.sha256(made_of.encode()).hexdigest()
    return [Program(package.rpartition("/")[2], f"./{package}", fingerprint) for package in PACKAGES]


def missing(release: str) -> list[Program]:
    """Return the programs of a release that are not there, or were made from something else than what is here now."""
    return programs.outdated(wanted(release), layout.programs(release))


def require(release: str) -> None:
    """Refuse to go on without a release.

    Raises:
        UnreachableError: it is not built.
    """
    if missing(release):
        raise UnreachableError(f"Istio {release} is not built", where=str(layout.programs(release)),
                               remedy=f"build it: `{command(release)}`")  # fmt: skip


def build(release: str, say: Say) -> list[str]:
    """Build what is missing of a release and return the names; says what it does, and shows progress on stderr.

    Raises:
        InputError, UnreachableError: as `programs.build`; or that release cannot be built.
        ChangeError: the compiler failed, or the module is not the one that is meant.
    """
    folder = layout.programs(release)
    if not missing(release):
        say(f"Istio {release} is up to date: {folder}")
        return []
    with programs.locked(folder, say):
        made = missing(release)
        if not made:
            say("the other build made all of them")
            return []
        make(release, made, folder, say)
    return [p.name for p in made]


def make(release: str, made: list[Program], folder: Path, say: Say) -> None:
    """Build programs of a release from a copy of its module, which goes afterwards: the module cache is read-only."""
    go = Toolchain.find(programs.SOURCES)
    programs.room({go.module_cache: MODULES_GIB, go.build_cache: CACHE_GIB, folder: PROGRAMS_GIB})
    version = RELEASES[release].module
    say(f"building {', '.join(p.name for p in made)} of Istio {release} ({version}) by {go.version} into {folder}")
    temporary = Path(tempfile.mkdtemp(prefix=".new-", dir=folder))
    try:
        # In a module of its own: else `go mod download` would write into go.sum of whichever it is in.
        (temporary / "go.mod").write_text("module release\n")
        with zipfile.ZipFile(archive(dataclasses.replace(go, module=temporary), RELEASES[release])) as module:
            module.extractall(temporary)
        go = dataclasses.replace(go, module=temporary / f"{ISTIO}@{version}")
        go.download(say)
        linked = programs.stamped(**programs.of_istio(release, version))
        programs.compile_(go, made, linked, folder, say)
    finally:
        shutil.rmtree(temporary)


def archive(go: Toolchain, release: Release) -> Path:
    """Return the archive of a release's module, downloaded where it is not in the cache.

    Raises:
        UnreachableError: the module proxy cannot be reached.
        ChangeError: it has another checksum.
    """
    go.run("mod", "download", f"{ISTIO}@{release.module}")
    path = go.module_cache / "cache/download" / ISTIO / "@v" / f"{release.module}.zip"
    checksum = path.with_suffix(".ziphash").read_text().strip()  # what Go compares with go.sum
    if checksum != release.checksum:
        raise ChangeError(
            f"{ISTIO}@{release.module} has checksum {checksum}, expected {release.checksum}", where=str(path),
            remedy="remove it (`go clean -modcache`), and take it from a module proxy that you trust",
        )  # fmt: skip
    return path
