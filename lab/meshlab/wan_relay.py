"""The WAN between the lab's clusters: a relay that every connection between them must pass, with a round trip.

The kernel here has no netem, so a user-space relay delays the bytes. The WAN's own rules redirect all that leaves a
node to it; it looks up where the connection was going (SO_ORIGINAL_DST) and what stands there: an API server, a
LoadBalancer or NodePort Service (routes.json of each cluster), or, in a flat network, a pod. Anything else is refused.
`wan.json` {"rtt_ms": 40, "cut": ["west"]} is reloaded when it changes.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import sys
from contextlib import suppress
from pathlib import Path

from meshlab.layout import API_PORT, RELAY_PORT, Settings, Site, sites

SO_ORIGINAL_DST = 80
CHUNK = 1 << 16


class Wan:
    """The relay's state: where addresses lead, the delay, and what is cut."""

    def __init__(self, home: Path) -> None:
        self.home = home
        settings = Settings.load(home)
        self.flat = settings.flat
        self.sites = sites(settings.clusters, one_vpc=settings.one_vpc)
        self.rtt_ms: float = settings.rtt_ms
        self.open: dict[asyncio.StreamWriter, Site] = {}
        self._read: dict[Path, tuple[int, dict[str, object]]] = {}

    def file(self, path: Path) -> dict[str, object]:
        """Return a JSON file's content, read again only when it changed; a missing one is empty."""
        try:
            changed = path.stat().st_mtime_ns
        except FileNotFoundError:
            return {}
        before, content = self._read.get(path, (0, {}))
        if before != changed:
            try:
                content = json.loads(path.read_text())
            except ValueError as error:  # half-written or invalid: keep the previous settings
                print(f"{path}: {error}", flush=True)
            self._read[path] = (changed, content)
        return content

    def cut(self, site: Site) -> bool:
        """Return whether the path to a cluster is cut now."""
        cuts = self.file(self.home / "wan.json").get("cut", [])
        return isinstance(cuts, list) and site.name in cuts

    async def watch(self) -> None:
        """Break the live connections of a path when it is cut."""
        while True:
            await asyncio.sleep(0.1)
            for writer, site in list(self.open.items()):
                if self.cut(site):
                    writer.transport.abort()

    def target(self, ip: str, port: int) -> tuple[Site, str, int] | None:
        """Return the cluster and the address behind a WAN address, or None where nothing stands."""
        for site in self.sites:
            if ip == site.api_ip and port == API_PORT:
                return site, site.node_ip, API_PORT
            routes = self.file(self.home / site.name / "routes.json")
            if node_port := routes.get(f"{ip}:{port}"):
                return site, site.node_ip, int(str(node_port))
            if self.flat and site.has_pod(ip):
                return site, ip, port
        return None

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Relay one redirected connection, or refuse it as a firewall that rejects would."""
        sock = writer.get_extra_info("socket")
        port, address = struct.unpack("!2xH4s8x", sock.getsockopt(socket.SOL_IP, SO_ORIGINAL_DST, 16))
        weather = self.file(self.home / "wan.json")
        delay = float(str(weather.get("rtt_ms", self.rtt_ms))) / 2000
        target = self.target(socket.inet_ntoa(address), port)
        if target is None or self.cut(target[0]):
            writer.transport.abort()
            return
        try:
            await asyncio.sleep(2 * delay)  # the handshake of TCP takes a round trip of its own
            onward = await connect(*target)
        except OSError:
            writer.transport.abort()
            return
        self.open |= {writer: target[0], onward[1]: target[0]}
        try:
            await join((reader, writer), onward, delay)
        finally:
            del self.open[writer], self.open[onward[1]]


async def connect(site: Site, ip: str, port: int) -> Stream:
    """Connect to an address in a cluster, by the link of that cluster: in one VPC their networks are the same."""
    sock = socket.socket()
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, site.link.encode())
    try:
        await asyncio.get_running_loop().sock_connect(sock, (ip, port))
        return await asyncio.open_connection(sock=sock)
    except OSError:
        sock.close()
        raise


Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def join(one: Stream, other: Stream, delay: float = 0.0) -> None:
    """Copy in both directions until both sides are done; each chunk arrives `delay` seconds after it was read."""
    try:
        await asyncio.gather(copy(one[0], other[1], delay), copy(other[0], one[1], delay))
    except OSError:
        for _, writer in (one, other):
            writer.transport.abort()
    finally:
        for _, writer in (one, other):
            writer.close()


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay: float) -> None:
    """Copy in one direction, in order, keeping the end of the stream as an end (half-close)."""
    if not delay:
        while data := await reader.read(CHUNK):
            writer.write(data)
            await writer.drain()
        await finish(writer)
        return
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(maxsize=256)

    async def deliver() -> None:
        while True:
            due, data = await queue.get()
            await asyncio.sleep(due - loop.time())
            if not data:
                await finish(writer)
                return
            writer.write(data)
            await writer.drain()

    delivery = asyncio.ensure_future(deliver())
    try:
        while True:
            data = await reader.read(CHUNK)
            await queue.put((loop.time() + delay, data))
            if not data:
                break
        await delivery
    except OSError:
        delivery.cancel()
        raise


async def finish(writer: asyncio.StreamWriter) -> None:
    """Pass on the end of a stream."""
    with suppress(OSError):
        if writer.can_write_eof():
            writer.write_eof()


async def join_port_to_socket(port: int, path: Path) -> None:
    """Listen on a loopback port and join each connection to a Unix socket: a path crosses network namespaces."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            onward = await asyncio.open_unix_connection(str(path))
        except OSError:
            writer.transport.abort()
            return
        await join((reader, writer), onward)

    await asyncio.start_server(serve, "127.0.0.1", port, backlog=512)


async def join_socket_to_api(path: Path, site: Site) -> None:
    """Inside the box: join a Unix socket to a cluster's API server."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            onward = await asyncio.open_connection(site.node_ip, API_PORT)
        except OSError:
            writer.transport.abort()
            return
        await join((reader, writer), onward)

    path.unlink(missing_ok=True)  # noqa: ASYNC240 - once, before anybody is served
    await asyncio.start_unix_server(serve, str(path), backlog=512)


async def main(home: Path) -> None:
    """Serve the WAN and the API servers' sockets until the box ends."""
    wan = Wan(home)
    for site in wan.sites:
        (home / site.name).mkdir(exist_ok=True)
        await join_socket_to_api(home / site.name / "api.sock", site)

    watching = asyncio.create_task(wan.watch())
    server = await asyncio.start_server(wan.serve, "0.0.0.0", RELAY_PORT, backlog=512)  # noqa: S104 - all of the box's WAN
    await asyncio.gather(server.serve_forever(), watching)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
