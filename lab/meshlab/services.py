"""What a real cluster has beside the kubelet: Service addresses, load balancers, DNS. Small, and driven by watches."""

from __future__ import annotations

import contextlib
import json
import socketserver
import subprocess
from collections.abc import Iterator
from pathlib import Path

import urllib3
from dnslib import AAAA, CNAME, QTYPE, RCODE, RR, A, DNSRecord
from dnslib.server import BaseResolver, DNSHandler, DNSLogger, DNSServer

from meshlab.kube import Kube, Object, Refused, Store, key
from meshlab.layout import API_PORT, Site, replace

SLICE_OF = "kubernetes.io/service-name"


def backends(service: Object, slices: Store, port: Object) -> list[str]:
    """Return `ip:port` of the ready endpoints behind one port of a Service."""
    namespace, name = key(service)
    found = []
    for item in slices:
        meta = item["metadata"]
        if meta["namespace"] != namespace or meta.get("labels", {}).get(SLICE_OF) != name:
            continue
        numbers = [p["port"] for p in item.get("ports") or [] if p.get("name", "") == port.get("name", "")]
        for endpoint in item.get("endpoints") or []:
            conditions = endpoint.get("conditions", {})
            if conditions.get("ready", True) and not conditions.get("terminating"):
                found += [f"{endpoint['addresses'][0]}:{n}" for n in numbers]
    return sorted(found)


def rules(site: Site, services: Store, slices: Store) -> str:
    """Return the iptables rules of all Services: cluster addresses, node ports and load balancers, evenly spread."""
    nat = [
        f"-A POSTROUTING -s {site.pods}.0.0/16 -o wan0 -j MASQUERADE",
        f"-A POSTROUTING -s {site.pods}.0.0/16 -d {site.pods}.0.0/16 -m conntrack --ctstate DNAT -j MASQUERADE",
        f"-A POSTROUTING ! -s {site.pods}.0.0/16 -d {site.pods}.0.0/16 -m conntrack --ctstate DNAT -j MASQUERADE",
        f"-A SERVICES -d {site.services}.0.1 -p tcp --dport 443 -j DNAT --to-destination {site.node_ip}:{API_PORT}",
    ]
    for service in sorted(services, key=key):
        for port in service["spec"].get("ports") or []:
            targets = backends(service, slices, port)
            protocol = port.get("protocol", "TCP").lower()
            for address, number in addresses(site, service, port):
                nat += spread(f"-d {address} -p {protocol} --dport {number}", targets)
    nobody = f"-d {site.services}.0.0/16 -p tcp"
    return "\n".join(
        [
            "*nat", ":PREROUTING - [0:0]", ":OUTPUT - [0:0]", ":POSTROUTING - [0:0]", ":SERVICES - [0:0]",
            "-A PREROUTING -j SERVICES", "-A OUTPUT -j SERVICES", *nat, "COMMIT",
            # An address without endpoints refuses at once, as kube-proxy makes it.
            "*filter", ":FORWARD - [0:0]", ":OUTPUT - [0:0]",
            *(f"-A {chain} {nobody} -j REJECT --reject-with tcp-reset" for chain in ("FORWARD", "OUTPUT")),
            "COMMIT", "",
        ]
    )  # fmt: skip


def addresses(site: Site, service: Object, port: Object) -> Iterator[tuple[str, int]]:
    """Yield every address and port number where this node answers for a Service's port."""
    spec = service["spec"]
    if spec.get("clusterIP") not in (None, "", "None") and key(service) != ("default", "kubernetes"):
        yield spec["clusterIP"], port["port"]
    if port.get("nodePort"):
        yield site.node_ip, port["nodePort"]
    for ingress in service.get("status", {}).get("loadBalancer", {}).get("ingress", []):
        yield ingress["ip"], port["port"]
    for ip in spec.get("externalIPs", []):
        yield ip, port["port"]


def spread(match: str, targets: list[str]) -> list[str]:
    """Return rules that send each new connection to one of the targets, with equal chances."""
    lines = []
    for left, target in zip(range(len(targets), 0, -1), targets, strict=True):
        chance = f" -m statistic --mode random --probability {1 / left:.5f}" if left > 1 else ""
        lines.append(f"-A SERVICES {match}{chance} -j DNAT --to-destination {target}")
    return lines


class Proxy:
    """Writes the rules when Services or endpoints changed."""

    def __init__(self, site: Site, services: Store, slices: Store) -> None:
        self.site, self.services, self.slices = site, services, slices
        self.written = ""

    def sync(self) -> None:
        """Load the rules if they differ from those last loaded; tables are replaced whole, so at once."""
        wanted = rules(self.site, self.services, self.slices)
        if wanted != self.written:
            subprocess.run(["iptables-restore"], input=wanted, text=True, check=True)
            self.written = wanted


class LoadBalancers:
    """Gives each LoadBalancer Service an address, and the WAN's relay the way to its node ports."""

    def __init__(self, kube: Kube, site: Site, services: Store, routes: Path) -> None:
        self.kube, self.site, self.services, self.routes = kube, site, services, routes
        self.given: dict[tuple[str, str], str] = {}
        self.written: dict[str, int] = {}

    def sync(self) -> None:
        """Assign missing addresses, and write routes.json where something changed: those of node ports, too."""
        routes: dict[str, int] = {}
        for service in self.services:
            spec = service["spec"]
            if spec.get("type") == "NodePort":
                routes |= {f"{self.site.node_ip}:{p['nodePort']}": p["nodePort"] for p in spec["ports"]}
            if spec.get("type") != "LoadBalancer" or spec.get(
                "loadBalancerClass"
            ):  # a class belongs to another controller
                continue
            ip = self._address(service)
            routes |= {f"{ip}:{p['port']}": p["nodePort"] for p in spec["ports"] if p.get("nodePort")}
        if routes != self.written:
            replace(self.routes, json.dumps(routes))
            self.written = routes

    def _address(self, service: Object) -> str:
        have = service.get("status", {}).get("loadBalancer", {}).get("ingress") or []
        name = key(service)
        if have:
            self.given[name] = have[0]["ip"]
            return self.given[name]
        if name not in self.given:
            taken = set(self.given.values())
            self.given[name] = next(ip for n in range(1, 255) if (ip := self.site.load_balancer_ip(n)) not in taken)
        status = {"status": {"loadBalancer": {"ingress": [{"ip": self.given[name]}]}}}
        with contextlib.suppress(Refused, urllib3.exceptions.HTTPError):  # tried again at the next change or tick
            self.kube.merge(f"/api/v1/namespaces/{name[0]}/services/{name[1]}/status", status)
        return self.given[name]


class Names(BaseResolver):  # type: ignore[misc]  # dnslib has no types
    """Answers for the cluster's domain from the watched Services; everything else does not exist here."""

    def __init__(self, domain: str, services: Store, slices: Store) -> None:
        self.suffix, self.services, self.slices = f".svc.{domain}", services, slices

    def resolve(self, request: DNSRecord, handler: DNSHandler) -> DNSRecord:  # noqa: ARG002 - dnslib's signature
        """Return the answer to one question."""
        reply = request.reply()
        name = str(request.q.qname).rstrip(".").lower()
        found = self._find(name)
        if found is None:
            reply.header.rcode = RCODE.NXDOMAIN
        elif isinstance(found, str):
            reply.add_answer(RR(request.q.qname, QTYPE.CNAME, rdata=CNAME(found), ttl=5))
        elif request.q.qtype == QTYPE.A:
            for ip in found:
                reply.add_answer(RR(request.q.qname, QTYPE.A, rdata=A(ip), ttl=5))
        elif request.q.qtype == QTYPE.AAAA:
            reply.add_answer(*[RR(request.q.qname, QTYPE.AAAA, rdata=AAAA(ip), ttl=5) for ip in found if ":" in ip])
        return reply

    def _find(self, name: str) -> list[str] | str | None:
        if not name.endswith(self.suffix):
            return None
        parts = name.removesuffix(self.suffix).split(".")
        service = self.services.get(parts[-1], parts[-2]) if len(parts) in (2, 3) else None
        if service is None:
            return None
        spec = service["spec"]
        if spec.get("type") == "ExternalName":
            return str(spec["externalName"])
        if len(parts) == 2 and spec.get("clusterIP") != "None":
            return [spec["clusterIP"]]
        host = parts[0] if len(parts) == 3 else None
        ips = [
            e["addresses"][0]
            for item in self.slices
            if item["metadata"].get("labels", {}).get(SLICE_OF) == parts[-2]
            and item["metadata"]["namespace"] == parts[-1]
            for e in item.get("endpoints") or []
            if e.get("conditions", {}).get("ready", True) and (host is None or e.get("hostname") == host)
        ]
        return ips if ips or host is None else None


def serve_names(site: Site, domain: str, services: Store, slices: Store) -> None:
    """Start the DNS server of a cluster, by UDP and TCP, in threads of its own."""
    resolver = Names(domain, services, slices)
    for tcp in (False, True):
        # Answers come from memory: dnslib's thread for each datagram would cost more than they do.
        DNSServer(
            resolver, address=site.dns_ip, port=53, tcp=tcp, logger=DNSLogger("-request,-reply"),
            server=None if tcp else socketserver.UDPServer,
        ).start_thread()  # fmt: skip
