"""Stage 07: every istiod is given the credential to read every other cluster, and clusters become one mesh.

From the moment that an istiod reads another cluster, Services of the same namespace and name are one to its clients. So
what will merge is shown first, and each credential is tried before it is handed over.

Three plans, one after the other: Kubernetes issues a reader's token only once its Secret is there (`plan_tokens`),
only with the token can the remote secrets be made (`plan`), and what they replaced is revoked last (`plan_revoked`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from meshkit import inputs
from meshkit.changes import Plan
from meshkit.checks import Finding, Verdict
from meshkit.istio import accounts, networks, proxies, remote_secret, remotes, services, versions
from meshkit.istio.fleet import table
from meshkit.istio.remotes import PREFIX
from meshkit.mesh import Mesh, Unknown
from meshkit.stages import credentials, eastwest, joined, merged, merging, reach, restarts, verify
from meshkit.stages.credentials import check_handed_over, row_of, try_tokens, wanted
from meshkit.stages.finding import Question, arrow, awaits, planned, refused, unreadable
from meshkit.stages.life import check_life, usable
from meshkit.waiting import in_turn

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    import pandas as pd

    from meshkit.changes import Wait

__all__ = ["check_handed_over", "try_tokens", "wanted"]

STAGE = "07 discovery"
CURED_BY: Final = {
    "MK801": "05 install",
    "MK805": "06 gateways",
    "MK807": "04 trust",
    "MK702": "05 install",
    "MK703": "05 install",
    "MK704": "05 install",
}
_DEFECTS = "go to 1.30.4 or later first, which is free of this: see MK240"


@dataclass(frozen=True)
class Facts:
    """What was looked at: what stage 08 looks at too, and six tables of the functions that they are named after.

    `merging` has one row for each Service of the mesh, `services` one for each cluster that has it.
    """

    known: verify.Facts
    claims: pd.DataFrame
    readers: pd.DataFrame
    reach: pd.DataFrame
    services: pd.DataFrame
    merging: pd.DataFrame
    versions: pd.DataFrame
    new_pods: restarts.Facts | None = None


def look(mesh: Mesh) -> Facts:
    """Read istiods, proxies, Services and remote secrets, and try every credential that there is; changes nothing."""
    # The proxies' own versions are not asked for: an empty status stands for them.
    found = mesh.ask(
        known=verify.look,
        claims=proxies.claims,
        readers=remote_secret.readers,
        reach=reach.reach,
        services=services.services,
        versions=partial(versions.versions, status=table([], proxies.COLUMNS)),
        new_pods=restarts.look,
    )
    same = services.merging(found["services"], list(mesh.clusters), mesh.root_namespace)
    return Facts(**found, merging=same)


def check(mesh: Mesh, facts: Facts, mode: str = "apply", renew: str = "") -> list[Finding]:
    """Judge what must be so before clusters may read each other, and what it will do to Services.

    In plan mode, what an earlier stage is to mend does not fail. `renew` is that of `credentials.wanted`.
    """
    wishes = wanted(mesh, facts, renew)
    findings = [*verify.check_istiods(mesh, facts.known.identity)]
    if mesh.spec.topology.network == "multi":
        findings += [eastwest.check_gateway(mesh, facts.known.gateways, name, "MK805") for name in mesh.clusters]
    findings += [*verify.check_roots(mesh, facts.known)]
    for name in mesh.clusters:
        findings += [check_server(mesh, facts, name), check_claims(mesh, facts, name)]
        findings += [check_reader(mesh, facts, name), check_rights(mesh, facts, name)]
        findings += [*check_version(facts, name, [wish for (a, _), wish in wishes.items() if a == name])]
    for pair in mesh.pairs:
        findings += [check_reach(facts, *pair, mode), check_others(mesh, facts, *pair)]
        findings += [*check_life(mesh, facts.known.secrets, *pair, renewed=bool(wishes[pair]))]
    begun = merging.check_merging(mesh, facts.services, facts.merging, _new(mesh, facts, renew))
    findings += [*begun, *merging.check_alike(facts.merging)]
    findings += restarts.check(mesh, facts.new_pods)
    return [awaits(f, mode, CURED_BY[f.id]) if f.id in CURED_BY else f for f in findings]


def local(mesh: Mesh, facts: Facts, renew: str = "") -> pd.DataFrame:
    """Return which Services could stay in their clusters: see `merging.proposals`."""
    return merging.proposals(mesh, facts.merging, _new(mesh, facts, renew))


def _new(mesh: Mesh, facts: Facts, renew: str) -> set[tuple[str, str]]:
    return {pair for pair, wish in wanted(mesh, facts, renew).items() if wish == "make"}


# --- gates ------------------------------------------------------------------------------------------------------------


def check_server(mesh: Mesh, facts: Facts, name: str) -> Finding:
    """MK701: the API server has an address that other clusters can use."""
    ask = Question("MK701", "API server has an address for others", name, "an https address that is not loopback")
    row = row_of(facts.readers, name)
    if not row.get("server"):
        return ask.unknown(str(row.get("detail", "")) or "not read")
    address, source = str(row["server"]), str(row["server_from"])
    good = address.startswith("https://") and not remote_secret.is_local(address)
    number = [entry.name for entry in mesh.spec.clusters].index(name)
    cure = f"say clusters[{number}].apiServer in the mesh file: the address by which the other clusters reach {name}"
    return ask.judge(good, f"{address} (from {source})", cure)


def check_reach(facts: Facts, reader: str, target: str, mode: str = "apply") -> Finding:
    """MK702: the target's API server answers from inside the reader, at that address, by a certificate for it."""
    ask = Question("MK702", "API server answers the other cluster", arrow(reader, target), "an HTTP answer, by its CA")
    rows = facts.reach[(facts.reach["cluster"] == reader) & (facts.reach["target"] == target)]
    row = rows.iloc[0] if len(rows) else {"answer": "UNKNOWN", "detail": "not asked"}
    if row["answer"] == "UNKNOWN":
        cure = "asked by curl in istiod or the probe's client"
        missing = row["detail"] == reach.NOBODY and mode == "plan"
        return ask.fail(row["detail"], cure) if missing else ask.unknown(row["detail"], cure)
    said = f": {row['detail']}" if row["detail"] else ""
    observed = f"{row['server']}: {row['answer']} (asked by {row['asked_from']}){said}"
    cures = {
        "none": f"does a firewall, route or name stand between? {reader}'s istiod needs the same way",
        "refused": f"istiod refuses it too: its certificate must name that address, and be of {target}'s own CA",
    }
    if row["answer"] not in cures and row["detail"].startswith(reach.UNCHECKED):
        return ask.unknown(observed, f"read there what the CA is: kubectl get configmap kube-root-ca.crt, of {target}")
    return ask.judge(row["answer"] not in cures, observed, cures.get(row["answer"], ""))


def check_claims(mesh: Mesh, facts: Facts, name: str) -> Finding:
    """MK703: every proxy claims the cluster id and the network of the file.

    A proxy without a network is sent through gateways even to its own cluster's pods (Istio 1.31, measured), or to raw
    pod addresses of other networks, by older istiods and wherever no gateway is known (istio/istio, ep_filters.go).
    """
    entry = mesh.spec.cluster(name)
    expected = f"all: cluster {name}, network {entry.network}"
    ask = Question("MK703", "proxies claim their cluster and network", name, expected)
    rows = facts.claims[facts.claims["cluster"] == name]
    if reason := next((r for r in rows["reason"] if r), ""):
        return ask.unknown(reason)
    if rows.empty:
        return ask.answer(Verdict.SKIPPED, "it has no proxy")
    flat = mesh.spec.topology.network == "flat"
    right = (rows["cluster_id"] == name) & (flat | (rows["network"] == entry.network))
    wrong = rows[~right]
    told = {f"cluster {r['cluster_id'] or 'none'}, network {r['network'] or 'none'}" for r in wrong.to_dict("records")}
    named = ", ".join(f"{r['namespace']}/{r['proxy']}" for r in wrong.head(3).to_dict("records"))
    named += ", …" if len(wrong) > 3 else ""
    observed = f"{len(wrong)} of {len(rows)} proxies ({named}): {'; '.join(sorted(told))}"
    cure = f"restart them (stage 05): kubectl --context {entry.context} rollout restart -n NAMESPACE deployment"
    return ask.judge(wrong.empty, f"{len(rows)} proxies" if wrong.empty else observed, cure)


def check_reader(mesh: Mesh, facts: Facts, name: str) -> Finding:
    """MK704: the ServiceAccount by which other clusters read this one is there; istioctl install makes it."""
    row, account = row_of(facts.readers, name), accounts.account(mesh)
    expected = f"ServiceAccount {account} in {mesh.root_namespace}"
    ask = Question("MK704", "there is an account for readers", name, expected)
    if not row.get("server"):
        return ask.unknown(str(row.get("detail", "")) or "not read")
    cure = "install Istio (stage 05), with values.global.enableReaderRBAC not false"
    ours = "none yet; this stage makes it" if account == accounts.LEAST else ""
    return ask.judge(row["service_account"] or ours, "there" if row["service_account"] else ours or "none", cure)


def check_rights(mesh: Mesh, facts: Facts, name: str) -> Finding:
    """MK705: we may make Secrets where istiod reads them, take them away again, and ask for tokens that end."""
    verbs = ", ".join(remote_secret.VERBS)
    ends = "; create serviceaccounts/token" if mesh.spec.remote_secrets.credential == "expiring" else ""
    ask = Question("MK705", "we may make Secrets", name, f"{verbs} secrets{ends}, in {mesh.root_namespace}")
    row = row_of(facts.readers, name)
    if not row.get("server"):
        return ask.unknown(str(row.get("detail", "")) or "not read")
    lacking = str(row["lacking"])
    cure = f"use a context with these rights in namespace {mesh.root_namespace}, or have them granted"
    return ask.judge(not lacking, f"may not {lacking}" if lacking else "may", cure)


def check_others(mesh: Mesh, facts: Facts, reader: str, target: str) -> Finding:
    """MK706: no secret that is not ours stands in the way; what works is left as it is."""
    ours = f"{PREFIX}{target}"
    ask = Question("MK706", "no other secret conflicts", arrow(reader, target), f"none, or {ours} only")
    if reason := unreadable(facts.known.secrets, reader, "credential"):
        return ask.unknown(reason)
    held = facts.known.secrets[facts.known.secrets["cluster"] == reader]
    seen = held[usable(mesh, held)]
    kubectl = f"kubectl --context {mesh.spec.cluster(reader).context}"
    remove = f"{kubectl} delete secret -n NAMESPACE NAME, or its key alone if it holds other clusters; then run again"
    if paused := sorted(held[(held["key"] == target) & held["paused"]]["name"]):
        return ask.fail(f"{paused[0]} is paused by stage 04", joined.RESUMED_BY)
    if strange := _strange(held, seen, ours, target):
        return ask.fail(strange, remove)
    for row in seen[seen["key"] == target].to_dict("records"):
        if row["credential"] in ("unreachable", "untested") and row["auth"] != "unreadable":
            return ask.unknown(f"{row['name']}: {row['detail']}")
        works = row["credential"] == "ok" or row["name"] == ours
        return ask.judge(works, f"{row['name']}, credential {row['credential']}", remove)
    return ask.answer(Verdict.PASS, "none yet")


def _strange(held: pd.DataFrame, seen: pd.DataFrame, ours: str, target: str) -> str:
    """Return what stands in the way of one secret for the target, or nothing."""
    for row in seen[(seen["leads_to"] == target) & (seen["key"] != target)].to_dict("records"):
        return f"{row['name']} makes istiod know {target} as {row['key']}"
    for row in held[(held["name"] == ours) & (held["key"] != target)].to_dict("records"):
        return f"{ours} has the key {row['key']}, which istiod takes for the cluster's id"
    keyed, mine = held[held["key"] == target], seen[seen["key"] == target]
    if len(mine) > 1:
        return f"{len(mine)} secrets for one id: {', '.join(mine['name'])}"
    if mine.empty and len(keyed):
        told = ", ".join(f"{row['namespace']}/{row['name']}" for row in keyed.to_dict("records"))
        return f"{told}: istiod ignores it, for its namespace or for want of the label {remotes.LABEL}=true"
    wrong = mine[~mine["annotation"].isin(["", target])]
    return f"{wrong.iloc[0]['name']} says that it is of {wrong.iloc[0]['annotation']}" if len(wrong) else ""


def check_version(facts: Facts, name: str, wishes: list[str]) -> Iterator[Finding]:
    """MK707: the reader's istiods take remote secrets without harm; some must be restarted after a change (see MK240).

    The plan has that restart. Making a secret for a cluster that was not known does not hurt them.
    """
    ask = Question("MK707", "istiod's version takes remote secrets", name, "one that a change does not hurt")
    rows = facts.versions[(facts.versions["cluster"] == name) & (facts.versions["component"] == "istiod")]
    for row in rows.to_dict("records"):
        if versions.Version.parse(row["version"]) is None:
            yield ask.unknown(row["reason"] or f"version {row['version'] or 'unknown'}")
            continue
        made, renewed = wishes.count("make"), wishes.count("renew")
        told = f"{row['version']}; secrets to make: {made}, to renew: {renewed}"
        hurt = credentials.hurt(rows, name)
        told += "; istiod is restarted after it" if hurt and renewed else ""
        later = "; to change or remove one later needs a restart of istiod" if hurt and not renewed else ""
        yield ask.judge(not hurt or not any(wishes), told + later, _DEFECTS, otherwise=Verdict.WARN)


# --- plan -------------------------------------------------------------------------------------------------------------


def plan_tokens(mesh: Mesh, facts: Facts, renew: str = "") -> Plan:
    """Plan the credential by which each cluster is read: see `credentials.plan_tokens`."""
    return credentials.plan_tokens(mesh, STAGE, facts, renew)


def plan_revoked(mesh: Mesh, tokens: Plan) -> Plan:
    """Plan that replaced credentials end: see `credentials.plan_revoked`."""
    return credentials.plan_revoked(mesh, STAGE, tokens)


def plan(mesh: Mesh, facts: Facts, renew: str = "") -> Plan:
    """Plan the remote secrets, reader by reader; one whose token is not there yet is shown, and never made."""
    made = Plan(mesh, STAGE)
    found = mesh.each(lambda cluster: accounts.current(accounts.tokens(cluster, mesh.root_namespace), mesh))
    wishes, taken = wanted(mesh, facts, renew), remotes.secret_events(mesh)
    asked = credentials.asked(mesh, renew)

    def to_come(name: str, target: str) -> bool:
        now, held = found[target], credentials.held_by(mesh, facts, name, target)
        return target in asked and isinstance(now, accounts.Token) and bool(held) and held["token_secret"] == now.secret

    for name in mesh.clusters:
        waits: list[Wait] = []
        hurt = credentials.hurt(facts.versions, name)
        for target in [b for (a, b), wish in wishes.items() if a == name and wish]:
            address = str(row_of(facts.readers, target).get("server", ""))
            if not address or remote_secret.is_local(address):
                continue
            renewed = wishes[name, target] == "renew"
            # Each change is one event more; a cluster that istiod does not know yet is told by its name alone.
            seen = {pod: count + len(waits) + 1 for pod, count in taken.items()} if renewed else {}
            wait = discovered(mesh, name, target, seen)
            before = len(made.changes)
            token = None if to_come(name, target) else found[target]
            _hand_over(made, name, target, token, None if hurt and renewed else wait)
            waits += [wait] if len(made.changes) > before and renewed else []
        if hurt and not waits:
            waits = [discovered(mesh, name, target, {}) for target in credentials.unheard(mesh, name)]
        if hurt and waits:
            credentials.restart_istiods(made, name, in_turn(waits))
    return made


def _hand_over(made: Plan, holder: str, target: str, token: accounts.Token | Unknown | None, wait: Wait | None) -> None:
    mesh = made.mesh
    inputs.secret_id(mesh.spec, target)
    address = remote_secret.server(mesh.spec.cluster(target), mesh.clusters[target])
    known = token if isinstance(token, accounts.Token) and token else accounts.Token("", "to come", b"-")
    manifest = remote_secret.manifest(target, address, known, mesh.root_namespace)
    before = len(made.changes)
    made.apply(holder, manifest, f"lets {holder} discover {target}", wait=wait)
    if not token and len(made.changes) > before:
        why = token.reason if isinstance(token, Unknown) else "cannot be made before the token is there"
        made.changes[-1].problem = why


def discovered(mesh: Mesh, reader: str, target: str, events: Mapping[str, int]) -> Wait:
    """Return a wait until each istiod has taken a secret in (so many `events` of secrets), and synced the target."""
    alone = Mesh(mesh.spec, {reader: mesh.clusters[reader]})
    network = mesh.spec.cluster(target).network

    def missing() -> str:
        rows = remotes.remote_clusters(alone)
        taken = remotes.secret_events(alone) if events else {}
        if late := [pod for pod, count in taken.items() if count < events.get(pod, 0)]:
            return f"{', '.join(late)}: has not taken the secret in yet"
        for istiod in sorted(set(rows["istiod"])):
            said = list(rows[(rows["istiod"] == istiod) & (rows["remote"] == target)]["status"])
            if said != ["synced"]:
                return f"{istiod or reader}: {', '.join(said) or f'does not know {target}'}"
        if rows.empty:
            return f"{reader} has no istiod"
        if mesh.spec.topology.network != "multi":
            return ""
        seen = networks.gateways_seen(alone)
        blind = set(rows["istiod"]) - set(seen[seen["network"] == network]["istiod"])
        return f"{', '.join(sorted(blind))}: no gateway of {network} yet" if blind else ""

    return missing


# --- prove ------------------------------------------------------------------------------------------------------------


def try_merged(mesh: Mesh, plan: Plan) -> pd.DataFrame:
    """Call the probe's Service from each cluster; no rows while the plan is not carried out. Columns: `merged.look`."""
    return table([], merged.COLUMNS) if plan.pending else merged.look(mesh)


def prove(mesh: Mesh, plan: Plan, calls: pd.DataFrame, old: Plan | None = None) -> list[Finding]:
    """Look again: secrets, credentials, each istiod's word (as stage 08 judges them), endpoints and calls.

    And, of the plan `old`, that what it revoked opens nothing.
    """
    findings = [*credentials.check_revoked(mesh, old)] if old else []
    if plan.pending:
        asks = (*_questions(mesh), *merged.questions(mesh))
        return [*refused(plan), *findings, *(planned(*ask.known.values()) for ask in asks)]
    now = verify.look(mesh)
    for reader, target in mesh.pairs:
        findings += joined.check(mesh, now.identity, now.secrets, now.remotes, (reader, target))
        if mesh.spec.topology.network == "multi":
            findings += eastwest.check_gateway_seen(
                mesh, now.gateways, now.gateways_seen, reader, target, identifier="MK806", moved="MK838"
            )
    return [*findings, *merged.check(mesh, calls)]


def _questions(mesh: Mesh) -> Iterable[Question]:
    for reader, target in mesh.pairs:
        yield Question("MK802", "remote secret is there", arrow(reader, target), f"one, with the key {target}")
        yield Question("MK803", "credential opens the API server now", arrow(reader, target), f"ok, leads to {target}")
        yield Question("MK804", "istiod watches the other cluster", arrow(reader, target), "synced, by every replica")
