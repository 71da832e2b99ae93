"""The lab's programs: one Go module pins them all, and this builds what is missing into the user's cache folder.

What stands in go.mod is the only word about versions: the stamps that the programs carry are taken from it. A program
is built again when go.mod, go.sum, the flags or (for our own two) its sources changed; built.json remembers.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from meshkit.errors import InputError
from meshlab import layout
from meshlab.layout import Say
from meshlab.programs.toolchain import Toolchain

SOURCES = Path(__file__).parent
ISTIO = "istio.io/istio"
OWN = ("nodeapi", "load")
OPTIONAL = ("helm",)
"""Programs that only some shapes of the lab need."""
RENAMED = {"server": "etcd"}
BOOTSTRAP, GATEWAY_API = "envoy_bootstrap.json", "gateway-api.yaml"
CHARTS = "charts"
SHARED = (BOOTSTRAP, GATEWAY_API, CHARTS)
ISTIO_CHARTS = {"base": "base", "istiod": "istio-control/istio-discovery", "gateway": "gateway"}
FLAGS = ("-trimpath", "-buildvcs=false")
STAMPS = {
    "k8s.io/component-base/version.gitVersion": "{kubernetes}",
    "k8s.io/component-base/version.gitMajor": "{major}",
    "k8s.io/component-base/version.gitMinor": "{minor}",
    "istio.io/istio/pkg/version.buildVersion": "{istio}",
    "istio.io/istio/pkg/version.buildGitRevision": "{commit}",
    # The commit is the project's, the versions of what it depends on are ours.
    "istio.io/istio/pkg/version.buildStatus": "Modified",
}
MODULES_GIB, CACHE_GIB, PROGRAMS_GIB = 1.4, 5.6, 0.6
ALL_PACKAGES = 3774
SMALL = 300
GIB = 2**30


@dataclass(frozen=True)
class Program:
    """One program: its file's name, the package it is built from, and a hash of all that decides its bytes."""

    name: str
    package: str
    fingerprint: str


def wanted(also: Collection[str] = ()) -> list[Program]:
    """Return every program of the lab: the module's tools and our own, and of the optional ones those of `also`."""
    module = (SOURCES / "go.mod").read_bytes()
    common = hashlib.sha256(module + (SOURCES / "go.sum").read_bytes() + repr((FLAGS, STAMPS)).encode())
    block = re.search(r"^tool \((.*?)^\)", module.decode(), re.DOTALL | re.MULTILINE)
    packages = block[1].split() if block else []
    programs = []
    skipped = {*OPTIONAL} - {*also}
    for package in [*(p for p in packages if file_name(p) not in skipped), *(f"./{own}" for own in OWN)]:
        own = common.copy()
        if package.startswith("./"):
            for source in sorted((SOURCES / package).glob("*.go")):
                own.update(source.read_bytes())
        programs.append(Program(file_name(package), package, own.hexdigest()))
    return programs


def file_name(package: str) -> str:
    """Return the name a package's program gets here; go takes the last part of the path that is no version."""
    parts = [p for p in package.split("/") if not re.fullmatch(r"v\d+", p)]
    return RENAMED.get(parts[-1], parts[-1])


def missing(also: Collection[str] = ()) -> list[Program]:
    """Return the programs that are not there or were made from something else than what is here now."""
    folder = layout.programs()
    programs = outdated(wanted(also), folder)
    if not programs and not all((share(folder) / name).exists() for name in SHARED):
        return [p for p in wanted() if p.name == "pilot-agent"]
    return programs


def outdated(needed: list[Program], folder: Path) -> list[Program]:
    """Return those of some programs that are not in a folder as they are now."""
    built = remembered(folder)
    return [p for p in needed if built.get(p.name) != p.fingerprint or not os.access(folder / p.name, os.X_OK)]


def share(folder: Path) -> Path:
    """Return the folder of what the programs read."""
    return folder.parent / "share"


def remembered(folder: Path) -> dict[str, str]:
    """Return the fingerprint of each program that stands in a folder."""
    try:
        known: dict[str, str] = json.loads((folder / "built.json").read_text())
    except FileNotFoundError:
        return {}
    return known


def build(say: Say, also: Collection[str] = ()) -> list[str]:
    """Build what is missing and return the names; says what it does, and shows progress on stderr.

    Raises:
        InputError: no Go toolchain is new enough, the folder cannot be written, or the disk is too full.
        UnreachableError: modules could not be downloaded.
        ChangeError: the compiler failed; the message holds its last lines.
    """
    if not missing(also):
        say(f"the lab's programs are up to date: {layout.programs()}")
        return []
    folder = layout.programs()
    with locked(folder, say):
        programs = missing(also)
        if not programs:
            say("the other build made all of them")
            return []
        make(programs, folder, say)
    return [p.name for p in programs]


def make(programs: list[Program], folder: Path, say: Say) -> None:
    """Build programs beside their folder and move them in one by one: a running lab keeps the file it has open."""
    go = Toolchain.find(SOURCES)
    room({
        go.module_cache: MODULES_GIB - used(go.module_cache) / GIB,
        go.build_cache: CACHE_GIB - used(go.build_cache) / GIB,
        folder: PROGRAMS_GIB,
    })  # fmt: skip
    names = ", ".join(p.name for p in programs)
    say(f"building {names} by {go.version} into {folder}")
    go.download(say)
    compile_(go, programs, ldflags(go), folder, say)


def compile_(go: Toolchain, programs: list[Program], linked: str, folder: Path, say: Say) -> None:
    """Compile programs of the toolchain's module, whose dependencies are there; `linked` are the linker's flags."""
    flags = [*FLAGS, f"-ldflags={linked}"]
    packages = [p.package for p in programs]
    stale = go.stale(flags, packages)
    announce(len(stale), say)
    temporary = Path(tempfile.mkdtemp(prefix=".new-", dir=folder))
    try:
        seconds = go.build(flags, packages, temporary, stale)
        built = remembered(folder)
        for program in programs:
            origin = {new: old for old, new in RENAMED.items()}.get(program.name, program.name)
            (temporary / origin).replace(folder / program.name)
            built[program.name] = program.fingerprint
        copy_shared(go, share(folder))
        layout.replace(folder / "built.json", json.dumps(built, indent=1))
    finally:
        shutil.rmtree(temporary)
    size = sum((folder / p.name).stat().st_size for p in programs) / 2**20
    say(f"built {len(programs)} program{'s' * (len(programs) > 1)}, {size:.0f} MiB, in {seconds:.0f} s")


def announce(packages: int, say: Say) -> None:
    """Say before it starts what it will take."""
    if packages > SMALL:
        minutes = max(1, round(10 * packages / ALL_PACKAGES))
        say(f"{packages} packages are to be compiled: about {minutes} min on 2 cores, once; the next build is quick")


def room(needs: Mapping[Path, float]) -> None:
    """Refuse a build that would fill the disk, by the GiB that each folder will grow.

    Raises:
        InputError: a file system has too little room left.
    """
    by_device: dict[int, tuple[Path, float]] = {}
    for path, gib in needs.items():
        existing = next(p for p in (path, *path.parents) if p.exists())
        device = existing.stat().st_dev
        first, sum_so_far = by_device.get(device, (existing, 0.0))
        by_device[device] = (first, sum_so_far + max(gib, 0.3))
    for path, gib in by_device.values():
        free = shutil.disk_usage(path).free / GIB
        if free < gib:
            raise InputError(
                f"building the lab's programs needs {gib:.1f} GiB of disk, and {free:.1f} GiB are free",
                where=str(path),
                remedy="free some, or set GOCACHE, GOMODCACHE and MESHKIT_LAB_BIN to folders on a larger disk",
            )


def used(folder: Path) -> int:
    """Return the bytes under a folder, as far as a quick look tells: the build cache has 256 folders alike."""
    sample = folder / "00"
    if sample.is_dir():
        return 256 * sum(f.stat().st_size for f in sample.iterdir())
    return int(MODULES_GIB * GIB) if (folder / "istio.io").is_dir() else 0


def ldflags(go: Toolchain) -> str:
    """Return the linker's flags: no debug tables, and the versions as go.mod has them."""
    kubernetes, istio = go.required("k8s.io/kubernetes"), go.required(ISTIO)
    major, minor, _ = kubernetes.removeprefix("v").split(".", 2)
    release = (go.module_folder(ISTIO) / "VERSION").read_text().strip()
    return stamped(kubernetes=kubernetes, major=major, minor=minor, **of_istio(release, istio))


def of_istio(release: str, module: str) -> dict[str, str]:
    """Return what the stamps say of a release of Istio, whose module's version ends in a commit."""
    commit = module.rsplit("-", 1)[-1]
    return {"istio": f"{release}-{commit}", "commit": commit}


def stamped(**values: str) -> str:
    """Return the linker's flags for what the stamps are to say; those of Kubernetes may be left out."""
    stamps = {name: form for name, form in STAMPS.items() if "kubernetes" in values or name.startswith(ISTIO)}
    return " ".join(["-s", "-w", *(f"-X {name}={form.format(**values)}" for name, form in stamps.items())])


def copy_shared(go: Toolchain, target: Path) -> None:
    """Copy what belongs to this Istio: the template of Envoy's bootstrap, its charts, the CRDs of the Gateway API."""
    target.mkdir(parents=True, exist_ok=True)
    istio = go.module_folder(ISTIO)
    layout.replace(target / BOOTSTRAP, (istio / "tools/packaging/common" / BOOTSTRAP).read_text())
    for name, source in ISTIO_CHARTS.items():
        # The module cache is read-only, for directories too: only the content is copied.
        for path in (istio / "manifests/charts" / source).rglob("*"):
            copy = target / CHARTS / name / path.relative_to(istio / "manifests/charts" / source)
            if path.is_file():
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_bytes(path.read_bytes())
    crds = sorted((go.module_folder("sigs.k8s.io/gateway-api") / "config/crd/standard").glob("gateway.*.yaml"))
    layout.replace(target / GATEWAY_API, "\n---\n".join(path.read_text() for path in crds))


@contextlib.contextmanager
def locked(folder: Path, say: Say) -> Iterator[None]:
    """Hold the folder's lock, so that two builds at once are one after the other; leftovers of a killed one go."""
    lock = FileLock(folder / ".lock", blocking=False)
    with contextlib.ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(lock)
        except Timeout:
            say("another build is at work; waiting for it")
            stack.enter_context(lock.acquire(blocking=True))
        except OSError as error:
            raise InputError(
                f"cannot write here: {error.strerror}",
                where=str(folder),
                remedy="set MESHKIT_LAB_BIN to a folder of yours, or build as its owner",
            ) from None
        for left in folder.glob(".new-*"):
            shutil.rmtree(left)
        yield
