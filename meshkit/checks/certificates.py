"""Checks of the roots and certificates that proxies hold."""

from __future__ import annotations

from collections.abc import Iterator

from meshkit import clock
from meshkit.checks.finding import Finding, Verdict
from meshkit.checks.question import Question
from meshkit.istio.ca.trust_store import Certificates, unproved
from meshkit.kube.mesh import Mesh


def check_roots(mesh: Mesh, certificates: Certificates) -> Iterator[Finding]:
    """MK807: every proxy's chain ends at a root that every other proxy of the mesh holds."""
    known = [one for one in certificates if not one.reason]
    everywhere = frozenset.intersection(*(one.bundle for one in known)) if known else frozenset()
    remedy = "give all clusters intermediates of one root (stage 04), and restart workloads that still hold old ones"
    for name in mesh.clusters:
        ask = Question("MK807", "chains end at a common root", name, "a root that every proxy of the mesh holds")
        if certificates.lacks(name):
            yield ask.fail("it has no proxy", "is anything injected there?")
        for lost in unproved(certificates, name):
            yield ask.unknown(f"{lost.proxy or 'cluster'}: {lost.reason}")
        good = [one for one in known if one.cluster == name]
        if not good:
            continue
        lonely = [one for one in good if one.anchor not in everywhere]
        anchors = ", ".join(sorted({one.anchor for one in lonely or good} - {""})) or "no root that it holds"
        proxies = f"{len(lonely)} of {len(good)} proxies" if lonely else f"{len(good)} proxies"
        observed = f"{proxies} end at {anchors}" + (", which others do not hold" if lonely else "")
        yield ask.judge(not lonely, observed, remedy)


def check_certificates(mesh: Mesh, certificates: Certificates) -> Iterator[Finding]:
    """MK808: every proxy's certificate is valid now and for a while."""
    now, life = clock.now(), mesh.spec.gates.min_certificate_life
    for name in mesh.clusters:
        known = [one for one in certificates.of(name) if not one.reason]
        if not known:
            continue
        ask = Question("MK808", "certificates are valid", name, f"valid now, and for {life / 3600:g} h more")
        early = [one for one in known if one.begins(now)]
        first = min(known, key=lambda one: one.left(now))
        ends = f"the first ends {first.not_after:%Y-%m-%d %H:%M} UTC ({first.proxy})"
        observed = f"{len(known)} certificates, {ends}"
        if early:
            told = f"{len(early)} not yet valid, e.g. {early[0].proxy}"
            yield ask.fail(told, "compare the clocks of the clusters (stage 02)")
        elif first.left(now) < 0:
            yield ask.fail(observed, "these proxies cannot renew: look for CSR errors in their logs and in istiod's")
        else:
            remedy = "does renewal work? see the proxy's log"
            yield ask.judge(first.left(now) >= life, observed, remedy, otherwise=Verdict.WARN)
