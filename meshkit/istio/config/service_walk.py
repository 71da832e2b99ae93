"""The walk of one ordered pair: each step is what istiod, or the server's sidecar, asks in its turn."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from meshkit.istio.config import authorization_policies, destination_rules, virtual_services
from meshkit.istio.config.authorization_policies import Call
from meshkit.istio.config.configuration import (
    AUTHORIZATION_POLICY,
    DESTINATION_RULE,
    PEER_AUTHENTICATION,
    SERVICE_ENTRY,
    SIDECAR,
    TLS_MODE,
    Configuration,
    Labels,
    Manifest,
    Pod,
    home,
    named,
)
from meshkit.istio.config.destination_rules import Rule, destination_rule
from meshkit.istio.config.hindrances import (
    DEPLOYMENT,
    MESH_CONFIG,
    POD,
    SERVICE,
    Hindrance,
    Impact,
    Link,
    linked,
    of_object,
)
from meshkit.istio.config.locality import MESH, Balancing, balancing, endpoint_labels, leaves_out
from meshkit.istio.config.peer_authentications import peer_mode
from meshkit.istio.config.services import EXPORT_TO, exported, is_cluster_local, local_hosts, target_port
from meshkit.istio.config.virtual_services import Caller, Route
from meshkit.istio.config.visibility import full, imports, sidecar_of, visible
from meshkit.spec import Probe

_MUTUAL: Final = "ISTIO_MUTUAL"


@dataclass(frozen=True)
class Walk:
    """One pair, with what both clusters have: each step of the walk is a method that yields hindrances."""

    client: Configuration
    server: Configuration
    probe: Probe
    first: str

    @property
    def host(self) -> str:
        """The Service's name for the client's istiod."""
        return self._host(self.client)

    def _host(self, where: Configuration) -> str:
        return f"{self.probe.server}.{self.probe.namespace}.svc.{where.domain}"

    @property
    def holder(self) -> Configuration:
        """The cluster whose Service is that of the client: its own, where it has one that its istiod reads.

        Source: Services (pilot/pkg/serviceregistry/aggregate/controller.go): the first cluster's object is kept.
        """
        own, namespace = self.client, self.probe.namespace
        return own if own.service and own.reads(namespace, own.namespaces.get(namespace, {})) else self.server

    @property
    def apart(self) -> bool:
        """Whether calls need the server's gateway."""
        return self.client.network != self.server.network

    def hindrances(self) -> tuple[Hindrance, ...]:
        """Walk all steps; what several find is one."""
        return tuple(dict.fromkeys(one for step in self.steps for one in step()))

    @property
    def steps(self) -> Sequence[Callable[[], Iterator[Hindrance]]]:
        """In the order in which istiod takes them."""
        return (
            self.discovery, self.domains, self.service, self.exports, self.cluster_local, self.sidecars,
            self.service_entries, self.ports, self.mutual_tls, self.localities, self.preferences, self.routes,
            self.authorization,
        )  # fmt: skip

    def _settings(self, where: Configuration, link: Link, field: str, effect: str, wanted: str = "") -> Hindrance:
        place = (MESH_CONFIG, where.source or where.cluster, where.root, where.config_map or "istio")
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

    def exports(self) -> Iterator[Hindrance]:
        """`exportTo`: of the Service that counts for clients, and of the server's for its gateway."""
        namespace, own, holder = self.probe.namespace, self.client, self.holder
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
        return self._service(where.cluster, link, f"metadata.annotations {field}", effect)

    def domains(self) -> Iterator[Hindrance]:
        """Cluster domains that differ: clients ask the server's gateway for a name of their own domain.

        An istiod names the Services of all clusters by its own. Source: ConvertService
        (pilot/pkg/serviceregistry/kube/controller/controller.go, with the Options of every registry).
        """
        if self.apart and self.client.domain != self.server.domain:
            revision = self.client.config_map.removeprefix("istio")
            place = (DEPLOYMENT, self.client.cluster, self.client.root, f"istiod{revision}")
            effect = f"has clients ask for {self.host}, and the gateway of {self.server.cluster} knows names of"
            effect += f" {self.server.domain} only"
            yield Hindrance(Link.GATEWAY, Impact.BREAKS, *place, f"--domain {self.client.domain}", effect)

    def service(self) -> Iterator[Hindrance]:
        """What the Services are: no endpoints, those of the client's node only, or addresses of single pods.

        Source: ConvertService (pilot/pkg/serviceregistry/kube/conversion.go), filterIstioEndpoint
        (pilot/pkg/xds/endpoints/endpoint_builder.go), convertResolution (pilot/pkg/networking/core/cluster.go).
        """
        of_client, of_server = _spec(self.holder.service), _spec(self.server.service)
        for where in dict.fromkeys((self.holder.cluster, self.server.cluster)):
            spec = of_client if where == self.holder.cluster else of_server
            if spec.get("type") == "ExternalName":
                effect = f"is an alias of {spec.get('externalName', '')}, and has no endpoints of its own"
                yield self._service(where, Link.ENDPOINTS, "spec.type ExternalName", effect)
        if not self.server.servers and self.server.unselected:
            pods, ours, theirs = [p.name for p in self.server.unselected], _selector(of_client), _selector(of_server)
            one = self._service(
                self.server.cluster, Link.DISCOVERY, "spec.selector", f"does not select {', '.join(pods[:3])}"
            )
            # A merge patch: what only the wrong selector has is taken away.
            right = {"spec": {"selector": {**dict.fromkeys(theirs.keys() - ours.keys()), **ours}}}
            yield replace(one, wanted=json.dumps(right) if ours != theirs else "")
        if of_client.get("internalTrafficPolicy") == "Local":
            effect = "keeps each call on the client's node"
            yield self._service(self.holder.cluster, Link.ENDPOINTS, "spec.internalTrafficPolicy Local", effect)
        if of_client.get("clusterIP") == "None":
            effect = f"is headless: clients call the pods that DNS names, which are those of {self.client.cluster}"
            impact = Impact.STEERS if self.apart else Impact.PERHAPS
            yield self._service(self.holder.cluster, Link.ENDPOINTS, "spec.clusterIP None", effect, impact)

    def _service(self, cluster: str, link: Link, field: str, effect: str, impact: Impact = Impact.BREAKS) -> Hindrance:
        return Hindrance(link, impact, SERVICE, cluster, self.probe.namespace, self.probe.server, field, effect)

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
        for sidecar in {named(one): one for one in found if one}.values():
            egress = (sidecar.get("spec") or {}).get("egress") or []
            if not egress or any(self._imports(listener) for listener in egress) or self._routed_to(egress):
                continue
            part = len({named(one) if one else "" for one in found}) > 1
            hosts = ", ".join(h for listener in egress for h in listener.get("hosts") or []) or "nothing"
            effect = f"imports {hosts}: the proxies that it is for do not know {self.host}"
            yield of_object(self.client, SIDECAR, sidecar, "spec.egress.hosts", effect, link=Link.ENDPOINTS, part=part)

    def _imports(self, listener: Manifest) -> bool:
        port = (listener.get("port") or {}).get("number", 0)
        wanted = not port or port == self.probe.port
        return wanted and imports(listener.get("hosts") or [], self.host, self.probe.namespace, self.probe.namespace)

    def _routed_to(self, egress: list[Manifest]) -> bool:
        """Return whether a VirtualService that a Sidecar imports routes to the Service: istiod adds it then."""
        hosts = [host for listener in egress for host in listener.get("hosts") or []]
        namespace = self.probe.namespace
        rules = virtual_services.imported(self.client, namespace, hosts)
        return any(self._is_ours(one, rule) for rule in rules for one in virtual_services.destinations(rule, namespace))

    def service_entries(self) -> Iterator[Hindrance]:
        """ServiceEntries of the same host in the Service's namespace, whose endpoints clients get, too.

        Those of other namespaces stand back behind the client's own. Source: selectServices (sidecar.go).
        """
        namespace = self.probe.namespace
        for entry in self.client.objects[SERVICE_ENTRY]:
            spec, place = entry.get("spec") or {}, home(entry)
            seen = visible(spec, place, namespace, self.client, "Service")
            if not (place == namespace and seen and self.host in (spec.get("hosts") or [])):
                continue
            field, effect = "spec.hosts", "gives its own endpoints beside those of the Service: it names the same host"
            if added := self._added(spec):
                field = "spec.endpoints"
                effect = f"adds {', '.join(added)} to the Service's endpoints, and part of the calls go there"
            impact = Impact.BREAKS if added else Impact.PERHAPS
            yield of_object(self.client, SERVICE_ENTRY, entry, field, effect, link=Link.ANSWERS, impact=impact)

    def _added(self, spec: Manifest) -> list[str]:
        """Return the addresses that a ServiceEntry gives the port that is called, if it has one of that name."""
        name = next((p.get("name", "") for p in _ports(self.holder.service) if p["port"] == self.probe.port), "")
        if spec.get("resolution") != "STATIC" or name not in [port.get("name") for port in spec.get("ports") or []]:
            return []
        return [str(one["address"]) for one in spec.get("endpoints") or [] if one.get("address")]

    def ports(self) -> Iterator[Hindrance]:
        """The port: endpoints belong to it by its name in their own cluster, and the SNI names its number.

        Source: BuildClusterLoadAssignment (pilot/pkg/xds/endpoints/endpoint_builder.go: ServicePortName).
        """
        ours, theirs = _ports(self.holder.service), _ports(self.server.service)
        own = next((port for port in ours if port["port"] == self.probe.port), None)
        if own is None:
            effect = f"is missing: clients of {self.client.cluster} know the ports of this Service only"
            yield self._service(self.holder.cluster, Link.ENDPOINTS, f"spec.ports {self.probe.port}", effect)
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
        ours = next((port for port in _ports(first.service) if port["port"] == self.probe.port), {})
        wanted = str(ours.get("name", "")) if at else ""
        return replace(
            self._service(later.cluster, link, f"spec.ports {self.probe.port}", effect, impact), wanted=wanted
        )

    def mutual_tls(self) -> Iterator[Hindrance]:
        """Mutual TLS that is off: by the caller's DestinationRule, the server's pods, or their PeerAuthentication.

        Between networks istiod leaves such endpoints out, of clients and of the gateway; within one, both must agree.

        Source: checkMtlsEnabled (pilot/pkg/xds/endpoints/mtls_checker.go), EndpointsByNetworkFilter (ep_filters.go).
        """
        found = [self._tls_off(self.client, self._rule(labels), subset) for labels, subset in self._subsets()]
        here = _counted(found)
        if not self.apart:
            yield from self._disagree(here)
            return
        yield from (linked(one, Link.ENDPOINTS) for one in here)
        for door in self.server.gateways:
            rule = destination_rule(self.server, door, {}, self.probe.namespace, self._host(self.server))
            yield from (linked(one, Link.GATEWAY) for one in self._tls_off(self.server, rule))

    def _subsets(self) -> list[tuple[Labels, str]]:
        """Return each client's labels with each subset of the Service that it calls; an empty one is all of it."""
        found = []
        for labels in self._callers():
            routes = virtual_services.routes(self.client, self._caller(labels))
            ours = [one for route in routes for one in _used(route) if self._is_ours(one, route.rule)]
            subsets = {str((one.get("destination") or {}).get("subset") or "") for one in ours}
            found += [(labels, subset) for subset in sorted(subsets or {""})]
        return found

    def _callers(self) -> list[Labels]:
        """Return the labels of the client's pods, each set once; none where no pod is known."""
        return list({tuple(sorted(p.labels.items())): p.labels for p in self.client.clients}.values()) or [{}]

    def _caller(self, labels: Labels) -> Caller:
        port = next((port for port in _ports(self.holder.service) if port["port"] == self.probe.port), {})
        return Caller(self.probe.namespace, labels, self.host, self.probe.port, protocol(port))

    def _rule(self, labels: Labels) -> Rule | None:
        return destination_rule(self.client, self.probe.namespace, labels, self.probe.namespace, self.host)

    def _tls_off(self, where: Configuration, rule: Rule | None, subset: str = "") -> list[Hindrance]:
        """Return what turns mutual TLS off for a caller that goes by a rule, as that cluster's objects say."""
        if said := destination_rules.tls(rule, self.probe.port, subset):
            effect = f"turns mutual TLS off (mode {said.mode}), and gateways forward no plain text"
            one = of_object(where, DESTINATION_RULE, said.rule, said.field, effect, link=Link.ENDPOINTS)
            return [] if said.mode == _MUTUAL else [one]
        if where.settings.get("enableAutoMtls") is False:
            effect = "has clients call in plain text, and gateways forward none"
            return [self._settings(where, Link.ENDPOINTS, "enableAutoMtls", effect)]
        found = [self._plain(where, pod) for pod in self.server.servers]
        part = not all(found)
        return list(dict.fromkeys(linked(one, one.link, impact=_impact(part=part)) for one in found if one))

    def _plain(self, where: Configuration, pod: Pod) -> Hindrance | None:
        """Return why a cluster's istiod has a server's pod called in plain text, where no DestinationRule says how."""
        if pod.labels.get(TLS_MODE) != "istio":
            effect = "has no sidecar that takes mutual TLS, and gateways forward no plain text"
            place = (POD, self.server.cluster, self.probe.namespace, pod.name, f"metadata.labels {TLS_MODE}")
            return Hindrance(Link.ENDPOINTS, Impact.BREAKS, *place, effect, pod.workload)
        mode, policy, field = peer_mode(where, self.probe.namespace, pod, self._target(pod))
        if mode != "DISABLE" or policy is None:
            return None
        effect = "turns mutual TLS off for the server's pods, and gateways forward no plain text"
        return of_object(where, PEER_AUTHENTICATION, policy, field, effect, link=Link.ENDPOINTS)

    def _disagree(self, off: Sequence[Hindrance]) -> Iterator[Hindrance]:
        """Yield why client and server of one network do not agree on mutual TLS."""
        modes = [peer_mode(self.server, self.probe.namespace, pod, self._target(pod)) for pod in self.server.servers]
        said = {mode for mode, *_ in modes}
        off = [one for one in off if one.kind != POD]
        if off and "STRICT" in said:
            effect = f"makes clients call in plain text, which {self.server.cluster} refuses (STRICT)"
            yield from (linked(one, Link.ANSWERS, effect) for one in off)
        if off or "DISABLE" not in said:
            return
        for policy, field in {named(p): (p, f) for mode, p, f in modes if mode == "DISABLE" and p}.values():
            effect = f"turns mutual TLS off, and clients of {self.client.cluster} call with it"
            yield of_object(
                self.server, PEER_AUTHENTICATION, policy, field, effect, link=Link.ANSWERS, part=len(said) > 1
            )

    def _target(self, pod: Pod) -> int:
        return target_port(self.server.service, self.probe.port, pod.ports)

    def localities(self) -> Iterator[Hindrance]:
        """The distribution by locality: endpoints of localities that it does not name are taken away."""
        found = [one for labels in self._callers() for one in self._localities(labels)]
        yield from dict.fromkeys(found)

    def _localities(self, labels: Labels) -> Iterator[Hindrance]:
        spread, author = self._balancing(labels)
        shares, field = spread.distribute, f"{spread.field}.distribute"
        pairs = [(c.locality, s.locality) for c in self.client.clients for s in self.server.servers]
        left = [leaves_out(shares, *pair) for pair in pairs]
        if not any(left):
            return
        part = not all(left) or not all(one for pair in pairs for one in pair)
        there = next((server for (_, server), one in zip(pairs, left, strict=True) if one), "")
        effect = f"distributes calls {next(filter(None, left))}, and so not to {self.server.cluster}"
        effect += f" ({there or 'locality not known'})"
        if field.startswith(MESH):
            one = self._settings(self.client, Link.ENDPOINTS, field.removeprefix(MESH), effect)
            yield linked(one, one.link, impact=_impact(part=part))
        elif author:
            yield of_object(self.client, DESTINATION_RULE, author, field, effect, link=Link.ENDPOINTS, part=part)

    def preferences(self) -> Iterator[Hindrance]:
        """What keeps calls with nearer endpoints, where the client's own cluster has some."""
        for labels in self._callers() if self.client.servers else []:
            yield from self._preferences(labels)

    def _preferences(self, labels: Labels) -> Iterator[Hindrance]:
        spread, author = self._balancing(labels)
        pairs = [(c.locality, s.locality) for c in self.client.clients for s in self.server.servers]
        if not any(spread.prefers_home(apart=self.apart, client=c, server=s) for c, s in pairs):
            return
        effect = f"prefers nearer endpoints: calls go to {self.server.cluster} only while those are not healthy"
        if spread.service and self.holder.service:
            yield of_object(self.holder, SERVICE, self.holder.service, spread.field, effect, link=Link.PREFERENCE)
        elif author:
            yield of_object(self.client, DESTINATION_RULE, author, spread.field, effect, link=Link.PREFERENCE)

    def _balancing(self, labels: Labels) -> tuple[Balancing, Manifest | None]:
        rule = self._rule(labels)
        policy, author = (rule.policy, rule.author) if rule else ({}, None)
        return balancing(policy, self.client.settings, self.probe.port, self.holder.nearest), author

    def routes(self) -> Iterator[Hindrance]:
        """The VirtualService, or mesh routes, that clients go by: what leads past the server or ends at its gateway."""
        yield from _counted([list(self._routes(labels)) for labels in self._callers()])

    def _routes(self, labels: Labels) -> Iterator[Hindrance]:
        rule = self._rule(labels)
        for route in virtual_services.routes(self.client, self._caller(labels)):
            used = _used(route)
            make = partial(of_object, self.client, route.kind, route.rule, route.field, link=Link.ANSWERS)
            past = [self._past(one, route.rule, rule) for one in used] or [route.instead]
            calls = "some" if route.some else "all"
            if all(past):
                effect = f"sends {calls} calls past {self.server.cluster}: {', '.join(dict.fromkeys(past))}"
                yield make(effect, impact=Impact.PERHAPS if route.some else Impact.STEERS)
                continue
            named_here = [str((one.get("destination") or {}).get("subset") or "") for one in used]
            reaching = [subset for subset, why in zip(named_here, past, strict=True) if not why]
            if lost := [subset for subset in dict.fromkeys(reaching) if subset and not self._forwarded(subset)]:
                effect = f"sends {calls} calls to subset {', '.join(lost)}, which no DestinationRule of"
                effect += f" {self.server.cluster} has: its gateway forwards only the subsets that it knows"
                part = route.some or {*lost} != {*reaching}
                yield replace(make(effect, part=part), link=Link.GATEWAY)

    def _forwarded(self, subset: str) -> bool:
        """Return whether a gateway of the server forwards the SNI of a subset.

        Source: builtAutoPassthroughFilterChains (pilot/pkg/networking/core/gateway.go).
        """
        doors = self.server.gateways if self.apart else ()
        known = [
            destination_rule(self.server, door, {}, self.probe.namespace, self._host(self.server)) for door in doors
        ]
        return not doors or any(rule is not None and subset in rule.subsets for rule in known)

    def _is_ours(self, route: Manifest, rule: Manifest) -> bool:
        host = str((route.get("destination") or {}).get("host", ""))
        return full(host, home(rule), self.client.domain) == self.host

    def _past(self, route: Manifest, virtual_service: Manifest, rule: Rule | None) -> str:
        """Return why a destination is not in the server's cluster; nothing if it may be."""
        destination = route.get("destination") or {}
        if not self._is_ours(route, virtual_service):
            return f"its destination is {destination.get('host', '')}"
        if not (name := destination.get("subset", "")):
            return ""
        if rule is None or name not in rule.subsets:
            return f"no DestinationRule has its subset {name}"
        wanted = rule.subsets[name][0].get("labels") or {}
        place = self.server.cluster, self.server.network
        pods = [endpoint_labels(pod.labels, pod.locality, *place) for pod in self.server.servers]
        if any(all(labels.get(key, "") in (value, None) for key, value in wanted.items()) for labels in pods):
            return ""
        return f"its subset {name} is {', '.join(f'{k}={v}' for k, v in wanted.items())}"

    def authorization(self) -> Iterator[Hindrance]:
        """The AuthorizationPolicies of the server's pods: a CUSTOM or DENY that matches, an ALLOW that does not.

        Source: Builder (pilot/pkg/security/authz/builder/builder.go); Envoy asks CUSTOM, then DENY, then ALLOW.
        """
        port = next((port for port in _ports(self.server.service) if port["port"] == self.probe.port), {})
        http = protocol(port) in (*virtual_services.HTTP, "any")
        accounts = {pod.account for pod in self.client.clients}
        calls = [
            (pod, Call(self.client.trust_domains[0], self.probe.namespace, account, self._target(pod), http=http))
            for pod in self.server.servers
            for account in sorted(accounts)
        ]
        yield from _counted([list(self._refused(pod, call)) for pod, call in calls])

    def _refused(self, pod: Pod, call: Call) -> Iterator[Hindrance]:
        policies = self.server.objects[AUTHORIZATION_POLICY]
        mine = authorization_policies.selected(policies, self.probe.namespace, pod.labels, self.server.mesh_wide)
        asked = [
            (
                str((policy.get("spec") or {}).get("action", "ALLOW")),
                policy,
                *authorization_policies.matching_rule(policy, call, self.server.trust_domains),
            )
            for policy in mine
        ]
        make = partial(of_object, self.server, AUTHORIZATION_POLICY, link=Link.ANSWERS)
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


def _label(settings: Manifest) -> str:
    """Return the labels by which the first selector that has nothing else selects a namespace."""
    selectors = [one for one in settings.get("discoverySelectors") or [] if not (one or {}).get("matchExpressions")]
    return " ".join(f"{k}={v}" for k, v in ((selectors[0] or {}).get("matchLabels") or {}).items()) if selectors else ""


def _counted(found: Sequence[Iterable[Hindrance]]) -> list[Hindrance]:
    """Return what each of several callers, or calls, meets: what only some do, perhaps."""
    counted = Counter(one for those in found for one in dict.fromkeys(those))
    return [
        one if times == len(found) else linked(one, one.link, impact=Impact.PERHAPS) for one, times in counted.items()
    ]


def _impact(*, part: bool) -> Impact:
    return Impact.PERHAPS if part else Impact.BREAKS


def _used(route: Route) -> list[Manifest]:
    """Return the destinations that get calls."""
    return [one for one in route.destinations if len(route.destinations) == 1 or one.get("weight", 0)]


def _spec(service: Manifest | None) -> Manifest:
    found: Manifest = (service or {}).get("spec") or {}
    return found


def _selector(spec: Manifest) -> dict[str, str]:
    return spec.get("selector") or {}


def _ports(service: Manifest | None) -> list[Manifest]:
    return ((service or {}).get("spec") or {}).get("ports") or []


def protocol(port: Manifest) -> str:
    """Return the protocol that istiod takes a Service's port for: of appProtocol, else of its name; else `any`.

    Source: ConvertProtocol (pkg/config/kube/conversion.go), Parse (pkg/config/protocol/instance.go).
    """
    if port.get("protocol") == "UDP":
        return "udp"
    named = str(port.get("appProtocol") or port.get("name") or "").lower()
    named = {"kubernetes.io/h2c": "http2", "kubernetes.io/ws": "http", "kubernetes.io/wss": "https"}.get(named, named)
    word = "grpc-web" if named.startswith("grpc-web") else named.partition("-")[0]
    known = ("tcp", "udp", "grpc", "grpc-web", "http", "http2", "https", "tls", "mongo", "redis", "mysql", "hbone")
    fallback = "tcp" if port.get("port") in (25, 53, 3306, 27017) else "any"
    return word if word in known else fallback
