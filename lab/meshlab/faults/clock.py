"""Another clock for processes that run: what a machine whose clock is wrong tells all its programs.

All processes of a kernel share one clock, time namespaces move the monotonic one only, and libraries that are preloaded
miss Go's programs, which ask the vDSO. So the vDSO itself is changed, in each process's own copy of it: its
`clock_gettime` asks the kernel and adds seconds to the answer where CLOCK_REALTIME was asked for. The program, its
certificates and its timers are the real ones; only the time of day is another. Programs that start later have the
machine's clock, and only x86-64 is known here.

    python -m meshlab.faults.clock SECONDS NETNS…      every process of these network namespaces; 0 seconds heal
"""

from __future__ import annotations

import contextlib
import os
import platform
import signal
import struct
import sys
import time
from pathlib import Path

CLOCK_GETTIME = b"__vdso_clock_gettime"
ATTEMPTS = 200


def machine_code(seconds: int) -> bytes:
    """Return a clock_gettime that asks the kernel and adds seconds to CLOCK_REALTIME."""
    return b"".join(
        [
            b"\xb8\xe4\x00\x00\x00",  # mov  eax, 228      (clock_gettime)
            b"\x0f\x05",  # syscall
            b"\x85\xff",  # test edi, edi       (CLOCK_REALTIME is 0)
            b"\x75\x07",  # jne  to the return
            b"\x48\x81\x06" + struct.pack("<i", seconds),  # add qword [rsi], seconds
            b"\xc3",  # ret
        ]
    )


def vdso(pid: int | str) -> tuple[int, int]:
    """Return where a process has its vDSO; (0, 0) where it has none."""
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        if line.endswith("[vdso]"):
            first, _, last = line.split()[0].partition("-")
            return int(first, 16), int(last, 16)
    return 0, 0


def function(image: bytes) -> tuple[int, int]:
    """Return where clock_gettime is in a vDSO, and how long.

    Raises:
        LookupError: it is not there.
    """
    sections = struct.unpack_from("<Q", image, 40)[0]
    size, count = struct.unpack_from("<HH", image, 58)
    tables = [struct.unpack_from("<IIQQQQIIQQ", image, sections + size * n) for n in range(count)]
    for _, kind, _, _, at, length, link, _, _, entry in tables:
        if kind != 11:  # SHT_DYNSYM
            continue
        names = tables[link][4]
        for offset in range(at, at + length, entry):
            name, _, _, _, value, extent = struct.unpack_from("<IBBHQQ", image, offset)
            if image[names + name :].startswith(CLOCK_GETTIME + b"\0"):
                return value, extent
    raise LookupError(CLOCK_GETTIME.decode())


def original() -> tuple[int, bytes]:
    """Return where clock_gettime is in this kernel's vDSO, and its code, from this process's own copy."""
    first, last = vdso("self")
    with Path("/proc/self/mem").open("rb") as memory:
        memory.seek(first)
        image = memory.read(last - first)
    at, length = function(image)
    return at, image[at : at + length]


def give(pid: int, at: int, original: bytes, code: bytes) -> bool:
    """Write code over a process's clock_gettime while none of its threads is in there; returns whether it was done."""
    start = vdso(pid)[0]
    if not start:
        return False
    inside = range(start + at, start + at + len(original))
    for _ in range(ATTEMPTS):
        os.kill(pid, signal.SIGSTOP)
        try:
            places = [where(thread) for thread in Path(f"/proc/{pid}/task").iterdir()]
            if all(place is not None and place not in inside for place in places):
                with Path(f"/proc/{pid}/mem").open("r+b", buffering=0) as memory:
                    memory.seek(inside.start)
                    memory.write(code)
                return True
        finally:
            os.kill(pid, signal.SIGCONT)
        time.sleep(0.005)
    return False


def where(thread: Path) -> int | None:
    """Return the address that a stopped thread will go on from, or None while it still runs."""
    words = (thread / "syscall").read_text().split()
    return int(words[-1], 16) if words[0] != "running" else None


def processes(namespaces: list[str]) -> list[int]:
    """Return the processes of network namespaces, by their names."""
    wanted = {Path(f"/run/netns/{name}").stat().st_ino for name in namespaces}
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            if int(entry.name) != os.getpid() and (entry / "ns/net").stat().st_ino in wanted:
                found.append(int(entry.name))
    return found


def main(seconds: int, namespaces: list[str]) -> int:
    """Change the clock of every process of some network namespaces, and say how many took it."""
    if platform.machine() != "x86_64":
        print(f"the clock of a process can be changed on x86_64 only, this is {platform.machine()}", file=sys.stderr)
        return 1
    at, whole = original()
    code = machine_code(seconds) if seconds else whole
    done = 0
    for pid in processes(namespaces):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it ended meanwhile
            done += give(pid, at, whole, code)
    print(done)
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
