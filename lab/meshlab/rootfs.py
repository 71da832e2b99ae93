"""A container's root, as a shell script: the machine's programs and libraries, read-only; all else is new and empty.

It is made in memory. An overlay of the machine's root would be less to say, but for an ordinary user the kernel refuses
it: mounts below the root are locked, and files whose owners the box does not map cannot be copied up.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

# /usr/local and the rest of /etc stay out, as they do in an image.
BORROWED = (
    "bin", "sbin", "lib*", "usr/bin", "usr/sbin", "usr/lib*", "usr/share", "etc/alternatives", "etc/ca-certificates*",
    "etc/group", "etc/ld.so*", "etc/localtime", "etc/nsswitch.conf", "etc/passwd", "etc/pki", "etc/protocols",
    "etc/services", "etc/ssl",
)  # fmt: skip
OWN = ("dev", "proc", "sys", "run", "root", "etc", "usr/local/bin", "var/lib", "var/log")
FOR_ALL = ("tmp", "var/tmp")


def start_script(root: Path, hostname: str, mounts: dict[str, Path], cwd: str, user: tuple[int, int]) -> str:
    """Return the script that makes a container's root and becomes its first process; `mounts` is inside to outside."""
    lines = ["set -e", "PATH=$PATH:/usr/sbin:/usr/bin:/sbin:/bin", f"hostname {shlex.quote(hostname)}", *bare(root)]
    for inside, outside in sorted(mounts.items()):
        # /var/run is a link to /run: followed from outside, it would lead out of the container's root.
        target = shlex.quote(f"{root}{re.sub('^/var/run(?=/|$)', '/run', inside)}")
        make = (
            f"mkdir -p {target}"
            if outside.is_dir()
            else f"mkdir -p $(dirname {target}); [ -e {target} ] || touch {target}"
        )
        lines.append(f"{make}; mount --bind {shlex.quote(str(outside))} {target}")
    uid, gid = user
    lines.append(f'exec chroot --userspec={uid}:{gid} --groups= {root} /usr/bin/env -C {shlex.quote(cwd)} "$@"')
    return "\n".join(lines) + "\n"


def bare(root: Path) -> list[str]:
    """Return the commands that make a root without the pod's own mounts."""
    lines = [f"mkdir -p {root}/{name}" for name in OWN]
    lines += [f"mkdir -p -m 1777 {root}/{name}" for name in FOR_ALL]
    lines.append(f"ln -s /run {root}/var/run")
    for name in BORROWED:
        lines += [borrow(root, path) for path in sorted(Path("/").glob(name))]
    lines += [f"mount -t proc proc {root}/proc", f"mount --rbind /dev {root}/dev", f"mount --rbind /sys {root}/sys"]
    return lines


def borrow(root: Path, path: Path) -> str:
    """Return the command that shows a file or folder of the machine inside the root, at the same path."""
    if path.is_symlink():
        return f"ln -s {shlex.quote(str(path.readlink()))} {root}{path}"
    make = "mkdir" if path.is_dir() else "touch"
    # Where /usr has flags that a user may not change (nodev), read-only is refused, and writing there too.
    mount = f"mount -o rbind,ro {path} {root}{path} 2>/dev/null || mount --rbind {path} {root}{path}"
    return f"{make} {root}{path}; {mount}"
