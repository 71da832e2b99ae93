"""One cluster's east-west gateway: what is there, what is wanted, when it can be used: for stages 06 and 07.

Stage 07 makes those of remote clusters, which no istiod serves before.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

from meshkit.changes.plan import Plan
from meshkit.checks import gateways
from meshkit.checks.finding import Verdict
from meshkit.checks.gateway_exposure import GatewayFacts, domain
from meshkit.istio.control_plane import inventory, requested, revisions, versions
from meshkit.istio.multicluster import gateway_api, gateway_exposure, gateway_manifests, remote_secrets
from meshkit.istio.multicluster import gateways as multicluster_gateways
from meshkit.istio.multicluster.gateways import NetworkGateway
from meshkit.istio.proxies import new_pods, proxy_status
from meshkit.kube.mesh import Mesh

OURS = f"istioctl, {gateway_manifests.OPERATOR}"


def look(mesh: Mesh) -> GatewayFacts:
    """Read gateways, what they let in, and what each istiod knows of them; changes nothing."""
    return GatewayFacts(
        **mesh.read_all(
            identity=versions.identity,
            gateways=multicluster_gateways.gateways,
            gateways_seen=multicluster_gateways.gateways_seen,
            remotes=remote_secrets.remote_clusters,
            opened=gateway_exposure.opened,
            claims=proxy_status.claims,
            new_pods=new_pods.look,
            installers=inventory.installers,
            revisions=revisions.look,
            not_deployed=gateway_api.not_deployed,
        )
    )


def with_our_name(mesh: Mesh, facts: GatewayFacts, name: str) -> NetworkGateway | None:
    """Return the gateway that has the name which stage 06 gives, whoever made it."""
    place = (mesh.root_namespace, gateway_manifests.NAME)
    return next((one for one in facts.gateways.of(name) if (one.namespace, one.service) == place), None)


def is_ours(gateway: NetworkGateway) -> bool:
    """Return whether meshkit made it, or Istio's own script, which is the same installation."""
    return gateway.made_by == OURS


def closed_by_its_owner(gateway: NetworkGateway) -> bool:
    """Return whether it is of the Gateway API and exposes nothing: a classic Gateway beside would share its listener.

    Envoy then refuses the listener: two filter chains of the same matching rules.
    """
    return bool(gateway_api.made_for(gateway.selector)) and not gateway.exposed_by


def of_gateway_api(mesh: Mesh, name: str, used: NetworkGateway | None) -> bool:
    """Tell whether a cluster's gateway is to be a Gateway of the Gateway API: a new one, or the one of our name."""
    wanted = mesh.spec.cluster(name).gateway.kind == "gateway-api"
    return wanted and (used is None or gateway_api.made_for(used.selector) == gateway_manifests.NAME)


def in_use(mesh: Mesh, facts: GatewayFacts, name: str) -> NetworkGateway | None:
    """Return the gateway that a cluster has: meshkit's own, else one of others that fits."""
    named = with_our_name(mesh, facts, name)
    if named and is_ours(named):
        return named
    return next((one for one in facts.gateways.of(name, mesh.spec.cluster(name).network) if one.port), None)


def want(made: Plan, mesh: Mesh, facts: GatewayFacts, name: str) -> None:
    """Want a cluster's gateway, and its exposure: that of a remote cluster is its primary's, whose istiod reads it.

    The exposure is beside the gateway, where every istiod reads it for that: one that scopes Gateways to their
    namespace, too (`multicluster_gateways.SCOPED`). One of ours that is read elsewhere stays where it is.

    Source: pilot/pkg/bootstrap/configcontroller.go: Istio's objects count in the istiod's own cluster.
    """
    entry, used = mesh.spec.cluster(name), in_use(mesh, facts, name)
    if used is None and with_our_name(mesh, facts, name):
        return  # MK602 fails
    if of_gateway_api(mesh, name, used):
        manifest = gateway_manifests.gateway_api(mesh.spec, name, domain(facts))
        why = f"lets other networks into {entry.network}; istiod makes its pods and its Service"
        made.apply(name, manifest, why, wait=functools.partial(missing, mesh, name))
        return
    kind = "IstioOperator"
    if mesh.spec.istio.installer == "none":
        kind = requested.form(facts.installers.get(name), facts.installers.values())
        if used is None:
            document = gateway_manifests.by_its_owner(mesh.spec, name, kind)
            why = f"its owner of Istio applies it: lets other networks into {entry.network}"
            made.request(name, document, why, functools.partial(_not_installed, mesh, name))
    elif used is None or is_ours(used):
        made.install(name, gateway_manifests.eastwest(mesh.spec, name), f"lets other networks into {entry.network}")
    if name not in mesh.spec.remotes:
        theirs = used is not None and not is_ours(used)
        _expose(made, mesh, facts, name, used.selector if used and theirs else gateway_manifests.selector(kind))


def _expose(made: Plan, mesh: Mesh, facts: GatewayFacts, name: str, selector: Mapping[str, str]) -> None:
    used = in_use(mesh, facts, name)
    places = dict.fromkeys((used.namespace if used else mesh.root_namespace, mesh.root_namespace))
    ours: dict[tuple[str, ...], str] = {(f"{place}/{gateway_manifests.EXPOSURE}",): place for place in places}
    if used and (used.declared or closed_by_its_owner(used) or (used.exposed_by and used.exposed_by not in ours)):
        return  # others expose it already, or MK602 fails, or it is known by its address only
    if not selector:
        return  # an exposure without one would be of every gateway
    why = f"lets other clusters reach {', '.join(gateway_manifests.hosts(mesh.spec, name, domain(facts)))}"
    wait = functools.partial(missing, mesh, name)
    place = ours[used.exposed_by] if used and used.exposed_by else next(iter(places))
    manifest = gateway_manifests.exposure(mesh.spec, name, selector, domain(facts), namespace=place)
    made.apply(name, manifest, why, wait=wait)


def _not_installed(mesh: Mesh, name: str) -> str:
    """Return what a cluster's gateway lacks besides its exposure, or an empty text."""
    network = mesh.spec.cluster(name).network
    found = multicluster_gateways.gateways(Mesh(mesh.spec, {name: mesh.clusters[name]}))
    if reason := found.unknown(name):
        return reason
    lacking = [", ".join(gateways.unmet_requirements(one, network, exposed=False)) for one in found.of(name)]
    return "" if "" in lacking else next(iter(lacking), "there is none")


def missing(mesh: Mesh, name: str) -> str:
    """Return what is missing before a cluster's gateway can be used, or nothing."""
    reader = mesh.spec.primary_of(name)
    one = Mesh(mesh.spec, {one: mesh.clusters[one] for one in dict.fromkeys((name, reader))})
    entry, found = mesh.spec.cluster(name), multicluster_gateways.gateways(one)
    offered = gateways.check_gateway(mesh, found, name)
    if offered.verdict is not Verdict.PASS:
        look_at = (
            f"kubectl --context {entry.context} describe service -n {mesh.root_namespace} {gateway_manifests.NAME}"
        )
        return f"{offered.observed}; look at `{look_at}`" if "pending" in offered.observed else offered.observed
    seen = gateways.check_gateway_seen(mesh, found, multicluster_gateways.gateways_seen(one), reader, name, client=name)
    unseen = next((f.observed for f in seen if f.verdict not in (Verdict.PASS, Verdict.SKIPPED)), "")
    if unseen:
        return unseen
    opened = gateway_exposure.opened(one)
    reasons = opened[opened["cluster"] == name]["reason"]
    return next((str(reason) for reason in reasons if reason), "")
