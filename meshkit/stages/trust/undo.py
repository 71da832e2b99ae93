"""The undo of stage 04: each cluster's `cacerts` are restored step by step, without a failed call.

The Secret of a change is restored first, then the workloads that were restarted after it are restarted again. The same
waits as in the rotation apply: see meshkit.stages.trust.root_rotation. Before a root is dropped, its certificates are
renewed.
"""

from __future__ import annotations

import base64
import functools
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from meshkit.changes.change import Change
from meshkit.changes.journal import DONE, Entry, Journal
from meshkit.changes.plan import Plan
from meshkit.changes.undo import installed_control_plane
from meshkit.errors import InputError
from meshkit.istio.ca import cacerts, certificates, istiod_ca, model, trust_store
from meshkit.istio.ca.model import SHORT
from meshkit.istio.ca.trust_store import Certificates
from meshkit.istio.proxies import workloads
from meshkit.kube.manifests import Object, identify, unified
from meshkit.kube.mesh import Mesh
from meshkit.kube.wait import Wait, in_turn
from meshkit.stages.trust import discovery_pause, root_rotation
from meshkit.stages.trust.journal_steps import JournalStep, steps

STAGE = "04 trust"
ANOTHER = "a byte-different bundle of the same roots: its proxies request certificates of the present CA"
UNSENT = "restore the previous roots in a byte-different bundle, so that no proxy skips the update"
"""Given the bundle that it started with, an istio-agent may keep more roots for as long as it lives.

It notifies its Envoy of other roots before it drops the certificate that the last ones came with, and may answer with
those. It notices with its next certificate, unless the roots of that one are those that it remembers from before.
Source: security/pkg/nodeagent/cache/secretcache.go, `UpdateConfigTrustBundle` and `GenerateSecret`.
"""


def plan(mesh: Mesh, book: Journal, wanted: Plan, keep: Mapping[str, Sequence[str]]) -> None:
    """Want the changes of stage 04 reverted, the newest first; `keep` are objects of clusters that stay.

    Raises:
        InputError: the former CA of a live cluster's istiod is gone.
    """
    found = steps(mesh, book, [entry for entry in book.entries if entry.stage == STAGE])
    live = {name: _authority(mesh, name) for name in mesh.clusters}
    first = live | {step.cluster: step.former for step in reversed(found) if step.former and not step.reading}
    back = TrustUndo(mesh, book, wanted, first, keep)
    for step in found:
        back.judge(step)
    back.sent = {_text(secret) for step in found if not step.reading for secret in (step.now, step.former)}
    back.sent |= {_text(secret) for secret in live.values()}  # an earlier undo may have sent another
    dropping = [step for step in reversed(found) if back.drops(step)]
    for step in reversed(found):
        if step in dropping[:1]:  # no proxy may show a chain to a root when the first cluster drops it
            for other in dropping:
                back.renew(other)
        back.take(step)


def _authority(mesh: Mesh, name: str) -> Object | None:
    """Return the Secret with the CA that a cluster's istiods load when they start."""
    names = (model.SECRET, istiod_ca.SELF_SIGNED)
    found = (mesh.clusters[name].find("secrets", mesh.root_namespace, one) for one in names)
    return next(filter(None, found), None)


def _standing(secret: Object | None) -> tuple[root_rotation.TrustState, dict[str, bytes]]:
    """Return what a cluster trusts by a Secret, and the files of cacerts in it."""
    data = {name: base64.b64decode(value) for name, value in ((secret or {}).get("data") or {}).items()}
    own = secret is not None and secret["metadata"]["name"] == istiod_ca.SELF_SIGNED
    data |= cacerts.self_signed_as_loaded(data) if own else cacerts.as_loaded(data)
    row = istiod_ca.parse_authority(model.SECRET, data)
    bundle = frozenset(str(row.get("roots", "")).split(",")) - {""}
    return root_rotation.TrustState(str(row.get("root", ""))[:SHORT], bundle), data


def _names(row: Mapping[Any, Any]) -> set[str]:
    """Return the names of a workload's proxies."""
    return set(row["names"].split(","))


def _restartable(rows: Iterable[Mapping[Any, Any]], known: Collection[str]) -> list[tuple[str, str, str]]:
    """Return kind, namespace and name of the workloads that can be restarted, without the known objects."""
    found = [(r["kind"], r["namespace"], r["workload"]) for r in rows if r["kind"] in workloads.RESTARTABLE]
    return [(kind, where, name) for kind, where, name in found if f"{kind} {where}/{name}" not in known]


def _text(secret: Object | None) -> bytes:
    """Return the root bundle of a Secret, as it stands there."""
    return _standing(secret)[1].get("root-cert.pem", b"")


class TrustUndo:
    """The plan of the undo, and the readings that it is made of."""

    def __init__(
        self,
        mesh: Mesh,
        book: Journal,
        wanted: Plan,
        first: Mapping[str, Object | None],
        keep: Mapping[str, Sequence[str]],
    ) -> None:
        self.mesh, self.book, self.wanted, self.first, self.keep = mesh, book, wanted, first, keep
        self.certificates: Certificates = trust_store.certificates(mesh)
        self.signers: pd.DataFrame = istiod_ca.signers(mesh)
        self.workloads: pd.DataFrame = workloads.workloads(mesh)
        self.signed: dict[str, int] = {}
        """By cluster, how many changes are planned before it signs as before again."""
        self.sent: set[bytes] = set()
        """The root bundles that proxies may have received in the run."""

    @staticmethod
    def _of(step: JournalStep, rows: pd.DataFrame) -> pd.DataFrame:
        return rows[rows["cluster"] == step.cluster]

    def _live(self, step: JournalStep) -> bool:
        return not self.certificates.lacks(step.cluster)

    def drops(self, step: JournalStep) -> bool:
        """Tell whether a live cluster trusts fewer roots once a step is reverted; what the run brought is removed."""
        if step.secret is None or step.former is None or not step.made or not self._live(step):
            return False
        return bool(_standing(step.now)[0].bundle - _standing(step.former)[0].bundle)

    def judge(self, step: JournalStep) -> None:
        """Refuse to leave proxies without their former CA.

        Raises:
            InputError: it was istiod's own, and its Secret is gone. A control plane that the run brought had none, and
                one that was installed since keeps the run's.
        """
        if step.secret and step.made and not step.former and self._live(step) and not self._stays(step):
            raise InputError(
                f"{istiod_ca.SELF_SIGNED}, the CA of its istiod before the run, is gone: without {model.SECRET} "
                "istiod would create a new root, which no proxy trusts",
                where=f"cluster {step.cluster}, namespace {self.mesh.root_namespace}",
                remedy="put it back from your copy of it, or from the backup of stage 03, then undo again",
            )

    def _stays(self, step: JournalStep) -> bool:
        """Tell whether a cluster keeps the CA that it had: the run brought its control plane, or the Secret stays."""
        secret = f"Secret {self.mesh.root_namespace}/{model.SECRET}"
        return installed_control_plane(self.book, step.cluster) or secret in self.keep.get(step.cluster, ())

    def take(self, step: JournalStep) -> None:
        """Want one step reverted."""
        if step.reading and step.former:
            back = functools.partial(self._back(step.reading, "as it was before"), None)
            arrives = discovery_pause.wait_until_restored(self.mesh, step.cluster, step.former)
            discovery_pause.apply_and_restart_if_defective(self.wanted, self.signers, step.cluster, back, arrives)
            return
        if step.secret is None or step.former is None or not step.made or not self._live(step):
            # No proxy there loses a root: restarts alone, or a control plane that the run itself brought.
            serves = self._serves(step) if step.restarts and self._live(step) else None
            self._undo(step, taken=serves, wait=serves)
            return
        (now, files), (then, old) = _standing(step.now), _standing(step.former)
        first = {name: _standing(secret)[0].bundle for name, secret in self.first.items()}
        others = [bundle for name, bundle in first.items() if name != step.cluster]
        tolerated = frozenset().union(*others) - first[step.cluster]
        gate: Wait | None = root_rotation.wait_until_safe(self.mesh, step.cluster, now, then, tolerated)
        trusted = now.bundle.union(*(one.roots for one in self.certificates.of(step.cluster)))
        signer = certificates.signer(old)
        wait = root_rotation.wait_until_rotated(self.mesh, step.cluster, then, signer)
        if now.root == then.root and trusted - then.bundle and self._takes_live(step, files, old):
            updated = root_rotation.wait_until_rotated(self.mesh, step.cluster, then, certificates.signer(files))
            if not self._of(step, self.workloads)["live_roots"].all():  # some wait until they are restarted
                updated = root_rotation.wait_until_istiod_serves(
                    self.mesh, step.cluster, then.bundle, certificates.signer(files)
                )
            files, gate = self._distribute(step, files, old["root-cert.pem"], UNSENT, updated, gate), None
            wait = in_turn([wait, root_rotation.wait_until_configmaps(self.mesh, step.cluster, old["root-cert.pem"])])
        plain = step.former["metadata"]["name"] == istiod_ca.SELF_SIGNED
        text = None if plain else files["root-cert.pem"]
        due = (
            []
            if self._signs_so(step)
            else root_rotation.to_restart(self.signers, step.cluster, text, old["root-cert.pem"])
        )
        # A restart that may not have happened before a kill does not count: there may be nothing of it to revert.
        known = {entry.object for entry in step.restarts if entry.event == DONE}
        more = [name for name in due if f"Deployment {self.mesh.root_namespace}/{name}" not in known]
        taken = root_rotation.wait_until_istiod_serves(self.mesh, step.cluster, then.bundle, signer)
        if now.root != then.root:  # certificates of the former root are renewed later, in a step of their own
            self.signed[step.cluster] = len(self.wanted.changes)
            wait = taken
        self._undo(step, gate, taken, wait, more, self._others(step, then) if now.bundle != then.bundle else ())

    def _others(self, step: JournalStep, then: root_rotation.TrustState) -> list[tuple[str, str, str]]:
        """Return workloads that were created since the run, and whose proxies get other roots only by a restart.

        Kind, namespace and name of each.
        """
        known = {entry.object for entry in step.restarts}
        rows, proxies = self._of(step, self.workloads), self.certificates.of(step.cluster)
        live = rows["live_roots"] & root_rotation.hot_reloads(self.signers, step.cluster)
        rows = rows[~rows["stuck"] & ~live]
        late = {one.proxy for one in proxies if one.bundle != then.bundle and not one.reason}
        return _restartable([row for row in rows.to_dict("records") if late & _names(row)], known)

    def _serves(self, step: JournalStep) -> Wait | None:
        """Return a wait until istiods serve the CA that is left once a step without a Secret is reverted."""
        standing, files = _standing(step.former or self.first[step.cluster])
        chain = certificates.parse_chain(files.get("ca-cert.pem", b""))
        return (
            root_rotation.wait_until_istiod_serves(self.mesh, step.cluster, standing.bundle, chain[0])
            if chain
            else None
        )

    def _signs_so(self, step: JournalStep) -> bool:
        """Tell whether all istiods of a cluster sign with the self-signed CA that a step goes back to."""
        own = self._of(step, self.signers)
        plain = step.former is not None and step.former["metadata"]["name"] == istiod_ca.SELF_SIGNED
        return plain and bool((own["signs_with"] == istiod_ca.SELF_SIGNED).all())

    def _undo(  # noqa: PLR0917  (what, when it may begin, until when, and what else)
        self,
        step: JournalStep,
        gate: Wait | None = None,
        taken: Wait | None = None,
        wait: Wait | None = None,
        more: Sequence[str] = (),
        others: Sequence[tuple[str, str, str]] = (),
    ) -> None:
        """Want the Secret restored, then the istiods restarted that load it only then, then the workloads."""
        plane = [entry for entry in reversed(step.restarts) if self._is_istiod(entry)]
        rest = [entry for entry in reversed(step.restarts) if not self._is_istiod(entry)]
        todo: list[Callable[[Wait | None, Wait | None], None]] = []
        if step.secret and step.secret.stands:
            todo.append(self._back(step.secret, "as it was before"))
        starts = "it loads the former CA only when it starts"
        todo += [self._restart(step, "Deployment", self.mesh.root_namespace, name, starts) for name in more]
        todo += [self._back(entry, "restarted, to load the former state") for entry in plane]
        proxies = len(todo)
        todo += [self._back(entry, "restarted, to load the former state") for entry in rest]
        todo += [
            self._restart(step, *one, "it was created since, and its proxies get other roots only by a restart")
            for one in others
        ]
        for n, want in enumerate(todo):
            want(gate if n == 0 and gate else taken if n == proxies else None, wait if n == len(todo) - 1 else None)

    def _back(self, entry: Entry, why: str) -> Callable[[Wait | None, Wait | None], None]:
        def want(gate: Wait | None, wait: Wait | None) -> None:
            self.wanted.undo(self.book, entry, why, keep=self.keep.get(entry.cluster, []), gate=gate, wait=wait)

        return want

    def _restart(
        self, step: JournalStep, kind: str, namespace: str, name: str, why: str
    ) -> Callable[[Wait | None, Wait | None], None]:
        def want(gate: Wait | None, wait: Wait | None) -> None:
            self.wanted.restart(step.cluster, kind, namespace, name, why, gate=gate, wait=wait)

        return want

    def _is_istiod(self, entry: Entry) -> bool:
        return entry.object.startswith(f"Deployment {self.mesh.root_namespace}/istiod")

    def renew(self, step: JournalStep) -> None:
        """Want certificates of roots that are to go renewed: by a byte-different bundle, or by restarts."""
        (now, files), (then, _) = _standing(step.now), _standing(step.former)
        late = {one.proxy for one in self.certificates.of(step.cluster) if one.anchor in now.bundle - then.bundle}
        own = self._of(step, self.workloads)
        due = own[[bool(late & _names(row)) for row in own.to_dict("records")]]
        live = due["live_roots"] & root_rotation.hot_reloads(self.signers, step.cluster)
        signer = certificates.signer(files)
        taken = root_rotation.wait_until_istiod_serves(self.mesh, step.cluster, now.bundle, signer)
        since = self.wanted.changes[self.signed.get(step.cluster, 0) :]
        own_since = [change for change in since if change.cluster == step.cluster]
        restarted = {change.object for change in own_since if change.action.endswith("restart")}
        rest = _restartable(due[~live].to_dict("records"), restarted)
        if live.any():  # those that are restarted next are still to come
            renewed = taken if rest else root_rotation.wait_until_rotated(self.mesh, step.cluster, now, signer)
            self._distribute(step, files, files["root-cert.pem"], ANOTHER, renewed)
        for one in rest:
            self.wanted.restart(step.cluster, *one, "its certificate is of a root that is to go", gate=taken)

    def _takes_live(self, step: JournalStep, files: Mapping[str, bytes], old: Mapping[str, bytes]) -> bool:
        """Tell whether all istiods of a cluster distribute the former roots while they run."""
        if self._signs_so(step) or not root_rotation.hot_reloads(self.signers, step.cluster):
            return False
        text = self._unsent(old["root-cert.pem"])
        return not root_rotation.to_restart(self.signers, step.cluster, files["root-cert.pem"], text)

    def _unsent(self, text: bytes) -> bytes:
        from cryptography.hazmat.primitives.serialization import Encoding

        root = certificates.parse_chain(text)[-1].public_bytes(Encoding.PEM)
        return root_rotation.unsent(text, root, self.sent)

    def _distribute(  # noqa: PLR0917  (where, what, which, why, and when)
        self,
        step: JournalStep,
        files: Mapping[str, bytes],
        roots: bytes,
        why: str,
        wait: Wait,
        gate: Wait | None = None,
    ) -> dict[str, bytes]:
        """Want roots distributed as a bundle that no proxy of a cluster received yet; return the files of cacerts."""
        target, text = self.mesh.clusters[step.cluster], self._unsent(roots)
        data = {"root-cert.pem": base64.b64encode(text).decode()}
        metadata = {"name": model.SECRET, "namespace": self.mesh.root_namespace}
        manifest: Object = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": data}

        def do() -> None:
            target.patch(manifest)

        change = Change(step.cluster, "patch", identify(manifest), why, manifests=[manifest], wait=wait, gate=gate)
        change.do = do
        change.reverses = True  # the next change puts back all of it
        change.diff = unified(None, manifest)
        self.wanted.changes.append(change)
        return {**files, "root-cert.pem": text}
