"""What shapes the view that a cluster's clients have of another cluster's endpoints of a Service.

istiod decides step by step which endpoints a proxy gets: which namespaces it reads, which Services it exports to whom,
which of them a Sidecar imports, whose ports and TLS fit, and where routes lead; last, the server's sidecar decides whom
it lets in. `views` walks those steps once for every ordered pair, in Istio's order, and names each object that takes
the other cluster's endpoints away or changes how they are called. NetworkPolicies are read by `network_policies`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Final

from meshkit.istio.config import authorization_policies
from meshkit.istio.config.authorization_policies import Call
from meshkit.istio.config.cluster_view import (
    AUTHORIZATION_POLICY,
    DESTINATION_RULE,
    KINDS,
    PEER_AUTHENTICATION,
    SERVICE_ENTRY,
    SIDECAR,
    VIRTUAL_SERVICE,
    Configuration,
    Manifest,
    Pod,
    age_of,
    configuration,
    destination_rule,
    is_seen,
    name_of,
    peer_mode,
    ports_of,
    selector_of,
    sidecar_of,
)
from meshkit.istio.config.locality import distribution, leaves_out
from meshkit.istio.config.missing_services import selects
from meshkit.istio.config.rule_fields import covers, full, imports, protocol, rank, routes, tls_mode
from meshkit.istio.config.services import EXPORT_TO, exported, is_cluster_local, local_hosts
from meshkit.kube.mesh import Mesh, Unknown
from meshkit.kube.selectors import Labels
from meshkit.spec import Probe

MESH_CONFIG: Final = "configmaps"
MESH: Final = "mesh: "
"""How fields of meshConfig begin."""
SERVICE: Final = "services"
WORDS: Final = {
    **dict(zip(KINDS, (
        "Sidecar", "VirtualService", "DestinationRule", "ServiceEntry", "PeerAuthentication", "AuthorizationPolicy",
    ), strict=True)),
    MESH_CONFIG: "ConfigMap", SERVICE: "Service",
}  # fmt: skip
_MUTUAL: Final = "ISTIO_MUTUAL"
_NOT_READ: Final = ("topology.kubernetes.io/", "kubernetes.io/")
"""Labels that istiod gives endpoints by their nodes, which are not read here."""


class Link(StrEnum):
    """What a hindrance takes away first, in the order in which one rests on the other."""

    DISCOVERY = "discovery"
    """The client's istiod does not hold the server's endpoints."""
    ENDPOINTS = "endpoints"
    """The client's proxy does not get them."""
    GATEWAY = "gateway"
    """The server's east-west gateway does not pass the Service's SNI on."""
    ANSWERS = "answers"
    """Calls go elsewhere, or are refused."""


class Impact(StrEnum):
    """How far a hindrance goes."""

    BREAKS = "breaks"
    STEERS = "steers"
    """Calls go elsewhere, which may be meant."""
    PERHAPS = "perhaps"
    """For some pods or some calls only, or depending on what is not known here."""


@dataclass(frozen=True)
class Hindrance:
    """An object that keeps a client from a server: its kind (plural, as kubectl takes it), place, field and effect.

    `wanted` is the value that would let it pass, where there is one: a label, a port's name.
    """

    link: Link
    impact: Impact
    kind: str
    cluster: str
    namespace: str
    name: str
    field: str
    effect: str
    wanted: str = ""

    def __str__(self) -> str:
        return f"{WORDS[self.kind]} {self.namespace}/{self.name} in {self.cluster} ({self.field}) {self.effect}"


@dataclass(frozen=True)
class ServiceView:
    """One ordered pair: what stands between the client's cluster and the server's endpoints of a Service.

    `service` is `namespace/name`; `reason` says why all, or some, of it is not known.
    """

    client: str
    server: str
    service: str
    hindrances: tuple[Hindrance, ...] = ()
    reason: str = ""

    def of(self, *links: Link) -> list[Hindrance]:
        """Return the hindrances of some links, in Istio's order; of no link, all."""
        return [one for one in self.hindrances if one.link in links or not links]


@dataclass(frozen=True)
class _Walk:
    """One pair, with what both clusters have: each step of the walk is a method that yields hindrances."""

    client: Configuration
    server: Configuration
    probe: Probe
    first: str

    @property
    def host(self) -> str:
        return f"{self.probe.server}.{self.probe.namespace}.svc.{self.client.domain}"

    @property
    def servers(self) -> tuple[Pod, ...]:
        """The pods that the server's Service selects, else those that it is meant to select."""
        return self.server.servers or self.meant

    @property
    def meant(self) -> tuple[Pod, ...]:
        """The server's pods that the client's Service would select."""
        return tuple(pod for pod in self.server.pods if selects(selector_of(self.client.service), pod.labels))

    @property
    def apart(self) -> bool:
        """Whether calls need the server's gateway."""
        return self.client.network != self.server.network

    @property
    def steps(self) -> Sequence[Callable[[], Iterator[Hindrance]]]:
        """In the order in which istiod takes them."""
        return (
            self.discovery, self.selectors, self.exports, self.cluster_local, self.sidecars, self.service_entries,
            self.ports, self.mutual_tls, self.localities, self.routes, self.authorization,
        )  # fmt: skip

    def _settings(self, where: Configuration, link: Link, field: str, effect: str, wanted: str = "") -> Hindrance:
        place = (MESH_CONFIG, where.cluster, where.root, where.config_map or "istio")
        return Hindrance(link, Impact.BREAKS, *place, f"{MESH}{field}", effect, wanted)

    def discovery(self) -> Iterator[Hindrance]:
        """`discoverySelectors`: of the client's istiod, for the server's namespace; and of the server's own istiod."""
        namespace = self.probe.namespace
        labels = self.server.namespaces.get(namespace, {})
        readers = [(self.client, Link.DISCOVERY), (self.server, Link.GATEWAY)]
        for where, link in readers if self.apart else readers[:1]:
            if where.reads(namespace, labels):
                continue
            words = ",".join(f"{k}={v}" for k, v in sorted(labels.items()) if not k.startswith("kubernetes.io/"))
            effect = f"leaves out namespace {namespace} of {self.server.cluster}, whose labels are {words or 'none'}"
            yield self._settings(where, link, "discoverySelectors", effect, _label(where.settings))

    def selectors(self) -> Iterator[Hindrance]:
        """The server's Service selects none of its pods, which run: the client's own selects them by its labels."""
        theirs = selector_of(self.server.service)
        if self.server.servers or not self.meant or not theirs:
            return
        ours = selector_of(self.client.service)
        effect = f"selects no pod there; {self.client.cluster}'s {_words(ours)} selects {self.meant[0].name}"
        place = (SERVICE, self.server.cluster, self.probe.namespace, self.probe.server)
        # A merge patch: what only the wrong selector has is taken away.
        wanted = json.dumps({"spec": {"selector": {**dict.fromkeys(theirs.keys() - ours.keys()), **ours}}})
        yield Hindrance(Link.DISCOVERY, Impact.BREAKS, *place, f"spec.selector {_words(theirs)}", effect, wanted)

    def exports(self) -> Iterator[Hindrance]:
        """`exportTo`: where several clusters have the Service, that of the client's own counts for its clients.

        Source: Services (pilot/pkg/serviceregistry/aggregate/controller.go): the first cluster's object is kept.
        """
        namespace, own = self.probe.namespace, self.client
        holder = own if own.service and own.reads(namespace, own.namespaces.get(namespace, {})) else self.server
        if holder.service and not (to := exported(holder.service, own.settings)).visible(namespace, namespace):
            where = holder if to.field == EXPORT_TO else own
            yield self._export(where, Link.ENDPOINTS, str(to), f"hides it from clients in {namespace}")
        doors = self.server.gateways if self.apart else ()
        if self.server.service and doors:
            to = exported(self.server.service, self.server.settings)
            if not any(to.visible(namespace, door) for door in doors):
                effect = f"hides it from the east-west gateway in {', '.join(doors)}, which then forwards no call to it"
                yield self._export(self.server, Link.GATEWAY, str(to), effect)

    def _export(self, where: Configuration, link: Link, field: str, effect: str) -> Hindrance:
        if not field.startswith(EXPORT_TO):
            return self._settings(where, link, field.removeprefix("meshConfig."), effect)
        place = (SERVICE, where.cluster, self.probe.namespace, self.probe.server)
        return Hindrance(link, Impact.BREAKS, *place, f"metadata.annotations {field}", effect)

    def cluster_local(self) -> Iterator[Hindrance]:
        """`clusterLocal` of the client's meshConfig. Source: filterIstioEndpoint (pilot/pkg/xds/endpoints)."""
        if is_cluster_local(self.host, local_hosts(self.client.settings, self.client.root, self.client.domain)):
            effect = f"keeps calls of {self.host} in {self.client.cluster}"
            yield self._settings(self.client, Link.ENDPOINTS, "serviceSettings.settings.clusterLocal", effect)

    def sidecars(self) -> Iterator[Hindrance]:
        """The Sidecar of the client's pods: one that selects them, else their namespace's, else the root namespace's.

        Source: doGetSidecarScope, initSidecarScopes (pilot/pkg/model/push_context.go), sidecar.go.
        """
        found = [sidecar_of(self.client, self.probe.namespace, pod.labels) for pod in self.client.clients]
        for sidecar in {name_of(one): one for one in found if one}.values():
            egress = (sidecar.get("spec") or {}).get("egress") or []
            if not egress or any(self._imports(listener) for listener in egress) or self._routed_to(egress):
                continue
            part = len({name_of(one) if one else "" for one in found}) > 1
            hosts = ", ".join(h for listener in egress for h in listener.get("hosts") or []) or "nothing"
            effect = f"imports {hosts}: the proxies that it is for do not know {self.host}"
            yield _of(self.client, SIDECAR, sidecar, "spec.egress.hosts", effect, link=Link.ENDPOINTS, part=part)

    def _imports(self, listener: Manifest) -> bool:
        port = (listener.get("port") or {}).get("number", 0)
        wanted = not port or port == self.probe.port
        return wanted and imports(listener.get("hosts") or [], self.host, self.probe.namespace, self.probe.namespace)

    def _routed_to(self, egress: list[Manifest]) -> bool:
        """Return whether a VirtualService that a Sidecar imports routes to the Service: istiod adds it then."""
        hosts = [host for listener in egress for host in listener.get("hosts") or []]
        for rule in self._virtual_services(any_host=True):
            home, named = rule["metadata"]["namespace"], (rule.get("spec") or {}).get("hosts") or []
            imported = any(
                imports(hosts, full(str(h), home, self.client.domain), home, self.probe.namespace) for h in named
            )
            if imported and any(self._is_ours(d, home) for _, _, route in routes(rule) for d in route):
                return True
        return False

    def service_entries(self) -> Iterator[Hindrance]:
        """ServiceEntries of the same host, which clients may get in its place, or beside it.

        Endpoints belong to a host of a namespace, whatever object names them: those of its own namespace's add up.

        Source: selectServices (sidecar.go): of several namespaces, the client's own is preferred;
        pushServiceEndpointUpdates (pilot/pkg/serviceregistry/serviceentry).
        """
        namespace = self.probe.namespace
        for entry in self.client.objects[SERVICE_ENTRY]:
            spec, home = entry.get("spec") or {}, entry["metadata"]["namespace"]
            if self.host not in (spec.get("hosts") or []) or not is_seen(spec, home, namespace, self.client, "Service"):
                continue
            own = home == namespace
            instead = "gives its own endpoints beside" if own else "may stand in place of"
            field, effect = "spec.hosts", f"{instead} those of the Service: it names the same host"
            added = self._added(spec) if own else []
            if added:
                field = "spec.endpoints"
                effect = f"adds {', '.join(added)} to the Service's endpoints, and part of the calls go there"
            impact = Impact.BREAKS if added else Impact.PERHAPS
            yield _of(self.client, SERVICE_ENTRY, entry, field, effect, link=Link.ANSWERS, impact=impact)

    def _added(self, spec: Manifest) -> list[str]:
        """Return the addresses that a ServiceEntry gives the port that is called, if it has one of that name."""
        name = next((p.get("name", "") for p in ports_of(self.client.service) if p["port"] == self.probe.port), "")
        if spec.get("resolution") != "STATIC" or name not in [port.get("name") for port in spec.get("ports") or []]:
            return []
        return [str(one["address"]) for one in spec.get("endpoints") or [] if one.get("address")]

    def ports(self) -> Iterator[Hindrance]:
        """The port: endpoints belong to it by its name in their own cluster, and the SNI names its number.

        Source: BuildClusterLoadAssignment (pilot/pkg/xds/endpoints/endpoint_builder.go: ServicePortName).
        """
        ours, theirs = ports_of(self.client.service), ports_of(self.server.service)
        own = next((port for port in ours if port["port"] == self.probe.port), None)
        if own is None:
            return
        name, number = str(own.get("name", "")), own["port"]
        same = next((port for port in theirs if str(port.get("name", "")) == name), None)
        at = next((port for port in theirs if port["port"] == number), None)
        here, there = self.client.cluster, self.server.cluster
        if same is None:
            other = f"`{at.get('name', '')}`" if at else "missing"
            effect = f"is `{name}` in {here} and {other} in {there}: endpoints are taken by the port's name"
            yield self._port(Link.ENDPOINTS, Impact.BREAKS, effect, at)
        elif at is None and self.apart:
            effect = (
                f"is `{name}` in {here}, which is {same['port']} in {there}: no gateway there knows the SNI of {number}"
            )
            yield self._port(Link.GATEWAY, Impact.BREAKS, effect)
        elif (mine := protocol(own)) != (other := protocol(same)):
            effect = f"is {mine} in {here} and {other} in {there}: clients of each cluster use its own protocol"
            yield self._port(Link.ANSWERS, Impact.PERHAPS, effect)

    def _port(self, link: Link, impact: Impact, effect: str, at: Manifest | None = None) -> Hindrance:
        """Blame the cluster that comes later in the mesh file, so that both directions name one change."""
        later = self.client if self.client.cluster != self.first else self.server
        first = self.server if later is self.client else self.client
        ours = next((port for port in ports_of(first.service) if port["port"] == self.probe.port), {})
        place = (SERVICE, later.cluster, self.probe.namespace, self.probe.server)
        wanted = str(ours.get("name", "")) if at else ""
        return Hindrance(link, impact, *place, f"spec.ports {self.probe.port}", effect, wanted)

    def mutual_tls(self) -> Iterator[Hindrance]:
        """Mutual TLS that is off: by the caller's DestinationRule, else by the PeerAuthentication of the server's pods.

        Between networks istiod leaves such endpoints out, of clients and of the gateway; within one, both must agree.

        Source: checkMtlsEnabled (pilot/pkg/xds/endpoints/mtls_checker.go), EndpointsByNetworkFilter (ep_filters.go).
        """
        here = self._tls_off(self.client, self.probe.namespace)
        if not self.apart:
            yield from self._disagree(here)
            return
        yield from (_linked(one, Link.ENDPOINTS) for one in here)
        for door in self.server.gateways:
            yield from (_linked(one, Link.GATEWAY) for one in self._tls_off(self.server, door))

    def _tls_off(self, where: Configuration, caller: str) -> list[Hindrance]:
        """Return what turns mutual TLS off for a caller of a namespace, as that cluster's objects say."""
        rule = destination_rule(where, caller, self.probe.namespace, self.host)
        mode, field = tls_mode(rule, self.probe.port)
        if rule and mode:
            effect = f"turns mutual TLS off (mode {mode}), and gateways forward no plain text"
            return [] if mode == _MUTUAL else [_of(where, DESTINATION_RULE, rule, field, effect, link=Link.ENDPOINTS)]
        found = [peer_mode(where, self.probe.namespace, pod, self._target(pod)) for pod in self.servers]
        off = {name_of(policy): (policy, field) for mode, policy, field in found if mode == "DISABLE" and policy}
        part = len([mode for mode, *_ in found if mode == "DISABLE"]) < len(found)
        effect = "turns mutual TLS off for the server's pods, and gateways forward no plain text"
        return [
            _of(where, PEER_AUTHENTICATION, policy, field, effect, link=Link.ENDPOINTS, part=part)
            for policy, field in off.values()
        ]

    def _disagree(self, off: list[Hindrance]) -> Iterator[Hindrance]:
        """Yield why client and server of one network do not agree on mutual TLS."""
        modes = [peer_mode(self.server, self.probe.namespace, pod, self._target(pod)) for pod in self.servers]
        said = {mode for mode, *_ in modes}
        if off and "STRICT" in said:
            effect = f"makes clients call in plain text, which {self.server.cluster} refuses (STRICT)"
            yield from (_linked(one, Link.ANSWERS, effect) for one in off)
        if off or "DISABLE" not in said:
            return
        for policy, field in {name_of(p): (p, f) for mode, p, f in modes if mode == "DISABLE" and p}.values():
            effect = f"turns mutual TLS off, and clients of {self.client.cluster} call with it"
            yield _of(self.server, PEER_AUTHENTICATION, policy, field, effect, link=Link.ANSWERS, part=len(said) > 1)

    def _target(self, pod: Pod) -> int:
        port = next((port for port in ports_of(self.server.service) if port["port"] == self.probe.port), {})
        target = port.get("targetPort") or self.probe.port
        return pod.ports.get(target, self.probe.port) if isinstance(target, str) else int(target)

    def localities(self) -> Iterator[Hindrance]:
        """The distribution by locality: endpoints of localities that it does not name are taken away."""
        rule = destination_rule(self.client, self.probe.namespace, self.probe.namespace, self.host)
        shares, field = distribution(rule, self.client.settings, self.probe.port)
        pairs = [(c.locality, s.locality) for c in self.client.clients for s in self.servers]
        left = [leaves_out(shares, *pair) for pair in pairs]
        if not any(left):
            return
        part = not all(left) or not all(one for pair in pairs for one in pair)
        effect = f"distributes calls {next(filter(None, left))}, and so not to {self.server.cluster}"
        effect += f" ({next((s for (_, s), one in zip(pairs, left, strict=True) if one), '') or 'locality not known'})"
        if field.startswith(MESH):
            one = self._settings(self.client, Link.ENDPOINTS, field.removeprefix(MESH), effect)
            yield _linked(one, one.link, impact=Impact.PERHAPS if part else None)
        elif rule:
            yield _of(self.client, DESTINATION_RULE, rule, field, effect, link=Link.ENDPOINTS, part=part)

    def routes(self) -> Iterator[Hindrance]:
        """The VirtualService that clients go by: what of it leads past the server's cluster.

        Of several for the host, the oldest counts. Source: initVirtualServices (push_context.go), route.go.
        """
        for rule in self._virtual_services()[:1]:
            home = rule["metadata"]["namespace"]
            for field, some, route in routes(rule):
                used = [one for one in route if len(route) == 1 or one.get("weight", 0)]
                if not used or any(not self._past(one, home) for one in used):
                    continue
                effect = f"sends {'some' if some else 'all'} calls past {self.server.cluster}: "
                effect += ", ".join(dict.fromkeys(self._past(one, home) for one in used))
                lost = all(self._is_lost(one, home) for one in used)
                impact = Impact.PERHAPS if some else Impact.BREAKS if lost else Impact.STEERS
                yield _of(self.client, VIRTUAL_SERVICE, rule, f"spec.{field}", effect, link=Link.ANSWERS, impact=impact)

    def _virtual_services(self, *, any_host: bool = False) -> list[Manifest]:
        found = []
        for rule in self.client.objects[VIRTUAL_SERVICE]:
            spec, home = rule.get("spec") or {}, rule["metadata"]["namespace"]
            hosts = [full(str(host), home, self.client.domain) for host in spec.get("hosts") or []]
            ranks = [rank(host) for host in hosts if covers(host, self.host)]
            meant = bool(ranks) or any_host
            if (
                meant
                and "mesh" in (spec.get("gateways") or ["mesh"])
                and is_seen(spec, home, self.probe.namespace, self.client, "VirtualService")
            ):
                found.append((max(ranks, default=0), rule))
        return [rule for _, rule in sorted(found, key=lambda pair: (-pair[0], *age_of(pair[1])))]

    def _is_ours(self, route: Manifest, home: str) -> bool:
        host = str((route.get("destination") or {}).get("host", ""))
        return full(host, home, self.client.domain) == self.host

    def _is_lost(self, route: Manifest, home: str) -> bool:
        """Return whether a destination is a subset that no DestinationRule has: its calls get 503."""
        name = (route.get("destination") or {}).get("subset", "")
        return bool(name) and self._is_ours(route, home) and self._subset(name) is None

    def _subset(self, name: str) -> Manifest | None:
        rule = destination_rule(self.client, self.probe.namespace, self.probe.namespace, self.host)
        subsets = ((rule or {}).get("spec") or {}).get("subsets") or []
        return next((one for one in subsets if one.get("name") == name), None)

    def _past(self, route: Manifest, home: str) -> str:
        """Return why a destination is not in the server's cluster; nothing if it may be."""
        destination = route.get("destination") or {}
        if not self._is_ours(route, home):
            return f"its destination is {destination.get('host', '')}"
        if not (name := destination.get("subset", "")):
            return ""
        if (subset := self._subset(name)) is None:
            return f"no DestinationRule has its subset {name}"
        wanted = {k: v for k, v in (subset.get("labels") or {}).items() if not k.startswith(_NOT_READ)}
        places = {"topology.istio.io/cluster": self.server.cluster, "topology.istio.io/network": self.server.network}
        if any(wanted.items() <= {**pod.labels, **places}.items() for pod in self.servers):
            return ""
        return f"its subset {name} is {', '.join(f'{k}={v}' for k, v in wanted.items())}"

    def authorization(self) -> Iterator[Hindrance]:
        """The AuthorizationPolicies of the server's pods: a CUSTOM or DENY that matches, an ALLOW that does not.

        Source: Builder (pilot/pkg/security/authz/builder/builder.go); Envoy asks CUSTOM, then DENY, then ALLOW.
        """
        found: dict[Hindrance, int] = {}
        accounts = {pod.account for pod in self.client.clients}
        calls = [
            (pod, Call(self.client.trust_domains[0], self.probe.namespace, account, self._target(pod)))
            for pod in self.servers
            for account in sorted(accounts)
        ]
        for pod, call in calls:
            for one in self._refused(pod, call):
                found[one] = found.get(one, 0) + 1
        for one, times in found.items():
            yield one if times == len(calls) else _linked(one, one.link, impact=Impact.PERHAPS)

    def _refused(self, pod: Pod, call: Call) -> Iterator[Hindrance]:
        policies = self.server.objects[AUTHORIZATION_POLICY]
        mine = authorization_policies.selected(policies, self.probe.namespace, pod.labels, self.server.root)
        asked = [
            (
                str((policy.get("spec") or {}).get("action", "ALLOW")),
                policy,
                *authorization_policies.matching_rule(policy, call, self.server.trust_domains),
            )
            for policy in mine
        ]
        make = partial(_of, self.server, AUTHORIZATION_POLICY, link=Link.ANSWERS)
        for action, words in (("CUSTOM", "asks its provider about"), ("DENY", "denies")):
            for _, policy, answer, number in [one for one in asked if one[0] == action and one[2] is not False]:
                sure = answer and action == "DENY"
                effect = f"{words if answer else f'may refuse ({words})'} calls of {call.principal}"
                yield make(policy, f"spec.rules[{number}]", effect, part=not sure)
        allow = [(policy, answer, number) for action, policy, answer, number in asked if action == "ALLOW"]
        if not allow or any(answer for _, answer, _ in allow):
            return
        policy, answer, number = next((one for one in allow if one[1] is None), allow[0])
        more = f" (and {len(allow) - 1} more)" if len(allow) > 1 else ""
        if answer is None:
            field, effect = f"spec.rules[{number}]", f"may not allow calls of {call.principal}{more}"
        else:
            field, effect = "spec.rules", f"allows others only: no rule{more} is for calls of {call.principal}"
        yield make(policy, field, effect, part=answer is None)


def views(mesh: Mesh) -> tuple[ServiceView, ...]:
    """Return for each ordered pair what keeps clients from the other cluster's endpoints of the probe's Service."""
    read = mesh.each(lambda cluster: configuration(cluster, mesh))
    service = f"{mesh.spec.probe.namespace}/{mesh.spec.probe.server}"
    found = []
    for client, server in mesh.ordered_pairs:
        ours, theirs = read[client], read[server]
        if isinstance(ours, Unknown) or isinstance(theirs, Unknown):
            lost = [f"{n}: {r.reason}" for n, r in ((client, ours), (server, theirs)) if isinstance(r, Unknown)]
            found.append(ServiceView(client, server, service, reason="; ".join(lost)))
            continue
        if theirs.service is None:
            found.append(ServiceView(client, server, service, reason=f"{server} has no Service {service}"))
            continue
        first = min(client, server, key=list(mesh.clusters).index)
        walk = _Walk(ours, theirs, mesh.spec.probe, first)
        once = dict.fromkeys(one for step in walk.steps for one in step())
        lacking = [f"no pod of {mesh.spec.probe.client} in {client}"] if not ours.clients else []
        lacking += [f"no pod of {service} in {server}"] if not walk.servers else []
        unread = f"{' and '.join(lacking)}: policies by labels or accounts are not known" if lacking else ""
        found.append(ServiceView(client, server, service, tuple(once), unread))
    return tuple(found)


def _words(labels: Labels) -> str:
    return ",".join(f"{key}={value}" for key, value in sorted(labels.items()))


def _label(settings: Manifest) -> str:
    """Return the labels by which the first selector that has nothing else selects a namespace."""
    selectors = [one for one in settings.get("discoverySelectors") or [] if not (one or {}).get("matchExpressions")]
    return " ".join(f"{k}={v}" for k, v in ((selectors[0] or {}).get("matchLabels") or {}).items()) if selectors else ""


def _of(
    where: Configuration,
    kind: str,
    obj: Manifest,
    field: str,
    effect: str,
    *,
    link: Link,
    impact: Impact = Impact.BREAKS,
    part: bool = False,
) -> Hindrance:
    place = (kind, where.cluster, obj["metadata"]["namespace"], obj["metadata"]["name"])
    return Hindrance(link, Impact.PERHAPS if part else impact, *place, field, effect)


def _linked(one: Hindrance, link: Link, effect: str = "", impact: Impact | None = None) -> Hindrance:
    return Hindrance(**{**vars(one), "link": link, "effect": effect or one.effect, "impact": impact or one.impact})
