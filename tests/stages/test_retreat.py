"""The way back of stage 04: what was made anew is made anew again when what stood before is back, and not earlier."""

from __future__ import annotations

import base64
from types import SimpleNamespace
from typing import Any, cast

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from meshkit.istio import minting, signing, trust, workloads
from meshkit.istio.fleet import table
from meshkit.journal import BEGUN, DONE, Entry
from meshkit.stages import overlap, retreat

ISTIOD = "Deployment istio-system/istiod"


class Book:
    """What a journal holds of changes of one cluster, one after the other: `(event, action, why, text)`."""

    def __init__(self, *changes: tuple[str, str, str, str]) -> None:
        self.entries: list[Entry] = []
        self.known: dict[int, dict[str, Any]] = {}
        stood = None
        for n, (event, action, why, text) in enumerate(changes, 1):
            what = ISTIOD if action == "restart" else "Secret istio-system/cacerts"
            self.entries.append(Entry(n, event, retreat.STAGE, "east", action, what, why, "meshkit", False, ""))
            wanted = secret(text)
            self.known[n] = {"before": [stood], "manifests": [wanted]}
            stood = wanted if action != "restart" and event == DONE else stood
        self.now = stood

    def private(self, entry: Entry) -> dict[str, Any]:
        """Return what stood before a change, and what it applied."""
        return self.known[entry.n]

    def steps(self) -> list[tuple[int, list[int], bool]]:
        """Return each step's change of the Secret, what is made anew with it, and whether it stands."""
        east = SimpleNamespace(find=lambda _resource, _namespace, name: self.now if name == "cacerts" else None)
        mesh = cast("Any", SimpleNamespace(clusters={"east": east}, root_namespace="istio-system"))
        found = retreat.steps(mesh, cast("Any", self), self.entries)
        return [(s.secret.n if s.secret else 0, [e.n for e in s.restarts], s.made) for s in found]


def secret(text: str) -> dict[str, Any]:
    """Return cacerts with a text of roots."""
    return {"kind": "Secret", "metadata": {"name": "cacerts"}, "data": {"root-cert.pem": text}}


RESTART = ("restart", "it takes another root only when it starts", "")
WIDEN, SIGN = "widen: its proxies trust both", "sign: the new one signs"


@pytest.mark.parametrize(
    ("changes", "steps"),
    [
        (
            [(DONE, "create", WIDEN, "AB"), (DONE, *RESTART), (DONE, "update", SIGN, "B")],
            [(1, [2], True), (3, [], True)],
        ),
        (
            [(DONE, "create", WIDEN, "AB"), (BEGUN, *RESTART), (DONE, "update", WIDEN, "BA"), (DONE, *RESTART)],
            [(1, [2, 4], True), (3, [], True)],
        ),
        (
            [(BEGUN, "create", WIDEN, "AB"), (DONE, "create", WIDEN, "AB"), (DONE, *RESTART)],
            [(1, [], False), (2, [3], True)],
        ),
        (
            [(DONE, "create", WIDEN, "AB"), (DONE, *RESTART), (DONE, "update", SIGN, "B"), (DONE, *RESTART)],
            [(1, [2], True), (3, [4], True)],
        ),
    ],
    ids=["unbroken", "killed before the restart", "killed before the Secret", "another phase"],
)
def test_a_restart_belongs_to_the_change_whose_reversal_needs_it(
    changes: list[tuple[str, str, str, str]], steps: list[tuple[int, list[int], bool]]
) -> None:
    """A phase that a resumed run made once more is taken back as one."""
    assert Book(*changes).steps() == steps


def test_a_restart_without_a_secret_is_a_step_of_its_own() -> None:
    """As after a run that found the Secret there."""
    assert Book((DONE, *RESTART)).steps() == [(0, [1], True)]


# --- what a plan does about it ----------------------------------------------------------------------------------------

OLD, NEW = (minting.root("ec-p256", "Root CA", "Istio", 9) for _ in "on")
OLD_PEM, NEW_PEM = (one.certificate.public_bytes(Encoding.PEM) for one in (OLD, NEW))
SELF_SIGNED = {"ca-cert.pem": OLD_PEM, "ca-key.pem": minting.key_pem(OLD.key)}
WIDE = {**SELF_SIGNED, "cert-chain.pem": OLD_PEM, "root-cert.pem": OLD_PEM + NEW_PEM}


def holding(name: str, files: dict[str, bytes]) -> dict[str, Any]:
    """Return a Secret that holds files."""
    data = {file: base64.b64encode(pem).decode() for file, pem in files.items()}
    return {"kind": "Secret", "metadata": {"name": name, "namespace": "istio-system"}, "data": data}


class Wanted:
    """A plan that notes in words what is wanted of it: whose roots are told, what is undone and what restarted."""

    def __init__(self) -> None:
        self.changes: list[Any] = []
        self.told: list[str] = []

    def words(self) -> list[str]:
        """Return what is wanted, in order."""
        for change in self.changes:
            text = base64.b64decode(change.manifests[0]["data"]["root-cert.pem"])
            roots = "".join("O" if one == OLD.certificate else "N" for one in trust.parse_chain(text))
            self.told.append(f"tell {roots} until {change.wait}{', held' * bool(change.gate)}")
        self.changes = []
        return self.told

    def undo(self, _book: object, entry: Entry, _why: str, **of: Any) -> None:
        """Note an undo."""
        self.words().append(f"undo {entry.action}{', held' * bool(of.get('gate'))}")

    def restart(self, _cluster: str, _kind: str, _namespace: str, name: str, _why: str, **_of: object) -> None:
        """Note a restart."""
        self.words().append(f"restart {name}")


ISTIOD_LIVE = {"version": "1.31.0", "multi_root": True, "signs_with": "cacerts"}
AT_ONCE = ["undo create, held", "restart istiod"]


@pytest.mark.parametrize(
    ("istiod", "proxies", "already", "wanted"),
    [
        (ISTIOD_LIVE, True, b"", ["tell OO until settled, held", "undo create", "restart istiod"]),
        (ISTIOD_LIVE, True, 2 * OLD_PEM, ["tell OOO until settled, held", "undo create", "restart istiod"]),
        (ISTIOD_LIVE, False, b"", ["tell OO until served, held", "undo create", "restart istiod"]),
        (ISTIOD_LIVE | {"version": "1.29.0"}, True, b"", AT_ONCE),
        (ISTIOD_LIVE | {"multi_root": False}, True, b"", AT_ONCE),
        (ISTIOD_LIVE | {"signs_with": "istio-ca-secret"}, True, b"", AT_ONCE[:1]),
    ],
    ids=["all live", "told before", "a proxy is not", "taken after a restart", "one root at a time", "not taken yet"],
)
def test_fewer_roots_are_told_by_a_text_that_no_agent_began_with(
    monkeypatch: pytest.MonkeyPatch, *, istiod: dict[str, Any], proxies: bool, already: bytes, wanted: list[str]
) -> None:
    """Only then what stood before comes back; where an istiod would have to be restarted for it, at once."""
    old, wide = holding("istio-ca-secret", SELF_SIGNED), holding("cacerts", WIDE)
    now = holding("cacerts", WIDE | ({"root-cert.pem": already} if already else {}))
    secrets = {"cacerts": now, "istio-ca-secret": old}
    east = SimpleNamespace(find=lambda _resource, _namespace, name: secrets.get(name))
    mesh = cast("Any", SimpleNamespace(clusters={"east": east}, root_namespace="istio-system"))
    short = trust.fingerprint(OLD.certificate, trust.SHORT)
    workload = {"cluster": "east", "names": "httpbin", "live_roots": proxies}
    facts = {
        (trust, "certificates"): table([{"cluster": "east", "anchor": short}], trust.CERTIFICATE_COLUMNS),
        (signing, "signers"): table([{"cluster": "east", "istiod": "istiod-5d-x", **istiod}], signing.SIGNER_COLUMNS),
        (workloads, "workloads"): table([workload], workloads.COLUMNS),
    }
    for (module, name), frame in facts.items():
        monkeypatch.setattr(module, name, lambda _mesh, frame=frame: frame)
    for name in ("settled", "served"):
        monkeypatch.setattr(overlap, name, lambda *_, name=name: name)
    what = "Secret istio-system/cacerts"
    entry = Entry(1, DONE, retreat.STAGE, "east", "create", what, WIDEN, "meshkit", False, "")
    book = SimpleNamespace(entries=[entry], private=lambda _entry: {"before": [None], "manifests": [wide]})
    plan = Wanted()
    retreat.plan(mesh, cast("Any", book), [entry], cast("Any", plan), {})
    assert plan.words() == wanted
