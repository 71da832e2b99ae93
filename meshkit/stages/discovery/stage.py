"""Stage 07: every istiod is given the credential to read every other cluster, and clusters become one mesh.

From the moment that an istiod reads another cluster, Services of the same namespace and name are one to its clients. So
what will merge is shown first, and each credential is tried before it is distributed.

Three plans, one after the other: Kubernetes issues a reader's token only once its Secret is there (`plan_tokens`),
only with the token can the remote secrets be made (`plan`), and what they replaced is revoked last (`plan_revoked`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import pandas as pd

from meshkit import parameters
from meshkit.changes.plan import Plan, refused
from meshkit.checks import (
    certificates,
    control_plane,
    gateways,
    known_defects,
    merged_service,
    remote_secrets,
    restarts,
    service_merge,
)
from meshkit.checks.finding import Finding
from meshkit.checks.question import Question, arrow, awaits, planned
from meshkit.checks.remote_reader import (
    DiscoveryFacts,
    check_claims,
    check_others,
    check_reach,
    check_readable,
    check_rights,
    check_version,
)
from meshkit.checks.remote_secrets import check_life
from meshkit.display import Text
from meshkit.istio.config import services
from meshkit.istio.multicluster import reader_tokens, remote_secret_manifest
from meshkit.istio.multicluster import remote_secrets as multicluster_remote_secrets
from meshkit.istio.multicluster.sync_wait import discovered
from meshkit.istio.proxies import proxy_status
from meshkit.kube import api_server
from meshkit.kube.mesh import Mesh, Unknown
from meshkit.kube.wait import Wait, in_turn
from meshkit.probing import api_server_reach
from meshkit.probing import merged_service as probing_merged_service
from meshkit.snapshot.snapshot import Snapshot
from meshkit.spec import MeshSpec
from meshkit.stages import istiod_restart, probe_workloads
from meshkit.stages.discovery import joining, token_rotation
from meshkit.stages.discovery.facts import STAGE, look
from meshkit.stages.discovery.token_rotation import token_actions
from meshkit.stages.stage import Shows, Stage

CURED_BY: Final = {
    "MK801": "05 install",
    "MK805": "06 gateways",
    "MK807": "04 trust",
    "MK703": "05 install",
    "MK704": "05 install",
}


def check(mesh: Mesh, facts: DiscoveryFacts, mode: str = "apply", renew: str = "") -> list[Finding]:
    """Judge the gates of discovery, and what it will do to Services.

    In plan mode, what an earlier stage is to fix does not fail. `renew` is that of `token_rotation.token_actions`.
    """
    wishes = token_actions(mesh, facts, renew)
    findings = [*control_plane.check_istiods(mesh, facts.known.identity, joining=True)]
    if mesh.spec.topology.network == "multi":
        # A remote's comes in this stage.
        findings += [gateways.check_gateway(mesh, facts.known.gateways, name) for name in mesh.spec.primaries]
    chains = facts.known.certificates
    findings += control_plane.of_proxies(mesh, chains, certificates.check_roots(mesh, chains))
    findings += joining.check(mesh, facts)
    read = {target for _, target in mesh.spec.watched}
    for name in mesh.clusters:
        findings += [*check_readable(mesh, facts, name, read=name in read), check_claims(mesh, facts, name)]
        findings.append(check_rights(mesh, facts, name))
        findings += [*check_version(facts, name, [wish for (a, _), wish in wishes.items() if a == name])]
    for pair in mesh.spec.watched:
        findings += [check_reach(facts.reach, *pair, early=mode == "plan"), check_others(mesh, facts, *pair)]
        findings += [*check_life(mesh, facts.known.remote_secrets, *pair, renewed=bool(wishes[pair]))]
    begun = service_merge.check_merging(mesh, facts.services, facts.merging, _new(mesh, facts, renew))
    findings += [*begun, *service_merge.check_alike(facts.services, facts.merging)]
    findings += restarts.check(mesh, facts.new_pods)
    return [awaits(f, mode, CURED_BY[f.id]) if f.id in CURED_BY else f for f in findings]


def local(mesh: Mesh, facts: DiscoveryFacts, renew: str = "") -> pd.DataFrame:
    """Return which Services could stay in their clusters: see `service_merge.proposals`."""
    return service_merge.proposals(mesh, facts.merging, _new(mesh, facts, renew))


def _new(mesh: Mesh, facts: DiscoveryFacts, renew: str) -> set[tuple[str, str]]:
    return {pair for pair, wish in token_actions(mesh, facts, renew).items() if wish == "make"}


def plan_tokens(mesh: Mesh, facts: DiscoveryFacts, renew: str = "") -> Plan:
    """Plan the credential by which each cluster is read: see `token_rotation.plan_tokens`."""
    return token_rotation.plan_tokens(mesh, STAGE, facts, renew)


def plan_revoked(mesh: Mesh, tokens: Plan) -> Plan:
    """Plan to revoke replaced credentials: see `token_rotation.plan_revoked`."""
    return token_rotation.plan_revoked(mesh, STAGE, tokens)


def plan(mesh: Mesh, facts: DiscoveryFacts, renew: str = "") -> Plan:
    """Plan the remote secrets, reader by reader; one whose token is not there yet is shown, and never created."""
    made = Plan(mesh, STAGE)
    found = mesh.each(lambda cluster: reader_tokens.current(reader_tokens.tokens(cluster, mesh.root_namespace), mesh))
    wishes, taken = token_actions(mesh, facts, renew), multicluster_remote_secrets.secret_events(mesh)
    asked = token_rotation.clusters_to_renew(mesh, renew)

    def to_come(name: str, target: str) -> bool:
        now, held = found[target], token_rotation.held_by(mesh, facts, name, target)
        return (
            target in asked
            and isinstance(now, reader_tokens.Token)
            and held is not None
            and held.token_secret == now.secret
        )

    for name in dict.fromkeys(reader for reader, _ in mesh.spec.watched):
        waits: list[Wait] = []
        hurt = known_defects.needs_restart_after_secret_change(facts.versions, name)
        for target in [b for (a, b), wish in wishes.items() if a == name and wish]:
            address = token_rotation.address_of(mesh, facts, name, target)
            if not address or api_server.is_local(address):
                continue
            renewed = wishes[name, target] == "renew"
            # Each change is one event more; of a cluster that istiod does not know yet there is only the name.
            seen = {pod: count + len(waits) + 1 for pod, count in taken.items()} if renewed else {}
            wait = discovered(mesh, name, target, seen)
            if mesh.spec.primary_of(target) == name:
                wait = in_turn([wait, joining.can_inject(mesh, target)])
            before = len(made.changes)
            token = None if to_come(name, target) else found[target]
            held = token_rotation.held_by(mesh, facts, name, target)
            kept = held.tls_server_name if held else ""
            proxy = multicluster_remote_secrets.proxy_url(mesh.clusters[name], held) if held else ""
            _plan_secret(
                made, (name, target), address, token, None if hurt and renewed else wait, kept=kept, proxy=proxy
            )
            waits += [wait] if len(made.changes) > before and renewed else []
        if hurt and not waits:
            waits = [
                discovered(mesh, name, target, {}) for target in token_rotation.secrets_changed_since_start(mesh, name)
            ]
        if hurt and waits:
            istiod_restart.restart_istiods(made, name, in_turn(waits))
    return made


def _plan_secret(
    made: Plan,
    pair: tuple[str, str],
    address: str,
    token: reader_tokens.Token | Unknown | None,
    wait: Wait | None,
    *,
    kept: str = "",
    proxy: str = "",
) -> None:
    """Plan the remote secret of a pair (reader, target), with this address of the target's API server.

    `kept` is the TLS server name of the one before, unless the mesh file says another, and `proxy` its `proxy-url`.
    """
    mesh, (holder, target) = made.mesh, pair
    name = mesh.spec.cluster(target).tls_server_name or kept
    parameters.secret_id(mesh.spec, target)
    known = token if isinstance(token, reader_tokens.Token) and token else reader_tokens.Token("", "to come", b"-")
    manifest = remote_secret_manifest.manifest(target, address, known, mesh.root_namespace, name, proxy)
    before = len(made.changes)
    made.apply(holder, manifest, f"lets {holder} discover {target}", wait=wait)
    if not token and len(made.changes) > before:
        why = token.reason if isinstance(token, Unknown) else "cannot be made before the token is there"
        made.changes[-1].problem = why


def try_merged(mesh: Mesh, *, pending: bool) -> pd.DataFrame:
    """Call the probe's Service from each cluster: `merged_service.look`; no rows while a plan is not applied."""
    return probing_merged_service.MERGED.frame([]) if pending else probing_merged_service.look(mesh)


def prove(
    mesh: Mesh, plan: Plan, calls: pd.DataFrame, old: Plan | None = None, *, pending: bool = False
) -> list[Finding]:
    """Read again: secrets, credentials, each istiod's sync state (as stage 08 judges them), endpoints and calls.

    And, of the plan `old`, that what it revoked opens nothing. Nothing is proved while the plan, or another one of the
    stage, is `pending`.
    """
    findings = [*token_rotation.check_revoked(mesh, old)] if old else []
    if plan.pending or pending:
        asks = (*_questions(mesh), *merged_service.questions(mesh))
        return [*refused(plan), *findings, *(planned(*ask.known.values()) for ask in asks)]
    now = Snapshot(mesh).read("identity", "remote_secrets", "remote_clusters", "gateways", "gateways_seen")
    for pair in mesh.ordered_pairs:
        findings += remote_secrets.check(mesh, now.identity, now.remote_secrets, now.remote_clusters, pair)
        findings += gateways.check_pair(mesh, now.identity, now.gateways, now.gateways_seen, pair)
    if mesh.spec.topology.network == "multi":
        findings += [gateways.check_gateway(mesh, now.gateways, name) for name in mesh.spec.remotes]
    if mesh.spec.remotes:
        findings += [*control_plane.check_istiods(mesh, now.identity), *probe_workloads.check(mesh, mesh.spec.remotes)]
    return [*findings, *merged_service.check(mesh, calls)]


def _questions(mesh: Mesh) -> Iterable[Question]:
    for reader, target in mesh.spec.watched:
        yield Question("MK802", "remote secret is there", arrow(reader, target), f"one, with the key {target}")
        yield Question("MK803", "credential opens the API server now", arrow(reader, target), f"ok, leads to {target}")
        yield Question("MK804", "istiod watches the other cluster", arrow(reader, target), "synced, by every replica")


class Discovery(Stage):
    """Stage 07. `renew` names the clusters whose credential is replaced although it is good, comma-joined, or all."""

    name = STAGE
    readers = Shows["Discovery"](remote_secret_manifest.READERS, lambda stage: stage.facts.readers)
    api_servers = Shows["Discovery"](api_server_reach.REACH, lambda stage: stage.facts.reach)
    remote_secrets = Shows["Discovery"](
        multicluster_remote_secrets.REMOTE_SECRETS, lambda stage: stage.facts.known.remote_secrets.frame()
    )
    claims = Shows["Discovery"](proxy_status.CLAIMS, lambda stage: stage.facts.claims)
    merging = Shows["Discovery"](services.MERGING, lambda stage: stage.facts.merging)
    local = Shows["Discovery"](service_merge.LOCAL, lambda stage: local(stage.mesh, stage.facts, stage.renew))
    merged = Shows["Discovery"](probing_merged_service.MERGED, lambda stage: stage.calls)

    def __init__(
        self, mesh: str | Path | MeshSpec | Mesh, *, mode: str = "plan", journal: str = "", renew: str = ""
    ) -> None:
        super().__init__(mesh, mode=mode, journal=journal)
        self.renew: str = renew
        self.joined: Plan = Plan(self.mesh, STAGE)
        self.calls: pd.DataFrame = probing_merged_service.MERGED.frame([])

    @property
    def local_patch(self) -> Text:
        """The IstioOperator that keeps the proposed Services in their clusters."""
        patch = service_merge.patch(self.mesh, self.local.frame)
        return Text(patch, "the patch that keeps all of them there") if patch else Text("no Service is proposed")

    def _look(self) -> DiscoveryFacts:
        return look(self.mesh)

    def _check(self) -> Iterable[Finding]:
        return check(self.mesh, self.facts, self.mode, self.renew)

    def _plans(self) -> Iterator[Plan]:
        tokens = plan_tokens(self.mesh, self.facts, self.renew)
        yield tokens
        self.findings += token_rotation.try_tokens(self.mesh, self.facts, self.mode, self.renew)
        self.secrets = plan(self.mesh, self.facts, self.renew)
        yield self.secrets
        if self.mesh.spec.remotes:
            self.joined = joining.plan(self.mesh)
            yield self.joined
        self.revoked = plan_revoked(self.mesh, tokens)
        self.findings += token_rotation.check_readers_switched(self.mesh, self.revoked, self.mode)
        yield self.revoked

    def _prove(self) -> Iterable[Finding]:
        pending = any(plan.pending for plan in (self.secrets, self.joined))
        self.calls = try_merged(self.mesh, pending=pending)
        return prove(self.mesh, self.secrets, self.calls, self.revoked, pending=pending)
