"""Stage 04's proof: every cluster signs under the common root, every proxy holds it alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from meshkit.checks import Finding, Verdict
from meshkit.istio import authority
from meshkit.istio import trust as held
from meshkit.istio.fleet import table
from meshkit.stages.finding import Question, planned, refused
from meshkit.stages.strategy import SHORT
from meshkit.stages.trust import Facts, check_held, choose, of_cluster, state_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd

    from meshkit.changes import Plan
    from meshkit.mesh import Mesh

CHAIN_COLUMNS = {
    "cluster": "str",
    "namespace": "str",
    "proxy": "str",
    "certificate": "str",
    "signed_by_before": "str",
    "signed_by": "str",
    "ends_at_before": "str",
    "ends_at": "str",
    "trusts_before": "str",
    "trusts": "str",
    "not_after": held.UTC_TIME,
    "reason": "str",
}


def prove(mesh: Mesh, facts: Facts, after: Facts, wanted: Plan) -> list[Finding]:
    """Judge what was looked at after the changes, against the root that was chosen before.

    MK411: each cluster's `cacerts` is a sound intermediate of the common root.
    MK412: each istiod signs with it. Its own certificate proves that: it made it with its CA when it took that.
    """
    root = choose(mesh, facts).root
    findings = refused(wanted)
    for name in mesh.clusters:
        plugged = Question("MK411", "the intermediate is of the common root", name, f"cacerts under {root[:SHORT]}")
        signs = Question(
            "MK412", "new certificates are signed by the intermediate", name, "istiod's own is, by cacerts"
        )
        if wanted.pending or not root:
            findings += [planned(*question.known.values()) for question in (plugged, signs)]
            continue
        findings += [_plugged(after, name, root, plugged), *_signs(after, name, signs)]
        findings.append(check_held(after, name, root, "MK413"))
    return findings


def _plugged(after: Facts, name: str, root: str, ask: Question) -> Finding:
    state = state_of(after, name)
    if state.reason:
        return ask.unknown(state.reason)
    told = (
        f"{'cacerts' if state.plugged else 'no cacerts'}, {state.signer[:SHORT]} under {state.root[:SHORT] or 'none'}"
    )
    good = state.plugged and not state.problem and state.root == root
    return ask.judge(good, state.problem or told, "run this stage again: its plan says what lacks")


def _signs(after: Facts, name: str, ask: Question) -> Iterator[Finding]:
    rows = of_cluster(after.signers, name)
    signer = state_of(after, name).signer
    if rows.empty:
        yield ask.answer(Verdict.SKIPPED, "no istiod runs there yet; the one that comes finds cacerts")
    for row in rows.to_dict("records"):
        if not row["issuer"]:
            yield ask.unknown(f"{row['istiod'] or 'cluster'}: {row['reason']}")
            continue
        good = row["signs_with"] == authority.SECRET and row["signer"] == signer
        told = f"{row['istiod']}: {row['issuer']}, {row['signer'][:SHORT] or row['reason']}"
        yield ask.judge(good, told, "run this stage again: it restarts an istiod that has not taken cacerts")


def chains(before: Facts, after: Facts) -> pd.DataFrame:
    """Return every proxy's certificate before and after.

    Columns: cluster, namespace, proxy, certificate (same, new, or gone), signed_by (the issuer), ends_at (the root
    that its chain ends at, verified by signature), trusts (the roots that it holds), each with `_before`, not_after
    (UTC, of the certificate that it shows now), reason (why the row after is empty).
    """
    key = ["cluster", "namespace", "proxy"]
    both = before.certificates.merge(after.certificates, how="outer", on=key, suffixes=("_before", ""))
    names = {"issuer": "signed_by", "anchor": "ends_at", "roots": "trusts"}
    both = both.rename(columns={old + end: new + end for old, new in names.items() for end in ("", "_before")})
    now, old = both["sha256"].fillna(""), both["sha256_before"]
    state = now.eq(old).map({True: "same", False: "new"}).where(now != "", "gone")
    rows: list[dict[str, Any]] = both.assign(certificate=state).to_dict("records")  # type: ignore[assignment]
    return table(rows, CHAIN_COLUMNS)
