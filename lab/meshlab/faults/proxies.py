"""Faults between istiods and their proxies: refused and late configuration, versions, injection, replicas."""

from __future__ import annotations

import json
import signal

from meshlab.faults import inside, pods
from meshlab.faults.bench import Bench
from meshlab.faults.fault import fault
from meshlab.faults.objects import Ref
from meshlab.faults.pods import ISTIOD, PROXIES
from meshlab.faults.services import HOST, SAMPLE, made
from meshlab.faults.views import edit_mesh_config
from meshlab.kube import Object
from meshlab.layout import API_PORT

OLD = "1.29"
ISTIOD_PORT = 15012


@fault(behind="F13", users="nothing; changes no longer reach the proxy", finding="MK901")
def nacked_envoyfilter(bench: Bench) -> None:
    """An EnvoyFilter makes clusters that Envoy refuses, for sleep."""
    patch = {
        "applyTo": "CLUSTER",
        "match": {"context": "SIDECAR_OUTBOUND", "cluster": {"service": HOST}},
        "patch": {"operation": "MERGE", "value": {"connect_timeout": "-1s"}},
    }
    spec = {"workloadSelector": {"labels": {"app": "sleep"}}, "configPatches": [patch]}
    bench.create(bench.site, made("EnvoyFilter", "networking.istio.io/v1alpha3", "refused", spec))


@fault(behind="F13", users="calls of the pod go to pods that are gone, until each is found dead", finding="MK901")
def paused_proxy(bench: Bench) -> None:
    """The pilot-agent of sleep is stopped (SIGSTOP), so that its proxy is stale after the next change."""
    pod = pods.chosen(bench.kube(bench.site), f"{SAMPLE}/sleep")[0]["metadata"]["name"]
    bench.signal(bench.site, f"{SAMPLE}/{pod}/istio-proxy", signal.SIGSTOP, undo=signal.SIGCONT)
    pods.delete(bench.kube(bench.site), f"{SAMPLE}/httpbin")


@fault(
    behind="S1 P20",
    users="nothing that can be predicted: no rule says which versions may differ",
    finding="MK207",
)
def version_skew(bench: Bench) -> None:
    """Istiod and all proxies of the cluster are of version 1.29: the same programs, built with that stamp."""

    def inject(config: Object) -> None:
        values = json.loads(config["data"]["values"])
        values["global"]["tag"] = OLD
        config["data"]["values"] = json.dumps(values)

    def run_old(deployment: Object) -> None:
        container = deployment["spec"]["template"]["spec"]["containers"][0]
        container["image"] = f"{container['image'].rpartition(':')[0]}:{OLD}"

    bench.edit(bench.site, Ref("ConfigMap", "istio-sidecar-injector"), inject)
    bench.edit(bench.site, Ref("Deployment", "istiod"), run_old)
    bench.settle(bench.site)
    bench.restart(bench.site, PROXIES)


@fault(
    behind="P4 F6",
    users="nothing, until proxies need certificates: istiod refuses them; new pods are of no network",
    finding="MK843",
)
def former_values(bench: Bench) -> None:
    """The values of before the mesh were applied again: istiod forgot its cluster id, mesh id and network."""

    def inject(config: Object) -> None:
        values = json.loads(config["data"]["values"])
        values["global"] |= {"meshID": "", "network": "", "multiCluster": {"enabled": False, "clusterName": ""}}
        config["data"]["values"] = json.dumps(values)

    def forget(deployment: Object) -> None:
        for each in deployment["spec"]["template"]["spec"]["containers"][0]["env"]:
            if each["name"] == "CLUSTER_ID":
                each["value"] = "Kubernetes"

    bench.edit(bench.site, Ref("ConfigMap", "istio-sidecar-injector"), inject)
    edit_mesh_config(bench, bench.site, lambda config: config["defaultConfig"].pop("meshId"))
    bench.edit(bench.site, Ref("Deployment", "istiod"), forget)
    bench.settle(bench.site)


@fault(
    behind="P24",
    users="new pods have no sidecar: calls to other clusters fail, policies do not hold",
    finding="MK210",
)
def injection_label_missing(bench: Bench) -> None:
    """The namespace sample lacks its injection label, and its httpbin was restarted since."""
    bench.edit(bench.site, Ref("Namespace", SAMPLE, ""), lambda item: item["metadata"]["labels"].pop("istio-injection"))
    bench.restart(bench.site, f"{SAMPLE}/httpbin")


@fault(behind="P23", users="nothing at first; new pods do not become ready, changes do not arrive", finding="MK731")
def firewall_15012(bench: Bench) -> None:
    """A firewall drops what pods send to istiod's port 15012."""
    bench.firewall(bench.site.name, "PREROUTING", "-p", "tcp", "--dport", str(ISTIOD_PORT), "-j", "DROP")


@fault(behind="P9 P10 F4", users="proxies of one replica get only answers from their own cluster", finding="MK702")
def stale_istiod_replica(bench: Bench) -> None:
    """The other cluster has two replicas of istiod; one started while it could not reach the API server."""
    reader, target = bench.peer, bench.site
    old = {pod["metadata"]["name"] for pod in pods.chosen(bench.kube(reader), ISTIOD)}
    bench.edit(reader, Ref("Deployment", "istiod"), lambda item: item["spec"].update(replicas=len(old) + 1))
    bench.settle(reader)
    (new,) = {pod["metadata"]["name"] for pod in pods.chosen(bench.kube(reader), ISTIOD)} - old
    state = inside.states(bench.home, reader)
    netns = state[f"istio-system/{new}/pod.json"]["netns"].rpartition("/")[2]
    bench.firewall(netns, "OUTPUT", "-p", "tcp", "-d", target.api_ip, "--dport", str(API_PORT), "-j", "DROP")
    bench.signal(reader, f"istio-system/{new}/discovery", signal.SIGKILL)
    pods.restarted(bench.kube(reader), new, "istio-system")
