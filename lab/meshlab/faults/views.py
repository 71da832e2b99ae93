"""Faults of what a cluster's clients see of other clusters: by Services, by Istio's objects, by meshConfig."""

from __future__ import annotations

from collections.abc import Callable

import yaml

from meshlab.faults.bench import Bench
from meshlab.faults.fault import fault
from meshlab.faults.objects import Ref
from meshlab.faults.services import HOST, SAMPLE, made
from meshlab.kube import Object
from meshlab.layout import Site

NETWORKING, SECURITY = "networking.istio.io/v1", "security.istio.io/v1"
SERVICE = Ref("Service", "httpbin", SAMPLE)
MESH_CONFIG = Ref("ConfigMap", "istio")
SELECTED = {"discovery": "enabled"}
FORMER_GATEWAY = 250
"""Number of a load balancer's address that nothing has."""
OWN_ANSWERS = "callers in the cluster get only answers of their own cluster"


@fault(behind="P13", users="others get only answers from their own cluster; their retries hide 503s", finding="MK728")
def export_to_own_namespace(bench: Bench) -> None:
    """The Service httpbin is exported to its own namespace only, which the east-west gateway is not in."""
    annotation = {"networking.istio.io/exportTo": "."}
    bench.edit(bench.site, SERVICE, lambda item: item["metadata"].setdefault("annotations", {}).update(annotation))


@fault(behind="P17", users="calls to the other clusters end: endpoints go by the port's name", finding="MK728")
def port_named_otherwise(bench: Bench) -> None:
    """The port of the Service httpbin is called tcp-http there, and http in the other clusters."""
    bench.edit(bench.site, SERVICE, lambda item: item["spec"]["ports"][0].update(name="tcp-http"))


@fault(behind="P17", users="nobody gets an answer of the cluster, whose pods run and are ready", finding="MK728")
def selector_without_pods(bench: Bench) -> None:
    """The selector of the Service httpbin names a version that no pod has."""
    bench.edit(bench.site, SERVICE, lambda item: item["spec"]["selector"].update(version="v2"))


@fault(behind="P13", users=OWN_ANSWERS + ", as plain text by its ClusterIP", finding="MK728")
def sidecar_without_the_server(bench: Bench) -> None:
    """A Sidecar lists what sleep may call, and httpbin is not on the list."""
    spec = {
        "workloadSelector": {"labels": {"app": "sleep"}},
        "egress": [{"hosts": [f"./sleep.{SAMPLE}.svc.cluster.local", "istio-system/*"]}],
    }
    bench.create(bench.site, made("Sidecar", NETWORKING, "sleep", spec))


@fault(behind="P18 F18", users=OWN_ANSWERS + ", and 503 when that has none", finding="MK728")
def locality_without_the_others(bench: Bench) -> None:
    """A DestinationRule distributes the calls of its own region to that region alone."""
    regions = f"region{bench.site.number}/*"
    distribute = [{"from": regions, "to": {regions: 100}}]
    policy = {"loadBalancer": {"localityLbSetting": {"enabled": True, "distribute": distribute}}}
    spec = {"host": HOST, "trafficPolicy": policy}
    bench.create(bench.site, made("DestinationRule", NETWORKING, "nearby", spec))


@fault(behind="P13", users="part of the calls in the cluster go to an address that nobody has", finding="MK728")
def service_entry_of_the_same_host(bench: Bench) -> None:
    """A ServiceEntry that joined the clusters by hand still names the host of httpbin, and a gateway that is gone."""
    spec = {
        "hosts": [HOST],
        "location": "MESH_INTERNAL",
        "ports": [{"number": 8000, "name": "http", "protocol": "HTTP"}],
        "resolution": "STATIC",
        "endpoints": [{"address": bench.peer.load_balancer_ip(FORMER_GATEWAY), "ports": {"http": 80}}],
    }
    bench.create(bench.site, made("ServiceEntry", NETWORKING, "httpbin-elsewhere", spec))


@fault(behind="P24", users=OWN_ANSWERS + ", and 503 when that has none", finding="MK728")
def cluster_local_service(bench: Bench) -> None:
    """The meshConfig of the cluster says that Services of the namespace sample are clusterLocal."""
    entry = {"settings": {"clusterLocal": True}, "hosts": [f"*.{SAMPLE}.svc.cluster.local"]}
    edit_mesh_config(bench, bench.site, lambda config: config.setdefault("serviceSettings", []).append(entry))


@fault(behind="P24", users=OWN_ANSWERS, finding="MK728")
def discovery_selectors(bench: Bench) -> None:
    """The istiod of the cluster reads labelled namespaces only, and the other clusters' sample lacks the label."""

    def label(site: Site, *names: str) -> None:
        for name in names:
            bench.edit(site, Ref("Namespace", name, ""), lambda item: item["metadata"]["labels"].update(SELECTED))

    for site in bench.sites:
        label(site, "istio-system", *([SAMPLE] if site == bench.site else []))
    selectors = [{"matchLabels": SELECTED}]
    edit_mesh_config(bench, bench.site, lambda config: config.update(discoverySelectors=selectors))


@fault(behind="P19", users="callers get 403, RBAC: access denied, from the cluster's pods", finding="MK728")
def denied_client(bench: Bench) -> None:
    """An AuthorizationPolicy of the cluster denies httpbin's callers by the identity of sleep."""
    rule = {"from": [{"source": {"principals": [f"cluster.local/ns/{SAMPLE}/sa/sleep"]}}]}
    spec = {"selector": {"matchLabels": {"app": "httpbin"}}, "action": "DENY", "rules": [rule]}
    bench.create(bench.site, made("AuthorizationPolicy", SECURITY, "no-sleep", spec))


def edit_mesh_config(bench: Bench, site: Site, change: Callable[[Object], object]) -> None:
    """Change the meshConfig of a cluster; its istiod reads it again by itself."""

    def rewrite(item: Object) -> None:
        config = yaml.safe_load(item["data"]["mesh"])
        change(config)
        item["data"]["mesh"] = yaml.safe_dump(config)

    bench.edit(site, MESH_CONFIG, rewrite)
