"""The node of one cluster of the lab: a process runner in the place of a kubelet.

It binds every pending pod to itself, runs each in a thread (pod.py), keeps Service addresses, load balancers and DNS
(services.py), and owns pod status: a container is ready when its own probes say so.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
import threading
import time
from pathlib import Path

import urllib3

from meshlab import cluster, network, services
from meshlab.container import Logs, now
from meshlab.kube import Kube, Object, Refused, Store, key
from meshlab.layout import NODE_API_PORT, Settings, Site
from meshlab.pod import Pod

# Native sidecars are decided by what the node says of itself (istiod reads kubeletVersion, 1.33 and later).
KUBELET_VERSION = "v1.37.2"
PATIENCE = 60.0


class Node:
    """One cluster's only node."""

    def __init__(self, home: Path, site: Site, domain: str) -> None:
        self.site, self.domain = site, domain
        self.kube = Kube(home / site.name / "node.kubeconfig")
        self.log_folder = home / "log" / f"{site.name}-pods"
        self.scratch = cluster.state(site).parent / "pods"
        self.state_folder = cluster.state(site)
        self.logs = Logs()
        self.changed = threading.Event()
        self.running: dict[str, Pod] = {}
        self.said: dict[tuple[str, str, str], tuple[str, int]] = {}
        self._ips = itertools.count(2 * 256 + 10)
        self.routes = home / site.name / "routes.json"
        self.state_folder.mkdir(parents=True, exist_ok=True)
        network.make_bridge(site)

    def start(self) -> None:
        """Register the node once the API server answers, and watch what a node watches."""
        self._until_ready()
        self._register()
        store = self._store
        self.secrets, self.config_maps = store("secrets"), store("configmaps")
        self.services = store("services")
        self.slices = Store(self.kube, "/apis/discovery.k8s.io/v1/endpointslices", self.changed.set)
        self.pods = store("pods")
        self.proxy = services.Proxy(self.site, self.services, self.slices)
        self.balancers = services.LoadBalancers(self.kube, self.site, self.services, self.routes)
        for each in (self.secrets, self.config_maps, self.services, self.slices, self.pods):
            each.synced.wait()
        services.serve_names(self.site, self.domain, self.services, self.slices)

    def _store(self, plural: str) -> Store:
        return Store(self.kube, f"/api/v1/{plural}", self.changed.set)

    def run(self) -> None:
        """Follow changes until the box ends."""
        while True:
            self.changed.wait(timeout=2)
            self.changed.clear()
            try:
                self.proxy.sync()
                self.balancers.sync()
                self._sync_pods()
            except (Refused, urllib3.exceptions.HTTPError, subprocess.CalledProcessError) as error:
                # The API server may be away, or the kernel's tables busy: the next round does what this one left.
                print(f"round not finished: {error}", flush=True)
            time.sleep(0.05)

    def _sync_pods(self) -> None:
        seen = set()
        for item in self.pods:
            uid = item["metadata"]["uid"]
            seen.add(uid)
            if uid in self.running:
                self.running[uid].object = item
            elif not item["spec"].get("nodeName"):
                self._bind(item)
            elif item["spec"]["nodeName"] == self.site.name:
                self.running[uid] = Pod(self, item)
        for uid in set(self.running) - seen:
            gone = self.running.pop(uid)
            for about in [each for each in self.said.copy() if each[0] == uid]:
                self.said.pop(about, None)
            # Deleted with grace 0: its deletion was never announced, so notify the thread now.
            gone.object = {
                **gone.object,
                "metadata": {**gone.object["metadata"], "deletionTimestamp": now(), "deletionGracePeriodSeconds": 0},
            }

    def _bind(self, pod: Object) -> None:
        namespace, name = key(pod)
        target = {"apiVersion": "v1", "kind": "Node", "name": self.site.name}
        try:
            self.kube.call(
                "POST",
                f"/api/v1/namespaces/{namespace}/pods/{name}/binding",
                {"metadata": {"name": name}, "target": target},
            )
        except Refused as error:
            if error.status not in (404, 409):  # gone meanwhile, or bound already
                raise

    def next_ip(self) -> str:
        """Return an address that no pod had before."""
        return self.site.pod_ip(next(self._ips))

    def event(self, pod: Object, reason: str, message: str, *, warning: bool = False) -> None:
        """Record an event on a pod, as `kubectl describe` shows it; one said before is counted up."""
        meta = pod["metadata"]
        namespace, message = meta["namespace"], message[:1000]
        path = f"/api/v1/namespaces/{namespace}/events"
        about = {"kind": "Pod", "apiVersion": "v1", "namespace": namespace, "name": meta["name"], "uid": meta["uid"]}
        name, count = self.said.get((meta["uid"], reason, message), ("", 0))
        try:
            if count:
                self.kube.merge(f"{path}/{name}", {"count": count + 1, "lastTimestamp": now()})
            else:
                name = f"{meta['name']}.{time.time_ns():x}"
                self.kube.call("POST", path, {
                    "metadata": {"name": name, "namespace": namespace}, "involvedObject": about,
                    "reason": reason, "message": message, "type": "Warning" if warning else "Normal",
                    "source": {"component": "kubelet", "host": self.site.name},
                    "firstTimestamp": now(), "lastTimestamp": now(), "count": 1,
                })  # fmt: skip
            self.said[meta["uid"], reason, message] = name, count + 1
        except (Refused, urllib3.exceptions.HTTPError) as error:  # the namespace may be ending; an event is only talk
            self.said.pop((meta["uid"], reason, message), None)
            print(f"event not recorded: {error}", flush=True)

    def _until_ready(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                self.kube.call("GET", "/readyz")
            except (Refused, urllib3.exceptions.HTTPError):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
            else:
                return

    def _register(self) -> None:
        name, number = self.site.name, self.site.number
        node = {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {
                "name": name,
                "labels": {
                    "kubernetes.io/hostname": name,
                    "kubernetes.io/os": "linux",
                    "topology.kubernetes.io/region": f"region{number}",
                    "topology.kubernetes.io/zone": f"region{number}-a",
                },
            },
        }
        room = {"cpu": "64", "memory": "64Gi", "pods": "1000"}
        status = {
            "addresses": [{"type": "InternalIP", "address": self.site.node_ip}, {"type": "Hostname", "address": name}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": NODE_API_PORT}},
            "capacity": room,
            "allocatable": room,
            "conditions": [{"type": "Ready", "status": "True", "reason": "Lab", "lastHeartbeatTime": now(),
                            "lastTransitionTime": now()}],
            "nodeInfo": {
                "kubeletVersion": KUBELET_VERSION, "containerRuntimeVersion": "processes://1", "kubeProxyVersion": "",
                "osImage": "meshkit lab", "operatingSystem": "linux", "architecture": "amd64", "kernelVersion": "",
                "machineID": name, "systemUUID": name, "bootID": name,
            },
        }  # fmt: skip
        self.kube.call("POST", "/api/v1/nodes", node)
        self.kube.merge(f"/api/v1/nodes/{name}/status", {"status": status})


def main(home: Path, number: int) -> None:
    """Be the node of a site until the box ends."""
    settings = Settings.load(home)
    node = Node(home, Site(number, settings.one_vpc), settings.domain)
    node.start()
    print("node is ready", flush=True)
    node.run()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
