"""Another root for live meshes: all proxies trust the old roots and the new one before any istiod signs under it.

Each cluster goes through four phases, and all clusters through one before any begins the next:

    widen    its proxies trust every root that is in use, and the new one; it signs as before
    sign     its istiods sign under the new root; proxies get no update, and certificates stay as they are
    renew    its proxies get certificates of that: by a byte-different bundle of the same roots, or by a restart
    narrow   its proxies trust the new root only

The next step follows from the state of the clusters, so a killed run can be resumed. Before a change that could break
trust every proxy of every cluster is read (`wait_until_safe`), and one that cannot be read blocks it.

Source: istio/istio, tests/integration/security/cacert_rotation; meshkit.istio.ca.root_bundles says which changes
an istiod loads while it runs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import pandas as pd
from cryptography.x509 import Certificate

from meshkit.changes.plan import Plan
from meshkit.errors import InputError
from meshkit.istio.ca import cacerts, certificates, istiod_ca, model, root_bundles, trust_store
from meshkit.istio.ca.model import SHORT, Choice, ClusterCaState
from meshkit.istio.ca.trust_store import Certificates, ProxyCertificate, RootSource
from meshkit.istio.control_plane.istiods_and_proxies import istiods
from meshkit.istio.proxies import workloads
from meshkit.istio.reading import Unread
from meshkit.kube.manifests import MANAGED, Object
from meshkit.kube.mesh import Mesh
from meshkit.kube.wait import Wait
from meshkit.stages.trust import discovery_pause


class Phase(StrEnum):
    """What a cluster's `cacerts` go through."""

    WIDEN = "widen"
    SIGN = "sign"
    RENEW = "renew"
    NARROW = "narrow"


WHY = {
    Phase.WIDEN: "its proxies trust {roots}; it signs as before",
    Phase.SIGN: "an intermediate of {name} under {root} signs from now on",
    Phase.RENEW: "a byte-different bundle of the same roots: its proxies request certificates of the new intermediate",
    Phase.NARROW: "its proxies trust {root} only",
}


@dataclass(frozen=True)
class TrustState:
    """What a cluster trusts by its Secret: the root that it signs under, and those that it distributes.

    Fingerprints are cut to `SHORT`.
    """

    root: str
    bundle: frozenset[str]


@dataclass(frozen=True)
class Move:
    """One cluster in one phase: what it trusts afterwards, and whether its Secret must be changed for that."""

    phase: Phase
    cluster: str
    after: TrustState
    secret: bool


def rotation_steps(states: Sequence[ClusterCaState], root: str, plug: Collection[str]) -> Iterator[Move]:
    """Yield the steps that live clusters still need, in order.

    Args:
        states: one for each cluster.
        root: the common root, whole.
        plug: the clusters that need an intermediate of it.
    """
    live, new = [s for s in states if s.live], root[:SHORT]
    standing = {s.root[:SHORT] for s in live}.union(*(s.anchors for s in live))
    wide = frozenset({*standing, new} - {""})
    if wide != {new} or any(s.name in plug for s in live):
        for s in live:
            yield Move(Phase.WIDEN, s.name, TrustState(s.root[:SHORT], s.bundle | wide), secret=not wide <= s.bundle)
        for s in live:
            yield Move(Phase.SIGN, s.name, TrustState(new, s.bundle | wide), secret=s.name in plug)
        for s in live:
            yield Move(Phase.RENEW, s.name, TrustState(new, s.bundle | wide), secret=False)
    for s in live:
        yield Move(Phase.NARROW, s.name, TrustState(new, frozenset({new})), secret=s.bundle | wide != {new})


def late(move: Move, proxies: Certificates) -> set[str]:
    """Return the proxies of a cluster that a phase has not reached yet, as far as is known: an unread one is late."""

    def waits(one: ProxyCertificate) -> bool:
        if move.phase is Phase.WIDEN:
            return not move.after.bundle <= one.bundle
        return one.bundle != move.after.bundle if move.phase is Phase.NARROW else one.anchor != move.after.root

    unread = {one.proxy for one in proxies.unread_in(move.cluster)}
    return unread | {one.proxy for one in proxies.of(move.cluster) if waits(one)}


def wait_until_safe(
    mesh: Mesh, name: str, before: TrustState, after: TrustState, tolerated: Collection[str] = ()
) -> Wait:
    """Return a wait until a cluster may change its roots without a failed call.

    No istiod may sign under a root that a proxy does not hold, and no root may be dropped that is in use. Every proxy
    of every cluster is read; one that cannot be read blocks the change.

    Args:
        mesh: all clusters.
        name: the cluster that changes.
        before: what it trusts now.
        after: what it is to trust.
        tolerated: in an undo, roots (`SHORT`) of other clusters that it did not trust in the first place.
    """
    dropped = before.bundle - after.bundle

    def missing() -> str:
        if after.root == before.root and not dropped:
            return ""
        proxies = trust_store.certificates(mesh)
        if unread := [f"{_who(one)} cannot be read: {one.reason}" for one in trust_store.unproved(proxies)]:
            return _some(unread)
        lacking = [f"{_who(one)} does not trust {after.root}" for one in proxies if after.root not in one.roots]
        if after.root != before.root and lacking:
            return _some(lacking)
        shown = [one for one in proxies if one.cluster == name or one.anchor not in tolerated]
        still = [one for one in shown if one.anchor in {*dropped, ""}]
        if dropped and still:
            return _some([f"{_who(one)} shows a chain to {one.anchor or 'nothing it trusts'}" for one in still])
        return _signed(mesh, dropped - set(tolerated)) if dropped else ""

    return missing


def _signed(mesh: Mesh, dropped: Collection[str]) -> str:
    """Return which istiods still sign under roots that are to be dropped, or an empty text."""
    roots = {(r["cluster"], r["sha256"]): r["root"][:SHORT] for r in _rows(istiod_ca.authorities(mesh))}
    signing = []
    for row in _rows(istiod_ca.signers(mesh)):
        root = roots.get((row["cluster"], row["signer"]), "")
        if not root or root in dropped:
            under = root or f"an unknown root: {row['reason']}"
            signing.append(f"{row['istiod'] or row['cluster']} signs under {under}")
    return _some(signing)


def wait_until_istiod_serves(mesh: Mesh, name: str, bundle: frozenset[str], signer: Certificate) -> Wait:
    """Return a wait until every istiod of a cluster signs with a certificate and distributes these roots (`SHORT`)."""

    def missing() -> str:
        cluster = mesh.clusters[name]
        running = istiods(cluster, mesh.root_namespace)
        old = [i.name for i in running if not certificates.signed_by(istiod_ca.serving_certificate(i), signer)]
        if old or not running:
            return f"{', '.join(old)} signs as before" if old else "no istiod runs"
        other = [
            namespace for namespace, roots in trust_store.distributed_by_namespace(cluster).items() if roots != bundle
        ]
        return f"{len(other)} namespaces have other roots in istio-ca-root-cert, e.g. {other[0]}" if other else ""

    return missing


def wait_until_configmaps(mesh: Mesh, name: str, text: bytes) -> Wait:
    """Return a wait until every namespace of a cluster has the certificates of a bundle, each as often as there.

    A restarted istiod writes them only once it is the leader.
    """
    wanted = [certificates.fingerprint(one) for one in certificates.parse_chain(text)]

    def missing() -> str:
        other = [
            place for place, chain in trust_store.bundles_by_namespace(mesh.clusters[name]).items() if chain != wanted
        ]
        return f"{len(other)} namespaces have another bundle of the roots, e.g. {other[0]}" if other else ""

    return missing


def wait_until_rotated(mesh: Mesh, name: str, after: TrustState, signer: Certificate, *, renewed: bool = True) -> Wait:
    """Return a wait until a cluster's istiods and all of its proxies trust the roots of its Secret.

    Unless they are to be `renewed`, their certificates may be of any root that they trust.
    """
    taken = wait_until_istiod_serves(mesh, name, after.bundle, signer)

    def missing() -> str:
        if waiting := taken():
            return waiting
        proxies = trust_store.certificates(mesh)
        wrong = [f"{_who(one)}: {one.reason}" for one in trust_store.unproved(proxies, name)]
        ends, known = {after.root} if renewed else after.bundle, [one for one in proxies.of(name) if not one.reason]
        astray = [one for one in known if one.bundle != after.bundle or one.anchor not in ends]
        wrong += [f"{_who(one)} trusts {', '.join(one.roots)}, and shows a chain to {one.anchor}" for one in astray]
        return _some(wrong)

    return missing


def _rows(frame: pd.DataFrame) -> list[dict[Any, Any]]:
    return frame.to_dict("records")


def _who(one: ProxyCertificate | Unread) -> str:
    return f"{one.proxy}.{one.namespace} of {one.cluster}" if one.proxy else one.cluster


def _some(reasons: Sequence[str]) -> str:
    more = f" and {len(reasons) - 2} more" if len(reasons) > 2 else ""
    return "; ".join(reasons[:2]) + more


def hot_reloads(signers: pd.DataFrame, name: str) -> bool:
    """Tell whether all istiods of a cluster distribute changed roots while they run."""
    own = signers[signers["cluster"] == name]
    return bool(len(own)) and bool(own["multi_root"].all())


def to_restart(signers: pd.DataFrame, name: str, old: bytes | None, new: bytes) -> list[str]:
    """Return the Deployments of those istiods of a cluster that load other roots only when they start.

    `old` is None where they do not sign with `cacerts`, or where it is unknown what they have loaded.
    """
    found = set()
    for row in _rows(signers[(signers["cluster"] == name) & (signers["istiod"] != "")]):
        env = {root_bundles.MULTI_ROOT: str(row["multi_root"]), root_bundles.AUTO_RELOAD: str(row["auto_reload"])}
        if root_bundles.predict(old, new, row["version"], env).taken is root_bundles.ReloadMode.RESTART:
            found.add(istiod_ca.deployment_of(row["istiod"]))
    return sorted(found)


def next_bundle(bundle: bytes, root: bytes) -> bytes:
    """Return a byte-different bundle of the same roots: with one of them repeated at its end once, twice or not at all.

    There are three, so that an istiod that has not loaded the last one yet does not see again what it has.
    """
    twice = bundle.removesuffix(root).removesuffix(root)
    return twice if twice.endswith(root) else root_bundles.duplicate_root(bundle, root)


def unsent(bundle: bytes, root: bytes, sent: Collection[bytes]) -> bytes:
    """Return a bundle of the same roots that differs from all those that were sent: one root repeated until it does.

    If the bundle were that of the time before last, a proxy that missed the one between would see no change.
    """
    text = root_bundles.duplicate_root(bundle, root)
    return unsent(text, root, sent) if text in sent else text


def require_distinct_keys(roots: Collection[Certificate]) -> None:
    """Refuse roots of which one is the other, issued again: a certificate of the one is one of the other, too.

    Raises:
        InputError: two of them have the same name and key.
    """
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    first: dict[tuple[bytes, bytes], str] = {}
    for root in roots:
        digest = certificates.fingerprint(root, SHORT)
        key = root.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        before = first.setdefault((root.subject.public_bytes(), key), digest)
        if before != digest:
            raise InputError(
                f"roots {before} and {digest} have the same name and key: whatever the one signed, the other did, "
                "so nobody can see when no proxy needs the old one any longer",
                where=f"root {root.subject.rfc4514_string()}",
                remedy="change to a root with a key of its own: `meshkit ca root` makes one",
            )


@dataclass
class CaState:
    """What a cluster's istiods load when they start: the files of `cacerts`, and where they come from."""

    files: dict[str, bytes] = field(repr=False)
    standing: TrustState
    plugged: bool
    ours: bool
    taken: bool
    """Whether its istiods have loaded that already."""

    @property
    def text(self) -> bytes:
        """The root bundle, as the Secret has it."""
        return self.files["root-cert.pem"]

    @property
    def signer(self) -> Certificate:
        """What signs."""
        return certificates.signer(self.files)


class Overlap:
    """The changes of a root rotation, phase by phase; each change starts from the state that the one before left."""

    def __init__(self, mesh: Mesh, wanted: Plan, facts: Any, choice: Choice) -> None:
        self.mesh, self.wanted, self.facts, self.choice = mesh, wanted, facts, choice
        self.known: dict[str, bytes] = {}
        self.held: dict[str, CaState] = {}

    def plan(
        self,
        states: Sequence[ClusterCaState],
        intermediate: Callable[[str], model.CaCerts],
        more_roots: Collection[Certificate],
    ) -> None:
        """Want the changes that live clusters still need.

        Args:
            states: one for each cluster.
            intermediate: makes, or finds, that of a cluster under the common root.
            more_roots: the common root, where no cluster distributes it yet.
        """
        from cryptography.hazmat.primitives.serialization import Encoding

        self.held = {s.name: self._held(s) for s in states if s.live}
        all_roots = [*more_roots, *(one for now in self.held.values() for one in certificates.parse_bundle(now.text))]
        self.known = {certificates.fingerprint(one, SHORT): one.public_bytes(Encoding.PEM) for one in all_roots}
        require_distinct_keys(all_roots)
        discovery_pause.pause(self.wanted, self.facts.readings, states)
        for move in rotation_steps(states, self.choice.root, self.choice.plug):
            files = dict(self.held[move.cluster].files)
            if move.phase is Phase.SIGN and move.secret:
                files = {**intermediate(move.cluster).files, "root-cert.pem": files["root-cert.pem"]}
            elif move.secret:
                files["root-cert.pem"] = self._text(move)
            self._step(move, files)

    def _text(self, move: Move) -> bytes:
        if move.phase is Phase.NARROW:
            return self.known[move.after.root]
        others = sorted(move.after.bundle - self.held[move.cluster].standing.bundle)
        if lost := [digest for digest in others if digest not in self.known]:
            message = f"proxies show chains to {', '.join(lost)}, a root that no Secret holds any longer"
            remedy = "restart their workloads, so that they get certificates of the CA that their istiod uses now"
            raise InputError(message, where=f"cluster {move.cluster}", remedy=remedy)
        return root_bundles.append_roots(self.held[move.cluster].text, [self.known[digest] for digest in others])

    def _held(self, state: ClusterCaState) -> CaState:
        cluster, namespace = self.mesh.clusters[state.name], self.mesh.root_namespace
        secret = cluster.find("secrets", namespace, model.SECRET)
        data = istiod_ca.secret_data(cluster, namespace, model.SECRET if state.plugged else istiod_ca.SELF_SIGNED)
        files = cacerts.as_loaded(data) if state.plugged else cacerts.self_signed_as_loaded(data)
        if lacking := [name for name in model.FILES if not files.get(name)]:
            raise InputError(
                f"{', '.join(lacking)} missing",
                where=f"cluster {state.name}, Secret {model.SECRET if state.plugged else istiod_ca.SELF_SIGNED}",
                remedy="replace the Secret by one with the four files",
            )
        roots, signers = self.facts.roots, self.facts.signers
        handed = roots.of(state.name, RootSource.CONFIG_MAPS)
        everywhere = {one.sha256[:SHORT] for one in handed if one.holders == one.of}
        running = signers[signers["cluster"] == state.name]
        return CaState(
            files={name: files[name] for name in model.FILES},
            standing=TrustState(state.root[:SHORT], state.bundle),
            plugged=state.plugged,
            ours=secret is None or (secret["metadata"].get("labels") or {}).items() >= MANAGED.items(),
            taken=everywhere == {one.sha256[:SHORT] for one in handed} == state.bundle
            and bool((running["signer"] == state.signer).all()),
        )

    def _step(self, move: Move, files: dict[str, bytes]) -> None:
        now = self.held[move.cluster]
        rows = self.facts.workloads[self.facts.workloads["cluster"] == move.cluster]
        waiting = late(move, self.facts.certificates)
        due = rows[rows["names"].map(lambda names: bool(waiting & set(names.split(","))))]
        multi_root = hot_reloads(self.facts.signers, move.cluster)
        if move.phase is Phase.SIGN:  # proxies get no update yet
            due = due.head(0)
        by_restart = due[~(due["live_roots"] & multi_root)]
        if not move.secret and len(due) > len(by_restart):
            files["root-cert.pem"] = next_bundle(files["root-cert.pem"], self.known[self.choice.root[:SHORT]])
        changes = files != now.files
        restarts = self._istiods(move.cluster, now, files) if changes or not now.taken else []
        after = CaState(files, move.after, plugged=True, ours=now.ours, taken=True)
        self.held[move.cluster] = after
        handed = wait_until_istiod_serves(self.mesh, move.cluster, move.after.bundle, after.signer)
        last = handed
        if move.phase is not Phase.SIGN:
            renewed = move.phase is not Phase.WIDEN  # a run that was killed may have got as far as to sign already
            last = wait_until_rotated(self.mesh, move.cluster, move.after, after.signer, renewed=renewed)
        steps: list[Callable[[Wait | None, Wait | None], None]] = []
        if changes:
            steps.append(lambda gate, wait: self._put(move, after, gate, wait))
        steps += [self._restart(move.cluster, "Deployment", self.mesh.root_namespace, n, _ISTIOD) for n in restarts]
        marks = len(steps)
        for row in _rows(by_restart[by_restart["kind"].isin(workloads.RESTARTABLE)]):
            what = f"its proxies do not load it from istiod while they run ({move.phase})"
            steps.append(self._restart(move.cluster, row["kind"], row["namespace"], row["workload"], what))
        gate = wait_until_safe(self.mesh, move.cluster, now.standing, move.after)
        for n, step in enumerate(steps):
            first = gate if n == 0 and changes else handed if n == marks else None
            step(first, last if n == len(steps) - 1 else None)

    def _istiods(self, name: str, now: CaState, files: Mapping[str, bytes]) -> list[str]:
        """Return the Deployments of istiods that load the files only when they start."""
        old = now.text if now.plugged and now.taken else None
        return to_restart(self.facts.signers, name, old, files["root-cert.pem"])

    def _put(self, move: Move, after: CaState, gate: Wait | None, wait: Wait | None) -> None:
        words = {"name": move.cluster, "root": move.after.root, "roots": ", ".join(sorted(move.after.bundle))}
        why = f"{move.phase}: {WHY[move.phase].format(**words)}"
        manifest: Object = model.CaCerts(after.signer, after.signer, after.files).secret(self.mesh.root_namespace)
        want = self.wanted.apply if after.ours else self.wanted.patch
        want(move.cluster, manifest, why, gate=gate, wait=wait)

    def _restart(
        self, cluster: str, kind: str, namespace: str, name: str, why: str
    ) -> Callable[[Wait | None, Wait | None], None]:
        def step(gate: Wait | None, wait: Wait | None) -> None:
            self.wanted.restart(cluster, kind, namespace, name, why, gate=gate, wait=wait)

        return step


_ISTIOD = "it loads another root only when it starts"
