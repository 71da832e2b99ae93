"""Faults of primary-remote: what a remote needs of the istiod of its primary, which is the first cluster of the lab."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping

import yaml

from meshkit.errors import ChangeError, InputError
from meshkit.istio.control_plane.istioctl import CONTROL_PLANE
from meshlab import scenarios
from meshlab.faults import credentials, objects
from meshlab.faults.bench import Bench
from meshlab.faults.fault import fault
from meshlab.faults.objects import Ref
from meshlab.faults.pods import ISTIOD
from meshlab.faults.trust import new_root
from meshlab.faults.views import FORMER_GATEWAY
from meshlab.kube import Object
from meshlab.layout import Site
from meshlab.primary_remote import ADDRESS, CONTROL_PLANE_CLUSTERS, INJECTION_PATH, remote_settings
from meshlab.tools import Tools

SHAPE = "primary-remote"
WEBHOOKS = tuple(
    Ref("MutatingWebhookConfiguration", name, "") for name in ("istio-sidecar-injector", "istio-revision-tag-default")
)
SLICE, VALUES, INJECTOR = Ref("EndpointSlice", "istiod"), Ref("ConfigMap", "values"), Ref("ConfigMap", WEBHOOKS[0].name)
REVISION = "istio.io/rev"
INSTALLED = (
    "ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding", "ConfigMap", "Deployment", "Service",
)  # fmt: skip
"""The kinds of what a running istiod needs."""
REFUSED = "nothing, until the remote is to have a new pod: its API server refuses it"
CUT_OFF = f"{REFUSED}; proxies that lose their connection get no other, and their certificates end within a day"


@fault(behind="P23", users=CUT_OFF, finding="MK801", shape=SHAPE)
def istiod_not_offered(bench: Bench) -> None:
    """The LoadBalancer Service that offers the primary's istiod to its remotes is deleted."""
    remote(bench)
    bench.delete(bench.peer, offer(bench))


@fault(behind="P12 P23", users=CUT_OFF, finding="MK801", shape=SHAPE)
def discovery_address_wrong(bench: Bench) -> None:
    """The remote was installed again with a remotePilotAddress that nothing has any more."""
    install_remote(bench, {ADDRESS: bench.peer.load_balancer_ip(FORMER_GATEWAY)})


@fault(
    behind="P4 F6",
    users="nothing, until the remote gets a new pod: it is never ready, since istiod knows no cluster of that id",
    finding="MK801",
    shape=SHAPE,
)
def wrong_injection_path(bench: Bench) -> None:
    """The remote was installed again with an injectionPath of another cluster id than its own."""
    site = remote(bench)
    install_remote(bench, {INJECTION_PATH: f"/inject/cluster/{site.name}-old/net/{network_of(bench, site)}"})


@fault(
    behind="F1 F4",
    users="others get only answers from their own cluster; a new pod of the remote is never ready",
    finding="MK802",
    shape=SHAPE,
)
def remote_secret_missing(bench: Bench) -> None:
    """The primary has no remote secret of the remote, whose proxies it goes on serving."""
    remote(bench)
    bench.delete(bench.peer, credentials.remote(bench))


@fault(
    behind="P23",
    users="nothing, until the remote gets a new namespace: it has no root, so its pods never start",
    finding="MK801",
    shape=SHAPE,
)
def primary_not_named(bench: Bench) -> None:
    """The root namespace of the remote lacks the annotation that lets its primary's istiod lead there.

    istiod reads it when it learns of the cluster, so it is restarted, now and after.
    """
    bench.edit(
        remote(bench),
        Ref("Namespace", "istio-system", ""),
        lambda item: item["metadata"]["annotations"].pop(CONTROL_PLANE_CLUSTERS),
    )
    bench.restart(bench.peer, ISTIOD)


@fault(behind="P3 P23", users=REFUSED, finding="MK801", shape=SHAPE)
def stale_webhook_ca(bench: Bench) -> None:
    """The webhooks of the remote have the CA bundle of a former root, and lack the label by which istiod knows them.

    With the label istiod would write its own root at once, whatever was there.
    """
    site, (_, root) = remote(bench), new_root()

    def age(item: Object) -> None:
        item["metadata"]["labels"].pop(REVISION)
        for hook in item["webhooks"]:
            hook["clientConfig"]["caBundle"] = base64.b64encode(root.encode()).decode()

    for webhook in WEBHOOKS:
        bench.edit(site, webhook, age)


@fault(
    behind="P23",
    users="nothing; a remote that joins later gets no CA bundle, and a new namespace no root",
    finding="MK801",
    shape=SHAPE,
)
def external_istiod_off(bench: Bench) -> None:
    """The primary was installed again without externalIstiod, so its istiod no longer writes into its remotes."""
    remote(bench)
    install(bench, bench.peer, Ref("Deployment", ISTIOD), INJECTOR, settings={})
    bench.settle(bench.peer)


@fault(
    behind="P23",
    users="calls of new pods of the remote stay in it: its own istiod, which they are led to, reads no other cluster",
    finding="MK801",
    shape=SHAPE,
)
def own_istiod(bench: Bench) -> None:
    """An istiod of its own runs in the remote: Istio was installed there, too, as in a primary.

    What is there already stays: to delete the reader's account would void the primary's credential. Only the Service
    is another one, and one of its name that is changed would keep the endpoints of this istiod's pods.
    """
    site = remote(bench)
    for item in control_plane(bench, site):
        ref = Ref(item["kind"], item["metadata"]["name"], item["metadata"].get("namespace", ""))
        there = objects.read(bench.kube(site), ref) is not None
        if there and ref.kind == "Service":
            bench.delete(site, ref)
        if not there or ref.kind == "Service":
            bench.create(site, item)
    bench.settle(site)


def remote(bench: Bench) -> Site:
    """Return the remote that breaks; its peer is the lab's first cluster, and so its primary.

    Raises:
        InputError: the first cluster itself was named.
    """
    if bench.site == bench.sites[0]:
        others = ", ".join(site.name for site in bench.sites[1:])
        message = f"--cluster: expected a remote ({others}), got the primary {bench.site.name}"
        raise InputError(message, where=str(bench.home))
    return bench.site


def offer(bench: Bench) -> Ref:
    """Return the Service by which the primary offers its istiod to remotes, whether the lab made it or meshkit.

    Raises:
        ChangeError: there is none.
    """
    for item in objects.items(bench.kube(bench.peer), "Service", "istio-system"):
        spec = item["spec"]
        if spec["type"] == "LoadBalancer" and spec.get("selector", {}).get("app") == "istiod":
            return Ref("Service", item["metadata"]["name"])
    raise ChangeError(f"{bench.peer.name} offers its istiod to nobody", where="lab",
                      remedy=f"`meshkit lab up --start meshed --shape {SHAPE}`")  # fmt: skip


def install_remote(bench: Bench, wrong: Mapping[str, str]) -> None:
    """Install the remote again as it was, but for some settings."""
    site = remote(bench)
    (endpoint,) = bench.get(site, SLICE)["endpoints"]
    right = remote_settings(site, endpoint["addresses"][0], network_of(bench, site))
    install(bench, site, SLICE, settings={**right, **wrong})


def install(bench: Bench, site: Site, *changed: Ref, settings: Mapping[str, str]) -> None:
    """Install Istio in a cluster again, by istioctl as at first: so the fields stay its own, and it can correct them.

    Any other client would become the owner of what it changes, and stage 05 forces nobody. An installation without a
    name would remove the gateways, which are another one's.
    """
    bench.keep(site, *changed, VALUES, *WEBHOOKS)
    named = yaml.safe_dump({**scenarios.OPERATOR, "metadata": {"name": CONTROL_PLANE}})
    Tools(bench.home).install(site, "-f", "-", *flags(bench, site, settings), stdin=named)


def control_plane(bench: Bench, site: Site) -> Iterator[Object]:
    """Yield the objects of a control plane of a cluster's own, as istioctl renders them."""
    tools = Tools(bench.home)
    wanted = flags(bench, site, {"profile": "minimal"})
    text = tools.istioctl(site, "manifest", "generate", "-f", tools.overlay, *wanted)
    yield from (item for item in yaml.safe_load_all(text) if item and item["kind"] in INSTALLED)


def flags(bench: Bench, site: Site, settings: Mapping[str, str]) -> list[str]:
    """Return the flags by which istioctl gives a cluster its ids, and settings."""
    return scenarios.with_ids(site, network_of(bench, site), settings)


def network_of(bench: Bench, site: Site) -> str:
    """Return the name of a cluster's network."""
    return scenarios.network_of(site, flat=bench.settings.flat)
