"""All checks of all stages, asked of a finished mesh, as one list of findings: the causes first.

Read-only: no API server is asked to change anything. Where only trying can tell, requests are sent from pods that run.
Every reading is made once, all side by side. What a stage asks about a change that is to come is not asked here.
"""

from __future__ import annotations

from collections import Counter
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from meshkit.checks import SEVERITY, Finding, Verdict
from meshkit.errors import MeshkitError
from meshkit.istio import (
    absent,
    authorization,
    exposure,
    injection,
    installer,
    managed,
    networks,
    platform,
    policies,
    proxies,
    remote_secret,
    remotes,
    rules,
    services,
    signing,
    versions,
    workloads,
)
from meshkit.istio import trust as held
from meshkit.istio.fleet import table
from meshkit.stages import (
    apart,
    assess,
    catalogue,
    causes,
    defects,
    discovery,
    eastwest,
    footing,
    gateways,
    joined,
    linked,
    lint,
    merged,
    merging,
    observe,
    pairs,
    paths,
    prepare,
    reach,
    restarts,
    trust,
    verify,
    ways,
)  # fmt: skip

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import pandas as pd

    from meshkit.mesh import Mesh

PATIENCE: Final = 3.0
"""Seconds for endpoints to arrive at a client: of a mesh that nobody changes they have arrived."""
SPEAKS_AFTER: Final = 5.0
NAMED_AT_MOST: Final = 4
COLUMNS: Final = {
    "id": "str", "check": "str", "subject": "str", "verdict": "str", "observed": "str", "expected": "str",
    "remedy": "str", "follows_from": "str", "page": "str",
}  # fmt: skip
_READINGS: Final[dict[str, Callable[[Mesh], Any]]] = {
    "inventory": platform.inventory,
    "load balancers": platform.load_balancers,
    "clocks": platform.clocks,
    "root namespaces": platform.root_namespaces,
    "identity": versions.identity,
    "proxies": observe.look,
    "claims": proxies.claims,
    "API servers": reach.reach,
    "DNS names": ways.names,
    "network policies": policies.network_policies,
    "features": versions.features,
    "new pods": restarts.look,
    "injection": injection.namespaces,
    "services": services.services,
    "gateways": networks.gateways,
    "gateways seen": networks.gateways_seen,
    "remote clusters": remotes.remote_clusters,
    "remote secrets": remotes.remote_secrets,
    "certificates": held.certificates,
    "roots": held.roots,
    "handed": held.handed,
    "authorities": signing.authorities,
    "signers": signing.signers,
    "names let in": exposure.opened,
    "rules": rules.rules,
    "absent Services": absent.absent,
    "ways": paths.tried,
    "readers": remote_secret.readers,
    "calls": partial(merged.look, patience=PATIENCE),
}


@dataclass(frozen=True)
class Facts:
    """What was looked at: the facts of the stages, of one reading; the calls of `merged.look`; and three tables.

    These are named after their functions: rules, absent, and ways of `paths.tried`.
    """

    assess: assess.Facts
    prepare: prepare.Facts
    trust: trust.Facts
    gateways: gateways.Facts
    discovery: discovery.Facts
    observe: observe.Facts
    links: pairs.Facts
    calls: pd.DataFrame
    rules: pd.DataFrame
    absent: pd.DataFrame
    ways: pd.DataFrame


def look(mesh: Mesh, tell: Callable[[str], None] = lambda _: None) -> Facts:
    """Read every cluster once for all stages, and send some calls; changes nothing.

    Args:
        mesh: the mesh.
        tell: is told after each five seconds what is still being read.

    Raises:
        InputError: trust.rootDirectory is named, and what it holds is no CA for all clusters.
    """
    readings = dict(_READINGS)
    if mesh.spec.topology.network == "flat":
        readings["pods"] = ways.pods
    told = _read(mesh, readings, tell)
    none = table([], ways.POD_COLUMNS)
    status: observe.Facts = told["proxies"]
    try:
        tool, no_tool = installer.version(), ""
    except MeshkitError as error:
        tool, no_tool = "", error.message
    known = verify.Facts(
        identity=told["identity"],
        secrets=told["remote secrets"],
        remotes=told["remote clusters"],
        gateways=told["gateways"],
        gateways_seen=told["gateways seen"],
        certificates=told["certificates"],
        roots=told["roots"],
    )
    same = services.merging(told["services"], list(mesh.clusters), mesh.root_namespace)
    return Facts(
        assess=assess.Facts(
            inventory=told["inventory"],
            identity=told["identity"],
            versions=status.versions,
            roots=told["roots"],
            load_balancers=told["load balancers"],
            api_servers=told["API servers"],
            pods=told.get("pods", none),
            managers=table([], managed.COLUMNS),  # asked before a migration only
        ),
        prepare=prepare.Facts(
            roots=told["root namespaces"],
            identity=told["identity"],
            claims=told["claims"],
            clocks=told["clocks"],
            inventory=told["inventory"],
            api_servers=told["API servers"],
            names=told["DNS names"],
            versions=status.versions,
            features=told["features"],
            policies=told["network policies"],
            injection=told["injection"],
            services=told["services"],
            gateways=told["gateways"],
            istioctl=tool,
            no_istioctl=no_tool,
            new_pods=told["new pods"],
        ),
        trust=trust.with_offer(
            mesh,
            trust.Facts(
                identity=told["identity"],
                authorities=told["authorities"],
                signers=told["signers"],
                certificates=told["certificates"],
                roots=told["roots"],
                handed=told["handed"],
                # What a plan and its proof go by: nothing here judges them.
                workloads=table([], workloads.COLUMNS),
                policies=table([], authorization.COLUMNS),
                readings=table([], apart.COLUMNS),
            ),
        ),
        gateways=gateways.Facts(
            identity=told["identity"],
            gateways=told["gateways"],
            gateways_seen=told["gateways seen"],
            remotes=told["remote clusters"],
            claims=told["claims"],
            opened=told["names let in"],
        ),
        discovery=discovery.Facts(
            known=known,
            claims=told["claims"],
            readers=told["readers"],
            reach=told["API servers"],
            services=told["services"],
            merging=same,
            versions=status.versions,
        ),
        observe=status,
        links=pairs.look(mesh, known),
        calls=told["calls"],
        rules=told["rules"],
        absent=told["absent Services"],
        ways=told["ways"],
    )


def _read(mesh: Mesh, readings: dict[str, Callable[[Mesh], Any]], tell: Callable[[str], None]) -> dict[str, Any]:
    with ThreadPoolExecutor(len(readings)) as pool:
        futures = {pool.submit(ask, mesh): name for name, ask in readings.items()}
        pending = set(futures)
        while pending:
            done, pending = wait(pending, SPEAKS_AFTER, FIRST_COMPLETED)
            if not done:
                names = sorted(futures[one] for one in pending)
                more = f" and {len(names) - NAMED_AT_MOST} more" if len(names) > NAMED_AT_MOST else ""
                tell(f"{len(futures) - len(names)} of {len(futures)} read; {', '.join(names[:NAMED_AT_MOST])}{more} …")
        return {name: future.result() for future, name in futures.items()}


def check(mesh: Mesh, facts: Facts) -> list[Finding]:
    """Judge what was read, stage by stage, as of a mesh that is to be whole.

    Raises:
        InputError: `gates.accept` of the mesh file names no check.
    """
    accepted = mesh.spec.gates.accept
    for identifier in accepted:
        catalogue.find(identifier)
    findings = [*_common_ground(mesh, facts), *_trust(mesh, facts), *_ways_in(mesh, facts), *_joined(mesh, facts)]
    findings += [*observe.check_proxies(mesh, facts.observe), *observe.check_serving(mesh, facts.observe)]
    findings += merged.check(mesh, facts.calls)
    return [_accept(finding, accepted.get(finding.id, "")) for finding in findings]


def _accept(finding: Finding, why: str) -> Finding:
    """Return a warning that the mesh file accepts as skipped, with its reason; a failure stays one."""
    if not why or finding.verdict is not Verdict.WARN:
        return finding
    return replace(finding, verdict=Verdict.SKIPPED, observed=f"accepted ({why}): {finding.observed}", remedy="")


def _common_ground(mesh: Mesh, facts: Facts) -> Iterator[Finding]:
    found, seen = facts.prepare, facts.assess
    yield from assess.check_read(mesh, seen)
    yield from assess.check_debug(seen.inventory)
    yield from assess.check_distinct(seen)
    yield from assess.check_load_balancers(mesh, seen)
    if mesh.spec.topology.network == "flat":
        yield assess.check_network(mesh, seen, assess.recommend(seen))
    yield from prepare.check_networks(mesh, found, finished=True)
    yield from footing.check_clocks(found.clocks, mesh.spec.gates.max_clock_skew)
    yield from footing.check_names(mesh, found.names)
    yield from footing.check_versions(mesh, found.versions, found.istioctl, found.no_istioctl)
    yield from footing.check_kubernetes(found.versions, mesh.spec.istio.version or found.istioctl)
    yield from restarts.check(mesh, found.new_pods)
    yield from defects.check(mesh, found.versions, found.services, found.features)
    yield from footing.check_policies(mesh, found.policies)
    yield from prepare.check_probe_namespace(mesh, found, finished=True)
    yield from footing.check_injection(mesh, found.injection)
    yield from lint.check_namespaces(mesh, found.injection)
    yield from paths.check_tried(mesh, facts.ways)
    yield from paths.check_ranges(mesh, found.inventory, found.gateways, found.api_servers)


def _trust(mesh: Mesh, facts: Facts) -> Iterator[Finding]:
    found, choice = facts.trust, trust.choose(mesh, facts.trust)
    for name in mesh.clusters:
        yield trust.check_authority(found, name)
        yield from trust.check_signers(found, name)
        yield from trust.check_intermediate(found, name)
        yield from trust.check_cluster_id(found, name)
        yield from trust.check_trust_domain(mesh, found, name)
    if choice.root:
        yield from trust.check_root(found, choice)
        yield from trust.check_key(found, choice)
    yield from verify.check_roots(mesh, facts.discovery.known)
    yield from verify.check_certificates(mesh, found.certificates)


def _ways_in(mesh: Mesh, facts: Facts) -> Iterator[Finding]:
    known = facts.discovery.known
    yield from verify.check_istiods(mesh, known.identity)
    yield from verify.check_accepted(mesh, known.identity, facts.discovery.claims, facts.assess.inventory)
    if mesh.spec.topology.network != "multi":
        return
    for name in mesh.clusters:
        yield eastwest.check_gateway(mesh, known.gateways, name, "MK805")
        yield gateways.check_hosts(mesh, facts.gateways, name)
        yield gateways.check_control_plane(mesh, facts.gateways, name)
    for reader, target in mesh.pairs:
        yield from eastwest.check_gateway_seen(
            mesh, known.gateways, known.gateways_seen, reader, target, identifier="MK806", moved="MK838"
        )
    yield from gateways.check_mesh_networks(mesh, facts.gateways)
    yield from paths.check_hosts(mesh, facts.prepare.names, known.gateways, known.gateways_seen)


def _joined(mesh: Mesh, facts: Facts) -> Iterator[Finding]:
    found, known = facts.discovery, facts.discovery.known
    for name in mesh.clusters:
        yield discovery.check_server(mesh, found, name)
        yield discovery.check_claims(mesh, found, name)
        yield discovery.check_reader(mesh, found, name)
    for reader, target in mesh.pairs:
        yield discovery.check_reach(found, reader, target)
        yield from joined.check(mesh, known.identity, known.secrets, known.remotes, (reader, target))
    yield from linked.check(mesh, facts.links)
    yield from merging.check_alike(found.merging)
    yield from lint.check_rules(mesh, facts.rules)
    yield from lint.check_absent(mesh, facts.absent)
    yield from lint.check_headless(mesh, found.services)


def in_order(mesh: Mesh, findings: list[Finding]) -> pd.DataFrame:
    """Return findings in the order in which they are to be mended.

    Columns: id, check, subject, verdict, observed, expected, remedy, follows_from (id and subject of the finding that
    may be the reason; empty: look at this one), page (of Istio's documentation).
    """
    import pandas as pd

    rows = [
        {
            **finding.to_dict(),
            "follows_from": f"{cause.id} {cause.subject}" if cause else "",
            "page": catalogue.find(finding.id).url,
        }
        for finding, cause in causes.in_order(findings, mesh.clusters)
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS), dtype="str")


def for_people(findings: pd.DataFrame) -> pd.DataFrame:
    """Return what is worth a look of `in_order`: what is not in order, and how it is mended; all of it if all is well.

    Columns: verdict, id, subject, check, observed, remedy, follows_from.
    """
    bad = findings[~findings["verdict"].isin([Verdict.PASS, Verdict.SKIPPED])]
    shown = bad if len(bad) else findings
    return shown[["verdict", "id", "subject", "check", "observed", "remedy", "follows_from"]]


def told(findings: list[Finding]) -> str:
    """Return how many findings there are of each verdict: `131 checks: 130 pass, 1 skipped`."""
    counted = Counter(finding.verdict for finding in findings)
    return f"{len(findings)} findings: " + ", ".join(f"{counted[v]} {v}" for v in reversed(SEVERITY) if counted[v])
