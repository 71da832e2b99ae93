"""The whole lab, started by an ordinary user with subordinate ids."""

from __future__ import annotations

import os
import pwd
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from meshlab import layout, programs

pytestmark = [pytest.mark.lab, pytest.mark.drill]
ROOT = Path(__file__).parents[2]
# No administrators' folders: so it is for users of Debian.
PATH = "/usr/local/bin:/usr/bin:/bin"


@dataclass(frozen=True)
class User:
    """A user of this machine, and what they see of it."""

    name: str
    home: Path

    def run(self, *argv: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command as this user, in the project's folder."""
        env = {
            "HOME": str(self.home),
            "PATH": f"{layout.programs()}:{Path(sys.executable).parent}:{PATH}",
            "MESHKIT_LAB_BIN": str(layout.programs()),
            "PYTHONDONTWRITEBYTECODE": "1",
            "KUBECONFIG": str(self.home / ".local/state/meshkit/lab/kubeconfig"),
        }
        variables = [f"{key}={value}" for key, value in env.items()]
        command = shlex.join(["runuser", "-u", self.name, "--", "env", "-i", *variables, *argv])
        passable = opened([ROOT, Path(sys.prefix), Path(sys.base_prefix), layout.programs()])
        script = f"{passable}cd {ROOT}\nexec {command}\n"
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-ec", script], capture_output=True, text=True, timeout=400, check=False
        )
        assert not check or done.returncode == 0, f"{argv}: {done.stdout}\n{done.stderr}"
        return done

    def meshkit(self, *argv: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run meshkit as this user."""
        return self.run(sys.executable, "-m", "meshkit", *argv, check=check)

    def processes(self) -> list[str]:
        """Return the command lines of all processes of this user, those under subordinate ids included."""
        lines = [line.split(":") for line in Path("/etc/subuid").read_text().splitlines()]
        first, count = next((int(line[1]), int(line[2])) for line in lines if line[0] == self.name)
        own = {pwd.getpwnam(self.name).pw_uid, *range(first, first + count)}
        running = [p for p in psutil.process_iter(["uids", "cmdline", "status"]) if p.info["status"] != "zombie"]
        return [" ".join(p.info["cmdline"]) for p in running if p.info["uids"].real in own]


def opened(paths: list[Path]) -> str:
    """Return shell lines that let everyone pass to these paths, in this mount namespace only: /root is often closed."""
    closed = sorted({parent for path in paths for parent in [path, *path.parents] if not parent.stat().st_mode & 0o001})
    tops = [p for p in closed if not any(other in p.parents for other in closed)]
    lines = ["mount -t tmpfs tmpfs /mnt"]
    for number, top in enumerate(tops):
        upper, work = f"/mnt/{number}", f"/mnt/{number}.work"
        lines.append(f"mkdir {upper} {work}")
        lines.append(f"mount -t overlay overlay -o lowerdir={top},upperdir={upper},workdir={work} {top}")
    return "\n".join([*lines, *(f"chmod o+x {path}" for path in closed), ""])


@pytest.fixture
def user() -> Iterator[User]:
    """A new user, made and removed by root."""
    if os.geteuid() != 0:
        pytest.skip("only root can make another user; as an ordinary user, all other tests of the lab show the same")
    lacking = [name for name in ("useradd", "userdel", "runuser", "newuidmap") if not shutil.which(name)]
    if lacking:
        pytest.skip(f"this machine lacks {', '.join(lacking)}; `apt-get install -y passwd uidmap`")
    if programs.missing():
        pytest.skip("the lab's programs are not built: `meshkit lab build`")
    name = f"mk{os.getpid()}"
    subprocess.run(["useradd", "--create-home", name], check=True)
    found = User(name, Path(pwd.getpwnam(name).pw_dir))
    try:
        yield found
    finally:
        found.meshkit("lab", "down", check=False)
        subprocess.run(["userdel", "--remove", name], check=True, capture_output=True)


def test_an_ordinary_user_has_the_whole_lab(user: User) -> None:
    """Bare clusters and a mesh come up, calls cross it through real sidecars, and `down` leaves nothing."""
    user.meshkit("doctor")
    user.meshkit("lab", "up", "--start", "empty")
    assert user.run("kubectl", "get", "nodes", "-o", "name").stdout == "node/east\n"
    user.meshkit("lab", "down")
    user.meshkit("lab", "up", "--start", "meshed")
    user.meshkit("lab", "status")
    inside = ["kubectl", "exec", "-n", "sample", "deploy/sleep", "-c", "sleep", "--", "sh", "-c"]
    calls = "for i in 1 2 3 4 5 6 7 8 9 10 11 12; do curl -sf httpbin:8000/hostname; done"
    answers = {line for line in user.run(*inside, calls).stdout.splitlines() if "hostname" in line}
    assert len(answers) == 2, "both clusters answer"
    logs = user.run("kubectl", "logs", "-n", "sample", "deploy/sleep", "-c", "istio-init").stdout
    assert "--uid-owner 1337" in logs, "real rules hold the sidecar's own user apart"
    user.meshkit("lab", "down")
    assert user.processes() == []
    assert list((user.home / ".local/state/meshkit").iterdir()) == []
