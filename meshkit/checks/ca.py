"""Checks of each cluster's CA: `cacerts`, what istiods sign with, trust domain, roots and their keys."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from meshkit import clock
from meshkit.checks.finding import Finding, Verdict
from meshkit.checks.question import Question
from meshkit.istio.ca import model
from meshkit.istio.ca.model import SHORT, Choice
from meshkit.istio.ca.trust_store import RootSource, unproved
from meshkit.istio.reading import cell
from meshkit.istio.trust import TrustFacts, signed_by_others
from meshkit.kube.mesh import Mesh
from meshkit.tables import of_cluster

LONG_ROOT = timedelta(days=365)
LONG_INTERMEDIATE = timedelta(days=90)
STRONG = {"RSA": 2048, "ECDSA": 256}


def check_authority(facts: TrustFacts, name: str) -> Finding:
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
    observed = f"{row['secret']}: {row['subject']}, {row['sha256'][:SHORT]}"
    remedy = (
        "istiod would not start with it, or sign certificates that no proxy accepts: put a sound `cacerts` in its place"
    )
    remedy = f"{row['owner']} keeps it: change {row['owner_source']}" if row["owner"] else remedy
    return ask.judge(not row["problem"], f"{row['secret']}: {row['problem']}" if row["problem"] else observed, remedy)


def _elsewhere(by: str) -> str:
    return f"certificates come from {by}: istiod signs nothing, and neither cacerts nor istio-ca-secret means anything"


def check_signers(facts: TrustFacts, name: str) -> Iterator[Finding]:
    """MK403: it is known what each istiod signs with now, and its proxies trust the CA that a restart would load."""
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
            observed = f"{who}: {now}; {len(lacking)} proxies, e.g. {lacking[0]}, do not trust the CA of a restart"
            remedy = (
                "after a restart they would refuse its certificates: restore the present CA, with both roots in its "
                "root-cert.pem, and change the signer once all of them hold both"
            )
            yield ask.fail(observed, remedy)
        elif row["signs_with"]:
            yield ask.answer(Verdict.PASS, f"{who}: {now}")
        else:
            yield ask.answer(Verdict.WARN, f"{who}: {now}", "restart istiod: it loads the Secret that is there")


def _not_trusting(facts: TrustFacts, name: str) -> list[str]:
    """Return the proxies of a cluster that do not hold the root of the Secret that a restarted istiod would load."""
    used = of_cluster(facts.authorities, name)
    roots = set(used[used["used"]]["root"].str[:SHORT])
    lacking = [one.proxy for one in facts.certificates.of(name) if not roots <= one.bundle]
    return [*lacking, *(one.proxy or "cluster" for one in facts.certificates.unread_in(name) if roots)]


def check_intermediate(facts: TrustFacts, name: str) -> Iterator[Finding]:
    """MK404: the cluster's intermediate lives for a while, and not longer than its root."""
    rows = of_cluster(facts.authorities, name)
    for row in rows[rows["used"] & (rows["secret"] == model.SECRET) & (rows["sha256"] != "")].to_dict("records"):
        ask = Question(
            "MK404", "the intermediate does not expire soon", name, f"{LONG_INTERMEDIATE.days} days, within its root's"
        )
        beyond = row["root"] != "" and row["not_after"] > row["root_not_after"]
        observed = f"until {row['not_after']:%Y-%m-%d}" + (", longer than its root" if beyond else "")
        good = not beyond and row["not_after"] - clock.now() >= LONG_INTERMEDIATE
        remedy = "renew it: istiod loads another intermediate of the same root without a restart"
        remedy = f"{row['owner']} keeps it: renew it by {row['owner_source']}" if row["owner"] else remedy
        yield ask.judge(good, observed, remedy, otherwise=Verdict.WARN)


def check_lists(facts: TrustFacts, name: str) -> Iterator[Finding]:
    """MK422: the revocation lists of a cluster's proxies refuse no CA of the mesh. Silent where they refuse none.

    Source: `meshkit.istio.ca.revocation`.
    """
    rows = of_cluster(facts.authorities, name)
    for row in rows[rows["refused"] != ""].to_dict("records"):
        ask = Question("MK422", "revocation lists refuse no CA of the mesh", name, "a current list by each CA, or none")
        remedy = (
            "let ca-crl.pem in cacerts of each cluster hold a current list by every CA of all clusters, and roots too: "
            "istiod loads it while it runs; a CA that is revoked needs another first"
        )
        yield ask.fail(row["refused"], remedy)


def check_cluster_id(facts: TrustFacts, name: str, *, renamed_next: bool = False) -> Iterator[Finding]:
    """MK421, where istio-csr signs: it takes the cluster id that proxies say now, and that they will say.

    It takes one id only (app.server.clusterID) and refuses every other proxy's request for a certificate; that shows
    when certificates end. So it has to change together with values.global.multiCluster.clusterName: first it, then
    stage 05. With `renamed_next`, which is before stage 05, neither step of that order fails.
    """
    ask = _csr_id(name)
    ids = {one.istiod: one.cluster_id for one in facts.identity.of(name)}
    for row in of_cluster(facts.signers, name).to_dict("records"):
        if "istio-csr" not in row["signed_by_others"]:
            continue
        takes, says = row["others_cluster_id"], ids.get(row["istiod"], "")
        remedy = _set_csr_id(name)
        if not takes or not says:
            lacking = "istio-csr's Deployment is not found" if not takes else "istiod's cluster id is unknown"
            yield ask.unknown(lacking, f"does its --cluster-id say {name}? {remedy}")
            continue
        observed = f"istio-csr takes {takes}, proxies of {row['istiod']} say {says}"
        if takes == name != says:
            remedy = f"run stage 05 before a certificate ends: it makes proxies say {name}"
        elif says != name:
            remedy = f"{remedy}, and stage 05 in the same hour, which makes proxies say {name}"
        harmless = takes == says or (renamed_next and takes == name)
        yield ask.judge(takes == says == name, observed, remedy, otherwise=Verdict.WARN if harmless else Verdict.FAIL)


def check_csr_id_before_rename(name: str, takes: str) -> Finding:
    """MK421 for stage 05: proxies that it restarts say the cluster's name, and istio-csr has to take that by then."""
    observed = f"istio-csr takes {takes or 'an unknown id'}; restarted proxies will say {name}, and get no certificate"
    if not takes:
        return _csr_id(name).unknown("istio-csr's Deployment is not found", _set_csr_id(name))
    return _csr_id(name).judge(takes == name, takes if takes == name else observed, _set_csr_id(name))


def _csr_id(name: str) -> Question:
    return Question("MK421", "istio-csr takes the cluster's id", name, f"clusterID {name}")


def _set_csr_id(name: str) -> str:
    return f"helm upgrade cert-manager-istio-csr … --reuse-values --set app.server.clusterID={name}"


def check_trust_domain(mesh: Mesh, facts: TrustFacts, name: str) -> Iterator[Finding]:
    """MK405: each istiod's trust domain is the mesh file's: with two, identities differ although the root is one."""
    expected = mesh.spec.mesh.trust_domain
    ask = Question("MK405", "the trust domain is the mesh's", name, expected)
    for unread in facts.identity.unread_in(name):
        yield ask.unknown(f"{unread.istiod or 'cluster'}: {unread.reason}")
    for one in facts.identity.of(name):
        remedy = "change meshConfig.trustDomain, or mesh.trustDomain of the file"
        yield ask.judge(one.trust_domain == expected, one.trust_domain, remedy)


def check_root(facts: TrustFacts, choice: Choice) -> Iterator[Finding]:
    """MK406: the common root lives long enough, and its key is strong."""
    rows = facts.authorities[facts.authorities["root"] == choice.root]
    for row in rows.head(1).to_dict("records"):
        expected = f"{LONG_ROOT.days} days of life, RSA {STRONG['RSA']} or ECDSA {STRONG['ECDSA']} at least"
        ask = Question("MK406", "the common root is good for years", choice.root[:SHORT], expected)
        kind, _, bits = row["root_key"].partition(" ")
        left = row["root_not_after"] - clock.now()
        good = left >= LONG_ROOT and int(bits) >= STRONG[kind]
        observed = f"{row['root_subject']}, {row['root_key']}, until {row['root_not_after']:%Y-%m-%d}"
        remedy = "a new root for a live mesh is an overlap of two roots: plan it before this one ends"
        yield ask.judge(good, observed, remedy, otherwise=Verdict.WARN)


def check_key(facts: TrustFacts, choice: Choice) -> Iterator[Finding]:
    """MK407: the root's key is in no cluster, where anyone who reads Secrets could impersonate any workload."""
    ask = Question("MK407", "the root's key is in no cluster", choice.root[:SHORT], "offline, with your PKI")
    rows = facts.authorities
    own = rows[(rows["root"] == choice.root) & (rows["sha256"] == choice.root)]
    places = ", ".join(f"{row['cluster']}'s Secret {row['secret']}" for row in own.to_dict("records"))
    observed = (
        f"it is in {places}: anyone who can read that can sign any identity in every cluster"
        if places
        else "in no Secret"
    )
    observed += f"; {choice.cost}" if choice.cost and places else ""
    remedy = "once all is proved, keep a copy offline and delete it there; an undo, and another cluster, will need it"
    remedy += f"; or change to a root made offline: trust.strategy overlap, {model.NEW_ROOT}" if choice.cost else ""
    yield ask.judge(not places, observed, remedy, otherwise=Verdict.WARN)


def check_held(facts: TrustFacts, name: str, root: str, identifier: str) -> Finding:
    """MK408, and MK413 afterwards: every proxy trusts the common root and no other, and shows a chain that ends there.

    The root that new proxies get (ConfigMap istio-ca-root-cert of each namespace) must be it too.
    """
    ask = Question(
        identifier, "every proxy's chain ends at the common root", name, f"trusted alone, and shown: {root[:SHORT]}"
    )
    proxies, handed = facts.certificates.of(name), facts.roots.of(name, RootSource.CONFIG_MAPS)
    if unread := [f"{one.proxy or 'cluster'}: {one.reason}" for one in unproved(facts.certificates, name)]:
        return ask.unknown("; ".join(unread[:3]), "can the proxies be asked? `istioctl proxy-config secret`")
    if reason := facts.roots.unknown(name):
        return ask.unknown(reason)
    if broken := [one.reason for one in handed if one.reason and one.of]:
        return ask.unknown(
            "; ".join(broken),
            f"in {name}: kubectl delete configmap istio-ca-root-cert -n NAMESPACE; istiod writes it again",
        )
    if not proxies:
        return ask.answer(Verdict.SKIPPED, "it has no proxy")
    short = root[:SHORT]
    right = [one for one in proxies if one.anchor == short and short in one.roots]
    astray = [one for one in proxies if one.anchor != short or short not in one.roots]
    wrong = [f"{one.proxy} ends at {one.anchor or 'nothing it trusts'}" for one in astray]
    wrong += [f"{one.proxy} trusts {cell(one.roots)}" for one in right if one.roots != (short,)]
    good = [one for one in handed if one.sha256 == root]
    lacking = sum(one.of - one.holders for one in good)
    if not good or lacking:
        wrong.append(f"{lacking or 'all'} ConfigMaps istio-ca-root-cert have another root")
    observed = "; ".join(wrong[:3]) if wrong else f"{len(proxies)} proxies, and every namespace has it"
    return ask.judge(not wrong, observed, "run this stage again: its plan brings every proxy to this root")
