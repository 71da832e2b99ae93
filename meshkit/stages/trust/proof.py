"""Stage 04's proof: every cluster signs under the common root, every proxy holds it alone, no request failed."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from itertools import groupby
from typing import Any, Final

import pandas as pd

from meshkit.changes.change import Change
from meshkit.changes.plan import Plan, refused
from meshkit.checks import discovery_pause
from meshkit.checks.ca import check_held
from meshkit.checks.finding import Finding, Verdict
from meshkit.checks.question import Question, planned
from meshkit.istio.ca import model
from meshkit.istio.ca.model import SHORT
from meshkit.istio.ca.trust_store import Certificates, ProxyCertificate
from meshkit.istio.reading import cell
from meshkit.istio.trust import TrustFacts, choose, state_of
from meshkit.kube.mesh import Mesh, Unknown
from meshkit.probing import pair_probe
from meshkit.probing.load_generator import Traffic
from meshkit.tables import Table, moment, of_cluster, text

CHAINS: Final = Table(
    "chains",
    "Every proxy's chain and root, before and after",
    {
        "cluster": text("its cluster"),
        "namespace": text("its namespace"),
        "proxy": text("its pod"),
        "certificate": text("same, new or gone"),
        "signed_by_before": text("issuer before"),
        "signed_by": text("issuer"),
        "ends_at_before": text("root that its chain ended at before"),
        "ends_at": text("root that its chain ends at, verified by signature"),
        "trusts_before": text("roots that it trusted before"),
        "trusts": text("roots that it trusts"),
        "not_after": moment("end of validity of its present certificate"),
        "reason": text("why the row after is empty"),
    },
    key=("cluster", "namespace", "proxy"),
    show=("cluster", "proxy", "certificate", "signed_by", "ends_at_before", "ends_at", "trusts", "reason"),
    compare=("signed_by", "ends_at", "trusts"),
)
NO_SECRET, NO_ROOTS = "-", "none"
OUTDATED = "the proxy holds other roots than istiod distributes"
WITNESSES: Final = Table(
    "witnesses",
    "The roots of each proxy, by its istiod's Secret, by istiod, and by itself",
    {
        "cluster": text("its cluster"),
        "namespace": text("its namespace"),
        "proxy": text("its pod"),
        "secret": text(
            "roots in the Secret of its istiod, the first 16 digits of each SHA-256; `-` without such a Secret, "
            "none where no root can be read"
        ),
        "served": text("roots that istiod distributes in its namespace"),
        "trusts": text("roots that the proxy trusts"),
        "shows": text("its leaf certificate"),
        "ends_at": text("root that its chain ends at, verified by signature"),
        "agree": text("yes, or which source differs"),
        "reason": text("why it is unknown"),
    },
    key=("cluster", "namespace", "proxy"),
    show=("cluster", "proxy", "secret", "served", "trusts", "ends_at", "agree", "reason"),
    compare=("agree", "trusts", "ends_at"),
)
WORKLOAD: Final = "a workload"
RATE: Final = 20
"""Requests a second from each client while trust changes."""


def watch(mesh: Mesh, wanted: Plan) -> Traffic:
    """Return the requests to be sent while a plan is applied: from every cluster that has a client.

    A cluster without one, such as a new one, is left out, and `check_requests` says so. An empty plan needs none.
    """
    found = {} if wanted.empty else mesh.each(lambda cluster: pair_probe.find_side(cluster, mesh))
    sides = {name: side for name, side in found.items() if not isinstance(side, Unknown) and side.servers}
    return Traffic(mesh, RATE, clients=list(sides))


def marks(wanted: Plan) -> list[tuple[datetime, str]]:
    """Return when the changes were begun, for a chart: `east: widen`, `east: restart 7 workloads` for all in a row."""
    moments = []
    begun = [(change.begun, f"{change.cluster}: {_words(change)}") for change in wanted.changes if change.begun]
    for words, group in groupby(begun, lambda mark: mark[1]):
        first, *more = (moment for moment, _ in group)
        moments.append((first, words.replace(WORKLOAD, f"{1 + len(more)} workloads") if more else words))
    return moments


def _words(change: Change) -> str:
    phase, name = change.why.partition(": ")[0], change.object.rpartition("/")[2]
    if phase.isalpha():
        return phase
    return f"{change.action} {WORKLOAD if change.action == 'restart' and not name.startswith('istiod') else name}"


def prove(mesh: Mesh, facts: TrustFacts, after: TrustFacts, wanted: Plan, traffic: Traffic) -> list[Finding]:
    """Judge what was read after the changes, against the root that was chosen before, and the requests meanwhile.

    MK411: each cluster's `cacerts` is a sound intermediate of the common root.
    MK412: each istiod signs with it: its own serving certificate, reissued when the CA was loaded, chains to it.
    MK420: discovery is no longer paused between any clusters.
    """
    root = choose(mesh, facts).root
    findings, sources = refused(wanted), witnesses(after)
    for name in mesh.clusters:
        plugged = Question("MK411", "the intermediate is of the common root", name, f"cacerts under {root[:SHORT]}")
        signs = Question(
            "MK412", "new certificates are signed by the intermediate", name, "istiod's own is, by cacerts"
        )
        if wanted.pending or not root:
            findings += [planned(*question.known.values()) for question in (plugged, signs)]
            continue
        findings += [_plugged(after, name, root, plugged), *_signs(after, name, signs)]
        findings += [check_held(after, name, root, "MK413"), check_witnesses(sources, name)]
        findings.append(discovery_pause.check_together(after.readings, name))
        findings += check_requests(mesh, facts, wanted, traffic, name)
    return findings


def _plugged(after: TrustFacts, name: str, root: str, ask: Question) -> Finding:
    state = state_of(after, name)
    if state.reason:
        return ask.unknown(state.reason)
    if state.signs_elsewhere:
        return ask.answer(Verdict.SKIPPED, f"certificates come from {state.owner}")
    observed = (
        f"{'cacerts' if state.plugged else 'no cacerts'}, {state.signer[:SHORT]} under {state.root[:SHORT] or 'none'}"
    )
    good = state.plugged and not state.problem and state.root == root
    return ask.judge(good, state.problem or observed, "run this stage again: its plan says what is missing")


def _signs(after: TrustFacts, name: str, ask: Question) -> Iterator[Finding]:
    rows = of_cluster(after.signers, name)
    signer = state_of(after, name).signer
    if rows.empty:
        yield ask.answer(Verdict.SKIPPED, "no istiod runs there yet; a new one will load cacerts")
    for row in rows.to_dict("records"):
        if row["signed_by_others"]:
            yield ask.answer(Verdict.SKIPPED, f"{row['istiod']}: {row['reason']}")
            continue
        if not row["issuer"]:
            yield ask.unknown(f"{row['istiod'] or 'cluster'}: {row['reason']}")
            continue
        good = row["signs_with"] == model.SECRET and row["signer"] == signer
        observed = f"{row['istiod']}: {row['issuer']}, {row['signer'][:SHORT] or row['reason']}"
        yield ask.judge(good, observed, "run this stage again: it restarts an istiod that has not taken cacerts")


def chains(before: TrustFacts, after: TrustFacts) -> pd.DataFrame:
    """Return every proxy's certificate before and after."""
    key = ["cluster", "namespace", "proxy"]
    frames = before.certificates.frame(), after.certificates.frame()
    both = frames[0].merge(frames[1], how="outer", on=key, suffixes=("_before", ""))
    names = {"issuer": "signed_by", "anchor": "ends_at", "roots": "trusts"}
    both = both.rename(columns={old + end: new + end for old, new in names.items() for end in ("", "_before")})
    now, old = both["sha256"].fillna(""), both["sha256_before"]
    state = now.eq(old).map({True: "same", False: "new"}).where(now != "", "gone")
    rows: list[dict[str, Any]] = both.assign(certificate=state).to_dict("records")  # type: ignore[assignment]
    return CHAINS.frame(rows)


def check_witnesses(sources: pd.DataFrame, name: str) -> Finding:
    """MK418: the Secret, what istiod distributes, and what each proxy holds and shows agree, by fingerprint."""
    ask = Question(
        "MK418", "Secret, istiod and proxies have the same roots", name, "Secret, istiod and every proxy agree"
    )
    rows = of_cluster(sources, name)
    if unread := [f"{row['proxy'] or 'cluster'}: {row['reason']}" for row in rows.to_dict("records") if row["reason"]]:
        return ask.unknown("; ".join(unread[:3]), "can the proxies be asked? `istioctl proxy-config secret`")
    if rows.empty:
        return ask.answer(Verdict.SKIPPED, "it has no proxy")
    wrong = [f"{row['proxy']}: {row['agree']}" for row in rows.to_dict("records") if row["agree"] != "yes"]
    alone = "; no Secret says what its CA is" if (rows["secret"] == NO_SECRET).any() else ""
    observed = "; ".join(wrong[:3]) if wrong else f"{len(rows)} proxies{alone}"
    remedy = (
        "istiod distributes what it has loaded: its log says why it did not load the Secret; then run this stage again"
    )
    outdated = "`kubectl rollout restart` its workload: it missed the update, or answered from its agent's cache"
    return ask.judge(not wrong, observed, outdated if wrong and all(OUTDATED in each for each in wrong) else remedy)


def check_requests(mesh: Mesh, facts: TrustFacts, wanted: Plan, traffic: Traffic, name: str) -> Iterator[Finding]:
    """MK419: no request failed in a live cluster while trust was changed; one that nobody observed is a warning."""
    allowed = mesh.spec.gates.max_error_rate
    ask = Question(
        "MK419", "no request fails during the change", name, f"at most {100 * allowed:g} % (gates.maxErrorRate)"
    )
    if wanted.empty or facts.certificates.lacks(name):
        yield ask.answer(Verdict.SKIPPED, "nothing was changed" if wanted.empty else "it had no proxy")
        return
    rows = traffic.since(name, 0.0)
    if not rows:
        spec = mesh.spec.probe
        observed = (
            f"not observed: no client {spec.client} with a server {spec.server} in namespace {spec.namespace} there"
        )
        remedy = "name workloads of that cluster under `probe:`; watch your own error rates meanwhile"
        yield ask.answer(Verdict.WARN, observed, remedy)
        return
    failed = [row for row in rows if row.failed]
    observed = f"{len(failed)} of {len(rows)} failed" + (f"; the first: {failed[0].error}" if failed else "")
    remedy = (
        "the chart shows at which step; `istioctl proxy-config log` and the client's access log show which side refused"
    )
    yield ask.judge(len(failed) <= allowed * len(rows), observed, remedy)


def witnesses(facts: TrustFacts) -> pd.DataFrame:
    """Return what the three sources of each proxy's trust report, by fingerprints cut to 16 digits."""
    return agreement(facts.authorities, facts.handed, facts.certificates)


def agreement(authorities: pd.DataFrame, handed: pd.DataFrame, certificates: Certificates) -> pd.DataFrame:
    """Return `witnesses` of `istiod_ca.authorities`, and of `handed` and `certificates` of `trust_store`."""
    used = authorities[authorities["used"]].set_index("cluster")["roots"].to_dict()
    served = handed.set_index(["cluster", "namespace"])["roots"].to_dict()
    asked = [*authorities.to_dict("records"), *handed.to_dict("records")]
    # What a cluster as a whole could not be asked has no namespace.
    unread = {(row["cluster"], row.get("namespace", "")): row["reason"] for row in asked if row["reason"]}
    lost = (ProxyCertificate(u.cluster, u.namespace, u.proxy, reason=u.reason) for u in certificates.unread)
    rows = []
    for proxy in (*certificates, *lost):
        name, place = proxy.cluster, (proxy.cluster, proxy.namespace)
        row = {
            "cluster": name,
            "namespace": proxy.namespace,
            "proxy": proxy.proxy,
            "secret": used.get(name, NO_SECRET) or NO_ROOTS,
            "served": served.get(place, ""),
            "trusts": cell(proxy.roots),
            "shows": proxy.sha256[:SHORT],
            "ends_at": proxy.anchor,
            "reason": proxy.reason or unread.get((name, "")) or unread.get(place, ""),
        }
        rows.append({**row, "agree": "" if row["reason"] else _agreement(row)})
    return WITNESSES.frame(rows)


def _agreement(row: dict[str, str]) -> str:
    differences = []
    if row["secret"] == NO_ROOTS:
        differences.append("no root can be read in its Secret")
    elif row["secret"] != NO_SECRET and row["served"] != row["secret"]:
        differences.append("istiod distributes other roots than its Secret has")
    if row["trusts"] != row["served"]:
        differences.append(OUTDATED)
    if row["ends_at"] not in row["trusts"].split(",") or not row["ends_at"]:
        differences.append("its chain ends at none of its roots")
    return "; ".join(differences) or "yes"
