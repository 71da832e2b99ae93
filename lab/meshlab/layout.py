"""The lab's folders, addresses and names, each in one place."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from meshkit import paths

Say = Callable[[str], None]
"""Where the lab's talk goes, a line at a time."""

NAMES = ("east", "west", "north", "south")
MAX_CLUSTERS = 9
API_PORT = 6443
NODE_API_PORT = 10250
RELAY_PORT = 9000
PROXY_UID = 1337


@dataclass(frozen=True)
class Site:
    """One cluster of the lab: its place in the address plan follows from its number, counted from 1.

    In one VPC the pods of all clusters take their addresses from one network: each cluster those of its number.
    """

    number: int
    one_vpc: bool = False

    @property
    def name(self) -> str:
        """Name of the cluster, its node's network namespace and its kubeconfig user."""
        return NAMES[self.number - 1] if self.number <= len(NAMES) else str(self.number)

    @property
    def context(self) -> str:
        """Context in the lab's kubeconfig."""
        return f"lab-{self.name}"

    @property
    def network(self) -> str:
        """Istio network name."""
        return f"net-{self.name}"

    @property
    def wan_ip(self) -> str:
        """Address of the WAN's end of the node's link: the node's default gateway."""
        return f"172.31.{self.number}.1"

    @property
    def link(self) -> str:
        """Device of the WAN's end of the node's link."""
        return f"w-{self.name}"

    @property
    def node_ip(self) -> str:
        """Address of the cluster's only node."""
        return f"172.31.{self.number}.2"

    @property
    def api_ip(self) -> str:
        """Address of the API server as the other clusters reach it, through the relay."""
        return f"172.31.200.{self.number}"

    @property
    def api_url(self) -> str:
        """URL of the API server as the other clusters reach it."""
        return f"https://{self.api_ip}:{API_PORT}"

    @property
    def pods(self) -> str:
        """First two bytes of the pod network."""
        return "10.0" if self.one_vpc else f"10.{10 + self.number}"

    def pod_ip(self, index: int) -> str:
        """Return the index-th address of the cluster's pods."""
        number = 16 * index + self.number if self.one_vpc else index
        return f"{self.pods}.{number // 256}.{number % 256}"

    def has_pod(self, ip: str) -> bool:
        """Return whether an address is one of this cluster's pods."""
        mine = not self.one_vpc or int(ip.rpartition(".")[2]) % 16 == self.number
        return ip.startswith(f"{self.pods}.") and mine

    @property
    def services(self) -> str:
        """First two bytes of the service network."""
        return f"10.{100 + self.number}"

    @property
    def dns_ip(self) -> str:
        """Cluster address of the DNS service."""
        return f"{self.services}.0.10"

    def load_balancer_ip(self, index: int) -> str:
        """Address of the index-th LoadBalancer Service, routed by the WAN."""
        return f"172.31.{100 + self.number}.{index}"


def sites(clusters: int, *, one_vpc: bool = False) -> list[Site]:
    """Return the first so many sites."""
    return [Site(n + 1, one_vpc) for n in range(clusters)]


def folder() -> Path:
    """Return the lab's folder: $MESHKIT_LAB_DIR, else `lab` in meshkit's state folder."""
    if named := os.environ.get("MESHKIT_LAB_DIR"):
        return Path(named).absolute()
    return paths.state() / "lab"


def programs(release: str = "") -> Path:
    """Return the folder of built programs: $MESHKIT_LAB_BIN, else meshkit/lab/bin under the user's cache folder.

    Those of another release of Istio (`1.30`) are in versions/RELEASE/bin beside it.
    """
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    usual = Path(os.environ.get("MESHKIT_LAB_BIN") or Path(cache) / "meshkit/lab/bin")
    return usual.parent / "versions" / release / "bin" if release else usual


def tool_path(home: Path | None = None) -> str:
    """Return the folders of a lab's programs, as in a PATH: those of its release of Istio come first.

    By this, the entry point `meshkit.programs`, meshkit finds an istioctl that fits the lab.
    """
    settings = (home or folder()) / "settings.json"
    release = json.loads(settings.read_text()).get("istio") if settings.exists() else ""
    return os.pathsep.join(str(path) for path in (release and programs(release), programs()) if path)


@dataclass(frozen=True)
class Settings:
    """What `meshkit lab up` was asked for; kept in the lab's folder as settings.json."""

    clusters: int = 2
    rtt_ms: int = 40
    flat: bool = False
    ports: tuple[int, ...] = ()
    live_roots: bool = False
    shapes: tuple[str, ...] = ()
    domain: str = "cluster.local"
    one_vpc: bool = False
    istio: str = ""
    front: int = 0
    """Loopback port of what stands before the API servers, in shapes that have that."""

    def save(self, home: Path) -> None:
        """Write settings.json atomically."""
        replace(home / "settings.json", json.dumps(asdict(self)))

    @classmethod
    def load(cls, home: Path) -> Settings:
        """Read settings.json."""
        known = json.loads((home / "settings.json").read_text())
        return cls(**{**known, "ports": tuple(known["ports"]), "shapes": tuple(known["shapes"])})


def replace(path: Path, text: str, mode: int = 0o644) -> None:
    """Write a file atomically: readers never see half of it."""
    new = path.with_name(path.name + ".new")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    new.replace(path)
