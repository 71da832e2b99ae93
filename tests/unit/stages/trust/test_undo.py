"""The undo of stage 04: restarted workloads restart again once the former state is back, and not earlier."""

from __future__ import annotations

import base64
from types import SimpleNamespace
from typing import Any, cast

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from meshkit.changes.journal import DONE, UNDONE, Entry
from meshkit.errors import InputError
from meshkit.istio.ca import certificates, issuing, istiod_ca, trust_store
from meshkit.istio.proxies import workloads
from meshkit.stages import istiod_restart
from meshkit.stages.rollback import dependants
from meshkit.stages.trust import discovery_pause, root_rotation
from meshkit.stages.trust import undo as trust_undo
from tests.support import healthy
from tests.support.held import Held, held

ISTIOD = "Deployment istio-system/istiod"

OLD, NEW = (issuing.root("ec-p256", "Root CA", "Istio", 9) for _ in "on")
OLD_PEM, NEW_PEM = (one.certificate.public_bytes(Encoding.PEM) for one in (OLD, NEW))
SELF_SIGNED = {"ca-cert.pem": OLD_PEM, "ca-key.pem": issuing.key_pem(OLD.key)}
LATER = issuing.intermediate(NEW, "east", "istio-system").files
WIDE = {**SELF_SIGNED, "cert-chain.pem": OLD_PEM, "root-cert.pem": OLD_PEM + NEW_PEM}


def holding(name: str, files: dict[str, bytes]) -> dict[str, Any]:
    """Return a Secret that holds files."""
    data = {file: base64.b64encode(pem).decode() for file, pem in files.items()}
    return {"kind": "Secret", "metadata": {"name": name, "namespace": "istio-system"}, "data": data}


class Wanted:
    """A plan that notes in words what is wanted of it: whose roots are sent, what is undone and what restarted."""

    def __init__(self) -> None:
        self.changes: list[Any] = []
        self.told: list[str] = []

    def words(self) -> list[str]:
        """Return what is wanted, in order."""
        for change in self.changes:
            text = base64.b64decode(change.manifests[0]["data"]["root-cert.pem"])
            roots = "".join("O" if one == OLD.certificate else "N" for one in certificates.parse_chain(text))
            self.told.append(f"tell {roots} until {change.wait}{', held' * bool(change.gate)}")
        self.changes = []
        return self.told

    def undo(self, _book: object, entry: Entry, _why: str, **of: Any) -> None:
        """Note an undo."""
        self.words().append(f"undo {entry.action}{', held' * bool(of.get('gate'))}")

    def restart(self, _cluster: str, _kind: str, _namespace: str, name: str, _why: str, **_of: object) -> None:
        """Note a restart."""
        self.words().append(f"restart {name}")


STAGES = {"install": "05 install"}
ISTIOD_LIVE = {"version": "1.31.0", "multi_root": True, "signs_with": "cacerts"}
AT_ONCE = ["undo create, held", "restart istiod"]
AT_ONCE_AGAIN = ["undo create, held", "undo restart", "restart httpbin"]


@pytest.mark.parametrize(
    ("istiod", "proxies", "already", "wanted"),
    [
        (ISTIOD_LIVE, True, b"", ["tell OO until settled, held", "undo create", "restart istiod"]),
        (ISTIOD_LIVE, True, 2 * OLD_PEM, ["tell OOO until settled, held", "undo create", "restart istiod"]),
        (ISTIOD_LIVE, False, b"", ["tell OO until served, held", "undo create", "restart istiod", "restart httpbin"]),
        (ISTIOD_LIVE | {"version": "1.29.0"}, True, b"", AT_ONCE),
        (ISTIOD_LIVE | {"multi_root": False}, True, b"", [*AT_ONCE, "restart httpbin"]),
        (ISTIOD_LIVE | {"signs_with": "istio-ca-secret"}, True, b"", AT_ONCE[:1]),
    ],
    ids=["all live", "told before", "a proxy is not", "taken after a restart", "one root at a time", "not taken yet"],
)
def test_fewer_roots_are_distributed_by_a_bundle_that_no_agent_began_with(
    monkeypatch: pytest.MonkeyPatch, *, istiod: dict[str, Any], proxies: bool, already: bytes, wanted: list[str]
) -> None:
    """Only then what stood before comes back; where an istiod would have to be restarted for it, at once."""
    east = East(istiod=istiod, live_roots=proxies)
    east.secrets["cacerts"] = holding("cacerts", WIDE | ({"root-cert.pem": already} if already else {}))
    assert east.planned(monkeypatch) == wanted


def test_what_stands_now_is_what_a_change_goes_back_from(monkeypatch: pytest.MonkeyPatch) -> None:
    """A later run brought another root: to sign under the old one again is held until every proxy trusts it."""
    east = East()
    east.secrets["cacerts"] = holding("cacerts", LATER)
    assert east.planned(monkeypatch) == AT_ONCE
    (before, after) = east.guarded
    assert before.root == certificates.fingerprint(NEW.certificate, certificates.SHORT)
    assert after.root == certificates.fingerprint(OLD.certificate, certificates.SHORT)


def test_nothing_is_reverted_that_leaves_proxies_without_their_ca(monkeypatch: pytest.MonkeyPatch) -> None:
    """An istiod that finds neither Secret makes a new root; a control plane that the run brought may go with it."""
    east = East()
    del east.secrets["istio-ca-secret"]
    with pytest.raises(InputError, match=r"istio-ca-secret, .* is gone"):
        east.planned(monkeypatch)
    istiod = {"kind": "Deployment", "metadata": {"name": "istiod", "namespace": "istio-system"}}
    east.more = [(DONE, "install", "Istio", {"before": [None], "manifests": [istiod]})]
    assert east.planned(monkeypatch) == ["undo create"]


def test_a_control_plane_that_came_since_keeps_the_secret_and_holds_nothing_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """There was no istiod before the run, so nothing is missed; the Secret is left to the one that signs with it."""
    east = East()
    del east.secrets["istio-ca-secret"]
    east.keep = {"east": ["Secret istio-system/cacerts"]}
    assert east.planned(monkeypatch) == ["undo create"]


@pytest.mark.parametrize(
    ("created", "before", "action", "kept"),
    [
        ("2026-11-29T12:00:00Z", None, "create", True),
        ("2026-11-29T09:00:00Z", None, "create", False),
        ("2026-11-29T12:00:00Z", {"data": {}}, "update", False),
        ("", None, "create", False),
    ],
)
def test_a_ca_of_the_run_is_kept_where_an_istiod_came_after_it(
    created: str, before: dict[str, Any] | None, action: str, *, kept: bool
) -> None:
    """By Helm, say; one that was there before is given its own CA back."""
    istiod = held("Deployment", "istiod", "istio-system", labels={"app": "istiod"})
    istiod["metadata"]["creationTimestamp"] = created
    cluster: Any = Held("west", deployments=[istiod] if created else [])
    mesh: Any = SimpleNamespace(clusters={"west": cluster}, root_namespace="istio-system")
    entry = SimpleNamespace(
        cluster="west", stage="04 trust", action=action, stands=True, begun="2026-11-29T10:00:00+00:00"
    )
    private = {"manifests": [holding("cacerts", LATER)], "before": [before]}
    book: Any = SimpleNamespace(entries=[entry], private=lambda _: private)
    found = dependants.authorities(mesh, book)
    assert list(found) == [("west", "Secret istio-system/cacerts")] * kept
    assert all("2026-11-29 12:00" in why for why in found.values())


@pytest.mark.parametrize(("version", "made_anew"), [("1.30.0", ["restart istiods until arrives"]), ("1.31.0", [])])
def test_a_release_that_misses_a_changed_remote_secret_is_recreated(
    monkeypatch: pytest.MonkeyPatch, version: str, made_anew: list[str]
) -> None:
    """When a cluster that was kept apart is read again, as on the way there."""
    east = East(ISTIOD_LIVE | {"version": version, "multi_root": False}, live_roots=False)
    remote = {"kind": "Secret", "metadata": {"name": "istio-remote-secret-west", "namespace": "istio-system"}}
    paused = discovery_pause.manifest(cast("Any", SimpleNamespace(root_namespace="istio-system")), "s", paused=True)
    east.more = [(DONE, "patch", "Secret istio-system/s", {"before": [remote], "manifests": [paused]})]
    monkeypatch.setattr(discovery_pause, "wait_until_restored", lambda *_: "arrives")
    monkeypatch.setattr(
        istiod_restart, "restart_istiods", lambda plan, _, wait: plan.words().append(f"restart istiods until {wait}")
    )
    assert east.planned(monkeypatch)[: 1 + len(made_anew)] == ["undo patch", *made_anew]


def test_what_is_left_of_an_undo_comes_first_and_what_came_since_is_recreated(monkeypatch: pytest.MonkeyPatch) -> None:
    """The narrow bundle was put back, and the run killed before the restart: nobody waits for what that brings."""
    east = East(ISTIOD_LIVE | {"multi_root": False}, live_roots=False)
    narrow = {"before": [holding("cacerts", WIDE)], "manifests": [holding("cacerts", LATER)]}
    east.more = [
        (DONE, "restart", ISTIOD, {}),
        (UNDONE, "update", "Secret istio-system/cacerts", narrow),
        (DONE, "restart", "Deployment sample/gone", {}),
    ]
    assert east.planned(monkeypatch) == ["undo restart, held", *AT_ONCE_AGAIN]


def test_a_certificate_of_a_root_that_goes_is_renewed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of a workload that the run restarted before: that restart is reverted only when the root is gone."""
    east = East(ISTIOD_LIVE | {"multi_root": False}, live_roots=False)
    east.anchor = NEW
    signed = holding("cacerts", LATER | {"root-cert.pem": WIDE["root-cert.pem"]})
    east.secrets["cacerts"] = signed
    east.more = [
        (DONE, "restart", "Deployment sample/httpbin", {}),
        (DONE, "update", "Secret istio-system/cacerts", {"before": [holding("cacerts", WIDE)], "manifests": [signed]}),
    ]
    back = ["undo create, held", "restart istiod", "undo restart, held"]
    assert east.planned(monkeypatch) == ["undo update, held", "restart httpbin", *back]


def test_who_is_recreated_next_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two proxies one asks for another certificate while it runs."""
    east = East()
    east.anchor = NEW
    east.deaf = "sleep"
    signed = holding("cacerts", LATER | {"root-cert.pem": WIDE["root-cert.pem"]})
    east.secrets["cacerts"] = signed
    back = {"before": [holding("cacerts", WIDE)], "manifests": [signed]}
    east.more = [(DONE, "update", "Secret istio-system/cacerts", back)]
    assert east.planned(monkeypatch)[:3] == ["undo update, held", "tell ONN until served", "restart sleep"]
    east.deaf = ""
    assert east.planned(monkeypatch)[:2] == ["undo update, held", "tell ONN until settled"]


class East:
    """A cluster whose cacerts a run made, with a proxy (and a `deaf` one if that has a name); its way back."""

    def __init__(self, istiod: dict[str, Any] | None = None, *, live_roots: bool = True) -> None:
        self.istiod, self.live_roots = istiod or ISTIOD_LIVE, live_roots
        self.secrets = {"cacerts": holding("cacerts", WIDE), "istio-ca-secret": holding("istio-ca-secret", SELF_SIGNED)}
        self.more: list[tuple[str, str, str, dict[str, Any]]] = []
        """Changes after the first: event, action, object, and what the journal keeps of it."""
        self.anchor, self.deaf = OLD, ""
        self.guarded: tuple[root_rotation.TrustState, ...] = ()
        self.keep: dict[str, list[str]] = {}

    def planned(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """Return what is planned, in words."""
        east = SimpleNamespace(find=lambda _resource, _namespace, name: self.secrets.get(name))
        mesh = cast("Any", SimpleNamespace(clusters={"east": east}, root_namespace="istio-system"))
        old, new = (certificates.fingerprint(one.certificate, certificates.SHORT) for one in (OLD, NEW))
        shown = certificates.fingerprint(self.anchor.certificate, certificates.SHORT)
        istiod = {"cluster": "east", "istiod": "istiod-5d-x", **self.istiod}
        live = {"httpbin": self.live_roots} | ({self.deaf: False} if self.deaf else {})
        proxies = [{"cluster": "east", "proxy": name, "anchor": shown, "roots": f"{old},{new}"} for name in live]
        where = {"cluster": "east", "kind": "Deployment", "namespace": "sample"}
        owners = [{**where, "workload": name, "names": name, "live_roots": is_live} for name, is_live in live.items()]
        facts = {
            (trust_store, "certificates"): healthy.certificates(proxies),
            (istiod_ca, "signers"): istiod_ca.SIGNERS.frame([istiod]),
            (workloads, "workloads"): workloads.WORKLOADS.frame(owners),
        }
        for (module, name), frame in facts.items():
            monkeypatch.setattr(module, name, lambda _mesh, frame=frame: frame)
        for name, said in (("wait_until_rotated", "settled"), ("wait_until_istiod_serves", "served")):
            monkeypatch.setattr(root_rotation, name, lambda *_, said=said: said)
        monkeypatch.setattr(root_rotation, "wait_until_safe", self.guard)
        made = {"before": [None], "manifests": [holding("cacerts", WIDE)]}
        changes = [(DONE, "create", "Secret istio-system/cacerts", made), *self.more]
        entries = [
            Entry(n, event, STAGES.get(action, trust_undo.STAGE), "east", action, what, "", "meshkit", False, "")
            for n, (event, action, what, _) in enumerate(changes, 1)
        ]
        book = SimpleNamespace(entries=entries, private=lambda entry: changes[entry.n - 1][3])
        plan = Wanted()
        trust_undo.plan(mesh, cast("Any", book), cast("Any", plan), self.keep)
        return plan.words()

    def guard(
        self, _mesh: object, _name: str, before: root_rotation.TrustState, after: root_rotation.TrustState, *_: object
    ) -> str:
        """Remember what a change is guarded from, and for."""
        self.guarded = (before, after)
        return "guard"
