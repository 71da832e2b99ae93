"""The phases of an overlap: what each cluster still has to go through, wherever a run was killed."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import BasicConstraints, CertificateBuilder, random_serial_number

from meshkit.errors import InputError
from meshkit.istio.ca import certificates, issuing, istiod_ca
from meshkit.istio.ca.model import ClusterCaState
from meshkit.stages.trust import root_rotation
from meshkit.stages.trust.root_rotation import Move, Phase, TrustState
from tests.support import healthy
from tests.support.api_server import certificate_pem

A, B, N = ("a" * 64, "b" * 64, "e" * 64)
a, b, n = (digest[:16] for digest in (A, B, N))
BOTH = ("east", "west")


def live(name: str, root: str, *bundle: str, anchors: str = "") -> ClusterCaState:
    """Return a live cluster that signs under a root, and hands out a bundle."""
    return ClusterCaState(
        name, live=True, root=root, bundle=frozenset(bundle), anchors=frozenset(anchors.split() or [root[:16]])
    )


EAST, WEST = live("east", A, a), live("west", B, b)


def plan_lines(states: tuple[ClusterCaState, ...], plug: tuple[str, ...]) -> list[str]:
    """Return the moves that change a Secret, in order."""
    found = root_rotation.rotation_steps(states, N, plug)
    return [
        f"{m.phase} {m.cluster} {m.after.root[0]} {''.join(sorted(r[0] for r in m.after.bundle))}"
        for m in found
        if m.secret
    ]


WIDE_EAST, WIDE_WEST = live("east", A, a, b, n), live("west", B, a, b, n)
NEW_EAST, NEW_WEST = live("east", N, a, b, n), live("west", N, a, b, n)
WIDEN = ["widen east a abe", "widen west b abe"]
SIGN = ["sign east e abe", "sign west e abe"]
NARROW = ["narrow east e e", "narrow west e e"]
HIDDEN = replace(NEW_EAST, anchors=frozenset({a}))
KILLED = {
    "before all": ((EAST, WEST), BOTH, [*WIDEN, *SIGN, *NARROW]),
    "one is wide": ((WIDE_EAST, WEST), BOTH, [WIDEN[1], *SIGN, *NARROW]),
    "both are wide": ((WIDE_EAST, WIDE_WEST), BOTH, [*SIGN, *NARROW]),
    "one signs, nobody shows it": ((HIDDEN, WIDE_WEST), ("west",), [SIGN[1], *NARROW]),
    "both sign, one shows it": ((NEW_EAST, replace(NEW_WEST, anchors=frozenset({b}))), (), NARROW),
    "both show it": ((NEW_EAST, NEW_WEST), (), NARROW),
    "one is narrow": ((live("east", N, n), NEW_WEST), (), ["narrow west e e"]),
    "both are": ((live("east", N, n), live("west", N, n)), (), []),
    "one is not live": ((EAST, ClusterCaState("west")), BOTH, ["widen east a ae", "sign east e ae", "narrow east e e"]),
}  # fmt: skip


@pytest.mark.parametrize(("states", "plug", "moves"), KILLED.values(), ids=list(KILLED))
def test_a_run_goes_on_from_what_is_there(
    states: tuple[ClusterCaState, ...], plug: tuple[str, ...], moves: list[str]
) -> None:
    """All clusters go through a phase before any begins the next; nothing that is done is done again."""
    assert plan_lines(states, plug) == moves


def test_no_root_is_dropped_while_a_cluster_trusts_it() -> None:
    """As long as a certificate of the old root is shown, every bundle keeps it until the last phase."""
    late = replace(NEW_WEST, anchors=frozenset({b, n}))
    for move in root_rotation.rotation_steps((NEW_EAST, late), N, ()):
        assert b in move.after.bundle or move.phase is Phase.NARROW


LATE = {
    Phase.WIDEN: (TrustState(a, frozenset({a, n})), [True, False, False, True]),
    Phase.SIGN: (TrustState(n, frozenset({a, n})), [True, True, False, False]),
    Phase.RENEW: (TrustState(n, frozenset({a, n})), [True, True, False, False]),
    Phase.NARROW: (TrustState(n, frozenset({n})), [True, True, True, False]),
}


@pytest.mark.parametrize(("phase", "standing", "due"), [(p, *rest) for p, rest in LATE.items()])
def test_what_is_late_in_a_phase(phase: Phase, standing: TrustState, due: list[bool]) -> None:
    """A proxy that holds too little, shows the old, or trusts too much."""
    held = [(a, a), (a, f"{a},{n}"), (n, f"{a},{n}"), (n, n)]
    rows = [
        {"cluster": "east", "proxy": str(i), "anchor": anchor, "roots": roots} for i, (anchor, roots) in enumerate(held)
    ]
    rows.append({"cluster": "west", "proxy": "other", "anchor": b, "roots": b})
    rows.append({"cluster": "east", "proxy": "unread", "reason": "no answer"})
    found = root_rotation.late(Move(phase, "east", standing, secret=True), healthy.certificates(rows))
    assert found == {*(str(i) for i, late in enumerate(due) if late), "unread"}


@pytest.mark.parametrize("before", [b"-----other-----\n", b""])
def test_another_text_of_the_same_roots(before: bytes) -> None:
    """Three of them, so that the next is neither this one nor the one before; it never grows beyond."""
    root = b"-----one-----\n"
    texts = [before + root]
    for _ in range(3):
        texts.append(root_rotation.next_bundle(texts[-1], root))
    assert texts == [before + count * root for count in (1, 2, 3, 1)]


def test_a_bundle_that_no_agent_received() -> None:
    """Of the same roots, whichever bundles were sent before."""
    root = b"-----one-----\n"
    assert root_rotation.unsent(root, root, {root}) == 2 * root
    assert root_rotation.unsent(root, root, {root, 2 * root, 3 * root}) == 4 * root


def test_a_root_that_was_issued_again_cannot_be_distinguished_from_the_first() -> None:
    """With the same key, as istiod's own CA does; whatever one of them signed, the other did."""
    first, other = (issuing.root("ec-p256", "Root CA", "Istio", 9) for _ in range(2))
    root_rotation.require_distinct_keys([first.certificate, other.certificate, first.certificate])
    old = first.certificate
    again = CertificateBuilder(old.subject, old.subject, old.public_key(), random_serial_number())
    again = again.not_valid_before(old.not_valid_before_utc).not_valid_after(old.not_valid_after_utc)
    again = again.add_extension(BasicConstraints(ca=True, path_length=None), critical=True)
    renewed = again.sign(first.key, SHA256())
    assert certificates.chain_end([old], [renewed]) == renewed
    with pytest.raises(InputError, match="have the same name and key"):
        root_rotation.require_distinct_keys([old, other.certificate, renewed])


@pytest.mark.parametrize(
    ("version", "more", "due"),
    [
        ("1.29.2", {}, []),
        ("1.29.2", {"auto_reload": False}, ["istiod"]),
        ("1.31.0", {"auto_reload": False}, []),
        ("1.31.0", {"multi_root": False}, ["istiod"]),
    ],
)
def test_which_istiods_take_more_roots_only_when_they_start(
    version: str, more: dict[str, bool], due: list[str]
) -> None:
    """By their release, and by what their environment switches off."""
    row = {"cluster": "east", "istiod": "istiod-5d-x", "version": version, "multi_root": True, "auto_reload": True}
    one, two = (certificate_pem(name) for name in ("one", "two"))
    rows = istiod_ca.SIGNERS.frame([row | more])
    assert root_rotation.to_restart(rows, "east", one, one + two) == due


def test_roots_are_handed_out_again_when_each_namespace_has_their_text() -> None:
    """The same root twice is the same roots, and another text."""
    pem = issuing.root("ec-p256", "Root CA", "Istio", 9).certificate.public_bytes(Encoding.PEM).decode()
    held = {"default": pem, "sample": 2 * pem}

    def get(_kind: str, **_: str) -> list[dict[str, Any]]:
        return [{"metadata": {"namespace": place}, "data": {"root-cert.pem": text}} for place, text in held.items()]

    mesh = cast("Any", SimpleNamespace(clusters={"east": SimpleNamespace(get=get)}))
    missing = root_rotation.wait_until_configmaps(mesh, "east", pem.encode())
    assert missing() == "1 namespaces have another bundle of the roots, e.g. sample"
    held["sample"] = pem
    assert missing() == ""
