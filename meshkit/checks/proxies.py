"""Checks of proxies: connected, in sync, of the right version, of known clusters."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from meshkit.checks.finding import Finding, Verdict
from meshkit.checks.question import Question, awaits
from meshkit.checks.revisions import CANARY
from meshkit.istio.control_plane import versions
from meshkit.istio.proxies import status_summary
from meshkit.istio.proxies.reading import MAX_LISTED, NO_PROXY, ProxyFacts
from meshkit.kube.mesh import Mesh
from meshkit.tables import Row


def check_proxies(mesh: Mesh, facts: ProxyFacts, mode: str = "audit") -> Iterator[Finding]:
    """MK901: every proxy is connected and has accepted what its istiod sent."""
    for name in mesh.clusters:
        ask = Question("MK901", "every proxy is connected and in sync", name, "all SYNCED")
        rows = _rows_of(facts, name)
        if rows.empty:
            yield awaits(ask.fail("no proxy", "is anything injected there?"), mode, "05 install")
        bad, unknown = (
            rows[rows["state"].isin(status_summary.BAD)],
            rows[~rows["state"].isin([*status_summary.BAD, *status_summary.GOOD])],
        )
        for _, alike in bad.groupby(["state", "type"], sort=False):
            for row, count in _few(alike):
                observed = " ".join(filter(None, (row["type"], row["state"])))
                yield ask.fail(f"{_who(row)}{_and(count)} {observed}{why(row)}", remedy(row["state"], row, mesh))
        for _, alike in unknown.groupby(["state", "type"], sort=False):
            for row, count in _few(alike):
                who = row["proxy"] or row["istiod"] or "cluster"
                yield ask.unknown(f"{who}{_and(count)} {row['type']}: {row['nack'] or row['state']}")
        if len(rows) and bad.empty and unknown.empty:
            count = len(rows[["namespace", "proxy"]].drop_duplicates())
            yield ask.answer(Verdict.PASS, f"{count} proxies SYNCED")


def _few(alike: pd.DataFrame) -> Iterator[tuple[Row, int]]:
    """Yield each row, or, of more than people read, the one that has been so for longest and how many others are."""
    rows = alike.sort_values("age_s", ascending=False, kind="stable").to_dict("records")
    yield from ((row, 0) for row in rows) if len(rows) <= MAX_LISTED else [(rows[0], len(rows) - 1)]


def _who(row: Row) -> str:
    return ".".join(filter(None, (row["proxy"], row["namespace"])))


def _first(rows: pd.DataFrame) -> str:
    return _who(rows.iloc[0].to_dict())


def _and(count: int) -> str:
    return f" and {count:,} others" if count else ""


def why(row: Row) -> str:
    """Return what follows a bad state: how long it has lasted, and the proxy's NACK message."""
    known = row["age_s"] == row["age_s"]
    lasted = {"STALE": f" for {row['age_s']:.0f} s or more", "NOT CONNECTED": f", up for {row['age_s']:.0f} s"}
    words = f": {' '.join(row['nack'].split())[:300]}" if row["nack"] else ""
    return (lasted.get(row["state"], "") if known else "") + words


def remedy(state: str, row: Row, mesh: Mesh) -> str:
    """Return what to do about a state of a proxy: the command that shows its cause."""
    context = next((f"--context {c.context} " for c in mesh.spec.clusters if c.name == row["cluster"]), "")
    pod = f"{context}-n {row['namespace']}"
    log = f"`kubectl {pod} logs {row['proxy']} -c istio-proxy --tail 50`"
    if row["proxy"].startswith("node/"):
        return f"`kubectl {context}get pods -A -o wide -l app=ztunnel` shows where ztunnel runs"
    return {
        "ERROR": "the proxy refused what istiod sent: find the object named in the NACK message, often an EnvoyFilter, "
        f"and fix it: `kubectl {context}get envoyfilters -A`",
        "STALE": f"istiod waits for the proxy's answer: {log} shows its load and its connection; "
        f"if it hangs, `kubectl {pod} delete pod {row['proxy']}`",
        "NOT CONNECTED": f"no istiod knows this proxy: {log} shows certificate or connection errors",
    }[state]


def check_versions(mesh: Mesh, facts: ProxyFacts) -> Iterator[Finding]:
    """MK902: istiods and proxies have the same version, as the gate says how exactly.

    During a canary upgrade (`gates.revisions`) these are two, and each proxy's is that of an istiod.
    """
    gate = mesh.spec.gates.versions
    ask = Question("MK902", "one version everywhere", "mesh", gate)
    rows = facts.versions[facts.versions["component"] != "kubernetes"]
    for row in rows[rows["reason"] != ""].to_dict("records"):
        yield ask.unknown(f"{row['cluster']} {row['component']} {row['name']}: {row['reason']}")
    known = rows[rows["reason"] == ""]
    if known.empty:
        return
    short = known["version"].map(lambda text: _label(text, gate))
    found = sorted(set(short))
    observed = "; ".join(f"{v}: {', '.join(sorted(set(known.loc[short == v, 'cluster'])))}" for v in found)
    mend = "bring all to one version before going on; restart proxies after an upgrade of istiod"
    good = versions.alike(set(known["version"]), gate)
    if good is False and mesh.spec.gates.revisions == "canary":
        led = set(short[known["component"] == "istiod"])
        two = len(led) <= CANARY and led >= set(found)
        yield ask.judge(two, f"{observed}: a canary upgrade, as gates.revisions says" if two else observed, mend)
    elif good is None:
        yield ask.unknown(f"{observed}: not all of these are versions that can be compared", mend)
    else:
        yield ask.judge(good, observed, mend)


def check_serving(mesh: Mesh, facts: ProxyFacts) -> list[Finding]:
    """Judge which istiods serve which proxies: by version, by cluster, and whether the mesh file has that cluster."""
    return [*check_skew(mesh, facts), *check_owners(mesh, facts), *check_strangers(mesh, facts)]


def check_skew(mesh: Mesh, facts: ProxyFacts) -> Iterator[Finding]:
    """MK910: no proxy is newer than the istiod that serves it, or more than one minor version older.

    Source: Istio's supported releases: the control plane may be one version ahead of the data plane, never behind it.
    """
    istiods = facts.versions[facts.versions["component"] == "istiod"]
    told = {(row["cluster"], row["name"]): row["version"] for row in istiods.to_dict("records")}
    served = facts.status[(facts.status["istiod"] != "") & (facts.status["proxy"] != "")]
    for name in mesh.clusters:
        ask = Question("MK910", "no proxy is ahead of its istiod", name, "same minor version, or one older")
        if _rows_of(facts, name).empty:
            yield ask.answer(Verdict.SKIPPED, NO_PROXY)
            continue
        own = served[served["cluster"] == name].drop_duplicates(["namespace", "proxy", "istiod"])
        found: list[tuple[str, Verdict]] = []
        for (home, istiod, version), alike in own.groupby(["istiod_cluster", "istiod", "version"]):
            verdict = skew(str(version), told.get((home, istiod), ""))
            some = f"{_first(alike)}{_and(len(alike) - 1)}"
            found.append(
                (f"{some}: {version or 'unknown'} at {istiod} {told.get((home, istiod)) or 'unknown'}", verdict)
            )
        wrong = [words for words, verdict in found if verdict is Verdict.FAIL]
        unknown = [words for words, verdict in found if verdict is Verdict.UNKNOWN]
        if wrong:
            yield ask.fail("; ".join(wrong), "upgrade istiod first; then restart the workloads, so that they follow it")
        elif unknown or not found:
            yield ask.unknown("; ".join(unknown) or "no proxy is known to an istiod", "see MK901")
        else:
            yield ask.answer(Verdict.PASS, f"{len(own)} proxies follow their istiods")


def _rows_of(facts: ProxyFacts, name: str) -> pd.DataFrame:
    """Return what was seen of a cluster, and by its istiods: nothing where it has neither istiod nor proxy."""
    return facts.status[(facts.status["cluster"] == name) | (facts.status["istiod_cluster"] == name)]


def skew(proxy: str, istiod: str) -> Verdict:
    """Return whether a proxy of one version may be served by an istiod of another."""
    own, its = versions.Version.parse(proxy), versions.Version.parse(istiod)
    if own is None or its is None:
        return Verdict.UNKNOWN
    good = own.major == its.major and 0 <= its.minor - own.minor <= 1
    return Verdict.PASS if good else Verdict.FAIL


def check_owners(mesh: Mesh, facts: ProxyFacts) -> Iterator[Finding]:
    """MK911: proxies are served by istiods of their own cluster, where it has any; else by those of another one."""
    istiods = facts.versions[facts.versions["component"] == "istiod"]
    for name in mesh.clusters:
        ask = Question(
            "MK911", "proxies are served by the istiods that own them", name, "its own istiods, if it has any"
        )
        if _rows_of(facts, name).empty:
            yield ask.answer(Verdict.SKIPPED, NO_PROXY)
            continue
        here = istiods[istiods["cluster"] == name]
        own = facts.status[(facts.status["cluster"] == name) & (facts.status["proxy"] != "")]
        served = own[own["istiod"] != ""].drop_duplicates(["namespace", "proxy", "istiod"])
        if (unread := here[here["name"] == ""]["reason"]).any() or served.empty:
            yield ask.unknown(next(iter(unread), "no proxy of it is known to an istiod"), "see MK901")
            continue
        strange = served[served["istiod_cluster"] != name]
        by = "; ".join(f"{len(rows)} by {home}" for home, rows in served.groupby("istiod_cluster"))
        example = f", such as {_first(strange)}" if len(strange) else ""
        mend = "check the discoveryAddress that these pods were injected with, and where it leads"
        yield ask.judge(here.empty or strange.empty, by + (example if len(here) else ""), mend, otherwise=Verdict.WARN)


def check_strangers(mesh: Mesh, facts: ProxyFacts) -> Iterator[Finding]:
    """MK912: istiods serve proxies of this mesh's clusters only: any other id belongs to an unchecked one."""
    ask = Question("MK912", "istiods serve no unknown cluster", "mesh", f"only {', '.join(mesh.clusters)}")
    unread = facts.status[(facts.status["proxy"] == "") & (facts.status["state"] == "UNKNOWN")]
    for row in unread.to_dict("records"):
        yield ask.unknown(f"{row['cluster']} {row['istiod']}: {row['nack']}")
    strange = facts.status[~facts.status["cluster"].isin(list(mesh.clusters)) & (facts.status["proxy"] != "")]
    alike = strange.drop_duplicates(["cluster", "namespace", "proxy"])
    observed = "; ".join(
        f"{len(rows)} of cluster id {cluster!r}, such as {_first(rows)}" for cluster, rows in alike.groupby("cluster")
    )
    remedy = "add the cluster to the mesh file; or, if these proxies have a wrong id, restart their workloads"
    if observed or unread.empty:
        yield ask.judge(not observed, observed or "none else", remedy, otherwise=Verdict.WARN)


def _label(text: str, gate: str) -> str:
    version = versions.Version.parse(text)
    return f"{version.major}.{version.minor}" if version and gate == "same-minor" else text or "no version"
