"""The sandbox in which all of the lab runs, and its first process.

`keep(home)` runs outside: it starts the box, joins loopback ports to Unix sockets of the API servers inside, and ends
when the box ends. `first(home)` is process 1 of the box: it lays the networks, starts each cluster's daemons and waits.
Each watches the other: whoever is killed, the kernel ends the rest, and with the last process every namespace, mount
and rule of the box is gone. The machine's own network is never touched.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

from meshlab import cluster, front, network, wan_relay
from meshlab.layout import RELAY_PORT, Settings, Site, sites
from meshlab.process import die_with_parent, run, spawn
from meshlab.shapes.shape import combined


def command(home: Path) -> list[str]:
    """Return the command that starts the box; without root it needs the user's subordinate ids."""
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user", "--map-auto"]
    return [
        "unshare", *user, "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--uts",
        sys.executable, "-m", "meshlab.sandbox", "first", str(home),
    ]  # fmt: skip


def keep(home: Path) -> int:
    """Start the box and relay the API servers' loopback ports until it ends; returns its exit code."""
    settings = Settings.load(home)
    box = subprocess.Popen(command(home), stdin=subprocess.DEVNULL, preexec_fn=die_with_parent)  # noqa: PLW1509 - this process has one thread

    async def relay() -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, box.kill)  # `unshare` puts off SIGTERM for as long as the box lives
        for site, port in zip(sites(settings.clusters), settings.ports, strict=True):
            await wan_relay.join_port_to_socket(port, home / site.name / "api.sock")
        await front.serve(home, settings, combined(settings.shapes).kubeconfig)
        return await loop.run_in_executor(None, box.wait)

    return asyncio.run(relay())


def first(home: Path) -> None:
    """Be process 1: mounts, networks, daemons; then reap children until the end is requested."""
    settings = Settings.load(home)
    all_sites = sites(settings.clusters, one_vpc=settings.one_vpc)
    run("mount", "-t", "tmpfs", "-o", "mode=0755", "tmpfs", "/run")
    Path("/run/netns").mkdir()
    Path("/run/lab").mkdir()
    # `ip netns exec` and /etc/resolv.conf belong to the machine; the lab never reads them.
    run("ip", "link", "set", "lo", "up")
    # In one VPC the pods of several clusters answer from one network, each by its own link.
    for setting in ("ip_forward=1", "conf.all.rp_filter=0", "conf.default.rp_filter=0"):
        network.sysctl(f"net.ipv4.{setting}")
    for site in all_sites:
        link(site)
    subprocess.run(["iptables-restore"], input=wan_rules(), text=True, check=True)
    daemons = [spawn(home, "wan", [sys.executable, "-m", "meshlab.wan_relay", str(home)])]
    for site in all_sites:
        daemons += cluster.start(home, site)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    reap({d.pid: d.args for d in daemons})


def reap(daemons: dict[int, object]) -> None:
    """Collect every child that ends, and say in the log which of our own did; orphans become our children too."""
    while True:
        try:
            pid, status = os.wait()
        except ChildProcessError:
            return
        if pid in daemons:
            print(f"a daemon ended with status {status}: {daemons.pop(pid)}", flush=True)


def link(site: Site) -> None:
    """Make the node's network namespace and its link to the WAN; no default route leads out of the WAN."""
    run("ip", "netns", "add", site.name)
    wan_end, node_end = site.link, "wan0"
    run("ip", "link", "add", wan_end, "type", "veth", "peer", "name", node_end, "netns", site.name)
    run("ip", "addr", "add", f"{site.wan_ip}/24", "dev", wan_end)
    run("ip", "link", "set", wan_end, "up")
    # In a flat network the other clusters' pods are reached through the relay as well.
    run("ip", "route", "add", f"{site.pods}.0.0/16", "via", site.node_ip, "metric", str(site.number))
    inside = ("ip", "-n", site.name)
    run(*inside, "addr", "add", f"{site.node_ip}/24", "dev", node_end)
    run(*inside, "link", "set", node_end, "up")
    run(*inside, "link", "set", "lo", "up")
    run(*inside, "route", "add", "default", "via", site.wan_ip)


def wan_rules() -> str:
    """Return the WAN's rules: whatever comes from a node goes to the relay, and nothing is routed past it."""
    return f"""*nat
-A PREROUTING -i w-+ -p tcp -j REDIRECT --to-ports {RELAY_PORT}
COMMIT
*filter
-A FORWARD -j REJECT
COMMIT
"""


if __name__ == "__main__":
    # An ordinary user's PATH may lack the folders of `ip` and `iptables`.
    os.environ["PATH"] = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"])
    role, folder = sys.argv[1], Path(sys.argv[2])
    if role == "keep":
        sys.exit(keep(folder))
    first(folder)
