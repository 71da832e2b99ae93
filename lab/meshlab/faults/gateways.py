"""Faults of the path between networks: gateways, their Services and labels, exposure, firewalls."""

from __future__ import annotations

from meshlab.faults.bench import Bench
from meshlab.faults.fault import fault
from meshlab.faults.objects import Ref, fresh
from meshlab.kube import Object

GATEWAY = "istio-eastwestgateway"
SERVICE, DEPLOYMENT = Ref("Service", GATEWAY), Ref("Deployment", GATEWAY)
EXPOSURE = Ref("Gateway", "cross-network-gateway")
NETWORK, NETWORK_VIEW = "topology.istio.io/network", "ISTIO_META_REQUESTED_NETWORK_VIEW"
SNI_PORT = 15443
HOME_ONLY = "only answers from their own cluster; without an endpoint at home, 503"


@fault(behind="P11 F10 F12", users=f"others get {HOME_ONLY}", finding="MK805")
def gateway_down(bench: Bench) -> None:
    """The east-west gateway has no pods: its Deployment is scaled to 0."""
    bench.edit(bench.site, DEPLOYMENT, lambda item: item["spec"].update(replicas=0))
    bench.settle(bench.site)


@fault(behind="P11 F9 F10", users="others send to pod addresses of a network that they cannot reach", finding="MK805")
def gateway_without_address(bench: Bench) -> None:
    """No load balancer gives the east-west gateway's Service an address: its class is nobody's, so it stays pending."""
    before = bench.delete(bench.site, SERVICE)
    spec = {**before["spec"], "loadBalancerClass": "example.com/nobody"}
    bench.create(bench.site, {**fresh(before), "spec": spec})


@fault(behind="P11 F9", users="nothing, as long as each pod and gateway has a label of its own", finding="MK201")
def namespace_without_network_label(bench: Bench) -> None:
    """The namespace of istiod lacks its network label."""
    bench.edit(bench.site, Ref("Namespace", "istio-system", ""), unlabel)


@fault(behind="P11 F9 F10", users="others send to pod addresses of a network that they cannot reach", finding="MK805")
def gateway_without_network_label(bench: Bench) -> None:
    """The Service of the east-west gateway lacks its network label, so nobody takes it for a gateway."""
    bench.edit(bench.site, SERVICE, unlabel)


@fault(behind="P11 F9", users="others send to pod addresses of a network that they cannot reach", finding="MK805")
def wrong_gateway_port(bench: Bench) -> None:
    """The Service of the east-west gateway listens on 15444 instead of 15443."""

    def renumber(item: Object) -> None:
        for port in item["spec"]["ports"]:
            if port["port"] == SNI_PORT:
                port["port"] = SNI_PORT + 1

    bench.edit(bench.site, SERVICE, renumber)


@fault(behind="P13", users=f"others get {HOME_ONLY}", finding="MK805")
def exposure_missing(bench: Bench) -> None:
    """The Gateway object that exposes services on 15443 is deleted."""
    bench.delete(bench.site, EXPOSURE)


@fault(behind="P13", users=f"others get {HOME_ONLY}", finding="MK805")
def exposure_selector_wrong(bench: Bench) -> None:
    """The Gateway object that exposes services selects a gateway that does not exist."""
    bench.edit(bench.site, EXPOSURE, lambda item: item["spec"].update(selector={"istio": "eastwest-gateway"}))


@fault(behind="P11 F12", users="others get few answers from the cluster; no call fails", finding="MK616")
def gateway_of_all_networks(bench: Bench) -> None:
    """The east-west gateway lacks ISTIO_META_REQUESTED_NETWORK_VIEW: it sends requests back to the other gateways."""

    def unset(item: Object) -> None:
        (proxy,) = item["spec"]["template"]["spec"]["containers"]
        proxy["env"] = [each for each in proxy["env"] if each["name"] != NETWORK_VIEW]

    bench.edit(bench.site, DEPLOYMENT, unset)
    bench.settle(bench.site)


@fault(behind="P11", users=f"others get {HOME_ONLY}; calls wait for a connection that never comes", finding="MK840")
def firewall_15443(bench: Bench) -> None:
    """A firewall drops what others send to port 15443 of the cluster's load balancers."""
    addresses = f"{bench.site.load_balancer_ip(0)}/24"
    bench.firewall("", "PREROUTING", "-p", "tcp", "-d", addresses, "--dport", str(SNI_PORT), "-j", "DROP")


def unlabel(item: Object) -> None:
    """Take the network label off an object."""
    item["metadata"]["labels"].pop(NETWORK)
