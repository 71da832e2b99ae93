"""The box: the machine outside is never touched, and whatever is killed, nothing of the lab is left."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from meshlab import lifecycle
from meshlab.layout import programs

from meshkit.errors import ChangeError, InputError, UnreachableError
from tests.support.lab import Lab, Space, httpbin, in_folder, sleeper, until

pytestmark = pytest.mark.lab

LOOKS = (
    ("ip", "-o", "addr"), ("ip", "route", "show", "table", "all"), ("ip", "rule"), ("ip", "-o", "link"),
    ("ip", "netns"), ("iptables-save",), ("ip6tables-save",),
    ("sysctl", "net.ipv4.ip_forward", "net.ipv4.conf.all.route_localnet"),
)  # fmt: skip
NAMESPACES = ("net", "mnt", "pid", "uts")


def machine() -> dict[str, str]:
    """Return what the lab must never touch: the machine's addresses, routes, rules, namespaces, mounts and folders."""
    seen = {" ".join(look): subprocess.run(look, capture_output=True, text=True, check=False).stdout for look in LOOKS}
    # What counts by itself is no change: lifetimes, packet counters, comments with the time.
    seen = {
        k: re.sub(r"valid_lft \w+|preferred_lft \w+|\[\d+:\d+\]|^#.*$", "", v, flags=re.MULTILINE)
        for k, v in seen.items()
    }
    folders = {path: " ".join(sorted(p.name for p in Path(path).iterdir())) for path in ("/run", "/etc")}
    return {**seen, **folders, "mounts": Path("/proc/self/mounts").read_text()}


def members(lab: Lab) -> list[psutil.Process]:
    """Return all processes of a lab, the keeper included."""
    keeper = lifecycle.keeper(lab.home)
    assert keeper
    return [keeper, *keeper.children(recursive=True)]


def namespaces(processes: list[psutil.Process]) -> set[str]:
    """Return the namespaces of processes that are not the machine's own."""
    found = {name for p in processes for name in namespaces_of(p.pid)}
    return found - namespaces_of(os.getpid())


def namespaces_of(pid: int) -> set[str]:
    """Return the namespaces that a process is in; none for one that is gone."""
    try:
        return {str(Path(f"/proc/{pid}/ns/{kind}").readlink()) for kind in NAMESPACES}
    except OSError:
        return set()


def assert_nothing_left(lab: Lab, processes: list[psutil.Process], spaces: set[str]) -> None:
    """Hold that a lab's processes, its namespaces and its folder are gone."""
    assert [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE] == []
    assert spaces
    assert {pid: kept for pid in psutil.pids() if (kept := namespaces_of(pid) & spaces)} == {}
    assert not lab.home.exists()


@pytest.fixture
def home() -> Iterator[Path]:
    """A short folder for a lab, in a folder of its own that must be empty at the end."""
    parent = Path(tempfile.mkdtemp(prefix="mk-"))
    yield parent / "lab"
    with in_folder(parent / "lab"):
        lifecycle.stop(print)
    left = list(parent.iterdir())
    shutil.rmtree(parent)
    assert left == []


def test_up_and_down_leave_the_machine_as_it_was(home: Path) -> None:
    """Addresses, routes, rules, network namespaces and mounts of the machine stay; `down` leaves nothing."""
    before = machine()
    lab = Lab(home)
    lab.start("empty")
    space = Space(lab, "lab-east", "default")
    space.pod("web", httpbin())
    space.service("web", type="LoadBalancer")
    space.ready("pod/web")
    assert machine() == before
    processes = members(lab)
    spaces = namespaces(processes)
    assert len(processes) >= 15
    lab.stop()
    assert machine() == before
    assert_nothing_left(lab, processes, spaces)
    lab.stop()


@pytest.fixture(scope="module")
def victim() -> Iterator[Lab]:
    """A lab of one cluster with a running pod, to be killed and started again by each test."""
    parent = Path(tempfile.mkdtemp(prefix="mk-"))
    lab = Lab(parent / "lab")
    try:
        revive(lab)
        yield lab
    finally:
        lab.stop()
        shutil.rmtree(parent)


def revive(lab: Lab) -> None:
    """Start the lab, and a pod in it."""
    lab.start("empty", clusters=1)
    space = Space(lab, "lab-east", "default")
    space.pod("web", httpbin())
    space.ready("pod/web")


VICTIMS = (
    "box keep", "unshare", "box first", "meshlab.node", "meshlab.wan_relay", "bin/nodeapi", "bin/kube-apiserver",
    "bin/kube-controller-manager", "bin/etcd", "go-httpbin",
)  # fmt: skip


@pytest.mark.parametrize("words", VICTIMS)
def test_kill_9_of_any_process_leaves_a_lab_that_ends_and_starts(victim: Lab, words: str) -> None:
    """After `kill -9` of any process `down` leaves nothing of the lab, and `up` makes a new one."""
    processes = members(victim)
    spaces = namespaces(processes)
    chosen = [p for p in processes if words in " ".join(p.cmdline())]
    chosen[0].kill()
    if words in ("box keep", "unshare", "box first"):
        until(lambda: not [p for p in processes if lifecycle.lives(p)], "the kernel ends all the rest", 10)
    victim.stop()
    assert_nothing_left(victim, processes, spaces)
    revive(victim)


def test_a_lab_whose_sandbox_was_killed_can_be_started_without_down(victim: Lab) -> None:
    """What a killed lab left in its folder does not hinder the next `up`."""
    processes = members(victim)
    processes[0].kill()
    revive(victim)
    until(lambda: not [p for p in processes if lifecycle.lives(p)], "the first lab is gone", 10)


def test_sigterm_to_the_keeper_ends_the_lab(victim: Lab) -> None:
    """A machine that shuts down, or a plain `kill`, ends everything."""
    processes = members(victim)
    processes[0].send_signal(signal.SIGTERM)
    until(lambda: not [p for p in processes if lifecycle.lives(p)], "all processes ended", 10)
    with pytest.raises(UnreachableError, match="no lab runs"):
        victim.status()
    victim.stop()
    revive(victim)


def test_a_second_up_is_refused_and_does_no_harm(victim: Lab) -> None:
    """The refusal says what to do, and the running lab goes on."""
    processes = members(victim)
    with pytest.raises(InputError, match="runs already") as refusal:
        victim.start("empty", clusters=1)
    assert "meshkit lab down" in str(refusal.value)
    assert all(lifecycle.lives(p) for p in processes)
    assert "web" in victim.kubectl("lab-east", "get", "pods", "-o", "name")


def test_the_api_server_may_end_and_come_back(victim: Lab) -> None:
    """After its API server was away the node goes on: pods start, end and are seen as they are."""
    space = Space(victim, "lab-east", "default")
    server = next(p for p in members(victim) if "bin/kube-apiserver" in " ".join(p.cmdline()))
    node = next(p for p in members(victim) if "meshlab.node" in " ".join(p.cmdline()))
    command = server.cmdline()
    space.deployment("d", sleeper(), replicas=2)
    space.ready("deployment/d")
    server.kill()
    until(lambda: not lifecycle.lives(server), "the API server is gone")
    enter = ["nsenter", f"--target={node.pid}", "--net", "--mount", "--pid", "--uts"]
    if os.geteuid():
        enter.insert(2, "--user")
    log = (victim.home / "again.log").open("wb")
    with log, subprocess.Popen([*enter, *command], stdout=log, stderr=log) as again:

        def ready() -> bool:
            assert again.poll() is None, (victim.home / "again.log").read_text()[-2000:]
            return space.try_kubectl("get", "--raw", "/readyz").returncode == 0

        until(ready, "it answers again", seconds=120)
        space.kubectl("delete", "pod", "--all", "--wait=false")
        space.ready("deployment/d")
        space.pod("late", httpbin())
        space.ready("pod/late")
        assert lifecycle.lives(node)
        victim.stop()
        again.wait()
    revive(victim)


def test_of_two_ups_at_once_one_wins(home: Path) -> None:
    """The other is refused, and the winner's lab is whole."""
    lab = Lab(home)

    def up(_: int) -> str:
        try:
            lifecycle.start(1, 0, False, print)
        except InputError as refusal:
            return str(refusal)
        return "won"

    with in_folder(home), ThreadPoolExecutor() as pool:
        said = sorted(pool.map(up, range(2)))
    assert "won" in said
    assert any("is at work in this folder" in words for words in said)
    assert "east" in lab.kubectl("lab-east", "get", "nodes")


def test_a_folder_that_is_not_a_labs_is_never_emptied(tmp_path: Path) -> None:
    """Neither `up` nor `down` removes what is not the lab's, and both say so."""
    precious = tmp_path / "x"
    precious.mkdir()
    (precious / "thesis.txt").write_text("years of work")
    for attempt in (lambda: lifecycle.start(1, 0, False, print), lambda: lifecycle.stop(print)):
        with in_folder(precious), pytest.raises(InputError, match="not a lab's"):
            attempt()
    assert (precious / "thesis.txt").read_text() == "years of work"


def test_a_path_too_long_for_sockets_is_reported(tmp_path: Path) -> None:
    """The error names the variable that fixes it, and nothing is made."""
    long = tmp_path / ("x" * 80)
    with in_folder(long), pytest.raises(InputError, match="too long") as refusal:
        lifecycle.start(1, 0, False, print)
    assert "MESHKIT_LAB_DIR" in str(refusal.value)
    assert not long.exists()


@pytest.mark.parametrize(("clusters", "rtt"), [(0, 40), (10, 40), (2, -1)])
def test_numbers_that_make_no_lab_are_refused(home: Path, clusters: int, rtt: int) -> None:
    """Too few or too many clusters, or a round trip before its time."""
    with in_folder(home), pytest.raises(InputError, match="expected"):
        lifecycle.start(clusters, rtt, False, print)


def test_a_missing_program_is_reported_before_anything_starts(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names the program and the command that builds it; nothing is left."""
    monkeypatch.setenv("MESHKIT_LAB_BIN", str(some_programs(tmp_path, without="etcd")))
    with in_folder(home), pytest.raises(UnreachableError, match="etcd") as refusal:
        lifecycle.start(1, 0, False, print)
    assert "meshkit lab build" in str(refusal.value)
    assert not home.exists()


def test_an_up_that_fails_midway_says_why_and_can_be_tried_again(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that ends at once is reported within seconds, `down` cleans up, and the next `up` works."""
    folder = some_programs(tmp_path, without="kube-apiserver")
    broken = folder / "kube-apiserver"
    broken.write_text("#!/bin/sh\nexit 3\n")
    broken.chmod(0o755)
    lab = Lab(home)
    with monkeypatch.context() as patch:
        patch.setenv("MESHKIT_LAB_BIN", str(folder))
        with in_folder(home), pytest.raises(ChangeError, match="ended while starting") as failure:
            lifecycle.start(1, 0, False, print)
    assert "kube-apiserver" in str(failure.value)
    processes = members(lab)
    spaces = namespaces(processes)
    lab.stop()
    assert_nothing_left(lab, processes, spaces)
    lab.start("empty", clusters=1)


def some_programs(folder: Path, without: str) -> Path:
    """Return a folder of all programs but one."""
    made = folder / "bin"
    made.mkdir()
    for program in programs().iterdir():
        if program.name != without:
            (made / program.name).symlink_to(program)
    return made
