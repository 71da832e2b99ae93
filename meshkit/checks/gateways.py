"""Checks of east-west gateways, for stages 06 to 08: is one offered, and does each istiod know it?"""

from __future__ import annotations

from collections.abc import Iterator

from meshkit.checks.finding import Finding, Verdict
from meshkit.checks.question import Question, arrow
from meshkit.istio.control_plane.versions import Identity, home, outside
from meshkit.istio.multicluster import gateway_choice
from meshkit.istio.multicluster.gateways import (
    NETWORK,
    NODE_SELECTOR,
    PASSTHROUGH_PORT,
    Gateways,
    GatewaysSeen,
    GatewayType,
    NetworkGateway,
)
from meshkit.istio.reading import cell
from meshkit.kube.api_server import is_number
from meshkit.kube.mesh import Mesh


def check_gateway(mesh: Mesh, gateways: Gateways, name: str) -> Finding:
    """MK805: the cluster offers a gateway of its network: labelled, addressed, listening, ready, exposed.

    One without is reached through the gateway of another cluster of its network.
    """
    entry = mesh.spec.cluster(name)
    has = f"with an address, port {PASSTHROUGH_PORT}, ready pods and an AUTO_PASSTHROUGH Gateway"
    expected = f"a Service of {entry.network} {has}"
    ask = Question("MK805", "east-west gateway is offered", name, expected)
    if reason := gateways.unknown(name):
        return ask.unknown(reason)
    offered, near = gateways.of(name), _neighbour(mesh, gateways, name)
    if near and not any(one.used_for(entry.network) for one in offered):
        at = f"{near.called} at {cell(near.addresses)}:{near.port}"
        return ask.answer(Verdict.PASS, f"of {near.cluster}, on the same network: {at}")
    if not offered:
        if reason := gateway_choice.unread(mesh, gateways, name):
            return ask.unknown(f"none of its own; whether another cluster of {entry.network} has one: {reason}")
        none = next((one.reason for one in gateways.none_in(name)), "none")
        return ask.fail(none, "run stage 06, which installs one")
    lacking = [(one, unmet_requirements(one, entry.network)) for one in offered]
    good = next((one for one, missing in lacking if not missing), None)
    problems = [(one, missing) for one, missing in lacking if missing]
    # istiod asks a Service for no more: others send their share of the calls to each that has all of this.
    used = [(one, missing) for one, missing in problems if one.used_for(entry.network)]
    if good and not used:
        at = f"{good.called} at {cell(good.addresses)}:{good.port}"
        behind = "MK840 asks what is behind it" if good.declared else f"{good.ready}/{good.pods} ready"
        return ask.answer(Verdict.PASS, f"{at}, {behind}")
    wrong = used if good else problems
    observed = [f"{one.service or 'no Service'}: {', '.join(missing)}" for one, missing in wrong]
    observed += ["istiods send calls there, too"] if good else []
    steps = dict.fromkeys(step for one, _ in wrong for step in _steps(one, entry.network, entry.context))
    return ask.fail("; ".join(observed), "; ".join(steps) or "run stage 06")


def _neighbour(mesh: Mesh, gateways: Gateways, name: str) -> NetworkGateway | None:
    """Return a gateway of another cluster by which a cluster's network can be reached."""
    network = mesh.spec.cluster(name).network
    known = (
        one
        for one in gateways
        if one.cluster != name and one.used_for(network) and not mesh.spec.crosses(name, one.cluster)
    )
    return next((one for one in known if not unmet_requirements(one, network)), None)


def unmet_requirements(gateway: NetworkGateway, network: str, *, exposed: bool = True) -> list[str]:
    """Return what a gateway lacks to be that of a network; and to let others in, unless that is not asked."""
    if gateway.declared:
        return [] if gateway.port else ["no port"]
    found = {
        f"label {NETWORK} is {gateway.network or 'missing'}": gateway.network == network,
        _no_address(gateway): gateway.addresses,
        f"does not listen on {PASSTHROUGH_PORT}": gateway.port,
        f"{gateway.ready} of {gateway.pods} pods ready": gateway.ready,
        "no AUTO_PASSTHROUGH Gateway selects it": gateway.exposed_by or not exposed,
        f"discoverySelectors leave namespace {gateway.namespace} out": gateway.cluster not in gateway.left_out_by,
    }
    return [missing for missing, there in found.items() if not there]


def _steps(gateway: NetworkGateway, network: str, context: str) -> Iterator[str]:
    """Yield what gives a gateway what it lacks, in the order of `unmet_requirements`."""
    if gateway.declared:
        yield "run stage 06, which installs one"
        return
    kubectl, place = f"kubectl --context {context}", f"-n {gateway.namespace} {gateway.service}"
    if gateway.network != network:
        yield f"{kubectl} label service {place} {NETWORK}={network} --overwrite"
    if not gateway.addresses:
        by_type: dict[str, str] = {
            GatewayType.NODE_PORT: f"{kubectl} annotate service {place} {NODE_SELECTOR}='{{}}'",
            GatewayType.LOAD_BALANCER: f"`{kubectl} describe service {place}` shows why it is pending",
        }
        patch = f'{kubectl} patch service {place} -p \'{{"spec": {{"type": "LoadBalancer"}}}}\''
        yield by_type.get(gateway.type, patch)
    if not gateway.port:
        port = f'{{"name":"tls-{PASSTHROUGH_PORT}","port":{PASSTHROUGH_PORT},"targetPort":{PASSTHROUGH_PORT}}}'
        patch = f'[{{"op":"add","path":"/spec/ports/-","value":{port}}}]'
        yield f"{kubectl} patch service {place} --type=json -p '{patch}'"
    if not gateway.ready:
        selector = f" -l {cell(gateway.selector)}" if gateway.selector else ""
        none = gateway.pods == 0 and selector
        scale = f"{kubectl} scale deployment -n {gateway.namespace}{selector} --replicas=1"
        yield scale if none else f"`{kubectl} get pods -n {gateway.namespace}{selector}` shows why none is ready"
    if not gateway.exposed_by:
        yield "run stage 06, which exposes Services by an AUTO_PASSTHROUGH Gateway"
    if gateway.cluster in gateway.left_out_by:
        yield _selected(gateway, gateway.cluster, context)


def _selected(gateway: NetworkGateway, reader: str, context: str) -> str:
    """Return what has a reader's istiod know a gateway whose namespace its discoverySelectors leave out."""
    asked = f"as discoverySelectors of {reader}'s meshConfig ask"
    return f"kubectl --context {context} label namespace {gateway.namespace} KEY=VALUE, {asked}"


def _no_address(gateway: NetworkGateway) -> str:
    reasons: dict[str, str] = {
        GatewayType.LOAD_BALANCER: "its load balancer is pending",
        GatewayType.NODE_PORT: f"type NodePort needs {NODE_SELECTOR} and nodes with an ExternalIP",
        GatewayType.CLUSTER_IP: "type ClusterIP has none without externalIPs",
    }
    why = reasons.get(gateway.type, "")
    return f"no address ({why})" if why else "no address"


def check_pair(
    mesh: Mesh, identity: Identity, gateways: Gateways, seen: GatewaysSeen, pair: tuple[str, str]
) -> Iterator[Finding]:
    """MK806 and MK838 of a pair of different networks, by the istiods that serve its client; of others nothing."""
    client, server = pair
    if not mesh.spec.crosses(*pair):
        return
    if reason := outside(identity, client):
        expected = mesh.spec.cluster(server).network
        ask = Question("MK806", "istiod knows the other network's gateway", arrow(*pair), expected)
        yield ask.unknown(reason, "ask that istiod: /debug/networkz")
        return
    yield from check_gateway_seen(mesh, gateways, seen, home(identity, client), server, client=client)


def check_gateway_seen(
    mesh: Mesh, gateways: Gateways, seen: GatewaysSeen, reader: str, target: str, *, client: str = ""
) -> Iterator[Finding]:
    """MK806: each istiod of the reader knows the gateway of the target's network; or of its own, if that is meant.

    `client` is the cluster for whose proxies that is asked, where the reader's istiods serve another than their own.

    MK838: istiod's address for the remote gateway is one that the gateway has now.
    """
    network = mesh.spec.cluster(target).network
    offered = gateway_choice.offered(mesh, gateways, target)
    addresses = {address for one in offered for address in one.addresses}
    hidden = [
        _selected(one, reader, mesh.spec.cluster(one.cluster).context) for one in offered if reader in one.left_out_by
    ]
    expected = f"{network} at {', '.join(sorted(addresses)) or 'an address'}"
    own_view = (client or reader) == target
    check = "istiod knows its own network's gateway" if own_view else "istiod knows the other network's gateway"
    subject = reader if own_view else arrow(client or reader, target)
    ask = Question("MK806", check, subject, expected)
    for one in seen.unread_in(reader):
        yield ask.unknown(one.reason)
    istiods = {one.istiod for one in (*seen.of(reader), *seen.none_in(reader))}
    if not istiods and seen.lacks(reader):
        yield ask.unknown("no istiod to ask", "see MK801")
    chosen = gateway_choice.seen(mesh, seen, reader, target)
    for istiod in sorted(istiods):
        known = {one.address for one in chosen if one.istiod == istiod}
        told = f"{network} at {', '.join(sorted(known))}" if known else f"no gateway of {network}"
        observed = f"{istiod}: {told}"
        if known and (reason := gateway_choice.unread(mesh, gateways, target)):
            yield ask.unknown(f"{observed}; what {target} offers could not be read: {reason}")
            continue
        remedy = "; ".join(dict.fromkeys(hidden)) or "without it, proxies get the pods' own addresses; see MK805"
        yield ask.judge(known, observed, remedy)
        if not known:
            continue
        at = Question("MK838", "gateway is seen at its current address", subject, expected)
        # istiod resolves host names itself (EKS): a number that is no gateway's may be one of theirs.
        if not known <= addresses and not all(map(is_number, addresses)):
            yield at.answer(Verdict.SKIPPED, f"{observed}; it has a host name, which istiod resolves: see MK733")
            continue
        if not addresses:
            yield at.unknown(f"{observed}; {target} offers no address to compare it with", "see MK805")
            continue
        remedy = (
            "an old address stays while a name does not resolve; meshNetworks may name another; restart that istiod"
        )
        yield at.judge(known <= addresses, observed, remedy)
