"""The lab's start scenarios `empty`, `single`, `meshed` and `strangers`, made as in Istio's documentation.

Only istioctl, kubectl and openssl are used, so a meshed lab is the yardstick for what meshkit's migration leaves. A
shape of the lab (`meshlab.shapes`) says what is made otherwise.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from meshlab import certificates, helm, primary_remote
from meshlab.layout import Say, Settings, Site, programs, sites
from meshlab.programs import GATEWAY_API, share
from meshlab.shapes.shape import Shape
from meshlab.tools import MANIFESTS, Timed, Tools, each

MESH_ID = "mesh1"
OPERATOR = {"apiVersion": "install.istio.io/v1alpha1", "kind": "IstioOperator"}
USUAL = Shape()
EASTWEST = "istio-eastwestgateway"


def make(scenario: str, home: Path, settings: Settings, say: Say) -> None:
    """Bring fresh bare clusters to a scenario."""
    tools, all_sites = Tools(home), sites(settings.clusters)
    timed = Timed(say)
    each(all_sites, lambda site: prepare(tools, site))
    if scenario == "meshed" or (scenario == "single" and tools.shape.has_cacerts):
        certificates.make_root(tools)
    if scenario == "single":
        if tools.shape.certificates.form == "cert-manager":  # it serves clusters that have no Istio yet, too
            each(all_sites, lambda site: root_namespace(tools, site, {}))
        install_single(tools, all_sites[0], timed)
    elif scenario in ("meshed", "strangers"):
        install_meshed(tools, all_sites, settings, timed)


def prepare(tools: Tools, site: Site) -> None:
    """Make what a cluster of the shape has before Istio comes."""
    if tools.shape.nodes == "external":
        addresses = [{"type": kind, "address": site.node_ip} for kind in ("InternalIP", "ExternalIP")]
        addresses.append({"type": "Hostname", "address": site.name})
        patch = json.dumps({"status": {"addresses": addresses}})
        tools.kubectl(site, "patch", "node", site.name, "--subresource=status", "--type=merge", "--patch", patch)
    if tools.shape.gateway_api:
        crds = share(programs(tools.shape.release(site.name))) / GATEWAY_API
        tools.kubectl(site, "apply", "--server-side", "-f", str(crds))


def install_single(tools: Tools, site: Site, timed: Timed) -> None:
    """Install Istio the ordinary way: default profile, self-signed root, no ids, no network; sample and load."""
    root_namespace(tools, site, {})
    if tools.shape.installer == "helm":
        install_by_helm(tools, site, timed, {})
    else:
        timed(f"{site.name}: istioctl install, default profile", lambda: tools.install(site))
        make_tags(tools, site)
    timed(f"{site.name}: httpbin, sleep and load are ready", lambda: sample(tools, site, load=True))


def root_namespace(tools: Tools, site: Site, labels: dict[str, str | None]) -> None:
    """Create istio-system where it must have labels, or cacerts, before istioctl creates it."""
    labels = {key: value for key, value in (labels | tools.shape.labels.get("istio-system", {})).items() if value}
    plugged = (tools.home / "certs").exists() and not (tools.home / "certs" / site.name).exists()
    if labels or plugged:
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "istio-system", "labels": labels}}
        tools.apply_all(site, [namespace])
    if plugged:
        certificates.plug(tools, site)


def install_by_helm(tools: Tools, site: Site, timed: Timed, ids: dict[str, Any]) -> None:
    """Install the charts of istiod and of an ingress gateway, as the default profile has them."""
    timed(f"{site.name}: helm install, base and istiod", lambda: helm.install_istiod(tools, site, ids))
    timed(f"{site.name}: helm install, gateway", lambda: helm.install_gateway(tools, site, "istio-ingressgateway"))


def make_tags(tools: Tools, site: Site) -> None:
    """Make the tags of the shape's revision."""
    for tag in tools.shape.tags:
        tools.istioctl(site, "tag", "set", tag, "--revision", tools.shape.revision)


def sample(tools: Tools, site: Site, *, load: bool) -> None:
    """Deploy httpbin and sleep, and the load where asked, and wait for them; then what users have beside them."""
    namespace, *rest = yaml.safe_load_all((MANIFESTS / "sample.yaml").read_text())
    labels = namespace["metadata"]["labels"] | tools.shape.labels.get("sample", {})
    namespace["metadata"]["labels"] = {key: value for key, value in labels.items() if value is not None}
    tools.apply_all(site, [namespace, *rest])
    if load:
        tools.apply(site, "load.yaml")
    tools.kubectl(site, "wait", "-n", "sample", "--for=condition=Available", "deployment", "--all", "--timeout=90s")
    if tools.shape.objects:
        tools.apply_all(site, tools.shape.objects)


def install_meshed(tools: Tools, all_sites: list[Site], settings: Settings, timed: Timed) -> None:
    """Make a finished mesh: ids, gateways, remote secrets, sample everywhere; one root only where it was made."""
    if tools.shape.control_plane == "primary-remote":
        install_remotes(tools, all_sites, settings, timed)
    else:
        each(all_sites, lambda site: primary(tools, site, timed, flat=settings.flat))
        pairs = [(a, b) for a in all_sites for b in all_sites if a != b]
        timed("remote secrets of every ordered pair", lambda: each(pairs, lambda pair: remote_secret(tools, *pair)))

    def workloads(site: Site) -> None:
        timed(f"{site.name}: sample is ready", lambda: sample(tools, site, load=site.number == 1))

    each(all_sites, workloads)


def install_remotes(tools: Tools, all_sites: list[Site], settings: Settings, timed: Timed) -> None:
    """Make the first cluster's istiod serve the others, by a remote secret of each."""
    first, *remotes = all_sites
    primary(tools, first, timed, flat=settings.flat, more=primary_remote.PRIMARY)
    address = primary_remote.offer(tools, first)

    def remote(site: Site) -> None:
        network = network_of(site, flat=settings.flat)
        more = primary_remote.remote_settings(site, address, network)
        control_plane(tools, site, timed, network=network, more=more)
        primary_remote.served_by(tools, site, first)
        remote_secret(tools, first, site)
        timed(f"{site.name}: webhooks", lambda: primary_remote.wait_for_webhooks(tools, site))
        if not settings.flat:
            eastwest_gateway(tools, site, timed, expose=False)  # istiod reads that of the primary only

    each(remotes, remote)


def primary(
    tools: Tools, site: Site, timed: Timed, *, flat: bool, more: Mapping[str, str] = MappingProxyType({})
) -> None:
    """Install one primary as Istio's multi-primary pages tell it; its gateway, too, unless networks are flat."""
    control_plane(tools, site, timed, network=network_of(site, flat=flat), more=more)
    if not flat:
        eastwest_gateway(tools, site, timed)


def network_of(site: Site, *, flat: bool) -> str:
    """Return the name of a cluster's network."""
    return "net-flat" if flat else site.network


def control_plane(
    tools: Tools, site: Site, timed: Timed, *, network: str, more: Mapping[str, str] = MappingProxyType({})
) -> None:
    """Install istiod with its ids, below the common root where there is one; else it makes a root of its own.

    `more` are settings of istioctl; with some it is the part of a remote, which has no istiod.
    """
    root_namespace(tools, site, {"topology.istio.io/network": network})
    if tools.shape.installer == "helm":
        ids = {"meshID": MESH_ID, "multiCluster": {"clusterName": site.name}, "network": network}
        install_by_helm(tools, site, timed, ids)
        return
    flags = with_ids(site, network, more)
    networks = mesh_networks(tools.shape)
    files = ("-f", "-") if networks else ()
    timed(f"{site.name}: istioctl install", lambda: tools.install(site, *files, *flags, stdin=networks))
    make_tags(tools, site)


def with_ids(site: Site, network: str, more: Mapping[str, str] = MappingProxyType({})) -> list[str]:
    """Return the flags by which istioctl gives a cluster its ids, and `more` settings."""
    values = {"global.meshID": MESH_ID, "global.multiCluster.clusterName": site.name, "global.network": network}
    settings = {**{f"values.{name}": value for name, value in values.items()}, **more}
    return [f"--set={name}={value}" for name, value in settings.items()]


def mesh_networks(shape: Shape) -> str:
    """Return the IstioOperator with the meshNetworks of a shape, or nothing where gateways are known by labels."""
    networks = {
        name: {"endpoints": [{"fromRegistry": name.removeprefix("net-")}], "gateways": [gateway]}
        for name, gateway in shape.mesh_networks.items()
    }
    spec = {"values": {"global": {"meshNetworks": networks}}}
    return yaml.safe_dump({**OPERATOR, "spec": spec}) if networks else ""


def eastwest_gateway(tools: Tools, site: Site, timed: Timed, *, expose: bool = True) -> None:
    """Install a cluster's east-west gateway, and expose all services through it."""
    if tools.shape.gateway_api:
        tools.apply_all(site, [gateway_object(site, tools.shape)])
        wait = ("wait", "-n", "istio-system", "--for=condition=Programmed", "gateway/eastwestgateway", "--timeout=90s")
        timed(f"{site.name}: east-west gateway", lambda: tools.kubectl(site, *wait))
        return
    if tools.shape.installer == "helm":
        install = lambda: helm.install_gateway(tools, site, EASTWEST, networkGateway=site.network)  # noqa: E731
    else:
        # `-f -` reads the gateway's operator; the overlay names the lab's images.
        operator, flags = eastwest_operator(site, tools.shape)
        install = lambda: tools.install(site, "-f", "-", *flags, stdin=operator)  # noqa: E731
    timed(f"{site.name}: east-west gateway", install)
    if expose:
        tools.apply_all(site, exposure(tools.shape))


def eastwest_operator(site: Site, shape: Shape = USUAL) -> tuple[str, list[str]]:
    """Return the IstioOperator of a cluster's east-west gateway, and the flags that istioctl takes with it."""
    document = yaml.safe_load((MANIFESTS / "eastwest-gateway.yaml").read_text().replace("{network}", site.network))
    (gateway,) = document["spec"]["components"]["ingressGateways"]
    if shape.mesh_networks:
        del gateway["label"]["topology.istio.io/network"]
    if kind := shape.gateway.get("serviceType"):
        gateway["k8s"]["service"]["type"] = kind
    if annotations := shape.gateway.get("annotations"):
        gateway["k8s"]["serviceAnnotations"] = annotations
    values = {"global.meshID": MESH_ID, "global.multiCluster.clusterName": site.name}
    return yaml.safe_dump(document), [f"--set=values.{name}={value}" for name, value in values.items()]


def gateway_object(site: Site, shape: Shape) -> dict[str, Any]:
    """Return the Gateway, of the Gateway API, that is a cluster's east-west gateway."""
    text = (MANIFESTS / "eastwest-gateway-api.yaml").read_text()
    gateway: dict[str, Any] = yaml.safe_load(text.replace("{network}", site.network))
    if hosts := exposed_hosts(shape):
        gateway["spec"]["listeners"][0]["hostname"] = hosts[0]
    return gateway


def exposed_hosts(shape: Shape) -> list[str]:
    """Return the hosts that are exposed, or none where those of Istio's page are right: they are of cluster.local."""
    elsewhere = [] if shape.domain == USUAL.domain else [f"*.{shape.domain}"]
    return list(shape.gateway.get("hosts") or elsewhere)


def exposure(shape: Shape) -> list[dict[str, Any]]:
    """Return the Gateway that exposes the Services of a cluster to the others."""
    gateway = yaml.safe_load((MANIFESTS / "expose-services.yaml").read_text())
    if hosts := exposed_hosts(shape):
        gateway["spec"]["servers"][0]["hosts"] = hosts
    return [gateway]


def remote_secret(tools: Tools, reader: Site, target: Site) -> None:
    """Give one cluster's istiod the credential of another's API server, at its address on the WAN."""
    secret = tools.istioctl(target, "create-remote-secret", f"--name={target.name}", f"--server={target.api_url}")
    tools.kubectl(reader, "apply", "-f", "-", stdin=secret)
