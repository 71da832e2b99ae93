"""Checks of the roots and certificates that proxies hold."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from meshkit import clock
from meshkit.checks.finding import Finding, Verdict
from meshkit.checks.question import Question
from meshkit.kube.mesh import Mesh


def check_roots(mesh: Mesh, certificates: pd.DataFrame) -> Iterator[Finding]:
    """MK807: every proxy's chain ends at a root that every other proxy of the mesh holds."""
    known = certificates[certificates["reason"] == ""]
    everywhere = set.intersection(*(set(r.split(",")) for r in known["roots"])) if len(known) else set()
    cure = "give all clusters intermediates of one root (stage 04), and restart workloads that still hold old ones"
    for name in mesh.clusters:
        ask = Question("MK807", "chains end at a common root", name, "a root that every proxy of the mesh holds")
        rows = certificates[certificates["cluster"] == name]
        if rows.empty:
            yield ask.fail("it has no proxy", "is anything injected there?")
        for row in rows[rows["reason"] != ""].to_dict("records"):
            yield ask.unknown(f"{row['proxy'] or 'cluster'}: {row['reason']}")
        good = rows[rows["reason"] == ""]
        if good.empty:
            continue
        lonely = good[(good["anchor"] == "") | ~good["anchor"].isin(everywhere)]
        ends = lonely if len(lonely) else good
        anchors = ", ".join(sorted(set(ends["anchor"]) - {""})) or "no root that it holds"
        proxies = f"{len(lonely)} of {len(good)} proxies" if len(lonely) else f"{len(good)} proxies"
        observed = f"{proxies} end at {anchors}" + (", which others do not hold" if len(lonely) else "")
        yield ask.judge(lonely.empty, observed, cure)


def check_certificates(mesh: Mesh, certificates: pd.DataFrame) -> Iterator[Finding]:
    """MK808: every proxy's certificate is valid now and for a while."""
    now, life = clock.now(), mesh.spec.gates.min_certificate_life
    for name in mesh.clusters:
        rows = certificates[(certificates["cluster"] == name) & (certificates["reason"] == "")]
        if rows.empty:
            continue
        ask = Question("MK808", "certificates are valid", name, f"valid now, and for {life / 3600:g} h more")
        left = (rows["not_after"] - now).dt.total_seconds()
        early = rows[rows["not_before"] > now]
        first = rows.iloc[int(left.argmin())]
        ends = f"the first ends {first['not_after']:%Y-%m-%d %H:%M} UTC ({first['proxy']})"
        observed = f"{len(rows)} certificates, {ends}"
        if len(early):
            told = f"{len(early)} not yet valid, e.g. {early.iloc[0]['proxy']}"
            yield ask.fail(told, "compare the clocks of the clusters (stage 02)")
        elif left.min() < 0:
            yield ask.fail(observed, "these proxies cannot renew: look for CSR errors in their logs and in istiod's")
        else:
            cure = "does renewal work? see the proxy's log"
            yield ask.judge(left.min() >= life, observed, cure, otherwise=Verdict.WARN)
