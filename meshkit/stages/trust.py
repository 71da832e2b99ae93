"""Stage 04: one root for all clusters, live.

Each cluster gets a Secret `cacerts` with an intermediate of its own under the common root. Where one cluster is live,
its istiod's self-signed root is adopted: what its proxies trust stays as it is, so no call can fail for want of trust.
Where that cannot be, since live meshes have different roots or another one is wanted, all trust both for a while: see
meshkit.stages.overlap.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from meshkit.changes import Plan
from meshkit.checks import Finding, Verdict
from meshkit.diffs import MANAGED
from meshkit.errors import UnreachableError
from meshkit.istio import authority, authorization, cacerts, signing, versions, workloads
from meshkit.istio import trust as held
from meshkit.istio.fleet import istiods, table
from meshkit.stages import apart, domains, overlap, restarts, strategy, verify
from meshkit.stages.finding import Question
from meshkit.stages.strategy import SHORT, Choice, Offer, Outcome, State

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd

    from meshkit.changes import Wait
    from meshkit.mesh import Mesh

STAGE = "04 trust"
LONG_ROOT = timedelta(days=365)
LONG_INTERMEDIATE = timedelta(days=90)
STRONG = {"RSA": 2048, "ECDSA": 256}
MAPS = "configmap"
"""How the source of what new proxies are given begins in `trust.roots`."""


@dataclass(frozen=True)
class Facts:
    """What was looked at; each table is of the function that it is named after. `offer` is the user's own CA."""

    identity: pd.DataFrame
    authorities: pd.DataFrame
    signers: pd.DataFrame
    certificates: pd.DataFrame
    roots: pd.DataFrame
    handed: pd.DataFrame
    workloads: pd.DataFrame
    policies: pd.DataFrame
    readings: pd.DataFrame
    offer: Offer | None = None
    new_pods: restarts.Facts | None = None


def look(mesh: Mesh) -> Facts:
    """Read every cluster's CA, what its istiods sign with, and what its proxies hold; changes nothing.

    Raises:
        InputError: trust.rootDirectory is named, and what it holds is no CA for all clusters.
    """
    told = mesh.ask(
        identity=versions.identity,
        authorities=signing.authorities,
        signers=signing.signers,
        certificates=held.certificates,
        roots=held.roots,
        handed=held.handed,
        workloads=workloads.workloads,
        policies=authorization.trust_domains,
        readings=apart.readings,
        new_pods=restarts.look,
    )
    return with_offer(mesh, Facts(**told))


def with_offer(mesh: Mesh, facts: Facts) -> Facts:
    """Return facts with the CA that the mesh file offers, if it does.

    Raises:
        InputError: trust.rootDirectory is named, and what it holds is no CA for all clusters.
    """
    import pandas as pd

    files = _files(mesh)
    if files is None:
        return facts
    row = {"secret": "trust.rootDirectory", **signing.parse_root(files.root)}
    known = pd.concat([facts.authorities, table([row], signing.AUTHORITY_COLUMNS)], ignore_index=True)
    signers = {name: held.fingerprint(one.certificate) for name, one in files.plugged.items()}
    return replace(facts, authorities=known, offer=Offer(held.fingerprint(files.root), signers))


def _files(mesh: Mesh) -> authority.Offered | None:
    trust = mesh.spec.trust
    if not trust.root_directory:
        return None
    return authority.read_directory(trust.root_directory, mesh.clusters, trust.passphrase_from)


def choose(mesh: Mesh, facts: Facts) -> Choice:
    """Return how all clusters come to one root, by `strategy.choose`."""
    return strategy.choose(states(mesh, facts), facts.offer, mesh.spec.trust.strategy)


def states(mesh: Mesh, facts: Facts) -> list[State]:
    """Return what each cluster stands by, for `strategy.choose`."""
    return [state_of(facts, name, mesh.spec.trust.renew_before) for name in mesh.clusters]


def state_of(facts: Facts, name: str, renew_before: float = 0.0) -> State:
    """Return what one cluster stands by; an intermediate ends that has fewer than `renew_before` seconds left."""
    secrets, proxies = (of_cluster(rows, name) for rows in (facts.authorities, facts.certificates))
    unread = [*secrets["reason"], *proxies[proxies["proxy"] == ""]["reason"]]
    if reason := next(filter(None, unread), ""):
        return State(name, reason=reason)
    keys = frozenset(secrets[(secrets["sha256"] == secrets["root"]) & (secrets["problem"] == "")]["root"])
    anchors = frozenset(proxies["anchor"]) - {""}
    known: dict[str, Any] = {"live": not proxies.empty, "keys": keys, "anchors": anchors}
    used = secrets[secrets["used"]]
    if used.empty:
        return _from_proxies(facts, name, known)
    row = used.iloc[0]
    plugged = row["secret"] == authority.SECRET
    left, beyond = row["not_after"] - datetime.now(UTC), row["root_not_after"] - row["not_after"]
    return State(
        name,
        **known,
        root=row["root"],
        signer=row["sha256"],
        plugged=plugged,
        bundle=frozenset(row["roots"].split(",")) - {""},
        # One that ends with its root cannot be given a longer life.
        ends=plugged and left.total_seconds() < renew_before and beyond > timedelta(days=1),
        problem=row["problem"],
        owner=row["owner"],
        owner_source=row["owner_source"],
    )


def _from_proxies(facts: Facts, name: str, known: dict[str, Any]) -> State:
    """Return what a cluster stands by whose istiods, if any, sign nothing: what its proxies trust, or are to be given.

    A remote cluster's proxies have another cluster's istiod as their CA; or istio-csr, say, signs.
    """
    trusted = of_cluster(facts.roots, name)
    by = signed_by_others(facts, name)
    given = trusted["source"].str.startswith(MAPS) if by and not known["live"] else trusted["source"] == "proxies"
    own = trusted[given]
    digests = sorted(set(own["sha256"]) - {""})
    shown = [digest for digest in digests if digest[:SHORT] in known["anchors"]]
    bundle = frozenset(digest[:SHORT] for digest in digests)
    state = State(name, **known, root=next(iter([*shown, *digests]), ""), bundle=bundle)
    if not by:
        return state
    # What lies in istiod's Secrets signs nothing there.
    where = f"the issuer that {by.partition(' (')[0]} uses"
    return replace(state, keys=frozenset(), owner=by, owner_source=where, signs_elsewhere=True)


def signed_by_others(facts: Facts, name: str) -> str:
    """Return who signs in place of a cluster's istiods, or nothing."""
    return next(filter(None, of_cluster(facts.authorities, name)["signed_by_others"]), "")


def of_cluster(rows: pd.DataFrame, cluster: str) -> pd.DataFrame:
    """Return a table's rows of one cluster."""
    return rows[rows["cluster"] == cluster]


# --- check ------------------------------------------------------------------------------------------------------------


def check(mesh: Mesh, facts: Facts) -> list[Finding]:
    """Judge what was read: is there a common root to be had, and is what is there sound?"""
    choice = choose(mesh, facts)
    findings = [check_strategy(choice)]
    for name in mesh.clusters:
        findings += [check_authority(facts, name), *check_signers(facts, name), *check_intermediate(facts, name)]
        findings += [*check_cluster_id(facts, name), *check_trust_domain(mesh, facts, name)]
        findings.append(domains.check_domains(facts.identity, facts.certificates, name))
        findings += domains.check_policies(mesh, facts.policies, facts.identity, facts.certificates, name)
    if choice.root:
        findings += [*check_root(facts, choice), *check_key(facts, choice)]
    if choice.outcome is Outcome.OVERLAP:
        findings += [finding for name in mesh.clusters for finding in check_way(facts, name)]
        findings += apart.check(facts.readings, states(mesh, facts))
    elif choice.root:
        findings += [check_held(facts, name, choice.root, "MK408") for name in mesh.clusters]
    findings += verify.check_certificates(mesh, facts.certificates, "MK409")
    return [*findings, *restarts.check(mesh, facts.new_pods)]


def check_strategy(choice: Choice) -> Finding:
    """MK401: one root for all is there, or can be had without breaking the trust of a live mesh."""
    ask = Question("MK401", "a common root is possible", "mesh", "there already, to be adopted, or by an overlap")
    told = f"{choice.outcome.value}: {choice.why}"
    if choice.outcome is Outcome.UNKNOWN:
        return ask.unknown(choice.why, choice.remedy)
    return ask.judge(choice.outcome is not Outcome.NO_WAY, told, choice.remedy)


def check_way(facts: Facts, name: str) -> Iterator[Finding]:
    """MK410: every proxy can be read, and be brought to trust another root: by istiod while it runs, or made anew.

    What is made anew without a pod beside it, or a preStop hook, is warned of.
    """
    ask = Question("MK410", "every proxy can move to another root", name, "each can be read, and told or made anew")
    proxies, rows = of_cluster(facts.certificates, name), of_cluster(facts.workloads, name)
    unread = [f"{r['proxy'] or 'cluster'}: {r['reason']}" for r in proxies[proxies["reason"] != ""].to_dict("records")]
    unread += list(rows[rows["reason"] != ""]["reason"])
    if unread:
        yield ask.unknown("; ".join(unread[:3]), "can the proxies be asked? `istioctl proxy-config secret`")
        return
    signers = of_cluster(facts.signers, name)
    told_live = rows["live_roots"] & bool(len(signers)) & bool(signers["multi_root"].all())
    anew = rows[~told_live]
    stuck = [f"{r['kind']} {r['namespace']}/{r['workload']}" for r in anew.to_dict("records") if not _restarts(r)]
    if stuck:
        cure = "whoever made them must make them anew in each phase; end them, or let istiod tell them (docs/trust.md)"
        yield ask.fail(f"{len(stuck)} take no other root, and nothing restarts them: {', '.join(stuck[:3])}", cure)
        return
    risky = [f"{r['namespace']}/{r['workload']}: {r['risk']}" for r in anew.to_dict("records") if r["risk"]]
    observed = f"{int(told_live.sum())} workloads by istiod, {len(anew)} made anew up to three times"
    cure = "give them a pod beside and a preStop hook; or let istiod tell them while they run (docs/trust.md)"
    yield ask.judge(
        not risky, f"{observed}; {'; '.join(risky[:3])}" if risky else observed, cure, otherwise=Verdict.WARN
    )


def _restarts(row: dict[Any, Any]) -> bool:
    return row["kind"] in workloads.RESTARTABLE and not row["stuck"]


def check_authority(facts: Facts, name: str) -> Finding:
    """MK402: what istiod would sign with is a CA, is valid now, has its own key, and ends at its root.

    Where others sign in istiod's place (istio-csr, a Kubernetes signer), what lies in its Secrets proves nothing.
    """
    ask = Question("MK402", "the CA is sound", name, "a valid CA with its key, whose chain ends at its root")
    rows = of_cluster(facts.authorities, name)
    if reason := next(filter(None, rows["reason"]), ""):
        return ask.unknown(reason, "this stage must read the Secrets of the root namespace")
    if by := signed_by_others(facts, name):
        return ask.answer(Verdict.SKIPPED, _elsewhere(by))
    if rows.empty:
        return ask.answer(Verdict.SKIPPED, "it has no CA yet")
    row = rows[rows["used"]].iloc[0]
    told = f"{row['secret']}: {row['subject']}, {row['sha256'][:SHORT]}"
    remedy = "istiod would not start with it, or sign what nobody accepts: put a sound `cacerts` in its place"
    remedy = f"{row['owner']} keeps it: change {row['owner_source']}" if row["owner"] else remedy
    return ask.judge(not row["problem"], f"{row['secret']}: {row['problem']}" if row["problem"] else told, remedy)


def _elsewhere(by: str) -> str:
    return f"certificates come from {by}: istiod signs nothing, and neither cacerts nor istio-ca-secret means anything"


def check_signers(facts: Facts, name: str) -> Iterator[Finding]:
    """MK403: it can be seen what each istiod signs with now, and its proxies trust what it takes when it starts."""
    ask = Question("MK403", "istiod's signing CA is known", name, "a Secret of the cluster")
    used, lacking = of_cluster(facts.authorities, name), _not_trusting(facts, name)
    next_one = next(iter(used[used["used"]]["sha256"]), "")
    for row in of_cluster(facts.signers, name).to_dict("records"):
        who = row["istiod"] or "cluster"
        now = f"{row['signs_with']}, {row['signer'][:SHORT]}" if row["signs_with"] else row["reason"]
        if row["signed_by_others"]:
            yield ask.answer(Verdict.SKIPPED, f"{who}: {_elsewhere(row['signed_by_others'])}")
        elif not row["issuer"]:
            yield ask.unknown(
                f"{who}: {row['reason']}", "does istiod sign certificates at all, and can 15012 be reached?"
            )
        elif lacking and row["signer"] != next_one:
            told = f"{who}: {now}; {len(lacking)} proxies, e.g. {lacking[0]}, do not trust what it takes when it starts"
            cure = (
                "when it restarts it signs what they refuse: put back what it signs with now, with both roots in its "
                "root-cert.pem, and change the signer once all of them hold both"
            )
            yield ask.fail(told, cure)
        elif row["signs_with"]:
            yield ask.answer(Verdict.PASS, f"{who}: {now}")
        else:
            yield ask.answer(Verdict.WARN, f"{who}: {now}", "a restart of istiod makes it take what is there")


def _not_trusting(facts: Facts, name: str) -> list[str]:
    """Return the proxies of a cluster that do not hold the root of the Secret that its istiods take when they start."""
    used = of_cluster(facts.authorities, name)
    roots = set(used[used["used"]]["root"].str[:SHORT])
    rows = of_cluster(facts.certificates, name).to_dict("records")
    return [row["proxy"] or "cluster" for row in rows if not roots <= set(row["roots"].split(","))]


def check_intermediate(facts: Facts, name: str) -> Iterator[Finding]:
    """MK404: the cluster's intermediate lives for a while, and not longer than its root."""
    rows = of_cluster(facts.authorities, name)
    for row in rows[rows["used"] & (rows["secret"] == authority.SECRET) & (rows["sha256"] != "")].to_dict("records"):
        ask = Question(
            "MK404", "the intermediate does not expire soon", name, f"{LONG_INTERMEDIATE.days} days, within its root's"
        )
        beyond = row["root"] != "" and row["not_after"] > row["root_not_after"]
        told = f"until {row['not_after']:%Y-%m-%d}" + (", longer than its root" if beyond else "")
        good = not beyond and row["not_after"] - datetime.now(UTC) >= LONG_INTERMEDIATE
        remedy = "renew it: istiod takes another intermediate of the same root without a restart"
        remedy = f"{row['owner']} keeps it: renew it by {row['owner_source']}" if row["owner"] else remedy
        yield ask.judge(good, told, remedy, otherwise=Verdict.WARN)


def check_cluster_id(facts: Facts, name: str) -> Iterator[Finding]:
    """MK421, where istio-csr signs: it takes the cluster id that proxies say now, and that they will say.

    It takes one id only (app.server.clusterID) and refuses every other proxy's request for a certificate; that shows
    when certificates end. So it has to change together with values.global.multiCluster.clusterName.
    """
    ask = Question("MK421", "istio-csr takes the cluster's id", name, f"clusterID {name}")
    ids = of_cluster(facts.identity, name).set_index("istiod")["cluster_id"].to_dict()
    for row in of_cluster(facts.signers, name).to_dict("records"):
        if "istio-csr" not in row["signed_by_others"]:
            continue
        takes, says = row["others_cluster_id"], ids.get(row["istiod"], "")
        cure = f"helm upgrade cert-manager-istio-csr … --reuse-values --set app.server.clusterID={name}"
        if not takes or not says:
            lacking = "istio-csr's Deployment is not found" if not takes else "istiod's cluster id is unknown"
            yield ask.unknown(lacking, f"does its --cluster-id say {name}? {cure}")
            continue
        told = f"istio-csr takes {takes}, proxies of {row['istiod']} say {says}"
        at_once = f"{cure}; do it in the same hour as stage 05, which makes proxies say {name}"
        otherwise = Verdict.WARN if takes == says else Verdict.FAIL
        yield ask.judge(takes == says == name, told, cure if says == name else at_once, otherwise=otherwise)


def check_trust_domain(mesh: Mesh, facts: Facts, name: str) -> Iterator[Finding]:
    """MK405: each istiod's trust domain is the mesh file's: with two, identities differ although the root is one."""
    expected = mesh.spec.mesh.trust_domain
    ask = Question("MK405", "the trust domain is the mesh's", name, expected)
    for row in of_cluster(facts.identity, name).to_dict("records"):
        if row["reason"]:
            yield ask.unknown(f"{row['istiod'] or 'cluster'}: {row['reason']}")
            continue
        good = row["trust_domain"] == expected
        yield ask.judge(
            good, str(row["trust_domain"]), "change meshConfig.trustDomain, or mesh.trustDomain of the file"
        )


def check_root(facts: Facts, choice: Choice) -> Iterator[Finding]:
    """MK406: the common root lives long enough, and its key is strong."""
    rows = facts.authorities[facts.authorities["root"] == choice.root]
    for row in rows.head(1).to_dict("records"):
        expected = f"{LONG_ROOT.days} days of life, RSA {STRONG['RSA']} or ECDSA {STRONG['ECDSA']} at least"
        ask = Question("MK406", "the common root is good for years", choice.root[:SHORT], expected)
        kind, _, bits = row["root_key"].partition(" ")
        left = row["root_not_after"] - datetime.now(UTC)
        good = left >= LONG_ROOT and int(bits) >= STRONG[kind]
        told = f"{row['root_subject']}, {row['root_key']}, until {row['root_not_after']:%Y-%m-%d}"
        cure = "a new root for a live mesh is an overlap of two roots: plan it before this one ends"
        yield ask.judge(good, told, cure, otherwise=Verdict.WARN)


def check_key(facts: Facts, choice: Choice) -> Iterator[Finding]:
    """MK407: the root's key is not in a cluster, where whoever reads Secrets can be anyone in the mesh."""
    ask = Question("MK407", "the root's key is in no cluster", choice.root[:SHORT], "offline, with your PKI")
    rows = facts.authorities
    own = rows[(rows["root"] == choice.root) & (rows["sha256"] == choice.root)]
    places = ", ".join(f"{row['cluster']}'s Secret {row['secret']}" for row in own.to_dict("records"))
    told = f"it is in {places}: who reads that can sign any identity in every cluster" if places else "in no Secret"
    told += f"; {choice.cost}" if choice.cost and places else ""
    remedy = "once all is proved, keep a copy offline and delete it there; an undo, and another cluster, will need it"
    remedy += f"; or change to a root made offline: trust.strategy overlap, {strategy.NEW_ROOT}" if choice.cost else ""
    yield ask.judge(not places, told, remedy, otherwise=Verdict.WARN)


def check_held(facts: Facts, name: str, root: str, identifier: str) -> Finding:
    """MK408, and MK413 afterwards: every proxy trusts the common root and no other, and shows a chain that ends there.

    The root that new proxies get (ConfigMap istio-ca-root-cert of each namespace) must be it too.
    """
    ask = Question(
        identifier, "every proxy's chain ends at the common root", name, f"trusted alone, and shown: {root[:SHORT]}"
    )
    rows, roots = of_cluster(facts.certificates, name), of_cluster(facts.roots, name)
    handed = roots[roots["source"].str.startswith(MAPS)]
    if unread := [f"{r['proxy'] or 'cluster'}: {r['reason']}" for r in rows[rows["reason"] != ""].to_dict("records")]:
        return ask.unknown("; ".join(unread[:3]), "can the proxies be asked? `istioctl proxy-config secret`")
    if broken := [*handed[(handed["reason"] != "") & (handed["of"] > 0)]["reason"]]:
        return ask.unknown(
            "; ".join(broken),
            f"in {name}: kubectl delete configmap istio-ca-root-cert -n NAMESPACE; istiod writes it again",
        )
    if rows.empty:
        return ask.answer(Verdict.SKIPPED, "it has no proxy")
    right = (rows["anchor"] == root[:SHORT]) & rows["roots"].map(lambda text: root[:SHORT] in text.split(","))
    wrong = [f"{r['proxy']} ends at {r['anchor'] or 'nothing it trusts'}" for r in rows[~right].to_dict("records")]
    more = rows[right & (rows["roots"] != root[:SHORT])].to_dict("records")
    wrong += [f"{r['proxy']} trusts {r['roots']}" for r in more]
    lacking = int((handed["of"] - handed["holders"])[handed["sha256"] == root].sum())
    if not len(handed[handed["sha256"] == root]) or lacking:
        wrong.append(f"{lacking or 'all'} ConfigMaps istio-ca-root-cert hand out another root")
    told = "; ".join(wrong[:3]) if wrong else f"{len(rows)} proxies, and every namespace hands it out"
    return ask.judge(
        not wrong, told, "run this stage again: its plan says how what holds another root comes to this one"
    )


# --- plan -------------------------------------------------------------------------------------------------------------


def plan(mesh: Mesh, facts: Facts) -> Plan:
    """Want `cacerts` in each cluster that needs it, and a restart of each istiod that does not sign with it yet.

    Keys are made here, also when nothing is applied; then they are forgotten. Live clusters that need another root go
    through the phases of `overlap`.

    Raises:
        InputError: the root's key cannot sign intermediates.
    """
    wanted, choice, files = Plan(mesh, STAGE), choose(mesh, facts), _files(mesh)

    def intermediate(name: str) -> authority.Plugged:
        return (files or _adopted(mesh, choice)).of(name, mesh.root_namespace)

    if choice.outcome in (Outcome.NO_WAY, Outcome.UNKNOWN):
        return wanted
    known = {state.name: state for state in states(mesh, facts)}
    bare = list(known)
    if choice.outcome is Outcome.OVERLAP:
        bare = [name for name, state in known.items() if not state.live]
        moving = overlap.Overlap(mesh, wanted, facts, choice)
        moving.plan(list(known.values()), intermediate, [files.root] if files else [])
    # Another intermediate of the root that it has already is taken by a running istiod.
    reloading = [name for name in choice.plug if known[name].plugged and known[name].root == choice.root]
    for name in (name for name in choice.plug if name in bare):
        plugged = intermediate(name)
        why = f"an intermediate of {name} under the common root {choice.root[:SHORT]}"
        wait = _taken(mesh, name, plugged) if name in reloading else None
        put = wanted.patch if _of_others(mesh, name) else wanted.apply
        put(name, plugged.secret(mesh.root_namespace), why, wait=wait)
    for name in bare:
        if name not in reloading:
            _restart(mesh, facts, wanted, name, plugs=name in choice.plug)
    apart.resume(wanted, facts.readings, facts.signers)
    return wanted


def _of_others(mesh: Mesh, name: str) -> bool:
    """Tell whether a cluster's cacerts were put there by others, who own their fields."""
    live = mesh.clusters[name].find("secrets", mesh.root_namespace, authority.SECRET)
    return live is not None and not (live["metadata"].get("labels") or {}).items() >= MANAGED.items()


def _adopted(mesh: Mesh, choice: Choice) -> authority.Offered:
    cluster = mesh.clusters[choice.key_in]
    for name in (authority.SECRET, signing.SELF_SIGNED):
        data = cacerts.as_loaded(signing.secret_data(cluster, mesh.root_namespace, name))
        pair = data.get("ca-cert.pem", b""), data.get("ca-key.pem", b"")
        if all(pair) and held.fingerprint(held.parse_chain(pair[0])[0]) == choice.root:
            where = f"cluster {choice.key_in}, Secret {name}"
            signer = authority.load(*pair, where=where, signs_authorities=True)
            return authority.Offered(signer.certificate, signer, {})
    raise UnreachableError("the root's key is gone since it was looked at", where=cluster.where, remedy="run again")


def _taken(mesh: Mesh, name: str, plugged: authority.Plugged) -> Wait:
    def missing() -> str:
        found = istiods(mesh.clusters[name], mesh.root_namespace)
        old = [i.name for i in found if not held.signed_by(signing.serving_certificate(i), plugged.certificate)]
        return f"{', '.join(old)} signs with the intermediate before" if old else ""

    return missing


def _restart(mesh: Mesh, facts: Facts, wanted: Plan, name: str, *, plugs: bool) -> None:
    rows = of_cluster(facts.signers, name)
    late = rows[(rows["issuer"] != "") & (plugs | (rows["signs_with"] != authority.SECRET))]
    for deployment in sorted({signing.deployment_of(pod) for pod in late["istiod"]}):
        why = "it looks for cacerts only when it starts, and signs with what it had then"
        wanted.restart(name, "Deployment", mesh.root_namespace, deployment, why)
