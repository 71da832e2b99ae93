"""The address of an API server, as other clusters would use it."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from meshkit.kube.cluster import Cluster
from meshkit.spec import ClusterSpec


def server(entry: ClusterSpec, cluster: Cluster, held: str = "") -> str:
    """Return the API server's address for other clusters: `apiServer` of the mesh file, else kubeconfig's.

    Before that comes the address `held` by a remote secret: istiod's way there may be another than ours, such as a
    private endpoint, or past a proxy.
    """
    kept = "" if is_local(held) else held
    return entry.api_server or kept or cluster.server


def is_local(address: str) -> bool:
    """Return whether an address leads to whoever asks: loopback, or localhost."""
    return address_kind(address) == "loopback"


def address_kind(address: str) -> str:
    """Return what kind of host an address names: loopback, link-local, private, public, name, or nothing."""
    host = urlsplit(address).hostname or ""
    try:
        number = ipaddress.ip_address(host)
    except ValueError:
        local = host == "localhost" or host.endswith(".localhost")
        return "loopback" if local else "name" if host else "nothing"
    if number.is_loopback or number.is_unspecified:
        return "loopback"
    return "link-local" if number.is_link_local else "private" if number.is_private else "public"


def is_number(address: str) -> bool:
    """Return whether an address is a number, and no name."""
    try:
        ipaddress.ip_address(address)
    except ValueError:
        return False
    return True
