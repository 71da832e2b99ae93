"""Kubeconfigs: those of the lab's own daemons, and the user's, who reaches the API servers in one of several ways."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from meshlab import front
from meshlab.layout import Settings, Site, replace

Entry = dict[str, Any]
ROBOT, ACTS_AS = "robot", "mesh-admins"
"""Who impersonates, and as whom: a user and its group."""
PLUGIN = """#!/bin/sh
token=$(cat "$1")
echo '{"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": {"token": "'"$token"'"}}'
"""


def document(entries: Iterable[tuple[Site, Entry, Entry]]) -> str:
    """Return a kubeconfig of (site, cluster, user); the first is the current context."""
    entries = list(entries)
    return yaml.safe_dump(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": entries[0][0].context,
            "clusters": [{"name": site.context, "cluster": cluster} for site, cluster, _ in entries],
            "users": [{"name": site.context, "user": user} for site, _, user in entries],
            "contexts": [
                {"name": site.context, "context": {"cluster": site.context, "user": site.context}}
                for site, _, _ in entries
            ],
        },
        sort_keys=False,
    )


def cluster(server: str, ca: str, **more: str) -> Entry:
    """Return a cluster of a kubeconfig; the CA is given in PEM."""
    return {"server": server, "certificate-authority-data": base64.b64encode(ca.encode()).decode(), **more}


def write(home: Path, settings: Settings, all_sites: list[Site], kind: str = "token") -> None:
    """Write the user's kubeconfig: contexts lab-east, lab-west, …; `kind` says how its user reaches API servers."""
    entries = [
        (site, reached(home, settings, site, port, kind), user(home, site, kind))
        for site, port in zip(all_sites, settings.ports, strict=True)
    ]
    replace(home / "kubeconfig", document(entries), 0o600)


def reached(home: Path, settings: Settings, site: Site, port: int, kind: str) -> Entry:
    """Return the cluster of a kubeconfig: on a loopback port of its own, through a proxy, or under a proxy's path."""
    ca = (home / site.name / "ca.crt").read_text()
    if kind == "socks-proxy":
        return cluster(site.api_url, ca, **{"proxy-url": f"socks5://127.0.0.1:{settings.front}"})
    if kind == "path-proxy":
        return cluster(f"https://127.0.0.1:{settings.front}{front.path_of(site)}", front.ca(home))
    return cluster(f"https://127.0.0.1:{port}", ca)


def user(home: Path, site: Site, kind: str) -> Entry:
    """Return the user of a kubeconfig: with the token itself, its file, a credential plugin, or as somebody else."""
    folder = home / site.name
    file = folder / "admin.token"
    if kind == "token-file":
        return {"tokenFile": str(file)}
    if kind == "exec-plugin":
        plugin = folder / "credential-plugin"
        replace(plugin, PLUGIN, 0o700)
        exec_ = {"apiVersion": "client.authentication.k8s.io/v1", "command": str(plugin), "args": [str(file)]}
        return {"exec": {**exec_, "interactiveMode": "Never", "installHint": "It is part of the lab."}}
    if kind == "impersonation":
        return {"token": (folder / f"{ROBOT}.token").read_text().strip(), "as": ACTS_AS, "as-groups": [ACTS_AS]}
    if kind == "path-proxy":
        return {"token": front.token(home)}
    return {"token": file.read_text().strip()}
