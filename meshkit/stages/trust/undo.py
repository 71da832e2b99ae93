"""The way back of stage 04: each cluster's `cacerts` go back step by step, and no call fails for it.

The Secret of a change goes back first, then what was made anew after it is made anew again. What guards the way there
guards the way back: see meshkit.stages.trust.root_rotation. Certificates of a root that is to go are asked for anew
before.
"""

from __future__ import annotations

import base64
import functools
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import pandas as pd
from cryptography.x509 import Certificate

from meshkit.changes.journal import DONE, Entry, Journal
from meshkit.changes.plan import Change, Plan
from meshkit.errors import InputError
from meshkit.istio.ca import cacerts, certificates, istiod_ca, model, trust_store
from meshkit.istio.ca.model import SHORT
from meshkit.istio.ca.trust_store import Certificates
from meshkit.istio.proxies import workloads
from meshkit.kube.manifests import Object, identify, unified
from meshkit.kube.mesh import Mesh
from meshkit.kube.wait import Wait, in_turn
from meshkit.stages.rollback import dependants
from meshkit.stages.trust import discovery_pause, root_rotation
from meshkit.stages.trust.journal_steps import JournalStep, steps

STAGE = "04 trust"
ANOTHER = "another text of the same roots: its proxies ask for certificates of what signs now"
UNHEARD = "its proxies trust what they did before, in a text that none of them heard yet: so none misses it"
"""Told the text that it began with, an istio-agent may keep more roots for as long as it lives.

It tells its Envoy of other roots before it forgets the certificate that the last ones came with, and may answer with
those. It finds out with its next certificate, unless the roots of that one are those that it remembers from before.
Source: security/pkg/nodeagent/cache/secretcache.go, `UpdateConfigTrustBundle` and `GenerateSecret`.
"""


def plan(mesh: Mesh, book: Journal, wanted: Plan, keep: Mapping[str, Sequence[str]]) -> None:
    """Want the changes of stage 04 taken back, the newest first; `keep` are objects of clusters that stay.

    Raises:
        InputError: what a live cluster's istiod went by before is gone.
    """
    found = steps(mesh, book, [entry for entry in book.entries if entry.stage == STAGE])
    live = {name: _authority(mesh, name) for name in mesh.clusters}
    first = live | {step.cluster: step.former for step in reversed(found) if step.former and not step.reading}
    back = TrustUndo(mesh, book, wanted, first, keep)
    for step in found:
        back.judge(step)
    back.heard = {_text(secret) for step in found if not step.reading for secret in (step.now, step.former)}
    back.heard |= {_text(secret) for secret in live.values()}  # an undo before this one may have told another
    dropping = [step for step in reversed(found) if back.drops(step)]
    for step in reversed(found):
        if step in dropping[:1]:  # nobody anywhere may show a chain to a root before one cluster drops it
            for other in dropping:
                back.renew(other)
        back.take(step)


def _authority(mesh: Mesh, name: str) -> Object | None:
    """Return the Secret that a cluster's istiods go by when they start."""
    names = (model.SECRET, istiod_ca.SELF_SIGNED)
    found = (mesh.clusters[name].find("secrets", mesh.root_namespace, one) for one in names)
    return next(filter(None, found), None)


def _standing(secret: Object | None) -> tuple[root_rotation.TrustState, dict[str, bytes]]:
    """Return what a Secret makes a cluster stand by, and the files of cacerts in it."""
    data = {name: base64.b64decode(value) for name, value in ((secret or {}).get("data") or {}).items()}
    own = secret is not None and secret["metadata"]["name"] == istiod_ca.SELF_SIGNED
    data |= cacerts.self_signed_as_loaded(data) if own else cacerts.as_loaded(data)
    row = istiod_ca.parse_authority(model.SECRET, data)
    bundle = frozenset(str(row.get("roots", "")).split(",")) - {""}
    return root_rotation.TrustState(str(row.get("root", ""))[:SHORT], bundle), data


def _signer(files: Mapping[str, bytes]) -> Certificate:
    return certificates.parse_chain(files["ca-cert.pem"])[0]


def _names(row: Mapping[Any, Any]) -> set[str]:
    """Return the names of a workload's proxies."""
    return set(row["names"].split(","))


def _restartable(rows: Iterable[Mapping[Any, Any]], known: Collection[str]) -> list[tuple[str, str, str]]:
    """Return kind, namespace and name of those workloads that a rollout makes anew, and that are not known objects."""
    found = [(r["kind"], r["namespace"], r["workload"]) for r in rows if r["kind"] in workloads.RESTARTABLE]
    return [(kind, where, name) for kind, where, name in found if f"{kind} {where}/{name}" not in known]


def _text(secret: Object | None) -> bytes:
    """Return the roots that a Secret hands out, as they stand there."""
    return _standing(secret)[1].get("root-cert.pem", b"")


class TrustUndo:
    """The plan of the way back, and what was looked at for it."""

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
        self.heard: set[bytes] = set()
        """The texts of roots that the run told anybody of."""

    @staticmethod
    def _of(step: JournalStep, rows: pd.DataFrame) -> pd.DataFrame:
        return rows[rows["cluster"] == step.cluster]

    def _live(self, step: JournalStep) -> bool:
        return not self.certificates.lacks(step.cluster)

    def drops(self, step: JournalStep) -> bool:
        """Tell whether a live cluster trusts less when a step is taken back; one that the run brought goes as it is."""
        if step.secret is None or step.former is None or not step.made or not self._live(step):
            return False
        return bool(_standing(step.now)[0].bundle - _standing(step.former)[0].bundle)

    def judge(self, step: JournalStep) -> None:
        """Refuse to leave proxies without the CA that stood before.

        Raises:
            InputError: it was istiod's own, and its Secret is gone. A control plane that the run brought had none, and
                one that came since keeps the run's.
        """
        if step.secret and step.made and not step.former and self._live(step) and not self._stays(step):
            raise InputError(
                f"{istiod_ca.SELF_SIGNED}, by which its istiod went before the run, is gone: without {model.SECRET} "
                "it would make a new root, which no proxy trusts",
                where=f"cluster {step.cluster}, namespace {self.mesh.root_namespace}",
                remedy="put it back from your copy of it, or from the backup of stage 03, then undo again",
            )

    def _stays(self, step: JournalStep) -> bool:
        """Tell whether a cluster loses no CA that it had: the run brought its control plane, or the Secret stays."""
        secret = f"Secret {self.mesh.root_namespace}/{model.SECRET}"
        return dependants.brought(self.book, step.cluster) or secret in self.keep.get(step.cluster, ())

    def take(self, step: JournalStep) -> None:
        """Want one step taken back."""
        if step.reading and step.former:
            back = functools.partial(self._back(step.reading, "as it was before"), None)
            arrives = discovery_pause.wait_until_restored(self.mesh, step.cluster, step.former)
            discovery_pause.apply_and_restart_if_defective(self.wanted, self.signers, step.cluster, back, arrives)
            return
        if step.secret is None or step.former is None or not step.made or not self._live(step):
            # Nobody there has anything to lose: restarts alone, or a control plane that the run itself brought.
            serves = self._serves(step) if step.restarts and self._live(step) else None
            self._undo(step, taken=serves, wait=serves)
            return
        (now, files), (then, old) = _standing(step.now), _standing(step.former)
        first = {name: _standing(secret)[0].bundle for name, secret in self.first.items()}
        others = [bundle for name, bundle in first.items() if name != step.cluster]
        tolerated = frozenset().union(*others) - first[step.cluster]
        gate: Wait | None = root_rotation.wait_until_safe(self.mesh, step.cluster, now, then, tolerated)
        trusted = now.bundle.union(*(one.roots for one in self.certificates.of(step.cluster)))
        signer = _signer(old)
        wait = root_rotation.wait_until_rotated(self.mesh, step.cluster, then, signer)
        if now.root == then.root and trusted - then.bundle and self._takes_live(step, files, old):
            told = root_rotation.wait_until_rotated(self.mesh, step.cluster, then, _signer(files))
            if not self._of(step, self.workloads)["live_roots"].all():  # some wait until they are made anew
                told = root_rotation.wait_until_istiod_serves(self.mesh, step.cluster, then.bundle, _signer(files))
            files, gate = self._tell(step, files, old["root-cert.pem"], UNHEARD, told, gate), None
            wait = in_turn([wait, root_rotation.wait_until_configmaps(self.mesh, step.cluster, old["root-cert.pem"])])
        plain = step.former["metadata"]["name"] == istiod_ca.SELF_SIGNED
        text = None if plain else files["root-cert.pem"]
        due = (
            []
            if self._signs_so(step)
            else root_rotation.to_restart(self.signers, step.cluster, text, old["root-cert.pem"])
        )
        # One that a kill may have come before is not counted on: there may be nothing of it to take back.
        known = {entry.object for entry in step.restarts if entry.event == DONE}
        more = [name for name in due if f"Deployment {self.mesh.root_namespace}/{name}" not in known]
        taken = root_rotation.wait_until_istiod_serves(self.mesh, step.cluster, then.bundle, signer)
        if now.root != then.root:  # certificates of the former root are asked for anew later, in a step of their own
            self.signed[step.cluster] = len(self.wanted.changes)
            wait = taken
        self._undo(step, gate, taken, wait, more, self._others(step, then) if now.bundle != then.bundle else ())

    def _others(self, step: JournalStep, then: root_rotation.TrustState) -> list[tuple[str, str, str]]:
        """Return workloads that came since: not of the run, and their proxies get other roots only when made anew.

        Kind, namespace and name of each.
        """
        known = {entry.object for entry in step.restarts}
        rows, proxies = self._of(step, self.workloads), self.certificates.of(step.cluster)
        live = rows["live_roots"] & root_rotation.hot_reloads(self.signers, step.cluster)
        rows = rows[~rows["stuck"] & ~live]
        late = {one.proxy for one in proxies if one.bundle != then.bundle and not one.reason}
        return _restartable([row for row in rows.to_dict("records") if late & _names(row)], known)

    def _serves(self, step: JournalStep) -> Wait | None:
        """Return a wait until a cluster's istiods serve what stands there once a step is taken back that holds none."""
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
        """Want the Secret put back, then the istiods restarted that look at it only then, then the workloads."""
        plane = [entry for entry in reversed(step.restarts) if self._is_istiod(entry)]
        rest = [entry for entry in reversed(step.restarts) if not self._is_istiod(entry)]
        todo: list[Callable[[Wait | None, Wait | None], None]] = []
        if step.secret and step.secret.stands:
            todo.append(self._back(step.secret, "as it was before"))
        starts = "it takes what stood before only when it starts"
        todo += [self._anew(step, "Deployment", self.mesh.root_namespace, name, starts) for name in more]
        todo += [self._back(entry, "made anew, with what stood before") for entry in plane]
        proxies = len(todo)
        todo += [self._back(entry, "made anew, with what stood before") for entry in rest]
        todo += [self._anew(step, *one, "it came since, and its proxies get other roots only so") for one in others]
        for n, want in enumerate(todo):
            want(gate if n == 0 and gate else taken if n == proxies else None, wait if n == len(todo) - 1 else None)

    def _back(self, entry: Entry, why: str) -> Callable[[Wait | None, Wait | None], None]:
        def want(gate: Wait | None, wait: Wait | None) -> None:
            self.wanted.undo(self.book, entry, why, keep=self.keep.get(entry.cluster, []), gate=gate, wait=wait)

        return want

    def _anew(
        self, step: JournalStep, kind: str, namespace: str, name: str, why: str
    ) -> Callable[[Wait | None, Wait | None], None]:
        def want(gate: Wait | None, wait: Wait | None) -> None:
            self.wanted.restart(step.cluster, kind, namespace, name, why, gate=gate, wait=wait)

        return want

    def _is_istiod(self, entry: Entry) -> bool:
        return entry.object.startswith(f"Deployment {self.mesh.root_namespace}/istiod")

    def renew(self, step: JournalStep) -> None:
        """Want certificates of roots that are to go asked for anew: by another text of the roots, or by restarts."""
        (now, files), (then, _) = _standing(step.now), _standing(step.former)
        late = {one.proxy for one in self.certificates.of(step.cluster) if one.anchor in now.bundle - then.bundle}
        own = self._of(step, self.workloads)
        due = own[[bool(late & _names(row)) for row in own.to_dict("records")]]
        live = due["live_roots"] & root_rotation.hot_reloads(self.signers, step.cluster)
        signer = _signer(files)
        taken = root_rotation.wait_until_istiod_serves(self.mesh, step.cluster, now.bundle, signer)
        since = self.wanted.changes[self.signed.get(step.cluster, 0) :]
        own_since = [change for change in since if change.cluster == step.cluster]
        made_anew = {change.object for change in own_since if change.action.endswith("restart")}
        rest = _restartable(due[~live].to_dict("records"), made_anew)
        if live.any():  # those that are made anew next are still to come
            told = taken if rest else root_rotation.wait_until_rotated(self.mesh, step.cluster, now, signer)
            self._tell(step, files, files["root-cert.pem"], ANOTHER, told)
        for one in rest:
            self.wanted.restart(step.cluster, *one, "its certificate is of a root that goes", gate=taken)

    def _takes_live(self, step: JournalStep, files: Mapping[str, bytes], old: Mapping[str, bytes]) -> bool:
        """Tell whether all istiods of a cluster hand out the roots of what stood before while they run."""
        if self._signs_so(step) or not root_rotation.hot_reloads(self.signers, step.cluster):
            return False
        text = self._unheard(old["root-cert.pem"])
        return not root_rotation.to_restart(self.signers, step.cluster, files["root-cert.pem"], text)

    def _unheard(self, text: bytes) -> bytes:
        from cryptography.hazmat.primitives.serialization import Encoding

        root = certificates.parse_chain(text)[-1].public_bytes(Encoding.PEM)
        return root_rotation.unheard(text, root, self.heard)

    def _tell(  # noqa: PLR0917  (whom, of what, which, why, and when)
        self,
        step: JournalStep,
        files: Mapping[str, bytes],
        roots: bytes,
        why: str,
        wait: Wait,
        gate: Wait | None = None,
    ) -> dict[str, bytes]:
        """Want a cluster told some roots in a text that nobody heard; return the files of cacerts with it."""
        target, text = self.mesh.clusters[step.cluster], self._unheard(roots)
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
