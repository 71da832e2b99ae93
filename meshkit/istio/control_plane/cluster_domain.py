"""The cluster domain, with which every Service's name ends (`httpbin.sample.svc.cluster.local`); no trust domain."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from itertools import pairwise
from typing import Any, Final

import yaml

from meshkit.kube.cluster import Cluster
from meshkit.kube.mesh import Mesh

DEFAULT: Final = "cluster.local"
"""constants.DefaultClusterLocalDomain (pkg/config/constants)."""
_ENV: Final = "DOMAIN_SUFFIX"
_known: weakref.WeakKeyDictionary[Cluster, str] = weakref.WeakKeyDictionary()


def of_cluster(cluster: Cluster, root_namespace: str) -> str:
    """Return the domain that a cluster's istiod gives to its Services; `cluster.local` where nothing names another.

    Read from istiod's `--domain` (or DOMAIN_SUFFIX), else from what new sidecars get (global.proxy.clusterDomain of the
    injector's values), else from `--domain` of a proxy that runs, for clusters whose istiod is elsewhere.

    Raises:
        UnreachableError: the cluster does not answer.

    Source: `--domain` in pilot/cmd/pilot-discovery/app/cmd.go, and manifests/charts/istio-control/istio-discovery:
    templates/deployment.yaml, files/injection-template.yaml.
    """
    if cluster not in _known:
        found = _of_istiod(cluster, root_namespace) or _of_injector(cluster, root_namespace) or _of_proxies(cluster)
        if not found:
            return DEFAULT  # and asked again: Istio may come later
        _known[cluster] = found
    return _known[cluster]


def of_mesh(mesh: Mesh) -> str:
    """Return the domain of the mesh's first cluster that answers: one that has another merges no Service with it."""
    answers = mesh.each(lambda cluster: of_cluster(cluster, mesh.root_namespace))
    return next((domain for domain in answers.values() if isinstance(domain, str)), DEFAULT)


def _of_istiod(cluster: Cluster, namespace: str) -> str:
    pods = cluster.get("pods", namespace, labels="app=istiod")
    own = [pod for pod in pods if (pod["metadata"].get("labels") or {}).get("app") == "istiod"]
    return next(filter(None, (_named(pod, "discovery") for pod in own)), "")


def _of_injector(cluster: Cluster, namespace: str) -> str:
    for config_map in cluster.get("configmaps", namespace):
        if config_map["metadata"]["name"].startswith("istio-sidecar-injector"):
            values = yaml.safe_load((config_map.get("data") or {}).get("values", "")) or {}
            proxy = (values.get("global") or {}).get("proxy") or {}
            if domain := str(proxy.get("clusterDomain") or ""):
                return domain
    return ""


def _of_proxies(cluster: Cluster) -> str:
    return next(filter(None, (_named(pod, "istio-proxy").rpartition(".svc.")[2] for pod in cluster.get("pods"))), "")


def _named(pod: dict[str, Any], container: str) -> str:
    spec = pod.get("spec") or {}
    for one in [*(spec.get("containers") or []), *(spec.get("initContainers") or [])]:
        if one.get("name") == container:
            env = {e["name"]: str(e.get("value") or "") for e in one.get("env") or []}
            return _flag([*(one.get("command") or []), *(one.get("args") or [])]) or env.get(_ENV, "")
    return ""


def _flag(arguments: Iterable[str]) -> str:
    for word, after in pairwise([*map(str, arguments), ""]):
        if word == "--domain":
            return after
        if word.startswith("--domain="):
            return word.partition("=")[2]
    return ""
