"""Is a cluster known to another's istiod: the secret, whose it is, where it lies, its address, credential and rights.

Stages 07 and 08 ask. Each cause has a check of its own; the more general one is skipped then, and says which.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pandas as pd

from meshkit.checks.finding import Finding, Verdict
from meshkit.checks.question import Question, arrow, unreadable
from meshkit.istio.multicluster import remote_secrets
from meshkit.istio.multicluster.remote_secret_manifest import address_kind
from meshkit.istio.multicluster.remote_secrets import active_secrets, candidate_secrets, usable
from meshkit.istio.snapshot import VerifyFacts
from meshkit.kube.mesh import Mesh
from meshkit.tables import Row

RESUMED_BY: Final = "run stage 04 again, to the end: its plan puts the label back once they trust each other"
"""What mends a paused remote secret; to put the label back by hand would lose requests."""
_CURES: Final = {
    "other CA": "delete the secret and run stage 07; or do all ways to that API server end TLS with that CA?"
}
_NO_ADDRESS: Final = {"loopback": "loopback: istiod would ask itself", "nothing": "no address at all"}


def check(
    mesh: Mesh, identity: pd.DataFrame, secrets: pd.DataFrame, seen: pd.DataFrame, pair: tuple[str, str]
) -> Iterator[Finding]:
    """Judge all that a reader's istiods need to watch a target, from `versions.identity` and the tables of `remotes`.

    Args:
        mesh: the mesh.
        identity: `versions.identity`.
        secrets: `remote_secrets.remote_secrets`.
        seen: `remote_secrets.remote_clusters`.
        pair: (reader, target).
    """
    reader, target = pair
    yield check_secret(mesh, secrets, reader, target)
    yield from check_key(mesh, identity, secrets, reader, target)
    yield from check_single(mesh, identity, secrets, reader, target)
    yield from check_place(mesh, secrets, reader, target)
    yield from check_address(mesh, secrets, reader, target)
    yield check_credential(mesh, secrets, seen, reader, target)
    yield from check_rights(mesh, secrets, seen, reader, target)
    yield from check_life(mesh, secrets, reader, target)
    yield from check_sync(mesh, seen, reader, target)


def actual_cluster_id(identity: pd.DataFrame, name: str) -> tuple[str, str]:
    """Return a cluster's id as its own istiods have it, and why it is not known; a cluster without istiod has its name.

    Source: CLUSTER_ID of the istiods, by which they name their own registry.
    """
    rows = identity[identity["cluster"] == name]
    if reason := next((r for r in rows["reason"] if r), ""):
        return "", reason
    ids = sorted(set(rows["cluster_id"]))
    return (name, "") if not ids else ("", f"its istiods have {len(ids)} ids") if len(ids) > 1 else (ids[0], "")


def create_command(mesh: Mesh, reader: str, target: str) -> str:
    """Return the command that makes a target's remote secret for a reader."""
    entry, ours, space = mesh.spec.cluster(target), mesh.spec.cluster(reader).context, mesh.root_namespace
    server = f" --server {entry.api_server}" if entry.api_server else ""
    made = f"istioctl create-remote-secret --context {entry.context} -n {space} --name {target}{server}"
    return f"{made} | kubectl apply --context {ours} -n {space} -f -"


def delete_command(mesh: Mesh, secrets: pd.DataFrame, reader: str, row: Mapping[str, Any]) -> str:
    """Return the command that takes one cluster out of a reader's remote secret: all of it, unless it holds others."""
    kubectl = f"kubectl --context {mesh.spec.cluster(reader).context} -n {row['namespace']}"
    same = (secrets["cluster"] == reader) & (secrets["namespace"] == row["namespace"])
    keys = set(secrets[same & (secrets["name"] == row["name"])]["key"])
    if keys <= {row["key"]}:
        return f"{kubectl} delete secret {row['name']}"
    patch = f'[{{"op":"remove","path":"/data/{row["key"]}"}}]'
    return f"{kubectl} patch secret {row['name']} --type=json -p '{patch}'"


def check_secret(mesh: Mesh, secrets: pd.DataFrame, reader: str, target: str) -> Finding:
    """MK802: the reader holds a remote secret of the target, which its istiod reads."""
    expected = f"a secret with the label {remote_secrets.LABEL}, in {mesh.root_namespace}, of {target}"
    ask = Question("MK802", "remote secret is there", arrow(reader, target), expected)
    if reason := unreadable(secrets, reader, "credential"):
        return ask.unknown(reason)
    rows, good = candidate_secrets(secrets, reader, target), active_secrets(mesh, secrets, reader, target)
    if rows.empty:
        others = sorted(set(secrets[secrets["cluster"] == reader]["key"]) - {""})
        return ask.fail(f"none; it has {', '.join(others) or 'no remote secret'}", create_command(mesh, reader, target))
    names = ", ".join(sorted(set((rows if good.empty else good)["name"])))
    if good.empty:
        return ask.answer(Verdict.SKIPPED, f"{names} is there, but istiod does not read it: see MK832")
    return ask.answer(Verdict.PASS, names)


def check_key(mesh: Mesh, identity: pd.DataFrame, secrets: pd.DataFrame, reader: str, target: str) -> Iterator[Finding]:
    """MK830: the secret's key and annotation are the target's real cluster id.

    istiod takes the key for the id of all endpoints from there; subsets by `topology.istio.io/cluster`, and proxies
    that sign in from there, are matched by the real one.
    """
    own, why = actual_cluster_id(identity, target)
    expected = f"key = annotation = {own or target}, as istiod of {target} calls itself"
    ask = Question("MK830", "remote secret has the cluster's own id", arrow(reader, target), expected)
    rows = candidate_secrets(secrets, reader, target)
    rows = rows if (good := rows[usable(mesh, rows)]).empty else good
    if rows.empty:
        return
    told = "; ".join(f"{r['name']}: key {r['key']}, annotation {r['annotation'] or 'none'}" for r in _rows(rows))
    if why:
        yield ask.unknown(f"{told}; {why}")
        return
    right = all(r["key"] == own and r["annotation"] in ("", own) for r in _rows(rows))
    yield ask.judge(
        right, told, f"{delete_command(mesh, secrets, reader, _rows(rows)[0])}; {create_command(mesh, reader, target)}"
    )


def check_single(
    mesh: Mesh, identity: pd.DataFrame, secrets: pd.DataFrame, reader: str, target: str
) -> Iterator[Finding]:
    """MK831: no other secret has the same key, and it is not the reader's own id: istiod ignores both without an error.

    Source: pkg/kube/multicluster/secretcontroller.go, addRemoteConfig.
    """
    ask = Question(
        "MK831", "one remote secret for one id", arrow(reader, target), "one, and not of the reader's own id"
    )
    rows = active_secrets(mesh, secrets, reader, target)
    if rows.empty:
        return
    (own, why), key = actual_cluster_id(identity, reader), str(rows.iloc[0]["key"])
    names = sorted(set(rows["name"]))
    if key == own:
        told = f"{names[0]} has the key {key}, which is {reader}'s own id: istiod ignores it"
        first = next(row for row in _rows(rows) if row["name"] == names[0])
        yield ask.fail(told, f"{delete_command(mesh, secrets, reader, first)}; {create_command(mesh, reader, target)}")
        return
    kept = f"{remote_secrets.PREFIX}{target}" if f"{remote_secrets.PREFIX}{target}" in names else names[0]
    extra = "; ".join(delete_command(mesh, secrets, reader, row) for row in _rows(rows) if row["name"] != kept)
    told = (
        f"{len(names)} secrets for {key}: {', '.join(names)}; istiod takes the first that it meets" if extra else kept
    )
    if why and not extra:
        yield ask.unknown(f"{kept}; {why}")
        return
    yield ask.judge(not extra, told, extra)


def check_place(mesh: Mesh, secrets: pd.DataFrame, reader: str, target: str) -> Iterator[Finding]:
    """MK832: the secret lies in istiod's namespace, with the label; istiod reads no other."""
    expected = f"namespace {mesh.root_namespace}, label {remote_secrets.LABEL}=true"
    ask = Question("MK832", "remote secret lies where istiod reads it", arrow(reader, target), expected)
    rows, good = candidate_secrets(secrets, reader, target), active_secrets(mesh, secrets, reader, target)
    if rows.empty:
        return
    if len(good):
        yield ask.answer(Verdict.PASS, f"{good.iloc[0]['namespace']}/{good.iloc[0]['name']}")
        return
    row, *_ = _rows(rows)
    if row["namespace"] != mesh.root_namespace:
        told = f"{row['name']} is in namespace {row['namespace']}: istiod ignores it"
        yield ask.fail(told, f"{delete_command(mesh, secrets, reader, row)}; {create_command(mesh, reader, target)}")
        return
    if row["paused"]:
        told = (
            f"{row['name']} is paused: stage 04 took its label off while {reader} and {target} do not trust each other"
        )
        yield ask.fail(told, RESUMED_BY)
        return
    told = f"{row['name']} is without the label {remote_secrets.LABEL}=true: istiod ignores it"
    kubectl = f"kubectl --context {mesh.spec.cluster(reader).context} -n {row['namespace']}"
    yield ask.fail(told, f"{kubectl} label secret {row['name']} {remote_secrets.LABEL}=true")


def check_address(mesh: Mesh, secrets: pd.DataFrame, reader: str, target: str) -> Iterator[Finding]:
    """MK833: the API server's address in the secret leads to the target, not to whoever asks."""
    ask = Question(
        "MK833", "secret has an address for others", arrow(reader, target), "an address that is not loopback"
    )
    for row in _rows(active_secrets(mesh, secrets, reader, target)):
        if row["auth"] == "unreadable":
            continue
        kind = address_kind(row["server"])
        told = f"{row['server'] or 'none'} ({_NO_ADDRESS.get(kind, kind)})"
        number = [entry.name for entry in mesh.spec.clusters].index(target)
        cure = f"say clusters[{number}].apiServer in the mesh file, then {create_command(mesh, reader, target)}"
        yield ask.judge(kind not in _NO_ADDRESS, told, cure)


def check_credential(mesh: Mesh, secrets: pd.DataFrame, seen: pd.DataFrame, reader: str, target: str) -> Finding:
    """MK803: the credential in the reader's secret opens the target's API server now."""
    ask = Question("MK803", "credential opens the API server now", arrow(reader, target), f"ok, leads to {target}")
    if reason := unreadable(secrets, reader, "credential"):
        return ask.unknown(reason)
    rows = candidate_secrets(secrets, reader, target)
    if rows.empty:
        return ask.fail("there is no secret to try", "see MK802")
    used = rows[usable(mesh, rows)]
    row = (rows if used.empty else used).iloc[0]
    leads = f"leads to {row['leads_to']}" if row["leads_to"] else ""
    observed = ", ".join(filter(None, (row["credential"], leads, row["detail"])))
    if row["credential"] in ("unreachable", "untested") and row["auth"] != "unreadable":
        return ask.unknown(observed, f"ask {target}'s API server with that credential from where {reader} runs")
    if row["credential"] == "403":
        return ask.answer(Verdict.PASS, f"it is taken, leads to {target}; its rights: see MK836")
    # One with another key is tried at each cluster, and its key is MK830's matter.
    other = row["credential"] == "mismatch" and row["leads_to"] == target
    good = (row["credential"] == "ok" or other) and row["leads_to"] == target
    observed += "" if good else _still(seen, reader, row["key"])
    return ask.judge(good, observed, _CURES.get(row["credential"], "run stage 07: it makes the secret anew"))


def check_rights(mesh: Mesh, secrets: pd.DataFrame, seen: pd.DataFrame, reader: str, target: str) -> Iterator[Finding]:
    """MK836: the credential may watch all that istiod watches."""
    ask = Question(
        "MK836", "credential may watch what istiod watches", arrow(reader, target), "all that a reader watches"
    )
    for row in _rows(active_secrets(mesh, secrets, reader, target)):
        account = row["account"] or "its account"
        if row["credential"] == "403":
            cure = f"give {account} of {target} these rights (ClusterRole istio-reader-clusterrole, stage 05)"
            told = f"{account}: {row['detail'] or 'forbidden'}{_still(seen, reader, row['key'])}"
            yield ask.fail(told, f"{cure}, or run stage 07")
        elif row["credential"] == "ok":
            of_later = "istiods from 1.29 on look there for the other's trust domain; stage 05 of such gives the right"
            told = f"{account}: {row['detail']}" if row["detail"] else f"{account} may"
            yield ask.judge(not row["detail"], told, of_later, otherwise=Verdict.WARN)
        else:
            yield ask.answer(Verdict.SKIPPED, f"not to be asked with that credential ({row['credential']}): see MK803")


def _still(seen: pd.DataFrame, reader: str, key: str) -> str:
    said = seen[(seen["cluster"] == reader) & (seen["remote"] == key)]
    return "; istiod still says synced, and shows what it knew before" if "synced" in set(said["status"]) else ""


def check_sync(mesh: Mesh, seen: pd.DataFrame, reader: str, target: str) -> Iterator[Finding]:
    """MK804: each istiod replica of the reader says that it has synced the target."""
    ask = Question("MK804", "istiod watches the other cluster", arrow(reader, target), "synced, by every replica")
    own = seen[seen["cluster"] == reader]
    if own.empty:
        yield ask.fail("no istiod", "see MK801")
    cure = f"istioctl remote-clusters --context {mesh.spec.cluster(reader).context}; its log names the cause"
    for istiod in sorted(set(own["istiod"])):
        rows = own[own["istiod"] == istiod]
        if reason := unreadable(rows, reader, "status"):
            yield ask.unknown(f"{istiod}: {reason}" if istiod else reason)
            continue
        states = list(rows[rows["remote"] == target]["status"])
        yield ask.judge(states == ["synced"], f"{istiod}: {', '.join(states) or 'does not know it'}", cure)


def _rows(table: pd.DataFrame) -> list[dict[str, str]]:
    return [{str(key): value for key, value in row.items()} for row in table.to_dict("records")]


def ends_soon(mesh: Mesh, row: Row) -> bool:
    """Tell whether the credential of a row of `remote_secrets.remote_secrets` is to be replaced, or has ended.

    Within `remoteSecrets.renewBefore`, or half of its life where the API server granted less than that.
    """
    if row["ends"] in ("", "never"):
        return False
    margin = timedelta(seconds=mesh.spec.remote_secrets.renew_before)
    # Without the moment of issue the comparison is false, as of every moment that is not known.
    half = (row["expires"] - row["issued"]) / 2
    return bool(row["expires"] - datetime.now(UTC) <= min(margin, half))


def check_life(
    mesh: Mesh, secrets: pd.DataFrame, reader: str, target: str, *, renewed: bool = False
) -> Iterator[Finding]:
    """MK809: the credential in the reader's secret lasts: it never ends, or not soon.

    What this very run is to renew is a warning at most.
    """
    hours = mesh.spec.remote_secrets.renew_before / 3600
    ask = Question("MK809", "credential lasts", arrow(reader, target), f"no end, or more than {hours:g} h left")
    rows = secrets[(secrets["cluster"] == reader) & (secrets["key"] == target)]
    for row in rows[usable(mesh, rows)].to_dict("records"):
        if row["auth"] != "token":
            continue
        if not row["ends"]:
            yield ask.unknown("its token does not say when it ends", "it is none that Kubernetes issued")
            continue
        never = row["ends"] == "never"
        over = not never and row["expires"] < datetime.now(UTC)
        told = "it never ends" if never else f"it {'ended' if over else 'ends'} {row['ends']}"
        told += "; this run renews it" if renewed else ""
        cure = "run stage 07: it makes a new one, hands it over, and revokes the old one"
        worse = Verdict.FAIL if over and not renewed else Verdict.WARN
        yield ask.judge(not ends_soon(mesh, row), told, cure, otherwise=worse)


def unjoined(mesh: Mesh, facts: VerifyFacts) -> str:
    """Return what is missing for the clusters to be one mesh, or an empty text; what cannot be read is not missing."""
    read = facts.secrets[facts.secrets["credential"] != "UNKNOWN"]
    unread = set(facts.secrets["cluster"]) - set(read["cluster"])
    held = set(zip(read["cluster"], read["key"], strict=True))
    bare = [name for name in mesh.clusters if name not in set(facts.identity["cluster"])]
    missing = [arrow(*pair) for pair in mesh.ordered_pairs if pair not in held and pair[0] not in unread]
    told = [f"no istiod in {', '.join(bare)}"] if bare else []
    return "; ".join([*told, *([f"no remote secret for {', '.join(missing)}"] if missing else [])])
