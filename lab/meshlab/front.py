"""What may stand between a kubeconfig and the API servers: a SOCKS proxy, or a proxy that wants a token of its own.

Both are served by the keeper, outside the box, on one loopback port for all clusters. With either, a client that passes
it by reaches nothing: a kubeconfig for SOCKS names addresses of the WAN, the other one paths that only the proxy knows.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

from meshlab.authority import Authority
from meshlab.layout import API_PORT, Settings, Site, replace, sites
from meshlab.wan_relay import Stream, join

CONNECT, SUCCEEDED, UNREACHABLE = 1, 0, 4
IPV4, NAME = 1, 3
Onward = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[Stream | None]]
"""Reads who asks for what, and returns the connection to it, or None where there is none."""
FOLDER = "front"
"""Of the proxy's certificate and its users' token, in the lab's folder."""


def path_of(site: Site) -> str:
    """Return the path under which the proxy offers a cluster's API server, as Rancher does."""
    return f"/k8s/clusters/c-{site.name}"


def prepare(home: Path, kind: str) -> None:
    """Write the certificate of the proxy that wants a token, and its users' token, where that kind stands before."""
    if kind != "path-proxy":
        return
    folder = home / FOLDER
    folder.mkdir(mode=0o700)
    # With one name for both, OpenSSL would take the certificate for self-signed.
    authority = Authority("lab-front")
    authority.write(folder / "ca")
    authority.issue(folder / "server", "front", ["localhost"], ["127.0.0.1"])
    replace(folder / "user.token", secrets.token_hex(16) + "\n", 0o600)


def ca(home: Path) -> str:
    """Return the CA of the proxy's certificate, in PEM."""
    return (home / FOLDER / "ca.crt").read_text()


def token(home: Path) -> str:
    """Return the token of the proxy's users."""
    return (home / FOLDER / "user.token").read_text().strip()


async def serve(home: Path, settings: Settings, kind: str) -> None:
    """Serve what a kind of kubeconfig needs; most need nothing."""
    serving = {"socks-proxy": serve_socks, "path-proxy": serve_paths}.get(kind)
    if serving:
        await serving(home, settings.front, sites(settings.clusters))


async def serve_socks(home: Path, port: int, all_sites: Iterable[Site]) -> None:
    """Serve SOCKS 5 without authentication (RFC 1928): it leads to the API servers' addresses, and nowhere else."""
    known = {(site.api_ip, API_PORT): home / site.name / "api.sock" for site in all_sites}

    async def onward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Stream | None:
        (_, methods) = await reader.readexactly(2)
        await reader.readexactly(methods)
        writer.write(b"\x05\x00")
        (_, command, _, kind) = await reader.readexactly(4)
        length = 4 if kind == IPV4 else (await reader.readexactly(1))[0]
        address = await reader.readexactly(length)
        host = socket.inet_ntoa(address) if kind == IPV4 else address.decode()
        target = known.get((host, int.from_bytes(await reader.readexactly(2))))
        good = command == CONNECT and kind in (IPV4, NAME) and target is not None
        writer.write(bytes([5, SUCCEEDED if good else UNREACHABLE, 0, IPV4, *bytes(6)]))
        return await asyncio.open_unix_connection(str(target)) if good else None

    await _listen(port, onward)


async def serve_paths(home: Path, port: int, all_sites: Iterable[Site]) -> None:
    """Serve each API server under its path, to who has the proxy's token: the API server gets another one.

    One request a connection; one that upgrades (exec, port-forward) keeps it.
    """
    own = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    own.load_cert_chain(home / FOLDER / "server.crt", home / FOLDER / "server.key")
    wanted = f"Bearer {token(home)}"
    known = {path_of(site): home / site.name for site in all_sites}

    async def onward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Stream | None:
        line, *headers = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").rstrip().split("\r\n")
        method, target, version = line.split(" ")
        prefix = next((path for path in known if target.startswith(f"{path}/")), "")
        if not prefix or _headers(headers).get("authorization") != wanted:
            status = "401 Unauthorized" if prefix else "404 Not Found"
            writer.write(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
            return None
        folder = known[prefix]
        context = ssl.create_default_context(cafile=str(folder / "ca.crt"))
        api = await asyncio.open_unix_connection(str(folder / "api.sock"), ssl=context, server_hostname="localhost")
        lines = [f"{method} {target.removeprefix(prefix)} {version}", *_passed_on(headers, folder), "", ""]
        api[1].write("\r\n".join(lines).encode("latin-1"))
        return api

    await _listen(port, onward, own)


def _headers(lines: Iterable[str]) -> dict[str, str]:
    """Return headers by their names in lower case."""
    return {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


def _passed_on(lines: list[str], folder: Path) -> list[str]:
    """Return the headers for the API server: its own token; and the connection ends, unless it is upgraded."""
    upgrades = "upgrade" in _headers(lines)
    ours = ("authorization",) if upgrades else ("authorization", "connection")
    kept = [line for line in lines if line.partition(":")[0].lower() not in ours]
    kept.append(f"Authorization: Bearer {(folder / 'admin.token').read_text().strip()}")
    return kept if upgrades else [*kept, "Connection: close"]


async def _listen(port: int, onward: Onward, context: ssl.SSLContext | None = None) -> None:
    """Listen on a loopback port; join each connection to where `onward` leads, or close it."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there = await onward(reader, writer)
        except (OSError, EOFError, ValueError, asyncio.LimitOverrunError):
            writer.transport.abort()
            return
        if there:
            await join((reader, writer), there)
        else:
            writer.close()

    await asyncio.start_server(serve, "127.0.0.1", port, backlog=512, ssl=context)
