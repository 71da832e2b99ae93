"""A pod's network namespace: its address on the node's bridge, its route out."""

from __future__ import annotations

import subprocess
from pathlib import Path

from meshlab.layout import Site

BRIDGE = "br0"


def make_bridge(site: Site) -> None:
    """Make the node's bridge; runs in the node's network namespace."""
    for setting in ("net.ipv4.ip_forward=1", "net.ipv4.conf.all.route_localnet=1"):
        sysctl(setting)
    # A bridge without an address of its own takes its lowest port's: with each pod that comes or goes it might change,
    # and what others send to the old one is lost.
    mac = f"0a:00:00:00:{site.number:02x}:01"
    gateway = f"{site.pods}.0.1/{bits(site)}"
    batch(f"link add {BRIDGE} address {mac} type bridge\naddr add {gateway} dev {BRIDGE}\nlink set {BRIDGE} up\n")
    if site.one_vpc:  # its pods are told of no shorter way: it would be the link that they share with nobody
        sysctl(f"net.ipv4.conf.{BRIDGE}.send_redirects=0")
        sysctl("net.ipv4.conf.all.send_redirects=0")
    # The DNS server answers on the address that every kubelet gives its pods.
    batch(f"addr add {site.dns_ip}/32 dev lo\n")


def join(netns: str, ip: str, site: Site, sysctls: list[str]) -> None:
    """Make a pod's network namespace and join it to the bridge."""
    outer = f"v{netns[2:15].replace('-', '')}"[:15]
    batch(
        f"netns add {netns}\nlink add {outer} type veth peer name eth0 netns {netns}\n"
        f"link set {outer} master {BRIDGE} up\n"
    )
    gateway = f"{site.pods}.0.1"
    batch(
        f"addr add {ip}/{bits(site)} dev eth0\nlink set eth0 up\nlink set lo up\n"
        f"route replace {gateway} dev eth0\nroute add default via {gateway}\n",
        netns,
    )
    if site.one_vpc:
        batch(f"route replace {ip} dev {BRIDGE}\n")
    for setting in sysctls:
        name, value = setting.split("=", 1)
        path = "/proc/sys/" + name.replace(".", "/")
        subprocess.run(
            ["nsenter", f"--net=/run/netns/{netns}", "tee", path],
            input=value,
            text=True,
            check=True,
            stdout=subprocess.DEVNULL,
        )


def bits(site: Site) -> int:
    """Return how much of a pod's address is its network: in one VPC no other pod is on its link."""
    return 32 if site.one_vpc else 16


def leave(netns: str) -> None:
    """Remove a pod's network namespace; its end of the link goes with it."""
    subprocess.run(["ip", "netns", "del", netns], check=False, stderr=subprocess.DEVNULL)


def batch(lines: str, netns: str = "") -> None:
    """Run several `ip` commands at once, in a network namespace or here."""
    where = ["-n", netns] if netns else []
    subprocess.run(["ip", *where, "-batch", "-"], input=lines, text=True, check=True)


def sysctl(setting: str) -> None:
    """Set a kernel parameter (name=value) of this process's network namespace."""
    path, value = parameter(setting)
    path.write_text(value)


def parameter(setting: str) -> tuple[Path, str]:
    """Return the file and the value of a kernel parameter."""
    name, value = setting.split("=", 1)
    return Path("/proc/sys", *name.split(".")), value
